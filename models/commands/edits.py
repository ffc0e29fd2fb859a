"""--edit FILE.py: values of the model that a command replaces while it runs."""

import runpy
import traceback
from pathlib import Path


def add_edit(parser):
    parser.add_argument(
        "--edit",
        metavar="FILE.py",
        help="replace values inside the model: the Python file is run, and defines edits, a dict from the name of a "
        'value, such as "blocks.*.mlp.out", to a function of an array that returns one of the same shape and type',
    )


def edits_of(path):
    """The `edits` of a Python file; none without a path. ValueError: it cannot be run, or defines none."""
    if path is None:
        return {}
    if not Path(path).is_file():
        raise ValueError(f"--edit {path} is no file; give one of Python that defines edits")
    try:
        found = runpy.run_path(path).get("edits")
    except Exception as error:  # whatever the user's own program raises
        raise ValueError(f"--edit {path}: {traceback.format_exception_only(error)[-1].strip()}") from error
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise ValueError(f"--edit {path} defines no edits; let it say edits = {{name of a value: function}}")
    return found

"""Lays graphs out, with Graphviz's `dot` if it is installed, else with the program of the graphviz-pure wheel."""

import shutil
import subprocess
import webbrowser
from importlib import metadata
from pathlib import Path

import graphviz

from autotx.files import write_atomically
from autotx.types import PathLike
from autotx.viz import style

TYPES = (".svg", ".png", ".pdf", ".dot")
FONT = "Arial"
_FONTS = "Arial, 'Liberation Sans', Arimo, Helvetica, 'DejaVu Sans Condensed', sans-serif"  # equal widths but the last


class Digraph(graphviz.Digraph):
    """A graphviz.Digraph that is laid out by the program of this module, also in notebooks."""

    def pipe(self, format=None, *args, encoding=None, **settings):
        """The picture as bytes, or as a str if an encoding is given."""
        picture = lay_out(self.source, format or self.format)
        return picture.decode(encoding) if encoding else picture

    def render(self, filename=None, directory=None, view=False, cleanup=True, format=None):
        """Write the picture to `filename`, or to "<filename>.<format>", and return the path. view: open it, too.

        As graphviz has it, but the text of the graph is not written beside it (cleanup). Errors: as for `write`.
        """
        path = Path(directory or "", filename or "autotx")
        if format or path.suffix.lower() not in TYPES:
            path = path.with_name(f"{path.name}.{format or self.format}")
        write(self.source, path)
        if view:
            webbrowser.open(path.resolve().as_uri())
        return str(path)

    def save(self, filename=None, directory=None):
        """As `render`: graphviz would write the text of the graph, whatever the name says."""
        return self.render(filename, directory)

    def view(self, filename=None, directory=None):
        """Write the picture, as `render` does, and open it."""
        return self.render(filename, directory, view=True)


def write(source: str, path: PathLike) -> None:
    """Draw the DOT text `source` to a file, atomically. The extension of its name gives the type.

    Errors: as for `checked_path` and `lay_out`; OSError: the file cannot be written.
    """
    type_ = checked_path(path).suffix.lower()[1:]
    write_atomically(path, source.encode() if type_ == "dot" else lay_out(source, type_))


def checked_path(path: PathLike) -> Path:
    """The path of a graph's picture, checked before the work begins. ValueError: a type that is not in TYPES, a .pdf
    without Graphviz, no program installed, no such folder; PermissionError: the folder is not writable."""
    checked = style.checked_path(path, TYPES)
    if checked.suffix.lower() != ".dot":
        _program(checked.suffix.lower()[1:])
    return checked


def lay_out(source: str, type_: str) -> bytes:
    """The picture of a DOT text, as bytes. ValueError: there is no program for the type, or the program fails."""
    program = _program(type_)
    resolution = ["-Gdpi=144"] if type_ == "png" else []  # sharp on high-resolution screens
    done = subprocess.run([program, f"-T{type_}", *resolution], input=source.encode(), capture_output=True, check=False)
    if done.returncode or not done.stdout:
        said = " ".join(done.stderr.decode(errors="replace").split()) or f"exit status {done.returncode}"
        raise ValueError(f"render: {Path(program).name} could not lay the graph out: {said}")
    if type_ == "svg":
        return done.stdout.replace(f'font-family="{FONT}"'.encode(), f'font-family="{_FONTS}"'.encode())
    return done.stdout


def _program(type_):
    """The path of the program for a file type. ValueError: there is none."""
    system = shutil.which("dot")
    if system:
        return system
    if type_ == "pdf":
        raise ValueError(
            "render: a .pdf needs Graphviz' own program dot, which is not installed (on Debian: apt install "
            "graphviz); a .svg or a .png needs nothing"
        )
    try:
        files = metadata.files("graphviz-pure") or ()
    except metadata.PackageNotFoundError:
        files = ()
    installed = (Path(file.locate()) for file in files if file.stem == "graphviz-pure")
    pure = next((str(path) for path in installed if path.is_file()), None) or shutil.which("graphviz-pure")
    if pure:
        return pure
    raise ValueError("render: neither dot nor graphviz-pure is installed; pip install graphviz-pure")

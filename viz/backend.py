"""Imports Matplotlib when the first picture is drawn, and without the environment variable MPLBACKEND.

The import takes a second, and most commands draw nothing. It fails if the variable names a backend that is not
installed, for example in a command that a notebook with another environment calls. The pictures of viz need no such
backend, so the variable is removed during the import. It is applied afterwards, if possible, for programs that also
show pictures of their own.
"""

import contextlib
import functools
import importlib
import os
import sys
from typing import Any

_USED = (
    *("backends.backend_agg", "backends.backend_svg", "collections", "colors", "figure", "font_manager", "lines"),
    *("patches", "patheffects", "ticker", "transforms"),
)


@functools.cache
def matplotlib() -> Any:
    """The module matplotlib, with the submodules that autotx uses as its attributes."""
    ours = "matplotlib" not in sys.modules
    name = os.environ.pop("MPLBACKEND", "") if ours else ""
    try:
        mpl = importlib.import_module("matplotlib")
    finally:
        if name:
            os.environ["MPLBACKEND"] = name
    if name:
        with contextlib.suppress(ValueError):
            mpl.rcParams["backend"] = name
    for part in _USED:
        importlib.import_module(f"matplotlib.{part}")
    return mpl

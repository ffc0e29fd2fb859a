"""Imports Matplotlib without the environment variable MPLBACKEND. Import this before the other modules of viz.

The import of Matplotlib fails if the variable names a backend that is not installed, for example in a command that a
notebook with another environment calls. The pictures of viz need no such backend, so the variable is removed during
the import. It is applied afterwards, if possible, for programs that also show pictures of their own.
"""

import contextlib
import os
import sys

if "matplotlib" not in sys.modules:
    name = os.environ.pop("MPLBACKEND", "")
    import matplotlib as mpl

    if name:
        os.environ["MPLBACKEND"] = name
        with contextlib.suppress(ValueError):
            mpl.rcParams["backend"] = name

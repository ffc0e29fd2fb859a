"""Imports Matplotlib, whatever the environment variable MPLBACKEND says. Every module here needs this one first.

Matplotlib refuses to be imported when the variable names a backend that is not installed, as in a command that is
called from a notebook with another environment. Pictures here name their own backends, so the variable is hidden
during the import. Then it is obeyed if it can be, for a program that also shows pictures of its own.
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

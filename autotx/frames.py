"""Frames of the call stack that are the library's own: which line of the user called, and what tracebacks leave out."""

import linecache
import sys

_FILES = (
    "backward", "tensor", "lift", "ops", "functional", "composed", "methods", "numpy_functions", "modes", "anomaly",
    "gradcheck", "recomputing", "frames", "viz.trace",
)  # fmt: skip
OPS = tuple(f"autotx.{file}" for file in _FILES)
ENGINE = (*OPS, "autotx.nn", "autotx.notes")


def calling_line(engine=ENGINE):
    """The innermost line outside of the modules `engine`: its file, its number and its text."""
    frame = sys._getframe()
    while frame.f_back and frame.f_globals.get("__name__", "").startswith(engine):
        frame = frame.f_back
    file, number = frame.f_code.co_filename, frame.f_lineno
    return file, number, linecache.getline(file, number).strip()


def hide(error: BaseException) -> None:
    """Mark the frames of the library, and of NumPy, in an error that is on its way up. IPython and pytest leave them
    out: what a user needs is the message and his own lines. Python itself prints all."""
    tb = error.__traceback__
    while tb:
        if tb.tb_frame.f_globals.get("__name__", "").startswith(("autotx.", "numpy.")):
            tb.tb_frame.f_locals["__tracebackhide__"] = True
        tb = tb.tb_next

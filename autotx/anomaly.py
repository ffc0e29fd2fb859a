"""`detect_anomaly` finds the op that first makes a NaN or an Inf."""

import numpy as np

from autotx.frames import calling_line
from autotx.modes import Watcher, unwatch, watch


class detect_anomaly:  # noqa: N801  (a context manager, named as everywhere)
    """`with detect_anomaly():` the first op that makes a NaN or an Inf raises FloatingPointError, forward or backward.

    The message names the op and the line that called it. Every result is inspected, so this is for debugging.
    """

    def __enter__(self):
        self.watch = Watch()
        watch(self.watch)

    def __exit__(self, *error):
        unwatch(self.watch)


class Watch(Watcher):
    """Inspects every result and every gradient, and keeps the line of code that called each op."""

    def __init__(self):
        self.lines = {}  # tick of a result -> where it was computed

    def result(self, op, t, data, settings):
        """Raise FloatingPointError if `op` made a NaN or an Inf out of finite arguments."""
        self.lines[t._tick] = line = "{}:{}: {}".format(*calling_line())
        bad = _first_bad(t._data)
        if bad is None:
            return
        given = next((b for a in (*data, *settings.values()) if (b := _first_bad(a)) is not None), None)
        if given is None:
            raise FloatingPointError(f"{op}: its result has {bad}, its arguments were finite; called at {line}")
        if "nan" in given or "nan" in bad:
            raise FloatingPointError(f"{op}: its argument already has {given}, its result {bad}; called at {line}")

    def gradient(self, node, parent, d, g):
        """Raise FloatingPointError if the pullback of `node` made a NaN or an Inf out of a finite gradient."""
        bad = None if callable(d) else _first_bad(d)
        if bad is not None and _first_bad(g) is None:
            line = self.lines.get(node._tick, "a line outside detect_anomaly")
            name = f"'{parent.name}'" if parent.name else f"its argument of shape {parent.shape}"
            raise FloatingPointError(f"backward of {node._op}: the gradient of {name} has {bad}; called at {line}")


def _first_bad(a):
    """The first NaN or Inf of an array or number, in words; None if all is finite."""
    a = np.asarray(a) if isinstance(a, np.ndarray | np.generic | float) else None
    if a is None or a.dtype.kind != "f" or np.isfinite(a).all():
        return None
    index = tuple(int(i) for i in np.argwhere(~np.isfinite(a))[0])
    return f"{a[index]} at index {index}" if index else str(a)

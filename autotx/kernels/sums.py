"""The sum of two large arrays, element by element. Memory sets the pace.

NumPy adds on one core, which alone does not reach the speed of the memory. A training step adds often: at every
residual connection, where gradients meet, and where slices give theirs back. Arrays of one axis are
left to NumPy.
"""

import math

import numpy as np
from numba import types

from autotx.kernels.jit import kernel
from autotx.kernels.rows import CHUNK, INTEGER, floats, tasks, use_numba
from autotx.kernels.threads import shared


def add(x, y, out=None):
    """`kernels.add`, for large arrays."""
    if use_numba(x, y):  # both float32
        if out is None:
            out = np.empty(x.shape, np.float32)
        arrays = (x, y) if out is x else (x, y, out)
        views = _as_rows(arrays)
        if views and use_numba(out):
            step = max(1, CHUNK // views[0].shape[1])
            (_add_to if out is x else _add)(tasks(len(views[0]), step), *views, step)
            return out
    return np.add(x, y, out)


def _as_rows(arrays):
    """Views of arrays of one shape with two axes, of which the second is contiguous. None where that cannot be.

    The second takes as many of the last axes as lie evenly in all of them, and not much more than CHUNK elements.
    """
    shape = arrays[0].shape
    for axis in range(1, len(shape)):
        columns = math.prod(shape[axis:])
        if columns <= CHUNK or axis == len(shape) - 1:
            try:
                views = [x.reshape(-1, columns, copy=False) for x in arrays]
            except ValueError:  # only a copy would have this shape
                continue
            if all(view.strides[1] == 4 and view.flags.aligned for view in views):
                return views
    return None


# ---- kernels ----------------------------------------------------------------------------------------------------

GIVEN, WRITTEN = types.Array(types.float32, 2, "A", readonly=True), types.Array(types.float32, 2, "A")


@kernel
def _row(x, n):
    return floats(x.ctypes.data + n * x.strides[0], x.shape[1])


@shared(GIVEN, GIVEN, WRITTEN, INTEGER)
@kernel
def _add(x, y, out, step, worker, task):
    for n in range(task * step, min(task * step + step, len(x))):
        x_row, y_row, out_row = _row(x, n), _row(y, n), _row(out, n)
        for i in range(out_row.size):
            out_row[i] = x_row[i] + y_row[i]


@shared(WRITTEN, GIVEN, INTEGER)
@kernel
def _add_to(x, y, step, worker, task):
    for n in range(task * step, min(task * step + step, len(x))):
        x_row, y_row = _row(x, n), _row(y, n)
        for i in range(x_row.size):
            x_row[i] += y_row[i]

"""The sum of two large arrays, element by element, on several threads.

Memory bandwidth limits the speed, and NumPy uses one core, which cannot use all of it. A training step adds often: at
residual connections, where gradients accumulate, and in the backward of slices. NumPy adds arrays of one axis.
"""

import math

import numpy as np
from numba import types

from autotx.kernels.jit import kernel
from autotx.kernels.launches import shared
from autotx.kernels.rows import CHUNK, INTEGER, floats, tasks, use_numba


def add(x, y, out=None):
    """`kernels.add` for large arrays."""
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
    """Views with two axes, the second contiguous, of arrays of one shape; None if there are no such views.

    The second axis merges as many of the last axes as all arrays allow without a copy, up to CHUNK elements (the last
    axis alone may be longer).
    """
    shape = arrays[0].shape
    for axis in range(1, len(shape)):
        columns = math.prod(shape[axis:])
        if columns <= CHUNK or axis == len(shape) - 1:
            try:
                views = [x.reshape(-1, columns, copy=False) for x in arrays]
            except ValueError:  # this shape would require a copy
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

"""Shared by the kernels that work row by row or element by element: layout, argument types, tasks, choice of the twin.

Numba compiles separately for every layout and for read-only arrays. So arrays are first made C-contiguous, and a kernel
is compiled for one signature, whose inputs are declared read-only, which also accepts writable arrays.
"""

import math

import numba
import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from autotx.kernels.jit import kernel

IN1, IN2 = (types.Array(types.float32, ndim, "C", readonly=True) for ndim in (1, 2))
OUT1, OUT2, OUT3 = (types.Array(types.float32, ndim, "C") for ndim in (1, 2, 3))
IDS = types.Array(types.int64, 1, "C", readonly=True)
REAL, INTEGER = types.float32, types.int64

FLOAT32 = np.dtype(np.float32)
FLOAT_BYTES = FLOAT32.itemsize
CHUNK = 16384  # elements in a task: some microseconds of work


def use_numba(*arrays):
    """Whether the kernels take these arrays: all are float32 and Numba is enabled. Otherwise the NumPy twin is used."""
    for x in arrays:  # all() with a generator takes twice as long, and this runs at every call
        if x.dtype != FLOAT32:
            return False
    return not numba.config.DISABLE_JIT


def rows_a_chunk(columns):
    """Rows in a task. It depends on the shape alone, so that results do not depend on the number of threads."""
    return max(1, CHUNK // columns)


def is_contiguous(x):
    """Whether x is C-contiguous (row order, no gaps) and aligned."""
    return x.flags.c_contiguous and x.flags.aligned


def contiguous(x):
    """x itself if it is contiguous, else a contiguous copy."""
    return x if is_contiguous(x) else x.copy()


def rows(x):
    """x: (..., C) as a contiguous array (N, C)."""
    return contiguous(x) if x.ndim == 2 else contiguous(x).reshape(math.prod(x.shape[:-1]), x.shape[-1])


def flat(x):
    """x of any shape as a contiguous array of one axis."""
    return contiguous(x) if x.ndim == 1 else contiguous(x).reshape(-1)


def tasks(n, step):
    """The number of tasks for n rows (or elements), `step` in each."""
    return -(-n // step)


@kernel
def part(task, step):
    """The rows of a task, a slice; that of the last task may exceed the array."""
    return slice(task * step, task * step + step)


@kernel
def floats(address, size):
    """In a kernel: the array of `size` floats at an address."""
    return carray(_pointer(address), size)


@intrinsic
def _pointer(typing, address):
    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], ir.FloatType().as_pointer())

    return types.CPointer(types.float32)(types.int64), generate

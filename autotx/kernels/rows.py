"""What the kernels that work row by row or element by element share: one layout, one signature, one rule for the twin.

Numba compiles anew for every layout and for read-only arrays. So every array is brought to one layout first, and every
kernel is compiled for one signature, in which inputs are marked read-only (that takes both kinds).
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
CHUNK = 16384  # elements a thread takes at a time: some microseconds of work.


def use_numba(*arrays):
    """Whether the kernels take these arrays: all float32, and Numba compiles. Otherwise the NumPy twin does it."""
    for x in arrays:  # a loop, for all() with a generator takes twice as long, and this is asked at every call
        if x.dtype != FLOAT32:
            return False
    return not numba.config.DISABLE_JIT


def rows_a_chunk(columns):
    """How many rows a thread takes at a time: a matter of the shape alone, so that results do not depend on threads."""
    return max(1, CHUNK // columns)


def is_plain(x):
    """Whether the elements of x lie one behind the other, in row order."""
    return x.flags.c_contiguous and x.flags.aligned


def plain(x):
    """x itself where it is plain, else a copy."""
    return x if is_plain(x) else x.copy()


def rows(x):
    """x: (..., C) as a plain array (N, C)."""
    return plain(x) if x.ndim == 2 else plain(x).reshape(math.prod(x.shape[:-1]), x.shape[-1])


def flat(x):
    """x of any shape as a plain array of one axis."""
    return plain(x) if x.ndim == 1 else plain(x).reshape(-1)


def tasks(n, step):
    """How many tasks there are in n rows, `step` at a time."""
    return -(-n // step)


@kernel
def part(task, step):
    """The rows of a task. The last one's may end before."""
    return slice(task * step, task * step + step)


@kernel
def floats(address, size):
    """In a kernel: the `size` floats at an address, as an array."""
    return carray(_pointer(address), size)


@intrinsic
def _pointer(typing, address):
    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], ir.FloatType().as_pointer())

    return types.CPointer(types.float32)(types.int64), generate

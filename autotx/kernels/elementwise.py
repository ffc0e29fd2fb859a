"""Sums of large arrays with all threads: one thread alone does not use the whole bandwidth of the memory."""

import numba
import numpy as np

from autotx.kernels.jit import kernel
from autotx.kernels.rows import IN1, OUT1, REAL, compiled, flat, use_numba

CHUNK = 32768  # elements a thread takes at a time
LARGE = 2**18  # elements from which on a launch of the threads pays


def add(a, b, out=None):
    """a + b of one shape, into a new array or `out` (C-contiguous, neither a nor b: use `add_into` for that)."""
    if out is None:
        out = np.empty(a.shape, np.result_type(a, b))
    if a.size >= LARGE and _plain(out) and a.shape == b.shape and use_numba(a, b, out):
        _add(flat(a), flat(b), out.reshape(-1))
        return out
    return np.add(a, b, out=out)


def add_into(buffer, x):
    """buffer += x, of one shape."""
    if x.size >= LARGE and _plain(buffer) and buffer.shape == x.shape and use_numba(buffer, x):
        _add_into(buffer.reshape(-1), flat(x))
    else:
        buffer += x


def scale_into(x, s):
    """x *= s, s a number."""
    if x.size >= LARGE and _plain(x) and use_numba(x):
        _scale_into(x.reshape(-1), s)
    else:
        x *= s


def _plain(x):
    return x.flags.c_contiguous and x.flags.aligned


@kernel
def _add_piece(a, b, out):
    for i in range(out.size):
        out[i] = a[i] + b[i]


@compiled(IN1, IN1, OUT1)
@kernel(parallel=True)
def _add(a, b, out):
    for chunk in numba.prange((out.size + CHUNK - 1) // CHUNK):
        i, end = chunk * CHUNK, chunk * CHUNK + CHUNK
        _add_piece(a[i:end], b[i:end], out[i:end])


@kernel
def _add_into_piece(buffer, x):
    for i in range(buffer.size):
        buffer[i] += x[i]


@compiled(OUT1, IN1)
@kernel(parallel=True)
def _add_into(buffer, x):
    for chunk in numba.prange((x.size + CHUNK - 1) // CHUNK):
        i, end = chunk * CHUNK, chunk * CHUNK + CHUNK
        _add_into_piece(buffer[i:end], x[i:end])


@kernel
def _scale_piece(x, s):
    for i in range(x.size):
        x[i] *= s


@compiled(OUT1, REAL)
@kernel(parallel=True)
def _scale_into(x, s):
    for chunk in numba.prange((x.size + CHUNK - 1) // CHUNK):
        _scale_piece(x[chunk * CHUNK : chunk * CHUNK + CHUNK], s)

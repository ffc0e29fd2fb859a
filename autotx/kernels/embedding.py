"""The gradient of an embedding table."""

import numba
import numpy as np

from autotx.kernels.jit import kernel
from autotx.kernels.rows import CHUNK, IDS, IN2, OUT2, compiled, flat, rows, use_numba

WIDTH = 128  # columns a thread takes at a time


def add_rows(buffer, ids, g):
    """buffer[ids[n]] += g[n] for n = 0, 1, ..., in this order. buffer: (V, C), ids: (N,) integers, g: (N, C).

    The threads share out the columns: each element has one owner, who adds to it in the order of n.
    """
    if use_numba(buffer, g) and buffer.flags.c_contiguous and buffer.flags.aligned:
        _add_rows(buffer, flat(ids.astype(np.int64, copy=False)), rows(g))
    else:
        np.add.at(buffer, ids, g)


@kernel
def _add_columns(buffer, ids, g, start, end):
    for n in range(ids.size):
        target, source = buffer[ids[n]][start:end], g[n][start:end]
        for i in range(source.size):
            target[i] += source[i]


@compiled(OUT2, IDS, IN2)
@kernel(parallel=True)
def _add_rows(buffer, ids, g):
    C = g.shape[1]
    if g.size <= CHUNK:
        _add_columns(buffer, ids, g, 0, C)
    else:
        for block in numba.prange((C + WIDTH - 1) // WIDTH):
            _add_columns(buffer, ids, g, block * WIDTH, block * WIDTH + WIDTH)

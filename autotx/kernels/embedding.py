"""The gradient of an embedding table."""

import numpy as np

from autotx.kernels.jit import kernel
from autotx.kernels.rows import CHUNK, IDS, IN2, INTEGER, OUT2, flat, part, rows, tasks, use_numba
from autotx.kernels.threads import shared

WIDTH = 128  # columns a thread takes at a time


def add_rows(buffer, ids, g):
    """buffer[ids[n]] += g[n] for n = 0, 1, ..., in this order. buffer: (V, C), ids: (N,) integers, g: (N, C).

    The threads share out the columns: each element has one owner, who adds to it in the order of n.
    """
    if use_numba(buffer, g) and buffer.flags.c_contiguous and buffer.flags.aligned:
        width = WIDTH if g.size > CHUNK else max(1, g.shape[1])
        _add_rows(tasks(g.shape[1], width), buffer, flat(ids.astype(np.int64, copy=False)), rows(g), width)
    else:
        np.add.at(buffer, ids, g)


@shared(OUT2, IDS, IN2, INTEGER)
@kernel
def _add_rows(buffer, ids, g, width, worker, task):
    columns = part(task, width)
    for n in range(ids.size):
        target, source = buffer[ids[n]][columns], g[n][columns]
        for i in range(source.size):
            target[i] += source[i]

"""Rows of an embedding table: looking them up (forward) and adding gradients to them (backward)."""

import numpy as np

from autotx.kernels import add_rows_at, often_repeated
from autotx.kernels.jit import kernel
from autotx.kernels.launches import shared
from autotx.kernels.rows import (
    CHUNK,
    IDS,
    IN2,
    INTEGER,
    OUT2,
    flat,
    is_contiguous,
    part,
    rows,
    rows_a_chunk,
    tasks,
    use_numba,
)

WIDTH = 128  # columns in a task of `add_rows`


def take_rows(table, ids):
    """table[ids], shape ids.shape + (C,). table: (V, C). ids: integers from 0 to V - 1 (not checked), any shape."""
    C = table.shape[1]
    if ids.size * C <= CHUNK or not use_numba(table) or not is_contiguous(table):
        return table[ids]
    out = np.empty((*ids.shape, C), np.float32)
    step = rows_a_chunk(C)
    _take_rows(tasks(ids.size, step), table, flat(ids), rows(out), step)
    return out


def add_rows(buffer, ids, g):
    """buffer[ids[n]] += g[n] for n = 0, 1, ..., in this order. buffer: (V, C), ids: (N,) integers, g: (N, C).

    A task is a range of columns, so only one thread adds to an element, in the order of n. Where an id is repeated so
    often that float32 would be imprecise, the rows of each id are first added in float64.
    """
    if use_numba(buffer, g) and is_contiguous(buffer) and not often_repeated(ids):
        width = WIDTH if g.size > CHUNK else max(1, g.shape[1])
        _add_rows(tasks(g.shape[1], width), buffer, flat(ids.astype(np.int64, copy=False)), rows(g), width)
    else:
        add_rows_at(buffer, ids, g)


@shared(IN2, IDS, OUT2, INTEGER)
@kernel
def _take_rows(table, ids, out, step, worker, task):
    chunk = part(task, step)
    ids, out = ids[chunk], out[chunk]
    for n in range(ids.size):
        source, target = table[ids[n]], out[n]
        for i in range(target.size):
            target[i] = source[i]


@shared(OUT2, IDS, IN2, INTEGER)
@kernel
def _add_rows(buffer, ids, g, width, worker, task):
    columns = part(task, width)
    for n in range(ids.size):
        target, source = buffer[ids[n]][columns], g[n][columns]
        for i in range(source.size):
            target[i] += source[i]

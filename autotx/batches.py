"""`batches` hands out data in batches, an epoch a call."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from autotx.checks import checked_rng, checked_size
from autotx.tensor import Tensor, array_of
from autotx.types import ArrayLike, Rng


def batches(*arrays: ArrayLike, size: int, rng: Rng = None) -> Iterator[Any]:
    """One epoch: an iterator of batches of `size` rows, the last one shorter if the rows do not divide evenly.

    arrays: one or more, with equally many rows (their first axis). A batch is an array for one of them, else a tuple of
    arrays of the same rows; it is a copy. rng: the rows are shuffled, anew at each call; None: they come in order.

        for epoch in range(10):
            for x, y in batches(images, labels, size=64, rng=rng):
                loss = autotx.cross_entropy(model(x), y)

    ValueError: no array, arrays of different lengths or without rows, a Tensor that requires a gradient.
    """
    size = checked_size("batches", "size", size)
    if any(isinstance(a, Tensor) and a.requires_grad for a in arrays):
        raise ValueError("batches: the rows of a Tensor would get no gradient; give .detach()")
    columns = [np.asarray(array_of(a)) for a in arrays]
    shapes = " and ".join(str(column.shape) for column in columns)
    if not columns or any(not column.ndim or len(column) != len(columns[0]) for column in columns):
        raise ValueError(f"batches: arrays of shapes {shapes or 'none'}; give one or more, with equally many rows")
    n = len(columns[0])
    if not n:
        raise ValueError(f"batches: arrays of shapes {shapes} have no rows")
    order = np.arange(n) if rng is None else checked_rng("batches", rng).permutation(n)
    parts = (order[i : i + size] for i in range(0, n, size))
    if len(columns) == 1:
        return (columns[0][rows] for rows in parts)
    return (tuple(column[rows] for column in columns) for rows in parts)

"""The rows of a batch that one of several processes computes, and the dropout that they have in the whole batch."""

import copy
import math
from typing import Any

import numpy as np


def share(task, batch, comm, rng):
    """The part of a batch that a process computes: (rows, how many targets they count for, rng of their dropout).

    batch: arrays whose first axis is the batch's. rng: draws the dropout of the whole batch, in every process.
    A process that would have no row with a target computes one, which counts for 0: it has to draw as the others do.
    """
    whole = len(batch[0])
    first, after = (whole * rank // comm.size for rank in (comm.rank, comm.rank + 1))
    own = _rows(batch, first, after)
    count = task.count(own) if first < after else 0
    if count == 0:
        first = next(row for row in range(whole) if task.count(_rows(batch, row, row + 1)))
        after = first + 1
        own = _rows(batch, first, after)
    return own, count, rng if after - first == whole else RowsOfDropout(rng, first, after - first, whole)


def _rows(batch, first, after):
    return tuple(part[first:after] for part in batch)


class RowsOfDropout(np.random.Generator):
    """Draws, for an array of some rows, what a Generator would draw for them in an array of all rows.

    rng: that Generator, of PCG64, which can skip numbers. Each draw leaves it where that of all rows would leave it.
    first, rows, whole: so many rows from the first on, of so many.
    """

    def __init__(self, rng: np.random.Generator, first: int, rows: int, whole: int):
        super().__init__(rng.bit_generator)
        self.bits: Any = self.bit_generator
        self.place = first, rows, whole

    def __deepcopy__(self, memo):
        return RowsOfDropout(np.random.Generator(copy.deepcopy(self.bit_generator)), *self.place)

    def random(self, size: Any = None, dtype: Any = np.float64, out: Any = None) -> Any:
        """As numpy.random.Generator.random, of float32. size: its first axis is that of the rows, which may be split.

        ValueError: another type, or no such axis.
        """
        first, rows, whole = self.place
        if not isinstance(size, tuple) or not size or size[0] % rows or dtype != np.float32:
            raise ValueError(f"random: {size} of {np.dtype(dtype)} cannot be shared out; give {rows} rows of float32")
        row = math.prod(size) // rows
        self._skip(first * row)
        drawn = super().random(size, dtype, out)
        self._skip((whole - first - rows) * row)
        return drawn

    def _skip(self, count):
        """Pass over so many numbers. Two are made of each 64 bits, so that the second of a pair may be waiting."""
        waiting = min(count, self.bits.state["has_uint32"])
        if count > waiting:
            self.bits.advance((count - waiting) // 2)  # drops the one that is waiting
            waiting = (count - waiting) % 2
        if waiting:
            super().random(dtype=np.float32)

"""The compiled loops. Each module is imported at its first use, so that `import autotx` does not import Numba."""

import importlib
import math

import numpy as np

from autotx.kernels import blas
from autotx.signals import uncut

blas.stop_spinning()

_MODULES = (
    "attend",
    "attention",
    "codes",
    "cross_entropy",
    "dots",
    "embedding",
    "exp",
    "gelu",
    "gemm",
    "gemv",
    "jit",
    "launches",
    "layernorm",
    "linear",
    "memory",
    "mixed",
    "parameters",
    "recurrent",
    "rmsnorm",
    "rope",
    "rows",
    "silu",
    "softmax",
    "sums",
    "threads",
)


def __getattr__(name):
    if name in _MODULES:
        with uncut():
            return importlib.import_module(f"autotx.kernels.{name}")
    raise AttributeError(f"module 'autotx.kernels' has no attribute {name!r}")


# The rule for every sum of float32: at most so many numbers are added one after another in float32, since the error
# grows with their count (for a million times 0.1 it is 1 %). Longer sums are pairwise, in blocks (or lanes of a vector)
# whose sums are added, or in float64. Ops add by `total`, `running_total` and `add_at`; products add blocks.
FLOAT32_TERMS = 1000


def sum_type(x):
    """The type of a sum of elements of x: that of x for floats, int64 for integers and booleans."""
    return x.dtype if x.dtype.kind == "f" else np.dtype(np.int64)


def total(x, axis=None, keepdims=False) -> np.ndarray:
    """The sum of x over `axis` (None, an integer, or a tuple), of the type `sum_type(x)`.

    NumPy adds pairwise along the axis with the smallest stride, but one after another along the others: there more than
    FLOAT32_TERMS are added in float64.
    """
    kind = wide = sum_type(x)
    if kind == np.float32 and axis is not None and x.ndim:
        axes = [i % x.ndim for i in (axis if isinstance(axis, tuple) else (axis,))]
        together = min(range(x.ndim), key=lambda i: (abs(x.strides[i]), -i))
        if math.prod(x.shape[i] for i in axes if i != together) > FLOAT32_TERMS:
            wide = np.float64
    return np.sum(x, axis=axis, keepdims=keepdims, dtype=wide).astype(kind, copy=False)


def running_total(x, axis):
    """The sums of the first 1, 2, ... elements of x along `axis`, of the type `sum_type(x)`."""
    kind = sum_type(x)
    wide = np.float64 if kind == np.float32 and x.shape[axis] > FLOAT32_TERMS else kind
    return np.cumsum(x, axis=axis, dtype=wide).astype(kind, copy=False)


def add_at(buffer, index, g):
    """buffer[index] += g in place, where an element that the index takes several times gets the sum."""
    parts = [np.asarray(p) if isinstance(p, list) else p for p in (index if isinstance(index, tuple) else (index,))]
    kinds = [getattr(p, "dtype", np.dtype(object)).kind for p in parts]
    if g.size <= FLOAT32_TERMS or buffer.dtype != np.float32 or kinds == ["b"]:  # a mask takes each element once
        np.add.at(buffer, index, g)
    elif set(kinds) <= {"i", "u"} and buffer.flags.c_contiguous:
        shape, rest = buffer.shape[: len(parts)], buffer.shape[len(parts) :]
        rows = np.ravel_multi_index(np.broadcast_arrays(*parts), shape, mode="wrap").reshape(-1)
        add_rows_at(buffer.reshape(-1, *rest), rows, g.reshape(-1, *rest))
    else:
        wide = np.zeros(buffer.shape)
        np.add.at(wide, index, g.astype(np.float64))
        buffer += wide


def add_rows_at(buffer, ids, g):
    """buffer[ids[n]] += g[n] for every n. ids: (N,) integers, not negative."""
    if often_repeated(ids):
        order = np.argsort(ids, kind="stable")
        ids, first = np.unique(ids[order], return_index=True)
        buffer[ids] += np.add.reduceat(g[order], first, axis=0, dtype=np.float64)
    else:
        np.add.at(buffer, ids, g)


def often_repeated(ids):
    """Whether one of the ids is there more than FLOAT32_TERMS times."""
    return ids.size > FLOAT32_TERMS and np.bincount(ids).max() > FLOAT32_TERMS


THREADED_SIZE = 2**15  # larger sums use several threads


def add(x, y, out=None):
    """out = x + y for arrays of one shape, any strides and types. out: None for a new array; it may be x."""
    if x.size > THREADED_SIZE:
        return importlib.import_module("autotx.kernels.sums").add(x, y, out)
    return np.add(x, y, out)

"""The compiled loops. Each module is imported at its first use, so that `import autotx` does not import Numba."""

import importlib
import math

import numpy as np

from autotx.kernels import blas

blas.stop_spinning()

_MODULES = (
    "attend",
    "attention",
    "cross_entropy",
    "dots",
    "embedding",
    "exp",
    "gelu",
    "gemm",
    "gemv",
    "jit",
    "layernorm",
    "memory",
    "parameters",
    "recurrent",
    "rows",
    "softmax",
    "sums",
    "threads",
)


def __getattr__(name):
    if name in _MODULES:
        return importlib.import_module(f"autotx.kernels.{name}")
    raise AttributeError(f"module 'autotx.kernels' has no attribute {name!r}")


FLOAT32_TERMS = 1000  # the most float32 numbers that are added one after another in float32


def sum_type(x):
    """The type of a sum of elements of x: that of x for floats, int64 for integers and booleans."""
    return x.dtype if x.dtype.kind == "f" else np.dtype(np.int64)


def total(x, axis=None, keepdims=False) -> np.ndarray:
    """The sum of x over `axis` (None, an integer, or a tuple), of the type `sum_type(x)`.

    NumPy adds pairwise along the axis with the smallest stride, but one after another along the others, where the error
    grows with the number of terms: 1.5 % for two million in float32. More than FLOAT32_TERMS are added in float64.
    """
    kind = wide = sum_type(x)
    if kind == np.float32 and axis is not None and x.ndim:
        axes = [i % x.ndim for i in (axis if isinstance(axis, tuple) else (axis,))]
        together = min(range(x.ndim), key=lambda i: (abs(x.strides[i]), -i))
        if math.prod(x.shape[i] for i in axes if i != together) > FLOAT32_TERMS:
            wide = np.float64
    return np.sum(x, axis=axis, keepdims=keepdims, dtype=wide).astype(kind, copy=False)


THREADED_SIZE = 2**15  # larger sums use several threads


def add(x, y, out=None):
    """out = x + y for arrays of one shape, any strides and types. out: None for a new array; it may be x."""
    if x.size > THREADED_SIZE:
        return importlib.import_module("autotx.kernels.sums").add(x, y, out)
    return np.add(x, y, out)

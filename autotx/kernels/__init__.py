"""The hot loops. Each module is loaded when it is first named, so that `import autotx` does not load Numba."""

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
    "rows",
    "softmax",
    "sums",
    "threads",
)


def __getattr__(name):
    if name in _MODULES:
        return importlib.import_module(f"autotx.kernels.{name}")
    raise AttributeError(f"module 'autotx.kernels' has no attribute {name!r}")


FLOAT32_TERMS = 1000  # float32 numbers that may be added up one after another


def sum_type(x):
    """The type in which elements of x are added up: floats keep theirs, whole numbers and booleans are int64."""
    return x.dtype if x.dtype.kind == "f" else np.dtype(np.int64)


def total(x, axis=None, keepdims=False) -> np.ndarray:
    """The sum of x over axis: None, a number, or a tuple. Of the type `sum_type(x)`.

    NumPy adds up pairwise along the axis whose elements lie together, and one after another along the others, with an
    error that grows by as many: 1.5 % for two million numbers in float32. So FLOAT32_TERMS are added up in float64.
    """
    kind = wide = sum_type(x)
    if kind == np.float32 and axis is not None and x.ndim:
        axes = [i % x.ndim for i in (axis if isinstance(axis, tuple) else (axis,))]
        together = min(range(x.ndim), key=lambda i: (abs(x.strides[i]), -i))
        if math.prod(x.shape[i] for i in axes if i != together) > FLOAT32_TERMS:
            wide = np.float64
    return np.sum(x, axis=axis, keepdims=keepdims, dtype=wide).astype(kind, copy=False)


THREADED_SIZE = 2**15  # elements from which on adding is worth a second thread


def add(x, y, out=None):
    """out = x + y, for arrays of one shape, in a new array if `out` is None. `out` may be x. Any strides and types."""
    if x.size > THREADED_SIZE:
        return importlib.import_module("autotx.kernels.sums").add(x, y, out)
    return np.add(x, y, out)

"""The hot loops. Each module is loaded when it is first named, so that `import autotx` does not load Numba."""

import importlib

import numpy as np

from autotx.kernels import blas

blas.stop_spinning()

_MODULES = (
    "attention", "cross_entropy", "embedding", "exp", "gelu", "gemm", "gemv", "jit", "layernorm", "memory",
    "parameters", "rows", "softmax", "sums", "threads",
)


def __getattr__(name):
    if name in _MODULES:
        return importlib.import_module(f"autotx.kernels.{name}")
    raise AttributeError(f"module 'autotx.kernels' has no attribute {name!r}")


LARGE = 2**15  # elements from which on adding is worth a second thread


def add(x, y, out=None):
    """out = x + y, for arrays of one shape, in a new array if `out` is None. `out` may be x. Any strides and types."""
    if x.size > LARGE:
        return importlib.import_module("autotx.kernels.sums").add(x, y, out)
    return np.add(x, y, out)

"""The hot loops. Each module is loaded when it is first named, so that `import autotx` does not load Numba."""

import importlib

_MODULES = (
    "attention", "cross_entropy", "embedding", "exp", "gelu", "gemm", "gemv", "jit", "layernorm", "memory",
    "parameters", "rows", "softmax", "threads",
)


def __getattr__(name):
    if name in _MODULES:
        return importlib.import_module(f"autotx.kernels.{name}")
    raise AttributeError(f"module 'autotx.kernels' has no attribute {name!r}")

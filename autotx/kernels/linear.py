"""Linear layers for inference, with float weights or codes, and any number of rows.

gemv.py computes few rows, gemm.py many, in the same order of sums: in float32 a row has the same bits in both. (On
processors with fused multiply-adds; NumPy, which computes other types and everything under NUMBA_DISABLE_JIT=1, may add
in another order.)
"""

import numpy as np

from autotx.kernels import gemm, gemv
from autotx.kernels.codes import Coded
from autotx.kernels.gemv import few, takes
from autotx.kernels.rmsnorm import rms_norm
from autotx.kernels.rows import contiguous
from autotx.kernels.silu import swiglu


def linear(x, weight, bias=None, norm=None, onto=None):
    """y = x W^T + b. x: (M, K), weight: (N, K), an array or Coded, bias: (N,) or None, y: (M, N). Any float type.

    norm: (gamma, eps): the rows of x are first normalised, as by rms_norm. onto: an array (M, N) that does not overlap
    x; y is added to it, and it is returned.
    """
    kernels = takes(x, weight)
    if kernels and few(len(x), weight):
        return gemv.linear(x, weight, bias, norm, onto)
    x = x if norm is None else rms_norm(x, *norm)[0]
    if not kernels:
        y = x @ np.asarray(weight).T
        y = y if bias is None else y + bias
        return y if onto is None else np.add(onto, y, onto)
    to = np.empty((len(x), len(weight)), np.float32) if onto is None else contiguous(onto)
    gemm.multiply(contiguous(x), weight if isinstance(weight, Coded) else weight.T, to, onto is not None, bias)
    if onto is None or to is onto:
        return to
    onto[...] = to
    return onto


def gated(x, gate, up, norm=None):
    """y = silu(x W_g^T) (x W_u^T), the first half of a SwiGLU layer. x: (M, K), gate, up: (N, K), arrays or
    Coded; y: (M, N). norm: as in `linear`."""
    if few(len(x), gate, up) and takes(x, gate, up):
        return gemv.gated(x, gate, up, norm)
    x = x if norm is None else rms_norm(x, *norm)[0]
    return swiglu(linear(x, gate), linear(x, up))

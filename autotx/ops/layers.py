"""Fused layers: each is one op with its derivation; the tests compare it with the same layer of primitive ops."""

import math
from typing import Literal

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

from autotx import kernels
from autotx.checks import checked_ids, checked_probability, checked_rng, need_floats
from autotx.ops.arithmetic import as_floats, one_element
from autotx.types import Array, ArrayLike, Rng


def gelu(x: Array, /, approximate: Literal["none", "tanh"] = "none"):
    """y = x P(x), P the distribution function of the standard normal: P(x) = (1 + erf(x / sqrt 2)) / 2.

    P'(x) = p(x) = exp(-x^2 / 2) / sqrt(2 pi), so by the product rule dx = g (P(x) + x p(x)).
    approximate="tanh": y = x (1 + tanh u) / 2 with u = sqrt(2 / pi) (x + 0.044715 x^3),
    u' = sqrt(2 / pi) (1 + 0.134145 x^2), so dx = g ((1 + tanh u) / 2 + x (1 - tanh^2 u) u' / 2).
    Source: Hendrycks and Gimpel, 2016, "Gaussian Error Linear Units".
    """
    if approximate not in ("none", "tanh"):
        raise ValueError(f"gelu: approximate is {approximate!r}; give 'none' or 'tanh'")
    return kernels.gelu.gelu(x, approximate), (lambda g: kernels.gelu.gelu_backward(g, x, approximate),)


@one_element
def softmax(x: Array, /, axis: int | tuple[int, ...] | None = -1):
    """p_i = exp(x_i) / sum_j exp(x_j) along axis. The maximum is subtracted first to avoid overflow.

    dp_i/dx_j = p_i (1[i = j] - p_j), so dx_j = sum_i g_i p_i (1[i = j] - p_j) = p_j (g_j - sum_i g_i p_i).
    A line of only -inf gives zeros, and zero gradients. axis: an int, a tuple whose axes form one line, or None for all
    axes. Source: the whitepaper's "Softmax".
    """
    p = _along(axis, kernels.softmax.softmax, as_floats(x))
    return p, (lambda g: _along(axis, kernels.softmax.softmax_backward, p, g),)


@one_element
def log_softmax(x: Array, /, axis: int | tuple[int, ...] | None = -1):
    """y_i = x_i - ln sum_j exp(x_j) along axis: an int, a tuple whose axes form one line, or None for all.

    dy_i/dx_j = 1[i = j] - p_j with p = exp(y), so dx_j = g_j - p_j sum_i g_i.
    """
    y = _along(axis, kernels.softmax.log_softmax, as_floats(x))
    return y, (lambda g: _along(axis, kernels.softmax.log_softmax_backward, y, g),)


def _along(axis, kernel, *arrays):
    """Call a kernel that works on the last axis along `axis`: an int, or a tuple or None (all axes) merged into one."""
    ndim = arrays[0].ndim
    if axis in (-1, ndim - 1):
        return kernel(*arrays)
    axes = normalize_axis_tuple(range(ndim) if axis is None else axis, ndim)
    last = tuple(range(ndim - len(axes), ndim))
    moved = [np.moveaxis(a, axes, last) for a in arrays]
    shape = moved[0].shape
    line = math.prod(shape[ndim - len(axes) :])
    out = kernel(*(a.reshape(*shape[: ndim - len(axes)], line) for a in moved))
    return np.moveaxis(out.reshape(shape), last, axes)


def layer_norm(x: Array, gamma: Array, beta: Array, /, eps: float = 1e-5):
    """y = gamma xhat + beta with xhat = (x - m) r, r = 1 / sqrt(v + eps), m and v the mean and variance of each row.

    x: (..., C), gamma and beta: (C,), v the population variance, eps inside the root. x is converted to gamma's type.
    beta: dbeta = sum of g over the rows. gamma: dgamma = sum of g xhat over the rows.
    x: let h = g gamma be the gradient of xhat. Through r: dr = sum_c h_c (x_c - m), and dr/dv = -r^3 / 2,
    dv/dx_c = 2 (x_c - m) / C, which gives -xhat_c r mean(h xhat). Through m: -r mean(h). Directly: h r. Together
    dx = r (h - mean(h) - xhat mean(h xhat)), h = g gamma, means over the row.
    Source: Ba, Kiros and Hinton, 2016, "Layer Normalization"; the whitepaper's section of that name.
    """
    need_floats("layer_norm", x)
    C = x.shape[-1] if x.ndim else 0
    for name, p in (("gamma", gamma), ("beta", beta)):
        if np.shape(p) != (C,):
            raise ValueError(f"layer_norm: {name} of shape {np.shape(p)} for x of shape {x.shape}: give ({C},)")
    x = x.astype(gamma.dtype, copy=False)
    y, mean, rstd = kernels.layernorm.layer_norm(x, gamma, beta, eps)
    return y, lambda g, wanted: kernels.layernorm.layer_norm_backward(g, x, gamma, mean, rstd)


def rms_norm(x: Array, gamma: Array, /, eps: float = 1e-5):
    """y = gamma xhat with xhat = x r, r = 1 / sqrt(m + eps), m the mean of x^2 over each row.

    x: (..., C), gamma: (C,), eps inside the root. x is converted to gamma's type.
    gamma: dgamma = sum of g xhat over the rows.
    x: let h = g gamma be the gradient of xhat. Through r: dr = sum_c h_c x_c, and dr/dm = -r^3 / 2, dm/dx_c =
    2 x_c / C, which gives -xhat_c r mean(h xhat). Directly: h r. Together
    dx = r (h - xhat mean(h xhat)), h = g gamma, the mean over the row.
    Source: Zhang and Sennrich, 2019, "Root Mean Square Layer Normalization".
    """
    need_floats("rms_norm", x)
    C = x.shape[-1] if x.ndim else 0
    if np.shape(gamma) != (C,):
        raise ValueError(f"rms_norm: gamma of shape {np.shape(gamma)} for x of shape {x.shape}: give ({C},)")
    x = x.astype(gamma.dtype, copy=False)
    y, r = kernels.rmsnorm.rms_norm(x, gamma, eps)
    return y, lambda g, wanted: kernels.rmsnorm.rms_norm_backward(g, x, gamma, r)


def rope(x: Array, /, base: float = 10000.0, start: int = 0):
    """y_t = R_t x_t: channels i and i + D / 2 of token t are rotated by the angle a = (start + t) base^(-2 i / D).

    x: (..., T, D), D even, y: alike. (y_i, y_j) = (x_i cos a - x_j sin a, x_j cos a + x_i sin a), j = i + D / 2.
    The product of a rotated query and a rotated key depends on the distance of their tokens alone, since
    (R_t q)^T (R_s k) = q^T R_(s-t) k. The inverse of a rotation is its transpose, the rotation by -a, so for each token
    dx = R_t^T g. ValueError: an odd D.
    Source: Su et al., 2021, "RoFormer"; the pairs are those of Hugging Face (in the paper, neighbours are paired).
    """
    need_floats("rope", x)
    if x.ndim < 2 or x.shape[-1] % 2 or not x.shape[-1]:
        raise ValueError(f"rope: x of shape {x.shape}; give (..., tokens, channels) with an even number of channels")
    if start < 0:
        raise ValueError(f"rope: start is {start}; give the position of the first token, 0 or more")
    return kernels.rope.rope(x, base, start), (lambda g: kernels.rope.rope(g, base, start, back=True),)


def swiglu(gate: Array, up: Array, /):
    """y = silu(gate) up, silu(x) = x s(x), s the sigmoid. gate, up and y: one shape.

    By the product rule dup = g silu(gate), and with silu' = s + x s (1 - s), x = gate,
    dgate = g up (s(x) + x s(x) (1 - s(x))).
    Source: Shazeer, 2020, "GLU Variants Improve Transformer".
    """
    for x in (gate, up):
        need_floats("swiglu", x)
    if gate.shape != up.shape:
        raise ValueError(f"swiglu: gate of shape {gate.shape}, up of shape {up.shape}; give two of one shape")
    return kernels.silu.swiglu(gate, up), lambda g, wanted: kernels.silu.swiglu_backward(g, gate, up)


def dropout(x: Array, /, p: float, rng: Rng = None):
    """y = x m / (1 - p), m = 0 with probability p, else 1, drawn from rng.   dx = g m / (1 - p).

    The expected value of y is x. Without an rng, as in evaluation, y = x.
    Source: Srivastava et al., 2014, "Dropout".
    """
    checked_probability("dropout", "p", p)
    if rng is None or p == 0:
        return x, (lambda g: g,)
    need_floats("dropout", x)
    keep = kept("dropout", x.shape, p, rng, x.dtype)
    return x * keep, (lambda g: g * keep,)


def kept(name: str, shape: tuple[int, ...], p: float, rng: Rng, dtype: np.dtype) -> np.ndarray:
    """The factors of dropout: 0 with probability p, else 1 / (1 - p)."""
    return (checked_rng(name, rng).random(shape, dtype=np.float32) >= p) * dtype.type(1 / (1 - p))


def embedding(weight: Array, /, ids: ArrayLike):
    """y = weight[ids]: row ids[n] of the table for each n.   dweight[ids[n]] += g[n], so a repeated id gets the sum.

    weight: (V, C), ids: integers of any shape, y: ids.shape + (C,).
    It equals the product of one-hot rows with the table. Source: the whitepaper's "Word Embeddings".
    """
    if weight.ndim != 2:
        raise ValueError(f"embedding: a table of shape {weight.shape}; give (ids, channels)")
    ids = checked_ids("embedding", ids, weight.shape[0], "rows in the table")

    def add_into(dweight, g):
        kernels.embedding.add_rows(dweight, ids.reshape(-1), g.reshape(ids.size, weight.shape[1]))

    return kernels.embedding.take_rows(weight, ids), (lambda g: lambda dweight: add_into(dweight, g),)

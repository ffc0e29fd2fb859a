"""Ops that reduce or run along axes. axis: None (all), an int, or a tuple; keepdims keeps reduced axes with size 1."""

import math

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

from autotx import kernels
from autotx.ops.arithmetic import as_floats, one_element
from autotx.types import Array


def _spread(a, axis, keepdims, ndim):
    """`a` with the reduced axes as axes of size 1, so that it broadcasts against the argument of the reduction."""
    if keepdims or axis is None or ndim == 0:
        return a if axis is not None or keepdims else np.reshape(a, (1,) * ndim)
    axes = axis if isinstance(axis, tuple) else (axis,)
    return np.expand_dims(a, tuple(i % ndim for i in axes))


@one_element
def sum(x: Array, /, axis: int | tuple[int, ...] | None = None, *, keepdims: bool = False):
    """y = sum of x along axis.   Every summed element enters with factor 1, so dx = g, repeated along axis."""

    def dx(g):
        return np.broadcast_to(_spread(g, axis, keepdims, x.ndim), x.shape)

    return kernels.total(x, axis, keepdims), (dx,)


@one_element
def mean(x: Array, /, axis: int | tuple[int, ...] | None = None, *, keepdims: bool = False):
    """y = (1/n) sum of x along axis, n elements each.   dx = g / n, repeated along axis. ValueError when n = 0."""
    n = _count("mean", x, axis)

    def dx(g):
        return np.broadcast_to(_spread(g, axis, keepdims, x.ndim) / n, x.shape).astype(x.dtype, copy=False)

    return kernels.total(x, axis, keepdims) / n, (dx,)


def _count(name, x, axis):
    axes = range(x.ndim) if axis is None else normalize_axis_tuple(axis, x.ndim)
    n = math.prod(x.shape[a] for a in axes)
    if n == 0:
        raise ValueError(f"{name}: no elements along axis {axis} of shape {x.shape}; there is no {name} of nothing")
    return n


@one_element
def var(x: Array, /, axis: int | tuple[int, ...] | None = None, *, keepdims: bool = False, correction: float = 0):
    """y = sum((x - m)^2) / (n - correction), m the mean along axis.   correction 0: population, 1: sample variance.

    dy/dx_i = 2 (x_i - m) / (n - correction): the dependence of m on x_i adds -2/n sum(x - m) = 0.
    So dx = g 2 (x - m) / (n - correction).
    """
    y, d, n = _variance("var", x, axis, keepdims, correction)
    return y, (lambda g: _spread(g, axis, keepdims, x.ndim) * d * (2 / n),)


@one_element
def std(x: Array, /, axis: int | tuple[int, ...] | None = None, *, keepdims: bool = False, correction: int = 0):
    """y = sqrt(v) with v = var(x), the standard deviation along axis.   correction as in var.

    dy/dv = 1 / (2 y) and dv/dx_i = 2 (x_i - m) / (n - correction), so dx = g (x - m) / ((n - correction) y). Where all
    elements are equal, y = 0, there is no derivative, and dx is 0.
    """
    v, d, n = _variance("std", x, axis, keepdims, correction)
    y = np.sqrt(v)

    def dx(g):
        return _spread(g, axis, keepdims, x.ndim) * d / _spread(np.where(y == 0, 1, y) * n, axis, keepdims, x.ndim)

    return y, (lambda g: dx(g).astype(d.dtype, copy=False),)


def _variance(name, x, axis, keepdims, correction):
    """The variance along axis, x - m, and the divisor n - correction."""
    n = _count(name, x, axis) - correction
    if n <= 0:
        raise ValueError(f"{name}: correction {correction} leaves nothing to divide by along axis {axis} of {x.shape}")
    d = x - kernels.total(x, axis, keepdims=True) / (n + correction)
    return kernels.total(d * d, axis, keepdims) / n, d, n


@one_element
def norm(x: Array, /, ord: float = 2, axis: int | tuple[int, ...] | None = None, *, keepdims: bool = False):
    """y = (sum |x|^p)^(1/p) along axis, p = ord, 1 or more: for p = 2 the length of a vector. The powers are those of
    |x| / max |x|, which cannot overflow.

    dy/dx_i = (sum |x|^p)^(1/p - 1) |x_i|^(p - 1) sign(x_i), so dx = g sign(x) (|x| / y)^(p - 1). Where y = 0 there is
    no derivative, and dx is 0. ValueError: another p; the largest |x| is x.abs().max(axis).
    """
    if isinstance(ord, str) or not 1 <= ord < np.inf:
        raise ValueError(f"norm: ord is {ord!r}; give a number from 1 up, or take x.abs().max(axis) for infinity")
    x = as_floats(x)
    a = np.abs(x)
    m = np.max(a, axis=axis, keepdims=True, initial=0)
    m = np.where((m > 0) & np.isfinite(m), m, 1).astype(x.dtype, copy=False)
    y = m * kernels.total((a / m) ** ord, axis, keepdims=True) ** (1 / ord)

    def dx(g):
        ratio = (a / np.where(y == 0, 1, y).astype(x.dtype, copy=False)) ** (ord - 1)
        return _spread(g, axis, keepdims, x.ndim) * (np.sign(x) * ratio)

    return y if keepdims else np.squeeze(y, axis), (dx,)


@one_element
def prod(x: Array, /, axis: int | tuple[int, ...] | None = None, *, keepdims: bool = False):
    """y = the product of x along axis.

    dy/dx_i is the product of the others, so dx = g times the product of the others. It is computed from the products of
    the elements before and after x_i, since y / x_i would be 0 / 0 where x_i = 0.
    """

    def dx(g):
        axes = normalize_axis_tuple(range(x.ndim) if axis is None else axis, x.ndim)
        last = tuple(range(x.ndim - len(axes), x.ndim))
        lines = np.moveaxis(x, axes, last)
        shape = lines.shape
        lines = lines.reshape(*shape[: x.ndim - len(axes)], math.prod(x.shape[a] for a in axes))
        before, after = np.ones_like(lines), np.ones_like(lines)
        before[..., 1:] = np.cumprod(lines[..., :-1], axis=-1)
        after[..., :-1] = np.cumprod(lines[..., :0:-1], axis=-1)[..., ::-1]
        return _spread(g, axis, keepdims, x.ndim) * np.moveaxis((before * after).reshape(shape), last, axes)

    return np.prod(x, axis=axis, keepdims=keepdims, dtype=kernels.sum_type(x)), (dx,)


@one_element
def max(x: Array, /, axis: int | tuple[int, ...] | None = None, *, keepdims: bool = False):
    """y = the largest of x along axis.   dx = g for the largest element; equal ones share it in equal parts."""
    return _extreme("max", np.max, x, axis, keepdims)


@one_element
def min(x: Array, /, axis: int | tuple[int, ...] | None = None, *, keepdims: bool = False):
    """y = the smallest of x along axis.   dx = g for the smallest element; equal ones share it in equal parts."""
    return _extreme("min", np.min, x, axis, keepdims)


def _extreme(name, find, x, axis, keepdims):
    _count(name, x, axis)
    y = find(x, axis=axis, keepdims=True)

    def dx(g):
        hit = x == y
        share = hit / np.maximum(np.sum(hit, axis=axis, keepdims=True), 1)  # no hit where y is NaN
        return (_spread(g, axis, keepdims, x.ndim) * share).astype(x.dtype, copy=False)

    return y if keepdims else np.squeeze(y, axis), (dx,)


@one_element
def logsumexp(x: Array, /, axis: int | tuple[int, ...] | None = None, *, keepdims: bool = False):
    """y = ln sum exp(x) along axis, computed as m + ln sum exp(x - m), m the maximum, which cannot overflow.

    dy/dx_i = exp(x_i) / sum exp(x), the softmax, so dx = g exp(x - m) / sum exp(x - m).
    A line of only -inf gives -inf, and zero gradients.
    """
    _count("logsumexp", x, axis)
    x = as_floats(x)
    m = np.max(x, axis=axis, keepdims=True)
    m = np.where(np.isfinite(m), m, 0).astype(x.dtype, copy=False)
    e = np.exp(x - m)
    s = kernels.total(e, axis, keepdims=True)
    with np.errstate(divide="ignore"):
        y = np.log(s) + m

    def dx(g):
        with np.errstate(invalid="ignore"):
            return _spread(g, axis, keepdims, x.ndim) * (e / np.where(s == 0, 1, s).astype(x.dtype, copy=False))

    return y if keepdims else np.squeeze(y, axis), (dx,)


@one_element
def cumsum(x: Array, /, axis: int):
    """y_i = x_1 + ... + x_i along axis.   x_i is a term of y_i and all later y: dx_i = g_i + g_(i+1) + ... + g_n."""
    y = kernels.running_total(x, axis)
    return y, (lambda g: np.flip(kernels.running_total(np.flip(g, axis), axis), axis),)

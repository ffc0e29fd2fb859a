"""RMSNorm over the last axis, forward and backward. Each row is read from memory once, then from the cache."""

import math

import numpy as np
from numba import types

from autotx.kernels import FLOAT32_TERMS, total
from autotx.kernels.exp import INFINITY, ONE, ZERO
from autotx.kernels.jit import kernel, outlined
from autotx.kernels.launches import shared
from autotx.kernels.rows import (
    CHUNK,
    FLOAT_BYTES,
    IN1,
    IN2,
    INTEGER,
    OUT1,
    OUT2,
    REAL,
    flat,
    floats,
    part,
    rows,
    rows_a_chunk,
    tasks,
    use_numba,
)

PARTS = 64  # sums over rows are computed in at most this many parts, one for each task, unless parts get too long
LONGEST_ROW = 64 * FLOAT32_TERMS  # a row is summed in 32 lanes or more; NumPy computes longer rows


def rms_norm(x, gamma, eps=1e-5):
    """y = gamma x r, r = 1 / sqrt(mean of x^2 + eps), over the last axis. Returns y and r.

    x: (..., C); gamma: (C,); r: (...). Squares that overflow are added in float64.
    """
    if not use_numba(x, gamma) or x.shape[-1] > LONGEST_ROW:
        return _rms_norm_twin(x, gamma, eps)
    y, r = np.empty(x.shape, np.float32), np.empty(x.shape[:-1], np.float32)
    if y.size:
        step = rows_a_chunk(x.shape[-1])
        _forward(tasks(r.size, step), rows(x), flat(gamma), eps, rows(y), r.reshape(-1), step)
    return y, r


def rms_norm_backward(g, x, gamma, r):
    """dx and dgamma, from the gradient g of y and the r of `rms_norm`.

    With xhat = x r and h = g gamma: dx = r (h - xhat mean of h xhat), the mean over the row; dgamma is the sum of
    g xhat over all rows.
    """
    if not use_numba(g, x, gamma, r) or x.shape[-1] > LONGEST_ROW:
        return _rms_norm_backward_twin(g, x, gamma, r)
    dx = np.empty(x.shape, np.float32)
    x2, g2 = rows(x), rows(g)
    N, C = x2.shape
    step = min(max(8, -(-N // PARTS), CHUNK // max(C, 1) // 2), FLOAT32_TERMS)
    sums = np.zeros((tasks(N, step), C), np.float32)
    if dx.size:
        _backward(len(sums), g2, x2, flat(gamma), flat(r), rows(dx), sums, step)
    return dx, total(sums, 0)


# ---- NumPy twins ------------------------------------------------------------------------------------------------


def _rms_norm_twin(x, gamma, eps):
    squares = x.astype(np.float64, copy=False) ** 2
    r = (1 / np.sqrt(squares.mean(axis=-1) + eps)).astype(x.dtype)
    return x * r[..., None] * gamma, r


def _rms_norm_backward_twin(g, x, gamma, r):
    r = r[..., None]
    xhat, h = x * r, g * gamma
    dx = r * (h - xhat * (h * xhat).mean(axis=-1, keepdims=True))
    return dx, total(g * xhat, tuple(range(x.ndim - 1)))


# ---- kernels ----------------------------------------------------------------------------------------------------


@kernel(fastmath={"contract", "reassoc"})
def scale_of_row(x, share, eps):
    """r of a row; share: 1 / its length."""
    s, wide = ZERO, 0.0
    for i in range(x.size):
        s += x[i] * x[i]
    if s < INFINITY:
        return ONE / np.float32(math.sqrt(s * share + eps))
    for i in range(x.size):
        wide += np.float64(x[i]) * np.float64(x[i])
    return np.float32(1 / math.sqrt(wide / x.size + eps))


@kernel
def _product(x, y):
    """x y, in a function without "reassoc", which would allow to multiply by another factor first and overflow."""
    return x * y


@kernel(fastmath={"contract", "reassoc"})
def _norm_row(x, gamma, eps, y, r):
    r[0] = scale = scale_of_row(x, ONE / np.float32(x.size), eps)
    for i in range(x.size):
        y[i] = _product(x[i], scale) * gamma[i]


@outlined(types.int64, types.int64, types.int64, REAL, types.int64, types.int64)
def norm_row(x, size, gamma, eps, y, r):
    """One row of `rms_norm`. x, gamma, y, r: addresses. Compiled once: all kernels that call it get the same bits."""
    _norm_row(floats(x, size), floats(gamma, size), eps, floats(y, size), floats(r, 1))


@shared(IN2, IN1, REAL, OUT2, OUT1, INTEGER)
@kernel
def _forward(x, gamma, eps, y, r, step, worker, task):
    for n in range(task * step, min(task * step + step, len(x))):
        row, C = FLOAT_BYTES * n * x.shape[1], x.shape[1]
        norm_row(x.ctypes.data + row, C, gamma.ctypes.data, eps, y.ctypes.data + row, r.ctypes.data + FLOAT_BYTES * n)


@shared(IN2, IN2, IN1, IN1, OUT2, OUT2, INTEGER)
@kernel(fastmath={"contract", "reassoc"})
def _backward(g, x, gamma, r, dx, sums, step, worker, task):
    chunk, share = part(task, step), ONE / np.float32(x.shape[1])
    g, x, r, dx, dgamma = g[chunk], x[chunk], r[chunk], dx[chunk], sums[task]
    for n in range(len(x)):
        g_row, x_row, dx_row, scale, s = g[n], x[n], dx[n], r[n], ZERO
        for i in range(x_row.size):
            product = g_row[i] * _product(x_row[i], scale)
            s += product * gamma[i]
            dgamma[i] += product
        along = s * share * scale
        for i in range(x_row.size):
            dx_row[i] = scale * (g_row[i] * gamma[i] - x_row[i] * along)

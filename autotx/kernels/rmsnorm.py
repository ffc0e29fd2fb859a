"""RMSNorm over the last axis, forward and backward. Each row is read from memory once, then from the cache."""

import math

import numpy as np

from autotx.kernels.exp import ONE, ZERO
from autotx.kernels.jit import kernel
from autotx.kernels.rows import (
    CHUNK,
    IN1,
    IN2,
    INTEGER,
    OUT1,
    OUT2,
    REAL,
    flat,
    part,
    rows,
    rows_a_chunk,
    tasks,
    use_numba,
)
from autotx.kernels.threads import shared

PARTS = 64  # sums over rows are computed in at most this many parts, one for each task


def rms_norm(x, gamma, eps=1e-5):
    """y = gamma x r, r = 1 / sqrt(mean of x^2 + eps), over the last axis. Returns y and r.

    x: (..., C); gamma: (C,); r: (...).
    """
    if not use_numba(x, gamma):
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
    if not use_numba(g, x, gamma, r):
        return _rms_norm_backward_twin(g, x, gamma, r)
    dx = np.empty(x.shape, np.float32)
    x2, g2 = rows(x), rows(g)
    N, C = x2.shape
    step = max(8, -(-N // PARTS), CHUNK // max(C, 1) // 2)
    sums = np.zeros((tasks(N, step), C), np.float32)
    if dx.size:
        _backward(len(sums), g2, x2, flat(gamma), flat(r), rows(dx), sums, step)
    return dx, sums.sum(axis=0)


# ---- NumPy twins ------------------------------------------------------------------------------------------------


def _rms_norm_twin(x, gamma, eps):
    r = 1 / np.sqrt((x * x).mean(axis=-1) + x.dtype.type(eps))
    return x * r[..., None] * gamma, r


def _rms_norm_backward_twin(g, x, gamma, r):
    r = r[..., None]
    xhat, h = x * r, g * gamma
    dx = r * (h - xhat * (h * xhat).mean(axis=-1, keepdims=True))
    return dx, (g * xhat).sum(axis=tuple(range(x.ndim - 1)))


# ---- kernels ----------------------------------------------------------------------------------------------------


@shared(IN2, IN1, REAL, OUT2, OUT1, INTEGER)
@kernel(fastmath={"contract", "reassoc"})
def _forward(x, gamma, eps, y, r, step, worker, task):
    chunk, share = part(task, step), ONE / np.float32(x.shape[1])
    x, y, r = x[chunk], y[chunk], r[chunk]
    for n in range(len(x)):
        x_row, y_row, s = x[n], y[n], ZERO
        for i in range(x_row.size):
            s += x_row[i] * x_row[i]
        scale = ONE / math.sqrt(s * share + eps)
        for i in range(x_row.size):
            y_row[i] = x_row[i] * scale * gamma[i]
        r[n] = scale


@shared(IN2, IN2, IN1, IN1, OUT2, OUT2, INTEGER)
@kernel(fastmath={"contract", "reassoc"})
def _backward(g, x, gamma, r, dx, sums, step, worker, task):
    chunk, share = part(task, step), ONE / np.float32(x.shape[1])
    g, x, r, dx, dgamma = g[chunk], x[chunk], r[chunk], dx[chunk], sums[task]
    for n in range(len(x)):
        g_row, x_row, dx_row, scale, s = g[n], x[n], dx[n], r[n], ZERO
        for i in range(x_row.size):
            product = g_row[i] * x_row[i] * scale
            s += product * gamma[i]
            dgamma[i] += product
        along = s * share * scale
        for i in range(x_row.size):
            dx_row[i] = scale * (g_row[i] * gamma[i] - x_row[i] * along)

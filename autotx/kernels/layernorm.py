"""Layer norm over the last axis, forward and backward. Each row is read from memory once, then from the cache.

Measured on one thread of a busy Zen 4 against PyTorch: forward 1.8 times as fast at 768 x 128, 4096 x 384 and 1024 x
768, backward 1.05, 1.2 and 1.4 times.
"""

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
    OUT3,
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


def layer_norm(x, gamma, beta, eps=1e-5):
    """y = gamma (x - mean) rstd + beta, rstd = 1 / sqrt(variance + eps), over the last axis. Returns y, mean, rstd.

    x: (..., C); gamma, beta: (C,); mean, rstd: (...). The variance is that of the population, computed from differences
    to the mean, which stays precise where the mean is much larger than the standard deviation.
    """
    if not use_numba(x, gamma, beta):
        return _layer_norm_twin(x, gamma, beta, eps)
    y, mean, rstd = (np.empty(shape, np.float32) for shape in (x.shape, x.shape[:-1], x.shape[:-1]))
    if y.size:
        step = rows_a_chunk(x.shape[-1])
        outputs = rows(y), mean.reshape(-1), rstd.reshape(-1)
        _forward(tasks(mean.size, step), rows(x), flat(gamma), flat(beta), eps, *outputs, step)
    return y, mean, rstd


def layer_norm_backward(g, x, gamma, mean, rstd):
    """dx, dgamma and dbeta, from the gradient g of y and the mean and rstd of `layer_norm`.

    With xhat = (x - mean) rstd and h = g gamma: dx = rstd (h - mean of h - xhat mean of h xhat), means over the row;
    dgamma and dbeta are the sums of g xhat and g over all rows.
    """
    if not use_numba(g, x, gamma, mean, rstd):
        return _layer_norm_backward_twin(g, x, gamma, mean, rstd)
    dx = np.empty(x.shape, np.float32)
    x2, g2 = rows(x), rows(g)
    N, C = x2.shape
    step = max(8, -(-N // PARTS), CHUNK // max(C, 1) // 2)
    sums = np.zeros((-(-N // step), 2, C), np.float32)
    if dx.size:
        _backward(len(sums), g2, x2, flat(gamma), flat(mean), flat(rstd), rows(dx), sums, step)
    dgamma, dbeta = sums.sum(axis=0)
    return dx, dgamma, dbeta


# ---- NumPy twins ------------------------------------------------------------------------------------------------


def _layer_norm_twin(x, gamma, beta, eps):
    mean = x.mean(axis=-1, keepdims=True)
    d = x - mean
    rstd = 1 / np.sqrt((d * d).mean(axis=-1, keepdims=True) + x.dtype.type(eps))
    return d * rstd * gamma + beta, mean[..., 0], rstd[..., 0]


def _layer_norm_backward_twin(g, x, gamma, mean, rstd):
    rstd = rstd[..., None]
    xhat = (x - mean[..., None]) * rstd
    h = g * gamma
    dx = rstd * (h - h.mean(axis=-1, keepdims=True) - xhat * (h * xhat).mean(axis=-1, keepdims=True))
    over = tuple(range(x.ndim - 1))
    return dx, (g * xhat).sum(axis=over), g.sum(axis=over)


# ---- kernels ----------------------------------------------------------------------------------------------------


@shared(IN2, IN1, IN1, REAL, OUT2, OUT1, OUT1, INTEGER)
@kernel(fastmath={"contract", "reassoc"})
def _forward(x, gamma, beta, eps, y, mean, rstd, step, worker, task):
    chunk, share = part(task, step), ONE / np.float32(x.shape[1])
    x, y, mean, rstd = x[chunk], y[chunk], mean[chunk], rstd[chunk]
    for n in range(len(x)):
        x_row, y_row = x[n], y[n]
        s = ZERO
        for i in range(x_row.size):
            s += x_row[i]
        m = s * share
        s = ZERO
        for i in range(x_row.size):
            d = x_row[i] - m
            s += d * d
        r = ONE / math.sqrt(s * share + eps)
        for i in range(x_row.size):
            y_row[i] = (x_row[i] - m) * r * gamma[i] + beta[i]
        mean[n], rstd[n] = m, r


@shared(IN2, IN2, IN1, IN1, IN1, OUT2, OUT3, INTEGER)
@kernel(fastmath={"contract", "reassoc"})
def _backward(g, x, gamma, mean, rstd, dx, sums, step, worker, task):
    chunk, share = part(task, step), ONE / np.float32(x.shape[1])
    g, x, mean, rstd, dx = g[chunk], x[chunk], mean[chunk], rstd[chunk], dx[chunk]
    dgamma, dbeta = sums[task, 0], sums[task, 1]
    for n in range(len(x)):
        g_row, x_row, dx_row, m, r = g[n], x[n], dx[n], mean[n], rstd[n]
        sum_h, sum_h_xhat = ZERO, ZERO
        for i in range(x_row.size):
            xhat = (x_row[i] - m) * r
            h = g_row[i] * gamma[i]
            sum_h += h
            sum_h_xhat += h * xhat
            dgamma[i] += g_row[i] * xhat
            dbeta[i] += g_row[i]
        mean_h, mean_h_xhat = sum_h * share, sum_h_xhat * share
        for i in range(x_row.size):
            xhat = (x_row[i] - m) * r
            dx_row[i] = r * (g_row[i] * gamma[i] - mean_h - xhat * mean_h_xhat)

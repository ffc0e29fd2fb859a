"""Softmax and log-softmax over the last axis, forward and backward. Each row is read from memory once, then cached.

Measured on one thread of a busy Zen 4, 4096 x 384, against PyTorch: softmax 1.6 and 1.2 times as fast (forward,
backward), log-softmax 1.75 and 1.2. The backward reads two numbers and writes one for five operations, so memory
bandwidth limits its speed.
"""

import math

import numpy as np

from autotx.kernels.exp import ZERO, exp, larger
from autotx.kernels.jit import kernel
from autotx.kernels.rows import IN2, INTEGER, OUT2, part, rows, rows_a_chunk, tasks, use_numba
from autotx.kernels.threads import shared

LOWEST = np.float32(-np.inf)


def softmax(x):
    """p_i = exp(x_i) / sum_j exp(x_j) over the last axis. A row in which all x_i are -inf gives zeros."""
    return _call(_softmax, x) if use_numba(x) else _softmax_twin(x)


def softmax_backward(p, g):
    """dx_j = p_j (g_j - sum_i g_i p_i)."""
    return _call(_softmax_backward, p, g) if use_numba(p, g) else p * (g - (g * p).sum(axis=-1, keepdims=True))


def log_softmax(x):
    """y_i = x_i - ln sum_j exp(x_j) over the last axis."""
    return _call(_log_softmax, x) if use_numba(x) else _log_softmax_twin(x)


def log_softmax_backward(y, g):
    """dx_j = g_j - exp(y_j) sum_i g_i."""
    if use_numba(y, g):
        return _call(_log_softmax_backward, y, g)
    return g - np.exp(y) * g.sum(axis=-1, keepdims=True)


def _call(function, *inputs):
    out = np.empty(inputs[0].shape, np.float32)
    if out.size:
        x, step = rows(out), rows_a_chunk(out.shape[-1])
        function(tasks(len(x), step), *map(rows, inputs), x, step)
    return out


# ---- NumPy twins ------------------------------------------------------------------------------------------------


def _softmax_twin(x):
    m = x.max(axis=-1, keepdims=True, initial=-np.inf)
    e = np.exp(x - np.where(np.isneginf(m), 0, m))
    s = e.sum(axis=-1, keepdims=True)
    return e / np.where(s == 0, 1, s)


def _log_softmax_twin(x):
    shifted = x - x.max(axis=-1, keepdims=True, initial=-np.inf)
    with np.errstate(divide="ignore"):  # rows without elements
        return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


# ---- kernels ----------------------------------------------------------------------------------------------------


@kernel
def row_max(x):
    """The largest element, or NaN if any is NaN."""
    m = LOWEST
    for i in range(x.size):
        m = larger(m, x[i])
    return m


@shared(IN2, OUT2, INTEGER)
@kernel(fastmath={"contract", "reassoc"})
def _softmax(x, p, step, worker, task):
    rows = part(task, step)
    x, p = x[rows], p[rows]
    for n in range(len(x)):
        x_row, p_row = x[n], p[n]
        m = row_max(x_row)
        m = ZERO if m == LOWEST else m
        s = ZERO
        for i in range(x_row.size):
            e = exp(x_row[i] - m)
            p_row[i] = e
            s += e
        factor = ZERO if s == ZERO else np.float32(1) / s
        for i in range(p_row.size):
            p_row[i] *= factor


@shared(IN2, IN2, OUT2, INTEGER)
@kernel(fastmath={"contract", "reassoc"})
def _softmax_backward(p, g, dx, step, worker, task):
    rows = part(task, step)
    p, g, dx = p[rows], g[rows], dx[rows]
    for n in range(len(p)):
        p_row, g_row, dx_row = p[n], g[n], dx[n]
        s = ZERO
        for i in range(p_row.size):
            s += p_row[i] * g_row[i]
        for i in range(p_row.size):
            dx_row[i] = p_row[i] * (g_row[i] - s)


@kernel(fastmath={"contract", "reassoc"})
def exp_sum(x, m):
    """The sum of exp(x_i - m)."""
    s = ZERO
    for i in range(x.size):
        s += exp(x[i] - m)
    return s


@shared(IN2, OUT2, INTEGER)
@kernel(fastmath={"contract"})
def _log_softmax(x, y, step, worker, task):
    rows = part(task, step)
    x, y = x[rows], y[rows]
    for n in range(len(x)):
        x_row, y_row = x[n], y[n]
        m = row_max(x_row)
        log_sum = np.float32(math.log(exp_sum(x_row, m)))
        for i in range(x_row.size):
            y_row[i] = (x_row[i] - m) - log_sum


@shared(IN2, IN2, OUT2, INTEGER)
@kernel(fastmath={"contract", "reassoc"})
def _log_softmax_backward(y, g, dx, step, worker, task):
    rows = part(task, step)
    y, g, dx = y[rows], g[rows], dx[rows]
    for n in range(len(y)):
        y_row, g_row, dx_row = y[n], g[n], dx[n]
        s = ZERO
        for i in range(g_row.size):
            s += g_row[i]
        for i in range(y_row.size):
            dx_row[i] = g_row[i] - exp(y_row[i]) * s

"""GELU, forward and backward. Neither form computes tanh; the exact form computes exp only in its backward.

Measured on one thread of a busy Zen 4, 4096 x 1536, against PyTorch: exact 1.7 and 2.5 times as fast (forward,
backward), tanh 6.0 and 4.6.
"""

import math

import numpy as np

from autotx.kernels.exp import HALF, ONE, ZERO, erf_twin, exp, normal_cdf, normal_cdf_with_bell
from autotx.kernels.jit import kernel
from autotx.kernels.launches import shared
from autotx.kernels.rows import CHUNK, IN1, OUT1, flat, part, tasks, use_numba

CUBE = 0.044715
ROOT = math.sqrt(2 / math.pi)
DENSITY = 1 / math.sqrt(2 * math.pi)


def gelu(x, approximate="none"):
    """y = x P(x), P the normal distribution function. x: any shape, result of the same shape.

    approximate="tanh": y = x (1 + tanh u) / 2, u = sqrt(2/pi) (x + 0.044715 x^3).
    """
    if not use_numba(x):
        return _gelu_twin(x, approximate)
    y = np.empty(x.shape, np.float32)
    (_tanh if approximate == "tanh" else _exact)(tasks(x.size, CHUNK), flat(x), y.reshape(-1))
    return y


def gelu_backward(g, x, approximate="none"):
    """dx = g dy/dx, for g and x of one shape."""
    if not use_numba(g, x):
        return _gelu_backward_twin(g, x, approximate)
    dx = np.empty(x.shape, np.float32)
    backward = _tanh_backward if approximate == "tanh" else _exact_backward
    backward(tasks(x.size, CHUNK), flat(g), flat(x), dx.reshape(-1))
    return dx


# ---- NumPy twins ------------------------------------------------------------------------------------------------


def _gelu_twin(x, approximate):
    if approximate == "tanh":
        return 0.5 * x * (1 + np.tanh(ROOT * (x + CUBE * x * x * x)))
    return 0.5 * x * (1 + erf_twin(x / math.sqrt(2)))


def _gelu_backward_twin(g, x, approximate):
    if approximate == "tanh":
        t = np.tanh(ROOT * (x + CUBE * x * x * x))
        return g * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * ROOT * (1 + 3 * CUBE * x * x))
    return g * (0.5 * (1 + erf_twin(x / math.sqrt(2))) + x * DENSITY * np.exp(-0.5 * x * x))


# ---- kernels ----------------------------------------------------------------------------------------------------

# (1 + tanh u) / 2 = s(2u), with s the sigmoid: one exp, no tanh. 2u = x (A + B x^2).
A, B, B3 = np.float32(2 * ROOT), np.float32(2 * ROOT * CUBE), np.float32(6 * ROOT * CUBE)
PEAK = np.float32(DENSITY)


@kernel(fastmath={"contract"})
def gelu_of(x):
    return x * normal_cdf(x)


@kernel(fastmath={"contract"})
def gelu_tanh_of(x):
    return x / (ONE + exp(-x * (A + B * x * x)))


@shared(IN1, OUT1)
@kernel(fastmath={"contract"})
def _exact(x, y, worker, task):
    chunk = part(task, CHUNK)
    x, y = x[chunk], y[chunk]
    for i in range(x.size):
        y[i] = gelu_of(x[i])


@shared(IN1, IN1, OUT1)
@kernel(fastmath={"contract"})
def _exact_backward(g, x, dx, worker, task):
    chunk = part(task, CHUNK)
    g, x, dx = g[chunk], x[chunk], dx[chunk]
    for i in range(x.size):
        bell = exp(-HALF * x[i] * x[i])
        dx[i] = g[i] * (normal_cdf_with_bell(x[i], bell) + x[i] * PEAK * bell)


@shared(IN1, OUT1)
@kernel(fastmath={"contract"})
def _tanh(x, y, worker, task):
    chunk = part(task, CHUNK)
    x, y = x[chunk], y[chunk]
    for i in range(x.size):
        y[i] = gelu_tanh_of(x[i])


@shared(IN1, IN1, OUT1)
@kernel(fastmath={"contract"})
def _tanh_backward(g, x, dx, worker, task):
    chunk = part(task, CHUNK)
    g, x, dx = g[chunk], x[chunk], dx[chunk]
    for i in range(x.size):
        square = x[i] * x[i]
        e = exp(-abs(x[i]) * (A + B * square))  # e^-|2u|: cannot overflow, and s and 1 - s stay precise
        s = ONE / (ONE + e)
        rest = e * s
        s_of_x = rest if x[i] < ZERO else s
        dx[i] = g[i] * (s_of_x + s * rest * x[i] * (A + B3 * square))

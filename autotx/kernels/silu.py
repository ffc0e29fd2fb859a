"""SwiGLU, forward and backward: SiLU of one half of a gated layer times the other half, in one pass."""

import numpy as np
from numba import types

from autotx.kernels.exp import ONE, ZERO, exp
from autotx.kernels.jit import kernel, outlined
from autotx.kernels.launches import shared
from autotx.kernels.rows import CHUNK, IN1, OUT1, flat, floats, part, tasks, use_numba


def swiglu(gate, up):
    """y = gate s(gate) up, s the sigmoid. gate, up: any shape, both alike; y of that shape."""
    if not use_numba(gate, up):
        return gate * _sigmoid_twin(gate) * up
    y = np.empty(gate.shape, np.float32)
    _swiglu(tasks(gate.size, CHUNK), flat(gate), flat(up), y.reshape(-1))
    return y


def swiglu_backward(g, gate, up):
    """dgate and dup, for the gradient g of y; all of one shape."""
    if not use_numba(g, gate, up):
        s = _sigmoid_twin(gate)
        return g * up * (s + gate * s * (1 - s)), g * gate * s
    dgate, dup = np.empty(gate.shape, np.float32), np.empty(gate.shape, np.float32)
    _swiglu_backward(tasks(gate.size, CHUNK), flat(g), flat(gate), flat(up), dgate.reshape(-1), dup.reshape(-1))
    return dgate, dup


# ---- NumPy twin -------------------------------------------------------------------------------------------------


def _sigmoid_twin(x):
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


# ---- kernels ----------------------------------------------------------------------------------------------------


@kernel(fastmath={"contract"})
def sigmoid_of(x):
    """s(x), by e^-|x|, which cannot overflow."""
    e = exp(-abs(x))
    return (e if x < ZERO else ONE) / (ONE + e)


@kernel(fastmath={"contract"})
def _swiglu_row(gate, up, y):
    for i in range(y.size):
        y[i] = gate[i] * sigmoid_of(gate[i]) * up[i]


@outlined(*4 * [types.int64])
def swiglu_row(gate, up, y, size):
    """`size` numbers of `swiglu`. gate, up, y: addresses; y may be gate. Compiled once, as rmsnorm.norm_row."""
    _swiglu_row(floats(gate, size), floats(up, size), floats(y, size))


@shared(IN1, IN1, OUT1)
@kernel
def _swiglu(gate, up, y, worker, task):
    chunk = part(task, CHUNK)
    gate, up, y = gate[chunk], up[chunk], y[chunk]
    swiglu_row(gate.ctypes.data, up.ctypes.data, y.ctypes.data, y.size)


@shared(IN1, IN1, IN1, OUT1, OUT1)
@kernel(fastmath={"contract"})
def _swiglu_backward(g, gate, up, dgate, dup, worker, task):
    chunk = part(task, CHUNK)
    g, gate, up, dgate, dup = g[chunk], gate[chunk], up[chunk], dgate[chunk], dup[chunk]
    for i in range(g.size):
        s = sigmoid_of(gate[i])
        weighted = gate[i] * s
        dup[i] = g[i] * weighted
        dgate[i] = g[i] * up[i] * (s + weighted * (ONE - s))

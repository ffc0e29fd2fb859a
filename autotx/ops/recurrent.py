"""Recurrent layers: each is one op over a whole sequence, with its derivation. Formulas, order of gates and layout of
the weights are PyTorch's.

x: (B, T, I), a batch of B sequences of T steps. h, and c of an LSTM: (B, H), the states before the first step.
With G gates, w_ih: (G H, I), w_hh: (G H, H), and the biases b_ih and b_hh: (G H,), or None for none.
In the formulas s is the sigmoid, s' = s * (1 - s), and * multiplies element by element. x is converted to the type of
w_ih, as in `linear`.
"""

from typing import Literal

import numpy as np

from autotx import kernels
from autotx.checks import need_floats
from autotx.types import Array


def rnn(
    x: Array, h: Array, w_ih: Array, w_hh: Array, b_ih: Array | None = None, b_hh: Array | None = None, /,
    nonlinearity: Literal["tanh", "relu"] = "tanh"
):  # fmt: skip
    """h_t = tanh(a_t), a_t = W_ih x_t + b_ih + W_hh h_(t-1) + b_hh. Returns h_1 to h_T, (B, T, H).

    With nonlinearity="relu" it is h_t = max(a_t, 0).
    e_t, the gradient of h_t, is g_t and what comes back through a_(t+1): e_t = g_t + W_hh^T da_(t+1), from the last
    step to the first, with da_t = e_t * (1 - h_t * h_t), for relu e_t where h_t > 0, else 0. Then, with sums over b and
    t: dx = da W_ih, dh = W_hh^T da_1, dw_ih = sum of da_t x_t^T, dw_hh = sum of da_t h_(t-1)^T, db_ih = sum of da_t,
    db_hh = sum of da_t.
    Source: Elman, 1990, "Finding Structure in Time"; Werbos, 1990, "Backpropagation Through Time".
    """
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"rnn: nonlinearity is {nonlinearity!r}; give 'tanh' or 'relu'")
    kind = kernels.recurrent.TANH if nonlinearity == "tanh" else kernels.recurrent.RELU
    return _recurrent("rnn", kind, x, h, None, w_ih, w_hh, b_ih, b_hh)


def gru(x: Array, h: Array, w_ih: Array, w_hh: Array, b_ih: Array | None = None, b_hh: Array | None = None, /):
    """h_t = (1 - z) * n + z * h_(t-1), with gates r, z and n of each step. Returns h_1 to h_T, (B, T, H).

    r = s(p_r + q_r), z = s(p_z + q_z), n = tanh(p_n + r * q_n), where p = W_ih x_t + b_ih and q = W_hh h_(t-1) + b_hh
    have three blocks of H rows, for r, z and n. With e_t the gradient of h_t, from the last step to the first:
        dp_n = e_t * (1 - z) * (1 - n * n)                    dq_n = dp_n * r
        dp_z = dq_z = e_t * (h_(t-1) - n) * z * (1 - z)       dp_r = dq_r = dp_n * q_n * r * (1 - r)
        e_(t-1) = g_(t-1) + e_t * z + W_hh^T dq_t
    Then, with sums over b and t: dx = dp W_ih, dh = e_0 (where g_0 = 0), dw_ih = sum of dp_t x_t^T,
    dw_hh = sum of dq_t h_(t-1)^T, db_ih = sum of dp_t, db_hh = sum of dq_t.
    Source: Cho et al., 2014, "Learning Phrase Representations using RNN Encoder-Decoder"; as in PyTorch, r multiplies
    the product, not h.
    """
    return _recurrent("gru", kernels.recurrent.GRU, x, h, None, w_ih, w_hh, b_ih, b_hh)


def lstm(
    x: Array, h: Array, c: Array, w_ih: Array, w_hh: Array, b_ih: Array | None = None, b_hh: Array | None = None, /
):
    """h_t = o * tanh(c_t), c_t = f * c_(t-1) + i * n, with gates i, f, n and o. Returns h_1 to h_T, and c_T.

    The result is (B, T + 1, H): its last row is c_T, which a further step needs beside h_T.
    i = s(a_i), f = s(a_f), n = tanh(a_n), o = s(a_o), where a = W_ih x_t + b_ih + W_hh h_(t-1) + b_hh has four blocks
    of H rows, for i, f, n and o. With e_t and u_t the gradients of h_t and c_t, from the last step to the first:
        u_t = f_(t+1) * u_(t+1) + e_t * o * (1 - tanh(c_t)^2)      (at the last step the gradient of c_T, for the first)
        da_i = u_t * n * i * (1 - i)             da_f = u_t * c_(t-1) * f * (1 - f)
        da_n = u_t * i * (1 - n * n)             da_o = e_t * tanh(c_t) * o * (1 - o)
        e_(t-1) = g_(t-1) + W_hh^T da_t
    Then, with sums over b and t: dx = da W_ih, dh = e_0 (where g_0 = 0), dc = f_1 * u_1, dw_ih = sum of da_t x_t^T,
    dw_hh = sum of da_t h_(t-1)^T, db_ih = sum of da_t, db_hh = sum of da_t.
    Source: Hochreiter and Schmidhuber, 1997, "Long Short-Term Memory"; Gers et al., 2000 (the gate f).
    """
    return _recurrent("lstm", kernels.recurrent.LSTM, x, h, c, w_ih, w_hh, b_ih, b_hh)


def _recurrent(name, kind, x, h, c, w_ih, w_hh, b_ih, b_hh):
    need_floats(name, x)
    _check_shapes(name, kernels.recurrent.GATES[kind], x, h, c, w_ih, w_hh, b_ih, b_hh)
    y, saved = kernels.recurrent.recurrent(kind, x, h, c, w_ih, w_hh, b_ih, b_hh)
    return y, lambda g, wanted: kernels.recurrent.recurrent_backward(kind, g, saved, w_ih, w_hh, with_x=wanted[0])


def _check_shapes(name, G, x, h, c, w_ih, w_hh, b_ih, b_hh):
    """ValueError: no step, or a shape that does not fit to those of x and w_hh."""
    if np.ndim(x) != 3 or not x.shape[1] or np.ndim(w_hh) != 2 or w_hh.shape[0] != G * w_hh.shape[1]:
        given = f"x of shape {np.shape(x)}, w_hh of shape {np.shape(w_hh)}"
        raise ValueError(f"{name}: {given}; give (batch, steps, inputs) and ({G} x units, units)")
    state, rows = (len(x), w_hh.shape[1]), len(w_hh)
    parts = {"h": (h, state), "c": (c, state), "w_ih": (w_ih, (rows, x.shape[2])), "b_ih": (b_ih, (rows,))}
    for part, (array, shape) in {**parts, "b_hh": (b_hh, (rows,))}.items():
        if array is not None and np.shape(array) != shape:
            given = f"{part} of shape {np.shape(array)} for x of shape {x.shape} and w_hh of shape {w_hh.shape}"
            raise ValueError(f"{name}: {given}; give {shape}")

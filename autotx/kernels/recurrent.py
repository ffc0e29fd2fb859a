"""Recurrent layers over a whole sequence, forward and backward: the loop over time runs inside one kernel.

Sequences do not depend on each other. So a task is a block of sequences, for all steps: no thread waits for another
between steps, and the states of a block stay in its core's cache. A step is one product of the block's states with the
recurrent matrix, which is packed once for all steps and tasks (see simd.py), and a few loops over the gates. The
product of all inputs with the input matrix comes before; those that give the gradients of the matrices come after, as
products over all steps at once.

Letters: B sequences, T steps, I inputs, H units, N = G H gates, with G = 1, 4 or 3. Arrays have the steps first, so
that what is read in a step is in one place:

    inputs   (T + 1, B, I + H)   at step t: x_t, and the state h_(t - 1)
    gates    (T, B, N)           at first x W_ih^T + bias; the kernel makes the gates of it, which the backward needs
    kept     of an LSTM (T + 1, B, H), the states c_(t - 1); of a GRU (T, B, H), W_hn h + b_hn

The formulas are those of ops/recurrent.py.

Measured against torch 2.13 on a Xeon that others were using, CPU time of one thread, in turns: torch's time / ours for
a training step of a character model (embedding, recurrent layer, linear layer, cross entropy, clipping, Adam).

| B, T, inputs, units | LSTM | GRU  | RNN  |
|---------------------|------|------|------|
| 16, 28, 28, 64      | 1.29 | 2.73 | 2.08 |
| 32, 50, 64, 128     | 1.01 | 1.66 | 1.48 |
| 32, 100, 128, 256   | 0.96 | 1.56 | 1.35 |
| 20, 35, 512, 512    | 1.03 | 1.34 | 1.16 |

torch computes an LSTM in one kernel of oneDNN, GRU and RNN as ops of each step. `autotx bench --only recurrent` times
the layers alone.
"""

import numpy as np
from numba import types

from autotx.kernels.exp import exp, expm1
from autotx.kernels.gemm import linear_backward, matmul
from autotx.kernels.jit import kernel
from autotx.kernels.launches import shared_by_tile
from autotx.kernels.rows import IN1, INTEGER, OUT1, OUT2, OUT3, contiguous, tasks, use_numba
from autotx.kernels.simd import FLOAT32_TILE
from autotx.kernels.threads import get_num_threads
from autotx.kernels.tile import aligned, thread_memory

TANH, RELU, LSTM, GRU = range(4)  # the kinds of layers; the first two are those of a plain RNN
GATES = {TANH: 1, RELU: 1, LSTM: 4, GRU: 3}
MOST_PANELS = 4  # of sequences, in a task: their gates stay in the L2 cache
PACKED_PANELS = 4  # of the recurrent matrix, in a task of packing
ZERO, ONE, TWO, TEN = (np.float32(n) for n in (0, 1, 2, 10))


def recurrent(kind, x, h, c, w_ih, w_hh, b_ih, b_hh):
    """y, the states h_t, (B, T, H), of an LSTM (B, T + 1, H), with c_T as the last row; and what the backward needs.

    x: (B, T, I); h, c: (B, H), c None except of an LSTM; w_ih: (N, I), w_hh: (N, H), biases: (N,) or None.
    """
    (B, T, I), (N, H), dtype = x.shape, w_hh.shape, w_ih.dtype
    inputs, gates = np.empty((T + 1, B, I + H), dtype), np.empty((T, B, N), dtype)
    kept = np.empty((T + (kind == LSTM), B, H if kind in (LSTM, GRU) else 0), dtype)
    y = np.empty((B, T + (kind == LSTM), H), dtype)
    inputs[:T, :, :I], inputs[0, :, I:] = x.swapaxes(0, 1), h
    if kind == LSTM:
        kept[0] = c
    bias, hidden_bias = _sum(b_ih, b_hh), np.zeros(N, dtype)
    if kind == GRU:  # r multiplies a part of W_hh h + b_hh
        bias, hidden_bias = b_ih, hidden_bias if b_hh is None else b_hh
    matmul(_flat(inputs[:T])[:, :I], w_ih.T, _flat(gates), bias=bias)
    _all_steps(kind, inputs, gates, kept, w_hh, hidden_bias, y)
    return y, (inputs, gates, kept)


def recurrent_backward(kind, g, saved, w_ih, w_hh, with_x=True):
    """The gradients of x, h, c (left out except of an LSTM), w_ih, w_hh, b_ih, b_hh. g: the gradient of y."""
    inputs, gates, kept = saved
    (T, B, _), I = gates.shape, w_ih.shape[1]
    dpre, dhidden, dh, dc = _all_steps_backward(kind, g, inputs, gates, kept, w_hh)
    dpre, dhidden, inputs = _flat(dpre), _flat(dhidden), _flat(inputs[:T])
    dx = matmul(dpre, w_ih).reshape(T, B, I).swapaxes(0, 1) if with_x else None
    if kind == GRU:
        _, dw_ih, db_ih = linear_backward(dpre, inputs[:, :I], None, with_x=False, with_bias=True)
        _, dw_hh, db_hh = linear_backward(dhidden, inputs[:, I:], None, with_x=False, with_bias=True)
    else:  # dpre is dhidden
        _, both, db_ih = linear_backward(dpre, inputs, None, with_x=False, with_bias=True)
        dw_ih, dw_hh, db_hh = both[:, :I], both[:, I:], db_ih
    return dx, *((dh, dc) if kind == LSTM else (dh,)), dw_ih, dw_hh, db_ih, db_hh


def _sum(x, y):
    return y if x is None else x if y is None else x + y


def _flat(x):
    """(T, B, C) as (T B, C)."""
    return x.reshape(x.shape[0] * x.shape[1], x.shape[2])


def _all_steps(kind, inputs, gates, kept, w_hh, bias, y, tile=FLOAT32_TILE):
    """Fill the states of `inputs`, `gates`, `kept` and y, from the first states. bias: b_hh of a GRU, otherwise 0."""
    if not gates.size or not use_numba(inputs, w_hh, bias):
        _forward_twin(kind, inputs, gates, kept, w_hh, bias, y)
        return
    packed, piece = _packed(tile, w_hh)
    B, N = gates.shape[1:]
    rows = _rows(tile, B)
    memory = thread_memory(rows * N + _room(tile, rows, piece), tile.number)
    _forward(tile, tasks(B, rows), kind, inputs, gates, kept, packed, contiguous(bias), y, rows, piece, memory)


def _all_steps_backward(kind, g, inputs, gates, kept, w_hh, tile=FLOAT32_TILE):
    """dpre and dhidden (T, B, N), the gradients of x W_ih^T + b_ih and of h W_hh^T + b_hh; dh and dc (B, H)."""
    (T, B, _), H = gates.shape, w_hh.shape[1]
    dpre = np.empty_like(gates)
    dhidden = np.empty_like(gates) if kind == GRU else dpre
    dh = np.zeros((B, H), gates.dtype)
    dc = np.array(g[:, T]) if kind == LSTM else dh.copy()
    if not gates.size or not use_numba(g, inputs, w_hh):
        _backward_twin(kind, g, inputs, gates, kept, w_hh, dpre, dhidden, dh, dc)
        return dpre, dhidden, dh, dc
    packed, piece = _packed(tile, w_hh.T)
    rows = _rows(tile, B)
    memory = thread_memory(_room(tile, rows, piece), tile.number)
    arrays = contiguous(g), inputs, gates, kept, packed, dpre, dhidden, dh, dc
    _backward(tile, tasks(B, rows), kind, *arrays, rows, piece, memory)
    return dpre, dhidden, dh, dc


# ---- NumPy twins ------------------------------------------------------------------------------------------------


def _logistic(x):
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


def _forward_twin(kind, inputs, gates, kept, w_hh, bias, y):
    (T, _, N), H = gates.shape, y.shape[2]
    states = inputs[:, :, -H:]
    for t in range(T):
        a, h = gates[t], states[t]
        parts = np.split(a, N // H, axis=1)
        if kind == LSTM:
            a += h @ w_hh.T
            i, f, n, o = parts
            a[...] = np.concatenate([_logistic(i), _logistic(f), np.tanh(n), _logistic(o)], axis=1)
            kept[t + 1] = f * kept[t] + i * n
            states[t + 1] = o * np.tanh(kept[t + 1])
        elif kind == GRU:
            hidden = h @ w_hh.T + bias
            kept[t] = hidden[:, 2 * H :]
            a[:, : 2 * H] = _logistic(a[:, : 2 * H] + hidden[:, : 2 * H])
            r, z, n = parts
            n[...] = np.tanh(n + r * kept[t])
            states[t + 1] = (1 - z) * n + z * h
        else:
            a += h @ w_hh.T
            states[t + 1] = np.tanh(a) if kind == TANH else np.maximum(a, 0)
        y[:, t] = states[t + 1]
    if kind == LSTM:
        y[:, T] = kept[T]


def _backward_twin(kind, g, inputs, gates, kept, w_hh, dpre, dhidden, dh, dc):
    (T, _, N), H = gates.shape, w_hh.shape[1]
    states = inputs[:, :, -H:]
    for t in reversed(range(T)):
        dh += g[:, t]
        d, parts, direct = np.split(dpre[t], N // H, axis=1), np.split(gates[t], N // H, axis=1), 0
        if kind == LSTM:
            i, f, n, o = parts
            s = np.tanh(kept[t + 1])
            dc += dh * o * (1 - s * s)
            d[0][...], d[1][...] = dc * n * i * (1 - i), dc * kept[t] * f * (1 - f)
            d[2][...], d[3][...] = dc * i * (1 - n * n), dh * s * o * (1 - o)
            dc *= f
        elif kind == GRU:
            r, z, n = parts
            d[2][...] = dh * (1 - z) * (1 - n * n)
            d[1][...] = dh * (states[t] - n) * z * (1 - z)
            d[0][...] = d[2] * kept[t] * r * (1 - r)
            dhidden[t] = np.concatenate([d[0], d[1], d[2] * r], axis=1)
            direct = dh * z
        else:
            h = states[t + 1]
            d[0][...] = dh * (1 - h * h if kind == TANH else h > 0)
        dh[...] = direct + dhidden[t] @ w_hh


# ---- arguments of the kernels -----------------------------------------------------------------------------------


def _rows(tile, B):
    """Sequences in a task: a task for each thread, or several if they would be large. No result depends on it."""
    threads = get_num_threads()
    return -(-B // (threads * -(-B // (threads * MOST_PANELS * tile.rows))))


def _room(tile, rows, piece):
    """Numbers in the panels of a block of states, and room for the unused lanes of the last vectors."""
    return -(-rows // tile.rows) * tile.panel_size(tile, tile.rows, piece) + 2 * tile.cols


def _packed(tile, lines):
    """A matrix (N, depth) in panels of tile.cols lines, for each piece of the depth; and the length of a piece."""
    N, depth = lines.shape
    pieces = -(-depth // tile.depth)
    piece = -(-depth // (pieces * tile.lanes)) * tile.lanes
    panels = -(-N // tile.cols)
    packed = aligned(pieces * panels * tile.panel_size(tile, tile.cols, piece), tile.number)
    chunks = -(-panels // PACKED_PANELS)
    _pack(tile, pieces * chunks, lines, packed, piece, chunks)
    return packed, piece


# ---- kernels ----------------------------------------------------------------------------------------------------

IN3 = types.Array(types.float32, 3, "C", readonly=True)
STRIDED2 = types.Array(types.float32, 2, "A", readonly=True)
TABLE = types.float32[:, ::1]


@shared_by_tile(lambda _: (STRIDED2, OUT1, INTEGER, INTEGER))
@kernel
def _pack(tile, lines, packed, piece, chunks, worker, task):
    """A task: some panels of one piece of the depth."""
    (N, depth), k, first = lines.shape, task // chunks * piece, task % chunks * PACKED_PANELS
    part = lines[first * tile.cols : min(N, (first + PACKED_PANELS) * tile.cols), k : min(k + piece, depth)]
    tile.pack(tile, part, tile.cols, packed, _panel_at(tile, N, k, piece, min(piece, depth - k), first))


@kernel
def _panel_at(tile, N, k, piece, depth, panel):
    """Where a panel of the packed matrix begins: of the piece that begins at k and is `depth` long."""
    before = k // piece * ((N + tile.cols - 1) // tile.cols) * tile.panel_size(tile, tile.cols, piece)
    return before + panel * tile.panel_size(tile, tile.cols, depth)


@kernel
def _add_product(tile, x, packed, piece, scratch, panels, out, out_at, N):
    """out (rows, N) += x (rows, depth) times the packed matrix. The panels of x are written into scratch[panels:]."""
    rows, depth = x.shape
    for k in range(0, depth, piece):
        n = min(piece, depth - k)
        tile.pack(tile, x[:, k : k + n], tile.rows, scratch, panels)
        steps, b_size = (tile.panel_size(tile, tile.rows, n), 1, tile.rows), tile.panel_size(tile, tile.cols, n)
        b_at = _panel_at(tile, N, k, piece, n, 0)
        tile.multiply(
            tile, n, scratch, panels, steps, packed, b_at, b_size, out, out_at, (N, 1), out, out_at, N, rows, N
        )  # fmt: skip


@shared_by_tile(lambda _: (INTEGER, OUT3, OUT3, OUT3, OUT1, IN1, OUT3, INTEGER, INTEGER, TABLE))
@kernel
def _forward(tile, kind, inputs, gates, kept, packed, bias, y, rows, piece, scratch, worker, task):
    """A task: all steps of the sequences first to last - 1."""
    (T, B, N), H, first, hidden = gates.shape, y.shape[2], task * rows, scratch[worker]
    last, at, whole = min(first + rows, B), inputs.shape[2] - H, gates.reshape(T * B * N)
    panels = (last - first) * N
    for t in range(T):
        states = inputs[t, first:last, at:]
        if kind == GRU:
            for b in range(last - first):
                hidden[b * N : (b + 1) * N] = bias
            _add_product(tile, states, packed, piece, hidden, panels, hidden, 0, N)
        else:
            _add_product(tile, states, packed, piece, hidden, panels, whole, (t * B + first) * N, N)
        for b in range(first, last):
            a, h = gates[t, b], inputs[t + 1, b, at:]
            if kind == LSTM:
                _lstm(a, kept[t, b], kept[t + 1, b], h)
            elif kind == GRU:
                _gru(a, hidden[(b - first) * N :][:N], kept[t, b], inputs[t, b, at:], h)
            else:
                _plain(kind, a, h)
            y[b, t] = h
    if kind == LSTM:
        y[first:last, T] = kept[T, first:last]


# The loops below are short, since LLVM vectorises no loop in which it has to tell many arrays apart


@kernel(fastmath={"contract"})
def sigmoid(x):
    return ONE / (ONE + exp(-x))


@kernel(fastmath={"contract"})
def tanh(x):
    """(e^2x - 1) / (e^2x + 1), with an expm1 that is exact near 0; beyond 10 it is 1 in float32."""
    x = TEN if x > TEN else (-TEN if x < -TEN else x)
    e = expm1(TWO * x)
    return e / (e + TWO)


@kernel(fastmath={"contract"})
def _sigmoid(a):
    for j in range(a.size):
        a[j] = sigmoid(a[j])


@kernel(fastmath={"contract"})
def _lstm(a, c_before, c, h):
    H = h.size
    i, f, n, o = a[:H], a[H : 2 * H], a[2 * H : 3 * H], a[3 * H :]
    _sigmoid(a[: 2 * H])
    _sigmoid(o)
    for j in range(H):
        n[j] = tanh(n[j])
    for j in range(H):
        c[j] = f[j] * c_before[j] + i[j] * n[j]
    for j in range(H):
        h[j] = o[j] * tanh(c[j])


@kernel(fastmath={"contract"})
def _gru(a, b, kept, h_before, h):
    H = h.size
    r, z, n = a[:H], a[H : 2 * H], a[2 * H :]
    for j in range(2 * H):
        a[j] += b[j]
    _sigmoid(a[: 2 * H])
    kept[:] = b[2 * H :]
    for j in range(H):
        n[j] = tanh(n[j] + r[j] * kept[j])
    for j in range(H):
        h[j] = n[j] + z[j] * (h_before[j] - n[j])


@kernel(fastmath={"contract"})
def _plain(kind, a, h):
    if kind == TANH:
        for j in range(h.size):
            h[j] = tanh(a[j])
    else:
        for j in range(h.size):
            h[j] = ZERO if a[j] < ZERO else a[j]


@shared_by_tile(lambda _: (INTEGER, *4 * [IN3], OUT1, OUT3, OUT3, OUT2, OUT2, INTEGER, INTEGER, TABLE))
@kernel
def _backward(tile, kind, g, inputs, gates, kept, packed, dpre, dhidden, dh, dc, rows, piece, scratch, worker, task):
    """A task: all steps of the sequences first to last - 1, from the last step to the first."""
    (B, H), first = dh.shape, task * rows
    last, at, out = min(first + rows, B), inputs.shape[2] - H, dh.reshape(B * H)
    for t in range(len(gates) - 1, -1, -1):
        for b in range(first, last):
            _add(dh[b], g[b, t])
            if kind == LSTM:
                _lstm_backward(gates[t, b], kept[t, b], kept[t + 1, b], dh[b], dc[b], dpre[t, b])
            elif kind == GRU:
                _gru_backward(gates[t, b], kept[t, b], inputs[t, b, at:], dh[b], dpre[t, b], dhidden[t, b])
            else:
                _plain_backward(kind, inputs[t + 1, b, at:], dh[b], dpre[t, b])
        _add_product(tile, dhidden[t, first:last], packed, piece, scratch[worker], 0, out, first * H, H)


@kernel
def _add(x, y):
    for j in range(x.size):
        x[j] += y[j]


# In these, dh is the gradient of h_t, and is replaced by what reaches h_(t - 1) directly, not through the product


@kernel(fastmath={"contract"})
def _lstm_backward(a, c_before, c, dh, dc, d):
    H = dh.size
    i, f, n, o = a[:H], a[H : 2 * H], a[2 * H : 3 * H], a[3 * H :]
    di, df, dn, do = d[:H], d[H : 2 * H], d[2 * H : 3 * H], d[3 * H :]
    for j in range(H):
        s = tanh(c[j])
        do[j] = dh[j] * s * o[j] * (ONE - o[j])
        dc[j] += dh[j] * o[j] * (ONE - s * s)
    for j in range(H):
        di[j] = dc[j] * n[j] * i[j] * (ONE - i[j])
    for j in range(H):
        dn[j] = dc[j] * i[j] * (ONE - n[j] * n[j])
    for j in range(H):
        df[j] = dc[j] * c_before[j] * f[j] * (ONE - f[j])
    for j in range(H):
        dc[j] *= f[j]
    dh[:] = ZERO


@kernel(fastmath={"contract"})
def _gru_backward(a, hidden, h_before, dh, d, dhidden):
    H = dh.size
    r, z, n = a[:H], a[H : 2 * H], a[2 * H :]
    dr, dz, dn, dn_hidden = d[:H], d[H : 2 * H], d[2 * H :], dhidden[2 * H :]
    for j in range(H):
        dn[j] = dh[j] * (ONE - z[j]) * (ONE - n[j] * n[j])
    for j in range(H):
        dz[j] = dh[j] * (h_before[j] - n[j]) * z[j] * (ONE - z[j])
    for j in range(H):
        dr[j] = dn[j] * hidden[j] * r[j] * (ONE - r[j])
    for j in range(H):
        dn_hidden[j] = dn[j] * r[j]
    dhidden[: 2 * H] = d[: 2 * H]
    for j in range(H):
        dh[j] *= z[j]


@kernel(fastmath={"contract"})
def _plain_backward(kind, h, dh, d):
    if kind == TANH:
        for j in range(h.size):
            d[j] = dh[j] * (ONE - h[j] * h[j])
    else:
        for j in range(h.size):
            d[j] = dh[j] if h[j] > ZERO else ZERO
    dh[:] = ZERO

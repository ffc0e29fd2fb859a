"""Attention, forward and backward, on stacks of (T, D) queries, (S, D) keys and (S, Dv) values."""

import math
import threading
from collections import namedtuple

import numba
import numpy as np
from numba import types
from numba.extending import register_jitable

from autotx.kernels.exp import exp
from autotx.kernels.gemm import _next
from autotx.kernels.jit import kernel
from autotx.kernels.rows import compiled, plain
from autotx.kernels.tile import COLS, LANES, ROWS, ZEROS, aligned, multiply, pack, panel_size

KEYS = 112  # keys in a block, at most
QUERIES = 128  # queries in a block
PIECE = 512  # queries of a head that are one unit of the forward work, where there are few heads
INFINITY = np.float32(np.inf)
ZERO, ONE = np.float32(0), np.float32(1)


def attention(q, k, v, mask=None, causal=False, keep=None):
    """O = softmax(Q K^T / sqrt(D) masked) V and lse, the logarithm of each row's normaliser.

    q: (..., T, D), k: (..., S, D), v: (..., S, Dv); mask: booleans (True: may attend) or floats (added), broadcasting
    to (..., T, S), or None; keep: (..., T, S) factors on the weights (dropout) or None.
    Returns O (..., T, Dv) and lse (..., T), -inf for a query that may attend to nothing, whose O is 0.
    """
    if keep is not None or not _use_kernel(q, k, v):
        return _attention_twin(q, k, v, mask, causal, keep)
    q4, k4, v4 = _four_axes(q), _four_axes(k), _four_axes(v)
    (B, H, T, D), S = q4.shape, k4.shape[2]
    out, out_flat, out_steps = _empty_like(q4)
    lse = np.empty((B, H, T), np.float32)
    block = _key_block(S)
    piece = T if B * H >= 16 else min(T, PIECE)
    offsets, scratch, counter = _scratch(_forward_sizes(S, D, block))
    _forward(
        q4, k4, v4, _added(mask, q, k), mask is not None, causal, out_flat, out_steps, lse,
        scratch, offsets, counter, numba.get_num_threads(), block, piece,
    )  # fmt: skip
    return out.reshape(q.shape), lse.reshape(q.shape[:-1])


def attention_backward(g, q, k, v, out, lse, mask=None, causal=False, keep=None):
    """dq, dk, dv of the shapes of q, k, v, from the gradient `g` of O and what `attention` returned."""
    if keep is not None or not _use_kernel(q, k, v, g, out, lse):
        return _attention_backward_twin(g, q, k, v, out, lse, mask, causal, keep)
    g4, q4, k4, v4, out4 = (_four_axes(x) for x in (g, q, k, v, out))
    D, S = q4.shape[3], k4.shape[2]
    (dq, dq_flat, dq_steps), (dk, dk_flat, dk_steps), (dv, dv_flat, dv_steps) = (_empty_like(x) for x in (q4, k4, v4))
    block = _key_block(S)
    offsets, scratch, counter = _scratch(_backward_sizes(S, D, block))
    _backward(
        g4, q4, k4, v4, out4, plain(lse).reshape(q4.shape[:3]), _added(mask, q, k), mask is not None, causal,
        dq_flat, dq_steps, dk_flat, dk_steps, dv_flat, dv_steps,
        scratch, offsets, counter, numba.get_num_threads(), block,
    )  # fmt: skip
    return dq.reshape(q.shape), dk.reshape(k.shape), dv.reshape(v.shape)


# ---- NumPy twins ------------------------------------------------------------------------------------------------


def _weights(q, k, mask, causal, lse=None):
    """P = softmax of the masked scores, with rows that see nothing as zeros; and lse."""
    a = q @ np.swapaxes(k, -1, -2) * q.dtype.type(q.shape[-1] ** -0.5)
    if mask is not None:
        a = np.where(mask, a, -np.inf) if mask.dtype == bool else a + mask
    if causal:
        T, S = a.shape[-2:]
        a = np.where(np.tri(T, S, S - T, dtype=bool), a, -np.inf)
    a = a.astype(q.dtype, copy=False)
    if lse is None:
        m = np.max(a, axis=-1, initial=-np.inf)
        m = np.where(np.isneginf(m), 0, m)
        with np.errstate(divide="ignore"):
            lse = np.log(np.exp(a - m[..., None]).sum(axis=-1)) + m
    return np.exp(a - np.where(np.isneginf(lse), 0, lse)[..., None]), lse


def _attention_twin(q, k, v, mask, causal, keep):
    p, lse = _weights(q, k, mask, causal)
    return (p if keep is None else p * keep) @ v, lse


def _attention_backward_twin(g, q, k, v, out, lse, mask, causal, keep):
    p, _ = _weights(q, k, mask, causal, lse)
    dropped = p if keep is None else p * keep
    dv = np.swapaxes(dropped, -1, -2) @ g
    dp = g @ np.swapaxes(v, -1, -2)
    if keep is not None:
        dp = dp * keep
    e = (g * out).sum(axis=-1, keepdims=True)
    da = p * (dp - e) * q.dtype.type(q.shape[-1] ** -0.5)
    return da @ k, np.swapaxes(da, -1, -2) @ q, dv


# ---- arguments of the kernels -----------------------------------------------------------------------------------


def _use_kernel(q, k, v, *others):
    """Whether the kernels take these arrays: float32, values as wide as keys, nothing empty, and Numba compiles."""
    arrays = q, k, v, *others
    return (
        not numba.config.DISABLE_JIT
        and all(x.dtype == np.float32 and x.size and x.flags.aligned for x in arrays)
        and v.shape[-1] == q.shape[-1]
    )


def _four_axes(x):
    """x: (..., T, D) as (B, H, T, D): a view, unless more than two leading axes do not lie evenly in memory."""
    lead = (1,) * (4 - x.ndim) + x.shape[:-2]
    return x.reshape(math.prod(lead[:-1]), *lead[-1:], *x.shape[-2:])


def _added(mask, q, k):
    """The mask as floats to add, a (B, H, T, S) view in which broadcast axes take no memory; a dummy for None."""
    if mask is None:
        return ZEROS[:1].reshape(1, 1, 1, 1)
    if mask.dtype == bool:
        mask = np.where(mask, ZERO, -INFINITY)
    return _four_axes(np.broadcast_to(mask.astype(np.float32, copy=False), (*q.shape[:-1], k.shape[-2])))


def _empty_like(x):
    """(array, its memory as one axis, steps) of the shape (B, H, T, D) of x, tokens or heads outermost as in x."""
    B, H, T, D = x.shape
    if x.strides[1] < x.strides[2]:
        memory = np.empty((B, T, H, D), np.float32)
        array = memory.transpose(0, 2, 1, 3)
    else:
        array = memory = np.empty((B, H, T, D), np.float32)
    return array, memory.reshape(-1), tuple(step // 4 for step in array.strides[:3])


def _key_block(S):
    """Keys in a block: blocks as even as whole panels of ROWS keys allow."""
    blocks = -(-S // KEYS)
    return -(-S // (blocks * ROWS)) * ROWS


@register_jitable
def _up(size, unit):
    """size, rounded up to a multiple of unit."""
    return (size + unit - 1) // unit * unit


@register_jitable
def _panels(lines, width, depth):
    """Floats in the panels of this width that hold so many lines."""
    return _up(lines, width) // width * panel_size(width, depth)


_mine = threading.local()


def _scratch(sizes):
    """Where in a thread's memory each of its buffers starts and the last ends; the memory of all threads; a counter.

    Buffers start on cache lines and have room for what `pack` spills. The memory is kept for the next call.
    """
    offsets = [0]
    for size in sizes:
        offsets.append(offsets[-1] + _up(size + LANES * COLS, 16))
    offsets[-1] = _up(offsets[-1], 1024)
    total = numba.get_num_threads() * offsets[-1]
    if getattr(_mine, "size", -1) < total:
        _mine.memory, _mine.size, _mine.counter = aligned(total), total, np.zeros(1, np.int64)
    return tuple(offsets), _mine.memory, _mine.counter


IN4, IN3 = (types.Array(types.float32, ndim, "A", readonly=True) for ndim in (4, 3))
PLAIN3 = types.Array(types.float32, 3, "C")
READ3 = types.Array(types.float32, 3, "C", readonly=True)
FLAT, COUNTER = types.float32[::1], types.int64[::1]
FLAG, NUMBER, STEPS = types.boolean, types.intp, types.UniTuple(types.intp, 3)


# ---- forward ----------------------------------------------------------------------------------------------------

Forward = namedtuple("Forward", "k v q scores mask out top factor shift rows")


def _forward_sizes(S, D, block):
    """Floats in each buffer of a thread, in the order of `Forward`."""
    return (
        _panels(S, ROWS, D), _up(S, block) // block * _panels(D + 1, ROWS, block), _panels(QUERIES, COLS, D),
        panel_size(COLS, block), panel_size(COLS, block), QUERIES * _up(D + 1, 4),
        QUERIES, COLS, COLS, COLS * _up(D, LANES),
    )  # fmt: skip


@compiled(
    IN4, IN4, IN4, IN4, FLAG, FLAG, FLAT, STEPS, PLAIN3,
    FLAT, types.UniTuple(types.intp, 11), COUNTER, NUMBER, NUMBER, NUMBER,
)  # fmt: skip
@kernel(parallel=True)
def _forward(q, k, v, mask, masked, causal, out, steps, lse, scratch, offsets, counter, threads, block, piece):
    """A unit of work is a piece of the queries of one head of one sequence; a thread takes the next that is left."""
    B, H, T = q.shape[:3]
    pieces = (T + piece - 1) // piece
    counter[0] = 0
    for worker in numba.prange(threads):
        at = worker * offsets[10]
        work = Forward(
            scratch[at + offsets[0] :], scratch[at + offsets[1] :], scratch[at + offsets[2] :],
            scratch[at + offsets[3] :], scratch[at + offsets[4] :], scratch[at + offsets[5] :],
            scratch[at + offsets[6] :], scratch[at + offsets[7] :], scratch[at + offsets[8] :],
            scratch[at + offsets[9] :],
        )  # fmt: skip
        unit = _next(counter)
        while unit < B * H * pieces:
            b, h, first = unit // pieces // H, unit // pieces % H, unit % pieces * piece
            place = b * steps[0] + h * steps[1]
            _forward_unit(
                q[b, h], k[b, h], v[b, h], mask[b, h] if masked else mask[0, 0], masked, causal,
                first, min(first + piece, T), out, place, steps[2], lse[b, h], block, work,
            )  # fmt: skip
            unit = _next(counter)


@kernel
def _forward_unit(q, k, v, mask, masked, causal, first, last, out, place, step, lse, block, work):
    """Queries first to last of one head. q: (T, D), k, v: (S, D); query t's result goes to out[place + t * step :]."""
    T, D = q.shape
    S = k.shape[0]
    ahead = S - T if causal else S  # query t sees the keys before t + ahead + 1
    values, tall = _panels(D + 1, ROWS, block), _up(D + 1, 4)
    _pack_keys(k, v, min(S, last + ahead), block, work)
    for q0 in range(first, last, QUERIES):
        q1 = min(q0 + QUERIES, last)
        _start_queries(q, q0, q1, work)
        for s in range(0, min(S, q1 + ahead), block):
            keys = min(block, S - s)
            for t in range(q0, q1, COLS):
                n = min(keys, t + COLS + ahead - s)
                if n > 0:
                    out_at = (t - q0) * tall
                    _scores(work.q, (t - q0) // COLS, work.k, s // ROWS, D, n, work.scores)
                    if masked:
                        _add_mask(mask[t : min(t + COLS, T), s : s + n], work.mask, work.scores)
                    _cut_future(work.scores, n, t + ahead - s)
                    _soften(work.scores, n, work.top, t - q0, work.factor, work.shift)
                    _rescale(work.out, out_at, tall, work.factor)
                    _weigh(work.scores, n, work.v, s // block * values, keys, D + 1, work.out, out_at)
        for t in range(q0, q1, COLS):
            out_at, lines = (t - q0) * tall, min(COLS, q1 - t)
            for j in range(lines):
                total = work.out[out_at + D * COLS + j]
                work.factor[j] = ONE / total if total != ZERO else ZERO
                lse[t + j] = work.top[t - q0 + j] + math.log(total) if total != ZERO else -INFINITY
            _write(work.out, out_at, work.factor, D, lines, work.rows, out, place + t * step, step)


@kernel
def _pack_keys(k, v, seen, block, work):
    """Keys as panels of ROWS keys, values of ROWS channels; channel D is 1: its result is the sum of the weights."""
    S, D = k.shape
    pack(k[:seen], ROWS, work.k, 0)
    for s in range(0, seen, block):
        keys, place = min(block, S - s), s // block * _panels(D + 1, ROWS, block)
        pack(v[s : s + keys].T, ROWS, work.v, place)
        ones = place + D // ROWS * panel_size(ROWS, keys) + D % ROWS
        for i in range(keys):
            work.v[ones + i * ROWS] = ONE


@kernel
def _scale(D):
    return np.float32(1 / math.sqrt(D))


@kernel
def _pack_scaled(x, scale, panels):
    """Pack x as panels of COLS lines, times scale."""
    pack(x, COLS, panels, 0)
    for i in range(_panels(x.shape[0], COLS, x.shape[1])):
        panels[i] *= scale


@kernel
def _start_queries(q, q0, q1, work):
    D = q.shape[1]
    _pack_scaled(q[q0:q1], _scale(D), work.q)
    for i in range(_up(q1 - q0, COLS) * _up(D + 1, 4)):
        work.out[i] = ZERO
    for i in range(QUERIES):
        work.top[i] = -INFINITY


@kernel
def _scores(right, right_panel, left, left_panel, D, n, scores):
    """scores (n, COLS) = left (n, D) times right (D, COLS); both packed, from these panels on."""
    right_at, left_at, size = right_panel * panel_size(COLS, D), left_panel * panel_size(ROWS, D), panel_size(ROWS, D)
    for s in range(0, n, ROWS):
        at, c_at = left_at + s // ROWS * size, s * COLS
        multiply(D, left, at, right, right_at, ZEROS, 0, 0, scores, c_at, COLS, n - s, COLS)


@kernel
def _add_mask(mask, panel, scores):
    """Add the mask (queries, n) to the scores (n, COLS)."""
    n = mask.shape[1]
    pack(mask, COLS, panel, 0)
    for i in range(n * COLS):
        scores[i] += panel[i]


@kernel
def _cut_future(scores, n, visible):
    """Set to -inf what lies in the future: query j of the panel sees the first visible + j + 1 of the n keys."""
    for s in range(max(0, visible + 1), n):
        for j in range(min(COLS, s - visible)):
            scores[s * COLS + j] = -INFINITY


# The loops over COLS below take four lines at a time: LLVM unrolls a shorter body into single numbers, not vectors.


@kernel
def _soften(scores, n, top, at, factor, shift):
    """A step of the online softmax: scores become e^(score - top), top their maximum; factor = e^(old - new top)."""
    for i in range(n * COLS, _up(n, 4) * COLS):
        scores[i] = -INFINITY
    for j in range(COLS):
        factor[j] = top[at + j]
    for s in range((n + 3) // 4):
        for j in range(COLS):
            i = s * 4 * COLS + j
            a, b = _larger(scores[i], scores[i + COLS]), _larger(scores[i + 2 * COLS], scores[i + 3 * COLS])
            top[at + j] = _larger(_larger(a, b), top[at + j])
    for j in range(COLS):
        shift[j] = top[at + j] if top[at + j] > -INFINITY else ZERO  # a query that has seen nothing: e^-inf = 0
        factor[j] = exp(factor[j] - shift[j])
    for s in range(n):
        for j in range(COLS):
            scores[s * COLS + j] = exp(scores[s * COLS + j] - shift[j])


@kernel
def _larger(a, b):
    return a if a > b else b


@kernel
def _rescale(x, at, lines, factor):
    for d in range(lines // 4):
        for j in range(COLS):
            i = at + d * 4 * COLS + j
            x[i] *= factor[j]
            x[i + COLS] *= factor[j]
            x[i + 2 * COLS] *= factor[j]
            x[i + 3 * COLS] *= factor[j]


@kernel
def _weigh(weights, n, channels, at, depth, D, out, out_at):
    """out (D, COLS) += x^T (D, n) times weights (n, COLS); x has `depth` lines, packed as panels of ROWS channels."""
    size = panel_size(ROWS, depth)
    for d in range(0, D, ROWS):
        place = out_at + d * COLS
        multiply(n, channels, at + d // ROWS * size, weights, 0, out, place, COLS, out, place, COLS, D - d, COLS)


@kernel
def _write(x, at, factor, D, lines, rows, out, place, step):
    """out[place + j * step + d] = x[d, j] factor[j] for the first `lines` columns j of x (D, COLS)."""
    _rescale(x, at, _up(D, 4), factor)
    width = _up(D, LANES)
    pack(x[at : at + D * COLS].reshape(D, COLS), width, rows, 0)
    for j in range(lines):
        for d in range(D):
            out[place + j * step + d] = rows[j * width + d]


# ---- backward ---------------------------------------------------------------------------------------------------

Backward = namedtuple(
    "Backward",
    "k k_channels v q q_channels g g_channels weights grads mask weights_turned grads_turned dq lse e out rows",
)


def _backward_sizes(S, D, block):
    """Floats in each buffer of a thread, in the order of `Backward`."""
    keys, queries, channels = _panels(S, ROWS, D), _panels(QUERIES, COLS, D), _panels(D, COLS, QUERIES)
    scores, turned = panel_size(COLS, block), _panels(block, ROWS, QUERIES)
    return (
        keys, _up(S, block) // block * _panels(D, ROWS, block), keys, queries, channels, queries, channels,
        scores, scores, scores, turned, turned, QUERIES * _up(D, 4), QUERIES, QUERIES,
        _panels(QUERIES, COLS, D), COLS * _up(D, LANES),
    )  # fmt: skip


@compiled(
    IN4, IN4, IN4, IN4, IN4, READ3, IN4, FLAG, FLAG, FLAT, STEPS, FLAT, STEPS, FLAT, STEPS,
    FLAT, types.UniTuple(types.intp, 18), COUNTER, NUMBER, NUMBER,
)  # fmt: skip
@kernel(parallel=True)
def _backward(
    g, q, k, v, out, lse, mask, masked, causal, dq, dq_steps, dk, dk_steps, dv, dv_steps,
    scratch, offsets, counter, threads, block,
):  # fmt: skip
    """A unit of work is one head of one sequence: its dk and dv have one owner, who adds to them in a fixed order."""
    B, H = q.shape[:2]
    counter[0] = 0
    for worker in numba.prange(threads):
        at = worker * offsets[17]
        work = Backward(
            scratch[at + offsets[0] :], scratch[at + offsets[1] :], scratch[at + offsets[2] :],
            scratch[at + offsets[3] :], scratch[at + offsets[4] :], scratch[at + offsets[5] :],
            scratch[at + offsets[6] :], scratch[at + offsets[7] :], scratch[at + offsets[8] :],
            scratch[at + offsets[9] :], scratch[at + offsets[10] :], scratch[at + offsets[11] :],
            scratch[at + offsets[12] :], scratch[at + offsets[13] :], scratch[at + offsets[14] :],
            scratch[at + offsets[15] :], scratch[at + offsets[16] :],
        )  # fmt: skip
        unit = _next(counter)
        while unit < B * H:
            b, h = unit // H, unit % H
            _backward_unit(
                g[b, h], q[b, h], k[b, h], v[b, h], out[b, h], lse[b, h], mask[b, h] if masked else mask[0, 0],
                masked, causal, dq, b * dq_steps[0] + h * dq_steps[1], dq_steps[2],
                dk, b * dk_steps[0] + h * dk_steps[1], dk_steps[2],
                dv, b * dv_steps[0] + h * dv_steps[1], dv_steps[2], block, work,
            )  # fmt: skip
            unit = _next(counter)


@kernel
def _backward_unit(
    g, q, k, v, out, lse, mask, masked, causal, dq, dq_at, dq_step, dk, dk_at, dk_step, dv, dv_at, dv_step, block, work
):
    """All gradients of one head. The row of token t starts at dq[dq_at + t * dq_step]; dk, dv likewise."""
    T, D = q.shape
    S = k.shape[0]
    ahead = S - T if causal else S  # query t sees the keys before t + ahead + 1
    channels, tall = _panels(D, ROWS, block), _up(D, 4)
    _pack_both(k, v, block, work)
    for s in range(S):
        for d in range(D):
            dk[dk_at + s * dk_step + d] = ZERO
            dv[dv_at + s * dv_step + d] = ZERO
    for q0 in range(0, T, QUERIES):
        q1 = min(q0 + QUERIES, T)
        _pack_queries(g, q, out, lse, q0, q1, work)
        for s in range(0, min(S, q1 + ahead), block):
            keys = min(block, S - s)
            for t in range(q0, q1, COLS):
                n = min(keys, t + COLS + ahead - s)
                if n > 0:
                    _scores(work.q, (t - q0) // COLS, work.k, s // ROWS, D, n, work.weights)
                    if masked:
                        _add_mask(mask[t : min(t + COLS, T), s : s + n], work.mask, work.weights)
                    _cut_future(work.weights, n, t + ahead - s)
                    _scores(work.g, (t - q0) // COLS, work.v, s // ROWS, D, n, work.grads)
                    _differentiate(work.weights, work.grads, n, work.lse, work.e, t - q0)
                    _weigh(work.grads, n, work.k_channels, s // block * channels, keys, D, work.dq, (t - q0) * tall)
                    _turn(work.weights, n, work.weights_turned, t - q0)
                    _turn(work.grads, n, work.grads_turned, t - q0)
            n = min(keys, q1 + ahead - s)
            hidden = s - ahead - q0  # so many queries of this block do not see the first key
            nq, dv_row, dk_row = q1 - q0, dv_at + s * dv_step, dk_at + s * dk_step
            _collect(work.weights_turned, work.g_channels, n, keys, hidden, nq, D, dv, dv_row, dv_step)
            _collect(work.grads_turned, work.q_channels, n, keys, hidden, nq, D, dk, dk_row, dk_step)
        for j in range(COLS):
            work.mask[j] = _scale(D)
        for t in range(q0, q1, COLS):
            dq_at_t, lines = dq_at + t * dq_step, min(COLS, q1 - t)
            _write(work.dq, (t - q0) * tall, work.mask, D, lines, work.rows, dq, dq_at_t, dq_step)


@kernel
def _pack_both(k, v, block, work):
    """Keys and values as panels of ROWS keys, and the keys as panels of ROWS channels too."""
    S, D = k.shape
    pack(k, ROWS, work.k, 0)
    pack(v, ROWS, work.v, 0)
    for s in range(0, S, block):
        pack(k[s : min(s + block, S)].T, ROWS, work.k_channels, s // block * _panels(D, ROWS, block))


@kernel
def _pack_queries(g, q, out, lse, q0, q1, work):
    """Queries q0 to q1 and their gradients, both ways; lse; e_t = sum over d of g_td O_td; zeros for dq."""
    D, n = q.shape[1], q1 - q0
    size = panel_size(COLS, D)
    _pack_scaled(q[q0:q1], _scale(D), work.q)
    _pack_scaled(q[q0:q1].T, _scale(D), work.q_channels)
    pack(g[q0:q1], COLS, work.g, 0)
    pack(g[q0:q1].T, COLS, work.g_channels, 0)
    pack(out[q0:q1], COLS, work.out, 0)
    for i in range(_panels(n, COLS, D)):
        work.out[i] *= work.g[i]
    for t in range(0, n, COLS):
        at = t // COLS * size
        for i in range(at + D * COLS, at + _up(D, 4) * COLS):
            work.out[i] = ZERO
        for j in range(t, t + COLS):
            work.e[j] = ZERO
            # a query that sees nothing, or is not there: its weights e^(score - inf) are 0
            work.lse[j] = lse[q0 + j] if j < n and lse[q0 + j] > -INFINITY else INFINITY
        _add_lines(work.out, at, D, work.e, t)
    for i in range(_up(n, COLS) * _up(D, 4)):
        work.dq[i] = ZERO


@kernel
def _add_lines(x, x_at, lines, total, at):
    """Add the lines of COLS floats, filled up with zeros to a multiple of four, to `total`."""
    for d in range((lines + 3) // 4):
        for j in range(COLS):
            i = x_at + d * 4 * COLS + j
            total[at + j] += (x[i] + x[i + COLS]) + (x[i + 2 * COLS] + x[i + 3 * COLS])


@kernel
def _differentiate(weights, grads, n, lse, e, at):
    """weights: the scores on entry, P = e^(score - lse) on return. grads: dP on entry, P (dP - e) on return."""
    for s in range(n):
        for j in range(COLS):
            p = exp(weights[s * COLS + j] - lse[at + j])
            weights[s * COLS + j] = p
            grads[s * COLS + j] = p * (grads[s * COLS + j] - e[at + j])


@kernel
def _turn(x, n, turned, at):
    """Pack x (n keys, COLS queries) as panels of ROWS keys, at query number `at` of their depth, QUERIES."""
    for s in range(0, n, ROWS):
        lines, place = min(ROWS, n - s), s // ROWS * panel_size(ROWS, QUERIES) + at * ROWS
        pack(x[s * COLS : (s + lines) * COLS].reshape(lines, COLS), ROWS, turned, place)


@kernel
def _collect(turned, channels, n, keys, hidden, queries, D, dx, place, step):
    """dx (keys, D) += x^T y, x (queries, n) from `_turn`, y (queries, D); queries that see no key are left out."""
    for s in range(0, n, ROWS):
        first = max(0, (hidden + s) // COLS * COLS)
        turned_at = s // ROWS * panel_size(ROWS, QUERIES) + first * ROWS
        for d in range(0, D, COLS):
            at, channels_at = place + s * step + d, d // COLS * panel_size(COLS, queries) + first * COLS
            multiply(
                queries - first, turned, turned_at, channels, channels_at,
                dx, at, step, dx, at, step, keys - s, D - d,
            )  # fmt: skip

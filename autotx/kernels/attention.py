"""Attention, forward and backward, on stacks of (T, D) queries, (S, D) keys and (S, Dv) values."""

import functools
import math
import threading
from collections import namedtuple

import numba
import numpy as np
from numba import types
from numba.extending import register_jitable

from autotx.kernels.exp import exp
from autotx.kernels.jit import address, call_at, compile_for, kernel
from autotx.kernels.rows import plain
from autotx.kernels.threads import next_task
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
    offsets = _offsets(_forward_sizes, S, D, block)
    _compiled_forward()(
        q4, k4, v4, _added(mask, q, k), mask is not None, causal, out_flat, out_steps, lse, block, piece,
        offsets, *_scratch(offsets[-1]),
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
    offsets = _offsets(_backward_sizes, S, D, block)
    _compiled_backward()(
        g4, q4, k4, v4, out4, plain(lse).reshape(q4.shape[:3]), _added(mask, q, k), mask is not None, causal,
        dq_flat, dq_steps, dk_flat, dk_steps, dv_flat, dv_steps, block, offsets, *_scratch(offsets[-1]),
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
    """The mask as floats to add, a (B, H, T, S) view in which broadcast axes take no memory. Not read for None."""
    if mask is None:
        mask = ZEROS[:1]
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


@functools.lru_cache(maxsize=1024)
def _offsets(sizes, S, D, block):
    """Where in a thread's memory each buffer starts and the last ends: on whole lines of COLS, with room between."""
    offsets = [0]
    for size in sizes(S, D, block):
        offsets.append(offsets[-1] + _up(size + LANES * COLS, 64))
    return (*offsets[:-1], _up(offsets[-1], 1024))


_mine = threading.local()


def _scratch(size):
    """Memory for the buffers of all threads, kept for the next call: (threads, size); the same in lines; a counter."""
    total = numba.get_num_threads() * size
    if getattr(_mine, "total", -1) < total:
        _mine.memory, _mine.total, _mine.counter = aligned(total), total, np.zeros(1, np.int64)
    memory = _mine.memory[:total].reshape(-1, size)
    return memory, memory.reshape(-1, size // COLS, COLS), _mine.counter


IN2, IN3, IN4 = (types.Array(types.float32, ndim, "A", readonly=True) for ndim in (2, 3, 4))
READ1, READ3 = (types.Array(types.float32, ndim, "C", readonly=True) for ndim in (1, 3))
OUT3 = types.Array(types.float32, 3, "C")
FLAT, TABLE, COUNTER = types.float32[::1], types.float32[:, ::1], types.int64[::1]
FLAG, NUMBER, STEPS = types.boolean, types.intp, types.UniTuple(types.intp, 3)


def _compile(parallel, head, arguments, head_arguments):
    """The parallel kernel, ready to be called without its first two arguments, the addresses of `head` and `pack`."""
    pack_at = _pack_address()  # first, for `head` calls it
    head_at = address(head, types.void(NUMBER, *head_arguments, FLAT, IN2))
    signature = types.void(NUMBER, NUMBER, *arguments, TABLE, IN3, COUNTER)
    return functools.partial(compile_for(parallel, signature), head_at, pack_at)


@functools.cache
def _pack_address():
    return address(_pack_once, types.void(IN2, NUMBER, FLAT, NUMBER))


@kernel
def _pack_once(x, width, panels, at):
    pack(x, width, panels, at)


@kernel
def _pack(pack_at, x, width, panels, at):
    """`pack`, by its address: it is long, and would be compiled into each of the functions below."""
    call_at(_pack_once, pack_at, (x, width, panels, at))


# ---- forward ----------------------------------------------------------------------------------------------------

Forward = namedtuple("Forward", "pack lines out_line k v q scores mask out top factor shift rows")


def _forward_sizes(S, D, block):
    """Floats in each buffer of a thread, in the order of `Forward`."""
    return (
        _panels(S, ROWS, D), _up(S, block) // block * _panels(D + 1, ROWS, block), _panels(QUERIES, COLS, D),
        panel_size(COLS, block), panel_size(COLS, block), QUERIES * _up(D + 1, 4),
        QUERIES, COLS, COLS, COLS * _up(D, LANES),
    )  # fmt: skip


@functools.cache
def _compiled_forward():
    offsets = types.UniTuple(types.intp, 11)
    return _compile(
        _forward, _forward_head,
        (IN4, IN4, IN4, IN4, FLAG, FLAG, FLAT, STEPS, OUT3, NUMBER, NUMBER, offsets),
        (IN2, IN2, IN2, IN2, FLAG, FLAG, NUMBER, NUMBER, FLAT, NUMBER, NUMBER, FLAT, NUMBER, offsets),
    )  # fmt: skip


@kernel(parallel=True)
def _forward(
    head_at, pack_at, q, k, v, mask, masked, causal, out, steps, lse, block, piece, offsets, scratch, lines, counter
):
    """Each thread takes the next task until none is left: a piece of the queries of one head of one sequence."""
    B, H, T = q.shape[:3]
    pieces = (T + piece - 1) // piece
    counter[0] = 0
    for i in numba.prange(scratch.shape[0]):
        task = next_task(counter)
        while task < B * H * pieces:
            b, h, first = task // pieces // H, task // pieces % H, task % pieces * piece
            last, place = min(first + piece, T), b * steps[0] + h * steps[1]
            arguments = (
                pack_at, q[b, h], k[b, h], v[b, h], mask[b, h], masked, causal, first, last,
                out, place, steps[2], lse[b, h], block, offsets, scratch[i], lines[i],
            )  # fmt: skip
            call_at(_forward_head, head_at, arguments)
            task = next_task(counter)


@kernel
def _forward_head(
    pack_at, q, k, v, mask, masked, causal, first, last, out, place, step, lse, block, offsets, scratch, lines
):
    """Queries first to last of one head. q: (T, D), k, v: (S, D); query t's result goes to out[place + t * step :]."""
    work = Forward(
        pack_at, lines, offsets[5] // COLS,
        scratch[offsets[0] :], scratch[offsets[1] :], scratch[offsets[2] :], scratch[offsets[3] :],
        scratch[offsets[4] :], scratch[offsets[5] :], scratch[offsets[6] :], scratch[offsets[7] :],
        scratch[offsets[8] :], scratch[offsets[9] :],
    )  # fmt: skip
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
                        _add_mask(mask[t : min(t + COLS, T), s : s + n], work.mask, work.scores, work.pack)
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
            _write(work.out, out_at, work.factor, D, lines, work, work.out_line, out, place + t * step, step)


@kernel
def _pack_keys(k, v, seen, block, work):
    """Keys as panels of ROWS keys, values of ROWS channels; channel D is 1: its result is the sum of the weights."""
    S, D = k.shape
    _pack(work.pack, k[:seen], ROWS, work.k, 0)
    for s in range(0, seen, block):
        keys, place = min(block, S - s), s // block * _panels(D + 1, ROWS, block)
        _pack(work.pack, v[s : s + keys].T, ROWS, work.v, place)
        ones = place + D // ROWS * panel_size(ROWS, keys) + D % ROWS
        for i in range(keys):
            work.v[ones + i * ROWS] = ONE


@kernel
def _scale(D):
    return np.float32(1 / math.sqrt(D))


@kernel
def _pack_scaled(x, scale, panels, pack_at):
    """Pack x as panels of COLS lines, times scale."""
    _pack(pack_at, x, COLS, panels, 0)
    for i in range(_panels(x.shape[0], COLS, x.shape[1])):
        panels[i] *= scale


@kernel
def _start_queries(q, q0, q1, work):
    D = q.shape[1]
    _pack_scaled(q[q0:q1], _scale(D), work.q, work.pack)
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
def _add_mask(mask, panel, scores, pack_at):
    """Add the mask (queries, n) to the scores (n, COLS)."""
    n = mask.shape[1]
    _pack(pack_at, mask, COLS, panel, 0)
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
def _write(x, at, factor, D, count, work, line, out, place, step):
    """out[place + j * step + d] = x[d, j] factor[j] for the first `count` columns j of x (D, COLS)."""
    _rescale(x, at, _up(D, 4), factor)
    width, first = _up(D, LANES), line + at // COLS
    _pack(work.pack, work.lines[first : first + D], width, work.rows, 0)
    for j in range(count):
        for d in range(D):
            out[place + j * step + d] = work.rows[j * width + d]


# ---- backward ---------------------------------------------------------------------------------------------------

Backward = namedtuple(
    "Backward",
    "pack lines weights_line grads_line dq_line "
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


@functools.cache
def _compiled_backward():
    offsets = types.UniTuple(types.intp, 18)
    return _compile(
        _backward, _backward_head,
        (IN4, IN4, IN4, IN4, IN4, READ3, IN4, FLAG, FLAG, FLAT, STEPS, FLAT, STEPS, FLAT, STEPS, NUMBER, offsets),
        (IN2, IN2, IN2, IN2, IN2, READ1, IN2, FLAG, FLAG, *3 * (FLAT, NUMBER, NUMBER), NUMBER, offsets),
    )  # fmt: skip


@kernel(parallel=True)
def _backward(
    head_at, pack_at, g, q, k, v, out, lse, mask, masked, causal, dq, dq_steps, dk, dk_steps, dv, dv_steps, block,
    offsets, scratch, lines, counter,
):  # fmt: skip
    """Each thread takes the next task until none is left: one head, so that its dk and dv have one owner."""
    B, H = q.shape[:2]
    counter[0] = 0
    for i in numba.prange(scratch.shape[0]):
        task = next_task(counter)
        while task < B * H:
            b, h = task // H, task % H
            arguments = (
                pack_at, g[b, h], q[b, h], k[b, h], v[b, h], out[b, h], lse[b, h], mask[b, h], masked, causal,
                dq, b * dq_steps[0] + h * dq_steps[1], dq_steps[2], dk, b * dk_steps[0] + h * dk_steps[1], dk_steps[2],
                dv, b * dv_steps[0] + h * dv_steps[1], dv_steps[2], block, offsets, scratch[i], lines[i],
            )  # fmt: skip
            call_at(_backward_head, head_at, arguments)
            task = next_task(counter)


@kernel
def _backward_head(
    pack_at, g, q, k, v, out, lse, mask, masked, causal,
    dq, dq_at, dq_step, dk, dk_at, dk_step, dv, dv_at, dv_step, block, offsets, scratch, lines,
):  # fmt: skip
    """All gradients of one head. The row of token t starts at dq[dq_at + t * dq_step]; dk, dv likewise."""
    work = Backward(
        pack_at, lines, offsets[7] // COLS, offsets[8] // COLS, offsets[12] // COLS,
        scratch[offsets[0] :], scratch[offsets[1] :], scratch[offsets[2] :], scratch[offsets[3] :],
        scratch[offsets[4] :], scratch[offsets[5] :], scratch[offsets[6] :], scratch[offsets[7] :],
        scratch[offsets[8] :], scratch[offsets[9] :], scratch[offsets[10] :], scratch[offsets[11] :],
        scratch[offsets[12] :], scratch[offsets[13] :], scratch[offsets[14] :], scratch[offsets[15] :],
        scratch[offsets[16] :],
    )  # fmt: skip
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
                        _add_mask(mask[t : min(t + COLS, T), s : s + n], work.mask, work.weights, work.pack)
                    _cut_future(work.weights, n, t + ahead - s)
                    _scores(work.g, (t - q0) // COLS, work.v, s // ROWS, D, n, work.grads)
                    _differentiate(work.weights, work.grads, n, work.lse, work.e, t - q0)
                    _weigh(work.grads, n, work.k_channels, s // block * channels, keys, D, work.dq, (t - q0) * tall)
                    _turn(work, work.weights_line, n, work.weights_turned, t - q0)
                    _turn(work, work.grads_line, n, work.grads_turned, t - q0)
            n = min(keys, q1 + ahead - s)
            hidden = s - ahead - q0  # so many queries of this block do not see the first key
            nq, dv_row, dk_row = q1 - q0, dv_at + s * dv_step, dk_at + s * dk_step
            _collect(work.weights_turned, work.g_channels, n, keys, hidden, nq, D, dv, dv_row, dv_step)
            _collect(work.grads_turned, work.q_channels, n, keys, hidden, nq, D, dk, dk_row, dk_step)
        for j in range(COLS):
            work.mask[j] = _scale(D)
        for t in range(q0, q1, COLS):
            dq_at_t, lines = dq_at + t * dq_step, min(COLS, q1 - t)
            _write(work.dq, (t - q0) * tall, work.mask, D, lines, work, work.dq_line, dq, dq_at_t, dq_step)


@kernel
def _pack_both(k, v, block, work):
    """Keys and values as panels of ROWS keys, and the keys as panels of ROWS channels too."""
    S, D = k.shape
    _pack(work.pack, k, ROWS, work.k, 0)
    _pack(work.pack, v, ROWS, work.v, 0)
    for s in range(0, S, block):
        _pack(work.pack, k[s : min(s + block, S)].T, ROWS, work.k_channels, s // block * _panels(D, ROWS, block))


@kernel
def _pack_queries(g, q, out, lse, q0, q1, work):
    """Queries q0 to q1 and their gradients, both ways; lse; e_t = sum over d of g_td O_td; zeros for dq."""
    D, n = q.shape[1], q1 - q0
    size = panel_size(COLS, D)
    _pack_scaled(q[q0:q1], _scale(D), work.q, work.pack)
    _pack_scaled(q[q0:q1].T, _scale(D), work.q_channels, work.pack)
    _pack(work.pack, g[q0:q1], COLS, work.g, 0)
    _pack(work.pack, g[q0:q1].T, COLS, work.g_channels, 0)
    _pack(work.pack, out[q0:q1], COLS, work.out, 0)
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
def _turn(work, line, n, turned, at):
    """Pack n keys (lines of COLS queries) as panels of ROWS keys, at query number `at` of their depth, QUERIES."""
    for s in range(0, n, ROWS):
        place = s // ROWS * panel_size(ROWS, QUERIES) + at * ROWS
        _pack(work.pack, work.lines[line + s : line + min(s + ROWS, n)], ROWS, turned, place)


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

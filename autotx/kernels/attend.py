"""The attention of a few queries, for generating text token by token.

With few queries each key is used few times, so packing does not pay: keys are read as they are stored. The keys of a
head are stored by channel, (D, size), so that a vector holds the scores of neighbouring keys. All sums have the order
and the blocks of keys of attention.py, so a prompt that is read at once gives the same bits as token by token.
"""

import numpy as np
from numba import types

from autotx.kernels.attention import FEW_QUERIES, IN4, INFINITY, attention, key_block, scale_of
from autotx.kernels.dots import sum_of_rows
from autotx.kernels.exp import ONE, ZERO, exp, larger
from autotx.kernels.jit import kernel
from autotx.kernels.launches import shared
from autotx.kernels.rope import angles, rope, rotate_row
from autotx.kernels.rows import FLOAT32, FLOAT_BYTES, IDS, IN2, INTEGER, OUT2, contiguous, tasks, use_numba
from autotx.kernels.simd import FLOAT32_TILE
from autotx.kernels.softmax import row_max
from autotx.kernels.tile import thread_memory

KEY_BLOCK = key_block(FLOAT32_TILE)
NO_ANGLES = np.empty((0, 0), np.float32)
SOME_QUERIES, FEW_SCORES = 16, 2**14  # up to so many queries with up to so many scores of a head are few, too
ONE_TASK_FLOATS = 2**16  # floats of keys times queries: up to so many, attention runs in the calling thread


def attend(q, keys, values, seen):
    """softmax(q K^T / sqrt(D)) V. q: (B, H, T, D), keys: (B, G, D, size), values: (B, G, size, D), result (B, T, H, D).

    H is a multiple of G: each head of keys and values serves H / G successive heads of q.
    seen: the number of keys, from the first, that a query may attend to, at least 1; the values of others do not
    matter. An integer n: causal, query t attends to the first n + t. Integers (B,): queries of row b to the first
    seen[b]. In float32, on processors with fused multiply-adds, a query's result has the same bits with any number of
    other queries. In float64 and under NUMBA_DISABLE_JIT=1, where NumPy computes it, bits may differ.
    """
    (B, H, T, D), causal = q.shape, np.ndim(seen) == 0
    if not (_few(T, keys.shape[3]) and use_numba(q, keys, values)):
        most = seen + T - 1 if causal else seen.max()
        mask = None if causal else np.arange(most) < seen[:, None, None, None]
        y, _ = attention(q, keys[..., :most].swapaxes(2, 3), values[:, :, :most], mask, causal)
        return y.transpose(0, 2, 1, 3)
    out, seen = np.empty((B, T, H, D), np.float32), np.full(B, seen) if causal else seen
    step = B * H if T * keys.size <= ONE_TASK_FLOATS else 1
    scratch = thread_memory(2 * D + KEY_BLOCK, FLOAT32)
    _attend(tasks(B * H, step), q, contiguous(keys), contiguous(values), seen, causal, out, scratch, step)
    return out


def attend_new(qkv, keys, values, start, n_head, base=None):
    """Causal attention of T new tokens to themselves and the tokens before them.

    qkv: (B T, (H + 2 G) D), the new queries, keys and values. The keys and values are first written to the cache, keys
    (B, G, D, size) and values (B, G, size, D), C-contiguous. start: an array of one integer, the number of tokens
    before. H = n_head. base: queries and keys are rotated as by `rope`; None for no rotation. Result: (B T, H D). For
    few queries it is one launch.
    """
    (B, G, size, D), H = values.shape, n_head
    T = len(qkv) // B
    heads = qkv.reshape(B, T, H + 2 * G, D)
    if not (_few(T, size) and use_numba(qkv, keys, values)):
        at = int(start[0])
        q, k, v = np.split(heads.transpose(0, 2, 1, 3), (H, H + G), axis=1)
        q, k = (q, k) if base is None else (rope(part, base, at) for part in (q, k))
        keys[..., at : at + T], values[:, :, at : at + T] = k.swapaxes(2, 3), v
        return attend(q, keys, values, at + 1).reshape(B * T, H * D)
    out = np.empty((B, T, H, D), np.float32)
    cos, sin = (NO_ANGLES, NO_ANGLES) if base is None else angles(size, D, base, FLOAT32)
    step = B * G if B * H * T * D * size <= ONE_TASK_FLOATS else 1
    scratch = thread_memory(3 * D + KEY_BLOCK, FLOAT32)
    _attend_new(tasks(B * G, step), contiguous(heads), cos, sin, keys, values, start, out, scratch, step)
    return out.reshape(B * T, H * D)


def _few(T, size):
    """Whether T queries of up to `size` keys are so few that packing the keys takes longer than it saves."""
    return T <= FEW_QUERIES or (T <= SOME_QUERIES and T * size <= FEW_SCORES)


CACHE = types.Array(types.float32, 4, "C", readonly=True)


@kernel
def _attend_query(q, keys, values, seen, scratch, out):
    """Attention of one query to the first `seen` keys, in blocks, as in attention.py.

    q, out: (D,). keys: (D, size). values: (size, D). scratch: room for the scaled query, the weights of a block, and
    the weighted sum of its values.
    """
    D, top, total = q.size, -INFINITY, ZERO
    scaled, weights, summed = scratch[:D], scratch[D : D + KEY_BLOCK], scratch[D + KEY_BLOCK : 2 * D + KEY_BLOCK]
    for d in range(D):
        scaled[d] = q[d] * scale_of(D)
    out[:] = ZERO
    for s in range(0, seen, KEY_BLOCK):
        p = weights[: min(KEY_BLOCK, seen - s)]
        at = keys.ctypes.data + FLOAT_BYTES * s
        sum_of_rows(scaled.ctypes.data, D, at, keys.shape[1], p.ctypes.data, p.size)
        before, top, block_total = top, larger(top, row_max(p)), ZERO
        factor = exp(before - top)
        for i in range(p.size):
            p[i] = exp(p[i] - top)
        for i in range(p.size):
            block_total += p[i]
        sum_of_rows(p.ctypes.data, p.size, values.ctypes.data + FLOAT_BYTES * s * D, D, summed.ctypes.data, D)
        for d in range(D):
            out[d] = summed[d] + out[d] * factor
        total = block_total + total * factor
    for d in range(D):
        out[d] *= ONE / total if seen else ZERO


@shared(IN4, CACHE, CACHE, IDS, types.boolean, types.Array(types.float32, 4, "C"), OUT2, INTEGER)
@kernel
def _attend(q, keys, values, lengths, causal, out, scratch, step, worker, task):
    """A task: `step` heads, counted through the batch."""
    (B, H, T, _), shared_by = q.shape, q.shape[1] // keys.shape[1]
    for head in range(task * step, min(task * step + step, B * H)):
        b, h = head // H, head % H
        k, v = keys[b, h // shared_by], values[b, h // shared_by]
        for t in range(T):
            seen = lengths[b] + t if causal else lengths[b]
            _attend_query(q[b, h, t], k, v, seen, scratch[worker], out[b, t, h])


WRITTEN = types.Array(types.float32, 4, "C")


@shared(CACHE, IN2, IN2, WRITTEN, WRITTEN, IDS, WRITTEN, OUT2, INTEGER)
@kernel
def _attend_new(heads, cos, sin, keys, values, before, out, scratch, step, worker, task):
    """A task: `step` heads of keys and values, counted through the batch, with the queries' heads that they serve. So
    no two threads write to a cache line."""
    (B, T, _, D), (H, G), start = heads.shape, (out.shape[2], keys.shape[1]), before[0]
    rotated, rest = scratch[worker, :D], scratch[worker, D:]
    for head in range(task * step, min(task * step + step, B * G)):
        b, kv = head // G, head % G
        k, v = keys[b, kv], values[b, kv]
        for t in range(T):
            _rotate(heads[b, t, H + kv], cos, sin, start + t, rotated)
            for d in range(D):
                k[d, start + t] = rotated[d]
                v[start + t, d] = heads[b, t, H + G + kv, d]
        for h in range(H // G * kv, H // G * (kv + 1)):
            for t in range(T):
                _rotate(heads[b, t, h], cos, sin, start + t, rotated)
                _attend_query(rotated, k, v, start + t + 1, rest, out[b, t, h])


@kernel
def _rotate(x, cos, sin, position, y):
    """y = x, rotated where there are angles."""
    if cos.size:
        rotate_row(x.ctypes.data, cos[position].ctypes.data, sin[position].ctypes.data, x.size // 2, y.ctypes.data)
    else:
        y[:] = x

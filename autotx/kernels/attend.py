"""The attention of a few queries: the work of generating text token by token.

There is nothing to use twice, so nothing is packed: a query meets the keys as they lie. The keys of a head lie channel
by channel, (D, size), so that the scores of neighbours are computed side by side. All sums are those of attention.py,
in its order and its blocks of keys: a prompt that is read at once gives the bits of one that is read token by token.
"""

import numpy as np
from numba import types

from autotx.kernels.attention import FEW_QUERIES, IN4, INFINITY, attention, key_block, scale_of
from autotx.kernels.exp import ONE, ZERO, exp, larger
from autotx.kernels.jit import kernel
from autotx.kernels.rows import FLOAT32, IDS, INTEGER, OUT2, contiguous, tasks, use_numba
from autotx.kernels.simd import FLOAT32_TILE
from autotx.kernels.softmax import row_max
from autotx.kernels.threads import shared
from autotx.kernels.tile import thread_memory

KEY_BLOCK = key_block(FLOAT32_TILE)
ONE_TASK_FLOATS = 2**16  # floats of keys: up to so many, attention starts no threads


def attend(q, keys, values, seen):
    """softmax(q K^T / sqrt(D)) V. q: (B, H, T, D), keys: (B, G, D, size), values: (B, G, size, D), result (B, T, H, D).

    H is a multiple of G: heads of q that follow each other share those of keys and values.
    seen: how many keys may be attended to, 1 or more, the first ones; the rest may hold anything. A number n: causal,
    query t sees the first n + t. Integers (B,): every query of row b sees the first seen[b].
    To the bit the same for any number of queries, in float32, where the processor has fused multiply-adds; in float64
    and under NUMBA_DISABLE_JIT=1, where NumPy computes it, only nearly so.
    """
    (B, H, T, D), causal = q.shape, np.ndim(seen) == 0
    if T > FEW_QUERIES or not use_numba(q, keys, values):
        most = seen + T - 1 if causal else seen.max()
        mask = None if causal else np.arange(most) < seen[:, None, None, None]
        k, v = keys[..., :most].swapaxes(2, 3), values[:, :, :most]
        if k.shape[1] < H:
            k, v = (np.repeat(x, H // x.shape[1], axis=1) for x in (k, v))
        y, _ = attention(q, k, v, mask, causal)
        return y.transpose(0, 2, 1, 3)
    out, seen = np.empty((B, T, H, D), np.float32), np.full(B, seen) if causal else seen
    step = B * H if T * keys.size <= ONE_TASK_FLOATS else 1
    scratch = thread_memory(2 * D + KEY_BLOCK, FLOAT32)
    _attend(tasks(B * H, step), q, contiguous(keys), contiguous(values), seen, causal, out, scratch, step)
    return out


CACHE = types.Array(types.float32, 4, "C", readonly=True)


@kernel(fastmath={"contract"})
def _add_scaled(x, scale, y):
    """y += scale x"""
    for i in range(y.size):
        y[i] += scale * x[i]


@kernel
def _attend_query(q, keys, values, seen, scratch, out):
    """q, out: (D,), keys: (D, size), values: (size, D): block by block of the `seen` keys, as attention.py does it.

    scratch: the query, scaled; the weights of a block; and the sum that they make of its values.
    """
    D, top, total = q.size, -INFINITY, ZERO
    scaled, weights, summed = scratch[:D], scratch[D : D + KEY_BLOCK], scratch[D + KEY_BLOCK : 2 * D + KEY_BLOCK]
    for d in range(D):
        scaled[d] = q[d] * scale_of(D)
    out[:] = ZERO
    for s in range(0, seen, KEY_BLOCK):
        p = weights[: min(KEY_BLOCK, seen - s)]
        p[:] = ZERO
        for d in range(D):
            _add_scaled(keys[d, s : s + p.size], scaled[d], p)
        before, top, block_total = top, larger(top, row_max(p)), ZERO
        factor = exp(before - top)
        for i in range(p.size):
            p[i] = exp(p[i] - top)
        summed[:] = ZERO
        for i in range(p.size):
            _add_scaled(values[s + i], p[i], summed)
            block_total += p[i]
        for d in range(D):
            out[d] = summed[d] + out[d] * factor
        total = block_total + total * factor
    for d in range(D):
        out[d] *= ONE / total if seen else ZERO


@shared(IN4, CACHE, CACHE, IDS, types.boolean, types.Array(types.float32, 4, "C"), OUT2, INTEGER)
@kernel
def _attend(q, keys, values, lengths, causal, out, scratch, step, worker, task):
    """The heads of a task."""
    (B, H, T, _), shared_by = q.shape, q.shape[1] // keys.shape[1]
    for head in range(task * step, min(task * step + step, B * H)):
        b, h = head // H, head % H
        k, v = keys[b, h // shared_by], values[b, h // shared_by]
        for t in range(T):
            seen = lengths[b] + t if causal else lengths[b]
            _attend_query(q[b, h, t], k, v, seen, scratch[worker], out[b, t, h])

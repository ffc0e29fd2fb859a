"""Attention, forward and backward, on stacks of (T, D) queries, (S, D) keys and (S, D) values.

The direct computation makes T x S scores, then their softmax, then a product with the values: three passes over a
matrix that is larger than all others. Here the scores of a block of 112 keys and 32 queries (`cols` of the register
tile) are computed and used while they are in the L1 cache, and no T x S matrix exists.

Forward. Scores and results are computed transposed: a row of scores for each key, a row of results for each channel:

    scores (keys, 32) = K (keys, D) Q^T (D, 32)        weights = e^(scores - top)        O^T (D, 32) += V^T weights

A row of 32 queries is two vectors, so the softmax works on whole vectors, without sums across lanes. The first product
writes the scores in the layout in which the second reads its right factor, so they need no packing. The blocks of keys
are processed in order. `top`, the largest score of each query so far, may rise from block to block; the sums so far are
then multiplied by e^(old top - new top) (the online softmax). The weights are summed as they are computed. At the end
O^T is divided by their sum, and lse = top + log(sum) is kept for the backward.

Backward. P = e^(scores - lse) is computed again, block by block, which is cheaper than storing and reading it:

    dP (keys, 32) = V g^T        dA = P (dP - e) / sqrt(D), e_t = sum_d g_td O_td        dQ^T (D, 32) += K^T dA
    dV (keys, D) += P g          dK (keys, D) += dA Q

The last two are sums over queries. They are computed for 128 queries at a time, from P and dA packed again in panels of
14 keys (`rows`), which takes a fifteenth of the time. The first values of dV and dK are stored, later ones are added.
The factor 1 / sqrt(D) of the scores is applied to Q when it is packed.

Far memory. A head is 64 floats of each token's 1,152, say: no prefetcher of a processor finds the next row, and a head
has eight arrays of them. With T = 256 on an Intel Xeon (family 6, model 167, 2 MB of L2), a third of the time went into
waiting: copying took four times as long as in the cache, and setting dK and dV to zero a seventh of the backward. So
keys are packed when the first queries see them, and while a panel of 32 queries is processed, `_fetch` brings 32 rows
of what follows near: the next queries, O and g, the next keys and values, those of the next head at the end of one, and
the rows to write. That and storing first values made the backward 1.27 times as fast, the forward 1.2 times.

Causal: all seven products skip the panels of keys that none of the 32 queries may attend to. Masks become floats to
add, 0 or -inf, and are read through their strides, so a broadcast mask is stored once. A query that may attend to no
key has sum 0 and O = 0.

A task is one head; in the forward, 512 queries of a head where there are fewer than 16 heads. In the backward it is
always a whole head of K and V with all heads of Q that use it, so only one thread adds to its dK and dV. The order of
all sums depends on the shape alone, so results are the same with any number of threads.

q, k, v and g may be views with any strides, such as parts of one (B, T, 3C) projection. Results have the memory order
of the corresponding inputs: (B, T, H, D) when heads are nearer than tokens, so that merging the heads is a view.

Memory, besides the results: each thread keeps the packed K and V of one head, 2 S D floats forward and 3 S D backward,
and up to 0.5 MB of blocks. T = 4,096 and D = 64 take 2.4 and 3.7 MB a thread; the scores would take 67 MB a head.

Measured against torch 2.13's scaled_dot_product_attention(is_causal=True), forward and backward together, in turns,
two threads on two Zen 4 cores (`autotx bench --only attention`). The rate counts the unmasked half of the products; the
tile alone reaches 225 GFLOP/s there:

| B, H, T, D       | torch's time / ours | GFLOP/s |
|------------------|---------------------|---------|
| 12, 4, 64, 32    | 2.30                | 45      |
| 16, 6, 256, 64   | 1.90                | 96      |
| 4, 12, 1024, 64  | 1.75                | 144     |
| 1, 4, 4096, 64   | 1.41                | 156     |

Those are times before the rows were fetched ahead; that was measured on the Xeon alone.

A head of 64 tokens and 32 channels takes 10 microseconds forward and 19 backward: half for the products, at the speed
of the tile, half for packing, the softmax and writing back. Blocks of 112 to 224 keys and 128 or 256 queries are
equally fast.

For at most FEW_QUERIES queries, as in generation, packing the keys would cost more than the products: the NumPy twins
below are 3 to 5 times as fast. They also compute float64, dropout, values of another width than the keys, and
everything under NUMBA_DISABLE_JIT=1.

Source: Dao et al., 2022, "FlashAttention", https://arxiv.org/abs/2205.14135; Milakov and Gimelshein, 2018, "Online
normalizer calculation for softmax", https://arxiv.org/abs/1805.02867.
"""

import functools
import math
from collections import namedtuple

import numpy as np
from numba import types
from numba.extending import register_jitable

from autotx.kernels import total
from autotx.kernels.exp import exp, flushed, flushed_twin, larger, log
from autotx.kernels.jit import kernel
from autotx.kernels.launches import shared_by_tile
from autotx.kernels.rows import FLOAT_BYTES, contiguous, floats, use_numba
from autotx.kernels.simd import FLOAT32_TILE, address_of, prefetch
from autotx.kernels.tile import CACHE_LINE, thread_memory

PIECE = 512  # queries in a task of the forward, where there are fewer than 16 heads
FEW_QUERIES = 4  # for at most so many queries, the NumPy twins are faster
INFINITY = np.float32(np.inf)
ZERO, ONE = np.float32(0), np.float32(1)


def attention(q, k, v, mask=None, causal=False, keep=None, tile=FLOAT32_TILE):
    """O = softmax(Q K^T / sqrt(D) masked) V and lse, the logarithm of each row's normaliser.

    q: (..., T, D), k: (..., S, D), v: (..., S, Dv); mask: booleans (True: may attend) or floats (added), broadcasting
    to (..., T, S), or None; keep: (..., T, S) factors on the weights (dropout) or None. The axis before T, of heads,
    may be a multiple of that of k and v: each of their heads serves that many successive heads of q.
    Returns O (..., T, Dv) and lse (..., T). For a query that may attend to no key, O is 0 and lse is -inf.
    """
    if keep is not None or q.shape[-2] <= FEW_QUERIES or not _use_kernel(q, k, v):
        return _attention_twin(q, k, v, mask, causal, keep, tile.product)
    q4, k4, v4 = _four_axes(q), _four_axes(k), _four_axes(v)
    (B, H, T, D), S = q4.shape, k4.shape[2]
    out, lse = _empty_like(q4), np.empty((B, H, T), np.float32)
    block = _key_block(tile, S)
    piece = T if B * H >= 16 else min(T, PIECE)
    at = _places(tile, Forward, S, D, block)
    tasks = B * H * -(-T // piece)
    memory = _memory(tile, at.end)
    _forward(
        tile, tasks, q4, k4, v4, _added(mask, q, k), mask is not None, causal, out, lse, block, piece, at, *memory
    )  # fmt: skip
    return out.reshape(q.shape), lse.reshape(q.shape[:-1])


def attention_backward(g, q, k, v, out, lse, mask=None, causal=False, keep=None, into=None, tile=FLOAT32_TILE):
    """dq, dk, dv, with the shapes of q, k, v. g: the gradient of O; out, lse: the results of `attention`.

    into: three arrays with the shapes of q, k, v and contiguous rows, to hold the results; None for new ones.
    """
    if keep is not None or q.shape[-2] <= FEW_QUERIES or not _use_kernel(q, k, v, g, out, lse):
        results = _attention_backward_twin(g, q, k, v, out, mask, causal, keep, tile.product)
        for result, given in zip(results, into or ()):
            given[...] = result
        return into or results
    g4, q4, k4, v4, out4 = (_four_axes(x) for x in (_with_rows(g), q, k, v, _with_rows(out)))
    D, S = q4.shape[3], k4.shape[2]
    dq, dk, dv = map(_four_axes, into) if into else (_empty_like(x) for x in (q4, k4, v4))
    block = _key_block(tile, S)
    at = _places(tile, Backward, S, D, block)
    tasks = k4.shape[0] * k4.shape[1]
    lse, added, memory = contiguous(lse).reshape(q4.shape[:3]), _added(mask, q, k), _memory(tile, at.end)
    _backward(
        tile, tasks, g4, q4, k4, v4, out4, lse, added, mask is not None, causal, dq, dk, dv, block, at, *memory
    )  # fmt: skip
    return into or (dq.reshape(q.shape), dk.reshape(k.shape), dv.reshape(v.shape))


# ---- NumPy twins ------------------------------------------------------------------------------------------------


def _weights(q, k, mask, causal, product):
    """P = softmax of the masked scores, with zero rows for queries that may attend to no key; and lse.

    A row of P sums to 1 up to rounding, even when all its scores are large: P = e^(score - lse) would have the rounding
    error of lse, which for scores near 80 is a hundred times that of P.
    """
    a = product(q * q.dtype.type(q.shape[-1] ** -0.5), np.swapaxes(_for_each_query(k, q), -1, -2))
    if mask is not None:
        a = np.where(mask, a, -np.inf) if mask.dtype == bool else a + mask
    if causal:
        T, S = a.shape[-2:]
        a = np.where(np.tri(T, S, S - T, dtype=bool), a, -np.inf)
    a = a.astype(q.dtype, copy=False)
    m = np.max(a, axis=-1, initial=-np.inf)
    m = np.where(np.isneginf(m), 0, m)
    p = np.exp(a - m[..., None])
    s = total(p, -1)
    with np.errstate(divide="ignore"):
        return p / np.where(s == 0, 1, s)[..., None], np.log(s) + m


def _attention_twin(q, k, v, mask, causal, keep, product=np.matmul):
    p, lse = _weights(q, k, mask, causal, product)
    return product(p if keep is None else p * keep, _for_each_query(v, q)), lse


def _attention_backward_twin(g, q, k, v, out, mask, causal, keep, product=np.matmul):
    p, _ = _weights(q, k, mask, causal, product)
    dropped = p if keep is None else p * keep
    dv = product(np.swapaxes(dropped, -1, -2), g)
    dp = product(g, np.swapaxes(_for_each_query(v, q), -1, -2))
    if keep is not None:
        dp = dp * keep
    e = total(g * out, -1, keepdims=True)
    da = flushed_twin(p * (dp - e) * q.dtype.type(q.shape[-1] ** -0.5))
    dq, dk = product(da, _for_each_query(k, q)), product(np.swapaxes(da, -1, -2), q)
    return dq, _over_queries(dk, k), _over_queries(dv, v)


def _for_each_query(x, q):
    """Keys or values x with each head repeated for the heads of q that use it."""
    return x if x.ndim < 3 or x.shape[-3] == q.shape[-3] else np.repeat(x, q.shape[-3] // x.shape[-3], axis=-3)


def _over_queries(dx, x):
    """The gradient of what `_for_each_query` repeated: the sum over the heads of q that use a head of x."""
    if x.ndim < 3 or dx.shape[-3] == x.shape[-3]:
        return dx
    return dx.reshape(*x.shape[:-2], -1, *x.shape[-2:]).sum(axis=-3)


# ---- arguments of the kernels -----------------------------------------------------------------------------------


def _use_kernel(q, k, v, *others):
    """Whether the kernels take these arrays: float32, values as wide as keys, none empty, and Numba enabled."""
    for x in (q, k, v, *others):
        if not x.size or not x.flags.aligned:
            return False
    return use_numba(q, k, v, *others) and v.shape[-1] == q.shape[-1]


def _four_axes(x):
    """x: (..., T, D) as (B, H, T, D): a view, unless merging more than two leading axes requires a copy."""
    if x.ndim == 4:
        return x
    lead = (1,) * (4 - x.ndim) + x.shape[:-2]
    return x.reshape(math.prod(lead[:-1]), *lead[-1:], *x.shape[-2:])


def _with_rows(x):
    """x itself if the numbers of a row are neighbours, else a contiguous copy."""
    return x if x.strides[-1] == FLOAT_BYTES or x.shape[-1] == 1 else x.copy()


def _added(mask, q, k):
    """The mask as floats to add: a (B, H, T, S) view in which broadcast axes take no memory. For None, NO_MASK."""
    if mask is None:
        return NO_MASK
    if mask.dtype == bool:
        mask = np.where(mask, ZERO, -INFINITY)
    return _four_axes(np.broadcast_to(mask.astype(np.float32, copy=False), (*q.shape[:-1], k.shape[-2])))


NO_MASK = np.broadcast_to(ZERO, (1, 1, 1, 1))  # its strides are 0, so mask[b, h] is valid memory for every head


def _empty_like(x):
    """A new array with the shape (B, H, T, D) of x and its memory order of tokens and heads."""
    B, H, T, D = x.shape
    if x.strides[1] < x.strides[2]:
        return np.empty((B, T, H, D), np.float32).transpose(0, 2, 1, 3)
    return np.empty((B, H, T, D), np.float32)


def key_block(tile):
    """The most keys in a block: whole panels."""
    return -(-tile.keys // tile.rows) * tile.rows


def _key_block(tile, S):
    """Keys in a block. For every S of more than one block it is the same, so one more key does not regroup the sums."""
    return min(key_block(tile), -(-S // tile.rows) * tile.rows)


@register_jitable
def _up(size, unit):
    """`size` rounded up to a multiple of `unit`."""
    return (size + unit - 1) // unit * unit


@register_jitable
def _panels(tile, lines, width, depth):
    """Floats in the packed panels of width `width` for `lines` lines."""
    return _up(lines, width) // width * tile.panel_size(tile, width, depth)


@register_jitable
def _copies(tile, lines, width, depth):
    """Floats in the panels of width `width` that `copy` makes of `lines` lines."""
    return _up(lines, width) // width * tile.copy_size(tile, width, depth)


Forward = namedtuple("Forward", "k v q scores rounded copied mask out top total factor shift added rows end")
Backward = namedtuple(
    "Backward",
    "k k_channels v q q_channels g g_channels weights grads rounded copied mask weights_repacked grads_repacked dq lse "
    "e rows end",
)


@functools.lru_cache(maxsize=1024)
def _places(tile, kind, S, D, block):
    """The offsets of a worker's buffers in its scratch memory, in floats; they are multiples of tile.cols.

    kind: Forward or Backward. After each buffer there is room for the unused lanes of its last vectors.
    """
    rows, cols, deep = tile.rows, tile.cols, tile.queries
    queries, channels = _panels(tile, deep, cols, D), _panels(tile, D, cols, deep)  # lines that are packed in panels
    copied = max(_copies(tile, deep, cols, D), _copies(tile, D, cols, deep))
    keys, scores = _panels(tile, S, rows, D), tile.copy_size(tile, cols, block)
    repacked, tall, blocks = _panels(tile, block, rows, deep), deep * D, -(-S // block)
    sizes = {
        "k": keys, "k_channels": blocks * _panels(tile, D, rows, block), "v": keys,
        "q": queries, "q_channels": channels, "g": queries, "g_channels": channels,
        "scores": scores, "weights": scores, "grads": scores, "mask": scores,
        "rounded": scores * tile.rounds, "copied": copied * tile.rounds,
        "weights_repacked": repacked, "grads_repacked": repacked, "dq": tall, "out": tall,
        "lse": deep, "e": deep, "top": deep, "total": deep, "factor": cols, "shift": cols, "added": cols,
        "rows": cols * _up(D, tile.lanes),
    }  # fmt: skip
    if kind is Forward:
        sizes["v"] = blocks * _panels(tile, D, tile.rows, block)
    places = [0]
    for name in kind._fields[:-1]:
        places.append(places[-1] + _up(sizes[name] + tile.lanes * tile.cols, 64))
    return kind(*places[:-1], _up(places[-1], 1024))


def _memory(tile, size):
    """Scratch memory: for each worker a row of at least `size` floats; and a view of it in lines of tile.cols."""
    rows = thread_memory(size, tile.number)
    return rows, rows.reshape(len(rows), -1, tile.cols)


IN3, IN4 = (types.Array(types.float32, ndim, "A", readonly=True) for ndim in (3, 4))
OUT4 = types.Array(types.float32, 4, "A")
OUT3, READ3 = types.Array(types.float32, 3, "C"), types.Array(types.float32, 3, "C", readonly=True)
TABLE = types.float32[:, ::1]
FLAG, NUMBER = types.boolean, types.intp
AT = {kind: types.NamedUniTuple(types.intp, len(kind._fields), kind) for kind in (Forward, Backward)}


# ---- forward ----------------------------------------------------------------------------------------------------


@shared_by_tile(lambda _: (IN4, IN4, IN4, IN4, FLAG, FLAG, OUT4, OUT3, NUMBER, NUMBER, AT[Forward], TABLE, IN3))
@kernel
def _forward(tile, q, k, v, mask, masked, causal, out, lse, block, piece, at, scratch, lines, worker, task):
    """A task: the queries first to last - 1 of one head of one sequence."""
    (B, H, T, D), S, shared_by = q.shape, k.shape[2], q.shape[1] // k.shape[1]
    pieces = (T + piece - 1) // piece
    b, h, first = task // pieces // H, task // pieces % H, task % pieces * piece
    after = _task_after(task, worker, B * H * pieces)
    b_next, h_next, first_next = after // pieces // H, after // pieces % H, after % pieces * piece
    q_next, k_next, v_next = q[b_next, h_next], k[b_next, h_next // shared_by], v[b_next, h_next // shared_by]
    last, kv = min(first + piece, T), h // shared_by  # the head of keys and values that head h uses
    q, k, v, mask, out, lse = q[b, h], k[b, kv], v[b, kv], mask[b, h], out[b, h], lse[b, h]
    scratch, lines = scratch[worker], lines[worker]
    ahead, packed = S - T if causal else S, 0  # query t may attend to keys 0 to t + ahead
    for q0 in range(first, last, tile.queries):
        q1 = min(q0 + tile.queries, last)
        _start_queries(tile, q[q0:q1], at, scratch)
        for s in range(0, min(S, q1 + ahead), block):
            keys = min(block, S - s)
            k_at = at.k + s // tile.rows * tile.panel_size(tile, tile.rows, D)
            v_at = at.v + s // block * _panels(tile, D, tile.rows, block)
            if s >= packed:
                tile.pack(tile, k[s : s + keys], tile.rows, scratch, k_at)
                tile.pack(tile, v[s : s + keys].T, tile.rows, scratch, v_at)
                packed = s + keys
            for t in range(q0, q1, tile.cols):
                n, panel = min(keys, t + tile.cols + ahead - s), (t - q0) // tile.cols
                if s + keys == packed:
                    _fetch(tile, (k, v), packed + t - q0)
                if s == 0:
                    _fetch(tile, (out,), t)
                    if q1 < last:
                        _fetch(tile, (q,), q1 + t - q0)
                    else:
                        _fetch(tile, (q_next,), first_next + t - q0)
                        _fetch(tile, (k_next, v_next), t - q0)
                if n > 0:
                    out_at, total = at.out + panel * D * tile.cols, at.total + t - q0
                    _scores(tile, scratch, at.q + panel * tile.panel_size(tile, tile.cols, D), k_at, D, n, at.scores)
                    if masked:
                        _add_mask(tile, mask[t : min(t + tile.cols, T), s : s + n], at, scratch, at.scores)
                    _cut_future(tile, scratch, at.scores, n, t + ahead - s)
                    _softmax_step(tile, scratch, at.scores, n, at.top + t - q0, total, at.factor, at.shift, at.added)
                    if s > 0:  # the first block has no earlier sums
                        _rescale(tile, scratch, out_at, D, at.factor)
                    weights = _rounded(tile, scratch, at.scores, n, at.rounded)
                    _add_weighted(tile, scratch, weights, n, v_at, keys, D, out_at)
        for t in range(q0, q1, tile.cols):
            out_at = at.out + (t - q0) // tile.cols * D * tile.cols
            _normalisers(tile, scratch, at.total + t - q0, at.top + t - q0, at.factor)
            for j in range(min(tile.cols, q1 - t)):
                lse[t + j] = scratch[at.top + t - q0 + j]
            _rescale(tile, scratch, out_at, D, at.factor)
            _write(tile, out_at, at, scratch, lines, out[t : min(t + tile.cols, q1)])


@kernel
def _task_after(task, worker, tasks):
    """The task that this worker probably takes next, see threads.py."""
    return max(task - 1, 0) if worker % 2 else min(task + 1, tasks - 1)


@kernel
def _fetch(tile, arrays, first):
    """Prefetch `cols` rows of each array from row `first` on, those that there are, into the second cache."""
    for x in arrays:
        for t in range(first, min(first + tile.cols, len(x))):
            row = x.ctypes.data + t * x.strides[0]
            for line in range(row // CACHE_LINE * CACHE_LINE, row + FLOAT_BYTES * x.shape[1], CACHE_LINE):
                prefetch(line)


@kernel
def _start_queries(tile, q, at, scratch):
    n, D = q.shape
    _pack_scaled(tile, q, scale_of(D), at, scratch, at.q)
    scratch[at.out : at.out + _up(n, tile.cols) * D] = ZERO
    scratch[at.top : at.top + tile.queries] = -INFINITY
    scratch[at.total : at.total + tile.queries] = ZERO


@kernel
def scale_of(D):
    return np.float32(1 / math.sqrt(D))


@kernel
def _pack_scaled(tile, x, scale, at, scratch, place):
    """Pack x * scale in panels of `cols` lines."""
    lines, depth = x.shape
    copied = at.copied if tile.rounds else place
    tile.copy(tile, x, tile.cols, scratch, copied)
    panels = scratch[copied:]
    for i in range(_copies(tile, lines, tile.cols, depth)):
        panels[i] *= scale
    _round_panels(tile, scratch, copied, lines, depth, place)


@kernel
def _round_panels(tile, scratch, copied, lines, depth, place):
    """Pack, at `place`, panels that were copied, where the tile rounds."""
    for _ in range(0, lines, tile.cols):
        _rounded(tile, scratch, copied, depth, place)
        copied += tile.copy_size(tile, tile.cols, depth)
        place += tile.panel_size(tile, tile.cols, depth)


@kernel
def _rounded(tile, scratch, x, depth, place):
    """The place of x, depth x cols floats, as a right factor: it is packed at `place` where the tile rounds."""
    if not tile.rounds:
        return x
    cols = tile.cols
    tile.pack_outlined(tile, address_of(scratch, x), cols, depth, 1, cols, cols, address_of(scratch, place))
    return place


@kernel
def _scores(tile, scratch, right, left, D, n, scores):
    """scores (n, cols) = left (n, D) times right (D, cols), both packed."""
    steps, cols = (tile.panel_size(tile, tile.rows, D), 1, tile.rows), tile.cols
    tile.multiply(
        tile, D, scratch, left, steps, scratch, right, 0, tile.zeros, 0, (0, 0), scratch, scores, cols, n, cols
    )  # fmt: skip


@kernel
def _add_mask(tile, mask, at, scratch, scores):
    """Add the mask (queries, n) to the scores (n, cols)."""
    tile.copy(tile, mask, tile.cols, scratch, at.mask)
    x, added = scratch[scores:], scratch[at.mask :]
    for i in range(mask.shape[1] * tile.cols):
        x[i] += added[i]


@kernel
def _cut_future(tile, scratch, scores, n, visible):
    """Set the scores of future keys to -inf: query j of the panel may attend to the first visible + j + 1 of n keys."""
    for s in range(max(0, visible + 1), n):
        for j in range(min(tile.cols, s - visible)):
            scratch[scores + s * tile.cols + j] = -INFINITY


# LLVM vectorises the loops below under two conditions. Indices must start from 0, because Numba has to test others for
# being negative (counted from the end): so each buffer is sliced first. And the body must not be short, or LLVM unrolls
# the loop over `cols` into scalar instructions: so a body handles four lines.


@kernel
def _softmax_step(tile, scratch, place, n, top_at, total_at, factor_at, shift_at, added_at):
    """A step of the online softmax: top = the maximum so far, factor = e^(old top - new top), the scores are replaced
    by e^(score - top), and total = factor total + their sum."""
    scores, top, factor, shift = scratch[place:], scratch[top_at:], scratch[factor_at:], scratch[shift_at:]
    cols = tile.cols
    for i in range(n * tile.cols, _up(n, 4) * tile.cols):
        scores[i] = -INFINITY
    for j in range(tile.cols):
        factor[j] = top[j]
    for s in range((n + 3) // 4):
        for j in range(tile.cols):
            i = s * 4 * cols + j
            a, b = larger(scores[i], scores[i + cols]), larger(scores[i + 2 * cols], scores[i + 3 * cols])
            top[j] = larger(larger(a, b), top[j])
    for j in range(tile.cols):
        shift[j] = top[j] if top[j] > -INFINITY else ZERO  # without any key so far: e^-inf = 0
        factor[j] = exp(factor[j] - shift[j])
    added, total = scratch[added_at:], scratch[total_at:]
    for j in range(tile.cols):
        added[j] = ZERO
    for s in range(n):
        for j in range(tile.cols):
            weight = exp(scores[s * tile.cols + j] - shift[j])
            scores[s * tile.cols + j] = weight
            added[j] += weight
    for j in range(tile.cols):
        total[j] = added[j] + total[j] * factor[j]


@kernel
def _rescale(tile, scratch, place, lines, factor_at):
    """Multiply each line of `cols` floats by the factors."""
    factor = scratch[factor_at : factor_at + tile.cols]
    for at in range(place, place + lines * tile.cols, tile.cols):
        x = scratch[at : at + tile.cols]
        for j in range(x.size):
            x[j] *= factor[j]


@kernel
def _add_weighted(tile, scratch, weights, n, channels, depth, D, out):
    """out (D, cols) += x^T (D, n) times weights (n, cols). x has `depth` lines, packed in panels of `rows` channels."""
    steps, cols = (tile.panel_size(tile, tile.rows, depth), 1, tile.rows), tile.cols
    tile.multiply(
        tile, n, scratch, channels, steps, scratch, weights, 0, scratch, out, (cols, 1), scratch, out, cols, D, cols
    )  # fmt: skip


@kernel
def _normalisers(tile, scratch, total_at, top_at, factor_at):
    """factor = 1 / total, by which the results are then multiplied, and top is replaced by lse = top + log(total)."""
    total, top, factor = scratch[total_at:], scratch[top_at:], scratch[factor_at:]
    for j in range(tile.cols):
        factor[j] = ONE / total[j] if total[j] != ZERO else ZERO  # 0 for a query without any key
    for j in range(tile.cols):
        top[j] += log(total[j])


@kernel
def _write(tile, x, at, scratch, lines, out):
    """out (queries, D) = the transpose of x (D, cols)."""
    D, line, width = out.shape[1], x // tile.cols, _up(out.shape[1], tile.lanes)
    tile.copy(tile, lines[line : line + D], width, scratch, at.rows)
    for t in range(len(out)):
        row, rows = floats(out.ctypes.data + t * out.strides[0], D), scratch[at.rows + t * width :]
        for d in range(D):
            row[d] = rows[d]


# ---- backward ---------------------------------------------------------------------------------------------------


@shared_by_tile(lambda _: (*5 * [IN4], READ3, IN4, FLAG, FLAG, *3 * [OUT4], NUMBER, AT[Backward], TABLE, IN3))
@kernel
def _backward(
    tile, g, q, k, v, out, lse, mask, masked, causal, dq, dk, dv, block, at, scratch, lines, worker, task
):  # fmt: skip
    """A task: one head of k and v, with the heads of q that use it, so that only one thread adds to its dk and dv."""
    (H, T, D), (B, G, S) = q.shape[1:], k.shape[:3]
    b, kv, heads, after = task // G, task % G, H // G, _task_after(task, worker, B * G)
    k_after, v_after = k[after // G, after % G], v[after // G, after % G]
    k, v, dk, dv, scratch, lines = k[b, kv], v[b, kv], dk[b, kv], dv[b, kv], scratch[worker], lines[worker]
    ahead, packed, scale = S - T if causal else S, 0, scale_of(D)  # query t may attend to keys 0 to t + ahead
    for h in range(kv * heads, (kv + 1) * heads):
        for q0 in range(0, T, tile.queries):
            q1 = min(q0 + tile.queries, T)
            _pack_queries(tile, g[b, h, q0:q1], q[b, h, q0:q1], out[b, h, q0:q1], lse[b, h, q0:q1], at, scratch)
            begun = S if h > kv * heads else q0 + ahead if q0 > 0 else 0  # the keys before it have sums in dk and dv
            last = q1 == T and h + 1 == (kv + 1) * heads
            place = (after // G, after % G * heads, 0) if last else (b, h + 1, 0) if q1 == T else (b, h, q1)
            following = q[place[:2]], g[place[:2]], out[place[:2]]
            for s in range(0, min(S, q1 + ahead), block):
                keys, keys_at = min(block, S - s), s // tile.rows * tile.panel_size(tile, tile.rows, D)
                k_at, v_at = at.k + keys_at, at.v + keys_at
                channels = at.k_channels + s // block * _panels(tile, D, tile.rows, block)
                if s >= packed:
                    _pack_both(tile, k[s : s + keys], v[s : s + keys], k_at, v_at, channels, scratch)
                    packed = s + keys
                for t in range(q0, q1, tile.cols):
                    n, panel = min(keys, t + tile.cols + ahead - s), (t - q0) // tile.cols
                    if s + keys == packed:
                        _fetch(tile, (k, v), packed + t - q0)
                        _fetch(tile, (dk, dv), s + t - q0)
                    if s == 0:
                        _fetch(tile, (dq[b, h],), t)
                        _fetch(tile, following, place[2] + t - q0)
                    if s == 0 and last:
                        _fetch(tile, (k_after, v_after), t - q0)
                    if n > 0:
                        panel_at, dq_at = panel * tile.panel_size(tile, tile.cols, D), panel * D * tile.cols
                        _scores(tile, scratch, at.q + panel_at, k_at, D, n, at.weights)
                        if masked:
                            _add_mask(tile, mask[b, h, t : min(t + tile.cols, T), s : s + n], at, scratch, at.weights)
                        _cut_future(tile, scratch, at.weights, n, t + ahead - s)
                        _scores(tile, scratch, at.g + panel_at, v_at, D, n, at.grads)
                        _differentiate(tile, scratch, n, at.lse + t - q0, at.e + t - q0, scale, at)
                        grads = _rounded(tile, scratch, at.grads, n, at.rounded)
                        _add_weighted(tile, scratch, grads, n, channels, keys, D, at.dq + dq_at)
                        before = tile.offset(tile, tile.rows, t - q0)
                        _repack(tile, lines, at.weights, n, at, scratch, at.weights_repacked + before)
                        _repack(tile, lines, at.grads, n, at, scratch, at.grads_repacked + before)
                # the last argument: the number of queries in this block that may not attend to key s
                seen = min(keys, q1 + ahead - s), keys, q1 - q0, begun - s, s - ahead - q0
                _add_over_queries(tile, scratch, at.weights_repacked, at.g_channels, *seen, dv, s)
                _add_over_queries(tile, scratch, at.grads_repacked, at.q_channels, *seen, dk, s)
            for t in range(q0, q1, tile.cols):
                x = at.dq + (t - q0) // tile.cols * D * tile.cols
                _write(tile, x, at, scratch, lines, dq[b, h, t : min(t + tile.cols, q1)])


@kernel
def _pack_both(tile, k, v, k_at, v_at, channels, scratch):
    """Pack keys and values in panels of `rows` keys, and the keys also in panels of `rows` channels."""
    tile.pack(tile, k, tile.rows, scratch, k_at)
    tile.pack(tile, v, tile.rows, scratch, v_at)
    tile.pack(tile, k.T, tile.rows, scratch, channels)


@kernel
def _pack_queries(tile, g, q, out, lse, at, scratch):
    """Pack q and g in panels of queries and in panels of channels; set lse, e_t = sum_d g_td O_td, and dq = 0."""
    n, D = q.shape
    _pack_scaled(tile, q, scale_of(D), at, scratch, at.q)
    tile.pack(tile, q.T, tile.cols, scratch, at.q_channels)
    tile.pack(tile, g, tile.cols, scratch, at.g)
    tile.pack(tile, g.T, tile.cols, scratch, at.g_channels)
    # queries without any key, and those beyond the last, get the weights e^(score - inf) = 0
    scratch[at.lse : at.lse + _up(n, tile.cols)], scratch[at.e : at.e + _up(n, tile.cols)] = INFINITY, ZERO
    for t in range(n):
        scratch[at.e + t] = _dot(g.ctypes.data + t * g.strides[0], out.ctypes.data + t * out.strides[0], D)
        if lse[t] != -INFINITY:
            scratch[at.lse + t] = lse[t]
    scratch[at.dq : at.dq + _up(n, tile.cols) * D] = ZERO


@kernel(fastmath={"contract", "reassoc"})
def _dot(x, y, size):
    """The sum of the products of the floats at two addresses."""
    x, y, sum_ = floats(x, size), floats(y, size), ZERO
    for i in range(size):
        sum_ += x[i] * y[i]
    return sum_


@kernel
def _differentiate(tile, scratch, n, lse_at, e_at, scale, at):
    """Replace the scores in `weights` by P = e^(score - lse), and dP in `grads` by P (dP - e) * scale,
    with 0 for subnormal numbers."""
    weights, grads, lse, e = scratch[at.weights :], scratch[at.grads :], scratch[lse_at:], scratch[e_at:]
    for s in range(n):
        for j in range(tile.cols):
            i = s * tile.cols + j
            p = exp(weights[i] - lse[j])
            weights[i] = p
            grads[i] = flushed(p * (grads[i] - e[j]) * scale)


@kernel
def _repack(tile, lines, x, n, at, scratch, repacked):
    """Pack x (n keys, cols queries) in panels of `rows` keys, tile.queries deep; these queries begin at `repacked`."""
    line = x // tile.cols
    for s in range(0, n, tile.rows):
        place = repacked + s // tile.rows * tile.panel_size(tile, tile.rows, tile.queries)
        tile.pack(tile, lines[line + s : line + min(s + tile.rows, n)], tile.rows, scratch, place)


@kernel
def _add_over_queries(tile, scratch, repacked, channels, n, keys, queries, begun, hidden, dx, start):
    """dx (keys, D) += x^T y for keys from `start` on, x (queries, n) from `_repack`, y (queries, D). Panels of hidden
    queries are skipped. Panels of keys from `begun` on are the first values of dx, instead of being added to it."""
    D, step = dx.shape[1], dx.strides[0] // FLOAT_BYTES
    for s in range(0, n, tile.rows):
        first = max(0, (hidden + s) // tile.cols * tile.cols)
        x_at = repacked + s // tile.rows * tile.panel_size(tile, tile.rows, tile.queries)
        x_at += tile.offset(tile, tile.rows, first)
        y_at, y_size = channels + tile.offset(tile, tile.cols, first), tile.panel_size(tile, tile.cols, queries)
        to, rows = (start + s) * step, min(keys - s, tile.rows)
        factors = queries - first, scratch, x_at, (0, 1, tile.rows), scratch, y_at, y_size
        if s >= begun:
            tile.multiply(tile, *factors, tile.zeros, 0, (0, 0), dx, to, step, rows, D)
        else:
            tile.multiply(tile, *factors, dx, to, (step, 1), dx, to, step, rows, D)

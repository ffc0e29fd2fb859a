"""Scaled dot-product attention as one op, for one head and for many heads."""

import functools

import numpy as np

from autotx import kernels
from autotx.checks import broadcasts_to, checked_probability, need_floats
from autotx.ops.layers import kept
from autotx.types import Array, Mask, Rng


def scaled_dot_product_attention(
    q: Array, k: Array, v: Array, /, mask: Mask = None, causal: bool = False, dropout_p: float = 0.0, rng: Rng = None
):
    """O = P V, P = softmax(A) row by row, A = Q K^T / sqrt(D): each query takes a weighted mean of the values.

    q: (..., T, D), k: (..., S, D), v: (..., S, Dv), leading axes equal (or broadcasting), O: (..., T, Dv).
    mask: booleans that broadcast to (..., T, S), True where a query may attend; or floats, added to the scores.
    causal: query t attends to the keys up to s = t + S - T, so that the last query attends to all keys (with T = S: to
    its own and earlier positions). A query without allowed keys gives zeros, and zero gradients.
    dropout_p, rng: weights are dropped with this probability if an rng is given.

    With scores A = Q K^T / sqrt(D), P = softmax(A), O = P V (matmul and softmax give each line):
        dV = P^T g                          dP = g V^T
        dA_ts = P_ts (dP_ts - e_t),  e_t = sum_s dP_ts P_ts = sum_d g_td O_td
        dQ = dA K / sqrt(D)                 dK = dA^T Q / sqrt(D)
    The last form of e_t does not need P, so that a kernel can work tile by tile without a T x S matrix.
    Masked scores have P = 0 and so no gradient. With dropout, O and dV use P after dropout; dP gets the same dropout.
    Source: Vaswani et al., 2017, "Attention Is All You Need", 3.2.1; Dao et al., 2022, "FlashAttention" (the tiles);
    the whitepaper's "Self Attention".
    """
    name = "scaled_dot_product_attention"
    if min(np.ndim(q), np.ndim(k), np.ndim(v)) < 2:
        raise ValueError(f"{name}: q {np.shape(q)}, k {np.shape(k)}, v {np.shape(v)}: give (..., tokens, channels)")
    if q.shape[-1] != k.shape[-1] or k.shape[-2] != v.shape[-2]:
        raise ValueError(
            f"{name}: q {q.shape}, k {k.shape}, v {v.shape}: q and k need the same last axis, k and v as many tokens"
        )
    lead = np.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
    q, k, v = (np.broadcast_to(a, lead + a.shape[-2:]) if a.shape[:-2] != lead else a for a in (q, k, v))
    mask, keep = _checked(name, q, k, v, mask, dropout_p, rng)
    tile = kernels.mixed.tile(kernels.simd.FLOAT32_TILE)
    out, lse = kernels.attention.attention(q, k, v, mask, causal, keep, tile)
    backward = functools.partial(kernels.attention.attention_backward, tile=tile)
    return out, lambda g, wanted: backward(g, q, k, v, out, lse, mask, causal, keep)


def multi_head_attention(
    x: Array, kv: Array | None = None, /, *, n_head: int, mask: Mask = None, causal: bool = False,
    dropout_p: float = 0.0, rng: Rng = None, n_kv_head: int | None = None, rope_base: float | None = None
):  # fmt: skip
    """O_h = P_h V_h, P_h = softmax(Q_h K_h^T / sqrt(D)) row by row, for each head h: attentions side by side.

    x: (B, T, 3 C), the queries, keys and values of one sequence, concatenated; or x: (B, T, C), the queries only, and
    kv: (B, S, 2 C), the keys and values of another sequence. O: (B, T, C). Head h has the D = C / n_head channels from
    h D to (h + 1) D of the queries, the keys, the values and O.
    mask: as in scaled_dot_product_attention, for scores (B, n_head, T, S); causal, dropout_p, rng: as there.
    n_kv_head: G heads of keys and values, a divisor of n_head: each serves n_head / G successive heads of queries
    ("grouped-query attention"). x is then (B, T, C + 2 G D), or kv (B, S, 2 G D). None: as many as n_head.
    rope_base: queries and keys are first rotated by their positions, as `rope` does. None: they are not.

    A head is a view of x, and its gradients dQ, dK and dV are written into the same parts of dx. Heads do not overlap,
    so nothing is summed or copied, but dK and dV over the heads of queries that share them. With dA_h as in
    scaled_dot_product_attention, for each head:
        dx = dA_h K_h / sqrt(D) at Q_h, and without kv dA_h^T Q_h / sqrt(D) at K_h, P_h^T g_h at V_h
        dkv = dA_h^T Q_h / sqrt(D) at K_h, P_h^T g_h at V_h
    With rope_base, dQ and dK are rotated back.
    Source: Vaswani et al., 2017, "Attention Is All You Need", 3.2.2; the whitepaper's "Multi-Head Attention"; Ainslie
    et al., 2023, "GQA".
    """
    shape = n_head, n_kv_head or n_head
    q, k, v = _heads(x, kv, *shape)
    mask, keep = _checked("multi_head_attention", q, k, v, mask, dropout_p, rng)
    q, k = _rotated(q, k, rope_base)
    tile = kernels.mixed.tile(kernels.simd.FLOAT32_TILE)
    out, lse = kernels.attention.attention(q, k, v, mask, causal, keep, tile)
    y = out.swapaxes(1, 2).reshape(*x.shape[:2], n_head * q.shape[-1])

    def gradients(g, wanted):
        dx, dkv = (None if a is None else np.empty(a.shape, a.dtype) for a in (x, kv))
        dq, dk, dv = _heads(dx, dkv, *shape)
        to = (dq, dk) if rope_base is None else (np.empty_like(q), np.empty_like(k))
        g = _split(g, n_head)
        kernels.attention.attention_backward(g, q, k, v, out, lse, mask, causal, keep, (*to, dv), tile)
        if rope_base is not None:
            for d, rotated in zip((dq, dk), to):
                kernels.rope.rope(rotated, rope_base, out=d, back=True)
        return dx, dkv

    return y, gradients


def queries_keys_values(x, kv=None, *, n_head, n_kv_head=None, rope_base=None, **others):
    """Q, K and V, each (B, n_head, T, D), as multi_head_attention compares and adds them, for its arguments."""
    q, k, v = _heads(x, kv, n_head, n_kv_head or n_head)
    q, k = _rotated(q, k, rope_base)
    return q, *(np.repeat(a, n_head // a.shape[1], axis=1) if a.shape[1] < n_head else a for a in (k, v))


def _rotated(q, k, rope_base):
    return (q, k) if rope_base is None else (kernels.rope.rope(q, rope_base), kernels.rope.rope(k, rope_base))


def _heads(x, kv, n_head, n_kv_head):
    """The queries, keys and values in x and kv, as views (B, heads, T, D). ValueError: shapes that do not fit."""
    H, G = n_head, n_kv_head
    channels = x.shape[-1] if np.ndim(x) == 3 else 0
    if H < 1 or G < 1 or H % G:
        raise ValueError(f"multi_head_attention: {G} heads of keys and values do not divide the {H} heads of queries")
    parts = H + 2 * G if kv is None else H
    D = channels // parts
    if not D or channels != parts * D:
        packed = "C" if kv is not None else "3 C" if G == H else f"C + 2 * {G} C / {H}"
        raise ValueError(
            f"multi_head_attention: x {np.shape(x)}; give (batch, tokens, {packed}), C a multiple of the {H} heads"
        )
    if kv is None:
        return (_split(part, n) for part, n in zip(np.split(x, (H * D, (H + G) * D), axis=2), (H, G, G)))
    if np.ndim(kv) != 3 or kv.shape[0] != x.shape[0] or kv.shape[2] != 2 * G * D:
        raise ValueError(
            f"multi_head_attention: kv {np.shape(kv)} for x {x.shape}; give ({x.shape[0]}, tokens, {2 * G * D})"
        )
    return (_split(x, H), *(_split(part, G) for part in np.split(kv, 2, axis=2)))


def _split(x, heads):
    """x (B, T, heads D) as a view (B, heads, T, D)."""
    B, T, channels = x.shape
    return x.reshape(B, T, heads, channels // heads).transpose(0, 2, 1, 3)


def _checked(name, q, k, v, mask, dropout_p, rng):
    """The mask as an array or None, and the array that dropout multiplies the weights by, or None. TypeError and
    ValueError: arguments that do not fit."""
    for x in (q, k, v):
        need_floats(name, x)
    if not q.shape[-1]:
        raise ValueError(f"{name}: q {q.shape} and k {k.shape} have no channels to compare; give at least one")
    scores = (*q.shape[:-1], k.shape[-2])
    checked_probability(name, "dropout_p", dropout_p)
    keep = kept(name, scores, dropout_p, rng, q.dtype) if rng is not None and dropout_p else None
    return _checked_mask(name, mask, scores), keep


def _checked_mask(name, mask, scores):
    """The mask as an array. TypeError: integers; ValueError: floats that are all 0 or 1, of which a mask that says who
    may attend is made elsewhere, or a shape that does not broadcast to the scores."""
    if mask is None:
        return None
    mask = np.asarray(mask)
    if mask.dtype.kind not in "bf":
        raise TypeError(f"{name}: the mask has type {mask.dtype}; give mask != 0, booleans (True: may attend)")
    if mask.dtype.kind == "f" and mask.size and mask.max() == 1 and ((mask == 0) | (mask == 1)).all():
        raise ValueError(
            f"{name}: a mask of floats is added to the scores, and this one has only 0 and 1; give mask != 0, booleans "
            "(True: may attend), or -inf where it is forbidden"
        )
    if not broadcasts_to(mask.shape, scores):
        raise ValueError(f"{name}: a mask of shape {mask.shape} does not broadcast to the scores' {scores}")
    return mask

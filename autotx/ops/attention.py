"""Scaled dot-product attention as one op, for one head and for many heads."""

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
    out, lse = kernels.attention.attention(q, k, v, mask, causal, keep)
    return out, lambda g, wanted: kernels.attention.attention_backward(g, q, k, v, out, lse, mask, causal, keep)


def multi_head_attention(
    x: Array, kv: Array | None = None, /, *, n_head: int, mask: Mask = None, causal: bool = False,
    dropout_p: float = 0.0, rng: Rng = None
):  # fmt: skip
    """O_h = P_h V_h, P_h = softmax(Q_h K_h^T / sqrt(D)) row by row, for each head h: attentions side by side.

    x: (B, T, 3 C), the queries, keys and values of one sequence, concatenated; or x: (B, T, C), the queries only, and
    kv: (B, S, 2 C), the keys and values of another sequence. O: (B, T, C). Head h has the D = C / n_head channels from
    h D to (h + 1) D of the queries, the keys, the values and O.
    mask: as in scaled_dot_product_attention, for scores (B, n_head, T, S); causal, dropout_p, rng: as there.

    A head is a view of x, and its gradients dQ, dK and dV are written into the same parts of dx. Heads do not overlap,
    so nothing is summed or copied. With dA_h as in scaled_dot_product_attention, for each head:
        dx = dA_h K_h / sqrt(D) at Q_h, and without kv dA_h^T Q_h / sqrt(D) at K_h, P_h^T g_h at V_h
        dkv = dA_h^T Q_h / sqrt(D) at K_h, P_h^T g_h at V_h
    Source: Vaswani et al., 2017, "Attention Is All You Need", 3.2.2; the whitepaper's "Multi-Head Attention".
    """
    q, k, v = heads(n_head, x, kv)
    mask, keep = _checked("multi_head_attention", q, k, v, mask, dropout_p, rng)
    out, lse = kernels.attention.attention(q, k, v, mask, causal, keep)
    y = out.swapaxes(1, 2).reshape(*x.shape[:2], n_head * q.shape[-1])

    def gradients(g, wanted):
        dx, dkv = (None if a is None else np.empty(a.shape, a.dtype) for a in (x, kv))
        (g_heads,) = _heads(g, 1, n_head)
        kernels.attention.attention_backward(
            g_heads, q, k, v, out, lse, mask, causal, keep, into=heads(n_head, dx, dkv)
        )
        return dx, dkv

    return y, gradients


def heads(n_head, x, kv=None):
    """The queries, keys and values in x and kv, as views (B, n_head, T, D). ValueError: shapes that do not fit."""
    parts = 3 if kv is None else 1  # parts of x with C channels each
    C = x.shape[-1] // parts if np.ndim(x) == 3 else 0
    if not C or n_head < 1 or C % n_head or x.shape[2] != parts * C:
        raise ValueError(
            f"multi_head_attention: x {np.shape(x)}; give (batch, tokens, {'3 C' if parts == 3 else 'C'}), C a "
            f"multiple of the {n_head} heads"
        )
    if kv is None:
        return tuple(_heads(x, 3, n_head))
    if np.ndim(kv) != 3 or kv.shape[0] != x.shape[0] or kv.shape[2] != 2 * C:
        raise ValueError(
            f"multi_head_attention: kv {np.shape(kv)} for x {x.shape}; give ({x.shape[0]}, tokens, {2 * C})"
        )
    return (*_heads(x, 1, n_head), *_heads(kv, 2, n_head))


def _heads(x, count, n_head):
    """x (B, T, count C) as (count, B, n_head, T, D)."""
    B, T, channels = x.shape
    return x.reshape(B, T, count, n_head, channels // (count * n_head)).transpose(2, 0, 3, 1, 4)


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

"""Scaled dot-product attention as one op."""

import numpy as np

from autotx import kernels
from autotx.ops.layers import kept


def scaled_dot_product_attention(q, k, v, /, mask=None, causal=False, dropout_p=0.0, rng=None):
    """O = P V, P = softmax(A) row by row, A = Q K^T / sqrt(D): each query takes a weighted mean of the values.

    q: (..., T, D), k: (..., S, D), v: (..., S, Dv), leading axes equal (or broadcasting), O: (..., T, Dv).
    mask: booleans that broadcast to (..., T, S), True where a query may attend; or floats, added to the scores.
    causal: query t sees the keys up to s = t + S - T, so that the last query sees every key (with T = S: itself and
    what came before). A query that may attend to nothing gives zeros, and zero gradients.
    dropout_p, rng: weights are dropped with this probability when an rng is given.

    With scores A = Q K^T / sqrt(D), P = softmax(A), O = P V (matmul and softmax give each line):
        dV = P^T g                          dP = g V^T
        dA_ts = P_ts (dP_ts - e_t),  e_t = sum_s dP_ts P_ts = sum_d g_td O_td
        dQ = dA K / sqrt(D)                 dK = dA^T Q / sqrt(D)
    The last form of e_t needs no P: it is what lets a kernel work tile by tile and keep no T x S matrix.
    Masked scores have P = 0 and so no gradient. With dropout, P in O and dV is the dropped P, dP is dropped likewise.
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
    if not 0 <= dropout_p < 1:
        raise ValueError(f"{name}: dropout_p is {dropout_p}; give a probability from 0 to below 1")
    lead = np.broadcast_shapes(q.shape[:-2], k.shape[:-2], v.shape[:-2])
    q, k, v = (np.broadcast_to(a, lead + a.shape[-2:]) if a.shape[:-2] != lead else a for a in (q, k, v))
    scores = (*lead, q.shape[-2], k.shape[-2])
    mask = _checked_mask(name, mask, scores)
    keep = None
    if rng is not None and dropout_p:
        keep = kept(name, scores, dropout_p, rng, q.dtype)
    out, lse = kernels.attention.attention(q, k, v, mask, causal, keep)
    return out, lambda g: kernels.attention.attention_backward(g, q, k, v, out, lse, mask, causal, keep)


def _checked_mask(name, mask, scores):
    """The mask as an array. TypeError for integers, ValueError for a shape that does not broadcast to the scores."""
    if mask is None:
        return None
    mask = np.asarray(mask)
    if mask.dtype.kind not in "bf":
        raise TypeError(f"{name}: the mask has type {mask.dtype}; give booleans (True: may attend) or floats (added)")
    try:
        fits = np.broadcast_shapes(mask.shape, scores) == scores
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"{name}: a mask of shape {mask.shape} does not broadcast to the scores' {scores}")
    return mask

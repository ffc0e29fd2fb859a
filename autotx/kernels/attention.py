"""Attention, forward and backward, on stacks of (T, D) queries, (S, D) keys and (S, Dv) values."""

import numpy as np


def attention(q, k, v, mask=None, causal=False, keep=None):
    """O = softmax(Q K^T / sqrt(D) masked) V and lse, the logarithm of each row's normaliser.

    q: (..., T, D), k: (..., S, D), v: (..., S, Dv); mask: booleans (True: may attend) or floats (added), broadcasting
    to (..., T, S), or None; keep: (..., T, S) factors on the weights (dropout) or None.
    Returns O (..., T, Dv) and lse (..., T), -inf for a query that may attend to nothing, whose O is 0.
    """
    return _attention_twin(q, k, v, mask, causal, keep)


def attention_backward(g, q, k, v, out, lse, mask=None, causal=False, keep=None):
    """dq, dk, dv of the shapes of q, k, v, from the gradient `g` of O and what `attention` returned."""
    return _attention_backward_twin(g, q, k, v, out, lse, mask, causal, keep)


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

"""Cross entropy of logits, forward and backward, without a second array as wide as the vocabulary."""

import math

import numba
import numpy as np

from autotx.kernels.exp import ONE, ZERO, exp
from autotx.kernels.jit import kernel
from autotx.kernels.rows import IDS, IN1, IN2, INTEGER, OUT1, OUT2, REAL, compiled, flat, rows, use_numba
from autotx.kernels.softmax import exp_sum, row_max, rows_a_chunk

NOTHING = -(2**63)  # what stands for ignore_index=None
BLOCK = 4096  # elements that stay in the first cache between two looks at them


def cross_entropy(logits, targets, ignore_index=None, label_smoothing=0.0):
    """losses_n = lse_n - sum_v y_nv logits_nv with lse_n = ln sum_v exp(logits_nv). Returns losses and lse, both (N,).

    logits: (N, V); targets: (N,) integers from 0 to V - 1, or ignore_index, where the loss is 0.
    y = (1 - a) onehot(target) + a / V, a = label_smoothing.
    """
    if not use_numba(logits):
        return _cross_entropy_twin(logits, targets, ignore_index, label_smoothing)
    losses, lse = np.empty(len(logits), np.float32), np.empty(len(logits), np.float32)
    if len(logits):
        ignored = NOTHING if ignore_index is None else ignore_index
        _forward(rows(logits), _ids(targets), ignored, label_smoothing, losses, lse)
    return losses, lse


def cross_entropy_backward(logits, lse, targets, scale, ignore_index=None, label_smoothing=0.0, out=None):
    """dlogits_nv = scale_n (exp(logits_nv - lse_n) - y_nv), zeros for ignored rows. `out` may be the logits themselves.

    scale: (N,), the gradients of the losses.
    """
    if out is None:
        out = np.empty(logits.shape, logits.dtype)
    if not use_numba(logits, lse, scale, out) or not out.flags.c_contiguous:
        out[...] = _backward_twin(logits, lse, targets, scale, ignore_index, label_smoothing)
    elif out.size:
        logits = rows(logits)
        copy = out.ctypes.data != logits.ctypes.data
        ignored = NOTHING if ignore_index is None else ignore_index
        _backward(logits, flat(lse), _ids(targets), flat(scale), ignored, label_smoothing, copy, out)
    return out


def _ids(targets):
    return flat(targets.astype(np.int64, copy=False))


# ---- NumPy twins ------------------------------------------------------------------------------------------------


def _cross_entropy_twin(logits, targets, ignore_index, label_smoothing):
    counted, at_target = _targets(logits, targets, ignore_index)
    m = logits.max(axis=-1, initial=-np.inf)
    log_sum = np.log(np.exp(logits - m[:, None]).sum(axis=-1))
    losses = log_sum + (1 - label_smoothing) * (m - logits[at_target])
    if label_smoothing:
        losses += label_smoothing * (m - logits.mean(axis=-1))
    return np.where(counted, losses, 0).astype(logits.dtype, copy=False), m + log_sum


def _backward_twin(logits, lse, targets, scale, ignore_index, label_smoothing):
    counted, at_target = _targets(logits, targets, ignore_index)
    d = np.exp(logits - lse[:, None]) - label_smoothing / logits.shape[1]
    d[at_target] -= 1 - label_smoothing
    return np.where(counted, scale, 0).astype(logits.dtype, copy=False)[:, None] * d


def _targets(logits, targets, ignore_index):
    """Which rows count, and the places of the target logits (of column 0 in rows that do not count)."""
    counted = np.ones(len(targets), bool) if ignore_index is None else targets != ignore_index
    return counted, (np.arange(len(logits)), np.where(counted, targets, 0))


# ---- kernels ----------------------------------------------------------------------------------------------------


@kernel(fastmath={"reassoc"})
def _sum(x):
    s = ZERO
    for i in range(x.size):
        s += x[i]
    return s


@compiled(IN2, IDS, INTEGER, REAL, OUT1, OUT1)
@kernel(parallel=True)
def _forward(logits, targets, ignored, smoothing, losses, lse):
    N, V = logits.shape
    step = rows_a_chunk(V)
    for chunk in numba.prange((N + step - 1) // step):
        for n in range(chunk * step, min(N, chunk * step + step)):
            row = logits[n]
            m = row_max(row)
            log_sum = np.float32(math.log(exp_sum(row, m)))
            lse[n] = m + log_sum
            losses[n] = ZERO
            if targets[n] != ignored:
                losses[n] = log_sum + (ONE - smoothing) * (m - row[targets[n]])
                if smoothing > ZERO:
                    losses[n] += smoothing * (m - _sum(row) / np.float32(V))


@kernel(fastmath={"contract"})
def _backward_block(x, lse, scale, shift, copy, d):
    # Copy first, then work in place: LLVM uses vectors only where it knows that two arrays do not overlap, or are one.
    if copy:
        for i in range(x.size):
            d[i] = x[i]
    for i in range(d.size):
        d[i] = scale * (exp(d[i] - lse) - shift)


@compiled(IN2, IN1, IDS, IN1, INTEGER, REAL, numba.types.boolean, OUT2)
@kernel(parallel=True)
def _backward(logits, lse, targets, scale, ignored, smoothing, copy, out):
    N, V = logits.shape
    step = rows_a_chunk(V)
    for chunk in numba.prange((N + step - 1) // step):
        for n in range(chunk * step, min(N, chunk * step + step)):
            x, d = logits[n], out[n]
            if targets[n] == ignored:
                d[:] = ZERO
            else:
                for i in range(0, V, BLOCK):
                    end = i + BLOCK
                    _backward_block(x[i:end], lse[n], scale[n], smoothing / np.float32(V), copy, d[i:end])
                d[targets[n]] -= scale[n] * (ONE - smoothing)

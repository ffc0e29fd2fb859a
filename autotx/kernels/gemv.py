"""A few rows times a matrix, and the attention of one query: the work of generating text token by token.

With one row there is nothing to use twice: every weight serves one multiply-add, so a product takes as long as reading
the matrix does, and memory sets the pace. A GPT of 124 million float32 parameters reads 500 MB for a token: 15 ms at
33 GB/s, whatever the processor could compute meanwhile. The one way to be faster is to read less. With weights kept as
int8, a byte each, a token costs a quarter; they become float32 in registers, by two instructions for 16 of them.

int8: row j of a matrix W is kept as round(W_j / s_j), from -127 to 127, and its scale s_j = max |W_j| / 127. So W is
right to s_j / 2 everywhere, the product is that of the rounded W, and activations stay float32.

The rows of W are cut into tasks by their size alone, and each scalar product is one loop in one order: results depend
neither on the number of threads nor on the rows of x beside them.

Measured on two Zen 4 cores, one stream of GPT-2's size, against PyTorch with a cache (`autotx bench --only generate`):
2.8 times as fast in float32 (15 ms a token), 7.4 times in int8 (6 ms).
"""

import math

import numpy as np
from numba import types

from autotx.kernels.exp import ONE, ZERO, exp
from autotx.kernels.jit import kernel
from autotx.kernels.rows import IN1, IN2, INTEGER, OUT2, flat, part, plain, rows, tasks, use_numba
from autotx.kernels.softmax import row_max
from autotx.kernels.threads import shared

FEW = 8  # rows; with more, the tile of gemm.py uses each weight often enough to be faster
TASK = 2**17  # bytes of weights that a thread takes at a time: some 8 microseconds. One task alone starts no threads.
HEADS = 2**16  # floats of keys: up to so many, attention starts no threads


def linear(x, weight, bias=None):
    """y = x W^T + b. x: (M, K), M small, weight: (N, K), bias: (N,) or None, y: (M, N). Any strides, any float type."""
    if not use_numba(x, weight) or not weight.flags.c_contiguous:
        return _with_bias(x @ weight.T, bias)
    return _call(_dots, x, weight, np.ones(len(weight), np.float32), bias)


def linear_int8(x, weight, scale, bias=None):
    """y = x (s W)^T + b with weight: (N, K) int8 and scale: (N,), as `quantize` returns them. x: (M, K), y: (M, N)."""
    if not use_numba(x, scale):
        return _with_bias(x @ weight.T.astype(x.dtype) * scale, bias)
    return _call(_dots_int8, x, plain(weight), scale, bias)


def quantize(weight):
    """A float matrix (N, K) as int8 of the same shape, and the scales (N,) in the matrix's type. Zeros stay zeros."""
    scale = np.abs(weight).max(axis=1, initial=0) / weight.dtype.type(127)
    return np.rint(weight / np.where(scale == 0, 1, scale)[:, None]).astype(np.int8), scale


def attend(q, keys, values, length):
    """softmax(q K^T / sqrt(D)) V for one query each. q: (B, H, D), result alike.

    keys, values: (B, H, size, D), of which the first `length` of each head, 1 or more, are there.
    """
    if not use_numba(q, keys, values) or not (keys.flags.c_contiguous and values.flags.c_contiguous):
        return _attend_twin(q, keys[:, :, :length], values[:, :, :length])
    B, H, size, D = keys.shape
    out, scores = np.empty((B * H, D), np.float32), np.empty((B * H, length), np.float32)
    step = B * H if scores.size * D <= HEADS else 1
    stacked = keys.reshape(B * H, size, D), values.reshape(B * H, size, D)
    _attend(tasks(B * H, step), rows(q), *stacked, scores, out, step)
    return out.reshape(q.shape)


def _call(function, x, weight, scale, bias):
    (N, K), y = weight.shape, np.empty((len(x), len(weight)), np.float32)
    bias = np.zeros(N, np.float32) if bias is None else np.asarray(bias, np.float32)
    step = max(1, TASK // max(1, K * weight.itemsize * 16)) * 16  # 16 floats of y are a cache line
    function(tasks(N, step), plain(x), weight, flat(scale), flat(bias), y, step)
    return y


# ---- NumPy twins ------------------------------------------------------------------------------------------------


def _with_bias(y, bias):
    return y if bias is None else y + bias


def _attend_twin(q, keys, values):
    scores = np.einsum("bhd,bhsd->bhs", q, keys) / q.dtype.type(math.sqrt(q.shape[-1]))
    p = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.einsum("bhs,bhsd->bhd", p / p.sum(axis=-1, keepdims=True), values)


# ---- kernels ----------------------------------------------------------------------------------------------------

INT8 = types.Array(types.int8, 2, "C", readonly=True)
CACHE = types.Array(types.float32, 3, "C", readonly=True)


def _dots_task(x, weight, scale, bias, y, step, worker, task):
    """The rows of a task. int8: four at a time, a quarter of the task apart, the rest and float32 one by one.

    A core that reads one row after the other has too few bytes of int8 under way to keep memory busy, 11 GB/s of the
    25 that float32 reaches; from four places at once it reads 17. (Rows side by side count as one place, and are slow.)
    """
    chunk = part(task, step)
    weight, scale, bias, y = weight[chunk], scale[chunk], bias[chunk], y[:, chunk]
    quarter = weight.shape[0] // 4 if weight.itemsize == 1 else 0
    for j in range(quarter):
        j1, j2, j3 = j + quarter, j + 2 * quarter, j + 3 * quarter
        w, w1, w2, w3 = weight[j], weight[j1], weight[j2], weight[j3]
        for i in range(x.shape[0]):
            x_row = x[i]
            s = s1 = s2 = s3 = ZERO
            for k in range(w.size):
                s += x_row[k] * np.float32(w[k])
                s1 += x_row[k] * np.float32(w1[k])
                s2 += x_row[k] * np.float32(w2[k])
                s3 += x_row[k] * np.float32(w3[k])
            y[i, j], y[i, j1] = s * scale[j] + bias[j], s1 * scale[j1] + bias[j1]
            y[i, j2], y[i, j3] = s2 * scale[j2] + bias[j2], s3 * scale[j3] + bias[j3]
    for j in range(4 * quarter, weight.shape[0]):
        w = weight[j]
        for i in range(x.shape[0]):
            x_row = x[i]
            s = ZERO
            for k in range(w.size):
                s += x_row[k] * np.float32(w[k])
            y[i, j] = s * scale[j] + bias[j]


_dots, _dots_int8 = (
    shared(IN2, kind, IN1, IN1, OUT2, INTEGER)(kernel(_dots_task, fastmath={"contract", "reassoc"}))
    for kind in (IN2, INT8)
)


@kernel(fastmath={"contract", "reassoc"})
def _attend_head(q, keys, values, p, out):
    """q, out: (D,), keys, values: (size, D), p: (length,), which becomes the weights times their sum."""
    scale = ONE / np.float32(math.sqrt(q.size))
    for s in range(p.size):
        key, dot = keys[s], ZERO
        for d in range(q.size):
            dot += q[d] * key[d]
        p[s] = dot * scale
    top, total = row_max(p), ZERO
    for s in range(p.size):
        e = exp(p[s] - top)
        p[s] = e
        total += e
    out[:] = ZERO
    for s in range(p.size):
        value, weight = values[s], p[s] / total
        for d in range(out.size):
            out[d] += weight * value[d]


@shared(IN2, CACHE, CACHE, OUT2, OUT2, INTEGER)
@kernel(fastmath={"contract", "reassoc"})
def _attend(q, keys, values, scores, out, step, worker, task):
    """The heads of a task. Each row of scores becomes the weights times their sum."""
    for h in range(task * step, min(task * step + step, len(q))):
        _attend_head(q[h], keys[h], values[h], scores[h], out[h])

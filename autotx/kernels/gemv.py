"""Products of few rows with a matrix, for inference: float32 or int8 weights.

With one row, every weight is used in one multiply-add, so a product takes as long as reading the matrix, and memory
bandwidth limits the speed. A GPT of 124 million float32 parameters reads 500 MB for a token: 15 ms at 33 GB/s, however
fast the processor is. Only reading less is faster: with int8 weights, one byte each, a token reads a quarter. They are
converted to float32 in registers, by two instructions for 16 weights.

int8: row j of a matrix W is stored as round(W_j / s_j), integers from -127 to 127, with scale s_j = max |W_j| / 127.
The error of a weight is at most s_j / 2. Products use the rounded W and float32 activations.

Each dot product is one sum in a fixed order (dots.py): results depend neither on the number of threads nor on the
number of rows of x. So a prompt that is read at once gives the same bits as one that is read token by token.

Measured on two Zen 4 cores, one stream of GPT-2's size, against PyTorch with a cache (`autotx bench --only generate`):
2.8 times as fast in float32 (15 ms a token), 7.4 times in int8 (6 ms).
"""

import numpy as np
from numba import types

from autotx.kernels.dots import DEPTH, HEIGHT, WIDTH, dots
from autotx.kernels.jit import kernel
from autotx.kernels.rows import FLOAT_BYTES, IN1, IN2, INTEGER, OUT2, contiguous, flat, tasks, use_numba
from autotx.kernels.threads import shared

TASK_BYTES = 2**17  # bytes of weights in a task: some 8 microseconds. A single task wakes no worker.
QUANTIZED = 2**16  # weights that are rounded at a time
TASK_COLUMNS = 64  # columns of y in a task, for more than HEIGHT rows


def linear(x, weight, bias=None):
    """y = x W^T + b. x: (M, K), weight: (N, K), bias: (N,) or None, y: (M, N). Any strides, any float type."""
    if not use_numba(x, weight) or not weight.flags.c_contiguous:
        return _with_bias(x @ weight.T, bias)
    return _call(_dots, x, weight, np.ones(len(weight), np.float32), bias)


def linear_int8(x, weight, scale, bias=None):
    """y = x (s W)^T + b with weight: (N, K) int8 and scale: (N,), as `quantize` returns them. x: (M, K), y: (M, N)."""
    if not use_numba(x, scale):
        return _with_bias(x @ weight.T.astype(x.dtype) * scale, bias)
    return _call(_dots_int8, x, contiguous(weight), scale, bias)


def quantize(weight):
    """A float matrix (N, K) as int8 of the same shape, and scales (N,) of the matrix's type. Zeros stay zeros."""
    rounded, scale = np.empty(weight.shape, np.int8), np.empty(len(weight), weight.dtype)
    step = max(1, QUANTIZED // max(1, weight.shape[1]))
    for i in range(0, len(weight), step):  # a piece at a time: the intermediate arrays are as large as the weights
        part = weight[i : i + step]
        scale[i : i + step] = np.abs(part).max(axis=1, initial=0) / weight.dtype.type(127)
        divisor = np.where(scale[i : i + step] == 0, 1, scale[i : i + step])
        rounded[i : i + step] = np.rint(part / divisor[:, None])
    return rounded, scale


def _call(function, x, weight, scale, bias):
    (N, K), y = weight.shape, np.empty((len(x), len(weight)), np.float32)
    bias = np.zeros(N, np.float32) if bias is None else np.asarray(bias, np.float32)
    step = TASK_COLUMNS if len(x) > HEIGHT else max(1, TASK_BYTES // max(1, K * weight.itemsize * 16)) * 16
    function(tasks(N, step), contiguous(x), weight, flat(scale), flat(bias), y, step)
    return y


# ---- NumPy twins ------------------------------------------------------------------------------------------------


def _with_bias(y, bias):
    return y if bias is None else y + bias


# ---- kernels ----------------------------------------------------------------------------------------------------

INT8 = types.Array(types.int8, 2, "C", readonly=True)


def _dots_task(x, weight, scale, bias, y, step, worker, task):
    """A task: `step` columns of y. Computes their sums, piece by piece, then applies scale and bias."""
    M, (N, K), first = x.shape[0], weight.shape, task * step
    last = min(first + step, N)
    few = 1 if M == 1 and weight.itemsize > 1 else 2 * WIDTH
    group = few if M <= HEIGHT and K > DEPTH else step  # few rows: read weights in memory order
    for j in range(first, last, group):
        for k in range(0, max(1, K), DEPTH):
            of_w, of_y = weight.ctypes.data + weight.itemsize * (j * K + k), y.ctypes.data + FLOAT_BYTES * j
            columns, depth = min(group, last - j), min(DEPTH, K - k)
            dots(x.ctypes.data + FLOAT_BYTES * k, K, M, of_w, K, weight.itemsize, columns, depth, of_y, N, k)
    for i in range(M):
        row, factors, added = y[i, first:last], scale[first:last], bias[first:last]
        for j in range(row.size):
            row[j] = row[j] * factors[j] + added[j]


_dots, _dots_int8 = (shared(IN2, kind, IN1, IN1, OUT2, INTEGER)(kernel(_dots_task)) for kind in (IN2, INT8))

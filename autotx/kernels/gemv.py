"""Products of few rows with a matrix, for inference: float32 or int8 weights.

With one row, every weight is used in one multiply-add, so a product takes as long as reading the matrix, and memory
bandwidth limits the speed. A GPT of 124 million float32 parameters reads 500 MB for a token: 15 ms at 33 GB/s, however
fast the processor is. Only reading less is faster: with int8 weights, one byte each, a token reads a quarter. They are
converted to float32 in registers, by two instructions for 16 weights.

int8: row j of a matrix W is stored as round(W_j / s_j), integers from -127 to 127, with scale s_j = max |W_j| / 127.
The error of a weight is at most s_j / 2. Products use the rounded W and float32 activations.

Each dot product is one sum in a fixed order (dots.py): results depend neither on the number of threads nor on the
number of rows of x. So a prompt that is read at once gives the same bits as one that is read token by token.

A product takes as long for few rows as the launch of its tasks only where matrices are small. So a norm of the rows of
x, the addition to a residual, and both products of a gated layer are done in the launch of the product itself.

Measured on two Zen 4 cores, one stream of GPT-2's size, against PyTorch with a cache (`autotx bench --only generate`):
2.8 times as fast in float32 (15 ms a token), 7.4 times in int8 (6 ms).
"""

import functools

import numpy as np
from numba import types

from autotx.kernels.dots import DEPTH, HEIGHT, WIDTH, dots
from autotx.kernels.jit import kernel
from autotx.kernels.rmsnorm import norm_row, rms_norm
from autotx.kernels.rows import (
    FLOAT32,
    FLOAT_BYTES,
    IN1,
    IN2,
    INTEGER,
    OUT2,
    REAL,
    contiguous,
    flat,
    tasks,
    use_numba,
)
from autotx.kernels.silu import sigmoid_of, swiglu
from autotx.kernels.threads import shared
from autotx.kernels.tile import thread_memory

TASK_BYTES = 2**17  # bytes of weights in a task: some 8 microseconds. A single task wakes no worker.
QUANTIZED = 2**16  # weights that are rounded at a time
TASK_COLUMNS = 64  # columns of y in a task, for more than HEIGHT rows


def linear(x, weight, bias=None, norm=None, onto=None):
    """y = x W^T + b. x: (M, K), weight: (N, K), bias: (N,) or None, y: (M, N). Any strides, any float type.

    norm: (gamma, eps): the rows of x are first normalised, as by rms_norm. onto: an array (M, N) that does not overlap
    x; y is added to it, and it is returned.
    """
    if not use_numba(x, weight) or not weight.flags.c_contiguous:
        return _added(_with_bias(_normed(x, norm) @ weight.T, bias), onto)
    return _call(_dots, x, (weight, _constant(len(weight), 1)), bias, norm, onto)


def linear_int8(x, weight, scale, bias=None, norm=None, onto=None):
    """y = x (s W)^T + b with weight: (N, K) int8 and scale: (N,), as `quantize` returns them. x: (M, K), y: (M, N).
    norm, onto: as in `linear`."""
    if not use_numba(x, scale):
        return _added(_with_bias(_normed(x, norm) @ weight.T.astype(x.dtype) * scale, bias), onto)
    return _call(_dots_int8, x, (contiguous(weight), flat(scale)), bias, norm, onto)


def gated(x, gate, up, norm=None):
    """y = silu(x W_g^T) (x W_u^T), the first half of a SwiGLU layer. x: (M, K), y: (M, N).

    gate, up: (weight, scale), as for `linear_int8`, or (weight, None) of float weights. norm: as in `linear`.
    """
    if not all(use_numba(x, w if s is None else s) and w.flags.c_contiguous for w, s in (gate, up)):
        x = _normed(x, norm)
        return swiglu(*(x @ w.T if s is None else x @ w.T.astype(x.dtype) * s for w, s in (gate, up)))
    (of_gate, of_up), N = (gate[0], up[0]), len(gate[0])
    scales = [_constant(N, 1) if s is None else flat(s) for _, s in (gate, up)]
    x, *norm, scratch, step = _prepared(x, of_gate, norm)
    y, products = np.empty((len(x), N), np.float32), np.empty((len(x), N), np.float32)
    function = _gated if gate[1] is None else _gated_int8
    function(tasks(N, step), x, *norm, of_gate, scales[0], of_up, scales[1], y, products, scratch, step)
    return y


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


def _call(function, x, matrix, bias, norm, onto):
    (weight, scale), N = matrix, len(matrix[0])
    bias = _constant(N, 0) if bias is None else flat(np.asarray(bias, np.float32))
    x, *norm, scratch, step = _prepared(x, weight, norm)
    y = np.empty((len(x), N), np.float32)
    to = y if onto is None else contiguous(onto)
    function(tasks(N, step), x, *norm, weight, scale, bias, y, to, onto is not None, scratch, step)
    if onto is None or to is onto:
        return to
    onto[...] = to
    return onto


def _prepared(x, weight, norm):
    """x, gamma and eps of the norm (an empty gamma for none), room for normalised rows, and the columns of a task."""
    K = weight.shape[1]
    if len(x) > HEIGHT:
        return contiguous(_normed(x, norm)), NO_NORM, 0.0, thread_memory(0, FLOAT32), TASK_COLUMNS
    step = max(1, TASK_BYTES // max(1, K * weight.itemsize * 16)) * 16
    gamma, eps = (NO_NORM, 0.0) if norm is None else norm
    return contiguous(x), flat(gamma), eps, thread_memory(HEIGHT * K + 1, FLOAT32), step


NO_NORM = np.empty(0, np.float32)


@functools.lru_cache(maxsize=64)
def _constant(size, value):
    return np.full(size, value, np.float32)


# ---- NumPy twins ------------------------------------------------------------------------------------------------


def _with_bias(y, bias):
    return y if bias is None else y + bias


def _added(y, onto):
    if onto is None:
        return y
    onto += y
    return onto


def _normed(x, norm):
    return x if norm is None else rms_norm(x, *norm)[0]


# ---- kernels ----------------------------------------------------------------------------------------------------

INT8 = types.Array(types.int8, 2, "C", readonly=True)


@kernel
def _rows(x, gamma, eps, memory):
    """The address of x, or of its normalised rows in `memory`."""
    M, K = x.shape
    if not gamma.size:
        return x.ctypes.data
    for i in range(M):
        to = memory.ctypes.data + FLOAT_BYTES * i * K
        norm_row(
            x.ctypes.data + FLOAT_BYTES * i * K, K, gamma.ctypes.data, eps, to, memory.ctypes.data + FLOAT_BYTES * M * K
        )
    return memory.ctypes.data


@kernel
def _products(x, M, weight, first, last, y):
    """Columns first to last - 1 of y = x W^T, piece by piece. x: the address of M rows."""
    N, K = weight.shape
    few = 1 if M == 1 and weight.itemsize > 1 else 2 * WIDTH
    group = few if M <= HEIGHT and K > DEPTH else last - first  # few rows: read weights in memory order
    for j in range(first, last, max(1, group)):
        for k in range(0, max(1, K), DEPTH):
            of_w, of_y = weight.ctypes.data + weight.itemsize * (j * K + k), y.ctypes.data + FLOAT_BYTES * j
            columns, depth = min(group, last - j), min(DEPTH, K - k)
            dots(x + FLOAT_BYTES * k, K, M, of_w, K, weight.itemsize, columns, depth, of_y, N, k)


def _dots_task(x, gamma, eps, weight, scale, bias, y, onto, add, scratch, step, worker, task):
    """A task: `step` columns of y. Computes their sums, then applies scale and bias, and adds them to `onto`."""
    first, last = task * step, min(task * step + step, len(weight))
    _products(_rows(x, gamma, eps, scratch[worker]), len(x), weight, first, last, y)
    for i in range(len(x)):
        row, factors, added, to = y[i, first:last], scale[first:last], bias[first:last], onto[i, first:last]
        if add:
            for j in range(row.size):
                to[j] += row[j] * factors[j] + added[j]
        else:
            for j in range(row.size):
                row[j] = row[j] * factors[j] + added[j]


def _gated_task(x, gamma, eps, gate, gate_scale, up, up_scale, y, products, scratch, step, worker, task):
    """A task: `step` columns of both products and of y."""
    first, last = task * step, min(task * step + step, len(gate))
    rows = _rows(x, gamma, eps, scratch[worker])
    _products(rows, len(x), gate, first, last, y)
    _products(rows, len(x), up, first, last, products)
    for i in range(len(x)):
        row, other = y[i, first:last], products[i, first:last]
        factors, others = gate_scale[first:last], up_scale[first:last]
        for j in range(row.size):
            g = row[j] * factors[j]
            row[j] = g * sigmoid_of(g) * (other[j] * others[j])


_START, _END = (IN2, IN1, REAL), (OUT2, INTEGER)
_dots, _dots_int8 = (
    shared(*_START, kind, IN1, IN1, OUT2, OUT2, types.boolean, *_END)(kernel(_dots_task)) for kind in (IN2, INT8)
)
_gated, _gated_int8 = (
    shared(*_START, kind, IN1, kind, IN1, OUT2, OUT2, *_END)(kernel(_gated_task)) for kind in (IN2, INT8)
)

"""Products of few rows with a matrix, for inference: float32 or int8 weights.

With one row, every weight is used in one multiply-add, so a product takes as long as reading the matrix, and memory
bandwidth limits the speed. A GPT of 124 million float32 parameters reads 500 MB for a token: 15 ms at 33 GB/s, however
fast the processor is. Only reading less is faster: with int8 weights, one byte each, a token reads a quarter. They are
converted to float32 in registers.

Every element is a sum in the order of gemm.py (see dots.py): results depend neither on the number of threads nor on the
number of rows of x.

A product takes as long for few rows as the launch of its tasks only where matrices are small. So a norm of the rows of
x, the addition to a residual, and both products of a gated layer are done in the launch of the product itself.
"""

import functools

import numba
import numpy as np
from numba import types

from autotx.kernels.dots import WIDTH, dots, dots_int8
from autotx.kernels.exp import ZERO
from autotx.kernels.jit import kernel
from autotx.kernels.rmsnorm import norm_row
from autotx.kernels.rows import FLOAT32, FLOAT_BYTES, IN1, IN2, INTEGER, OUT2, REAL, contiguous, flat, tasks
from autotx.kernels.silu import swiglu_row
from autotx.kernels.simd import FLOAT32_TILE
from autotx.kernels.threads import get_num_threads, shared
from autotx.kernels.tile import aligned, even_pieces, thread_memory

FEW_ROWS = 8
TASK_BYTES = 2**17  # the most bytes of weights in a task: some 8 microseconds. A single task wakes no worker.
TASKS = 4  # for each thread, where the matrix is large enough
QUANTIZED = 2**16  # weights that are rounded at a time
NO_NUMBERS = np.empty(0, np.float32)


class Int8:
    """A float matrix W (N, K), rounded to 8 bits: row j as round(W_j / s_j), integers from -127 to 127, with the scale
    s_j = max |W_j| / 127. The error of a weight is at most s_j / 2. Products are computed with the integers, as floats,
    and the scale is applied to their sums.

    panels: (P, K, WIDTH) int8, where panels[p, k, i] is the integer in row p WIDTH + i and column k; rows beyond the
    last are zeros. scale: (P WIDTH,), of the type of W.
    """

    def __init__(self, weight):
        self.shape, self.dtype = (N, K), dtype = weight.shape, weight.dtype
        P = tasks(N, WIDTH)
        self.panels = aligned(P * K * WIDTH, np.dtype(np.int8)).reshape(P, K, WIDTH)
        self.scale = np.zeros(P * WIDTH, dtype)
        step = max(1, QUANTIZED // max(1, K * WIDTH))
        for p in range(0, P, step):  # a piece at a time: the intermediate arrays are as large as the weights
            part = weight[p * WIDTH : (p + step) * WIDTH]
            scale = np.abs(part).max(axis=1, initial=0) / dtype.type(127)
            rounded = np.zeros((tasks(len(part), WIDTH) * WIDTH, K), np.int8)
            rounded[: len(part)] = np.rint(part / np.where(scale == 0, 1, scale)[:, None])
            self.panels[p : p + step] = rounded.reshape(tasks(len(part), WIDTH), WIDTH, K).swapaxes(1, 2)
            self.scale[p * WIDTH : p * WIDTH + len(part)] = scale

    def rows(self, ids):
        """The rows with the numbers ids: an array of shape ids.shape + (K,)."""
        return self.panels[ids // WIDTH, :, ids % WIDTH] * self.scale[ids][..., None]

    def __array__(self, dtype=None, copy=None):
        whole = self.rows(np.arange(len(self)))
        return whole if dtype is None else whole.astype(dtype)

    def __len__(self):
        return self.shape[0]

    @property
    def nbytes(self):
        return self.panels.nbytes + self.scale.nbytes


def takes(x, *weights):
    """Whether the kernels take rows x and weights: arrays (N, K), or Int8."""
    if numba.config.DISABLE_JIT or x.dtype != FLOAT32:
        return False
    for w in weights:  # all() with a generator takes longer, and this runs five times a block
        if w.dtype != FLOAT32 or 0 in w.shape or not (isinstance(w, Int8) or w.flags.c_contiguous):
            return False
    return True


def linear(x, weight, bias=None, norm=None, onto=None):
    """y = x W^T + b, for few rows x (M, K). weight: an array (N, K) or Int8, which the kernels take. y: (M, N).

    bias: (N,) or None. norm: (gamma, eps): the rows of x are first normalised, as by rms_norm. onto: an array (M, N)
    that does not overlap x; y is added to it, and it is returned.
    """
    N = len(weight)
    y = np.empty((len(x), N), np.float32) if onto is None else contiguous(onto)
    bias = NO_NUMBERS if bias is None else flat(np.asarray(bias, np.float32))
    x, *norm, scratch = _prepared(x, norm)
    step, piece = _sizes(*weight.shape, isinstance(weight, Int8), get_num_threads())
    end = onto is not None, scratch, step, piece
    if isinstance(weight, Int8):
        sums = y if onto is None else np.empty_like(y)
        _dots_int8(tasks(N, step), x, *norm, weight.panels, weight.scale, bias, sums, y, *end)
    else:
        _dots(tasks(N, step), x, *norm, weight, bias, y, *end)
    if onto is None or y is onto:
        return y
    onto[...] = y
    return onto


def gated(x, gate, up, norm=None):
    """y = silu(x W_g^T) (x W_u^T), the first half of a SwiGLU layer, for few rows x (M, K). y: (M, N).

    gate, up: both arrays (N, K), or both Int8, which the kernels take. norm: as in `linear`.
    """
    N = len(gate)
    y, products = np.empty((len(x), N), np.float32), np.empty((len(x), N), np.float32)
    x, *norm, scratch = _prepared(x, norm)
    function, matrices = _gated, (gate, NO_NUMBERS, up, NO_NUMBERS)
    if isinstance(gate, Int8):
        function, matrices = _gated_int8, (gate.panels, gate.scale, up.panels, up.scale)
    step, piece = _sizes(*gate.shape, isinstance(gate, Int8), get_num_threads())
    function(tasks(N, step), x, *norm, *matrices, y, products, scratch, step, piece)
    return y


def _prepared(x, norm):
    """x, gamma and eps of the norm (an empty gamma for none), room for normalised rows."""
    gamma, eps = (NO_NUMBERS, 0.0) if norm is None else norm
    return contiguous(x), flat(gamma), eps, thread_memory(FEW_ROWS * x.shape[1] + 1, FLOAT32)


@functools.lru_cache(maxsize=256)
def _sizes(N, K, int8, threads):
    """The rows of W (N, K) in a task, whole panels, and the length of a piece of K."""
    panel = WIDTH * K * (1 if int8 else FLOAT_BYTES)
    even = max(tasks(tasks(N, WIDTH), TASKS * threads), tasks(TASK_BYTES // 4, panel))
    return WIDTH * max(1, min(even, TASK_BYTES // panel)), even_pieces(K, FLOAT32_TILE.depth, FLOAT32_TILE.lanes)


# ---- kernels ----------------------------------------------------------------------------------------------------

INT8 = types.Array(types.int8, 3, "C", readonly=True)


@kernel
def _columns(task, step, N):
    """The first column of a task, and that after its last. Odd workers take tasks from the back; tasks are numbered so
    that they, too, read the matrix forwards, as weights are prefetched."""
    tasks = (N + step - 1) // step
    half = tasks // 2
    first = step * (task if task < half else half + tasks - 1 - task)
    return first, min(first + step, N)


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
def _products(x, M, K, weight, first, last, y, piece):
    """Add columns first to last - 1 of x W^T to y, piece by piece. x: the address of M rows."""
    N, to, of_w = y.shape[1], y.ctypes.data + FLOAT_BYTES * first, weight.ctypes.data + weight.itemsize * first * K
    for k in range(0, K, piece):
        of_x, depth = x + FLOAT_BYTES * k, min(piece, K - k)
        if weight.itemsize > 1:
            dots(of_x, K, M, of_w + FLOAT_BYTES * k, K, last - first, depth, to, N)
        else:
            dots_int8(of_x, K, M, of_w + WIDTH * k, WIDTH * K, last - first, depth, to, N)


@shared(IN2, IN1, REAL, IN2, IN1, OUT2, types.boolean, OUT2, INTEGER, INTEGER)
@kernel
def _dots(x, gamma, eps, weight, bias, y, onto, scratch, step, piece, worker, task):
    """A task: `step` columns of y. As in gemm, the sums start from the bias, or from y, to which it is added last."""
    (M, K), (first, last) = x.shape, _columns(task, step, y.shape[1])
    rows = _rows(x, gamma, eps, scratch[worker])
    for i in range(M if not onto else 0):
        for j in range(first, last):
            y[i, j] = bias[j] if bias.size else ZERO
    _products(rows, M, K, weight, first, last, y, piece)
    for i in range(M if onto and bias.size else 0):
        for j in range(first, last):
            y[i, j] += bias[j]


@shared(IN2, IN1, REAL, INT8, IN1, IN1, OUT2, OUT2, types.boolean, OUT2, INTEGER, INTEGER)
@kernel
def _dots_int8(x, gamma, eps, panels, scale, bias, sums, y, onto, scratch, step, piece, worker, task):
    """A task: `step` columns of y."""
    (M, K), (first, last) = x.shape, _columns(task, step, y.shape[1])
    rows = _rows(x, gamma, eps, scratch[worker])
    sums[:, first:last] = ZERO
    _products(rows, M, K, panels, first, last, sums, piece)
    for i in range(M):
        for j in range(first, last):
            scaled = sums[i, j] * scale[j] + (bias[j] if bias.size else ZERO)
            y[i, j] = y[i, j] + scaled if onto else scaled


def _gated_task(x, gamma, eps, gate, gate_scale, up, up_scale, y, products, scratch, step, piece, worker, task):
    """A task: `step` columns of both products and of y."""
    (M, K), (first, last) = x.shape, _columns(task, step, y.shape[1])
    rows = _rows(x, gamma, eps, scratch[worker])
    for weight_of, scale, to in ((gate, gate_scale, y), (up, up_scale, products)):
        to[:, first:last] = ZERO
        _products(rows, M, K, weight_of, first, last, to, piece)
        for i in range(M if scale.size else 0):
            for j in range(first, last):
                to[i, j] *= scale[j]
    for i in range(M):
        at = FLOAT_BYTES * (i * y.shape[1] + first)
        swiglu_row(y.ctypes.data + at, products.ctypes.data + at, y.ctypes.data + at, last - first)


_gated, _gated_int8 = (
    shared(IN2, IN1, REAL, kind, IN1, kind, IN1, OUT2, OUT2, OUT2, INTEGER, INTEGER)(kernel(_gated_task))
    for kind in (IN2, INT8)
)

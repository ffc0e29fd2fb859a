"""Products of few rows with a matrix, for inference: of float32 weights or of codes (see codes.py).

With one row, every weight is used in one multiply-add, so a product takes as long as reading the matrix, and memory
bandwidth limits the speed. A GPT of 124 million float32 parameters reads 500 MB for a token: 15 ms at 33 GB/s, however
fast the processor is. Only reading less is faster: of codes of 8 or 4 bits, a token reads a quarter or a sixth.

Every element is a sum in the order of gemm.py (see dots.py): results depend neither on the number of threads nor on the
number of rows of x.

A product takes as long for few rows as the launch of its tasks only where matrices are small. So a norm of the rows of
x, the addition to a residual, and both products of a gated layer are done in the launch of the product itself.
"""

import functools

import numba
import numpy as np
from numba import types

from autotx.kernels.codes import BLOCK, WIDTH, Coded
from autotx.kernels.dots import products_of
from autotx.kernels.exp import ZERO
from autotx.kernels.jit import call, kernel
from autotx.kernels.launches import shared
from autotx.kernels.rmsnorm import norm_row
from autotx.kernels.rows import FLOAT32, FLOAT_BYTES, IN1, IN2, INTEGER, OUT2, REAL, contiguous, flat, tasks
from autotx.kernels.silu import swiglu_row
from autotx.kernels.simd import FLOAT32_TILE
from autotx.kernels.threads import get_num_threads
from autotx.kernels.tile import even_pieces, thread_memory

FEW_ROWS, FEW_CODED_ROWS = 8, 16  # of float32 weights, of codes: for more, gemm.py is faster
TASK_BYTES = 2**17  # the most bytes of weights in a task: some 8 microseconds. A single task wakes no worker.
TASKS = 4  # for each thread, where the matrix is large enough
NO_NUMBERS = np.empty(0, np.float32)


def takes(x, *weights):
    """Whether the kernels take rows x and weights: arrays (N, K), or Coded."""
    if numba.config.DISABLE_JIT or x.dtype != FLOAT32:
        return False
    for w in weights:  # all() with a generator takes longer, and this runs five times a block
        if w.dtype != FLOAT32 or 0 in w.shape or not (isinstance(w, Coded) or w.flags.c_contiguous):
            return False
    return True


def few(M, *weights):
    """Whether M rows are so few that products with these weights are computed here."""
    return M <= FEW_ROWS or (M <= FEW_CODED_ROWS and all(isinstance(w, Coded) for w in weights))


def linear(x, weight, bias=None, norm=None, onto=None):
    """y = x W^T + b, for few rows x (M, K). weight: an array (N, K) or Coded, which the kernels take. y: (M, N).

    bias: (N,) or None. norm: (gamma, eps): the rows of x are first normalised, as by rms_norm. onto: an array (M, N)
    that does not overlap x; y is added to it, and it is returned.
    """
    N = len(weight)
    y = np.empty((len(x), N), np.float32) if onto is None else contiguous(onto)
    bias = NO_NUMBERS if bias is None else flat(np.asarray(bias, np.float32))
    x, *norm, scratch = _prepared(x, norm)
    step, piece = _sizes(weight, get_num_threads())
    _linear(tasks(N, step), x, *norm, products_of(weight), bias, y, onto is not None, scratch, step, piece)
    if onto is None or y is onto:
        return y
    onto[...] = y
    return onto


def gated(x, gate, up, norm=None):
    """y = silu(x W_g^T) (x W_u^T), the first half of a SwiGLU layer, for few rows x (M, K). y: (M, N).

    gate, up: arrays (N, K) or Coded, which the kernels take. norm: as in `linear`.
    """
    N = len(gate)
    y, other = np.empty((len(x), N), np.float32), np.empty((len(x), N), np.float32)
    x, *norm, scratch = _prepared(x, norm)
    step, piece = _sizes(gate, get_num_threads())
    _gated(tasks(N, step), x, *norm, products_of(gate), products_of(up), y, other, scratch, step, piece)
    return y


def _prepared(x, norm):
    """x, gamma and eps of the norm (an empty gamma for none), room for normalised rows."""
    gamma, eps = (NO_NUMBERS, 0.0) if norm is None else norm
    return contiguous(x), flat(gamma), eps, thread_memory(FEW_CODED_ROWS * x.shape[1] + 1, FLOAT32)


def _sizes(weight, threads):
    """The rows of W (N, K) in a task, whole panels, and the length of a piece of K."""
    N, K = weight.shape
    return _sizes_of(N, K, WIDTH * weight.nbytes // N, threads)


@functools.lru_cache(maxsize=256)
def _sizes_of(N, K, panel, threads):
    """`_sizes` for panels of so many bytes. The step is not too large, and gives the thread that has the most
    panels as few as can be."""
    panels = tasks(N, WIDTH)
    most = max(1, min(max(tasks(panels, TASKS * threads), tasks(TASK_BYTES // 4, panel)), TASK_BYTES // panel))
    step = min(range(most, 0, -1), key=lambda step: step * tasks(tasks(panels, step), threads))
    return WIDTH * step, even_pieces(K, FLOAT32_TILE.depth, BLOCK)


# ---- kernels ----------------------------------------------------------------------------------------------------

MATRIX = types.UniTuple(types.int64, 2)  # what products_of returns


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
def _add_products(x, K, weight, first, last, y, piece):
    """Add columns first to last - 1 of x W^T to y, piece by piece. x: the address of the rows."""
    M, N = y.shape
    for k in range(0, K, piece):
        columns = x, M, K, weight[1], first, last - first, k, min(piece, K - k)
        call(weight[0], (*columns, y.ctypes.data, N))


@shared(IN2, IN1, REAL, MATRIX, IN1, OUT2, types.boolean, OUT2, INTEGER, INTEGER)
@kernel
def _linear(x, gamma, eps, weight, bias, y, onto, scratch, step, piece, worker, task):
    """A task: `step` columns of y. As in gemm, the sums start from the bias, or from y, to which it is added last."""
    (M, K), (first, last) = x.shape, _columns(task, step, y.shape[1])
    rows = _rows(x, gamma, eps, scratch[worker])
    for i in range(M if not onto else 0):
        for j in range(first, last):
            y[i, j] = bias[j] if bias.size else ZERO
    _add_products(rows, K, weight, first, last, y, piece)
    for i in range(M if onto and bias.size else 0):
        for j in range(first, last):
            y[i, j] += bias[j]


@shared(IN2, IN1, REAL, MATRIX, MATRIX, OUT2, OUT2, OUT2, INTEGER, INTEGER)
@kernel
def _gated(x, gamma, eps, gate, up, y, other, scratch, step, piece, worker, task):
    """A task: `step` columns of both products and of y."""
    (M, K), (first, last) = x.shape, _columns(task, step, y.shape[1])
    rows = _rows(x, gamma, eps, scratch[worker])
    for weight, to in ((gate, y), (up, other)):
        to[:, first:last] = ZERO
        _add_products(rows, K, weight, first, last, to, piece)
    for i in range(M):
        at = FLOAT_BYTES * (i * y.shape[1] + first)
        swiglu_row(y.ctypes.data + at, other.ctypes.data + at, y.ctypes.data + at, last - first)

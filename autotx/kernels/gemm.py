"""Matrix products in float32: packed panels, blocks for the caches, and the register tile."""

import threading

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from autotx.kernels.jit import compile_for, kernel
from autotx.kernels.tile import COLS, LANES, ROWS, ZEROS, aligned, multiply, pack, panel_size

DEPTH = 384
WIDTH = 512
HEIGHT = 4096
SMALL = 2**18


def matmul(a, b, out=None, accumulate=False, bias=None):
    M, K = a.shape[-2:]
    N = b.shape[-1]
    if out is None:
        out = np.empty((*a.shape[:-1], N), np.result_type(a, b))
    stack = a.size // (M * K) if M * K else 0
    if stack * M * N * K <= SMALL or out.dtype != np.float32 or a.dtype != np.float32 or numba.config.DISABLE_JIT:
        return _matmul_numpy(a, b, out, accumulate, bias)
    a3, b3, c3 = _stacked(a), _stacked(b), _stacked(out)
    threads = numba.get_num_threads()
    k_block = _piece(K, DEPTH, LANES)
    n_block = _piece(N, WIDTH, COLS)
    n_blocks = -(-N // n_block)
    wanted = -(-4 * threads // (len(a3) * n_blocks)) if threads > 1 else 1
    m_block = _piece(M, min(HEIGHT, max(-(-M // wanted), 4 * ROWS)), ROWS)
    a_size = (panel_size(ROWS, k_block) + 1023) // 1024 * 1024
    b_size = (panel_size(n_block, k_block) + 1023) // 1024 * 1024
    scratch, counter = _scratch(threads * (a_size + b_size))
    if bias is None:
        start, bias_step = ZEROS[None, None], 0
    else:
        start, bias_step = bias[None, None], 1
    _compiled()(a3, b3, c3, start, bias_step, accumulate, scratch, counter, threads, m_block, n_block, k_block, a_size, b_size)
    return out


def _matmul_numpy(a, b, out, accumulate, bias):
    if not accumulate:
        np.matmul(a, b, out=out)
        if bias is not None:
            out += bias
    else:
        out += np.matmul(a, b)
    return out


def _stacked(x):
    return x[None] if x.ndim == 2 else x.reshape(-1, *x.shape[-2:])


def _piece(size, largest, unit):
    pieces = -(-size // largest)
    return -(-size // (pieces * unit)) * unit


_mine = threading.local()


def _scratch(size):
    if getattr(_mine, "size", -1) < size:
        _mine.buffer, _mine.size, _mine.counter = aligned(size), size, np.zeros(1, np.int64)
    return _mine.buffer, _mine.counter


_ready = []


def _compiled():
    if not _ready:
        read, write = types.Array(types.float32, 3, "A", readonly=True), types.Array(types.float32, 3, "A")
        i = types.intp
        _ready.append(compile_for(_product, types.void(
            read, read, write, write, i, types.boolean, types.float32[::1], types.int64[::1], i, i, i, i, i, i)))
    return _ready[0]


@kernel(parallel=True)
def _product(a, b, c, bias, bias_step, accumulate, scratch, counter, threads, m_block, n_block, k_block, a_size, b_size):
    stack, M, N = c.shape
    m_blocks = (M + m_block - 1) // m_block
    n_blocks = (N + n_block - 1) // n_block
    tasks = stack * n_blocks * m_blocks
    counter[0] = 0
    for worker in numba.prange(threads):
        a_at = worker * (a_size + b_size)
        b_at = a_at + a_size
        task = _next(counter)
        while task < tasks:
            i0 = task % m_blocks * m_block
            j0 = task // m_blocks % n_blocks * n_block
            matrix = task // (m_blocks * n_blocks)
            _block(a[matrix], b[matrix], c, matrix, i0, min(i0 + m_block, M), j0, min(j0 + n_block, N), k_block, bias, bias_step, accumulate, scratch, a_at, b_at)
            task = _next(counter)


@kernel
def _block(a, b, c, matrix, i0, i1, j0, j1, k_block, bias, bias_step, accumulate, scratch, a_at, b_at):
    K = a.shape[1]
    c_step = c.strides[1] // 4
    c_at = matrix * (c.strides[0] // 4)
    for k0 in range(0, K, k_block):
        depth = min(k_block, K - k0)
        for j in range(j0, j1, COLS):
            pack(b[k0 : k0 + depth, j : min(j + COLS, j1)].T, COLS, scratch, b_at + (j - j0) * depth)
        adds = accumulate or k0 > 0
        start = c if adds else bias
        for i in range(i0, i1, ROWS):
            rows = min(ROWS, i1 - i)
            pack(a[i : i + rows, k0 : k0 + depth], ROWS, scratch, a_at)
            for j in range(j0, j1, COLS):
                at = c_at + i * c_step + j
                start_at, start_step = (at, c_step) if adds else (j * bias_step, 0)
                multiply(depth, scratch, a_at, scratch, b_at + (j - j0) * depth, start, start_at, start_step, c, at, c_step, rows, j1 - j)


@intrinsic
def _next(typing, counter):
    """Fetch and add one, atomically."""

    def generate(context, builder, signature, arguments):
        place = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.atomic_rmw("add", place, ir.IntType(64)(1), "monotonic")

    return types.int64(counter), generate

"""`autotx warmup`: compile every kernel, so that the first step of a training does not."""

import time
import warnings

import numba
import numpy as np

from autotx.kernels import (
    attend,
    attention,
    codes,
    cross_entropy,
    embedding,
    gelu,
    gemm,
    jit,
    launches,
    layernorm,
    linear,
    mixed,
    parameters,
    recurrent,
    rmsnorm,
    rope,
    silu,
    softmax,
    sums,
)
from autotx.kernels.simd import FLOAT32_TILE
from autotx.models.bench.limit import flop_per_second
from autotx.modes import autocast

SIZE = int(gemm.SMALL**0.5) + 1  # of square matrices whose products are too large for NumPy

EXAMPLES = ("autotx warmup", "NUMBA_CACHE_DIR=cache autotx warmup --bfloat16")


def add_arguments(parser):
    parser.add_argument("--bfloat16", action="store_true", help="also those of autotx train --dtype bfloat16")


def run(args):
    """Call every kernel once and print how long it took. Returns the exit status."""
    if numba.config.DISABLE_JIT:
        raise ValueError("NUMBA_DISABLE_JIT is set, so nothing is compiled; unset it")
    with warnings.catch_warnings(action="ignore"):  # the error below says the same
        folder = jit.cache_folder()
    if folder is None:
        raise ValueError("no folder to keep the kernels in can be written; set NUMBA_CACHE_DIR to one that can")
    begun = time.perf_counter()
    call_all(args.bfloat16)
    seconds, compiled = time.perf_counter() - begun, jit.has_compiled()
    done = f"compiled in {seconds:.1f} s and kept in" if compiled else f"were there, loaded in {seconds:.1f} s from"
    print(f"Kernels {done} {folder}")
    return 0


def call_all(bfloat16=False):
    """Call every kernel in float32. Only the products depend on the size: small ones use NumPy, see `_products`.

    bfloat16: also the products that round to it, by the instructions that are fastest here.
    """
    x = np.ones((65, 65), np.float32)
    row, ids = np.ones(65, np.float32), np.zeros(65, np.int64)
    flop_per_second()
    y, mean, rstd = layernorm.layer_norm(x, row, row)
    layernorm.layer_norm_backward(x, y, row, mean, rstd)
    normed, r = rmsnorm.rms_norm(x, row)
    rmsnorm.rms_norm_backward(x, normed, row, r)
    silu.swiglu_backward(x, x, silu.swiglu(x, x))
    rope.rope(x[:, :64], 1e4)
    for function, backward in (
        (softmax.softmax, softmax.softmax_backward),
        (softmax.log_softmax, softmax.log_softmax_backward),
    ):
        backward(function(x), x)
    for approximate in ("none", "tanh"):
        gelu.gelu_backward(gelu.gelu(x, approximate), x, approximate)
    _, m, s = cross_entropy.cross_entropy(x, ids)
    cross_entropy.cross_entropy_backward(x, m, s, ids, row)
    embedding.add_rows(x.copy(), ids, x)
    large = np.ones((400, 100), np.float32)
    embedding.take_rows(large, np.zeros(400, np.int64))
    sums.add(large, sums.add(large, large), large)
    parameters.adamw(*([x.copy()] for _ in "pgmv"), 1e-3, 0.9, 0.99, 1e-8, [0.1], [1])
    parameters.sum_of_squares([x])
    parameters.scale([x.copy()], 0.5)
    _products()
    heads = np.ones((1, 1, 8, 8), np.float32)
    _attention(heads)
    if bfloat16:
        with autocast("bfloat16"):
            gemm.matmul(np.ones((SIZE, SIZE), np.float32), np.ones((SIZE, 64), np.float32), tile=mixed.tile())
            _attention(heads)
    attend.attend(heads[:, :, :1], heads, heads, 8)
    if not numba.config.DISABLE_JIT:
        _recorded(heads.copy())
    steps, state, square = np.ones((8, 1, 8), np.float32), np.ones((8, 8), np.float32), np.ones((8, 8), np.float32)
    y, saved = recurrent.recurrent(recurrent.TANH, steps, state, None, square, square, None, None)
    recurrent.recurrent_backward(recurrent.TANH, y, saved, square, square)


def _attention(heads):
    tile = mixed.tile(FLOAT32_TILE)
    out, lse = attention.attention(heads, heads, heads, causal=True, tile=tile)
    attention.attention_backward(heads, heads, heads, heads, out, lse, causal=True, tile=tile)


def _recorded(heads):
    """What readers of new tokens record, and run again."""
    x, square = np.ones((1, 8), np.float32), np.ones((8, 8), np.float32)
    with launches.recording() as recorded:
        attend.attend_new(np.ones((1, 24), np.float32), heads, heads, np.zeros(1, np.int64), 1, 1e4)
        linear.gated(x, square, square), linear.linear(x, square)
        gelu.gelu(x, "tanh"), layernorm.layer_norm(x, x[0], x[0])
    recorded.run()


def _products():
    """Products with many rows, and with one row and the matrix stored along either axis, too large to use NumPy."""
    square, few = np.ones((SIZE, SIZE), np.float32), np.ones((1, SIZE), np.float32)
    gemm.matmul(square, square[:, :64])
    gemm.matmul(few, square)
    gemm.matmul(few, square.T)
    for weight in (square, codes.Coded.rounded(square)):
        linear.linear(few, weight)
        linear.gated(few, weight, weight)
    linear.linear(square, weight)

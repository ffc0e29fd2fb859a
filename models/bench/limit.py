"""The limits of the machine: FLOP of all cores when all numbers stay in registers and the L1 cache, FLOP when they stay
in registers, and bytes that the cores read from memory."""

import functools
import os
import time

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from autotx.kernels import mixed
from autotx.kernels.jit import kernel
from autotx.kernels.rows import IDS, INTEGER
from autotx.kernels.simd import INT, PRODUCT_TILE, Vectors
from autotx.kernels.threads import get_num_threads, shared, shared_by_tile
from autotx.kernels.tile import aligned
from autotx.modes import autocast

DEPTH = 128  # both panels fit into an L1 cache of 32 KiB
TILES = 1_000  # in a task
TASKS = 20  # for each thread
BUFFER = 2**31  # bytes that are read, far more than caches hold
PIECE = 2**16  # integers in a task


def flop_per_second(dtype="float32"):
    """The limit of this process with its threads, measured once in a tenth of a second. 0 where nothing is compiled."""
    with autocast(dtype):
        return 0.0 if numba.config.DISABLE_JIT else _measured(get_num_threads(), mixed.tile())


@functools.cache
def _measured(threads, tile):
    run, seconds = limit(threads, tile), []
    (work,) = run()
    for _ in range(3):
        begun = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begun)
    return 1e9 * work / min(seconds)


def limit(threads=None, tile=PRODUCT_TILE):
    """Build a run in which each thread multiplies the same two small panels many times; its result is its GFLOP.

    threads: by default NUMBA_NUM_THREADS.
    """
    threads = threads or int(os.environ["NUMBA_NUM_THREADS"])
    between = 512  # floats, so that no two threads share a cache line
    sizes = *(tile.panel_size(tile, n, DEPTH) for n in (tile.rows, tile.cols)), tile.rows * tile.cols + between
    scratch = aligned(threads * sum(sizes), tile.number)
    scratch[:] = 0.5

    def run():
        _multiply_again_and_again(tile, threads * TASKS, scratch, *sizes)
        return [2e-9 * tile.rows * tile.cols * DEPTH * TILES * TASKS * threads]

    return run


def limit_bfloat16():
    """`limit` of the tile of bfloat16."""
    with autocast("bfloat16"):
        return limit(tile=mixed.tile())


@shared_by_tile(lambda tile: (tile.array(1, "C"), INTEGER, INTEGER, INTEGER))
@kernel
def _multiply_again_and_again(tile, scratch, a_size, b_size, c_size, worker, task):
    a = worker * (a_size + b_size + c_size)
    b = a + a_size
    c = b + b_size
    zeros, rows, cols = tile.zeros, tile.rows, tile.cols
    for _ in range(TILES):
        tile.multiply(
            tile, DEPTH, scratch, a, (0, 1, rows), scratch, b, 0, zeros, 0, (0, 0), scratch, c, cols, rows, cols
        )


def registers(rounds=500_000):
    """Build a run in which each thread adds to as many vectors as the tile has, all in registers; its result is its
    GFLOP. What the tile of `limit` falls short of it is the cost of loading numbers from the L1 cache. rounds: of
    multiply-adds in a task."""
    tile, threads = PRODUCT_TILE, int(os.environ["NUMBA_NUM_THREADS"])
    sums = np.empty((threads * TASKS, tile.rows * tile.cols), np.float32)

    def run():
        sums[:, : tile.lanes] = 0.5
        _add_again_and_again(tile, threads * TASKS, rounds, sums)
        assert (sums[:, -1] == sums.shape[1] // tile.lanes - 1 + 0.25 * rounds).all()
        return [2e-9 * sums.size * rounds]

    return run


@shared_by_tile(lambda tile: (INTEGER, tile.array(2, "C")))
@kernel
def _add_again_and_again(tile, rounds, sums, worker, task):
    _multiply_add(tile, rounds, sums[task].ctypes.data)


@intrinsic
def _multiply_add(typing, tile, rounds, place):
    """Add x^2 `rounds` times to each vector of a tile, of which the i-th begins at i. x: the vector at the address
    `place`, to which the sums are then written, one after another."""

    def generate(context, builder, signature, arguments):
        vectors = Vectors(context, builder, tile.tile)
        [place] = vectors.pointers(arguments[2])
        x, count = vectors.load(place), tile.tile.rows * tile.tile.cols // vectors.lanes
        start = [ir.Constant(vectors.kind, [float(i)] * vectors.lanes) for i in range(count)]
        sums = [cgutils.alloca_once_value(builder, vector) for vector in start]
        with cgutils.for_range(builder, arguments[1]):
            for one in sums:
                builder.store(vectors.fma(x, x, builder.load(one)), one)
        for i, one in enumerate(sums):
            vectors.store(builder.load(one), place, INT(i * vectors.lanes))
        return context.get_dummy_value()

    return types.void(tile, types.int64, types.int64), generate


def bandwidth():
    """Build a run in which the threads read a large buffer once; its result is its size in GB."""
    buffer, sums = np.ones(BUFFER // 8, np.int64), np.empty(BUFFER // 8 // PIECE, np.int64)

    def run():
        _add_up(sums.size, buffer, sums)
        assert sums[-1] == PIECE
        return [buffer.nbytes / 1e9]

    return run


@shared(IDS, types.Array(types.int64, 1, "C"))
@kernel
def _add_up(buffer, sums, worker, task):
    piece, total = buffer[task * PIECE : task * PIECE + PIECE], 0
    for i in range(piece.size):
        total += piece[i]
    sums[task] = total

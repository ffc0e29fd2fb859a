"""The limits of the machine: FLOP of all cores when all numbers stay in registers and the L1 cache, FLOP when they stay
in registers, both in float32 and in bfloat16, and bytes that the cores read from memory."""

import functools
import os
import time

import numba
import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from autotx.kernels import mixed
from autotx.kernels.amx import AmxTile, configure, move, multiply_add, release
from autotx.kernels.bfloat16 import LINES, NUMBERS, SLOTS, SQUARE, DotTile
from autotx.kernels.jit import kernel
from autotx.kernels.launches import shared, shared_by_tile
from autotx.kernels.rows import IDS, INTEGER
from autotx.kernels.simd import INT, PRODUCT_TILE, Vectors
from autotx.kernels.threads import get_num_threads
from autotx.kernels.tile import aligned
from autotx.modes import autocast

DEPTH = 128  # both panels fit into an L1 cache of 32 KiB
TILES = 1_000  # in a task
TASKS = 20  # for each thread
BUFFER = 2**31  # bytes that are read, far more than caches hold
PIECE = 2**16  # integers in a task
UPPER = np.uint32(0xFFFF0000)  # the half of a float32 that is its bfloat16, not rounded


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
    """Build a run in which each thread multiplies two small panels of random numbers many times; its result is its
    GFLOP.

    threads: by default NUMBA_NUM_THREADS.
    """
    threads = threads or int(os.environ["NUMBA_NUM_THREADS"])
    between = 512  # floats, so that no two threads share a cache line
    sizes = *(tile.panel_size(tile, n, DEPTH) for n in (tile.rows, tile.cols)), tile.rows * tile.cols + between
    scratch = aligned(threads * sum(sizes), tile.number)
    scratch[:] = _random(scratch.size)

    def run():
        _multiply_again_and_again(tile, threads * TASKS, scratch, *sizes)
        return [2e-9 * tile.rows * tile.cols * DEPTH * TILES * TASKS * threads]

    return run


def limit_bfloat16():
    """`limit` of the tile of bfloat16."""
    return limit(tile=_bfloat16_tile())


def _bfloat16_tile():
    with autocast("bfloat16"):
        return mixed.tile()


def _random(*shape):
    """Random numbers of normal size, as in data, for all limits: the power that products take, and with it the clock,
    can depend on the numbers. Both halves of a float32 are the same bfloat16, which so is of normal size, too."""
    bits = np.random.default_rng(0).standard_normal(shape, np.float32).view(np.uint32)
    return (bits & UPPER | bits >> 16).view(np.float32)


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


def registers(tile=PRODUCT_TILE, products=100_000):
    """Build a run in which each thread multiplies random numbers in registers and adds the products to as many sums as
    the tile has, also in registers; its result is its GFLOP. What `limit` falls short of it is the cost of loading
    numbers from the L1 cache. products: that a task adds to each sum, a multiple of 32."""
    if isinstance(tile, AmxTile):
        add, count, shape, at_once = _add_squares, 4, (LINES, SLOTS // LINES), NUMBERS
    else:
        add, count, shape = _add_vectors, tile.rows * tile.cols // tile.lanes, (tile.lanes,)
        at_once = 2 if isinstance(tile, DotTile) else 1
    memory = np.empty((int(os.environ["NUMBA_NUM_THREADS"]) * TASKS, count + 4, *shape), np.float32)
    sums, factors = memory[:, :count], _random(4, *shape)
    memory[:, count:] = factors
    if at_once > 1:  # bfloat16
        factors = (factors.view(np.uint32) & UPPER).view(np.float32)
    a, b = factors[np.transpose([_factors(i) for i in range(count)])]
    right = products * (a * b if at_once < NUMBERS else a @ b / LINES)

    def run():
        sums[:] = 0
        add(tile, len(memory), products // at_once, memory)
        assert np.allclose(sums, right, atol=0.02 * np.abs(right).max())
        return [2e-9 * sums.size * products]

    return run


def registers_bfloat16():
    """`registers` of the tile of bfloat16."""
    return registers(_bfloat16_tile())


def _factors(i):
    """Which two of the four factors are multiplied for the sum i."""
    return i // 2 % 2, 2 + i % 2


@shared_by_tile(lambda tile: (INTEGER, tile.array(3, "C")))
@kernel
def _add_vectors(tile, rounds, memory, worker, task):
    _vectors(tile, rounds, memory[task].ctypes.data)


@shared_by_tile(lambda tile: (INTEGER, tile.array(4, "C")))
@kernel
def _add_squares(tile, rounds, memory, worker, task):
    configure()
    _squares(rounds, memory[task].ctypes.data)
    release()


@intrinsic
def _vectors(typing, tile, rounds, place):
    """Make the tile's multiply-add `rounds` times for each of the sums at an address, of the factors after them."""

    def generate(context, builder, signature, arguments):
        vectors = Vectors(context, builder, tile.tile)
        [place] = vectors.pointers(arguments[2])
        multiply_add = tile.tile.reader(vectors, place, (INT(0), INT(0)), place, INT(0)).multiply_add
        count = tile.tile.rows * tile.tile.cols // vectors.lanes
        loaded = [vectors.load(place, INT(i * vectors.lanes)) for i in range(count + 4)]
        sums, factors = [cgutils.alloca_once_value(builder, start) for start in loaded[:count]], loaded[count:]
        with cgutils.for_range(builder, arguments[1]):
            for i, one in enumerate(sums):
                a, b = (factors[j] for j in _factors(i))
                builder.store(multiply_add(a, b, builder.load(one)), one)
        for i, one in enumerate(sums):
            vectors.store(builder.load(one), place, INT(i * vectors.lanes))
        return context.get_dummy_value()

    return types.void(tile, types.int64, types.int64), generate


@intrinsic
def _squares(typing, rounds, place):
    """`_vectors`, for the four sums and the four factors of AMX."""

    def generate(context, builder, signature, arguments):
        rounds, place = arguments
        places = [builder.add(place, INT(i * SQUARE)) for i in range(8)]
        for i in range(8):
            move(builder, "tileloadd64", i, places[i], INT(64))
        with cgutils.for_range(builder, rounds):
            multiply_add(builder)
        for i in range(4):
            move(builder, "tilestored64", i, places[i], INT(64))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


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

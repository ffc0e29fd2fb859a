"""The limit of the machine: FLOP of all cores when all numbers stay in registers and the L1 cache."""

import functools
import os
import time

import numba

from autotx.kernels.jit import kernel
from autotx.kernels.rows import INTEGER
from autotx.kernels.simd import FLOAT32_TILE
from autotx.kernels.threads import get_num_threads, shared_by_tile
from autotx.kernels.tile import aligned

DEPTH = 128  # both panels fit into an L1 cache of 32 KiB
TILES = 1_000  # in a task
TASKS = 20  # for each thread


def flop_per_second():
    """The limit of this process with its threads, measured once in a tenth of a second. 0 where nothing is compiled."""
    return 0.0 if numba.config.DISABLE_JIT else _measured(get_num_threads())


@functools.cache
def _measured(threads):
    run, seconds = limit(threads), []
    (work,) = run()
    for _ in range(3):
        begun = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - begun)
    return 1e9 * work / min(seconds)


def limit(threads=None):
    """Build a run in which each thread multiplies the same two small panels many times; its result is its GFLOP.

    threads: by default NUMBA_NUM_THREADS.
    """
    tile, threads = FLOAT32_TILE, threads or int(os.environ["NUMBA_NUM_THREADS"])
    between = 512  # floats, so that no two threads share a cache line
    sizes = *(tile.panel_size(tile, n, DEPTH) for n in (tile.rows, tile.cols)), tile.rows * tile.cols + between
    scratch = aligned(threads * sum(sizes), tile.number)
    scratch[:] = 0.5

    def run():
        _multiply_again_and_again(tile, threads * TASKS, scratch, *sizes)
        return [2e-9 * tile.rows * tile.cols * DEPTH * TILES * TASKS * threads]

    return run


@shared_by_tile(lambda tile: (tile.array(1, "C"), INTEGER, INTEGER, INTEGER))
@kernel
def _multiply_again_and_again(tile, scratch, a_size, b_size, c_size, worker, task):
    a = worker * (a_size + b_size + c_size)
    b = a + a_size
    c = b + b_size
    zeros, rows, cols = tile.zeros, tile.rows, tile.cols
    for _ in range(TILES):
        tile.multiply(tile, DEPTH, scratch, a, 0, scratch, b, 0, zeros, 0, (0, 0), scratch, c, cols, rows, cols)

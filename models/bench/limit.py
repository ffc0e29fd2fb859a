"""The limit of the machine: FLOP of all cores when all numbers stay in registers and the L1 cache."""

import os

from autotx.kernels.jit import kernel
from autotx.kernels.rows import INTEGER
from autotx.kernels.simd import FLOAT32_TILE
from autotx.kernels.threads import shared_by_tile
from autotx.kernels.tile import aligned

DEPTH = 128  # both panels fit into an L1 cache of 32 KiB
TILES = 1_000  # in a task
TASKS = 20  # for each thread


def limit():
    """Build a run in which each thread multiplies the same two small panels many times; its result is its GFLOP."""
    tile, threads = FLOAT32_TILE, int(os.environ["NUMBA_NUM_THREADS"])
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

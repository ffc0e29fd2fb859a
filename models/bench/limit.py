"""The limit of the machine: how fast all cores multiply and add when the numbers never leave the registers and L1."""

import os

from numba import types

from autotx.kernels.jit import kernel
from autotx.kernels.rows import INTEGER
from autotx.kernels.threads import shared
from autotx.kernels.tile import COLS, ROWS, ZEROS, aligned, multiply, panel_size

DEPTH = 128  # both panels together fit into the 32 KiB of the smallest L1
TILES = 1_000  # in a task
TASKS = 20  # for each thread


def limit():
    """Each thread multiplies the same two small panels again and again. Results: the GFLOP of one run."""
    threads = int(os.environ["NUMBA_NUM_THREADS"])
    apart = 512  # floats, so that no two threads share a cache line
    sizes = panel_size(ROWS, DEPTH), panel_size(COLS, DEPTH), ROWS * COLS + apart
    scratch = aligned(threads * sum(sizes))
    scratch[:] = 0.5

    def run():
        _multiply_again_and_again(threads * TASKS, scratch, *sizes)
        return [2e-9 * ROWS * COLS * DEPTH * TILES * TASKS * threads]

    return run


@shared(types.float32[::1], INTEGER, INTEGER, INTEGER)
@kernel
def _multiply_again_and_again(scratch, a_size, b_size, c_size, worker, task):
    a = worker * (a_size + b_size + c_size)
    b = a + a_size
    c = b + b_size
    for _ in range(TILES):
        multiply(DEPTH, scratch, a, 0, scratch, b, 0, ZEROS, 0, (0, 0), scratch, c, COLS, ROWS, COLS)

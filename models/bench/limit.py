"""The limit of the machine: how fast all cores multiply and add when the numbers never leave the registers and L1."""

import os

import numba

from autotx.kernels.tile import COLS, ROWS, ZEROS, aligned, multiply, panel_size

DEPTH = 128  # both panels together fit into the 32 KiB of the smallest L1
TILES = 20_000  # in one run, on each thread


def limit():
    """Each thread multiplies the same two small panels again and again. Results: the GFLOP of one run."""
    threads = int(os.environ["NUMBA_NUM_THREADS"])
    apart = 512  # floats, so that no two threads share a cache line
    sizes = panel_size(ROWS, DEPTH), panel_size(COLS, DEPTH), ROWS * COLS + apart
    scratch = aligned(threads * sum(sizes))
    scratch[:] = 0.5

    def run():
        _multiply_again_and_again(threads, scratch, *sizes)
        return [2e-9 * ROWS * COLS * DEPTH * TILES * threads]

    return run


@numba.njit(parallel=True)
def _multiply_again_and_again(threads, scratch, a_size, b_size, c_size):
    for thread in numba.prange(threads):
        a = thread * (a_size + b_size + c_size)
        b = a + a_size
        c = b + b_size
        for _ in range(TILES):
            multiply(DEPTH, scratch, a, scratch, b, ZEROS, 0, 0, scratch, c, COLS, ROWS, COLS)

"""Which tile computes products inside autocast("bfloat16"): the fastest of this processor, found by measuring.

What a processor says of itself does not tell: vdpbf16ps is twice as fast as float32's multiply-add on a Zen 4, and
half as fast on an Emerald Rapids. So each tile that can run here is timed once. The winner's name is kept beside the
kernels, and training keeps it in its checkpoints, as another tile adds in another order.
"""

import functools
import time
from pathlib import Path

import numba
import numpy as np

from autotx.kernels import gemm, jit
from autotx.kernels.amx import amx_tile, permitted
from autotx.kernels.bfloat16 import dot_tile, rounded_tile
from autotx.kernels.simd import PRODUCT_TILE, host_features
from autotx.modes import modes

# A tile is made only where it can run: kernels of other folders are compiled with the functions of all tiles.
TILES = {"AMX": amx_tile, "AVX512-BF16": dot_tile, "float32": rounded_tile}
SECONDS = 0.02  # that a tile is timed
SIZE = 512  # of the product that is timed

_used = []  # the name that `use` has set


def tile(of_float32=PRODUCT_TILE):
    """The tile of the products that this thread computes. of_float32: the one for where nothing is rounded."""
    return of_float32 if modes.dtype == "float32" else _tile(name())


@functools.cache
def _tile(name):
    return TILES[name]()


def name():
    """The name of the tile that bfloat16 uses in this process."""
    return _used[0] if _used else fastest()


def use(name):
    """Let bfloat16 use the tile of this name from now on, if it can run here. Returns whether it can."""
    there = name in _that_run()
    if there:
        _used[:] = [name]
    return there


def _that_run():
    """The names of the tiles that this processor can run."""
    features = host_features()
    needs = {
        "AMX": {"amx-bf16", "avx512bf16"} <= features and permitted(),
        "AVX512-BF16": {"avx512f", "avx512bf16"} <= features,
        "float32": True,
    }
    return [name for name in TILES if needs[name] and not (numba.config.DISABLE_JIT and name != "float32")]


@functools.cache
def fastest():
    """The name of the tile that took the least time on this processor."""
    found = _that_run()
    if len(found) == 1:
        return found[0]
    measure = lambda: min(found, key=lambda name: _seconds(_tile(name)))  # noqa: E731
    return jit.remembered("-".join(["bfloat16", *found]), Path(__file__), measure)


def _seconds(tile):
    """The shortest time of a product."""
    a, out = np.ones((SIZE, SIZE), np.float32), np.empty((SIZE, SIZE), np.float32)
    gemm.multiply(a, a, out, tile=tile)  # compiles
    times, end = [], time.perf_counter() + SECONDS
    while not times or time.perf_counter() < end:
        begun = time.perf_counter()
        gemm.multiply(a, a, out, tile=tile)
        times.append(time.perf_counter() - begun)
    return min(times)

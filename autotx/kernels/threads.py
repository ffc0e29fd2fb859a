"""The one pool of threads. Numba's pool runs every parallel loop of autotx; no BLAS pool runs beside it.

Numba can run on three libraries. Intel's TBB is a dependency wherever PyPI has it, because it is the only one whose
idle threads go to sleep at once: two pools that spin on the same cores ruin each other. pip puts it into the
environment's lib folder, where the dynamic loader does not look, so it is loaded here by its path.
"""

import ctypes
import os
import sys
from pathlib import Path

import numba
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_TBB = {"linux": "lib/libtbb.so.12", "win32": "Library/bin/tbb12.dll"}


def choose_pool():
    """Make TBB loadable for Numba where it is installed. Called before the first kernel is compiled."""
    name = _TBB.get(sys.platform)
    path = Path(sys.prefix, name) if name else None
    if path and path.exists() and os.environ.get("NUMBA_THREADING_LAYER", "default") in ("default", "tbb"):
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)


def set_num_threads(n):
    """Use `n` threads from now on. ValueError when n is not between 1 and the number of cores."""
    limit = numba.config.NUMBA_NUM_THREADS
    if not 1 <= n <= limit:
        raise ValueError(f"set_num_threads: {n} asked for, 1 to {limit} can be had; NUMBA_NUM_THREADS raises the limit")
    numba.set_num_threads(n)


def get_num_threads():
    """The number of threads in use."""
    return numba.get_num_threads()


@intrinsic
def next_task(typing, counter):
    """In a kernel: the next task's number, counter[0], which is raised by one in a step that no thread comes between.

    Workers that fetch their tasks one by one all end at about the same time, also when one of them started late or was
    interrupted. counter: int64 array, 0 at first. Which worker gets a task must not change the task's result.
    """

    def generate(context, builder, signature, arguments):
        place = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.atomic_rmw("add", place, ir.IntType(64)(1), "monotonic")

    return types.int64(counter), generate

"""Start-up: how long until a library is imported, and until its first training step is done, in new processes."""

import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec

from autotx.models.bench.cases import Case, S

LIBRARIES = ("autotx", "numpy", "numba", "torch", "jax")
STEP = "from autotx.models.bench import with_{}; with_{}.step(**{})()"


def measure(threads, rounds, cold):
    """Yield (case, turns) for each row: imports and first steps.

    cold: also the first step with an empty cache of kernels, in a folder of its own; without it the usual one is used.
    subprocess.CalledProcessError when a library cannot be imported.
    """
    installed = [name for name in LIBRARIES if find_spec(name)]
    yield Case("import", "", {}), _alternate({name: f"import {name}" for name in installed}, rounds, threads)
    steps = {name: STEP.format(name, name, S) for name in ("autotx", "torch") if name in installed}
    with tempfile.TemporaryDirectory() as folder:
        if cold:
            yield Case("first step of S, compiling", "", {}), {"autotx": [seconds(steps["autotx"], threads, folder)]}
        turns = _alternate(steps, max(rounds // 2, 1), threads, folder if cold else None)
        yield Case("first step of S, compiled before", "", {}), turns


def _alternate(programs, rounds, threads, folder=None):
    """Seconds of each program, in turns, after a round that does not count because the disk may be read."""
    for program in programs.values():
        seconds(program, threads, folder)
    turns = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            turns[name].append(seconds(program, threads, folder))
    return turns


def seconds(program, threads, folder=None):
    """How long a new Python takes for `program`, from start to end. folder: where kernels are kept."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "NUMBA_NUM_THREADS": str(threads)}
    if folder:
        environment["NUMBA_CACHE_DIR"] = folder
    start = time.perf_counter()
    subprocess.run([sys.executable, "-P", "-c", program], env=environment, check=True)
    return time.perf_counter() - start

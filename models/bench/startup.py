"""Start-up: the time of a new process that imports a library, or makes its first training step."""

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

    cold: time the first step with an empty kernel cache too, in a temporary folder; else the usual cache is used.
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
    """Seconds of each program, run in turns, after a round that does not count because it may read from the disk."""
    for program in programs.values():
        seconds(program, threads, folder)
    turns = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            turns[name].append(seconds(program, threads, folder))
    return turns


def seconds(program, threads, folder=None):
    """Seconds that a new Python process takes for `program`, from start to end. folder: of the kernel cache."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "NUMBA_NUM_THREADS": str(threads)}
    if folder:
        environment["NUMBA_CACHE_DIR"] = folder
    start = time.perf_counter()
    subprocess.run([sys.executable, "-P", "-c", program], env=environment, check=True)
    return time.perf_counter() - start

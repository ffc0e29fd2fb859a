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


def first_tokens(threads, rounds, cold):
    """Yield (case, turns): seconds from the command `autotx chat` to the first token, compiled before and, if `cold`,
    with an empty kernel cache."""
    _first_token(threads)  # does not count: it may compile, and read from the disk
    turns = [_first_token(threads) for _ in range(rounds)]
    yield Case("first token of an answer", "", {}, goal="3 s"), {"autotx": turns}
    if cold:
        with tempfile.TemporaryDirectory() as folder:
            yield Case("the same, compiling", "", {}, goal="20 s"), {"autotx": [_first_token(threads, folder)]}


def _first_token(threads, folder=None):
    command, pipe = [sys.executable, "-P", "-m", "autotx", "chat", "--temperature", "0"], subprocess.PIPE
    start = time.perf_counter()
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, env=_environment(threads, folder)
    ) as chat:
        chat.stdin.write(b"What is gravity?\n")
        chat.stdin.flush()
        first = chat.stdout.read(1)
        seconds = time.perf_counter() - start
        chat.kill()
    if not first:
        raise subprocess.CalledProcessError(chat.returncode, command)
    return seconds


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
    start = time.perf_counter()
    subprocess.run([sys.executable, "-P", "-c", program], env=_environment(threads, folder), check=True)
    return time.perf_counter() - start


def _environment(threads, folder):
    numbers = {"OMP_NUM_THREADS": str(threads), "NUMBA_NUM_THREADS": str(threads)}
    return {**os.environ, **numbers, **({"NUMBA_CACHE_DIR": folder} if folder else {})}

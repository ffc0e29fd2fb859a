"""A contestant's process: builds a task in one library, and runs it at each request.

`python -m autotx.models.bench.worker MODULE [PRELOADED ...]` reads requests from standard input, a JSON object on each
line, and answers each with a line of JSON. All that the library prints goes to standard error.
"""

import gc
import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np

from autotx.models.comm import started

SAMPLES = 64  # the number of elements of each result that are compared
QUIET = 0.1  # a process that uses a smaller share of one core is quiet


def main(module, *preloaded):
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # at Ctrl-C the benchmark itself ends its workers
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for name in preloaded:
        importlib.import_module(name)
    contestant = Contestant(importlib.import_module(module))
    comm = started()  # of several processes, the first is asked and answers, and all do the work
    while line := comm.first(sys.stdin.readline):
        request = json.loads(line)
        answer = getattr(contestant, request.pop("do"))(**request)
        if comm.rank == 0:
            print(json.dumps(answer), file=answers, flush=True)


class Contestant:
    """The task of this process; each method answers one kind of request."""

    def __init__(self, module):
        self.module = module

    def prepare(self, builder, settings):
        """Build the task and run it twice. Returns samples of the results, and the seconds of the second run."""
        self.forget()
        task = getattr(self.module, builder)(**settings)
        self.run, self.before = task if isinstance(task, tuple) else (task, lambda: None)
        samples, seconds = [], 0.0
        for _ in range(2):
            start = time.perf_counter()
            results = self.run()
            seconds = _seconds(results, start)
            samples.append([_sample(result) for result in results])
        _wait_until_quiet()
        return {"samples": samples, "seconds": seconds}

    def turn(self, calls, warm):
        """The seconds of each of `calls` runs. warm: first make a run that is not counted."""
        if warm:
            self.run()
        seconds = []
        for _ in range(calls):
            self.before()
            start = time.perf_counter()
            seconds.append(_seconds(self.run(), start))
        _wait_until_quiet()
        return {"seconds": seconds}

    def memory(self):
        """The peak memory of this process in bytes; None where the system does not report it."""
        status = Path("/proc/self/status")
        lines = status.read_text().splitlines() if status.exists() else []
        peaks = [int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")]
        return {"bytes": peaks[0] if peaks else None}

    def forget(self):
        """Free the task."""
        self.run = self.before = None
        gc.collect()
        return {}


def _seconds(results, start):
    """How long a run took: what its results say, of a program that times itself, or the time since its start."""
    return getattr(results, "seconds", time.perf_counter() - start)


def _sample(result):
    """Evenly spaced elements of an array or number, and its mean, a list."""
    flat = np.asarray(result.float() if hasattr(result, "float") else result).reshape(-1)  # NumPy has no bfloat16
    picked = flat[np.linspace(0, flat.size - 1, min(SAMPLES, flat.size)).astype(int)]
    return [*picked.tolist(), float(flat.mean(dtype=np.float64))]


def _wait_until_quiet(longest=1.0):
    """Wait until the threads of this process sleep: spinning threads would slow down the next contestant's turn."""
    end = time.perf_counter() + longest
    while time.perf_counter() < end:
        used, start = time.process_time(), time.perf_counter()
        time.sleep(0.005)
        if time.process_time() - used < QUIET * (time.perf_counter() - start):
            return


if __name__ == "__main__":
    main(*sys.argv[1:])

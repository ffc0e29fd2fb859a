"""Runs the contestants of a case in turns, each in its own process, one at a time."""

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
from dataclasses import dataclass, field

SLOW = 0.5  # seconds: a longer run needs no warm-up


class EndedError(RuntimeError):
    """A contestant's process ended before it answered; its standard error shows why."""


@dataclass(frozen=True)
class Contestant:
    """A library that is timed: its name in the table, its module here, and its settings."""

    name: str
    module: str
    builder: str = ""  # the function that builds its task, where that is not the builder of the case
    options: dict = field(default_factory=dict)  # more settings for the builder
    preload: tuple = ()  # imported before the library
    threads: int = 0  # 0: as many as the others
    processes: int = 1  # which mpiexec starts
    needs: str = ""  # the package without which it is left out


@dataclass(frozen=True)
class Effort:
    """How long to measure."""

    turn: float  # seconds for which a turn repeats short runs
    case: float  # seconds that all turns of a case should take together; it sets their number, within ...
    fewest: int  # ... these limits
    most: int = 15


FULL = Effort(turn=0.1, case=3.0, fewest=3)
QUICK = Effort(turn=0.03, case=0.5, fewest=2)
ONCE = Effort(turn=0, case=0, fewest=1)


class Worker:
    """A contestant's process, which answers requests."""

    def __init__(self, contestant, threads):
        n = str(contestant.threads or threads)
        environment = {**os.environ, "OMP_NUM_THREADS": n, "NUMBA_NUM_THREADS": n, "OPENBLAS_NUM_THREADS": n}
        module = f"autotx.models.bench.{contestant.module}"
        command = [sys.executable, "-P", "-m", "autotx.models.bench.worker", module, *contestant.preload]
        if contestant.processes > 1:
            command = [mpiexec(), "-n", str(contestant.processes), *command]
        pipe = subprocess.PIPE
        self.contestant = contestant
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)

    def ask(self, do, **request):
        """The answer to one request, as a dict. EndedError when there is none."""
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps({"do": do, **request}), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise EndedError(f"{self.contestant.name} ended with exit status {self.process.wait()}")
        return json.loads(line)

    def close(self):
        if self.contestant.processes > 1:  # mpiexec would leave them behind
            with contextlib.suppress(BrokenPipeError, subprocess.TimeoutExpired):
                self.process.stdin.close()
                self.process.wait(timeout=10)
        self.process.kill()
        with contextlib.suppress(BrokenPipeError):  # of a request that the process did not read
            self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


def mpiexec():
    """The path of mpiexec: of the system, or of the package mpich in this environment."""
    beside = os.path.dirname(sys.executable)
    return shutil.which("mpiexec") or shutil.which("mpiexec", path=beside) or "mpiexec"


class Arena:
    """The contestants' processes, each started at its first use. Use as `with Arena(threads) as arena:`."""

    def __init__(self, threads):
        self.threads, self.workers = threads, {}

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.clear()

    def clear(self):
        """End all processes, which frees their memory."""
        for worker in self.workers.values():
            worker.close()
        self.workers = {}

    def worker(self, contestant):
        if contestant.name not in self.workers:
            self.workers[contestant.name] = Worker(contestant, self.threads)
        return self.workers[contestant.name]

    def drop(self, name):
        self.workers.pop(name).close()


@dataclass
class Race:
    """The measurements of one case, dicts by name of contestant."""

    turns: dict  # the median seconds of each turn, a list
    samples: dict  # samples of the results of the first two runs
    memory: dict  # peak memory of the process, in bytes; None where the system does not report it
    failed: dict  # the reason, for contestants that are missing above


def race(arena, contestants, builder, settings, effort):
    """Run one case with all contestants in turns. Returns a Race. A contestant whose process ends is in `failed`."""
    race = Race({}, {}, {}, {})
    plans = {}

    def ask(contestant, do, **request):
        try:
            return arena.worker(contestant).ask(do, **request)
        except EndedError as error:
            race.failed[contestant.name] = str(error)
            arena.drop(contestant.name)
            for found in (plans, race.turns, race.samples):
                found.pop(contestant.name, None)
        return None

    for c in contestants:
        answer = ask(c, "prepare", builder=c.builder or builder, settings={**settings, **c.options})
        if answer:
            plans[c.name] = Plan(c, answer["seconds"], effort)
            race.samples[c.name], race.turns[c.name] = answer["samples"], []
    for _ in range(rounds(plans.values(), effort)):
        for name, plan in list(plans.items()):
            answer = ask(plan.contestant, "turn", calls=plan.calls, warm=plan.warm)
            if answer:
                race.turns[name].append(statistics.median(answer["seconds"]))
    for name, plan in plans.items():
        worker = arena.worker(plan.contestant)
        race.memory[name] = worker.ask("memory")["bytes"]
        worker.ask("forget")
    return race


class Plan:
    """The number of runs in each turn of a contestant, given the seconds of one run."""

    def __init__(self, contestant, seconds, effort):
        self.contestant = contestant
        self.calls = min(max(int(effort.turn / max(seconds, 1e-6)), 1), 10_000)
        self.warm = seconds < SLOW
        self.cost = seconds * (self.calls + self.warm)


def rounds(plans, effort):
    """The number of turns of each contestant."""
    cost = sum(plan.cost for plan in plans)
    return min(max(int(effort.case / cost), effort.fewest), effort.most) if cost else 0

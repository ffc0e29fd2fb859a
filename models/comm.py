"""Several processes that train one model: `mpiexec -n 4 autotx train ...`.

    Comm       one process alone: there is nothing to sum and nobody to tell
    World      one of several processes, which MPI connects
    started    the one that this process needs

Every process has the whole model, computes the gradients of its rows of each batch, and adds those of the others. So
the same training step runs in all of them, on the same numbers. What must happen once, such as writing files, is done
by process 0.

A process that fails alone has to abort: the others wait for it inside MPI, where nothing reaches them.
"""

import atexit
import contextlib
import functools
import math
import os
import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

import autotx
from autotx.text import counted

T = TypeVar("T")

# The variables in which launchers tell a process its rank: MPICH, Intel MPI and Slurm's PMI; Open MPI; PMIx
RANKS = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "PMIX_RANK")
SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE")
PATIENCE = 2.0  # seconds in which other processes may fail as well
SPIN, NAP = 1e-3, 2e-4  # seconds for which a process that waits uses its core, and then sleeps at a time


class Comm:
    """A process among `size`, here 1. `with` ends the work together; see World."""

    rank, size = 0, 1

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def sum(self, array: np.ndarray) -> None:
        """Replace an array by its sum over all processes, in place. All of them get the same bits."""

    def largest(self, numbers: list) -> list:
        """The largest of each of some numbers, among all processes."""
        return numbers

    def sum_gradients(self, parameters) -> None:
        """Replace every gradient by its sum over all processes."""

    def first(self, function: Callable[[], T]) -> T:
        """What function() returns in process 0, which alone calls it, or the error that it raises there."""
        return function()

    def ahead(self, function: Callable[[], T]) -> T:
        """function() of this process, once process 0 is done with its own. What fails there fails everywhere."""
        return function()

    def check_same(self, what: str, value: Callable[[], Any]) -> None:
        """ValueError when value() is not the same in all processes. what: names it for the error."""

    def describe(self) -> str:
        """The processes in a few words, empty for one alone."""
        return ""


class World(Comm):
    """A process that MPI connects with others.

    In a `with` block, an error that all processes raise is told by process 0, and ends the others with status 2. One
    that only some raise gets a note, which says in which process it was, and at its exit Python aborts all processes.
    """

    def __init__(self, mpi):
        self.mpi, self.world = mpi, mpi.COMM_WORLD
        self.rank, self.size = self.world.rank, self.world.size
        self.failures = self.world.Dup()  # apart from what the others may wait for
        self.flat = np.empty(0, np.float32)
        threads = self.world.allgather(_share_cores(self.world.Split_type(mpi.COMM_TYPE_SHARED)))
        self.threads = sorted(set(threads))
        self.depth = 0  # of `with` blocks, of which the outermost counts

    def __enter__(self):
        self.depth += 1
        if self.depth > 1:
            return self
        self.abort = atexit.register(lambda: self.world.Abort(2))
        self.silence = contextlib.ExitStack()
        if self.rank:
            null = self.silence.enter_context(open(os.devnull, "w"))
            self.silence.enter_context(contextlib.redirect_stdout(null))
            self.silence.enter_context(contextlib.redirect_stderr(null))
        return self

    def __exit__(self, kind, error, trace):
        self.depth -= 1
        if self.depth:
            return
        self.silence.close()
        if error and not self._all_failed():
            error.add_note(f"process {self.rank} of {self.size}")
            return
        atexit.unregister(self.abort)
        if isinstance(error, Exception) and self.rank:
            raise SystemExit(2)

    def _all_failed(self):
        """Whether every process gets here within PATIENCE."""
        return _wait(self.failures.Ibarrier(), PATIENCE)

    def sum(self, array):
        _wait(self.world.Iallreduce(self.mpi.IN_PLACE, array))

    def largest(self, numbers):
        numbers = np.array(numbers, np.float64)
        _wait(self.world.Iallreduce(self.mpi.IN_PLACE, numbers, self.mpi.MAX))
        return numbers.tolist()

    def sum_gradients(self, parameters):
        """One message: the gradients become parts of one array."""
        moving = [p for p in parameters if p.grad is not None]
        size, dtype = sum(p.size for p in moving), np.result_type(*(p.grad for p in moving))
        if self.flat.size != size or self.flat.dtype != dtype:
            self.flat = np.empty(size, dtype)
        at = 0
        for p in moving:
            part = self.flat[at : at + p.size].reshape(p.shape)
            part[...] = p.grad
            p.grad, at = part, at + p.size
        self.sum(self.flat)

    def first(self, function):
        outcome = None, None
        if self.rank == 0:
            try:
                outcome = function(), None
            except (ValueError, OSError, MemoryError) as error:
                outcome = None, error
        _wait(self.world.Ibarrier())
        value, error = self.world.bcast(outcome)
        if error:
            raise error
        return value

    def ahead(self, function):
        made = []
        self.first(lambda: made.append(function()))
        return made[0] if made else function()

    def check_same(self, what, value):
        own = value()
        _wait(self.world.Ibarrier())
        values = self.world.allgather(own)
        others = [str(rank) for rank, other in enumerate(values) if other != values[0]]
        if others:
            raise ValueError(
                f"{what} of process {', '.join(others)} of {self.size} differ from those of process 0; give all "
                "processes the same"
            )

    def describe(self):
        return f"{self.size} processes, {' or '.join(counted(n, 'thread') for n in self.threads)} each"


ALONE = Comm()


def started() -> Comm:
    """The World of a process that mpiexec or the like has started, else ALONE.

    ValueError, in process 0 alone, when mpi4py or its MPI library is missing, or is not that of the launcher.
    """
    rank, size = _told(RANKS), _told(SIZES)
    if rank is None:
        return ALONE
    try:
        import mpi4py

        mpi4py.rc.thread_level = "funneled"
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # the package, or the library that it loads
        raise _told_once(f"mpiexec needs mpi4py ({error}); pip install 'autotx[mpi]'") from error
    if size not in (None, MPI.COMM_WORLD.size):
        raise _told_once(
            f"mpiexec started {size} processes, but mpi4py's library is another MPI and finds "
            f"{MPI.COMM_WORLD.size}; use the mpiexec of the same"
        )  # fmt: skip
    library: Any = MPI
    return _world(library)


@functools.cache
def _world(mpi):
    return World(mpi)


def _wait(request, seconds=math.inf):
    """Wait until an MPI request is done. Returns False after so many seconds without.

    MPI itself would keep the core busy and Python from seeing signals, however long another process takes.
    """
    begun = time.monotonic()
    while not request.Test():
        waited = time.monotonic() - begun
        if waited > seconds:
            return False
        time.sleep(NAP if waited > SPIN else 0)
    return True


def check_alone(command: str) -> None:
    """ValueError, in process 0 alone, when several processes were started for a command that one process does."""
    if (_told(SIZES) or 1) > 1:
        raise _told_once(f"only train and finetune use several processes; start autotx {command} without mpiexec")


def _told(names):
    """The number that a launcher told this process in one of the variables with these names, None without."""
    return next((int(os.environ[name]) for name in names if name in os.environ), None)


def _told_once(message):
    """The error to raise: one line of process 0, and an end in silence of the others."""
    return SystemExit(2) if _told(RANKS) else ValueError(message)


def _share_cores(machine):
    """Divide the cores that processes of this machine have in common among them. Returns the number of threads.

    machine: the MPI communicator of these processes. NUMBA_NUM_THREADS, where it is set, is kept to.
    """
    affinity = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))
    mine = set(affinity(0))
    sharing = sum(bool(mine & other) for other in machine.allgather(mine))
    if "NUMBA_NUM_THREADS" not in os.environ:
        autotx.set_num_threads(max(1, min(autotx.get_num_threads(), len(mine) // sharing)))
    return autotx.get_num_threads()

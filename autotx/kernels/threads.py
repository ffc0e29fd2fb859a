"""The pool of threads: every parallel loop of autotx runs here, begun by a launch (see launches.py).

A launch runs a kernel for numbered tasks. The shape of the data decides how the work is divided into tasks (for
products also the number of threads, which divides no sum), so results are the same with any number of threads. The
caller and the workers each take the next task number until none is left, even workers (the caller is worker 0) from the
front and odd ones from the back. So a core tends to process the same rows in successive kernels and finds them in its
own cache, which saves 2 to 4 % of a step of size S.

    caller    publishes the launch -> runs tasks -> closes the launch -> waits for the workers that are still inside
    worker    spins until there is a new launch -> runs tasks -> spins again; sleeps after a time without a launch

The caller never waits for a worker to start: it runs every task that no worker takes. A spinning worker, however, keeps
its core from other threads, and uses up its share of the core's time. So where other threads use that core, a worker
spins only briefly. Beside a thread that spins all the time, as those of BLAS do by default (see blas.py), a step of
size S takes 1.4 times as long as alone; without this rule it took 1.8 times as long.

A launch takes half a microsecond; with Numba's own pools it takes 1.5 to 11 (TBB) or 250 (built in). Numba's parallel
loops are slow to compile: without them, the first step of size S with an empty cache takes a fifth less time.

The caller and the workers share one array of integers, each on its own cache line, accessed by atomic instructions:

    GENERATION   the number of the newest launch; a new launch increments it
    OPEN         the generation of the launch that workers may join, 0 if there is none
    INSIDE       the number of workers that are in the open launch or are checking whether it is open
    TASK, ARGUMENTS   the addresses of the launch's code and of its arguments, local variables of the caller
    BUSY         1 during a launch; another Python thread that launches a kernel meanwhile runs all its tasks itself
    WORKERS      the number of workers that may join
    ASLEEP       the number of workers that sleep. A cache line for each worker follows: whether it sleeps, and for how
                 many more launches it spins only briefly

A worker increments INSIDE before it reads OPEN, and the caller clears OPEN before it reads INSIDE. So in every order of
these steps, either the worker sees that the launch is closed, or the caller sees that the worker is inside and waits.
The caller's local variables therefore exist as long as a worker uses them.
"""

import atexit
import ctypes
import functools
import os
import platform
import sys
import threading

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from autotx.kernels.jit import compile_for, kernel
from autotx.signals import uncut

LINE = 8  # integers in a cache line of 64 bytes
GENERATION, OPEN, INSIDE, TASK, ARGUMENTS, BUSY, WORKERS, ASLEEP = (LINE * i for i in range(8))
SPINS = 20_000  # a worker sleeps after this many spins without a new launch: about half a millisecond,
CROWDED = 1_000  # or after this many, for the next LATER launches, where another thread has used its core
LATER = 300
LOST = 200_000  # more cycles than this between two spins: the worker was probably interrupted
POOL = types.Array(types.int64, 1, "C")
MOST_THREADS = numba.config.NUMBA_NUM_THREADS  # read once: Numba changes it whenever the environment has changed


def set_num_threads(n):
    """Use `n` threads from now on. Raises ValueError unless n is an integer from 1 to MOST_THREADS."""
    if not isinstance(n, int | np.integer) or not 1 <= n <= MOST_THREADS:
        raise ValueError(
            f"set_num_threads: {n} asked for, 1 to {MOST_THREADS} can be had; to have more, set NUMBA_NUM_THREADS "
            "before Python starts"
        )
    pool[WORKERS] = n - 1


def get_num_threads():
    """The number of threads in use."""
    return _seen[WORKERS] + 1


def ready():
    """Start workers that have not been started, wake those that sleep, and return the shared array for a launch."""
    if len(_bells) < _seen[WORKERS]:
        _start()
    if _seen[ASLEEP]:
        _record_caller_core()
        for worker, bell in enumerate(_bells, 1):
            if worker <= pool[WORKERS] and _compiled(_wake)(pool, worker):
                bell.release()
    return pool


def _new_array():
    """A new shared array, aligned to a cache line: zeros but for GENERATION and WORKERS."""
    size = LINE * (8 + MOST_THREADS)
    memory = np.zeros(size + LINE, np.int64)
    start = -memory.ctypes.data % (8 * LINE) // 8
    array = memory[start : start + size]
    array[GENERATION] = 1  # not 0, which in OPEN means that no launch is open
    array[WORKERS] = MOST_THREADS - 1
    return array


pool = _new_array()
_seen = memoryview(pool)  # the same memory; Python reads an element in a third of the time
_bells = []  # a lock for each worker: a sleeping worker waits to acquire it


def _start():
    with uncut():
        _compiled(_wake), _compiled(_serve)  # not in the workers: a fork could copy a compiler lock that one holds
        _record_caller_core()
        while len(_bells) < pool[WORKERS]:
            bell = threading.Lock()
            bell.acquire()
            worker = len(_bells) + 1
            _bells.append(bell)
            threading.Thread(target=_work, args=(pool, worker, bell), name=f"autotx-{worker}", daemon=True).start()


def _work(shared, worker, bell):
    """The main function of a worker thread."""
    serve, usage = _compiled(_serve), np.zeros(USAGE, np.int64)
    while True:
        _avoid_caller_core()
        serve(shared, worker, usage)
        if shared[GENERATION] < 0:
            return
        bell.acquire()


# Linux often wakes a thread on the core of the thread that woke it. Two threads that spin on one core slow each other
# down for a tenth of a second or more, until the system moves one. So a worker that wakes up leaves the caller's core,
# for one that the caller may use at that time.

_get_core = getattr(ctypes.CDLL(None), "sched_getcpu", None) if sys.platform == "linux" else None
_cores_of_workers = set()  # empty where the system does not tell


def _record_caller_core():
    global _cores_of_workers
    if _get_core:
        allowed = os.sched_getaffinity(0)  # 0 is the thread that calls
        _cores_of_workers = allowed - {_get_core()} or allowed


def _avoid_caller_core():
    if _cores_of_workers:
        os.sched_setaffinity(0, _cores_of_workers)


def _stop_workers():
    """Stop the workers before interpreter shutdown. The caller runs all tasks of later launches itself."""
    pool[WORKERS] = 0
    pool[GENERATION] = -(2**62)  # so far below 0 that later launches do not raise it to 0
    for bell in _bells:
        if bell.locked():
            bell.release()


def _reset_after_fork():
    """Reset the pool in a forked child process, which has the parent's memory but not its worker threads."""
    threads = get_num_threads()
    _bells.clear()
    pool[:] = _new_array()
    set_num_threads(threads)


atexit.register(_stop_workers)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)


# ---- in kernels ---------------------------------------------------------------------------------------------------

NUMBER = ir.IntType(64)
CODE = ir.FunctionType(ir.VoidType(), [NUMBER, NUMBER])  # the code of a launch: code(arguments, worker)


def publish(builder, place, code, address, tasks):
    """Emit a launch: code(address, worker) on all threads that come. place: see `places`."""
    won = builder.extract_value(builder.cmpxchg(place(BUSY), NUMBER(0), NUMBER(1), "seq_cst"), 1)
    helped = builder.and_(won, builder.icmp_signed(">", tasks, NUMBER(1)))
    with builder.if_then(helped):
        builder.store(code, place(TASK))
        builder.store(address, place(ARGUMENTS))
        generation = builder.add(builder.load(place(GENERATION)), NUMBER(1))
        builder.store_atomic(generation, place(OPEN), "seq_cst", 8)
        builder.store_atomic(generation, place(GENERATION), "seq_cst", 8)
    builder.call(builder.inttoptr(code, CODE.as_pointer()), [address, NUMBER(0)])
    with builder.if_then(helped):
        builder.store_atomic(NUMBER(0), place(OPEN), "seq_cst", 8)
        _wait(builder, place(INSIDE))
    with builder.if_then(won):
        builder.store_atomic(NUMBER(0), place(BUSY), "seq_cst", 8)


def places(context, builder, signature, values):
    """A function that returns the pointer to a field (its index) of the shared array, the first argument."""
    data = context.make_array(signature.args[0])(context, builder, values[0]).data
    return lambda field: builder.gep(data, [NUMBER(field) if isinstance(field, int) else field])


def _wait(builder, place):
    """Emit a loop that spins until the number at `place` is zero."""
    loop, done = (builder.append_basic_block() for _ in range(2))
    builder.branch(loop)
    builder.position_at_end(loop)
    _spin_hint(builder)
    builder.cbranch(builder.icmp_signed("==", builder.load_atomic(place, "seq_cst", 8), NUMBER(0)), done, loop)
    builder.position_at_end(done)


def _spin_hint(builder):
    """Emit the instruction for spin loops, which saves power and leaves the core to its other hardware thread."""
    if platform.machine() in ("x86_64", "AMD64"):
        kind = ir.FunctionType(ir.VoidType(), [])
        builder.call(builder.module.declare_intrinsic("llvm.x86.sse2.pause", (), kind), [])


@intrinsic
def get(typing, shared, field):
    def generate(context, builder, signature, values):
        return builder.load_atomic(places(context, builder, signature, values)(values[1]), "seq_cst", 8)

    return types.int64(shared, types.int64), generate


@intrinsic
def _add(typing, shared, field, n):
    """shared[field] += n, atomically. Returns the old value."""

    def generate(context, builder, signature, values):
        return builder.atomic_rmw("add", places(context, builder, signature, values)(values[1]), values[2], "seq_cst")

    return types.int64(shared, types.int64, types.int64), generate


@intrinsic
def _swap(typing, shared, field, n):
    """shared[field] = n, atomically. Returns the old value."""

    def generate(context, builder, signature, values):
        return builder.atomic_rmw("xchg", places(context, builder, signature, values)(values[1]), values[2], "seq_cst")

    return types.int64(shared, types.int64, types.int64), generate


@intrinsic
def _pause(typing):
    def generate(context, builder, signature, values):
        _spin_hint(builder)
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def _clock(typing):
    """The processor's cycle counter on x86, where every program may read it; 0 elsewhere."""

    def generate(context, builder, signature, values):
        if platform.machine() not in ("x86_64", "AMD64"):
            return NUMBER(0)
        kind = ir.FunctionType(NUMBER, [])
        return builder.call(builder.module.declare_intrinsic("llvm.readcyclecounter", (), kind), [])

    return types.int64(), generate


@intrinsic
def _run(typing, code, arguments, worker):
    def generate(context, builder, signature, values):
        builder.call(builder.inttoptr(values[0], CODE.as_pointer()), values[1:])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@kernel(from_python=True)
def _wake(shared, worker):
    """Whether this worker slept. It is then marked awake, and the caller of `_wake` must release its bell."""
    slept = _swap(shared, ASLEEP + LINE * worker, 0) == 1
    if slept:
        _add(shared, ASLEEP, -1)
    return slept


# `_evictions` returns the thread's involuntary context switches, in which another thread took its core (man getrusage).
# Steal time of a virtual machine is ignored: no local process could use the core.
RUSAGE_THREAD, INVOLUNTARY, USAGE = 1, 17, 18  # argument of getrusage; index in its struct, and size, in 64-bit numbers

if sys.platform == "linux":
    _getrusage = types.ExternalFunction("getrusage", types.int32(types.int32, types.intp))

    @kernel
    def _evictions(usage):
        _getrusage(RUSAGE_THREAD, usage.ctypes.data)
        return usage[INVOLUNTARY]

else:

    @kernel
    def _evictions(usage):
        usage[INVOLUNTARY] += 1
        return usage[INVOLUNTARY]


@kernel(from_python=True)
def _serve(shared, worker, usage):
    """Join every launch. Returns after a time without one: the worker then has to wait for its bell."""
    seen, crowded, evictions = 0, ASLEEP + LINE * worker + 1, _evictions(usage)
    while True:
        now, spins, clock = get(shared, GENERATION), 0, _clock()
        patience = CROWDED if shared[crowded] > 0 else SPINS
        shared[crowded] -= 1
        while now == seen and spins < patience:
            _pause()
            now, spins, before, clock = get(shared, GENERATION), spins + 1, clock, _clock()
            if clock - before > LOST:
                before_that, evictions = evictions, _evictions(usage)
                if evictions > before_that:
                    shared[crowded] = LATER
        if now < 0:
            return
        if now == seen:
            _add(shared, ASLEEP, 1)
            _swap(shared, ASLEEP + LINE * worker, 1)
            # A launch may have begun just now. Then stay, unless `ready` has marked this worker awake: its bell comes.
            if get(shared, GENERATION) == seen or not _wake(shared, worker):
                return
        elif worker <= get(shared, WORKERS):
            seen = now
            _add(shared, INSIDE, 1)
            if get(shared, OPEN) == seen:
                _run(shared[TASK], shared[ARGUMENTS], worker)
            _add(shared, INSIDE, -1)
        else:
            seen = now


@functools.cache
def _compiled(function):
    """`_wake` or `_serve`, compiled."""
    signature = types.boolean(POOL, types.int64) if function is _wake else types.void(POOL, types.int64, POOL)
    return function if numba.config.DISABLE_JIT else compile_for(function, signature)

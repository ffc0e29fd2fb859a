"""The pool of threads: every parallel loop of autotx runs here.

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
import contextlib
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

from autotx.kernels.jit import address, compile_for, kernel
from autotx.signals import uncut

LINE = 8  # integers in a cache line of 64 bytes
GENERATION, OPEN, INSIDE, TASK, ARGUMENTS, BUSY, WORKERS, ASLEEP = (LINE * i for i in range(8))
SPINS = 20_000  # a worker sleeps after this many spins without a new launch: about half a millisecond,
CROWDED = 1_000  # or after this many, for the next LATER launches, where another thread has used its core
LATER = 300
LOST = 200_000  # more cycles than this between two spins: the worker was probably interrupted
POOL = types.Array(types.int64, 1, "C")
BOX, TAKEN = 128, 2  # integers: the most that the argument of a recorded launch takes, and which counts the tasks taken


MOST_THREADS = numba.config.NUMBA_NUM_THREADS  # read once: Numba changes it whenever the environment has changed


def set_num_threads(n):
    """Use `n` threads from now on. Raises ValueError unless n is an integer from 1 to MOST_THREADS."""
    if not isinstance(n, int | np.integer) or not 1 <= n <= MOST_THREADS:
        raise ValueError(
            f"set_num_threads: {n} asked for, 1 to {MOST_THREADS} can be had; to have more, set NUMBA_NUM_THREADS "
            "before Python starts"
        )
    _shared[WORKERS] = n - 1


def get_num_threads():
    """The number of threads in use."""
    return _seen[WORKERS] + 1


def ready():
    """Start workers that have not been started, wake those that sleep, and return the shared array for `share`."""
    if len(_bells) < _seen[WORKERS]:
        _start()
    if _seen[ASLEEP]:
        _record_caller_core()
        for worker, bell in enumerate(_bells, 1):
            if worker <= _shared[WORKERS] and _compiled(_wake)(_shared, worker):
                bell.release()
    return _shared


def _new_array():
    """A new shared array, aligned to a cache line: zeros but for GENERATION and WORKERS."""
    size = LINE * (8 + MOST_THREADS)
    memory = np.zeros(size + LINE, np.int64)
    start = -memory.ctypes.data % (8 * LINE) // 8
    array = memory[start : start + size]
    array[GENERATION] = 1  # not 0, which in OPEN means that no launch is open
    array[WORKERS] = MOST_THREADS - 1
    return array


_shared = _new_array()
_seen = memoryview(_shared)  # the same memory; Python reads an element in a third of the time
_bells = []  # a lock for each worker: a sleeping worker waits to acquire it


def _start():
    with uncut():
        _compiled(_wake), _compiled(_serve)  # not in the workers: a fork could copy a compiler lock that one holds
        _record_caller_core()
        while len(_bells) < _shared[WORKERS]:
            bell = threading.Lock()
            bell.acquire()
            worker = len(_bells) + 1
            _bells.append(bell)
            threading.Thread(target=_work, args=(_shared, worker, bell), name=f"autotx-{worker}", daemon=True).start()


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
    _shared[WORKERS] = 0
    _shared[GENERATION] = -(2**62)  # so far below 0 that later launches do not raise it to 0
    for bell in _bells:
        if bell.locked():
            bell.release()


def _reset_after_fork():
    """Reset the pool in a forked child process, which has the parent's memory but not its worker threads."""
    threads = get_num_threads()
    _bells.clear()
    _shared[:] = _new_array()
    set_num_threads(threads)


atexit.register(_stop_workers)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_after_fork)


# ---- in kernels ---------------------------------------------------------------------------------------------------

_NUMBER = ir.IntType(64)
_CODE = ir.FunctionType(ir.VoidType(), [_NUMBER, _NUMBER])  # the code of a launch: code(arguments, worker)


@intrinsic
def share(typing, shared, kernel, tasks, arguments):
    """In a kernel: run kernel(*arguments, worker, task) for each task from 0 to tasks - 1 on all threads, and wait.

    shared: the result of `ready`. kernel: the address of a compiled kernel (see jit.address) for arguments of these
    types and two integers: the worker, from 0 to get_num_threads() - 1, and the task.
    """

    def generate(context, builder, signature, values):
        box_type, code = _code(context, builder, arguments)
        with builder.goto_entry_block():
            box = builder.alloca(box_type)
        _fill(builder, box, arguments, values[1:])
        place = _place(context, builder, signature, values)
        _publish(builder, place, builder.ptrtoint(code, _NUMBER), builder.ptrtoint(box, _NUMBER), values[2])
        return context.get_dummy_value()

    return types.void(shared, types.intp, types.int64, arguments), generate


@intrinsic
def _publish_again(typing, shared, code, box, tasks):
    """`share` of a launch that `_keep` made."""

    def generate(context, builder, signature, values):
        _publish(builder, _place(context, builder, signature, values), *values[1:])
        return context.get_dummy_value()

    return types.void(shared, types.int64, types.int64, types.int64), generate


@intrinsic
def _keep(typing, memory, kernel, tasks, arguments):
    """Write the box of a launch to an address, for BOX integers. Returns the address of its code."""

    def generate(context, builder, signature, values):
        box_type, code = _code(context, builder, arguments)
        assert context.get_abi_sizeof(box_type) <= 8 * BOX, arguments
        _fill(builder, builder.inttoptr(values[0], box_type.as_pointer()), arguments, values[1:])
        return builder.ptrtoint(code, _NUMBER)

    return types.int64(types.int64, types.intp, types.int64, arguments), generate


def _publish(builder, place, code, address, tasks):
    """Emit a launch: code(address, worker) on all threads that come. place: see `_place`."""
    won = builder.extract_value(builder.cmpxchg(place(BUSY), _NUMBER(0), _NUMBER(1), "seq_cst"), 1)
    helped = builder.and_(won, builder.icmp_signed(">", tasks, _NUMBER(1)))
    with builder.if_then(helped):
        builder.store(code, place(TASK))
        builder.store(address, place(ARGUMENTS))
        generation = builder.add(builder.load(place(GENERATION)), _NUMBER(1))
        builder.store_atomic(generation, place(OPEN), "seq_cst", 8)
        builder.store_atomic(generation, place(GENERATION), "seq_cst", 8)
    builder.call(builder.inttoptr(code, _CODE.as_pointer()), [address, _NUMBER(0)])
    with builder.if_then(helped):
        builder.store_atomic(_NUMBER(0), place(OPEN), "seq_cst", 8)
        _wait(builder, place(INSIDE))
    with builder.if_then(won):
        builder.store_atomic(_NUMBER(0), place(BUSY), "seq_cst", 8)


def _uncounted(builder, value, kind):
    """The array, or tuple of arrays, without reference counting: the caller holds it until the launch ends.

    Numba counts references to an array, also for every row that a loop takes from it, by atomic instructions. Threads
    that update one counter wait for each other: a kernel of short rows took three times as long as on one thread. For
    an array without an owner Numba counts nothing.
    """
    if isinstance(kind, types.Array):
        for field in (0, 1):  # the owners: Numba's meminfo and the Python object
            value = builder.insert_value(value, ir.Constant(value.type.elements[field], None), field)
    elif isinstance(kind, types.BaseTuple):
        for i, inner in enumerate(kind):
            value = builder.insert_value(value, _uncounted(builder, builder.extract_value(value, i), inner), i)
    return value


def _fill(builder, box, arguments, values):
    """Write the argument of a launch. values: kernel, tasks, the tuple of arguments."""
    kernel, tasks, given = values
    given = [_uncounted(builder, builder.extract_value(given, i), kind) for i, kind in enumerate(arguments)]
    for i, value in enumerate([tasks, kernel, _NUMBER(0), *given]):
        builder.store(value, builder.gep(box, [ir.IntType(32)(0), ir.IntType(32)(i)]))


def _code(context, builder, arguments):
    """The type of the struct that is a launch's argument, [tasks, kernel, tasks taken, *arguments], and its code."""
    box_type = ir.LiteralStructType([_NUMBER] * 3 + [context.get_value_type(kind) for kind in arguments])
    code = ir.Function(builder.module, _CODE, builder.module.get_unique_name("task"))
    code.linkage = "internal"
    body = ir.IRBuilder(code.append_basic_block())
    inner = body.inttoptr(code.args[0], box_type.as_pointer())
    field = lambda i: body.gep(inner, [ir.IntType(32)(0), ir.IntType(32)(i)])  # noqa: E731
    tasks, kernel, *given = [body.load(field(i)) for i in (0, 1, *range(3, 3 + len(arguments)))]
    kinds = (*arguments.types, types.int64, types.int64)
    callee = body.inttoptr(kernel, context.call_conv.get_function_type(types.void, kinds).as_pointer())
    loop, work, done = (code.append_basic_block() for _ in range(3))
    body.branch(loop)
    body.position_at_end(loop)
    # The low half counts the tasks taken from the front, the high half those taken from the back.
    front = body.icmp_signed("==", body.and_(code.args[1], _NUMBER(1)), _NUMBER(0))
    taken = body.atomic_rmw("add", field(2), body.select(front, _NUMBER(1), _NUMBER(1 << 32)), "monotonic")
    first, last = body.and_(taken, _NUMBER((1 << 32) - 1)), body.lshr(taken, _NUMBER(32))
    task = body.select(front, first, body.sub(body.sub(tasks, _NUMBER(1)), last))
    body.cbranch(body.icmp_signed("<", body.add(first, last), tasks), work, done)
    body.position_at_end(work)
    context.call_conv.call_function(body, callee, types.void, kinds, [*given, code.args[1], task])
    body.branch(loop)
    body.position_at_end(done)
    body.ret_void()
    return box_type, code


def _place(context, builder, signature, values):
    """A function that returns the pointer to a field (its index) of the shared array, the first argument."""
    data = context.make_array(signature.args[0])(context, builder, values[0]).data
    return lambda field: builder.gep(data, [_NUMBER(field) if isinstance(field, int) else field])


def _wait(builder, place):
    """Emit a loop that spins until the number at `place` is zero."""
    loop, done = (builder.append_basic_block() for _ in range(2))
    builder.branch(loop)
    builder.position_at_end(loop)
    _spin_hint(builder)
    builder.cbranch(builder.icmp_signed("==", builder.load_atomic(place, "seq_cst", 8), _NUMBER(0)), done, loop)
    builder.position_at_end(done)


def _spin_hint(builder):
    """Emit the instruction for spin loops, which saves power and leaves the core to its other hardware thread."""
    if platform.machine() in ("x86_64", "AMD64"):
        kind = ir.FunctionType(ir.VoidType(), [])
        builder.call(builder.module.declare_intrinsic("llvm.x86.sse2.pause", (), kind), [])


@intrinsic
def _get(typing, shared, field):
    def generate(context, builder, signature, values):
        return builder.load_atomic(_place(context, builder, signature, values)(values[1]), "seq_cst", 8)

    return types.int64(shared, types.int64), generate


@intrinsic
def _add(typing, shared, field, n):
    """shared[field] += n, atomically. Returns the old value."""

    def generate(context, builder, signature, values):
        return builder.atomic_rmw("add", _place(context, builder, signature, values)(values[1]), values[2], "seq_cst")

    return types.int64(shared, types.int64, types.int64), generate


@intrinsic
def _swap(typing, shared, field, n):
    """shared[field] = n, atomically. Returns the old value."""

    def generate(context, builder, signature, values):
        return builder.atomic_rmw("xchg", _place(context, builder, signature, values)(values[1]), values[2], "seq_cst")

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
            return _NUMBER(0)
        kind = ir.FunctionType(_NUMBER, [])
        return builder.call(builder.module.declare_intrinsic("llvm.readcyclecounter", (), kind), [])

    return types.int64(), generate


@intrinsic
def _run(typing, code, arguments, worker):
    def generate(context, builder, signature, values):
        builder.call(builder.inttoptr(values[0], _CODE.as_pointer()), values[1:])
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
        now, spins, clock = _get(shared, GENERATION), 0, _clock()
        patience = CROWDED if shared[crowded] > 0 else SPINS
        shared[crowded] -= 1
        while now == seen and spins < patience:
            _pause()
            now, spins, before, clock = _get(shared, GENERATION), spins + 1, clock, _clock()
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
            if _get(shared, GENERATION) == seen or not _wake(shared, worker):
                return
        elif worker <= _get(shared, WORKERS):
            seen = now
            _add(shared, INSIDE, 1)
            if _get(shared, OPEN) == seen:
                _run(shared[TASK], shared[ARGUMENTS], worker)
            _add(shared, INSIDE, -1)
        else:
            seen = now


@functools.cache
def _compiled(function):
    """`_wake` or `_serve`, compiled."""
    signature = types.boolean(POOL, types.int64) if function is _wake else types.void(POOL, types.int64, POOL)
    return function if numba.config.DISABLE_JIT else compile_for(function, signature)


@kernel(from_python=True)
def _launch(shared, kernel, tasks, arguments):
    share(shared, kernel, tasks, arguments)


@functools.cache
def _launcher(signature):
    """`_launch`, compiled for arguments of these types."""
    launch = kernel(_launch.py_func, from_python=True)
    return compile_for(launch, types.void(POOL, types.intp, types.int64, types.BaseTuple.from_types(signature)))


class Recorded:
    """Launches that are made again by one call, with no Python between them.

        with recording() as launches:
            ...
        launches.run()                          as often as wanted

    In the `with` block nothing is computed: kernels are only noted, with their arguments, which are kept. Every run
    reads and writes the same arrays. So there may be nothing but launches in the block, and what changes from run to
    run must be in arrays. Scratch memory is its own (see tile.thread_memory).
    """

    def __init__(self):
        self.memory = {}  # number type -> scratch memory
        self._arguments, self._codes, self._boxes = [], [], []

    def add(self, signature, at, tasks, arguments):
        box = np.zeros(BOX, np.int64)
        self._codes.append(_keeper(signature)(box.ctypes.data, at, tasks, arguments))
        self._boxes.append(box)
        self._arguments.append(arguments)

    def run(self):
        if isinstance(self._codes, list):
            self._codes, self._boxes = np.array(self._codes, np.int64), np.array(self._boxes).reshape(-1, BOX)
            compile_for(_run_from, types.int64(POOL, POOL, types.Array(types.int64, 2, "C"), types.int64))
        done = 0
        while done < len(self._codes):
            done = _run_from(ready(), self._codes, self._boxes, done)


class _Recording(threading.local):
    now: Recorded | None = None  # where the launches of this Python thread are noted


_recording = _Recording()


@contextlib.contextmanager
def recording():
    """In a `with` block, the launches of this Python thread are noted in a Recorded."""
    _recording.now = launches = Recorded()
    try:
        yield launches
    finally:
        _recording.now = None


def recorded():
    """The Recorded of the `recording` that this Python thread is in, or None."""
    return _recording.now


@kernel(from_python=True)
def _keep_launch(memory, kernel, tasks, arguments):
    return _keep(memory, kernel, tasks, arguments)


@functools.cache
def _keeper(signature):
    """`_keep_launch`, compiled for arguments of these types."""
    keep = kernel(_keep_launch.py_func, from_python=True)
    return compile_for(keep, types.int64(types.int64, types.intp, types.int64, types.BaseTuple.from_types(signature)))


@kernel(from_python=True)
def _run_from(shared, codes, boxes, i):
    """Launches from number i on, until all are done or another worker sleeps, which Python has to wake: how many."""
    asleep = _get(shared, ASLEEP)
    while i < codes.size and _get(shared, ASLEEP) <= asleep:
        boxes[i, TAKEN] = 0
        _publish_again(shared, codes[i], boxes[i].ctypes.data, boxes[i, 0])
        i += 1
    return i


def shared(*signature):
    """Decorate a kernel: f(tasks, *arguments) runs f(*arguments, worker, task) for each task, on all threads.

    signature: the types of the arguments without worker and task; arguments are converted to them. The kernel is
    compiled at its first call.
    """

    def decorate(function):
        compiled = []

        @functools.wraps(function)
        def run(tasks, *arguments):
            if not compiled:
                compiled[:] = _launcher(signature), address(function, types.void(*signature, types.int64, types.int64))
            launch, at = compiled
            if _recording.now is None:
                launch(ready() if tasks > 1 else _shared, at, tasks, arguments)
            else:
                _recording.now.add(signature, at, tasks, arguments)

        return run

    return decorate


def shared_by_tile(signature):
    """`shared` for a kernel whose first argument is a tile: f(tile, tasks, *arguments).

    signature(tile): the types of the other arguments. The kernel is compiled at its first call for each tile.
    """

    def decorate(function):
        compiled = {}

        @functools.wraps(function)
        def run(tile, tasks, *arguments):
            if tile not in compiled:
                kinds = signature(tile)
                at = address(function, types.void(tile.type, *kinds, types.int64, types.int64))
                compiled[tile] = _launcher((types.none, *kinds)), at  # a tile takes no space, as None
            launch, at = compiled[tile]
            if _recording.now is None:
                launch(ready() if tasks > 1 else _shared, at, tasks, (None, *arguments))
            else:
                _recording.now.add((types.none, *signature(tile)), at, tasks, (None, *arguments))

        return run

    return decorate

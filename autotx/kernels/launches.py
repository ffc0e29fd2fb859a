"""Launches of kernels on the pool of threads (threads.py): one by one, or recorded and made again by one call.

A kernel that is decorated with `shared` or `shared_by_tile` is launched when Python calls it. The argument of a launch
is a struct, its box: how many tasks there are, the address of the kernel, how many tasks are taken, and the kernel's
own arguments. For each combination of their types there is one function, the launch's code, which takes tasks from the
box until none is left, and calls the kernel for each.
"""

import contextlib
import functools
import threading

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from autotx.kernels.jit import address, compile_for, kernel
from autotx.kernels.threads import ASLEEP, CODE, NUMBER, POOL, get, places, pool, publish, ready

BOX, TAKEN = 128, 2  # integers: the most that the box of a recorded launch takes, and which counts the tasks taken


# ---- in kernels ---------------------------------------------------------------------------------------------------


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
        place = places(context, builder, signature, values)
        publish(builder, place, builder.ptrtoint(code, NUMBER), builder.ptrtoint(box, NUMBER), values[2])
        return context.get_dummy_value()

    return types.void(shared, types.intp, types.int64, arguments), generate


@intrinsic
def _publish_again(typing, shared, code, box, tasks):
    """`share` of a launch that `_keep` made."""

    def generate(context, builder, signature, values):
        publish(builder, places(context, builder, signature, values), *values[1:])
        return context.get_dummy_value()

    return types.void(shared, types.int64, types.int64, types.int64), generate


@intrinsic
def _keep(typing, memory, kernel, tasks, arguments):
    """Write the box of a launch to an address, for BOX integers. Returns the address of its code."""

    def generate(context, builder, signature, values):
        box_type, code = _code(context, builder, arguments)
        assert context.get_abi_sizeof(box_type) <= 8 * BOX, arguments
        _fill(builder, builder.inttoptr(values[0], box_type.as_pointer()), arguments, values[1:])
        return builder.ptrtoint(code, NUMBER)

    return types.int64(types.int64, types.intp, types.int64, arguments), generate


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
    """Write the box of a launch. values: kernel, tasks, the tuple of arguments."""
    kernel, tasks, given = values
    given = [_uncounted(builder, builder.extract_value(given, i), kind) for i, kind in enumerate(arguments)]
    for i, value in enumerate([tasks, kernel, NUMBER(0), *given]):
        builder.store(value, builder.gep(box, [ir.IntType(32)(0), ir.IntType(32)(i)]))


def _code(context, builder, arguments):
    """The type of a launch's box, [tasks, kernel, tasks taken, *arguments], and its code."""
    box_type = ir.LiteralStructType([NUMBER] * 3 + [context.get_value_type(kind) for kind in arguments])
    code = ir.Function(builder.module, CODE, builder.module.get_unique_name("task"))
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
    front = body.icmp_signed("==", body.and_(code.args[1], NUMBER(1)), NUMBER(0))
    taken = body.atomic_rmw("add", field(2), body.select(front, NUMBER(1), NUMBER(1 << 32)), "monotonic")
    first, last = body.and_(taken, NUMBER((1 << 32) - 1)), body.lshr(taken, NUMBER(32))
    task = body.select(front, first, body.sub(body.sub(tasks, NUMBER(1)), last))
    body.cbranch(body.icmp_signed("<", body.add(first, last), tasks), work, done)
    body.position_at_end(work)
    context.call_conv.call_function(body, callee, types.void, kinds, [*given, code.args[1], task])
    body.branch(loop)
    body.position_at_end(done)
    body.ret_void()
    return box_type, code


# ---- from Python --------------------------------------------------------------------------------------------------


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
    asleep = get(shared, ASLEEP)
    while i < codes.size and get(shared, ASLEEP) <= asleep:
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
                launch(ready() if tasks > 1 else pool, at, tasks, arguments)
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
                launch(ready() if tasks > 1 else pool, at, tasks, (None, *arguments))
            else:
                _recording.now.add((types.none, *signature(tile)), at, tasks, (None, *arguments))

        return run

    return decorate

"""What is switched on in a thread: whether the graph is recorded, in which type products are computed, and who observes
what is computed."""

import contextlib
import copy
import functools
import inspect
import threading
from collections.abc import Callable, Generator
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable)


class _Modes(threading.local):
    watch: tuple | None = None  # the observers: an anomaly.Watch inside detect_anomaly, a viz.record

    def __init__(self):
        self.off = []  # the no_grad blocks that are open; a graph is recorded if there are none
        self.casts = []  # the autocast blocks that are open; the last one holds

    @property
    def recording(self) -> bool:
        return not self.off

    @property
    def dtype(self) -> str:
        """The type in which products of float32 are computed."""
        return self.casts[-1].dtype if self.casts else "float32"


modes = _Modes()


class _Block:
    """A `with` block in which a mode holds, in this thread; or a decorator of functions that run in one.

    Above a generator or an async function it holds while the function runs, and not while others do, between two values
    or during an await.
    """

    field: str  # of `modes`: the list of the blocks of a kind that are open

    def __enter__(self):
        self.noted = getattr(modes, self.field)
        self.noted.append(self)

    def __exit__(self, *error):
        noted = getattr(modes, self.field)
        noted = noted if self in noted else self.noted  # a suspended generator may be closed by another thread
        noted.remove(self)  # and in another order than it was opened

    def __call__(self, function: F) -> F:
        async def async_values(*args, **settings):
            values, sent = function(*args, **settings), None
            with contextlib.suppress(StopAsyncIteration):
                while True:
                    sent = yield await _Steps(self, values.asend(sent))

        async def coroutine(*args, **settings):
            return await _Steps(self, function(*args, **settings))

        def values(*args, **settings):
            return (yield from _Steps(self, function(*args, **settings)))

        def plain(*args, **settings):
            with copy.copy(self):
                return function(*args, **settings)

        kinds = {
            inspect.isasyncgenfunction: async_values,
            inspect.iscoroutinefunction: coroutine,
            inspect.isgeneratorfunction: values,
        }
        wrapper = next((wrapper for is_one, wrapper in kinds.items() if is_one(function)), plain)
        return functools.wraps(function)(wrapper)  # pyright: ignore[reportReturnType]


class no_grad(_Block):  # noqa: N801  (a context manager, named as everywhere)
    """`with no_grad():`, or @no_grad() above a function: no graph is recorded inside, in this thread.

    Results do not require gradients.
    """

    field = "off"


class autocast(_Block):  # noqa: N801
    """`with autocast("bfloat16"):`, or @autocast("bfloat16") above a function: matrix products of float32 arrays round
    their factors to bfloat16 inside, in this thread, and sum in float32.

    They are those of linear layers, matmul and @, attention and linear_cross_entropy. Their results are float32,
    and their gradients are computed alike, wherever backward is called. All else computes as without: weights, norms,
    softmax, losses, optimizers, einsum and recurrent layers stay float32, and float64 is never rounded. As bfloat16 has
    the range of float32, the loss needs no scaling.
    dtype: "bfloat16", or "float32" to switch it off inside. ValueError for others.
    """

    field = "casts"

    def __init__(self, dtype: str):
        if dtype not in DTYPES:
            raise ValueError(f"autocast: dtype is {dtype!r}; give {' or '.join(map(repr, DTYPES))}")
        self.dtype = dtype


DTYPES = "float32", "bfloat16"


class _Steps(Generator):
    """A generator or coroutine that runs in such a block, and leaves the mode as it was between its steps."""

    def __init__(self, block: _Block, inner: Any):
        self.block, self.inner = block, inner

    def send(self, value):
        with copy.copy(self.block):
            return self.inner.send(value)

    def throw(self, *error):
        with copy.copy(self.block):
            return self.inner.throw(*error)

    def __await__(self):
        return self


def watch(watcher):
    """Let `watcher` observe all that this thread computes. It has the methods of Watcher."""
    modes.watch = (*(modes.watch or ()), watcher)


def unwatch(watcher):
    """End what `watch` began."""
    modes.watch = tuple(w for w in modes.watch or () if w is not watcher) or None


@contextlib.contextmanager
def apart(*watchers):
    """Inside, ops are recorded and only these watchers observe them, whatever is switched on: pictures compute again
    what they show, and that is not part of what the user observes."""
    before = modes.watch, modes.off
    modes.watch, modes.off = watchers or None, []
    try:
        yield
    finally:
        modes.watch, modes.off = before


def tell(watchers, event, *facts):
    """Call the method `event` of each watcher."""
    for watcher in watchers:
        getattr(watcher, event)(*facts)


class Watcher:
    """What an observer is told, in this order; each method does nothing here."""

    def begin(self):
        """An op, or the pullback of one, is about to be called."""

    def result(self, op, t, data, settings):
        """The op of this name made the Tensor t of the arrays `data`."""

    def gradient(self, node, parent, d, g):
        """The pullback of `node` made of its gradient g the gradient d of one of its parents: of its whole shape, of
        one that it broadcasts to, or a function that adds it to a buffer."""

    def end(self, node):
        """The pullback of `node` was called, and its gradients were added."""

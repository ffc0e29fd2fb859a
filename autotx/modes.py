"""What is switched on in a thread: whether the graph is recorded, and who observes what is computed."""

import contextlib
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

    @property
    def recording(self) -> bool:
        return not self.off


modes = _Modes()


class no_grad:  # noqa: N801  (a context manager, named as everywhere)
    """`with no_grad():`, or @no_grad() above a function: no graph is recorded inside, in this thread.

    Results do not require gradients. Above a generator or an async function it holds while the function runs, and not
    while others do, between two values or during an await.
    """

    def __enter__(self):
        self.noted = modes.off
        self.noted.append(self)

    def __exit__(self, *error):
        noted = modes.off if self in modes.off else self.noted  # a suspended generator may be closed by another thread
        noted.remove(self)  # and in another order than it was opened

    def __call__(self, function: F) -> F:
        async def async_values(*args, **settings):
            values, sent = function(*args, **settings), None
            with contextlib.suppress(StopAsyncIteration):
                while True:
                    sent = yield await _Steps(values.asend(sent))

        async def coroutine(*args, **settings):
            return await _Steps(function(*args, **settings))

        def values(*args, **settings):
            return (yield from _Steps(function(*args, **settings)))

        def plain(*args, **settings):
            with no_grad():
                return function(*args, **settings)

        kinds = {
            inspect.isasyncgenfunction: async_values,
            inspect.iscoroutinefunction: coroutine,
            inspect.isgeneratorfunction: values,
        }
        wrapper = next((wrapper for is_one, wrapper in kinds.items() if is_one(function)), plain)
        return functools.wraps(function)(wrapper)  # pyright: ignore[reportReturnType]


class _Steps(Generator):
    """A generator or coroutine that records no graph while it runs, and leaves the mode as it was between its steps."""

    def __init__(self, inner: Any):
        self.inner = inner

    def send(self, value):
        with no_grad():
            return self.inner.send(value)

    def throw(self, *error):
        with no_grad():
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

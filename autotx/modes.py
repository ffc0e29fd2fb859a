"""What is switched on in a thread: whether the graph is recorded, and who observes what is computed."""

import contextlib
import threading


class _Modes(threading.local):
    recording = True  # whether the graph is recorded; see no_grad
    watch: tuple | None = None  # the observers: an anomaly.Watch inside detect_anomaly, a viz.record


modes = _Modes()


class no_grad(contextlib.ContextDecorator):  # noqa: N801  (a context manager, named as everywhere)
    """`with no_grad():`, or @no_grad() above a function: no graph is recorded inside, in this thread.

    Results do not require gradients.
    """

    def __init__(self):
        self.before = []  # a stack: one object may be entered again before it is left

    def __enter__(self):
        self.before.append(modes.recording)
        modes.recording = False

    def __exit__(self, *error):
        modes.recording = self.before.pop()


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
    before = modes.watch, modes.recording
    modes.watch, modes.recording = watchers or None, True
    try:
        yield
    finally:
        modes.watch, modes.recording = before


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

"""Work that is not cut short: signals and forks wait for its end.

Python calls the handler of a signal between any two steps of the main thread. One that raises, as that of Ctrl-C does,
would leave a module half imported or a kernel half compiled, and what needs it would fail from then on. One that
computes may need the very kernel that is being compiled. A fork would copy such a state into the child, with locks held
by threads that are not there. So imports and compilations happen inside `uncut`.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator

lock = threading.RLock()


@contextlib.contextmanager
def uncut() -> Iterator[None]:
    """In a `with` block, one thread at a time: signals that Python handles wait, and are handled when it ends.

    So a KeyboardInterrupt is raised at the end of the block. Blocks may be nested; a fork waits for the outermost one.
    """
    with lock, contextlib.ExitStack() as late, contextlib.ExitStack() as handlers:
        if threading.current_thread() is threading.main_thread():  # others are not interrupted
            for number in signal.valid_signals():
                handler = signal.getsignal(number)
                if callable(handler):
                    handlers.callback(signal.signal, number, handler)
                    signal.signal(number, lambda number, frame: late.callback(signal.raise_signal, number))
        yield


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)


# In a process of the command line, signals wait from the beginning until `main` (in models/cli.py) can end an interrupt
# in one line, and again when it is done.

_program = sys.argv[0] if sys.argv else ""
_is_command_line = os.path.basename(_program) in ("autotx", "autotx.exe") or (
    _program == "-m" and "autotx" in sys.orig_argv
)
_held = contextlib.ExitStack()


def hold():
    """In a process of the command line, let signals wait until `release`."""
    if _is_command_line:
        _held.enter_context(uncut())


def release():
    """End `hold`. KeyboardInterrupt, and whatever else handlers raise for the signals that came meanwhile."""
    _held.close()


hold()

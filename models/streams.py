"""The standard streams of a command: opened where they are closed, safe on a terminal, and lasting while it trains."""

import contextlib
import errno
import os
import sys

from autotx.files import describe

_CONTROLS = {c: repr(chr(c))[1:-1] for c in (*range(32), *range(127, 160)) if chr(c) not in "\n\t"}
_NO_READER = {errno.EPIPE, errno.EIO}  # the other end of a pipe is closed; the terminal is gone


class Terminal:
    """A terminal's text stream. Control characters other than newline and tab are written as escapes such as \\x1b:
    from a model, a label or a file name, they would move the cursor, set the title or change what was written."""

    def __init__(self, stream):
        self.stream = stream

    def write(self, text):
        return self.stream.write(text.translate(_CONTROLS))

    def control(self, text):
        """Write a text whose control characters are meant."""
        self.stream.write(text)

    def flush(self):
        self.stream.flush()

    def __getattr__(self, name):
        return getattr(self.stream, name)


class Lasting:
    """A text stream that a training writes to. The first error while writing is kept in `failure`; from then on, what
    is written is lost, and the training goes on."""

    def __init__(self, stream):
        self.stream, self.failure = stream, None

    def write(self, text):
        self._attempt(self.stream.write, text)
        return len(text)

    def control(self, text):
        self._attempt(control, self.stream, text)

    def flush(self):
        self._attempt(self.stream.flush)

    def _attempt(self, act, *arguments):
        try:
            if not self.failure:
                act(*arguments)
        except OSError as error:
            self.failure = error
            silence(self.stream)

    def __getattr__(self, name):
        return getattr(self.stream, name)


def control(stream, text):
    """Write a text whose control characters, such as a carriage return, are meant, also to a Terminal."""
    getattr(stream, "control", stream.write)(text)


def silence(stream):
    """Let what is written to a stream, and what it has kept back, go nowhere."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # a stream of Python alone has no descriptor
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


@contextlib.contextmanager
def for_people():
    """`with for_people():` the standard output and error are open, and Terminals where they are terminals."""
    _open_closed()
    for stream in (sys.stdout, sys.stderr):  # characters that the stream's encoding lacks become question marks
        getattr(stream, "reconfigure", dict)(errors="replace")
    shown = [Terminal(stream) if stream.isatty() else stream for stream in (sys.stdout, sys.stderr)]
    with contextlib.redirect_stdout(shown[0]), contextlib.redirect_stderr(shown[1]):
        try:
            yield
        finally:
            for stream in shown:
                try:
                    stream.flush()
                except OSError:  # has been reported; the interpreter would do so again when it ends
                    silence(stream)


def _open_closed():
    """Open the descriptors 0, 1 and 2 on the null device where they are closed. A file that is opened later would take
    such a number, and receive what is meant for the stream."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free, which is this one
            os.set_inheritable(opened, True)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False))  # noqa: SIM115


@contextlib.contextmanager
def lasting():
    """`with lasting():` no error while writing to the standard output and error stops the body.

    When it is done: OSError if something could not be written, except where nobody is left to read it.
    """
    streams = Lasting(sys.stdout), Lasting(sys.stderr)
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        yield
        for stream in streams:
            stream.flush()
    for failure in (stream.failure for stream in streams):
        if failure and failure.errno not in _NO_READER:
            raise OSError(f"the output could not be written: {describe(failure)}; the run itself is done and saved")

"""The progress of a training: one line that is rewritten, if the terminal has room for it, or else repeated lines.

In a notebook it is a bar and a curve (`notebook.py`).
"""

import shutil
import sys
import time
from collections import deque
from datetime import timedelta

from autotx.models import notebook, streams

SECONDS_BETWEEN_LINES = 10
SECONDS_BETWEEN_CHANGES = 0.1  # of the line that is rewritten
RECENT = 50  # steps whose losses and speeds are averaged
LONGEST_BAR = 40  # columns


class Line:
    """A start, a bar and figures, on a line that is rewritten. A context manager.

    On a terminal that is too narrow, the bar becomes shorter, then figures are left out. If it is still too narrow, if
    its width is not known, and in a file or a pipe, each message is a new line.
    """

    def __init__(self, out=None):
        self.out = sys.stdout if out is None else out  # where each message is a new line
        self.last_shown = time.monotonic()
        self.live = self.out.isatty() and sys.stderr.isatty()
        self.unfinished = False  # whether the cursor is still on the line that is rewritten

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._finish()

    def show(self, start, share, figures, important=False):
        """Show a message, if it is time to or if it is important.

        share: what is done, 0 to 1. figures: lists of str, the first of which that has room is shown.
        """
        columns = shutil.get_terminal_size((0, 0)).columns if self.live else 0
        line = _fitted(start, share, figures, columns - 1)  # some terminals begin a new line after the last column
        pause = SECONDS_BETWEEN_CHANGES if line else SECONDS_BETWEEN_LINES
        last = line is not None and share == 1
        if not (important or last or time.monotonic() - self.last_shown > pause):
            return
        self.last_shown = time.monotonic()
        if line:
            streams.control(sys.stderr, "\r")
            print(f"{line:{columns - 1}}", end="", file=sys.stderr, flush=True)
            self.unfinished = True
        else:
            self._finish()
            print(f"{start}: {', '.join(figures[0])}", file=self.out, flush=True)

    def _finish(self):
        if self.unfinished:
            print(file=sys.stderr)
        self.unfinished = False


class Progress(Line):
    """Shows records {"step", "loss", "val_loss", "tokens_per_second"}, some with "val_accuracy".

    log: the list of all records so far, whose losses a notebook shows as a curve.
    """

    def __init__(self, step, steps, log=()):
        super().__init__()
        self.cell = notebook.Cell(log) if notebook.is_shown() else None
        self.steps = steps
        self.recent = deque(maxlen=RECENT)
        self.val_loss = self.accuracy = None
        self.first = None  # (time, step) after the first step, which is not timed because it may compile kernels

    def show_step(self, record):
        """Show the record of one step, if it is time to."""
        step, validated = record["step"], record["val_loss"] is not None
        self.recent.append(record)
        self.first = self.first or (time.monotonic(), step)
        if validated:
            self.val_loss, self.accuracy = record["val_loss"], record.get("val_accuracy")
        losses, speed, left = self._losses(), self._speed(), self._time_left(step)
        figures = [[*losses, speed, left], [*losses, left], losses]
        start, share = f"step {step}/{self.steps}", step / self.steps
        if self.cell:
            self.cell.show(f"{start}: {', '.join(figures[0])}", share)
        else:
            self.show(start, share, figures, important=validated)

    def _finish(self):
        super()._finish()
        if self.cell:
            self.cell.finish()

    def _losses(self):
        figures = [f"loss {self._mean('loss'):.4f}"]
        if self.val_loss is not None:
            figures.append(f"validation loss {self.val_loss:.4f}")
        if self.accuracy is not None:
            figures.append(f"accuracy {self.accuracy:.1%}")
        return figures

    def _speed(self):
        return f"{self._mean('tokens_per_second'):,.0f} tokens/s"

    def _mean(self, key):
        return sum(record[key] for record in self.recent) / len(self.recent)

    def _time_left(self, step):
        begun, first_step = self.first or (0.0, step)
        return _left(time.monotonic() - begun, step - first_step, self.steps - step)


class Meter(Line):
    """Shows how much of some files has been read. files: objects with `size` and `position`, in bytes."""

    def __init__(self, what, files):
        super().__init__()
        self.what, self.begun, self.characters, self.first = what, time.monotonic(), 0, None
        self.sizes = [file.size for file in files]
        self.files = files

    def show_file(self, number, characters):
        """Show that so many more characters have been read, in the file of a number."""
        done, whole = sum(self.sizes[:number]) + self.files[number].position, sum(self.sizes) or 1
        self.first = done if self.first is None else self.first
        self.characters += characters
        seconds = time.monotonic() - self.begun
        figures = [f"{self.characters / 1e6 / seconds:.1f} million characters/s"]
        figures = [[*figures, _left(seconds, done - self.first, whole - done)], figures, []]
        self.show(f"{self.what} {done / whole:4.0%}", done / whole, figures)


class Measured(Line):
    """Shows the loss over those of `count` tokens that have been scored; on the standard error alone."""

    def __init__(self, count):
        super().__init__(sys.stderr)
        self.count, self.begun = count, time.monotonic()

    def show_loss(self, scored, loss):
        """Show the mean loss of the first tokens."""
        left = _left(time.monotonic() - self.begun, scored, self.count - scored)
        figures = [[f"loss {loss:.4f}", left], [f"loss {loss:.4f}"]]
        self.show(f"{scored:,}/{self.count:,} tokens", scored / self.count, figures)


def _fitted(start, share, figures, width):
    """The line that is rewritten, at most `width` columns wide. None if even the last of the figures have no room."""
    for shown in figures:
        end = ", ".join(shown)
        room = width - len(start) - len(end) - 1
        if room >= 0:
            return f"{start} {_bar(share, room - 1)}{end}"
    return None


def _left(seconds, done, rest):
    """The time left in words, when `done` took so many seconds."""
    if not done:
        return "time left not known yet"
    return f"{timedelta(seconds=round(seconds / done * rest))} left".removeprefix("0:")


def _bar(share, width):
    """A bar of at most `width` columns and a space; empty if `width` is below 3."""
    length = min(width, LONGEST_BAR) - 2
    return f"[{'#' * int(share * length):.<{length}}] " if length > 0 else ""

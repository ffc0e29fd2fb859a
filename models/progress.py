"""The progress of a training: one line that is rewritten, if the terminal has room for it, or else repeated lines."""

import shutil
import sys
import time
from collections import deque
from datetime import timedelta

SECONDS_BETWEEN_LINES = 10
SECONDS_BETWEEN_CHANGES = 0.1  # of the line that is rewritten
RECENT = 50  # steps whose losses and speeds are averaged
LONGEST_BAR = 40  # columns


class Progress:
    """Shows records {"step", "loss", "val_loss", "tokens_per_second"}, some with "val_accuracy". A context manager.

    On a terminal, the step, a bar and the metrics are one line that is rewritten. If it is too wide, the bar becomes
    shorter, then the speed is left out, then the time left. If it is still too wide, if the width of the terminal is
    not known, and in a file or a pipe, each message is a new line.
    """

    def __init__(self, step, steps):
        self.steps = steps
        self.recent = deque(maxlen=RECENT)
        self.val_loss = self.accuracy = None
        self.first = None  # (time, step) after the first step, which is not timed because it may compile kernels
        self.last_shown = time.monotonic()
        self.live = sys.stdout.isatty() and sys.stderr.isatty()
        self.unfinished = False  # whether the cursor is still on the line that is rewritten

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._finish_line()

    def show(self, record):
        """Show the record of one step, if it is time to."""
        step, validated = record["step"], record["val_loss"] is not None
        self.recent.append(record)
        self.first = self.first or (time.monotonic(), step)
        if validated:
            self.val_loss, self.accuracy = record["val_loss"], record.get("val_accuracy")
        columns = shutil.get_terminal_size((0, 0)).columns if self.live else 0
        line = self._line(step, columns - 1)  # some terminals begin a new line after the last column
        pause = SECONDS_BETWEEN_CHANGES if line else SECONDS_BETWEEN_LINES
        last = line is not None and step == self.steps
        if not (validated or last or time.monotonic() - self.last_shown > pause):
            return
        self.last_shown = time.monotonic()
        if line:
            print(f"\r{line:{columns - 1}}", end="", file=sys.stderr, flush=True)
            self.unfinished = True
        else:
            self._finish_line()
            figures = [*self._losses(), self._speed(), self._time_left(step)]
            print(f"step {step}/{self.steps}: {', '.join(figures)}", flush=True)

    def _line(self, step, width):
        """The line that is rewritten, at most `width` columns wide. None if the losses do not fit."""
        losses, speed, left = self._losses(), self._speed(), self._time_left(step)
        for figures in ([*losses, speed, left], [*losses, left], losses):
            start, end = f"step {step}/{self.steps}", ", ".join(figures)
            room = width - len(start) - len(end) - 1
            if room >= 0:
                return f"{start} {_bar(step / self.steps, room - 1)}{end}"
        return None

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
        if step == first_step:
            return "time left not known yet"
        seconds = (time.monotonic() - begun) / (step - first_step) * (self.steps - step)
        return f"{timedelta(seconds=round(seconds))} left".removeprefix("0:")

    def _finish_line(self):
        if self.unfinished:
            print(file=sys.stderr)
        self.unfinished = False


def _bar(share, width):
    """A bar of at most `width` columns and a space; empty if `width` is below 3."""
    length = min(width, LONGEST_BAR) - 2
    return f"[{'#' * int(share * length):.<{length}}] " if length > 0 else ""

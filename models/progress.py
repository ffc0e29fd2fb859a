"""How far the training is: a live bar on a terminal, plain lines where there is none (a file, a pipe, CI)."""

import sys
import time
from collections import deque

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10
BAR = "{percentage:3.0f}%|{bar}| step {n_fmt}/{total_fmt} [{elapsed}, {remaining} left{postfix}]"
RECENT = 50  # steps over which what is shown is averaged


class Progress:
    """Shows records {"step", "loss", "val_loss", "tokens_per_second"}, some with "val_accuracy". Use it with `with`."""

    def __init__(self, step, steps):
        self.steps = steps
        self.recent = deque(maxlen=RECENT)
        self.val_loss = self.accuracy = None
        self.first = None  # (time, step) after the first step, which may compile and so says nothing of the rest
        self.last_line = time.monotonic()
        live = sys.stdout.isatty() and sys.stderr.isatty()
        settings = {"dynamic_ncols": True, "smoothing": 0.05, "bar_format": BAR}
        self.bar = tqdm(total=steps, initial=step, **settings) if live else None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.bar is not None:
            self.bar.close()

    def show(self, record):
        """Take note of one step."""
        self.recent.append(record)
        self.first = self.first or (time.monotonic(), record["step"])
        if record["val_loss"] is not None:
            self.val_loss, self.accuracy = record["val_loss"], record.get("val_accuracy")
        if self.bar is not None:
            self.bar.set_postfix_str(", ".join(self._figures()), refresh=False)
            self.bar.update()
        elif record["val_loss"] is not None or time.monotonic() - self.last_line > SECONDS_BETWEEN_LINES:
            self.last_line = time.monotonic()
            figures = ", ".join([*self._figures(), self._time_left(record["step"])])
            print(f"step {record['step']}/{self.steps}: {figures}", flush=True)

    def _figures(self):
        loss, speed = (sum(r[key] for r in self.recent) / len(self.recent) for key in ("loss", "tokens_per_second"))
        validation = [f"validation loss {self.val_loss:.4f}"] if self.val_loss is not None else []
        if self.accuracy is not None:
            validation.append(f"accuracy {self.accuracy:.1%}")
        return [f"loss {loss:.4f}", *validation, f"{speed:,.0f} tokens/s"]

    def _time_left(self, step):
        begun, first_step = self.first
        if step == first_step:
            return "time left not known yet"
        seconds = (time.monotonic() - begun) / (step - first_step) * (self.steps - step)
        return f"{tqdm.format_interval(seconds)} left"

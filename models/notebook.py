"""The progress of a training in a notebook: below its cell a bar with figures and a curve of the losses, rewritten."""

import base64
import html
import sys
import time

from autotx.viz import style
from autotx.viz.curves import curves

SECONDS_BETWEEN_BARS = 0.2
SECONDS_BETWEEN_CURVES = 2
SHARE_OF_TIME = 0.05  # that drawing may take of a training


def is_shown() -> bool:
    """Whether what is printed now stands in a notebook: the standard output is a stream of its kernel (ipykernel)."""
    return hasattr(sys.stdout, "pub_thread")


class Cell:
    """What stands below the cell. records: the log of the training, a list that grows while it is shown."""

    def __init__(self, records):
        self.records, self.bar, self.curve = records, None, None  # handles of what is displayed
        self.next_bar = self.next_curve = time.monotonic()
        self.line, self.share = "", 0.0

    def show(self, line, share):
        """Show a line with figures, and the curve, if it is time to. share: what is done, 0 to 1."""
        self.line, self.share = line, share
        if time.monotonic() >= self.next_bar:
            self._show_bar()
        if time.monotonic() >= self.next_curve:
            self._show_curve()

    def finish(self):
        """Show the last of all, even if it is not time to."""
        if self.line:
            self._show_bar()
            self._show_curve()

    def _show_bar(self):
        bar = f'<progress value="{self.share:.4f}" max="1"></progress> {html.escape(self.line)}'
        self.bar = _displayed(self.bar, {"text/plain": self.line, "text/html": bar})
        self.next_bar = time.monotonic() + SECONDS_BETWEEN_BARS

    def _show_curve(self):
        begun = time.monotonic()
        losses = [{k: v for k, v in r.items() if k in ("step", "loss", "val_loss")} for r in self.records]
        picture = base64.b64encode(style.drawn(curves({"training": losses}).figure)).decode()
        self.curve = _displayed(self.curve, {"text/plain": "the curve of the losses", "image/png": picture})
        ended = time.monotonic()
        self.next_curve = ended + max(SECONDS_BETWEEN_CURVES, (ended - begun) / SHARE_OF_TIME)


def _displayed(handle, data):
    """Display data, a dict of MIME type -> text, where `handle` stands, or anew if it is None. Returns the handle."""
    if handle is None:
        from IPython.display import display  # there is a kernel, so this is installed

        return display(data, raw=True, display_id=True)
    handle.update(data, raw=True)
    return handle

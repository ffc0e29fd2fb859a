"""The curves of a training run."""

import math

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_BLUE, _ORANGE, _GREY = "#3b6ea5", "#d9772b", "#8a8a8a"


def loss_curve(records, title="Loss"):
    """Draw training and validation loss over the steps. Returns a matplotlib Figure; nothing is shown on a screen.

    records: the lines of a run's log.jsonl as dicts, of which "step", "loss", "val_loss" (or None) and "lr" are used.
    The faint line is the loss of every step, the strong one its mean over the last fiftieth of the run.
    """
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)  # draws into memory, so neither a display nor pyplot's global state is needed
    axes = figure.add_subplot()
    steps = np.array([r["step"] for r in records])
    losses = np.array([r["loss"] for r in records], dtype=float)
    axes.plot(steps, losses, color=_BLUE, alpha=0.25, linewidth=0.8)
    axes.plot(steps, _running_mean(losses, max(1, len(losses) // 50)), color=_BLUE, linewidth=1.8, label="training")
    validated = [(r["step"], r["val_loss"]) for r in records if r.get("val_loss") is not None]
    if validated:
        label = f"validation (at last {validated[-1][1]:.3f})"
        axes.plot(*zip(*validated), color=_ORANGE, marker="o", markersize=4, linewidth=1.5, label=label)
    axes.set(title=title, xlabel="step", ylabel="cross entropy, nats a token")
    axes.grid(alpha=0.3)
    _draw_rate(axes.twinx(), steps, [r["lr"] for r in records])
    if len(records):
        axes.legend(loc="upper right", frameon=False)
        axes.set_ylim(*_limits(losses))
    return figure


def _draw_rate(axes, steps, rates):
    """The learning rate, thin and behind, on an axis of its own."""
    axes.plot(steps, rates, color=_GREY, linewidth=1, linestyle=":")
    axes.set_ylabel("learning rate (dotted)", color=_GREY)
    axes.tick_params(axis="y", colors=_GREY)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
    axes.set_ylim(bottom=0)


def _running_mean(values, width):
    """The mean of each value and the width - 1 before it (fewer at the start)."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - width, 0)
    return (total[ends] - total[starts]) / (ends - starts)


def _limits(losses):
    """From just below the lowest loss to just above the first: a single wild step does not flatten the rest."""
    finite = losses[np.isfinite(losses)]
    if not len(finite):
        return 0, 1
    low, high = finite.min(), max(np.quantile(finite, 0.99), finite[0])
    margin = 0.06 * (high - low) or 0.1 * math.fabs(high) or 1
    return low - margin, high + margin

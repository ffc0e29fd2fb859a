"""The training curves of one run or several runs in one picture, from the records of their logs."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from autotx.viz import style
from autotx.viz.backend import matplotlib

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# The labels of the keys of a log; other keys get a panel labelled with the key.
_LABELS = {
    "loss": "loss (nats)",
    "lr": "learning rate",
    "grad_norm": "gradient norm",
    "tokens_per_second": "tokens a second",
}
_SMOOTHED = ("loss", "grad_norm", "tokens_per_second")
_LARGEST = 1e300  # of what is drawn


def curves(
    runs: Mapping[str, Sequence[Mapping[str, Any]]], title: str | None = None, dark: bool = False
) -> style.Picture[np.ndarray]:
    """Draw the logged numbers over the steps: the loss, and below it the learning rate, gradient norm and others.

    runs: dict of name -> records, each a dict as in a run's log.jsonl: "step", and numbers (or None) under any names;
    "val_x" is drawn into the panel of "x". Faint lines are single steps, strong lines their mean over a fiftieth of the
    steps, dashed lines with markers validation; a line covered by another line is thicker. Returns a Picture, (Figure,
    array (number of panels,) of Axes). ValueError: no run has a record.
    """
    if not any(runs.values()):
        raise ValueError("curves: no run has a record yet; wait for its first step")
    keys = _panels(runs)
    with style.look(dark) as look:
        rows = -(-(len(keys) - 1) // 3)
        figure = style.figure(9.6, 4.2 + 2.1 * rows, layout="constrained")
        grid = figure.add_gridspec(1 + rows, 6, height_ratios=[2, *[1] * rows])
        axes = [figure.add_subplot(grid[0, :])]
        for i in range(len(keys) - 1):
            axes.append(figure.add_subplot(grid[1 + i // 3, 2 * (i % 3) : 2 * (i % 3) + 2]))
        for panel, key in zip(axes, keys):
            _panel(panel, key, runs, look)
        axes[0].set_title("Training" if title is None else style.label(title, 90, plain=True))
        _legend(figure, axes[0], runs, keys[0], look)
    return style.Picture(figure, np.array(axes))


def loss_curve(records: list[dict], title: str = "Loss") -> "Figure":
    """The curves of one run as a Figure; empty axes if there is no record."""
    if not records:
        with style.look():
            figure = style.figure(9.6, 4.2)
            figure.add_subplot().set(title=style.label(title, 90, plain=True), xlabel="step", ylabel=_LABELS["loss"])
        return figure
    return curves({"training": records}, title)[0]


def _panels(runs):
    """The keys to draw, the loss first."""
    found = dict.fromkeys(("loss", "lr", "grad_norm", "tokens_per_second"))
    for records in runs.values():
        for record in records:
            found.update(dict.fromkeys(k.removeprefix("val_") for k in record if k not in ("step", *found)))
    numbers = (int, float)
    some = [r for records in runs.values() for r in (*records[:50], *records[-50:], *_validated(records))]
    return [k for k in found if any(isinstance(r.get(p + k), numbers) for r in some for p in ("", "val_"))]


def _validated(records):
    return [r for r in records if any(k.startswith("val_") and v is not None for k, v in r.items())]


def _panel(axes, key, runs, look):
    """Draw one quantity of all runs."""
    everything = []
    series = [_series(records, key) for records in runs.values()]
    for i, (name, records) in enumerate(runs.items()):
        colour = look.lines[i % len(look.lines)]
        steps, values = series[i]
        mark = "." if len(values) < 20 else None
        below = sum(_covers(over, series[i]) for over in series[i + 1 :])
        wider = 2.4 * min(below, 3)  # visible beside the lines that cover it
        if key in _SMOOTHED and len(values):
            axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.7)
            mean = _running_mean(values, max(1, len(values) // 50))
            axes.plot(steps, mean, color=colour, linewidth=1.7 + wider, label=name, marker=mark)
        elif len(values):
            axes.plot(steps, values, color=colour, linewidth=1.4 + wider, label=name, marker=mark)
        val_steps, val = _series(records, f"val_{key}")
        if len(val):
            of_run = {"color": look.lines[1] if len(runs) == 1 else colour, "marker": _mark(i)}
            axes.plot(val_steps, val, **of_run, **_VALIDATION, markeredgecolor=look.paper)
        everything += [values, val]
    everything = np.concatenate(everything)
    if len(everything) and not np.isfinite(everything).any():
        axes.text(0.5, 0.5, "every value is NaN, Inf or above 1e300", transform=axes.transAxes, ha="center")
    axes.set_ylim(*_limits(everything, key))
    axes.set(xlabel="step", ylabel=_LABELS.get(key, style.label(key.replace("_", " "), 30, plain=True)))
    axes.grid(True)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 6))


def _series(records, key):
    """The steps and values of the records that have a number under this key. NaN, Inf and what is nearly Inf, as from a
    diverged run, are gaps."""
    pairs = [(r["step"], r[key]) for r in records if isinstance(r.get(key), int | float)]
    steps, values = zip(*pairs) if pairs else ((), ())
    values = np.array(values, dtype=float)
    values[np.abs(values) > _LARGEST] = np.inf
    return np.array(steps), values


def _covers(over, under):
    """Whether one line covers the other: equal steps, and values that differ by at most 1 % of the range."""
    (steps, a), (others, b) = over, under
    if not len(a) or not np.array_equal(steps, others):
        return False
    return bool(np.nanmax(np.abs(a - b), initial=0) <= 0.01 * (np.nanmax(b, initial=0) - np.nanmin(b, initial=0)))


# The validation line of a single run has a second colour; of several runs, the colour and marker of its run.
_VALIDATION = {"markersize": 4.5, "linestyle": "--", "linewidth": 1.3}
_MARKS = "osD^vP*"


def _mark(i):
    """The marker of the i-th run: runs with the same colour have different markers."""
    return _MARKS[(i + i // len(style.LIGHT.lines)) % len(_MARKS)]


def _legend(figure, axes, runs, key, look):
    """Draw the legend: in the upper right corner, where a loss curve seldom is, or below, for more than three runs."""
    line, handles, many = matplotlib().lines.Line2D, [], len(runs) > 3
    for i, (name, records) in enumerate(runs.items()):
        last = _series(records, f"val_{key}")[1]
        ending = f"validation {last[-1]:.4g} at last" if len(last) else ""
        if len(runs) == 1:
            handles.append(line([], [], color=look.lines[0], linewidth=1.7, label="training"))
            if ending:
                handles.append(line([], [], color=look.lines[1], marker=_MARKS[0], **_VALIDATION, label=ending))
        else:
            mark = _mark(i) if ending else None
            look_of_run = {"color": look.lines[i % len(look.lines)], "marker": mark}
            text = f"{style.label(name, 26 if many else 40, plain=True, ending=True)}: {ending}".rstrip(": ")
            handles.append(line([], [], **look_of_run, markersize=4.5, label=text))
    if len(runs) > 1 and any(len(_series(records, f"val_{key}")[1]) for records in runs.values()):
        handles.append(line([], [], color=look.ink, linewidth=1.5, label="training"))
        handles.append(line([], [], color=look.ink, **_VALIDATION, label="validation"))
    if many:
        figure.legend(handles=handles, loc="outside lower left", ncols=2)
    else:
        axes.legend(handles=handles, loc="upper right")


def _running_mean(values, width):
    """The mean of the finite ones of each value and the width - 1 before it; NaN where the value is not finite."""
    finite = np.isfinite(values)
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - width, 0)
    totals, counts = (np.concatenate([[0.0], np.cumsum(a)]) for a in (np.where(finite, values, 0), finite))
    return np.where(finite, (totals[ends] - totals[starts]) / np.maximum(counts[ends] - counts[starts], 1), np.nan)


def _limits(values, key):
    """The range of the y axis: up to the 99 % quantile for _SMOOTHED keys, as one outlier would flatten the curve, and
    for the loss at least up to its first value. The range of other keys includes zero."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return 0, 1
    low, high = (finite.min(), np.quantile(finite, 0.99)) if key in _SMOOTHED else (finite.min(), finite.max())
    if key == "loss":
        high = max(high, finite[0])
    else:
        low = min(low, 0)
    margin = 0.06 * (high - low) or 0.1 * math.fabs(high) or 1
    return (low - margin if low else 0), high + margin

"""The time that each op takes in a training step, forward and backward, as bars.

    with viz.record() as recorded:
        loss = model(...)
        loss.backward()
    figure, axes = viz.step_times(recorded.records)

`op_times` computes the data, `step_times` draws them.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from autotx.viz import style
from autotx.viz.labels import op_title, seconds
from autotx.viz.trace import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def op_times(records: Sequence[Record]) -> list[tuple]:
    """The time of each op, the longest first: a list of (op, calls, seconds forward, seconds backward).

    records: the records of `viz.record`, from one step or several.
    """
    times = {}
    for r in records:
        calls, forward, backward = times.get(r.op, (0, 0.0, 0.0))
        times[r.op] = calls + 1, forward + r.forward_seconds, backward + (r.backward_seconds or 0)
    rows = [(op, *numbers) for op, numbers in times.items()]
    return sorted(rows, key=lambda row: row[2] + row[3], reverse=True)


def step_times(
    records: Sequence[Record], steps: int = 1, most: int = 14, title: str = "Where the time of a step goes",
    dark: bool = False,
) -> style.Picture["Axes"]:  # fmt: skip
    """Draw a bar per op: its forward time, then its backward time. Returns a Picture, (Figure, Axes).

    records: the records of `viz.record`; steps: the number of recorded steps, whose mean is drawn. At most `most` bars:
    the fastest ops share one. The time between ops and the time of the optimizer are not drawn.
    ValueError: no records.
    """
    if not records:
        raise ValueError("step_times: there are no records; compute something inside `with viz.record() as recorded`")
    rows = op_times(records)
    if len(rows) > most:
        rest = rows[most - 1 :]
        sums = (sum(row[i] for row in rest) for i in (1, 2, 3))
        rows = [*rows[: most - 1], (f"{len(rest)} other ops", *sums)]
    times = np.array([row[2:] for row in rows]).T * 1e3 / steps
    with style.look(dark) as look:
        figure = style.figure(8.6, 1.5 + 0.3 * len(rows), layout="constrained")
        axes = figure.add_subplot()
        places = range(len(rows))
        axes.barh(places, times[0], color=look.lines[0], height=0.7, label=f"forward, {times[0].sum():.3g} ms in all")
        backward = {"left": times[0], "hatch": "////", "edgecolor": look.paper, "linewidth": 0}
        label = f"backward, {times[1].sum():.3g} ms in all"
        axes.barh(places, times[1], color=look.lines[1], height=0.7, label=label, **backward)
        whole = times.sum() or 1
        for place, time in enumerate(times.sum(axis=0)):
            share = "<1%" if 0 < time < 0.005 * whole else f"{time / whole:.0%}"
            text, beside = f"{seconds(time / 1e3)}, {share}", {"xytext": (4, 0), "textcoords": "offset points"}
            axes.annotate(text, (time, place), **beside, va="center", fontsize=8)
        calls = [f"{style.label(op_title(op), 34, plain=True)} × {count / steps:g}" for op, count, *_ in rows]
        axes.set_yticks(places, calls)
        axes.invert_yaxis()
        axes.margins(y=0.02)
        axes.set_xlim(0, 1.18 * (times.sum(axis=0).max() or 1))  # space for the text beside the longest bar
        axes.set(title=style.label(title, 80, plain=True), xlabel="milliseconds of a step")
        axes.grid(axis="x")
        axes.tick_params(axis="y", length=0)
        figure.legend(loc="outside lower right", ncols=2)
    return style.Picture(figure, axes)

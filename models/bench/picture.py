"""The ratios of the benchmark as horizontal bars."""

from autotx.models.bench.results import geometric_mean, peer_names
from autotx.text import counted
from autotx.viz import style

COLOURS = {
    "torch": "#d9772b",
    "torch fused": "#eebb8f",
    "numpy": "#3b6ea5",
    "jax": "#6a9a4a",
    "micrograd": "#8a6bb0",
    "transformers": "#c3a22f",
}
GREY = "#8a8a8a"
LEFT_OUT = ("threads", "pools", "scaling", "startup")  # not comparisons with another library at the same task


def ratios(rows, facts):
    """A matplotlib Figure. rows: results.Row; facts: results.machine."""
    bars = list(_bars([row for row in rows if row.section not in LEFT_OUT]))
    figure = style.figure(10, 1.6 + 0.24 * max(len(bars), 1), layout="constrained")
    axes = figure.add_subplot()
    for place, (_, name, ratio) in enumerate(bars):
        first = name not in [bar[1] for bar in bars[:place]]  # so that the legend names each peer once
        axes.barh(place, ratio - 1, left=1, color=COLOURS.get(name, GREY), height=0.72, label=name if first else None)
        side, away = ("left", 4) if ratio >= 1 else ("right", -4)
        place_of_text = {"xytext": (away, 0), "textcoords": "offset points", "ha": side, "va": "center"}
        axes.annotate(f"{ratio:.2f}", (ratio, place), fontsize=8, **place_of_text)
    axes.set_yticks(range(len(bars)), [label for label, _, _ in bars], fontsize=9)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axes.margins(x=0.12, y=0.01)
    axes.axvline(1, color="black", linewidth=1)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel("time of the peer / time of autotx: right of 1, autotx is faster")
    versions = ", ".join(f"{name} {facts['versions'][name]}" for name in COLOURS if name in facts["versions"])
    machine = f"{facts['processor']}, {counted(facts['cores'], 'core')}, {counted(facts['threads'], 'thread')}"
    figure.suptitle(f"{machine}\n{versions}", fontsize=10)
    if bars:
        figure.legend(loc="outside lower right", frameon=False, ncols=4)  # outside the plot, where it covers no bar
    return figure


def _bars(rows):
    """Yield (label, peer, ratio) for each bar from top to bottom. The cases of a group have one bar for each peer."""
    done = set()
    for row in rows:
        if row.group in done:
            continue
        members = [r for r in rows if r.group == row.group and r.section == row.section] if row.group else [row]
        done |= {row.group} - {""}
        label = f"{row.section}: {row.group + ' (geometric mean)' if row.group else row.case}"
        for name in peer_names(members):
            yield label, name, geometric_mean(members, name)
            label = ""

"""Embeddings in two dimensions, and the nearest neighbours of words.

`pca` and `nearest` compute the data, `embeddings` draws them. Neighbours are the nearest in all channels, which need
not be the nearest in the picture.
"""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from autotx.types import ArrayLike
from autotx.viz import style
from autotx.viz.backend import matplotlib

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_NAMES = 250  # the words to name if none is marked: there is no space for more


def pca(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first two principal components: ((V, 2) coordinates, (2,) shares of the variance).

    table: (V, C). With the mean row subtracted, table = U S W^T; the coordinates are the first two columns of U S. The
    sign of each column makes its largest absolute value positive, which gives the same picture on every machine.
    """
    centred = table - table.mean(axis=0, dtype=np.float64)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    places = np.zeros((len(table), 2))
    places[:, : min(2, len(s))] = (u * s)[:, :2]
    variance = np.pad(s**2, (0, 2))[:2] / max((s**2).sum(), np.finfo(float).tiny)
    return places * np.where(places.max(axis=0) >= -places.min(axis=0), 1, -1), variance


def nearest(table: np.ndarray, row: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """The n nearest rows of (V, C) to another row by cosine, nearest first: (row numbers (n,), cosines (n,))."""
    lengths = np.linalg.norm(table, axis=1)
    product = table @ table[row]
    bound = lengths * lengths[row]
    cosines = np.divide(product, bound, out=np.full(len(table), -1.0), where=bound > 0)
    order = np.argsort(-cosines, kind="stable")
    order = order[order != row][:n]
    return order, cosines[order]


def embeddings(
    table: ArrayLike, words: Sequence[str], mark: Sequence[str] = (), n: int = 4,
    title: str = "Embeddings in two dimensions (PCA)", dark: bool = False,
) -> style.Picture["Axes"]:  # fmt: skip
    """Draw the rows of a table as points, and lines from the marked words to their nearest words.

    table: array or Tensor (V, C). words: V str, the names of the rows. mark: words to show with their n nearest by
    cosine in all channels; without any, the first MOST_NAMES words are named. Names are written in order, marked words
    first; a name that would overlap another is left out. Returns a Picture, (Figure, Axes). ValueError: the numbers of
    words and rows differ, or a marked word is not in the table.
    """
    table, words = style.checked_table("embeddings", "the table", table), list(words)
    if len(words) != len(table):
        raise ValueError(f"embeddings: {len(words)} words for {len(table)} rows; give one word a row")
    missing = [word for word in mark if word not in words]
    if missing:
        raise ValueError(f"embeddings: there is no word {', '.join(map(repr, missing))} in the table; mark others")
    places, shares = pca(table)
    with style.look(dark) as look:
        figure = style.figure(8, 6.2, layout="constrained")
        axes = figure.add_subplot()
        alpha = min(0.55, max(0.03, 500 / len(words)))  # so that many points over each other are still told apart
        axes.scatter(*places.T, s=9, color=look.hatch, alpha=alpha, linewidth=0)
        if len(mark):
            named = _lines(axes, table, words, places, mark, n, look)
        else:
            named = dict.fromkeys(range(min(len(words), MOST_NAMES)))
        for i, share, name in ((0, shares[0], "x"), (1, shares[1], "y")):
            axes.set(**{f"{name}label": f"direction {i + 1}: {share:.0%} of the variance"})
        axes.set_title(style.label(title, 90, plain=True))
        axes.margins(0.08)
        axes.grid(True)
        if len(mark):
            _legend(figure, look)
        _name(figure, axes, {i: (words[i], places[i], colour or look.ink) for i, colour in named.items()}, look)
    return style.Picture(figure, axes)


def _legend(figure, look):
    """Draw the legend of the points and lines."""
    line = matplotlib().lines.Line2D
    kinds = [
        line([], [], marker="o", color=look.lines[0], linestyle="", markersize=7, label="asked for"),
        line([], [], marker="o", color=look.lines[0], markersize=4, label="its nearest by cosine, in all channels"),
        line([], [], marker="o", color=look.hatch, linestyle="", markersize=3, label="others"),
    ]
    figure.legend(handles=kinds, loc="outside lower right", ncols=3, fontsize=8)


def _lines(axes, table, words, places, mark, n, look):
    """Draw a line from each marked word to each neighbour. Returns the words to name as {row: colour or None}, the
    marked words first."""
    colours = {words.index(word): look.lines[i % len(look.lines)] for i, word in enumerate(mark)}
    named = dict(colours)
    for row, colour in colours.items():
        for other in nearest(table, row, n)[0]:
            axes.plot(*places[[row, other]].T, color=colour, linewidth=1.1, alpha=0.8)
            axes.scatter(*places[other], s=16, color=colour, linewidth=0)
            named.setdefault(int(other), None)
    for row, colour in colours.items():
        axes.scatter(*places[row], s=46, color=colour, edgecolor=look.paper, zorder=3)
    return named


_AROUND = ((1, 0, "left", "center"), (-1, 0, "right", "center"), (0, 1, "center", "bottom"), (0, -1, "center", "top"))
_AROUND += ((0.7, 0.7, "left", "bottom"), (-0.7, 0.7, "right", "bottom"))
_AROUND += ((0.7, -0.7, "left", "top"), (-0.7, -0.7, "right", "top"))


def _name(figure, axes, named, look):
    """Write each word beside its point, at the first of sixteen positions that is free of names, points and lines; if
    there is none, at the first that is free of names and points, or not at all."""
    figure.draw_without_rendering()  # now the axes have their final size
    inside = axes.get_window_extent()
    mpl = matplotlib()
    corners = [axes.transData.transform(at) - 3 for _, at, _ in named.values()]
    taken = [mpl.transforms.Bbox.from_bounds(*corner, width=6, height=6) for corner in corners]
    lines = [line.get_path().transformed(axes.transData) for line in axes.lines]
    passes = (True, False) if lines else (True,)
    halo = [mpl.patheffects.withStroke(linewidth=2.5, foreground=look.paper)]  # keeps text legible in front of a line
    for word, place, colour in named.values():
        for clear, distance, (x, y, across, along) in itertools.product(passes, (6, 14), _AROUND):
            at = {"xytext": (distance * x, distance * y), "textcoords": "offset points", "ha": across, "va": along}
            text = axes.annotate(style.label(word), place, fontsize=9, color=colour, path_effects=halo, **at)
            text.set_in_layout(False)
            box = text.get_window_extent().padded(1)
            free = inside.contains(*box.min) and inside.contains(*box.max) and not box.count_overlaps(taken)
            if free and not (clear and any(line.intersects_bbox(box, filled=False) for line in lines)):
                taken.append(box)
                break
            text.remove()

"""The logit lens: what a language model would say after each layer, as a picture and as a page."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from autotx import files
from autotx.text import visible
from autotx.types import PathLike
from autotx.viz import style
from autotx.viz.backend import matplotlib
from autotx.viz.choices import Likely, token_data
from autotx.viz.page import Page, checked_path, document

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Cell = tuple[str, float, int, Sequence[Likely]]  # the token that comes next, its probability and rank, the likeliest
MOST_POSITIONS, MOST_LETTERS = 24, 10  # that a picture has room for
WIDTHS, HEIGHT = (0.92, 1.3), 0.24  # inches, of a cell: of many tokens and of few


def lens(
    layers: Sequence[str], tokens: Sequence[str], cells: Sequence[Sequence[Cell]], title: str = "", dark: bool = False
) -> style.Picture["Axes"]:
    """Draw a row for each layer, the last at the top, and a column for each token. Returns a Picture, (Figure, Axes).

    In a cell stands the token that the layer finds likeliest after this one; the more colour it has, the surer. A frame
    is around those that do come next. layers: their names; tokens: the text's; cells: for each layer and token a tuple
    of the token that comes next, its probability and rank, and the likeliest, (text, probability) each. Of a long text
    the last MOST_POSITIONS tokens are drawn. ValueError: other numbers of cells.
    """
    _check(layers, tokens, cells)
    first = max(0, len(tokens) - MOST_POSITIONS)
    tokens, cells = tokens[first:], [row[first:] for row in cells]
    wide, high = len(tokens) * min(max(7 / len(tokens), WIDTHS[0]), WIDTHS[1]), HEIGHT * len(layers)
    note = "The likeliest token after each layer; framed where it is the one that comes next (at the end: the model's)."
    note += f" The last {len(tokens)} of {first + len(tokens)} tokens." if first else ""
    with style.look(dark) as look:
        left, below, above = 1.0, 1.35, 0.8
        figure = style.figure(max(left + wide + 0.2, 8.2), below + high + above)
        width, height = figure.get_size_inches()
        axes = figure.add_axes((left / width, below / height, wide / width, high / height))
        sure = [[cell[3][0][1] for cell in row] for row in cells]
        shades = {"cmap": style.blend(look.sequential), "vmin": 0, "vmax": 1}
        image = axes.imshow(sure, **shades, aspect="auto", origin="lower", interpolation="nearest")
        for i, row in enumerate(cells):
            for t, (_, _, rank, ((text, p), *_)) in enumerate(row):
                colour = look.paper if p > 0.4 else look.ink
                axes.text(t, i, style.label(text, MOST_LETTERS), ha="center", va="center", fontsize=8, color=colour)
                if rank == 1:
                    box = matplotlib().patches.Rectangle((t - 0.46, i - 0.42), 0.92, 0.84, fill=False, lw=1.2)
                    box.set_edgecolor(look.accent)
                    axes.add_patch(box)
        axes.set_xticks(range(len(tokens)), [style.label(t, MOST_LETTERS) for t in tokens])
        axes.set_yticks(range(len(layers)), layers)
        axes.tick_params(length=0, labelsize=8)
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.set_xlabel("the text, token by token", fontsize=8)
        style.colour_bar(figure, image, (left, 0.5), [0, 0.5, 1], "probability")
        style.heading(figure, title, note)
    return style.Picture(figure, axes)


def lens_page(
    layers: Sequence[str], tokens: Sequence[str], cells: Sequence[Sequence[Cell]], file: PathLike,
    title: str = "Lens", about: str = "",
) -> Page:  # fmt: skip
    """Write the same to `file` as one HTML page that needs nothing else, with the likeliest tokens of each cell.

    Returns the Page, which a notebook shows. Arguments: as of `lens`; about: text at the top. ValueError: other numbers
    of cells, a name that does not end in .html or .htm, no such folder. OSError: it cannot be written.
    """
    _check(layers, tokens, cells)
    file = checked_path(file)
    data = {
        "layers": list(layers),
        "tokens": [visible(t) for t in tokens],
        "cells": [[token_data(*cell) for cell in row] for row in cells],
    }
    content = document("lens.html", ("look.css", "choices.css", "lens.css"), ("likely.js", "lens.js"), data,
                       title=title, about=about)  # fmt: skip
    files.write_atomically(file, content)
    return Page(file)


def _check(layers, tokens, cells):
    if len(cells) != len(layers) or not tokens or any(len(row) != len(tokens) for row in cells):
        sizes = f"{len(layers)} layers, {len(tokens)} tokens and {[len(row) for row in cells]} cells"
        raise ValueError(f"lens: {sizes}; give a row for each layer, and in it a cell for each token")

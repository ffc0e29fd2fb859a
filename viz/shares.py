"""Shares of tokens as bars, several kinds side by side."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np

from autotx.types import ArrayLike
from autotx.viz import style

MOST_TOKENS, LETTERS = 128, 16


def shares(
    columns: Mapping[str, ArrayLike], tokens: Sequence[str], title: str = "", note: str = "", dark: bool = False
) -> style.Picture[np.ndarray]:
    """Draw bars of the tokens' shares, a column for each kind. Returns a Picture, (Figure, array of Axes).

    columns: {name: numbers (T,)}; tokens: the T tokens, from the top; note: text below the title. ValueError: other
    numbers of them, or more than MOST_TOKENS tokens.
    """
    values = {name: np.asarray(column) for name, column in columns.items()}
    wrong = [name for name, column in values.items() if column.shape != (len(tokens),)]
    if wrong or not tokens or not values:
        raise ValueError(f"shares: {len(tokens)} tokens; give as many numbers for {wrong[0] if wrong else 'a column'}")
    if len(tokens) > MOST_TOKENS:
        raise ValueError(f"shares: {len(tokens)} tokens are more than {MOST_TOKENS}; give a shorter text")
    names = [style.label(token, LETTERS) for token in tokens]
    lines = [part for line in note.split("\n") for part in textwrap.wrap(line, 130)]
    with style.look(dark) as look:
        width, above = 1.2 + 2.9 * len(values), 0.75 + 0.16 * len(lines)
        height = above + 0.21 * len(tokens) + 0.45
        figure = style.figure(width, height)
        axes = np.empty(len(values), object)
        for i, (name, column) in enumerate(values.items()):
            box = (1.1 + 2.9 * i) / width, 0.4 / height, 2.6 / width, 0.21 * len(tokens) / height
            axes[i] = figure.add_axes(box)
            colours = np.where(column < 0, look.lines[1], look.lines[0])
            axes[i].barh(range(len(tokens)), column, color=colours.tolist(), height=0.7)
            axes[i].axvline(0, color=look.faint, lw=0.8)
            axes[i].set_ylim(len(tokens) - 0.5, -0.5)
            axes[i].set_yticks(range(len(tokens)), names if i == 0 else [])
            axes[i].tick_params(length=0, labelsize=8)
            axes[i].set_title(name, fontsize=9)
        style.heading(figure, title, "\n".join(style.label(line, 140, plain=True) for line in lines))
    return style.Picture(figure, axes)

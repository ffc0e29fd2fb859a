"""Activation patching as a heat map: what each value of a clean run brings back in a corrupt one."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from autotx.types import ArrayLike
from autotx.viz import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LETTERS = 18  # of a token
WIDTHS, HEIGHT = (0.5, 1.1), 0.17  # inches, of a cell: of many tokens and of few, and the least
WRITTEN = 16  # layers up to which the numbers stand in the cells


def patching(
    restored: ArrayLike, tokens: Sequence[str], what: str = "residual", title: str = "", dark: bool = False
) -> style.Picture["Axes"]:
    """Draw a row for each layer, the last at the top, and a column for each token. Returns a Picture, (Figure, Axes).

    restored: the share of the difference between two runs that the value of a layer and position brings back, (L, T): 0
    for none, 1 for all. tokens: the T tokens; what: the name of the values. ValueError: other numbers of them.
    """
    restored = np.asarray(restored)
    if restored.ndim != 2 or not restored.size or restored.shape[1] != len(tokens):
        raise ValueError(f"patching: shares of shape {restored.shape} for {len(tokens)} tokens; give (layers, tokens)")
    layers, high = len(restored), max(HEIGHT, 0.26 if len(restored) <= WRITTEN else 0)
    names = [style.label(token, LETTERS) for token in tokens]
    below = 0.9 + 0.075 * max(map(len, names))
    with style.look(dark) as look:
        wide = len(tokens) * float(np.clip(5.7 / len(tokens), *WIDTHS))
        width, height = max(0.8 + wide + 0.3, 6.8), 0.75 + high * layers + below
        figure = style.figure(width, height)
        box = (0.8 / width, below / height, wide / width, high * layers / height)
        axes = figure.add_axes(box)
        most = max(1.0, float(np.abs(restored).max()))
        shades = {"cmap": style.blend(look.diverging), "vmin": -most, "vmax": most}
        image = axes.imshow(restored, **shades, aspect="auto", origin="lower", interpolation="nearest")
        if layers <= WRITTEN:
            for (layer, t), share in np.ndenumerate(restored):
                colour = look.paper if abs(share) > 0.7 * most else look.ink
                axes.text(t, layer, f"{share:.2f}", ha="center", va="center", fontsize=7, color=colour)
        axes.set_xticks(range(len(tokens)), names, rotation=90)
        numbers = range(0, layers, 1 if layers <= WRITTEN else 5)
        axes.set_yticks(numbers, [f"block {i}" for i in numbers])
        axes.tick_params(length=2, labelsize=8)
        style.colour_bar(figure, image, (0.8, 0.42), [-1, 0, 1], "share that comes back")
        note = f"Each cell: that one {what} of the clean run in the corrupt one. 1: its answer is back."
        style.heading(figure, title, note)
    return style.Picture(figure, axes)

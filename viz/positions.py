"""Tables of position embeddings as heat maps, with the cosine similarity of every two positions."""

from collections.abc import Mapping

import numpy as np

from autotx.types import ArrayLike
from autotx.viz import style
from autotx.viz.backend import matplotlib


def positions(tables: Mapping[str, ArrayLike] | ArrayLike, dark: bool = False) -> style.Picture[np.ndarray]:
    """Draw a row per table: its values at the left, the cosine of every two positions at the right.

    tables: dict of name -> array or Tensor (T, C), such as {"learned": model.wpe.weight}, or one table.
    Returns a Picture, (Figure, array (number of tables, 2) of Axes). ValueError: a table is not 2-D, is empty, or has
    a NaN or an Inf.
    """
    given = dict(tables) if isinstance(tables, Mapping) else {"positions": tables}
    checked = {name: style.checked_table("positions", name, table) for name, table in given.items()}
    with style.look(dark) as look:
        figure = style.figure(9.6, 3.5 * len(checked), layout="constrained")
        axes = figure.subplots(len(checked), 2, squeeze=False, width_ratios=(1.45, 1))
        for (values, alike), (name, table) in zip(axes, checked.items()):
            most = np.abs(table).max() or 1
            _map(figure, values, table, look, most, "value")
            values.set(title=f"{style.label(name, 40, plain=True)}: each row is a place", xlabel="channel")
            values.set_ylabel("position")
            _map(figure, alike, _cosines(table), look, 1, "cosine")
            alike.set(title="How alike two places are", xlabel="position", ylabel="position")
    return style.Picture(figure, axes)


def _map(figure, axes, values, look, most, name):
    shades = {"cmap": style.blend(look.diverging), "vmin": -most, "vmax": most}
    image = axes.imshow(values, **shades, aspect="auto")  # many rows share a pixel
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(matplotlib().ticker.MaxNLocator(integer=True, min_n_ticks=1))
    bar = figure.colorbar(image, ax=axes, shrink=0.92, pad=0.02)
    bar.set_label(name)
    bar.outline.set_visible(False)


def _cosines(table):
    """The cosine of every two rows: (T, T). The cosines of a row of zeros are 0."""
    length = np.linalg.norm(table, axis=1, keepdims=True)
    unit = np.divide(table, length, out=np.zeros_like(table), where=length > 0)
    return unit @ unit.T

"""Writes pictures, both charts and graphs, to files."""

from typing import TYPE_CHECKING, Union

import graphviz

from autotx.files import write_atomically
from autotx.types import PathLike
from autotx.viz import dot, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def save(picture: Union["Figure", style.Picture, graphviz.Digraph], path: PathLike, dpi: int = style.DPI) -> None:
    """Write a picture of autotx.viz to a file, atomically: a .png, .svg or .pdf; a graph also to a .dot, and to a .pdf
    if Graphviz is installed. dpi: the dots per inch of a .png, but of a graph's.
    TypeError: not a picture. ValueError: another type of file, or no such folder. OSError: it cannot be written."""
    if isinstance(picture, graphviz.Digraph):
        dot.write(picture.source, path)
        return
    figure = picture.figure if isinstance(picture, style.Picture) else picture
    if not hasattr(figure, "savefig"):
        kind = type(figure).__name__
        raise TypeError(f"save: a {kind} is no picture; give viz.graph(loss), viz.curves(runs) or another of viz")
    path = style.checked_path(path)
    write_atomically(path, style.drawn(figure, path.suffix.lower()[1:], dpi))

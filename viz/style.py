"""The common look of all pictures, light or dark, the preparation of texts, and the writing of picture files.

A drawing function draws inside `with style.look(dark) as look:`; `look` holds the colours. Without pyplot there is no
shared state: a Figure belongs to its caller, and nothing opens a window.
"""

import contextlib
import functools
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

import numpy as np

from autotx import files
from autotx.types import ArrayLike, PathLike
from autotx.viz.backend import matplotlib

if TYPE_CHECKING:
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

TYPES = (".png", ".svg", ".pdf")
DPI = 120


class Look(NamedTuple):
    """The colours of a picture. Lines of several runs or ops use the colours of `lines` in turn."""

    paper: str
    ink: str
    faint: str  # grids and frames
    grey: str  # areas without a value
    hatch: str  # the lines on these areas
    accent: str  # emphasis
    lines: tuple  # distinguishable for colour-blind readers: after Okabe and Ito, 2008
    sequential: tuple  # for `blend`: from paper (zero) to strong
    diverging: tuple  # for `blend`: blue, paper, orange: below, at, above the middle


LIGHT = Look(
    paper="#ffffff",
    ink="#22262b",
    faint="#d5d8dc",
    grey="#e4e6e9",
    hatch="#a9aeb5",
    accent="#c2410c",
    lines=("#0072b2", "#d55e00", "#009e73", "#a8558a", "#4aa8dd", "#c98a00", "#5a5a5a"),
    sequential=("#ffffff", "#b9d7ee", "#4a93cc", "#0b4f8a", "#06264a"),
    diverging=("#0b4f8a", "#5fa3d6", "#ffffff", "#f0a15a", "#a63d00"),
)
DARK = Look(
    paper="#15181d",
    ink="#e4e7eb",
    faint="#3a4048",
    grey="#2a2f36",
    hatch="#5c646e",
    accent="#ffa657",
    lines=("#56b4e9", "#f28e2b", "#2fc49a", "#e08fc0", "#9fc9ff", "#f0d34a", "#a8adb4"),
    sequential=("#15181d", "#173f63", "#2b7fb8", "#7cc4f5", "#f2faff"),
    diverging=("#8accf7", "#2b7fb8", "#15181d", "#c46a1a", "#ffb870"),
)


@contextlib.contextmanager
def look(dark: bool = False):
    """`with look(dark) as look:` sets Matplotlib's settings to this look inside."""
    chosen = DARK if dark else LIGHT
    with matplotlib().rc_context(_settings(chosen)):
        yield chosen


def blend(colours: tuple) -> "Colormap":
    """The colour map that goes through these colours."""
    return matplotlib().colors.LinearSegmentedColormap.from_list("autotx", colours)


AxesT = TypeVar("AxesT")


class Picture(NamedTuple, Generic[AxesT]):
    """What drawing functions return, `figure, axes = picture`. A notebook shows it at the end of a cell."""

    figure: "Figure"
    axes: AxesT  # an Axes, or an array of them

    def _repr_png_(self) -> bytes:
        return drawn(self.figure)


def figure(width: float, height: float, **settings: Any) -> "Figure":
    """An empty Figure, drawn in memory, which a notebook shows. width, height: in inches."""
    mpl = matplotlib()
    made = mpl.figure.Figure(figsize=(width, height), **settings)
    mpl.backends.backend_agg.FigureCanvasAgg(made)
    made._repr_png_ = functools.partial(drawn, made)  # notebooks know only the figures of pyplot
    return made


def heading(figure: "Figure", title: str, note: str) -> None:
    """Write a title at the top left of a Figure, and below it a note, in smaller letters."""
    width, height = figure.get_size_inches()
    text = label(title, 120, plain=True) if title else ""
    figure.text(0.1 / width, 1 - 0.12 / height, text, va="top", fontsize=11)
    figure.text(0.1 / width, 1 - 0.4 / height, note, va="top", fontsize=8, linespacing=1.3)


def colour_bar(figure: "Figure", image: Any, at: tuple[float, float], ticks: list[float], title: str) -> None:
    """Add the scale of an image's colours to a Figure. at: of its lower left corner, in inches."""
    width, height = figure.get_size_inches()
    bar = figure.add_axes((at[0] / width, at[1] / height, 1.8 / width, 0.11 / height))
    figure.colorbar(image, cax=bar, orientation="horizontal", ticks=ticks)
    bar.tick_params(length=2, labelsize=7)
    bar.set_title(title, fontsize=8, pad=3)


def cells(area: np.ndarray, **settings: Any) -> "PolyCollection":
    """Boxes over the cells of an image where `area`, booleans (rows, columns), is True; adjacent cells of a row share a
    box. settings: the settings of a PolyCollection, such as its hatch."""
    boxes = []
    for y, row in enumerate(area):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row, [0]])))
        for a, b in zip(edges[::2] - 0.5, edges[1::2] - 0.5):
            boxes.append([(a, y - 0.5), (b, y - 0.5), (b, y + 0.5), (a, y + 0.5)])
    return matplotlib().collections.PolyCollection(boxes, **settings)


def checked_path(path: PathLike, types: tuple[str, ...] = TYPES) -> Path:
    """The path of a picture, checked before the work begins. Errors: as for files.checked_path."""
    return files.checked_path(path, types)


def drawn(figure: "Figure", kind: str = "png", dpi: int = DPI) -> bytes:
    """The content of a picture file. kind: "png", "svg" or "pdf"."""
    content = io.BytesIO()
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)  # equal pictures give equal files
    with matplotlib().rc_context({"svg.hashsalt": "autotx"}):
        figure.savefig(content, format=kind, dpi=dpi, metadata=metadata)
    return content.getvalue()


_VISIBLE = {" ": "␣", "\n": "↵", "\r": "⇤", "\t": "⇥", "$": r"\$"}  # Matplotlib takes "$" as the start of a formula


def label(text: str, most: int = 14, plain: bool = False, ending: bool = False) -> str:
    """A text for drawing, of at most `most` characters. Spaces, line ends and characters without a font are replaced by
    visible text. plain: spaces stay, for titles and names. ending: a long text keeps its end, where paths differ."""
    beginning = text[::-1][: most + 1] if ending else text[: most + 1]
    pieces = [c if plain and c == " " else _visible(c) for c in beginning]
    lengths = [1 if piece == _VISIBLE["$"] else len(piece) for piece in pieces]  # a code such as "U+0007" is longer
    if sum(lengths) > most:
        pieces = [piece for piece, end in zip(pieces, np.cumsum(lengths)) if end < most] + ["…"]
    return "".join(reversed(pieces) if ending else pieces) or "∅"


def checked_table(who: str, name: str, table: ArrayLike) -> np.ndarray:
    """A table of numbers (rows, channels) as float64. ValueError: another shape, an empty table, NaN or Inf."""
    table = np.asarray(table, np.float64)
    if table.ndim != 2 or not table.size:
        raise ValueError(f"{who}: {name} has shape {table.shape}; give a table, one row for each place or word")
    if not np.isfinite(table).all():
        raise ValueError(f"{who}: {name} holds NaN or Inf")
    return table


def _visible(character):
    if character in _VISIBLE:
        return _VISIBLE[character]
    if character.isprintable() and any(font.get_char_index(ord(character)) for font in _fonts()[1]):
        return character
    return f"U+{ord(character):04X}"


# DejaVu Sans comes with Matplotlib; the others, if installed, have the characters that it lacks.
_FAMILIES = ("DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "PingFang SC", "Microsoft YaHei", "Noto Sans")


@functools.cache
def _fonts():
    """The names of the installed fonts of _FAMILIES, and the fonts."""
    manager = matplotlib().font_manager
    there = set(manager.get_font_names())
    names = [name for name in _FAMILIES if name in there]
    return names, [manager.get_font(manager.findfont(name)) for name in names]


def _settings(chosen):
    """Matplotlib's settings for a Look."""
    ink = ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color")
    paper = ("figure.facecolor", "axes.facecolor", "savefig.facecolor", "legend.facecolor")
    return {
        **dict.fromkeys(ink, chosen.ink),
        **dict.fromkeys(paper, chosen.paper),
        "font.family": _fonts()[0],
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "figure.titlesize": 12,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": False,
        "grid.color": chosen.faint,
        "grid.linewidth": 0.6,
        "axes.axisbelow": True,
        "legend.frameon": False,
        "hatch.linewidth": 0.6,
        "axes.unicode_minus": True,
    }

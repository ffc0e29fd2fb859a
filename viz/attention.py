"""Attention maps: the attention weights between tokens, for every layer and head.

The fused kernels do not keep the weights. `attention_maps` runs the model once and computes them from the queries and
keys of every attention; `attention` draws them as small multiples. The replay page uses the same two functions for
queries, keys, values and weights: `queries_keys_values` and `weights_of`.

Sizes: B batch, H heads, T query tokens, S key tokens, D channels per head.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from autotx import functional, nn
from autotx.modes import Watcher, no_grad, unwatch, watch
from autotx.ops import attention as ops
from autotx.viz import style
from autotx.viz.backend import matplotlib
from autotx.viz.modules import wrapped

LARGEST = 80.0  # inches, the greatest height of a picture
MOST_TOKENS, MOST_LETTERS = 64, 24  # per map, per token
SMALLEST_CELL, LARGEST_CELL = 0.125, 0.5  # inches; in smaller cells the tokens are not legible
WIDTHS = 15.0, 24.0, 40.0  # inches: the first width is used for which the height is at most twice the width
PANEL = 1.6  # inches, the size of a panel, as far as the limits of its cells allow
GAP, LINE, FOOT = 0.22, 0.19, 1.0  # inches: between panels, a line of text, colour bar and legend
_EXPLAINED = "Each row is a token that looks, its columns are the tokens it looks at."


class AttentionMap(NamedTuple):
    """The weights of one attention for one sentence."""

    weights: np.ndarray  # (H, T, S); each row sums to 1, or is 0 if all keys of a query are masked
    allowed: np.ndarray  # (T, S) booleans: False where the mask of every head forbids attention
    heads: Sequence[int] | None = None  # the numbers of the heads; None for 0, 1, ... H - 1

    def only(self, heads: Sequence[int]) -> "AttentionMap":
        """The map of some of the heads, given by their numbers."""
        known = list(self.heads or range(len(self.weights)))
        return self._replace(weights=self.weights[[known.index(head) for head in heads]], heads=list(heads))


# The data


def attention_maps(model: nn.Module, *inputs: Any, index: int = 0, **settings: Any) -> dict[str, AttentionMap]:
    """Run model(*inputs, **settings) and return its attention weights: dict of module name -> AttentionMap.

    The dict has every call of `multi_head_attention` and `scaled_dot_product_attention`, in order. Calls by a
    nn.MultiHeadAttention have its dotted name, such as "blocks.0.attn"; others are "attention", "attention 2", ...
    index: the index of the sentence in the batch. ValueError: the model computed no attention.
    """
    recorder = _Recorder(index)
    modules = {n: m for n, m in model.named_modules() if isinstance(m, nn.MultiHeadAttention)}
    watch(recorder)
    try:
        with wrapped(modules, recorder.named), no_grad():
            model(*inputs, **settings)
    finally:
        unwatch(recorder)
    if not recorder.maps:
        raise ValueError(f"attention_maps: {type(model).__name__} computed no attention; give a transformer")
    return recorder.maps


class _Recorder(Watcher):
    """Computes the weights of each attention from the arguments of its op."""

    def __init__(self, index):
        self.index, self.maps, self.name = index, {}, None

    def named(self, name, forward):
        """`forward`, wrapped such that attention inside it gets this name."""

        def recorded(*args, **settings):
            self.name = name
            try:
                return forward(*args, **settings)
            finally:
                self.name = None

        return recorded

    def result(self, op, t, data, settings):
        found = queries_keys_values(op, data, settings)
        if found:
            name = self.name or "attention"
            names = (name, *(f"{name} {i}" for i in range(2, 10_000)))  # a second call is "... 2"
            free = next(n for n in names if n not in self.maps)
            self.maps[free] = _one_sentence(found[0], found[1], settings, self.index)


def queries_keys_values(op, arguments, settings):
    """Q, K and V, each (..., tokens, D), from the arguments of an attention op (arrays); None for another op."""
    if op == "multi_head_attention":
        return ops.queries_keys_values(*arguments, **settings)
    return tuple(arguments) if op == "scaled_dot_product_attention" else None


def weights_of(q, k, mask=None, causal=False):
    """P = softmax(Q K^T / sqrt(D)), as in ops/attention.py, and booleans, False where masked: both (..., T, S)."""
    scores = q @ np.swapaxes(k, -1, -2) / math.sqrt(q.shape[-1])
    T, S = scores.shape[-2:]
    mask = np.asarray(True if mask is None else mask)
    added = np.where(mask, 0, -np.inf) if mask.dtype == bool else mask
    if causal:
        added = np.where(np.tri(T, S, S - T, dtype=bool), added, -np.inf)
    weights = functional.softmax.op((scores + added).astype(scores.dtype, copy=False))[0]
    return weights, np.broadcast_to(added > -1e8, scores.shape)  # some masks have -1e9 instead of -infinity


def _one_sentence(q, k, settings, index):
    """The AttentionMap of sentence `index`."""
    q, k = (a.reshape(-1, *(1,) * (4 - a.ndim), *a.shape[-2:])[:, 0] if a.ndim < 3 else a for a in (q, k))
    weights, allowed = weights_of(q, k, settings.get("mask"), settings.get("causal", False))
    if weights.ndim > 4:
        raise ValueError(f"attention_maps: queries of shape {q.shape}; give (B, H, T, D), (H, T, D) or (T, D)")
    if weights.ndim == 4:
        B = len(weights)
        if not -B <= index < B:
            raise ValueError(f"attention_maps: index {index} of a batch of {B}; give 0 to {B - 1}")
        weights, allowed = weights[index], allowed[index]
    return AttentionMap(weights, np.asarray(allowed.any(axis=0)))


# The picture


def attention(
    maps: Mapping[str, Any], rows: Any, columns: Any = None, title: str | None = None, given: int | None = None,
    note: str = "", dark: bool = False,
) -> style.Picture[np.ndarray]:  # fmt: skip
    """Draw attention maps: a block of panels per attention, a panel per head.

    Returns a Picture, (Figure, (L, H) array of Axes).

    maps: dict of name -> AttentionMap, or weights (H, T, S). rows: the T query tokens, a list of str; columns: the S
    key tokens, by default the same. Where they differ between maps, as in an encoder-decoder, rows and columns are
    dicts of name -> list. title: a str. given: the number of row tokens that are the prompt; later tokens, generated by
    the model, are drawn in colour. note: a sentence below the picture. The colour scale is a square root, which makes
    small weights visible. ValueError: the numbers of tokens and weights differ, or there are too many tokens to read.
    """
    maps = {name: m if isinstance(m, AttentionMap) else _bare(m) for name, m in maps.items()}
    explained = f"{_EXPLAINED}\n{style.label(note, 200, plain=True)}" if note else _EXPLAINED
    plan = _Plan(maps, rows, rows if columns is None else columns, explained)
    with style.look(dark) as look:
        heading = textwrap.wrap(style.label(title, 300, plain=True) if title else "", int(plan.width * 11))
        height = plan.height + (0.22 * len(heading) + 0.2 if heading else 0.1)
        figure = style.figure(plan.width, height)
        figure.text(0.1 / plan.width, 1 - 0.1 / height, "\n".join(heading), va="top", fontsize=11, linespacing=1.3)
        axes = np.full((len(maps), plan.heads), None)
        for i, name in enumerate(maps):
            corner = (plan.lefts[i] + 0.1) / plan.width, (plan.height - plan.tops[i]) / height
            words = style.label(name, 60, plain=True, ending=True)
            figure.text(*corner, words, va="top", fontsize=9, fontweight="bold")
            for h in range(len(maps[name].weights)):
                axes[i, h] = figure.add_axes(plan.box(i, h, height))
                _panel(axes[i, h], maps[name], h, plan, i, look)
                _tokens(axes[i, h], plan, i, h, given, look)
        _foot(figure, axes[0, 0], maps, plan, height, given, look)
    return style.Picture(figure, axes)


def most_tokens(heads: int, layers: int) -> int:
    """The largest number of tokens for a readable picture of so many heads and layers, for tokens of any length."""
    for tokens in range(MOST_TOKENS, 0, -1):
        cell = _cell(tokens)
        label = _length(["x" * MOST_LETTERS], _font(cell))
        lines, _ = _lines(heads, tokens, cell, label, WIDTHS[-1])
        if layers * _high(lines, tokens, cell, label) + FOOT + 1 <= LARGEST:
            return tokens
    return 0


def _cell(tokens):
    """The side of a cell, in inches."""
    return float(np.clip(PANEL / tokens, SMALLEST_CELL, LARGEST_CELL))


def _font(cell):
    """The size of tokens, in points."""
    return min(9.0, cell * 72 * 0.72)


def _length(tokens, font):
    """The length of the longest token, in inches; a letter is at most 0.68 of the font size wide."""
    return max(len(t.replace("\\", "")) for t in tokens) * font / 72 * 0.68 + 0.1


def _lines(heads, columns, cell, label, wide):
    """The number of lines that the panels of an attention need, and the number of panels in each line."""
    fit = max(1, int((wide - 0.35 - label) / (columns * cell + GAP)))
    lines = math.ceil(heads / fit)
    return lines, math.ceil(heads / lines)


def _high(lines, rows, cell, label):
    """The height of a block, in inches: its name, and for each line the heads' names, panels and column tokens."""
    return LINE + lines * (LINE + rows * cell + label + 0.1) + 0.1


class _Plan:
    """The layout, in inches from the top left: a block for each attention, side by side as far as the width allows."""

    def __init__(self, maps, rows, columns, explained):
        self.explained = explained
        self.foot = FOOT + 0.14 * explained.count("\n")
        self.shapes = [m.weights.shape for m in maps.values()]
        self.rows, self.columns = ([_tokens_of(t, name) for name in maps] for t in (rows, columns))
        for name, (H, T, S), row, column in zip(maps, self.shapes, self.rows, self.columns):
            if (len(row), len(column)) != (T, S):
                raise ValueError(
                    f"attention: {name} has weights {(H, T, S)}, there are {len(row)} row and {len(column)} column "
                    "tokens; give T and S of them"
                )
        self.heads = max(H for H, _, _ in self.shapes)
        longest = max(max(T, S) for _, T, S in self.shapes)
        if longest > MOST_TOKENS:
            raise ValueError(
                f"attention: {longest} tokens are too many for a readable map, at most {MOST_TOKENS} fit; "
                "give a shorter text"
            )
        self.cell = _cell(longest)
        self.font = _font(self.cell)
        for wide in WIDTHS:
            self._place(list(maps), wide)
            if self.height <= 2 * wide:
                break
        if self.height > LARGEST:
            raise ValueError(
                f"attention: {len(maps)} layers of so many tokens make a picture that is {self.height:.0f} inches "
                "high; give fewer tokens, or draw some of the maps"
            )

    def _place(self, names, wide):
        """Compute the left and top of each block (its name, panels and tokens) and the size of the picture."""
        self.lefts, self.tops, self.indents, self.in_line = [], [], [], []
        x = y = high = self.width = 0.0
        for name, (H, T, S), row, column in zip(names, self.shapes, self.rows, self.columns):
            left, below = _length(row, self.font), _length(column, self.font)
            lines, in_line = _lines(H, S, self.cell, left, wide)
            width = max(0.25 + left + in_line * (S * self.cell + GAP), 0.085 * len(name)) + 0.1
            if x and x + width > wide:
                x, y, high = 0.0, y + high, 0.0
            self.lefts.append(x)
            self.tops.append(y)
            self.indents.append(0.25 + left)
            self.in_line.append(in_line)
            x += width
            high = max(high, _high(lines, T, self.cell, below))
            self.width = max(self.width, x, 5.4)
        self.height = y + high + self.foot

    def box(self, i, h, height):
        """Left, bottom, width and height of a panel, as fractions of the picture."""
        _, T, S = self.shapes[i]
        line, place = divmod(h, self.in_line[i])
        wide, high = S * self.cell, T * self.cell
        left = self.lefts[i] + self.indents[i] + place * (wide + GAP)
        above = _high(line, T, self.cell, _length(self.columns[i], self.font)) - 0.1 + LINE
        bottom = self.height - self.tops[i] - above - high
        return left / self.width, bottom / height, wide / self.width, high / height


def _tokens_of(tokens, name):
    return [style.label(t, MOST_LETTERS) for t in (tokens[name] if isinstance(tokens, dict) else tokens)]


def _bare(weights):
    weights = np.asarray(weights)
    if weights.ndim != 3:
        raise ValueError(f"attention: weights have shape {weights.shape}; give (H, T, S)")
    return AttentionMap(weights, np.ones(weights.shape[1:], bool))


def _panel(axes, m, h, plan, i, look):
    weights = np.ma.masked_where(~m.allowed, m.weights[h])
    shades = {"cmap": style.blend(look.sequential), "norm": matplotlib().colors.PowerNorm(0.5, 0, 1)}
    axes.imshow(weights, **shades, aspect="auto", interpolation="nearest")
    for kind, area in _forbidden(m.allowed).items():
        if area.any():
            axes.add_collection(style.cells(area, **_hatch(kind, look)))
    name = f"head {m.heads[h] if m.heads else h}"
    axes.set_title(name if m.heads or len(m.weights) > 1 else "", fontsize=8, pad=3)
    axes.spines[["top", "right"]].set_visible(True)
    for spine in axes.spines.values():
        spine.set(color=look.faint, linewidth=0.8)
    if plan.cell > 0.34:
        for (t, s), w in np.ndenumerate(m.weights[h]):
            if m.allowed[t, s]:
                colour = look.paper if w > 0.25 else look.ink
                axes.text(s, t, f"{w:.2f}", ha="center", va="center", fontsize=7, color=colour)


def _tokens(axes, plan, i, h, given, look):
    """Write the tokens along the axes: queries at the left of the first panel of each line, keys below each panel."""
    axes.tick_params(length=2, pad=2, labelsize=plan.font, color=look.faint)
    axes.set_yticks(range(len(plan.rows[i])), plan.rows[i] if h % plan.in_line[i] == 0 else [])
    upright = 0 if max(map(len, plan.columns[i])) == 1 else 90
    axes.set_xticks(range(len(plan.columns[i])), plan.columns[i], rotation=upright)
    if given is not None:
        own = axes.get_yticklabels()[given:]
        own += axes.get_xticklabels()[given:] if plan.columns[i] == plan.rows[i] else []
        for text in own:
            text.set(color=look.accent, fontweight="bold")


_KINDS = {
    "later": ("later tokens (causal mask)", "////"),
    "padding": ("padding", "...."),
    "masked": ("masked", "xxxx"),
}


def _forbidden(allowed):
    """The cells without weights, by reason: dict of kind -> booleans (T, S). A column masked for all queries is
    padding, cells above the diagonal of a causal mask are later tokens, all others are masked."""
    T, S = allowed.shape
    padding = np.broadcast_to(~allowed.any(axis=0), (T, S))
    above = ~np.tri(T, S, k=S - T, dtype=bool)
    causal = not allowed[above].any()
    later = above & ~padding if causal else np.zeros((T, S), bool)
    return {"later": later, "padding": padding, "masked": ~(allowed | padding | later)}


def _hatch(kind, look):
    return {"hatch": _KINDS[kind][1], "facecolor": look.grey, "edgecolor": look.hatch, "linewidth": 0}


def _foot(figure, axes, maps, plan, height, given, look):
    """Draw the colour bar and the legend of the hatched areas."""
    low = plan.foot - FOOT  # the height of further lines of the explanation
    bar = figure.add_axes([0.2 / plan.width, (0.52 + low) / height, 1.7 / plan.width, 0.11 / height])
    figure.colorbar(axes.images[0], cax=bar, orientation="horizontal", ticks=[0, 0.1, 0.25, 0.5, 1])
    bar.set_xticklabels(["0", "0.1", "0.25", "0.5", "1"], fontsize=7)
    bar.set_title("attention weight", fontsize=8, pad=3)
    bar.tick_params(length=2)
    kinds = {k for m in maps.values() for k, area in _forbidden(m.allowed).items() if area.any()}
    patch = matplotlib().patches.Patch
    handles = [patch(**_hatch(k, look), label=text) for k, (text, _) in _KINDS.items() if k in kinds]
    if given is not None:
        handles.append(patch(color=look.accent, label="written by the model"))
    corner = (2.2 / plan.width, (0.84 + low) / height)
    figure.legend(handles=handles, loc="upper left", bbox_to_anchor=corner, fontsize=8, borderpad=0, labelspacing=0.4)
    figure.text(0.2 / plan.width, 0.1 / height, plan.explained, fontsize=8, linespacing=1.3)

"""Attention maps of the models: how much each token attends to each other one."""

import re
from typing import NamedTuple

import numpy as np

from autotx import viz
from autotx.models.pairs import names
from autotx.models.transformer import END, START
from autotx.viz.attention import most_tokens

SOME = 4  # layers, and heads of each, of a model that is too large to show them all
FEW = 32  # tokens that are shown of it, where their number is not given


class Shown(NamedTuple):
    """What a picture shows of a model: the numbers of layers and heads, and how many tokens have room."""

    layers: list[int]
    heads: list[int]
    most: int
    note: str  # what is left out


def shown_of(config, layers, heads, prompt, count):
    """The Shown of a language model, with room for `prompt` tokens and `count` new ones (None: at least one).

    layers, heads: the numbers, as the flags give them; None for all, or, where these have no room, SOME of them.
    ValueError: a model without attention, numbers out of range, or no room for the tokens.
    """
    if not hasattr(config, "n_head"):
        raise ValueError("--attention: this model has no attention; leave it out")
    given = {"layers": (config.n_layer, layers), "heads": (config.n_head, heads)}
    known = {
        what: None if text is None else _numbers(f"--{what}", text, count) for what, (count, text) in given.items()
    }
    most = 0
    for fewer in (False, True):
        numbers = {what: known[what] or _spread(count, fewer) for what, (count, _) in given.items()}
        most = min(most_tokens(*(len(numbers[what]) for what in ("heads", "layers"))), config.block_size)
        if prompt + (count or 1) <= most:
            parts = [_part(what, numbers[what], count) for what, (count, _) in given.items()]
            note = "; ".join(part for part in parts if part)
            most = min(most, max(FEW, prompt + FEW // 4)) if fewer and not count else most
            return Shown(numbers["layers"], numbers["heads"], most, f"Shown: {note}." if note else "")
    cure = f"give --max-new-tokens {most - prompt} or less" if prompt < most else "give a shorter prompt"
    raise ValueError(
        f"--attention: {prompt} tokens of the prompt and {count or 1} new ones are more than the {most} that a "
        f"readable map has room for; {cure}, or fewer --layers and --heads"
    )


def _spread(count, fewer):
    """All numbers below count, or SOME of them from the first to the last."""
    return np.unique(np.linspace(0, count - 1, SOME if fewer else count).round().astype(int)).tolist()


def _part(what, numbers, count):
    """Which of the layers or heads are shown, in words; empty for all."""
    text = ", ".join(map(str, numbers))
    return f"{what} {text} of {count} (--{what})" if len(numbers) < count else ""


def _numbers(flag, text, count):
    """The numbers of a text such as "0,2,5-7", which are below count."""
    found = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,6})\s*(?:-\s*(\d{1,6})\s*)?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
        if not first <= last < count:
            raise ValueError(
                f"{flag} {text}: {part.strip()!r} should be a number from 0 to {count - 1}, or two as in 0-2"
            )
        found += range(first, last + 1)
    return list(dict.fromkeys(found))


def of_text(model, tokenizer, ids, given=None, title=None, dark=False, shown=None):
    """Draw the attention of a language model that reads ids (T,). Returns (Figure, Axes (L, H)).

    given: how many of them are the prompt; the others are marked as written by the model. shown: a Shown; None for all
    layers and heads. ValueError when there are too many tokens for a readable picture.
    """
    maps = viz.attention_maps(model, np.asarray(ids)[None])
    if shown:
        some = list(maps.items())
        maps = {some[i][0]: some[i][1].only(shown.heads) for i in shown.layers}
    note = shown.note if shown else ""
    return viz.attention(maps, tokenizer.texts(ids), title=title, given=given, note=note, dark=dark)


def of_translation(model, tokenizer, source, target, title=None, cross_only=False, dark=False):
    """Draw the attention of a Transformer: the encoder's, the decoder's, and that of the decoder to the source.

    source: ids (S,), as pairs.encode returns them. target: ids of the translation, without START and END. The label of
    a row of the decoder is the token that it reads and the next one. cross_only: draw only the decoder's attention to
    the source. Returns (Figure, Axes). ValueError when there are too many tokens for a readable picture.
    """
    source, read, written = np.asarray(source), np.array([START, *target]), [*target, END]
    maps = viz.attention_maps(model, source[None], read[None])
    words, reading, writing = (names(tokenizer, ids) for ids in (source, read, written))
    steps = [f"{r}→{w}" for r, w in zip(reading, writing)]
    if cross_only:
        maps = {name: m for name, m in maps.items() if name.endswith("cross")}
    rows = {name: words if name.startswith("encoder") else steps for name in maps}
    columns = {name: reading if name.startswith("decoder") and not name.endswith("cross") else words for name in maps}
    note = "A row of the decoder is named: the word it reads → the word it writes next."
    return viz.attention(maps, rows, columns, title=title, note=note, dark=dark)

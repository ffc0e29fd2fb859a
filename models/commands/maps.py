"""Attention maps of the models: how much each token attends to each other one."""

import numpy as np

from autotx import viz
from autotx.models.pairs import names
from autotx.models.transformer import END, START
from autotx.viz.attention import most_tokens


def fitting(count, prompt, config):
    """How many new tokens a map of a GPT has after `prompt` tokens: `count`, or for None as many as there is room for.

    ValueError when there is no room for `count` tokens, or for one, and for a model without attention.
    """
    if not hasattr(config, "n_head"):
        raise ValueError("--attention: this model has no attention; leave it out")
    most = min(most_tokens(config.n_head, config.n_layer), config.block_size)
    count = max(1, most - prompt) if count is None else count
    if prompt + count > most:
        cure = f"give --max-new-tokens {most - prompt} or less" if prompt < most else "give a shorter prompt"
        raise ValueError(
            f"--attention: {prompt} tokens of the prompt and {count} new ones are more than the {most} that a readable "
            f"map has room for; {cure}"
        )
    return count


def of_text(model, tokenizer, ids, given=None, title=None, dark=False):
    """Draw the attention of a GPT that reads ids (T,). Returns (Figure, Axes (L, H)).

    given: how many of them are the prompt; the others are marked as written by the model.
    ValueError when there are too many tokens for a readable picture.
    """
    maps = viz.attention_maps(model, np.asarray(ids)[None])
    return viz.attention(maps, tokenizer.texts(ids), title=title, given=given, dark=dark)


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

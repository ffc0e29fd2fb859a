"""Prompts and tokens that are given to commands that look into a model, such as `autotx lens`."""

import numpy as np

from autotx.models.inference.patching import scores_after
from autotx.text import visible


def ids_of(flag, text, opened):
    """The tokens of a prompt, (T,), T at least 2. ValueError, which names the flag: one token or none, more than the
    model reads at once, or characters that it cannot have learned."""
    tokenizer, size = opened.tokenizer, opened.model.config.block_size
    if unknown := tokenizer.unknown(text):
        raise ValueError(
            f"{flag}: the text that the model learned has no {', '.join(map(repr, unknown))}; leave it out"
        )
    ids = tokenizer.encode(text)
    if len(ids) < 2:
        what = "one token, which has none before it" if len(ids) else "empty"
        raise ValueError(f"{flag} is {what}; give a longer text")
    if len(ids) > size:
        raise ValueError(f"{flag} has {len(ids):,} tokens, and the model reads {size:,} at once; give a shorter text")
    return ids.astype(np.int64)


def token_of(flag, text, tokenizer):
    """The token that a text is. ValueError: it is several, or none."""
    ids = tokenizer.encode(text).tolist()
    ids = ids[1:] if ids[:1] == [getattr(tokenizer, "start", None)] else ids  # what every text begins with
    if len(ids) != 1:
        told = f"{len(ids)} tokens, {', '.join(quoted(tokenizer, i) for i in ids)}" if ids else "empty"
        raise ValueError(f"{flag} {text!r} is {told}; give one token, with the space before it if it has one")
    return ids[0]


def quoted(tokenizer, token):
    """A token for people: its text in quotes."""
    return f"'{visible(tokenizer.texts([token])[0])}'"


def targets_of(args, tokenizer):
    """The tokens of --target and --against, None for one that is not given. Errors as in `token_of`."""
    given = ("--target", args.target), ("--against", args.against)
    return [None if text is None else token_of(flag, text, tokenizer) for flag, text in given]


def likeliest(model, ids):
    """The token that a language model finds likeliest after ids (T,)."""
    return int(scores_after(model, ids[None]).argmax())


def score_of(tokenizer, target, against):
    """The name of what is measured: the score of a token, less that of another one if there is one."""
    less = "" if against is None else f" less that of {quoted(tokenizer, against)}"
    return f"the score of {quoted(tokenizer, target)}{less}"

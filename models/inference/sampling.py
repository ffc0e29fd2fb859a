"""Generating tokens with a language model: the choice of a token, and the loop around it."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from autotx.models.inference.edits import editing
from autotx.models.inference.speculation import Guesses
from autotx.ops.layers import checked_rng
from autotx.types import ArrayLike, Generator, Rng


class LanguageModel:
    """The base of models and readers that continue texts, such as GPT and GPTReader. A subclass has

    config: with block_size, the longest context in tokens, and vocab_size.
    reader(rows, size): a reader (see pieces.py) that has read nothing, for `rows` texts of at most `size` tokens each.
    """

    def edit(self, edits: Mapping[str, Callable | None]) -> AbstractContextManager[dict[str, Any]]:
        """`with model.edit({name: f}) as seen:` replaces values of the model inside by f(value), wherever it computes.

        edits: the name of a value (edits.py lists them), where * stands for any part of it, as in "blocks.*.out", and a
        function, or None for a value that is only seen. A function is given an array that it may keep and must not
        write into, in forward a Tensor, and returns another of the same shape and type. seen: {name: value} of those
        with None, as they were last computed. Blocks may be nested; a value goes through them from the outside in.
        An edit is of the model with all its readers, also those that have begun, whose cache keeps what it has.
        ValueError: an unknown name; in the block, a function that raises, or returns another shape or type.
        """
        return editing(self, edits)

    def generate(self: Any, ids: ArrayLike, max_new_tokens: int, *settings: Any, **more: Any) -> np.ndarray:
        """Continue each row of ids. Returns integers (B, T + N): the prompt and N new tokens.

        N is max_new_tokens, or less when `end` ends all rows. Arguments and errors are those of `stream`.
        """
        new = list(self.stream(ids, max_new_tokens, *settings, **more))
        return np.column_stack([_checked_prompt(ids, self.config.vocab_size), *new])

    def stream(self: Any, ids: ArrayLike, max_new_tokens: int, temperature: float = 1.0, top_k: int | None = None,
               top_p: float | None = None, rng: "Rng | Sequence[Generator]" = None, *, repetition_penalty: float = 1.0,
               end: int | Sequence[int] | None = None, min_new_tokens: int = 0, min_p: float = 0.0,
               reader: Any = None, watch: Callable | None = None,
               speculate: bool = False) -> Iterator[np.ndarray]:  # fmt: skip
        """An iterator of the new tokens, (B,) integers at a time, as they are made.

        ids: the prompt, integers (B, T), T at least 1, or (T,) for B = 1.
        temperature: 0 takes the likeliest token, 1 draws by the model's probabilities, above 1 makes them more equal.
        top_k: draw among the k likeliest. top_p: draw among the fewest likeliest that together have this probability.
        rng: numpy.random.Generator, or one for each row, with which a row is the same whatever rows are beside it; None
        for one with a random seed. repetition_penalty: above 1 makes tokens of the prompt, and those written so far,
        less likely (see `penalised`). end: the id of the token that ends a text, or several, or None. A row that has
        ended is filled with the first of them; the iterator stops when all rows have.
        min_new_tokens: the least number of tokens before `end`. min_p: draw among the tokens that are at least this
        share as likely as the likeliest. reader: one of this model that has read the beginning of ids, or nothing; it
        is used, and has then read all but the last token, or more where it is stopped while it speculates; None for a
        new one. watch: called with the model's scores (B, V), as they are before all of these settings, and the tokens
        (B,) that were chosen. speculate: guess tokens of a single text that copies from its prompt, which is faster and
        gives the same ones (see speculation.py).
        The model sees the last block_size tokens. While all tokens fit, a new one costs the work of one token, because
        of the cache. After that the window slides: the position of every token changes, so each step computes them all.
        A prompt that all rows share is read once.
        ValueError: an empty prompt, an id out of range, a setting outside its range, or guesses for several rows;
        TypeError: ids not integers.
        """
        ids = _checked_prompt(ids, self.config.vocab_size)
        if speculate and len(ids) > 1:
            raise ValueError(f"generate: speculate guesses for one text, not for {len(ids)}; leave it out")
        _check_settings(max_new_tokens, temperature, top_k, top_p, repetition_penalty, min_new_tokens, min_p)
        rng = np.random.default_rng() if rng is None else _checked_rng(rng, len(ids))
        seen, written = np.zeros((len(ids), self.config.vocab_size), bool), itertools.count()
        np.put_along_axis(seen, ids, True, axis=1)

        def choose(scores):
            logits = scores if repetition_penalty == 1 else penalised(scores, seen, repetition_penalty)
            if next(written) < min_new_tokens and end is not None:
                logits = np.array(logits, np.float64)
                logits[:, np.atleast_1d(end)] = np.finfo(np.float64).min
            new = sample(logits, temperature, top_k, top_p, rng, min_p)
            if repetition_penalty != 1:
                np.put_along_axis(seen, new[:, None], True, axis=1)
            if watch is not None:
                watch(scores, new)
            return new

        new = self._stream(ids, max_new_tokens, choose, reader, Guesses() if speculate else None)
        return new if end is None else _until(np.atleast_1d(end), new)

    def _stream(self: Any, ids, max_new_tokens, choose, reader=None, guesses=None):
        size, left = self.config.block_size, max_new_tokens
        while left:
            rows = ids
            if reader is None or reader.length == size:  # the first piece, or the window slides
                ids = ids[:, -size:]
                rows = ids[:1] if reader is None and (ids == ids[0]).all() else ids
                reader = (reader or self).reader(len(rows), min(size, ids.shape[1] + left))
            guessed = ids[0, :0] if guesses is None else guesses.next(ids[0], min(size - ids.shape[1], left - 1))
            piece = np.column_stack([rows[:, reader.length :], np.tile(guessed, (len(rows), 1))])
            scores = reader.scores(reader.read(piece)[:, -1 - len(guessed) :])
            if len(rows) < len(ids):
                reader.repeat(len(ids))
                scores = np.repeat(scores, len(ids), axis=0)
            for i, guess in enumerate([*guessed, None]):
                new = choose(scores[:, i])
                ids, left = np.column_stack([ids, new]), left - 1
                wrong = guess is None or new[0] != guess
                if wrong:
                    reader.rewind(ids.shape[1] - 1)
                yield new
                if wrong:
                    break
            if guesses is not None:
                guesses.learn(len(guessed), i)


def penalised(logits, seen, penalty):
    """The scores (B, V), a new float64 array, where positive scores of the tokens in `seen` are divided by `penalty`
    and negative ones multiplied by it. seen: booleans (B, V).
    Source: Keskar et al., 2019, 4.1; the multiplication of negative scores is Hugging Face's.
    """
    logits = np.asarray(logits, np.float64)
    return np.where(seen, np.where(logits > 0, logits / penalty, logits * penalty), logits)


def _until(ends, tokens):
    """The tokens (B,) until all rows have written one of `ends`. A row that has is filled with the first of them."""
    ended = False
    for new in tokens:
        new = np.where(ended, ends[0], new)
        ended = ended | np.isin(new, ends)
        yield new
        if np.all(ended):
            return


def sample(logits: ArrayLike, temperature: float, top_k: int | None, top_p: float | None,
           rng: "Generator | Sequence[Generator]", min_p: float = 0.0) -> np.ndarray:  # fmt: skip
    """Choose one token for each row: logits (B, V) -> integers (B,). rng: one Generator, or one for each row.

    Computes in float64. Of tokens with equal scores, the one with the lower id counts as likelier. top_k is applied
    first, and top_p and min_p to the probabilities of the tokens that remain. Sources: Holtzman et al., 2020 (top_p,
    "nucleus sampling"); Nguyen et al., 2024 (min_p).
    """
    logits = np.asarray(logits)
    if not np.isfinite(logits).all():
        raise ValueError("generate: the model's scores have a NaN or an Inf; its training diverged, take other weights")
    if temperature == 0:
        return logits.argmax(axis=-1)
    logits = logits.astype(np.float64, copy=False)
    order = np.argsort(-logits, axis=-1, kind="stable")[:, :top_k]  # likeliest first
    scores = np.take_along_axis(logits, order, axis=-1)
    with np.errstate(over="ignore"):  # at a small temperature the quotients can become -inf, and exp(-inf) is 0
        p = np.exp((scores - scores[:, :1]) / temperature)
    p /= p.sum(axis=-1, keepdims=True)
    if top_p is not None and top_p < 1:
        before = np.pad(p.cumsum(axis=-1)[:, :-1], ((0, 0), (1, 0)))
        p *= before < top_p  # keeps a token when the likelier ones together have less than top_p
    p *= p >= min_p * p[:, :1]
    below = p.cumsum(axis=-1)
    place = rng.random((len(p), 1)) if isinstance(rng, np.random.Generator) else [[row.random()] for row in rng]
    drawn = (below <= place * below[:, -1:]).sum(axis=-1, keepdims=True)
    return np.take_along_axis(order, drawn, axis=-1)[:, 0]


def largest(values: np.ndarray, count: int) -> np.ndarray:
    """The places of the `count` largest of values (N,), the largest first; of equal ones, the earlier comes first."""
    count = min(count, values.size)
    top = np.flatnonzero(values >= np.partition(values, -count)[-count])
    return top[np.argsort(-values[top], kind="stable")][:count]


def _checked_prompt(ids, vocab_size):
    """The prompt as integers (B, T)."""
    ids = np.atleast_2d(np.asarray(ids))
    if ids.ndim != 2 or not ids.size:
        raise ValueError(f"generate: the prompt has shape {ids.shape}; give ids (B, T), T at least 1")
    if ids.dtype.kind not in "iu":
        raise TypeError(f"generate: the prompt's ids have type {ids.dtype}; give integers")
    bad = ids[(ids < 0) | (ids >= vocab_size)]
    if bad.size:
        raise ValueError(f"generate: id {bad[0]} is out of range, there are {vocab_size} tokens, from 0")
    return ids.astype(np.int64)


def _checked_rng(rng, rows):
    """A Generator, or a list of them, one for each row."""
    if not isinstance(rng, Sequence):
        return checked_rng("generate", rng)
    if len(rng) != rows:
        raise ValueError(f"generate: {len(rng)} random generators for {rows} rows; give one, or one for each row")
    return [checked_rng("generate", one) for one in rng]


def _check_settings(max_new_tokens, temperature, top_k, top_p, penalty, min_new_tokens, min_p):
    whole = int | np.integer
    for name, value, good, wanted in (
        ("max_new_tokens", max_new_tokens, isinstance(max_new_tokens, whole) and max_new_tokens >= 0, "0, 1, 2 ..."),
        ("temperature", temperature, temperature >= 0, "0 (always the likeliest token) or more"),
        ("top_k", top_k, top_k is None or (isinstance(top_k, whole) and top_k >= 1), "1, 2, 3 ..."),
        ("top_p", top_p, top_p is None or 0 < top_p <= 1, "a probability above 0, at most 1"),
        ("min_p", min_p, 0 <= min_p <= 1, "a probability"),
        ("repetition_penalty", penalty, 0 < penalty < np.inf, "1 for none, more against repetition"),
        ("min_new_tokens", min_new_tokens, isinstance(min_new_tokens, whole) and min_new_tokens >= 0, "0, 1, 2 ..."),
    ):
        if not good:
            raise ValueError(f"generate: {name} is {value}; give {wanted}")

"""What a language model writes after a text, token by token: as text, and with how likely each token was."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from autotx.models.inference.sampling import LanguageModel, largest
from autotx.models.tokenizers import Tokenizer


class Choice(NamedTuple):
    """A token that was chosen, and how likely the model found it: by its own scores, which temperature, penalty, top_k,
    top_p and min_p have not changed."""

    token: int
    probability: float
    rank: int  # 1 for the likeliest of all tokens; of equally likely ones, the one with the lower id comes first
    likeliest: list[tuple[int, float]]  # tokens and their probabilities, the likeliest first


def choice(scores: np.ndarray, token: int, count: int) -> Choice:
    """The Choice of a token by scores (V,), with the `count` likeliest tokens. p = softmax(scores), in float64."""
    p = np.exp(scores.astype(np.float64) - scores.max())
    p /= p.sum()
    rank = 1 + int((p > p[token]).sum() + (p[:token] == p[token]).sum())
    return Choice(int(token), float(p[token]), rank, [(int(i), float(p[i])) for i in largest(p, count)])


class Continuation:
    """What a model writes after a text: `text`, and the `ids` of its tokens.

    stops: texts before which it ends. likeliest: the number of tokens that each Choice in `choices` lists; 0 for no
    Choices. ended: None while it goes on; "end" after a token that ends a text, which is the last of ids; "stop" after
    one of `stops`, whose tokens are among ids.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = (), likeliest: int = 0):
        self.ids: list[int] = []
        self.choices: list[Choice] = []
        self.text, self.ended, self._likeliest = "", None, likeliest
        self._decoder, self._ends, self._stops, self._held = tokenizer.decoder(), tokenizer.ends, stops, ""

    def push(self, token: int, scores: np.ndarray | None = None) -> str:
        """Add a token, chosen by scores (V,). Returns the text that is certain now: what may be the beginning of a stop
        is held back."""
        if self.ended:
            return ""
        self.ids.append(int(token))
        if self._likeliest and scores is not None:
            self.choices.append(choice(scores, token, self._likeliest))
        if token in self._ends:
            text = self.finish()
            self.ended = self.ended or "end"
            return text
        return self._add(self._decoder.push(token))

    def finish(self) -> str:
        """The text that is left when no more tokens come."""
        return "" if self.ended else self._add(self._decoder.finish(), last=True)

    def _add(self, text, last=False):
        held = self._held + text
        found = [held.index(stop) for stop in self._stops if stop in held]
        begun = [n for stop in self._stops for n in range(1, len(stop)) if held.endswith(stop[:n])]
        ready = min(found) if found else len(held) - (0 if last else max(begun, default=0))
        self.ended = "stop" if found else None
        self.text, self._held = self.text + held[:ready], held[ready:]
        return held[:ready]


def continue_text(model: LanguageModel, ids: np.ndarray, max_new_tokens: int, rows: Sequence[Continuation],
                  end: Sequence[int], **settings: Any) -> Iterator[list[str]]:  # fmt: skip
    """Continue a text once for each of `rows`, as one batch, and push each new token to its row.

    An iterator of what each row has to say: after each token, until all rows have ended, and at last what is left.
    ids: of the text, (T,), T at least 1. The others: those of LanguageModel.stream.
    """
    scores: list[Any] = [None] * len(rows)

    def watch(found, tokens):
        scores[:] = found

    tokens = model.stream(np.tile(ids, (len(rows), 1)), max_new_tokens, end=end, watch=watch, **settings)
    # A text ends with a whole character, so the rows' decoders can begin with the new tokens.
    for new in tokens:
        yield [row.push(token, by) for row, token, by in zip(rows, new, scores)]
        if all(row.ended for row in rows):
            break
    yield [row.finish() for row in rows]


def stream_text(model: LanguageModel, tokenizer: Tokenizer, prompt: str, max_new_tokens: int,
                **settings: Any) -> Iterator[str]:  # fmt: skip
    """The text after the prompt, up to the token that ends a text: an iterator of str.

    settings: those of LanguageModel.stream. prompt: must not be empty, since a model needs at least one token.
    """
    row = [Continuation(tokenizer)]
    for (piece,) in continue_text(model, tokenizer.encode(prompt), max_new_tokens, row, tokenizer.ends, **settings):
        yield piece

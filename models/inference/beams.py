"""Translation by greedy choice or beam search, of text or of ids, with any model whose reader takes a source."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from autotx.models.inference.sampling import largest
from autotx.models.pairs import decode, encode, pad
from autotx.models.tokenizers import Tokenizer
from autotx.models.transformer import END, PAD, START
from autotx.types import ArrayLike

TOKENS = 2000  # the most source tokens, times the beam, that are translated in one batch
LONGER = 50  # how many tokens longer than its source a translation may be (Vaswani et al., 2017, 6.1)


class Translation(NamedTuple):
    ids: list[int]  # the words' token ids, without START and END
    score: float  # log probability / length penalty, the higher the better


class Translated(NamedTuple):
    text: str
    ids: list[int]  # its tokens
    score: float  # log probability / length penalty


def translations(model: Any, tokenizer: Tokenizer, sentences: Iterable[str], beam: int = 1, length_penalty: float = 0.6,
                 n_best: int = 1) -> list[list[Translated]]:  # fmt: skip
    """For each sentence (str) a list of n_best Translated, the best first. The settings are those of `translate`.

    Sentences of similar length form a batch. No sentence may be empty or longer than the model's block_size.
    """
    ids = [encode(tokenizer, sentence) for sentence in sentences]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    found: list[Any] = [None] * len(ids)
    while order:
        longest = len(ids[order[-1]])
        group = [order.pop() for _ in range(min(len(order), max(1, TOKENS // (longest * beam))))]
        best = translate(model, pad([ids[i] for i in group]), beam, length_penalty, n_best)
        for i, candidates in zip(group, best):
            found[i] = [Translated(decode(tokenizer, c.ids), *c) for c in candidates]
    return found


def translate(model: Any, source: ArrayLike, beam: int = 1, length_penalty: float = 0.6,
              n_best: int = 1) -> list[list[Translation]]:  # fmt: skip
    """Translate a batch of sentences. Returns for each a list of n_best Translations, the best first.

    model: a Transformer, or any with config.block_size and the same `reader`. source: ids (B, S), PAD after the end.
    beam: how many candidates each sentence keeps; with 1 the likeliest token is always taken (greedy).
    length_penalty a: candidates are compared by log P / ((5 + length) / 6)^a, where length includes END, so that a long
    candidate is not at a disadvantage (Wu et al., 2016, 7).
    A candidate ends with END. It is cut off when it has LONGER tokens more than its source, or block_size tokens. The
    candidates that were cut off come after all that have ended.
    ValueError: n_best above beam, an empty row, scores that are NaN or Inf.
    """
    source = np.asarray(source)
    if not 1 <= n_best <= beam:
        raise ValueError(f"translate: n_best is {n_best}, beam {beam}; give 1 <= n_best <= beam")
    if source.ndim != 2 or not (source != PAD).any(axis=1).all():
        raise ValueError(f"translate: source of shape {source.shape}: give (B, S), with a word in every row")
    longest = min(model.config.block_size, source.shape[1] + LONGER)
    limits = np.minimum((source != PAD).sum(axis=1) + LONGER, longest)
    reader, beams = model.reader(source, beam, longest), [_Beam(beam, length_penalty) for _ in source]
    tokens = np.full(len(source) * beam, START)
    for length in range(1, longest + 1):
        scores = log_softmax(reader.scores(reader.read(tokens[:, None])[:, 0])).reshape(len(source), beam, -1)
        rows = np.arange(len(tokens)).reshape(len(source), beam)
        tokens = np.full_like(rows, END)
        for i, (candidates, limit) in enumerate(zip(beams, limits)):
            if not candidates.done:
                origin, tokens[i] = candidates.extend(scores[i], last=length >= limit)
                rows[i] = rows[i][origin]
        if all(candidates.done for candidates in beams):
            break
        tokens = tokens.ravel()
        if beam > 1:
            reader.keep(rows.ravel())
    return [candidates.best(n_best) for candidates in beams]


class _Beam:
    """The candidates of one sentence: `live`, those still extended, each a (log P, ids); `ended` and `cut`, lists of
    Translations that ended with END or were cut off at the greatest length."""

    def __init__(self, size, length_penalty):
        self.size, self.length_penalty = size, length_penalty
        self.live, self.ended, self.cut = [(0.0, [])], [], []

    @property
    def done(self):
        return len(self.ended) >= self.size or not self.live

    def extend(self, scores, last):
        """Extend the live candidates by one token. scores: the log probabilities of all tokens, (size, V).

        Returns two lists of `size`: for each new live candidate, which one it extends, and its new token. last: cut off
        the candidates that have not ended.
        """
        scores = scores[: len(self.live)] + np.array([[log_p] for log_p, _ in self.live])
        flat = scores.ravel()
        top = largest(flat, 2 * self.size)  # at most `size` of these end with END, so `size` others remain
        before, live, origins = self.live, [], []
        for rank, (origin, token) in enumerate(zip(*np.divmod(top, scores.shape[1]))):
            ids, log_p = before[origin][1], float(flat[top[rank]])
            if log_p == -math.inf:
                break  # the vocabulary is smaller than the beam
            if token == END:
                if rank < self.size:
                    self.ended.append(self._translation(log_p, ids))
            elif len(live) < self.size:
                live.append((log_p, [*ids, int(token)]))
                origins.append(int(origin))
        self.live = [] if last else live
        if last:
            self.cut = [self._translation(log_p, ids) for log_p, ids in live]
        missing = self.size - len(live)
        return origins + [0] * missing, [ids[-1] for _, ids in live] + [END] * missing

    def _translation(self, log_p, ids):
        return Translation(ids, log_p / ((5 + len(ids) + 1) / 6) ** self.length_penalty)

    def best(self, n):
        """The n best Translations: those that have ended, the best first, and then those that were cut off."""
        return [t for found in (self.ended, self.cut) for t in sorted(found, key=lambda t: -t.score)][:n]


def log_softmax(scores: np.ndarray) -> np.ndarray:
    """The log probabilities of scores (rows, V), in float64. PAD and START get probability 0."""
    scores = scores.astype(np.float64)
    if not np.isfinite(scores).all():
        raise ValueError("translate: the model's scores have a NaN or an Inf; train it again")
    scores[:, [PAD, START]] = -np.inf
    scores -= scores.max(axis=1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))

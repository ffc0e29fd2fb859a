"""The loss of every token of a text, by a language model that reads the text in windows, alone or beside another."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from autotx import cross_entropy

TOKENS = 4096  # in a batch of windows
SCORES = 1 << 22  # numbers that are computed at once


def token_losses(model: Any, ids: np.ndarray, context: int, stride: int) -> Iterator[np.ndarray]:
    """The losses, in nats, of all tokens of a text but the first, as arrays (n,), together (N - 1,).

    model: has reader(rows, size), see pieces.py. ids: the text, (N,) integers, N at least 2.
    A window is `context` tokens. The first one predicts each token from all before it. Each further one begins `stride`
    tokens later, the last no later than the text needs, and predicts the tokens that no window has predicted before it.
    So each token is predicted once, from at most `context` tokens, and at least context - stride + 1 where the text has
    as many before it. ValueError: scores that are NaN or Inf.
    """
    for scores, targets in _predictions(model, ids, context, stride):
        yield _losses(scores, targets)


class Compared(NamedTuple):
    """What two models say of n tokens, each from the tokens before it. The pairs are (the first, the second)."""

    losses: tuple[np.ndarray, np.ndarray]  # (n,), in nats
    divergence: np.ndarray  # (n,): KL(p_2 || p_1) = sum of p_2 log(p_2 / p_1) over all tokens, in nats
    likeliest: tuple[np.ndarray, np.ndarray]  # ids (n,)
    probability: tuple[np.ndarray, np.ndarray]  # (n,), of these


def compared(model: Any, against: Any, ids: np.ndarray, context: int, stride: int) -> Iterator[Compared]:
    """`token_losses` of two models beside each other, with how much the first departs from the second, `against`.

    Both have the same tokens. Equal scores have a divergence of exactly 0. Errors as in `token_losses`.
    """
    both = (_predictions(one, ids, context, stride) for one in (model, against))
    for pair in zip(*both):
        losses = _losses(*pair[0]), _losses(*pair[1])
        log_p, log_q = (_log_softmax(scores) for scores, _ in pair)
        q = np.exp(log_q)
        divergence = np.where(q > 0, q * (log_q - log_p), 0).sum(axis=1)
        likeliest = log_p.argmax(axis=1), log_q.argmax(axis=1)
        probability = np.exp(log_p.max(axis=1)), np.exp(log_q.max(axis=1))
        yield Compared(losses, divergence, likeliest, probability)


def _predictions(model, ids, context, stride):
    """The scores of the next token after each token but the last, and that token, some at a time: (n, V), (n,)."""
    length = min(context, len(ids) - 1)
    ends = np.array([*range(length + 1, len(ids), stride), len(ids)])  # of the tokens that each window predicts
    before = np.array([1, *ends[:-1]])  # of the window before it: where its new ones begin
    rows = max(1, TOKENS // length)
    for i in range(0, len(ends), rows):
        some = ends[i : i + rows]
        places = some[:, None] + np.arange(-length, 0)
        new = places >= before[i : i + rows, None]
        reader = model.reader(len(some), length)
        states, targets = reader.read(ids[places - 1])[new], ids[places[new]]
        n = max(1, SCORES // model.config.vocab_size)
        for j in range(0, len(targets), n):
            yield reader.scores(states[j : j + n]), targets[j : j + n]


def _losses(scores, targets):
    losses = cross_entropy(scores, targets, reduction="none").data
    if not np.isfinite(losses).all():
        raise ValueError("the model's scores have a NaN or an Inf; its training diverged, take other weights")
    return losses.astype(np.float64)


def _log_softmax(scores):
    """The logarithm of the probabilities, in float64: (n, V) -> (n, V)."""
    scores = scores.astype(np.float64) - scores.max(axis=1, keepdims=True)
    return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))

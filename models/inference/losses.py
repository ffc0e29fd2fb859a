"""The loss of every token of a text, by a language model that reads the text in windows."""

from collections.abc import Iterator
from typing import Any

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
            losses = cross_entropy(reader.scores(states[j : j + n]), targets[j : j + n], reduction="none").data
            if not np.isfinite(losses).all():
                raise ValueError("the model's scores have a NaN or an Inf; its training diverged, take other weights")
            yield losses.astype(np.float64)

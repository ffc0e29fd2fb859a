"""Activation patching: which values of a clean run, put into a corrupt one, bring its answer back.

Two prompts of as many tokens differ in what the answer depends on. For every layer and position the corrupt prompt is
read with that one value of the clean run in place of its own, and what is noted is the difference of the scores of two
tokens at the end. Where it comes near to the clean run's, the value carries what the two prompts differ in.

Source: Vig et al., 2020, "Causal Mediation Analysis"; Meng et al., 2022, "Locating and Editing Factual Associations in
GPT" (clean into corrupt).
"""

from typing import Any, NamedTuple

import numpy as np

WHAT = {"residual": "out", "attention": "attention.out", "mlp": "mlp.out"}  # the values of a block
TOKENS = 2048  # read at once


class Patched(NamedTuple):
    """Differences of the scores of two tokens, or the scores of one, as the next after the prompt."""

    clean: float
    corrupt: float
    patched: np.ndarray  # (L, T): of the corrupt run with the clean value of a layer and position

    def restored(self) -> np.ndarray:
        """The share of the difference between the runs that each value brings back: 0 for none, 1 for all: (L, T)."""
        return (self.patched - self.corrupt) / (self.clean - self.corrupt)


def patch(
    model: Any, clean: np.ndarray, corrupt: np.ndarray, what: str, target: int, against: int | None = None
) -> Patched:
    """The Patched of two prompts. model: a GPT, a Llama, or a reader of one; clean, corrupt: ids (T,); what: of WHAT.

    target, against: the tokens; the score of the second is subtracted. ValueError: prompts of different lengths, an id
    out of range, or more tokens than the model reads at once.
    """
    if clean.shape != corrupt.shape:
        raise ValueError(f"patch: prompts of {clean.size} and {corrupt.size} tokens; give two of as many")
    names = [f"blocks.{i}.{WHAT[what]}" for i in range(len(model.blocks))]
    with model.edit(dict.fromkeys(names)) as seen:
        first = scores_after(model, clean[None])
    of = [_difference(scores, target, against)[0] for scores in (first, scores_after(model, corrupt[None]))]
    T, patched = len(clean), []
    step = max(1, TOKENS // T)
    for name in names:
        for t in range(0, T, step):
            places = np.arange(t, min(t + step, T))
            with model.edit({name: put(seen[name], places)}):
                patched.append(_difference(scores_after(model, np.tile(corrupt, (len(places), 1))), target, against))
    return Patched(float(of[0]), float(of[1]), np.concatenate(patched).reshape(len(names), T))


def put(value: np.ndarray, places: np.ndarray) -> Any:
    """An edit: in row i of a value (B, T, C), position places[i] is that of `value`, (1, T, C)."""

    def edit(x):
        x = x.copy()
        x[np.arange(len(places)), places] = value[0, places]
        return x

    return edit


def scores_after(model: Any, ids: np.ndarray) -> np.ndarray:
    """The scores of all tokens after each row of ids (B, T): (B, V). model: a GPT, a Llama, or a reader of one."""
    reader = model.reader(len(ids), ids.shape[1])
    return reader.scores(reader.read(ids)[:, -1])


def _difference(scores, target, against):
    return scores[:, target] - (0 if against is None else scores[:, against])

"""What a language model has in its residual: after each layer what it would say, and who said how much of it.

The logit lens applies the final norm and the head to the residual of every position after every block, as if the blocks
after it were not there. After the last block that is what the model does: those scores are its own, to the bit.

The residual is a sum: the embedding, and what the attention and the mlp of each block add. So is the score of a token,
which is a product of a row of the head with the norm of the residual, once the norm's scale is taken as a constant:

    score = w^T norm(x),  norm(x) = gamma (x - m(x)) r + beta,  x = embedding + the sum of all heads, biases and mlps

m is the mean over channels in a LayerNorm, and 0, as is beta, in an RMSNorm. r, one number for each position, depends
on x. It is frozen at its value: then every part c of x contributes w^T gamma (c - m(c)) r, and the contributions, with
the constant w^T beta, add up to the score.

Letters: T tokens, C channels, H heads, D channels a head, V vocabulary, L layers.
Source: nostalgebraist, 2020, "interpreting GPT: the logit lens"; Elhage et al., 2021, "A Mathematical Framework for
Transformer Circuits" (direct contributions).
"""

from typing import Any, NamedTuple

import numpy as np

from autotx.models.inference.continuations import choice

SCORES = 1 << 22  # numbers that are computed at once


class Lens(NamedTuple):
    """What a language model would say after each layer, at each of T positions. Layer 0 is the embedding."""

    next: np.ndarray  # (T,): the token that comes next; after the last one, the one that the model finds likeliest
    probability: np.ndarray  # (L + 1, T), of the next token
    rank: np.ndarray  # (L + 1, T), of the next token: 1 for the likeliest
    likeliest: np.ndarray  # (L + 1, T, count): tokens, the likeliest first
    probabilities: np.ndarray  # (L + 1, T, count), of these

    @property
    def layers(self) -> list[str]:
        return ["embedding", *(f"block {i}" for i in range(len(self.rank) - 1))]


def lens(model: Any, ids: np.ndarray, count: int = 5, reader: Any = None) -> Lens:
    """The Lens of a text. model: a GPT, a Llama, or a reader of one; ids (T,); count: tokens to list for each cell.

    reader: one of this model that has read the beginning of ids, which is left out; None for a new one.
    ValueError: an id out of range, or more tokens than the model reads at once.
    """
    reader = model.reader(1) if reader is None else reader
    new = ids[reader.length :]
    with reader.edit({"embedding": None, "blocks.*.out": None}) as seen:
        reader.read(new[None])
    following = [*new[1:], int(reader.scores(reader.norm(_last(reader, seen)[-1:])).argmax())]
    layers = [[], *([] for _ in reader.blocks)]
    step = max(1, SCORES // reader.config.vocab_size)
    for row, (x,) in zip(layers, seen.values()):
        for i in range(0, len(new), step):
            scores = reader.scores(reader.norm(x[i : i + step]))
            row += [choice(one, token, count) for one, token in zip(scores, following[i : i + step])]
    found = [np.array([[of(cell) for cell in row] for row in layers]) for of in (
        lambda cell: cell.probability, lambda cell: cell.rank, lambda cell: [i for i, _ in cell.likeliest],
        lambda cell: [p for _, p in cell.likeliest],
    )]  # fmt: skip
    return Lens(np.array(following), *found)


def _last(reader, seen):
    """The residual after the last block, (T, C)."""
    return seen[f"blocks.{len(reader.blocks) - 1}.out"][0]


class Accounts(NamedTuple):
    """The direct contributions to the score of a token, or to the difference of two scores, after a text."""

    score: float  # as the model computes it
    embedding: float
    heads: np.ndarray  # (L, H)
    biases: np.ndarray  # (L,): of the matrices that join the heads; 0 where there are none
    mlps: np.ndarray  # (L,)
    constant: float  # of the final norm's bias; 0 for an RMSNorm

    def total(self) -> float:
        """The sum of all, which is the score but for rounding."""
        return float(self.embedding + self.heads.sum() + self.biases.sum() + self.mlps.sum() + self.constant)


def accounts(
    model: Any, ids: np.ndarray, token: int, against: int | None = None, position: int = -1, reader: Any = None
) -> Accounts:
    """Who contributes how much to the score of `token` as the next one after a position of a text.

    against: a token whose score is subtracted, so that everything is of the difference. position: among those that are
    read. Others as in `lens`. The final norm's scale is frozen at its value (see the top); computed in float64.
    """
    reader = model.reader(1) if reader is None else reader
    names = "embedding", "blocks.*.attention.heads", "blocks.*.mlp.out", "blocks.*.out"
    with reader.edit(dict.fromkeys(names)) as seen:
        states = reader.read(ids[None, reader.length :])
    seen = {name: value[0, position].astype(np.float64) for name, value in seen.items()}
    scores = reader.scores(states[0, position][None])[0].astype(np.float64)
    rows = reader.head.rows(np.array([token, token if against is None else against])).astype(np.float64)
    w, score = rows[0], scores[token]
    if against is not None:
        w, score = rows[0] - rows[1], score - scores[against]
    x = seen[f"blocks.{len(reader.blocks) - 1}.out"]

    def part(c):
        return reader.norm.parts(c, x) @ w

    heads, biases = [], []
    for i, block in enumerate(reader.blocks):
        of_heads = seen[f"blocks.{i}.attention.heads"]  # (H, D)
        joining = np.asarray(block.proj.weight, np.float64).reshape(-1, *of_heads.shape)
        heads.append(part(np.einsum("chd,hd->hc", joining, of_heads)))
        biases.append(0.0 if block.proj.bias is None else part(block.proj.bias.astype(np.float64)))
    mlps = [part(seen[f"blocks.{i}.mlp.out"]) for i in range(len(heads))]
    beta = getattr(reader.norm, "beta", None)
    constant = 0.0 if beta is None else float(beta @ w)
    found = np.array(heads), np.array(biases), np.array(mlps)
    return Accounts(float(score), float(part(seen["embedding"])), *found, constant)

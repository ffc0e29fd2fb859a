"""Which tokens of a prompt a score depends on: integrated gradients, gradient times input, and attention rollout.

F is the score of a token as the next one, or the difference of two scores, as a function of the embeddings x (T, C) of
the prompt. Three answers to which tokens it comes from:

- Integrated gradients: along the straight line from a baseline b to x, the change of F by each token's embedding,

      share_t = (x_t - b_t) . integral from 0 to 1 of dF/dx_t (b + a (x - b)) da.

  The shares add up to F(x) - F(b). In a deep transformer F bends sharply along the line, so that points at equal
  distances would need hundreds. At every point not only the gradient is known but F itself. So the integral over a
  piece of the line, by Simpson's rule, is compared with how much F changes over it, and where the two disagree the
  piece is halved.
- Gradient times input, dF/dx_t . x_t: how F changes where x is, which need not add up to anything.
- Attention rollout: how much of each token attention could have carried to the last one, if all it did were to average
  residuals by its weights. It knows neither values, nor mlps, nor which token the score is of: it is no attribution.

The baseline is a prompt of as many tokens, or the mean of all embeddings at every token but the first, which keeps its
own: many models keep a state there that is about no token (the "attention sink"), and without it compute nonsense.

Letters: T tokens, C channels.
Source: Sundararajan et al., 2017, "Axiomatic Attribution for Deep Networks"; Abnar and Zuidema, 2020, "Quantifying
Attention Flow in Transformers"; Xiao et al., 2023, "Efficient Streaming Language Models with Attention Sinks".
"""

import contextlib
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from autotx import Tensor, no_grad

PIECES = 4  # of the line, at first
TOKENS = 256  # that forward and backward take at once
TOLERANCE = 0.01  # of the difference: by how much the pieces may disagree in all


class Attribution(NamedTuple):
    """What the tokens of a prompt contribute to a score, or to the difference of two; see the top."""

    score: float
    baseline: float  # the score of the baseline
    integrated: np.ndarray  # (T,), adds up to score - baseline, but for `error`
    points: int  # at which F and its gradient were computed
    error: float  # by how much the pieces of the line disagree with the change of F over them, in all
    gradient: np.ndarray  # (T,), gradient times input
    rollout: np.ndarray  # (T,), adds up to 1

    def adds_up(self) -> bool:
        """Whether the shares add up to the difference within TOLERANCE of it, on every piece of the line."""
        return self.error <= TOLERANCE * abs(self.score - self.baseline)


def attribution(
    model: Any, ids: np.ndarray, target: int, against: int | None = None, baseline: np.ndarray | None = None,
    points: int = 200, watch: Callable[[int], None] | None = None,
) -> Attribution:  # fmt: skip
    """The Attribution of the score of `target` as the next token after a prompt, ids (T,). model: a GPT or a Llama.

    against: a token whose score is subtracted. baseline: ids (T,); None for the mean of all embeddings (see the top).
    points: the most at which F is computed. watch: called with the number of points so far, before more are computed;
    it may raise. ValueError: prompts of different lengths, more tokens than the model reads.
    """
    if baseline is not None and len(baseline) != len(ids):
        raise ValueError(f"attribution: a baseline of {len(baseline)} tokens for {len(ids)}; give as many")
    line = Line(model, ids, target, against, baseline, watch)
    with _frozen(model):
        integrated, error = line.integral(points)
    first, last = line.at[0.0], line.at[1.0]
    gradient = (last.gradient * line.x).sum(axis=1)
    return Attribution(last.value, first.value, integrated, len(line.at), error, gradient, rollout(model, ids))


class Point(NamedTuple):
    value: float  # F
    gradient: np.ndarray  # (T, C)


class Line:
    """The straight line from the baseline to the embeddings x of a prompt, and the points at which F was computed."""

    def __init__(self, model, ids, target, against, baseline, watch=None):
        self.model, self.ids, self.target, self.against = model, ids, target, against
        self.watch = watch or (lambda count: None)
        self.x = self._embedded(ids)
        if baseline is None:
            table = model.wte.weight.data
            b = self.x - table[ids] + table.mean(axis=0)  # positions, where they are added, stay
            self.b = np.concatenate([self.x[:1], b[1:]])
        else:
            self.b = self._embedded(baseline)
        self.at: dict[float, Point] = {}

    def _embedded(self, ids):
        with no_grad(), self.model.edit({"embedding": None}) as seen:
            self.model.hidden(ids[None])
        return seen["embedding"].data[0]

    def compute(self, places):
        """F and its gradient at some places from 0 to 1."""
        step = max(1, TOKENS // len(self.ids))
        for i in range(0, len(places), step):
            self.watch(len(self.at))
            part = np.array(places[i : i + step])
            along = self.b + part[:, None, None] * (self.x - self.b)
            x = Tensor(along.astype(self.x.dtype), requires_grad=True)
            with self.model.edit({"embedding": lambda _, x=x: x}):
                states = self.model.hidden(np.tile(self.ids, (len(part), 1)))
                scores = self.model.head(states[:, -1:])[:, 0]
            f = scores[:, self.target] if self.against is None else scores[:, self.target] - scores[:, self.against]
            f.sum().backward()
            self.at |= {a: Point(float(v), g) for a, v, g in zip(part.tolist(), f.data, np.asarray(x.grad))}

    def integral(self, points):
        """The shares (T,), and by how much the pieces disagree with F. points: the most, at least 2 PIECES + 1."""
        edges = np.linspace(0, 1, PIECES + 1).tolist()
        pieces = list(itertools.pairwise(edges))
        self.compute([*edges, *map(_middle, pieces)])
        while True:
            shares = [self._simpson(piece) for piece in pieces]
            wrong = [abs(self._change(piece) - share.sum()) for piece, share in zip(pieces, shares)]
            allowed = TOLERANCE * abs(self._change((0.0, 1.0)))
            room = (points - len(self.at)) // 2
            worst = [i for i in np.argsort(wrong)[::-1][: max(room, 0)] if wrong[i] > allowed / len(pieces)]
            if sum(wrong) <= allowed or not worst:
                return np.sum(shares, axis=0), float(sum(wrong))
            halves = [half for i in worst for half in _halves(pieces[i])]
            pieces = [piece for i, piece in enumerate(pieces) if i not in worst] + halves
            self.compute(list(map(_middle, halves)))

    def _change(self, piece):
        return self.at[piece[1]].value - self.at[piece[0]].value

    def _simpson(self, piece):
        """The shares of a piece: (T,)."""
        a, m, c = (self.at[place].gradient.astype(np.float64) for place in (piece[0], _middle(piece), piece[1]))
        return ((piece[1] - piece[0]) / 6 * (a + 4 * m + c) * (self.x - self.b)).sum(axis=1)


def _middle(piece):
    return (piece[0] + piece[1]) / 2


def _halves(piece):
    return (piece[0], _middle(piece)), (_middle(piece), piece[1])


def rollout(model: Any, ids: np.ndarray) -> np.ndarray:
    """How much of each token attention could have carried to the last one (see the top): (T,), which adds up to 1.

    Each layer's weights, averaged over heads, count half, and the residual that stays the other half.
    """
    found = np.eye(len(ids))

    def carry(weights):
        nonlocal found
        found = (weights[0].mean(axis=0, dtype=np.float64) + np.eye(len(ids))) / 2 @ found
        return weights

    with model.edit({"blocks.*.attention.weights": carry}):
        model.reader(1, len(ids)).read(ids[None])
    return found[-1]


@contextlib.contextmanager
def _frozen(model):
    """Inside, no parameter needs a gradient, which saves the products for them."""
    learned = [p for p in model.parameters() if p.requires_grad]
    for p in learned:
        p.requires_grad = False
    try:
        yield
    finally:
        for p in learned:
            p.requires_grad = True

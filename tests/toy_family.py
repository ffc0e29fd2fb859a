"""A family of networks in one file: a language model that sees one token, and says which comes next ("bigram").

    from autotx.models.registry import ARCHITECTURES
    ARCHITECTURES[BigramArchitecture.name] = BigramArchitecture

Then `autotx train --model bigram --text FILE` trains one, and every command takes it.
"""

import copy
from dataclasses import dataclass
from typing import ClassVar

import autotx
from autotx import init, nn
from autotx.models.architecture import Architecture
from autotx.models.config import setting
from autotx.models.inference.pieces import Matrix, Reader
from autotx.models.inference.sampling import LanguageModel


@dataclass(frozen=True)
class BigramConfig:
    """The shape of a Bigram."""

    vocab_size: int  # V
    block_size: int  # the longest text in training, in tokens
    n_embd: int  # C
    dropout: float = 0.0  # probability


class Bigram(LanguageModel, nn.Module):
    """scores = head(tanh(table[token])). rng: draws the weights; None leaves them zero, to be loaded."""

    def __init__(self, config, rng):
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd, rng=rng)
        self.dropout = nn.Dropout(config.dropout)
        self.out = nn.Linear(config.n_embd, config.vocab_size, bias=False, rng=None)
        if rng is not None:
            self.out.weight.data = init.normal(self.out.weight.shape, rng, std=0.02)

    def forward(self, ids, targets=None, rng=None, scores=True):
        """ids (B, T) -> (scores (B, T, V), or None if they are not wanted, the mean loss, or None without targets)."""
        z = self.head(self.hidden(ids, rng))
        return z if scores else None, None if targets is None else autotx.cross_entropy(z, targets)

    def head_loss(self, x, targets, **settings):
        """The cross entropy of the scores of states: (..., C), (...) -> a number."""
        return autotx.linear_cross_entropy(x, self.out.weight, targets, **settings)

    def hidden(self, ids, rng=None):
        """ids (B, T) -> (B, T, C)."""
        return self.dropout(autotx.tanh(self.wte(ids)), rng)

    def head(self, x):
        """(..., C) -> (..., V)."""
        return self.out(x)

    def reader(self, rows=1, size=None, matrix=Matrix):
        """What generates text: the same on plain arrays."""
        return BigramReader(self, matrix)


class BigramReader(Reader, LanguageModel):
    """It keeps nothing of what it has read but how much that was. `scores` is the base's."""

    def __init__(self, model, matrix):
        self.config = model.config
        self.wte, self.head = matrix(model.wte.weight.data), matrix.of(model.out)
        self.matrices = self.wte, self.head

    def reader(self, rows=1, size=None):
        other = copy.copy(self)
        other.length = 0
        return other

    def read(self, ids):
        self.length += ids.shape[1]
        return autotx.tanh(self.wte.rows(ids)).data


@dataclass(frozen=True)
class BigramArchitecture(Architecture):
    """A Bigram as `autotx train` makes it: each field is a flag."""

    name: ClassVar[str] = "bigram"
    model: ClassVar[type] = Bigram
    shape: ClassVar[type] = BigramConfig

    n_embd: int = setting(32, "channels", at_least=1, fixed=True)
    block_size: int = setting(16, "tokens in a block of text", at_least=1, fixed=True)

    def build(self, vocab_size, rng):
        return Bigram(BigramConfig(vocab_size, self.block_size, self.n_embd), rng)

    def describe(self):
        return f"{self.n_embd} channels"

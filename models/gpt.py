"""GPT-2: a stack of blocks that reads tokens and predicts, at every position, the next token.

Top to bottom: the configuration, one block (attention, then a feed-forward net), the model with its loss, and its
reader, which computes the same formulas on NumPy arrays with a cache, to generate text.

    ids (B, T) -> token table + position table -> n_layer blocks -> layer norm -> scores (B, T, V)

Letters: B batch, T tokens, C channels (n_embd), H heads, D = C / H channels a head, V vocabulary, L layers.
Source: Radford et al., 2019, "Language Models are Unsupervised Multitask Learners"; the whitepaper's GPT sections.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

import autotx
from autotx import Tensor, init, kernels, nn
from autotx.checks import checked_size
from autotx.models.architecture import Blocks
from autotx.models.inference.pieces import Matrix, Norm, Reader, added, attended, is_float32, split
from autotx.models.inference.sampling import LanguageModel
from autotx.text import counted
from autotx.types import Array, ArrayLike, Rng


@dataclass(frozen=True)
class GPTConfig:
    """The sizes of a GPT. ValueError for a size that is not a positive int or does not fit the other sizes."""

    block_size: int  # the longest context, in tokens
    vocab_size: int  # V
    n_layer: int  # L
    n_head: int  # H, a divisor of n_embd
    n_embd: int  # C
    dropout: float = 0.0  # probability, from 0 to below 1; used only when forward is given an rng
    bias: bool = True  # biases in the linear layers and layer norms
    norm_eps: float = 1e-5  # in the root of each layer norm

    def __post_init__(self):
        for name in ("block_size", "vocab_size", "n_layer", "n_head", "n_embd"):
            object.__setattr__(self, name, checked_size("GPTConfig", name, getattr(self, name)))
        if self.n_embd % self.n_head:
            larger = math.ceil(self.n_embd / self.n_head) * self.n_head
            raise ValueError(
                f"GPTConfig: n_head {self.n_head} does not divide n_embd {self.n_embd}: heads have equal shares of it; "
                f"choose a multiple of {self.n_head}, such as {larger}, for n_embd, or another n_head"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"GPTConfig: dropout is {self.dropout}; give a probability from 0 to below 1")
        if not self.norm_eps > 0:
            raise ValueError(f"GPTConfig: norm_eps is {self.norm_eps}; give a positive number")


def _draw_weights(module: nn.Module, config: GPTConfig, rng: Rng) -> None:
    """Matrices and tables: normal, standard deviation 0.02. Biases stay zero and layer norms one. rng: None draws none.

    The 2 L projections whose results are added to x get 0.02 / sqrt(2 L); otherwise the sum grows with the depth.
    """
    for name, p in module.named_parameters():
        if rng is not None and p.ndim == 2:
            residual = name.endswith("proj.weight")
            p.data = init.normal(p.shape, rng, std=0.02 / math.sqrt(2 * config.n_layer) if residual else 0.02)


class FeedForward(nn.Module):
    """C -> 4 C -> C with a GELU between, for every token separately. x and result: (B, T, C)."""

    def __init__(self, config: GPTConfig, *, rng: Rng):
        self.fc = nn.Linear(config.n_embd, 4 * config.n_embd, config.bias, rng=None)
        self.proj = nn.Linear(4 * config.n_embd, config.n_embd, config.bias, rng=None)
        _draw_weights(self, config, rng)

    def forward(self, x: Array, rng: Rng = None) -> Tensor:
        return self.proj(autotx.gelu(self.fc(x, rng), approximate="tanh"), rng)


class Block(nn.Module):
    """Attention between the tokens, then a feed-forward net on each token. x and result: (B, T, C).

    Both sublayers are applied to a layer norm of x, and their result is added to x ("pre-norm"). The gradient therefore
    reaches every block through the additions alone, however many blocks there are.
    """

    def __init__(self, config: GPTConfig, *, rng: Rng):
        self.ln_1 = nn.LayerNorm(config.n_embd, config.bias, config.norm_eps)
        self.attn = nn.MultiHeadAttention(config.n_embd, config.n_head, config.dropout, config.bias, rng=None)
        _draw_weights(self.attn, config, rng)
        self.ln_2 = nn.LayerNorm(config.n_embd, config.bias, config.norm_eps)
        self.mlp = FeedForward(config, rng=rng)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Array, rng: Rng = None) -> Tensor:
        x = x + self.dropout(self.attn(self.ln_1(x), causal=True, rng=rng), rng)
        return x + self.dropout(self.mlp(self.ln_2(x), rng), rng)


class GPT(LanguageModel, nn.Module):
    """The model. The token table has two uses: to embed the ids, and as the weight of the head, which scores tokens.

    config: GPTConfig. rng: numpy.random.Generator that draws the weights; None leaves them zero, to be loaded.
    """

    recompute = False  # whether blocks are called by autotx.recompute, which takes less memory and more time
    # Where the values are that inference/edits.py names: modules of a block, the last matrix of its mlp, the last norm
    parts: ClassVar = {"norm1": "ln_1", "attention": "attn", "norm2": "ln_2", "last": "mlp.proj", "norm": "ln_f"}

    def __init__(self, config: GPTConfig, rng: Rng):
        self.config: GPTConfig = config
        self.edits: list = []  # those that are switched on
        self.wte = nn.Embedding(config.vocab_size, config.n_embd, rng=None)
        self.wpe = nn.Embedding(config.block_size, config.n_embd, rng=None)
        _draw_weights(self, config, rng)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = [Block(config, rng=rng) for _ in range(config.n_layer)]
        self.ln_f = nn.LayerNorm(config.n_embd, config.bias, config.norm_eps)

    def forward(
        self, ids: ArrayLike, targets: ArrayLike | None = None, rng: Rng = None, *, scores: bool = True
    ) -> tuple[Tensor, Any]:
        """Scores for the next token at every position, and the loss.

        ids: integers (B, T) below vocab_size, T at most block_size; targets: the tokens that do come next, (B, T).
        rng: draws the dropout; None for no dropout. Returns logits (B, T, V) and the mean cross entropy in nats (None
        without targets). scores: False for None instead of the logits, which then are made a few positions at a time.
        ValueError for ids of another shape or out of range, and for T beyond block_size.
        """
        x = self.hidden(ids, rng)
        if targets is not None and not scores:
            nothing: Any = None
            return nothing, self.head_loss(x, targets)
        logits = self.head(x)
        return logits, None if targets is None else autotx.cross_entropy(logits, targets)

    def head_loss(self, x: Tensor, targets: ArrayLike, **settings: Any) -> Tensor:
        """The cross entropy of the scores of states x (..., C), which are made a few positions at a time.

        targets: (...); settings: those of autotx.linear_cross_entropy.
        """
        return autotx.linear_cross_entropy(x, self.wte.weight, targets, **settings)

    def hidden(self, ids: ArrayLike, rng: Rng = None) -> Tensor:
        """The states of the tokens after the last block and its layer norm: ids (B, T) -> (B, T, C)."""
        ids = np.asarray(ids)
        if ids.ndim != 2:
            raise ValueError(f"GPT: ids have shape {ids.shape}; give (B, T), one row of tokens for each text")
        count = ids.shape[1]
        if count > self.config.block_size:
            raise ValueError(f"GPT: {count} tokens exceed block_size {self.config.block_size}; give the last ones")
        x = self.dropout(self.wte(ids) + self.wpe(np.arange(count)), rng)
        for block in self.blocks:
            x = autotx.recompute(block, x, rng) if self.recompute else block(x, rng)
        return self.ln_f(x)

    def head(self, x: Tensor) -> Tensor:
        """The scores of all tokens, from states: (..., C) -> (..., V)."""
        return autotx.linear(x, self.wte.weight)

    def position_tables(self) -> dict[str, np.ndarray]:
        """The position table, as a dict of its name in a picture -> array (block_size, C)."""
        return {"learned positions": self.wpe.weight.data}

    def reader(self, rows: int = 1, size: int | None = None, matrix: type[Matrix] = Matrix) -> "GPTReader":
        """A GPTReader of the current weights, for `rows` texts of at most `size` tokens (None: block_size)."""
        return GPTReader(self, matrix).reader(rows, size)


class GPTReader(Reader, LanguageModel):
    """The model on NumPy arrays, with a cache (see inference/pieces.py). matrix: the class of the weight matrices."""

    def __init__(self, model: GPT, matrix: type[Matrix]):
        self.config: GPTConfig = model.config
        self.edits = model.edits
        self.head, self.wpe = matrix.of(model.wte), model.wpe.weight.data
        self.blocks = [_BlockReader(block, matrix) for block in model.blocks]
        self.norm = Norm(model.ln_f)
        self.matrices = [self.head, *(m for b in self.blocks for m in (b.qkv, b.proj, b.fc, b.mlp_proj))]
        self.float32 = is_float32(model)

    def reader(self, rows: int = 1, size: int | None = None) -> "GPTReader":
        """Another reader with the same weights and an empty cache. Arguments: those of GPT.reader."""
        return self.begun(rows, size, self.config.n_head)

    def read(self, ids: np.ndarray) -> np.ndarray:
        """Read the next tokens of each row: ids (B, T) -> their states, (B, T, C)."""
        start = self.begin(ids)
        x = (self.head.rows(ids) + self.wpe[start : self.length]).reshape(-1, self.config.n_embd)
        if self.edits:
            return self.edited(x, len(ids), start).reshape(*ids.shape, -1)
        self.run_blocks(x, start)
        return self.norm(x).reshape(*ids.shape, -1)


class _BlockReader:
    def __init__(self, block, matrix):
        layers = block.attn.qkv, block.attn.proj, block.mlp.fc, block.mlp.proj
        self.qkv, self.proj, self.fc, self.mlp_proj = map(matrix.of, layers)
        self.ln_1, self.ln_2 = Norm(block.ln_1), Norm(block.ln_2)
        self.n_head = block.attn.n_head

    def add_to(self, x, keys, values, before):
        """Add the results of both sublayers to x (B T, C), in place. keys: (B, H, D, size), values: (B, H, size, D).
        before: an array of the number of tokens before."""
        y = kernels.attend.attend_new(self.qkv(self.ln_1(x)), keys, values, before, self.n_head)
        self.proj(y, onto=x)
        self.mlp_proj(self.fc(self.ln_2(x), "gelu_tanh"), onto=x)

    def edited(self, x, keys, values, start, edit):
        """`add_to`, which also gives each value to `edit`, a Within. Returns x, or what is made of it."""
        q, k, v = split(self.qkv(edit("norm1.out", self.ln_1(x))), len(values), 3, values.shape[-1])
        x = added(x, self.proj, attended(q, k, v, keys, values, start, edit), edit, "attention.out")
        hidden = edit("mlp.hidden", self.fc(edit("norm2.out", self.ln_2(x)), "gelu_tanh"))
        return edit.residual("out", added(x, self.mlp_proj, hidden, edit, "mlp.out"))


@dataclass(frozen=True)
class GPTArchitecture(Blocks):
    """The settings of a GPT that is trained. The defaults are nanoGPT's for a small GPT on a CPU."""

    name: ClassVar[str] = "gpt"
    model: ClassVar[type] = GPT
    shape: ClassVar[type] = GPTConfig
    published: ClassVar[GPTConfig] = GPTConfig(1024, 50257, 12, 12, 768)  # GPT-2 small

    def build(self, vocab_size: int, rng: Rng) -> GPT:
        return GPT(GPTConfig(self.block_size, vocab_size, self.n_layer, self.n_head, self.n_embd, self.dropout), rng)

    @staticmethod
    def fewest_weights(shape: Any, vocab_size: int) -> int:
        return Blocks.fewest_weights(shape, vocab_size) + shape.block_size * shape.n_embd  # the position table

    def describe(self) -> str:
        sizes = (self.n_layer, "layer"), (self.n_head, "head"), (self.n_embd, "channel"), (self.block_size, "token")
        return "{}, {}, {}, blocks of {}".format(*(counted(*size) for size in sizes))

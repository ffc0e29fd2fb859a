"""Llama: the decoder that most open language models are today, among them SmolLM2 and (with biases) Qwen2.

Top to bottom: the configuration, one block (attention, then a gated feed-forward net), the model with its loss, and its
reader, which computes the same formulas on NumPy arrays with a cache, to generate text. Unlike GPT-2 (gpt.py) it has

    RMSNorm              a layer norm without means and biases
    rotary positions     queries and keys are rotated by their positions; there is no position table
    SwiGLU               a feed-forward net of three matrices, silu(x W_gate) (x W_up) W_down
    grouped queries      each head of keys and values serves several heads of queries, so that the cache is smaller

    ids (B, T) -> token table -> n_layer blocks -> RMSNorm -> scores (B, T, V)

Letters: B batch, T tokens, C channels (n_embd), H heads of queries, G heads of keys and values, D = C / H channels a
head, F hidden channels (n_hidden), V vocabulary, L layers.
Source: Touvron et al., 2023, "LLaMA" and "Llama 2"; Yang et al., 2024, "Qwen2 Technical Report".
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

import autotx
from autotx import Tensor, init, kernels, nn
from autotx.checks import checked_size
from autotx.models.architecture import Blocks
from autotx.models.config import setting
from autotx.models.inference.pieces import Matrix, Reader, RMSNorm, added, attended, is_float32
from autotx.models.inference.sampling import LanguageModel
from autotx.text import counted
from autotx.types import Array, ArrayLike, Rng

DRAWN_POSITIONS = 1024  # the most that are in a picture


@dataclass(frozen=True)
class LlamaConfig:
    """The sizes of a Llama. ValueError for a size that is not a positive int or does not fit the other sizes."""

    block_size: int  # the longest context, in tokens
    vocab_size: int  # V
    n_layer: int  # L
    n_head: int  # H, a divisor of n_embd
    n_kv_head: int  # G, a divisor of n_head
    n_embd: int  # C
    n_hidden: int  # F
    rope_base: float = 10000.0  # token t rotates pair i of a head's channels by the angle t rope_base^(-2 i / D)
    norm_eps: float = 1e-5  # in the root of each RMSNorm
    bias: bool = False  # biases of queries, keys and values, as in Qwen2
    tied: bool = True  # the head, which scores tokens, is the token table
    dropout: float = 0.0  # probability, from 0 to below 1; used only when forward is given an rng

    def __post_init__(self):
        for name in ("block_size", "vocab_size", "n_layer", "n_head", "n_kv_head", "n_embd", "n_hidden"):
            object.__setattr__(self, name, checked_size("LlamaConfig", name, getattr(self, name)))
        for part, of in (("n_head", "n_embd"), ("n_kv_head", "n_head")):
            if getattr(self, of) % getattr(self, part):
                raise ValueError(
                    f"LlamaConfig: {part} {getattr(self, part)} does not divide {of} {getattr(self, of)}; choose one "
                    "that does"
                )
        if self.n_embd // self.n_head % 2:
            raise ValueError(
                f"LlamaConfig: n_embd / n_head is {self.n_embd // self.n_head}, an odd number of channels, which are "
                "rotated in pairs; choose sizes that make it even"
            )
        if not self.rope_base > 0 or not self.norm_eps > 0:
            raise ValueError(
                f"LlamaConfig: rope_base is {self.rope_base}, norm_eps {self.norm_eps}; give positive numbers"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"LlamaConfig: dropout is {self.dropout}; give a probability from 0 to below 1")


def _draw_weights(module: nn.Module, config: LlamaConfig, rng: Rng) -> None:
    """Matrices and tables: normal, standard deviation 0.02. Biases stay zero and norms one. rng: None draws none.

    The 2 L matrices whose results are added to x get 0.02 / sqrt(2 L); otherwise the sum grows with the depth.
    """
    for name, p in module.named_parameters():
        if rng is not None and p.ndim == 2:
            residual = name.endswith(("proj.weight", "down.weight"))
            p.data = init.normal(p.shape, rng, std=0.02 / math.sqrt(2 * config.n_layer) if residual else 0.02)


class Attention(nn.MultiHeadAttention):
    """Grouped-query attention with rotary positions, for every token to itself and those before. x, result: (B, T, C).

    Queries, keys and values come from one matrix, qkv (C + 2 G D, C), in this order: one product is faster than three.
    The biases are theirs alone.
    """

    def __init__(self, config: LlamaConfig, *, rng: Rng):
        C, H = config.n_embd, config.n_head
        shared = {"n_kv_head": config.n_kv_head, "rope_base": config.rope_base}
        super().__init__(C, H, config.dropout, config.bias, **shared, rng=None)
        self.proj = nn.Linear(C, C, bias=False, rng=None)
        _draw_weights(self, config, rng)


class FeedForward(nn.Module):
    """silu(x W_gate^T) (x W_up^T) W_down^T: C -> F -> C, for every token separately. x and result: (B, T, C)."""

    def __init__(self, config: LlamaConfig, *, rng: Rng):
        C, F = config.n_embd, config.n_hidden
        self.gate = nn.Linear(C, F, bias=False, rng=None)
        self.up = nn.Linear(C, F, bias=False, rng=None)
        self.down = nn.Linear(F, C, bias=False, rng=None)
        _draw_weights(self, config, rng)

    def forward(self, x: Array, rng: Rng = None) -> Tensor:
        return self.down(autotx.swiglu(self.gate(x, rng), self.up(x, rng)), rng)


class Block(nn.Module):
    """Attention between the tokens, then a feed-forward net on each token. x and result: (B, T, C).

    Both sublayers are applied to a norm of x, and their result is added to x ("pre-norm"), as in gpt.py.
    """

    def __init__(self, config: LlamaConfig, *, rng: Rng):
        self.norm1 = nn.RMSNorm(config.n_embd, config.norm_eps)
        self.attention = Attention(config, rng=rng)
        self.norm2 = nn.RMSNorm(config.n_embd, config.norm_eps)
        self.mlp = FeedForward(config, rng=rng)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Array, rng: Rng = None) -> Tensor:
        x = x + self.dropout(self.attention(self.norm1(x), causal=True, rng=rng), rng)
        return x + self.dropout(self.mlp(self.norm2(x), rng), rng)


class Llama(LanguageModel, nn.Module):
    """The model. If tied, the token table has two uses: to embed the ids, and as the weight of the head.

    config: LlamaConfig. rng: numpy.random.Generator that draws the weights; None leaves them zero, to be loaded.
    Parameters, matrices as (out, in): wte.weight (V, C); in blocks.i: norm1.weight (C,), attention.qkv.weight
    (C + 2 G D, C) and .bias, attention.proj.weight (C, C), norm2.weight (C,), mlp.gate.weight and mlp.up.weight (F, C),
    mlp.down.weight (C, F); norm.weight (C,); head.weight (V, C) if not tied.
    """

    recompute = False  # whether blocks are called by autotx.recompute, which takes less memory and more time
    # Where the values are that inference/edits.py names: modules of a block, the last matrix of its mlp, the last norm
    parts: ClassVar = {"norm1": "norm1", "attention": "attention", "norm2": "norm2", "last": "mlp.down", "norm": "norm"}

    def __init__(self, config: LlamaConfig, rng: Rng):
        self.config: LlamaConfig = config
        self.edits: list = []  # those that are switched on
        self.wte = nn.Embedding(config.vocab_size, config.n_embd, rng=None)
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False, rng=None)  # (..., C) -> (..., V)
        if config.tied:
            self.head.weight = self.wte.weight
        _draw_weights(self, config, rng)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = [Block(config, rng=rng) for _ in range(config.n_layer)]
        self.norm = nn.RMSNorm(config.n_embd, config.norm_eps)

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
        return autotx.linear_cross_entropy(x, self.head.weight, targets, **settings)

    def hidden(self, ids: ArrayLike, rng: Rng = None) -> Tensor:
        """The states of the tokens after the last block and its norm: ids (B, T) -> (B, T, C)."""
        ids = np.asarray(ids)
        if ids.ndim != 2:
            raise ValueError(f"Llama: ids have shape {ids.shape}; give (B, T), one row of tokens for each text")
        if ids.shape[1] > self.config.block_size:
            raise ValueError(
                f"Llama: {ids.shape[1]} tokens exceed block_size {self.config.block_size}; give the last ones"
            )
        x = self.dropout(self.wte(ids), rng)
        for block in self.blocks:
            x = autotx.recompute(block, x, rng) if self.recompute else block(x, rng)
        return self.norm(x)

    def position_tables(self) -> dict[str, np.ndarray]:
        """The cosines and sines by which rotary positions turn the channels of a head: {name: (T, D)}, of the first
        positions."""
        size, D = min(self.config.block_size, DRAWN_POSITIONS), self.config.n_embd // self.config.n_head
        angles = np.arange(size)[:, None] / self.config.rope_base ** (np.arange(0, D, 2) / D)
        return {"rotary positions": np.stack([np.cos(angles), np.sin(angles)], axis=-1).reshape(size, D)}

    def reader(self, rows: int = 1, size: int | None = None, matrix: type[Matrix] = Matrix) -> "LlamaReader":
        """A LlamaReader of the current weights, for `rows` texts of at most `size` tokens (None: block_size)."""
        return LlamaReader(self, matrix).reader(rows, size)


class LlamaReader(Reader, LanguageModel):
    """The model on NumPy arrays, with a cache (see inference/pieces.py). matrix: the class of the weight matrices."""

    def __init__(self, model: Llama, matrix: type[Matrix]):
        self.config: LlamaConfig = model.config
        self.edits = model.edits
        self.table = matrix.of(model.wte)
        self.head = self.table if model.config.tied else matrix.of(model.head)
        self.blocks = [_BlockReader(block, matrix) for block in model.blocks]
        self.norm = RMSNorm(model.norm)
        self.matrices = [self.head, *(m for b in self.blocks for m in (b.qkv, b.proj, b.gate, b.up, b.down))]
        self.float32 = is_float32(model)

    def reader(self, rows: int = 1, size: int | None = None) -> "LlamaReader":
        """Another reader with the same weights and an empty cache. Arguments: those of Llama.reader."""
        return self.begun(rows, size, self.config.n_kv_head)

    def read(self, ids: np.ndarray) -> np.ndarray:
        """Read the next tokens of each row: ids (B, T) -> their states, (B, T, C)."""
        start = self.begin(ids)
        x = self.table.rows(ids).reshape(-1, self.config.n_embd)
        if self.edits:
            return self.edited(x, len(ids), start).reshape(*ids.shape, -1)
        self.run_blocks(x, start)
        return self.norm(x).reshape(*ids.shape, -1)


class _BlockReader:
    """A block in five launches: norm and q k v, rotation and attention, o and residual, norm and gated half, down and
    residual. For more than a few rows the norms, and the rotation, have launches of their own."""

    def __init__(self, block, matrix):
        layers = block.attention.qkv, block.attention.proj, block.mlp.gate, block.mlp.up, block.mlp.down
        self.qkv, self.proj, self.gate, self.up, self.down = map(matrix.of, layers)
        self.norm1, self.norm2 = RMSNorm(block.norm1), RMSNorm(block.norm2)
        self.n_head, self.rope_base = block.attention.n_head, block.attention.rope_base

    def add_to(self, x, keys, values, before):
        """Add the results of both sublayers to x (B T, C), in place. keys: (B, G, D, size), values: (B, G, size, D).
        before: an array of the number of tokens before."""
        qkv = self.qkv(x, norm=self.norm1)
        y = kernels.attend.attend_new(qkv, keys, values, before, self.n_head, self.rope_base)
        self.proj(y, onto=x)
        self.down(self.gate.gated(self.up, x, self.norm2), onto=x)

    def edited(self, x, keys, values, start, edit):
        """`add_to`, which also gives each value to `edit`, a Within. Returns x, or what is made of it."""
        (B, G, _, D), H = values.shape, self.n_head
        heads = self.qkv(edit("norm1.out", self.norm1(x))).reshape(B, -1, H + 2 * G, D).transpose(0, 2, 1, 3)
        q, k, v = np.split(heads, (H, H + G), axis=1)
        q, k = (kernels.rope.rope(part, self.rope_base, start) for part in (q, k))
        x = added(x, self.proj, attended(q, k, v, keys, values, start, edit), edit, "attention.out")
        hidden = edit("mlp.hidden", self.gate.gated(self.up, edit("norm2.out", self.norm2(x))))
        return edit.residual("out", added(x, self.down, hidden, edit, "mlp.out"))


@dataclass(frozen=True)
class LlamaArchitecture(Blocks):
    """The settings of a Llama that is trained. The defaults make one of about the size of the small GPT."""

    name: ClassVar[str] = "llama"
    model: ClassVar[type] = Llama
    shape: ClassVar[type] = LlamaConfig
    published: ClassVar[LlamaConfig] = LlamaConfig(8192, 49152, 30, 9, 3, 576, 1536, 100000.0)  # SmolLM2-135M

    n_kv_head: int = setting(
        0, "heads of keys and values, a divisor of --n-head; 0: --n-head", at_least=0, at_most=1000, fixed=True
    )
    n_hidden: int = setting(
        0, "hidden channels of a feed-forward net; 0: about 8/3 --n-embd", at_least=0, at_most=1 << 18, fixed=True
    )
    rope_base: float = setting(10000.0, "base of the rotary positions' angles", above=0, at_most=1e12, fixed=True)

    def __post_init__(self):
        super().__post_init__()
        if self.n_kv_head and self.n_head % self.n_kv_head:
            raise ValueError(
                f"--n-kv-head {self.n_kv_head} does not divide --n-head {self.n_head}; choose one that does"
            )
        if self.n_embd // self.n_head % 2:
            raise ValueError(
                f"--n-embd {self.n_embd} is {self.n_embd // self.n_head} times --n-head {self.n_head}; choose an even "
                "multiple, for channels are rotated in pairs"
            )

    def build(self, vocab_size: int, rng: Rng) -> Llama:
        sizes = self.n_layer, self.n_head, self.n_kv_head or self.n_head, self.n_embd, _hidden(self)
        return Llama(LlamaConfig(self.block_size, vocab_size, *sizes, self.rope_base, dropout=self.dropout), rng)

    @staticmethod
    def fewest_weights(shape: Any, vocab_size: int) -> int:
        """The token table, and in each block two matrices C x C in attention and three C x F; keys and values may be
        small."""
        return (vocab_size + shape.n_layer * (2 * shape.n_embd + 3 * _hidden(shape))) * shape.n_embd

    def describe(self) -> str:
        sizes = (self.n_layer, "layer"), (self.n_head, "head"), (self.n_embd, "channel"), (self.block_size, "token")
        return "{}, {}, {}, blocks of {}".format(*(counted(*size) for size in sizes))


def _hidden(shape):
    """F of a shape, or of settings that leave it to the number of channels."""
    return shape.n_hidden or math.ceil(shape.n_embd * 8 / 3 / 32) * 32

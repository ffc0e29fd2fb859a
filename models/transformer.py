"""The transformer of "Attention Is All You Need": an encoder reads a sentence, a decoder writes another one.

    source (B, S) -> table + positions -> n_layer encoder blocks -----------------------------+  memory (B, S, C)
                                                                                              v
    target (B, T) -> table + positions -> n_layer decoder blocks, which attend to the memory -> scores (B, T, V)

Top to bottom: the configuration, the positions, one encoder block, one decoder block, the model, and its reader, which
computes the decoder's formulas on NumPy arrays with a cache. `inference/beams.py` writes translations with the reader.

A sentence is a row of token ids. The first three ids are special tokens: PAD fills short rows and is masked in every
attention, START is the decoder's first input, END is the last token that it writes.

Letters: B batch, S source tokens, T target tokens, C channels (n_embd, the papers' d_model), H heads, V vocabulary.
Source: Vaswani et al., 2017, "Attention Is All You Need"; the whitepaper's encoder and decoder sections.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np

import autotx
from autotx import Tensor, init, kernels, nn
from autotx.checks import checked_size
from autotx.models.architecture import Blocks
from autotx.models.config import setting
from autotx.models.inference.pieces import Matrix, Norm, Reader, attend, new_cache, split
from autotx.modes import no_grad
from autotx.text import counted
from autotx.types import Array, ArrayLike, Mask, Rng

PAD, START, END = 0, 1, 2
SPECIALS = 3  # number of special tokens; the tokenizer's ids follow them


@dataclass(frozen=True)
class TransformerConfig:
    """The shape of a Transformer; the defaults are the paper's base model. ValueError for sizes that do not fit."""

    vocab_size: int  # V, of source and target together, PAD, START and END included
    block_size: int = 256  # the longest sentence, in tokens
    n_layer: int = 6  # encoder blocks, and as many decoder blocks
    n_head: int = 8  # H, a divisor of n_embd
    n_embd: int = 512  # C; the feed-forward nets are 4 C wide
    dropout: float = 0.1  # probability, from 0 to below 1; used only when forward is given an rng
    pre_norm: bool = False  # layer norm before each sublayer instead of after each sum
    tied: bool = True  # one table for source, target and output; otherwise three

    def __post_init__(self):
        for name in ("vocab_size", "block_size", "n_layer", "n_head", "n_embd"):
            object.__setattr__(self, name, checked_size("TransformerConfig", name, getattr(self, name)))
        if self.vocab_size <= SPECIALS:
            raise ValueError(f"TransformerConfig: vocab_size is {self.vocab_size}; give {SPECIALS + 1} or more")
        if self.n_embd % self.n_head or self.n_embd % 2:
            raise ValueError(
                f"TransformerConfig: n_embd {self.n_embd} must be even, for the waves, and a multiple of "
                f"n_head {self.n_head}; choose another size"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"TransformerConfig: dropout is {self.dropout}; give a probability from 0 to below 1")


def sinusoidal_positions(length: int, dim: int) -> np.ndarray:
    """The vectors that encode positions: PE[t, 2i] = sin(t / 10000^(2i/dim)), PE[t, 2i+1] = cos(t / 10000^(2i/dim)).

    Returns a float32 array (length, dim), dim even. Neighbouring positions differ in the channels of small i, whose
    waves are short; distant positions differ in the channels of large i.
    """
    angles = np.arange(length)[:, None] / 10000.0 ** (np.arange(0, dim, 2) / dim)
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(length, dim).astype(np.float32)


LayerT = TypeVar("LayerT", bound=nn.Module)


def _drawn(layer: LayerT, rng: Rng) -> LayerT:
    """The layer, its matrices drawn by Xavier's uniform. Biases stay zero; so does all without an rng, to be loaded."""
    for p in layer.parameters():
        if rng is not None and p.ndim == 2:
            p.data = init.xavier_uniform(p.shape, rng)
    return layer


def _table(V: int, C: int, rng: Rng) -> nn.Embedding:
    """A table of vectors, normal with standard deviation C^-0.5, since `_embed` multiplies by sqrt(C)."""
    table = nn.Embedding(V, C, rng=None)
    if rng is not None:
        table.weight.data = init.normal((V, C), rng, std=C**-0.5)
    return table


class FeedForward(nn.Module):
    """max(0, x W_1 + b_1) W_2 + b_2 with 4 C channels between, for every token separately. x and result: (B, T, C)."""

    def __init__(self, config: TransformerConfig, *, rng: Rng):
        self.fc = _drawn(nn.Linear(config.n_embd, 4 * config.n_embd, rng=None), rng)
        self.proj = _drawn(nn.Linear(4 * config.n_embd, config.n_embd, rng=None), rng)

    def forward(self, x: Array, rng: Rng = None) -> Tensor:
        return self.proj(autotx.relu(self.fc(x)))


class Block(nn.Module):
    """The base of both kinds of block: how a sublayer f (attention or feed-forward) is applied to x (B, T, C).

    LayerNorm(x + dropout(f(x))), as in the paper, or, with pre_norm, x + dropout(f(LayerNorm(x))).
    """

    def __init__(self, config: TransformerConfig):
        self.dropout, self.pre_norm = nn.Dropout(config.dropout), config.pre_norm

    def around(self, norm, x, f, rng):
        if self.pre_norm:
            return x + self.dropout(f(norm(x)), rng)
        return norm(x + self.dropout(f(x), rng))


class EncoderBlock(Block):
    """Attention of every source token to all source tokens, then a feed-forward net. x and result: (B, S, C)."""

    def __init__(self, config: TransformerConfig, *, rng: Rng):
        super().__init__(config)
        self.attn = _drawn(nn.MultiHeadAttention(config.n_embd, config.n_head, rng=None), rng)
        self.ln_1 = nn.LayerNorm(config.n_embd)
        self.mlp = FeedForward(config, rng=rng)
        self.ln_2 = nn.LayerNorm(config.n_embd)

    def forward(self, x: Array, mask: Mask = None, rng: Rng = None) -> Tensor:
        x = self.around(self.ln_1, x, lambda x: self.attn(x, mask=mask), rng)
        return self.around(self.ln_2, x, self.mlp, rng)


class DecoderBlock(Block):
    """Attention of every target token to itself and earlier ones, attention to the source, then a feed-forward net.

    x and result: (B, T, C).
    """

    def __init__(self, config: TransformerConfig, *, rng: Rng):
        super().__init__(config)
        self.attn = _drawn(nn.MultiHeadAttention(config.n_embd, config.n_head, rng=None), rng)
        self.ln_1 = nn.LayerNorm(config.n_embd)
        self.cross = _drawn(nn.MultiHeadAttention(config.n_embd, config.n_head, rng=None), rng)
        self.ln_2 = nn.LayerNorm(config.n_embd)
        self.mlp = FeedForward(config, rng=rng)
        self.ln_3 = nn.LayerNorm(config.n_embd)

    def forward(self, x: Array, memory: Array, target_mask: Mask, source_mask: Mask, rng: Rng = None) -> Tensor:
        x = self.around(self.ln_1, x, lambda x: self.attn(x, mask=target_mask, causal=True), rng)
        x = self.around(self.ln_2, x, lambda x: self.cross(x, memory, mask=source_mask), rng)
        return self.around(self.ln_3, x, self.mlp, rng)


class Transformer(nn.Module):
    """The model. Dropout, as in the paper: of each sublayer's result, and of the sums of embeddings and positions.

    config: TransformerConfig. rng: numpy.random.Generator that draws the weights; None leaves them zero, to be loaded.
    """

    recompute = False  # whether blocks are called by autotx.recompute, which takes less memory and more time

    def __init__(self, config: TransformerConfig, rng: Rng):
        self.config = config
        V, C = config.vocab_size, config.n_embd
        self.wte = _table(V, C, rng)
        self.target_wte = self.wte if config.tied else _table(V, C, rng)
        self.out = self.wte if config.tied else _drawn(nn.Linear(C, V, bias=False, rng=None), rng)
        self.dropout = nn.Dropout(config.dropout)
        self.encoder = [EncoderBlock(config, rng=rng) for _ in range(config.n_layer)]
        self.decoder = [DecoderBlock(config, rng=rng) for _ in range(config.n_layer)]
        # With pre_norm no norm follows the last sum of a stack, so each stack ends with one.
        self.encoder_norm, self.decoder_norm = (nn.LayerNorm(C) if config.pre_norm else None for _ in range(2))
        self.positions = sinusoidal_positions(config.block_size, C)

    def forward(self, source: ArrayLike, target: ArrayLike, rng: Rng = None) -> Tensor:
        """Scores for the token that follows each target token, given the source and the target up to that token.

        source: ids (B, S), PAD after the end. target: ids (B, T), START first, PAD after the end. S and T at most
        block_size. rng: draws the dropout; None for no dropout. Returns (B, T, V). ValueError for other shapes or ids.
        """
        return self.scores(self.decode(self.encode(source, rng), source, target, rng))

    def loss(self, source: ArrayLike, target: ArrayLike, label_smoothing: float = 0.0, rng: Rng = None) -> Tensor:
        """The mean cross entropy, in nats, of each target token given the right tokens before it (teacher forcing).

        target: ids (B, T + 1): START, the words, END, PAD. PAD is not counted as a target.
        """
        target = np.asarray(target)
        logits = self(source, target[:, :-1], rng)
        return autotx.cross_entropy(logits, target[:, 1:], ignore_index=PAD, label_smoothing=label_smoothing)

    def encode(self, source: ArrayLike, rng: Rng = None) -> Tensor:
        """The memory, which is the encoder's states of the source: ids (B, S) -> (B, S, C)."""
        x, mask = self._embed(self.wte, source, rng), seen(source)
        for block in self.encoder:
            x = autotx.recompute(block, x, mask, rng) if self.recompute else block(x, mask, rng)
        return x if self.encoder_norm is None else self.encoder_norm(x)

    def decode(self, memory: Tensor, source: ArrayLike, target: ArrayLike, rng: Rng = None) -> Tensor:
        """The decoder's states (B, T, C) of target, ids (B, T), given the memory (B, S, C) of source, ids (B, S)."""
        x, target_mask, source_mask = self._embed(self.target_wte, target, rng), seen(target), seen(source)
        for block in self.decoder:
            given = x, memory, target_mask, source_mask, rng
            x = autotx.recompute(block, *given) if self.recompute else block(*given)
        return x if self.decoder_norm is None else self.decoder_norm(x)

    def scores(self, x: Tensor) -> Tensor:
        """The scores of all tokens, from states: (..., C) -> (..., V)."""
        return autotx.linear(x, self.out.weight)

    def position_tables(self) -> dict[str, np.ndarray]:
        """The position vectors, as a dict of their name in a picture -> array (block_size, C)."""
        return {"sinusoidal positions": self.positions}

    def reader(self, source: ArrayLike, beam: int = 1, size: int | None = None, matrix: type[Matrix] = Matrix):
        """A TransformerReader with `beam` rows of at most `size` tokens (None: block_size) for each row of source."""
        return TransformerReader(self, source, beam, size or self.config.block_size, matrix)

    def _embed(self, table, ids, rng):
        ids = np.asarray(ids)
        if ids.ndim != 2 or not ids.size:
            raise ValueError(f"Transformer: ids have shape {ids.shape}; give (B, T), a row of tokens for each sentence")
        if ids.shape[1] > self.config.block_size:
            raise ValueError(
                f"Transformer: a sentence of {ids.shape[1]} tokens exceeds block_size {self.config.block_size}; cut it"
            )
        scale = math.sqrt(self.config.n_embd)  # the paper's 3.4: embeddings become as large as positions, about 1
        return self.dropout(table(ids) * scale + self.positions[: ids.shape[1]], rng)


@dataclass(frozen=True)
class TransformerArchitecture(Blocks):
    """The settings of a Transformer that is trained. The defaults suit the few short pairs learned without --pairs.

    Longer sentences need a larger model and --tokenizer bpe.
    """

    name: ClassVar[str] = "transformer"
    learns: ClassVar[str] = "pairs"
    model: ClassVar[type] = Transformer
    shape: ClassVar[type] = TransformerConfig
    published: ClassVar[TransformerConfig] = TransformerConfig(37000)  # the paper's base model
    defaults: ClassVar[dict] = {"n_layer": 2, "block_size": 128, "dropout": 0.1}

    pre_norm: bool = setting(False, "layer norm before each part of a block, not after it", fixed=True)
    untied: bool = setting(False, "tables of their own for source, target and output", fixed=True)

    def build(self, vocab_size: int, rng: Rng) -> Transformer:
        names = ("block_size", "n_layer", "n_head", "n_embd", "dropout", "pre_norm")
        same = {name: getattr(self, name) for name in names}
        return Transformer(TransformerConfig(vocab_size, tied=not self.untied, **same), rng)

    def describe(self) -> str:
        heads = counted(self.n_head, "head")
        return f"{counted(self.n_layer, 'layer')} on each side, {heads}, {self.n_embd} channels"


def seen(ids: ArrayLike) -> np.ndarray | None:
    """The padding mask: ids (B, S) -> booleans (B, 1, 1, S), False where ids is PAD. None when there is no PAD."""
    there = np.asarray(ids) != PAD
    return None if there.all() else there[:, None, None, :]


class TransformerReader(Reader):
    """The decoder on NumPy arrays, with a cache (see inference/pieces.py). It has B * beam rows, those of a sentence
    next to each other.

    The keys and values of the source are computed once. The rows that are read must not hold PAD.
    """

    def __init__(self, model: Transformer, source: ArrayLike, beam: int, size: int, matrix: type[Matrix]):
        c = self.config = model.config
        words = (np.asarray(source) != PAD).sum(axis=1)
        memory = _encoded(model, source, words)
        (B, _, C), D = memory.shape, c.n_embd // c.n_head
        self.blocks = [_DecoderBlockReader(block, matrix) for block in model.decoder]
        self.norm = None if model.decoder_norm is None else Norm(model.decoder_norm)
        self.table, self.positions = matrix(model.target_wte.weight.data), model.positions
        self.head = self.table if model.out is model.target_wte else matrix(model.out.weight.data)
        packed = [split(block.cross_kv(memory.reshape(-1, C)), B, 2, D) for block in self.blocks]
        self.memory = [(np.repeat(k.swapaxes(2, 3), beam, axis=0), np.repeat(v, beam, axis=0)) for k, v in packed]
        self.words = np.repeat(words, beam)  # of each row's source
        self.size = min(size, c.block_size)
        self.cache = new_cache(c.n_layer, B * beam, c.n_head, self.size, D, memory.dtype)

    def read(self, ids: np.ndarray) -> np.ndarray:
        """Read the next tokens of each row: ids (rows, T) -> their states, (rows, T, C)."""
        start, C = self.begin(ids), self.config.n_embd
        table = self.table.rows(ids)
        x = (table * table.dtype.type(math.sqrt(C)) + self.positions[start : self.length]).reshape(-1, C)
        for block, keys, values, memory in zip(self.blocks, *self.cache, self.memory):
            x = block(x, keys, values, start, memory, self.words)
        return (x if self.norm is None else self.norm(x)).reshape(*ids.shape, C)

    def keep(self, rows: np.ndarray) -> None:
        """Replace what row i has read by what row rows[i] has read. Both rows are of the same sentence."""
        (keys, values), n = self.cache, self.length
        keys[..., :n], values[..., :n, :] = keys[:, rows, ..., :n], values[:, rows, :, :n]


def _encoded(model, source, words):
    """What `model.encode` computes, (B, S, C): with the same bits for a sentence whatever is beside it. words: (B,)."""
    with no_grad():
        embedded = model._embed(model.wte, source, None).data
    x = embedded.reshape(-1, embedded.shape[-1])
    for block in model.encoder:
        x = _encoder_block(block, x, words)
    return (x if model.encoder_norm is None else Norm(model.encoder_norm)(x)).reshape(embedded.shape)


def _encoder_block(block, x, words):
    """The block's result for all source tokens. x and result: (B S, C)."""
    qkv, proj, fc, mlp_proj = map(Matrix.of, (block.attn.qkv, block.attn.proj, block.mlp.fc, block.mlp.proj))

    def attention(x):
        q, k, v = split(qkv(x), len(words), 3, x.shape[1] // block.attn.n_head)
        return proj(kernels.attend.attend(q, k.swapaxes(2, 3), v, words).reshape(x.shape))

    parts = attention, lambda x: mlp_proj(fc(x, "relu"))
    return _through(x, map(Norm, (block.ln_1, block.ln_2)), parts, block.pre_norm)


def _through(x, norms, parts, pre_norm):
    """x after the parts of a block, each a function on rows, with its norm."""
    for norm, f in zip(norms, parts):
        x = x + f(norm(x)) if pre_norm else norm(x + f(x))
    return x


class _DecoderBlockReader:
    def __init__(self, block, matrix):
        C = block.cross.proj.weight.shape[0]
        weight, bias = block.cross.qkv.weight.data, block.cross.qkv.bias.data
        self.cross_q, self.cross_kv = matrix(weight[:C], bias[:C]), matrix(weight[C:], bias[C:])
        layers = block.attn.qkv, block.attn.proj, block.cross.proj, block.mlp.fc, block.mlp.proj
        self.qkv, self.proj, self.cross_proj, self.fc, self.mlp_proj = map(matrix.of, layers)
        self.norms, self.pre_norm = [*map(Norm, (block.ln_1, block.ln_2, block.ln_3))], block.pre_norm

    def __call__(self, x, keys, values, start, memory, words):
        """The block's result for new tokens. x and result: (rows T, C)."""
        B, D = len(values), values.shape[-1]

        def attention(x):
            return self.proj(attend(*split(self.qkv(x), B, 3, D), keys=keys, values=values, start=start))

        def cross_attention(x):
            (q,) = split(self.cross_q(x), B, 1, D)
            return self.cross_proj(kernels.attend.attend(q, *memory, words).reshape(x.shape))

        def feed_forward(x):
            return self.mlp_proj(self.fc(x, "relu"))

        return _through(x, self.norms, (attention, cross_attention, feed_forward), self.pre_norm)

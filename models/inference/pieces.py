"""The parts of readers: matrices, norms, and attention over the keys and values of the tokens read so far.

A reader computes what a model's forward computes, but on NumPy arrays and a piece of the text at a time. For one new
token the engine would make about 20 Tensors a block, which takes as long as the arithmetic of a small model. A reader
therefore repeats the formulas without Tensors, gradients and dropout. It is in the same file as its model, and has

    length         how many tokens of each row it has read
    read(ids)      reads the next tokens, (B, T), and returns their states after the last block, (B, T, C)
    scores(x)      the scores of all tokens as the next one, from states: (..., C) -> (..., V)

Whatever differs between models (positions, norms, activation) is in the reader of the model. Its weights are of a class
of matrix: `Matrix` uses the model's arrays, or the codes of a file, as they are; `Int8Matrix` keeps a copy in 8 bits.

In float32, the scores of a text are the same to the bit however the text is cut into pieces, whatever the other rows
hold, and on any number of threads. (Without fused multiply-adds in the processor, or with NUMBA_DISABLE_JIT=1, they
agree within 1e-5 of the largest score.) The scores of forward differ from a reader's by at most 1e-5 of the largest,
because its products of many rows add in another order.

Letters: B rows of text, T tokens of a piece, C channels, H heads, D = C / H channels a head, V vocabulary, L layers.
"""

import copy
import math
from typing import Any

import numpy as np

from autotx import kernels, nn
from autotx.types import DTypeLike

FIRST = 256  # tokens that a cache has room for at first


class Matrix:
    """The weight (out, in) and bias (out,) of a linear layer, or a table of embeddings, one a row."""

    weight: Any  # an array, or kernels.codes.Coded
    keeps_codes = True  # whether it may be made of a Coded

    def __init__(self, weight: Any, bias: np.ndarray | None = None):
        self.weight, self.bias = weight, bias

    @classmethod
    def of(cls, layer: nn.Linear | nn.Embedding):
        """The matrix of an nn.Linear, or the table of an nn.Embedding."""
        bias = getattr(layer, "bias", None)
        return cls(layer.weight.data, None if bias is None else bias.data)

    def __call__(
        self,
        x: np.ndarray,
        activation: str | None = None,
        norm: "RMSNorm | None" = None,
        onto: np.ndarray | None = None,
    ) -> np.ndarray:
        """f(x W^T + b) for x (M, in): (M, out). activation: the name of f, as in kernels.gemm.matmul; None for none.

        norm: applied to x before. onto: an array (M, out) apart from x that the result is added to, without an
        activation, and that is returned.
        """
        norm_of = None if norm is None else (norm.gamma, norm.eps)
        return kernels.gemm.activated(kernels.linear.linear(x, self.weight, self.bias, norm_of, onto), activation)

    def gated(self, up: "Matrix", x: np.ndarray, norm: "RMSNorm | None" = None) -> np.ndarray:
        """silu(y W^T) (y W_up^T), y the norm of x: the first half of a SwiGLU layer. This is the gate."""
        return kernels.linear.gated(x, self.weight, up.weight, None if norm is None else (norm.gamma, norm.eps))

    def rows(self, ids: np.ndarray) -> np.ndarray:
        """The rows with the numbers ids: an array of shape ids.shape + (in,)."""
        return self.weight.rows(ids) if isinstance(self.weight, kernels.codes.Coded) else self.weight[ids]

    @property
    def nbytes(self) -> int:
        return self.weight.nbytes


class Float32Matrix(Matrix):
    """A Matrix whose weights are floats, also those of a file that has codes."""

    keeps_codes = False


class Int8Matrix(Matrix):
    """A Matrix whose weights are rounded to 8 bits, with a scale for each 32 of a row (see kernels/codes.py)."""

    keeps_codes = False

    def __init__(self, weight: np.ndarray, bias: np.ndarray | None = None):
        super().__init__(kernels.codes.Coded.rounded(weight), bias)


WEIGHTS: dict[str, type[Matrix]] = {"file": Matrix, "int8": Int8Matrix, "float32": Float32Matrix}  # --weights


class Reader:
    """The base of readers. A subclass sets `config` and `head`, the Matrix that computes scores from states."""

    length = 0
    config: Any
    head: Matrix
    cache: Any = None  # keys and values, see new_cache
    edits: Any = ()  # those that are switched on; a model and all its readers share one list (see edits.py)
    blocks: list[Any]
    norm: Any  # after them
    matrices: list[Matrix]  # all that are read for each token; biases and norms are a thousandth of them
    float32 = False  # whether all parameters are
    before: np.ndarray  # one integer, see `run_blocks`
    recorded: dict[int, Any]  # number of rows -> see `_record`
    size = math.inf  # how many tokens of each row it has room for
    OWN = ("length", "size", "cache", "before", "recorded")  # what belongs to the texts that are read, not to the model

    def begin(self, ids):
        """Check ids (B, T) and count them as read; `read` calls this first. Returns the length before them.

        ValueError for an id out of range, and for more tokens than there is room for.
        """
        vocab_size, start = self.config.vocab_size, self.length
        bad = ids[(ids < 0) | (ids >= vocab_size)]
        if bad.size:
            raise ValueError(f"reader: id {bad[0]} is out of range, there are {vocab_size} tokens, from 0")
        if start + ids.shape[1] > self.size:
            raise ValueError(f"reader: {start + ids.shape[1]} tokens are more than the {self.size} it has room for")
        self.length += ids.shape[1]
        if self.cache is not None and self.length > (room := self.cache[1].shape[3]):
            self.cache = _grown(self.cache, start, min(self.size, max(self.length, 2 * room)))
            self.recorded = {}
        return start

    def rewind(self, length: int) -> None:
        """Forget what was read after the first `length` tokens of each row."""
        self.length = min(self.length, length)

    def known(self, length: int) -> dict[str, np.ndarray]:
        """Views of the keys (layers, rows, heads, D, length) and values (layers, rows, heads, length, D) of the first
        `length` tokens."""
        keys, values = self.cache
        return {"keys": keys[..., :length], "values": values[..., :length, :]}

    def resume(self, keys: np.ndarray, values: np.ndarray) -> None:
        """Go on as a reader of the same weights and rows, of which `known` gave these."""
        self.length = keys.shape[-1]
        self.cache = _grown((keys, values), self.length, min(self.size, max(self.length, FIRST)))
        self.recorded = {}

    def repeat(self, rows: int) -> None:
        """Go on as a reader of so many texts, which have all begun as the only one of this reader."""
        if self.cache is not None:
            self.cache = tuple(np.repeat(part, rows, axis=1) for part in self.cache)
            self.recorded = {}

    def begun(self, rows: int, size: int | None, heads: int) -> Any:
        """Another reader with the same weights and an empty cache, for `rows` texts of at most `size` tokens (None:
        block_size). heads: those of keys and values. Its class calls `run_blocks`."""
        other, c = copy.copy(self), self.config
        other.length, other.size = 0, min(size or c.block_size, c.block_size)
        other.cache = new_cache(c.n_layer, rows, heads, other.size, c.n_embd // c.n_head, self.norm.gamma.dtype)
        other.before, other.recorded = np.zeros(1, np.int64), {}
        return other

    def run_blocks(self, x: np.ndarray, start: int) -> None:
        """Add what every block gives to x (B T, C), in place: block.add_to(x, keys, values, before), with its part of
        the cache, and an array that holds `start`, the number of tokens before.

        A new token is read by some five launches of kernels in a block, which take Python a third of the time that it
        takes to read a matrix of 4 bits. So for a few rows they are recorded, and run by one call from then on.
        """
        self.before[0] = start
        if len(x) not in self.recorded:
            self.recorded[len(x)] = self._record(x)
        if self.recorded[len(x)] is None:
            self._add_blocks(x)
            return
        states, launches = self.recorded[len(x)]
        states[...] = x
        launches.run()
        x[...] = states

    def _add_blocks(self, x):
        for block, keys, values in zip(self.blocks, *self.cache):
            block.add_to(x, keys, values, self.before)

    def _record(self, x):
        """An array like x, and the launches by which `_add_blocks` changes it; None where it does more than launch."""
        weights = [m.weight for m in self.matrices]
        few = len(x) <= len(self.cache[0][0]) * kernels.attention.FEW_QUERIES and kernels.gemv.few(len(x), *weights)
        if not few or not self.float32 or not kernels.gemv.takes(x, *weights):
            return None
        states = np.empty_like(x)
        with kernels.launches.recording() as launches:
            self._add_blocks(states)
        return states, launches

    @property
    def nbytes(self) -> int:
        """The size of all matrices."""
        return sum(matrix.nbytes for matrix in self.matrices)

    def scores(self, x: np.ndarray) -> np.ndarray:
        """The scores of all tokens as the next one, from states: (..., C) -> (..., V)."""
        scores = self.head(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)
        return Within(self.edits)("logits", scores) if self.edits else scores

    def edited(self: Any, x: np.ndarray, rows: int, start: int) -> np.ndarray:
        """What the blocks and the norm make of x (B T, C), with edits of every value: (B T, C)."""
        edit = Within(self.edits, rows)
        x = edit.residual("embedding", x)
        for i, (block, keys, values) in enumerate(zip(self.blocks, *self.cache)):
            x = block.edited(x, keys, values, start, edit.block(i))
        return edit("norm.out", self.norm(x))


class Norm:
    """An nn.LayerNorm on NumPy arrays."""

    def __init__(self, layer: nn.LayerNorm):
        self.gamma, self.eps = layer.weight.data, layer.eps
        self.beta = np.zeros_like(self.gamma) if layer.bias is None else layer.bias.data

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return kernels.layernorm.layer_norm(x, self.gamma, self.beta, self.eps)[0]

    def parts(self, c: np.ndarray, x: np.ndarray) -> np.ndarray:
        """What parts c (..., C) of x (C,) contribute to the norm of x, whose scale is taken as a constant: (..., C). Of
        parts that add up to x, the results and beta add up to the norm."""
        return self.gamma * (c - c.mean(axis=-1, keepdims=True)) / np.sqrt(x.var() + self.eps)


class RMSNorm:
    """An nn.RMSNorm on NumPy arrays."""

    def __init__(self, layer: nn.RMSNorm):
        self.gamma, self.eps = layer.weight.data, layer.eps

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return kernels.rmsnorm.rms_norm(x, self.gamma, self.eps)[0]

    def parts(self, c: np.ndarray, x: np.ndarray) -> np.ndarray:
        """As of a Norm; there is no beta."""
        return self.gamma * c / np.sqrt((x * x).mean() + self.eps)


def is_float32(model: nn.Module) -> bool:
    return all(p.dtype == np.float32 for p in model.parameters())


def in_common(read: list[int], ids: list[int]) -> int:
    """With how many of the tokens that have been read a text ids begins; not its last, which is read to go on from."""
    differ = (i for i, (a, b) in enumerate(zip(read, ids)) if a != b)
    return min(next(differ, len(read)), len(ids) - 1)


def split(x: np.ndarray, B: int, parts: int, D: int) -> np.ndarray:
    """Split channels into heads: (B T, parts H D) -> (parts, B, H, T, D), a view. 3 parts: queries, keys, values."""
    return x.reshape(B, -1, parts, x.shape[1] // (parts * D), D).transpose(2, 0, 3, 1, 4)


def new_cache(layers: int, rows: int, heads: int, size: int, D: int, dtype: DTypeLike) -> tuple[np.ndarray, np.ndarray]:
    """Uninitialised arrays for keys (layers, rows, heads, D, size) and values (layers, rows, heads, size, D).

    Those of a new token are written to its place. The last axis of the keys is the token, so that the scores of one
    query read them in order. A size beyond FIRST is given them when so many tokens come (`Reader.begin`).
    """
    size = min(size, FIRST)
    return np.empty((layers, rows, heads, D, size), dtype), np.empty((layers, rows, heads, size, D), dtype)


def _grown(cache, length, size):
    """Larger arrays, for `size` tokens, with the same keys and values of the first `length`."""
    keys, values = cache
    more = np.empty((*keys.shape[:-1], size), keys.dtype)
    more[..., :length] = keys[..., :length]
    keys, more = more, np.empty((*values.shape[:3], size, values.shape[-1]), values.dtype)
    more[:, :, :, :length] = values[:, :, :, :length]
    return keys, more


def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray, keys: np.ndarray, values: np.ndarray, start: int) -> np.ndarray:
    """Causal attention of T new tokens to themselves and to the `start` tokens before them. Returns (B T, H D).

    q: (B, H, T, D). k, v: (B, G, T, D), which are first written to one layer of the cache, keys and values. H is a
    multiple of G: each H / G consecutive heads of q use the same head of k and v ("grouped-query attention").
    """
    B, H, T, D = q.shape
    keys[..., start : start + T], values[:, :, start : start + T] = k.swapaxes(2, 3), v
    return kernels.attend.attend(q, keys, values, start + 1).reshape(B * T, H * D)


class Within:
    """The edits of a model that are switched on (see edits.py), for values whose names begin with `prefix`.

    rows: B, for values (B T, n), which are shown to the edits as (B, T, n); None for values that are shown as they are.
    """

    def __init__(self, edits, rows=None, prefix=""):
        self.edits, self.rows, self.prefix = edits, rows, prefix

    def block(self, i):
        return Within(self.edits, self.rows, f"blocks.{i}.")

    def changes(self, name):
        """Whether an edit is given this value."""
        return any(self.prefix + name in edit.functions for edit in self.edits)

    def __call__(self, name, value):
        """What the edits make of a value; `value` itself where they leave it."""
        if not self.changes(name):
            return value
        made = shown = value.reshape(self.rows, -1, value.shape[-1]) if self.rows and value.ndim == 2 else value
        for edit in self.edits:
            made = edit(self.prefix + name, made)
        return value if made is shown else made.reshape(value.shape)

    def residual(self, name, x):
        """As a call, for x that is written into afterwards: the edits have copies of their own."""
        if not self.changes(name):
            return x
        shown = x.copy()
        made = self(name, shown)
        return x if made is shown else np.array(made)


def added(x, matrix, y, edit, name):
    """Add matrix(y), the value `name`, to x, in place. Returns x."""
    if not edit.changes(name):
        return matrix(y, onto=x)
    product = matrix(y)
    made = edit(name, product)
    if made is product:
        return matrix(y, onto=x)
    total, same = matrix(y, onto=x.copy()), made == product
    np.add(x, made, x)
    x[same] = total[same]
    return x


def attended(q, k, v, keys, values, start, edit):
    """`pieces.attend`, with edits of its arguments, of the weights and of the heads' results: (B T, H D)."""
    q, k, v = (edit(f"attention.{name}", part) for name, part in (("q", q), ("k", k), ("v", v)))
    (B, H, T, D), seen = q.shape, start + q.shape[2]
    y = attend(q, k, v, keys, values, start).reshape(B, T, H, D)
    if edit.changes("attention.weights"):
        scores = q @ np.repeat(keys[..., :seen], H // len(keys[0]), axis=1) * q.dtype.type(D**-0.5)
        scores[..., ~np.tri(T, seen, start, dtype=bool)] = -np.inf
        weights = kernels.softmax.softmax(scores)
        made = edit("attention.weights", weights)
        changed = (made != weights).any(axis=3).transpose(0, 2, 1)
        if changed.any():
            other = made @ np.repeat(values[:, :, :seen], H // len(values[0]), axis=1)
            y = np.where(changed[..., None], other.transpose(0, 2, 1, 3), y)
    return edit("attention.heads", y).reshape(B * T, H * D)

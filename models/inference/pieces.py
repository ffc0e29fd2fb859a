"""What readers are made of: matrices, norms, and attention over the keys and values of the tokens read so far.

A reader computes what a model's forward computes, on plain arrays, a piece of the text at a time. For one new token
the engine would make some 20 Tensors a block, which takes as long as the arithmetic of a small model; so each formula
stands once more in a reader, without Tensors, gradients and dropout. It is in the model's own file, and has

    length         how many tokens of each row it has read
    read(ids)      reads the next tokens, (B, T), and returns what the blocks make of them, (B, T, C)
    scores(x)      the scores of all tokens as the next one: (..., C) -> (..., V)

and whatever of the model is its own: where positions come in, its norms, its activation. Weights may be any kind of
matrix: `Matrix` takes the model's arrays as they are, `Int8Matrix` keeps a copy in 8 bits.

In float32, a text gives the same bits however it is cut, whatever rows are beside it, on any number of threads (where
the processor has fused multiply-adds, and not under NUMBA_DISABLE_JIT=1: there within 1e-5 of the largest score). The
scores of forward differ by at most 1e-5 of the largest: there, products of many rows add up in another order.

Letters: B rows of text, T tokens of a piece, C channels, H heads, D = C / H channels a head, V vocabulary, L layers.
"""

import math

import numpy as np

from autotx import kernels


class Matrix:
    """The weight (out, in) and bias (out,) of a linear layer, or a table of which rows are taken."""

    def __init__(self, weight, bias=None):
        self.weight, self.bias = weight, bias

    @classmethod
    def of(cls, layer):
        """That of an nn.Linear."""
        return cls(layer.weight.data, None if layer.bias is None else layer.bias.data)

    def __call__(self, x, activation=None, onto=None):
        """x: (M, in) -> f(x W^T + b): (M, out). activation: f, as kernels.gemm.matmul takes it. onto: added to."""
        y = self.product(x)
        if onto is None:
            return kernels.gemm.activate(y, activation)
        onto += y
        return onto

    def product(self, x):
        """x W^T + b."""
        return kernels.gemv.linear(x, self.weight, self.bias)

    def rows(self, ids):
        """The rows with these numbers: ids.shape + (in,)."""
        return self.weight[ids]

    @property
    def nbytes(self):
        return self.weight.nbytes


class Int8Matrix(Matrix):
    """A Matrix whose weights are rounded to int8, with a scale for each row (see kernels/gemv.py)."""

    def __init__(self, weight, bias=None):
        self.weight, self.scale = kernels.gemv.quantize(weight)
        self.bias = bias

    def product(self, x):
        return kernels.gemv.linear_int8(x, self.weight, self.scale, self.bias)

    def rows(self, ids):
        return self.weight[ids] * self.scale[ids][..., None]

    @property
    def nbytes(self):
        return self.weight.nbytes + self.scale.nbytes


class Reader:
    """The base of readers. They set `config` and `head`, the Matrix that makes scores of what the blocks have made."""

    length = 0
    size = math.inf  # how many tokens of each row it has room for

    def begin(self, ids):
        """What `read` calls first: counts the tokens (B, T) as read. Returns how many of each row there were before.

        ValueError for an id out of range, and for more tokens than there is room for.
        """
        vocab_size, start = self.config.vocab_size, self.length
        bad = ids[(ids < 0) | (ids >= vocab_size)]
        if bad.size:
            raise ValueError(f"reader: id {bad[0]} is out of range, there are {vocab_size} tokens, from 0")
        if start + ids.shape[1] > self.size:
            raise ValueError(f"reader: {start + ids.shape[1]} tokens are more than the {self.size} it has room for")
        self.length += ids.shape[1]
        return start

    def scores(self, x):
        """The scores of all tokens as the next one: (..., C) -> (..., V)."""
        return self.head(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)


class Norm:
    """An nn.LayerNorm on plain arrays."""

    def __init__(self, layer):
        self.gamma, self.eps = layer.weight.data, layer.eps
        self.beta = np.zeros_like(self.gamma) if layer.bias is None else layer.bias.data

    def __call__(self, x):
        return kernels.layernorm.layer_norm(x, self.gamma, self.beta, self.eps)[0]


def split(x, B, parts, D):
    """Channels as heads: (B T, parts H D) -> (parts, B, H, T, D), a view. With 3 parts: queries, keys and values."""
    return x.reshape(B, -1, parts, x.shape[1] // (parts * D), D).transpose(2, 0, 3, 1, 4)


def new_cache(layers, rows, heads, size, D, dtype):
    """For keys (layers, rows, heads, D, size) and values (layers, rows, heads, size, D). A new token's are written to
    their place, and nothing is moved. Keys lie as the scores of one query need them."""
    return np.empty((layers, rows, heads, D, size), dtype), np.empty((layers, rows, heads, size, D), dtype)


def attend(q, k, v, keys, values, start):
    """Causal attention of T new tokens to themselves and to the `start` tokens before them. Returns (B T, H D).

    q: (B, H, T, D). k, v: (B, G, T, D), which are written to a layer's share of the cache, keys and values. H is a
    multiple of G: heads of q that follow each other share one of k and v ("grouped-query attention").
    """
    B, H, T, D = q.shape
    keys[..., start : start + T], values[:, :, start : start + T] = k.swapaxes(2, 3), v
    return kernels.attend.attend(q, keys, values, start + 1).reshape(B * T, H * D)

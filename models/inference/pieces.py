"""What readers are made of: matrices, norms, and attention over the keys and values of the tokens read so far.

A reader computes what a model's forward computes, on plain arrays, a piece of the text at a time. For one new token
the engine would make some 20 Tensors a block, which takes as long as the arithmetic of a small model; so each formula
stands once more in a reader, without Tensors, gradients and dropout. It is in the model's own file, and has

    length         how many tokens of each row it has read
    read(ids)      reads the next tokens, (B, T), and returns what the blocks make of them, (B, T, C)
    scores(x)      the scores of all tokens as the next one: (..., C) -> (..., V)

and whatever of the model is its own: where positions come in, its norms, its activation. Weights may be any kind of
matrix: `Matrix` takes the model's arrays as they are, `Int8Matrix` keeps a copy in 8 bits.

Letters: B rows of text, T tokens of a piece, C channels, H heads, D = C / H channels a head, V vocabulary, L layers.
"""

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
        if len(x) <= kernels.gemv.FEW:
            return _finish(kernels.gemv.linear(x, self.weight, self.bias), activation, onto)
        return kernels.gemm.matmul(x, self.weight.T, onto, onto is not None, self.bias, activation)

    def rows(self, ids):
        """The rows with these numbers: ids.shape + (in,)."""
        return self.weight[ids]

    @property
    def nbytes(self):
        return self.weight.nbytes


class Int8Matrix(Matrix):
    """A Matrix whose weights are rounded to int8, with a scale for each row (see kernels/gemv.py): a quarter of the
    bytes to read for each token."""

    MANY = 64  # rows: for more it is faster to make a float32 matrix of the int8 one and let the tile multiply

    def __init__(self, weight, bias=None):
        self.weight, self.scale = kernels.gemv.quantize(weight)
        self.bias = bias

    def __call__(self, x, activation=None, onto=None):
        if len(x) <= self.MANY:
            return _finish(kernels.gemv.linear_int8(x, self.weight, self.scale, self.bias), activation, onto)
        weight = self.weight * self.scale[:, None]
        return kernels.gemm.matmul(x, weight.T, onto, onto is not None, self.bias, activation)

    def rows(self, ids):
        return self.weight[ids] * self.scale[ids][..., None]

    @property
    def nbytes(self):
        return self.weight.nbytes + self.scale.nbytes


def _finish(y, activation, onto):
    """What a Matrix does in the end, where the kernel does not."""
    if onto is None:
        return kernels.gemm.activate(y, activation)
    onto += y
    return onto


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


def attend(q, k, v, cache, start):
    """Causal attention of T new tokens to themselves and to the `start` tokens before them. Returns (B T, H D).

    q: (B, H, T, D). k, v: (B, G, T, D), which are kept in the cache, (2, B, G, size, D), a layer's share of a reader's.
    H is a multiple of G: heads of q that follow each other share one of k and v ("grouped-query attention").
    """
    (B, H, T, D), (keys, values), G = q.shape, cache, k.shape[1]
    keys[:, :, start : start + T], values[:, :, start : start + T] = k, v
    if H == G:
        y = _attend(q, keys, values, start + T)
    else:
        groups = q.reshape(B, G, H // G, T, D).transpose(2, 0, 1, 3, 4)
        y = np.stack([_attend(group, keys, values, start + T) for group in groups], axis=3)
    return y.reshape(B * T, H * D)


def _attend(q, keys, values, end):
    """q: (B, G, T, D), the last T of `end` places -> (B, T, G, D)."""
    if q.shape[2] == 1:
        return kernels.gemv.attend(q[:, :, 0], keys, values, end)[:, None]
    y, _ = kernels.attention.attention(q, keys[:, :, :end], values[:, :, :end], causal=True)
    return y.transpose(0, 2, 1, 3)

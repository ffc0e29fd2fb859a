"""A GPT that reads on: the model of gpt.py on plain arrays, with a cache, for the generation of text.

For one new token the engine would make some 20 Tensors a block, which take as long as the arithmetic of a small model.
Here the same formulas stand once more, without Tensors, gradients and dropout. What they multiply by may be any
`Matrix`: float32, or int8 (see int8.py).
"""

import numpy as np

from autotx import kernels


class Matrix:
    """A linear layer's weight (out, in) and bias (out,); also a table of which rows are taken."""

    def __init__(self, weight, bias=None):
        self.weight, self.bias = weight, bias

    def __call__(self, x, activation=None, onto=None):
        """x: (M, in) -> f(x W^T + b): (M, out). activation: f, as kernels.gemm.matmul takes it. onto: added to."""
        if len(x) <= kernels.gemv.FEW:
            return finish(kernels.gemv.linear(x, self.weight, self.bias), activation, onto)
        return kernels.gemm.matmul(x, self.weight.T, onto, onto is not None, self.bias, activation)

    def rows(self, ids):
        """The rows with these numbers: ids.shape + (in,)."""
        return self.weight[ids]

    @property
    def nbytes(self):
        return self.weight.nbytes


def finish(y, activation, onto):
    """What a Matrix does in the end, where the kernel does not."""
    if onto is None:
        return kernels.gemm.activate(y, activation)
    onto += y
    return onto


class Weights:
    """All weights of a GPT, as views of its arrays. matrix: what makes a Matrix of a weight and a bias."""

    def __init__(self, model, matrix=Matrix):
        self.config = model.config
        self.wte, self.wpe = matrix(model.wte.weight.data), model.wpe.weight.data
        self.blocks = [_Block(block, matrix) for block in model.blocks]
        self.ln_f = Norm(model.ln_f)

    @property
    def nbytes(self):
        """Bytes that are read for a token: the matrices'. Biases and norms are a thousandth of them."""
        return self.wte.nbytes + sum(m.nbytes for b in self.blocks for m in (b.qkv, b.attn_proj, b.fc, b.mlp_proj))


class _Block:
    def __init__(self, block, matrix):
        layers = block.attn.qkv, block.attn.proj, block.mlp.fc, block.mlp.proj
        matrices = (matrix(layer.weight.data, None if layer.bias is None else layer.bias.data) for layer in layers)
        self.qkv, self.attn_proj, self.fc, self.mlp_proj = matrices
        self.ln_1, self.ln_2 = Norm(block.ln_1), Norm(block.ln_2)


class Norm:
    """A LayerNorm on plain arrays."""

    def __init__(self, layer):
        self.gamma, self.eps = layer.weight.data, layer.eps
        self.beta = np.zeros_like(self.gamma) if layer.bias is None else layer.bias.data

    def __call__(self, x):
        return kernels.layernorm.layer_norm(x, self.gamma, self.beta, self.eps)[0]


class Decoder:
    """Reads the tokens of B texts in pieces, and keeps the keys and values of the `length` it has read, at most `size`.

    They lie in one array (L, 2, B, H, size, D), made once: a piece is written to its place, and nothing is moved.
    """

    def __init__(self, weights, B, size):
        c = weights.config
        self.weights, self.length = weights, 0
        self.cache = np.empty((c.n_layer, 2, B, c.n_head, size, c.n_embd // c.n_head), weights.wpe.dtype)

    def read(self, ids):
        """The tokens that follow: ids (B, T) -> what the blocks make of them, (B, T, C)."""
        w, (B, T), start = self.weights, ids.shape, self.length
        C, end = w.config.n_embd, start + T
        self.length = end
        x = (w.wte.rows(ids) + w.wpe[start:end]).reshape(B * T, C)
        for block, (keys, values) in zip(w.blocks, self.cache):
            qkv = block.qkv(block.ln_1(x)).reshape(B, T, 3, w.config.n_head, -1)
            q, keys[:, :, start:end], values[:, :, start:end] = qkv.transpose(2, 0, 3, 1, 4)  # each (B, H, T, D)
            if T == 1:
                y = kernels.gemv.attend(q[:, :, 0], keys, values, end)
            else:
                y, _ = kernels.attention.attention(q, keys[:, :, :end], values[:, :, :end], causal=True)
                y = y.transpose(0, 2, 1, 3)
            block.attn_proj(y.reshape(B * T, C), onto=x)
            block.mlp_proj(block.fc(block.ln_2(x), "gelu_tanh"), onto=x)
        return w.ln_f(x).reshape(B, T, C)

    def scores(self, x):
        """The scores of all tokens as the next one: (..., C) -> (..., V)."""
        return self.weights.wte(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)

"""A GPT whose matrices are kept as int8, for generation alone: a quarter of the bytes to read for each token."""

import autotx
from autotx import kernels
from autotx.models.decoder import Decoder, Matrix, Weights, finish
from autotx.models.gpt import GPT

MANY = 64  # rows: for more it is faster to make a float32 matrix of the int8 one and let the tile multiply


class Int8Matrix(Matrix):
    """A Matrix with int8 weights and a scale for each row (see kernels/gemv.py)."""

    def __init__(self, weight, bias=None):
        self.weight, self.scale = kernels.gemv.quantize(weight)
        self.bias = bias

    def __call__(self, x, activation=None, onto=None):
        if len(x) <= MANY:
            return finish(kernels.gemv.linear_int8(x, self.weight, self.scale, self.bias), activation, onto)
        weight = self.weight * self.scale[:, None]
        return kernels.gemm.matmul(x, weight.T, onto, onto is not None, self.bias, activation)

    def rows(self, ids):
        return self.weight[ids] * self.scale[ids][..., None]

    @property
    def nbytes(self):
        return self.weight.nbytes + self.scale.nbytes


class Int8GPT(GPT):
    """What `quantize` returns. It has no parameters: it cannot be trained, and is called without dropout."""

    def __init__(self, model):
        self.config, self._weights = model.config, Weights(model, Int8Matrix)

    def weights(self):
        return self._weights

    def forward(self, ids, targets=None):
        """As GPT.forward, without gradients."""
        decoder = Decoder(self._weights, *ids.shape)
        logits = autotx.Tensor(decoder.scores(decoder.read(ids)))
        return logits, None if targets is None else autotx.cross_entropy(logits, targets)


def quantize(model):
    """A GPT with the weights of `model`, rounded to int8 with a scale for each row: GPT -> Int8GPT.

    Biases, layer norms and the table of places stay as they are. The new model shares those with the old one.
    """
    return Int8GPT(model)

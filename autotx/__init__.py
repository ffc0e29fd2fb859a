"""autotx: reverse-mode automatic differentiation on arrays, and the transformers built on it."""

from autotx import init, kernels, methods, nn, optim
from autotx.anomaly import detect_anomaly
from autotx.functional import (
    abs, add, binary_cross_entropy_with_logits, clip, concat, cross_entropy, cumsum, div, dropout, einsum, embedding,
    exp, expand, gather, gelu, getitem, layer_norm, linear, log, log_softmax, logsumexp, masked_fill, matmul, max,
    maximum, mean, min, minimum, mse_loss, mul, multi_head_attention, neg, nll_loss, pad, permute, pow, relu, reshape,
    scaled_dot_product_attention, sigmoid, softmax, split, sqrt, squeeze, stack, sub, sum, tanh, transpose, tril, triu,
    unsqueeze, var, where,
)  # fmt: skip
from autotx.gradcheck import GradcheckError, gradcheck
from autotx.lift import lift
from autotx.modes import no_grad
from autotx.tensor import Tensor

__version__ = "0.1.0"

__all__ = [
    "GradcheckError", "Tensor", "abs", "add", "binary_cross_entropy_with_logits", "clip", "concat", "cross_entropy",
    "cumsum", "detect_anomaly", "div", "dropout", "einsum", "embedding", "exp", "expand", "gather", "gelu",
    "get_num_threads", "getitem", "gradcheck", "init", "layer_norm", "lift", "linear", "log", "log_softmax",
    "logsumexp", "masked_fill", "matmul", "max", "maximum", "mean", "min", "minimum", "mse_loss", "mul",
    "multi_head_attention", "neg", "nll_loss", "nn", "no_grad", "optim", "pad", "permute", "pow", "relu", "reshape",
    "scaled_dot_product_attention", "set_num_threads", "sigmoid", "softmax", "split", "sqrt", "squeeze", "stack", "sub",
    "sum", "tanh", "transpose", "tril", "triu", "unsqueeze", "var", "where",
]  # fmt: skip


def set_num_threads(n: int) -> None:
    """Compute with `n` threads from now on. ValueError when n is not between 1 and the number of cores."""
    kernels.threads.set_num_threads(n)


def get_num_threads() -> int:
    """The number of threads that kernels compute with."""
    return kernels.threads.get_num_threads()

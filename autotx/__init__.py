"""Automatic differentiation on NumPy arrays, and the transformers built on it.

A Tensor remembers how it was computed, and backward() finds the gradients:

    x = Tensor([1.0, 2.0], requires_grad=True)
    (x * x).sum().backward()  # x.grad is [2, 4]

Packages     nn (Module, Linear, ...), optim (AdamW, ...), init; beside them
             autotx.models (GPT, ...) and autotx.viz (graph, curves, ...)
Engine       Tensor no_grad autocast recompute detect_anomaly lift
             gradcheck GradcheckError set_num_threads get_num_threads
Losses       cross_entropy linear_cross_entropy nll_loss mse_loss
             binary_cross_entropy_with_logits
Networks     linear embedding layer_norm rms_norm dropout rnn gru lstm
             scaled_dot_product_attention multi_head_attention rope swiglu
Activations  softmax log_softmax relu gelu silu elu leaky_relu sigmoid
             logsigmoid softplus tanh
Arithmetic   add sub mul div neg abs pow square sqrt matmul einsum outer
             floor_divide remainder maximum minimum clip where masked_fill
Functions    exp exp2 expm1 log log1p log2 log10 sin cos tan arcsin arccos
             arctan sinh cosh arcsinh arccosh arctanh
Sums         sum mean var std norm prod max min argmax argmin logsumexp
             cumsum
Shapes       reshape flatten ravel permute transpose expand squeeze
             unsqueeze concat stack hstack vstack split chunk repeat tile
             pad
Selection    getitem gather take topk sort flip roll diagonal tril triu
Data         batches one_hot astype clone

help(autotx.softmax) shows a formula and its gradient, help(autotx.Tensor)
the methods. The command line is `autotx`, or `python -m autotx`.
"""

from autotx import signals

with signals.uncut():  # after an interrupt in the middle, NumPy could not be imported again
    __import__("numpy")

from autotx import init, kernels, methods, nn, numpy_functions, optim
from autotx.anomaly import detect_anomaly
from autotx.batches import batches
from autotx.composed import (
    argmax, argmin, astype, chunk, flatten, hstack, one_hot, outer, ravel, repeat, take, tile, vstack,
)  # fmt: skip
from autotx.functional import (
    abs, add, arccos, arccosh, arcsin, arcsinh, arctan, arctanh, binary_cross_entropy_with_logits, clip, clone, concat,
    cos, cosh, cross_entropy, cumsum, diagonal, div, dropout, einsum, elu, embedding, exp, exp2, expand, expm1, flip,
    floor_divide, gather, gelu, getitem, gru, layer_norm, leaky_relu, linear, linear_cross_entropy, log, log1p, log2,
    log10, log_softmax, logsigmoid, logsumexp, lstm, masked_fill, matmul, max, maximum, mean, min, minimum, mse_loss,
    mul, multi_head_attention, neg, nll_loss, norm, pad, permute, pow, prod, relu, remainder, reshape, rms_norm, rnn,
    roll, rope, scaled_dot_product_attention, sigmoid, silu, sin, sinh, softmax, softplus, sort, split, sqrt, square,
    squeeze, stack, std, sub, sum, swiglu, tan, tanh, topk, transpose, tril, triu, unsqueeze, var, where,
)  # fmt: skip
from autotx.gradcheck import GradcheckError, gradcheck
from autotx.lift import lift
from autotx.modes import autocast, no_grad
from autotx.recomputing import recompute
from autotx.tensor import Tensor

__version__ = "0.1.0"

__all__ = [
    "GradcheckError", "Tensor", "abs", "add", "arccos", "arccosh", "arcsin", "arcsinh", "arctan", "arctanh", "argmax",
    "argmin", "astype", "autocast", "batches", "binary_cross_entropy_with_logits", "chunk", "clip", "clone", "concat",
    "cos", "cosh", "cross_entropy", "cumsum", "detect_anomaly", "diagonal", "div", "dropout", "einsum", "elu",
    "embedding",
    "exp", "exp2", "expand", "expm1", "flatten", "flip", "floor_divide", "gather", "gelu", "get_num_threads",
    "getitem", "gradcheck", "gru", "hstack", "init", "layer_norm", "leaky_relu", "lift", "linear",
    "linear_cross_entropy", "log", "log1p", "log2", "log10", "log_softmax", "logsigmoid", "logsumexp", "lstm",
    "masked_fill", "matmul", "max", "maximum", "mean", "min", "minimum", "mse_loss", "mul", "multi_head_attention",
    "neg", "nll_loss", "nn", "no_grad", "norm", "one_hot", "optim", "outer", "pad", "permute", "pow", "prod", "ravel",
    "recompute", "relu", "remainder", "repeat", "reshape", "rms_norm", "rnn", "roll", "rope",
    "scaled_dot_product_attention", "set_num_threads", "sigmoid", "silu", "sin", "sinh", "softmax", "softplus", "sort",
    "split", "sqrt", "square", "squeeze", "stack", "std", "sub", "sum", "swiglu", "take", "tan", "tanh", "tile",
    "topk", "transpose", "tril", "triu", "unsqueeze", "var", "vstack", "where",
]  # fmt: skip


def set_num_threads(n: int) -> None:
    """Compute with `n` threads from now on. ValueError when n is not between 1 and the number of cores (or
    NUMBA_NUM_THREADS, if it was set before Python started)."""
    kernels.threads.set_num_threads(n)


def get_num_threads() -> int:
    """The number of threads that kernels compute with."""
    return kernels.threads.get_num_threads()

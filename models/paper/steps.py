"""The paper's formulas as operations of the engine in float64. They take and return Tensors."""

import math

import numpy as np

import autotx
from autotx import Tensor, lift, nn
from autotx.models.paper.case import Claim, Digits


def tensor(values, requires_grad=False):
    """A float64 Tensor of numbers, nested lists, or printed Digits. A Tensor is returned as it is."""
    if isinstance(values, Tensor):
        return values
    values = values.values if isinstance(values, Digits) else values
    return Tensor(np.asarray(values, dtype=np.float64), requires_grad=requires_grad)


@lift
def sin(x, /):
    """y = sin(x).   dx = g cos(x). Not an op of autotx itself: lift makes it one."""
    return np.sin(x), (lambda g: g * np.cos(x),)


@lift
def cos(x, /):
    """y = cos(x).   dx = -g sin(x)."""
    return np.cos(x), (lambda g: -g * np.sin(x),)


def waves(positions, exponents):
    """sin(pos / 10000^exponent) in the even columns and cos in the odd ones: (positions, columns).

    positions: numbers (n,); exponents: numbers (d,), one for each column.
    """
    angles = tensor(positions).reshape(-1, 1) / autotx.pow(10000.0, tensor(exponents))
    even = np.arange(len(exponents)) % 2 == 0
    return autotx.where(even, sin(angles), cos(angles))


def exponents(d_model):
    """2i / d_model for each column: columns 2i and 2i + 1 share one i. A list of d_model numbers."""
    return [2 * (column // 2) / d_model for column in range(d_model)]


def position_encoding(n, d_model):
    """PE of the positions 0 .. n - 1, by the two formulas of the paper: (n, d_model)."""
    return waves(range(n), exponents(d_model))


def linear(weight, bias=None):
    """The layer x W + b as an nn.Linear. weight: (in, out), bias: (out,)."""
    weight = tensor(weight)
    layer = nn.Linear(*weight.shape, bias=bias is not None, rng=None).astype(np.float64)
    layer.weight.data = weight.T
    if bias is not None:
        layer.bias.data = tensor(bias)
    return layer


def attention_weights(q, k, scale=None, mask=None):
    """softmax(Q K^T / scale), a row for each query. scale: by default √d_k, d_k being the length of a key.

    mask: True where a query may attend to a key.
    """
    q, k = tensor(q), tensor(k)
    scores = q @ k.T / (math.sqrt(k.shape[-1]) if scale is None else scale)
    if mask is not None:
        scores = scores.masked_fill(~np.asarray(mask), -np.inf)
    return scores.softmax(axis=-1)


def attention(q, k, v, **settings):
    """softmax(Q K^T / √d_k) V, by scaled_dot_product_attention. settings: mask, causal."""
    return autotx.scaled_dot_product_attention(tensor(q), tensor(k), tensor(v), **settings)


def layer_norm(x, eps=1e-6):
    """(x - mean) / sqrt(variance + eps) for each row, by nn.LayerNorm with gamma 1 and beta 0."""
    x = tensor(x)
    return nn.LayerNorm(x.shape[-1], eps=eps).astype(np.float64)(x)


def layer_norm_eps_outside(x, eps=1e-6):
    """(x - mean) / (standard deviation + eps) for each row, which some of the paper's outputs were made with."""
    x = tensor(x)
    deviation = x.var(axis=-1, keepdims=True).sqrt()
    return (x - x.mean(axis=-1, keepdims=True)) / (deviation + eps)


def descend(optimizer, steps, loss, *arguments):
    """Train for some steps on loss(*arguments), a Tensor. Returns the loss before each step, a list of numbers."""
    losses = []
    for _ in range(steps):
        value = loss(*arguments)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(value.item())
    return losses


def causal(n):
    """The causal mask (n, n): True on and below the diagonal, where a token may attend."""
    return np.tri(n, dtype=bool)


def distance(a, b):
    """The largest absolute difference of two Tensors , their distance in the maximum norm, as a number."""
    return (tensor(a) - tensor(b)).abs().max().item()


def computable(compute, evidence):
    """A Claim that compute() gives a Tensor. evidence: why it does not, when it raises ValueError."""
    try:
        return Claim(True, f"the result has shape {compute().shape}")
    except ValueError:
        return Claim(False, evidence)


def agree(a, b, within=0.0, evidence="largest difference {:.1g}"):
    """A Claim that two Tensors differ by at most `within`. evidence: a format that takes the largest difference."""
    difference = distance(a, b)
    return Claim(difference <= within, evidence.format(difference))

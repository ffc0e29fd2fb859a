"""Every op as a function on Tensors, one line each. methods.py makes methods and operators of them."""

import builtins
from collections.abc import Sequence

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

from autotx.lift import lift
from autotx.ops import arithmetic, attention, layers, losses, products, reductions, shaping
from autotx.tensor import Tensor
from autotx.types import Array, ArrayLike

add = lift(arithmetic.add)
sub = lift(arithmetic.sub)
mul = lift(arithmetic.mul)
div = lift(arithmetic.div)
neg = lift(arithmetic.neg)
pow = lift(arithmetic.pow)
exp = lift(arithmetic.exp)
log = lift(arithmetic.log)
sqrt = lift(arithmetic.sqrt)
tanh = lift(arithmetic.tanh)
sigmoid = lift(arithmetic.sigmoid)
relu = lift(arithmetic.relu)
abs = lift(arithmetic.abs)
maximum = lift(arithmetic.maximum)
minimum = lift(arithmetic.minimum)
clip = lift(arithmetic.clip)
masked_fill = lift(arithmetic.masked_fill)

sum = lift(reductions.sum)
mean = lift(reductions.mean)
var = lift(reductions.var)
max = lift(reductions.max)
min = lift(reductions.min)
logsumexp = lift(reductions.logsumexp)
cumsum = lift(reductions.cumsum)

reshape = lift(shaping.reshape)
permute = lift(shaping.permute)
transpose = lift(shaping.transpose)
expand = lift(shaping.expand)
squeeze = lift(shaping.squeeze)
unsqueeze = lift(shaping.unsqueeze)
getitem = lift(shaping.getitem)
gather = lift(shaping.gather)
pad = lift(shaping.pad)
tril = lift(shaping.tril)
triu = lift(shaping.triu)

matmul = lift(products.matmul)
linear = lift(products.linear)

gelu = lift(layers.gelu)
softmax = lift(layers.softmax)
log_softmax = lift(layers.log_softmax)
layer_norm = lift(layers.layer_norm)
dropout = lift(layers.dropout)
embedding = lift(layers.embedding)
scaled_dot_product_attention = lift(attention.scaled_dot_product_attention)
multi_head_attention = lift(attention.multi_head_attention)

cross_entropy = lift(losses.cross_entropy)
nll_loss = lift(losses.nll_loss)
mse_loss = lift(losses.mse_loss)
binary_cross_entropy_with_logits = lift(losses.binary_cross_entropy_with_logits)

# Functions whose arguments are known in another order, or as a list, than an op takes them

_where, _einsum = lift(arithmetic.where), lift(products.einsum)
_concat, _stack = lift(shaping.concat), lift(shaping.stack)


def where(condition: ArrayLike, x: Array, y: Array) -> Tensor:
    return _where(x, y, condition)


def concat(tensors: Sequence[Array], axis: int = 0) -> Tensor:
    _check_list("concat", axis)
    return _concat(*tensors, axis=axis)


def stack(tensors: Sequence[Array], axis: int = 0) -> Tensor:
    _check_list("stack", axis)
    return _stack(*tensors, axis=axis)


def _check_list(name, axis):
    if isinstance(axis, Tensor):
        raise TypeError(f"{name}: the axis is a Tensor; give the tensors as one list, {name}([x, y])")


def einsum(subscripts: str, *operands: Array) -> Tensor:
    if not isinstance(subscripts, str):
        raise TypeError(f"einsum: the subscripts are a {type(subscripts).__name__}; give them first, as a string")
    return _einsum(*operands, subscripts=subscripts)


def split(x: Array, size_or_sections: int | Sequence[int], axis: int = 0) -> list[Tensor]:
    """A list of pieces of x along axis: of a given size (the last may be smaller), or of the sizes in a list.

    Each piece is a slice, so the gradients are those of getitem. ValueError when the sizes do not add up.
    """
    axis = normalize_axis_index(axis, np.ndim(x), "split")
    before = (builtins.slice(None),) * axis
    return [getitem(x, (*before, piece)) for piece in shaping.split_sizes(np.shape(x)[axis], size_or_sections)]


for _function in (where, concat, stack, einsum):
    _lifted = globals()[f"_{_function.__name__}"]
    _function.__doc__, _function.op = _lifted.__doc__, _lifted.op

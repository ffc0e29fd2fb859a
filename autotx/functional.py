"""Every op as a function on Tensors, one line each. methods.py makes methods and operators of them."""

import builtins
import string
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

from autotx.lift import lift
from autotx.modes import modes
from autotx.ops import arithmetic, attention, elementary, layers, losses, products, recurrent, reductions, shaping
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

sin = lift(elementary.sin)
cos = lift(elementary.cos)
tan = lift(elementary.tan)
arcsin = lift(elementary.arcsin)
arccos = lift(elementary.arccos)
arctan = lift(elementary.arctan)
sinh = lift(elementary.sinh)
cosh = lift(elementary.cosh)
arcsinh = lift(elementary.arcsinh)
arccosh = lift(elementary.arccosh)
arctanh = lift(elementary.arctanh)
exp2 = lift(elementary.exp2)
expm1 = lift(elementary.expm1)
log1p = lift(elementary.log1p)
log2 = lift(elementary.log2)
log10 = lift(elementary.log10)
silu = lift(elementary.silu)
softplus = lift(elementary.softplus)
logsigmoid = lift(elementary.logsigmoid)
elu = lift(elementary.elu)
leaky_relu = lift(elementary.leaky_relu)
square = lift(elementary.square)
floor_divide = lift(elementary.floor_divide)
remainder = lift(elementary.remainder)

sum = lift(reductions.sum)
mean = lift(reductions.mean)
var = lift(reductions.var)
std = lift(reductions.std)
norm = lift(reductions.norm)
prod = lift(reductions.prod)
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
flip = lift(shaping.flip)
roll = lift(shaping.roll)
diagonal = lift(shaping.diagonal)
sort = lift(shaping.sort)
topk = lift(shaping.topk)
clone = lift(shaping.clone)
astype = lift(shaping.astype)

matmul = lift(products.matmul)
linear = lift(products.linear)

gelu = lift(layers.gelu)
softmax = lift(layers.softmax)
log_softmax = lift(layers.log_softmax)
layer_norm = lift(layers.layer_norm)
rms_norm = lift(layers.rms_norm)
rope = lift(layers.rope)
swiglu = lift(layers.swiglu)
dropout = lift(layers.dropout)
embedding = lift(layers.embedding)
scaled_dot_product_attention = lift(attention.scaled_dot_product_attention)
multi_head_attention = lift(attention.multi_head_attention)

rnn = lift(recurrent.rnn)
lstm = lift(recurrent.lstm)
gru = lift(recurrent.gru)

cross_entropy = lift(losses.cross_entropy)
nll_loss = lift(losses.nll_loss)
mse_loss = lift(losses.mse_loss)
binary_cross_entropy_with_logits = lift(losses.binary_cross_entropy_with_logits)

# Functions whose arguments are known in another order, or as a list, than an op takes them

_LETTERS = string.ascii_uppercase + string.ascii_lowercase  # in the order of their codes, as NumPy has them
_where, _einsum = lift(arithmetic.where), lift(products.einsum)
_concat, _stack = lift(shaping.concat), lift(shaping.stack)
_linear_cross_entropy = lift(losses.linear_cross_entropy)


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


def einsum(subscripts: Any, *operands: Any) -> Tensor:
    if not isinstance(subscripts, str):  # einsum(x, [0, 1], y, [1, 2], [0, 2]): numbers for letters
        subscripts, operands = _lettered(subscripts, *operands)
    elif len(operands) == 1 and isinstance(operands[0], tuple | list):
        one = subscripts.count(",") == 0 and not any(isinstance(x, Tensor) for x in operands[0])  # one array, as a list
        operands = operands if one else tuple(operands[0])
    return _einsum(*operands, subscripts=subscripts)


def _lettered(*given):
    """The subscripts and the operands of an einsum whose axes are named by lists of numbers."""
    even = len(given) // 2 * 2
    lists = (*given[1:even:2], *given[even:])
    if not lists or not all(isinstance(axes, tuple | list) for axes in lists):
        raise TypeError(
            f"einsum: the subscripts are a {type(given[0]).__name__}; give them first, as a string, or give a list of "
            "numbers after each tensor"
        )
    words = ["".join("..." if n is ... else _LETTERS[n] for n in axes) for axes in lists]
    return "->".join([",".join(words[: even // 2]), *words[even // 2 :]]), given[:even:2]


def split(x: Array, size_or_sections: int | Sequence[int], axis: int = 0) -> list[Tensor]:
    """A list of pieces of x along axis: of a given size (the last may be smaller), or of the sizes in a list.

    Each piece is a slice, so the gradients are those of getitem. ValueError when the sizes do not add up.
    """
    axis = normalize_axis_index(axis, np.ndim(x), "split")
    before = (builtins.slice(None),) * axis
    return [getitem(x, (*before, piece)) for piece in shaping.split_sizes(np.shape(x)[axis], size_or_sections)]


def linear_cross_entropy(x: Array, weight: Array, targets: ArrayLike, **settings: Any) -> Tensor:
    of_x, of_weight = (modes.recording and isinstance(a, Tensor) and a.requires_grad for a in (x, weight))
    return _linear_cross_entropy(x, weight, targets, wanted=(of_x, of_weight), **settings)


for _function in (where, concat, stack, einsum, linear_cross_entropy):
    _lifted = globals()[f"_{_function.__name__}"]
    _function.__doc__, _function.op = _lifted.__doc__, _lifted.op

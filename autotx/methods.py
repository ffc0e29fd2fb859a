"""The methods and operators of Tensor: each is an op of functional.py that takes the tensor as its first argument.

A type checker reads `Methods` as the base of Tensor. At run time its attributes are copied to Tensor, for Tensor is
needed to make them.
"""

from collections.abc import Callable, Sequence
from typing import Any

from autotx import composed, functional
from autotx.tensor import Tensor
from autotx.types import Array


def _swapped(function: Callable[[Array, Array], Tensor]) -> Callable[[Any, Array], Tensor]:
    """`other - tensor`, for which Python calls the tensor's method with `other`."""
    return lambda x, other: function(other, x)


def _one_by_one(function: Callable[[Array, Any], Tensor]) -> Callable[[Any, *tuple[int | Sequence[int], ...]], Tensor]:
    """A method that takes axes or sizes one by one, or as one tuple or list: x.reshape(2, 3) and x.reshape((2, 3))."""
    return lambda x, *given: function(x, given[0] if len(given) == 1 and isinstance(given[0], tuple | list) else given)


class Methods:
    add, sub, mul, div = functional.add, functional.sub, functional.mul, functional.div
    neg, abs, pow, matmul = functional.neg, functional.abs, functional.pow, functional.matmul
    __add__, __sub__, __mul__, __truediv__, __pow__, __matmul__ = add, sub, mul, div, pow, matmul
    __radd__, __rsub__, __rmul__ = _swapped(add), _swapped(sub), _swapped(mul)
    __rtruediv__, __rpow__, __rmatmul__ = _swapped(div), _swapped(pow), _swapped(matmul)
    __neg__, __abs__, __getitem__ = neg, abs, functional.getitem
    floor_divide, remainder, square = functional.floor_divide, functional.remainder, functional.square
    __floordiv__, __mod__ = floor_divide, remainder
    __rfloordiv__, __rmod__ = _swapped(floor_divide), _swapped(remainder)

    exp, log, sqrt, tanh = functional.exp, functional.log, functional.sqrt, functional.tanh
    exp2, expm1, log1p = functional.exp2, functional.expm1, functional.log1p
    log2, log10 = functional.log2, functional.log10
    sin, cos, tan = functional.sin, functional.cos, functional.tan
    arcsin, arccos, arctan = functional.arcsin, functional.arccos, functional.arctan
    sinh, cosh = functional.sinh, functional.cosh
    arcsinh, arccosh, arctanh = functional.arcsinh, functional.arccosh, functional.arctanh
    sigmoid, relu, gelu = functional.sigmoid, functional.relu, functional.gelu
    silu, elu, leaky_relu = functional.silu, functional.elu, functional.leaky_relu
    softplus, logsigmoid = functional.softplus, functional.logsigmoid
    softmax, log_softmax, dropout = functional.softmax, functional.log_softmax, functional.dropout
    maximum, minimum, clip = functional.maximum, functional.minimum, functional.clip
    masked_fill, tril, triu = functional.masked_fill, functional.tril, functional.triu

    sum, mean, var, max, min = functional.sum, functional.mean, functional.var, functional.max, functional.min
    logsumexp, cumsum = functional.logsumexp, functional.cumsum
    std, norm, prod = functional.std, functional.norm, functional.prod
    argmax, argmin = composed.argmax, composed.argmin

    reshape, permute = _one_by_one(functional.reshape), _one_by_one(functional.permute)
    expand, transpose = _one_by_one(functional.expand), functional.transpose
    squeeze, unsqueeze, split = functional.squeeze, functional.unsqueeze, functional.split
    gather, pad, diagonal = functional.gather, functional.pad, functional.diagonal
    flip, roll, sort, topk = functional.flip, functional.roll, functional.sort, functional.topk
    repeat, tile, take, chunk = composed.repeat, composed.tile, composed.take, composed.chunk
    flatten, ravel, outer, view = composed.flatten, composed.ravel, composed.outer, reshape
    clone, astype = functional.clone, composed.astype

    @property
    def T(self: Any) -> Tensor:
        """The tensor with its axes in reverse order."""
        return functional.permute(self, tuple(range(self.ndim))[::-1])


for _name, _value in vars(Methods).items():
    if callable(_value) or isinstance(_value, property):
        setattr(Tensor, _name, _value)

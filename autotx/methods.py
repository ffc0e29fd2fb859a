"""The methods and operators of Tensor: each is an op of functional.py that takes the tensor as its first argument.

Type checkers see `Methods` as the base of Tensor. At run time its attributes are copied to Tensor, because the ops that
it names need Tensor first.
"""

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np

from autotx import composed, functional
from autotx.checks import Missing
from autotx.tensor import Tensor
from autotx.types import Array


def _swapped(function: Callable[[Array, Array], Tensor]) -> Callable[[Any, Array], Tensor]:
    """The operator with its arguments exchanged: for `other - tensor` Python calls tensor.__rsub__(other)."""
    return _named(function, lambda x, other: function(other, x))


def _one_by_one(function: Callable[[Array, Any], Tensor]) -> Callable[[Any, *tuple[int | Sequence[int], ...]], Tensor]:
    """A method that takes axes or sizes one by one, or as one tuple or list: x.reshape(2, 3) and x.reshape((2, 3))."""

    def method(x, *given):
        return function(x, given[0] if len(given) == 1 and isinstance(given[0], tuple | list) else given)

    return _named(function, method)


def _named(function, method):
    """The method with the name and the docstring of the function that it calls, for `help`."""
    method.__name__ = method.__qualname__ = function.__name__
    method.__doc__ = function.__doc__
    return method


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

    # What Python and other libraries ask of a Tensor

    def tolist(self: Any) -> Any:
        """The values as nested lists of Python numbers; of a number, the number."""
        return self._data.tolist()

    def __format__(self: Any, spec: str) -> str:
        """f"{loss:.4f}": a tensor of one element is written as its number. TypeError for more elements and a spec."""
        if not spec:
            return str(self)
        if self.size != 1:
            raise TypeError(f"format: {spec!r} is for one number, this tensor has shape {self.shape}; give an element")
        return format(self.item(), spec)

    def __round__(self: Any, digits: int | None = None) -> Any:
        """round(loss, 2): the number of a tensor of one element, rounded. ValueError for more elements."""
        if self.size != 1:
            raise ValueError(f"round: this tensor has shape {self.shape}; give an element, or np.round(x) for an array")
        return round(self.item(), digits)

    def __contains__(self: Any, value: Any) -> bool:
        """value in x: whether an element equals value."""
        return bool(np.any(self == value))

    def __delitem__(self: Any, index: Any) -> NoReturn:
        raise TypeError("delitem: nothing is taken out of a tensor; select what stays, such as x[1:] or x[mask]")

    def __dlpack__(self: Any, **settings: Any) -> Any:
        """The values for another library, such as torch.tensor(x): a copy, for others write into what they are given.

        BufferError if no copy is allowed, or if a gradient is required, which would end here: give x.detach().
        """
        if settings.get("copy") is False:
            raise BufferError("dlpack: the values of a tensor are not shared, a graph may need them; allow a copy")
        if self.requires_grad:
            raise BufferError("dlpack: this tensor requires a gradient, which another library cannot give: x.detach()")
        return self.numpy().__dlpack__(**settings)

    def __dir__(self) -> list[str]:
        return [name for name in object.__dir__(self) if name not in INSTEAD]

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)  # the CPU

    @property
    def T(self: Any) -> Tensor:
        """The tensor with its axes in reverse order."""
        return functional.permute(self, tuple(range(self.ndim))[::-1])


for _name, _value in vars(Methods).items():
    if callable(_value) or isinstance(_value, property):
        setattr(Tensor, _name, _value)

_ONE_DEVICE = "autotx computes on the CPU; leave it out"
_IN_PLACE = "nothing is changed in place; use the form without the underscore, which returns a new tensor"
INSTEAD = {  # names that PyTorch's or NumPy's users look for -> what to use
    **dict.fromkeys(["add_", "sub_", "mul_", "div_", "zero_", "fill_", "copy_", "clamp_", "detach_"], _IN_PLACE),
    **dict.fromkeys(["cuda", "cpu", "device"], _ONE_DEVICE),
    "to": f"x.astype(numpy.float32) changes the type; {_ONE_DEVICE}",
    "type": "use x.astype(numpy.float32), or x.dtype to see it",
    "float": "use x.astype(numpy.float32)",
    "double": "use x.astype(numpy.float64)",
    **dict.fromkeys(["half", "bfloat16"], "float32 and float64 are computed with; use x.astype(numpy.float32)"),
    **dict.fromkeys(["int", "long"], "use x.astype(numpy.int64)"),
    "bool": "use x != 0, an array of booleans",
    "dim": "use x.ndim",
    "numel": "use x.size",
    "requires_grad_": "set x.requires_grad = True, or give Tensor(data, requires_grad=True)",
    "contiguous": "leave it out: ops take tensors in any order of memory",
    "grad_fn": "viz.graph(x) draws how x was made",
    "is_leaf": "a tensor made by hand is a leaf, a result of an op is not",
    "retain_grad": "use backward(retain_graph=True), which leaves .grad on every tensor",
    "register_hook": "with autotx.detect_anomaly() or viz.page gradients can be watched",
    **dict.fromkeys(["mm", "bmm", "mv", "dot"], "use x @ y"),
    "t": "use x.T",
    "unbind": "use list(x), or x[0], x[1]",
    "index_select": "use x.take(indices, axis)",
    "copy": "use x.clone(), or x.numpy() for an array",
    "swapaxes": "use x.transpose(axis0, axis1)",
}
for _name, _cure in INSTEAD.items():
    setattr(Tensor, _name, Missing(_name, _cure))

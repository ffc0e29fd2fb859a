"""The engine: a Tensor remembers how it was computed, and `backward` walks these records (see backward.py).

Everything rests on one concept. An *op* is a function on plain arrays that returns its result and its pullback:

    def mul(x, y, /):
        return x * y, (lambda g: g * y, lambda g: x * g)

Arguments before the slash are differentiable, arguments after it are settings. The pullback turns `g`, the gradient of
the loss with respect to the result, into the gradient with respect to each argument. It has one of two forms:

- a tuple of functions of `g`, one for each argument, of which backward calls those whose gradient is wanted;
- where the gradients share work, one function that returns all of them. It is called with `g` and a list of bools,
  one for each argument: whether its gradient is wanted. Where it is not, the function may return None.

A gradient is a new array, `g` itself, or a view of `g`; two that are returned together may be the same array. A
gradient that is zero nearly everywhere, as that of a slice or an embedding, may instead be a function that adds it in
place to a buffer, so that no array full of zeros is made.

An op handles plain arrays only: no Tensors, no graph, no broadcasting of gradients. `lift` (see lift.py) makes it a
function on Tensors, which records the graph. Un-broadcasting, adding up and freeing happen in backward.py, once for all
ops, and so do the errors about the graph.
"""

import itertools
import operator
import os
import sys
import threading
import types
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from autotx import kernels
from autotx.backward import SCALARS, reachable, walk_back
from autotx.frames import hide
from autotx.modes import modes
from autotx.types import ArrayLike, DTypeLike

if TYPE_CHECKING:  # shows type checkers the methods of Tensor; at run time methods.py adds them to the class
    from autotx.methods import Methods
else:
    Methods = object

next_tick = itertools.count(1).__next__
_ndarray, _new = np.ndarray, object.__new__
_adding = threading.RLock()  # held while gradients are added to those of leaves, which threads may share


def _reset_after_fork():
    """Another thread of the parent may have held the lock, and is not in the child."""
    global _adding
    _adding = threading.RLock()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_reset_after_fork)


class Op:
    """An op as a graph knows it. name: what users call it; function: the op itself, on plain arrays."""

    __slots__ = ("function", "name")

    def __init__(self, name, function):
        self.name, self.function = name, function

    def __str__(self):
        return self.name


class Tensor(Methods):
    """An array that remembers how it was computed.

    data: a number or nested lists (floats become float32, whole numbers int64), or an array of NumPy, pandas, PyTorch
    or another library, or a list of arrays, whose float32, float64, integer or bool type is kept. It is copied: later
    writes to the caller's array do not change the tensor.
    requires_grad: whether `backward` leaves a gradient in `.grad` (an array of the same shape). TypeError for integers.
    dtype: float32 or float64, or an integer type.
    name: what error messages and pictures call it.

    A copy by `copy` or `pickle` has values and a gradient of its own. A result is never written to, so copy.copy gives
    the result itself; TypeError where it would have to be copied with its graph. TypeError for a subclass of Tensor.
    """

    __slots__ = (
        *("__weakref__", "_data", "_tick", "grad", "name", "_requires_grad"),
        # Of a result: its Op; with a graph also the op's settings, its arguments and its pullback
        *("_op", "_settings", "_parents", "_backward"),
    )
    __hash__ = object.__hash__  # == compares values; two tensors are the same key only if they are the same object

    def __init__(
        self,
        data: ArrayLike,
        requires_grad: bool = False,
        dtype: DTypeLike | None = None,
        name: str | None = None,
    ):
        data = as_data(data, dtype)
        if requires_grad:
            _need_floats(data)
        self._data: Any = sealed(data)  # an ndarray, or a NumPy scalar where there are no axes
        self._requires_grad: bool | None = bool(requires_grad)  # None: it did, and is frozen
        self.grad: np.ndarray | None = None
        self.name = name
        self._tick = next_tick()
        self._op: Op | None = None
        self._settings: Any = None
        self._parents = self._backward = None

    # What a tensor looks like from outside

    @property
    def data(self) -> np.ndarray:
        """The values as a read-only view, since a graph may need them. `t.data = array` gives the tensor new values."""
        view = np.asarray(self._data).view()
        view.flags.writeable = False
        return view

    @data.setter
    def data(self, value: ArrayLike) -> None:
        if self._op is not None:
            raise ValueError(f"data: a result of {self._op} cannot be assigned, only tensors made by hand")
        value = as_data(value, self._data.dtype)
        if value.shape != self._data.shape:
            raise ValueError(f"data: the tensor has shape {self._data.shape}, the new values {value.shape}")
        self._data = sealed(value)  # graphs that were recorded before keep the old array, so their gradients stay right

    def writable(self) -> np.ndarray:
        """The values as an array to write into in place, for optimizers. Shape and type as the tensor's.

        A graph that was recorded before this call refuses to run backward, because its values may have changed.
        """
        if self._op is not None:
            raise ValueError(f"writable: a result of {self._op} is not written to, only tensors made by hand")
        self._tick = next_tick()
        if self._data.__class__ is not _ndarray:  # a NumPy scalar cannot be written into
            self._data = sealed(np.array(self._data))
        return self._data.base

    @property
    def requires_grad(self) -> bool:
        """Whether backward finds a gradient of this tensor. It may be set, for tensors made by hand: False freezes a
        parameter. TypeError: whole numbers have no gradient. ValueError: a result with a graph is set to False."""
        return self._requires_grad is True

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        if self._parents is not None:
            if not value:
                raise ValueError(
                    f"requires_grad: this result of {self._op} has a gradient as its arguments have; x = x.detach() "
                    "has none, and with autotx.no_grad() no graph is recorded"
                )
        elif value:
            _need_floats(self._data)
            if self._op is not None:  # a result without a graph becomes a leaf
                self._op, self._data = None, sealed(np.array(self._data))
            self._requires_grad = True
        else:
            self._requires_grad = None if self._requires_grad else self._requires_grad

    @property
    def is_parameter(self) -> bool:
        """Whether the tensor was made by hand, to be trained: it requires a gradient, or did until it was frozen."""
        return self._parents is None and self._requires_grad is not False

    @property
    def shape(self) -> tuple[int, ...]:
        return self._data.shape

    @property
    def ndim(self) -> int:
        return self._data.ndim

    @property
    def size(self) -> int:
        return self._data.size

    @property
    def dtype(self) -> np.dtype:
        return self._data.dtype

    def item(self) -> Any:
        """The one value, as a Python number. ValueError when there is not exactly one."""
        if self._data.size != 1:
            raise ValueError(f"item: needs a tensor of one element, this one has shape {self.shape}")
        return self._data.item()

    def numpy(self) -> np.ndarray:
        """A copy of the values, which may be written into."""
        return np.array(self._data)

    def detach(self) -> "Tensor":
        """A tensor with a copy of the values and without a graph: no gradient flows through it."""
        return Tensor(self._data)

    def zero_grad(self) -> None:
        """Forget the gradient."""
        self.grad = None

    def __init_subclass__(cls):
        raise TypeError(
            f"{cls.__name__}: Tensor has no subclasses, which ops would take for constants; let a class of your own, "
            "such as an nn.Module, hold a Tensor"
        )

    def __copy__(self):
        return self if self._op else _restored(*self.__reduce__()[1])

    def __reduce__(self):
        if self._parents is not None:
            raise TypeError(
                f"copy: this result of {self._op} belongs to a graph, which is not copied or pickled; give x.detach(), "
                "or x.clone() for a copy with a gradient"
            )
        return _restored, (np.asarray(self._data), self._requires_grad, self.grad, self.name)

    def __len__(self) -> int:
        if not self._data.ndim:
            raise TypeError("len: a tensor with no axes has no length")
        return len(self._data)

    def __iter__(self) -> "Iterator[Tensor]":
        return (self[i] for i in range(len(self)))

    def __bool__(self) -> bool:
        return bool(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __index__(self) -> int:
        return operator.index(self._data)

    def __setitem__(self, index: Any, value: Any) -> NoReturn:
        raise TypeError(
            "setitem: a tensor is not written into, a graph may need its values; build a new one with autotx.where or "
            "masked_fill, or replace the values of a leaf with t.data = array"
        )

    def _in_place(self, other):
        """Called for `x += y`. Raises TypeError for a parameter: the name would refer to a new tensor afterwards."""
        if self._op is None and self.requires_grad:
            raise TypeError(
                "in place: p -= step would make a new tensor and leave the parameter p as it was; "
                "write p.data = p.data - step, or use an optimizer"
            )
        return NotImplemented

    __iadd__ = __isub__ = __imul__ = __itruediv__ = __ipow__ = __imatmul__ = _in_place

    def __repr__(self):
        if self.size > 40 and self.ndim > 4:
            values = "..."
        else:
            edge = 3 if self.ndim < 3 else 1  # at most 2 * edge numbers along an axis of a large tensor
            style = {"threshold": 40, "edgeitems": edge, "precision": 4, "separator": ", ", "prefix": "Tensor("}
            values = np.array2string(self._data, **style)
        facts = [f"dtype={self._data.dtype}"] if self._data.dtype != np.float32 else []
        if self._data.size > 40 or 0 in self.shape:
            facts.append(f"shape={self.shape}")
        if self.requires_grad:
            facts.append(f"op={self._op}" if self._op else "requires_grad=True")
        if self.name:
            facts.append(f"name={self.name!r}")
        return f"Tensor({', '.join([values, *facts])})"

    def __eq__(self, other: Any) -> Any:
        if other is None:
            return NotImplemented
        return self._data == array_of(other)

    def __ne__(self, other: Any) -> Any:
        if other is None:
            return NotImplemented
        return self._data != array_of(other)

    def __lt__(self, other: ArrayLike) -> np.ndarray:
        return self._data < array_of(other)

    def __le__(self, other: ArrayLike) -> np.ndarray:
        return self._data <= array_of(other)

    def __gt__(self, other: ArrayLike) -> np.ndarray:
        return self._data > array_of(other)

    def __ge__(self, other: ArrayLike) -> np.ndarray:
        return self._data >= array_of(other)

    # The backward pass

    def backward(self, grad: ArrayLike | None = None, retain_graph: bool = False) -> None:
        """Add to the `.grad` of every leaf the gradient of this tensor with respect to it.

        grad: the gradient of the loss with respect to this tensor, an array of its shape. By default 1, for a tensor of
        one element, which then is the loss itself.
        retain_graph: keep the graph, to run backward again or to draw it; results on the way then keep their `.grad`
        too. Otherwise the graph is freed during the walk.
        ValueError before any change: no tensor requires a gradient, or one of integers does; `grad` is missing for
        several elements, or has another shape; the graph was freed; a tensor was written to after the graph was
        recorded; a `.grad` was set to something that is not an array of its tensor's shape. A pullback that returns
        too few gradients, or one of a wrong shape, is a ValueError in the middle of the walk.
        """
        if not self._requires_grad:
            raise ValueError("backward: no tensor that went into this one requires a gradient; pass requires_grad=True")
        grad = self._seed(grad, kept=retain_graph or self._parents is None)
        nodes, leaves = reachable(self)
        for leaf in leaves:
            _check_leaf(leaf)
        gradients = {self: grad}
        try:
            walk_back(nodes, gradients, retain_graph)
        except Exception as error:
            __tracebackhide__ = True
            hide(error)
            raise
        with _adding:
            for t, d in gradients.items():
                have = t.grad if t._parents is None else None  # a result has no gradient of an earlier walk
                if have is not None:
                    d = kernels.add(have, d, have if have.__class__ is np.ndarray and have.flags.writeable else None)
                t.grad = np.asarray(d)

    def _seed(self, grad, kept=True):
        """The gradient that backward starts from, as an array of this tensor's shape and type.

        kept: it becomes a `.grad`, so it must not be the caller's array. Else a view of that is enough, which the walk
        makes read-only: a copy of 8 MB took as long as a softmax and its backward.
        """
        if grad is None:
            if self._data.size != 1:
                raise ValueError(
                    f"backward: a tensor of shape {self.shape} is not a scalar; reduce it (for example .sum()) or pass "
                    "its gradient, backward(grad)"
                )
            grad = np.ones(self.shape)
        grad = np.array(array_of(grad), dtype=self._data.dtype, copy=True if kept else None)[...]
        if grad.shape != self.shape:
            raise ValueError(f"backward: the gradient has shape {grad.shape}, the tensor {self.shape}; make them equal")
        return grad


def _restored(data, requires_grad, grad, name):
    """The copy of a leaf."""
    t = Tensor(data, name=name)
    t._requires_grad, t.grad = requires_grad, grad if grad is None else np.array(grad)
    return t


def _need_floats(data):
    if data.dtype.kind != "f":
        raise TypeError(
            f"Tensor: {data.dtype} cannot require gradients, only floating-point numbers can; pass dtype=numpy.float32"
        )


def sealed(array):
    """A read-only view of an array, whose base `writable` gives out; a NumPy scalar cannot be written into."""
    if array.__class__ is _ndarray:
        array = array.view()
        array.setflags(False)
    return array


def result_of(op, data, settings=None, parents=None, backward=None):
    """A Tensor of the result of an Op. With settings, parents and backward it has a graph and requires a gradient.

    Each slot is set by a statement of its own, which is faster: this function is a tenth of the cost of a scalar op.
    """
    t = _new(Tensor)
    t._data = data
    t._tick = next_tick()
    t._op = op
    t._settings = settings
    t._parents = parents
    t._backward = backward
    t._requires_grad = parents is not None
    t.grad = t.name = None
    return t


def _check_leaf(leaf):
    """ValueError if a gradient cannot be added to the `.grad` of a leaf, which anyone may set."""
    grad = leaf.grad
    if grad is not None and (grad.__class__ is Tensor or getattr(grad, "shape", None) != leaf._data.shape):
        kind = f"a {type(grad).__name__} of shape {np.shape(grad)}"
        text = f"backward: the .grad of a tensor of shape {leaf.shape} was set to {kind}; "
        raise ValueError(text + "set it to None or to an array of that shape")


# User input as arrays


def array_of(x):
    """The array of a Tensor, or of anything array-like; Python numbers stay numbers, lists of floats become float32."""
    if x.__class__ is Tensor:
        return x._data
    if isinstance(x, np.generic):
        return x.item()  # a Python number takes the type of the array beside it: x * np.sqrt(2) stays float32
    return x if x.__class__ is _ndarray or isinstance(x, float | int) else as_data(x)


def refuse_gradients(name, what, data):
    """ValueError if a Tensor inside nested lists requires a gradient: it would silently get none."""
    if modes.recording and data.__class__ in (list, tuple):
        kinds = set(map(type, data))
        if Tensor in kinds and any(d.__class__ is Tensor and d._requires_grad for d in data):
            raise ValueError(f"{name}: Tensors in {what} get no gradient; join them by autotx.stack, or give .detach()")
        if list in kinds or tuple in kinds:
            for d in data:
                refuse_gradients(name, what, d)


def as_data(data, dtype=None):
    """A new array of float32, float64, integers or bool; a NumPy scalar where there are no axes."""
    if data.__class__ is Tensor:
        data = data._data
    refuse_gradients("Tensor", "a list", data)
    try:
        data = np.asarray(data) if hasattr(data, "__array__") else data  # PyTorch's takes no copy=True
        array = np.array(data, dtype=dtype)
    except ValueError as error:
        raise ValueError(f"Tensor: rows of different lengths or not numbers ({error})") from error
    if array.dtype.kind not in "fiub":
        raise TypeError(f"Tensor: data of type {array.dtype} are not real numbers")
    if array.dtype.kind == "f" and dtype is not None and array.dtype.type not in SCALARS:
        raise TypeError(f"Tensor: dtype {array.dtype} is not computed with; give numpy.float32 or numpy.float64")
    if array.dtype.kind == "f" and dtype is None and array.dtype != np.float32:
        array = array if array.dtype == np.float64 and _has_a_type(data) else array.astype(np.float32)
    return array if array.ndim else array[()]


def _has_a_type(data):
    """Whether data is an array (of NumPy, pandas, PyTorch or another library) or a NumPy number, or a list with one
    among its elements; Python numbers have no type, alone or in lists."""
    if data.__class__ not in (list, tuple):
        return isinstance(data, np.generic) or not isinstance(data, float | int)
    numbers_only = set(map(type, data)) <= {float, int, bool}  # a million numbers are not looked at one by one
    return not numbers_only and any(map(_has_a_type, data))


class _Module(types.ModuleType):
    def __call__(self, *data, **settings):
        raise TypeError("tensor: autotx.tensor is a module; autotx.Tensor(data) makes a tensor")


sys.modules[__name__].__class__ = _Module

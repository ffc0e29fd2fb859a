"""`lift` turns an op on plain arrays (see tensor.py) into the function on Tensors that users call.

The function takes the arrays out of the Tensors, calls the op, and wraps the result in a Tensor that remembers its
parents and its pullback. Arguments are checked here, once for all ops. Arrays that the graph keeps and that the caller
could still write into are copied here.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec

import numpy as np

from autotx.backward import SCALARS
from autotx.frames import hide
from autotx.modes import modes, tell
from autotx.tensor import Op, Tensor, array_of, as_data, refuse_gradients, result_of, sealed
from autotx.text import counted
from autotx.types import ArrayLike, Mask

P = ParamSpec("P")


def lift(op: Callable[P, tuple[Any, Any]]) -> Callable[P, Tensor]:
    """Turn an op on arrays (see tensor.py) into a function on Tensors. Use it as a decorator.

    The function takes Tensors, arrays and numbers for the arguments before the slash, and settings after it, by
    position or by name. Its result requires a gradient if an argument does, except inside no_grad.

        @lift
        def cube(x, /):
            return x**3, (lambda g: 3 * x**2 * g,)
    """
    signature = _Signature(op)
    name, count, variadic = signature.name, len(signature.arrays), signature.variadic
    known = Op(name, op)
    several = count > 1 or variadic  # beside arrays, a number takes their type; alone it becomes an array
    as_they_are, convert = (_AS_THEY_ARE, array_of) if several else (_DATA, as_data)
    checked = False  # whether a call has shown that the op returns what an op must

    @functools.wraps(op)
    def function(*args, **settings):
        nonlocal checked
        if settings or (len(args) > count and not variadic):
            args, settings = signature.bind(args, settings)
        requires_grad = others = False
        data = []
        for a in args:
            if a.__class__ is Tensor:
                data.append(a._data)
                if a._requires_grad:
                    requires_grad = True
                else:
                    others = True
            else:
                others = True
                if a.__class__ not in as_they_are:
                    refuse_gradients(name, "a list", a)
                    a = convert(a)
                data.append(a)
        recorded = requires_grad and not modes.off
        if others:
            data = _as_constants(args, data, recorded, several)
        watchers = modes.watch
        if watchers:
            tell(watchers, "begin")
        made = None
        try:
            made = op(*data, **settings)  # pyright: ignore[reportCallIssue]  (arrays for Tensors)
            out, pullback = made  # an array of two rows is taken apart as well
            if not checked or (pullback.__class__ is not tuple and not callable(pullback)):
                if wrong := _wrong_return(made, name, len(args)):
                    raise wrong
                checked = True
        except (ValueError, IndexError, TypeError) as error:
            __tracebackhide__ = True
            wrong = None if made is None else _wrong_return(made, name, len(args))
            raise _explained(wrong or error, signature, data) from None
        if out.__class__ is _ndarray:
            out.setflags(False)  # read-only: the next op may not write into what this one made
        elif out.__class__ not in SCALARS:
            out = sealed(np.asarray(out))
        if recorded:
            t = result_of(known, out, settings or None, args, pullback)  # an empty dict for each result takes memory
        else:
            t = result_of(known, _not_a_view(out, data))
        if watchers:
            tell(watchers, "result", name, t, data, settings)
        return t

    function.op = op  # pyright: ignore[reportAttributeAccessIssue]
    return function


def _not_a_view(out, data):
    """A result without a graph, copied if it is a view of an argument: a later write to that would change it."""
    for d in data:
        if out is d or (out.base is not None and d.__class__ is np.ndarray and np.may_share_memory(out, d)):
            return out.copy(order="K")  # in the memory order of the view, which is fastest
    return out


class _Signature:
    """How an op is called. arrays: the names of its array arguments, none if their number varies (variadic); settings:
    the names of the others, of which `flags` are given by name only."""

    def __init__(self, op):
        parameters = inspect.signature(op).parameters.values()
        self.name = op.__name__.rstrip("_")
        self.arrays = [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY]
        self.variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        self.settings = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        self.flags = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
        self.any_name = any(p.kind is p.VAR_KEYWORD for p in parameters)
        self.tensors = [p.name for p in parameters if p.annotation in (p.empty, ArrayLike, Mask)]  # or arrays
        if not self.arrays and not self.variadic:
            raise TypeError(
                f"lift: {self.name} has no differentiable argument; put a slash after them: def {self.name}(x, /)"
            )

    def __str__(self):
        """What an error says of the call."""
        call = ", ".join([*self.arrays, *self.settings]) if self.arrays else f"*tensors, {', '.join(self.settings)}"
        return f"the call is {self.name}({call}){_MEANT.get(self.name, '')}"

    def bind(self, args, settings):
        """The arguments and settings of a call that has keywords, or settings by position."""
        name, arrays = self.name, self.arrays
        if arrays:
            args, extra = args[: len(arrays)], args[len(arrays) :]
            by_position = [key for key in self.settings if key not in self.flags]
            if len(extra) > len(by_position):
                most = len(arrays) + len(by_position)
                by_name = "; give keepdims by name, several axes as one tuple" if "keepdims" in self.flags else ""
                raise TypeError(f"{name}: takes at most {most} arguments, got {len(args) + len(extra)}{by_name}")
            for key, value in zip(by_position, extra):
                if key in settings:
                    raise TypeError(f"{name}: {key} was given twice, by position and by name")
                settings[key] = value
            for key in arrays[len(args) :]:
                if key in settings:
                    args += (settings.pop(key),)
                elif any(later in settings for later in arrays):
                    raise TypeError(f"{name}: {key} is missing, what comes after it was given by name")
        for key, value in settings.items():
            if key not in self.settings and not self.any_name:
                raise TypeError(f"{name}: no argument {key!r}; {self}")
            if value.__class__ is Tensor and value._requires_grad and not modes.off:
                cure = f"; give {key}.detach() if that is meant" if key in self.tensors else ""
                raise ValueError(f"{name}: {key} is a setting, which gets no gradient; {self}{cure}")
            refuse_gradients(name, key, value)
        return args, {key: _private(value) for key, value in settings.items()}


_MEANT = {  # what those may want who call an op with other arguments
    "transpose": "; x.T has all axes in reverse order",
    "max": "; the larger of two tensors is maximum(x, y)",
    "min": "; the smaller of two tensors is minimum(x, y)",
    "sum": "; the sum of two tensors is x + y",
}


def _wrong_return(made, name, count):
    """A TypeError unless an op returned (array, pullback), so that no row of a result is taken for a pullback."""
    pullback = made[1] if made.__class__ is tuple and len(made) == 2 else None
    if isinstance(pullback, tuple):
        functions = all(d is None or callable(d) for d in pullback)
        if functions and len(pullback) == count:
            return None
        what = f"{len(pullback)} pullbacks for {counted(count, 'argument')}"
        what = what if functions else "something other than functions of g as pullbacks"
    elif callable(pullback):
        try:
            inspect.signature(pullback).bind(None, [])
            return None
        except TypeError:
            what = "a pullback that does not take g and the list of wanted gradients"
        except ValueError:  # a function that has no signature
            return None
    else:
        what = "no pullback"
    one = ", ".join(["lambda g: ..."] * count) + ("," if count == 1 else "")
    return TypeError(f"{name}: the op returned {what}; let it return (result, ({one})), a function for each argument")


_ndarray = np.ndarray
_DATA = {_ndarray, *SCALARS}
_NUMBERS = {float, int, type(None), *SCALARS}
_AS_THEY_ARE = {_ndarray, float, int, type(None)}


def _as_constants(args, data, recorded, several):
    """The arguments with constants made safe. Of several, integers and booleans take the type of the floats beside
    them, as Python numbers do; Python numbers alone, one of them a float, become float32, as in Tensor(1.5). Arrays
    that the caller may write into are copied if a graph is recorded, and read-only for the op."""
    if not several:
        return [sealed(d) for d in data]
    kind = None
    for d in data:
        if d.__class__ in _DATA and d.dtype.kind == "f":
            kind = d.dtype
            break
    if kind is None and float in (kinds := set(map(type, data))) and not kinds & _DATA:
        return [None if d is None else np.float32(d) for d in data]
    result = []
    for a, d in zip(args, data):
        if d.__class__ in _NUMBERS:
            pass
        elif kind and getattr(d, "dtype", kind).kind != "f":
            d = d.astype(kind, casting="same_kind")  # complex raises TypeError
        elif d is a and d.__class__ is _ndarray:
            d = sealed(d.copy() if recorded else d)
        result.append(d)
    return result


def _private(value):
    """A setting for the op: Tensors become arrays; arrays and lists are copied, as the caller may write into them."""
    if value.__class__ in (tuple, list):
        return value.__class__(map(_private, value))
    if value.__class__ is slice:
        return slice(_private(value.start), _private(value.stop), _private(value.step))
    return np.array(value) if isinstance(value, Tensor | np.ndarray) else value


def _explained(error, signature, data):
    """An error of NumPy as one line that names the op and the shapes, with the same traceback; an error of the op
    itself as it is."""
    hide(error)
    name, said = signature.name, str(error)
    if said.startswith(f"{name}:"):
        return error
    shapes = " and ".join(str(np.shape(a)) for a in data if a is not None)
    if "() missing" in said:
        text = f"missing {said.partition(': ')[2]}; {signature}"
    elif "interpreted as an integer" in said:
        text = f"{said}; give whole numbers for axes and sizes"
    elif "broadcast" in said:
        text = f"shapes {shapes} do not broadcast; from the right, sizes must be equal or 1 (reshape or unsqueeze one)"
    elif "read-only" in said:
        text = "the op writes into an argument, which others use too; let it make a new array, as x.copy() does"
    else:
        text = f"{error} (shapes {shapes})"
    kind = next(k for k in (TypeError, ValueError, IndexError) if isinstance(error, k))
    return kind(f"{name}: {text}").with_traceback(error.__traceback__ and error.__traceback__.tb_next)

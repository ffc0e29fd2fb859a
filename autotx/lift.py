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
from autotx.modes import modes, tell
from autotx.tensor import Op, Tensor, array_of, as_data, refuse_gradients, result_of

P = ParamSpec("P")


def lift(op: Callable[P, tuple[Any, Any]]) -> Callable[P, Tensor]:
    """Turn an op on arrays (see tensor.py) into a function on Tensors. Use it as a decorator.

    The function takes Tensors, arrays and numbers for the arguments before the slash, and settings after it, by
    position or by name. Its result requires a gradient if an argument does, except inside no_grad.

        @lift
        def cube(x, /):
            return x**3, (lambda g: 3 * x**2 * g,)
    """
    parameters = inspect.signature(op).parameters.values()
    arrays = [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY]
    variadic = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    settings_names = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    count = len(arrays)
    name = op.__name__.rstrip("_")
    if not arrays and not variadic:
        raise TypeError(f"lift: {name} has no differentiable argument; put a slash after them: def {name}(x, /)")
    known = Op(name, op)

    several = count > 1 or variadic  # beside arrays, a number takes their type; alone it becomes an array
    as_they_are, convert = (_AS_THEY_ARE, array_of) if several else (_DATA, as_data)

    @functools.wraps(op)
    def function(*args, **settings):
        if settings or (len(args) > count and not variadic):
            args, settings = _bind(name, arrays, settings_names, args, settings)
        requires_grad = others = False
        data = []
        for a in args:
            if a.__class__ is Tensor:
                data.append(a._data)
                if a.requires_grad:
                    requires_grad = True
                else:
                    others = True
            else:
                others = True
                data.append(a if a.__class__ in as_they_are else convert(a))
        recorded = requires_grad and modes.recording
        if others and several:
            data = _as_constants(args, data, recorded)
        watchers = modes.watch
        if watchers:
            tell(watchers, "begin")
        try:
            out, pullback = op(*data, **settings)  # pyright: ignore[reportCallIssue]  (arrays for Tensors)
        except (ValueError, IndexError, TypeError) as error:
            raise _explained(error, name, data, settings_names) from error
        if out.__class__ not in _DATA:
            out = np.asarray(out)
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


def _bind(name, arrays, settings_names, args, settings):
    """The arguments and settings of a call that has keywords, or settings by position.

    arrays: the names of the op's array arguments; none for an op with a varying number of them.
    """
    if arrays:
        args, extra = args[: len(arrays)], args[len(arrays) :]
        if len(extra) > len(settings_names):
            most = len(arrays) + len(settings_names)
            raise TypeError(f"{name}: takes at most {most} arguments, got {len(arrays) + len(extra)}")
        for key, value in zip(settings_names, extra):
            if key in settings:
                raise TypeError(f"{name}: {key} was given twice, by position and by name")
            settings[key] = value
        for key in arrays[len(args) :]:
            if key in settings:
                args += (settings.pop(key),)
            elif any(later in settings for later in arrays):
                raise TypeError(f"{name}: {key} is missing, what comes after it was given by name")
    for key, value in settings.items():
        if value.__class__ is Tensor and value.requires_grad and modes.recording:
            raise ValueError(f"{name}: {key} is a setting, which gets no gradient; give {key}.detach()")
        refuse_gradients(name, key, value)
    return args, {key: _private(value) for key, value in settings.items()}


_DATA = {np.ndarray, *SCALARS}
_AS_THEY_ARE = {np.ndarray, float, int, type(None)}


def _as_constants(args, data, recorded):
    """The arguments with constants made safe: integers and booleans take the type of the floats beside them, as Python
    numbers do; arrays that the caller may write into are copied if a graph is recorded. Python numbers alone, one of
    them a float, become float32, as in Tensor(1.5)."""
    kind = next((d.dtype for d in data if d.__class__ in _DATA and d.dtype.kind == "f"), None)
    if kind is None and float in (kinds := set(map(type, data))) and not kinds & _DATA:
        return [None if d is None else np.float32(d) for d in data]
    result = []
    for a, d in zip(args, data):
        if kind and getattr(d, "dtype", kind).kind != "f":
            d = d.astype(kind, casting="same_kind")  # complex raises TypeError
        elif recorded and d is a and d.__class__ is np.ndarray:
            d = d.copy()
        result.append(d)
    return result


def _private(value):
    """A setting for the op: Tensors become arrays; arrays and lists are copied, as the caller may write into them."""
    if value.__class__ in (tuple, list):
        return value.__class__(map(_private, value))
    if value.__class__ is slice:
        return slice(_private(value.start), _private(value.stop), _private(value.step))
    return np.array(value) if isinstance(value, Tensor | np.ndarray) else value


def _explained(error, name, data, settings_names):
    """An error of NumPy as one line that names the op and the shapes; an error of the op itself as it is."""
    if str(error).startswith(f"{name}:"):
        return error
    shapes = " and ".join(str(np.shape(a)) for a in data if a is not None)
    if "unexpected keyword" in str(error):
        text = f"no setting {str(error).split()[-1]}; there is {', '.join(settings_names) or 'none'}"
    elif "() missing" in str(error):
        text = f"{str(error).partition(': ')[2]} is missing"
    elif "broadcast" in str(error):
        text = f"shapes {shapes} do not broadcast; from the right, sizes must be equal or 1 (reshape or unsqueeze one)"
    else:
        text = f"{error} (shapes {shapes})"
    kind = next(k for k in (TypeError, ValueError, IndexError) if isinstance(error, k))
    return kind(f"{name}: {text}")

"""NumPy's functions on Tensors: np.exp(x), np.mean(x, axis=0) and array * x give Tensors with gradients.

NumPy passes a call with a Tensor among its arguments to the Tensor (`__array_ufunc__` and `__array_function__`), which
looks the function up in two tables:

    OPS     NumPy's function -> the same from autotx's ops, with the arguments that both support, under NumPy's names
    PLAIN   functions whose result has no gradient (queries, comparisons, step functions): from arrays to arrays

Every other function raises TypeError: computed on arrays, it would silently lose the gradient. np.asarray(x), and
arguments that NumPy itself converts to an array, such as a list of Tensors, are not passed to the Tensor.
"""

import functools
import inspect
import sys

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

from autotx import composed
from autotx import functional as f
from autotx.modes import modes
from autotx.tensor import Tensor


def _c_order(order):
    if order not in ("C", "K", "A", None):
        raise TypeError(f"np: order {order!r} is not known for Tensors; elements are taken in row order")


def _reshape(a, shape, order="C"):
    _c_order(order)
    return f.reshape(a, shape)


def _ravel(a, order="C"):
    _c_order(order)
    return composed.ravel(a)


def _clip(a, a_min=None, a_max=None, min=None, max=None):
    return f.clip(a, a_min if min is None else min, a_max if max is None else max)


def _cumsum(a, axis=None):
    return f.cumsum(composed.ravel(a), 0) if axis is None else f.cumsum(a, axis)


def _transpose(a, axes=None):
    return f.permute(a, tuple(range(np.ndim(a)))[::-1] if axes is None else axes)


def _moveaxis(a, source, destination):
    ndim = np.ndim(a)
    source, destination = normalize_axis_tuple(source, ndim), normalize_axis_tuple(destination, ndim)
    order = [i for i in range(ndim) if i not in source]
    for place, axis in sorted(zip(destination, source)):
        order.insert(place, axis)
    return f.permute(a, order)


def _split(ary, indices_or_sections, axis=0):
    n = np.shape(ary)[axis]
    if np.ndim(indices_or_sections):  # NumPy takes indices to cut at, autotx sizes
        cuts = np.clip([0, *indices_or_sections, n], 0, n)
        return f.split(ary, np.diff(cuts).tolist(), axis)
    if n % indices_or_sections:
        raise ValueError(f"np.split: {n} elements do not make {indices_or_sections} equal pieces; see autotx.chunk")
    return f.split(ary, [n // indices_or_sections] * indices_or_sections, axis)


def _where(condition, x=None, y=None):
    return np.nonzero(condition) if x is None and y is None else f.where(np.asarray(condition, bool), x, y)


def _dot(a, b):
    if np.ndim(a) == 0 or np.ndim(b) == 0:
        return f.mul(a, b)
    if np.ndim(b) > 2:
        raise TypeError("np.dot: a second argument of more than two axes is not known for Tensors; use np.einsum")
    return f.matmul(a, b)


def _pad(array, pad_width, mode="constant", constant_values=0):
    if mode != "constant":
        raise TypeError(f"np.pad: mode {mode!r} is not known for Tensors; only 'constant' is")
    return f.pad(array, np.broadcast_to(pad_width, (np.ndim(array), 2)).tolist(), constant_values)


def _take(a, indices, axis=None):
    return composed.take(composed.ravel(a), indices, 0) if axis is None else composed.take(a, indices, axis)


def _repeat(a, repeats, axis=None):
    return composed.repeat(composed.ravel(a), repeats, 0) if axis is None else composed.repeat(a, repeats, axis)


def _norm(x, ord=None, axis=None, keepdims=False):
    axes = np.ndim(x) if axis is None else np.size(axis)
    if ord not in (None, "fro") and axes > 1:
        raise TypeError(f"np.linalg.norm: ord {ord!r} over two axes is a norm of matrices; autotx.norm has vectors'")
    return f.norm(x, 2 if ord in (None, "fro") else ord, axis, keepdims=keepdims)


def _var(op, a, axis, ddof, keepdims, correction):
    return op(a, axis, keepdims=bool(keepdims), correction=ddof if correction is None else correction)


def _broadcast_arrays(*args):
    shape = np.broadcast_shapes(*map(np.shape, args))
    return tuple(f.expand(x, shape) if isinstance(x, Tensor) else np.broadcast_to(x, shape) for x in args)


def _at_least(ndim, *arys):
    found = [f.reshape(x, (1,) * (ndim - np.ndim(x)) + np.shape(x)) for x in arys]
    return found[0] if len(found) == 1 else tuple(found)


OPS = {
    np.add: f.add,
    np.subtract: f.sub,
    np.multiply: f.mul,
    np.divide: f.div,
    np.negative: f.neg,
    np.power: f.pow,
    np.positive: f.clone,
    np.absolute: f.abs,
    np.square: f.square,
    np.sqrt: f.sqrt,
    np.exp: f.exp,
    np.exp2: f.exp2,
    np.expm1: f.expm1,
    np.log: f.log,
    np.log2: f.log2,
    np.log10: f.log10,
    np.log1p: f.log1p,
    np.sin: f.sin,
    np.cos: f.cos,
    np.tan: f.tan,
    np.arcsin: f.arcsin,
    np.arccos: f.arccos,
    np.arctan: f.arctan,
    np.sinh: f.sinh,
    np.cosh: f.cosh,
    np.tanh: f.tanh,
    np.arcsinh: f.arcsinh,
    np.arccosh: f.arccosh,
    np.arctanh: f.arctanh,
    np.maximum: f.maximum,
    np.minimum: f.minimum,
    np.matmul: f.matmul,
    np.floor_divide: f.floor_divide,
    np.remainder: f.remainder,
    np.sum: lambda a, axis=None, keepdims=False: f.sum(a, axis, keepdims=keepdims),
    np.mean: lambda a, axis=None, keepdims=False: f.mean(a, axis, keepdims=keepdims),
    np.prod: lambda a, axis=None, keepdims=False: f.prod(a, axis, keepdims=keepdims),
    np.max: lambda a, axis=None, keepdims=False: f.max(a, axis, keepdims=keepdims),
    np.min: lambda a, axis=None, keepdims=False: f.min(a, axis, keepdims=keepdims),
    np.amax: lambda a, axis=None, keepdims=False: f.max(a, axis, keepdims=keepdims),
    np.amin: lambda a, axis=None, keepdims=False: f.min(a, axis, keepdims=keepdims),
    np.var: lambda a, axis=None, ddof=0, keepdims=False, correction=None: _var(
        f.var, a, axis, ddof, keepdims, correction
    ),
    np.std: lambda a, axis=None, ddof=0, keepdims=False, correction=None: _var(
        f.std, a, axis, ddof, keepdims, correction
    ),
    np.linalg.norm: _norm,
    np.linalg.vector_norm: lambda x, axis=None, keepdims=False, ord=2: f.norm(x, ord, axis, keepdims=keepdims),
    np.cumsum: _cumsum,
    np.trace: lambda a, offset=0, axis1=0, axis2=1: f.sum(f.diagonal(a, offset, axis1, axis2), -1),
    np.dot: _dot,
    np.outer: lambda a, b: composed.outer(a, b),
    np.einsum: lambda *operands, optimize=True: f.einsum(*operands),
    np.reshape: _reshape,
    np.ravel: _ravel,
    np.transpose: _transpose,
    np.matrix_transpose: lambda x: f.transpose(x, -2, -1),
    np.swapaxes: lambda a, axis1, axis2: f.transpose(a, axis1, axis2),
    np.moveaxis: _moveaxis,
    np.squeeze: lambda a, axis=None: f.squeeze(a, axis),
    np.expand_dims: lambda a, axis: f.unsqueeze(a, axis),
    np.atleast_1d: lambda *arys: _at_least(1, *arys),
    np.atleast_2d: lambda *arys: _at_least(2, *arys),
    np.broadcast_to: lambda array, shape: f.expand(array, (shape,) if isinstance(shape, int) else shape),
    np.broadcast_arrays: _broadcast_arrays,
    np.column_stack: lambda tup: f.concat([f.reshape(x, (-1, 1)) if np.ndim(x) < 2 else x for x in tup], 1),
    np.concatenate: lambda arrays, axis=0: (
        f.concat([composed.ravel(x) for x in arrays]) if axis is None else f.concat(arrays, axis)
    ),
    np.stack: lambda arrays, axis=0: f.stack(arrays, axis),
    np.hstack: lambda tup: composed.hstack(tup),
    np.vstack: lambda tup: composed.vstack(tup),
    np.split: _split,
    np.where: _where,
    np.clip: _clip,
    np.pad: _pad,
    np.tril: lambda m, k=0: f.tril(m, k),
    np.triu: lambda m, k=0: f.triu(m, k),
    np.diagonal: lambda a, offset=0, axis1=0, axis2=1: f.diagonal(a, offset, axis1, axis2),
    np.take: _take,
    np.take_along_axis: lambda arr, indices, axis=-1: f.gather(arr, indices, axis),
    np.repeat: _repeat,
    np.tile: lambda A, reps: composed.tile(A, reps),
    np.roll: lambda a, shift, axis=None: f.roll(a, shift, axis),
    np.flip: lambda m, axis=None: f.flip(m, axis),
    np.sort: lambda a, axis=-1, kind=None, stable=None: f.sort(composed.ravel(a) if axis is None else a, axis or 0),
    np.copy: lambda a, order="K": f.clone(a),
    np.astype: lambda x, dtype: composed.astype(x, dtype),
}

_PLAIN_NAMES = """
    shape ndim size isnan isinf isfinite signbit isposinf isneginf isclose allclose array_equal array_equiv any all
    equal not_equal less less_equal greater greater_equal logical_and logical_or logical_xor logical_not
    argmax argmin nanargmax nanargmin argsort argpartition argwhere nonzero flatnonzero count_nonzero searchsorted
    digitize bincount histogram histogram2d histogram_bin_edges isin sign floor ceil rint trunc round around
    zeros_like ones_like empty_like full_like result_type can_cast min_scalar_type common_type iscomplexobj isrealobj
    iscomplex isreal shares_memory may_share_memory array2string array_repr array_str
    save savez savez_compressed savetxt
"""
PLAIN = {getattr(np, name) for name in _PLAIN_NAMES.split()}

INSTEAD = {  # advice in the errors for functions and methods of ufuncs that are not in the tables
    "add.reduce": "use autotx.sum",
    "add.accumulate": "use autotx.cumsum",
    "multiply.reduce": "use autotx.prod",
    "maximum.reduce": "use autotx.max",
    "minimum.reduce": "use autotx.min",
    "multiply.outer": "use autotx.outer",
    "average": "use autotx.mean, or (w * x).sum() / w.sum()",
    "median": "use x.sort(axis) and an index",
    "cbrt": "use x ** (1 / 3)",
    "reciprocal": "use 1 / x",
    "float_power": "use x ** y",
    "logaddexp": "use autotx.logsumexp(autotx.stack([x, y]), 0)",
    "hypot": "use (x**2 + y**2).sqrt()",
    "diff": "use x[1:] - x[:-1]",
    "inner": "use autotx.einsum or autotx.matmul",
    "tensordot": "use autotx.einsum",
    "vdot": "use autotx.einsum or autotx.matmul",
    "array_split": "use autotx.chunk or autotx.split",
    "nan_to_num": "use autotx.masked_fill(x, np.isnan(x), 0)",
}
CURES = {
    "out": "the result is a new Tensor: y = {call}; y.numpy() is an array to write into",
    "where": "choose among the results: autotx.where(mask, {call}, 0)",
    "dtype": "give x.astype(dtype) first",
}


def _array(self, dtype=None, copy=None):
    """`__array__`, called by np.asarray(x): the values, read-only, or a copy of another type.

    TypeError if SciPy or pandas would compute with the values, as in sparse @ x, and lose the gradient.
    """
    if self.requires_grad and modes.recording:
        caller = sys._getframe(1)
        while (library := caller.f_globals.get("__name__", "").partition(".")[0]) == "numpy" and caller.f_back:
            caller = caller.f_back  # a function of NumPy that is written in Python: who called it?
        if library == "scipy" or (library == "pandas" and caller.f_code.co_name == "dot"):
            dense = "matrix.toarray()" if library == "scipy" else "frame.to_numpy()"
            cure = f"give x.detach(), or an array, as in {dense} @ x"
            raise TypeError(f"{library}: computes on arrays, which have no gradient; {cure}")
    if copy or (dtype is not None and dtype != self.dtype):
        return np.array(self.data, dtype=dtype)
    return self.data


def _array_ufunc(self, ufunc, method, *inputs, **settings):
    """`__array_ufunc__`, called by NumPy for ufuncs, such as np.exp(x) or array * x."""
    if method != "__call__":
        raise _refused(f"{_name(ufunc)}.{method}")
    op = None if settings else OPS.get(ufunc)
    return op(*inputs) if op else _called(ufunc, inputs, settings)


def _array_function(self, function, types, args, settings):
    """`__array_function__`, called by NumPy for its other functions, such as np.mean(x)."""
    return _called(function, args, settings)


def _called(function, args, settings):
    if function in PLAIN:
        return function(*map(_arrays, args), **{name: _arrays(value) for name, value in settings.items()})
    if function not in OPS:
        raise _refused(_name(function))
    if isinstance(function, np.ufunc):
        for name, value in settings.items():
            _refuse(function, name, value, args)
        return OPS[function](*args)
    known = inspect.signature(OPS[function]).parameters
    positional, by_name = [], {}
    for name, value, is_default in _bound(function, args, settings):
        if name not in known:
            if not is_default:
                _refuse(function, name, value, args)
        elif known[name].kind is inspect.Parameter.VAR_POSITIONAL:
            positional += value
        else:
            by_name[name] = value
    return OPS[function](*positional, **by_name)


def _bound(function, args, settings):
    """(NumPy's name, value, whether it is the default) of each argument. TypeError: unknown arguments, as in NumPy."""
    signature = _signature(function)
    for name, value in signature.bind(*args, **settings).arguments.items():
        parameter = signature.parameters[name]
        if parameter.kind is parameter.VAR_KEYWORD:
            yield from ((key, inner, False) for key, inner in value.items())
        else:
            yield name, value, value is parameter.default


@functools.cache
def _signature(function):
    try:
        return inspect.signature(function)
    except ValueError:  # a C function before NumPy 2.4: its first arguments are those of its entry in OPS
        return inspect.signature(OPS[function])


def _arrays(value):
    """A value in which every Tensor is replaced by its array."""
    if isinstance(value, Tensor):
        return value.data
    return type(value)(map(_arrays, value)) if type(value) in (tuple, list) else value


def _name(function):
    """The name of a function, such as "np.linalg.norm"; for a ufunc of another library without a module."""
    name = function.__name__
    if isinstance(function, np.ufunc):
        return f"np.{name}" if getattr(np, name, None) is function else name
    return f"np{function.__module__.removeprefix('numpy')}.{name}"


def _refused(name):
    cure = INSTEAD.get(name.removeprefix("np."), "there is no such op; build it of autotx's")
    return TypeError(f"{name}: not for Tensors; {cure}, or give x.numpy(), which has no gradient")


def _refuse(function, name, value, args):
    """TypeError for a setting of NumPy that autotx does not support, unless its value has no effect."""
    if value is None or (name == "dtype" and any(isinstance(x, Tensor) and x.dtype == value for x in args)):
        return
    cure = CURES.get(name, "leave it out").format(call=f"{_name(function)}(...)")
    raise TypeError(f"{_name(function)}: {name}= is not for Tensors; {cure}")


setattr(Tensor, "__array__", _array)  # noqa: B010
setattr(Tensor, "__array_ufunc__", _array_ufunc)  # noqa: B010  (type checkers reject such attributes)
setattr(Tensor, "__array_function__", _array_function)  # noqa: B010
setattr(Tensor, "__pandas_priority__", 5000)  # noqa: B010  (above a DataFrame's: series * x calls the Tensor)

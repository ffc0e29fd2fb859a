"""Arithmetic, element by element. x and y broadcast against each other as in NumPy; results have the common shape."""

import functools
from collections.abc import Callable
from typing import TypeVar

import numpy as np

from autotx import kernels
from autotx.types import Array, ArrayLike

F = TypeVar("F", bound=Callable)


def one_element(op: F) -> F:
    """Extend an op that works along `axis` to scalars, which it treats as one element along axis 0 or -1. The result
    for a scalar is a scalar."""

    @functools.wraps(op)
    def function(x, /, *args, **settings):
        if x.ndim or settings.get("axis", 0) is None:
            return op(x, *args, **settings)
        y, (dx,) = op(np.reshape(x, 1), *args, **settings)
        return np.reshape(y, ()), (lambda g: np.reshape(dx(np.reshape(g, np.shape(y))), ()),)

    return function  # pyright: ignore[reportReturnType]  (it has the signature of op)


def add(x: Array, y: Array, /):
    """z = x + y.   dz/dx = 1, dz/dy = 1, so dx = g and dy = g."""
    large = x.__class__ is np.ndarray and x.size > kernels.THREADED_SIZE and x.shape == np.shape(y)
    z = kernels.add(x, y) if large else x + y
    return z, (lambda g: g, lambda g: g)


def sub(x: Array, y: Array, /):
    """z = x - y.   dz/dx = 1, dz/dy = -1, so dx = g and dy = -g."""
    return x - y, (lambda g: g, lambda g: -g)


def mul(x: Array, y: Array, /):
    """z = x y.   dz/dx = y, dz/dy = x, so dx = g y and dy = g x (the product rule)."""
    return x * y, (lambda g: g * y, lambda g: g * x)


def div(x: Array, y: Array, /):
    """z = x / y.   dz/dx = 1 / y, dz/dy = -x / y^2 = -z / y, so dx = g / y and dy = -g z / y (the quotient rule)."""
    z = np.true_divide(x, y)
    return z, (lambda g: g / y, lambda g: -g * z / y)


def neg(x: Array, /):
    """y = -x.   dx = -g."""
    return -x, (lambda g: -g,)


def pow(x: Array, y: Array, /):
    """z = x^y.

    dz/dx = y x^(y-1), so dx = g y x^(y-1), and 0 where y = 0, even at x = 0.
    z = exp(y log x), so dz/dy = z log x and dy = g z log x; at x = 0 and y >= 0 it is 0, the limit.
    For x < 0, z is real only for integers y, and dy does not exist: NaN.
    """

    z = x**y

    def dx(g):
        with np.errstate(invalid="ignore", divide="ignore"):
            return g * np.where(np.equal(y, 0), 0, y * x ** (y - 1))

    def dy(g):
        with np.errstate(invalid="ignore", divide="ignore"):
            return g * np.where(np.equal(x, 0) & np.greater_equal(y, 0), 0, z * np.log(x))

    return z, (dx, dy)


def exp(x: Array, /):
    """y = exp(x).   dy/dx = y, so dx = g y."""
    y = np.exp(as_floats(x))
    return y, (lambda g: g * y,)


def log(x: Array, /):
    """y = ln(x), the natural logarithm.   dx = g / x. ln(0) = -inf; ln of a negative number is NaN."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(as_floats(x)), (lambda g: g / x,)


def sqrt(x: Array, /):
    """y = sqrt(x).   dy/dx = 1 / (2 y), so dx = g / (2 y), infinite at 0."""
    y = np.sqrt(as_floats(x))

    def dx(g):
        with np.errstate(divide="ignore", invalid="ignore"):
            return g / (2 * y)

    return y, (dx,)


def tanh(x: Array, /):
    """y = tanh(x).   dy/dx = 1 - y^2, so dx = g (1 - y^2)."""
    y = np.tanh(as_floats(x))
    return y, (lambda g: g * (1 - y * y),)


_FLOATS = {np.float32, np.float64}  # NumPy scalars: comparing their class is faster than reading their dtype


def as_floats(x):
    """x itself, or integers as float64, since -x and x - m of unsigned integers would wrap around."""
    return x if x.__class__ in _FLOATS or x.dtype.kind == "f" else x.astype(np.float64)


def sigmoid(x: Array, /):
    """y = 1 / (1 + exp(-x)).   dy/dx = y (1 - y), so dx = g y (1 - y).

    Computed from exp(-|x|), which cannot overflow: y = 1 / (1 + e) for x >= 0 and e / (1 + e) for x < 0.
    """
    y = logistic(as_floats(x))
    return y, (lambda g: g * y * (1 - y),)


def logistic(x):
    """The values of the sigmoid of floats."""
    e = np.exp(-np.abs(x))
    return np.where(np.greater_equal(x, 0), 1, e) / (1 + e)


def relu(x: Array, /):
    """y = max(x, 0).   dx = g where x > 0, else 0; also 0 at x = 0, where there is no derivative.

    Source: Nair and Hinton, 2010, "Rectified Linear Units Improve Restricted Boltzmann Machines".
    """
    return np.maximum(x, 0), (lambda g: only(g, np.greater(x, 0)),)


def abs(x: Array, /):
    """y = |x|.   dx = g sign(x), 0 at x = 0."""
    return np.abs(x), (lambda g: g * np.sign(x),)


def maximum(x: Array, y: Array, /):
    """z = max(x, y).   dx = g where x > y, g / 2 where x = y, else 0; dy = g - dx, for each z is one of the two."""
    return np.maximum(x, y), (lambda g: _won(g, np.greater(x, y), x, y), lambda g: _won(g, np.less(x, y), x, y))


def minimum(x: Array, y: Array, /):
    """z = min(x, y).   dx = g where x < y, g / 2 where x = y, else 0; dy = g - dx, for each z is one of the two."""
    return np.minimum(x, y), (lambda g: _won(g, np.less(x, y), x, y), lambda g: _won(g, np.greater(x, y), x, y))


def _won(g, wins, x, y):
    """g where `wins`, g / 2 where x = y, else 0."""
    return only(g, wins) + only(g * 0.5, np.equal(x, y))


def only(g, mask):
    """g where the mask is true, else 0, also where g is NaN or infinite.

    Multiplies the bits of g, as integers, by the mask: np.where takes twelve times as long for an irregular mask.
    """
    return (g.view(f"i{g.itemsize}") * mask).view(g.dtype)


def typed(name, value, dtype):
    """A setting in the type of x. TypeError: not a real number, or not an integer although x has an integer type;
    ValueError: a number that is too large for the type."""
    given = np.asarray(value)
    if given.dtype.kind not in "fiub":
        raise TypeError(f"{name}: {value!r} is not a real number; give one")
    with np.errstate(invalid="ignore", over="ignore"):  # the errors below replace the warnings
        result = given.astype(dtype)
    if dtype.kind != "f" and np.any(result != given):
        raise TypeError(f"{name}: {value} cannot be stored as {dtype}; give a whole number, or x as floats")
    if np.any(np.isinf(result) & np.isfinite(given)):
        raise ValueError(f"{name}: {value} is too large for {dtype}; give a smaller number, or infinity")
    return result


def clip(x: Array, /, min: ArrayLike | None = None, max: ArrayLike | None = None):
    """y = x held between min and max (None for no bound).   dx = g where min <= x <= max, else 0."""
    if min is None and max is None:
        raise ValueError("clip: give min, max or both")
    low, high = (b if b is None else typed("clip", b, x.dtype) for b in (min, max))
    inside = np.ones(np.shape(x), bool)
    if low is not None:
        inside = inside & (x >= low)
    if high is not None:
        inside = inside & (x <= high)
    return np.clip(x, low, high), (lambda g: only(g, inside),)


def where(x: Array, y: Array, /, condition: ArrayLike):
    """z = x where condition, else y.   dx = g where condition, else 0; dy = g where not condition, else 0."""
    condition = np.asarray(condition)
    if condition.dtype != bool:
        raise TypeError(f"where: the condition has type {condition.dtype}; give booleans, for example x > 0")
    return np.where(condition, x, y), (lambda g: only(g, condition), lambda g: only(g, ~condition))


def masked_fill(x: Array, /, mask: ArrayLike, value: float):
    """y = value where mask, else x.   dx = 0 where mask, else g. mask: booleans that broadcast to the shape of x."""
    mask = np.asarray(mask)
    if mask.dtype != bool:
        raise TypeError(f"masked_fill: the mask has type {mask.dtype}; give booleans, for example ids == pad")
    if np.broadcast_shapes(mask.shape, x.shape) != x.shape:
        raise ValueError(f"masked_fill: a mask of shape {mask.shape} does not broadcast to the tensor's {x.shape}")
    return np.where(mask, typed("masked_fill", value, x.dtype), x), (lambda g: only(g, ~mask),)

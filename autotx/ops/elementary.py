"""Elementary functions, element by element: trigonometry, other exponentials and logarithms, activations, rounding.

Integers are converted to float64. Outside the domain of a function the result is NaN.
"""

import math

import numpy as np

from autotx.ops.arithmetic import as_floats, logistic, only
from autotx.types import Array


def _edge(slope):
    """The value of `slope()` without NumPy's warnings: at the ends of a domain it is infinite or NaN."""
    with np.errstate(all="ignore"):
        return slope()


# Trigonometry, angles in radians, and the hyperbolic functions


def sin(x: Array, /):
    """y = sin(x).   dy/dx = cos(x), so dx = g cos(x)."""
    x = as_floats(x)
    return np.sin(x), (lambda g: g * np.cos(x),)


def cos(x: Array, /):
    """y = cos(x).   dy/dx = -sin(x), so dx = -g sin(x)."""
    x = as_floats(x)
    return np.cos(x), (lambda g: -g * np.sin(x),)


def tan(x: Array, /):
    """y = tan(x) = sin(x) / cos(x).   dy/dx = (cos^2(x) + sin^2(x)) / cos^2(x) = 1 + y^2, so dx = g (1 + y^2)."""
    y = np.tan(as_floats(x))
    return y, (lambda g: g * (1 + y * y),)


def arcsin(x: Array, /):
    """y = arcsin(x), the y from -pi/2 to pi/2 with sin(y) = x, for x from -1 to 1.

    dy/dx = 1 / cos(y) = 1 / sqrt(1 - x^2), so dx = g / sqrt((1 - x) (1 + x)), infinite at -1 and 1.
    """
    x = as_floats(x)
    return _edge(lambda: np.arcsin(x)), (lambda g: _edge(lambda: g / np.sqrt((1 - x) * (1 + x))),)


def arccos(x: Array, /):
    """y = arccos(x), the y from 0 to pi with cos(y) = x, for x from -1 to 1.

    arccos(x) = pi/2 - arcsin(x), so dx = -g / sqrt((1 - x) (1 + x)), infinite at -1 and 1.
    """
    x = as_floats(x)
    return _edge(lambda: np.arccos(x)), (lambda g: _edge(lambda: -g / np.sqrt((1 - x) * (1 + x))),)


def arctan(x: Array, /):
    """y = arctan(x), the y between -pi/2 and pi/2 with tan(y) = x.

    dy/dx = 1 / (1 + tan^2(y)) = 1 / (1 + x^2), so dx = g / (1 + x^2).
    """
    x = as_floats(x)
    return np.arctan(x), (lambda g: _edge(lambda: g / (1 + x * x)),)


def sinh(x: Array, /):
    """y = sinh(x) = (exp(x) - exp(-x)) / 2.   dy/dx = cosh(x), so dx = g cosh(x)."""
    x = as_floats(x)
    return np.sinh(x), (lambda g: g * np.cosh(x),)


def cosh(x: Array, /):
    """y = cosh(x) = (exp(x) + exp(-x)) / 2.   dy/dx = sinh(x), so dx = g sinh(x)."""
    x = as_floats(x)
    return np.cosh(x), (lambda g: g * np.sinh(x),)


def arcsinh(x: Array, /):
    """y = arcsinh(x), the y with sinh(y) = x.   dy/dx = 1 / cosh(y), so dx = g / sqrt(1 + x^2)."""
    x = as_floats(x)
    return np.arcsinh(x), (lambda g: g / np.hypot(x, 1),)


def arccosh(x: Array, /):
    """y = arccosh(x), the y >= 0 with cosh(y) = x, for x >= 1.

    dy/dx = 1 / sinh(y), so dx = g / sqrt((x - 1) (x + 1)), infinite at 1 and NaN below.
    """
    x = as_floats(x)
    return _edge(lambda: np.arccosh(x)), (lambda g: _edge(lambda: g / (np.sqrt(x - 1) * np.sqrt(x + 1))),)


def arctanh(x: Array, /):
    """y = arctanh(x), the y with tanh(y) = x, for x between -1 and 1.

    dy/dx = 1 / (1 - tanh^2(y)), so dx = g / ((1 - x) (1 + x)), infinite at -1 and 1.
    """
    x = as_floats(x)
    return _edge(lambda: np.arctanh(x)), (lambda g: _edge(lambda: g / ((1 - x) * (1 + x))),)


# Exponentials and logarithms


def exp2(x: Array, /):
    """y = 2^x = exp(x ln 2).   dy/dx = y ln 2, so dx = g y ln 2."""
    y = np.exp2(as_floats(x))
    return y, (lambda g: g * (y * math.log(2)),)


def expm1(x: Array, /):
    """y = exp(x) - 1, exact near 0.   dy/dx = exp(x), so dx = g exp(x)."""
    x = as_floats(x)
    return np.expm1(x), (lambda g: g * np.exp(x),)


def log1p(x: Array, /):
    """y = ln(1 + x), exact near 0.   dx = g / (1 + x). y = -inf at x = -1 and NaN below."""
    x = as_floats(x)
    return _edge(lambda: np.log1p(x)), (lambda g: _edge(lambda: g / (1 + x)),)


def log2(x: Array, /):
    """y = log2(x) = ln(x) / ln 2.   dx = g / (x ln 2). log2(0) = -inf; log2 of a negative number is NaN."""
    x = as_floats(x)
    return _edge(lambda: np.log2(x)), (lambda g: _edge(lambda: g / (x * math.log(2))),)


def log10(x: Array, /):
    """y = log10(x) = ln(x) / ln 10.   dx = g / (x ln 10). log10(0) = -inf; log10 of a negative number is NaN."""
    x = as_floats(x)
    return _edge(lambda: np.log10(x)), (lambda g: _edge(lambda: g / (x * math.log(10))),)


# Activations: s is the sigmoid, s(x) = 1 / (1 + exp(-x)), and s' = s (1 - s)


def silu(x: Array, /):
    """y = x s(x), also called swish.   dx = g (s + x s (1 - s)) by the product rule. Both are 0 where s is 0.

    Source: Elfwing, Uchibe and Doya, 2018, "Sigmoid-Weighted Linear Units".
    """
    x = as_floats(x)
    s = logistic(x)
    y = _weighted(x, s)
    return y, (lambda g: g * (s + _weighted(y, 1 - s)),)


def _weighted(x, s):
    """x s, and 0 where s is 0, even if x is infinite."""
    return _edge(lambda: np.where(s == 0, 0, x * s).astype(x.dtype, copy=False))


def softplus(x: Array, /):
    """y = ln(1 + exp(x)), computed as max(x, 0) + ln(1 + exp(-|x|)), which cannot overflow.

    dy/dx = exp(x) / (1 + exp(x)) = s(x), so dx = g s(x).
    """
    x = as_floats(x)
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))), (lambda g: g * logistic(x),)


def logsigmoid(x: Array, /):
    """y = ln s(x) = -ln(1 + exp(-x)), computed as min(x, 0) - ln(1 + exp(-|x|)).

    dy/dx = s' / s = 1 - s(x) = s(-x), so dx = g s(-x).
    """
    x = as_floats(x)
    return np.minimum(x, 0) - np.log1p(np.exp(-np.abs(x))), (lambda g: g * logistic(-x),)


def elu(x: Array, /, alpha: float = 1.0):
    """y = x for x > 0, else alpha (exp(x) - 1).   dx = g for x > 0, else g alpha exp(x).

    Source: Clevert, Unterthiner and Hochreiter, 2016, "Exponential Linear Units".
    """
    x = as_floats(x)
    above, low = np.greater(x, 0), np.minimum(x, 0)
    y = np.where(above, x, alpha * np.expm1(low)).astype(x.dtype, copy=False)
    return y, (lambda g: only(g, above) + only(g * (alpha * np.exp(low)), ~above),)


def leaky_relu(x: Array, /, negative_slope: float = 0.01):
    """y = x for x > 0, else a x with a = negative_slope.   dx = g for x > 0, else g a.

    Source: Maas, Hannun and Ng, 2013, "Rectifier Nonlinearities Improve Neural Network Acoustic Models".
    """
    x = as_floats(x)
    slope = np.where(np.greater(x, 0), 1, negative_slope).astype(x.dtype)
    return x * slope, (lambda g: g * slope,)


# Powers and rounding


def square(x: Array, /):
    """y = x^2.   dx = 2 g x."""
    return x * x, (lambda g: g * (2 * x),)


def floor_divide(x: Array, y: Array, /):
    """z = floor(x / y), the largest whole number that is not above x / y.

    z is constant between its steps, so dx = 0 and dy = 0; also 0 at a step, where there is no derivative.
    """
    return np.floor_divide(x, y), (lambda g: np.zeros_like(g), lambda g: np.zeros_like(g))


def remainder(x: Array, y: Array, /):
    """z = x - y floor(x / y), what the division of x by y leaves: of the sign of y.

    floor is constant between its steps, so dx = g and dy = -g floor(x / y).
    """
    return np.remainder(x, y), (lambda g: g, lambda g: -g * np.floor_divide(x, y))

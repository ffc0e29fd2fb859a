"""Initial parameters: random numbers whose variance keeps the size of signals equal from layer to layer.

Every function takes the shape and an rng (numpy.random.Generator) and returns an array. A weight has the shape
(out, in), as in `autotx.linear`; the sizes of further axes multiply both. An rng in the same state gives equal numbers.
"""

import math
from collections.abc import Sequence

import numpy as np

from autotx.checks import checked_rng
from autotx.types import Generator

SQRT2 = math.sqrt(2)
Shape = Sequence[int]
Float = type[np.float32] | type[np.float64]


def normal(shape: Shape, rng: Generator, mean: float = 0.0, std: float = 1.0, dtype: Float = np.float32) -> np.ndarray:
    """Random numbers of the normal distribution with this mean and standard deviation."""
    x = checked_rng("normal", rng).standard_normal(shape, dtype=dtype)
    x *= std
    x += mean
    return x


def uniform(shape: Shape, rng: Generator, low: float = 0.0, high: float = 1.0, dtype: Float = np.float32) -> np.ndarray:
    """Random numbers of the uniform distribution from low to below high."""
    x = checked_rng("uniform", rng).random(shape, dtype=dtype)
    x *= high - low
    x += low
    return x


def xavier_uniform(shape: Shape, rng: Generator, gain: float = 1.0, dtype: Float = np.float32) -> np.ndarray:
    """Uniform within +-gain sqrt(6 / (in + out)), which has the standard deviation of `xavier_normal`."""
    fan_in, fan_out = _fans("xavier_uniform", shape)
    bound = gain * math.sqrt(6 / (fan_in + fan_out))
    return uniform(shape, rng, -bound, bound, dtype)


def xavier_normal(shape: Shape, rng: Generator, gain: float = 1.0, dtype: Float = np.float32) -> np.ndarray:
    """Normal with standard deviation gain sqrt(2 / (in + out)), for tanh and sigmoid.

    y = W x has the variance in std^2 var(x), and the gradient dx = W^T dy has out std^2 var(dy). The first keeps the
    variance for std^2 = 1 / in, the second for 1 / out; here std^2 is 1 over the mean of in and out.
    Source: Glorot and Bengio, 2010, equations 12 and 16.
    """
    fan_in, fan_out = _fans("xavier_normal", shape)
    return normal(shape, rng, std=gain * math.sqrt(2 / (fan_in + fan_out)), dtype=dtype)


def kaiming_uniform(shape: Shape, rng: Generator, gain: float = SQRT2, dtype: Float = np.float32) -> np.ndarray:
    """Uniform within +-gain sqrt(3 / in), which has the standard deviation of `kaiming_normal`."""
    fan_in, _ = _fans("kaiming_uniform", shape)
    bound = gain * math.sqrt(3 / fan_in)
    return uniform(shape, rng, -bound, bound, dtype)


def kaiming_normal(shape: Shape, rng: Generator, gain: float = SQRT2, dtype: Float = np.float32) -> np.ndarray:
    """Normal with standard deviation gain / sqrt(in): for ReLU, which halves the mean square, hence the gain sqrt(2).

    Source: He et al., 2015, "Delving Deep into Rectifiers", equation 10.
    """
    fan_in, _ = _fans("kaiming_normal", shape)
    return normal(shape, rng, std=gain / math.sqrt(fan_in), dtype=dtype)


def _fans(name: str, shape: Shape) -> tuple[int, int]:
    """The inputs per output and the outputs per input. ValueError: fewer than two axes, or an axis of size 0."""
    if len(shape) < 2 or 0 in shape:
        raise ValueError(f"{name}: shape {tuple(shape)} is not (out, in); use init.normal or init.uniform for a vector")
    repeats = math.prod(shape[2:])
    return shape[1] * repeats, shape[0] * repeats

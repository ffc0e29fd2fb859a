"""The types that signatures name, beside those of Python and NumPy."""

import os
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from numpy import typing as npt

if TYPE_CHECKING:
    import numpy as np

    from autotx.tensor import Tensor

    ArrayLike = npt.ArrayLike | Tensor
    DTypeLike = npt.DTypeLike
else:  # in help and in notebooks a signature shows these names, where NumPy's fill a screen

    class ArrayLike:
        """A Tensor, an array of NumPy or another library, a number, or nested lists of numbers."""

    class DTypeLike:
        """A type of numbers: numpy.float32, "float64", int."""


Array: TypeAlias = Any  # inside an op an ndarray or a number; what `lift` makes of the op takes Tensors in its place
Mask = ArrayLike | None  # of attention: booleans, True where a query may attend, or floats that are added to the scores
PathLike = str | os.PathLike[str]
Reduction = Literal["mean", "sum", "none"]
Generator: TypeAlias = "np.random.Generator"  # a string: NumPy loads numpy.random when it is first named
Rng: TypeAlias = "np.random.Generator | None"

"""Functions composed of ops, from which they have their gradients.

If NumPy and PyTorch use one name for different functions, the argument that distinguishes them must be given.
"""

import builtins
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index

from autotx import functional
from autotx.checks import checked_ids, checked_size
from autotx.tensor import Tensor, array_of
from autotx.types import Array, ArrayLike, DTypeLike


def flatten(x: Array, start_axis: int = 0, end_axis: int = -1) -> Tensor:
    """x with the axes from start_axis to end_axis, both included, merged into one. A scalar gets the shape (1,)."""
    shape = np.shape(x) or (1,)
    first, last = (normalize_axis_index(axis, len(shape), "flatten") for axis in (start_axis, end_axis))
    if first > last:
        raise ValueError(f"flatten: start_axis {start_axis} is behind end_axis {end_axis} for shape {np.shape(x)}")
    return functional.reshape(x, (*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :]))


def ravel(x: Array) -> Tensor:
    """x with all its elements in one axis, in row order."""
    return functional.reshape(x, (-1,))


def repeat(x: Array, repeats: int | Sequence[int], axis: int | None = None) -> Tensor:
    """Each element of x `repeats` times along axis, as numpy.repeat does: [a, b] becomes [a, a, b, b].

    repeats: an int, or an int for each index along axis. TypeError: no axis; PyTorch's repeat is `tile` here."""
    if axis is None:
        raise TypeError("repeat: give the axis along which each element is repeated; PyTorch's repeat is tile here")
    axis = normalize_axis_index(axis, np.ndim(x), "repeat")
    if not isinstance(repeats, int | np.integer):
        return take(x, np.repeat(np.arange(np.shape(x)[axis]), repeats), axis)
    before, n, after = np.shape(x)[:axis], np.shape(x)[axis], np.shape(x)[axis + 1 :]
    wide = functional.expand(functional.unsqueeze(x, axis + 1), (*before, n, repeats, *after))
    return functional.reshape(wide, (*before, n * repeats, *after))


def tile(x: Array, reps: int | Sequence[int]) -> Tensor:
    """x as a whole, reps[i] times along axis i: [a, b] becomes [a, b, a, b]. PyTorch's Tensor.repeat.

    reps: an int, for the last axis, or a tuple, for the last axes. If it is longer than x.ndim, x gets axes in front.
    """
    times: tuple[int, ...] = tuple(np.atleast_1d(reps).tolist())
    ndim = builtins.max(len(times), np.ndim(x))
    times = (1,) * (ndim - len(times)) + times
    shape = (1,) * (ndim - np.ndim(x)) + np.shape(x)
    wide = functional.reshape(x, [size for n in shape for size in (1, n)])
    wide = functional.expand(wide, [size for pair in zip(times, shape) for size in pair])
    return functional.reshape(wide, tuple(t * n for t, n in zip(times, shape)))


def take(x: Array, indices: ArrayLike, axis: int) -> Tensor:
    """The elements of x at these indices along axis. indices: integers; their shape replaces the axis in the result."""
    axis = normalize_axis_index(axis, np.ndim(x), "take")
    return functional.getitem(x, (slice(None),) * axis + (np.asarray(indices),))


def chunk(x: Array, chunks: int, axis: int = 0) -> list[Tensor]:
    """A list of at most `chunks` equal pieces of x along axis; the last may be smaller. As torch.chunk."""
    if chunks < 1:
        raise ValueError(f"chunk: {chunks} pieces; give at least 1")
    n = np.shape(x)[normalize_axis_index(axis, np.ndim(x), "chunk")]
    return functional.split(x, builtins.max(math.ceil(n / chunks), 1), axis)


def hstack(tensors: Sequence[Array]) -> Tensor:
    """Tensors concatenated along their second axis, or along their only axis."""
    tensors = [functional.reshape(x, (1,)) if np.ndim(x) == 0 else x for x in tensors]
    return functional.concat(tensors, 1 if any(np.ndim(x) > 1 for x in tensors) else 0)


def vstack(tensors: Sequence[Array]) -> Tensor:
    """Tensors concatenated along their first axis; vectors and scalars are rows."""
    return functional.concat([functional.reshape(x, (1, -1)) if np.ndim(x) < 2 else x for x in tensors], 0)


def outer(x: Array, y: Array) -> Tensor:
    """z_ij = x_i y_j, the outer product of x and y, each flattened."""
    return functional.mul(functional.reshape(x, (-1, 1)), functional.reshape(y, (1, -1)))


def argmax(x: Array, axis: int | None = None, *, keepdims: bool = False) -> Any:
    """The index of the largest element along axis, the first of equal elements: an array of integers. axis None: the
    index in x.ravel(). There is no gradient: the index does not change with small changes of x."""
    return np.argmax(array_of(x), axis=axis, keepdims=keepdims)


def argmin(x: Array, axis: int | None = None, *, keepdims: bool = False) -> Any:
    """The index of the smallest element along axis, otherwise as `argmax`."""
    return np.argmin(array_of(x), axis=axis, keepdims=keepdims)


def one_hot(ids: ArrayLike, num_classes: int) -> Tensor:
    """y[.., k] = 1 where ids[..] = k, else 0: one row of num_classes for each id, float32, without a gradient.

    ids: integers of any shape. TypeError for other types, ValueError for an id outside 0 .. num_classes - 1.
    """
    num_classes = checked_size("one_hot", "num_classes", num_classes)
    ids = checked_ids("one_hot", array_of(ids), num_classes, "classes")
    return Tensor(ids[..., None] == np.arange(num_classes), dtype=np.float32)


def astype(x: Array, dtype: DTypeLike) -> Tensor:
    """x in another type. From float to float, the gradient is passed on, rounded to the type of x.

    Integers and booleans have no gradient: they do not change with small changes of x. TypeError: a floating-point type
    other than float32 and float64.
    """
    if np.dtype(dtype).kind == "f":
        if np.dtype(dtype) not in (np.float32, np.float64):
            raise TypeError(f"astype: {np.dtype(dtype)} is not computed with; give numpy.float32 or numpy.float64")
        return functional.astype(x, dtype)
    return Tensor(array_of(x), dtype=dtype)


astype.op = functional.astype.op

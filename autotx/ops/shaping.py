"""Ops that move, select and join elements. A gradient is moved back to the positions of the argument."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from autotx import kernels
from autotx.ops.arithmetic import one_element, typed
from autotx.types import Array, ArrayLike, DTypeLike


def reshape(x: Array, /, shape: int | Sequence[int]):
    """y = x in another shape, elements in row order; one size may be -1.   dx = g in the shape of x."""
    return np.reshape(x, shape), (lambda g: np.reshape(g, x.shape),)


def permute(x: Array, /, axes: Sequence[int]):
    """y = x with its axes in the order `axes`.   dx = g with the inverse order."""
    if sorted(a % x.ndim for a in axes) != list(range(x.ndim)):
        raise ValueError(f"permute: axes {tuple(axes)} are not an order of the {x.ndim} axes of shape {x.shape}")
    return np.transpose(x, axes), (lambda g: np.transpose(g, np.argsort([a % x.ndim for a in axes])),)


def transpose(x: Array, /, axis0: int, axis1: int):
    """y = x with two axes exchanged.   dx = g with them exchanged again."""
    return np.swapaxes(x, axis0, axis1), (lambda g: np.swapaxes(g, axis0, axis1),)


def expand(x: Array, /, shape: Sequence[int]):
    """y = x repeated to `shape` by broadcasting; -1 stands for the size that the axis of x has, counted from the last.

    dx = g summed over the repeats (the engine's un-broadcasting).
    """
    new = len(shape) - x.ndim  # axes in front that x does not have
    if any(n < -1 or (n == -1 and i < new) for i, n in enumerate(shape)):
        raise ValueError(f"expand: sizes {tuple(shape)} of shape {x.shape}; give sizes, or -1 where x has an axis")
    return np.broadcast_to(x, [x.shape[i - new] if n == -1 else n for i, n in enumerate(shape)]), (lambda g: g,)


def squeeze(x: Array, /, axis: int | tuple[int, ...] | None = None):
    """y = x without axes of size 1 (all of them, or those named).   dx = g in the shape of x."""
    return np.squeeze(x, axis), (lambda g: np.reshape(g, x.shape),)


def unsqueeze(x: Array, /, axis: int | tuple[int, ...]):
    """y = x with a new axis of size 1 at `axis`.   dx = g in the shape of x."""
    return np.expand_dims(x, axis), (lambda g: np.reshape(g, x.shape),)


_SIMPLE = {int, np.int64, slice, type(None), type(...)}  # an index of these types only gives a view


def getitem(x: Array, /, index: Any):
    """y = x[index]: slices, integers, None, ..., masks, index arrays.   dx = g at the places taken, else 0.

    An element that an index array takes several times gets the sum of its gradients.
    """
    parts = index if isinstance(index, tuple) else (index,)
    view = all(p.__class__ in _SIMPLE for p in parts)

    def add_into(dx, g):
        if not view:  # dx[index] is a copy, which may have an element of dx several times
            kernels.add_at(dx, index, g)
        elif g.size > kernels.THREADED_SIZE:
            part = dx[index]
            kernels.add(part, g, part)
        else:
            dx[index] += g

    return x[index], (lambda g: lambda dx: add_into(dx, g),)


def gather(x: Array, /, index: ArrayLike, axis: int):
    """y[.., j, ..] = x[.., index[.., j, ..], ..] along axis; index has as many axes as x.

    Its other axes have the sizes of x, or size 1, which broadcasts.
    dx[.., index[.., j, ..], ..] += g[.., j, ..]: an element taken several times gets the sum.
    """
    index = np.asarray(index)
    if index.dtype.kind not in "iu":
        raise TypeError(f"gather: the index has type {index.dtype}; give integers")
    if index.ndim != x.ndim:
        raise ValueError(f"gather: index of shape {index.shape} for x of shape {x.shape}; give it as many axes")
    size = x.shape[axis]
    if any(n not in (1, m) for i, (n, m) in enumerate(zip(index.shape, x.shape)) if i != axis % x.ndim):
        raise ValueError(
            f"gather: index of shape {index.shape} for x of shape {x.shape}; beside axis {axis} give it as many places "
            "as x, or one"
        )
    if index.size and (index.min() < -size or index.max() >= size):
        raise ValueError(f"gather: index {index.min()} to {index.max()} is outside axis {axis} of shape {x.shape}")

    def add_into(dx, g):
        places = list(np.indices(x.shape, sparse=True))
        places[axis] = index
        kernels.add_at(dx, tuple(places), g)

    return np.take_along_axis(x, index, axis), (lambda g: lambda dx: add_into(dx, g),)


@one_element
def flip(x: Array, /, axis: int | tuple[int, ...] | None = None):
    """y = x in reverse order along axis: None (all axes), a number or a tuple.   dx = g reversed again."""
    return np.flip(x, axis), (lambda g: np.flip(g, axis),)


@one_element
def roll(x: Array, /, shift: int | tuple[int, ...], axis: int | tuple[int, ...] | None = None):
    """y = x moved by `shift` places along axis; elements beyond the end enter at the beginning.   dx = g moved back.

    shift, axis: ints, or tuples of equal length. axis None: x is flattened, moved, and reshaped to its shape.
    """
    return np.roll(x, shift, axis), (lambda g: np.roll(g, np.negative(shift), axis),)


def diagonal(x: Array, /, offset: int = 0, axis1: int = 0, axis2: int = 1):
    """y = the elements of x whose places along axis1 and axis2 are i and i + offset; i is the last axis of y.

    dx = g on the diagonal, else 0.
    """

    def add_into(dx, g):
        line = np.diagonal(dx, offset, axis1, axis2)
        line.flags.writeable = True  # NumPy gives a read-only view
        line += g

    return np.diagonal(x, offset, axis1, axis2), (lambda g: lambda dx: add_into(dx, g),)


@one_element
def sort(x: Array, /, axis: int = -1, *, descending: bool = False):
    """y = x in ascending order along axis; NaN counts as the largest. np.argsort(x) gives the order.

    dx = g, each element back at its place. Equal elements keep their order.
    """
    return _taken(x, _order(x, axis, descending), axis)


@one_element
def topk(x: Array, /, k: int, axis: int = -1):
    """y = the k largest of x along axis, the largest first; NaN counts as the largest. Values only, unlike PyTorch's.

    dx = g at the places taken, else 0. Of equal elements the first are taken. ValueError: there are fewer than k.
    """
    n = x.shape[axis]
    if not 0 <= k <= n:
        raise ValueError(f"topk: k is {k}, axis {axis} of shape {x.shape} has {n} elements; give 0 to {n}")
    order = np.moveaxis(np.moveaxis(_order(x, axis, True), axis, 0)[:k], 0, axis)
    return _taken(x, order, axis)


def _order(x, axis, descending):
    """The indices that sort x along axis; equal elements keep their order."""
    if not descending:
        return np.argsort(x, axis=axis, kind="stable")
    backwards = np.argsort(np.flip(x, axis), axis=axis, kind="stable")
    return np.flip(x.shape[axis] - 1 - backwards, axis)


def _taken(x, places, axis):
    """The elements at these indices along axis, all different, and the pullback."""

    def dx(g):
        d = np.zeros(x.shape, g.dtype)
        np.put_along_axis(d, places, g, axis)
        return d

    return np.take_along_axis(x, places, axis), (dx,)


def clone(x: Array, /):
    """y = a copy of x.   dx = g."""
    return np.array(x), (lambda g: g,)


def astype(x: Array, /, dtype: DTypeLike):
    """y = x rounded to another floating-point type.   dx = g, rounded to the type of x."""
    return x.astype(dtype), (lambda g: g,)


def concat(*xs: Array, axis: int = 0):
    """y = the arrays one after another along axis.   Each gets the slice of g that it filled."""
    y = np.concatenate(xs, axis=axis)
    ends = np.cumsum([x.shape[axis] for x in xs])

    def take(x, end):
        index = [slice(None)] * x.ndim
        index[axis] = slice(int(end) - x.shape[axis], int(end))
        return lambda g: g[tuple(index)]

    return y, tuple(take(x, end) for x, end in zip(xs, ends))


def stack(*xs: Array, axis: int = 0):
    """y = the arrays side by side along a new axis.   Each gets its own layer of g."""
    return np.stack(xs, axis=axis), tuple(lambda g, i=i: np.take(g, i, axis=axis) for i in range(len(xs)))


def pad(x: Array, /, widths: Sequence[Sequence[int]], value: float = 0.0):
    """y = x with `value` around it; widths is one (before, after) for each axis.   dx = g without the border."""
    if np.shape(widths)[:1] != (x.ndim,) or any(np.shape(w) != (2,) or min(w) < 0 for w in widths):
        raise ValueError(f"pad: widths {widths} are not one (before, after), none negative, for each axis of {x.shape}")
    inside = tuple(slice(before, before + n) for (before, _), n in zip(widths, x.shape))
    y = np.pad(x, widths, constant_values=typed("pad", value, x.dtype)) if x.ndim else x + 0
    return y, (lambda g: g[inside],)


def tril(x: Array, /, diagonal: int = 0):
    """y = x on and below the diagonal of its last two axes, else 0.   dx = g there, else 0."""
    _needs_rows("tril", x)
    return np.tril(x, diagonal), (lambda g: np.tril(g, diagonal),)


def triu(x: Array, /, diagonal: int = 0):
    """y = x on and above the diagonal of its last two axes, else 0.   dx = g there, else 0."""
    _needs_rows("triu", x)
    return np.triu(x, diagonal), (lambda g: np.triu(g, diagonal),)


def _needs_rows(name, x):
    if x.ndim < 2:
        raise ValueError(f"{name}: shape {x.shape} has no rows and columns; reshape it to two axes or more")


def split_sizes(n: int, size_or_sections: int | Sequence[int]) -> list[slice]:
    """The slices of an axis of n elements for `split`: pieces of a size (the last may be smaller), or given sizes."""
    if isinstance(size_or_sections, int | np.integer):
        if size_or_sections < 1:
            raise ValueError(f"split: pieces of {size_or_sections} elements; give at least 1")
        sizes = [int(size_or_sections)] * max(math.ceil(n / size_or_sections), 1)  # an empty axis is one empty piece
    else:
        sizes = list(size_or_sections)
        if sum(sizes) != n or any(size < 0 for size in sizes):
            raise ValueError(f"split: sizes {sizes} add up to {sum(sizes)}, the axis has {n} elements; none may be < 0")
    starts = np.cumsum([0, *sizes[:-1]])
    return [slice(int(s), min(int(s) + size, n)) for s, size in zip(starts, sizes)]

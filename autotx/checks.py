"""Checks of arguments that many functions share. Each error begins with the name of the function that was called."""

from typing import Any

import numpy as np

from autotx.types import ArrayLike, Generator


class Missing:
    """An attribute that is not there, under a name that people look for: AttributeError says what to use.

    A `__getattr__` could say it too, but would make every other attribute slower.
    """

    def __init__(self, name, cure):
        self.text = f"no attribute {name!r}; {cure}"

    def __get__(self, instance: object, owner: type):
        raise AttributeError(f"{owner.__name__} has {self.text}")


def need_floats(name: str, x: np.ndarray) -> None:
    """TypeError for an array of integers, in whose type a probability or a mean would be rounded to a whole number."""
    if x.dtype.kind != "f":
        raise TypeError(f"{name}: computes with floats, got {x.dtype}; pass dtype=numpy.float32")


def checked_rng(name: str, rng: Any) -> Generator:
    """The rng. TypeError for anything but a Generator, such as a seed."""
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"{name}: rng is {rng!r}; give a numpy.random.Generator, such as numpy.random.default_rng(0)")
    return rng


def checked_probability(owner: str, name: str, p: float) -> float:
    """The probability of dropout. ValueError unless it is from 0 to below 1."""
    if not 0 <= p < 1:
        raise ValueError(f"{owner}: {name} is {p}; give a probability from 0 to below 1")
    return p


def checked_size(owner: str, name: str, size: Any) -> int:
    """A size as a Python int. ValueError for anything but a whole number, 1 or more."""
    if not isinstance(size, int | np.integer) or size < 1:
        raise ValueError(f"{owner}: {name} is {size!r}; give a whole number, 1 or more")
    return int(size)


def broadcasts_to(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    """Whether an array of this shape can be repeated to the shape `target`."""
    try:
        return np.broadcast_shapes(shape, target) == target
    except ValueError:
        return False


def checked_ids(name: str, ids: ArrayLike, size: int, what: str) -> np.ndarray:
    """Integers from 0 to size - 1, as an array of int64. TypeError and ValueError say which id does not fit."""
    ids = np.asarray(ids)
    if ids.dtype.kind not in "iu":
        raise TypeError(f"{name}: ids have type {ids.dtype}; give integers")
    checked = ids.astype(np.int64, copy=False)
    if ids.size and checked.view(np.uint64).max() >= size:  # a negative id, read without a sign, is a huge one
        bad = ids[(ids < 0) | (ids >= size)].flat[0]
        raise ValueError(f"{name}: id {bad} is out of range, there are {size} {what} (0 to {size - 1})")
    return checked

"""How the weights of a file become those of a model: for each pair of a format and an architecture, a list of rows.

    rows = [row("token_embd", "wte.weight"), row(("q", "k", "v"), "attn.qkv.weight", joined(C, C, C)), ...]
    fill(model, rows, tensors, path)        reads: their arrays into the model, all checked before any is changed
    taken(model, rows)                      writes: the model's arrays under their names

A row says which of their arrays are which of ours, and how the layouts differ. Every layout can be inverted, so a file
that is written and read again gives the same bits.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Layout(NamedTuple):
    """An invertible change of a list of arrays."""

    read: Callable  # their arrays -> ours
    write: Callable  # our arrays -> theirs


SAME = Layout(list, list)
TRANSPOSED = Layout(lambda arrays: [a.T for a in arrays], lambda arrays: [a.T for a in arrays])


def joined(*sizes):
    """Several of their arrays are one of ours, one below the other. sizes: how many rows each has."""
    ends = np.cumsum(sizes)[:-1]
    return Layout(lambda arrays: [np.concatenate(arrays)], lambda arrays: np.split(arrays[0], ends))


def reordered(order):
    """Row i of ours is row order[i] of theirs."""
    back = np.argsort(order)
    return Layout(lambda arrays: [a[order] for a in arrays], lambda arrays: [a[back] for a in arrays])


def inverse(layout):
    """The layout that undoes one: inverse(joined(...)) takes one of their arrays apart."""
    return Layout(layout.write, layout.read)


def chain(first, second):
    """Two layouts, one after the other as their arrays become ours."""
    return Layout(lambda arrays: second.read(first.read(arrays)), lambda arrays: first.write(second.write(arrays)))


def row(theirs, ours, layout=SAME):
    """(their names, our names, layout). theirs, ours: a name, or several of them."""
    return *([names] if isinstance(names, str) else list(names) for names in (theirs, ours)), layout


def identity(model):
    """The rows of a file that holds a model as it is."""
    return [row(name, name) for name, _ in model.named_parameters()]


def fill(model, rows, tensors, path, described_by="it"):
    """Set every parameter of a model to what a file holds, converted to the parameter's type.

    tensors: mapping from their names to arrays. path: the file; described_by: where the model's shape comes from; both
    are for errors. ValueError, by the names in the file, for a tensor that is missing, unexpected, of another shape, no
    real numbers, or not finite; nothing is changed then.
    """
    own = dict(model.named_parameters())
    hollow = taken(model, rows, lambda p: np.broadcast_to(p.dtype.type(), p.shape))  # takes no memory
    shapes = {name: array.shape for name, array in hollow.items()}
    for name, array in tensors.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"{path}: {name} holds NaN or Inf")
    faults = [f"missing {name}" for name in shapes if name not in tensors]
    faults += [f"unexpected {name}" for name in tensors if name not in shapes]
    for name in shapes.keys() & tensors.keys():
        if tensors[name].shape != shapes[name]:
            faults.append(f"{name} has shape {tensors[name].shape}, the model {shapes[name]}")
        elif tensors[name].dtype.kind not in "fiu":
            faults.append(f"{name} has type {tensors[name].dtype}, which are not real numbers")
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise ValueError(f"{path} is not of the model that {described_by} describes: {min(faults)}{more}; restore it")
    for theirs, ours, layout in rows:
        for name, array in zip(ours, layout.read([tensors[name] for name in theirs])):
            own[name].writable()[...] = array


def taken(model, rows, array_of=lambda p: p.data):
    """The weights of a model as a file holds them: dict of their name -> array. array_of: what stands for a parameter.

    ValueError for rows that leave a parameter out, name it twice, or name one that is not there.
    """
    own, found = dict(model.named_parameters()), {}
    named = [name for _, ours, _ in rows for name in ours]
    if sorted(named) != sorted(own):
        raise ValueError(f"rows must name each parameter once; look at {set(named) ^ set(own) or 'those named twice'}")
    for theirs, ours, layout in rows:
        found.update(zip(theirs, layout.write([array_of(own[name]) for name in ours])))
    return found

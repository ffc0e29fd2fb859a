"""Conversion between the tensors of a file and the parameters of a model, by a list of rows.

    rows = [row("token_embd", "wte.weight"), row(("q", "k", "v"), "attn.qkv.weight", joined(C, C, C)), ...]
    rows = renamed(model, {"wte": "token_embd", "attn.qkv": ("q", "k", "v")}, {"attn.qkv.weight": joined(C, C, C)}, ...)
    fill(model, rows, tensors, path)              reads: sets the parameters, after checking all tensors
    reader(model, rows, tensors, path, matrix)    reads what generates text, one matrix at a time
    taken(model, rows)                            writes: the parameters as tensors with the file's names and layouts

There is one list for each pair of a format and an architecture. A row names tensors of the file ("theirs"), the
parameters that they become ("ours"), and how the layouts differ. Every layout is invertible, so a file that is written
and read again gives the same bits.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from autotx import kernels
from autotx.models.formats.quantised import Stored


class Layout(NamedTuple):
    """An invertible change of a list of arrays."""

    read: Callable  # their arrays -> ours
    write: Callable  # our arrays -> theirs
    rows: bool = True  # whether it moves whole rows alone, whatever they hold


SAME = Layout(list, list)
TRANSPOSED = Layout(lambda arrays: [a.T for a in arrays], lambda arrays: [a.T for a in arrays], rows=False)


def joined(*sizes):
    """Ours is one array, which holds their arrays one below the other. sizes: the number of rows of each of theirs."""
    ends = np.cumsum(sizes)[:-1]
    return Layout(lambda arrays: [np.concatenate(arrays)], lambda arrays: np.split(arrays[0], ends))


def reordered(order):
    """Row i of our array is row order[i] of theirs. order: an integer array, a permutation."""
    back = np.argsort(order)
    return Layout(lambda arrays: [a[order] for a in arrays], lambda arrays: [a[back] for a in arrays])


def inverse(layout):
    """The layout in the other direction: inverse(joined(...)) splits one array of theirs into several of ours."""
    return Layout(layout.write, layout.read, layout.rows)


def chain(first, second):
    """Two layouts as one. Reading applies `first` first, writing `second` first."""
    read, write = lambda arrays: second.read(first.read(arrays)), lambda arrays: first.write(second.write(arrays))
    return Layout(read, write, first.rows and second.rows)


def row(theirs, ours, layout=SAME):
    """(their names, our names, layout). theirs, ours: a name or a tuple of names."""
    return *([names] if isinstance(names, str) else list(names) for names in (theirs, ours)), layout


def renamed(model, modules, layouts, block):
    """The rows for a file that has other names of modules than a model of blocks, and the same of weights and biases.

    modules: {our module, without the number of its block: their name, or a tuple of names}. layouts: {our module.weight
    or .bias: Layout}, those that are not SAME. block: what their names inside of a block begin with, {} for its number.
    """
    found = []
    for name, _ in model.named_parameters():
        ((number, module, kind),) = re.findall(r"^(?:blocks\.(\d+)\.)?(.+)\.(weight|bias)$", name)
        theirs = modules[module] if isinstance(modules[module], tuple) else (modules[module],)
        start = block.format(number) if number else ""
        found.append(row([f"{start}{their}.{kind}" for their in theirs], name, layouts.get(f"{module}.{kind}", SAME)))
    return found


def hold(shapes, tensors, path):
    """ValueError unless tensors have these shapes, {their name: shape}. To be called before a model is made of sizes
    that stand in a file, which could be anything: the tensors are within it."""
    for name, shape in shapes.items():
        found = tensors.get(name)
        if found is None or found.shape != shape:
            there = "is missing" if found is None else f"has shape {found.shape}"
            raise ValueError(f"{path}: {name} {there}; by the settings of the file it should be {shape}")


def drop_tied(head, table, tensors, path):
    """Remove the head of a model that scores by its token table, if a file has it. ValueError if it is another."""
    if head in tensors and not np.array_equal(np.asarray(tensors.pop(head)), np.asarray(tensors[table])):
        raise ValueError(f"{path}: {head} is not the same as {table}; autotx has one table for both in such a model")


def identity(model):
    """The rows for a file with the model's own names and layouts."""
    return [row(name, name) for name, _ in model.named_parameters()]


def fill(model, rows, tensors, path, described_by="it"):
    """Set every parameter of a model to the tensors of a file, converted to the parameter's type, one row at a time.

    tensors: {their name: array, or what np.asarray makes one of and has its shape and dtype}. path: the file;
    described_by: what the model's shape comes from; errors name both. ValueError, which names the tensor, for one that
    is missing, unexpected, of another shape, or without real numbers; the model is unchanged then. And for one that is
    not finite; the rows before it are set then.
    """
    _check(model, rows, tensors, path, described_by)
    own = dict(model.named_parameters())
    for found in rows:
        _set(own, found, tensors, path)


def reader(model, rows, tensors, path, matrix, described_by="it"):
    """The reader of a model whose parameters are those of a file, without a copy of its matrices in float32.

    Each matrix is read when the reader makes one of the class `matrix` of it, and only that is kept. The model is left
    with the other parameters alone. Arguments and errors: those of `fill`; matrix: as in model.reader.
    """
    _check(model, rows, tensors, path, described_by)
    own = dict(model.named_parameters())
    matrices = _OneByOne(matrix, own, rows, tensors, path)
    made = model.reader(matrix=matrices)  # its vectors and position tables are those of the model, which are set now
    for found in rows:
        if matrices.read.isdisjoint(found[1]):
            _set(own, found, tensors, path)
    return made


class _OneByOne:
    """In place of a class of matrices: it makes one of the tensors of a file, not of the layer's weight."""

    def __init__(self, matrix, own, rows, tensors, path):
        self._matrix, self._tensors, self._path = matrix, tensors, path
        self._row_of = {id(own[name]): (name, found) for found in rows for name in found[1]}
        self.read = set()

    def of(self, layer):
        name, found = self._row_of[id(layer.weight)]
        self.read.add(name)
        weight = _coded(found, self._tensors, self._path) if self._matrix.keeps_codes else None
        if weight is None:
            weight = next(array for other, array in _converted(found, self._tensors, self._path) if other == name)
            weight = np.ascontiguousarray(weight)
        bias = getattr(layer, "bias", None)
        return self._matrix(weight, None if bias is None else bias.data)


def _set(own, found, tensors, path):
    """Set the parameters of a row. own: {name: parameter}."""
    for name, array in _converted(found, tensors, path):
        own[name].writable()[...] = array


def _converted(found, tensors, path):
    """(our name, our array) of each parameter of a row."""
    theirs, ours, layout = found
    arrays = [np.asarray(tensors[name]) for name in theirs]
    for name, array in zip(theirs, arrays):
        _hold_finite(array, name, path)
    return list(zip(ours, layout.read(arrays)))


def _hold_finite(array, name, path):
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{path}: {name} holds NaN or Inf")


def _coded(found, tensors, path):
    """The one parameter of a row as a kernels.codes.Coded; None unless its tensors are in coded formats."""
    theirs, ours, layout = found
    stored = [tensors[name] for name in theirs]
    if len(ours) > 1 or not layout.rows or not all(isinstance(s, Stored) and s.format.coded for s in stored):
        return None
    parts = [s.parts() for s in stored]
    for name, part in zip(theirs, parts):
        for numbers in (part.scales, part.minima):
            _hold_finite(np.zeros(0) if numbers is None else numbers, name, path)
    whole = kernels.codes.join(parts, lambda arrays: layout.read(arrays)[0])
    coded = kernels.codes.Coded(whole, (len(whole.codes), stored[0].shape[1]))
    for s in stored:
        s.release()
    return coded


def _check(model, rows, tensors, path, described_by):
    hollow = taken(model, rows, lambda p: np.broadcast_to(p.dtype.type(), p.shape))  # one number each: for the shapes
    shapes = {name: array.shape for name, array in hollow.items()}
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


def taken(model, rows, array_of=lambda p: p.data):
    """The weights of a model in the layout of a file: {their name: array}. array_of: returns a parameter's array.

    ValueError for rows that leave a parameter out, name it twice, or name one that the model lacks.
    """
    own, found = dict(model.named_parameters()), {}
    named = [name for _, ours, _ in rows for name in ours]
    if sorted(named) != sorted(own):
        raise ValueError(f"rows must name each parameter once; look at {set(named) ^ set(own) or 'those named twice'}")
    for theirs, ours, layout in rows:
        found.update(zip(theirs, layout.write([array_of(own[name]) for name in ours])))
    return found

"""Finds the axes of arrays that run over tokens; the replay page writes the tokens beside the numbers.

The caller gives the names of the rows of tables (the words of an embedding). They are passed through the graph: ids
select rows, ops that move elements move the names, sums keep the names of the axes that remain."""

import numpy as np

from autotx.viz.ops import row

_VISIBLE = {" ": "␣", "\n": "↵", "\r": "␍", "\t": "⇥"}
_LONGEST = 12


def named(recorded, rows, source):
    """The names along the axes of every node's value: dict of node id -> tuple, for each axis a tuple of str or None.

    recorded: a Trace. rows: dict of a leaf's name -> the texts of its rows, along its second-last axis (for a vector
    its only axis). source(node): for an op that only moves elements the rule of page._source, else None.
    ValueError: there is no leaf of that name, or it has another number of rows.
    """
    rows = {name: tuple(map(_visible, texts)) for name, texts in rows.items()}
    found = {}
    for node in recorded.nodes:
        if not node.op:
            found[node.id] = _of_leaf(node, rows)
    for name in rows.keys() - {node.name for node in recorded.nodes}:
        raise ValueError(f"page: rows names {name!r}, which is no leaf of this graph")
    for node in recorded.nodes:
        if node.op:
            found[node.id] = _of_op(node, recorded, found, source(node))
    return found


def _visible(text):
    text = "".join(_VISIBLE.get(c, c if c.isprintable() else f"U+{ord(c):04X}") for c in text)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _of_leaf(node, rows):
    names = [None] * node.value.ndim
    texts = rows.get(node.name)
    if texts and names:
        axis = max(len(names) - 2, 0)
        if node.shape[axis] != len(texts):
            raise ValueError(f"page: rows has {len(texts)} names for {node.name} of shape {node.shape}; give one a row")
        names[axis] = texts
    return tuple(names)


def _of_op(node, recorded, found, moved):
    given = [(recorded.nodes[a.node], found[a.node]) for a in node.parents]
    if moved:
        return _moved(node, given[0], moved)
    if row(node.op).looks_up:
        return _looked_up(node, recorded, found)
    names = [None] * node.value.ndim
    for (parent, theirs), argument in zip(given, node.parents):
        if argument.position is not None:
            for axis in _kept(node, parent, argument.position):
                names[axis] = names[axis] or theirs[axis - len(names)]
    if (last := row(node.op).last) and names:
        argument, axis = last
        if len(given[argument][1]) > 1:
            names[-1] = given[argument][1][axis]
    return tuple(names)


def _kept(node, parent, position):
    """The axes of a result, as indices from 0, that are also axes of the argument `parent`."""
    count = node.value.ndim
    axes = range(max(0, count - parent.value.ndim), count)
    if row(node.op).sums_last:
        axes = [axis for axis in axes if axis < count - 1 and (position == 0 or axis < count - 2)]
    same = node.value.ndim >= parent.value.ndim
    return [axis for axis in axes if same and parent.shape[axis - count] == node.shape[axis] > 1]


def _moved(node, source, rule):
    """The names of the argument's axes on the axes of the result. rule: [first, step, step, ...] of page._source."""
    parent, theirs = source
    first, *steps = rule
    ways = [np.unravel_index(first + step * np.arange(n), parent.shape) for step, n in zip(steps, node.shape)]
    names = [None] * node.value.ndim
    for place, texts in enumerate(theirs):
        along = [axis for axis, way in enumerate(ways) if way[place].min() < way[place].max()]
        if texts and len(along) == 1:  # this axis of the result is the argument's axis, or a part of it
            names[along[0]] = tuple(texts[i] for i in ways[along[0]][place].tolist())
    return tuple(names)


def _looked_up(node, recorded, found):
    """Names for rows selected by ids: the tokens of a sentence, if the batch has a single sentence."""
    table, ids = (next((a.node for a in node.parents if a.name == name), None) for name in ("weight", "ids"))
    texts, ids = found[table][0], recorded.nodes[ids]
    names = [None] * node.value.ndim
    if texts and ids.value.ndim and ids.value.size == ids.shape[-1]:  # several sentences have different tokens
        names[-2] = tuple(texts[i] for i in ids.value.reshape(-1).tolist())
        found[ids.id] = tuple(names[:-1])
    return tuple(names)

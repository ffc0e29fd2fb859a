"""The backward pass: a walk over the recorded graph, from the newest result to the oldest.

Time is counted in ticks. Each tensor carries the tick at which its values were set. The parents of a result (the
arguments of its op) are older than the result, so walking from the newest result to the oldest reaches every consumer
of a tensor before the tensor itself: no recursion, no search for a topological order. A parent that is *younger* than
its result was written to after the graph was recorded. Its gradient would be silently wrong, so backward refuses.

The gradients of a walk are kept beside the graph until it is done. So a walk that fails leaves every `.grad` as it was,
and threads that share parameters can walk at the same time.
"""

import operator

import numpy as np

from autotx import kernels
from autotx.modes import modes, tell

SCALARS = {np.float32, np.float64}  # NumPy computes several times faster with these than with arrays of one number
_ndarray = np.ndarray
by_tick = operator.attrgetter("_tick")


class _Freed:
    """Replaces the pullback of a result whose graph was freed."""


FREED = _Freed()


def reachable(root):
    """The results in the graph of `root`, oldest first, and its leaves that require gradients. ValueError: the graph
    was freed, or a tensor was written to after the graph was recorded."""
    Tensor = root.__class__  # there are no subclasses
    if root._parents is None:
        return [], [root]
    nodes, leaves, stack, seen = [], {}, [root], {id(root)}
    while stack:
        t = stack.pop()
        nodes.append(t)
        if t._backward is FREED:
            raise ValueError(
                f"backward: the graph below this result of {t._op} was freed by an earlier backward; carry h.detach() "
                "from step to step, call the earlier one with retain_graph=True, or compute the result again"
            )
        for p in t._parents:
            if p.__class__ is Tensor:
                if p._parents is None:
                    if p._tick > t._tick:  # constants too: other gradients use their values
                        raise ValueError(_written_after(p, t))
                    if p._requires_grad:
                        leaves[id(p)] = p
                elif p._requires_grad and id(p) not in seen:
                    seen.add(id(p))
                    stack.append(p)
    nodes.sort(key=by_tick)
    return nodes, leaves.values()


def _written_after(parent, node):
    name = f"'{parent.name}'" if parent.name else "a tensor"
    return (
        f"backward: {node._op} was recorded with {name} of shape {parent.shape}, which has been written to since "
        "(by an optimizer step?); its gradient would be wrong. Call backward before, or compute the forward pass again"
    )


def walk_back(nodes, gradients, retain_graph=False):
    """Call the pullback of each of the `nodes`, results that are sorted by tick, from the last to the first.

    gradients: a dict from Tensor to array, with the gradient of the last node. The walk adds those of all tensors that
    require one. Without retain_graph it frees the graph as it goes and takes out the gradients of results.
    """
    watchers, Tensor = modes.watch, nodes[-1].__class__ if nodes else None
    owned = set()  # ids of tensors whose gradient is an array made during this walk: it may be added to in place
    while nodes:
        node = nodes.pop()  # the newest: the pullbacks of all its consumers have been called
        g, pullback, parents = gradients[node], node._backward, node._parents
        if g.__class__ is _ndarray:
            g.setflags(False)  # read-only (write=False is slower): other gradients may be the same array
        if watchers:
            tell(watchers, "begin")
        shared = pullback.__class__ is not tuple
        try:
            if shared:
                wanted = [p.__class__ is Tensor and p._requires_grad for p in parents]
                pullback = _unaliased(pullback(g, wanted))
            if len(pullback) < len(parents):  # zip would leave the last arguments without a gradient
                given = f"{len(parents)} arguments, its pullback gradients for {len(pullback)}"
                raise ValueError(f"backward: {node._op} has {given}; give one for each")
            for p, d in zip(parents, pullback):
                if p.__class__ is Tensor and p._requires_grad:
                    if not shared and d is not None:
                        d = d(g)
                    if d is None:
                        raise ValueError(f"backward: {node._op} has no gradient for an argument that requires one")
                    if watchers:
                        tell(watchers, "gradient", node, p, d, g)
                    have = gradients.get(p)
                    if d.__class__ in SCALARS and d.__class__ is p._data.__class__:  # fast path: single numbers
                        gradients[p] = d if have is None else have + d
                    else:
                        gradients[p] = _sum(p, have, d, g, owned, node._op)
        except ValueError as error:
            if "read-only" not in str(error):
                raise
            cure = "writes into g, which others use too, or into an argument; let it make a new array"
            raise ValueError(f"backward: the pullback of {node._op} {cure}") from error
        if watchers:
            tell(watchers, "end", node)
        if not retain_graph:
            node._backward = FREED
            node._parents = ()
            node._settings = node.grad = None
            del gradients[node]


def _unaliased(gradients):
    """The gradients that one pullback returned, no two sharing memory, since some are added to in place later."""
    owners, result = set(), []
    for d in gradients:
        if d.__class__ is _ndarray:
            owner = id(d if d.base is None else d.base)
            d = d.copy() if owner in owners else d
            owners.add(owner)
        result.append(d)
    return result


def _sum(p, have, d, g, owned, op):
    """The gradient of `p`: what it has, an array or None, plus `d`, which the pullback of `op` made of `g`."""
    data, is_leaf = p._data, p._parents is None
    mine = (is_leaf or id(p) in owned) and have.__class__ is _ndarray and have.flags.writeable  # no NumPy scalar
    if d.__class__ is not _ndarray:
        if callable(d):  # a function that adds the gradient to a buffer
            if not mine:
                have = np.zeros(data.shape, data.dtype) if have is None else np.array(have)
                owned.add(id(p))
            d(have)
            return have
        d = np.asarray(d)
    if d.shape != data.shape or d.dtype != data.dtype:
        d = unbroadcast(d, data.shape, op).astype(data.dtype, copy=False)
    if have is None:
        # A leaf keeps its gradient after backward, so the array must not be g, nor a view of another array
        return d if not is_leaf or (d is not g and kernels.memory.is_whole(d)) else d.copy()
    owned.add(id(p))
    return kernels.add(have, d, have if mine else None)


def unbroadcast(d, shape, op):
    """Sum `d` over the axes along which broadcasting repeated an array of `shape`. Returns an array of `shape`."""
    extra = d.ndim - len(shape)
    if extra < 0 or any(n not in (1, m) for n, m in zip(shape, d.shape[extra:])):
        raise ValueError(
            f"{op}: its pullback returned a gradient of shape {d.shape} for an argument of shape {shape}; it must have "
            "that shape, or one that it broadcasts to"
        )
    if extra > 0:
        d = kernels.total(d, tuple(range(extra)))
    stretched = tuple(i for i, n in enumerate(shape) if n == 1 and d.shape[i] != 1)
    return kernels.total(d, stretched, keepdims=True) if stretched else d

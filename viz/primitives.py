"""Replaces the nodes of fused ops by the simpler ops that they are composed of, with computed values."""

import numpy as np

from autotx.modes import apart
from autotx.tensor import Tensor
from autotx.viz.ops import COMPOSED
from autotx.viz.trace import Argument, Group, Trace


def open_fused(trace, ops):
    """Replace every node of `trace` whose op is in `ops` by the simpler ops that it is composed of, as a new group.

    Changes `trace`. The values are computed again. Attention with dropout is not replaced, as the graph does not keep
    the dropout mask. ValueError: an op that is not in COMPOSED.
    """
    for op in ops:
        if op not in COMPOSED:
            raise ValueError(f"graph: {op} is not known to be composed of others; known are {', '.join(COMPOSED)}")
    count = 0
    while count < len(trace.groups):  # the new ops may include ops to replace
        count = len(trace.groups)
        _open_once(trace, ops)


def _open_once(trace, ops):
    """Replace the present nodes of these ops, but not those among the new nodes."""
    nodes, place = [], {}  # place: old id -> new id
    for node in trace.nodes:
        inner = _compose(trace, node) if node.op in ops else None
        for argument in node.parents:
            argument.node = place[argument.node]
        if inner is None:
            place[node.id] = len(nodes)
        else:
            _splice(trace.groups, nodes, node, inner)
            place[node.id] = len(nodes) - 1
            continue
        node.id = len(nodes)
        nodes.append(node)
    trace.nodes, trace.root = nodes, place[trace.root]
    for group in trace.groups:
        group.nodes = [n.id for n in nodes if n.group == group.id]


def _compose(trace, node):
    """The Trace of the simpler ops that a node is composed of; None if there is no composition for its settings."""
    leaves = {}
    for argument in node.parents:
        if argument.position is not None:
            source = trace.nodes[argument.node].value
            leaves[argument.name] = Tensor(source, requires_grad=source.dtype.kind == "f", name=argument.name)
    with apart():
        out = COMPOSED[node.op](**leaves, **node.settings)
    return None if out is None else Trace(out)


def _splice(groups, nodes, node, inner):
    """Append the nodes of `inner` to `nodes`, as a new group, in place of `node`."""
    above = groups[node.group]
    path = f"{above.path}.{node.op}".lstrip(".")
    taken = sum(g.path.partition("#")[0] == path for g in groups)
    group = Group(len(groups), path if not taken else f"{path}#{taken + 1}", node.op, above.id)
    groups.append(group)
    above.children.append(group.id)
    sources = {a.name: a.node for a in node.parents}
    given = [a for a in node.parents if a.position is None]  # arrays that are settings, such as targets
    grads = {} if node.grad is None else inner.gradients(node.grad)
    place = {}
    for part in inner.nodes:
        if part.kind == "parameter":
            place[part.id] = sources[part.name]
            continue
        if part.kind == "input":
            same = [a.node for a in given if np.array_equal(nodes[a.node].value, part.value)]
            if same:  # a setting passed on unchanged
                place[part.id] = same[0]
                continue
        part.grad = grads.get(part.id)
        place[part.id] = part.id = len(nodes)
        part.parents = [Argument(place[a.node], a.name, a.position) for a in part.parents]
        if part.kind == "input":  # computed from the settings
            part.parents = list(given)
        part.group, part.module = group.id, group.path
        nodes.append(part)
    last = nodes[-1]
    last.kind, last.grad, last.name = node.kind, node.grad, node.name

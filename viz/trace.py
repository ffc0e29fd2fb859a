"""The graph that the engine recorded below a tensor, as plain objects, for the pictures and for the replay page.

`trace(loss)` needs no preparation. It reads from the graph the op, settings and arguments of each result, the values,
and the modules (see notes.py); formulas.py reads the formulas from the docstrings of the ops. Only the lines of Python
that called the ops and the times they took must be recorded while the ops run, inside `with record():`.
"""

import bisect
import functools
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from autotx import frames
from autotx.backward import FREED, by_tick, reachable, unbroadcast, walk_back
from autotx.modes import Watcher, apart, unwatch, watch
from autotx.nn.layers import Module, walk
from autotx.notes import notes
from autotx.tensor import Tensor
from autotx.types import ArrayLike, Mask
from autotx.viz.formulas import formulas, parameters


@dataclass
class Argument:
    """An edge of the graph: one argument of an op. position: None for a setting, such as the ids of an embedding."""

    node: int  # the id of the node it comes from
    name: str  # the name of the op's parameter, such as "weight"
    position: int | None


@dataclass
class Node:
    """An op, or a leaf: a parameter, an input or a constant. Its arrays are read-only views of the tensor's arrays."""

    id: int  # its index in Trace.nodes
    kind: str  # "op", "loss" (the last op, if its result is one number), "parameter", "input", "constant"
    op: str | None
    name: str | None  # for a parameter its path, such as "blocks.0.attn.qkv.weight"; else the tensor's name, or None
    value: np.ndarray
    grad: np.ndarray | None  # `.grad` at the time of the trace
    requires_grad: bool
    group: int = 0  # the id of the innermost Group
    module: str = ""  # the path of that group
    parents: list[Argument] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    formula: str | None = None  # such as "y = x W^T + b"
    gradients: dict = field(default_factory=dict)  # argument's name -> its gradient's formula, such as "dx = g W"
    line: tuple | None = None  # (file, number, text) of the line of Python that called the op, inside record()
    inner_line: tuple | None = None  # the same, but it may be a line of autotx.nn, for example inside Linear
    forward_seconds: float | None = None
    backward_seconds: float | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.value.shape

    @property
    def dtype(self) -> np.dtype:
        return self.value.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of the value; for a view, the bytes of the elements that it shows."""
        return self.value.nbytes


@dataclass
class Group:
    """One call of a module. path: its attributes from the outermost module, such as "blocks.3.attn"; for the outermost
    module its class; "" for the group with id 0, which holds everything. The second call of a module `shared` has the
    path "shared#2"."""

    id: int
    path: str
    module: str  # the class
    parent: int | None
    nodes: list[int] = field(default_factory=list)  # without the nodes of inner groups
    children: list[int] = field(default_factory=list)


@dataclass
class Step:
    """The backward pass through one op: the gradient of its result, and the gradients that it passes on."""

    node: int
    incoming: np.ndarray
    outgoing: dict  # position of each argument that requires a gradient -> array of the argument's shape
    totals: dict  # node id of each of these arguments -> its gradient accumulated up to this step


class Trace:
    """nodes: Nodes in the order of the forward pass, each leaf just before its first use; groups: the tree of modules
    as Groups, parents before children; root: the id of the node of the traced tensor, which is the last node."""

    def __init__(self, root: Tensor):
        self._tensors = {}  # node id -> Tensor
        self._own = set()  # ids of the nodes of tensors that modules hold
        self.nodes, self.groups = list[Node](), [Group(0, "", "", None)]
        results = _results(root)
        self._spans = spans = _spans(results)
        names = _grow_groups(self.groups, spans)
        ids = {}
        for t in results:
            self._add_op(t, t is root, ids, names, _innermost(self.groups, spans, t._tick))
        self.root = len(self.nodes) - 1
        self._place_leaves()
        for node in self.nodes:
            node.module = self.groups[node.group].path
            self.groups[node.group].nodes.append(node.id)

    def backward(self, grad: ArrayLike | None = None) -> list[Step]:
        """The backward pass, op by op: a list of Steps, from the newest op to the oldest.

        Walks as the engine does, for the tensors that required gradients when the graph was traced; keeps the graph and
        leaves each `.grad` as it is. grad, ValueError: as for Tensor.backward.
        """
        root, steps = self._tensors[self.root], _Steps(self._tensors)
        before = [(t, t._requires_grad) for t in self._tensors.values()]
        for node, t in self._tensors.items():
            t._requires_grad = self.nodes[node].requires_grad
        try:
            nodes, _ = reachable(root)
            with apart(steps):
                walk_back(nodes, {root: root._seed(grad)}, retain_graph=True)
        finally:
            for t, requires_grad in before:
                t._requires_grad = requires_grad
        return steps.found

    def gradients(self, grad: ArrayLike | None = None) -> dict[int, np.ndarray]:
        """The gradient of every node that has a gradient: a dict of node id -> array. grad: as for `backward`."""
        grads = {}
        for step in self.backward(grad):
            grads.setdefault(step.node, step.incoming)
            grads.update(step.totals)
        return grads

    # Construction

    def _add_op(self, t, is_root, ids, names, group):
        op, seen = t._op.function, getattr(t._settings, "record", None)
        settings = settings_of(op, t._settings)
        arguments = enumerate(zip(t._parents, _argument_names(op, len(t._parents))))
        parents = [Argument(self._leaf(p, ids, names), name, i) for i, (p, name) in arguments if p is not None]
        formula, gradients = formulas(op, settings)
        gradients = {a.name: gradients.get(a.name) or gradients.get("*") for a in parents}
        for name, value in settings.items():
            if isinstance(value, np.ndarray) and (value.ndim or value.dtype.kind == "i"):
                parents.append(Argument(self._leaf(value, ids, names, name), name, None))
        kind = "loss" if is_root and t.size == 1 else "op"
        facts = t._op.name, t.name, t.data, _view(t.grad), True, group, "", parents, settings
        node = Node(len(self.nodes), kind, *facts)
        node.formula, node.gradients = formula, gradients
        if seen:
            node.line, node.inner_line, node.forward_seconds = seen.line, seen.inner_line, seen.forward_seconds
            node.backward_seconds = seen.backward_seconds
        ids[id(t)] = node.id
        self._tensors[node.id] = t
        self.nodes.append(node)

    def _leaf(self, value, ids, names, setting=None):
        """The id of the node of an argument; adds a node if the argument has none. A Python number gets a new node at
        each use. setting: the name of the setting, if the argument is one."""
        if id(value) in ids and isinstance(value, Tensor | np.ndarray):
            return ids[id(value)]
        is_tensor = isinstance(value, Tensor)
        array = value.data if is_tensor else _view(np.asarray(value))
        if is_tensor and value.requires_grad:
            kind = "parameter"
        else:
            kind = "input" if is_tensor or setting or not _is_one_number(array) else "constant"
        held = names.get(id(value)) or names.get(id(getattr(value, "base", None)))  # a view has the name of its array
        name = held or (value.name if is_tensor else setting)
        node = Node(len(self.nodes), kind, None, name, array, None, kind == "parameter")
        if is_tensor:
            node.grad = _view(value.grad)
            self._tensors[node.id] = value
        if held:
            self._own.add(node.id)
        ids[id(value)] = node.id
        self.nodes.append(node)
        return node.id

    def _place_leaves(self):
        """Put each leaf into the innermost group that contains all its uses; an input of that call goes outside it: a
        tensor that belongs to no module and was not made during the call, or an array, if the module is outermost."""
        uses = {}
        for node in self.nodes:
            for argument in node.parents:
                uses.setdefault(argument.node, []).append(node.group)
        for leaf, groups in uses.items():
            node = self.nodes[leaf]
            if not node.op:
                node.group = functools.reduce(self.common_group, groups)
                while node.kind != "constant" and leaf not in self._own and node.group and self._comes_in(node):
                    node.group = self.groups[node.group].parent

    def _comes_in(self, node):
        t = self._tensors.get(node.id)
        span = self._spans[node.group - 1]
        return self.groups[node.group].parent == 0 if t is None else not span.begin < t._tick < span.end

    def common_group(self, a: int, b: int) -> int:
        """The id of the innermost group that contains both groups."""
        above = set(self.above(a))
        return next(g for g in self.above(b) if g in above)

    def above(self, group: int | None):
        """The ids of a group and of the groups around it, from the inside out."""
        while group is not None:
            yield group
            group = self.groups[group].parent


class _Steps(Watcher):
    """Makes a Step of each op that a walk visits. tensors: dict of node id -> Tensor."""

    def __init__(self, tensors):
        self.ids = {id(t): node for node, t in tensors.items()}
        self.found, self.sums = [], {}  # sums: node id -> its gradient so far

    def begin(self):
        self.incoming, self.outgoing, self.totals = np.empty(0), {}, {}

    def gradient(self, node, parent, d, g):
        if callable(d):  # d adds the gradient to a buffer
            alone = np.zeros(parent.shape, parent.dtype)
            d(alone)
        else:
            alone = unbroadcast(np.asarray(d), parent.shape, node._op).astype(parent.dtype)  # a copy
        position = next(i for i, p in enumerate(node._parents) if p is parent and i not in self.outgoing)
        source = self.ids[id(parent)]
        self.sums[source] = self.sums[source] + alone if source in self.sums else alone
        self.incoming, self.outgoing[position], self.totals[source] = np.asarray(g), alone, self.sums[source]

    def end(self, node):
        self.found.append(Step(self.ids[id(node)], self.incoming, self.outgoing, self.totals))


def trace(tensor: Tensor) -> Trace:
    """The Trace of the graph below `tensor`. TypeError: not a Tensor. ValueError: it has no graph, or an earlier
    backward has freed the graph."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"trace: {type(tensor).__name__} is no Tensor; give the result of a computation")
    return Trace(tensor)


def _results(root):
    """`root` and all results of ops that it was computed from, oldest first."""
    if root._parents is None:
        raise ValueError(
            f"trace: this tensor of shape {root.shape} has no graph; give the result of ops on tensors, one of them "
            "with requires_grad=True, outside no_grad"
        )
    found, stack, seen = [], [root], {id(root)}
    while stack:
        t = stack.pop()
        found.append(t)
        if t._backward is FREED:
            raise ValueError(
                f"trace: the graph below this result of {t._op} was freed by backward; call "
                "backward(retain_graph=True), or draw before backward"
            )
        for p in t._parents:
            if isinstance(p, Tensor) and p._parents is not None and id(p) not in seen:
                seen.add(id(p))
                stack.append(p)
    return sorted(found, key=by_tick)


def _view(array) -> Any:
    """A read-only view of an array; None stays None."""
    if array is None:
        return None
    array = np.asarray(array).view()
    array.flags.writeable = False
    return array


def _is_one_number(array):
    """Whether all elements of an array are the same number, as in the zero bias of a layer without bias."""
    return array.size > 0 and bool((array == array.flat[0]).all())


# Modules


@dataclass
class _Span:
    module: Module
    begin: int
    end: int


def _spans(results):
    """Every noted call of a module, each outer call before the calls inside it."""
    noted = {}
    for t in results:
        for module, begin, end in getattr(t._settings, "spans", ()):
            noted[begin] = _Span(module, begin, end)
    return [noted[begin] for begin in sorted(noted)]


def _innermost(groups, spans, tick):
    """The id of the group of the innermost span that contains a tick. Spans are nested; spans[i] has group i + 1."""
    group = bisect.bisect_left(spans, tick, key=lambda span: span.begin)
    while group and spans[group - 1].end < tick:
        group = groups[group].parent
    return group


def _grow_groups(groups, spans):
    """Add a Group for each span, with its parent and path. Returns the names of all tensors and arrays that modules
    hold, as a dict of id() -> name."""
    tops = []
    for span in spans:
        parent = _innermost(groups, spans[: len(groups) - 1], span.begin)
        if not parent and not any(span.module is top for top in tops):
            tops.append(span.module)
        groups[parent].children.append(len(groups))
        groups.append(Group(len(groups), "", type(span.module).__name__, parent))
    titles, modules, tensors = _unique([type(top).__name__ for top in tops]), {}, {}
    for top, title in zip(tops, titles):
        for path, value in walk(top, "" if len(tops) == 1 else f"{title}."):
            (modules if isinstance(value, Module) else tensors).setdefault(id(value), path)
            if (base := getattr(value, "base", None)) is not None:  # a view: its slices have the same base
                tensors.setdefault(id(base), path)
        modules[id(top)] = title
    calls = {}
    for span, group in zip(spans, groups[1:]):
        above = groups[group.parent].path
        path = modules.get(id(span.module)) or f"{above}.{group.module}".lstrip(".")
        calls[path] = calls.get(path, 0) + 1
        group.path = path if calls[path] == 1 else f"{path}#{calls[path]}"
    return tensors


def _unique(titles):
    """Numbers repeated titles: ["Linear", "Linear"] as ["Linear_1", "Linear_2"]; a title that occurs once stays."""
    return [t if titles.count(t) == 1 else f"{t}_{titles[: i + 1].count(t)}" for i, t in enumerate(titles)]


# Ops: their arguments and settings


def _argument_names(op, count):
    """The names of the `count` differentiable arguments of an op."""
    names = [p.name for p in parameters(op) if p.kind is p.POSITIONAL_ONLY]
    return (names + [f"x{i}" for i in range(len(names), count)])[:count]


def settings_of(op, given):
    """The settings that an op was called with, and its defaults. A setting annotated as an array becomes an array;
    settings that are None are left out."""
    found, given = {}, given or {}
    for p in parameters(op):
        value = given.get(p.name, p.default)
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and value is not None:
            found[p.name] = np.asarray(value) if p.annotation in (ArrayLike, Mask) else value
    return found


# Lines and times


@dataclass
class Record:
    """One op seen by `record`. Times in seconds; backward_seconds is None until the backward pass of the op."""

    op: str
    shape: tuple[int, ...]
    line: Any  # (file, number, text)
    inner_line: Any
    forward_seconds: float
    backward_seconds: float | None = None


class record(Watcher):  # noqa: N801  (a context manager, named as no_grad is)
    """`with record() as r:` records for each op of this thread the line of Python that calls it and the time it takes.

    Pictures of graphs that are made inside show lines and times. `r.records` lists every op in order, also after its
    graph is freed. Recordings can be nested. Inside detect_anomaly the times include its checks.
    """

    def __enter__(self) -> "record":
        self.records, self._by_tick, self._begun = list[Record](), {}, 0.0
        watch(self)
        return self

    def __exit__(self, *error: object) -> None:
        unwatch(self)

    def begin(self):
        self._begun = time.perf_counter()

    def result(self, op, t, data, settings):
        seconds = time.perf_counter() - self._begun
        lines = frames.calling_line(), frames.calling_line(frames.OPS)
        seen = Record(op, t.shape, *lines, seconds)
        self.records.append(seen)
        self._by_tick[t._tick] = seen
        if t._parents is not None:
            notes(t).record = seen

    def end(self, node):
        seen = self._by_tick.get(node._tick)
        if seen:
            seen.backward_seconds = time.perf_counter() - self._begun

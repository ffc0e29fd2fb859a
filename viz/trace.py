"""What the engine recorded below a tensor, as plain objects: the ground for pictures and for the page that replays.

`trace(loss)` needs nothing switched on before. It reads the graph: the op, settings and arguments of each result, the
values, and the modules (see notes.py). formulas.py reads the formulas from the docstrings of the ops. Only two things
must be observed while they happen, inside `with record():`, the lines of Python that made the ops, and the time they
took.
"""

import bisect
import functools
import time
from dataclasses import dataclass, field

import numpy as np

from autotx import anomaly
from autotx import tensor as engine
from autotx.modes import Watcher, unwatch, watch
from autotx.nn import Module, walk
from autotx.notes import notes
from autotx.tensor import Tensor
from autotx.types import ArrayLike, Mask
from autotx.viz.formulas import formulas, parameters


@dataclass
class Argument:
    """An edge of the graph: one argument of an op. position: None for a setting, such as the ids of an embedding."""

    node: int  # the id of the node it comes from
    name: str  # what the op calls it, such as "weight"
    position: int | None


@dataclass
class Node:
    """An op, or a leaf: a parameter, an input, a constant. Arrays are the tensors' own, as read-only views."""

    id: int  # its place in Trace.nodes
    kind: str  # "op", "loss" (the op at the end, when it is one number), "parameter", "input", "constant"
    op: str | None
    name: str | None  # of a parameter: its path, such as "blocks.0.attn.qkv.weight"; else the tensor's name, or None
    value: np.ndarray
    grad: np.ndarray | None  # `.grad` at the time of the trace
    requires_grad: bool
    group: int = 0  # the id of the innermost Group
    module: str = ""  # the path of that group
    parents: list[Argument] = field(default_factory=list)
    settings: dict = field(default_factory=dict)
    formula: str | None = None  # such as "y = x W^T + b"
    gradients: dict = field(default_factory=dict)  # argument's name -> such as "dx = g W"
    line: tuple | None = None  # (file, number, text) of the line of Python that made it, inside record()
    inner_line: tuple | None = None  # the same, with autotx.nn's own lines: where in a Linear, say
    forward_seconds: float | None = None
    backward_seconds: float | None = None

    @property
    def shape(self):
        return self.value.shape

    @property
    def dtype(self):
        return self.value.dtype

    @property
    def nbytes(self):
        """Bytes of the value; a view counts as what it shows."""
        return self.value.nbytes


@dataclass
class Group:
    """One call of a module. path: its attributes from the outermost module, "blocks.3.attn"; of the outermost one, its
    class; "" for the group of everything, with id 0. A second call of the same module is "shared#2"."""

    id: int
    path: str
    module: str  # the class
    parent: int | None
    nodes: list[int] = field(default_factory=list)  # those of no inner group
    children: list[int] = field(default_factory=list)


@dataclass
class Step:
    """The backward pass through one op: the gradient that came in, and what it gave to each argument that wants one."""

    node: int
    incoming: np.ndarray
    outgoing: dict  # position -> array of the argument's shape
    totals: dict  # node id of each of these arguments -> the sum of what it has got by now


class Trace:
    """nodes: Nodes in the order of the forward pass, leaves just before their first use; groups: Groups, the tree of
    modules, parents before children; root: the id of the node of the traced tensor, the last."""

    def __init__(self, root):
        self._tensors = {}  # node id -> Tensor
        self._own = set()  # ids of the nodes of tensors that modules hold
        self.nodes, self.groups = [], [Group(0, "", "", None)]
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

    def backward(self, grad=None):
        """The backward pass, op by op: a list of Steps, from the newest op to the oldest.

        The engine walks the graph, with the tensors requiring gradients that did so when it was traced. Afterwards
        every tensor's `.grad` is what it was before, and the graph stays. grad and ValueError: as for Tensor.backward.
        """
        before = [(t, t.grad, t.requires_grad) for t in self._tensors.values()]
        steps = _Steps(self._tensors)
        for node, t in self._tensors.items():
            t.grad, t.requires_grad = None, self.nodes[node].requires_grad
        watch(steps)
        try:
            self._tensors[self.root].backward(grad, retain_graph=True)
        finally:
            unwatch(steps)
            for t, grad, requires_grad in before:
                t.grad, t.requires_grad = grad, requires_grad
        return steps.found

    def gradients(self, grad=None):
        """The gradient of every node that gets one: a dict of node id -> array. Arguments as for `backward`."""
        grads = {}
        for step in self.backward(grad):
            grads.setdefault(step.node, step.incoming)
            grads.update(step.totals)
        return grads

    # How it is built

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
        """The id of the node of an argument, made if it is new. Numbers are new each time. setting: its name, if it is
        one."""
        if id(value) in ids and isinstance(value, Tensor | np.ndarray):
            return ids[id(value)]
        is_tensor = isinstance(value, Tensor)
        array = value.data if is_tensor else _view(np.asarray(value))
        if is_tensor and value.requires_grad:
            kind = "parameter"
        else:
            kind = "input" if is_tensor or setting or not _is_one_number(array) else "constant"
        held = names.get(id(value)) or names.get(
            id(getattr(value, "base", None))
        )  # a part of an array is called so too
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
        """A leaf belongs to the innermost group that all its uses have in common. But what comes in belongs outside:
        a tensor that is no module's and older than the call; an array, when the module is an outermost one."""
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

    def common_group(self, a, b):
        """The id of the innermost group that holds both."""
        above = set(self.above(a))
        return next(g for g in self.above(b) if g in above)

    def above(self, group):
        """The ids of a group and of those around it, from the inside out."""
        while group is not None:
            yield group
            group = self.groups[group].parent


class _Steps(Watcher):
    """Makes a Step of each op that the engine's backward pass visits. tensors: dict of node id -> Tensor."""

    def __init__(self, tensors):
        self.ids = {id(t): node for node, t in tensors.items()}
        self.found, self.outgoing = [], {}

    def begin(self):
        self.outgoing = {}

    def gradient(self, node, parent, d, g):
        if callable(d):  # it adds itself to a buffer
            alone = np.zeros(parent.shape, parent.dtype)
            d(alone)
        else:
            alone = engine.unbroadcast(np.asarray(d), parent.shape, node._op).astype(parent.dtype)  # a copy
        position = next(i for i, p in enumerate(node._parents) if p is parent and i not in self.outgoing)
        self.outgoing[position] = alone

    def end(self, node):
        parents = {self.ids[id(node._parents[i])]: node._parents[i] for i in self.outgoing}
        totals = {i: np.array(p.grad) for i, p in parents.items()}  # copies: the engine adds to its buffers in place
        self.found.append(Step(self.ids[id(node)], np.asarray(node.grad), self.outgoing, totals))


def trace(tensor: Tensor) -> Trace:
    """The Trace of what was recorded below `tensor`. TypeError: no Tensor. ValueError: it has no graph, or one that an
    earlier backward has freed."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"trace: {type(tensor).__name__} is no Tensor; give the result of a computation")
    return Trace(tensor)


def _results(root):
    """The results that `root` was made of, oldest first."""
    if root._parents is None:
        raise ValueError(
            f"trace: this tensor of shape {root.shape} has no graph; give the result of ops on tensors, one of them "
            "with requires_grad=True, outside no_grad"
        )
    found, stack, seen = [], [root], {id(root)}
    while stack:
        t = stack.pop()
        found.append(t)
        if t._backward is engine.FREED:
            raise ValueError(
                f"trace: the graph below this result of {t._op} was freed by backward; call "
                "backward(retain_graph=True), or draw before backward"
            )
        for p in t._parents:
            if isinstance(p, Tensor) and p._parents is not None and id(p) not in seen:
                seen.add(id(p))
                stack.append(p)
    return sorted(found, key=engine.by_tick)


def _view(array):
    """A read-only view of an array; None stays None."""
    if array is None:
        return None
    array = np.asarray(array).view()
    array.flags.writeable = False
    return array


def _is_one_number(array):
    """Whether an array is one number, or the same number everywhere, as the bias of a layer that has none."""
    return array.size > 0 and bool((array == array.flat[0]).all())


# Modules


@dataclass
class _Span:
    module: Module
    begin: int
    end: int


def _spans(results):
    """Every noted call of a module, outer ones before those inside them."""
    noted = {}
    for t in results:
        for module, begin, end in getattr(t._settings, "spans", ()):
            noted[begin] = _Span(module, begin, end)
    return [noted[begin] for begin in sorted(noted)]


def _innermost(groups, spans, tick):
    """The group of the innermost span that a tick lies in. Spans are nested, and the group of spans[i] is i + 1."""
    group = bisect.bisect_left(spans, tick, key=lambda span: span.begin)
    while group and spans[group - 1].end < tick:
        group = groups[group].parent
    return group


def _grow_groups(groups, spans):
    """Add a Group for each span, with its place and path. Returns the names of all tensors and arrays that modules
    hold, by id."""
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
            if getattr(value, "base", None) is not None:  # an array that is a view: its parts are views of the same
                tensors.setdefault(id(value.base), path)
        modules[id(top)] = title
    calls = {}
    for span, group in zip(spans, groups[1:]):
        above = groups[group.parent].path
        path = modules.get(id(span.module)) or f"{above}.{group.module}".lstrip(".")
        calls[path] = calls.get(path, 0) + 1
        group.path = path if calls[path] == 1 else f"{path}#{calls[path]}"
    return tensors


def _unique(titles):
    """["Linear", "Linear"] as ["Linear_1", "Linear_2"]; a title that occurs once stays."""
    return [t if titles.count(t) == 1 else f"{t}_{titles[: i + 1].count(t)}" for i, t in enumerate(titles)]


# Ops: their arguments and settings


def _argument_names(op, count):
    """What an op calls its differentiable arguments."""
    names = [p.name for p in parameters(op) if p.kind is p.POSITIONAL_ONLY]
    return (names + [f"x{i}" for i in range(len(names), count)])[:count]


def settings_of(op, given):
    """The settings that an op was called with, and its defaults. One that the op takes as an array is an array; None,
    which stands for a setting that is not there, is left out."""
    found = {}
    for p in parameters(op):
        value = given.get(p.name, p.default)
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and value is not None:
            found[p.name] = np.asarray(value) if p.annotation in (ArrayLike, Mask) else value
    return found


# Lines and times


@dataclass
class Record:
    """What `record` saw of one op. Seconds; None until it has happened."""

    op: str
    shape: tuple
    line: tuple  # (file, number, text)
    inner_line: tuple
    forward_seconds: float
    backward_seconds: float | None = None


class record(Watcher):  # noqa: N801  (a context manager, named as no_grad is)
    """`with record() as r:` watch the ops of this thread: which line of Python calls each, and how long it takes.

    Pictures of graphs that are made inside show lines and times. `r.records` lists every op that was seen, in order,
    also when its graph is freed. Several may be inside one another. Inside detect_anomaly, which may be used at the
    same time, the times have its inspection in them.
    """

    def __enter__(self):
        self.records, self._by_tick, self._begun = [], {}, 0.0
        watch(self)
        return self

    def __exit__(self, *error):
        unwatch(self)

    def begin(self):
        self._begun = time.perf_counter()

    def result(self, op, t, data, settings):
        seconds = time.perf_counter() - self._begun
        lines = anomaly.calling_line(), anomaly.calling_line(anomaly.OPS)
        seen = Record(op, t.shape, *lines, seconds)
        self.records.append(seen)
        self._by_tick[t._tick] = seen
        if t._parents is not None:
            notes(t).record = seen

    def end(self, node):
        seen = self._by_tick.get(node._tick)
        if seen:
            seen.backward_seconds = time.perf_counter() - self._begun

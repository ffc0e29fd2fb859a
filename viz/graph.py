"""Computation graphs as pictures, and as JSON for other programs.

`graph(loss)` draws the recorded graph, grouped by module, with equal blocks folded into one and modules closed until
the picture is small enough to read. This file combines trace.py, which reads the graph, folding.py, which chooses the
nodes to show, labels.py, which writes their texts, and dot.py, which lays them out.
"""

import html
import json
import math
from collections.abc import Sequence
from typing import Any

import graphviz
import numpy as np

from autotx.files import checked_path, write_atomically
from autotx.tensor import Tensor
from autotx.text import counted
from autotx.types import ArrayLike, PathLike
from autotx.viz import dot, folding, labels, titles
from autotx.viz.ops import COMPOSED
from autotx.viz.primitives import open_fused
from autotx.viz.trace import trace

# The look of each kind of node: kinds differ in shape as well as in colour. The colours are tints of the palette of
# Okabe and Ito, which colour-blind readers can distinguish; black text on each has a contrast ratio above 12.
_LOOKS = {
    "input": ("input", {"shape": "note", "fillcolor": "#cdeadf", "color": "#00734f"}),
    "parameter": ("parameter", {"shape": "box3d", "margin": "0.24,0.1", "fillcolor": "#fde2b3", "color": "#8a5a00"}),
    "op": ("op, its result", {"shape": "box", "style": "rounded,filled", "fillcolor": "#d9ebf8", "color": "#00568c"}),
    "group": ("closed module", {"shape": "box", "peripheries": "2", "fillcolor": "#e8e8e8", "color": "#444444"}),
    "loss": (
        "loss",
        {"shape": "octagon", "penwidth": "2.2", "margin": "0.03,0.01", "fillcolor": "#f6d3e3", "color": "#8c2a5b"},
    ),
    "rest": ("left out", {"shape": "box", "style": "dashed", "color": "#444444"}),
}
_RULE = ("", False)  # a row of a label that is drawn as a horizontal line
_LINE = '<TR><TD HEIGHT="4"></TD></TR><HR/><TR><TD HEIGHT="4"></TD></TR>'
_PLATE = (  # the label of an edge on a white background, a little beside the edge
    '<<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="0"><TR><TD></TD>'
    '<TD BGCOLOR="white" STYLE="ROUNDED">{}</TD></TR></TABLE>>'
)
Grads = ArrayLike | bool | None  # whether gradients are shown, or the gradient to begin with
_SMALL = 12  # ops up to which values are drawn when nobody says
_DISPLAYED = 40  # the most nodes of a graph that a notebook shows below a tensor


def graph(
    tensor: Tensor, depth: int | None = None, expand: Sequence[str] = (), values: bool | None = None,
    grads: Grads = None, formulas: bool = False, fused: Sequence[str] = (), max_nodes: int = 60, legend: bool = True,
) -> graphviz.Digraph:  # fmt: skip
    """Draw the graph below a Tensor. Returns a graphviz.Digraph, which a notebook shows.

    depth: the number of levels of modules that are open (0: none); None chooses.
    expand: paths of further modules to open: ["blocks.0", "blocks.0.attn"]; "blocks" opens the block drawn for all.
    values: whether nodes show their value, or its mean, deviation and range; None: if the graph is small.
    grads: the same for gradients. True computes the missing gradients without changing `.grad`; None shows the existing
    gradients if the graph is small. An array is the gradient of `tensor` to start from, instead of ones.
    formulas: whether ops show their formula and those of the gradients (an .svg always shows them as tooltips).
    fused: names of ops to draw as the primitives that they are composed of: ["layer_norm"].
    max_nodes: a larger graph is folded further, with a note in the picture. legend: whether to explain the shapes.
    ValueError: no graph, a freed graph, an unknown path or op, depth < 0, max_nodes < 3.
    """
    fused = [fused] if isinstance(fused, str) else fused
    traced = _traced(tensor, grads, fused)
    expand = [expand] if isinstance(expand, str) else list(expand)
    expand += [g.path.partition("#")[0] for g in traced.groups if g.module in fused]
    shown = folding.view(traced, depth, expand, max_nodes)
    return _Drawing(traced, shown, values, None if grads is None else grads is not False, formulas).draw(legend)


def render(tensor: Tensor, path: PathLike, **settings: Any) -> None:
    """Draw the graph below a Tensor to a file, atomically: .svg, .png, .dot, or, with Graphviz installed, .pdf.
    settings: the settings of `graph`. ValueError: as for `graph`, another file type, or no such folder; OSError: the
    file cannot be written."""
    dot.checked_path(path)
    dot.write(graph(tensor, **settings).source, path)


def graph_json(tensor: Tensor, grads: Grads = None, fused: Sequence[str] = ()) -> dict[str, Any]:
    """The whole graph for other programs, as a dict that json.dumps accepts. grads, fused: as for `graph`.

    nodes: in forward order, each a dict of id, kind, op, math, name, shape, dtype, nbytes, group, module, parents
    (ids), formula, gradients, settings, line, forward_seconds, backward_seconds, value and grad (up to 64 numbers in
    full, larger arrays as statistics). edges: source, target, argument, shape. groups: id, path, module, parent,
    children, nodes, and same_as: for a repeated block the id of the first of the equal blocks in a row, else None.
    root: the id of the last node."""
    traced = _traced(tensor, grads, fused)
    same = {member: run[0] for run in folding.runs(traced) for member in run[1:]}
    return {
        "nodes": [_node_json(n, traced.nodes) for n in traced.nodes],
        "edges": [
            {"source": a.node, "target": n.id, "argument": a.name, "shape": list(traced.nodes[a.node].shape)}
            for n in traced.nodes
            for a in n.parents
        ],
        "groups": [vars(g) | {"same_as": same.get(g.id)} for g in traced.groups],
        "root": traced.root,
    }


def write_json(tensor: Tensor, path: PathLike, grads: Grads = None) -> None:
    """Write `graph_json` to a file, atomically. ValueError: no such folder. OSError: the file cannot be written."""
    path = checked_path(path)
    write_atomically(path, json.dumps(graph_json(tensor, grads), allow_nan=False).encode())


def _traced(tensor, grads, fused):
    traced = trace(tensor)
    if grads is not None and grads is not False:
        computed = traced.gradients(np.ones(tensor.shape) if grads is True else grads)
        for node in traced.nodes:
            if node.grad is None:
                node.grad = computed.get(node.id)
    if fused:
        open_fused(traced, fused)
    return traced


def _node_json(node, nodes):
    line = node.line and {"file": node.line[0], "number": node.line[1], "text": node.line[2]}
    return {
        "id": node.id,
        "kind": node.kind,
        "op": node.op,
        "math": labels.math(node, nodes) if node.op else None,
        "name": node.name,
        "shape": list(node.shape),
        "dtype": str(node.dtype),
        "nbytes": node.nbytes,
        "group": node.group,
        "module": node.module,
        "parents": [a.node for a in node.parents],
        "formula": node.formula,
        "gradients": node.gradients,
        "settings": {key: labels.setting(value) for key, value in node.settings.items()},
        "line": line,
        "forward_seconds": node.forward_seconds,
        "backward_seconds": node.backward_seconds,
        "value": _array_json(node.value),
        "grad": None if node.grad is None else _array_json(node.grad),
    }


def _array_json(array):
    """Up to 64 numbers in full, a larger array as statistics. NaN and infinity become None: JSON cannot store them."""

    def plain(x):
        if isinstance(x, list):
            return [plain(v) for v in x]
        return None if isinstance(x, float) and not math.isfinite(x) else x

    if array.size <= 64:
        return {"numbers": plain(array.tolist())}
    return {name: plain(value) for name, value in labels.statistics(array).items()}


class _Drawing:
    """One picture: a Trace, a View of it, and the settings of its labels."""

    def __init__(self, traced, view, values=None, grads=None, formulas=False):
        self.formulas = formulas
        self.trace, self.nodes, self.groups, self.view = traced, traced.nodes, traced.groups, view
        small = sum(item.kind == "node" for item in view.items.values()) == len(view.items) <= 2 * _SMALL
        self.unasked = values is None
        self.values = small if values is None else values
        self.grads = small if grads is None else grads
        self.parameters = self._count_parameters()
        self.shifts, self.cramped = {}, {}  # for each title: its shift to the right, how often it did not fit

    def draw(self, legend):
        moves = titles.shifts(self._drawn(legend).source)
        for _ in range(3):  # a title that does not fit into its frame gets two lines, then a wider frame
            cramped = [cluster for cluster, shift in moves.items() if shift is None]
            if cramped:
                self.cramped.update({cluster: self.cramped.get(cluster, 0) + 1 for cluster in cramped})
                moves = titles.shifts(self._drawn(legend).source)
        self.shifts = {cluster: shift for cluster, shift in moves.items() if shift}
        return self._drawn(legend)

    def _drawn(self, legend):
        drawn = dot.Digraph("autotx", format="svg")
        drawn.attr(fontname=dot.FONT, fontsize="10", nodesep="0.3", ranksep="0.35", labelloc="b", tooltip=" ")
        drawn.attr("node", fontname=dot.FONT, fontsize="12", style="filled", margin="0.19,0.09", tooltip=" ")
        drawn.attr("edge", fontname=dot.FONT, fontsize="9", color="#555555", arrowsize="0.7", fontcolor="#333333")
        self._draw_group(drawn, 0)
        self._draw_edges(drawn)
        if self.view.notes:
            drawn.attr(label=_quoted("\n".join(self.view.notes)))
        if legend:
            self._draw_legend(drawn)
        return drawn

    # Groups and nodes

    def _draw_group(self, drawn, group):
        for key, item in self.view.items.items():
            if item.group == group:
                label, look, tooltip = getattr(self, f"_{item.kind}")(item)
                drawn.node(_id(key), label=label, tooltip=_quoted(tooltip), **look)
        for child in self.groups[group].children:
            if child in self.view.open and self._is_shown(child):
                with drawn.subgraph(name=f"cluster_{child}") as inner:
                    inner.attr(
                        label=self._banner(child),
                        labelloc="t",
                        labeljust="l",
                        style="rounded,filled",
                        fillcolor="#fafafa" if self._level(child) % 2 else "#f1f1f1",
                        color="#777777",
                        fontsize="12",
                        margin="12",
                        tooltip=_quoted(self.groups[child].path),
                    )
                    self._draw_group(inner, child)

    def _is_shown(self, group):
        """Whether the picture has an item inside the group. Of equal blocks that are folded, only the first has."""
        return any(group in self.trace.above(item.group) for item in self.view.items.values())

    def _level(self, group):
        return sum(1 for _ in self.trace.above(group))

    def _heading(self, group):
        """The path and the class of a group: ("blocks.0 to blocks.11", "Block × 12")."""
        g = self.groups[group]
        run = self.view.runs.get(group)  # equal blocks, folded
        path = f"{g.path} to {self.groups[run.members[-1]].path}" if run else g.path
        if g.module in COMPOSED:  # an op drawn as its primitives
            return labels.op_title(g.module), ""
        module = "" if g.path == g.module else g.module
        return path.replace("#", ", call "), f"{module} × {len(run.members)}" if run else module

    def _node(self, item):
        node = self.nodes[item.id]
        if node.op:
            name, written = labels.math(node, self.nodes), labels.title(node)
            facts = [] if written in name else [written]
            name = f"{node.name} = {name}" if node.name else name
        else:
            name, facts = node.name or node.kind, []
        rows = [(labels.shortened(name), True)]
        rows.append((" · ".join([*facts, labels.shape(node)]), False))
        rows.append((f"{node.dtype} · {labels.memory(node.nbytes)}", False))
        rows += self._formulas(node)
        if self.values or (self.unasked and node.kind == "input" and node.dtype.kind in "iub"):
            rows += self._numbers("value", node.value)
        if self.grads and node.grad is not None:
            rows += self._numbers("gradient", node.grad)
        if node.forward_seconds is not None:
            rows.append((self._times(node.forward_seconds, node.backward_seconds), False))
        return self._lines(rows), _LOOKS[node.kind][1], _tooltip(node, self.nodes)

    def _formulas(self, node):
        """The rows of the formulas of an op, forward and backward, between two horizontal lines."""
        if not (self.formulas and node.op and node.formula):
            return []
        backward = dict.fromkeys(f"backward: {text}" for text in node.gradients.values() if text)
        wrapped = [row for text in (f"forward: {node.formula}", *backward) for row in labels.wrapped(text)]
        return [_RULE, *((row, False) for row in wrapped), _RULE]

    @staticmethod
    def _numbers(name, array):
        """The rows of an array's numbers: on the line of its name, or below it."""
        found = labels.numbers(array)
        rows = [f"{name} {found[0]}"] if len(found) == 1 and isinstance(found[0], str) else [name, *found]
        return [(row, False) for row in rows]

    def _group(self, item):
        run = self.view.runs.get(item.id)
        group = self.groups[item.id]
        rows = [(labels.shortened(words), True) for words in self._heading(item.id) if words]
        count = self.parameters.get(item.id, 0)
        if count:
            rows.append((f"{counted(count, 'parameter')}{' each' if run else ''}", False))
        out = self._results(item)
        rows += [(f"{labels.shape(self.nodes[n])} · {self.nodes[n].dtype}", False) for n in out[:2]]
        timed = [n for n in self._members(item, run) if n.forward_seconds is not None]
        if timed:
            backward = [n.backward_seconds for n in timed if n.backward_seconds is not None]
            forward = sum(n.forward_seconds for n in timed)
            rows.append((self._times(forward, sum(backward) if backward else None), False))
        nodes = counted(len(item.nodes), "node")
        return self._lines(rows), _LOOKS["group"][1], f"{group.path}: {group.module}, {nodes}"

    def _rest(self, item):
        return self._lines([(f"{counted(len(item.nodes), 'node')} more", True)]), _LOOKS["rest"][1], "left out"

    def _members(self, item, run):
        """The nodes of a closed group, or of all the blocks that are folded into it."""
        groups = set(run.members) if run else {item.id}
        return [n for n in self.nodes if not groups.isdisjoint(self.trace.above(n.group))]

    def _results(self, item):
        """The nodes whose values leave a closed group."""
        key = (item.kind, item.id)
        out = list(dict.fromkeys(value for source, _, value, _, _ in self.view.edges if source == key))
        return [n for n in out if self.nodes[n].op] or ([self.trace.root] if self.trace.root in item.nodes else [])

    def _count_parameters(self):
        """The number of elements of the parameters in each group: a dict of group id -> count."""
        counts = {}
        for node in self.nodes:
            if node.kind == "parameter":
                for group in self.trace.above(node.group):
                    counts[group] = counts.get(group, 0) + node.value.size
        return counts

    @staticmethod
    def _times(forward, backward):
        after = "" if backward is None else f", backward {labels.seconds(backward)}"
        return f"forward {labels.seconds(forward)}{after}"

    @staticmethod
    def _lines(rows):
        """An HTML-like label of lines, the strong lines large, and matrices. It is a table: rows of any height do not
        overlap."""
        cells = (
            f"<B>{labels.escaped(text)}</B>" if strong else f'<FONT POINT-SIZE="9">{_small(text)}</FONT>'
            for text, strong in rows
            if text
        )
        parts = (_LINE if row == _RULE else f"<TR><TD>{next(cells)}</TD></TR>" for row in rows)
        rows = "".join(parts).removesuffix(_LINE)
        return f'<<TABLE BORDER="0" CELLBORDER="0" CELLSPACING="0" CELLPADDING="1">{rows}</TABLE>>'

    def _banner(self, group):
        """The label of an open module: as short as possible, with space beside it for the edges that come in."""
        path, module = self._heading(group)
        inside = self.groups[self.groups[group].parent].path + "."
        first, _, last = path.removeprefix(inside).partition(" to ")
        path = f"{first} to {last.rpartition('.')[2]}" if last else first
        lack = self.cramped.get(f"cluster_{group}", 0)
        lines = [path, module] if lack else [f"{path}   {module}"]
        lines = [labels.shortened(line.rstrip(), 50) for line in lines if line]
        shift = self.shifts.get(f"cluster_{group}", 0)
        sides = shift, 7 * max(map(len, lines)) * max(1, lack + (not module)) - shift
        before, after = (f'<TD WIDTH="{width:.0f}"></TD>' if width > 0 else "" for width in sides)
        rows = (f'{before}<TD ALIGN="LEFT"><B>{labels.escaped(line)}</B></TD>{after}' for line in lines)
        rows = "".join(f"<TR>{row}</TR>" for row in rows)
        return f'<<TABLE BORDER="0" CELLSPACING="0" CELLPADDING="0">{rows}</TABLE>>'

    # Edges and the legend

    def _draw_edges(self, drawn):
        drawn_ones = set()
        for source, target, value, name, op in self.view.edges:
            node = self.nodes[value]
            text = labels.shape(node)
            consumer = self.nodes[op]
            if target[0] == "node" and labels.names_argument(consumer, value, self.nodes):
                text = f"{name} {text}"
            single = source[0] == target[0] == "node"  # both edges of x * x are drawn: its gradient has two parts
            edge = source, target, text, name if single else None
            if edge not in drawn_ones:
                drawn_ones.add(edge)
                formula = consumer.gradients.get(name)
                told = _quoted(f"{name} of {labels.title(consumer)}{f': {formula}' if formula else ''}")
                text = _PLATE.format(labels.escaped(text))  # edges do not cross the text
                drawn.edge(_id(source), _id(target), label=text, tooltip=told, labeltooltip=told)

    def _draw_legend(self, drawn):
        kinds = {self.nodes[i.id].kind if i.kind == "node" else i.kind for i in self.view.items.values()}
        with drawn.subgraph(name="cluster_legend") as legend:
            look = {"style": "rounded", "color": "#bbbbbb", "margin": "8", "tooltip": "Legend"}
            legend.attr(label="Legend", labelloc="t", fontsize="10", **look)
            shown = [kind for kind in _LOOKS if kind in kinds]
            small = {"fontsize": "9", "margin": "0.1,0.04", "height": "0.3"}
            for kind in shown:
                words, look = _LOOKS[kind]
                legend.node(f"legend_{kind}", label=words, **look | small)
            for kind in shown:  # below the last node
                drawn.edge(_id(self.view.root), f"legend_{kind}", style="invis", weight="0")


def _small(text):
    """A text, or a matrix (a list of lists of text), for an HTML-like label. The size of a matrix is fixed, as Graphviz
    would widen it to the width of the node. At 9 points a letter is at most 5.8 points wide and 12 high."""
    if isinstance(text, str):
        return labels.escaped(text)
    width = round(5.8 * max(len(number) for row in text for number in row)) + 6
    rows = ("".join(f'<TD ALIGN="RIGHT" WIDTH="{width}">{number}</TD>' for number in row) for row in text)
    rows = "".join(f"<TR>{row}</TR>" for row in rows)
    size = f'FIXEDSIZE="TRUE" WIDTH="{width * len(text[0])}" HEIGHT="{14 * len(text)}"'
    return f'<TABLE {size} BORDER="0" CELLSPACING="0" CELLPADDING="1">{rows}</TABLE>'


def _quoted(text):
    """A text of lines escaped for a tooltip, or for a label that is no HTML."""
    return graphviz.escape(labels.printable(text, keep="\n"))


def _id(key):
    return "_".join(map(str, key))


def _tooltip(node, nodes):
    """The tooltip of a node: the formulas, arguments that are plain numbers, settings, and the line of Python."""
    rows = [f"{node.module or 'outside of modules'}: {node.name or node.op or node.kind}"]
    if node.formula:
        rows.append(node.formula)
    rows += [f"gradient: {text}" for text in dict.fromkeys(node.gradients.values()) if text]
    for argument in node.parents:
        if nodes[argument.node].kind == "constant":
            rows.append(f"{argument.name} = {labels.number(nodes[argument.node].value.flat[0])}")
    for name, value in node.settings.items():
        if not hasattr(value, "shape"):
            rows.append(f"{name} = {labels.shortened(labels.setting(value), 60)}")
    if node.line:
        rows.append(f"{node.line[0]}, line {node.line[1]}: {node.line[2]}")
    return "\n".join(rows)


def show_graphs(on: bool = True) -> None:
    """Let notebooks show a result of ops with its numbers and, below them, its graph; off: with its numbers alone."""
    if on:
        Tensor._repr_html_ = _numbers_and_graph  # type: ignore  # set here as the engine does not import autotx.viz
    elif hasattr(Tensor, "_repr_html_"):
        del Tensor._repr_html_  # type: ignore


def _numbers_and_graph(tensor):
    """HTML for notebooks; None, for which they show the usual text, if the tensor has no graph."""
    try:
        traced = trace(tensor)
        picture = dot.lay_out(_Drawing(traced, folding.view(traced, max_nodes=_DISPLAYED)).draw(False).source, "svg")
    except ValueError:
        return None
    return f"<pre>{html.escape(repr(tensor))}</pre>\n{picture[picture.index(b'<svg') :].decode()}"

"""The replay page: one HTML file that steps through a forward and a backward pass, with the numbers of both.

The file written by `page(loss, "replay.html")` needs no network and no server: styles, scripts and numbers are inside.
This module collects the data of the page from trace.py and keeps as many elements of each array as the size of the file
allows; axes.py finds the names of tokens along axes. page.html, the STYLES and the SCRIPTS display the data.
"""

import base64
import hashlib
import html
import inspect
import json
import math
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from autotx import files
from autotx.tensor import Tensor
from autotx.types import ArrayLike, PathLike
from autotx.viz import axes, folding, labels
from autotx.viz.attention import queries_keys_values, weights_of
from autotx.viz.ops import OPS, row
from autotx.viz.trace import trace

WEB = Path(__file__).parent / "web"
STYLES = ("look.css", "page_graph.css", "page_detail.css", "page.css")  # the last has the rules for small screens
_PARTS = ("numbers", "arrays", "arithmetic", "ops", "layers", "layout", "graph")
SCRIPTS = (*(f"page_{part}.js" for part in _PARTS), "page.js")
MAX_OPS = 2000
MAX_BYTES = 1_950_000  # of the file: below 2 MB; a page of many ops may have BYTES_PER_OP for each, up to MOST_BYTES
BYTES_PER_OP, MOST_BYTES = 16_000, 5_900_000
MOST_NAMES = 2000  # an axis longer than this is shown without names
EXACT = 1024  # an array of at most so many elements is kept in full, in its own precision
LIMITS = [int(2 ** (k / 4)) for k in range(64, 19, -1)]  # the elements to keep of a larger array, in the order tried


class Page(NamedTuple):
    """A page that was written. A notebook shows it at the end of a cell, with a copy of the file inside."""

    file: Path

    def _repr_html_(self) -> str:
        document = html.escape(self.file.read_text(encoding="utf-8"))
        return f'<iframe srcdoc="{document}" style="width: 100%; height: 720px; border: 0"></iframe>'


def page(
    tensor: Tensor, file: PathLike, title: str = "Replay", about: str = "",
    rows: Mapping[str, Sequence[str]] | None = None, grad: ArrayLike | None = None, max_ops: int = MAX_OPS,
) -> Page:  # fmt: skip
    """Write the replay of the forward pass that made `tensor`, and of its backward pass, to `file` as one HTML page.

    tensor: the result of ops, usually a loss; its graph is read, not freed. grad: as for Tensor.backward, needed if
    the tensor has more than one element. title, about: text at the top. rows: the names of the rows of tables, such as
    {"wte.weight": words}; arrays with an axis over these rows, or over tokens that select rows, are shown with the
    names. If the tensor is made inside `with viz.record():`, the page shows the line of Python that called each op.

    Returns the Page, which a notebook shows. It has the engine's numbers: exact for arrays of up to 1,024 elements,
    else with 3 digits and, where the file would exceed 2 MB (or 16 kB for each op, at most 6 MB), only every 2nd, 4th,
    ... element along an axis. It says so at the top, and below each array.
    TypeError: not a Tensor. ValueError: no graph, a freed graph, more than `max_ops` ops, rows that do not fit, a name
    that does not end in .html or .htm, no such folder. OSError: `file` cannot be written.
    """
    file = checked_path(file)
    recorded = trace(tensor)
    count = sum(node.op is not None for node in recorded.nodes)
    if count > max_ops:
        raise ValueError(
            f"page: the graph has {count:,} ops, more than {max_ops:,}, too many to step through; replay a smaller "
            "piece (fewer layers or time steps), or give max_ops"
        )
    arrays, groups = _Arrays(), _groups(recorded)
    names = axes.named(recorded, rows or {}, lambda node: _source(node, recorded))
    data = {"title": title, "about": about, "groups": groups, **_steps(recorded, groups, names, grad, arrays)}
    rest = len(_document(title, data, b"")) + 200 * len(arrays.records)
    room = min(max(MAX_BYTES, BYTES_PER_OP * count), MOST_BYTES) - rest
    data["arrays"], numbers = arrays.packed(room * 3 // 4)  # base64 takes a third more bytes
    data["about"] = f"{about} {arrays.told()}".strip()
    files.write_atomically(file, _document(title, data, numbers))
    return Page(file)


def checked_path(file: PathLike) -> Path:
    """The path of a page, checked before the work begins. Errors: as for files.checked_path."""
    return files.checked_path(file, (".html", ".htm"))


def _document(title, data, numbers):
    texts = {"title": title, "about": data["about"], "numbers": base64.b64encode(numbers).decode()}
    return document("page.html", STYLES, SCRIPTS, data, **texts)


def document(body: str, styles: Sequence[str], scripts: Sequence[str], data: object, **texts: str) -> bytes:
    """A whole page, encoded: a file of WEB within frame.html. In both, @@name@@ stands for one of `texts`, or for the
    styles, the scripts or the data, which the scripts read as JSON. "<" in the data is escaped, as "</script>" would
    end its element."""
    parts = {name: html.escape(text) for name, text in texts.items()}
    parts |= {"style": _joined(styles), "script": _joined(scripts)}
    parts["data"] = json.dumps(data, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    pieces = _joined(["frame.html"]).replace("@@body@@", _joined([body])).split("@@")
    page = "".join(parts[piece] if i % 2 else piece for i, piece in enumerate(pieces))
    return page.encode(errors="backslashreplace")  # a name may hold half of a surrogate pair


def _joined(names):
    return "\n".join((WEB / name).read_text(encoding="utf-8") for name in names)


# Modules and steps


def _groups(recorded):
    """The modules that the page shows: dict of group id -> entry. A module with a single op or module inside is
    replaced by that content. Equal blocks in a row are put into an additional module."""
    held = {g.id: sum(recorded.nodes[n].op is not None for n in g.nodes) for g in recorded.groups}  # ops and modules
    kept = {}
    for group in reversed(recorded.groups[1:]):  # inner groups first
        if held[group.id] > 1:
            kept[group.id] = {"name": group.path, "module": group.module}
        held[group.parent] += min(held[group.id], 1)
    if held[0] == 1 and recorded.groups[0].children:  # a frame around everything would show nothing new
        kept.pop(recorded.groups[0].children[0], None)
    for id_, entry in kept.items():
        entry["parent"] = _innermost(recorded, recorded.groups[id_].parent, kept)
    return {id_: kept[id_] for id_ in sorted(kept)} | _folded(recorded, kept)


def _folded(recorded, kept):
    """A module around each run of equal blocks, initially closed: dict of id -> entry. Changes the blocks' parent."""
    folds = {}
    for members in folding.runs(recorded):
        if all(id_ in kept for id_ in members):
            first, last = (recorded.groups[members[i]] for i in (0, -1))
            fold = {"name": f"{first.path} to {last.path}", "module": f"{first.module} × {len(members)}", "fold": True}
            folds[len(recorded.groups) + len(folds)] = fold | {"parent": kept[first.id]["parent"]}
            for id_ in members:
                kept[id_]["parent"] = len(recorded.groups) + len(folds) - 1
    return folds


def _innermost(recorded, group, groups):
    """The id of the innermost module shown that is or contains a group; 0 if there is none."""
    return next((g for g in recorded.above(group) if g in groups), 0)


def _steps(recorded, groups, names, grad, arrays):
    """The ops in the order of the forward pass, the order of the backward pass, the derivations of the ops, and the
    names along axes."""
    tokens = _Tokens(names)
    nodes = [node for node in recorded.nodes if node.op]
    place = {node.id: i for i, node in enumerate(nodes)}  # node id -> index of the op
    ops = [_op(node, recorded, place, arrays, tokens) for node in nodes]
    for node, op in zip(nodes, ops):
        op["group"] = _innermost(recorded, node.group, groups)
    docs = {node.op: _derivation(node) for node in nodes}
    backward, totals = [], {}
    for step in recorded.backward(grad):
        op = ops[place[step.node]]
        op["incoming"] = arrays.add(step.incoming)
        for i, argument in enumerate(recorded.nodes[step.node].parents):
            if argument.position in step.outgoing:
                how = recorded.nodes[argument.node].kind == "parameter", row(op["op"]).looks_up
                op["inputs"][i]["grad"] = arrays.add(step.outgoing[argument.position], *how)
        backward.append(place[step.node])
        totals.update(step.totals)
    inputs = [i for op in ops for i in op["inputs"] if "grad" in i and i["leaf"] is not None]
    for leaf, uses in Counter(i["leaf"] for i in inputs).items():
        for i in inputs:
            if uses > 1 and i["leaf"] == leaf:
                i["total"] = arrays.add(totals[leaf], parameter=True)
    return {"ops": ops, "backward": backward, "docs": docs, "names": list(tokens.known)}


def _op(node, recorded, place, arrays, tokens):
    """The data of one op for the page."""
    inputs = []
    for argument in node.parents:
        parent = recorded.nodes[argument.node]
        inputs.append(
            {
                "name": argument.name,
                "label": parent.name,
                "kind": parent.kind,
                "op": place.get(parent.id),
                "leaf": None if parent.op else parent.id,
                "setting": argument.position is None,
                "array": arrays.add(parent.value, parent.kind == "parameter"),
                "names": tokens.along(tokens.of[parent.id]),
                "gradient": node.gradients.get(argument.name),
            }
        )
    settings = {k: v for k, v in node.settings.items() if isinstance(v, str | int | float | tuple | None)}
    return {
        "op": node.op,
        "title": labels.op_title(node.op),
        "name": node.name,
        "module": node.module,
        "formula": node.formula,
        "lines": [_line(line) for line in dict.fromkeys((node.line, node.inner_line)) if line],
        "settings": _plain(settings),
        "inputs": inputs,
        "out": arrays.add(node.value),
        "names": tokens.along(tokens.of[node.id]),
        **_taken(node, recorded),
        "inner": [
            {"name": name, "note": note, "array": arrays.add(value), "names": tokens.along(names)}
            for name, note, value, names in _inner(node, recorded, tokens.of)
        ],
    }


class _Tokens:
    """Names along axes; each list of names is stored once. of: dict of node id -> tuple, the result of axes.named."""

    def __init__(self, of):
        self.of, self.known = of, {}

    def along(self, names):
        """For each axis the number of its list of names, or None; None if no axis has names."""
        short = [texts if texts and len(texts) <= MOST_NAMES else None for texts in names]
        found = [None if texts is None else self.known.setdefault(texts, len(self.known)) for texts in short]
        return found if any(n is not None for n in found) else None


def _line(line):
    """[file, number, text] with only the last folder of the file's path: the page may be published."""
    return ["/".join(Path(line[0]).parts[-2:]), *line[1:]]


def _plain(value):
    """Settings in a form that JSON can store; others, such as slices and infinities, are left out."""
    if isinstance(value, dict):
        return {k: p for k, v in value.items() if (p := _plain(v)) is not None}
    if isinstance(value, tuple):
        parts = [_plain(v) for v in value]
        return parts if all(isinstance(p, int | list) for p in parts) else None
    return value if not isinstance(value, float) or math.isfinite(value) else None


def _derivation(node):
    """The docstring of an op, which derives its gradients."""
    function = OPS.get(node.op)
    return inspect.cleandoc(function.__doc__) if function and function.__doc__ else None


def _taken(node, recorded):
    """The positions that a moving op takes its elements from: as a rule, or, without a rule, as a list of up to EXACT
    positions."""
    source, places = _source(node, recorded), _places(node, recorded)
    if source is not None or places is None or places.size > EXACT:
        return {"source": source}
    return {"source": source, "places": places.ravel().tolist()}


def _source(node, recorded):
    """For an op that only moves elements, the rule for the flat position in the argument of element (i, j, ..) of the
    result: [a, b, c, ..] for a + b i + c j + ... None if there is no such rule."""
    places = _places(node, recorded)
    if places is None:
        return None
    first = int(places.flat[0])
    units = np.eye(places.ndim, dtype=int)
    steps = [int(places[tuple(unit)]) - first if n > 1 else 0 for unit, n in zip(units, places.shape)]
    rule = first + sum(step * i for step, i in zip(steps, np.indices(places.shape, sparse=True)))
    return [first, *steps] if np.array_equal(np.broadcast_to(rule, places.shape), places) else None


def _places(node, recorded):
    """For an op that only moves elements, the flat position in the argument of each element of the result, as an array
    of the result's shape. None for other ops and for an empty result."""
    keeps = row(node.op).keeps
    if not keeps or not node.value.size:
        return None
    shape = recorded.nodes[node.parents[0].node].shape
    places = np.arange(math.prod(shape)).reshape(shape)
    if keeps == "order":
        return places.reshape(node.shape)
    return np.asarray(OPS[node.op].op(places, **node.settings)[0])


def _inner(node, recorded, names):
    """The intermediate results of a fused op, computed again: tuples (name, note, array, names along its axes)."""
    arguments = [argument for argument in node.parents if argument.position is not None]
    found = queries_keys_values(node.op, [recorded.nodes[a.node].value for a in arguments], node.settings)
    if not found:
        return []
    weights, _ = weights_of(found[0], found[1], node.settings.get("mask"), node.settings.get("causal"))
    shown, of, out = [], [names[a.node] for a in arguments], weights @ found[2]
    if node.op == "multi_head_attention":  # it splits its arguments into heads and concatenates their results
        parts = ("Q", "queries", arguments[0]), ("K", "keys", arguments[-1]), ("V", "values", arguments[-1])
        of = [(names[a.node][0], None, names[a.node][1], None) for _, _, a in parts]
        shown = [(name, f"the {what} in {a.name}, by heads", *x) for (name, what, a), *x in zip(parts, found, of)]
        out = np.swapaxes(out, 1, 2).reshape(node.shape)
    note = "the weights: a row for each query"
    if not np.allclose(out, node.value, rtol=1e-3, atol=1e-4 * np.abs(found[2]).max(initial=0)):
        note += ", before some were dropped"
    return [*shown, ("P", note, weights, (*of[0][:-1], of[1][-2]))]


# Numbers


class _Arrays:
    """The arrays of a page; equal arrays are stored once."""

    def __init__(self):
        self.records, self.values, self._known = [], [], {}
        self.shares, self.rows = [], []  # divisors of the limit; whether to keep rows rather than columns

    def add(self, array, parameter=False, rows=False):
        """The number of an array on the page. Fewer elements of parameters are kept: they are many, and large. rows:
        whether the page must show which rows are 0."""
        array = np.asarray(array)
        key = array.shape, array.dtype.str, hashlib.blake2b(array.tobytes()).digest()
        if key not in self._known:
            self._known[key] = len(self.records)
            self.records.append({"shape": array.shape, "dtype": str(array.dtype), **_statistics(array)})
            self.shares.append(16 if parameter and not rows else 1)
            self.rows.append(rows)
            self.values.append(_sampled(array, _strides(array.shape, LIMITS[0], rows)))
        return self._known[key]

    def packed(self, room):
        """The records, with the offset and format of each array, and the compressed bytes of all numbers: at most
        `room`, or, if not even the lowest of LIMITS fits, the bytes for that limit."""
        for limit in LIMITS:
            if self._size(limit) < 2 * room or limit == LIMITS[-1]:  # compression saves at most half
                numbers = zlib.compress(self._kept(limit), 9)
                if len(numbers) <= room:
                    break
        return self.records, numbers

    def told(self):
        """How many of the numbers are on the page, in words; nothing for all."""
        shapes = [(record["shape"], record["keep"]) for record in self.records]
        kept = sum(math.prod(map(math.ceil, np.divide(shape, keep))) for shape, keep in shapes)
        whole = sum(math.prod(shape) for shape, _ in shapes)
        if kept == whole:
            return ""
        part = "of large arrays only every 2nd, 4th, ... place, as it says below each"
        return f"Of the {whole:,} numbers of all arrays and gradients this page holds {kept:,}: {part}."

    def _size(self, limit):
        """The approximate number of bytes if at most `limit` elements of each large array are kept."""
        shapes = ((r["shape"], limit // share, rows) for r, share, rows in zip(self.records, self.shares, self.rows))
        return 2 * sum(math.prod(map(math.ceil, np.divide(shape, _strides(shape, *how)))) for shape, *how in shapes)

    def _kept(self, limit):
        """The bytes of all numbers. Writes their offsets and formats into the records."""
        blob = bytearray()
        for record, values, share, rows in zip(self.records, self.values, self.shares, self.rows):
            shape = record["shape"]
            record["keep"] = keep = _strides(shape, limit // share, rows)
            values = _sampled(values, [k // before for k, before in zip(keep, _strides(shape, LIMITS[0], rows))])
            record["kind"], record["scale"], content = _encoded(values, math.prod(shape) <= EXACT)
            record["offset"] = len(blob)
            blob += content
        return bytes(blob)


def _strides(shape, limit, rows=False):
    """The stride of each axis, a power of 2, such that at most `limit` elements are kept.

    Strides of the longest axis but the last grow first; the last axis is thinned out only when a single row is too
    long, as sums run over it and are shown in full. rows: the last axis first, so that no row is missing.
    """
    keep = [1] * len(shape)
    if math.prod(shape) <= EXACT:
        return keep
    while math.prod(kept := [math.ceil(n / k) for n, k in zip(shape, keep)]) > limit:
        longest = max(range(len(shape) - 1), key=kept.__getitem__, default=len(shape) - 1)
        whole = kept[longest] == 1 or (rows and kept[-1] > 1)
        axis = len(shape) - 1 if whole else longest
        keep[axis] *= 2
    return keep


def _sampled(array, keep):
    return np.array(array[tuple(slice(None, None, k) for k in keep)])


def _encoded(values, exact):
    """The number format, the factor that the page multiplies by, and the bytes, padded to a multiple of 8."""
    scale = 1.0
    if values.dtype.kind in "iub":
        large = values.size and max(values.max(), -1 - int(values.min())) > np.iinfo(np.int32).max
        kind, values = ("i8", values.astype("<f8")) if large else ("i4", values.astype("<i4"))
    elif exact:
        kind = "f8" if values.dtype == np.float64 else "f4"
        values = values.astype(f"<{kind}")
    else:
        largest = np.max(np.abs(values), initial=0, where=np.isfinite(values))
        scale = 2.0 ** (math.frexp(largest)[1] - 14) if largest else 1.0  # half precision has a small range
        kind, values = "f2", (values / scale).astype("<f2")
    content = values.tobytes()
    return kind, scale, content + bytes(-len(content) % 8)


def _statistics(array):
    """Mean, standard deviation, minimum and maximum of the finite elements; "bad": the number of other elements."""
    numbers = array[np.isfinite(array)]
    if not numbers.size:
        return {"mean": None, "std": None, "min": None, "max": None, "bad": array.size}
    found = {name: float(f"{value:.7g}") for name, value in labels.statistics(numbers).items()}
    if abs(found["mean"]) < 1e-15 * max(-found["min"], found["max"]):  # a rounding error
        found["mean"] = 0.0
    return found | {"bad": array.size - numbers.size}

"""The texts on the nodes of a graph: ops in mathematical notation, short numbers, sizes and times."""

import collections
import html
import re
import textwrap

import numpy as np

from autotx.viz.ops import row

_SHORT = 34  # the longest line of a node, in letters


def math(node, nodes):
    """The op of a node as mathematics, such as "x Wᵀ + b" or "x / 8"."""
    if node.op == "linear" and len(node.parents) == 2:
        return "x Wᵀ"
    if node.op == "pow":
        return _power(node, nodes)
    if _is_transposed(node):
        return "xᵀ"
    written = row(node.op).math or "{title}(x)"
    facts = {"x": "x", "y": "y", "title": title(node)} | {key: setting(v) for key, v in node.settings.items()}
    for argument in node.parents:
        source = nodes[argument.node]
        if source.kind == "constant" and argument.name in ("x", "y"):
            facts[argument.name] = number(source.value.flat[0])
    written = written.format_map(collections.defaultdict(lambda: "None", facts))  # a setting that is None has no fact
    return shortened(written) if row(node.op).math else written


def _is_transposed(node):
    """Whether an op exchanges the last two axes and no others."""
    n = node.value.ndim
    if node.op == "transpose":
        axes = [node.settings.get(name) for name in ("axis0", "axis1")]
        return None not in axes and n > 1 and {axis % n for axis in axes} == {n - 2, n - 1}
    return node.op == "permute" and n == 2 and tuple(a % n for a in node.settings.get("axes", (0, 1))) == (1, 0)


def _power(node, nodes):
    power = next((nodes[a.node] for a in node.parents if a.name == "y"), None)
    if power is None or power.kind != "constant":
        return "x ^ y"
    value = power.value.flat[0]
    return {2: "x²", 3: "x³", 0.5: "√x", -1: "1 / x"}.get(float(value), f"x ^ {number(value)}")


def title(node):
    """The name of a node's op."""
    return op_title(node.op) if node.op else node.name or node.kind


def op_title(op):
    """The name of an op: "layer norm"."""
    return row(op).title or op.replace("_", " ").strip()


def setting(value):
    """An index or another setting, as written in Python."""
    if isinstance(value, slice):
        ends = ["" if end is None else str(end) for end in (value.start, value.stop, value.step)]
        return ":".join(ends[:2] if not ends[2] else ends)
    if isinstance(value, tuple):
        return ", ".join(map(setting, value))
    if isinstance(value, np.ndarray):
        return "ids" if value.ndim else number(value[()])
    return {"Ellipsis": "...", "None": "None"}.get(str(value), str(value))


def names_argument(node, source, nodes):
    """Whether the edge from `source`, the id of a node, into this op must name its argument, since x / y differs from
    y / x. A parameter has a name of its own, which suffices unless it is both x and y."""
    sources = [a.node for a in node.parents if a.position is not None]
    unnamed = sum(nodes[n].kind not in ("constant", "parameter") for n in sources) > 1
    twice = sources.count(source) > 1
    return not row(node.op).commutes and (twice or (unnamed and nodes[source].kind != "parameter"))


def shape(node):
    """The shape of a node's value, such as "(2, 3)", or "scalar"."""
    return str(node.shape) if node.shape else "scalar"


def number(value):
    """An integer in full; another number with four significant digits."""
    if isinstance(value, bool | np.bool_):
        return str(bool(value))
    if isinstance(value, int | np.integer):
        return str(value).replace("-", "−")
    return f"{float(value) + 0.0:.4g}".replace("-", "−")


def numbers(array):
    """The lines that show an array: a list of str, a large array as statistics. A small matrix is one list of rows."""
    array = np.asarray(array)
    if array.size == 0:
        return ["empty"]
    if array.size <= 12 and (array.ndim < 2 or array.size // array.shape[-1] <= 4):
        rows = [[number(v) for v in row] for row in array.reshape(-1, array.shape[-1] if array.ndim else 1)]
        return [rows] if len(rows) > 1 else [" ".join(rows[0])]
    if array.dtype.kind in "iub":
        if array.ndim <= 2 and (array.ndim < 2 or len(array) == 1):
            return [shortened(" ".join(number(v) for v in array.reshape(-1)[:20]))]
        return [f"from {number(array.min())} to {number(array.max())}"]
    mean, std, least, most = (number(value) for value in statistics(array).values())
    return [f"mean {mean}, std {std}", f"from {least} to {most}"]


def statistics(array):
    """The mean, std (standard deviation), min and max of an array, as a dict of floats. Finite numbers, however large,
    have finite ones: where their squares would overflow, the largest is divided by first."""
    numbers = array.astype(np.float64)
    with np.errstate(all="ignore"):
        largest = np.abs(numbers).max()
        scale = largest if 1e150 < largest < np.inf else 1.0
        numbers /= scale
        facts = {"mean": numbers.mean(), "std": numbers.std(), "min": numbers.min(), "max": numbers.max()}
        return {name: float(value * scale) for name, value in facts.items()}


def memory(nbytes):
    """A number of bytes, such as "3.1 MB"."""
    for unit in ("B", "kB", "MB"):
        if nbytes < 1000:
            return f"{nbytes:.3g} {unit}"
        nbytes /= 1000
    return f"{nbytes:.3g} GB"


def seconds(value):
    """A time in seconds, such as "1.2 ms"."""
    if value < 1e-3:
        return f"{value * 1e6:.3g} µs"
    return f"{value * 1e3:.3g} ms" if value < 1 else f"{value:.3g} s"


def wrapped(text, most=56):
    """A formula in lines of at most `most` letters; no break inside short parentheses, or around "=" and "/"."""
    glued = re.sub(r"\([^()]{,30}\)|\S+ [=/] ", lambda found: found[0].replace(" ", "\xa0"), text)
    return [line.replace("\xa0", " ") for line in textwrap.wrap(glued, most)]


def shortened(text, most=_SHORT):
    """A text of at most `most` letters, with "…" in place of the rest."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def escaped(text):
    """A text escaped for an HTML-like label of Graphviz, which would replace "\\N" by the name of the node."""
    return html.escape(printable(str(text))).replace("\\", "\\\\")


def printable(text, keep=""):
    """A text with a space in place of each control character, which neither DOT nor SVG can hold, but for `keep`."""
    return text if text.isprintable() else "".join(c if c.isprintable() or c in keep else " " for c in text)

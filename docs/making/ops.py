"""A page for each op: its formula, its gradients, the derivation, an example, a picture, its source and its times.

All of it is read from the code: `autotx.viz.ops.OPS` lists the ops, their docstrings have the formulas, and the numbers
of the example are computed here.
"""

import functools
import inspect
import json
import re
from pathlib import Path

import numpy as np
from making.notation import as_html
from making.rst import heading, literal, raw, table

import autotx
from autotx import viz
from autotx.models.bench import cases as bench
from autotx.models.bench.results import clock
from autotx.viz.formulas import formulas, parameters
from autotx.viz.ops import COMPOSED, OPS, ROWS, example, row

HISTORY = Path(bench.__file__).parent / "history"
ROOT = Path(autotx.__file__).parent.parent


def pages(paper_sections: dict) -> dict:
    """The pages: a dict of document name -> text. paper_sections: op -> {(slug, title): number of cases}."""
    made = {"ops/index": _index()}
    times = times_of_ops()
    for name in OPS:
        made[f"ops/{name}"] = page(name, paper_sections.get(name, {}), times.get(name, []))
    return made


def pictures(folder: Path) -> None:
    """Draw the pictures of all ops into a folder: NAME.svg, and NAME-composed.svg of a fused op."""
    for name in OPS:
        tensor, grads = example(name)
        viz.render(tensor, folder / f"{name}.svg", values=True, grads=grads, formulas=True)
        if name in COMPOSED:
            viz.render(tensor, folder / f"{name}-composed.svg", values=False, fused=[name], legend=False)


def page(name: str, sections: dict, times: list) -> str:
    """The page of an op, as reStructuredText."""
    title = row(name).title or name.replace("_", " ")
    parts = [
        heading(name, "="),
        raw(formula_html(name)),
        f".. autofunction:: autotx.{name}",
        heading("An example", "-"),
        f".. code-block:: python\n\n{_indented(example_code(name))}",
        _picture(
            name, f"The graph of this example: values, and gradients from the given one. autotx graph --op {name}"
        ),
    ]
    if name in COMPOSED:
        text = f"The same result from simpler ops. autotx graph --op {name} --fused {name}"
        parts += [heading("What it is made of", "-"), _picture(f"{name}-composed", text)]
    parts += [heading("The code", "-"), _source(name)]
    if times:
        parts += [heading("Beside PyTorch", "-"), _times(times)]
    if sections:
        parts += [heading("In the whitepaper", "-"), _sections(name, sections)]
    if title != name:  # also for the search, which knows whole words
        parts.insert(1, f"*{title}*")
    return "\n\n".join(parts) + "\n"


def groups() -> dict:
    """The public names of autotx by their group, as its docstring lists them: {"Losses": ["cross_entropy", ...]}."""
    found = {}
    group = ""
    for line in autotx.__doc__.splitlines():
        if begins := re.match(r"([A-Z][a-z]+) {2,}(.*)", line):
            group, names = begins.groups()
        elif group and line.startswith("   "):
            names = line
        else:
            continue
        found.setdefault(group, []).extend(re.findall(r"\w+", names))
    found.pop("Packages")
    return found


def _index():
    parts = [
        heading("The ops", "="),
        "An op is a function on plain arrays that returns its result and its pullback. Every gradient here is derived "
        "in the docstring of its op, and checked against finite differences. *g* is the gradient of the loss with "
        "respect to the result, *dx* with respect to *x*.",
    ]
    for group, names in groups().items():
        ops = [name for name in names if name in OPS]
        if ops:
            rows = [(f":doc:`{n} <{n}>`", raw_inline(formulas(OPS[n].op)[0], n)) for n in ops]
            parts += [heading(group, "-"), table(("op", "formula"), rows)]
    entries = "\n".join(f"   {name}" for name in OPS)
    parts.append(f".. toctree::\n   :hidden:\n\n{entries}")
    return "\n\n".join(parts) + "\n"


def raw_inline(text, op):
    """Text with formulas, to stand in a cell of a table."""
    return raw(as_html(text or "", _names(op)))


def _names(op):
    return [p.name for p in parameters(OPS[op].op)]


def formula_html(name: str) -> str:
    """The formula of an op, and those of its gradients."""
    formula, gradients = formulas(OPS[name].op, row(name).settings)
    lines = [("formula", formula), *(("gradient", text) for text in dict.fromkeys(gradients.values()))]
    return "\n".join(f'<p class="{kind}">{as_html(text, _names(name), True)}</p>' for kind, text in lines)


# The example


def example_code(name: str) -> str:
    """The example of an op as a program, with its results as comments."""
    return _example(name)[0]


@functools.cache
def _example(name):
    """The program, and its results: a dict of expression -> array."""
    out, g = example(name)
    leaves = [t for t in out._parents if isinstance(t, autotx.Tensor)]
    lines = ["import numpy as np", "import autotx", "from autotx import Tensor", ""]
    lines += [f"{t.name} = Tensor({_numbers(t.data)}, requires_grad=True)" for t in leaves]
    lines.append(f"result = autotx.{name}({_arguments(name, [t.name for t in leaves])})")
    lines.append(f"result.backward({_numbers(g)})" if g.shape else "result.backward()")
    out.backward(g)
    results = {"result.data": out.data, **{f"{t.name}.grad": t.grad for t in leaves}}
    lines += ["", *(f"{expression}  # {_numbers(a, 4)}" for expression, a in results.items() if a is not None)]
    return "\n".join(lines), results


def _arguments(name, leaves):
    """The arguments of the call of an op's example, as its public function takes them."""
    settings, given = dict(row(name).settings), []
    for p in inspect.signature(OPS[name]).parameters.values():
        if p.kind is p.VAR_POSITIONAL:
            given += leaves
        elif p.name == "tensors":
            given.append(f"[{', '.join(leaves)}]")
        elif p.name in leaves:
            given.append(p.name)
        elif p.name in settings and p.default is p.empty and p.kind is not p.KEYWORD_ONLY:
            given.append(_setting(settings.pop(p.name)))
    return ", ".join([*given, *(f"{key}={_setting(value)}" for key, value in settings.items())])


def _setting(value):
    if isinstance(value, np.ndarray):
        return f"np.array({value.tolist()})"
    if isinstance(value, np.random.Generator):
        return "np.random.default_rng(0)"
    return f"np.{value.__name__}" if isinstance(value, type) else repr(value)


def _numbers(array, digits=None):
    rounded = np.asarray(array, np.float64)
    rounded = rounded if digits is None else np.round(rounded, digits) + 0.0
    return str(rounded.tolist())


# Picture, source, times and whitepaper


def _picture(name, caption):
    return f".. figure:: {name}.svg\n   :alt: {caption.split('. ')[0]}\n   :figclass: scroll\n\n   {literal(caption)}"


def _source(name):
    op = inspect.unwrap(OPS[name].op)
    path = Path(inspect.getsourcefile(op)).relative_to(ROOT)
    kernels = sorted(set(re.findall(r"kernels\.([a-z_]+)\.", inspect.getsource(op))))
    text = f"``{path}``, line {inspect.getsourcelines(op)[1]}"
    if kernels:
        text += "; its loops are in " + ", ".join(f"``autotx/kernels/{k}.py``" for k in kernels)
    code = f".. literalinclude:: /../{path}\n   :pyobject: {op.__name__}"
    return "\n\n".join([text + ".", raw("<details><summary>The op</summary>"), code, raw("</details>")])


def times_of_ops() -> dict:
    """The kept times: op -> [(machine, Case, its row in the JSON)], from the history of the benchmark."""
    known = {case.name: case for section in bench.SECTIONS.values() for case in section.cases}
    found = {}
    for file in sorted(HISTORY.glob("*.json")):
        kept = json.loads(file.read_text(encoding="utf-8"))
        for timed in kept["rows"]:
            case = known.get(timed["case"])
            name = _op_of(case) if case else None
            if name and "torch" in timed["peers"]:
                found.setdefault(name, []).append((kept["machine"], case, timed))
    return found


def _op_of(case):
    """The op that a case of the benchmark times; None if it times something else."""
    if case.builder == "matmul":
        return "linear"
    name = case.settings.get("name", "") if case.builder == "op" else ""
    timed = {"attention": "scaled_dot_product_attention", "gelu_tanh": "gelu"}.get(name, name)
    return timed if timed in OPS else None


def _times(times):
    rows = []
    for machine, _, timed in times:
        peer = timed["peers"]["torch"]
        where = f"{machine['processor']}, {machine['threads']} threads, {machine['date']}"
        rows.append((timed["case"], clock(timed["seconds"]), clock(peer["seconds"]), f"{peer['ratio']:.2f}", where))
    note = "Medians of turns, float32; the ratio is PyTorch's time over that of autotx. ``autotx bench`` makes yours."
    return note + "\n\n" + table(("case", "autotx", "PyTorch", "ratio", "machine"), rows)


def _sections(name, sections):
    links = "\n".join(
        f'<li><a href="../whitepaper/paper.html#{slug}">{title}</a> ({count})</li>'
        for (slug, title), count in sections.items()
    )
    text = f"Cases of the whitepaper that compute with ``{name}``, by section, and how many:"
    return f"{text}\n\n{raw(f'<ul>{links}</ul>')}"


def _indented(text):
    return "\n".join(f"   {line}".rstrip() for line in text.splitlines())


assert ROWS.keys() <= OPS.keys() | {"recompute"}

"""The reference of the public names: pages that list them, and how autodoc shows their docstrings and signatures."""

import ast
import dataclasses
import importlib
import inspect
import re
import textwrap

from making import ops
from making.docstrings import blocks, docstring_html, plain_html
from making.rst import heading, raw, table

import autotx
from autotx import functional
from autotx.viz.ops import OPS

# The pages beside autotx itself: (module, title)
MODULES = {
    "autotx.nn": "autotx.nn: layers",
    "autotx.optim": "autotx.optim: optimizers",
    "autotx.init": "autotx.init: initial weights",
    "autotx.models": "autotx.models: models",
    "autotx.viz": "autotx.viz: pictures",
    "autotx.checkpoint": "autotx.checkpoint: files of weights",
}
WITH_FORMULAS = re.compile(r"autotx\.(ops|functional|nn|optim|init|composed)\b")


def pages() -> dict:
    """The pages: a dict of document name -> text."""
    made = {"reference/autotx": _autotx(), "reference/tensor": _tensor()}
    for module, title in MODULES.items():
        made[f"reference/{module.rpartition('.')[2]}"] = "\n\n".join(
            [
                heading(title, "="),
                f".. automodule:: {module}\n   :members:"
                + ("\n   :imported-members:" if hasattr(importlib.import_module(module), "__all__") else ""),
                *([".. autofunction:: autotx.models.formats.open_model"] if module == "autotx.models" else []),
                "",
            ]
        )
    return made


def _autotx():
    parts = [
        heading("autotx: tensors and functions", "="),
        "Every name that ``import autotx`` gives, by what it is for.",
    ]
    for group, names in ops.groups().items():
        parts += [heading(group, "-"), _names(names)]
        parts += [_directive(name) for name in names if name not in OPS and name != "Tensor"]
    return "\n\n".join(parts) + "\n"


def _names(names):
    rows = [(_link(name), raw(_summary(getattr(autotx, name)))) for name in names]
    return table(("name", "what it does"), rows)


def _link(name):
    if name in OPS:
        return f":doc:`{name} </ops/{name}>`"
    return f":py:class:`{name} <autotx.{name}>`" if name == "Tensor" else f":py:obj:`{name} <autotx.{name}>`"


def _directive(name):
    value = getattr(autotx, name)
    if not inspect.isclass(value):
        return f".. autofunction:: autotx.{name}"
    kind = "autoexception" if issubclass(value, Exception) else "autoclass"
    return f".. {kind}:: autotx.{name}\n   :members:"


def _summary(value):
    """The first sentence of a docstring, as HTML."""
    _, text = blocks(value.__doc__ or "", ())[0]
    text = re.split(r"(?<=[.:])\s{3}|(?<=\w{2}\.)\s", text)[0]
    return docstring_html(text, (), hasattr(value, "op"))


def _tensor():
    methods = [name for name in dir(autotx.Tensor) if name in OPS]
    rows = ", ".join(f":doc:`{name} </ops/{name}>`" for name in methods)
    return "\n\n".join(
        [
            heading("autotx.Tensor", "="),
            ".. autoclass:: autotx.Tensor\n   :members:",
            heading("Ops that are methods", "-"),
            f"``x.tanh()`` is ``autotx.tanh(x)``. These ops are methods: {rows}.",
            "The operators ``+ - * / ** @ // % -x abs(x) x[index]`` are the ops add, sub, mul, div, pow, matmul, "
            "floor_divide, remainder, neg, abs and getitem.",
            "",
        ]
    )


# How autodoc shows them


def on_docstring(app, what, name, value, options, lines):
    """Set a docstring as HTML. (An event of autodoc, which takes the lines as they are left in the list.)"""
    if not any(lines):
        return
    functions = value.__init__ if inspect.isclass(value) else value
    names = list(_parameters(functions))
    module = getattr(inspect.unwrap(value), "__module__", None) or ""
    mathematics = bool(WITH_FORMULAS.match(module)) and what != "module"
    made = docstring_html("\n".join(lines), names, mathematics)
    if dataclasses.is_dataclass(value) and inspect.isclass(value):
        made += _fields(value)
    lines[:] = [*raw(made).splitlines(), ""]


def _parameters(function):
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}


def _fields(kind):
    """The fields of a dataclass as a table: name, type, default, and the comment beside it in the source."""
    rows = []
    for line in inspect.getsource(kind).splitlines():
        if found := re.match(r"    (\w+): ([^=#]+?)(?: = ([^#]+?))?(?:  # (.*))?$", line):
            name, kind_, default, text = (part or "" for part in found.groups())
            cells = (f"<code>{name}</code>", plain_html(kind_), plain_html(default), plain_html(text))
            rows.append(f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    head = "<tr><th>field</th><th>type</th><th>default</th><th></th></tr>"
    return f'<div class="scroll"><table class="fields">{head}{"".join(rows)}</table></div>' if rows else ""


def on_signature(app, what, name, value, options, signature, returns):
    """The signature as the source writes it, with the names of its types. (An event of autodoc.)"""
    if what not in ("function", "method", "class") or dataclasses.is_dataclass(value):
        return None
    function = value.__init__ if what == "class" else inspect.unwrap(getattr(value, "op", value))
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    except (TypeError, OSError, IndentationError):
        return None
    if not isinstance(tree, ast.FunctionDef):
        return None
    public = getattr(functional, getattr(value, "__name__", ""), None)
    if hasattr(value, "op") and public is value and not hasattr(value, "__wrapped__"):  # where, concat: other arguments
        tree = ast.parse(textwrap.dedent(inspect.getsource(value))).body[0]
    first = (tree.args.posonlyargs or tree.args.args)[:1]
    if first and first[0].arg in ("self", "cls"):
        (tree.args.posonlyargs or tree.args.args).pop(0)
    made = "Tensor" if hasattr(value, "op") else ast.unparse(tree.returns) if tree.returns else None
    return f"({ast.unparse(tree.args)})", None if what == "class" else made


def on_member(app, what, name, value, skip, options):
    """Leave out the ops among the methods of a Tensor, which have pages of their own, and fields of named tuples."""
    doc = getattr(value, "__doc__", None) or ""
    if getattr(value, "__name__", None) in OPS or hasattr(value, "op") or doc.startswith("Alias for field number"):
        return True
    return None

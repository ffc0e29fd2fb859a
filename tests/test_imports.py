"""Imports run one way, from the commands down to the kernels, and `import autotx` is light."""

import ast
import configparser
import graphlib
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import autotx

# From the bottom to the top; a module may import from its own line and those before it
LAYERS = [
    {"autotx.checks", "autotx.files", "autotx.frames", "autotx.modes", "autotx.signals", "autotx.text", "autotx.types"},
    {"autotx.kernels"},
    {"autotx.ops"},
    {"autotx.anomaly", "autotx.backward"},
    {"autotx.tensor"},
    {"autotx.lift", "autotx.notes"},
    {"autotx.functional", "autotx.recomputing"},
    {"autotx.composed"},
    {"autotx.methods", "autotx.numpy_functions"},
    {"autotx.batches", "autotx.gradcheck", "autotx.nn", "autotx.optim", "autotx.init", "autotx.checkpoint"},
    {"autotx"},
    {"autotx.viz"},
    {"autotx.models"},
    {"autotx.models.commands"},
    {"autotx.__main__"},
]


def _modules():
    """Every module of the package, by dotted name: its file."""
    root, found = Path(autotx.__file__).parent, {}
    for name, folder in {"autotx": root, "autotx.models": root / "models", "autotx.viz": root / "viz"}.items():
        for file in folder.rglob("*.py"):
            parts = file.relative_to(folder).with_suffix("").parts
            found[".".join((name, *(p for p in parts if p != "__init__")))] = file  # rglob follows no links
    return found


MODULES = _modules()


def _imports(name):
    """The autotx modules that a module imports, and the lines on which it does so inside a function."""
    imported, hidden = set(), []
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    for block in [b for b in ast.walk(tree) if isinstance(b, ast.If) and ast.unparse(b.test) == "TYPE_CHECKING"]:
        block.body = []  # never run
    functions = [f for f in ast.walk(tree) if isinstance(f, ast.FunctionDef | ast.Lambda | ast.AsyncFunctionDef)]
    inside = {id(node) for f in functions for node in ast.walk(f)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name}, line {node.lineno}: imports are absolute"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [full if full in MODULES else node.module for full in whole]
        else:
            continue
        names = [n for n in names if n.partition(".")[0] == "autotx"]
        imported.update(names)
        if names and id(node) in inside:
            hidden.append(node.lineno)
    return imported, hidden


def _rank(name):
    """The line of LAYERS that a module stands on: that of its longest prefix there."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        prefix = ".".join(parts[:length])
        for rank, layer in enumerate(LAYERS):
            if prefix in layer and (prefix != "autotx" or name == "autotx"):
                return rank
    raise AssertionError(f"{name} has no place in LAYERS of tests/test_imports.py")


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_run_one_way(name):
    imported, hidden = _imports(name)
    for other in sorted(imported):
        assert _rank(other) <= _rank(name), f"{name} imports {other}, which stands above it"
    assert not hidden, f"{name} imports inside a function, on lines {hidden}"


def test_no_two_modules_import_each_other():
    packages = {name for name, file in MODULES.items() if file.name == "__init__.py"}
    graph = {name: _imports(name)[0] - packages for name in MODULES if name not in packages}
    list(graphlib.TopologicalSorter(graph).static_order())  # CycleError names the circle


def _run(code, **settings):
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, **settings)


def test_the_folder_that_holds_a_clone_does_not_hide_the_package(tmp_path):
    """There `autotx` is a folder without __init__.py. An installed package is before it, as an editable install is a
    plain path (setup.cfg, package_dir); one by a finder would come after it, and nothing could be imported."""
    root = Path(autotx.__file__).parent.parent
    (tmp_path / "autotx").symlink_to(root)
    environment = {**os.environ, "PYTHONPATH": str(root)}  # behind the current folder, as the path of the install is
    environment.pop("PYTHONSAFEPATH", None)
    code = "import sys; from autotx import Tensor; import autotx.models; print(repr(sys.path[0]), Tensor(1.0))"
    assert _run(code, cwd=tmp_path, env=environment).stdout.strip() == "'' Tensor(1.)"
    setup = configparser.ConfigParser()
    setup.read(root / "setup.cfg")
    assert setup["options"]["package_dir"].split() == ["=", "."]


def test_import_autotx_is_light():
    """No compiler, no plotting, nothing optional, until it is used."""
    heavy = [
        "numba",
        "llvmlite",
        "matplotlib",
        "torch",
        "tokenizers",
        "safetensors",
        "scipy",
        "graphviz",
        "autotx.models",
    ]
    code = f"import sys, autotx; print([m for m in {heavy} if m in sys.modules])"
    assert _run(code).stdout.strip() == "[]"


def test_arithmetic_needs_no_compiler():
    code = "x = autotx.Tensor([1.0], requires_grad=True); (x * x).sum().backward(); print('numba' in sys.modules)"
    assert _run(f"import sys, autotx; {code}").stdout.strip() == "False"


# What others rely on: ops that are methods too, ops that are functions alone, and the rest
METHODS = """add sub mul div neg pow exp log sqrt tanh sigmoid relu gelu abs maximum minimum clip sum mean var max min
    logsumexp reshape transpose permute expand squeeze unsqueeze split pad masked_fill tril triu gather cumsum matmul
    softmax log_softmax dropout"""
FUNCTIONS = """where getitem concat stack einsum linear embedding layer_norm scaled_dot_product_attention
    multi_head_attention cross_entropy mse_loss nll_loss binary_cross_entropy_with_logits"""
REST = "Tensor no_grad detect_anomaly lift gradcheck GradcheckError"


def test_public_names():
    assert {*METHODS.split(), *FUNCTIONS.split(), *REST.split()} <= set(dir(autotx))
    assert [name for name in METHODS.split() if not hasattr(autotx.Tensor, name)] == []


# Front doors: the modules whose names users import, each with a list of them. A type checker takes no others.
DOORS = ["autotx", "autotx.nn", "autotx.optim", "autotx.init", "autotx.models", "autotx.viz"]


@pytest.mark.parametrize("name", DOORS)
def test_all_lists_names_that_exist(name):
    module = importlib.import_module(name)
    assert [n for n in module.__all__ if not hasattr(module, n)] == []
    assert len(set(module.__all__)) == len(module.__all__)


def test_help_names_everything_by_subject_on_one_screen():
    lines = autotx.__doc__.splitlines()
    assert len(lines) <= 36
    assert max(map(len, lines[1:])) <= 76  # of 80 columns, of which pydoc uses 4 for the indent
    named = set(re.findall(r"\w+", autotx.__doc__))
    assert set(autotx.__all__) <= named
    assert {"models", "viz"} <= named


@pytest.mark.parametrize("name", DOORS)
def test_a_front_door_offers_what_it_lists_and_submodules(name):
    """Editors and notebooks complete `nn.` by all names of the module: not by np, nor by what only layers.py needs."""
    module = importlib.import_module(name)
    offered = {n for n in dir(module) if not n.startswith("_")}
    submodules = {m.rpartition(".")[2] for m in MODULES if m.rpartition(".")[0] == name} | {"models", "viz"}
    assert offered - submodules == set(module.__all__) - submodules


def _names_used(text):
    """(front door, name) for each public name in a text: autotx.exp, nn.Linear, from autotx.models import GPT."""
    doors = {name.rpartition(".")[2]: name for name in DOORS}
    for door, name in re.findall(rf"(?<!PyTorch's )\b({'|'.join(doors)})\.([A-Za-z]\w*)", text):
        yield doors[door], name
    for door, names in re.findall(rf"from ({'|'.join(DOORS)}) import ([\w, ]+)", text):
        yield from ((door, name.strip()) for name in names.split(","))


def test_all_lists_what_the_documents_and_examples_use():
    root = Path(autotx.__file__).parent.parent
    files = (*root.glob("*.md"), *root.glob("docs/**/*.md"), *root.glob("examples/*.py"))
    texts = [file.read_text(encoding="utf-8") for file in files]
    used = {pair for text in texts for pair in _names_used(text)}
    used = {(door, name) for door, name in used if f"{door}.{name}" not in MODULES and name not in ("md", "py", "rst")}
    assert {("autotx", "Tensor"), ("autotx.models", "GPT"), ("autotx.optim", "AdamW")} <= used
    missing = [f"{door}.{name}" for door, name in sorted(used) if name not in importlib.import_module(door).__all__]
    assert missing == []

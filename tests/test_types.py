"""Type checkers find no mistake in typed_program.py, beside which they see only the package as it is installed."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typed_program

import autotx
from autotx import nn, optim
from autotx.methods import INSTEAD, Methods
from autotx.tensor import Tensor

PROGRAM = Path(typed_program.__file__)


def test_the_program_runs(rng, tmp_path):
    assert typed_program.train(rng) < 1
    typed_program.operators(rng)
    assert typed_program.language_model(rng).shape == (1, 8)
    assert [len(best) for best in typed_program.translator(rng)] == [2]
    typed_program.pictures(rng, tmp_path)
    assert {"times.png", "graph.dot", "graph.json", "replay.html"} <= {path.name for path in tmp_path.iterdir()}
    assert typed_program.run(tmp_path).vocab_size > 256


@pytest.mark.slow
@pytest.mark.parametrize(("tool", "option"), [("pyright", "--pythonpath"), ("mypy", "--python-executable")])
def test_a_checker_finds_no_mistake_in_it(tool, option, tmp_path):
    if importlib.util.find_spec(tool) is None:
        pytest.skip(f"{tool} is not installed")
    command = [sys.executable, "-m", tool, option, sys.executable, shutil.copy(PROGRAM, tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr


def test_notebooks_complete_names_and_show_signatures():
    """IPython asks jedi, which reads the live objects."""
    jedi = pytest.importorskip("jedi")
    names = {"nn": nn, "optim": optim, "autotx": autotx, "x": Tensor(1.0)}

    def offered(text):
        return {c.name for c in jedi.Interpreter(text, [names]).complete() if not c.name.startswith("_")}

    assert {name for name in dir(Tensor) if not name.startswith("_")} - set(INSTEAD) <= offered("x.")
    assert offered("nn.") == {*nn.__all__, "layers"}
    assert offered("optim.") == {*optim.__all__, "optimizers"}
    first = {"x.sum(": "axis", "autotx.softmax(": "x", "nn.Linear(": "in_features", "optim.SGD(": "params"}
    for call, name in first.items():
        (signature,) = jedi.Interpreter(call, [names]).get_signatures()
        assert signature.params[0].name == name


def test_methods_that_a_checker_reads_are_those_that_run():
    """A checker takes Methods for the base of Tensor; at run time its attributes are copied to Tensor."""
    written = {name: value for name, value in vars(Methods).items() if callable(value) or isinstance(value, property)}
    assert {"exp", "__add__", "__rsub__", "__getitem__", "reshape", "T"} <= written.keys()
    assert [name for name, value in written.items() if vars(Tensor).get(name) is not value] == []
    x = Tensor(np.ones((2, 3), np.float32))
    assert (2 - x.T.reshape(2, 3)).permute(1, 0).shape == (3, 2)

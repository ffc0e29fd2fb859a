"""The programs in examples/ run, and reach what they say."""

import importlib.util
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "examples"


def _example(name):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_tested_here():
    assert {path.stem for path in FOLDER.glob("*.py")} == {"digits", "gpt", "new_op"}


@pytest.mark.slow
def test_digits_are_read():
    assert _example("digits").main() > 0.95


@pytest.mark.slow
def test_a_gpt_learns_a_text(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat and the dog sat on the log. " * 100)
    assert _example("gpt").main([str(text)], steps=60) < 1.0  # random guessing: more than 5


def test_a_new_op_resists_outliers():
    found = _example("new_op").main()
    assert found["Huber loss"] == pytest.approx((2, 1), abs=0.1)
    assert abs(found["squared error"][1] - 1) > 0.2

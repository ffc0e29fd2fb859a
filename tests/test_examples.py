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
    found = {path.stem for path in FOLDER.glob("*.py")}
    text = Path(__file__).read_text(encoding="utf-8")
    assert {name for name in found if f'_example("{name}").main(' not in text} == set()


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


def test_two_moons_are_told_apart():
    assert _example("two_moons").main() > 0.98


def test_skip_gram_finds_the_words_of_a_subject():
    assert _example("skip_gram").main() > 0.8


def test_a_mixture_answers_with_several_values():
    one, five = _example("mixture_density").main(epochs=60)
    assert five < -0.6
    assert five < one - 0.25


def test_a_vae_finds_what_its_pictures_were_made_of():
    loss, found = _example("vae").main(epochs=20)
    assert loss < 26
    assert found > 0.9


@pytest.mark.slow
def test_a_vision_transformer_tells_shapes_apart():
    assert _example("vit").main(steps=150) > 0.9


@pytest.mark.slow
def test_an_encoder_and_a_decoder_learn_to_add():
    assert _example("addition").main() > 0.95


@pytest.mark.slow
def test_an_lstm_with_open_gates_keeps_what_an_rnn_forgets():
    right = _example("recall").main()
    assert right["open LSTM"] > 0.95
    assert right["RNN"] < 0.5

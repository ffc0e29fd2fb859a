"""Few-shot prompting: what the tasks promise, how answers are counted, and the command."""

import re

import numpy as np
import pytest

import autotx
from autotx.models import fewshot
from autotx.models.cli import main
from autotx.models.commands import fewshot as command
from autotx.models.fewshot import ENTRIES, Tasks, right_answers
from autotx.models.tokenizers import CharTokenizer


@pytest.fixture(scope="module")
def tasks():
    return Tasks(seed=1)


@pytest.fixture(scope="module")
def text(tasks):
    return tasks.text()


def held_out_pairs(tasks):
    return {tasks.pair(entry) for entry in np.argwhere(tasks.held_out)}


def test_the_words_are_common_english_ones(tasks):
    assert len(set(tasks.words)) == len(tasks.words) == fewshot.WORDS
    assert {"the", "with", "class"} <= set(tasks.words)
    assert all(re.fullmatch("[a-z]{3,5}", word) for word in tasks.words)


def test_no_line_of_the_text_has_a_held_out_pair(tasks, text):
    held_out = held_out_pairs(tasks)
    assert 0.08 < len(held_out) / len(tasks.words) ** 2 < 0.12
    seen = set(text.split())
    assert len(seen) > 50_000
    assert not seen & held_out


def test_every_line_is_a_task_that_does_not_contradict_itself(text):
    sizes = []
    for line in text.splitlines()[:2000]:
        pairs = {tuple(pair.split(">")) for pair in line.split(" ")}
        assert len({word for pair in pairs for word in pair}) == 2 * len(pairs)
        sizes.append(len(pairs))
    assert set(sizes) == set(range(1, ENTRIES + 1))
    assert len(set(text.splitlines())) > 0.9 * fewshot.LINES


@pytest.mark.parametrize("held_out", [True, False])
def test_prompts_ask_for_one_entry_of_a_task(tasks, held_out):
    pairs, told = held_out_pairs(tasks), 0
    for examples in range(ENTRIES + 1):
        prompts = tasks.prompts(examples, 100, held_out)
        assert prompts == tasks.prompts(examples, 100, held_out)
        for prompt, answer in prompts:
            *shown, question = prompt.split(" ")
            assert len(set(shown)) == examples
            assert all((pair in pairs) is held_out for pair in [*shown, question + answer])
            is_told = [pair for pair in shown if pair.startswith(question)]
            assert is_told in ([], [question + answer])
            told += bool(is_told)
            assert len(prompt) + len(answer) + 2 <= command.SHAPE["block_size"]
    assert told == pytest.approx(100 * sum(range(ENTRIES + 1)) / ENTRIES, rel=0.2)


def test_the_seed_decides(text):
    assert Tasks(1).text() == text
    assert Tasks(2).text() != text


class Oracle:
    """A model that looks the answer up among the examples, and writes `ending` after it."""

    def __init__(self, tokenizer, ending=" "):
        self.tokenizer, self.ending = tokenizer, ending

    def __call__(self, ids):
        scores = np.zeros((*ids.shape, self.tokenizer.vocab_size))
        for row, ids_of_row in zip(scores, ids):
            text = self.tokenizer.decode(ids_of_row)
            for place in range(len(text)):
                row[place, self.tokenizer.encode(self.following(text[: place + 1]))[0]] = 1
        return autotx.Tensor(scores), None

    def following(self, text):
        *shown, asked = text.lstrip().split(" ")
        word, arrow, begun = asked.partition(">")
        answers = [pair.partition(">")[2] for pair in shown if arrow and pair.startswith(f"{word}>")]
        return (answers[0] + self.ending)[len(begun)] if answers and answers[0].startswith(begun) else "?"


@pytest.mark.parametrize(("ending", "right"), [(" ", True), ("\n", True), ("s", False)])
def test_answers_are_right_to_the_letter(tasks, text, ending, right):
    tokenizer = CharTokenizer(text + "?")
    for examples in range(ENTRIES + 1):
        prompts = tasks.prompts(examples, 20, True)
        told = sum(any(pair.startswith(p.split(" ")[-1]) for pair in p.split(" ")[:-1]) for p, _ in prompts)
        assert right_answers(Oracle(tokenizer, ending), tokenizer, prompts) == (told if right else 0)


def call(*argv):
    try:
        return main([str(word) for word in argv])
    except SystemExit as end:
        return end.code


def table(shown):
    return re.findall(r"^ +([0-4])((?: +[\d.]+%){3})$", shown, re.M)


def test_the_command_trains_and_measures(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fewshot, "LINES", 500)
    monkeypatch.setattr(command, "SHAPE", {"n_layer": 1, "n_head": 1, "n_embd": 4, "block_size": 64})
    out = tmp_path / "run"
    assert call("fewshot", "--out", out, "--steps", 2, "--prompts", 8) == 0
    shown = capsys.readouterr().out
    assert [row for row, _ in table(shown)] == list("01234")
    assert "Done: 2 steps." in shown
    assert f"autotx fewshot --model {out} --seed 1337" in shown
    assert call("fewshot", "--model", out, "--prompts", 8) == 0
    assert table(capsys.readouterr().out) == table(shown)
    for argv, message in (
        (("--out", out), "already holds a run"),
        (("--model", tmp_path), "there is no trained model"),
        (("--seed", -1), "--seed -1 should be at least 0"),
        (("--prompts", 0), "--prompts 0 should be at least 1"),
        (("--steps", 0, "--out", tmp_path / "new"), "--steps 0 should be at least 1"),
    ):
        assert call("fewshot", *argv) == 2
        assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_model_of_another_text_is_refused(tmp_path, capsys):
    (tmp_path / "text.txt").write_text("abcdefgh" * 100)
    shape = ("--n-layer=1", "--n-head=1", "--n-embd=4", "--steps=1", "--eval-batches=1")
    assert call("train", "--text", tmp_path / "text.txt", "--out", tmp_path / "run", *shape) == 0
    capsys.readouterr()
    assert call("fewshot", "--model", tmp_path / "run") == 2
    assert "was not trained by autotx fewshot; give a run that was" in capsys.readouterr().err

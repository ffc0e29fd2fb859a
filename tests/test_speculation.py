"""Guessed tokens: which they are, that the text is the same as without them, and what they may cost."""

import numba
import numpy as np
import pytest
from test_readers import made, same

from autotx.models.cli import main
from autotx.models.inference import speculation
from autotx.models.inference.pieces import Int8Matrix, Matrix, Reader
from autotx.models.inference.sampling import LanguageModel
from autotx.models.inference.speculation import FIRST, MANY, SHARE, following


def guesses(text, most=MANY):
    return "".join(map(chr, following(np.array([*map(ord, text)]), most)))


def test_what_followed_the_longest_ending_is_guessed():
    assert guesses("one two. three two. one tw", 3) == "o. "
    assert guesses("xabcd yabce abc") == "e abc", "the last of equal places"
    assert guesses("xabcd yabce xabc") == "d yabce", "the longest ending is before it"
    assert guesses("abcabcabc") == "abc"
    assert guesses("ab xb", 9) == guesses("abcdefgh") == guesses("a b") == "", "too few tokens agree"


class Copier(LanguageModel, Reader):
    """A model that writes again what stands `back` tokens before. `pieces`: how many tokens each call has read."""

    def __init__(self, back, block_size=400):
        self.back, self.pieces, self.text = back, [], []
        self.config = type("Config", (), {"block_size": block_size, "vocab_size": 300})

    def reader(self, rows=1, size=None):
        return self

    def read(self, ids):
        self.pieces.append(ids.shape[1])
        self.text = [*self.text[: self.begin(ids)], *ids[0]]
        return np.eye(300)[
            None, np.array([0] * self.back + self.text)[self.length - ids.shape[1] + 1 : self.length + 1]
        ]

    def scores(self, x):
        return x


def test_a_text_that_copies_is_read_in_few_pieces():
    prompt = np.arange(100, 150)
    text = {}
    for speculate in (False, True):
        model = Copier(50)
        text[speculate] = model.generate(prompt, 100, temperature=0, speculate=speculate)[0]
        pieces = [1, 4, *[8] * 11, 4, 1, 1] if speculate else [1] * 99
        assert model.pieces == [50, *pieces]
        assert model.length == 149, "all but the last token"
    assert np.array_equal(text[True], text[False])
    assert np.array_equal(text[True][50:100], prompt)


def cost(model, tokens):
    """The time of the pieces after the prompt, in tokens read alone."""
    return sum(1 + speculation.COST[n - 1] if n > 1 else 1 for n in model.pieces[1:])


def test_wrong_guesses_cost_a_small_share_of_the_time():
    """The text comes again, but each time with another token after three equal ones: every guess is wrong."""
    prompt = np.array([t for i in range(100) for t in (5, 6, 7, 8, 20 + i % 60, 90 + i)])

    class Misleading(Copier):
        def reader(self, rows=1, size=None):
            return self

        def read(self, ids):
            self.pieces.append(ids.shape[1])
            start = self.begin(ids)
            return np.eye(300)[None, [[6, 7, 8, (9 + i // 4) % 300][i % 4] for i in range(start, self.length)]]

    model = Misleading(1, 4000)
    model.generate(prompt[:4], 2000, temperature=0, speculate=True)
    assert any(n > 1 for n in model.pieces[1:])
    assert cost(model, 2000) <= 2000 * (1 + SHARE) + FIRST


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="NumPy adds up otherwise for other shapes")
@pytest.mark.parametrize("settings", [{"temperature": 0}, {"temperature": 0.7, "top_k": 3, "repetition_penalty": 1.1}])
@pytest.mark.parametrize("matrix", [Matrix, Int8Matrix])
@pytest.mark.parametrize("name", ["gpt", "llama"])
def test_the_text_is_the_same_with_guesses(name, matrix, settings, monkeypatch):
    """The same tokens from the same draws, also where the window slides and where the text ends in the middle."""
    monkeypatch.setattr(speculation, "SHORTEST", 1)
    monkeypatch.setattr(speculation, "SHARE", 1.0)  # always guess
    model, prompt = made(name).reader(matrix=matrix), np.tile(np.arange(5, 15), 10)
    for end in (None, 31):
        found = []
        for speculate in (False, True):
            rng, scores = np.random.default_rng(9), []
            text = model.generate(prompt, 40, rng=rng, speculate=speculate, end=end,
                                  watch=lambda row, _, to=scores: to.append(row), **settings)  # fmt: skip
            found.append((text, np.concatenate(scores), rng.random()))
        (text, scores, draw), (other, others, next_draw) = found
        assert np.array_equal(text, other)
        same(scores, others)
        assert draw == next_draw, "as many draws"


def test_several_texts_are_refused():
    with pytest.raises(ValueError, match="generate: speculate guesses for one text, not for 2; leave it out"):
        made("gpt").stream(np.ones((2, 3), int), 3, speculate=True)


def test_a_guess_has_room():
    """Neither more tokens than are asked for are read, nor more than the model sees at once."""
    for block_size, count in ((400, 5), (60, 10)):
        model = Copier(20, block_size)
        model.generate(np.arange(20), count, temperature=0, speculate=True)
        assert sum(model.pieces) <= 20 + count - 1


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run of a small GPT."""
    folder = tmp_path_factory.mktemp("speculation")
    (folder / "text").write_text("the quick brown fox jumps over the lazy dog\n" * 20)
    tiny = "--n-layer 1 --n-head 2 --n-embd 16 --block-size 64 --steps 2 --eval-batches 1"
    assert main(["train", "--text", str(folder / "text"), "--out", str(folder / "run"), *tiny.split()]) == 0
    return str(folder / "run")


def test_the_command_writes_the_same_text(run, capsys, fails):
    command = ["generate", "--model", run, "--prompt", "the quick the quick", "--max-new-tokens", "30", "--seed", "1"]
    texts = []
    for flags in ([], ["--speculate"]):
        capsys.readouterr()
        assert main([*command, *flags, "--json"]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    fails([*command, "--speculate", "--samples", "2"], "--speculate is for one text; leave it or --samples out")

"""Several samples at once, and the choices of their tokens: as a table, as JSON, and as a page in a real browser."""

import json
import re
import sys

import numba
import numpy as np
import pytest
from browsing import Page

import autotx
from autotx import viz
from autotx.models import GPT, GPTConfig, Llama, LlamaConfig
from autotx.models.cli import main
from autotx.models.commands import choices
from autotx.models.inference.continuations import Continuation, choice, continue_text
from autotx.models.tokenizers import ByteTokenizer
from autotx.text import visible

SMALL = {"block_size": 16, "vocab_size": 256, "n_layer": 2, "n_head": 4, "n_embd": 32}


@pytest.fixture(scope="module", params=["gpt", "llama"])
def model(request):
    rng = np.random.default_rng(3)
    if request.param == "gpt":
        made = GPT(GPTConfig(**SMALL), rng)
    else:
        made = Llama(LlamaConfig(**SMALL, n_kv_head=2, n_hidden=48), rng)
    for p in made.parameters():
        p.data = p.numpy() * (4 if p.ndim == 2 else 1)  # away from all tokens being alike
    return made


def written(model, count, tokens=30, **settings):
    """The ids of `count` samples of a text."""
    rows = [Continuation(ByteTokenizer()) for _ in range(count)]
    rng = [np.random.default_rng([7, i]) for i in range(count)]
    for _ in continue_text(model, ByteTokenizer().encode("the quick"), tokens, rows, [0], rng=rng, **settings):
        pass
    return [row.ids for row in rows]


# Samples


@pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="NumPy adds up otherwise for other shapes")
@pytest.mark.parametrize("settings", [{}, {"temperature": 0.8, "top_p": 0.9, "repetition_penalty": 1.2}])
def test_a_sample_is_the_same_however_many_are_beside_it(model, settings):
    many = written(model, 5, **settings)  # goes on when the window slides
    assert written(model, 3, **settings) == many[:3]
    assert written(model, 1, **settings) == many[:1]
    assert len({tuple(ids) for ids in many}) == 5


def test_the_first_sample_is_what_a_single_generator_draws(model):
    ids = ByteTokenizer().encode("the quick")[None]
    drawn = model.generate(ids, 30, rng=np.random.default_rng(7))[0, ids.shape[1] :]
    assert written(model, 1) == [drawn.tolist()]


def test_a_prompt_that_rows_share_is_read_once(model, monkeypatch):
    read, shapes = type(model.reader()).read, []
    monkeypatch.setattr(type(model.reader()), "read", lambda self, ids: shapes.append(ids.shape) or read(self, ids))
    written(model, 4, tokens=3)
    assert shapes == [(1, 9), (4, 1), (4, 1)]


def test_generators_that_do_not_fit_the_rows(model):
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="generate: 2 random generators for 1 rows; give one, or one for each row"):
        model.stream([[1]], 3, rng=[rng, rng])
    with pytest.raises(TypeError, match="generate: "):
        model.stream([[1]], 3, rng=[5])


def test_each_row_ends_for_itself():
    class Fixed:
        def stream(self, ids, n, **settings):
            return iter(np.array([list(b"abXc"), list(b"ab\0d"), list(b"abc\xe2")]).T)

    rows = [Continuation(ByteTokenizer(), ["X"]) for _ in range(3)]
    said = list(continue_text(Fixed(), np.array([1]), 9, rows, [0]))
    assert [row.text for row in rows] == ["ab", "ab", "abc\ufffd"]
    assert [row.ended for row in rows] == ["stop", "end", None]
    assert [len(row.ids) for row in rows] == [3, 3, 4]
    assert ["".join(parts) for parts in zip(*said)] == [row.text for row in rows]


# Choices


def test_probabilities_are_the_models_own(model):
    """Before temperature, penalty and top-k, and of the text as the model saw it."""
    rows = [Continuation(ByteTokenizer(), likeliest=4) for _ in range(2)]
    prompt, rng = ByteTokenizer().encode("abc"), [np.random.default_rng(i) for i in (0, 1)]
    settings = {"temperature": 3.0, "repetition_penalty": 2.0, "rng": rng}
    for _ in continue_text(model, prompt, 10, rows, [0], **settings):
        pass
    for row in rows:
        with autotx.no_grad():
            scores = model(np.concatenate([prompt, row.ids])[None])[0].data[0, len(prompt) - 1 : -1]
        p = np.exp(scores - scores.max(axis=1, keepdims=True), dtype=np.float64)
        p /= p.sum(axis=1, keepdims=True)
        assert [c.token for c in row.choices] == row.ids
        for c, own in zip(row.choices, p):
            assert c.probability == pytest.approx(own[c.token], rel=1e-4)
            assert [q for _, q in c.likeliest] == pytest.approx(np.sort(own)[:-5:-1], rel=1e-4)
            assert c.rank == 1 + np.sum(own > own[c.token])


def test_of_equally_likely_tokens_the_lower_id_is_the_likelier():
    found = choice(np.array([1.0, 5.0, 5.0, 1.0, 5.0]), 4, 2)
    assert (found.rank, [i for i, _ in found.likeliest]) == (3, [1, 2])
    assert choice(np.array([1.0, 5.0]), 1, 9).rank == 1


def row_of(*tokens):
    """A Continuation of byte tokens that had this probability each."""
    row = Continuation(ByteTokenizer(), likeliest=2)
    for token, score in tokens:
        scores = np.zeros(256)
        scores[token], scores[0x1B] = score, 1.0
        row.push(token, scores)
    return row


def test_the_table_shows_control_characters_and_fits_the_terminal(monkeypatch):
    row = row_of((ord("a"), 9.0), (ord("\n"), 0.0))
    heading, first, second = choices.table(row, ByteTokenizer()).split("\n")
    assert "probabilities are the model's own" in heading
    assert re.fullmatch(r"'a' +96\.9 % +1  'a' +96\.9 %  '\\x1b' +<0\.1 %", first)
    assert re.fullmatch(r"'\\n' +0\.4 % +12  '\\x1b' +1\.1 %  '\\x00' +0\.4 %", second)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    for columns in (44, 60):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert max(map(len, choices.table(row, ByteTokenizer()).split("\n")[1:])) <= columns
    assert visible("a\u202e\x1b é\n", "\n") == "a\\u202e\\x1b é\n"


# The command


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run of a small GPT."""
    folder = tmp_path_factory.mktemp("choices")
    (folder / "text").write_text("the quick brown fox jumps over the lazy dog\n" * 20)
    tiny = "--n-layer 1 --n-head 2 --n-embd 16 --block-size 16 --steps 2 --eval-batches 1"
    assert main(["train", "--text", str(folder / "text"), "--out", str(folder / "run"), *tiny.split()]) == 0
    return folder / "run"


@pytest.fixture
def generated(run, capsys):
    def call(*flags):
        capsys.readouterr()
        given = ["--prompt", "the fox", "--max-new-tokens", "6", "--seed", "1"]
        assert main(["generate", "--model", str(run), *given, *map(str, flags)]) == 0
        return capsys.readouterr()

    return call


def test_samples_are_printed_apart(generated):
    alone, three = generated().out, generated("--samples", 3).out
    first, second, third = re.split(r"\n?--- sample \d of 3 ---\n", three)[1:]
    assert first == alone
    assert generated("--samples", 2).out.endswith(f"--- sample 2 of 2 ---\n{second}")
    assert all(text.startswith("the fox") for text in (first, second, third))


def test_json_is_one_object_with_all_of_it(generated):
    shown = generated("--samples", 2, "--show-choices", 3, "--json", "--stop", "never")
    found = json.loads(shown.out)
    assert (found["prompt"], found["seed"], len(found["prompt_ids"])) == ("the fox", 1, 7)
    assert generated().out == f"the fox{found['samples'][0]['text']}\n"
    for sample in found["samples"]:
        assert sample["ended"] == "length"
        assert len(sample["ids"]) == len(sample["choices"]) == 6
        assert [len(c["likeliest"]) for c in sample["choices"]] == [3] * 6
        assert {"token", "probability", "rank", "likeliest"} == sample["choices"][0].keys()
    assert "choices" not in json.loads(generated("--json").out)["samples"][0]


def test_a_seed_that_is_not_given_is_told(generated, run, capsys):
    assert main(["generate", "--model", str(run), "--json", "--prompt", "the fox", "--max-new-tokens", "6"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert json.loads(generated("--json", "--seed", found["seed"]).out)["samples"] == found["samples"]


def test_what_the_model_no_longer_saw_is_told(generated):
    assert generated("--max-new-tokens", 10).err == ""
    told = "the text has 27 tokens, and the model reads 16 at once: at the end it no longer saw the first 10\n"
    assert generated("--max-new-tokens", 20).err == f"autotx generate: {told}"


def test_flags_that_are_wrong(run, fails, tmp_path):
    same = ["generate", "--model", run]
    fails([*same, "--samples", 0], "--samples 0 should be at least 1")
    fails([*same, "--show-choices", 0], "--show-choices 0 should be at least 1")
    fails([*same, "--html", tmp_path / "a.txt"], r"a\.txt ends in \.txt; give it a name that ends in \.html")
    fails([*same, "--samples", 2, "--attention", tmp_path / "a.png"], "--attention draws one text; leave --samples out")


# The page


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A page of two texts, one of which is hostile."""
    best = [(" the", 0.5), ("</script><script>document.title = 'x'</script>", 0.25)]
    first = [(" the", 0.5, 1, best), (" \x1b<b>", 0.1, 23, best), ("\n", 0.00001, 1002, best)] * 12
    path = tmp_path_factory.mktemp("page") / "choices.html"
    viz.choices([first, [("z", 1.0, 1, [("z", 1.0)])]], path, "Choices & more", prompt="Once\x07 <i>")
    return path


def test_the_page_needs_nothing_else(file):
    text = file.read_text(encoding="utf-8")
    assert not re.search(r"https?://|<link (?!rel=\"icon\" href=\"data:,\")|@import|src=", text)
    assert text.count("</script>") == 2


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [400, 1400])
def test_the_page_is_read_with_pointer_and_keys(browser, file, width, dark):
    page = Page(browser, file, width, dark=dark)
    assert page.text("h1") == "Choices & more"
    assert page.texts("h2") == ["sample 1 of 2", "sample 2 of 2"]
    assert page.text(".prompt") == "Once\\x07 <i>"
    assert page.run("return document.documentElement.scrollWidth <= innerWidth")
    assert page.text("#detail p") == "' the': 50.0 %, the likeliest"  # the first is chosen at the beginning
    page.press("Tab")
    page.press("→")
    assert page.text("#detail p") == "' \\x1b<b>': 10.0 %, the 23rd likeliest"
    assert page.texts("#detail tr.chosen td")[:2] == ["' \\x1b<b>'", "10.0 %"]
    page.press("→")
    assert page.text("#detail p") == "'\\n': <0.01 %, the 1,002nd likeliest"
    page.press("↓")
    assert page.run("return document.activeElement.textContent") in (" the", " \\x1b<b>", "\n")
    page.press("End")
    assert page.text("#detail p") == "'z': 100.0 %, the likeliest"
    page.press("Home")
    page.run("spans[1].dispatchEvent(new PointerEvent('pointerover', {bubbles: true}))")
    assert page.text("#detail p").startswith("' \\x1b<b>': 10.0 %")
    page.run("spans[1].dispatchEvent(new PointerEvent('pointerout', {bubbles: true}))")
    assert page.text("#detail p").startswith("' the'")
    page.run("spans[2].click()")
    assert page.text("#detail p").startswith("'\\n'")
    assert page.run("return document.querySelectorAll('[aria-selected=true]').length") == 1
    assert page.errors() == []

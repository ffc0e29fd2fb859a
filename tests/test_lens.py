"""The logit lens, direct contributions and patching: the numbers are the model's own, and add up."""

import json
import re

import numpy as np
import pytest
from browsing import Page
from gguf_files import SMOLLM2, TEXT, needs_smollm2, small_llama, write_model
from PIL import Image
from test_edits import read
from test_readers import ARCHITECTURES, ROWS, made, same

from autotx import viz
from autotx.models.cli import main
from autotx.models.formats import open_reader
from autotx.models.inference.continuations import choice
from autotx.models.inference.lens import accounts, lens
from autotx.models.inference.patching import WHAT, patch
from autotx.models.inference.pieces import Int8Matrix, Matrix

MODELS = [name for name in ARCHITECTURES if "transformer" not in name and "norm" not in name]
IDS = ROWS[0, :20]


# The lens


@pytest.mark.parametrize("matrix", [Matrix, Int8Matrix])
@pytest.mark.parametrize("name", MODELS)
def test_the_last_row_is_what_the_model_says_to_the_bit(name, matrix):
    model = made(name).reader(matrix=matrix)
    reader = model.reader(1)
    scores = reader.scores(reader.read(IDS[None]))[0]
    found = lens(model, IDS, 4)
    assert found.next.tolist() == [*IDS[1:], scores[-1].argmax()]
    expected = [choice(one, token, 4) for one, token in zip(scores, found.next)]
    assert found.probability[-1].tolist() == [c.probability for c in expected]
    assert found.rank[-1].tolist() == [c.rank for c in expected]
    pairs = [list(zip(*row)) for row in zip(found.likeliest[-1].tolist(), found.probabilities[-1].tolist())]
    assert pairs == [c.likeliest for c in expected]
    assert found.layers == ["embedding", *(f"block {i}" for i in range(len(model.blocks)))]
    assert found.likeliest.shape == (len(found.layers), 20, 4)


@pytest.mark.parametrize("name", ["gpt", "llama"])
def test_a_layer_says_what_a_model_that_ends_there_would(name):
    """Without the blocks after it, which add nothing."""
    model = made(name)
    with model.edit({"blocks.1.attention.out": np.zeros_like, "blocks.1.mlp.out": np.zeros_like}):
        reader = model.reader(1)
        scores = reader.scores(reader.read(IDS[None]))[0]
    p = lens(model, IDS).probability[1, :-1]
    expected = np.array([choice(one, token, 1).probability for one, token in zip(scores, IDS[1:])])
    same(p, expected)


# Direct contributions


@pytest.mark.parametrize("name", MODELS)
def test_the_residual_is_what_was_added_to_it(name):
    model = made(name)
    with model.edit(dict.fromkeys(["embedding", "blocks.*.attention.out", "blocks.*.mlp.out", "blocks.*.out"])) as seen:
        read(model, ROWS)
    last = seen.pop(f"blocks.{len(model.blocks) - 1}.out")
    parts = [x for name, x in seen.items() if name.count(".") != 2]
    assert len(parts) == 1 + 2 * len(model.blocks)
    np.testing.assert_allclose(sum(parts), last, rtol=0, atol=1e-5 * np.abs(last).max())


@pytest.mark.parametrize("matrix", [Matrix, Int8Matrix])
@pytest.mark.parametrize("name", MODELS)
def test_contributions_add_up_to_the_score(name, matrix):
    model = made(name).reader(matrix=matrix)
    scores = read_one(model)
    for position in (-1, 3):
        alone = accounts(model, IDS, 7, position=position)
        same(np.float32(alone.score), scores[position, 7])
        assert alone.total() == pytest.approx(alone.score, abs=2e-4 * float(np.abs(scores).max()))
        both = accounts(model, IDS, 7, 9, position)
        other = accounts(model, IDS, 9, position=position)
        assert both.score == pytest.approx(scores[position, 7] - scores[position, 9], abs=1e-6)
        np.testing.assert_allclose(both.heads, alone.heads - other.heads, atol=1e-6)
        assert both.constant == pytest.approx(alone.constant - other.constant)


def read_one(model):
    reader = model.reader(1)
    return reader.scores(reader.read(IDS[None]))[0]


@pytest.mark.parametrize("name", ["gpt", "llama"])
def test_a_contribution_is_what_the_score_loses_without_the_part_if_the_scale_stays(name):
    model = made(name)
    reader = model.reader(1)
    with model.edit(dict.fromkeys(["blocks.1.mlp.out", "blocks.1.attention.heads", "blocks.1.out"])) as seen:
        reader.read(IDS[None])
    x = seen["blocks.1.out"][0, -1].astype(np.float64)
    norm, w = reader.norm, reader.head.rows(np.array([7]))[0].astype(np.float64)
    beta, centre = (norm.beta, 1) if name == "gpt" else (0, 0)

    def score(of):  # by a scale that is always that of x
        scale = np.sqrt(np.mean((x - centre * x.mean()) ** 2) + norm.eps)
        return (norm.gamma * (of - centre * of.mean()) / scale + beta) @ w

    found = accounts(model, IDS, 7)
    assert score(x) == pytest.approx(found.score, rel=1e-4)
    assert score(x) - score(x - seen["blocks.1.mlp.out"][0, -1]) == pytest.approx(found.mlps[1])
    D = model.config.n_embd // model.config.n_head
    joining = reader.blocks[1].proj.weight[:, 2 * D : 3 * D].astype(np.float64)
    part = joining @ seen["blocks.1.attention.heads"][0, -1, 2]
    assert score(x) - score(x - part) == pytest.approx(found.heads[1, 2])


# Patching


CLEAN, CORRUPT = ROWS[0, :9], np.where(np.arange(9) == 4, ROWS[1, :9] + 1, ROWS[0, :9])


@pytest.mark.parametrize("matrix", [Matrix, Int8Matrix])
@pytest.mark.parametrize("name", ["gpt", "llama"])
def test_all_residuals_of_a_layer_give_the_clean_logits_to_the_bit(name, matrix):
    model = made(name).reader(matrix=matrix)
    for layer in range(2):
        with model.edit({f"blocks.{layer}.out": None}) as seen:
            reader = model.reader(1)
            clean = reader.scores(reader.read(CLEAN[None]))
        value = seen[f"blocks.{layer}.out"]
        for piece in (1, 4, 9):
            places = iter(range(0, 9, piece))

            def put(x, places=places, value=value):
                t = next(places)
                return value[:, t : t + x.shape[1]]

            with model.edit({f"blocks.{layer}.out": put}):
                reader = model.reader(1)
                parts = [reader.scores(reader.read(CORRUPT[None, t : t + piece])) for t in range(0, 9, piece)]
            same(np.concatenate(parts, axis=1), clean)


@pytest.mark.parametrize("what", WHAT)
@pytest.mark.parametrize("name", ["gpt", "llama"])
def test_patching_is_what_edits_of_one_value_give(name, what, monkeypatch):
    model = made(name)
    found = patch(model, CLEAN, CORRUPT, what, 5, 6)
    monkeypatch.setattr("autotx.models.inference.patching.TOKENS", 30)  # a few rows at a time
    again = patch(model, CLEAN, CORRUPT, what, 5, 6)
    same(again.patched, found.patched)
    with model.edit({f"blocks.*.{WHAT[what]}": None}) as seen:
        scores = read(model, CLEAN[None])[0, -1]
    same(np.float32(found.clean), scores[5] - scores[6])
    for layer in range(2):
        name = f"blocks.{layer}.{WHAT[what]}"
        for t in (0, 4, 8):

            def put(x, t=t, value=seen[name]):
                x = x.copy()
                x[:, t] = value[:, t]
                return x

            with model.edit({name: put}):
                scores = read(model, CORRUPT[None])[0, -1]
            same(found.patched[layer, t], scores[5] - scores[6])
    same(found.patched[:, :4], np.full((2, 4), found.corrupt, np.float32))  # before the two differ
    if what == "residual":
        same(found.patched[1, 8], np.float32(found.clean))
    np.testing.assert_allclose(found.restored()[0, 0], 0, atol=1e-5)
    same(np.float32(patch(model, CLEAN, CORRUPT, what, 5).clean), read(model, CLEAN[None])[0, -1, 5])


def test_prompts_of_different_lengths_cannot_be_patched():
    with pytest.raises(ValueError, match=r"^patch: prompts of 9 and 8 tokens; give two of as many$"):
        patch(made("gpt"), CLEAN, CORRUPT[:8], "mlp", 1)


# The commands


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lens")
    write_model(folder / "small.gguf", small_llama())
    (folder / "edit.py").write_text('edits = {"blocks.*.mlp.out": lambda x: -x}\n')
    return folder


@pytest.fixture
def said(folder, capsys):
    def call(command, *words):
        capsys.readouterr()
        assert main([command, "--model", str(folder / "small.gguf"), *map(str, words)]) == 0
        return capsys.readouterr().out

    return call


PROMPT = "the quick brown fox"


def test_lens_as_text_and_as_json(said, folder):
    shown = said("lens", "--prompt", PROMPT, "--likeliest", 3)
    found = json.loads(said("lens", "--prompt", PROMPT, "--json"))
    opened = open_reader(folder / "small.gguf", Matrix)
    ids = opened.tokenizer.encode(PROMPT)
    of = lens(opened.model, ids)
    assert found["tokens"] == opened.tokenizer.texts(ids)
    assert list(found["layers"]) == ["embedding", "block 0", "block 1"]
    last = found["layers"]["block 1"][-1]
    assert (last["probability"], last["rank"]) == (of.probability[-1, -1], 1)
    assert last["likeliest"][0] == [found["target"], last["probability"]]
    assert f"after '{found['tokens'][-1]}', the last of {len(ids)} tokens" in shown
    assert re.search(rf"block 1 +'{re.escape(found['target'])}' {100 * last['probability']:.3g} %", shown)
    contributions = accounts(opened.model, ids, int(of.next[-1]))
    assert found["contributions"]["heads"] == contributions.heads.tolist()
    assert found["contributions"]["total"] == pytest.approx(found["contributions"]["score"], abs=1e-4)
    assert f"the score of '{found['target']}' is {contributions.score:.2f}; direct contributions (the scale of" in shown
    other = json.loads(said("lens", "--prompt", PROMPT, "--json", "--target", " the", "--against", "q"))
    assert (other["target"], other["against"]) == (" the", "q")
    edited = json.loads(said("lens", "--prompt", PROMPT, "--json", "--edit", folder / "edit.py"))
    assert edited["layers"]["block 1"] != found["layers"]["block 1"]
    assert edited["layers"]["embedding"] == [*found["layers"]["embedding"][:-1], edited["layers"]["embedding"][-1]]


def test_patch_as_text_json_and_files(said, folder, tmp_path):
    both = ["--clean", "the quick brown fox", "--corrupt", "the quick brown dog"]
    found = json.loads(said("patch", *both, "--json", "--what", "mlp"))
    said("patch", *both, "--what", "mlp", "--out", tmp_path / "a.json")
    assert json.loads((tmp_path / "a.json").read_text()) == found
    opened = open_reader(folder / "small.gguf", Matrix)
    clean, corrupt = (opened.tokenizer.encode(text) for text in both[1::2])
    texts = opened.tokenizer.texts(range(opened.tokenizer.vocab_size))
    target, against = (texts.index(found[key]) for key in ("target", "against"))
    of = patch(opened.model, clean, corrupt, "mlp", target, against)
    assert found["difference"] == {"clean": of.clean, "corrupt": of.corrupt, "patched": of.patched.tolist()}
    assert found["restored"] == of.restored().tolist()
    assert found["tokens"][-1].endswith("fox|dog") or "|" in "".join(found["tokens"])
    shown = said("patch", *both, "--out", tmp_path / "a.png")
    assert f"is {of.clean:.2f} after --clean and {of.corrupt:.2f} after --corrupt" in shown
    restored = patch(opened.model, clean, corrupt, "residual", target, against).restored()
    assert f"  {len(clean) - 1}, '{found['tokens'][-1]}': {restored[:, -1].max():.1%} in block " in shown
    assert "; more than half in block " in shown
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size[0] > 400


def test_prompts_and_tokens_that_are_wrong(folder, fails, tmp_path):
    model = ["--model", folder / "small.gguf"]
    for command, prompts in (
        ("lens", ["--prompt", PROMPT]),
        ("patch", ["--clean", PROMPT, "--corrupt", "the quick brown dog"]),
    ):
        flag, argv = prompts[-2], [command, *model, *prompts]
        fails([*argv[:-1], "a"], f"{flag} is one token, which has none before it; give a longer text")
        fails([*argv[:-1], ""], f"{flag} is empty; give a longer text")
        fails([*argv[:-1], TEXT], rf"{flag} has [\d,]+ tokens, and the model reads 64 at once; give a shorter text")
        told = "--target 'foxes jump' is . tokens, .*'; give one token, with the space before it if it has one"
        fails([*argv, "--target", "foxes jump"], told)
        fails([*argv, "--against", ""], "--against '' is empty; give one token")
    fails(["lens", *model, "--prompt", PROMPT, "--likeliest", 0], "--likeliest 0 should be at least 1")
    fails(["lens", *model, "--prompt", PROMPT, "--out", tmp_path / "a.html"], "--out|a.html")
    one = ["patch", *model, "--clean", PROMPT]
    fails(
        [*one, "--corrupt", "the quick"],
        r"--clean and --corrupt have \d \('the' .*\) and 2 \('the' ' quick'\) tokens;",
    )
    fails([*one, "--corrupt", PROMPT], "--target and --against are both '.*'; give two tokens that the prompts make")
    fails(
        [*one, "--corrupt", PROMPT, "--target", "a", "--against", "b"], "give the same scores, so there is nothing to"
    )
    fails([*one, "--corrupt", PROMPT, "--out", tmp_path / "a.txt"], r"a\.txt ends in \.txt")


# Pictures and the page


LAYERS, TOKENS = ["embedding", "block 0", "block 1"], ["The", " $x", " </script>", "\n"]
CELLS = [
    [(following, p, rank, [(f"{layer}{following}", 0.9), ("b", 0.05)]) for following, p, rank in (
        (" $x", 0.05, 2), (" </script>", 0.0, 317), ("\n", 0.9, 1), ("end", 0.9, 1))]
    for layer in LAYERS
]  # fmt: skip


def test_the_picture_of_a_lens_has_a_cell_for_each_layer_and_token():
    figure, axes = viz.lens(LAYERS, TOKENS, CELLS, title="A $ title")
    texts = [t.get_text() for t in axes.texts]
    assert len(texts) == 12
    assert texts[0].startswith("embedding"[:9])
    assert [t.get_text() for t in axes.get_yticklabels()] == LAYERS
    assert len(axes.patches) == 6  # the frames
    assert viz.style.drawn(figure)
    many = [[CELLS[0][0]] * 100 for _ in LAYERS]
    figure, axes = viz.lens(LAYERS, ["x"] * 100, many)
    assert len(axes.get_xticklabels()) == 24
    assert any("The last 24 of 100 tokens" in t.get_text() for t in figure.texts)
    with pytest.raises(ValueError, match=r"^lens: 3 layers, 4 tokens and "):
        viz.lens(LAYERS, TOKENS, CELLS[:2])


def test_the_picture_of_patching():
    shares = np.array([[0, 0.5, 1.2], [-0.1, 0, 1]])
    figure, axes = viz.patching(shares, ["a", "$b", "c|d"], "mlp", title="t")
    assert [t.get_text() for t in axes.texts] == ["0.00", "0.50", "1.20", "-0.10", "0.00", "1.00"]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["block 0", "block 1"]
    assert any("that one mlp of the clean run" in t.get_text() for t in figure.texts)
    assert viz.style.drawn(figure)
    assert not viz.patching(np.zeros((30, 3)), ["a", "b", "c"])[1].texts
    with pytest.raises(ValueError, match=r"^patching: shares of shape \(2, 3\) for 2 tokens; give \(layers, tokens\)$"):
        viz.patching(shares, ["a", "b"])


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "lens.html"
    viz.lens_page(LAYERS, TOKENS, CELLS, path, title="Lens & more", about="about <it>")
    return path


def test_the_page_of_a_lens_needs_nothing_else(file):
    text = file.read_text(encoding="utf-8")
    assert not re.search(r"https?://|<link (?!rel=\"icon\" href=\"data:,\")|@import|src=", text)
    assert text.count("</script>") == 2


@pytest.mark.parametrize("width", [400, 1400])
def test_the_page_of_a_lens_is_read_with_pointer_and_keys(browser, file, width):
    page = Page(browser, file, width)
    assert page.text("h1") == "Lens & more"
    assert page.run("return document.documentElement.scrollWidth <= innerWidth")
    assert page.texts("tbody th") == LAYERS[::-1]
    assert page.text("#detail p") == "block 1, after '\\n', 'end': 90.0 %, the likeliest"
    page.press("Tab")
    if page.run("return document.activeElement.tagName") != "TD":  # a table that scrolls may be focused itself
        page.press("Tab")
    page.press("↓", "←", "←")
    assert page.text("#detail p") == "block 0, after ' $x', ' </script>': <0.01 %, the 317th likeliest"
    assert page.texts("#detail tr:not(.chosen) td")[0] == "'block 0 </script>'"
    page.run("places[0][0].dispatchEvent(new PointerEvent('pointerover', {bubbles: true}))")
    assert page.text("#detail p").startswith("embedding, after 'The', ' $x': 5.0 %, the 2nd likeliest")
    page.run("places[0][0].dispatchEvent(new PointerEvent('pointerout', {bubbles: true}))")
    assert page.text("#detail p").startswith("block 0, after ' $x'")
    page.run("places[2][3].click()")
    assert page.text("#detail p").startswith("block 1, after")
    assert page.run("return document.querySelectorAll('[aria-selected=true]').length") == 1
    assert page.run("return document.querySelectorAll('td.right').length") == 6
    assert page.errors() == []


@needs_smollm2
@pytest.mark.slow
def test_a_real_model_moves_paris_from_the_country_to_the_last_token():
    opened = open_reader(SMOLLM2, Matrix)
    clean, corrupt = (opened.tokenizer.encode(f"The capital of {land} is") for land in ("France", "Italy"))
    paris, rome = (int(opened.tokenizer.encode(f" {city}")[0]) for city in ("Paris", "Rome"))
    found = lens(opened.model, clean)
    assert found.next[-1] == paris
    assert found.probability[-1, -1] > 0.7 > 0.3 > found.probability[-2, -1]
    restored = patch(opened.model, clean, corrupt, "residual", paris, rome).restored()
    assert restored[:20, 3].min() > 0.9
    assert restored[25:, 4].min() > 0.9
    assert restored[-1, 4] == pytest.approx(1)
    assert np.abs(restored[:, :3]).max() < 1e-6
    of = accounts(opened.model, clean, paris, rome)
    assert of.total() == pytest.approx(of.score, abs=1e-3)

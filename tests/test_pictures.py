"""Pictures by matplotlib: their data are the engine's, no text lies on another, and bad input is told in one line."""

import itertools
import json
import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text

import autotx
from autotx import Tensor, nn, viz
from autotx.models import GPT, GPTConfig
from autotx.models.cli import main
from autotx.models.commands import gallery, maps, plot
from autotx.models.registry import settings_of
from autotx.models.run import LOG
from autotx.models.tokenizers import ByteTokenizer, Tokenizer
from autotx.models.train import train
from autotx.models.transformer import PAD, START, Transformer, TransformerConfig
from autotx.viz import style
from autotx.viz.attention import LARGEST, AttentionMap, _Plan, most_tokens
from autotx.viz.curves import _running_mean, loss_curve
from autotx.viz.embeddings import nearest, pca
from autotx.viz.steps import op_times

WORDS = ["You", "are", "welcome", "$5", " and", "\n", "你", "end"]


def overlaps(figure):
    """Pairs of texts of a Figure that lie on each other, and texts that are cut by its edge."""
    drawn, draw = {}, Text.draw

    def noted(text, renderer):
        if text.get_visible() and text.get_text().strip():
            drawn[id(text)] = text
        draw(text, renderer)

    with mock.patch.object(Text, "draw", noted):
        figure.canvas.draw()
    assert drawn
    boxes = [(t.get_text(), t.get_window_extent()) for t in drawn.values()]
    edge = figure.bbox
    cut = [text for text, b in boxes if b.x0 < edge.x0 or b.y0 < edge.y0 or b.x1 > edge.x1 or b.y1 > edge.y1]
    return cut + [(a, b) for (a, one), (b, two) in itertools.combinations(boxes, 2) if one.padded(-1).overlaps(two)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of characters."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 20)
    shape = {"n_layer": 1, "n_head": 2, "n_embd": 8, "block_size": 16, "batch_size": 2, "steps": 4}
    train(settings_of("gpt")(text=(str(folder / "text.txt"),), out=str(folder / "run"), eval_interval=2, **shape))
    return folder / "run"


def call(*argv):
    return main([str(word) for word in argv])


@pytest.fixture
def fails(capsys):
    def check(argv, text):
        capsys.readouterr()
        assert call(*argv) == 2
        shown = capsys.readouterr()
        assert text in shown.err
        assert shown.err.count("\n") == 1

    return check


# Attention


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("mask", ["none", "padding", "everything", "added"])
def test_recomputed_weights_are_those_of_the_kernel(rng, causal, mask):
    q, k, v = (rng.normal(size=(2, 3, n, 4)) for n in (5, 6, 6))
    masks = {
        "none": None,
        "padding": np.array([1, 1, 1, 1, 0, 0], bool)[None, None, None],
        "everything": np.arange(5)[:, None] != 2,  # query 2 may look at nothing
        "added": rng.normal(size=(5, 6)),
    }

    class Net(nn.Module):
        def forward(self):
            self.out = autotx.scaled_dot_product_attention(Tensor(q), k, v, masks[mask], causal)

    net = Net()
    for index in (0, 1):
        ((name, found),) = viz.attention_maps(net, index=index).items()
        assert name == "attention"
        np.testing.assert_allclose(found.weights @ v[index], net.out.data[index], atol=1e-12)
        assert found.weights[:, ~found.allowed].max(initial=0) == 0
        assert found.allowed[0, -1] == (not causal and mask != "padding")


@pytest.mark.parametrize("shapes", [[(2, 5, 18)], [(2, 4, 6), (2, 5, 12)]])
def test_weights_of_packed_heads_are_those_of_the_kernel(rng, shapes):
    given, mask = [rng.normal(size=shape) for shape in shapes], rng.random((3, shapes[0][1], 5)) < 0.5

    class Net(nn.Module):
        def forward(self):
            self.out = autotx.multi_head_attention(*map(Tensor, given), n_head=3, mask=mask)

    net = Net()
    (found,) = viz.attention_maps(net, index=1).values()
    v = given[-1][1, :, -6:].reshape(5, 3, 2)
    out = np.einsum("hts,shd->thd", found.weights, v).reshape(-1, 6)
    np.testing.assert_allclose(out, net.out.data[1], atol=1e-12)
    np.testing.assert_array_equal(found.allowed, mask.any(axis=0))


def test_maps_of_a_gpt_and_of_a_transformer(rng):
    gpt = GPT(GPTConfig(block_size=8, vocab_size=9, n_layer=2, n_head=2, n_embd=8), rng)
    found = viz.attention_maps(gpt, np.array([[1, 2, 3, 4, 5]]))
    assert list(found) == ["blocks.0.attn", "blocks.1.attn"]
    np.testing.assert_allclose(found["blocks.1.attn"].weights.sum(axis=-1), 1, rtol=1e-5)
    assert (found["blocks.0.attn"].allowed == np.tri(5, dtype=bool)).all()
    assert all("forward" not in vars(module) for _, module in gpt.named_modules())

    model = Transformer(TransformerConfig(vocab_size=9, block_size=8, n_layer=1, n_head=2, n_embd=8), rng)
    source, target = np.array([[5, 6, 7, PAD], [5, 6, 7, 8]]), np.array([[START, 4, PAD], [START, 4, 5]])
    found = viz.attention_maps(model, source, target)
    assert {name: m.weights.shape for name, m in found.items()} == {
        "encoder.0.attn": (2, 4, 4),
        "decoder.0.attn": (2, 3, 3),
        "decoder.0.cross": (2, 3, 4),
    }
    assert not found["decoder.0.cross"].allowed[:, 3].any()
    assert viz.attention_maps(model, source, target, index=1)["decoder.0.cross"].allowed.all()


def test_a_failed_forward_leaves_the_model_as_it_was(rng):
    gpt = GPT(GPTConfig(block_size=4, vocab_size=9, n_layer=1, n_head=2, n_embd=8), rng)
    with pytest.raises(ValueError, match="exceed block_size"):
        viz.attention_maps(gpt, np.zeros((1, 5), int))
    assert all("forward" not in vars(module) for _, module in gpt.named_modules())
    assert gpt(np.zeros((1, 4), int))[0].shape == (1, 4, 9)


def test_a_map_shows_tokens_masks_and_who_wrote_them(rng):
    weights = rng.random((2, 8, 8)) * np.tri(8)
    padded = AttentionMap(weights * (np.arange(8) < 6), np.tri(8, dtype=bool) & (np.arange(8) < 6))
    figure, axes = viz.attention({"a.long.name.of.attention": padded, "b": weights}, WORDS, given=5, title="T " * 90)
    assert axes.shape == (2, 2)
    labels = [t.get_text() for t in axes[0, 0].get_yticklabels()]
    assert labels == ["You", "are", "welcome", r"\$5", "␣and", "↵", "U+4F60", "end"]
    colours = [to_hex(t.get_color()) for t in axes[0, 0].get_yticklabels()]
    assert colours == [style.LIGHT.ink] * 5 + [style.LIGHT.accent] * 3
    named = {t.get_text() for t in figure.legends[0].get_texts()}
    assert named == {"later tokens (causal mask)", "padding", "written by the model"}
    assert overlaps(figure) == []


def test_many_heads_stand_in_lines(rng):
    heads, tokens = 12, 20
    figure, axes = viz.attention({"a": rng.random((heads, tokens, tokens))}, ["token"] * tokens)
    lefts, lows = ({round(a.get_position().bounds[i], 4) for a in axes[0]} for i in (0, 1))
    assert (len(lefts), len(lows)) == (4, 3)
    assert [any(t.get_text() for t in a.get_yticklabels()) for a in axes[0]] == [i % 4 == 0 for i in range(heads)]
    assert overlaps(figure) == []


def test_there_is_room_for_as_many_tokens_as_is_said(rng):
    for heads, layers in ((4, 4), (16, 3), (12, 12)):
        tokens = most_tokens(heads, layers)
        assert 20 < tokens <= 64
        longest = ["W" * 30] * tokens
        bare = AttentionMap(np.zeros((heads, tokens, tokens)), np.ones((tokens, tokens), bool))
        assert _Plan(dict.fromkeys(map(str, range(layers)), bare), longest, longest, "").height < LARGEST


def test_maps_of_a_translation_have_their_own_tokens(rng):
    class Words(Tokenizer):
        kind = "word"

    words = Words([b" you", b" are", b" welcome", b" de", b" nada"])

    model = Transformer(TransformerConfig(vocab_size=8, block_size=8, n_layer=1, n_head=2, n_embd=8), rng)
    figure, axes = maps.of_translation(model, words, [3, 4, 5], [6, 7], dark=True)
    rows, columns = ([t.get_text() for t in getattr(axes[2, 0], f"get_{a}ticklabels")()] for a in "yx")
    assert rows == ["‹start›→de", "de→nada", "nada→‹end›"]
    assert columns == ["you", "are", "welcome"]
    assert to_hex(figure.get_facecolor()) == style.DARK.paper
    assert overlaps(figure) == []


def test_attention_refuses_what_cannot_be_read(rng):
    with pytest.raises(ValueError, match=r"a has weights \(1, 2, 2\), there are 3 row and 3 column tokens"):
        viz.attention({"a": np.ones((1, 2, 2))}, ["x", "y", "z"])
    with pytest.raises(ValueError, match=r"weights have shape \(2, 2\); give \(H, T, S\)"):
        viz.attention({"a": np.ones((2, 2))}, ["x", "y"])
    with pytest.raises(ValueError, match="70 tokens are too many for a readable map, at most 64 fit"):
        viz.attention({"a": np.ones((1, 70, 70))}, ["x"] * 70)
    with pytest.raises(ValueError, match="Linear computed no attention"):
        viz.attention_maps(nn.Linear(2, 2, rng=rng), np.ones((1, 2), np.float32))


def test_generate_draws_its_attention(run, tmp_path, capsys, fails):
    out = tmp_path / "map.svg"
    asked = ("generate", "--model", run, "--prompt", "the", "--attention")
    assert call(*asked, out, "--max-new-tokens", "5", "--seed", "1") == 0
    assert "shows what every head looked at" in capsys.readouterr().err
    assert out.read_bytes().startswith(b"<?xml")
    assert call(*asked, out, "--seed", "2") == 0  # as many as the map has room for
    many = [*asked, out, "--max-new-tokens", "14"]
    fails(many, "more than the 16 that a readable map has room for; give --max-new-tokens 13 or less")
    fails([*asked, out, "--heads", "0,9"], "--heads 0,9: '9' should be a number from 0 to 1, or two as in 0-2")
    fails([*asked[:-1], "--layers", "0"], "--layers and --heads belong to --attention; give it too")
    fails([*asked, tmp_path / "map.gif"], "map.gif ends in .gif; give it a name that ends in .png, .svg or .pdf")
    fails([*asked, tmp_path / "no" / "map.png"], "there is no folder")
    fails([*asked, out, "--weights", "int8"], "leave --weights out")


def test_of_a_large_model_some_layers_and_heads_are_shown(rng):
    large = GPTConfig(block_size=512, vocab_size=9, n_layer=30, n_head=9, n_embd=18)
    some = maps.shown_of(large, None, None, 6, None)
    assert some.layers == [0, 10, 19, 29]
    assert some.heads == [0, 3, 5, 8]
    assert some.most == 32
    assert some.note == "Shown: layers 0, 10, 19, 29 of 30 (--layers); heads 0, 3, 5, 8 of 9 (--heads)."
    chosen = maps.shown_of(large, "29,3-5, 3", "2", 6, 30)
    assert (chosen.layers, chosen.heads) == ([29, 3, 4, 5], [2])
    small = maps.shown_of(GPTConfig(block_size=512, vocab_size=9, n_layer=2, n_head=2, n_embd=4), None, None, 6, None)
    assert (small.layers, small.heads, small.note) == ([0, 1], [0, 1], "")
    for text in ("30", "5-3", "x", "", "-1", "1-2-3"):
        with pytest.raises(ValueError, match=f"--layers {text}: '.*' should be a number from 0 to 29, or two"):
            maps.shown_of(large, text, None, 6, None)


def test_a_picture_names_the_layers_and_heads_that_it_shows(rng):
    model = GPT(GPTConfig(block_size=8, vocab_size=256, n_layer=3, n_head=4, n_embd=8), rng)
    shown = maps.Shown([2, 0], [3, 1], 8, "Shown: a part.")
    figure, axes = maps.of_text(model, ByteTokenizer(), [1, 2, 3], shown=shown)
    assert [a.get_title("left") for a in axes[0]] == ["head 3", "head 1"]
    texts = [text.get_text() for text in figure.texts]
    assert [t for t in texts if t.startswith("blocks")] == ["blocks.2.attn", "blocks.0.attn"]
    assert any("Shown: a part." in t for t in texts)
    every = viz.attention_maps(model, np.array([[1, 2, 3]]))
    drawn, below = np.asarray(axes[0, 0].images[0].get_array()), np.tri(3, dtype=bool)
    np.testing.assert_array_equal(drawn[below], every["blocks.2.attn"].weights[3][below])


# Positions and embeddings


def test_pca_keeps_distances_of_points_in_a_plane(rng):
    plane = rng.normal(size=(20, 2)) * (3, 1)
    table = plane @ np.linalg.qr(rng.normal(size=(7, 2)))[0].T + rng.normal(size=7)
    places, shares = pca(table)
    distances = [np.linalg.norm(p[:, None] - p, axis=-1) for p in (plane, places)]
    np.testing.assert_allclose(*distances, atol=1e-9)
    assert shares[0] > shares[1]
    np.testing.assert_allclose(shares.sum(), 1)
    assert pca(np.ones((3, 1)))[0].shape == (3, 2)


def test_nearest_is_by_cosine():
    table = np.array([[1.0, 0], [9, 1], [0, 2], [-1, 0], [0, 0]])
    rows, cosines = nearest(table, 0, 3)
    assert list(rows[:2]) == [1, 2]
    np.testing.assert_allclose(cosines[:2], [9 / math.sqrt(82), 0])


def test_embeddings_never_write_on_each_other(rng):
    words = [f"word{i}" for i in range(120)]
    table = rng.normal(size=(120, 5))
    for mark in ((), ("word3", "word77")):
        figure, axes = viz.embeddings(table, words, mark)
        named = [t.get_text() for t in axes.texts]
        assert len(named) > 8
        assert set(mark) <= set(named)
        assert overlaps(figure) == []
    lines = [line.get_path().transformed(axes.transData) for line in axes.lines]
    crossed = [t for t in axes.texts if any(line.intersects_bbox(t.get_window_extent(), False) for line in lines)]
    assert len(lines) == 8
    assert crossed == []
    with pytest.raises(ValueError, match="there is no word 'cat' in the table"):
        viz.embeddings(table, words, ["cat"])
    with pytest.raises(ValueError, match="3 words for 120 rows"):
        viz.embeddings(table, words[:3])


def test_positions_show_each_table_and_how_alike_its_places_are(rng):
    figure, axes = viz.positions({"learned": Tensor(rng.normal(size=(6, 4))), "zeros": np.zeros((3, 4))})
    assert axes.shape == (2, 2)
    alike = axes[0, 1].images[0].get_array()
    np.testing.assert_allclose(np.diag(alike), 1)
    assert overlaps(figure) == []
    with pytest.raises(ValueError, match="positions: bad holds NaN or Inf"):
        viz.positions({"bad": np.full((2, 2), np.nan)})
    with pytest.raises(ValueError, match=r"positions has shape \(3,\); give a table"):
        viz.positions(np.zeros(3))


# Curves


def records(n, **more):
    rows = [{"step": s, "loss": 5 / s, "lr": 1e-3 / s, "grad_norm": 1.0, "tokens_per_second": 9e3} for s in range(1, n)]
    return [r | {"val_loss": 6 / r["step"] if r["step"] % 10 == 0 else None} | more for r in rows]


def test_curves_of_several_runs_with_any_keys():
    one, two = records(60), records(30, accuracy=0.5)
    one[20]["loss"] = math.nan
    figure, axes = viz.curves({"runs/a": one, "runs/$b$ <i>": two, "begun": []})
    assert [a.get_ylabel() for a in axes[1:]] == ["learning rate", "gradient norm", "tokens a second", "accuracy"]
    named = [t.get_text() for t in axes[0].get_legend().get_texts()]
    assert named[:3] == ["runs/a: validation 0.12 at last", r"runs/\$b\$ <i>: validation 0.3 at last", "begun"]
    assert overlaps(figure) == []
    with pytest.raises(ValueError, match="no run has a record yet"):
        viz.curves({"a": []})


def test_a_lost_step_leaves_a_gap_and_a_lost_run_says_so():
    values = [4.0, 2.0, math.nan, 6.0, math.inf, 2.0]
    np.testing.assert_equal(_running_mean(np.array(values), 3), [4, 3, np.nan, 4, np.nan, 4])
    _, axes = viz.curves({"lost": [{"step": s, "loss": math.nan, "lr": 1.0} for s in range(1, 9)]})
    assert [[t.get_text() for t in a.texts] for a in axes] == [["every value is NaN, Inf or above 1e300"], []]


@pytest.mark.parametrize("huge", [1e308, -1e308, 1.7e308])
@pytest.mark.parametrize("values", [[1.0, "huge"], ["huge"], [1.0, "huge", "-huge", 2.0]])
def test_a_loss_near_the_largest_number_is_a_gap_as_infinity_is(huge, values, tmp_path):
    numbers = [{"huge": huge, "-huge": -huge}.get(v, v) for v in values]
    records = [{"step": i, "loss": v, "val_loss": v, "other": v} for i, v in enumerate(numbers, 1)]
    picture = viz.curves({"a": records})
    viz.save(picture, tmp_path / "a.png")
    assert ("every value" in "".join(t.get_text() for t in picture.axes[0].texts)) == (len(values) == 1)


def test_a_single_step_is_seen():
    _, axes = viz.curves({"a": records(2)})
    assert all(any(line.get_marker() != "None" for line in a.lines) for a in axes)


def test_many_runs_are_told_apart_below_the_curves():
    runs = {f"a/very/long/path/to/the/folder/of/a/run/{i}": records(30) for i in range(9)}
    figure, _ = viz.curves(runs)
    named = [t.get_text() for t in figure.legends[0].get_texts()]
    assert len(set(named)) == 9 + 2
    lines = figure.legends[0].get_lines()[:9]
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 9
    assert overlaps(figure) == []


def test_a_legend_names_what_is_there_and_a_covered_line_is_seen():
    rows = [{"step": i, "loss": 5 / i} for i in range(1, 40)]
    runs = {"below": rows, "above": [r | {"loss": r["loss"] + 1e-4} for r in rows], "apart": rows[:20]}
    _, axes = viz.curves(runs)
    assert [t.get_text() for t in axes[0].get_legend().get_texts()] == ["below", "above", "apart"], "no validation"
    widths = {line.get_label(): line.get_linewidth() for line in axes[0].lines}
    assert widths["below"] > 2 * widths["above"] == 2 * widths["apart"]
    runs.pop("apart")
    _, axes = viz.curves(runs | {"more": [rows[0] | {"val_loss": 1.0}]})
    assert [t.get_text() for t in axes[0].get_legend().get_texts()][-2:] == ["training", "validation"]


def test_one_wild_step_does_not_flatten_a_curve():
    rows = records(400)
    rows[200]["loss"] = 1e6
    _, axes = viz.curves({"a": rows})
    assert axes[0].get_ylim()[1] < 10


def test_plot_draws_runs(run, tmp_path, monkeypatch, capsys, fails):
    monkeypatch.chdir(tmp_path)
    assert call("plot", run, run) == 0
    assert call("plot", run, "--live", "--out", "live.svg", "--dark") == 0  # done, so nothing to wait for
    assert call("plot", run, "--what", "positions") == 0
    assert call("plot", run, "--what", "embeddings", "--mark", "e", "o") == 0
    assert call("plot", run, "--what", "times") == 0
    names = {"curves.png", "live.svg", "positions.png", "embeddings.png", "times.png"}
    assert {p.name for p in tmp_path.iterdir()} == names
    fails(["plot", tmp_path], "there is no run, it has no log.jsonl")
    fails(["plot", run, "--out", "a.jpeg"], "a.jpeg ends in .jpeg")
    fails(["plot", run, "--out", tmp_path / "no" / "a.png"], "there is no folder")
    fails(["plot", run, run, "--what", "positions"], "draws one model")
    fails(["plot", run, "--what", "positions", "--live"], "--live follows curves")
    fails(["plot", run, "--mark", "e"], "--mark belongs to --what embeddings")
    for content, message in (
        ("", "is empty, no step is done yet; --live"),
        ("hello\n", "log.jsonl, line 1 is truncated or not JSON"),
    ):
        (tmp_path / LOG).write_text(content)
        fails(["plot", tmp_path], message)


def test_plot_follows_a_run_until_it_is_done(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text('{"model": "gpt", "steps": 30}')
    rows, drawn = records(31), []

    def wait(seconds):
        with (tmp_path / LOG).open("a") as file:
            file.writelines(json.dumps(rows.pop(0)) + "\n" for _ in range(10))

    monkeypatch.setattr(plot.time, "sleep", wait)
    monkeypatch.setattr(plot.viz, "save", lambda figure, path: drawn.append(len(figure.axes[0].lines[0].get_xdata())))
    assert call("plot", tmp_path, "--live", "--out", tmp_path / "a.png") == 0
    assert drawn == [10, 20, 30]


# Statistics and times


def test_layer_statistics_are_root_mean_squares(rng):
    model = nn.Sequential(nn.Linear(3, 4, rng=rng), nn.Tanh(), nn.Linear(4, 2, rng=rng))
    noted = viz.LayerStatistics(model, every=2)
    x = rng.normal(size=(5, 3)).astype(np.float32)
    for step in range(3):
        with noted.step(step):
            out = model(x)
            out.sum().backward()
        if step == 0:
            last = model.layers[2]
            gradients = np.concatenate([last.weight.grad.ravel(), last.bias.grad])
        model.zero_grad()
    assert [r["step"] for r in noted.records] == [0, 2]
    assert list(noted.records[0]["gradients"]) == ["layers.0", "layers.2"]
    np.testing.assert_allclose(noted.records[0]["activations"]["layers.2"], np.sqrt(np.mean(out.data**2)), rtol=1e-6)
    np.testing.assert_allclose(noted.records[0]["gradients"]["layers.2"], np.sqrt(np.mean(gradients**2)), rtol=1e-6)
    assert json.loads(json.dumps(noted.records)) == noted.records
    assert "forward" not in vars(model.layers[0])
    with pytest.raises(ValueError, match="every is 0"):
        viz.LayerStatistics(model, every=0)
    with pytest.raises(ValueError, match="Tanh has no parameters"):
        viz.LayerStatistics(nn.Tanh())


def test_layer_statistics_show_zeros_and_nans():
    rows = [{"step": s, "activations": {"a": 1.0}, "gradients": {"a": 10.0**-s, "b": 0.0}} for s in range(4)]
    rows[3]["gradients"]["a"] = math.nan
    figure, axes = viz.layer_statistics(rows)
    assert [t.get_text() for t in axes[0].get_yticklabels()] == ["a", "b"]
    assert [len(c.get_paths()) for c in axes[1].collections] == [1, 1, 0]  # zero, NaN, not called
    assert [len(c.get_paths()) for c in axes[0].collections] == [0, 0, 1]
    assert overlaps(figure) == []
    with pytest.raises(ValueError, match="there are no records"):
        viz.layer_statistics([])


def test_statistics_of_steps_without_a_layer_are_told(rng):
    statistics = viz.LayerStatistics(nn.Linear(2, 3, rng=rng))
    with statistics.step(0):
        pass
    with pytest.raises(ValueError, match="layer_statistics: no layer was called in these steps; call the model inside"):
        viz.layer_statistics(statistics.records)


def test_a_run_notes_its_layers_and_goes_on_with_that(run, tmp_path, capsys, fails):
    out = tmp_path / "run"
    text = ["--text", run.parent / "text.txt", "--n-layer", "1", "--n-embd", "8", "--block-size", "8"]
    assert call("train", *text, "--out", out, "--steps", "4", "--stats-interval", "2") == 0
    assert call("train", "--out", out, "--resume", "--steps", "7") == 0
    noted = [json.loads(line) for line in (out / "statistics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in noted] == [2, 4, 6]
    assert noted[0]["gradients"]["blocks.0.mlp.fc"] > 0
    assert call("plot", out, "--what", "statistics", "--out", tmp_path / "a.png") == 0
    fails(["plot", run, "--what", "statistics"], "has no statistics.jsonl yet; train with --stats-interval")


def test_times_of_ops_add_up(rng):
    x = Tensor(rng.normal(size=(8, 8)), requires_grad=True)
    with viz.record() as recorded:
        for _ in range(2):
            ((x @ x).tanh() @ x).sum().backward()
    rows = op_times(recorded.records)
    assert {op: calls for op, calls, *_ in rows} == {"matmul": 4, "tanh": 2, "sum": 2}
    totals = [forward + backward for _, _, forward, backward in rows]
    assert totals == sorted(totals, reverse=True)
    figure, axes = viz.step_times(recorded.records, steps=2, most=2)
    assert [t.get_text().split(" ×")[0] for t in axes.get_yticklabels()][1] == "2 other ops"
    shown = sum(bar.get_width() for bar in axes.patches)
    np.testing.assert_allclose(shown, sum(totals) * 1e3 / 2)
    assert overlaps(figure) == []
    with pytest.raises(ValueError, match="there are no records"):
        viz.step_times([])


# Files and looks


def test_a_notebook_shows_what_a_cell_ends_with(rng):
    drawn = viz.attention({"a": np.eye(2)[None]}, list("ab"))
    figure, axes = drawn
    assert axes.shape == (1, 1)
    assert drawn._repr_png_() == figure._repr_png_()
    assert drawn._repr_png_().startswith(b"\x89PNG")


def test_a_picture_is_written_whole_or_not_at_all(tmp_path):
    figure, _ = viz.positions(np.eye(2))
    for kind, begin in ((".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")):
        viz.save(figure, tmp_path / f"a{kind}")
        assert (tmp_path / f"a{kind}").read_bytes().startswith(begin)
    for kind in (".svg", ".pdf"):  # the same picture is the same file
        contents = []
        for _ in range(2):
            viz.save(viz.positions(np.eye(2))[0], tmp_path / f"a{kind}")
            contents.append((tmp_path / f"a{kind}").read_bytes())
        assert contents[0] == contents[1]
    viz.save(viz.positions(np.eye(2)), tmp_path / "c.png")  # figure and axes as they are returned
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "b.png").mkdir()
    wrong = {"a.bmp": "ends in .bmp", "a": "has no ending", "no/a.png": "no folder", "b.png": "is a folder"}
    for name, message in wrong.items():
        with pytest.raises(ValueError, match=message):
            viz.save(figure, tmp_path / name)
    assert {p.name for p in tmp_path.iterdir()} == {"a.png", "a.svg", "a.pdf", "b.png", "c.png"}


def test_labels_are_fit_to_be_drawn():
    assert style.label("a b\tc\n") == "a␣b⇥c↵"
    assert style.label("$x$") == r"\$x\$"
    assert style.label("") == "∅"
    assert style.label("x" * 30) == "x" * 13 + "…"
    assert style.label("a b", plain=True) == "a b"
    assert style.label("\U0010ffff") == "U+10FFFF"
    assert style.label("\U0010ffff" * 5) == "U+10FFFF…"
    for character in style.label("a\r\n\t $", 20).replace("\\", ""):
        assert style._fonts()[1][0].get_char_index(ord(character)), character
    assert style.label("$" * 14) == r"\$" * 14
    assert style.label("a/long/path/to/a/run", ending=True) == "…path/to/a/run"


def test_a_title_may_hold_any_characters(tmp_path):
    """Also those that would be a broken formula: titles hold names of folders and texts of users."""
    title, eye = r"q$_$ \x %", np.eye(3)
    with viz.record() as recorded:
        Tensor([1.0]).exp()
    drawn = [
        viz.curves({"run": records(3)}, title)[0],
        loss_curve([], title),
        viz.embeddings(eye, list("abc"), title=title)[0],
        viz.attention({"block": eye[None]}, list("abc"), title=title)[0],
        viz.layer_statistics([{"step": 0, "activations": {"a": 1.0}, "gradients": {}}], title)[0],
        viz.step_times(recorded.records, title=title)[0],
        viz.positions({title: eye})[0],
    ]
    for figure in drawn:
        viz.save(figure, tmp_path / "a.svg")
        assert r"q\$_\$ \x %" in "\n".join(text.get_text() for text in figure.findobj(Text))


@pytest.mark.parametrize("text", ["a\x01b", "\0", "\ud800", "\ufffe", "\x1b[31m", "<&>", "a\nb", "$_$"])
def test_every_text_makes_a_picture_that_programs_read(text, tmp_path):
    """Names of parameters, runs, words, tokens and files come from users; XML holds few control characters."""
    one, eye = [{"step": i, "loss": 1.0, f"x{text}": 1.0} for i in (1, 2)], np.eye(3)
    x = Tensor([1.0, 2.0], requires_grad=True, name=text)
    sizes = [{"step": 0, "activations": {text: 1.0}, "gradients": {text: 1.0}}]
    drawn = [
        viz.curves({text: one, f"{text}2": one}, text),
        viz.embeddings(eye, [text, "b", "c"], [text], 1),
        viz.attention({text: eye[None]}, [text, "b", "c"], title=text, note=text),
        viz.layer_statistics(sizes, text),
        viz.positions({text: eye}),
        viz.graph((x * x).sum()),
    ]
    for picture in drawn:
        viz.save(picture, tmp_path / "a.svg")
        ET.parse(tmp_path / "a.svg")
    page = viz.page((x * x).sum(), tmp_path / "a.html", title=text, about=text)
    assert page.file.read_text(encoding="utf-8").startswith("<!")
    viz.write_json((x * x).sum(), tmp_path / "a.json")


@pytest.mark.parametrize("look", [style.LIGHT, style.DARK])
def test_text_has_contrast(look):
    """At least 7 for text, 3 for lines and marks, by the formula of the Web Content Accessibility Guidelines 2.1."""

    def light(colour):
        c = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722)

    def contrast(colour):
        low, high = sorted((light(colour), light(look.paper)))
        return (high + 0.05) / (low + 0.05)

    assert contrast(look.ink) > 7
    assert contrast(look.accent) > 4.5
    assert min(map(contrast, look.lines)) > 2.5


def test_numbers_of_the_gallery():
    assert [gallery.english(n) for n in (1, 20, 342)] == ["one", "twenty", "three hundred forty two"]
    german = {1: "eins", 17: "siebzehn", 21: "ein und zwanzig", 342: "drei hundert zwei und vierzig"}
    assert [gallery.german(n) for n in german] == list(german.values())
    assert len({gallery.german(n) for n in range(1, 1000)}) == 999


def test_the_site_shows_what_the_gallery_makes():
    root = Path(__file__).parents[1]
    kept = {p.name for p in (root / "viz/gallery").iterdir()}
    made = {name for name, _, _ in gallery.PICTURES if name.endswith(".png")}
    assert kept == made | {"replay.png", "choices.png", "serve.png"}  # screenshots of pages
    shown = re.findall(r"viz/gallery/(\S+)", (root / "docs/use/pictures.md").read_text(encoding="utf-8"))
    assert len(shown) >= 12
    assert set(shown) <= kept
    assert sum(p.stat().st_size for p in (root / "viz/gallery").iterdir()) < 1.5e6


@pytest.mark.slow
def test_the_gallery(tmp_path, capsys):
    assert call("gallery", tmp_path / "out") == 0
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {name for name, _, _ in gallery.PICTURES} | {gallery.INDEX}
    assert f"{len(gallery.PICTURES)} pictures" in capsys.readouterr().out

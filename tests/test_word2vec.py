"""Skip-gram with negative sampling: its loss and gradients, the pairs, the words drawn, and what is learned."""

import sys

import numpy as np
import pytest

import autotx
from autotx import gradcheck
from autotx.checkpoint import load_tensors
from autotx.models.cli import main
from autotx.models.registry import settings_of
from autotx.models.tasks.words import WordsTask, split_words
from autotx.models.train import Trainer
from autotx.models.vectors import load_vectors
from autotx.models.word2vec import PairSampler, SkipGram


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.fixture
def model(rng):
    model = SkipGram(7, 4, rng).astype(np.float64)
    for p in model.parameters():
        p.data = rng.standard_normal(p.shape)
    return model


BATCH = np.array([2, 5, 2]), np.array([3, 2, 0]), np.array([[1, 1], [6, 2], [0, 4]])  # centers, contexts, drawn


def test_the_loss_is_the_one_of_the_docstring(model):
    v, u = model.words.weight.data, model.contexts.weight.data
    by_hand = 0
    for c, o, drawn in zip(*BATCH):
        by_hand -= np.log(sigmoid(u[o] @ v[c])) + sum(np.log(sigmoid(-u[k] @ v[c])) for k in drawn)
    assert model.loss(*BATCH).item() == pytest.approx(by_hand / 3, rel=1e-14)


def test_the_gradients_are_those_of_the_docstring(model):
    v, u = model.words.weight.data, model.contexts.weight.data
    dv, du = np.zeros_like(v), np.zeros_like(u)
    for c, o, drawn in zip(*BATCH):
        for j, y in [(o, 1), *((k, 0) for k in drawn)]:
            du[j] += (sigmoid(u[j] @ v[c]) - y) * v[c] / 3
            dv[c] += (sigmoid(u[j] @ v[c]) - y) * u[j] / 3
    model.loss(*BATCH).backward()
    np.testing.assert_allclose(model.words.weight.grad, dv, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(model.contexts.weight.grad, du, rtol=1e-12, atol=1e-15)


def test_the_gradients_are_those_of_central_differences(model):
    def loss(words, contexts):
        model.words.weight, model.contexts.weight = words, contexts
        return model.loss(*BATCH)

    assert gradcheck(loss, [model.words.weight, model.contexts.weight])


def test_all_answers_begin_at_one_half(rng):
    model = SkipGram(7, 4, rng)
    assert model.loss(*BATCH).item() == pytest.approx(3 * np.log(2), rel=1e-6)
    assert 0 < np.abs(model.words.weight.data).max() <= 0.5 / 4
    assert not SkipGram(7, 4, None).words.weight.data.any()


def pairs(sampler, blocks, rng):
    centers, contexts, drawn = sampler.sample(np.array(blocks), rng)
    assert centers.shape == contexts.shape == drawn.shape[:1]
    return list(zip(centers.tolist(), contexts.tolist()))


def test_pairs_are_neighbours_both_ways_and_stay_in_their_block(rng):
    sampler = PairSampler(np.ones(6), window=1, negatives=2, subsample=1)
    found = pairs(sampler, [[0, 1, 2], [3, 4, 5]], rng)
    assert sorted(found) == [(0, 1), (1, 0), (1, 2), (2, 1), (3, 4), (4, 3), (4, 5), (5, 4)]


def test_near_neighbours_are_in_more_windows_than_far_ones(rng):
    sampler = PairSampler(np.ones(100), window=4, negatives=1, subsample=1)
    distances = [abs(c - o) for _ in range(200) for c, o in pairs(sampler, [range(100)], rng)]
    found = np.bincount(distances, minlength=5) / (2 * 200)
    expected = [sum(reach >= d for reach in (1, 2, 3, 4)) / 4 * (100 - d) for d in (1, 2, 3, 4)]
    assert len(found) == 5
    assert found[0] == 0
    np.testing.assert_allclose(found[1:], expected, rtol=0.03)


def test_frequent_words_are_left_out_and_the_rest_moves_together(rng):
    counts = np.array([9998, 1, 1])
    sampler = PairSampler(counts, window=1, negatives=1, subsample=1e-4)
    np.testing.assert_allclose(sampler.keep, [np.sqrt(1e-4 / 0.9998), 1, 1])
    found = [pairs(sampler, [[1, 0, 0, 0, 2]], rng) for _ in range(500)]
    assert sum(pair == [(1, 2), (2, 1)] for pair in found) > 450


def test_words_are_drawn_by_the_three_quarter_power_of_their_counts(rng):
    counts = np.array([1, 16, 81, 256])
    sampler = PairSampler(counts, window=2, negatives=20, subsample=1)
    _, _, drawn = sampler.sample(np.tile([0, 1, 2, 3], (500, 1)), rng)
    assert drawn.shape[1] == 20
    np.testing.assert_allclose(np.bincount(drawn.reshape(-1)) / drawn.size, np.array([1, 8, 27, 64]) / 100, rtol=0.1)


def test_nothing_stays_nothing_is_paired(rng):
    sampler = PairSampler(np.array([10, 10]), window=5, negatives=3, subsample=1e-12)
    centers, contexts, drawn = sampler.sample(np.array([[0, 1, 0, 1]]), rng)
    assert (centers.shape, contexts.shape, drawn.shape) == ((0,), (0,), (0, 3))


def test_words_with_like_neighbours_get_like_vectors(rng):
    """0 and 1 stand among 4 and 5; 2 and 3 among 6 and 7."""
    sentences = np.array([[4, 0, 5], [4, 1, 5], [5, 0, 4], [5, 1, 4], [6, 2, 7], [6, 3, 7], [7, 2, 6], [7, 3, 6]])
    model = SkipGram(8, 8, rng)
    sampler = PairSampler(np.bincount(sentences.reshape(-1)), window=1, negatives=3, subsample=1)
    optimizer = autotx.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(150):
        model.loss(*sampler.sample(sentences, rng)).backward()
        optimizer.step()
        optimizer.zero_grad()
    v = model.words.weight.data
    cosines = v @ v.T / np.outer(*[np.linalg.norm(v, axis=1)] * 2)
    assert min(cosines[0, 1], cosines[2, 3]) > 0.9
    assert cosines[:2, 2:4].max() < 0.5


# autotx train --model word2vec


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A file: kings and queens are crowned, cats and dogs bark; "once" occurs once."""
    rng = np.random.default_rng(0)
    who = {"crowned in London": ["king", "queen"], "barking at night": ["cat", "dog"]}
    sentences = [f"The {rng.choice(who[what])} is {what}.\n" for what in rng.choice(list(who), 1500)]
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("Once, " + "".join(sentences))
    return path


def train(text, out, *more):
    settings = (
        "--dim 8 --window 2 --subsample 1 --batch-words 512 --steps 60 --lr 0.1 --min-lr 0.01 --warmup-steps 5 "
        "--eval-interval 20 --eval-batches 2"
    )
    return main(["train", "--model", "word2vec", "--text", str(text), "--out", str(out), *settings.split(), *more])


def test_training_finds_like_words_and_writes_them_down(text, tmp_path, capsys):
    out = tmp_path / "run"
    assert train(text, out) == 0
    shown = capsys.readouterr().out
    assert "12 different ones (--min-count 5)" in shown
    assert f"All vectors are in {out / 'vectors.txt'}" in shown
    assert "king        queen" in shown
    vectors, (weights, _) = load_vectors(out / "vectors.txt"), load_tensors(out / "model.safetensors")
    assert {"the", "is", "king", "queen", "cat", "dog", "crowned", "london"} < set(vectors.words)
    np.testing.assert_array_equal(vectors.matrix, weights["words.weight"])
    assert vectors.nearest("king", 1)[0][0] == "queen"
    assert vectors.nearest("cat", 1)[0][0] == "dog"
    assert main(["nearest", "--model", str(out), "King", "--n", "1"]) == 0
    assert capsys.readouterr().out.split()[2] == "queen"


def stop_after(step, monkeypatch):
    go_on = Trainer.train_step
    monkeypatch.setattr(Trainer, "train_step", lambda self: go_on(self) if self.step < step else sys.exit())


def test_a_resumed_run_is_the_uninterrupted_one(text, tmp_path, monkeypatch):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert train(text, whole) == 0
    stop_after(30, monkeypatch)
    with pytest.raises(SystemExit):
        train(text, halves)  # the last checkpoint is of step 20
    monkeypatch.undo()
    assert main(["train", "--out", str(halves), "--resume"]) == 0
    for name in ("model.safetensors", "optimizer.safetensors", "vectors.txt"):
        assert (whole / name).read_bytes() == (halves / name).read_bytes()


def test_every_checkpoint_writes_its_vectors(text, tmp_path, monkeypatch):
    stop_after(30, monkeypatch)
    with pytest.raises(SystemExit):
        train(text, tmp_path / "run")
    weights, _ = load_tensors(tmp_path / "run" / "model.safetensors")
    np.testing.assert_array_equal(load_vectors(tmp_path / "run" / "vectors.txt").matrix, weights["words.weight"])


def test_a_beginning_that_fails_leaves_no_vectors(text, tmp_path, monkeypatch):
    export = WordsTask.export

    def export_and_stop(task, folder):
        export(task, folder)
        sys.exit()

    monkeypatch.setattr(WordsTask, "export", export_and_stop)
    with pytest.raises(SystemExit):
        train(text, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_accumulated_batches_weigh_by_their_pairs(text, tmp_path):
    config = settings_of("word2vec")(text=(text,), out="", dim=4, subsample=0.01, grad_accum=3, batch_words=256)
    task = WordsTask(config, np.random.default_rng(0))
    batches = task.batches(0, np.random.default_rng(0))
    assert len({task.count(batch) for batch in batches}) == len(batches) == 3
    assert task.count(batches[0]) == len(batches[0][0]) == batches[0][2].size / config.negatives


@pytest.mark.parametrize(
    ("content", "flags", "message"),
    [
        ("", "", "the file is empty"),
        ("word " * 100, "", "the text is too short: its training part has 90 words that occur 5 times or more"),
        ("word " * 1000 + "! " * 5000, "", "the text is too short: its validation part has 0 words that occur 5 times"),
        ("one two three " * 999, "--min-count 2000", "its training part has 0 words that occur 2000 times or more"),
        ("one two three " * 999, "--window 0", "--window 0 should be at least 1"),
        ("one two three " * 999, "--subsample 0", "--subsample 0.0 should be at least 1e-06"),
        ("one two three " * 999, "--n-head 2", "--n-head is no setting of a word2vec"),
    ],
)
def test_what_cannot_be_learned_from_is_told_in_one_line(content, flags, message, tmp_path, capsys):
    (tmp_path / "text").write_text(content)
    argv = ["train", "--model", "word2vec", "--text", str(tmp_path / "text"), "--out", str(tmp_path / "run")]
    assert main([*argv, *flags.split()]) == 2
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert message in shown.err
    assert not (tmp_path / "run").exists()


HINDI = {"महल में है": ["राजा", "रानी"], "घर पर सोता है": ["बिल्ली", "कुत्ता"]}


def test_words_of_hindi_are_learned_whole(tmp_path, capsys):
    rng = np.random.default_rng(0)
    sentences = [f"एक {rng.choice(HINDI[what])} {what} ।\n" for what in rng.choice(list(HINDI), 1500)]
    (tmp_path / "text").write_text("".join(sentences), encoding="utf-8")
    assert train(tmp_path / "text", tmp_path / "run") == 0
    words = set(load_vectors(tmp_path / "run" / "vectors.txt").words)
    assert words == {"एक", "महल", "में", "है", "राजा", "रानी", "घर", "पर", "सोता", "बिल्ली", "कुत्ता"}
    for word, near in (("राजा", "रानी"), ("बिल्ली", "कुत्ता")):
        capsys.readouterr()
        assert main(["nearest", "--model", str(tmp_path / "run"), word, "--n", "1"]) == 0
        assert capsys.readouterr().out.split()[2] == near


def test_words_are_what_begins_with_a_letter():
    text = "Don't  shout, KING!\n_Naïve_ façade -- 10 o'clock; 2nd x-ray."
    assert split_words(text) == ["don't", "shout", "king", "naïve", "façade", "o'clock", "x", "ray"]
    assert split_words("नमस्ते, sen\u0303or!") == ["नमस्ते", "sen\u0303or"]

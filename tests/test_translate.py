"""Pairs of sentences, the training on them, and `autotx translate`."""

import dataclasses
import itertools
import random
import re
import shutil

import numpy as np
import pytest

from autotx.checkpoint import load_tensors, save_tensors
from autotx.models.cli import main
from autotx.models.formats import open_model
from autotx.models.inference import bleu
from autotx.models.inference.beams import translations
from autotx.models.pairs import HELD_OUT, Sentences, decode, emoji_pairs, encode, pad, read_pairs, split_pairs
from autotx.models.registry import settings_of
from autotx.models.run import Run
from autotx.models.tasks.pairs import PairsTask
from autotx.models.tokenizers import make_tokenizer
from autotx.models.train import Trainer, train
from autotx.models.transformer import END, PAD, START

WORDS = {"one": "eins", "two": "zwei", "three": "drei", "four": "vier", "you are": "du bist", "five": "fünf"}
SMALL = {"n_layer": 1, "n_head": 2, "n_embd": 16, "dropout": 0.0, "batch_tokens": 60, "steps": 6, "eval_interval": 3}


def sentences(count, seed=0):
    draw = random.Random(seed)
    for _ in range(count):
        words = draw.choices(list(WORDS), k=draw.randint(1, 6))
        yield " ".join(words), " ".join(WORDS[w] for w in reversed(words))


@pytest.fixture
def pairs_file(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(f"{a}\t{b}\n" for a, b in sentences(120)), encoding="utf-8")
    return path


@pytest.fixture
def config(tmp_path, pairs_file):
    return settings_of("transformer")(pairs=str(pairs_file), out=str(tmp_path / "run"), warmup_steps=2, **SMALL)


@pytest.fixture
def fails(capsys):
    """Calls autotx, which must fail with one line on stderr that holds `words`, and status 2."""

    def call(argv, words):
        capsys.readouterr()
        assert main([str(a) for a in argv]) == 2
        stderr = capsys.readouterr().err
        assert stderr.count("\n") == 1
        assert words in stderr

    return call


# Pairs


def test_pairs_are_read_line_by_line(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_bytes(b"One\teins\rTwo\tzwei\r")  # as on an old Mac
    assert read_pairs(path) == [("One", "eins"), ("Two", "zwei")]
    path.write_bytes("\ufeffYou are welcome\tde nada\r\n\n a b \t c \u2028 d\n".encode())
    assert read_pairs(path) == [("You are welcome", "de nada"), ("a b", "c \u2028 d")]


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("a\tb\nc d\n", "line 2: it has no tab; each line should be: source TAB target"),
        ("a\tb\tc\n", "line 1: it has 2 tabs"),
        ("a\tb\n\tb\n", "line 2: it has no source"),
        ("a\t \n", "line 1: it has no target"),
        ("", "the file is empty"),
    ],
)
def test_a_broken_file_of_pairs_is_told_by_line(tmp_path, fails, content, error):
    path = tmp_path / "pairs.tsv"
    path.write_text(content)
    fails(["train", "--pairs", path, "--out", tmp_path / "run"], error)
    assert not (tmp_path / "run").exists()


def test_emoji_names_are_pairs():
    pairs = emoji_pairs()
    assert len(pairs) == len(set(pairs)) > 1500
    assert ("red apple", "manzana roja") in pairs
    assert not any(":" in side[:1] or "_" in side or "skin tone" in side for pair in pairs for side in pair)


def test_no_source_is_both_learned_and_held_out(rng):
    pairs = [(f"s{i // 2}", f"t{i}") for i in range(100)]
    training, held_out = split_pairs(pairs, rng)
    assert sorted(training + held_out) == sorted(pairs)
    assert len({a for a, _ in held_out}) == 50 // HELD_OUT
    assert not {a for a, _ in training} & {a for a, _ in held_out}


@pytest.mark.parametrize("kind", ["word", "char", "byte", "bpe"])
def test_sentences_come_back(kind):
    tokenizer = make_tokenizer(kind, " You are welcome\n de nada\n", 300)
    ids = encode(tokenizer, "You are welcome ")
    assert ids.min() > max(PAD, START, END)
    back = decode(tokenizer, [START, *ids, END, PAD])
    assert back == ("you are welcome" if kind == "word" else "You are welcome")


def test_batches_hold_every_pair_once_and_keep_their_size(rng):
    tokenizer = make_tokenizer("word", " ".join(WORDS) + " ".join(WORDS.values()), 300)
    data = Sentences(list(sentences(200)), tokenizer, block_size=12)
    assert data.left_out == 200 - len(data.pairs) > 0
    first, second = (data.batches(50, rng) for _ in range(2))
    assert len(first) == len(second)
    assert not all(np.array_equal(a, b) for a, b in zip(first, second))
    for groups in (first, second):
        assert sorted(itertools.chain(*groups)) == list(range(len(data.pairs)))
        for group in groups:
            source, target = data.batch(group)
            assert len(group) == 1 or max(source.size, target[:, 1:].size) <= 50
            assert (target[:, 0] == START).all()
            assert ((target == END).sum(axis=1) == 1).all()
            # Like lengths: little is padding.
            lengths = (target != PAD).sum(axis=1)
            assert lengths.max() - lengths.min() <= 4


def test_rows_are_padded_behind():
    np.testing.assert_array_equal(pad([np.array([5]), np.array([6, 7, 8])]), [[5, PAD, PAD], [6, 7, 8]])


# Training


def test_a_batch_cut_up_gives_the_same_gradient(config):
    """The loss is weighted by real tokens: a batch in pieces of different sizes is the batch in one."""
    trainer = Trainer(config)
    task, parameters = trainer.task, trainer.model.parameters()
    source, target = task.training.batch(range(40))
    task.loss((source, target), rng=np.random.default_rng(0)).backward()
    whole = [p.grad.copy() for p in parameters]
    trainer.model.zero_grad()
    task.batches = lambda place, rng: [(source[:7], target[:7]), (source[7:9], target[7:9]), (source[9:], target[9:])]
    trainer.optimizer.step = lambda: None
    trainer.optimizer.zero_grad = lambda: None
    trainer.config = dataclasses.replace(config, grad_clip=0.0)
    record = trainer.train_step()
    assert record["loss"] == pytest.approx(task.loss((source, target), rng=np.random.default_rng(0)).item(), rel=1e-5)
    for p, grad in zip(parameters, whole):
        np.testing.assert_allclose(p.grad, grad, rtol=1e-3, atol=1e-6)


def test_a_resumed_run_is_the_uninterrupted_one(config, tmp_path):
    config = dataclasses.replace(config, dropout=0.1, grad_accum=2)
    assert train(config) == 0
    straight = load_tensors(tmp_path / "run" / "model.safetensors")[0]
    run, halves = Run(tmp_path / "run"), Trainer(config)
    for _ in range(3):
        halves.train_step()
    halves.save(run)
    assert train(dataclasses.replace(config, resume=True)) == 0
    for name, array in load_tensors(tmp_path / "run" / "model.safetensors")[0].items():
        np.testing.assert_array_equal(array, straight[name])


def test_a_run_that_is_resumed_with_more_batches_a_step_goes_on_where_it_was(config, monkeypatch, fails):
    monkeypatch.setattr(Trainer, "rehearse", lambda trainer: None)  # which draws a batch too
    drawn, batch = [], PairsTask._batch
    monkeypatch.setattr(PairsTask, "_batch", lambda task, number: drawn.append(number) or batch(task, number))
    assert train(dataclasses.replace(config, steps=3)) == 0
    assert train(dataclasses.replace(config, steps=5, grad_accum=2, resume=True)) == 0
    assert drawn == list(range(3 + 2 * 2))
    resumed = ["train", "--out", config.out, "--resume", "--steps", 9]
    fails([*resumed, "--batch-tokens", 99], "has --batch-tokens 60, which cannot become 99; leave --batch-tokens out")


def test_validation_is_without_smoothing_and_repeats(config):
    trainer = Trainer(config)
    assert trainer.validate() == trainer.validate()
    batches = list(trainer.task.validation())
    total = sum(trainer.model.loss(*batch).item() * trainer.task.count(batch) for batch in batches)
    count = sum(trainer.task.count(batch) for batch in batches)
    assert trainer.validate()["val_loss"] == pytest.approx(total / count)


@pytest.mark.parametrize("frozen", [False, True])
def test_given_vectors_are_trained_further_or_frozen(config, tmp_path, frozen, capsys, fails):
    path = tmp_path / "vectors.txt"
    rows = {word: np.random.default_rng(i).standard_normal(16) for i, word in enumerate(("one", "two", "eins"))}
    path.write_text("".join(f"{word} {' '.join(map(str, row))}\n" for word, row in rows.items()))
    config = dataclasses.replace(config, embeddings=str(path), freeze_embeddings=frozen)
    trainer = Trainer(config)
    before = trainer.model.wte.weight.numpy()
    one, two = (before[encode(trainer.task.tokenizer, word)[0]] for word in ("one", "two"))
    cosine = one @ two / np.linalg.norm(one) / np.linalg.norm(two)
    expected = rows["one"] @ rows["two"] / np.linalg.norm(rows["one"]) / np.linalg.norm(rows["two"])
    assert cosine == pytest.approx(expected, abs=1e-5)
    assert train(config) == 0
    assert f"3 words from {path}, {'frozen' if frozen else 'trained further'}" in capsys.readouterr().out
    path.rename(tmp_path / "moved")
    assert train(dataclasses.replace(config, resume=True, steps=config.steps + 1)) == 0
    (tmp_path / "moved").rename(path)
    after = load_tensors(tmp_path / "run" / "model.safetensors")[0]["wte.weight"]
    assert np.array_equal(after, before) == frozen
    again = ["train", "--pairs", config.pairs, "--n-embd", "20", "--embeddings", path, "--out", tmp_path / "other"]
    fails(again, "its vectors have 16 numbers, the model 20 channels; make them equal")


# The commands


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run that has learned to count backwards in German."""
    folder = tmp_path_factory.mktemp("translator")
    path = folder / "pairs.tsv"
    path.write_text("".join(f"{a}\t{b}\n" for a, b in sentences(400)), encoding="utf-8")
    settings = {"n_layer": 1, "n_head": 2, "n_embd": 32, "dropout": 0.0, "lr": 5e-3, "batch_tokens": 400}
    settings |= {"pairs": str(path), "out": str(folder / "run"), "steps": 250, "warmup_steps": 20}
    assert train(settings_of("transformer")(**settings)) == 0
    return folder / "run"


@pytest.mark.slow
def test_translate(trained, capsys):
    assert main(["translate", "--model", str(trained), "One two  three", "you are four"]) == 0
    assert capsys.readouterr().out == "drei zwei eins\nvier du bist\n"
    assert main(["translate", "--model", str(trained), "five", "--beam", "4", "--n-best", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r" +-0\.\d+  fünf", lines[0])
    assert len(lines) == 3


@pytest.mark.slow
def test_the_score_is_sacrebleus(trained, tmp_path, capsys):
    sacrebleu = pytest.importorskip("sacrebleu")
    path, pairs = tmp_path / "test.tsv", list(sentences(30, seed=1))
    path.write_text("".join(f"{a}\t{b}\n" for a, b in pairs), encoding="utf-8")
    assert main(["translate", "--model", str(trained), "--pairs", str(path), "--beam", "2"]) == 0
    shown = capsys.readouterr().out
    opened = open_model(trained)
    model, tokenizer = opened.model, opened.tokenizer
    written = [best[0].text for best in translations(model, tokenizer, [a for a, _ in pairs], beam=2)]
    targets = [b for _, b in pairs]
    score, chrf = (f(written, [targets]).score for f in (sacrebleu.corpus_bleu, sacrebleu.corpus_chrf))
    assert re.match(r"30 sentences in \S+ s \(beam 2\)\n", shown)
    right = sum(a == b for a, (_, b) in zip(written, pairs))
    assert shown.endswith(f"\nBLEU {score:.2f}, chrF {chrf:.2f}, {right} to the letter\n")
    assert score > 50
    path.write_text("".join(f"{a}\t{b.title()}\n" for a, b in pairs), encoding="utf-8")
    score_lines = ["translate", "--model", str(trained), "--pairs", str(path), "--beam", "2"]
    assert main(score_lines) == 0
    _, with_capitals, lower = capsys.readouterr().out.splitlines()
    cased = sacrebleu.corpus_bleu(written, [[b.title() for b in targets]]).score
    assert with_capitals.startswith(f"BLEU {cased:.2f}, chrF ")
    assert with_capitals.endswith(
        ", 0 to the letter, with the capitals of the targets, which this model does not write"
    )
    assert lower == f"BLEU {score:.2f}, chrF {chrf:.2f}, {right} to the letter, with the targets in lower case"
    assert main([*score_lines, "--bleu-tokenize", "char"]) == 0
    by_characters = sacrebleu.corpus_bleu(written, [targets], tokenize="char").score
    assert capsys.readouterr().out.splitlines()[2].startswith(f"BLEU {by_characters:.2f}, chrF {chrf:.2f}, ")
    path.write_text("one two\tuno dos\n", encoding="utf-8")
    assert main(["translate", "--model", str(trained), "--pairs", str(path)]) == 0
    assert capsys.readouterr().out.endswith("\n(BLEU counts runs of four words too, and no target has so many)\n")


@pytest.mark.slow
def test_the_attention_of_a_translation_is_drawn(trained, tmp_path):
    path = tmp_path / "attention.png"
    assert main(["translate", "--model", str(trained), "one two", "--attention", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")


def test_sources_of_the_training_file_are_translated(config, tmp_path, capsys):
    """Words beyond --vocab-size were learned as bytes."""
    config = dataclasses.replace(config, vocab_size=260)
    assert train(config) == 0
    capsys.readouterr()
    assert main(["translate", "--model", config.out, "one two three four five you are"]) == 0
    assert main(["translate", "--model", config.out, "--pairs", config.pairs]) == 0
    assert "has not learned" not in capsys.readouterr().out


@pytest.mark.slow
def test_what_cannot_be_translated(trained, fails, tmp_path):
    model = ["translate", "--model", trained]
    fails([*model, " "], "an empty sentence cannot be translated")
    fails([*model, "one hundred"], "the pairs that the model learned have no 'hundred'; leave that out")
    fails([*model, " ".join(["one"] * 200)], "a sentence of 200 tokens is longer than --block-size 128")
    fails([*model, "one", "--beam", "0"], "--beam 0 should be at least 1")
    fails([*model, "one", "--n-best", "2"], "--n-best 2 is above --beam 1; make that as large")
    (tmp_path / "long.tsv").write_text(f"one\teins\n{'one ' * 200}\teins\n")
    long = [*model, "--pairs", tmp_path / "long.tsv"]
    fails(long, "long.tsv, line 2: a sentence of 200 tokens is longer than --block-size 128")
    fails([*long, "--beam", "2", "--n-best", "2"], "--n-best is for sentences")
    fails([*model, "one", "--length-penalty", "-1"], "--length-penalty -1.0 should be at least 0")
    fails([*long, "--bleu-tokenize", "klingon"], "klingon is not known to sacrebleu; it is one of none, zh, 13a, intl")
    fails(model, "give sentences to translate, in quotes, or a file of pairs")
    fails([*model, "one", "--attention", tmp_path / "a.txt"], "a.txt ends in .txt; give it a name")
    fails([*model, "one", "two", "--attention", tmp_path / "a.png"], "--attention draws one sentence; give one")
    fails(["translate", "--model", tmp_path, "one"], "there is no trained model")
    other = shutil.copytree(trained, tmp_path / "other")
    weights, _ = load_tensors(other / "model.safetensors")
    save_tensors(other / "model.safetensors", {**weights, "wte.weight": weights["wte.weight"][:, :8], "x": np.ones(2)})
    fails(
        ["translate", "--model", other, "one"],
        f"is not of the model that {other} describes: unexpected x (and 1 more); restore it",
    )
    fails(["generate", "--model", trained], "holds a transformer, not a gpt")


def test_flags_of_another_model(fails, tmp_path, pairs_file):
    out = ["--out", tmp_path / "run"]
    fails(["train", *out, "--beta1", "0.8", "--label-smoothing", "0.2"], "--label-smoothing is no setting of a gpt")
    fails(["train", *out, "--pairs", pairs_file, "--text", pairs_file], "--text is no setting of a transformer")
    fails(["train", *out, "--model", "transformer", "--val-pairs", pairs_file], "--val-pairs is given without --pairs")
    fails(["train", *out, "--pairs", pairs_file, "--freeze-embeddings"], "is given without --embeddings")
    fails(["train", *out, "--pairs", pairs_file, "--n-head", "3"], "--n-embd 128 is not a multiple of --n-head 3")


def test_without_sacrebleu(monkeypatch):
    monkeypatch.setattr(bleu, "sacrebleu", None)
    with pytest.raises(ValueError, match=r'pip install "autotx\[bleu\]"'):
        bleu.scores(["a"], ["a"])


def test_what_a_tokenizer_of_bleu_needs_is_told(monkeypatch):
    def missing(**settings):
        raise RuntimeError("needs a library")

    sacrebleu = pytest.importorskip("sacrebleu")
    missing.TOKENIZERS = sacrebleu.BLEU.TOKENIZERS
    monkeypatch.setattr(sacrebleu, "BLEU", missing)
    with pytest.raises(ValueError, match="--bleu-tokenize ja-mecab cannot be used: needs a library"):
        bleu.scores(["a"], ["a"], "ja-mecab")


def test_pairs_that_are_learned_and_validated_on_are_counted(config, capsys):
    assert train(dataclasses.replace(config, val_pairs=config.pairs)) == 0
    assert "\n        of those to validate on, also among those to learn from: 120\n" in capsys.readouterr().out


def test_too_few_pairs(fails, tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("a\tb\nc\td\n")
    fails(["train", "--pairs", path, "--out", tmp_path / "run"], "too few pairs to keep some for validation")
    fails(
        ["train", "--pairs", path, "--val-pairs", path, "--block-size", "1", "--out", tmp_path / "run"],
        "no pair is left to learn from within --block-size 1",
    )

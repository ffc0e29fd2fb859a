"""Fine-tuning: a pre-trained GPT learns to label texts."""

import dataclasses
import json
import random
import re
import shutil
import signal
from pathlib import Path

import labels as few_labels
import numpy as np
import pytest

import autotx
from autotx.checkpoint import load_checkpoint, load_tensors, save_tensors
from autotx.files import read_json
from autotx.models import GPT, GPTConfig
from autotx.models.classifier import Classifier, padded, predict
from autotx.models.cli import main
from autotx.models.formats import open_model
from autotx.models.registry import read_config, settings_of
from autotx.models.tasks.labels import LabelsTask, read_parts
from autotx.models.train import INTERRUPTED, Trainer, train

# The model


def classifier(rng, classes=3, dropout=0.0, **sizes):
    sizes = {"block_size": 40, "vocab_size": 11, "n_layer": 2, "n_head": 2, "n_embd": 16, **sizes}
    return Classifier(GPT(GPTConfig(dropout=dropout, **sizes), rng), classes, rng)


def texts(rng, lengths, vocab_size=11):
    return [rng.integers(vocab_size, size=n) for n in lengths]


@pytest.fixture
def batch(rng):
    return *padded(texts(rng, (3, 40, 1, 17))), np.array([2, 0, 1, 2])


def results(model, ids, lengths, labels):
    """Everything that a batch makes: scores, losses, gradients."""
    model.zero_grad()
    scores = model(ids, lengths)
    classes, words = model.losses(ids, lengths, labels)
    (classes + words * 0.5).backward()
    return [scores.numpy(), classes.numpy(), words.numpy(), *(p.grad for p in model.parameters())]


def test_what_stands_in_the_padding_cannot_change_a_bit(rng, batch):
    model, (ids, lengths, labels) = classifier(rng), batch
    expected = results(model, ids, lengths, labels)
    places = np.arange(ids.shape[1]) >= lengths[:, None]
    other = np.where(places, rng.integers(11, size=ids.shape), ids)
    assert (other != ids).any()
    for a, b in zip(results(model, other, lengths, labels), expected):
        np.testing.assert_array_equal(a, b)


def test_how_much_padding_there_is_changes_nothing_but_the_order_of_sums(rng, batch):
    model, (ids, lengths, labels) = classifier(rng).astype(np.float64), batch
    for row, count, label in zip(ids, lengths, labels):
        alone = results(model, row[None, :count], [count], [label])
        for a, b in zip(results(model, row[None], [count], [label]), alone):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_the_losses_are_the_formulas(rng, batch):
    model, (ids, lengths, labels) = classifier(rng).astype(np.float64), batch
    classes, words = model.losses(ids, lengths, labels)
    l1 = l2 = 0.0
    for row, count, label in zip(ids, lengths, labels):
        x = model.language_model.hidden(row[None, :count]).numpy()[0]
        z = x[-1] @ model.head.weight.numpy().T
        l2 += z[label] - np.log(np.exp(z).sum())
        z = x @ model.language_model.wte.weight.numpy().T
        log_p = z - np.log(np.exp(z).sum(axis=-1, keepdims=True))
        l1 += sum(log_p[i, row[i + 1]] for i in range(count - 1))
    assert classes.item() == pytest.approx(-l2, rel=1e-12)
    assert words.item() == pytest.approx(-l1, rel=1e-12)


def test_the_gradients_are_right(rng):
    model = classifier(rng, n_layer=1, n_embd=4, vocab_size=5, block_size=6).astype(np.float64)
    ids, lengths = padded(texts(rng, (2, 5, 1), 5))

    def loss(*parameters):
        classes, words = model.losses(ids, lengths, [0, 2, 1])
        return classes + words * 0.5

    assert autotx.gradcheck(loss, model.parameters())


def test_a_batch_of_texts_of_one_token_has_no_word_to_predict(rng):
    model = classifier(rng)
    classes, words = model.losses([[3], [4]], [1, 1], [0, 1])
    assert words.item() == 0
    (classes + words).backward()
    assert all(np.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_dropout_is_drawn_from_the_rng_alone(rng, batch):
    model, (ids, lengths, _) = classifier(rng, dropout=0.5), batch
    one, same, other = (model(ids, lengths, np.random.default_rng(seed)).numpy() for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    assert (model(ids, lengths).numpy() != one).any()


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([3, 0], "a text of 0 tokens in rows of 5; give 1 to 5"),
        ([6, 3], "a text of 6 tokens in rows of 5; give 1 to 5"),
        ([3], r"lengths \(1,\) for ids \(2, 5\); give ids \(B, T\) and lengths \(B,\)"),
    ],
)
def test_lengths_that_cannot_be(rng, lengths, message):
    with pytest.raises(ValueError, match=message):
        classifier(rng)(np.zeros((2, 5), int), lengths)


def test_one_class_is_no_choice(rng):
    with pytest.raises(ValueError, match="num_classes is 1; give at least 2"):
        classifier(rng, classes=1)


# The command

WORDS = {"animal": ["fox", "dog", "hen", "cat"], "colour": ["red", "blue", "green", "brown"]}
SIZES = ("--n-layer=1", "--n-head=2", "--n-embd=16", "--block-size=16", "--batch-size=4", "--eval-interval=2")


def sentence(chance, label):
    return " ".join(chance.choice(WORDS[label]) for _ in range(3))


def lines(seed, count):
    chance = random.Random(seed)
    labels = [chance.choice(list(WORDS)) for _ in range(count)]
    return "".join(f"{sentence(chance, label)} {i}\t{label}\n" for i, label in enumerate(labels))


def call(*argv):
    """The exit status of `autotx argv`."""
    try:
        return main([str(word) for word in argv])
    except SystemExit as end:
        return end.code


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A pre-trained GPT and a classifier made of it: pre, fine, and the labels."""
    folder = tmp_path_factory.mktemp("finetune")
    (folder / "text.txt").write_text(lines(0, 300).replace("\t", "\n"))
    (folder / "labels.tsv").write_text(lines(1, 60))
    assert call("train", "--text", folder / "text.txt", "--out", folder / "pre", "--steps=4", *SIZES) == 0
    given = ("--model", folder / "pre", "--labels", folder / "labels.tsv", "--out", folder / "fine")
    assert call("finetune", *given, "--steps=4", "--batch-size=4") == 0
    return folder


@pytest.fixture
def config(folder, tmp_path):
    (tmp_path / "labels.tsv").write_text(lines(1, 60))
    return settings_of("gpt", "labels")(
        init=str(folder / "pre"),
        labels=str(tmp_path / "labels.tsv"),
        out=str(tmp_path / "run"),
        steps=8,
        batch_size=3,
        grad_accum=2,
        warmup_steps=2,
        eval_interval=3,
    )


def contents(folder):
    """All that a run is, except how fast it went."""
    tensors, state = load_checkpoint(folder)
    log = [json.loads(line) for line in Path(folder, "log.jsonl").read_text().splitlines()]
    arrays = {f"{file}/{name}": a.tobytes() for file, arrays in tensors.items() for name, a in arrays.items()}
    return arrays, state, [{k: v for k, v in r.items() if k not in ("tokens_per_second", "limit_share")} for r in log]


def test_it_learns_and_says_how_well(config, capsys):
    assert train(dataclasses.replace(config, steps=60, batch_size=16, lr=0.01, dropout=0.0)) == 0
    shown = capsys.readouterr().out
    assert re.search(r"48 texts to learn from, 12 held out; 2 labels: \w+ \(\d+\), \w+ \(\d+\)", shown)
    right, share = re.search(r"The label is right for (\d+) of 12 held-out texts \((.*)%\)", shown).groups()
    _, _, log = contents(config.out)
    assert log[-1]["val_accuracy"] == int(right) / 12 == pytest.approx(float(share) / 100, abs=6e-4)
    assert log[-1]["val_accuracy"] > 0.9
    assert f"accuracy {share}%" in shown
    lines, held_out = read_parts(config)
    commonest = max(WORDS, key=lambda label: sum(line.label == label for line in lines))
    guessed = sum(line.label == commonest for line in held_out)
    assert f'The commonest label of training, "{commonest}", for all would be right for {guessed} ' in shown
    for label in WORDS:
        assert re.search(rf"{label} +\d+ of {sum(line.label == label for line in held_out)}\n", shown)
    assert f"autotx classify --model {config.out} " in shown


def test_the_classifier_says_the_likeliest_label(folder, capsys):
    opened = open_model(folder / "fine")
    model, tokenizer, labels = opened.model, opened.tokenizer, opened.known["labels"]
    assert labels == ["animal", "colour"]
    texts = ["fox dog", "red", "blue green red 17"]
    p = predict(model, tokenizer, texts)
    np.testing.assert_allclose(p.sum(axis=-1), 1, rtol=1e-6)
    for text, row in zip(texts, p):
        np.testing.assert_allclose(predict(model, tokenizer, [text])[0], row, rtol=1e-4)
    assert call("classify", "--model", folder / "fine", *texts) == 0
    shown = capsys.readouterr().out.splitlines()
    for line, text, row in zip(shown, texts, p, strict=True):
        first, second = labels if row[0] >= row[1] else labels[::-1]
        assert re.fullmatch(rf"{first} [\d.]+%, {second} [\d.]+%: {text}", line)
    assert call("classify", "--model", folder / "fine", " red\n") == 0
    assert ":" not in capsys.readouterr().out


def test_it_begins_with_the_pretrained_weights_and_then_changes_them(config, folder):
    gpt = open_model(folder / "pre").model
    model = Trainer(config).model
    for name, array in gpt.state_dict().items():
        np.testing.assert_array_equal(model.language_model.state_dict()[name], array)
    assert model.language_model.config.dropout == config.dropout == 0.1
    scratch = Trainer(dataclasses.replace(config, from_scratch=True)).model
    assert not np.array_equal(scratch.language_model.wte.weight.numpy(), model.language_model.wte.weight.numpy())
    trainer = Trainer(config)
    trainer.train_step()
    for name, array in trainer.model.language_model.state_dict().items():
        assert (array != gpt.state_dict()[name]).any(), name


def test_the_folder_says_where_it_came_from(config, folder):
    train(config)
    assert read_json(Path(config.out, "config.json"))["model"] == "classifier"
    assert read_config(config.out) == config
    assert read_json(Path(config.out, "classifier.json"))["labels"] == ["animal", "colour"]


@pytest.mark.parametrize("stop", [1, 3, 7])
def test_a_stopped_run_goes_on_bit_for_bit(config, tmp_path, stop, monkeypatch, capsys):
    straight = dataclasses.replace(config, out=str(tmp_path / "straight"))
    train(straight)
    real = Trainer.train_step

    def step(self):
        record = real(self)
        if self.step == stop:
            signal.raise_signal(signal.SIGINT)
        return record

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train_step", step)
        assert train(config) == INTERRUPTED
    assert f"autotx train --out {config.out} --resume" in capsys.readouterr().out
    moved = dataclasses.replace(config, init="no longer there")
    Path(config.out, "config.json").write_bytes(moved.to_bytes())
    assert call("train", "--out", config.out, "--resume") == 0
    assert contents(config.out) == contents(straight.out)
    assert call("finetune", "--out", config.out, "--resume", "--steps=9") == 0
    assert load_checkpoint(config.out)[1]["step"] == 9


def test_accumulated_batches_are_one_large_batch(config):
    losses, norms = [], []
    for batch_size, grad_accum in ((12, 1), (4, 3), (1, 12)):
        sizes = {"dropout": 0.0, "batch_size": batch_size, "grad_accum": grad_accum}
        trainer = Trainer(dataclasses.replace(config, **sizes))
        records = [trainer.train_step() for _ in range(6)]  # more than an epoch
        losses.append([r["loss"] for r in records])
        norms.append([r["grad_norm"] for r in records])
    for loss, norm in zip(losses[1:], norms[1:]):
        np.testing.assert_allclose(loss, losses[0], rtol=1e-5)
        np.testing.assert_allclose(norm, norms[0], rtol=1e-3)


def test_the_loss_of_all_training_texts_is_l2_a_text_and_l1_a_token(config):
    task = Trainer(config).task
    batch = task._batch(task.training)
    classes, words = task.model.losses(*batch)
    expected = classes.item() / len(batch[2]) + 0.5 * words.item() / (batch[1] - 1).sum()
    assert task.loss(batch).item() == pytest.approx(expected, rel=1e-6)


def test_every_epoch_has_every_text_once(config):
    task = Trainer(config).task
    n = len(task.training)
    epochs = [sorted(task._text_at(number) for number in range(e * n, (e + 1) * n)) for e in range(3)]
    assert epochs == [list(range(n))] * 3
    assert [task._text_at(i) for i in range(n)] != [task._text_at(i) for i in range(n, 2 * n)]


def test_a_run_that_is_resumed_with_batches_of_another_size_goes_on_where_it_was(config, monkeypatch):
    monkeypatch.setattr(Trainer, "rehearse", lambda trainer: None)  # which draws texts too
    drawn, text_at = [], LabelsTask._text_at
    monkeypatch.setattr(LabelsTask, "_text_at", lambda task, number: drawn.append(number) or text_at(task, number))
    assert train(dataclasses.replace(config, steps=3, batch_size=8, grad_accum=1)) == 0
    assert train(dataclasses.replace(config, steps=5, batch_size=6, grad_accum=2, resume=True)) == 0
    assert drawn == list(range(3 * 8 + 2 * 6 * 2))


def test_the_held_out_part_is_a_share_of_every_label(config):
    def split(seed, share):
        return read_parts(dataclasses.replace(config, seed=seed, held_out_share=share))

    lines, held_out = split(1, 0.25)
    assert split(1, 0.25) == (lines, held_out) != split(2, 0.25)
    assert not set(lines) & set(held_out)
    assert len(lines) + len(held_out) == 60
    for label in WORDS:
        counts = [sum(line.label == label for line in part) for part in (lines, held_out)]
        assert counts[1] == round(sum(counts) / 4)
    for share in (0.001, 0.999):
        assert all({line.label for line in part} == set(WORDS) for part in split(1, share))


def test_a_file_of_held_out_lines(config, tmp_path, capsys):
    (tmp_path / "held.tsv").write_text(lines(2, 9) + "fox dog\tanimal\n" + lines(1, 60).split("\n")[0])
    assert train(dataclasses.replace(config, held_out=str(tmp_path / "held.tsv"))) == 0
    shown = capsys.readouterr().out
    assert "60 texts to learn from, 11 held out" in shown
    assert "of those held out, also among those to learn from: 1" in shown


def test_long_texts_are_cut_and_counted(config, capsys, folder):
    with open(config.labels, "a") as file:
        file.write(f"{'red ' * 30}\tcolour\n{'red ' * 30}fox\tcolour\nred  \tcolour\nred\tcolour\n")
    assert train(config) == 0
    shown = capsys.readouterr().out
    assert re.search(r"longer than 16 tokens, so that the end is cut off: \d+", shown)
    opened = open_model(config.out)
    model, tokenizer = opened.model, opened.tokenizer
    a, b = predict(model, tokenizer, ["red " * 30, "red " * 4])
    np.testing.assert_allclose(a, b, rtol=1e-5)
    assert call("classify", "--model", config.out, "red " * 30, "red") == 0
    assert "1 of 2 texts: only the first 16 tokens are read" in capsys.readouterr().err


@pytest.mark.slow
def test_pretraining_pays_when_labels_are_few(capsys):
    assert few_labels.main(["--labels=50", "--draws=1", "--steps=1000"]) == 0
    pre_trained, fresh = map(float, re.search(r"^ *50 +(\S+)% +(\S+)%$", capsys.readouterr().out, re.M).groups())
    assert pre_trained > fresh + 3
    assert pre_trained > 70


# Mistakes


GOOD = "fox\ta\nred\tb\ndog\ta\nblue\tb\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GOOD + "hen a\n", r"labels.tsv, line 5: it has no tab; each line should be: text TAB label"),
        (GOOD + "\nhen\ta\tb\n", r"line 6: it has 2 tabs; each line should be: text TAB label"),
        (GOOD + " \ta\n", "line 5: it has no text"),
        (GOOD + "hen\t \n", "line 5: it has no label"),
        ("fox\ta\nred\ta\n", r'all lines have the label "a"; give two or more'),
        (GOOD + "hen\tc\n", r'line 5: the label "c" has this line alone, none is left to hold out; .* --held-out FILE'),
        (GOOD + "hen\ta\nhen ü!\ta\n", r"line 6: the text that .* was pre-trained on has no '!', 'ü'; leave that out"),
        ("\n", "the file is empty"),
        (b"fox\ta\n\xff", "not UTF-8, first at byte 6"),
        (b"fox\ta\n\0", "not a text file, byte 6 is zero"),
    ],
)
def test_labels_that_cannot_be_used(fails, folder, tmp_path, content, message):
    (tmp_path / "labels.tsv").write_bytes(content if isinstance(content, bytes) else content.encode())
    argv = ["finetune", "--model", folder / "pre", "--labels", tmp_path / "labels.tsv", "--out", tmp_path / "run"]
    fails(argv, message)


def test_held_out_lines_that_cannot_be_used(fails, folder, tmp_path):
    for name, content in (("one.tsv", "fox\ta\nred\tb\n"), ("held.tsv", "dog\ta\nhen\tc\n")):
        (tmp_path / name).write_text(content)
    argv = ["finetune", "--model", folder / "pre", "--labels", tmp_path / "one.tsv", "--out", tmp_path / "run"]
    fails([*argv, "--held-out", tmp_path / "held.tsv"], r'held.tsv, line 2: the label "c" is not among those of .*one')
    fails([*argv, "--held-out", tmp_path / "none.tsv"], r"--held-out .*none.tsv: cannot be read: No such file")
    fails([*argv, "--held-out-share", "1"], "--held-out-share 1.0 should be below 1")


def broken(folder, tmp_path, run):
    """A copy of a run with a NaN in its weights."""
    copy = shutil.copytree(folder / run, tmp_path / run)
    weights, _ = load_tensors(copy / "model.safetensors")
    next(iter(weights.values())).flat[3] = np.nan
    save_tensors(copy / "model.safetensors", weights)
    return copy


def test_models_that_cannot_be_used(fails, folder, tmp_path):
    labels = ["--labels", folder / "labels.tsv", "--out", tmp_path / "run"]
    fails(["finetune", *labels], "no pre-trained model is given; give the folder of its run by --model DIR")
    fails(["finetune", "--model", folder / "pre"], "no labelled texts are given; give a file of them by --labels FILE")
    fails(["finetune", "--model", tmp_path / "none", *labels], "there is no trained model")
    fails(["finetune", "--model", folder / "fine", *labels], "holds a classifier, not a gpt")
    fails(["finetune", "--model", broken(folder, tmp_path, "pre"), *labels], "holds NaN or Inf")
    fails(["finetune", "--model", folder / "pre", "--labels", tmp_path / "no.tsv"], "no.tsv: cannot be read")
    fails(["classify", "--model", folder / "pre", "red"], "holds a gpt, not a classifier; autotx finetune makes one")
    fails(["classify", "--model", tmp_path / "none", "red"], "there is no trained model")
    fails(["classify", "--model", broken(folder, tmp_path, "fine"), "red"], "holds NaN or Inf")
    fails(["generate", "--model", folder / "fine"], "holds a classifier, not a gpt")
    fails(["classify", "--model", folder / "fine", "red", " "], "a text is empty; there is nothing to label")
    fails(["classify", "--model", folder / "fine", "rüd"], '"rüd": the text that .* has no .ü.; leave that out')


def test_a_classifier_file_that_was_changed(fails, folder, tmp_path):
    copy = shutil.copytree(folder / "fine", tmp_path / "fine")
    saved = read_json(copy / "classifier.json")
    for change, message in (
        ({"labels": None}, "classifier.json: labels should be a list, it is .None"),
        ({"shape": {**saved["shape"], "n_head": 3}}, "n_head 3 does not divide n_embd 16"),
        ({"shape": {**saved["shape"], "vocab_size": 7}}, "is for 7 tokens, the tokenizer has"),
        ({"labels": ["a", "b", "c"]}, "head.weight has shape"),
    ):
        (copy / "classifier.json").write_text(json.dumps({**saved, **change}))
        fails(["classify", "--model", copy, "red"], message)


def test_resume_with_other_labels(fails, folder, tmp_path):
    copy = shutil.copytree(folder / "fine", tmp_path / "fine")
    (tmp_path / "other.tsv").write_text(lines(3, 60))
    argv = ["finetune", "--out", copy, "--resume"]
    fails([*argv, "--labels", tmp_path / "other.tsv"], "the data are not those")
    fails([*argv, "--model", tmp_path], r"the run in .* has --init .*pre, which cannot become")
    (tmp_path / "other.tsv").write_text(lines(3, 60).replace("colour", "shade"))
    fails([*argv, "--labels", tmp_path / "other.tsv"], "the labels are not those that the run in .* began with")

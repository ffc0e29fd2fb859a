"""Training: a run that is stopped, killed or out of disk goes on as if nothing had happened."""

import dataclasses
import errno
import itertools
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from autotx.checkpoint import load_checkpoint, load_tensors
from autotx.files import read_json
from autotx.kernels import gemm, mixed
from autotx.models import train as training
from autotx.models.cli import main
from autotx.models.data import TextSource, load_data, random_blocks, read_text
from autotx.models.formats import open_model
from autotx.models.optimizers import OPTIMIZERS, SCHEDULES
from autotx.models.registry import read_config, settings_of
from autotx.models.run import Run
from autotx.models.tasks import text as text_task
from autotx.models.tokenizers import CharTokenizer
from autotx.models.train import INTERRUPTED, DivergedError, Trainer, train

SMALL = {
    "n_layer": 1,
    "n_head": 2,
    "n_embd": 8,
    "block_size": 8,
    "batch_size": 3,
    "steps": 8,
    "warmup_steps": 2,
    "eval_interval": 3,
    "eval_batches": 2,
    "dropout": 0.1,
    "grad_accum": 2,
}
TEXT = "".join(random.Random(0).choices("the quick brown fox jumps over it\n", k=1500))


@pytest.fixture
def config(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    return settings_of("gpt")(text=(tmp_path / "text.txt",), out=str(tmp_path / "run"), **SMALL)


def resume(config, **changes):
    return train(dataclasses.replace(config, resume=True, **changes))


def contents(folder):
    """All that a run is, except how fast it went."""
    tensors, state = load_checkpoint(folder)
    log = [json.loads(line) for line in Path(folder, "log.jsonl").read_text().splitlines()]
    arrays = {f"{file}/{name}": a.tobytes() for file, arrays in tensors.items() for name, a in arrays.items()}
    return arrays, state, [{k: v for k, v in r.items() if k not in ("tokens_per_second", "limit_share")} for r in log]


@pytest.fixture
def straight(config, tmp_path):
    """The contents of a run that nothing stopped."""
    config = dataclasses.replace(config, out=str(tmp_path / "straight"))
    assert train(config) == 0
    return contents(config.out)


@pytest.fixture
def at_step(monkeypatch):
    """at_step(n, act): call act(trainer) at the end of the step n, once."""

    def install(n, act):
        real = Trainer.train_step

        def step(self):
            record = real(self)
            if self.step == n:
                monkeypatch.setattr(Trainer, "train_step", real)
                act(self)
            return record

        monkeypatch.setattr(Trainer, "train_step", step)

    return install


def press_ctrl_c(_):
    signal.raise_signal(signal.SIGINT)


def test_a_run_leaves_what_it_promises(config, capsys):
    assert train(config) == 0
    names = "config.json log.jsonl loss.png model.safetensors optimizer.safetensors state.json tokenizer.json"
    assert sorted(os.listdir(config.out)) == names.split()
    _, state, log = contents(config.out)
    assert state["step"] == config.steps
    assert [r["step"] for r in log] == list(range(1, config.steps + 1))
    assert [r["step"] for r in log if r["val_loss"] is not None] == [3, 6, 8]
    assert all(math.isfinite(r[key]) for r in log for key in ("loss", "lr", "grad_norm"))
    assert read_config(config.out) == config
    assert open_model(config.out).model.num_parameters() == Trainer(config).model.num_parameters()
    shown = capsys.readouterr().out
    assert "step 8/8: loss" in shown
    assert "A sample of what the model writes" in shown
    assert f"autotx generate --model {config.out}" in shown


@pytest.mark.parametrize("stops", [(1,), (3,), (4, 5), (7,)])
def test_a_stopped_run_goes_on_bit_for_bit(config, straight, at_step, stops, capsys):
    run = train
    for step in stops:
        at_step(step, press_ctrl_c)
        assert run(config) == INTERRUPTED
        shown = capsys.readouterr().out
        assert f"Stopped at step {step} of 8; saved in {config.out}. Go on with:" in shown
        assert f"autotx train --out {config.out} --resume" in shown
        run = resume
    assert resume(config) == 0
    assert contents(config.out) == straight


def test_the_random_state_is_what_makes_it_so(config, straight, at_step, monkeypatch):
    at_step(4, press_ctrl_c)
    train(config)
    real = Run.load

    def forgetful(self, *args):
        weights, optimizer, state = real(self, *args)
        return weights, optimizer, {**state, "data_rng": np.random.default_rng(0).bit_generator.state}

    monkeypatch.setattr(Run, "load", forgetful)
    resume(config)
    assert contents(config.out) != straight


def test_a_second_ctrl_c_stops_at_once(config, straight, at_step):
    def twice(_):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    at_step(5, twice)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    assert load_checkpoint(config.out)[1]["step"] == 3
    resume(config)
    assert contents(config.out) == straight
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_before_the_first_checkpoint_leaves_nothing(config, monkeypatch):
    monkeypatch.setattr(Run, "save", lambda *a: press_ctrl_c(None))
    with pytest.raises(KeyboardInterrupt):
        train(config)
    assert not os.path.exists(config.out)


def test_more_steps_can_be_added(config, capsys):
    train(config)
    assert resume(config) == 0
    assert "Done: 8 steps." in capsys.readouterr().out
    assert resume(config, steps=10) == 0
    assert [r["step"] for r in contents(config.out)[2]] == list(range(1, 11))
    assert read_config(config.out).steps == 10
    with pytest.raises(ValueError, match=r"--steps 4: the run in .* is at step 10 already"):
        resume(config, steps=4)


def test_two_cannot_train_in_one_folder(config, at_step):
    def resume_as_well(_):
        with pytest.raises(ValueError, match=r"--out .*run: a run is going on there; wait, or give another folder"):
            resume(config)

    at_step(2, resume_as_well)
    assert train(config) == 0
    assert resume(config, steps=9) == 0  # the lock is gone


def test_killed_before_the_first_checkpoint_it_begins_again(config, straight):
    os.mkdir(config.out)
    Run(config.out).write_config(config)
    resume(config)
    assert contents(config.out) == straight


def test_lines_of_the_log_after_the_checkpoint_are_dropped(config, straight, at_step):
    def die(_):
        raise SystemExit  # after step 5, with the checkpoint of step 3

    at_step(5, die)
    with pytest.raises(SystemExit):
        train(config)
    with open(f"{config.out}/log.jsonl", "a") as log:
        log.write('{"step": 5, "lo')  # a kill in the middle of a line
    resume(config)
    assert contents(config.out) == straight


def test_a_loss_that_is_not_a_number_stops_the_run(config, at_step):
    def break_a_weight(trainer):
        trainer.model.wte.weight.writable()[0] = np.nan

    at_step(4, break_a_weight)
    message = r"the loss became nan at step 5; stopped\. The checkpoint of step 3 in .*run is good: .* lower --lr"
    with pytest.raises(DivergedError, match=message):
        train(config)
    assert load_checkpoint(config.out)[1]["step"] == 3
    assert resume(config) == 0


def test_weights_that_are_not_numbers_are_not_saved(config, at_step):
    def break_a_weight_unseen(trainer):
        trainer.model.wpe.weight.writable()[-1] = np.inf
        trainer.validate = lambda: {"val_loss": 1.0}

    at_step(6, break_a_weight_unseen)
    with pytest.raises(ValueError, match=r"wpe.weight in model.safetensors holds NaN or Inf"):
        train(config)
    assert load_checkpoint(config.out)[1]["step"] == 3


def test_a_gradient_that_is_not_a_number_names_its_parameter(config, monkeypatch):
    real, calls = training.clip_grad_norm, itertools.count(1)

    def poisoned(params, max_norm):
        if next(calls) == 5:
            params[2].grad[0] = np.inf
        return real(params, max_norm)

    monkeypatch.setattr(training, "clip_grad_norm", poisoned)
    name = list(dict(Trainer(config).model.named_parameters()))[2]
    with pytest.raises(DivergedError, match=rf"step 5: .*{name}.*The checkpoint of step 3"):
        train(config)


def test_a_full_disk_keeps_the_last_checkpoint(config, straight, monkeypatch):
    real = os.replace
    states = itertools.count(1)

    def full(source, target):
        if os.path.basename(target) == "state.json" and next(states) == 5:  # twice for a checkpoint: the third's
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(OSError, match=r"No space left on device; the checkpoint of step 3 in .* is kept"):
            train(config)
    assert load_checkpoint(config.out)[1]["step"] == 3
    resume(config)
    assert contents(config.out) == straight


def test_no_room_for_the_first_checkpoint_leaves_nothing(config, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Run, "save", full)
    with pytest.raises(OSError, match="No space left"):
        train(config)
    assert not os.path.exists(config.out)


def test_accumulated_batches_are_one_large_batch(config):
    records, weights = [], []
    for batch_size, grad_accum in ((12, 1), (4, 3), (1, 12)):
        sizes = {"dropout": 0.0, "batch_size": batch_size, "grad_accum": grad_accum}
        trainer = Trainer(dataclasses.replace(config, **sizes))
        records.append([trainer.train_step() for _ in range(3)])
        weights.append(trainer.model.state_dict())
    for record, weight in zip(records[1:], weights[1:]):
        for one, other in zip(records[0], record):
            assert other["loss"] == pytest.approx(one["loss"], rel=1e-5)
            assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)
        for name, array in weight.items():
            np.testing.assert_allclose(array, weights[0][name], atol=2e-4)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_goes_on_bit_for_bit(config, at_step, tmp_path, optimizer):
    settings = {"optimizer": optimizer, "momentum": 0.9 if optimizer == "sgd" else 0.0}
    straight, stopped = (dataclasses.replace(config, out=str(tmp_path / name), **settings) for name in ("a", "b"))
    assert train(straight) == 0
    at_step(4, press_ctrl_c)
    assert train(stopped) == INTERRUPTED
    assert main(["train", "--out", stopped.out, "--resume"]) == 0
    assert contents(stopped.out) == contents(straight.out)
    assert type(Trainer(stopped).optimizer).__name__.lower() == optimizer


@pytest.fixture
def fastest(monkeypatch):
    """fastest(name) lets a timing say that products of bfloat16 are fastest by the tile of this name."""
    monkeypatch.setattr(gemm, "SMALL", 0)
    monkeypatch.setattr(mixed, "_used", [])
    return lambda name: monkeypatch.setattr(mixed, "fastest", lambda: name)


def test_bfloat16_goes_on_bit_for_bit_whatever_a_second_timing_says(config, at_step, tmp_path, fastest, capsys):
    names = mixed._that_run()
    for name, later in zip(names, names[1:] + names[:1]):
        runs = [dataclasses.replace(config, out=str(tmp_path / f"{name}{n}"), dtype="bfloat16") for n in range(2)]
        fastest(name)
        assert train(runs[0]) == 0
        at_step(4, press_ctrl_c)
        assert train(runs[1]) == INTERRUPTED
        fastest(later)
        assert main(["train", "--out", runs[1].out, "--resume"]) == 0
        assert contents(runs[1].out) == contents(runs[0].out)
        assert read_config(runs[1].out).dtype == "bfloat16"
        how = "rounded and multiplied as float32" if name == "float32" else f"multiplied by {name}"
        assert capsys.readouterr().out.count(f"dtype   bfloat16, {how}\n") == 3
    plain = dataclasses.replace(config, out=str(tmp_path / "plain"))
    train(plain)
    assert contents(plain.out) != contents(runs[0].out)
    assert "product" not in load_checkpoint(plain.out)[1]


def test_a_product_that_is_not_here_is_told_and_the_run_goes_on(config, at_step, fastest, capsys, monkeypatch):
    config = dataclasses.replace(config, dtype="bfloat16")
    fastest("float32")
    at_step(4, press_ctrl_c)
    train(config)
    real = Run.load

    def elsewhere(self, *args):
        weights, optimizer, state = real(self, *args)
        return weights, optimizer, {**state, "product": "abacus"}

    monkeypatch.setattr(Run, "load", elsewhere)
    assert resume(config) == 0
    assert "multiplied as float32; before it was by abacus, which is not here: sums diff" in capsys.readouterr().out
    assert load_checkpoint(config.out)[1]["product"] == "float32"


def test_bfloat16_computes_again_what_it_computed(config, tmp_path, fastest):
    fastest(mixed._that_run()[0])
    results = []
    for recompute in (False, True):
        out = str(tmp_path / f"run{recompute}")
        train(dataclasses.replace(config, out=out, dtype="bfloat16", recompute=recompute, grad_accum=1))
        results.append(contents(out))
    assert results[0] == results[1]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_schedule_rises_to_lr_over_the_warm_up(config, schedule):
    trainer = Trainer(dataclasses.replace(config, schedule=schedule, lr=0.01, warmup_steps=3, steps=30))
    rates = [trainer.schedule(step) for step in range(30)]
    assert max(rates) == pytest.approx(0.01)
    assert rates.index(max(rates)) in (2, 3)
    assert rates[:3] == sorted(rates[:3])
    expected = {"constant": 0.01, "noam": 0.01 * (3 / 30) ** 0.5}
    if schedule in expected:
        assert rates[-1] == pytest.approx(expected[schedule])


def test_the_schedule_may_change_on_resume_and_the_optimizer_may_not(config, at_step, fails):
    at_step(4, press_ctrl_c)
    assert train(config) == INTERRUPTED
    again = ["train", "--out", config.out, "--resume"]
    fails([*again, "--optimizer=sgd"], "has --optimizer adamw, which cannot become sgd")
    fails([*again, "--schedule=constant", "--min-lr=0.001"], "--min-lr is not used by --schedule constant; leave it")
    assert main([*again, "--schedule=constant"]) == 0
    assert {record["lr"] for record in contents(config.out)[2][4:]} == {config.lr}


def test_settings_that_are_not_used(config, fails):
    words = ["train", "--out", config.out, "--text", *config.text]
    fails([*words, "--optimizer=sgd", "--beta1=0.5"], "--beta1 is not used by --optimizer sgd; leave it out")
    fails([*words, "--optimizer=rmsprop", "--weight-decay=0.1"], "--weight-decay is not used by --optimizer rmsprop")
    fails([*words, "--momentum=0.9"], "--momentum is not used by --optimizer adamw; leave it out")
    fails([*words, "--schedule=noam", "--min-lr=0.1"], "--min-lr is not used by --schedule noam; leave it out")
    fails([*words, "--schedule=noam", "--warmup-steps=0"], "--schedule noam is not defined for --warmup-steps 0")


def test_a_validation_changes_nothing_and_repeats(config):
    trainer = Trainer(config)
    trainer.train_step()
    before = trainer.model.state_dict(), trainer.data_rng.bit_generator.state, trainer.dropout_rng.bit_generator.state
    assert trainer.validate() == trainer.validate()
    np.testing.assert_equal(
        (trainer.model.state_dict(), trainer.data_rng.bit_generator.state, trainer.dropout_rng.bit_generator.state),
        before,
    )


def test_it_learns(config, tmp_path):
    (tmp_path / "text.txt").write_text("abcdefgh" * 300)
    trainer = Trainer(dataclasses.replace(config, dropout=0.0, steps=60, lr=0.02))
    losses = [trainer.train_step()["loss"] for _ in range(60)]
    assert losses[0] > 4
    assert trainer.validate()["val_loss"] < 1


def test_the_seed_decides(config):
    def weights(seed):
        trainer = Trainer(dataclasses.replace(config, seed=seed))
        trainer.train_step()
        return trainer.model.wte.weight.numpy()

    np.testing.assert_array_equal(weights(1), weights(1))
    assert not np.array_equal(weights(1), weights(2))


# The text


def test_blocks_are_drawn_from_everywhere_and_targets_follow():
    ids = np.arange(20, dtype=np.int32)
    inputs, targets = random_blocks(ids, 500, 4, np.random.default_rng(0))
    assert inputs.shape == targets.shape == (500, 4)
    np.testing.assert_array_equal(targets, inputs + 1)
    assert (inputs.min(), targets.max()) == (0, 19)
    inputs, targets = random_blocks(ids, 3, 19, np.random.default_rng(0))
    np.testing.assert_array_equal(targets, np.tile(ids[1:], (3, 1)))


def test_the_last_tenth_is_for_validation():
    data = load_data(TextSource("a" * 90 + "b" * 10, CharTokenizer), 4)
    assert len(data.training) == 90
    assert data.tokenizer.decode(data.validation) == "b" * 10  # as bytes: the training part has no b


class TokenFile:
    """A source whose tokens stay in a file: what TextSource makes of a text, memory-mapped."""

    def __init__(self, text, make_tokenizer):
        source = TextSource(text, make_tokenizer)
        self.tokenizer, self.digest, self.parts = source.tokenizer, source.digest, source.split()

    def split(self):
        for name, ids in zip("ab", self.parts):
            ids.astype(np.uint16).tofile(name)
            yield np.memmap(name, np.uint16, "r")


def test_tokens_may_stay_in_a_memory_mapped_file(config, straight, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(text_task, "TextSource", TokenFile)
    assert type(Trainer(config).task.data.training) is np.memmap
    assert train(config) == 0
    assert contents(config.out) == straight
    with pytest.raises(ValueError, match="its training part has 1350 tokens and must have more than --block-size 1350"):
        Trainer(dataclasses.replace(config, block_size=1350))


def test_the_default_text_is_english():
    text = read_text(())
    assert len(text) > 300_000
    assert text.count(" the ") > 2000
    paragraphs = text.split("\n\n")
    assert len(set(paragraphs)) == len(paragraphs)


def test_files_are_joined(tmp_path):
    for name, content in (("a", b"one"), ("b", "\ufeffzwölf\r\n".encode())):
        (tmp_path / name).write_bytes(content)
    assert read_text([tmp_path / "a", tmp_path / "b"]) == "one\nzwölf\r\n"


# Killed for real


def start(config):
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    command = [sys.executable, "-m", "autotx", "train", "--out", config.out, "--text", *config.text, *flags]
    command += ["--steps=60", "--eval-interval=1"]
    if os.path.exists(f"{config.out}/config.json"):
        command.append("--resume")
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def logged(config):
    """The number of bytes in the log."""
    path = f"{config.out}/log.jsonl"
    return os.path.getsize(path) if os.path.exists(path) else 0


@pytest.mark.slow
def test_killed_at_any_moment_it_resumes_and_ends_the_same(config, tmp_path):
    straight = dataclasses.replace(config, out=str(tmp_path / "straight"), steps=60, eval_interval=1)
    assert train(straight) == 0
    chance, kills, progressed = random.Random(1), 0, set()
    while True:
        process = start(config)
        while process.poll() is None and not os.path.exists(f"{config.out}/config.json"):
            time.sleep(0.01)  # before that there is nothing to resume
        if kills < 6:
            size = logged(config)
            while process.poll() is None and kills and size == logged(config):
                time.sleep(0.01)  # until it has got somewhere, so that kills fall among the saves
            time.sleep(chance.random() * 0.4)
            process.kill()
            kills += 1
        _, error = process.communicate()
        assert process.returncode in (0, -signal.SIGKILL), error
        if process.returncode == 0:
            break
        if os.path.exists(f"{config.out}/model.safetensors"):
            load_tensors(f"{config.out}/model.safetensors")  # whole at all times
            progressed.add(read_json(Path(config.out, "state.json"))["step"])
    assert len(progressed) > 2
    assert contents(config.out) == contents(straight.out)

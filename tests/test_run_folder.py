"""What a run's folder holds is never lost: not by a kill, a mistake, a full disk or a second run in the folder."""

# ruff: noqa: F811  the fixtures of test_train.py are imported

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
from test_train import SMALL, TEXT, at_step, config, contents, resume, straight  # noqa: F401

from autotx import checkpoint
from autotx.checkpoint import load_checkpoint
from autotx.models.cli import main
from autotx.models.commands import fewshot
from autotx.models.registry import settings_of
from autotx.models.run import Run
from autotx.models.train import Trainer, train


class Killed(BaseException):
    """Stands for SIGKILL."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The settings of a finished run."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "text.txt").write_text(TEXT)
    config = settings_of("gpt")(text=(folder / "text.txt",), out=str(folder / "run"), **SMALL)
    assert train(config) == 0
    return config


@pytest.fixture
def done(finished, tmp_path):
    """The settings of a copy of it."""
    return dataclasses.replace(finished, out=str(shutil.copytree(finished.out, tmp_path / "run")))


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """The settings of a finished run of word vectors, with statistics."""
    folder = tmp_path_factory.mktemp("words")
    (folder / "text.txt").write_text("the quick brown fox jumps over the lazy dog and runs away " * 200)
    settings = {"dim": 4, "batch_words": 256, "steps": 6, "eval_interval": 2, "eval_batches": 1, "stats_interval": 1}
    config = settings_of("word2vec")(text=(folder / "text.txt",), out=str(folder / "run"), **settings)
    assert train(config) == 0
    return config


def files(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def change_state(config, **entries):
    path = Path(config.out, "state.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **entries}))


# A folder that is not whole


@pytest.mark.parametrize("kept", ["model.safetensors", "optimizer.safetensors", "log.jsonl"])
def test_a_run_without_its_state_is_refused(done, fails, kept):
    for name in {"state.json", "model.safetensors", "optimizer.safetensors", "log.jsonl"} - {kept}:
        os.remove(f"{done.out}/{name}")
    message = f"--resume: .*run has {kept} but no state.json, .* put that back, or start a new run in another folder"
    fails(["train", "--out", done.out, "--resume", "--steps=9"], message)


def test_a_run_without_its_settings_is_refused(done, fails):
    os.remove(f"{done.out}/config.json")
    fails(
        ["train", "--out", done.out, "--resume"], "--resume: .*run has tokenizer.json but no config.json; put that back"
    )
    fails(["train", "--out", done.out], "run has tokenizer.json, so it already holds a run; go on with it by --resume")


@pytest.mark.parametrize(
    ("name", "value"), [("step", -3), ("step", 1.5), ("step", True), ("place", -1), ("place", "0")]
)
def test_a_step_that_cannot_be_is_refused_before_anything_is_written(done, fails, name, value):
    change_state(done, **{name: value})
    fails(
        ["train", "--out", done.out, "--resume", "--steps=9"], f"{name} {value!r} should be a whole number, 0 or more"
    )


@pytest.mark.parametrize("number", [-1, 1 << 200])
def test_a_generator_that_cannot_be_is_refused_before_anything_is_written(done, fails, number):
    data_rng = json.loads(Path(done.out, "state.json").read_text())["data_rng"]
    change_state(done, data_rng={**data_rng, "state": {**data_rng["state"], "state": number}})
    fails(["train", "--out", done.out, "--resume", "--steps=9"], r"state.json|does not fit its settings")


@pytest.mark.parametrize(
    ("name", "kind"), [("checkpoint.new", "folder"), ("checkpoint.ready", "folder"), ("loss.png", "file")]
)
def test_names_of_another_kind_are_told_before_the_first_step(done, fails, tmp_path, name, kind):
    path = tmp_path / "run" / name
    if kind == "folder":
        path.write_text("")
    else:
        path.unlink()
        path.mkdir()
    fails(["train", "--out", done.out, "--resume", "--steps=9"], f"--resume: .*{name} should be a {kind}; move it away")


@pytest.mark.parametrize("name", ["checkpoint.ready", "checkpoint.new", "log.jsonl", "model.safetensors.tmp"])
def test_a_new_run_takes_no_folder_that_holds_a_part_of_another(config, fails, tmp_path, name):
    (tmp_path / "run" / name).mkdir(parents=True)
    fails(["train", "--out", config.out, "--text", *config.text], f"run has {name}, so it already holds a run")


def test_a_log_that_lacks_steps_is_told(done, tmp_path, capsys):
    log = tmp_path / "run" / "log.jsonl"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:5]))
    assert resume(done) == 0
    assert "log     log.jsonl lacks 3 steps of the 8 that are done" in capsys.readouterr().out


def test_a_file_is_the_lock_where_there_are_no_others(config, at_step, fails, monkeypatch, tmp_path):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    def resume_as_well(_):
        with pytest.raises(ValueError, match=r"--out .*run: process \d+ of .* trains there; .* remove .*in-use"):
            resume(config)

    monkeypatch.setattr(fcntl, "flock", refuse)
    at_step(2, resume_as_well)
    assert train(config) == 0
    assert "in-use" not in os.listdir(config.out)
    Path(config.out, "in-use").touch()  # of a process that was killed
    fails(["train", "--out", config.out, "--resume"], r"a process trains there; wait, or, if it has ended, remove")


# What fails takes away what it made, and nothing else


def test_a_failed_beginning_keeps_what_was_there(config, tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    Run(config.out).write_config(config)  # killed before the first checkpoint
    before = files(tmp_path / "run")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Run, "save", full)
    with pytest.raises(OSError, match="No space left"):
        resume(config)
    assert files(tmp_path / "run") == before


def test_too_large_a_batch_changes_nothing(done, tmp_path, monkeypatch):
    def huge(*_, **__):
        raise MemoryError("Unable to allocate 1. TiB")

    before = files(tmp_path / "run")
    monkeypatch.setattr(done.task, "loss", huge)
    with pytest.raises(MemoryError):
        resume(done, steps=20, lr=2e-3)
    assert files(tmp_path / "run") == before
    with pytest.raises(MemoryError):
        train(dataclasses.replace(done, out=str(tmp_path / "new")))
    assert not (tmp_path / "new").exists()


def test_a_rehearsal_changes_nothing(config):
    trainer, other = Trainer(config), Trainer(config)
    trainer.rehearse()
    assert [trainer.train_step()["loss"] for _ in range(3)] == [other.train_step()["loss"] for _ in range(3)]


@pytest.mark.parametrize("call", [1, 2])
def test_an_interrupted_first_save_leaves_nothing(config, monkeypatch, call):
    """Also where the checkpoint was ready, and a new run would have taken it for its own."""
    real, calls = checkpoint.recover_checkpoint, []

    def interrupted(folder):
        calls.append(folder)
        if len(calls) == call:
            raise KeyboardInterrupt
        real(folder)

    monkeypatch.setattr(checkpoint, "recover_checkpoint", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(config)
    assert not os.path.exists(config.out)


def test_few_shot_tasks_take_no_file_of_another(tmp_path, monkeypatch, fails):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / fewshot.TEXT).write_text("mine")
    fails(["fewshot", "--out", tmp_path / "run"], "tasks.txt is there and holds something else; give another folder")

    def broken(config):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fewshot, "train", broken)
    fails(["fewshot", "--out", tmp_path / "new"], "No space left on device")


# What a checkpoint promises is on the disk before it


def test_the_log_is_on_the_disk_before_the_checkpoint_that_covers_it(config, monkeypatch):
    synced, saved, fsync, save = [0], [], os.fsync, Run.save

    def noted_fsync(number):
        log = f"{config.out}/log.jsonl"
        if os.path.exists(log) and os.path.samestat(os.fstat(number), os.stat(log)):
            synced.append(os.fstat(number).st_size)
        fsync(number)

    def noted_save(run, model, optimizer, state, file):
        with contextlib.suppress(FileNotFoundError):
            assert synced[-1] == os.stat(f"{config.out}/log.jsonl").st_size
        saved.append(state["step"])
        save(run, model, optimizer, state, file)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Run, "save", noted_save)
    assert train(config) == 0
    assert saved == [0, 3, 6, 8]


def test_a_checkpoint_is_saved_when_it_is_due(config, straight, monkeypatch):
    saved, save = [], Run.save

    def noted(run, model, optimizer, state, file):
        saved.append(state["step"])
        save(run, model, optimizer, state, file)

    monkeypatch.setattr(Run, "save", noted)
    assert train(dataclasses.replace(config, save_minutes=1e-9)) == 0
    assert saved == list(range(9))
    assert contents(config.out) == straight


@pytest.mark.parametrize("number", [1, 2, 4])
@pytest.mark.parametrize("when", ["before", "after"])
def test_killed_around_a_checkpoint_nothing_is_missing(words, tmp_path, monkeypatch, when, number):
    """number: of the checkpoint, the first at step 0, the fourth at the end."""
    config = dataclasses.replace(words, out=str(tmp_path / "run"))
    real, calls = Run.save, []

    def killed(*args):
        calls.append(args)
        if when == "before" and len(calls) == number:
            raise Killed
        real(*args)
        if when == "after" and len(calls) == number:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Run, "save", killed)
        patch.setattr(Run, "beginning", contextlib.nullcontext)
        with pytest.raises(Killed):
            train(config)
    assert resume(config) == 0
    found, expected = files(config.out), files(words.out)
    assert found.keys() == expected.keys()
    for name in ("vectors.txt", "statistics.jsonl"):
        assert found[name] == expected[name]
    assert contents(config.out) == contents(words.out)


@pytest.mark.parametrize("old", [b"old", None])
def test_vectors_that_are_older_than_the_checkpoint_or_lost_are_made_again(words, tmp_path, old):
    config = dataclasses.replace(words, out=str(shutil.copytree(words.out, tmp_path / "run")))
    vectors = tmp_path / "run" / "vectors.txt"
    vectors.write_bytes(old) if old else vectors.unlink()
    assert resume(config) == 0
    assert vectors.read_bytes() == Path(words.out, "vectors.txt").read_bytes()


def test_what_a_kill_left_half_written_is_removed(done, tmp_path):
    for name in ("loss.png.tmp", "statistics.jsonl.tmp"):
        (tmp_path / "run" / name).write_bytes(b"half")
    assert resume(done) == 0
    assert not list((tmp_path / "run").glob("*.tmp"))


def test_a_picture_that_is_older_than_the_log_is_drawn_again(done, tmp_path):
    picture = tmp_path / "run" / "loss.png"
    expected = picture.read_bytes()
    picture.write_bytes(b"old")
    os.utime(picture, (1, 1))
    assert resume(done) == 0
    assert picture.read_bytes() == expected
    made = picture.stat().st_mtime_ns
    assert resume(done) == 0
    assert picture.stat().st_mtime_ns == made


def test_a_folder_that_vanished_is_told(config, at_step):
    at_step(5, lambda _: shutil.rmtree(config.out))
    with pytest.raises(OSError, match=r"No such file or directory; .*run holds no checkpoint any more"):
        train(config)


# Signals


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_signals_save_and_say_how_to_go_on(config, straight, at_step, capfd, name, status):
    if not hasattr(signal, name):
        pytest.skip(f"the system has no {name}")
    before = signal.getsignal(getattr(signal, name))
    at_step(4, lambda _: signal.raise_signal(getattr(signal, name)))
    assert train(config) == status
    assert signal.getsignal(getattr(signal, name)) is before
    out, err = capfd.readouterr()
    assert "Stopped at step 4 of 8; saved in" in out
    assert f"autotx train --out {config.out} --resume" in out
    assert err == "\nstopping after this step (Ctrl-C again: at once, without saving)\n"
    assert resume(config) == 0
    assert contents(config.out) == straight


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="the system has no SIGHUP")
def test_a_signal_that_is_ignored_stays_ignored(config, at_step, monkeypatch):
    """As under nohup. And a terminal that closes sends SIGHUP more than once."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    at_step(4, lambda _: signal.raise_signal(signal.SIGHUP))
    try:
        assert train(config) == 0
    finally:
        signal.signal(signal.SIGHUP, before)

    def twice(_):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)

    at_step(9, twice)
    assert resume(config, steps=12) == 143
    assert load_checkpoint(config.out)[1]["step"] == 9


def test_a_folder_whose_name_begins_with_a_dash(config, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert train(dataclasses.replace(config, out="-x y")) == 0
    shown = capsys.readouterr().out
    commands = [line.split("autotx ")[1] for line in shown.splitlines() if line.startswith("  autotx")]
    assert len(commands) == 2
    assert all("'./-x y'" in command for command in commands)


# Streams while it trains


@pytest.mark.skipif(os.name != "posix", reason="pipes differ")
def test_a_run_whose_output_nobody_reads_goes_on(config, straight, monkeypatch):
    """As in `autotx train | head -4`."""
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as closed, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", closed)
        patch.setattr(sys, "stderr", closed)
        assert train(config) == 0
    assert contents(config.out) == straight


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
def test_output_that_cannot_be_written_is_told_when_all_is_done(config, straight, monkeypatch, capsys):
    argv = ["train", "--text", *map(str, config.text), "--out", config.out]
    argv += [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    with open("/dev/full", "w") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", full)
        assert main(argv) == 2
    told = "autotx train: the output could not be written: No space left on device; the run itself is done and saved\n"
    assert capsys.readouterr().err == told
    assert contents(config.out) == straight

"""Worlds of several processes, started by mpiexec. Each start takes seconds, so that a world does several things."""

# ruff: noqa: F811  the fixtures of test_train.py are imported

import dataclasses
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from test_train import SMALL, TEXT, config, resume  # noqa: F401

from autotx.checkpoint import load_checkpoint
from autotx.models.cli import main
from autotx.models.train import train

MPIEXEC = shutil.which("mpiexec") or shutil.which("mpiexec", path=Path(sys.executable).parent)
WORLD = Path(__file__).with_name("in_world.py")


@pytest.fixture
def mpi():
    pytest.importorskip("mpi4py")
    if not MPIEXEC:
        pytest.skip("there is no mpiexec")


def begin(size, *commands, fault=""):
    """Start a world that runs some commands."""
    command = [MPIEXEC, "-n", str(size), sys.executable, WORLD, fault, json.dumps(commands)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def world(size, *commands, fault=""):
    """The exit status of such a world, the statuses of its commands in process 0, its output, and its errors."""
    process = begin(size, *commands, fault=fault)
    out, errors = process.communicate(timeout=100)
    statuses = [int(line.split()[1]) for line in out.splitlines() if line.startswith("status ")]
    return process.returncode, statuses, out, errors.splitlines()


def words(config, **changes):
    flags = {**SMALL, "text": config.text[0], "out": config.out, **changes}
    return ["train", *(f"--{name.replace('_', '-')}={value}" for name, value in flags.items())]


def same(one, other):
    """Whether two checkpoints are of the same training, to rounding."""
    (tensors, state), (others, other_state) = (load_checkpoint(c.out) for c in (one, other))
    for name, array in tensors["model.safetensors"].items():
        np.testing.assert_allclose(others["model.safetensors"][name], array, rtol=0, atol=1e-5)
    assert state["data_rng"] == other_state["data_rng"]
    assert state["step"] == other_state["step"]


@pytest.mark.slow
def test_a_run_of_three_processes_is_one_that_goes_on_with_two_or_one(config, mpi, tmp_path):
    one = dataclasses.replace(config, out=str(tmp_path / "one"))
    assert train(one) == 0
    many = words(config, batch_size=2, out=tmp_path / "none")
    unknown = [*words(config), "--lr=none"]
    ended, statuses, out, errors = world(3, words(config), words(config), unknown, many, fault="error")
    assert (ended, statuses) == (2, [0, 2, 2, 2])
    assert "mpi     3 processes, 1 thread each" in out
    assert out.count("Done: 8 steps.") == 1
    assert "already holds a run" in errors[0]
    assert errors[1] == "autotx train: argument --lr: invalid float value: 'none' (see autotx train --help)"
    assert errors[2:] == ["autotx train: 3 processes cannot share out --batch-size 2; make it larger"]
    assert not (tmp_path / "none").exists()
    same(one, config)
    log = [json.loads(line) for line in Path(config.out, "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in log] == list(range(1, 9))

    again = ["train", "--out", config.out, "--resume", "--steps=10"]
    ended, statuses, out, errors = world(2, again)
    assert (ended, statuses, errors) == (0, [0], [])
    for steps in (10, 12):  # the schedule of the learning rate depends on how many they are
        assert resume(one, steps=steps) == 0
    assert world(1, [*again[:-1], "--steps=12"])[:2] == (0, [0])
    same(one, config)


@pytest.mark.slow
def test_a_run_in_bfloat16_goes_on_with_fewer_processes(config, mpi, tmp_path):
    """They use the same product, and train what one process does, but for the rounding of bfloat16."""
    one = dataclasses.replace(config, out=str(tmp_path / "one"), dtype="bfloat16")
    assert train(one) == 0
    ended, statuses, out, errors = world(2, words(config, dtype="bfloat16"))
    assert (ended, statuses, errors) == (0, [0], [])
    assert out.count("dtype   bfloat16, ") == 1
    ended, statuses, again, errors = world(1, ["train", "--out", config.out, "--resume", "--steps=10"])
    assert (ended, statuses, errors) == (0, [0], [])
    dtype = next(line for line in out.splitlines() if line.startswith("dtype"))
    assert dtype in again.splitlines()
    assert "not here" not in again
    assert resume(one, steps=10) == 0
    (tensors, state), (others, other_state) = (load_checkpoint(c.out) for c in (one, config))
    assert state["product"] == other_state["product"]
    assert (state["data_rng"], state["dropout_rng"]) == (other_state["data_rng"], other_state["dropout_rng"])
    for name, array in tensors["model.safetensors"].items():
        np.testing.assert_allclose(others["model.safetensors"][name], array, rtol=0, atol=5e-3)
    logs = [[json.loads(line) for line in Path(c.out, "log.jsonl").read_text().splitlines()] for c in (one, config)]
    assert [record["step"] for record in logs[1]] == list(range(1, 11))
    for record, other in zip(*logs):
        assert other["loss"] == pytest.approx(record["loss"], abs=1e-3)


def wait_for_lock(folder):
    """Wait until no process has the folder, for ten seconds at most."""
    opened, end = os.open(folder, os.O_RDONLY), time.monotonic() + 10
    while True:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            assert time.monotonic() < end
            time.sleep(0.02)
    os.close(opened)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["killed", "error", "other parameters"])
def test_a_process_that_fails_ends_all_and_leaves_the_last_checkpoint(config, mpi, fault):
    ended, _, out, errors = world(2, words(config), fault=fault)
    assert load_checkpoint(config.out)[1]["step"] == 3
    if fault == "killed":
        assert "Killed (signal 9)" in out + "".join(errors)
    elif fault == "error":
        assert errors[0] == "autotx train: process 1 of 2: only here"
    else:
        message = "the parameters of process 1 of 2 differ from those of process 0; give all processes the same"
        assert errors == [f"autotx train: {message}"]
    assert ended != 0
    wait_for_lock(config.out)  # mpiexec may end a moment before the processes that it killed
    assert resume(config) == 0


@pytest.mark.slow
def test_a_signal_to_mpiexec_stops_all_and_saves(config, mpi):
    process = begin(2, words(config, steps=10**6, eval_interval=10**6))
    log = Path(config.out, "log.jsonl")
    while process.poll() is None and not (log.exists() and log.stat().st_size):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert errors.count("stopping after this step") == 1
    step = load_checkpoint(config.out)[1]["step"]
    assert f"Stopped at step {step} of 1000000" in out


@pytest.mark.parametrize("rank", [0, 1])
def test_other_commands_are_not_for_several_processes(monkeypatch, capsys, rank):
    monkeypatch.setenv("PMI_RANK", str(rank))
    monkeypatch.setenv("PMI_SIZE", "2")
    try:
        status = main(["generate"])
    except SystemExit as end:
        status = end.code
    message = "only train and finetune use several processes; start autotx generate without mpiexec"
    assert (status, capsys.readouterr().err) == (2, "" if rank else f"autotx generate: {message}\n")


def test_an_mpiexec_of_another_mpi_is_told(config, monkeypatch, fails):
    class Library:
        COMM_WORLD = SimpleNamespace(size=1)

    monkeypatch.setenv("PMI_RANK", "0")
    monkeypatch.setenv("PMI_SIZE", "3")
    monkeypatch.setitem(sys.modules, "mpi4py", SimpleNamespace(rc=SimpleNamespace(), MPI=Library))
    fails(
        words(config), "mpiexec started 3 processes, but mpi4py's library is another MPI and finds 1; use the mpiexec"
    )


@pytest.mark.parametrize("rank", [0, 1])
def test_mpiexec_without_mpi4py_is_told_once(config, monkeypatch, capsys, rank):
    monkeypatch.setenv("PMI_RANK", str(rank))
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    try:
        status = main(words(config))
    except SystemExit as end:
        status = end.code
    errors = capsys.readouterr().err.splitlines()
    assert status == 2
    assert not os.path.exists(config.out)
    assert len(errors) == (rank == 0)
    assert all(line.startswith("autotx train: mpiexec needs mpi4py") for line in errors)
    assert all(line.endswith("pip install 'autotx[mpi]'") for line in errors)

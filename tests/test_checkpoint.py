"""Checkpoints are whole: the old one or the new one, whatever happens while they are written."""

import errno
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from autotx import checkpoint
from autotx.checkpoint import load_checkpoint, load_tensors, recover_checkpoint, save_checkpoint, save_tensors

FILES = ("model.safetensors", "optimizer.safetensors")


def tensors_of(step):
    return {file: {"a": np.full((3, 4), step, np.float32), "b.weight": np.arange(step)} for file in FILES}


def save(folder, step):
    save_checkpoint(folder, tensors_of(step), {"step": step})


def steps_in(folder):
    """The step that every file of the checkpoint says it is of, as a set."""
    tensors, state = load_checkpoint(folder)
    assert sorted(p.name for p in folder.iterdir()) == sorted([*FILES, "state.json"])
    return {state["step"]} | {int(arrays["a"][0, 0]) for arrays in tensors.values()}


def test_tensors_come_back_as_they_were(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {
        "matrix": rng.normal(size=(3, 5)).astype(np.float32),
        "transposed": rng.normal(size=(3, 5)).T,
        "every other": np.arange(10)[::2],
        "scalar": np.float32(2.5).reshape(()),
        "empty": np.zeros((0, 3), np.float32),
        "flags": np.array([True, False]),
    }
    save_tensors(tmp_path / "t.safetensors", tensors, {"step": "3"})
    loaded, metadata = load_tensors(tmp_path / "t.safetensors")
    assert metadata == {"step": "3"}
    assert loaded.keys() == tensors.keys()
    for name, array in tensors.items():
        assert (loaded[name].dtype, loaded[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(loaded[name], array)
    assert [p.name for p in tmp_path.iterdir()] == ["t.safetensors"]


def test_a_file_cut_anywhere_is_refused(tmp_path):
    path = tmp_path / "t.safetensors"
    save_tensors(path, {"a": np.ones((4, 4), np.float32)})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="truncated or not a safetensors file"):
            load_tensors(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*t.safetensors"):
        load_tensors(tmp_path / "t.safetensors")


def test_a_checkpoint_is_replaced_whole(tmp_path):
    for step in (1, 2):
        save(tmp_path, step)
        assert steps_in(tmp_path) == {step}


class Killed(BaseException):
    """Stands for SIGKILL: nothing that the code does on the way out may be needed."""


CALLS = {"rename", "replace", "fsync", "open", "rmdir"}


def before_calls(patch, act):
    """Call act() before every system call of CALLS."""

    def watched(real):
        def call(*args, **kwargs):
            act()
            return real(*args, **kwargs)

        return call

    for name in CALLS:
        patch.setattr(os, name, watched(getattr(os, name)))


def calls_of_a_save(folder, monkeypatch):
    """How many system calls of CALLS a save makes."""
    calls = []
    with monkeypatch.context() as patch:
        before_calls(patch, lambda: calls.append(1))
        save(folder, 1)
    return len(calls)


def save_and_die_at(folder, n, monkeypatch):
    """Save step 2, and stop dead before the n-th system call: from then on no call has an effect."""
    calls = []

    def die():
        calls.append(1)
        if len(calls) >= n:
            raise Killed

    with monkeypatch.context() as patch:
        before_calls(patch, die)
        patch.setattr(shutil, "rmtree", lambda *a, **k: None)
        patch.setattr(checkpoint.Path, "unlink", lambda *a, **k: None)
        with pytest.raises(Killed):
            save(folder, 2)


def test_killed_at_any_system_call_the_checkpoint_is_of_one_step(tmp_path, monkeypatch):
    calls = calls_of_a_save(tmp_path, monkeypatch)
    seen = set()
    for n in range(1, calls + 1):
        save(tmp_path, 1)
        save_and_die_at(tmp_path, n, monkeypatch)
        steps = steps_in(tmp_path)
        assert steps in ({1}, {2}), f"killed before call {n} of {calls}"
        seen |= steps
    assert seen == {1, 2}


def test_recovering_twice_changes_nothing(tmp_path):
    save(tmp_path, 1)
    recover_checkpoint(tmp_path)
    recover_checkpoint(tmp_path)
    assert steps_in(tmp_path) == {1}


@pytest.mark.parametrize("file", [*FILES, "state.json"])
def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch, file):
    save(tmp_path, 1)
    real = os.replace

    def full(source, target):
        if os.path.basename(target) == file:
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(OSError, match="No space left"):
            save(tmp_path, 2)
    assert steps_in(tmp_path) == {1}


LIMITED = """
import resource, sys
import numpy as np
from autotx.checkpoint import save_checkpoint
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    save_checkpoint(sys.argv[1], {"model.safetensors": {"a": np.zeros(100_000, np.float32)}}, {"step": 2})
except OSError as error:
    print(error)
"""


def test_a_write_that_the_system_cuts_off_leaves_the_old_checkpoint(tmp_path):
    pytest.importorskip("resource")  # not on Windows
    save(tmp_path, 1)
    done = subprocess.run([sys.executable, "-c", LIMITED, tmp_path], capture_output=True, text=True)
    assert "model.safetensors: cannot be written" in done.stdout, done.stderr
    assert steps_in(tmp_path) == {1}


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("harm", [flip_a_byte, halve])
def test_a_changed_file_is_noticed(tmp_path, file, harm):
    save(tmp_path, 1)
    harm(tmp_path / file)
    with pytest.raises(ValueError, match=f"{file} was truncated or changed"):
        load_checkpoint(tmp_path)


def test_files_of_two_checkpoints_are_not_mixed(tmp_path):
    save(tmp_path, 1)
    old = (tmp_path / FILES[0]).read_bytes()
    save(tmp_path, 2)
    (tmp_path / FILES[0]).write_bytes(old)
    with pytest.raises(ValueError, match="was truncated or changed"):
        load_checkpoint(tmp_path)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file .*state.json"):
        load_checkpoint(tmp_path)
    save(tmp_path, 1)
    (tmp_path / FILES[1]).unlink()
    with pytest.raises(ValueError, match=f"{FILES[1]} is missing"):
        load_checkpoint(tmp_path)
    halve(tmp_path / "state.json")
    with pytest.raises(ValueError, match=r"state.json is truncated or not JSON"):
        load_checkpoint(tmp_path)
    (tmp_path / "state.json").write_text("[1]")
    with pytest.raises(ValueError, match="should hold a JSON object, it holds a list"):
        load_checkpoint(tmp_path)
    (tmp_path / "state.json").write_text(json.dumps({"step": 1}))
    with pytest.raises(ValueError, match="sha256 should be an object, it is 'None'"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_neither_saved_nor_loaded(tmp_path, bad, monkeypatch):
    save(tmp_path, 1)
    broken = {"model.safetensors": {"w": np.array([1.0, bad], np.float32)}}
    with pytest.raises(ValueError, match=r"save_checkpoint: w in model.safetensors holds NaN or Inf"):
        save_checkpoint(tmp_path, broken, {"step": 2})
    assert steps_in(tmp_path) == {1}
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_check_finite", lambda *a: None)
        save_checkpoint(tmp_path, broken, {"step": 2})
    with pytest.raises(ValueError, match=r"load_checkpoint: w in model.safetensors holds NaN or Inf"):
        load_checkpoint(tmp_path)

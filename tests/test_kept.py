"""Checkpoints that are kept beside the newest: --keep, --keep-best and generate --step."""

# ruff: noqa: F811  the fixtures of test_train.py are imported

import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np
from test_train import config, contents, resume, straight  # noqa: F401

from autotx.checkpoint import load_checkpoint
from autotx.models.cli import main
from autotx.models.formats import open_model
from autotx.models.run import Run
from autotx.models.train import Trainer, train


class Killed(BaseException):
    """Stands for SIGKILL."""


def kept(folder):
    return sorted(path.name for path in Path(folder, "checkpoints").glob("*"))


def step_of(folder):
    return load_checkpoint(folder)[1]["step"]


def test_the_last_checkpoints_are_kept_as_they_were(config, straight, tmp_path):
    early = dataclasses.replace(config, keep=9)
    assert train(early) == 0
    assert kept(early.out) == ["3", "6", "8"]
    for name in kept(early.out):
        assert step_of(f"{early.out}/checkpoints/{name}") == int(name)
    opened = open_model(f"{early.out}/checkpoints/3").model.wte.weight.numpy()
    assert not np.array_equal(opened, open_model(early.out).model.wte.weight.numpy())
    third = dataclasses.replace(config, out=str(shutil.copytree(f"{early.out}/checkpoints/3", tmp_path / "third")))
    assert resume(third) == 0  # each is a run to go on from
    assert contents(third.out)[:2] == straight[:2]
    assert resume(early, keep=2, steps=9) == 0
    assert kept(early.out) == ["8", "9"]


def test_the_best_is_kept(config, monkeypatch):
    of_step = {3: 2.0, 6: 1.0, 8: 3.0, 9: 1.5, 10: 0.5}
    trainer = []
    monkeypatch.setattr(config.task, "validate", lambda self, comm: {"val_loss": of_step[trainer[-1].step]})
    real = Trainer.__init__
    monkeypatch.setattr(Trainer, "__init__", lambda self, *a, **k: (trainer.append(self), real(self, *a, **k))[1])
    assert train(dataclasses.replace(config, keep=1, keep_best=True)) == 0
    assert kept(config.out) == ["6", "8", "best"]
    assert step_of(f"{config.out}/checkpoints/best") == 6
    for steps, found in ((9, ["6", "best"]), (10, ["10", "best"])):
        assert resume(config, steps=steps, keep=0, keep_best=True) == 0
        assert kept(config.out) == found


def test_killed_while_it_keeps_every_folder_is_whole_and_the_rest_is_done_later(tmp_path, monkeypatch):
    calls, moment = [], 0

    def dying(real):
        def call(path, *others, **settings):
            if "checkpoints/" in f"{path}{others}":
                calls.append(path)
                if len(calls) == moment:
                    raise Killed
            return real(path, *others, **settings)

        return call

    for module, name in [(os, "link"), (os, "rename"), (os, "replace"), (os, "symlink"), (shutil, "rmtree")]:
        monkeypatch.setattr(module, name, dying(getattr(module, name)))
    bests = {1: 1, 2: 1, 3: 3, 4: 3}
    while moment <= len(calls):
        moment, calls[:] = moment + 1, []
        run = Run(tmp_path / str(moment))
        with run.made():
            run.folder.joinpath("keep").touch()
            for step, best in bests.items():
                run.save({"w": np.full(3, step)}, {}, {"step": step})
                try:
                    run.keep(step, 1, best)
                except Killed:
                    for name in kept(run.folder):
                        assert "." in name or load_checkpoint(run.folder / "checkpoints" / name)
                    run.recovered()
                    run.keep(step, 1, best)
                assert kept(run.folder) == sorted({str(step), str(best), "best"})
                assert step_of(run.folder / "checkpoints/best") == best
    assert moment > 20


def test_without_hard_links_they_are_copied(config, monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "link", refuse)
    assert train(dataclasses.replace(config, keep=2)) == 0
    assert [step_of(f"{config.out}/checkpoints/{name}") for name in kept(config.out)] == [6, 8]


def test_a_kept_checkpoint_generates(config, fails, capsys):
    assert train(dataclasses.replace(config, keep=2, keep_best=True)) == 0
    words = ["generate", "--model", config.out, "--seed=1", "--max-new-tokens=5", "--step"]
    written = []
    for step in ("6", "8", "best"):
        capsys.readouterr()
        assert main([*words, step]) == 0
        written.append(capsys.readouterr().out)
    assert written[1] == written[2]
    fails([*words, "3"], r"--step 3: .*run has no such checkpoint, it has 6, 8, best; train keeps more with --keep")
    shutil.rmtree(f"{config.out}/checkpoints")
    assert main([*words, "8"]) == 0  # the newest
    fails([*words, "../6"], r"--step \.\./6: .*run has no such checkpoint, it keeps none but the newest")

"""What the log of a run tells beside its losses: the share of the machine's limit; TensorBoard's event files."""

# ruff: noqa: F811  the fixtures of test_train.py are imported

import dataclasses
import json
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
from test_train import SMALL, config, resume  # noqa: F401

from autotx.models.bench import cases
from autotx.models.registry import settings_of
from autotx.models.train import Trainer, train


def batch(config):
    return np.zeros((2, config.block_size), int), np.zeros((2, config.block_size), int)


def test_the_flop_of_a_step_are_counted_as_the_benchmark_does(config):
    task = Trainer(config).task
    sizes = {"L": 1, "C": 8, "T": 8, "B": 2, "V": task.tokenizer.vocab_size}
    assert task.flop(batch(config)) == cases.step_flop(**sizes)
    task = Trainer(config).task
    for p in task.model.parameters():
        p.requires_grad = False
    attention = 12 * 8 * 8 * 16
    assert task.flop(batch(config)) - attention == (cases.step_flop(**sizes) - attention) * 4 / 6


@pytest.mark.parametrize("tied", [True, False])
def test_a_table_that_is_only_looked_up_has_no_flop(config, tied):
    llama = {name: value for name, value in SMALL.items() if name != "n_head"}
    task = Trainer(settings_of("llama")(text=config.text, out=config.out, n_head=2, **llama)).task
    object.__setattr__(task.model.config, "tied", tied)
    multiplied = task.model.num_parameters() - (0 if tied else task.model.wte.weight.size)
    assert task.flop(batch(config)) == 2 * 8 * (6 * multiplied + 12 * 8 * 8)


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="nothing is compiled")
def test_the_log_has_the_share_of_the_limit(config):
    assert train(config) == 0
    records = [json.loads(line) for line in Path(config.out, "log.jsonl").read_text().splitlines()]
    assert all(record["limit_share"] > 0 for record in records)


def test_event_files_hold_the_log_also_after_a_resume(config):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def scalars(name):
        events = EventAccumulator(f"{config.out}/tensorboard").Reload()
        return {event.step: event.value for event in events.Scalars(name)}

    assert train(dataclasses.replace(config, tensorboard=True)) == 0
    for steps in (8, 10):
        if steps == 10:
            assert resume(config, steps=10, tensorboard=True) == 0
        records = [json.loads(line) for line in Path(config.out, "log.jsonl").read_text().splitlines()]
        assert scalars("loss") == pytest.approx({r["step"]: r["loss"] for r in records})
        validated = {r["step"]: r["val_loss"] for r in records if r["val_loss"]}
        assert scalars("val_loss") == pytest.approx(validated)
        assert len(scalars("lr")) == steps
    assert len(list(Path(config.out, "tensorboard").iterdir())) == 1


def test_tensorboard_that_is_not_installed(config, fails, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    words = ["train", "--out", config.out, "--text", *config.text, "--tensorboard"]
    fails(words, r"--tensorboard needs TensorBoard; pip install 'autotx\[tensorboard\]'")

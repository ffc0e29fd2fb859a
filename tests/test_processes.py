"""Several processes train the model that one trains, whatever the task and however the rows are shared out."""

import copy
import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numba
import numpy as np
import pytest

import autotx
from autotx.kernels import gemm
from autotx.models import comm
from autotx.models.comm import ALONE, World
from autotx.models.optimizers import OPTIMIZERS
from autotx.models.registry import settings_of
from autotx.models.shares import RowsOfDropout
from autotx.models.train import Trainer, train


class Threads:
    """What World needs of MPI, for a world of threads."""

    IN_PLACE, MAX, COMM_TYPE_SHARED = None, max, None

    def __init__(self, rank, slots, barrier):
        self.rank, self.size, self.slots, self.barrier, self.COMM_WORLD = rank, len(slots), slots, barrier, self

    def Dup(self):  # noqa: N802
        return self

    def Split_type(self, kind):  # noqa: N802
        return SimpleNamespace(allgather=lambda cores: [cores])  # as if alone on its machine

    def Iallreduce(self, in_place, array, op=sum):  # noqa: N802
        array[...] = list(map(op, zip(*self.allgather(array.copy()))))
        return self

    def Ibarrier(self):  # noqa: N802
        return self

    def Test(self):  # noqa: N802
        return True

    def bcast(self, value):
        return self.allgather(value)[0]

    def allgather(self, value):
        self.slots[self.rank] = value
        self.barrier.wait()
        values = list(self.slots)
        self.barrier.wait()
        return values


def together(size, work):
    """work(comm) in `size` threads, the processes of a World: a list of the results."""
    slots, barrier = [None] * size, threading.Barrier(size)

    def one(rank):
        try:
            return work(World(Threads(rank, slots, barrier)))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(one, range(size)))


SIZES = {"n_layer": 1, "n_head": 2, "n_embd": 8, "block_size": 12, "dropout": 0.2}
COMMON = {"steps": 300, "warmup_steps": 2, "grad_accum": 2, "eval_batches": 3}
WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "runs", "away"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with a text, pairs of uneven lengths, labelled texts, and a run that learned the text."""
    folder, chance = tmp_path_factory.mktemp("data"), random.Random(0)
    lines = [" ".join(chance.choices(WORDS, k=chance.randint(1, 7))) for _ in range(400)]
    (folder / "text").write_text("\n".join(lines))
    (folder / "pairs").write_text("".join(f"{a}\t{b}\n" for a, b in zip(lines[:150], lines[150:300])))
    (folder / "labels").write_text("".join(f"{line}\t{'even' if len(line) % 2 else 'odd'}\n" for line in lines))
    settings = {**SIZES, "steps": 1, "text": (folder / "text",), "out": str(folder / "gpt")}
    assert train(settings_of("gpt")(**settings)) == 0
    return folder


def settings(kind, data, **more):
    """The settings of a run of each kind. Batches have 5 rows, or 2 and more of different lengths."""
    text = {**SIZES, "text": (data / "text",), "batch_size": 5}
    own = {
        "gpt": text,
        "llama": {**text, "recompute": True},
        "transformer": {**SIZES, "pairs": str(data / "pairs"), "batch_tokens": 24},
        "adapters": {
            "init": str(data / "gpt"),
            "text": (data / "text",),
            "batch_size": 5,
            "lora_rank": 2,
            "lora_dropout": 0.3,
        },
        "word2vec": {"text": (data / "text",), "dim": 4, "batch_words": 128, "subsample": 1.0},
        "classifier": {
            "init": str(data / "gpt"),
            "labels": str(data / "labels"),
            "batch_size": 5,
            "dropout": 0.2,
        },
    }[kind]
    names = {"classifier": ("gpt", "labels"), "adapters": ("gpt", "tune")}.get(kind, (kind,))
    return settings_of(*names)(out=str(data / "run"), **{**COMMON, **own, **more})


def trained(config, comm, steps, dtype=np.float64):
    """The records, parameters, metrics and the generator of dropout after some steps."""
    trainer = comm.ahead(lambda: Trainer(config, comm=comm))
    trainer.model.astype(dtype)
    trainer.optimizer = OPTIMIZERS[config.optimizer].make(trainer.model, config)
    trainer.rehearse()
    records = [trainer.train_step() for _ in range(steps)]
    return records, trainer.model.state_dict(), trainer.validate(), place(trainer.dropout_rng)


def place(rng):
    """Where a generator of PCG64 is; what is left over in it counts only while it is to be used."""
    state = rng.bit_generator.state
    return state["state"], state["has_uint32"], state["has_uint32"] and state["uinteger"]


@pytest.mark.parametrize("kind", ["gpt", "llama", "transformer", "word2vec", "classifier", "adapters"])
def test_several_processes_train_the_model_that_one_trains(data, kind):
    config = settings(kind, data)
    records, weights, metrics, after = trained(config, ALONE, 4)
    for size in (2, 4):
        worlds = together(size, lambda comm: trained(config, comm, 4))
        for name, array in weights.items():
            np.testing.assert_allclose(worlds[0][1][name], array, rtol=0, atol=1e-12)
            for other in worlds[1:]:
                np.testing.assert_array_equal(other[1][name], worlds[0][1][name])
        for one, other in zip(records, worlds[0][0]):
            assert other["loss"] == pytest.approx(one["loss"], rel=1e-12)
            assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-10)
        assert worlds[0][2] == pytest.approx(metrics, rel=1e-10)
        assert all(world[3] == after for world in worlds)


def test_in_float32_they_train_the_same_to_rounding(data):
    config = settings("gpt", data, lr=0.01)
    one = trained(config, ALONE, 200, np.float32)
    other = together(3, lambda comm: trained(config, comm, 200, np.float32))[0]
    assert one[0][-1]["loss"] < 2
    for record, again in zip(one[0], other[0]):
        assert again["loss"] == pytest.approx(record["loss"], abs=1e-5)
    keys = slice(SIZES["n_embd"], 2 * SIZES["n_embd"])  # of the bias; it changes no softmax, so rounding moves it
    for name, array in one[1].items():
        if name.endswith("qkv.bias"):
            array[keys] = other[1][name][keys] = 0
        np.testing.assert_allclose(other[1][name], array, rtol=0, atol=1e-5)


def test_in_bfloat16_they_train_the_same_to_its_rounding(data, monkeypatch):
    """The loss of the first step is the same: a row does not depend on the rows beside it. Its gradients are, where all
    processes have equally many of 4 rows; else they are rounded after they were scaled by the share of the rows."""
    monkeypatch.setattr(gemm, "SMALL", 0)
    plain = trained(settings("gpt", data), ALONE, 1, np.float32)[0][0]["loss"]
    for rows in (4, 5):
        config = settings("gpt", data, dtype="bfloat16", lr=0.01, batch_size=rows)
        one = trained(config, ALONE, 60, np.float32)
        assert one[0][-1]["loss"] < 3.5
        assert rows == 4 or abs(one[0][0]["loss"] - plain) > 3e-6
        for size in (2, 4):
            worlds = together(size, lambda comm, c=config: trained(c, comm, 60, np.float32))
            first = worlds[0][0][0]
            assert first["loss"] == pytest.approx(one[0][0]["loss"], abs=1e-6)
            assert first["grad_norm"] == pytest.approx(one[0][0]["grad_norm"], rel=1e-5 if rows == 4 else 2**-8)
            for record, again in zip(one[0], worlds[0][0]):
                assert again["loss"] == pytest.approx(record["loss"], abs=0.01)
            for world in worlds:
                assert all(np.array_equal(array, worlds[0][1][name]) for name, array in world[1].items())
                assert world[3] == one[3]


@pytest.mark.parametrize("shape", [(3,), (3, 1), (2, 5), (1,), ()])
def test_dropout_of_some_rows_is_that_of_the_whole(shape):
    whole, cuts = 7, (0, 1, 1, 4, 7)
    expected, others = np.random.default_rng(5), [np.random.default_rng(5) for _ in cuts[1:]]
    for _ in range(3):  # an odd number of draws leaves half of 64 bits to the next
        drawn = expected.random((whole, *shape), dtype=np.float32)
        for rng, first, after in zip(others, cuts, cuts[1:]):
            if first == after:
                continue
            own = RowsOfDropout(rng, first, after - first, whole)
            again = copy.deepcopy(own)
            for generator in (own, again):
                own_rows = generator.random((after - first, *shape), dtype=np.float32)
                np.testing.assert_array_equal(own_rows, drawn[first:after])
                assert place(generator) == place(expected)


def test_what_has_no_rows_cannot_be_shared_out(rng):
    own = RowsOfDropout(rng, 1, 2, 5)
    for size, dtype in ((None, np.float32), ((3, 2), np.float32), ((4, 2), np.float64)):
        with pytest.raises(ValueError, match=r"random: .* cannot be shared out; give 2 rows of float32"):
            own.random(size, dtype)


@pytest.mark.parametrize(
    ("own", "others", "threads"), [({0, 1}, [], 2), ({0, 1}, [{0, 1}], 1), ({0}, [{1}], 1), ({0, 1}, [{2, 3}], 2)]
)
def test_processes_divide_the_cores_that_they_have_in_common(monkeypatch, own, others, threads):
    before = autotx.get_num_threads()
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: own, raising=False)
    try:
        found = comm._share_cores(SimpleNamespace(allgather=lambda mine: [mine, *others]))
        assert found == autotx.get_num_threads() == min(threads, before)
        autotx.set_num_threads(before)
        monkeypatch.setenv("NUMBA_NUM_THREADS", str(numba.config.NUMBA_NUM_THREADS))
        assert comm._share_cores(SimpleNamespace(allgather=lambda mine: [mine, mine, mine])) == before
    finally:
        autotx.set_num_threads(before)

"""Generation beyond what test_gpt.py says of it: the reader, int8 weights, and `autotx warmup`."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest

import autotx
from autotx.models import GPT, GPTConfig, cli
from autotx.models.commands import warmup
from autotx.models.inference.losses import token_losses
from autotx.models.inference.pieces import Int8Matrix

TEXT = "".join(f"{i} times {i} is {i * i}.\n" for i in range(300))


def _gpt(rng, dtype=np.float32, **settings):
    sizes = {"block_size": 24, "vocab_size": 37, "n_layer": 2, "n_head": 4, "n_embd": 48, **settings}
    model = GPT(GPTConfig(**sizes), rng)
    for p in model.parameters():
        p.data = (p.numpy() + 0.1 * rng.standard_normal(p.shape)).astype(p.dtype)  # away from the zeros and ones
    return model.astype(dtype)


def _scores(model, ids):
    """What a new reader of the model says of ids (B, T): (B, T, V)."""
    reader = model.reader(len(ids))
    return reader.scores(reader.read(ids))


@pytest.fixture
def ids(rng):
    return rng.integers(37, size=(2, 24))


# The reader


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float32, 1e-5), (np.float64, 1e-12)])
@pytest.mark.parametrize("pieces", [[24], [1] * 24, [10, 1, 1, 12], [3, 1, 20]])
def test_the_reader_is_the_model(pieces, dtype, tolerance, bias, rng, ids):
    model = _gpt(rng, dtype, bias=bias)
    reader = model.reader(2)
    parts = [reader.scores(reader.read(part)) for part in np.split(ids, np.cumsum(pieces)[:-1], axis=1)]
    with autotx.no_grad():
        expected = model(ids)[0].data
    assert reader.length == 24
    assert parts[0].dtype == dtype
    scale = np.abs(expected).max()
    np.testing.assert_allclose(np.concatenate(parts, axis=1), expected, rtol=tolerance, atol=tolerance * scale)


def test_the_reader_leaves_the_weights_alone(rng, ids):
    model = _gpt(rng)
    before = model.state_dict()
    model.generate(ids, 30, temperature=0)
    assert all(np.array_equal(p.data, before[name]) for name, p in model.named_parameters())


# int8


def test_int8_is_the_model_with_rounded_matrices(rng, ids):
    model = _gpt(rng)
    small = model.reader(matrix=Int8Matrix)
    for name, p in model.named_parameters():
        if p.ndim == 2 and name != "wpe.weight":
            matrix = Int8Matrix(p.numpy())
            p.data = matrix.rows(np.arange(p.shape[0]))
    with autotx.no_grad():
        logits, loss = model(ids, ids)
    found = _scores(small, ids)
    scale = np.abs(logits.data).max()
    np.testing.assert_allclose(found, logits.data, rtol=0, atol=1e-5 * scale)
    assert abs(autotx.cross_entropy(found, ids).item() - loss.item()) < 1e-5
    many = _scores(small, np.tile(ids, (2, 1)))
    np.testing.assert_allclose(many[2:], logits.data, rtol=0, atol=1e-5 * scale)
    one_by_one = []
    list(small._stream(ids[:, :1], 20, lambda scores: one_by_one.append(scores) or scores.argmax(-1)))
    rows = model.generate(ids[:, :1], 20, temperature=0)
    with autotx.no_grad():
        again = model(rows[:, :20])[0].data.transpose(1, 0, 2)
    np.testing.assert_allclose(one_by_one, again, rtol=0, atol=1e-5 * scale)


def test_int8_stays_close(rng, ids):
    model = _gpt(rng)
    small = model.reader(matrix=Int8Matrix)
    with autotx.no_grad():
        exact = model(ids)[0].data
    error = _scores(small, ids) - exact
    assert np.sqrt(np.mean(error**2)) < 0.02 * np.std(exact)  # each weight is right to 1/254 of its block's largest
    text = rng.integers(37, size=500)
    rounded, right = (np.concatenate(list(token_losses(m, text, 24, 12))).mean() for m in (small, model.reader()))
    assert abs(rounded / right - 1) < 0.005
    assert small.nbytes < 0.5 * model.reader().nbytes  # rows of 48 fill two blocks of 32, and 37 rows a panel of 48


def test_int8_generates(rng, ids):
    small = _gpt(rng).reader(matrix=Int8Matrix)
    assert small.generate(ids, 5, rng=rng).shape == (2, 29)


# autotx warmup


@pytest.mark.parametrize("bfloat16", [False, True])
def test_warmup_calls_everything(bfloat16):
    warmup.call_all(bfloat16)


def test_warmup_needs_the_compiler(monkeypatch, capsys):
    monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    assert cli.main(["warmup"]) == 2
    assert capsys.readouterr().err == "autotx warmup: NUMBA_DISABLE_JIT is set, so nothing is compiled; unset it\n"


@pytest.mark.slow
@pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="kernels are off")
def test_warmup_compiles_every_kernel_and_then_finds_them(tmp_path):
    def call(hash_seed):  # what is kept must be found whatever the order of sets
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-m", "autotx", "warmup"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    assert re.fullmatch(rf"Kernels compiled in [\d.]+ s and kept in {re.escape(str(tmp_path))}\S*\n", call("0"))
    kept = {path.name.rpartition("-")[0] for path in tmp_path.rglob("*.kernel")}
    assert _kernels() <= kept
    assert re.fullmatch(rf"Kernels were there, loaded in [\d.]+ s from {re.escape(str(tmp_path))}\S*\n", call("1"))


def _kernels():
    """The names of all functions with the decorator @kernel or @apart, as "module.function", but those of bfloat16."""
    names = set()
    for path in Path(warmup.gemm.__file__).parent.glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            decorators = map(ast.unparse, getattr(node, "decorator_list", ()))
            own = path.stem not in ("amx", "bfloat16")
            if own and any(re.match(r"(kernel|apart)\b", text) for text in decorators):
                names.add(f"{path.stem}.{node.name}")
    return names

"""A reader computes what its model's forward does, and the same bits however a text is cut, for every architecture."""

import functools

import numba
import numpy as np
import pytest

import autotx
from autotx import kernels
from autotx.models import GPT, GPTConfig, Llama, LlamaConfig, Transformer, TransformerConfig
from autotx.models.inference import pieces
from autotx.models.inference.pieces import Int8Matrix, Matrix, attend, new_cache
from autotx.models.transformer import PAD

T, V = 130, 60  # tokens: more than a block of keys in attention; 4 C is more than a piece of a matrix product's sum
ROWS = np.random.default_rng(0).integers(3, V, (3, T))
SOURCE = np.where(np.arange(9) < [[9], [4], [7]], ROWS[:, :9], PAD)


def same(found, expected):
    """To the bit where kernels make it; NumPy adds up otherwise for other shapes: there within 1e-5 of the largest."""
    if numba.config.DISABLE_JIT:
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    else:
        assert np.array_equal(found, expected)


def near(found, expected):
    """The bound of what pieces.py says of a reader and its model."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


ARCHITECTURES = {
    "gpt": lambda rng: GPT(GPTConfig(T, V, n_layer=2, n_head=4, n_embd=200), rng),
    "gpt without biases": lambda rng: GPT(GPTConfig(T, V, n_layer=1, n_head=2, n_embd=24, bias=False), rng),
    "llama": lambda rng: Llama(LlamaConfig(T, V, 2, 6, 2, 192, 520), rng),
    "qwen2": lambda rng: Llama(LlamaConfig(T, V, 1, 2, 2, 24, 36, bias=True, tied=False), rng),
    "transformer": lambda rng: Transformer(TransformerConfig(V, T, n_layer=2, n_head=4, n_embd=200), rng),
    "pre-norm": lambda rng: Transformer(TransformerConfig(V, T, 1, 2, 24, pre_norm=True, tied=False), rng),
}


@functools.cache
def made(name):
    """The model with weights far from zeros and ones."""
    rng = np.random.default_rng(1)
    model = ARCHITECTURES[name](rng)
    for p in model.parameters():
        p.data = (p.numpy() + 0.05 * rng.standard_normal(p.shape)).astype(np.float32)
    return model


def scores(model, matrix, rows, pieces):
    """What a reader of the first `rows` rows says after each token, (rows, T, V)."""
    if isinstance(model, Transformer):
        reader = model.reader(SOURCE[:rows], matrix=matrix)
    else:
        reader = model.reader(rows, matrix=matrix)
    read = [reader.scores(reader.read(part)) for part in np.split(ROWS[:rows], np.cumsum(pieces)[:-1], axis=1)]
    assert reader.length == T
    return np.concatenate(read, axis=1)


@functools.cache
def at_once(name, matrix):
    return scores(made(name), matrix, 3, [T])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("piece", [1, 2, 7, T])
@pytest.mark.parametrize("matrix", [Matrix, Int8Matrix])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_text_is_read_alike_however_it_is_cut(name, matrix, piece, rows, threads):
    expected, before = at_once(name, matrix), autotx.get_num_threads()
    autotx.set_num_threads(threads)
    try:
        same(scores(made(name), matrix, rows, [piece] * (T // piece) + [T % piece] * (T % piece > 0)), expected[:rows])
    finally:
        autotx.set_num_threads(before)


@pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="kernels are off")
@pytest.mark.parametrize("matrix", [Matrix, Int8Matrix])
@pytest.mark.parametrize("name", ["gpt", "gpt without biases", "llama", "qwen2"])
def test_launches_that_are_recorded_compute_what_python_launches(name, matrix, monkeypatch):
    """In a cache that grows, after going back, by readers that take turns, and for other numbers of rows."""
    monkeypatch.setattr(pieces, "FIRST", 8)
    *readers, by_python = (made(name).reader(2, matrix=matrix) for _ in range(3))
    by_python._record = lambda x: None
    for length in (9, 10, 11, 8, 9, 12, 16, 17, 18, 30, 31, 34, 35):
        for reader in (*readers, by_python):
            reader.rewind(length - 1)
        expected = by_python.read(ROWS[:2, by_python.length : length])
        for reader in readers:
            assert np.array_equal(reader.read(ROWS[:2, reader.length : length]), expected)
    assert {rows for rows, kept in readers[0].recorded.items() if kept} == {2, 6}
    one = made(name).reader(1, matrix=matrix)
    one.read(ROWS[:1, :1])
    one.repeat(2)
    assert not one.recorded


def test_only_readers_of_float32_record():
    model = ARCHITECTURES["gpt"](None).astype(np.float64)
    reader = model.reader()
    reader.read(ROWS[:1, :1])
    assert reader.recorded == {1: None}


@pytest.mark.parametrize("piece", [1, 7])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_cache_grows_with_what_is_read(name, piece, monkeypatch):
    expected = at_once(name, Matrix)
    monkeypatch.setattr(pieces, "FIRST", 4)
    same(scores(made(name), Matrix, 3, [piece] * (T // piece) + [T % piece] * (T % piece > 0)), expected)
    rows = {"source": SOURCE[:1]} if isinstance(made(name), Transformer) else {"rows": 1}
    reader = made(name).reader(**rows, size=100)
    for length, room in ((4, 4), (5, 8), (9, 16), (60, 60), (61, 100)):
        reader.read(ROWS[:1, reader.length : length])
        assert reader.cache[0].shape[4] == reader.cache[1].shape[3] == room


@pytest.mark.parametrize("matrix", [Matrix, Int8Matrix])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_reader_is_near_its_model(name, matrix):
    """With int8: the model whose matrices are rounded. What is no product of a layer, or looked up, stays as it is."""
    model = ARCHITECTURES[name](None)
    model.load_state_dict(made(name).state_dict())
    for parameter, p in model.named_parameters():
        if matrix is Int8Matrix and p.ndim == 2 and parameter != "wpe.weight" and not parameter.startswith("encoder"):
            p.data = Int8Matrix(p.numpy()).rows(np.arange(len(p)))
    with autotx.no_grad():
        if isinstance(model, Transformer):
            memory = made(name).encode(SOURCE)  # by the matrices as they are
            expected = model.scores(model.decode(memory, SOURCE, ROWS)).data
        else:
            expected = model(ROWS)[0].data
    near(at_once(name, matrix), expected)


@pytest.mark.parametrize("matrix", [Matrix, Int8Matrix])
@pytest.mark.parametrize("prompt", [1, 7, 20, 30])
@pytest.mark.parametrize("make", [GPT, Llama])
def test_beyond_the_context_the_last_tokens_are_read_at_once(make, matrix, prompt):
    config = GPTConfig(20, V, 2, 2, 24) if make is GPT else LlamaConfig(20, V, 2, 2, 1, 24, 40)
    model, found = make(config, np.random.default_rng(2)), []
    ids = ROWS[:2, :prompt]
    list(model.reader(matrix=matrix)._stream(ids, 30, lambda logits: found.append(logits) or logits.argmax(-1)))
    for logits in found:
        reader = model.reader(2, matrix=matrix)
        same(logits, reader.scores(reader.read(ids[:, -20:])[:, -1]))
        ids = np.column_stack([ids, logits.argmax(-1)])


@pytest.mark.parametrize("matrix", [Matrix, Int8Matrix])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_cannot_be_read(name, matrix):
    model = made(name)
    rows = {"source": SOURCE[:1]} if isinstance(model, Transformer) else {"rows": 1}
    reader = model.reader(**rows, size=2, matrix=matrix)
    for ids in ([[-1]], [[3, V]]):
        with pytest.raises(ValueError, match=rf"reader: id (-1|{V}) is out of range, there are {V} tokens, from 0"):
            reader.read(np.array(ids))
    reader.read(np.array([[3]]))
    with pytest.raises(ValueError, match="reader: 3 tokens are more than the 2 it has room for"):
        reader.read(np.array([[4, 5]]))
    assert reader.length == 1
    with pytest.raises(ValueError, match=f"reader: {T + 1} tokens are more than the {T} it has room for"):
        model.reader(**rows, size=2 * T).read(np.full((1, T + 1), 3))


@pytest.mark.parametrize("T", [1, 6])
def test_heads_that_share_keys_and_values(T, rng):
    """As if each had a copy of them."""
    q, k, v = (rng.standard_normal((2, heads, T, 8), np.float32) for heads in (6, 2, 2))
    [keys], [values] = new_cache(1, 2, 2, 9, 8, np.float32)
    keys[...], values[...] = rng.standard_normal((2, 2, 8, 9)), rng.standard_normal((2, 2, 9, 8))
    many = [np.repeat(x, 3, axis=1) for x in (k, v, keys, values)]
    same(attend(q, k, v, keys, values, 3), attend(q, *many, 3))
    same(many[2], np.repeat(keys, 3, axis=1))


@pytest.mark.parametrize("rows", [1, 4, 9])
def test_one_launch_for_norm_product_and_residual_gives_what_several_give(rows, rng):
    x, weight, up = (rng.standard_normal(s, np.float32) for s in ((rows, 900), (140, 900), (140, 900)))
    gamma, onto = rng.standard_normal(900, np.float32), rng.standard_normal((rows, 140), np.float32)
    norm = gamma, 1e-5
    normed = kernels.rmsnorm.rms_norm(x, *norm)[0]
    for form in (np.asarray, kernels.codes.Coded.rounded):
        matrix, other = form(weight), form(up)
        expected, to = kernels.linear.linear(normed, matrix), onto.copy()
        assert kernels.linear.linear(x, matrix, norm=norm, onto=to) is to
        near(to, onto + expected)
        found = kernels.linear.gated(x, matrix, other, norm)
        near(found, kernels.silu.swiglu(expected, kernels.linear.linear(normed, other)))

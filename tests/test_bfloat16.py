"""Products in bfloat16: every tile against the float32 product of rounded factors, autocast, and which tile is used."""

import os
import re
import subprocess
import sys
import threading

import numba
import numpy as np
import pytest
from test_attention import inputs
from test_gemm import LAYOUTS, _check_threads

import autotx
from autotx import Tensor, nn
from autotx.kernels import attention, gemm, mixed, simd
from autotx.kernels.bfloat16 import rounded
from autotx.models import GPT, GPTConfig

needs_jit = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="kernels are off")
every_tile = pytest.mark.parametrize("name", mixed._that_run())


@pytest.fixture(autouse=True)
def _no_product_is_small(monkeypatch):
    """Send every product through the kernels, and forget which tile was asked for."""
    monkeypatch.setattr(gemm, "SMALL", 0)
    monkeypatch.setattr(mixed, "_used", [])


def _matrix(rng, *shape):
    return rng.standard_normal(shape, dtype=np.float32)


def _exact(a, b):
    """The product of the rounded factors, in float64."""
    return rounded(a).astype(np.float64) @ rounded(b).astype(np.float64)


def _check(out, a, b, plus=0.0):
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, _exact(a, b) + plus, rtol=0, atol=1e-6 * max(1, a.shape[-1]))


def test_rounding_is_to_nearest_and_ties_go_to_even():
    one, bits = np.float32(1), 2.0**-7  # the distance of the numbers after 1
    given = [one, one + bits / 2, one + 1.01 * bits / 2, one + 3 * bits / 2, -one - bits / 2, np.inf, -np.inf, np.nan]
    wanted = [one, one, one + bits, one + 2 * bits, -one, np.inf, -np.inf, np.nan]
    np.testing.assert_array_equal(rounded(np.array(given, np.float32)), np.array(wanted, np.float32))
    assert rounded(np.array([3.4e38], np.float32)) == np.inf  # beyond the largest, 3.39e38
    assert rounded(np.array([1 / 3])) == 1 / 3  # float64 stays


@every_tile
def test_a_tile_rounds_as_numpy_does(name):
    rng, tile = np.random.default_rng(0), mixed._tile(name)
    x, one = _matrix(rng, 70, 50) * np.float32(2) ** rng.integers(-80, 80, (70, 50)), np.eye(50, dtype=np.float32)
    x[:10, 0] = 1 + np.arange(10) * np.float32(2.0**-9)  # halfway between two numbers, and elsewhere
    x = x.astype(np.float32)
    np.testing.assert_array_equal(gemm.matmul(x, one, tile=tile), rounded(x))
    np.testing.assert_array_equal(gemm.matmul(one[:, :50], x[:50], tile=tile), rounded(x[:50]))


@every_tile
@pytest.mark.parametrize("M", [1, 33, 130])
@pytest.mark.parametrize("N", [1, 64, 67])
@pytest.mark.parametrize("K", [1, 32, 71, 1000])
def test_products_of_every_shape(name, M, N, K):
    rng, tile = np.random.default_rng(M + 100 * N + 10_000 * K), mixed._tile(name)
    a, b, bias = _matrix(rng, M, K), _matrix(rng, K, N), _matrix(rng, N)
    _check(gemm.matmul(a, b, bias=bias, tile=tile), a, b, bias)
    _check(gemm.matmul(np.asfortranarray(a), np.asfortranarray(b), tile=tile), a, b)
    whole = np.full((M, N + 4), 7, np.float32)
    gemm.matmul(a, b, whole[:, 2:-2], accumulate=True, tile=tile)
    _check(np.ascontiguousarray(whole[:, 2:-2]), a, b, 7.0)
    assert (whole[:, :2] == 7).all()
    assert (whole[:, -2:] == 7).all()


@every_tile
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts_and_gradients(name, layout):
    rng, tile = np.random.default_rng(1), mixed._tile(name)
    g, x, weight = (layout(_matrix(rng, *shape)) for shape in ((100, 45), (100, 70), (45, 70)))
    _check(gemm.matmul(x, weight.T, tile=tile), x, weight.T)
    dx, dweight, dbias = gemm.linear_backward(g, x, weight, with_bias=True, tile=tile)
    _check(dx, g, weight)
    _check(dweight, g.T, x)
    np.testing.assert_allclose(dbias, g.sum(axis=0), rtol=0, atol=1e-4)  # not rounded


@every_tile
def test_nan_and_infinite(name):
    a, b = np.ones((40, 70), np.float32), np.ones((70, 50), np.float32)
    a[3, 4], b[5, 6] = np.nan, np.inf
    out = gemm.matmul(a, b, tile=mixed._tile(name))
    assert np.isnan(out[3]).all()
    assert np.isinf(np.delete(out[:, 6], 3)).all()
    assert np.isfinite(np.delete(np.delete(out, 3, axis=0), 6, axis=1)).all()


@every_tile
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    "shape", [(2, 3, 64, 64, 32), (2, 2, 65, 7, 100), (1, 2, 3, 9, 8), (1, 1, 257, 257, 64)], ids=str
)
def test_attention(name, shape, causal):
    """Weights are rounded before the division by their sum in kernels and after it in the twin: they differ by a
    rounding of bfloat16, 1 / 256, and so do the results."""
    g, q, k, v = inputs(np.random.default_rng(sum(shape)), *shape)
    mask = np.random.default_rng(0).random(shape[2:4]) > 0.2
    tile = mixed._tile(name)
    out, lse = attention.attention(q, k, v, mask, causal, tile=tile)
    found = out, *attention.attention_backward(g, q, k, v, out, lse, mask, causal, tile=tile)
    out, _ = attention._attention_twin(q, k, v, mask, causal, None, tile.product)
    wanted = out, *attention._attention_backward_twin(g, q, k, v, out, mask, causal, None, tile.product)
    for a, b in zip(found, wanted):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=0, atol=0.01 * np.abs(b).max())
    if len(mixed._that_run()) > 1:  # all tiles round the same numbers
        out, lse = attention.attention(q, k, v, mask, causal, tile=mixed._tile("float32"))
        np.testing.assert_allclose(found[0], out, rtol=0, atol=1e-4 + 4e-3 * (shape[3] > 100))


@needs_jit
@every_tile
def test_results_do_not_depend_on_the_threads(name):
    rng, tile = np.random.default_rng(7), mixed._tile(name)
    g, x, weight = _matrix(rng, 300, 200), _matrix(rng, 300, 900), _matrix(rng, 200, 900)
    q, k, v = (_matrix(rng, 1, 3, 150, 24) for _ in range(3))

    def compute():
        out, lse = attention.attention(q, k, v, causal=True, tile=tile)
        backward = attention.attention_backward(out, q, k, v, out, lse, causal=True, tile=tile)
        return [gemm.matmul(x, weight.T, tile=tile), *gemm.linear_backward(g, x, weight, tile=tile)[:2], out, *backward]

    _check_threads(compute)


# ---- autocast ---------------------------------------------------------------------------------------------------


def test_autocast_rounds_the_factors_of_products_and_nothing_else():
    rng = np.random.default_rng(0)
    x, w, b = (Tensor(_matrix(rng, *shape), requires_grad=True) for shape in ((40, 30), (20, 30), (20,)))
    with autotx.autocast("bfloat16"):
        y, z, outer = autotx.linear(x, w, b), x @ w.T, autotx.einsum("ij,kj->ik", x, w)
        with autotx.autocast("float32"):
            plain = x @ w.T
    _check(y.data, x.data, w.data.T, b.data)
    _check(z.data, x.data, w.data.T)
    for exact in (plain, outer):
        np.testing.assert_allclose(exact.data, x.data @ w.data.T, rtol=0, atol=2e-5)
    g = _matrix(rng, 40, 20)
    y.backward(g)  # outside: rounded as the products of the forward pass
    _check(x.grad, g, w.data)
    _check(w.grad, g.T, x.data)
    np.testing.assert_allclose(b.grad, g.sum(axis=0), rtol=0, atol=1e-5)
    x.grad = w.grad = None
    z.backward(g)
    _check(x.grad, g, w.data)
    _check(w.grad, g.T, x.data)
    assert autotx.modes.modes.dtype == "float32"


def test_autocast_leaves_float64_alone():
    x = Tensor(np.random.default_rng(0).standard_normal((5, 6)), requires_grad=True)
    with autotx.autocast("bfloat16"):
        np.testing.assert_array_equal((x @ x.T).data, x.data @ x.data.T)
        np.testing.assert_array_equal((x @ np.ones((6, 2), np.float32)).data, x.data @ np.ones((6, 2)))
        assert autotx.gradcheck(lambda x: autotx.scaled_dot_product_attention(x, x @ x.T @ x, x), x)


def test_the_loss_of_a_large_vocabulary():
    rng = np.random.default_rng(0)
    x, w = (Tensor(_matrix(rng, *shape), requires_grad=True) for shape in ((50, 30), (70, 30)))
    ids = rng.integers(0, 70, 50)
    with autotx.autocast("bfloat16"):
        whole = autotx.cross_entropy(autotx.linear(x, w), ids)
        pieces = autotx.linear_cross_entropy(x, w, ids)
    assert pieces.item() == pytest.approx(whole.item(), rel=1e-6)
    found = []
    for loss in (whole, pieces):
        x.grad = w.grad = None
        loss.backward()
        found.append((x.grad, w.grad))
    for a, b in zip(*found):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def test_autocast_of_functions_threads_and_wrong_types():
    dtype = lambda: autotx.modes.modes.dtype  # noqa: E731

    @autotx.autocast("bfloat16")
    def plain():
        return dtype()

    @autotx.autocast("bfloat16")
    def steps():
        yield dtype()
        yield dtype()

    found, running = [], steps()
    assert plain() == next(running) == "bfloat16"
    assert dtype() == "float32"
    assert next(running) == "bfloat16"
    with autotx.autocast("bfloat16"):
        thread = threading.Thread(target=lambda: found.append(dtype()))
        thread.start()
        thread.join()
    assert found == ["float32"]
    with pytest.raises(ValueError, match="autocast: dtype is 'float16'; give 'float32' or 'bfloat16'"):
        autotx.autocast("float16")


def test_what_is_computed_again_is_rounded_again():
    rng = np.random.default_rng(0)
    net = nn.Sequential(nn.Linear(30, 70, rng=rng), nn.GELU(), nn.Linear(70, 30, rng=rng))
    x, found = Tensor(_matrix(rng, 40, 30), requires_grad=True), []
    for call in (net, lambda x: autotx.recompute(net, x)):
        x.zero_grad()
        net.zero_grad()
        with autotx.autocast("bfloat16"):
            loss = (call(x) ** 2).sum()
        loss.backward()
        found.append([x.grad, *(p.grad for p in net.parameters())])
    for a, b in zip(*found):
        np.testing.assert_array_equal(a, b)


def _step(model, ids, targets, dtype):
    model.zero_grad()
    with autotx.autocast(dtype):
        _, loss = model(ids, targets)
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters()}


@every_tile
def test_the_gradients_of_a_whole_step(name, monkeypatch):
    """Those of float32 but for the rounding of bfloat16, and those of the same step in NumPy."""
    assert mixed.use(name)
    rng = np.random.default_rng(0)
    model = GPT(GPTConfig(block_size=40, vocab_size=30, n_layer=2, n_head=2, n_embd=64), rng=rng)
    ids, targets = rng.integers(0, 30, (2, 3, 40))
    exact_loss, exact = _step(model, ids, targets, "float32")
    loss, found = _step(model, ids, targets, "bfloat16")
    monkeypatch.setattr(gemm, "SMALL", 1 << 60)
    monkeypatch.setattr(attention, "_use_kernel", lambda *_: False)
    numpy_loss, numpys = _step(model, ids, targets, "bfloat16")
    assert loss == pytest.approx(exact_loss, rel=1e-3) == numpy_loss
    for name, g in found.items():
        size = np.linalg.norm(exact[name])
        assert 1e-5 * size < np.linalg.norm(g - exact[name]) < 0.03 * size, name
        assert np.linalg.norm(g - numpys[name]) < 0.03 * size, name


# ---- which tile -------------------------------------------------------------------------------------------------


def test_the_tile_that_is_asked_for_is_used_where_it_can_be():
    names = mixed._that_run()
    assert mixed.name() in names
    assert not mixed.use("abacus")
    for name in names:
        assert mixed.use(name)
        assert mixed.name() == name
        with autotx.autocast("bfloat16"):
            assert mixed.tile() is mixed._tile(name)
    assert mixed.tile() is simd.PRODUCT_TILE


def _python(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_jit
@pytest.mark.skipif(len(mixed._that_run()) < 2, reason="there is nothing to choose from")
def test_the_choice_is_measured_once_and_kept(tmp_path):
    code = """
from autotx.kernels import mixed
measured = []
mixed._seconds = lambda tile: measured.append(type(tile).__name__) or len(measured)
print(mixed.name(), len(measured))
"""
    first, again = (_python(code, NUMBA_CACHE_DIR=str(tmp_path)).split() for _ in range(2))
    assert first == [mixed._that_run()[0], str(len(mixed._that_run()))]  # the first took least, by this clock
    assert again == [first[0], "0"]


COMPILED = """
from autotx.kernels import jit, {module}
from autotx.kernels.{module} import {tile}
{tile}()
path = jit.Path({multiply}.__code__.co_filename)
compiled = [compiled for name, compiled in jit._waiting[path] if "{name}" in name and "multiply" in name][-1]
compiled.compile()
print(compiled._library.get_asm_str())
"""


def _compiled_for(cpu, features, folder, **names):
    """The assembly text of a tile's `multiply`, for a processor that need not be this one."""
    features = f"+avx512f,+avx512bw,+avx512vl,+avx512dq,+avx512bf16,+avx2,+fma{features}"
    there = {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": str(folder)}
    return _python(COMPILED.format(**names), **there)


@needs_jit
@pytest.mark.skipif("avx2" not in simd.host_features(), reason="no x86")
def test_the_tile_of_amx_is_compiled_to_its_instructions(tmp_path):
    """Also on a processor without them, where nothing runs it."""
    names = {"module": "amx", "tile": "amx_tile", "multiply": "amx._multiply", "name": "AmxTile"}
    text = _compiled_for("sapphirerapids", ",+amx-tile,+amx-bf16", tmp_path, **names)
    for instruction, count in {
        "ldtilecfg": 1,
        "tdpbf16ps": 8,
        "tileloadd": 16,
        "tilestored": 8,
        "tilerelease": 1,
    }.items():
        assert text.count(f"\t{instruction}\t") + text.count(f"\t{instruction}\n") >= count, instruction


@needs_jit
@pytest.mark.skipif("avx2" not in simd.host_features(), reason="no x86")
def test_the_sums_of_the_tile_of_avx512_bf16_stay_in_registers(tmp_path):
    """While the loop over the depth runs, for every height of the tile."""
    names = {"module": "bfloat16", "tile": "dot_tile", "multiply": "bfloat16.simd._multiply", "name": "DotTile"}
    text = _compiled_for("znver4", "", tmp_path, **names)
    loops = [loop for loop in _loops(text) if "vdpbf16ps" in loop]
    assert len(loops) >= 3
    for loop in loops:
        assert not re.search(r"vmov\w+\t.*zmm.*\(%rsp\)|vmov\w+\t.*\(%rsp\), %zmm", loop), loop


def _loops(text):
    """The loops of an assembly text that are one block: from a label to a jump back to it."""
    for block in re.split(r"^(?=\.LBB)", text, flags=re.M):
        label, _, rest = block.partition(":")
        if loop := re.match(rf".*\tj\w+\t{re.escape(label)}$", rest, re.M | re.S):
            yield loop[0]

"""The matrix product against NumPy in float64: shapes around the tile's edges, layouts, stacks, threads, processors."""

import contextlib
import gc
import os
import pickle
import subprocess
import sys
from itertools import product

import numba
import numpy as np
import pytest
from numba import types

from autotx.kernels import gelu, gemm, jit, launches, simd, threads
from autotx.kernels.gemm import matmul
from autotx.kernels.simd import FLOAT32_TILE
from autotx.kernels.simd import PRODUCT_TILE as TILE

ROWS, COLS, LANES = TILE.rows, TILE.cols, TILE.lanes
FLOAT64_DEEP = simd.SimdTile(np.dtype(np.float64), LANES // 2, 6, LANES, depth=384)
needs_jit = pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="kernels are off")


@pytest.fixture(autouse=True)
def _no_product_is_small(monkeypatch):
    """Send every product through the kernels."""
    monkeypatch.setattr(gemm, "SMALL", 0)


def _matrix(rng, *shape):
    return rng.standard_normal(shape, dtype=np.float32)


def _check(out, a, b, plus=0.0):
    """`out` against the product in float64, within a few roundings of a sum of K products."""
    want = np.matmul(a.astype(np.float64), b.astype(np.float64)) + plus
    assert out.shape == want.shape
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, want, rtol=0, atol=1e-6 * max(1, a.shape[-1]))


LAYOUTS = {
    "plain": lambda x: x,
    "transposed": np.asfortranarray,
    "every second column": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "piece of a larger one": lambda x: np.pad(x, ((1, 2), (3, 1)))[1:-2, 3:-1],
    "reversed": lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
    "rows reversed": lambda x: x[::-1].copy()[::-1],
}


@pytest.mark.parametrize("M", [1, 2, ROWS - 1, ROWS, ROWS + 1, 61])
@pytest.mark.parametrize("N", [1, COLS - 1, COLS, COLS + 1, 67])
@pytest.mark.parametrize("K", [1, 2, 17, 71])
def test_shapes_around_the_tile(M, N, K):
    rng = np.random.default_rng(M + 100 * N + 10_000 * K)
    a, b = _matrix(rng, M, K), _matrix(rng, K, N)
    _check(matmul(a, b), a, b)
    _check(matmul(np.asfortranarray(a), np.asfortranarray(b)), a, b)


@pytest.mark.parametrize(("a_layout", "b_layout"), list(product(LAYOUTS, LAYOUTS)))
def test_layouts(a_layout, b_layout):
    rng = np.random.default_rng(0)
    a, b = _matrix(rng, 2 * ROWS + 3, 50), _matrix(rng, 50, COLS + 7)
    _check(matmul(LAYOUTS[a_layout](a), LAYOUTS[b_layout](b)), a, b)


@pytest.mark.parametrize(("M", "N", "K"), [(0, 3, 4), (3, 0, 4), (3, 4, 0), (0, 0, 0), (40, 50, 0)])
def test_empty(M, N, K):
    a, b, bias = np.ones((M, K), np.float32), np.ones((K, N), np.float32), np.full(N, 2, np.float32)
    np.testing.assert_array_equal(matmul(a, b), np.zeros((M, N)))
    np.testing.assert_array_equal(matmul(a, b, bias=bias), np.full((M, N), 2.0))
    np.testing.assert_array_equal(matmul(a, b, np.ones((M, N), np.float32), accumulate=True), np.ones((M, N)))


def test_more_than_one_block_of_each_axis():
    rng = np.random.default_rng(1)
    M, N, K = 2 * TILE.strip * ROWS + 1, TILE.width + 3, 2 * TILE.depth + 5
    a, b, bias = _matrix(rng, M, K), _matrix(rng, K, N), _matrix(rng, N)
    for layout in (LAYOUTS["plain"], LAYOUTS["transposed"]):
        _check(matmul(layout(a), layout(b), bias=bias), a, b, bias)


@needs_jit
def test_rows_that_are_read_as_they_lie_have_the_bits_of_packed_ones():
    """Also by the tile that packs A for each of its positions: the order of a sum depends on K alone."""
    rng = np.random.default_rng(14)
    a, b = _matrix(rng, TILE.strip * ROWS + 5, 400), _matrix(rng, 400, COLS + 9)
    variants = product(LAYOUTS.values(), (TILE, FLOAT32_TILE))
    assert len({gemm.matmul(layout(a), b, tile=tile).tobytes() for layout, tile in variants}) == 1


ACTIVATIONS = {
    None: lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "gelu": gelu.gelu,  # in float64 NumPy computes it
    "gelu_tanh": lambda x: gelu.gelu(x, "tanh"),
}


@pytest.mark.parametrize("M", [1, gemm.FEW_ROWS, gemm.FEW_ROWS + 1, 40])
@pytest.mark.parametrize("transposed", [False, True])
def test_bias_and_accumulate(M, transposed):
    rng = np.random.default_rng(2)
    a, bias = _matrix(rng, M, 45), _matrix(rng, 150)
    b = _matrix(rng, 150, 45).T if transposed else _matrix(rng, 45, 150)
    _check(matmul(a, b, bias=bias), a, b, bias)
    _check(matmul(a, b, bias=np.repeat(bias, 2)[::2]), a, b, bias)
    out = np.full((M, 150), 3, np.float32)
    assert matmul(a, b, out, accumulate=True) is out
    _check(out, a, b, 3.0)
    assert matmul(a, b, out, accumulate=True, bias=bias) is out
    _check(out - matmul(a, b), a, b, 3.0 + bias)


@pytest.mark.parametrize(("M", "N", "K"), [(1, 150, 45), (3 * ROWS + 2, COLS + 3, 45), (61, 67, TILE.depth + 9)])
@pytest.mark.parametrize(("activation", "f"), ACTIVATIONS.items())
def test_activation(M, N, K, activation, f):
    rng = np.random.default_rng(9)
    a, b, bias = _matrix(rng, M, K), _matrix(rng, N, K).T, _matrix(rng, N)
    want = f(np.matmul(a.astype(np.float64), b.astype(np.float64)) + bias)
    whole = np.full((M, N + 4), 7, np.float32)
    matmul(a, b, whole[:, 2:-2], bias=bias, activation=activation)
    np.testing.assert_allclose(whole[:, 2:-2], want, rtol=0, atol=1e-6 * K)
    assert (whole[:, :2] == 7).all()
    assert (whole[:, -2:] == 7).all()
    a[0, 0] = np.nan
    assert np.isnan(matmul(a, b, activation=activation)[0]).all()


def test_into_a_piece_of_an_array_and_nowhere_else():
    rng = np.random.default_rng(3)
    a, b = _matrix(rng, ROWS + 2, 33), _matrix(rng, 33, COLS + 5)
    whole = np.full((a.shape[0] + 2, b.shape[1] + 4), 7, np.float32)
    piece = whole[1:-1, 2:-2]
    _check(matmul(a, b, piece), a, b)
    piece[...] = 7
    np.testing.assert_array_equal(whole, np.full_like(whole, 7))


@pytest.mark.parametrize("lead", [(1,), (5,), (2, 3), (0,)])
def test_stacks(lead):
    rng = np.random.default_rng(4)
    a, b = _matrix(rng, *lead, 20, 30), _matrix(rng, *lead, 30, 40)
    _check(matmul(a, b), a, b)
    a_t, b_t = (np.swapaxes(np.swapaxes(x, -1, -2).copy(), -1, -2) for x in (a, b))
    out = np.ones((*lead, 20, 40), np.float32)
    _check(matmul(a_t, b_t, out, accumulate=True), a, b, 1.0)
    same = np.broadcast_to(_matrix(rng, 30, 40), b.shape)
    _check(matmul(a, same), a, same)


def test_read_only_and_unaligned_arguments():
    rng = np.random.default_rng(5)
    a, b = _matrix(rng, 20, 30), _matrix(rng, 30, 40)
    unaligned = np.zeros(a.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(a.shape)
    unaligned[...] = a
    a.flags.writeable = b.flags.writeable = False
    _check(matmul(a, b), a, b)
    _check(matmul(unaligned, b), a, b)


def test_other_types_are_numpys():
    rng = np.random.default_rng(6)
    a, b = rng.standard_normal((20, 30)), rng.standard_normal((30, 40))
    np.testing.assert_array_equal(matmul(a, b), a @ b)
    assert matmul(a.astype(np.float32), b).dtype == np.float64


def test_nan_and_infinite():
    a, b = np.ones((20, 30), np.float32), np.ones((30, 40), np.float32)
    a[3, 4], b[5, 6] = np.nan, np.inf
    out = matmul(a, b)
    assert np.isnan(out[3]).all()
    assert np.isinf(np.delete(out[:, 6], 3)).all()
    assert np.isfinite(np.delete(np.delete(out, 3, axis=0), 6, axis=1)).all()


def test_wrong_shapes():
    a, b = np.ones((2, 3), np.float32), np.ones((4, 5), np.float32)
    with pytest.raises(ValueError, match=r"matmul: shapes \(2, 3\) and \(4, 5\); give"):
        matmul(a, b)
    with pytest.raises(ValueError, match=r"matmul: shapes \(2, 3\) and \(3, 5\) into \(2, 4\); give"):
        matmul(a, b[:3], np.empty((2, 4), np.float32))
    with pytest.raises(ValueError, match=r"matmul: shapes \(1, 2, 3\) and \(3, 5\); give"):
        matmul(a[None], b[:3])
    with pytest.raises(ValueError, match="matmul: accumulate adds to what is in `out`"):
        matmul(a, b[:3], accumulate=True)


def _check_threads(compute):
    """compute() returns arrays: the same for any number of threads, and again."""
    before, results = threads.get_num_threads(), []
    try:
        for n in range(1, min(4, numba.config.NUMBA_NUM_THREADS) + 1):
            threads.set_num_threads(n)
            results += [compute(), compute()]
    finally:
        threads.set_num_threads(before)
    for result in results[1:]:
        for array, first in zip(result, results[0], strict=True):
            np.testing.assert_array_equal(array, first)


@needs_jit
@pytest.mark.parametrize(("M", "N", "K"), [(1, 300, 200), (100, 300, 800), (500, 40, 90)])
def test_the_same_bits_for_any_number_of_threads(M, N, K):
    rng = np.random.default_rng(7)
    a, b = _matrix(rng, M, K), _matrix(rng, K, N)
    _check_threads(lambda: [matmul(a, b)])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("N", "O", "I"),
    [(1, 1, 1), (ROWS + 3, COLS + 1, 5), (61, 3 * ROWS, 2 * COLS), (2 * TILE.depth + 7, 40, TILE.width + 9), (0, 3, 4)],
)
def test_linear_backward(N, O, I, layout):
    rng = np.random.default_rng(10)
    g, x, weight = (LAYOUTS[layout](_matrix(rng, *shape)) for shape in ((N, O), (N, I), (O, I)))
    dx, dweight, dbias = gemm.linear_backward(g, x, weight, with_bias=True)
    _check(dx, g, weight)
    _check(dweight, g.T, x)
    _check(dbias[:, None], g.T, np.ones((N, 1)))
    for wanted in product([False, True], repeat=3):
        for d, all_of_it, is_wanted in zip(gemm.linear_backward(g, x, weight, *wanted), (dx, dweight, dbias), wanted):
            if is_wanted:
                np.testing.assert_allclose(d, all_of_it, rtol=0, atol=1e-6 * max(1, N))
            else:
                assert d is None


def test_linear_backward_of_two_types():
    rng = np.random.default_rng(12)
    g, x, weight = _matrix(rng, 50, 40), _matrix(rng, 50, 30), _matrix(rng, 40, 30)
    dx, dweight, dbias = gemm.linear_backward(g, x, weight.astype(np.float64), with_bias=True)
    np.testing.assert_array_equal(dx, g @ weight.astype(np.float64))
    _check(dweight, g.T, x)
    _check(dbias[:, None], g.T, np.ones((50, 1)))


@needs_jit
def test_a_bias_gets_the_sum_of_many_rows_right():
    rng = np.random.default_rng(13)
    g, x, weight = 1 + _matrix(rng, 20_000, 40), _matrix(rng, 20_000, 3), _matrix(rng, 40, 3)
    _, _, dbias = gemm.linear_backward(g, x, weight, with_bias=True)
    np.testing.assert_allclose(dbias, g.sum(axis=0, dtype=np.float64), rtol=1e-6)


@needs_jit
@pytest.mark.parametrize(("N", "O", "I"), [(100, 300, 80), (900, 40, 600)])
def test_linear_backward_has_the_same_bits_for_any_number_of_threads(N, O, I):
    rng = np.random.default_rng(11)
    g, x, weight = _matrix(rng, N, O), _matrix(rng, N, I), _matrix(rng, O, I)
    _check_threads(lambda: gemm.linear_backward(g, x, weight, with_bias=True))


SHAPES = [(1, 768, 384, 128), (1, 1, 1, 1), (48, 64, 64, 32), (2, 5000, 9, 7)]


@pytest.mark.parametrize("n", [1, 2, 3, 8, 64])
@pytest.mark.parametrize(("stack", "M", "N", "K"), SHAPES)
def test_blocks_cover_whole_tiles(n, stack, M, N, K):
    m_block, n_block, k_block = gemm._blocks(TILE, stack, M, N, K, n)
    assert m_block % ROWS == n_block % COLS == k_block % LANES == 0
    assert 0 < n_block <= max(TILE.width, COLS)
    assert 0 < k_block <= TILE.depth
    assert k_block == gemm._blocks(TILE, 1, 1, 1, K, 1)[2]  # the order of a sum depends on K alone


# ---- packing and processors -------------------------------------------------------------------------------------


@launches.shared_by_tile(lambda tile: (tile.array(2, readonly=True), types.intp, tile.array(1, "C"), types.intp))
@jit.kernel
def pack(tile, x, width, panels, at, worker, task):
    tile.pack(tile, x, width, panels, at)


@needs_jit
@pytest.mark.parametrize("width", [ROWS, FLOAT32_TILE.rows, COLS, TILE.strip * ROWS])
@pytest.mark.parametrize("lines", [1, ROWS, COLS + 1, 3 * COLS + 5])
def test_pack(width, lines):
    rng = np.random.default_rng(8)
    for depth, layout in product([1, LANES, LANES + 1, 50], LAYOUTS.values()):
        x = layout(_matrix(rng, lines, depth))
        size, count = TILE.panel_size(TILE, width, depth), -(-lines // width)
        panels = np.full(5 + count * size + 5, 7, np.float32)
        pack(TILE, 1, x, width, panels, 5)
        for p in range(count):
            part = x[p * width : (p + 1) * width]
            panel = panels[5 + p * size :][: width * depth].reshape(depth, width)
            np.testing.assert_array_equal(panel[:, : len(part)], part.T)
            np.testing.assert_array_equal(panel[:, len(part) :], 0)
        assert (panels[:5] == 7).all()
        assert (panels[-5:] == 7).all()


def test_tile_shapes():
    assert simd.tile_shape({"avx512f", "avx2", "fma"}) == (16, 14, 32)
    assert simd.tile_shape({"avx2", "fma"}) == (8, 6, 16)
    assert simd.tile_shape({"neon"}) == (4, 14, 8)
    assert simd.tile_shape(set()) == (4, 6, 8)
    assert simd.tile_shape({"avx512f", "avx2", "fma"}, wide=True) == (16, 6, 64)
    assert simd.tile_shape({"avx2", "fma"}, wide=True) == (8, 6, 16)
    assert simd.tile_shape({"neon"}, wide=True) == (4, 6, 16)


@needs_jit
@pytest.mark.parametrize("number", [np.float32, np.float64])
def test_two_tiles_in_one_process(number):
    """A second tile, of half the lanes and other blocks, or of another number type, beside that of float32."""
    number = np.dtype(number)
    lanes = max(2, LANES * 4 // number.itemsize // 2)
    other = simd.SimdTile(number, lanes, 6, 2 * lanes, depth=96, width=8 * lanes)
    rng = np.random.default_rng(5)
    for M, N, K in [(70, 90, 110), (13, 37, 250), (3, 200, 20)]:
        a, b = rng.standard_normal((M, K)), rng.standard_normal((K, N))
        for tile in (other, FLOAT32_TILE, other):
            x, y = a.astype(tile.number), b.astype(tile.number)
            found = matmul(x, y, np.empty((M, N), tile.number), tile=tile)
            expected = x.astype(np.float64) @ y
            np.testing.assert_allclose(found, expected, rtol=0, atol=64 * np.finfo(tile.number).eps * K)
    assert other is not FLOAT32_TILE
    assert other.type != FLOAT32_TILE.type


@needs_jit
@pytest.mark.parametrize("number", [np.float32, np.float64])
def test_another_tile_has_biases_activations_and_gradients(number):
    tile = simd.SimdTile(np.dtype(number), LANES // 2, 6, LANES, depth=96)
    rng, close = np.random.default_rng(7), {"rtol": 0, "atol": 3000 * np.finfo(number).eps}
    a, b, bias, old = (rng.standard_normal(shape).astype(number) for shape in ((70, 110), (110, 90), 90, (70, 90)))
    plain = a.astype(np.float64) @ b
    np.testing.assert_allclose(
        matmul(a, b, bias=bias, activation="relu", tile=tile), np.maximum(plain + bias, 0), **close
    )
    np.testing.assert_allclose(matmul(a, b, old.copy(), True, bias, tile=tile), old + plain + bias, **close)
    np.testing.assert_allclose(matmul(a[:3], b.T.copy().T, bias=bias, tile=tile), plain[:3] + bias, **close)
    g, weight = rng.standard_normal((70, 90)).astype(number), b.T.copy()
    dx, dweight, dbias = gemm.linear_backward(g, a, weight, with_bias=True, tile=tile)
    for found, expected in ((dx, g @ weight), (dweight, g.T @ a), (dbias, g.sum(axis=0))):
        assert found.dtype == number
        np.testing.assert_allclose(found, expected, **close)


@needs_jit
def test_the_kernels_of_a_tile_are_its_own():
    """A product by a tile of float64 has float64's precision, so NumPy did not compute it in another way."""
    other = simd.SimdTile(np.dtype(np.float64), LANES // 2, 6, LANES, depth=48)
    rng = np.random.default_rng(6)
    a, b = rng.standard_normal((40, 130)), rng.standard_normal((130, 50))
    bits = {tile.depth: matmul(a, b, np.empty((40, 50)), tile=tile).tobytes() for tile in (other, FLOAT64_DEEP)}
    assert len(set(bits.values())) == 2  # sums are cut by the depth of the tile's blocks


OTHER_PROCESSOR = """
import numpy as np
from autotx.kernels import gemm
from autotx.kernels.simd import FLOAT32_TILE as tile
rng = np.random.default_rng(0)
for M, N, K in [(70, 90, 110), (13, 17, 400), (1, 99, 55)]:
    a, b = rng.standard_normal((M, K), dtype=np.float32), rng.standard_normal((K, N), dtype=np.float32)
    gemm.SMALL = 0
    for x, y in [(a, b), (np.asfortranarray(a), np.asfortranarray(b))]:
        np.testing.assert_allclose(gemm.matmul(x, y), a.astype(float) @ b.astype(float), atol=1e-6 * K)
print(tile.lanes, tile.rows, tile.cols)
"""


def _python(code, **environment):
    """Run code in a process of its own and return what it printed, and said on stderr."""
    environment = {name: value for name, value in environment.items() if value is not None}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr


def _x86():
    return "avx2" in simd.host_features()


@needs_jit
@pytest.mark.skipif(not _x86(), reason="no AVX2 here")
def test_avx2():
    """The tile of a processor without AVX-512, on one that may have it."""
    shape, _ = _python(OTHER_PROCESSOR, NUMBA_CPU_NAME="haswell", NUMBA_CPU_FEATURES="+avx,+avx2,+fma,+sse4.2")
    assert shape == "8 6 16"


@needs_jit
def test_kept_kernels_are_found_again(tmp_path):
    code = "import numpy; from autotx import kernels; x = numpy.ones((400, 100), 'f'); print(kernels.add(x, x))"
    first, said = _python(code, NUMBA_CACHE_DIR=str(tmp_path))
    assert f"autotx: compiling kernels (once; kept in {tmp_path / 'autotx'})\n" == said
    kept = list((tmp_path / "autotx").iterdir())
    assert _python(code, NUMBA_CACHE_DIR=str(tmp_path)) == (first, "")
    for path in kept:
        path.write_bytes(path.read_bytes()[:-1])  # damaged: compiled again
    assert _python(code, NUMBA_CACHE_DIR=str(tmp_path)) == (first, said)
    assert sorted((tmp_path / "autotx").iterdir()) == sorted(kept)


@needs_jit
@pytest.mark.parametrize("collecting", [True, False])
def test_garbage_is_looked_for_afterwards_as_before(collecting):
    try:
        (gc.enable if collecting else gc.disable)()
        with contextlib.suppress(RuntimeError), jit._compiling():
            assert not gc.isenabled()
            raise RuntimeError
        assert gc.isenabled() == collecting
    finally:
        gc.enable()


@needs_jit
def test_one_warning_where_no_folder_can_be_written(tmp_path, monkeypatch):
    code = """
import pathlib, warnings
from autotx.kernels import jit
pathlib.Path.mkdir = lambda *a, **k: (_ for _ in ()).throw(PermissionError())
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    jit.kernel(lambda x: x + 1, from_python=True)(2), jit.kernel(lambda x: x - 1, from_python=True)(2)
print(len(caught), caught[0].message)
"""
    printed, said = _python(code)
    assert said == ""
    assert printed.startswith("1 autotx: kernels are compiled anew in every process, because no folder")


@pytest.mark.skipif(os.name != "posix", reason="folders have no owner and mode")
def test_only_what_nobody_else_may_write_is_trusted():
    me, other = os.geteuid(), os.geteuid() + 1
    for owner, mode, trusted in (
        (me, 0o100644, True), (0, 0o40755, True), (me, 0o40700, True), (other, 0o100644, False),
        (me, 0o100666, False), (me, 0o100664, False), (0, 0o41777, False),
    ):  # fmt: skip
        status = os.stat_result((mode, 0, 0, 1, owner, 0, 0, 0, 0, 0))
        assert jit.is_trusted(status) is trusted, (owner, oct(mode))


PLANTED = """
import pathlib, pickle
from autotx.kernels import jit
path = pathlib.Path(FOLDER) / "x.kernel"
for thing, mode in (("code", 0o666), ("code", 0o664), ("code", 0o644)):
    jit._write(path, pickle.dumps(thing))
    assert path.stat().st_mode & 0o777 == 0o644
    path.chmod(mode)
    print(jit._read(path) is None)
path.rename(path.with_name("y.kernel"))
print(jit._read(path.with_name("y.kernel")) is None)
"""


@pytest.mark.skipif(os.name != "posix", reason="files have no mode")
def test_a_file_that_others_may_write_or_of_another_name_is_not_read(tmp_path):
    old = os.umask(0)
    try:
        printed, _ = _python(PLANTED.replace("FOLDER", repr(str(tmp_path))))
    finally:
        os.umask(old)
    assert printed.split() == ["True", "True", "False", "True"]


@needs_jit
def test_what_another_program_stored_is_compiled_again(tmp_path):
    code = "from autotx.kernels.jit import kernel; print(kernel(lambda x: x + 1, from_python=True)(2))"
    (tmp_path / "elsewhere.py").write_text(code)
    first, _ = _python("import elsewhere", PYTHONPATH=str(tmp_path), NUMBA_CACHE_DIR=str(tmp_path))
    (kept,) = (tmp_path / "autotx").iterdir()
    whole = kept.read_bytes()
    jit._write(kept, pickle.dumps([1, 2]))
    assert _python("import elsewhere", PYTHONPATH=str(tmp_path), NUMBA_CACHE_DIR=str(tmp_path))[0] == first == "3"
    assert len(kept.read_bytes()) > len(whole) // 2  # stored anew


@needs_jit
@pytest.mark.skipif(os.name != "posix", reason="folders have no mode")
def test_a_cache_folder_that_others_may_write_is_not_used(tmp_path):
    folder = tmp_path / "autotx"
    folder.mkdir()
    folder.chmod(0o777)
    printed, said = _python("from autotx.kernels import jit; print(jit.cache_folder())", NUMBA_CACHE_DIR=str(tmp_path))
    assert printed != str(folder)
    assert (
        f"autotx: no kernels are kept in {folder}, because another user owns it or may write there; chmod go-w" in said
    )
    assert list(folder.iterdir()) == []


def test_the_name_of_a_kept_kernel_depends_on_the_modules_it_imports():
    files = jit.Path(gemm.__file__), TILE.type.file
    assert jit._source_hash(files) == jit._source_hash(files[:1])  # gemm.py imports simd.py, the file of the tile
    assert jit._source_hash(files) != jit._source_hash(files[1:])


@needs_jit
def test_a_kernel_for_kernels_is_not_called_from_python():
    with pytest.raises(TypeError, match="multiply: only kernels call this kernel; declare it with @kernel"):
        TILE.multiply(1)


@needs_jit
def test_an_outlined_function_is_compiled_once_and_kept(tmp_path):
    code = """
import numpy as np
from autotx.kernels import attention, gemm
gemm.SMALL = 0
x = np.ones((40, 40), np.float32)
assert (gemm.matmul(x, x) == 40).all()
attention.attention(x[None], x[None], x[None])
"""
    for times in ("once", "from the cache"):
        _, said = _python(code, NUMBA_CACHE_DIR=str(tmp_path))
        assert bool(said) == (times == "once")
        assert len(list(tmp_path.rglob("simd._multiply-*.kernel"))) == 2  # one for each tile
        assert len(list(tmp_path.rglob("simd.copy_lines-*.kernel"))) == 2


ELSEWHERE = """
from numba import types
from autotx.kernels.jit import kernel
from autotx.kernels.launches import shared_by_tile

@shared_by_tile(lambda tile: (types.float32[:, ::1], types.float32[::1]))
@kernel
def f(tile, x, panels, worker, task):
    tile.pack(tile, x, 1, panels, 0)
    panels[0] += NUMBER
"""
CALL = """
import numpy as np, pathlib, elsewhere
from autotx.kernels.simd import FLOAT32_TILE
file = pathlib.Path(elsewhere.__file__)
file.write_text(file.read_text().replace("+= 1", "+= 2"))  # after it was imported, before it is compiled
panels = np.zeros(64, np.float32)
elsewhere.f(FLOAT32_TILE, 1, np.full((1, 1), 5, np.float32), panels)
print(panels[0])
"""


@needs_jit
def test_a_kernel_elsewhere_is_linked_and_kept_under_the_text_that_was_imported(tmp_path):
    (tmp_path / "elsewhere.py").write_text(ELSEWHERE.replace("NUMBER", "1"))
    folders = {"PYTHONPATH": str(tmp_path), "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    assert [_python(CALL, **folders)[0] for _ in range(2)] == ["6.0", "7.0"]


INTERRUPTED = """
import numpy as np
from numba.core.ccallback import CFunc
from autotx.kernels import gemm
def interrupt(compiled):
    CFunc.compile = compile
    raise KeyboardInterrupt
compile, CFunc.compile, gemm.SMALL = CFunc.compile, interrupt, 0
x = np.ones((40, 40), np.float32)
try:
    gemm.matmul(x, x)
except KeyboardInterrupt:
    print(gemm.matmul(x, x)[0, 0])
"""


@needs_jit
def test_after_a_ctrl_c_while_compiling_a_product_is_computed_again():
    assert _python(INTERRUPTED)[0] == "40.0"

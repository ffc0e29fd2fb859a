"""Every kernel against its NumPy twin in float64, at the edges of shapes and values; equal bits for any thread count.

With NUMBA_DISABLE_JIT=1 the same tests compare the twins in float32 with themselves in float64.
"""

import math

import numba
import numpy as np
import pytest

import autotx
from autotx import kernels
from autotx.kernels import (
    cross_entropy,
    embedding,
    exp,
    gelu,
    layernorm,
    parameters,
    recurrent,
    rmsnorm,
    rope,
    silu,
    softmax,
)
from autotx.kernels.jit import kernel

SHAPES = [(0, 5), (1, 1), (1, 7), (5, 1), (3, 33), (2, 3, 65), (7, 128), (300, 131)]  # the last: several chunks


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def normal(rng, *shape, scale=1.0):
    return (scale * rng.standard_normal(shape)).astype(np.float32)


def precise(arguments):
    """The same arguments in float64, so that the twin is called. Copies, since some kernels work in place."""
    wider = {np.dtype(np.float32): np.float64}
    return [x.astype(wider.get(x.dtype, x.dtype)) if isinstance(x, np.ndarray) else x for x in arguments]


def check(function, *arguments, tolerance=2e-6):
    """Compare with the twin, the largest element of each result (at least 1) being the measure. Returns the results."""
    expected = function(*precise(arguments))
    found = function(*arguments)
    for a, b in zip(*((x if isinstance(x, tuple) else (x,)) for x in (found, expected))):
        assert a.dtype == np.float32
        assert a.shape == b.shape
        finite = np.abs(b[np.isfinite(b)])
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * finite.max(initial=1))
    return found


def layouts(x):
    """x as it is, read-only, with its axes stored in the other order, with gaps, and at an odd address."""
    frozen = x.copy()
    frozen.flags.writeable = False
    wide = np.repeat(x, 2, axis=-1)[..., ::2]
    odd = np.zeros(x.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(x.shape)
    odd[...] = x
    return x, frozen, np.asfortranarray(x), wide, odd


# ---- float32 functions ------------------------------------------------------------------------------------------


@kernel(from_python=True)
def all_values(x, e, ln, cdf):
    for i in range(x.size):
        e[i], ln[i], cdf[i] = exp.exp(x[i]), exp.log(x[i]), exp.normal_cdf(x[i])


def _all_values(*numbers):
    x = np.concatenate(numbers).astype(np.float32)
    results = np.empty((3, x.size), np.float32)
    all_values(x, *results)
    return x.astype(np.float64), *results


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="these functions exist in compiled code alone")
def test_exp_log_and_the_normal_distribution():
    x, e, _, cdf = _all_values(np.linspace(-87, 88.7, 100_001), np.linspace(-1, 1, 10_001), [0.0])
    normal_range = np.exp(x) > 1.8e-38
    assert np.max(np.abs(e / np.exp(x) - 1)[normal_range]) < 1.5e-7
    assert np.max(np.abs(2 * cdf - 1 - exp.erf_twin(x / math.sqrt(2)))) < 4e-7
    x, _, ln, _ = _all_values(np.geomspace(1.2e-38, 3.4e38, 100_001), np.linspace(0.5, 2, 10_001))
    assert np.max(np.abs(ln - np.log(x)) / np.maximum(np.abs(np.log(x)), 0.6)) < 1.5e-7


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="these functions exist in compiled code alone")
def test_exp_and_log_at_the_ends():
    _, e, ln, cdf = _all_values([-np.inf, -1e30, -200, 89, 1e30, np.inf, np.nan, 0, 1])
    np.testing.assert_array_equal(e[:-1], [0, 0, 0, np.inf, np.inf, np.inf, np.nan, 1])
    np.testing.assert_array_equal(ln[-5:], [np.float32(np.log(1e30)), np.inf, np.nan, -np.inf, 0])
    assert np.isnan(ln[:3]).all()
    np.testing.assert_allclose(cdf[:-1], [0, 0, 0, 1, 1, 1, np.nan, 0.5], atol=1e-7)


def test_erf_twin_is_exact():
    x = np.concatenate([np.linspace(-7, 7, 2001), [0.0, 1e-12, -1e-300, 30.0, np.inf, -np.inf]])
    exact = np.array([math.erf(value) for value in x])
    np.testing.assert_allclose(exp.erf_twin(x), exact, rtol=0, atol=2e-15)
    assert np.isnan(exp.erf_twin(np.array([np.nan])))


# ---- row by row -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_softmax(rng, shape):
    x, g = normal(rng, *shape, scale=3), normal(rng, *shape)
    p = check(softmax.softmax, x)
    check(softmax.softmax_backward, p, g)
    y = check(softmax.log_softmax, x)
    check(softmax.log_softmax_backward, y, g)


def test_softmax_of_extreme_rows():
    inf = np.inf
    x = np.array([[-inf, -inf, -inf], [-inf, 0, -inf], [1e30, -1e30, 1e30], [-1e4, 0, 1e4], [0, np.nan, 0]], np.float32)
    expected = np.array([[0, 0, 0], [0, 1, 0], [0.5, 0, 0.5], [0, 0, 1], [np.nan] * 3])
    for values in (x, x.astype(np.float64)):
        np.testing.assert_allclose(softmax.softmax(values), expected)


def _normed(x, gamma, beta, tolerance=2e-6):
    """The mean and rstd of layer norm, after a check of all its results."""

    def results(*arguments):
        y, mean, rstd = layernorm.layer_norm(*arguments)
        assert mean.dtype == np.float64
        return y, mean.astype(y.dtype), rstd

    check(results, x, gamma, beta, tolerance=tolerance)
    return layernorm.layer_norm(x, gamma, beta)[1:]


@pytest.mark.parametrize("shape", SHAPES)
def test_layer_norm(rng, shape):
    C = shape[-1]
    x, g, gamma, beta = normal(rng, *shape), normal(rng, *shape), normal(rng, C), normal(rng, C)
    mean, rstd = _normed(x, gamma, beta, tolerance=4e-6)
    assert mean.shape == rstd.shape == shape[:-1]
    check(layernorm.layer_norm_backward, g, x, gamma, mean, rstd, tolerance=4e-6 * max(1, rstd.max(initial=1)))


def test_layer_norm_of_a_mean_far_from_zero(rng):
    x = 1000 + normal(rng, 4, 256)
    one = np.ones(256, np.float32)
    y, _, rstd = layernorm.layer_norm(x, one, 0 * one, 1e-5)
    expected, _, expected_rstd = layernorm.layer_norm(*precise((x, one, 0 * one)), 1e-5)
    np.testing.assert_allclose(rstd, expected_rstd, rtol=1e-6)
    np.testing.assert_allclose(y, expected, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [100000.1, 1000.1, 1e15])
def test_layer_norm_of_a_constant_row_is_zero(value, dtype):
    """The rounding of the mean is no variance; rstd is that of eps."""
    x, one = np.full((1, 7), value, dtype), np.ones(7, dtype)
    y, mean, rstd = layernorm.layer_norm(x, one, 0 * one, 1e-5)
    np.testing.assert_allclose(y, 0, atol=1e-6)
    np.testing.assert_allclose(rstd, 1e5**0.5, rtol=1e-6)
    g = np.arange(7, dtype=dtype)[None]
    dx, dgamma, _ = layernorm.layer_norm_backward(g, x, one, mean, rstd)
    np.testing.assert_allclose(dx, 1e5**0.5 * (g - 3), rtol=1e-6, atol=1e-3)
    np.testing.assert_allclose(dgamma, 0, atol=1e-5)


@pytest.mark.parametrize(("row", "dtype"), [
    ([1e20, -1e20, 2e20, 0], np.float32), ([3e38, -3e38, -3e38, -3e38], np.float32),
    ([1e200, -1e200, 2e200, 0], np.float64), ([1e20, -1e20, 2e20, 0], np.float64),
])  # fmt: skip
def test_layer_norm_of_numbers_whose_squares_overflow(row, dtype):
    x, one, g = np.array([row], dtype), np.ones(4, dtype), np.array([[1, 2, -1, 0.5]], dtype)
    small = x / dtype(abs(np.array(row)).max())  # the same row without overflow, with an eps that does not count
    y, mean, rstd = layernorm.layer_norm(x, one, 0 * one, 1e-5)
    expected, of_small, rstd_of_small = layernorm.layer_norm(small, one, 0 * one, 0.0)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)
    dx, dgamma, _ = layernorm.layer_norm_backward(g, x, one, mean, rstd)
    dx_of_small, dgamma_of_small, _ = layernorm.layer_norm_backward(g, small, one, of_small, rstd_of_small)
    np.testing.assert_allclose(dgamma, dgamma_of_small, rtol=1e-5, atol=1e-6)
    scale = abs(np.array(row)).max()
    np.testing.assert_allclose(dx * np.float64(scale), dx_of_small, rtol=1e-4, atol=1e-5)
    assert dx.any()


@pytest.mark.parametrize("shape", SHAPES)
def test_rms_norm(rng, shape):
    x, g, gamma = normal(rng, *shape), normal(rng, *shape), normal(rng, shape[-1])
    _, r = check(rmsnorm.rms_norm, x, gamma, 1e-5, tolerance=4e-6)
    assert r.shape == shape[:-1]
    check(rmsnorm.rms_norm_backward, g, x, gamma, r, tolerance=4e-6 * max(1, r.max(initial=1)))


def test_rms_norm_of_numbers_whose_squares_overflow(rng):
    x, g, gamma = normal(rng, 3, 64, scale=1e25), normal(rng, 3, 64), normal(rng, 64)
    _, r = check(rmsnorm.rms_norm, x, gamma, 1e-5)
    dx, dgamma = rmsnorm.rms_norm_backward(g, x, gamma, r)
    expected, dgamma_expected = rmsnorm.rms_norm_backward(*precise((g, x, gamma, r)))
    np.testing.assert_allclose(dx * 1e25, expected * 1e25, atol=1e-5)
    np.testing.assert_allclose(dgamma, dgamma_expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 3, 5, 8), (3, 1, 2), (700, 64), (2, 4, 300, 16), (2, 1, 2, 3, 4)])
def test_rope(rng, shape):
    x = normal(rng, *shape)
    for start in (0, 77):
        y = check(rope.rope, x, 1e4, start)
        np.testing.assert_allclose(rope.rope(y, 1e4, start, back=True), x, atol=1e-5)  # rotated back
        np.testing.assert_allclose(np.linalg.norm(y, axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-5)


def test_rope_into_a_view_of_a_view(rng):
    wide, out = normal(rng, 2, 30, 3, 40), np.zeros((2, 30, 3, 40), np.float32)
    x, to = wide[..., 4:20].swapaxes(1, 2), out[..., 4:20].swapaxes(1, 2)
    assert rope.rope(x, 1e4, out=to) is to
    np.testing.assert_allclose(to, rope.rope(x.astype(np.float64), 1e4), atol=1e-5)
    assert not out[..., :4].any()
    assert not out[..., 20:].any()


@pytest.mark.parametrize("shape", [(), *SHAPES])
def test_swiglu(rng, shape):
    gate, up, g = (np.asarray(normal(rng, *shape, scale=s)) for s in (3, 1, 1))
    check(silu.swiglu, gate, up)
    check(silu.swiglu_backward, g, gate, up)


def test_swiglu_far_out():
    gate, one = np.array([-1e10, -1e4, -100, 0, 100, 1e4, 1e10], np.float32), np.ones(7, np.float32)
    np.testing.assert_allclose(silu.swiglu(gate, one), np.maximum(gate, 0), atol=1e-30)
    dgate, dup = silu.swiglu_backward(one, gate, one)
    np.testing.assert_allclose(dgate, [0, 0, 0, 0.5, 1, 1, 1], atol=1e-30)
    np.testing.assert_allclose(dup, np.maximum(gate, 0), atol=1e-30)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize("shape", [(), *SHAPES])
def test_gelu(rng, shape, approximate):
    x, g = np.asarray(normal(rng, *shape, scale=3)), np.asarray(normal(rng, *shape))
    check(gelu.gelu, x, approximate)
    check(gelu.gelu_backward, g, x, approximate)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_far_out(approximate):
    x = np.array([-1e10, -1e4, -40, -13, 0, 13, 40, 1e4, 1e10], np.float32)
    np.testing.assert_allclose(gelu.gelu(x, approximate), np.maximum(x, 0), atol=1e-30)
    slope = gelu.gelu_backward(np.ones_like(x), x, approximate)
    np.testing.assert_allclose(slope, [0, 0, 0, 0, 0.5, 1, 1, 1, 1], atol=1e-30)


@pytest.mark.parametrize("index", range(5))
def test_any_layout(rng, index):
    x, g = layouts(normal(rng, 6, 10))[index], layouts(normal(rng, 6, 10))[index]
    p = check(softmax.softmax, x)
    check(softmax.softmax_backward, p, g)
    check(gelu.gelu, x, "tanh")
    gamma = layouts(normal(rng, 10))[index]
    mean, rstd = _normed(x, gamma, gamma)
    check(layernorm.layer_norm_backward, g, x, gamma, mean, rstd)
    _, r = check(rmsnorm.rms_norm, x, gamma, 1e-5)
    check(rmsnorm.rms_norm_backward, g, x, gamma, r)
    check(rope.rope, x, 1e4)
    check(silu.swiglu_backward, g, x, check(silu.swiglu, x, g))
    targets = np.arange(12)[::2] % 10
    check(losses_and_normalisers, x, targets, None, 0.1)
    _, m, s = cross_entropy.cross_entropy(x, targets, None, 0.1)
    check(cross_entropy.cross_entropy_backward, x, m, s, targets, g[:, 0], None, 0.1)
    assert parameters.sum_of_squares([x]) == pytest.approx(np.square(x, dtype=np.float64).sum(), rel=1e-12)
    buffer = normal(rng, 10, 10)
    embedding.add_rows(buffer, targets, g)


# ---- cross entropy ----------------------------------------------------------------------------------------------


def losses_and_normalisers(*arguments):
    """The losses and ln sum exp of each row: of its two parts the kernel chooses others than the twin."""
    losses, m, s = cross_entropy.cross_entropy(*arguments)
    return losses, m + s


@pytest.mark.parametrize("ignore_index", [None, -1, 0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(0, 5), (1, 1), (1, 7), (5, 65), (300, 131), (3, 9001)])
def test_cross_entropy(rng, shape, smoothing, ignore_index):
    N, V = shape
    z, scale, targets = normal(rng, N, V, scale=3), normal(rng, N), rng.integers(0, V, N)
    if ignore_index is not None:
        targets[::3] = ignore_index
    check(losses_and_normalisers, z, targets, ignore_index, smoothing)
    losses, m, s = cross_entropy.cross_entropy(z, targets, ignore_index, smoothing)
    assert not losses[targets == ignore_index].any()
    arguments = z, m, s, targets, scale, ignore_index, smoothing
    dz = check(cross_entropy.cross_entropy_backward, *arguments)
    assert not dz[targets == ignore_index].any()
    np.testing.assert_allclose(dz.sum(axis=1), 0, atol=1e-4)
    out = np.empty_like(z)
    assert cross_entropy.cross_entropy_backward(*arguments, out) is out
    np.testing.assert_array_equal(out, dz)
    assert cross_entropy.cross_entropy_backward(*arguments, z) is z  # in place
    np.testing.assert_array_equal(z, dz)


def test_cross_entropy_of_logits_that_rise_far():
    z = np.zeros((5, 10_000), np.float32)
    z[0, 5000] = 1e4  # a new reference in the middle of the row
    z[1] = np.linspace(-500, 500, 10_000)
    z[2, :9000] = -np.inf
    z[3] = -1e30
    z[4, 7000] = np.nan
    targets = np.full(5, 9500)
    losses, lse = check(losses_and_normalisers, z, targets)
    _, m, s = cross_entropy.cross_entropy(z, targets)
    np.testing.assert_allclose(lse[[0, 3]], [1e4, -1e30], rtol=1e-6)
    assert np.isnan(losses[4])
    check(cross_entropy.cross_entropy_backward, z[:3], m[:3], s[:3], targets[:3], np.ones(3, np.float32))


def test_the_gradient_of_cross_entropy_has_no_subnormal_numbers():
    """Products with them would take ten times as long."""
    z = np.linspace(-100, 0, 1001, dtype=np.float32)[None]
    _, m, s = cross_entropy.cross_entropy(z, np.array([1000]))
    for scale in (1, -1e-4):
        dz = check(cross_entropy.cross_entropy_backward, z, m, s, np.array([1000]), np.full(1, scale, np.float32))
        assert np.abs(dz[dz != 0]).min() >= np.finfo(np.float32).tiny
        assert (dz == 0).sum() > 100


# ---- parameters -------------------------------------------------------------------------------------------------


SIZES = [0, 1, 17, 16384, 50_001]


def test_adamw(rng):
    p, g, m = ([normal(rng, size) for size in SIZES] for _ in range(3))
    p, m = [*p, normal(rng, 4, 5).T], [*m, normal(rng, 5, 4)]  # one that lies otherwise in memory
    g.append(normal(rng, 5, 4))
    v = [x**2 for x in m]
    expected = [precise(arrays) for arrays in (p, g, m, v)]
    for step in (1, 2, 3):
        settings = 1e-2, 0.9, 0.99, 1e-8, [0.1, 0.0] * 3, [step, step + 1] * 3
        parameters.adamw(p, g, m, v, *settings)
        parameters.adamw(*expected, *settings)
    for changed, wanted in zip((p, m, v), (expected[0], *expected[2:])):
        for a, b in zip(changed, wanted):
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=2e-6)


def test_adamw_follows_the_formula():
    p, g, m, v = ([np.array([value])] for value in (2.0, 0.5, 0.0, 0.0))
    parameters.adamw(p, g, m, v, 0.1, 0.9, 0.99, 1e-8, [0.01], [1])
    assert p[0][0] == pytest.approx(2 * (1 - 0.1 * 0.01) - 0.1)  # the first step is lr times the sign of g
    assert m[0][0] == pytest.approx(0.05)
    assert v[0][0] == pytest.approx(0.0025)


def test_scale(rng):
    arrays = [normal(rng, size) for size in SIZES] + [normal(rng, 6, 10)[:, ::2], np.arange(3.0)]
    expected = [x * x.dtype.type(0.3) for x in arrays]
    parameters.scale(arrays, 0.3)
    for a, b in zip(arrays, expected):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("shape", [(0,), (1,), (3, 5), (50_001,)])
def test_sum_of_squares(rng, shape):
    x = normal(rng, *shape, scale=100)
    assert parameters.sum_of_squares([x]) == pytest.approx(float(np.square(x, dtype=np.float64).sum()), rel=1e-12)
    assert isinstance(parameters.sum_of_squares([x]), float)


@pytest.mark.parametrize(("V", "C", "shape"), [(5, 3, (0,)), (7, 33, (2, 3)), (4, 300, (3, 71)), (9, 131, (500,))])
def test_take_rows(rng, V, C, shape):
    table, ids = normal(rng, V, C), rng.integers(0, V, shape)
    for layout in (table, np.asfortranarray(table), table.astype(np.float64)):
        np.testing.assert_array_equal(embedding.take_rows(layout, ids), table[ids])


@pytest.mark.parametrize(("V", "C", "N"), [(5, 3, 0), (1, 1, 9), (7, 33, 50), (4, 300, 100), (3, 0, 4)])
def test_add_rows_in_order(rng, V, C, N):
    buffer, ids, g = normal(rng, V, C), rng.integers(0, V, N), normal(rng, N, C, scale=1e3)
    expected = buffer.copy()
    for n in range(N):
        expected[ids[n]] += g[n]
    embedding.add_rows(buffer, ids, g)
    np.testing.assert_array_equal(buffer, expected)


def test_add_rows_into_part_of_an_array(rng):
    whole, g = np.zeros((4, 6), np.float32), normal(rng, 3, 3)
    embedding.add_rows(whole[:, ::2], np.array([1, 1, 3]), g)
    np.testing.assert_allclose(whole[1, ::2], g[0] + g[1])
    assert not whole[:, 1::2].any()


# ---- threads ----------------------------------------------------------------------------------------------------


def everything(rng):
    """The results of all kernels on arrays of several chunks."""
    N, C = 300, 131
    x, g, gamma = normal(rng, N, C), normal(rng, N, C), normal(rng, C)
    p, y = softmax.softmax(x), softmax.log_softmax(x)
    yield from (p, softmax.softmax_backward(p, g), y, softmax.log_softmax_backward(y, g))
    normed, mean, rstd = layernorm.layer_norm(x, gamma, gamma)
    yield from (normed, mean, rstd, *layernorm.layer_norm_backward(g, x, gamma, mean, rstd))
    normed, r = rmsnorm.rms_norm(x, gamma)
    yield from (normed, r, *rmsnorm.rms_norm_backward(g, x, gamma, r), rope.rope(x[:, 1:], 1e4))
    yield from (silu.swiglu(x, g), *silu.swiglu_backward(g, x, y))
    for approximate in ("none", "tanh"):
        yield from (gelu.gelu(x, approximate), gelu.gelu_backward(g, x, approximate))
    targets = rng.integers(0, C, N)
    losses, m, s = cross_entropy.cross_entropy(x, targets)
    yield from (losses, m, s, cross_entropy.cross_entropy_backward(x, m, s, targets, losses))
    buffer = np.zeros((C, C), np.float32)
    embedding.add_rows(buffer, targets, g)
    p, m, v = x.copy(), x / 2, x**2
    parameters.adamw([p], [g], [m], [v], 1e-3, 0.9, 0.99, 1e-8, [0.1], [1])
    yield from (buffer, p, m, v, np.array(parameters.sum_of_squares([g])))
    for kind in recurrent.GATES:
        yield from both_ways(kind, *sequences(rng, kind, 33, 5, 20, 70))


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="one thread alone")
def test_the_same_bits_for_any_number_of_threads():
    before = autotx.get_num_threads()
    results = []
    for threads in (1, 2):
        autotx.set_num_threads(threads)
        results.append(list(everything(np.random.default_rng(1))))
    autotx.set_num_threads(before)
    for a, b in zip(*results):
        np.testing.assert_array_equal(a, b)


# ---- recurrent layers -------------------------------------------------------------------------------------------


def sequences(rng, kind, B, T, I, H):
    """The arguments of a recurrent layer."""
    N = recurrent.GATES[kind] * H
    c = normal(rng, B, H) if kind == recurrent.LSTM else None
    weights = normal(rng, N, I, scale=I**-0.5), normal(rng, N, H, scale=H**-0.5)
    return normal(rng, B, T, I), normal(rng, B, H), c, *weights, normal(rng, N), normal(rng, N)


def both_ways(kind, *arguments):
    """The states and all gradients, for a fixed gradient of the states."""
    y, saved = recurrent.recurrent(kind, *arguments)
    g = np.cos(np.arange(y.size, dtype=np.float64)).astype(y.dtype).reshape(y.shape)
    return y, *recurrent.recurrent_backward(kind, g, saved, *arguments[3:5])


# Fewer and more sequences than a panel, a piece of the depth in which one is left over, and several tasks a thread
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 4, 2, 5), (33, 6, 20, 70), (2, 3, 7, 385), (300, 2, 3, 33)])
@pytest.mark.parametrize("kind", recurrent.GATES)
def test_recurrent_layers(rng, kind, shape):
    check(lambda *arguments: both_ways(kind, *arguments), *sequences(rng, kind, *shape), tolerance=1e-5)


@pytest.mark.parametrize("index", range(5))
def test_recurrent_layers_in_any_layout(rng, index):
    arguments = sequences(rng, recurrent.LSTM, 5, 3, 8, 40)
    expected = both_ways(recurrent.LSTM, *arguments)
    for a, b in zip(both_ways(recurrent.LSTM, *(layouts(x)[index] for x in arguments)), expected):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@kernel(from_python=True)
def of_states(x, s, t):
    for i in range(x.size):
        s[i], t[i] = recurrent.sigmoid(x[i]), recurrent.tanh(x[i])


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="these functions exist in compiled code alone")
def test_sigmoid_and_tanh_to_the_last_digits():
    x = np.concatenate([np.linspace(-87, 87, 100_001), np.geomspace(1e-30, 1, 1000), -np.geomspace(1e-30, 1, 1000)])
    x = x.astype(np.float32)
    s, t = np.empty_like(x), np.empty_like(x)
    of_states(x, s, t)
    np.testing.assert_allclose(s, 1 / (1 + np.exp(-x.astype(np.float64))), rtol=3e-7)
    np.testing.assert_allclose(t, np.tanh(x.astype(np.float64)), rtol=5e-7)
    ends = np.array([-np.inf, np.inf, np.nan, 0], np.float32)
    s, t = np.empty_like(ends), np.empty_like(ends)
    of_states(ends, s, t)
    np.testing.assert_array_equal([s, t], [[0, 1, np.nan, 0.5], [-1, 1, np.nan, 0]])


# ---- sums -------------------------------------------------------------------------------------------------------


ADDED = {
    "plain": lambda x: x,
    "slices of one array": lambda x: np.stack([x] * 3, axis=1)[:, 1],
    "other memory order": lambda x: x.swapaxes(0, -1).copy().swapaxes(0, -1),
    "strided": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
    "reversed": lambda x: x[::-1].copy()[::-1],
}


@pytest.mark.parametrize("shape", [(40_000,), (300, 128), (7, 50, 4, 32), (1, 3, 20_001), (2, 30_000, 1), (0, 4)])
@pytest.mark.parametrize("kinds", [(a, b) for a in ADDED for b in ("plain", "slices of one array")], ids="+".join)
def test_add(rng, shape, kinds):
    x, y = (ADDED[kind](normal(rng, *shape)) for kind in kinds)
    expected = np.add(x, y)
    np.testing.assert_array_equal(kernels.add(x, y), expected)
    assert kernels.add(x, y, x) is x
    np.testing.assert_array_equal(x, expected)

"""Rows times a matrix, float32 and int8, and the attention of a few queries: against NumPy, and to the bit."""

import numba
import numpy as np
import pytest

from autotx.kernels import attend, attention, gemv, threads

SHAPES = [(1, 1), (1, 7), (3, 1), (16, 16), (17, 63), (33, 65), (130, 257), (2500, 33), (1000, 771)]  # two with tasks


def _matrices(rng, M, N, K):
    return rng.standard_normal((M, K), np.float32), rng.standard_normal((N, K), np.float32)


def _close(found, expected, K):
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * max(1, K))


@pytest.mark.parametrize(("N", "K"), SHAPES)
@pytest.mark.parametrize("M", [0, 1, 2, 8])
def test_linear(M, N, K, rng):
    (x, weight), bias = _matrices(rng, M, N, K), rng.standard_normal(N, np.float32)
    expected = x.astype(np.float64) @ weight.T.astype(np.float64)
    _close(gemv.linear(x, weight), expected, K)
    _close(gemv.linear(x, weight, bias), expected + bias, K)


@pytest.mark.parametrize(("N", "K"), SHAPES)
@pytest.mark.parametrize("M", [0, 1, 3])
def test_linear_int8(M, N, K, rng):
    (x, weight), bias = _matrices(rng, M, N, K), rng.standard_normal(N, np.float32)
    whole, scale = gemv.quantize(weight)
    expected = x.astype(np.float64) @ (whole * scale.astype(np.float64)[:, None]).T
    _close(gemv.linear_int8(x, whole, scale), expected, K)
    _close(gemv.linear_int8(x, whole, scale, bias), expected + bias, K)


def test_nothing_to_add_up():
    nothing, bias = np.zeros((3, 0), np.float32), np.arange(3, dtype=np.float32)
    assert np.array_equal(gemv.linear(nothing[:2], nothing, bias), [bias, bias])
    assert gemv.linear(np.ones((2, 5), np.float32), np.ones((0, 5), np.float32)).shape == (2, 0)


def test_any_layout(rng):
    x, weight = _matrices(rng, 2, 40, 30)
    whole, scale = gemv.quantize(weight)
    expected, rounded = gemv.linear(x, weight), gemv.linear_int8(x, whole, scale)
    apart, reversed_ = np.repeat(x, 2, axis=1)[:, ::2], x[:, ::-1].copy()[:, ::-1]
    for given in (apart, reversed_, np.asfortranarray(x)):
        assert np.array_equal(gemv.linear(given, weight), expected)
        assert np.array_equal(gemv.linear_int8(given, whole, scale), rounded)
    _close(gemv.linear(x, np.asfortranarray(weight)), expected, 30)
    assert np.array_equal(gemv.linear_int8(x, np.asfortranarray(whole), np.repeat(scale, 2)[::2]), rounded)


def test_int8_is_right_to_half_a_step_and_keeps_zeros_and_the_largest(rng):
    weight = rng.standard_normal((20, 50), np.float32) * np.logspace(-20, 20, 20, dtype=np.float32)[:, None]
    weight[3] = 0
    whole, scale = gemv.quantize(weight)
    assert whole.dtype == np.int8
    assert np.all(np.abs(whole * scale[:, None] - weight) <= 0.5001 * scale[:, None])
    assert not whole[3].any()
    assert np.array_equal(np.abs(whole).max(axis=1), np.where(np.arange(20) == 3, 0, 127))
    assert gemv.quantize(weight[:0])[0].shape == (0, 50)


@pytest.mark.parametrize("length", [1, 2, 17, 64])
@pytest.mark.parametrize("D", [1, 8, 33, 64])
def test_attend(length, D, rng):
    q = 4 * rng.standard_normal((2, D, 3, 1), np.float32).transpose(0, 2, 3, 1)
    keys, values = rng.standard_normal((2, 3, D, 64), np.float32), rng.standard_normal((2, 3, 64, D), np.float32)
    keys[..., length:] = values[:, :, length:] = np.nan  # what is not there yet
    expected = attend.attend(*(x.astype(np.float64) for x in (q, keys, values)), length)
    assert expected.dtype == np.float64
    np.testing.assert_allclose(attend.attend(q, keys, values, length), expected, rtol=0, atol=1e-5)
    apart = np.repeat(keys, 2, axis=-1)[..., ::2]
    np.testing.assert_allclose(attend.attend(q, apart, values, length), expected, rtol=0, atol=1e-5)


@pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="equal bits are a matter of kernels")
@pytest.mark.parametrize(("D", "size"), [(8, 24), (64, 113), (33, 250)])
def test_few_queries_have_the_bits_of_many(D, size, rng):
    q, k, v = rng.standard_normal((3, 2, 3, size, D), np.float32)
    keys = np.ascontiguousarray(k.swapaxes(2, 3))
    together = attention.attention(q, k, v, causal=True)[0].transpose(0, 2, 1, 3)
    for n in range(1, 1 + attention.FEW_QUERIES):
        for t in range(0, size - n, 7):
            assert np.array_equal(attend.attend(q[:, :, t : t + n], keys, v, t + 1), together[:, t : t + n])
    seen = np.array([size, 5])
    masked = attend.attend(q, keys, v, seen)
    assert np.array_equal(attend.attend(q[:, :, 3:5], keys, v, seen), masked[:, 3:5])


def test_one_key_gives_its_value_and_large_scores_do_not_overflow(rng):
    q = 100 * rng.standard_normal((1, 1, 1, 4), np.float32)
    keys, values = rng.standard_normal((1, 1, 4, 9), np.float32), rng.standard_normal((1, 1, 9, 4), np.float32)
    assert np.array_equal(attend.attend(q, keys, values, 1)[:, 0], values[:, :, 0])
    assert np.isfinite(attend.attend(100 * q, keys, values, 9)).all()


@pytest.mark.skipif(bool(numba.config.DISABLE_JIT), reason="without kernels there are no threads")
def test_equal_bits_for_any_number_of_threads_and_of_rows(rng):
    x, weight = _matrices(rng, 4, 3000, 257)
    q, keys, values = (rng.standard_normal((2, 8, *shape), np.float32) for shape in ((1, 64), (64, 100), (100, 64)))
    calls = (
        lambda: gemv.linear(x, weight),
        lambda: gemv.linear_int8(x, *gemv.quantize(weight)),
        lambda: attend.attend(q, keys, values, 90),
    )
    before = threads.get_num_threads()
    results = []
    try:
        for n in range(1, min(before, 4) + 1):
            threads.set_num_threads(n)
            results.append([call() for call in calls])
    finally:
        threads.set_num_threads(before)
    for other in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(results[0], other))
    many = np.repeat(x, 25, axis=0)
    for linear, given, found in zip((gemv.linear, gemv.linear_int8), ((weight,), gemv.quantize(weight)), results[0]):
        assert np.array_equal(linear(x[2:3], *given), found[2:3])
        assert np.array_equal(linear(many, *given), np.repeat(found, 25, axis=0))

"""Rows times a matrix, float32 and int8, and the attention of a few queries: against NumPy, and to the bit."""

import numba
import numpy as np
import pytest

from autotx.kernels import attend, attention, threads
from autotx.kernels.codes import Coded, Coding, Parts, join
from autotx.kernels.linear import gated, linear

SHAPES = [(1, 1), (1, 7), (3, 1), (16, 16), (17, 63), (33, 65), (130, 257), (2500, 33), (1000, 771)]  # two with tasks


def _matrices(rng, M, N, K):
    return rng.standard_normal((M, K), np.float32), rng.standard_normal((N, K), np.float32)


def _close(found, expected, K):
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * max(1, K))


@pytest.mark.parametrize(("N", "K"), SHAPES)
@pytest.mark.parametrize("M", [0, 1, 2, 8, 9, 30])
@pytest.mark.parametrize("form", [np.array, Coded.rounded])
def test_linear(form, M, N, K, rng):
    (x, weight), bias = _matrices(rng, M, N, K), rng.standard_normal(N, np.float32)
    weight, onto = form(weight), rng.standard_normal((M, N), np.float32)
    expected = x.astype(np.float64) @ np.asarray(weight).T.astype(np.float64)
    _close(linear(x, weight), expected, K)
    _close(linear(x, weight, bias), expected + bias, K)
    to = onto.copy()
    assert linear(x, weight, bias, onto=to) is to
    _close(to, onto + (expected + bias), K)


@pytest.mark.parametrize("form", [np.array, Coded.rounded])
def test_nothing_to_add_up(form):
    nothing, bias = np.zeros((3, 0), np.float32), np.arange(3, dtype=np.float32)
    for M in (2, 20):
        assert np.array_equal(linear(np.zeros((M, 0), np.float32), form(nothing), bias), np.tile(bias, (M, 1)))
        assert linear(np.ones((M, 5), np.float32), form(np.ones((0, 5), np.float32))).shape == (M, 0)


@pytest.mark.parametrize("M", [2, 20])
def test_any_layout(M, rng):
    x, weight = _matrices(rng, M, 40, 30)
    apart, reversed_, onto = np.repeat(x, 2, axis=1)[:, ::2], x[:, ::-1].copy()[:, ::-1], np.ones((M, 40), np.float32)
    for matrix in (weight, Coded.rounded(weight)):
        expected = linear(x, matrix)
        for given in (apart, reversed_, np.asfortranarray(x)):
            assert np.array_equal(linear(given, matrix), expected)
        _close(linear(x, matrix, onto=np.asfortranarray(onto)), onto + expected, 1)
    _close(linear(x, np.asfortranarray(weight)), linear(x, weight), 30)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_int8_is_right_to_half_a_step_and_keeps_zeros_and_the_largest(dtype, rng):
    weight = (rng.standard_normal((70, 50)) * np.logspace(-20, 20, 70)[:, None]).astype(dtype)
    weight[3] = 0
    rounded = Coded.rounded(weight)
    whole, largest = np.asarray(rounded), [np.abs(part).max(axis=1) for part in (weight[:, :32], weight[:, 32:])]
    assert whole.dtype == dtype
    scale = np.repeat(np.stack(largest, axis=1) / 127, (32, 18), axis=1)
    assert np.all(np.abs(whole - weight) <= 0.5001 * scale)
    assert not whole[3].any()
    np.testing.assert_allclose(np.abs(whole).max(axis=1), np.abs(weight).max(axis=1), rtol=1e-6)
    assert np.array_equal(rounded.rows(np.array([[69, 0]])), whole[[[69, 0]]])
    assert np.asarray(Coded.rounded(weight[:0])).shape == (0, 50)
    if dtype is np.float64:  # which NumPy computes
        x = rng.standard_normal((3, 50))
        assert linear(x, rounded).dtype == np.float64
        np.testing.assert_allclose(linear(x, rounded), x @ whole.T)


CODINGS = [Coding(bits, minimum, half, block) for bits, block in ((4, 32), (8, 32), (8, 16))
           for minimum in (False, True) for half in (False, True)]  # fmt: skip


def _parts(coding, N, K, rng):
    """Any codes; scales and minima of both signs, in float32 of 17 bits, as products of float16 and 6 bits are."""
    blocks, kind = K // coding.block, np.uint8 if coding.bits == 4 else np.int8
    codes = rng.integers(0, 256, (N, blocks, coding.block * coding.bits // 8), np.uint8).view(kind)
    d, m = (rng.normal(0, 0.1, (N, blocks)).astype(np.float16).astype(coding.scale) for _ in range(2))
    if not coding.half:
        d, m = (part * rng.integers(1, 64, part.shape).astype(np.float32) for part in (d, m))
    return Parts(coding, codes, d, m if coding.minimum else None)


def _weights(parts):
    """d q + m, one after the other, (N, K)."""
    weights = []
    for block in np.ndindex(parts.scales.shape):
        codes, d = parts.codes[block], np.float32(parts.scales[block])
        m = np.float32(0 if parts.minima is None else parts.minima[block])
        if parts.coding.bits == 4:
            codes = [int(q) - 8 * (parts.minima is None) for byte in codes for q in (byte % 16, byte // 16)]
        weights += [d * np.float32(q) + m for q in codes]
    return np.array(weights, np.float32).reshape(len(parts.codes), -1)


@pytest.mark.parametrize("coding", CODINGS)
def test_codes_are_the_weights_that_they_stand_for(coding, rng):
    parts = _parts(coding, 101, 96, rng)
    matrix, expected = Coded(parts, (101, 96)), _weights(parts)
    assert np.array_equal(matrix, expected)
    assert np.array_equal(matrix.rows(np.array([[100, 0], [48, 7]])), expected[[[100, 0], [48, 7]]])
    assert (matrix.shape, len(matrix), matrix.dtype) == ((101, 96), 101, np.float32)


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("M", [1, 2, 4, 7, 8, 9, 16, 17, 30])
def test_a_product_with_codes_has_the_bits_of_the_product_with_their_weights(coding, M, rng):
    for N, K in ((1, 32), (100, 64), (150, 928), (200, 1536)):  # of one piece, and of several; whole panels, and not
        parts = _parts(coding, N, K, rng)
        codes, weight = Coded(parts, (N, K)), parts.decoded().reshape(N, K)
        (x, _), bias, onto = _matrices(rng, M, 1, K), rng.standard_normal(N, np.float32), rng.standard_normal((M, N))
        onto, norm = onto.astype(np.float32), (rng.standard_normal(K, np.float32), 1e-5)
        _same(linear(x, codes, bias), linear(x, weight, bias))
        _same(linear(x, codes, None, norm, onto.copy()), linear(x, weight, None, norm, onto.copy()))
        _same(gated(x, codes, codes, norm), gated(x, weight, weight, norm))


def _same(found, expected):
    """To the bit where kernels make it; NumPy adds up matrices of other layouts in another order."""
    if numba.config.DISABLE_JIT:
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max(initial=0))
    else:
        assert np.array_equal(found, expected)


def test_matrices_of_several_codings_are_joined_exactly(rng):
    for codings in (CODINGS[:2], CODINGS[1:5], CODINGS, CODINGS[-1:]):
        parts = [_parts(coding, N, 64, rng) for N, coding in enumerate(codings, 1)]
        whole = join(parts, np.concatenate)
        expected = np.concatenate([part.decoded().reshape(-1, 64) for part in parts])
        assert np.array_equal(Coded(whole, expected.shape), expected)
        assert whole.coding.bits == 8 or len(codings) == 1


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
    for n in (*range(1, 1 + attention.FEW_QUERIES), 9, attend.SOME_QUERIES):
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
    x *= 0.1  # else sigmoids are 0 or 1
    calls = (
        lambda: linear(x, weight),
        lambda: linear(x, Coded.rounded(weight)),
        lambda: gated(x, weight, weight),
        lambda: gated(x, Coded.rounded(weight), Coded.rounded(weight)),
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
    for i, matrix in enumerate((weight, Coded.rounded(weight))):
        for function, found in ((linear, results[0][i]), (lambda x, w: gated(x, w, w), results[0][2 + i])):
            assert np.array_equal(function(x[2:3], matrix), found[2:3])
            assert np.array_equal(function(np.repeat(x, 25, axis=0), matrix), np.repeat(found, 25, axis=0))

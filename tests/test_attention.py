"""The attention kernels against their twin in float64: shapes, layouts, masks, causality and threads."""

import numba
import numpy as np
import pytest

import autotx
from autotx.kernels import attention as module
from autotx.kernels.attention import attention, attention_backward

JIT = not numba.config.DISABLE_JIT

# (B, H, T, S, D): around the tile's edges, the blocks' edges, one query, more or fewer keys than queries
SHAPES = [
    (2, 3, 64, 64, 32),
    (1, 2, 1, 1, 1),
    (1, 2, 5, 5, 1),
    (1, 2, 7, 65, 5),
    (2, 2, 65, 7, 100),
    (1, 1, 130, 130, 28),
    (1, 2, 1, 50, 33),
    (1, 1, 257, 257, 64),
    (1, 1, 513, 340, 16),
    (2, 9, 200, 33, 3),
]


def packed(rng, B, H, T, D, pieces=3):
    """Views (B, H, T, D) into one array (B, T, pieces * H * D), as a model's projection leaves them."""
    x = rng.standard_normal((B, T, pieces * H * D), dtype=np.float32)
    return [x[..., i * H * D : (i + 1) * H * D].reshape(B, T, H, D).transpose(0, 2, 1, 3) for i in range(pieces)]


def inputs(rng, B, H, T, S, D):
    q, g = packed(rng, B, H, T, D, 2)
    k, v = packed(rng, B, H, S, D, 2)
    return g, q, k, v


def compare(g, q, k, v, mask=None, causal=False):
    """Kernel against twin in float64: output, lse and the three gradients."""
    out, lse = attention(q, k, v, mask, causal)
    found = out, lse, *attention_backward(g, q, k, v, out, lse, mask, causal)
    exact = [x.astype(np.float64) for x in (g, q, k, v)]
    out64, lse64 = module._attention_twin(*exact[1:], mask, causal, None)
    wanted = out64, lse64, *module._attention_backward_twin(*exact, out64, mask, causal, None)
    for name, a, b in zip(("out", "lse", "dq", "dk", "dv"), found, wanted):
        assert a.dtype == np.float32
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5, err_msg=name)
    return found


def masks(rng, B, H, T, S):
    huge = np.where(rng.random((T, S)) > 0.5, np.float32(0), np.finfo(np.float32).min)
    huge[:, 0] = 0  # a row of nothing but huge numbers has an lse in which log S is lost
    return {
        "none": None,
        "padding": rng.random((B, 1, 1, S)) > 0.4,
        "square": rng.random((T, S)) > 0.3,
        "one row for all": rng.random((1, S)) > 0.3,
        "one column for all": rng.random((T, 1)) > 0.3,
        "floats": rng.standard_normal((B, H, T, S)),
        "floats a head": np.where(rng.random((H, T, S)) > 0.5, np.float32(0), np.float32(-np.inf)),
        "huge floats": huge,
    }


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes_and_masks(shape, causal):
    rng = np.random.default_rng(sum(shape))
    arrays = inputs(rng, *shape)
    for mask in masks(rng, *shape[:4]).values():
        compare(*arrays, mask, causal)


@pytest.mark.parametrize("lead", [(), (3,), (2, 2), (2, 3, 2)], ids=str)
def test_leading_axes(lead):
    rng = np.random.default_rng(0)
    g, q, k, v = (rng.standard_normal((*lead, 20, 8), dtype=np.float32) for _ in range(4))
    compare(g, q, k, v, rng.random((20, 20)) > 0.2, causal=True)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("shape", [(2, 6, 2, 150, 150, 16), (1, 9, 3, 260, 300, 24), (2, 4, 1, 5, 40, 8)], ids=str)
def test_heads_that_share_keys_and_values(shape, causal):
    """As if each had a copy of them, and the gradients of the copies were added."""
    B, H, G, T, S, D = shape
    rng = np.random.default_rng(0)
    (g, q, _, _), (_, _, k, v) = inputs(rng, B, H, T, S, D), inputs(rng, B, G, T, S, D)
    mask = rng.random((H, T, S)) > 0.2
    out, _, dq, dk, dv = compare(g, q, k, v, mask, causal)
    copies = [np.repeat(x, H // G, axis=1) for x in (k, v)]
    other_out, other_lse = attention(q, *copies, mask, causal)
    other = attention_backward(g, q, *copies, other_out, other_lse, mask, causal)
    np.testing.assert_array_equal(out, other_out)
    np.testing.assert_array_equal(dq, other[0])
    for found, parts in zip((dk, dv), other[1:]):
        expected = parts.reshape(B, G, H // G, S, D).sum(2)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_any_strides():
    rng = np.random.default_rng(0)
    wide = rng.standard_normal((2, 3, 40, 30), dtype=np.float32)
    g, q = wide[..., ::2], wide[..., ::-2]  # steps of two, and backwards
    k, v = wide.swapaxes(2, 3)[..., :15], wide[:, ::-1, :30, 4:19]
    compare(g, q, k, v)
    shared = np.broadcast_to(wide[:, :1, :, :15], (2, 3, 40, 15))  # one head of keys for all: read-only, step 0
    compare(g, q, shared, shared, causal=True)


def test_results_lie_in_memory_as_the_inputs_do():
    rng = np.random.default_rng(0)
    for array in compare(*inputs(rng, 2, 3, 20, 20, 16))[::2]:  # out, dq, dv
        merged = array.transpose(0, 2, 1, 3).reshape(2, 20, 48)
        assert not JIT or np.shares_memory(merged, array)
    plain = [rng.standard_normal((2, 3, 20, 16), dtype=np.float32) for _ in range(4)]
    for array in compare(*plain)[::2]:
        assert not JIT or array.flags.c_contiguous


def test_a_query_that_sees_nothing_gives_zeros():
    rng = np.random.default_rng(0)
    g, q, k, v = inputs(rng, 2, 2, 150, 150, 16)
    mask = rng.random((2, 1, 150, 150)) > 0.5
    mask[0, :, 3] = False  # one query
    mask[1, :, :, :120] = False  # all keys of the first block
    out, lse, dq, _, _ = compare(g, q, k, v, mask)
    assert not out[0, :, 3].any()
    assert not dq[0, :, 3].any()
    assert np.isneginf(lse[0, :, 3]).all()
    for array in compare(g, q, k, v, np.zeros((150, 150), bool))[::2]:
        assert not array.any()
    more_queries = compare(*inputs(rng, 1, 2, 40, 9, 16), causal=True)  # the first 31 see no key
    assert not more_queries[0][:, :, :31].any()


def test_large_scores_do_not_overflow():
    rng = np.random.default_rng(0)
    g, q, k, v = inputs(rng, 1, 2, 140, 140, 16)
    out, lse = attention(100 * q, 100 * k, v)
    assert np.isfinite(out).all()
    assert np.isfinite(lse).all()
    assert all(np.isfinite(x).all() for x in attention_backward(g, 100 * q, 100 * k, v, out, lse))


def test_nan_reaches_the_output():
    rng = np.random.default_rng(0)
    _, q, k, v = inputs(rng, 1, 1, 40, 40, 16)
    q = q.copy()
    q[0, 0, 5, 3] = np.nan
    out, lse = attention(q, k, v, causal=True)
    assert np.isnan(out[0, 0, 5]).all()
    assert np.isnan(lse[0, 0, 5])
    assert np.isfinite(np.delete(out, 5, axis=2)).all()


def test_nan_reaches_the_gradients():
    rng = np.random.default_rng(0)
    g, q, k, v = inputs(rng, 1, 1, 40, 40, 16)
    k = k.copy()
    k[0, 0, 5, 3] = np.nan  # so every weight of every query is NaN
    out, lse = attention(q, k, v)
    for gradient in attention_backward(g, q, k, v, out, lse):
        assert np.isnan(gradient).all()


def test_later_tokens_do_not_change_earlier_outputs_by_one_bit():
    rng = np.random.default_rng(0)
    g, q, k, v = inputs(rng, 1, 2, 260, 260, 32)
    before, lse_before = attention(q, k, v, causal=True)
    for t in (1, 33, 128, 259):
        k2, v2 = k.copy(), v.copy()
        k2[:, :, t:] *= -3
        v2[:, :, t:] += 7
        after, lse = attention(q, k2, v2, causal=True)
        if JIT:  # a BLAS product need not keep the bits
            assert np.array_equal(before[:, :, :t], after[:, :, :t])
            assert np.array_equal(lse_before[:, :, :t], lse[:, :, :t])
        g2 = g.copy()
        g2[:, :, t:] = 0  # nothing comes from later queries: later keys get no gradient
        _, dk, dv = attention_backward(g2, q, k, v, before, lse_before, causal=True)
        assert not dk[:, :, t:].any()
        assert not dv[:, :, t:].any()


@pytest.mark.skipif(not JIT or numba.config.NUMBA_NUM_THREADS < 2, reason="needs Numba and two threads")
def test_the_number_of_threads_does_not_change_a_bit():
    rng = np.random.default_rng(0)
    threads = autotx.get_num_threads()
    for shape in [(3, 5, 100, 100, 32), (1, 1, 1100, 1100, 8)]:  # the second in pieces of one head
        g, q, k, v = inputs(rng, *shape)
        results = []
        try:
            for n in (1, 2, 2):
                autotx.set_num_threads(n)
                out, lse = attention(q, k, v, causal=True)
                results.append((out, lse, *attention_backward(g, q, k, v, out, lse, causal=True)))
        finally:
            autotx.set_num_threads(threads)
        for other in results[1:]:
            assert all(np.array_equal(a, b) for a, b in zip(results[0], other))


def test_twin_for_what_the_kernel_does_not_take():
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((2, 9, 4)) for _ in range(3))
    out, lse = attention(q, k, v, causal=True)
    assert out.dtype == lse.dtype == np.float64
    wide = rng.standard_normal((2, 9, 6))  # values wider than keys
    out, lse = attention(*(x.astype(np.float32) for x in (q, k, wide)))
    np.testing.assert_allclose(out, attention(q, k, wide)[0], rtol=1e-4, atol=1e-5)
    none = np.zeros((2, 0, 4), np.float32)  # no keys at all
    out, lse = attention(q.astype(np.float32), none, none)
    assert out.shape == (2, 9, 4)
    assert not out.any()
    keep = (rng.random((2, 9, 9)) > 0.5) * 2.0
    dropped, _ = attention(*(x.astype(np.float32) for x in (q, k, v)), keep=keep.astype(np.float32))
    np.testing.assert_allclose(dropped, attention(q, k, v, keep=keep)[0], rtol=1e-4, atol=1e-5)


def test_the_gradients_of_scores_have_no_subnormal_numbers():
    """Products with them would take ten times as long."""
    q, k, v, g = (np.zeros((1, 1, 8, 16), np.float32) for _ in range(4))
    q[..., 0], k[..., 0, 0] = 40, 8  # key 0 has a score of 80, the others, of weight e^-80, of 0
    v[..., 1:, :], g[...] = 1, 1e-4
    out, lse = attention(q, k, v)
    _, dk, _ = attention_backward(g, q, k, v, out, lse)
    assert 0 < np.exp(-80.0) * (g[0, 0, 0] @ v[0, 0, 1]) / 4 < np.finfo(np.float32).tiny
    assert not dk[..., 1:, :].any()

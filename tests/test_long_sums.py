"""Long sums of float32: each keeps the digits that float32 has, wherever the house adds (see kernels.FLOAT32_TERMS)."""

import numpy as np
import pytest

import autotx
from autotx import Tensor, kernels

N = 300_000
TENTH = float(np.float32(0.1))
close = {"rtol": 1e-5}  # one after another in float32 they would be wrong by 1e-3 to 1e-2


def tenths(*shape):
    return Tensor(np.full(shape, 0.1, np.float32), requires_grad=True)


def test_a_running_total_and_its_gradient():
    x = tenths(N)
    y = x.cumsum(0)
    y.backward(np.full(N, 0.1, np.float32))
    right = TENTH * np.arange(1, N + 1)
    np.testing.assert_allclose(y.data, right, **close)
    np.testing.assert_allclose(x.grad, right[::-1], **close)


@pytest.mark.parametrize(("subscripts", "others"), [("ij->j", []), ("ji->j", []), ("ij,ij->j", [1]), ("ij,i->j", [2])])
def test_einsum(subscripts, others):
    """Sums of one argument, of products element by element, and of a product with a vector."""
    x = tenths(*((2, N) if subscripts == "ji->j" else (N, 2)))
    y = autotx.einsum(subscripts, x, *(np.ones((N, 2)[: 3 - n], np.float32) for n in others))
    np.testing.assert_allclose(y.data, N * TENTH, **close)
    assert y.dtype == np.float32


def test_einsum_of_a_broadcast_argument():
    x, small = tenths(N, 2), tenths(1, 2)
    autotx.einsum("ij,ij->ij", x, small).sum().backward()
    np.testing.assert_allclose(small.grad, N * TENTH, **close)


def test_the_gradient_of_a_broadcast_argument():
    bias = tenths(2)
    (Tensor(np.zeros((N, 2), np.float32)) + bias).backward(np.full((N, 2), 0.1, np.float32))
    np.testing.assert_allclose(bias.grad, N * TENTH, **close)


@pytest.mark.parametrize("axis", [0, 1])
def test_logsumexp(axis):
    x = Tensor(np.log(np.full((N, 2) if axis == 0 else (2, N), 0.1)).astype(np.float32))
    np.testing.assert_allclose(autotx.logsumexp(x, axis).data, np.log(N * 0.1), rtol=3e-7)


def test_rows_of_softmax():
    x = Tensor(np.log(np.full((1, N), 0.1)).astype(np.float32), requires_grad=True)
    np.testing.assert_allclose(x.softmax().data, 1 / N, **close)
    y = x.log_softmax()
    np.testing.assert_allclose(y.data, -np.log(N), rtol=1e-6)
    y.backward(np.full((1, N), 0.1, np.float32))
    np.testing.assert_allclose(x.grad, 0, atol=1e-5)  # g - p sum g: the sum is N / 10


@pytest.mark.parametrize("take", [
    lambda table, ids: autotx.embedding(table, ids),
    lambda table, ids: table[ids],
    lambda table, ids: table[ids, :],
    lambda table, ids: table.gather(ids[:, None], 0),
])  # fmt: skip
def test_the_gradient_of_an_id_that_is_repeated(take):
    """Into a new buffer, and added to what a row has already."""
    ids = np.zeros(N, np.int64)
    ids[::3] = 2
    table = tenths(4, 2)
    y = take(table, ids)
    y.backward(np.full(y.shape, 0.1, np.float32))
    right = TENTH * np.array([2 * N // 3, 0, N // 3, 0])
    np.testing.assert_allclose(table.grad, right[:, None].repeat(2, 1), **close)


def test_layer_norm_and_linear():
    """The gradients of parameters are sums over all rows."""
    x, one, g = np.tile(np.float32([0, 0.1]), (N, 1)), np.ones(2, np.float32), np.full((N, 2), 0.1, np.float32)
    _, mean, rstd = kernels.layernorm.layer_norm(x, one, one)
    _, dgamma, dbeta = kernels.layernorm.layer_norm_backward(g, x, one, mean, rstd)
    np.testing.assert_allclose(dbeta, N * TENTH, **close)
    np.testing.assert_allclose(dgamma, N * TENTH * np.array([-1, 1]) * 0.05 * rstd[0], **close)
    _, _, dbias = kernels.gemm.linear_backward(
        g, np.ones((N, 3), np.float32), np.ones((2, 3), np.float32), with_bias=True
    )
    np.testing.assert_allclose(dbias, N * TENTH, **close)


def test_label_smoothing():
    """The mean of the logits is not rounded by their sum, and does not overflow where no difference does."""
    loss = autotx.cross_entropy(Tensor(np.full((1, N), 0.1, np.float32)), [0], label_smoothing=0.5)
    np.testing.assert_allclose(loss.data, np.log(N), rtol=1e-6)
    for dtype, high, right in ((np.float32, 3e38, 2.25e37), (np.float64, 1.5e308, 1.125e307)):
        logits = Tensor(np.array([[high, high, -high, 0]], dtype))
        np.testing.assert_allclose(autotx.cross_entropy(logits, [0], label_smoothing=0.1).data, right, rtol=1e-6)

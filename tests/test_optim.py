"""Optimizers against their formulas written out in NumPy and against PyTorch's; saving, clipping, schedules."""

import math

import numpy as np
import pytest

from autotx import Tensor, nn, optim

SHAPES = [(3, 4), (5,), (), (2, 3, 2)]
STEPS = 20


def start(rng, dtype):
    """First values, and a gradient for each parameter and step."""
    values = [np.asarray(rng.standard_normal(s), dtype) for s in SHAPES]
    return values, [[np.asarray(rng.standard_normal(s), dtype) for s in SHAPES] for _ in range(STEPS)]


def run(optimizer, params, grads):
    for step in grads:
        for p, g in zip(params, step):
            p.grad = g.copy()
        optimizer.step()
        optimizer.zero_grad()
    return [p.numpy() for p in params]


def leaves(values):
    return [Tensor(v, requires_grad=True) for v in values]


# Each formula once more, for one parameter: p and its gradients in, the last p out.


def sgd_by_hand(p, grads, lr, momentum=0.0, weight_decay=0.0):
    v = 0
    for g in grads:
        v = momentum * v + g + weight_decay * p
        p = p - lr * v
    return p


def rmsprop_by_hand(p, grads, lr, alpha=0.99, eps=1e-8, weight_decay=0.0):
    v = 0
    for g in grads:
        g = g + weight_decay * p
        v = alpha * v + (1 - alpha) * g**2
        p = p - lr * g / (np.sqrt(v) + eps)
    return p


def adam_by_hand(p, grads, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, decoupled=False):
    m = v = 0
    for t, g in enumerate(grads, start=1):
        if decoupled:
            p = p - lr * weight_decay * p
        else:
            g = g + weight_decay * p
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        p = p - lr * (m / (1 - betas[0] ** t)) / (np.sqrt(v / (1 - betas[1] ** t)) + eps)
    return p


def adamw_by_hand(p, grads, **settings):
    return adam_by_hand(p, grads, decoupled=True, **settings)


CASES = [
    ("SGD", sgd_by_hand, {"lr": 0.1}),
    ("SGD", sgd_by_hand, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.05}),
    ("RMSprop", rmsprop_by_hand, {"lr": 0.01}),
    ("RMSprop", rmsprop_by_hand, {"lr": 0.02, "alpha": 0.9, "eps": 1e-3, "weight_decay": 0.1}),
    ("Adam", adam_by_hand, {"lr": 0.01}),
    ("Adam", adam_by_hand, {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-4, "weight_decay": 0.1}),
    ("AdamW", adamw_by_hand, {"lr": 0.01, "weight_decay": 0.01}),
    ("AdamW", adamw_by_hand, {"lr": 0.02, "betas": (0.9, 0.99), "eps": 1e-6, "weight_decay": 0.3}),
]
DTYPES = [(np.float64, 1e-12), (np.float32, 2e-5)]


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize(("name", "by_hand", "settings"), CASES)
def test_equals_the_formula(name, by_hand, settings, dtype, tolerance, rng):
    values, grads = start(rng, dtype)
    params = leaves(values)
    results = run(getattr(optim, name)(params, **settings), params, grads)
    for i, (value, result) in enumerate(zip(values, results)):
        assert result.dtype == dtype
        expected = by_hand(value.astype(np.float64), [step[i].astype(np.float64) for step in grads], **settings)
        np.testing.assert_allclose(result, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize(("name", "by_hand", "settings"), CASES)
def test_equals_pytorch(name, by_hand, settings, dtype, tolerance, rng):
    torch = pytest.importorskip("torch")
    values, grads = start(rng, dtype)
    params, peers = leaves(values), [torch.tensor(v, requires_grad=True) for v in values]
    peer = getattr(torch.optim, name)(peers, **settings)
    for step in grads:
        for p, g in zip(peers, step):
            p.grad = torch.from_numpy(g.copy())
        peer.step()
    for result, expected in zip(run(getattr(optim, name)(params, **settings), params, grads), peers):
        np.testing.assert_allclose(result, expected.detach().numpy(), rtol=tolerance, atol=tolerance)


def test_a_gradient_of_another_shape_is_refused():
    """A kernel would read on behind its end."""
    p = Tensor(np.ones(3, np.float32), requires_grad=True)
    p.grad = np.ones(1, np.float32)
    optimizer = optim.AdamW([p])
    with pytest.raises(ValueError, match=r"optimizer: the gradient of .* \(3,\) is a ndarray of shape \(1,\)"):
        optimizer.step()
    np.testing.assert_array_equal(p.data, 1)
    assert optimizer.steps.tolist() == [0]


def test_groups_decay_matrices_and_leave_vectors(rng):
    layer = nn.Linear(4, 3, rng=rng)
    layer.bias.data = np.ones(3)
    groups = optim.decay_groups(layer, 0.5)
    optimizer = optim.AdamW(groups, lr=0.1)
    assert [g["weight_decay"] for g in groups] == [0.5, 0.0]
    weight = layer.weight.numpy()
    layer.weight.grad, layer.bias.grad = np.zeros((3, 4), np.float32), np.zeros(3, np.float32)
    optimizer.step()
    np.testing.assert_allclose(layer.weight.data, weight * (1 - 0.1 * 0.5), rtol=1e-6)
    assert np.array_equal(layer.bias.data, np.ones(3))
    own_decay = optim.SGD([{"params": [layer.weight]}], lr=0.1, weight_decay=0.25)
    assert own_decay.decays == [0.25]


def test_a_parameter_without_a_gradient_stands_still_and_its_clock_too(rng):
    values, grads = start(rng, np.float64)
    params = leaves(values)
    optimizer = optim.Adam(params, lr=0.1)
    optimizer.step()
    assert all(np.array_equal(p.data, v) for p, v in zip(params, values))
    results = run(optimizer, params, grads)  # so this is as if the first step had not been
    assert np.allclose(results[0], adam_by_hand(values[0], [g[0] for g in grads], lr=0.1), rtol=1e-12)


@pytest.mark.parametrize("name", ["SGD", "RMSprop", "Adam", "AdamW"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_memory_order_does_not_matter(name, dtype, rng):
    value, grad = (rng.standard_normal((4, 6)).astype(dtype) for _ in "pg")
    results = []
    for order in "CF":
        p = Tensor(np.array(value, order=order), requires_grad=True)
        for g in (grad, np.asfortranarray(grad), np.repeat(grad, 2, axis=1)[:, ::2]):
            p.grad = g
            optimizer = getattr(optim, name)([p], lr=0.1)
            optimizer.step()
        results.append(p.numpy())
    assert not np.allclose(results[0], value)
    assert np.array_equal(*results)


def test_a_step_outdates_the_graph_recorded_before_it(rng):
    p = Tensor(rng.standard_normal(3), requires_grad=True)
    p.name = "table"
    optimizer = optim.SGD([p], lr=0.1)
    loss = (p * p).sum()
    p.grad = np.ones(3)
    optimizer.step()
    with pytest.raises(ValueError, match="'table' of shape \\(3,\\), which has been written to since"):
        loss.backward()


# Saving


@pytest.mark.parametrize(
    ("name", "settings"),
    [("SGD", {"lr": 0.1, "momentum": 0.9}), ("RMSprop", {"lr": 0.01}), ("Adam", {"lr": 0.01}), ("AdamW", {"lr": 0.01})],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_saved_optimizer_goes_on_bit_for_bit(name, settings, dtype, rng):
    values, grads = start(rng, dtype)
    params = leaves(values)
    optimizer = getattr(optim, name)(params, **settings)
    run(optimizer, params, grads[:7])
    optimizer.lr = 0.0123456789
    state, middle = optimizer.state_dict(), leaves([p.numpy() for p in params])
    assert all(isinstance(key, str) and isinstance(value, float | np.ndarray) for key, value in state.items())
    resumed = getattr(optim, name)(middle, **settings)
    resumed.load_state_dict(state)
    assert resumed.lr == 0.0123456789
    through, after = run(optimizer, params, grads[7:]), run(resumed, middle, grads[7:])
    assert all(np.array_equal(a, b) for a, b in zip(through, after))
    last, again = optimizer.state_dict(), resumed.state_dict()
    assert all(np.array_equal(last[key], again[key]) for key in last)
    assert np.array_equal(state["steps"], [7] * 4)  # a copy: going on did not change it


def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(rng):
    params = leaves(start(rng, np.float32)[0])
    optimizer = optim.AdamW(params, lr=0.1)
    state = optimizer.state_dict()
    state["m.0"] = np.zeros((4, 3), np.float32)
    state["v.1"] = state["v.1"].astype(np.float64)
    state["lr"] = 0.5
    state["extra"] = np.zeros(2)
    del state["v.3"]
    with pytest.raises(ValueError, match="load_state_dict: ") as error:
        optimizer.load_state_dict(state)
    wrong_shape = "m.0 is float32 of shape (4, 3), here float32 of shape (3, 4)"
    for part in ("missing v.3", "unexpected extra", wrong_shape, "v.1 is float64"):
        assert part in str(error.value)
    assert optimizer.lr == 0.1


# Clipping


def test_clip_grad_norm(rng):
    _, grads = start(rng, np.float32)
    params = leaves([np.zeros(s, np.float32) for s in SHAPES] + [np.zeros(2, np.float32)])
    for p, g in zip(params, grads[0]):
        p.grad = g.copy()
    norm = math.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in grads[0]))
    assert abs(optim.clip_grad_norm(params, math.inf) / norm - 1) < 1e-6  # infinity measures
    assert abs(optim.clip_grad_norm(params, norm * 1.01) / norm - 1) < 1e-6
    assert all(np.array_equal(p.grad, g) for p, g in zip(params, grads[0]))
    assert abs(optim.clip_grad_norm(iter(params), 0.5) / norm - 1) < 1e-6
    assert all(np.allclose(p.grad, g * 0.5 / norm, rtol=1e-5) for p, g in zip(params, grads[0]))
    assert abs(optim.clip_grad_norm(params, 0.5) - 0.5) < 1e-6
    assert params[-1].grad is None
    assert optim.clip_grad_norm([], 1.0) == 0.0


@pytest.mark.parametrize("grad", [np.ones((3, 2)), np.float32(1), 1.0, [1.0], Tensor([[1.0, 2.0, 3.0]])])
def test_a_gradient_that_is_no_array_of_its_parameters_shape_is_refused(grad):
    p = Tensor([[1.0, 2.0, 3.0]], requires_grad=True)
    p.grad = grad
    optimizer = optim.SGD([p], lr=1.0)
    for who, call in {"clip_grad_norm": lambda: optim.clip_grad_norm([p], 1.0), "optimizer": optimizer.step}.items():
        with pytest.raises(ValueError, match=f"{who}: the gradient of a parameter of shape .1, 3. is a .*; set it to"):
            call()
    assert p.data.tolist() == [[1, 2, 3]]


def test_an_optimizer_shows_its_settings(rng):
    layer = nn.Linear(3, 2, rng=rng)
    sizes = "of 8 numbers in 2 tensors"
    groups = optim.AdamW(optim.decay_groups(layer, 0.1))
    assert repr(groups).startswith("AdamW(lr=0.001, betas=(0.9, 0.999), eps=1e-08, weight_decay=(0.1, 0.0), amsgrad")
    sgd = optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    sgd.lr = 0.5
    assert repr(sgd) == f"SGD(lr=0.5, momentum=0.9, weight_decay=0.0, nesterov=False) {sizes}"


def test_clip_grad_norm_equals_pytorch(rng):
    torch = pytest.importorskip("torch")
    _, grads = start(rng, np.float32)
    params, peers = leaves(grads[1]), [torch.tensor(g) for g in grads[1]]
    for p, peer, g in zip(params, peers, grads[0]):
        p.grad, peer.grad = g.copy(), torch.from_numpy(g.copy())
    expected = torch.nn.utils.clip_grad_norm_(peers, 0.7).item()
    assert abs(optim.clip_grad_norm(params, 0.7) / expected - 1) < 1e-6
    for p, peer in zip(params, peers):
        np.testing.assert_allclose(p.grad, peer.grad.numpy(), rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize(("name", "called"), [("wte.weight", "wte.weight"), (None, "parameter 1")])
def test_clip_grad_norm_names_the_gradient_that_is_not_finite(bad, name, called, rng):
    params = leaves([np.zeros(2, np.float32), np.zeros((2, 3), np.float32), np.zeros(1, np.float32)])
    for p in params:
        p.grad = np.full(p.shape, 5, np.float32)
    params[1].name = name
    params[1].grad[1, 2] = params[2].grad[0] = bad
    with pytest.raises(ValueError, match=f"clip_grad_norm: the gradient of {called} of shape .2, 3. has a NaN"):
        optim.clip_grad_norm(params, 1.0)
    assert np.array_equal(params[0].grad, [5, 5])


def test_clip_grad_norm_large_but_finite():
    p = Tensor(np.zeros(2, np.float32), requires_grad=True)
    p.grad = np.full(2, 1e30, np.float32)  # its square is no float32
    assert abs(optim.clip_grad_norm([p], 1.0) / (math.sqrt(2) * 1e30) - 1) < 1e-6
    np.testing.assert_allclose(p.grad, 0.5**0.5, rtol=1e-5)
    with pytest.raises(ValueError, match="max_norm is 0; give a number above 0"):
        optim.clip_grad_norm([p], 0)


# Schedules


def test_constant():
    assert [optim.constant(0.1)(s) for s in (0, 5)] == [0.1, 0.1]
    np.testing.assert_allclose([optim.constant(1.0, 4)(s) for s in range(7)], [0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0])


def test_warmup_cosine():
    schedule = optim.warmup_cosine(1.0, 0.1, 4, 24)
    np.testing.assert_allclose([schedule(s) for s in range(5)], [0.2, 0.4, 0.6, 0.8, 1.0])
    assert abs(schedule(14) - 0.55) < 1e-12
    assert schedule(24) == schedule(1000) == 0.1
    falling = [schedule(s) for s in range(4, 25)]
    assert falling == sorted(falling, reverse=True)
    assert optim.warmup_cosine(1.0, 1.0, 0, 10)(3) == 1.0
    assert optim.warmup_cosine(1.0, 0.0, 5, 5)(5) == 0.0
    for wrong in ((1.0, 2.0, 1, 2), (1.0, 0.1, 5, 2), (1.0, 0.1, -1, 2)):
        with pytest.raises(ValueError, match="warmup_cosine: min_lr="):
            optim.warmup_cosine(*wrong)


def test_noam():
    schedule = optim.noam(512, 4000)
    assert abs(schedule(3999) - 512**-0.5 * 4000**-0.5) < 1e-12  # the highest
    assert abs(schedule(0) - 512**-0.5 * 4000**-1.5) < 1e-15
    assert abs(schedule(15999) / schedule(3999) - 0.5) < 1e-12
    assert abs(optim.noam(512, 4000, factor=2)(10) / schedule(10) - 2) < 1e-12
    with pytest.raises(ValueError, match="noam: dim 512, warmup_steps 0"):
        optim.noam(512, 0)


# Mistakes


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda p: optim.SGD([], lr=0.1), ValueError, "optimizer: no parameters, or one given twice"),
        (lambda p: optim.SGD([p, p], lr=0.1), ValueError, "optimizer: no parameters, or one given twice"),
        (lambda p: optim.SGD([np.zeros(3)], lr=0.1), TypeError, "optimizer: a parameter is a ndarray; give Tensors"),
        (lambda p: optim.SGD(p, lr=1), TypeError, "optimizer: params is a Tensor; give a list"),
        (lambda p: optim.SGD(nn.ReLU(), lr=1), TypeError, "optimizer: params is a ReLU; give a list"),
        (lambda p: optim.SGD([p * 2], lr=1), ValueError, "optimizer: a parameter is a result of mul; give tensors"),
        (lambda p: optim.SGD([p], lr=-1), ValueError, "optimizer: lr is -1.0; give 0 or more"),
        (lambda p: optim.SGD([p], lr=math.nan), ValueError, "optimizer: lr is nan"),
        (lambda p: optim.SGD([p], lr=1, momentum=1), ValueError, "optimizer: momentum is 1; give from 0 to below 1"),
        (lambda p: optim.RMSprop([p], alpha=-0.1), ValueError, "optimizer: alpha is -0.1"),
        (lambda p: optim.Adam([p], betas=(0.9, 1.0)), ValueError, "optimizer: betas is \\(0.9, 1.0\\)"),
        (lambda p: optim.Adam([p], betas=0.9), ValueError, "optimizer: betas is 0.9; give two from 0 to below 1"),
        (lambda p: optim.Adam([{"params": p}]), TypeError, "optimizer: params is a Tensor; give a list"),
        (lambda p: optim.AdamW([p], eps=-1), ValueError, "optimizer: eps is -1"),
        (lambda p: optim.AdamW([p], weight_decay=-1), ValueError, "optimizer: weight_decay is -1"),
        (lambda p: optim.AdamW([{"params": [p], "betas": 1}]), ValueError, "optimizer: a group has the keys"),
        (lambda p: optim.AdamW([{"weight_decay": 1}]), ValueError, "optimizer: a group has the keys"),
    ],
)
def test_mistakes(make, error, message):
    with pytest.raises(error, match=message):
        make(Tensor([1.0], requires_grad=True))

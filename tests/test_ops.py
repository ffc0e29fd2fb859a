"""Every op over its cases (cases.py): gradients against finite differences, values against NumPy, float32 against
float64, fused ops against the same thing made of primitive ops, and everything against torch where it is installed."""

import inspect
import math
import re

import numpy as np
import pytest
from cases import CASES

import autotx
from autotx import Tensor, functional, gradcheck, kernels
from autotx.ops import losses
from autotx.viz import ops as viz_ops
from autotx.viz.formulas import formulas

# float32 against float64: the tolerances of torch.testing.assert_close, atol times the length of the sums
RTOL, ATOL = 1.3e-6, 1e-5
TIGHT = {"rtol": 1e-6, "atol": 1e-7}  # for finite differences of the table's well-behaved numbers


def f64(array, requires_grad=True):
    return Tensor(array, requires_grad=requires_grad, dtype=np.float64)


# The ops as the table calls them: tensors first, settings by name

OPS = {f.op.__name__: f for f in vars(functional).values() if hasattr(f, "op")}
OPS["where"] = lambda x, y, condition: autotx.where(condition, x, y)
OPS["concat"] = lambda *xs, axis=0: autotx.concat(xs, axis)
OPS["stack"] = lambda *xs, axis=0: autotx.stack(xs, axis)
OPS["einsum"] = lambda *xs, subscripts: autotx.einsum(subscripts, *xs)


IN_NUMPY = """add exp log sqrt tanh abs maximum minimum sum mean cumsum max min matmul sin cos tan arcsin arccos arctan
    sinh cosh arcsinh arccosh arctanh exp2 expm1 log1p log2 log10 square floor_divide remainder prod flip roll
    diagonal"""
NUMPY = {
    **{name: getattr(np, name) for name in IN_NUMPY.split()},
    "softplus": lambda x: np.log(1 + np.exp(x)),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "logsigmoid": lambda x: -np.log(1 + np.exp(-x)),
    "elu": lambda x, alpha=1.0: np.where(x > 0, x, alpha * (np.exp(x) - 1)),
    "leaky_relu": lambda x, negative_slope=0.01: np.where(x > 0, x, negative_slope * x),
    "std": lambda x, axis=None, keepdims=False, correction=0: np.std(x, axis=axis, keepdims=keepdims, ddof=correction),
    "norm": lambda x, ord=2, axis=None, keepdims=False: (np.abs(x) ** ord).sum(axis, keepdims=keepdims) ** (1 / ord),
    "sort": lambda x, axis=-1, descending=False: np.flip(np.sort(x, axis), axis) if descending else np.sort(x, axis),
    "topk": lambda x, k, axis=-1: np.take(np.flip(np.sort(x, axis), axis), np.arange(k), axis),
    "clone": np.copy,
    "astype": lambda x, dtype: x.astype(dtype),
    "softmax": lambda x, axis=-1: np.exp(x) / np.exp(x).sum(axis, keepdims=True) if np.all(x < 700) else None,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.true_divide,
    "pow": np.power,
    "neg": np.negative,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "relu": lambda x: np.where(x > 0, x, 0),
    "gelu": lambda x, approximate="none": (
        x * (np.vectorize(math.erf, "d")(x / 2**0.5) + 1) / 2 if approximate == "none" else None
    ),
    "clip": np.clip,
    "where": lambda x, y, condition: np.where(condition, x, y),
    "masked_fill": lambda x, mask, value: np.where(mask, value, x),
    "var": lambda x, axis=None, keepdims=False, correction=0: np.var(x, axis=axis, keepdims=keepdims, ddof=correction),
    "logsumexp": lambda x, axis=None, keepdims=False: 700 + np.log(np.exp(x - 700).sum(axis=axis, keepdims=keepdims)),
    "reshape": np.reshape,
    "permute": np.transpose,
    "transpose": lambda x, axis0, axis1: np.swapaxes(x, axis0, axis1),
    "expand": lambda x, shape: np.broadcast_to(x, shape) if -1 not in shape else None,
    "squeeze": np.squeeze,
    "unsqueeze": np.expand_dims,
    "getitem": lambda x, index: x[index],
    "gather": lambda x, index, axis: np.take_along_axis(x, index, axis),
    "tril": lambda x, diagonal=0: np.tril(x, diagonal),
    "triu": lambda x, diagonal=0: np.triu(x, diagonal),
    "pad": lambda x, widths, value=0: np.pad(x, widths, constant_values=value) if widths else x,
    "concat": lambda *xs, axis=0: np.concatenate(xs, axis),
    "stack": lambda *xs, axis=0: np.stack(xs, axis),
    "einsum": lambda *xs, subscripts: np.einsum(subscripts, *xs),
    "linear": lambda x, weight, bias=None: x @ weight.T + (0 if bias is None else bias),
    "rms_norm": lambda x, gamma, eps=1e-5: x / np.sqrt(np.mean(x**2, -1, keepdims=True) + eps) * gamma,
    "swiglu": lambda gate, up: gate / (1 + np.exp(-gate)) * up,
    "embedding": lambda weight, ids: weight[ids],
    "mse_loss": lambda x, y, reduction="mean": {"none": lambda d: d, "sum": np.sum, "mean": np.mean}[reduction](
        (x - y) ** 2
    ),
}

REDUCTIONS = "sum mean var std norm prod max min logsumexp"
# Those that take a number for an array of one element; NumPy's do not, or only some of them
ALONG_AN_AXIS = {*REDUCTIONS.split(), "cumsum", "softmax", "log_softmax", "sort", "topk", "flip", "roll"}

ALL = [pytest.param(name, case, id=f"{name}({case})") for name, cases in CASES.items() for case in cases]


def some(wanted):
    return [p for p in ALL if wanted(*p.values)]


def test_every_op_has_cases():
    """A new op without an entry in the table fails here, by name."""
    missing = sorted(set(OPS) - set(CASES))
    assert not missing, f"no cases in tests/cases.py for: {', '.join(missing)}"
    few = sorted(name for name in CASES if len(CASES[name]) < 8)
    assert not few, f"fewer than 8 cases in tests/cases.py for: {', '.join(few)}"
    assert not set(CASES) - set(OPS), "cases for ops that do not exist"


def test_every_differentiable_argument_has_a_gradient_of_its_own():
    """The docstring of an op derives "dx = ..." for each argument x; one with varying arguments says it in words."""
    ops = {f.op.__name__: f.op for f in vars(functional).values() if hasattr(f, "op")}
    for name, op in ops.items():
        for p in inspect.signature(op).parameters.values():
            if p.kind is p.POSITIONAL_ONLY:
                found = formulas(op)[1].get(p.name) or ""
                assert re.match(rf"(?i)d{p.name}(_\w+|\[.*\])? \+?= \S", found), f"{name}: no d{p.name} = ... derived"
            elif p.kind is p.VAR_POSITIONAL:
                assert " g" in (formulas(op)[1].get("*") or ""), f"{name}: it is not said what each argument gets"


@pytest.mark.parametrize(("name", "case"), some(lambda name, case: case.gradcheck))
def test_gradient_is_the_finite_difference(name, case):
    leaves = case.leaves(f64)
    assert gradcheck(lambda *tensors: case.call(OPS[name], _spread(leaves, tensors)), _tensors(leaves), **TIGHT)


@pytest.mark.parametrize("name", CASES)
def test_a_gradient_wrong_by_a_twentieth_of_a_percent_is_caught(name):
    """Would the table notice? Multiply the gradients of each argument by 1.0005 in turn."""
    case = CASES[name][0] if CASES[name][0].leaves(f64)[0].size else CASES[name][3]
    leaves = case.leaves(f64)
    for wrong in range(len(_tensors(leaves))):

        @autotx.lift
        def slightly_off(x, /):
            return x + 0, (lambda g: g * 1.0005,)

        def function(*tensors, wrong=wrong, slightly_off=slightly_off):
            bent = [slightly_off(t) if i == wrong else t for i, t in enumerate(tensors)]
            return case.call(OPS[name], _spread(leaves, bent))

        if all(np.all(row == 0) for row in _gradients(OPS[name], case, np.float64)[1]):
            continue  # a gradient of 0 is right, multiplied by anything
        with pytest.raises(autotx.GradcheckError, match=rf"d argument {wrong}\["):
            gradcheck(function, _tensors(leaves), **TIGHT)


def _tensors(leaves):
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def _spread(leaves, tensors):
    """The arguments with their Tensors replaced, in order, by `tensors`."""
    left = iter(tensors)
    return [next(left) if isinstance(leaf, Tensor) else leaf for leaf in leaves]


@pytest.mark.parametrize(("name", "case"), some(lambda name, case: name in NUMPY))
def test_value_is_numpys(name, case):
    number = np.shape(case.args[0].array) == () and case.settings.get("axis") is not None and name in ALONG_AN_AXIS
    expected = case.call(NUMPY[name], case.leaves(lambda a: a.reshape(1) if number else a))
    if expected is not None:
        result = case.call(OPS[name], case.leaves(f64)).numpy()
        expected = expected.reshape(()) if number else expected
        np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-13, strict=True)


def _gradients(op, case, dtype, round_to=np.float64):
    """The result and the gradient of every tensor argument, for a fixed gradient of the result."""
    leaves = case.leaves(lambda a: Tensor(a.astype(round_to), requires_grad=True, dtype=dtype))
    out = case.call(op, leaves)
    seed = np.random.default_rng(3).normal(size=out.shape).astype(round_to)
    out.backward(seed)
    return out.numpy(), [t.grad for t in _tensors(leaves)]


@pytest.mark.parametrize(("name", "case"), ALL)
def test_float32_is_float64_rounded(name, case):
    out, grads = _gradients(OPS[name], case, np.float32, np.float32)
    exact, exact_grads = _gradients(OPS[name], case, np.float64, np.float32)
    shapes = [a.array.shape for a in case.args if isinstance(a.array, np.ndarray)]
    assert out.dtype == case.settings.get("dtype", np.float32)
    assert [(type(g), g.dtype, g.shape) for g in grads] == [(np.ndarray, np.dtype("f4"), shape) for shape in shapes]
    assert [(type(g), g.dtype, g.shape) for g in exact_grads] == [
        (np.ndarray, np.dtype("f8"), shape) for shape in shapes
    ]
    for rounded, full in zip([out, *grads], [exact, *exact_grads]):
        np.testing.assert_allclose(rounded, full, rtol=RTOL, atol=ATOL * case.length)


# Where there is no derivative, or it is a matter of definition: the documented convention, by value

INF, NAN = np.inf, np.nan
HALF = np.array([[True, False], [False, False]])

CONVENTIONS = [  # op, arguments, settings, the result, the gradient of its sum with respect to each argument
    ("relu", [[-1.0, 0.0, 2.0]], {}, [0, 0, 2], [[0, 0, 1]]),
    ("abs", [[-1.0, 0.0, 2.0]], {}, [1, 0, 2], [[-1, 0, 1]]),
    ("maximum", [[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]], {}, [3, 2, 3], [[0, 0.5, 1], [1, 0.5, 0]]),
    ("minimum", [[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]], {}, [1, 2, 1], [[1, 0.5, 0], [0, 0.5, 1]]),
    ("max", [[1.0, 3.0, 3.0]], {}, 3, [[0, 0.5, 0.5]]),
    ("max", [[[1.0, 1.0], [0.0, 2.0]]], {"axis": 1}, [1, 2], [[[0.5, 0.5], [0, 1]]]),
    ("max", [[[1.0, 1.0], [1.0, 1.0]]], {}, 1, [[[0.25, 0.25], [0.25, 0.25]]]),
    ("min", [[1.0, 1.0, 1.0, 3.0]], {"keepdims": True}, [1], [[1 / 3, 1 / 3, 1 / 3, 0]]),
    ("clip", [[-2.0, -1.0, 0.0, 1.0, 2.0]], {"min": -1, "max": 1}, [-1, -1, 0, 1, 1], [[0, 1, 1, 1, 0]]),
    ("log", [[0.0, 1.0, -1.0]], {}, [-INF, 0, NAN], None),
    ("sqrt", [[0.0, 4.0]], {}, [0, 2], [[INF, 0.25]]),
    ("pow", [[0.0, 0.0, 0.0], [0.0, 1.0, 2.0]], {}, [1, 0, 0], [[0, 1, 0], [0, 0, 0]]),
    ("pow", [[-2.0, 2.0]], {"y": 2}, [4, 4], [[-4, 4]]),
    ("sigmoid", [[-1000.0, 1000.0]], {}, [0, 1], [[0, 0]]),
    ("gelu", [[-100.0, 0.0, 100.0]], {}, [0, 0, 100], [[0, 0.5, 1]]),
    ("softmax", [[[-INF, -INF], [0.0, -INF]]], {}, [[0, 0], [1, 0]], [[[0, 0], [0, 0]]]),
    ("logsumexp", [[[-INF, -INF], [0.0, -INF]]], {"axis": 1}, [-INF, 0], [[[0, 0], [1, 0]]]),
    ("logsumexp", [[1000.0, -1000.0]], {}, 1000, [[1, 0]]),
    ("mse_loss", [[1.0, 2.0], [1.0, 2.0]], {}, 0, [[0, 0], [0, 0]]),
    ("binary_cross_entropy_with_logits", [[-1000.0, 1000.0], [0.0, 1.0]], {}, 0, [[0, 0], [500, -500]]),
    ("binary_cross_entropy_with_logits", [[-INF, INF], [0.0, 1.0]], {"pos_weight": np.array(3.0)}, 0, None),
    ("cross_entropy", [[[0.0, 0.0], [5.0, 9.0]]], {"targets": np.array([0, 7]), "ignore_index": 7}, np.log(2),
     [[[-0.5, 0.5], [0, 0]]]),
    ("cross_entropy", [[[0.0, -INF], [0.0, 0.0]]], {"targets": np.array([0, 1])}, np.log(2) / 2,
     [[[0, 0], [0.25, -0.25]]]),
    ("masked_fill", [[1.0, 2.0]], {"mask": np.array([True, False]), "value": -INF}, [-INF, 2], [[0, 1]]),
    # A query that may attend to nothing gives zeros, and takes no part in the gradients
    ("scaled_dot_product_attention", [np.ones((2, 1)), np.ones((2, 1)), [[3.0], [4.0]]], {"mask": HALF}, [[3], [0]],
     [[[0], [0]], [[0], [0]], [[1], [0]]]),
    ("multi_head_attention", [[[[0.0, 0.0, 3.0], [0.0, 0.0, 4.0]]]], {"n_head": 1, "mask": HALF}, [[[3], [0]]],
     [[[[0, 0, 1], [0, 0, 0]]]]),
]  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "args", "settings", "result", "gradients"), CONVENTIONS)
def test_conventions(name, args, settings, result, gradients, dtype):
    tensors = [Tensor(a, requires_grad=True, dtype=dtype) for a in args]
    out = OPS[name](*tensors, **settings)
    np.testing.assert_allclose(out.data, result, rtol=1e-6, atol=1e-7)
    if gradients is not None:
        out.sum().backward()
        for t, expected in zip(tensors, gradients, strict=True):
            np.testing.assert_allclose(t.grad, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int64])
def test_whole_numbers_do_not_wrap_around(dtype):
    x, y = np.array([1, 3], dtype), np.array([0, 1], dtype)
    logits = (autotx.sigmoid, autotx.logsumexp, autotx.softmax, autotx.log_softmax)
    for f in (*logits, lambda x: autotx.binary_cross_entropy_with_logits(x, y)):
        np.testing.assert_allclose(f(x).data, f(x.astype(np.float64)).data)


ZERO_BELOW = {  # 0 for x <= 0, else x, as six ops say it
    "relu": lambda x: x.relu(),
    "clip": lambda x: x.clip(min=1e-9) - 1e-9,
    "maximum": lambda x: autotx.maximum(x, 0.0),
    "minimum": lambda x: -autotx.minimum(0.0, -x),
    "where": lambda x: autotx.where(x > 0, x, 0.0),
    "masked_fill": lambda x: x.masked_fill(x <= 0, 0.0),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("f", ZERO_BELOW.values(), ids=ZERO_BELOW)
def test_an_infinite_gradient_does_not_get_to_what_was_not_chosen(f, dtype):
    x = Tensor([-1.0, 4.0], requires_grad=True, dtype=dtype)
    f(x).sqrt().sum().backward()  # the root has an infinite slope at 0
    np.testing.assert_allclose(x.grad, [0, 0.25], rtol=1e-6)
    assert x.grad.dtype == dtype


@pytest.mark.parametrize("size", [5, 40_000])  # the second is large enough for kernels.add
@pytest.mark.parametrize("index", [((0, 0, 1),), [0, 0, 1], range(3), True, (slice(None, None, -2),), -1], ids=str)
@pytest.mark.parametrize("columns", [(), (2,)], ids=str)
def test_every_kind_of_index_gives_its_gradient_back(size, index, columns):
    x = f64(np.arange(2.0 * size).reshape(2, size).T if columns else np.arange(float(size)))
    if size > 5 and isinstance(index, range):
        index = range(size)
    x[index].sum().backward()
    places = np.bincount(x.data[index].astype(int).reshape(-1), minlength=x.size)
    np.testing.assert_array_equal(x.grad.T.reshape(-1), places)


# Cross entropy: the gradient is P - y

WORDS = ["mat", "hat", "bat", "rat"]  # the whitepaper's "The cat sat on the ___."


@pytest.mark.parametrize("predicted", [[0.7, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.7]])
def test_the_whitepapers_example(predicted):
    """Its losses, 0.357 and 2.303, and its gradients: for mat 0.1 - 1 = -0.9, for hat and bat 0.1, for rat 0.7."""
    logits = f64(np.log(predicted))
    loss = autotx.cross_entropy(logits, WORDS.index("mat"))
    loss.backward()
    printed = {0.7: (0.357, [-0.3, 0.1, 0.1, 0.1]), 0.1: (2.303, [-0.9, 0.1, 0.1, 0.7])}[predicted[0]]
    assert round(loss.item(), 3) == printed[0]
    assert [round(d, 15) for d in logits.grad.tolist()] == printed[1]
    assert list(WORDS)[int(np.argmin(logits.grad))] == "mat", "only the right word is to become more probable"


def test_p_minus_y_exactly_where_numbers_are_exact():
    """Four equal logits: P is 1/4 to the last bit, and so is the gradient."""
    logits = f64([0.0, 0.0, 0.0, 0.0])
    autotx.cross_entropy(logits, 2).backward()
    assert logits.grad.tolist() == [0.25, 0.25, -0.75, 0.25]


def test_the_gradient_equals_p_minus_y_bit_for_bit(rng):
    """With P = exp(ln softmax(z)): for the whitepaper's two predictions, and for any logits. In float64."""
    for z in [np.log([[0.7, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.7]]), 3 * rng.normal(size=(200, 30))]:
        logits, targets = f64(z), np.zeros(len(z), int)
        autotx.cross_entropy(logits, targets, reduction="sum").backward()
        P = autotx.exp(autotx.log_softmax(logits)).numpy()
        y = np.eye(z.shape[1])[targets]
        assert np.array_equal(logits.grad, P - y)


def test_linear_cross_entropy_in_pieces_is_cross_entropy_of_linear(rng, monkeypatch):
    monkeypatch.setattr(losses, "PIECE", 7 * 100)  # seven positions at a time, of 24
    x, weight, targets = rng.normal(size=(4, 6, 20)), rng.normal(size=(100, 20)), rng.integers(0, 100, (4, 6))
    ours, theirs = ([Tensor(a, requires_grad=True) for a in (x, weight)] for _ in range(2))
    loss = autotx.linear_cross_entropy(*ours, targets, ignore_index=targets[0, 0], label_smoothing=0.1)
    whole = autotx.cross_entropy(autotx.linear(*theirs), targets, ignore_index=targets[0, 0], label_smoothing=0.1)
    (3 * loss).backward()
    (3 * whole).backward()
    assert loss.item() == pytest.approx(whole.item(), rel=1e-12)
    for a, b in zip(ours, theirs):
        np.testing.assert_allclose(a.grad, b.grad, rtol=1e-9, atol=1e-15)


def test_a_second_backward_pass_of_linear_cross_entropy_adds_the_same_gradients(rng):
    x, weight = (Tensor(rng.normal(size=shape), requires_grad=True) for shape in [(6, 4), (9, 4)])
    loss = autotx.linear_cross_entropy(x, weight, [0, 1, 2, 3, 8, 8])
    loss.backward(retain_graph=True)
    once = x.grad.copy(), weight.grad.copy()
    loss.backward(3)
    for a, first in zip((x, weight), once):
        np.testing.assert_allclose(a.grad, 4 * first, rtol=1e-12)


def test_linear_cross_entropy_of_nothing_has_gradients_of_zeros():
    x, weight = (Tensor(np.ones(shape), requires_grad=True) for shape in [(0, 4), (9, 4)])
    autotx.linear_cross_entropy(x, weight, np.zeros(0, int), reduction="sum").backward()
    assert x.grad.shape == (0, 4)
    assert not weight.grad.any()


def test_linear_cross_entropy_computes_only_the_gradients_that_are_wanted(rng, monkeypatch):
    made, matmul = [], kernels.gemm.matmul
    monkeypatch.setattr(kernels.gemm, "matmul", lambda a, b, *rest, **s: made.append(1) or matmul(a, b, *rest, **s))
    x, weight = Tensor(rng.normal(size=(4, 3)), requires_grad=True), Tensor(rng.normal(size=(5, 3)))
    autotx.linear_cross_entropy(x, weight, [0, 1, 2, 3]).backward()
    assert len(made) == 2  # the logits and dx
    assert weight.grad is None
    with autotx.no_grad():
        autotx.linear_cross_entropy(x, weight, [0, 1, 2, 3])
    assert len(made) == 3


@pytest.mark.parametrize("shape", [(4,), (3, 5), (2, 3, 7), (50, 300)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_the_gradient_of_cross_entropy_is_p_minus_y(rng, shape, dtype):
    """Equal to the last bits: a wrong word's gradient is its probability, the right word's is its probability - 1."""
    logits = Tensor(3 * rng.normal(size=shape), requires_grad=True, dtype=dtype)
    targets = rng.integers(0, shape[-1], shape[:-1])
    autotx.cross_entropy(logits, targets, reduction="sum").backward()
    P, y = autotx.softmax(logits).numpy(), np.eye(shape[-1], dtype=dtype)[targets]
    np.testing.assert_allclose(logits.grad, P - y, rtol=8 * np.finfo(dtype).eps, atol=4 * np.finfo(dtype).eps)
    np.testing.assert_allclose(logits.grad.sum(-1), 0, atol=100 * np.finfo(dtype).eps)


# Fused ops against the same thing made of primitive ops


@autotx.lift
def erf(x, /):
    """The error function, as one's own op: dx = g 2 / sqrt(pi) exp(-x^2)."""
    return np.vectorize(math.erf, "d")(x), (lambda g: g * 2 / math.pi**0.5 * np.exp(-(x**2)),)


def _softmax(x, axis=-1):
    e = (x - (x.detach().max(axis, keepdims=True) if x.size else 0)).exp()
    return e / e.sum(axis, keepdims=True)


def _gelu(x, approximate="none"):
    if approximate == "none":
        return x * (1 + erf(x / 2**0.5)) / 2
    return x * (1 + autotx.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x**3))) / 2


def _layer_norm(x, gamma, beta, eps=1e-5):
    d = x - x.sum(-1, keepdims=True) / x.shape[-1]
    return gamma * d / ((d * d).sum(-1, keepdims=True) / x.shape[-1] + eps).sqrt() + beta


def _dropout(x, p, rng=None):
    if rng is None:
        return x + 0
    return x * (rng.random(x.shape, dtype=np.float32) >= p) / (1 - p)


def _attention(q, k, v, mask=None, causal=False, dropout_p=0.0, rng=None):
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    allowed = np.ones(scores.shape, bool)
    if mask is not None:
        allowed &= mask if mask.dtype == bool else ~np.isneginf(mask)
        scores = scores if mask.dtype == bool else scores + np.where(np.isneginf(mask), 0, mask)
    if causal:
        T, S = scores.shape[-2:]
        allowed &= np.arange(S) <= np.arange(T)[:, None] + (S - T)
    scores = scores.masked_fill(~allowed, -1e9)
    e = (scores - (scores.detach().max(-1, keepdims=True) if scores.size else 0)).exp() * allowed
    weights = e / autotx.maximum(e.sum(-1, keepdims=True), 1e-30)  # a query that may attend to nothing: 0 / 1e-30
    return _dropout(weights, dropout_p, rng) @ v


def _rms_norm(x, gamma, eps=1e-5):
    return gamma * x / ((x * x).sum(-1, keepdims=True) / x.shape[-1] + eps).sqrt()


def _rope(x, base=10000.0, start=0):
    """By complex numbers: channels i and i + D / 2 are the two parts of one, which is multiplied by e^(i angle)."""
    T, half = x.shape[-2], x.shape[-1] // 2
    turn = np.exp(1j * np.outer(np.arange(start, start + T), [base ** (-i / half) for i in range(half)]))
    turn = {part: f.astype(x.dtype) for part, f in (("re", turn.real), ("im", turn.imag))}
    re, im = x[..., :half], x[..., half:]
    return autotx.concat([re * turn["re"] - im * turn["im"], re * turn["im"] + im * turn["re"]], axis=-1)


def _multi_head_attention(x, kv=None, *, n_head, n_kv_head=None, rope_base=None, **settings):
    """The heads' results side by side, each head cut out of x, or of x and kv."""
    G = n_kv_head or n_head
    D = x.shape[2] // (n_head + 2 * G if kv is None else n_head)
    parts = x.split([n_head * D, G * D, G * D], axis=2) if kv is None else [x, *kv.split(G * D, axis=2)]
    q, k, v = (autotx.stack(part.split(D, axis=2), axis=1) for part in parts)
    if rope_base:
        q, k = _rope(q, rope_base), _rope(k, rope_base)
    k, v = (autotx.stack([part[:, h * G // n_head] for h in range(n_head)], axis=1) for part in (k, v))
    out = _attention(q, k, v, **settings)
    return autotx.concat([out[:, h] for h in range(n_head)], axis=2)


def _reduced(losses, counted, reduction):
    if reduction == "none":
        return losses
    return losses.sum() / (counted.sum() if reduction == "mean" else 1)


def _onehot(scores, targets, ignore_index):
    counted = np.ones(np.shape(targets), bool) if ignore_index is None else targets != ignore_index
    return np.eye(scores.shape[-1])[np.where(counted, targets, 0)] * counted[..., None], counted


def _nll_loss(log_probs, targets, ignore_index=None, reduction="mean"):
    y, counted = _onehot(log_probs, targets, ignore_index)
    return _reduced(-(log_probs * y).sum(-1), counted, reduction)


def _cross_entropy(logits, targets, ignore_index=None, label_smoothing=0.0, reduction="mean", weight=None):
    w = np.ones(logits.shape[-1]) if weight is None else weight
    if np.asarray(targets).dtype.kind == "f":
        counted, y, parts = np.array(True), targets, np.ones(logits.shape[:-1])
    else:
        y, counted = _onehot(logits, targets, ignore_index)
        parts = y @ w
    q = ((1 - label_smoothing) * y + label_smoothing / logits.shape[-1]) * w * counted[..., None]
    losses = -(Tensor(q) * autotx.log_softmax(logits)).sum(axis=-1)
    return losses if reduction == "none" else losses.sum() / (parts.sum() if reduction == "mean" else 1)


def _bce(x, y, reduction="mean", pos_weight=None):
    p = 1 / (1 + (-x).exp())
    q = 1 / (1 + x.exp())
    w = 1 if pos_weight is None else pos_weight
    return _reduced(-(w * y * p.log() + (1 - y) * q.log()), np.ones(x.shape), reduction)


COMPOSED = {
    "softmax": _softmax,
    "log_softmax": lambda x, axis=-1: x - x.logsumexp(axis, keepdims=True) if x.size else x + 0,
    "gelu": _gelu,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "rope": _rope,
    "swiglu": lambda gate, up: gate * autotx.sigmoid(gate) * up,
    "dropout": _dropout,
    "linear": lambda x, weight, bias=None: x @ weight.T + (0 if bias is None else bias),
    "embedding": lambda weight, ids: autotx.getitem(weight, ids),
    "scaled_dot_product_attention": _attention,
    "multi_head_attention": _multi_head_attention,
    "cross_entropy": _cross_entropy,
    "linear_cross_entropy": lambda x, weight, **settings: _cross_entropy(x @ weight.T, **settings),
    "nll_loss": _nll_loss,
    "mse_loss": lambda x, y, reduction="mean": _reduced((x - y) ** 2, np.ones(x.shape), reduction),
    "binary_cross_entropy_with_logits": _bce,
    "logsumexp": lambda x, axis=None, keepdims=False: 700 + (x - 700).exp().sum(axis, keepdims=keepdims).log(),
    "sigmoid": lambda x: 1 / (1 + (-x).exp()),
    "relu": lambda x: autotx.maximum(x, 0),
    "clip": lambda x, min=None, max=None: autotx.minimum(
        autotx.maximum(x, -99 if min is None else min), 99 if max is None else max
    ),
    "masked_fill": lambda x, mask, value: x * ~mask + value * mask,
    "div": lambda x, y: x * y**-1 if isinstance(y, Tensor) else x * (1 / y),
    "tril": lambda x, diagonal=0: x * np.tri(*x.shape[-2:], diagonal),
    "triu": lambda x, diagonal=0: x * (1 - np.tri(*x.shape[-2:], diagonal - 1)),
    "stack": lambda *xs, axis=0: autotx.concat([x.unsqueeze(axis) for x in xs], axis),
    "var": lambda x, axis=None, keepdims=False, correction=0: _var(x, axis, keepdims, correction),
    **{name: viz_ops.COMPOSED[name] for name in ("rnn", "lstm", "gru")},
}


def _var(x, axis, keepdims, correction):
    d = x - x.mean(axis, keepdims=True)
    out = (d * d).sum(axis, keepdims=keepdims)
    return out / (x.size / out.size - correction) if out.size else out


@pytest.mark.parametrize(("name", "case"), some(lambda name, case: name in COMPOSED))
def test_fused_is_composed(name, case):
    out, grads = _gradients(OPS[name], case, np.float64)
    composed, composed_grads = _gradients(COMPOSED[name], case, np.float64)
    for fused, parts in zip([out, *grads], [composed, *composed_grads], strict=True):
        np.testing.assert_allclose(fused, parts, rtol=1e-9, atol=1e-10, strict=True)


# The same in torch


IN_TORCH = """add sub mul div pow neg exp log sqrt tanh sigmoid relu abs maximum minimum matmul sin cos tan arcsin
    arccos arctan sinh cosh arcsinh arccosh arctanh exp2 expm1 log1p log2 log10 square remainder clone"""


def _torch_ops(torch):
    F = torch.nn.functional

    def dims(x, axis):
        return tuple(range(x.ndim)) if axis is None else axis

    def reducing(f):
        return lambda x, axis=None, keepdims=False: f(x, dim=dims(x, axis), keepdim=keepdims) if axis != () else x + 0

    def prod(x, axis=None, keepdims=False):
        axes = dims(x, axis)
        for i in sorted(a % x.ndim if x.ndim else a for a in (axes if isinstance(axes, tuple) else (axes,)))[::-1]:
            x = x.prod(i, keepdims)
        return x + 0

    def softmax(x, axis=-1):
        return log_softmax(x, axis).exp() if isinstance(dims(x, axis), tuple) else torch.softmax(x, axis)

    def log_softmax(x, axis=-1):
        axes = dims(x, axis)
        return x - x.logsumexp(axes, keepdim=True) if isinstance(axes, tuple) else torch.log_softmax(x, axis)

    def attention(q, k, v, mask=None, causal=False, dropout_p=0.0, rng=None):
        mask = None if mask is None else torch.from_numpy(mask)
        if causal:  # torch's is_causal counts from the first key, ours from the last
            T, S = q.shape[-2], k.shape[-2]
            past = torch.ones(T, S, dtype=bool).tril(S - T)
            mask = past if mask is None else mask & past
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    def rope(x, base=10000.0, start=0):
        half = x.shape[-1] // 2
        angle = torch.arange(start, start + x.shape[-2]).double()[:, None] * base ** (
            -torch.arange(half).double() / half
        )
        cos, sin = (torch.cat([f(angle)] * 2, dim=-1) for f in (torch.cos, torch.sin))
        return x * cos + torch.cat([-x[..., half:], x[..., :half]], dim=-1) * sin

    def multi_head_attention(x, kv=None, *, n_head, n_kv_head=None, rope_base=None, **settings):
        G = n_kv_head or n_head
        D = x.shape[2] // (n_head + 2 * G if kv is None else n_head)
        parts = x.split([n_head * D, G * D, G * D], dim=2) if kv is None else (x, *kv.chunk(2, dim=2))
        q, k, v = (part.unflatten(2, (part.shape[2] // D, D)).transpose(1, 2) for part in parts)
        q, k = (rope(part, rope_base) if rope_base else part for part in (q, k))
        k, v = (part.repeat_interleave(n_head // G, dim=1) for part in (k, v))
        return attention(q, k, v, **settings).transpose(1, 2).flatten(2)

    def classes(f):
        def loss(x, targets, ignore_index=None, reduction="mean", weight=None, **settings):
            flat = torch.as_tensor(np.asarray(targets)).reshape(-1)
            flat = flat.reshape(-1, x.shape[-1]) if flat.is_floating_point() else flat
            settings["ignore_index"] = -100 if ignore_index is None else ignore_index
            settings["weight"] = None if weight is None else torch.from_numpy(weight)
            out = f(x.reshape(-1, x.shape[-1]), flat, reduction=reduction, **settings)
            return out.reshape(x.shape[:-1]) if reduction == "none" else out

        return loss

    def recurrent(f, x, state, w_ih, w_hh, b_ih=None, b_hh=None):
        biases = [torch.zeros(len(w_hh), dtype=x.dtype) if b is None else b for b in (b_ih, b_hh)]
        state = tuple(s[None] for s in state) if isinstance(state, tuple) else state[None]
        y, _, *c = f(x, state, [w_ih, w_hh, *biases], True, 1, 0.0, False, False, True)
        return torch.cat([y, *(last.transpose(0, 1) for last in c)], dim=1)

    def clip(x, min=None, max=None):
        return torch.clip(x, min, max)

    return {
        **{name: getattr(torch, name) for name in IN_TORCH.split()},
        "gelu": F.gelu,
        "silu": F.silu,
        "softplus": lambda x: F.softplus(x, threshold=700),
        "logsigmoid": F.logsigmoid,
        "elu": F.elu,
        "leaky_relu": F.leaky_relu,
        "floor_divide": lambda x, y: torch.floor(x / y) + 0 * (x + y),  # torch gives it no gradient
        "std": lambda x, axis=None, keepdims=False, correction=0: torch.std(
            x, dims(x, axis), correction=correction, keepdim=keepdims
        ),
        "norm": lambda x, ord=2, axis=None, keepdims=False: (
            torch.linalg.vector_norm(x, ord, dims(x, axis), keepdims) if axis != () else x.abs()
        ),
        "prod": prod,
        "flip": lambda x, axis=None: torch.flip(x, (axis,) if isinstance(axis, int) else dims(x, axis)),
        "roll": lambda x, shift, axis=None: torch.roll(x, shift, axis),
        "diagonal": lambda x, offset=0, axis1=0, axis2=1: torch.diagonal(x, offset, axis1, axis2),
        "sort": lambda x, axis=-1, descending=False: torch.sort(x, dim=axis, descending=descending, stable=True)[0],
        "topk": lambda x, k, axis=-1: torch.topk(x, k, axis)[0],
        "astype": lambda x, dtype: x.to(torch.float64),
        "clip": clip,
        "where": lambda x, y, condition: torch.where(torch.from_numpy(np.asarray(condition)), x, y),
        "masked_fill": lambda x, mask, value: x.masked_fill(torch.from_numpy(mask), value),
        "sum": reducing(torch.sum),
        "mean": reducing(torch.mean),
        "max": reducing(torch.amax),
        "min": reducing(torch.amin),
        "logsumexp": reducing(torch.logsumexp),
        "var": lambda x, axis=None, keepdims=False, correction=0: torch.var(
            x, dims(x, axis), correction=correction, keepdim=keepdims
        ),
        "cumsum": lambda x, axis: torch.cumsum(x, axis),
        "reshape": lambda x, shape: torch.reshape(x, shape if isinstance(shape, tuple) else (shape,)),
        "permute": lambda x, axes: x.permute(axes),
        "transpose": lambda x, axis0, axis1: x.transpose(axis0, axis1),
        "expand": lambda x, shape: x.expand(shape),
        "squeeze": lambda x, axis=None: x.squeeze() if axis is None else x.squeeze(axis),
        "unsqueeze": lambda x, axis: x.unsqueeze(axis),
        "getitem": lambda x, index: x[index],
        "gather": lambda x, index, axis: torch.gather(x, axis, torch.from_numpy(index)),
        "pad": lambda x, widths, value=0.0: (
            F.pad(x, [n for w in widths[::-1] for n in w], value=value) if widths else x + 0
        ),
        "concat": lambda *xs, axis=0: torch.cat(xs, axis),
        "stack": lambda *xs, axis=0: torch.stack(xs, axis),
        "tril": lambda x, diagonal=0: torch.tril(x, diagonal),
        "triu": lambda x, diagonal=0: torch.triu(x, diagonal),
        "linear": F.linear,
        "einsum": lambda *xs, subscripts: torch.einsum(subscripts, *xs),
        "softmax": softmax,
        "log_softmax": log_softmax,
        "layer_norm": lambda x, gamma, beta, eps=1e-5: F.layer_norm(x, x.shape[-1:], gamma, beta, eps),
        "rnn": lambda *given, nonlinearity="tanh": recurrent(getattr(torch, f"rnn_{nonlinearity}"), *given),
        "lstm": lambda x, h, c, *given: recurrent(torch.lstm, x, (h, c), *given),
        "gru": lambda *given: recurrent(torch.gru, *given),
        "rms_norm": lambda x, gamma, eps=1e-5: F.rms_norm(x, x.shape[-1:], gamma, eps),
        "rope": rope,
        "swiglu": lambda gate, up: F.silu(gate) * up,
        "embedding": lambda weight, ids: F.embedding(torch.from_numpy(ids.astype(np.int64)), weight),
        "scaled_dot_product_attention": attention,
        "multi_head_attention": multi_head_attention,
        "cross_entropy": classes(F.cross_entropy),
        "linear_cross_entropy": lambda x, weight, **settings: classes(F.cross_entropy)(x @ weight.T, **settings),
        "nll_loss": classes(F.nll_loss),
        "mse_loss": F.mse_loss,
        "binary_cross_entropy_with_logits": lambda x, y, reduction="mean", pos_weight=None: (
            F.binary_cross_entropy_with_logits(
                x, y, reduction=reduction, pos_weight=None if pos_weight is None else torch.as_tensor(pos_weight)
            )
        ),
    }


@pytest.mark.filterwarnings("ignore:(var|std)")  # torch's, about axes without elements
@pytest.mark.parametrize(
    ("name", "case"), some(lambda name, case: case.torch and "rng" not in case.settings and name != "dropout")
)
def test_torch_agrees(name, case):
    torch = pytest.importorskip("torch")
    leaves = [
        torch.as_tensor(leaf) if isinstance(leaf, float) else leaf
        for leaf in case.leaves(lambda a: torch.tensor(a, requires_grad=True))
    ]
    out = case.call(_torch_ops(torch)[name], leaves)
    out.backward(torch.from_numpy(np.asarray(np.random.default_rng(3).normal(size=tuple(out.shape)))))
    theirs = [out.detach(), *(leaf.grad for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.requires_grad)]
    ours, our_grads = _gradients(OPS[name], case, np.float64)
    for mine, other in zip([ours, *our_grads], theirs, strict=True):
        np.testing.assert_allclose(mine, other.numpy(), rtol=1e-9, atol=1e-10, strict=True)

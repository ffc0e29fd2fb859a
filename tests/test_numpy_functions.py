"""NumPy's functions on Tensors: every entry of the table against NumPy and finite differences, and what is refused."""

import inspect
import operator

import numpy as np
import pytest

import autotx
from autotx import Tensor, gradcheck, numpy_functions
from autotx.numpy_functions import OPS, PLAIN

A = np.array([[0.31, 0.72, 0.53], [0.94, 0.25, 0.46]])
B = np.array([[1.34, 0.61, 2.53], [0.74, 1.13, 0.82]])
S = np.array([[1.57, 0.33], [0.21, 0.94]])
INDEX = np.array([[0, 2, 1], [1, 1, 0]])

CALLS = {  # function: the calls of it, on Tensors or arrays x (2, 3), y (2, 3), s (2, 2)
    np.power: [lambda f, x, y, s: f(x, y), lambda f, x, y, s: f(x, 2)],
    np.matmul: [lambda f, x, y, s: f(s, x), lambda f, x, y, s: f(S, x), lambda f, x, y, s: f(x, [1.0, 2.0, 3.0])],
    np.arccosh: [lambda f, x, y, s: f(x + 1)],
    **{f: [lambda f, x, y, s: f(x), lambda f, x, y, s: f(x, axis=0), lambda f, x, y, s: f(x, 1, keepdims=True)]
       for f in (np.sum, np.mean, np.prod, np.max, np.min, np.amax, np.amin, np.var, np.std)},
    np.linalg.norm: [
        lambda f, x, y, s: f(x), lambda f, x, y, s: f(x, "fro"), lambda f, x, y, s: f(x, 1, axis=0),
        lambda f, x, y, s: f(x[0], 3), lambda f, x, y, s: f(x, axis=1, keepdims=True),
    ],
    np.linalg.vector_norm: [lambda f, x, y, s: f(x), lambda f, x, y, s: f(x, axis=1, ord=1)],
    np.cumsum: [lambda f, x, y, s: f(x), lambda f, x, y, s: f(x, axis=0), lambda f, x, y, s: f(x, 1)],
    np.trace: [lambda f, x, y, s: f(x), lambda f, x, y, s: f(x, 1)],
    np.dot: [lambda f, x, y, s: f(s, x), lambda f, x, y, s: f(x, 2.0), lambda f, x, y, s: f(x[0], y[1])],
    np.outer: [lambda f, x, y, s: f(x[0], y[1]), lambda f, x, y, s: f(x, S)],
    np.einsum: [
        lambda f, x, y, s: f("ij,ik->jk", x, s), lambda f, x, y, s: f("ij,ij", x, y, optimize=True),
        lambda f, x, y, s: f(x, [0, 1], s, [0, 2], [1, 2]), lambda f, x, y, s: f(x, [1, 0]),
        lambda f, x, y, s: f(x, [..., 0], [0, ...]),
    ],
    np.reshape: [lambda f, x, y, s: f(x, (3, 2)), lambda f, x, y, s: f(x, -1), lambda f, x, y, s: f(x, shape=6)],
    np.ravel: [lambda f, x, y, s: f(x)],
    np.transpose: [lambda f, x, y, s: f(x), lambda f, x, y, s: f(x, (1, 0))],
    np.swapaxes: [lambda f, x, y, s: f(x, 0, 1)],
    np.moveaxis: [lambda f, x, y, s: f(x, 0, 1), lambda f, x, y, s: f(np.reshape(x, (1, 2, 3)), (0, 1), (-1, 0))],
    np.expand_dims: [lambda f, x, y, s: f(x, 1), lambda f, x, y, s: f(x, axis=-1)],
    np.squeeze: [lambda f, x, y, s: f(x[None]), lambda f, x, y, s: f(x[None], axis=0)],
    np.broadcast_to: [lambda f, x, y, s: f(x, (2, 2, 3)), lambda f, x, y, s: f(x[0, 0], 3)],
    np.broadcast_arrays: [lambda f, x, y, s: f(x, y[0])],
    np.atleast_1d: [lambda f, x, y, s: f(x[0, 0]), lambda f, x, y, s: f(x, y[0, 0])],
    np.atleast_2d: [lambda f, x, y, s: f(x[0]), lambda f, x, y, s: f(x)],
    np.concatenate: [
        lambda f, x, y, s: f([x, y]), lambda f, x, y, s: f((x, s), axis=1), lambda f, x, y, s: f([x, B], None),
    ],
    np.stack: [lambda f, x, y, s: f([x, y]), lambda f, x, y, s: f([x, B], axis=-1)],
    np.hstack: [lambda f, x, y, s: f([x, s]), lambda f, x, y, s: f([x[0], y[1]])],
    np.vstack: [lambda f, x, y, s: f([x, y[0]])],
    np.column_stack: [lambda f, x, y, s: f([x[0], y[1]]), lambda f, x, y, s: f([s, x[:, 0]])],
    np.split: [lambda f, x, y, s: f(x, 3, axis=1), lambda f, x, y, s: f(x, [1], 1), lambda f, x, y, s: f(x, 2)],
    np.where: [lambda f, x, y, s: f(A > 0.4, x, y), lambda f, x, y, s: f(INDEX, x, 0.0)],
    np.clip: [lambda f, x, y, s: f(x, 0.27, 0.6), lambda f, x, y, s: f(x, None, 0.6), lambda f, x, y, s: f(x, max=0.6)],
    np.pad: [lambda f, x, y, s: f(x, 1), lambda f, x, y, s: f(x, [(1, 0), (0, 2)], constant_values=3)],
    np.tril: [lambda f, x, y, s: f(x), lambda f, x, y, s: f(x, -1)],
    np.triu: [lambda f, x, y, s: f(x), lambda f, x, y, s: f(x, k=1)],
    np.diagonal: [lambda f, x, y, s: f(x), lambda f, x, y, s: f(x, 1)],
    np.take: [lambda f, x, y, s: f(x, [0, 5, 5]), lambda f, x, y, s: f(x, [[2, 0]], axis=1)],
    np.take_along_axis: [lambda f, x, y, s: f(x, INDEX, 1), lambda f, x, y, s: f(x, INDEX, axis=-1)],
    np.repeat: [
        lambda f, x, y, s: f(x, 2), lambda f, x, y, s: f(x, 2, axis=0), lambda f, x, y, s: f(x, [1, 0, 2], axis=1),
    ],
    np.tile: [lambda f, x, y, s: f(x, 2), lambda f, x, y, s: f(x, (2, 1, 3)), lambda f, x, y, s: f(x[0, 0], (2,))],
    np.roll: [lambda f, x, y, s: f(x, 2), lambda f, x, y, s: f(x, 1, axis=1)],
    np.flip: [lambda f, x, y, s: f(x), lambda f, x, y, s: f(x, axis=0)],
    np.sort: [lambda f, x, y, s: f(x), lambda f, x, y, s: f(x, axis=None), lambda f, x, y, s: f(x, 0)],
    np.astype: [lambda f, x, y, s: f(x, np.float64)],
}  # fmt: skip


def _calls(function):
    if isinstance(function, np.ufunc):
        simple = (lambda f, x, y, s: f(x)) if function.nin == 1 else (lambda f, x, y, s: f(x, y))
        mixed = (lambda f, x, y, s: f(B, x), lambda f, x, y, s: f(y, 0.7)) if function.nin == 2 else ()
        return CALLS.get(function, [simple, *mixed])
    return CALLS.get(function, [lambda f, x, y, s: f(x)])


ENTRIES = [pytest.param(f, call, id=f"{f.__name__}{i}") for f in OPS for i, call in enumerate(_calls(f))]


def _several(result):
    return list(result) if isinstance(result, list | tuple) else [result]


@pytest.mark.parametrize(("function", "call"), ENTRIES)
def test_every_entry_has_numpys_value_and_the_right_gradient(function, call):
    tensors = [Tensor(a, requires_grad=True) for a in (A, B, S)]
    results, expected = _several(call(function, *tensors)), _several(call(function, A, B, S))
    assert type(call(function, *tensors)) is type(call(function, A, B, S)) or isinstance(results[0], Tensor)
    for ours, theirs in zip(results, expected, strict=True):
        assert isinstance(ours, Tensor)
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-13, strict=True)

    def joined(*tensors):
        return autotx.concat([t.ravel() for t in _several(call(function, *tensors))])

    used = [t for t in tensors if t.grad is not None or _reaches(joined(*tensors), t)]
    assert used, "no gradient came through"
    assert gradcheck(joined, tensors)


def _reaches(result, tensor):
    tensor.grad = None
    result.sum().backward()
    found, tensor.grad = tensor.grad is not None, None
    return found


@pytest.mark.parametrize("function", OPS, ids=lambda f: f.__name__)
def test_every_entry_is_a_documented_name_with_numpys_arguments(function):
    name = numpy_functions._name(function)
    module = np.linalg if name.startswith("np.linalg.") else np
    name = name.rpartition(".")[2]
    assert name in module.__all__
    assert getattr(module, name) is function
    assert function.__doc__
    if not isinstance(function, np.ufunc):
        try:
            theirs = inspect.signature(function).parameters
        except ValueError:  # written in C, in older versions of NumPy
            return
        ours = inspect.signature(OPS[function]).parameters
        if not any(p.kind is p.VAR_KEYWORD for p in theirs.values()):
            assert list(ours) == [p for p in theirs if p in ours], "other names or another order than NumPy's"
        for parameter in ours.values():
            if parameter.name in theirs:
                required = theirs[parameter.name].default is parameter.empty
                assert required == (parameter.default is parameter.empty)


def test_functions_that_only_ask_get_and_give_arrays():
    x = Tensor(A, requires_grad=True)
    assert np.shape(x) == (2, 3)
    assert (np.ndim(x), np.size(x)) == (2, 6)
    assert np.isnan(x).tolist() == np.isnan(A).tolist()
    assert np.isfinite(x).all()
    assert type(np.isnan(x)) is np.ndarray
    assert np.allclose(x, A)
    assert np.array_equal(A, x)
    assert np.array_equal([x, x], [A, A])
    assert (np.greater(x, 0.45) == (A > 0.45)).all()
    assert (x > B).tolist() == (B < A).tolist()
    assert (x != B).all()
    assert np.argmax(x) == 3
    assert np.argsort(x, axis=0).tolist() == np.argsort(A, axis=0).tolist()
    assert np.zeros_like(x).tolist() == np.zeros((2, 3)).tolist()
    assert np.round(x, 1).tolist() == np.round(A, 1).tolist()
    assert np.any(x > 0.8)
    assert not np.all(x > 0.8)
    assert np.histogram(x, bins=2)[0].tolist() == np.histogram(A, bins=2)[0].tolist()
    np.testing.assert_allclose(x, A)
    np.testing.assert_array_equal(x, A)
    assert np.where(x > 0.8)[0].tolist() == [1]


@pytest.mark.parametrize("function", sorted(PLAIN, key=lambda f: f.__name__), ids=lambda f: f.__name__)
def test_functions_that_only_ask_are_documented(function):
    assert function.__name__ in np.__all__


def test_asarray_stays_allowed_and_read_only():
    x = Tensor(A, requires_grad=True)
    assert np.array_equal(np.asarray(x), A)
    assert not np.asarray(x).flags.writeable


OPERATORS = [getattr(operator, name) for name in "add sub mul truediv pow matmul floordiv mod".split()]  # noqa: SIM905


@pytest.mark.parametrize("apply", OPERATORS, ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    "left", [S, np.float64(1.5), np.float32(0.5), np.int64(2), 2.0], ids=lambda x: type(x).__name__
)
def test_an_array_beside_a_tensor_gives_a_tensor(apply, left):
    if apply is operator.matmul and np.ndim(left) == 0:
        return
    values = S.T + 0.057
    x, single = Tensor(values, requires_grad=True), Tensor(values, dtype=np.float32)
    assert isinstance(apply(left, x), Tensor)
    np.testing.assert_allclose(apply(left, x).data, apply(left, values))
    assert gradcheck(lambda x: apply(left, x), x)
    assert np.ndim(left) or apply(left, single).dtype == np.float32


def test_other_functions_are_refused_with_what_to_use():
    x = Tensor(A, requires_grad=True)
    for call, text in {
        lambda: np.linalg.svd(
            x
        ): "np.linalg.svd: not for Tensors; there is no such op; build it of autotx's, or give x",
        lambda: np.cbrt(
            x
        ): r"np.cbrt: not for Tensors; use x \*\* \(1 / 3\), or give x.numpy\(\), which has no gradient",
        lambda: np.median(x): r"np.median: .* x.numpy\(\), which has no gradient",
        lambda: np.fft.fft(x): r"np.fft.fft: .* x.numpy\(\)",
        lambda: np.unique(x): r"np.unique: .* x.numpy\(\)",
        lambda: np.add.reduce(x): "np.add.reduce: not for Tensors; use autotx.sum, or",
        lambda: np.add.at(np.zeros(3), [0], x[0]): r"np.add.at: .* x.numpy\(\)",
        lambda: np.copyto(np.zeros((2, 3)), x): r"np.copyto: .* x.numpy\(\)",
        lambda: np.linspace(0, x.sum()): r"np.linspace: .* x.numpy\(\)",
        lambda: np.exp(
            x, out=np.zeros((2, 3))
        ): "np.exp: out= is not for Tensors; the result is a new Tensor: y = np.exp",
        lambda: np.sum(x, out=np.zeros(())): "np.sum: out= is not for Tensors; the result is a new Tensor",
        lambda: np.sum(x, where=A > 0.5): r"np.sum: where= is not for Tensors; .* autotx.where\(mask, np.sum",
        lambda: np.mean(x, dtype=np.float32): r"np.mean: dtype= is not for Tensors; give x.astype\(dtype\) first",
        lambda: np.sum(x, initial=2.0): "np.sum: initial= is not for Tensors; leave it out",
        lambda: np.pad(x, 1, mode="edge"): "np.pad: mode 'edge' is not known for Tensors; only 'constant' is",
        lambda: np.linalg.norm(x, 2): "np.linalg.norm: ord 2 over two axes is a norm of matrices",
        lambda: np.reshape(x, -1, order="F"): "order 'F' is not known for Tensors",
    }.items():
        with pytest.raises(TypeError, match=text) as error:
            call()
        assert "\n" not in str(error.value)
    with pytest.raises(TypeError, match="unexpected keyword argument 'foo'"):
        np.mean(x, foo=1)
    with pytest.raises(ValueError, match=r"np.split: 3 elements do not make 2 equal pieces; see autotx.chunk"):
        np.split(x, 2, axis=1)


def test_settings_that_ask_for_nothing_are_taken():
    x = Tensor(A, requires_grad=True)
    assert np.sum(x, None, None, None).item() == pytest.approx(A.sum())
    assert np.sum(x, axis=0, dtype=np.float64, out=None).shape == (3,)
    assert np.exp(x, out=None, dtype=np.float64).shape == (2, 3)


def test_a_tensor_is_not_added_to_an_array_in_place():
    buffer = np.zeros((2, 3))
    with pytest.raises(TypeError, match=r"np.add: out= is not for Tensors"):
        buffer += Tensor(A, requires_grad=True)
    assert not buffer.any()


def test_the_example_that_lost_its_gradient():
    x, w = Tensor([1.0, 2.0], requires_grad=True), np.array([1.0, 2.0, 3.0, 4.0], np.float32)
    (np.concatenate([x, x]) * w).sum().backward()
    assert x.grad.tolist() == [4, 6]


def _in_library(module, code):
    """The function that `code` defines in a module of this name."""
    names = {"__name__": module, "np": np}
    exec(code, names)
    return names["dot"]


def test_libraries_that_compute_on_arrays_are_told():
    """As SciPy's sparse matrices and pandas' DataFrame.dot: they ask for an array, and would lose the gradient."""
    x = Tensor(A, requires_grad=True)
    code = "def dot(x): return np.asarray(x) * 2"
    for module, cure in {
        "scipy.sparse._base": "matrix.toarray() @ x",
        "pandas.core.frame": "frame.to_numpy() @ x",
    }.items():
        library, dot = module.partition(".")[0], _in_library(module, code)
        with pytest.raises(TypeError) as error:
            dot(x)
        assert str(error.value).startswith(
            f"{library}: computes on arrays, which have no gradient; give x.detach(), or"
        )
        assert cure in str(error.value)
        assert dot(x.detach()).tolist() == (2 * A).tolist()
        with autotx.no_grad():
            assert dot(x).tolist() == (2 * A).tolist()
    assert _in_library("elsewhere", code)(x).tolist() == (2 * A).tolist()


def test_sparse_matrices_on_the_left():
    sparse = pytest.importorskip("scipy.sparse")
    x = Tensor(A, requires_grad=True)
    for make in (sparse.csr_matrix, sparse.csr_array, sparse.coo_array):
        for apply in (operator.matmul, operator.mul, operator.add):
            with pytest.raises(TypeError):
                apply(make(S), x)


def test_functions_of_scipy_that_compute_on_arrays():
    linalg, special = pytest.importorskip("scipy.linalg"), pytest.importorskip("scipy.special")
    x = Tensor(S, requires_grad=True)
    for function in (linalg.inv, linalg.det, linalg.expm, special.logsumexp, special.softmax, special.expit):
        with pytest.raises(TypeError, match=r"computes on arrays, which have no gradient|expit: not for Tensors"):
            function(x)
    np.testing.assert_allclose(linalg.inv(x.detach()) @ S, np.eye(len(S)), atol=1e-12)


def test_the_squared_error_of_a_column_has_a_gradient():
    pd = pytest.importorskip("pandas")
    frame, w = pd.DataFrame({"a": [1.0, 2.0, 3.0]}), Tensor(np.array([3.0, 2.0, 1.0]), requires_grad=True)
    ((frame["a"] - w) ** 2).mean().backward()
    np.testing.assert_allclose(w.grad, [4 / 3, 0, -4 / 3])


def test_series_and_frames_on_the_left():
    pd = pytest.importorskip("pandas")
    x = Tensor(S, requires_grad=True)
    series, frame = pd.Series(S[0]), pd.DataFrame(S)
    for apply in OPERATORS:
        if apply is operator.matmul:
            with pytest.raises(TypeError, match="pandas: computes on arrays"):
                frame @ x
            continue
        for left in (series, frame):
            result = apply(left, x)
            assert isinstance(result, Tensor)
            assert result.requires_grad
            np.testing.assert_allclose(result.data, apply(left.to_numpy(), S))
    assert isinstance(np.multiply(series, x), Tensor)


def test_plots_take_tensors():
    plt = pytest.importorskip("matplotlib.pyplot")
    x, m = Tensor(A[0], requires_grad=True), Tensor(A, requires_grad=True)
    _, axes = plt.subplots()
    axes.plot(x, x.exp())
    axes.scatter(x, x, c=x)
    axes.hist(x)
    axes.bar(x, x)
    axes.fill_between(x, x, 2 * x)
    axes.errorbar(x, x, yerr=x)
    axes.imshow(m)
    plt.close()

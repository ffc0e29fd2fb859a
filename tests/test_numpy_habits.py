"""What people do by habit from NumPy and PyTorch: it works with the right value, or one line says what to do."""

import array
import math

import numpy as np
import pytest

import autotx
from autotx import Tensor, nn, optim

INF, NAN = math.inf, math.nan


def leaf(values, dtype=np.float64):
    return Tensor(values, requires_grad=True, dtype=dtype)


def refused(kind, call, text):
    """The call raises this kind of error, in one line that holds the text."""
    with pytest.raises(kind) as error:
        call()
    assert text in str(error.value)
    assert "\n" not in str(error.value)


# Types


def test_numbers_alone_are_float32():
    mask = np.array([True, False])
    for result in (
        autotx.where(mask, 1.0, 0.0),
        autotx.where(mask, 1, 0.5),
        autotx.add(1.5, 2.5),
        autotx.maximum(1.0, 2),
        autotx.stack([1.0, 2.0]),
        autotx.pow(np.float64(2.0), 3.0),
    ):
        assert result.dtype == np.float32
    x = Tensor([1.0, 2.0])
    assert (x * autotx.where(mask, 1.0, 0.0)).dtype == np.float32
    assert autotx.where(mask, 1, 0).dtype == np.int64
    assert autotx.add(np.ones(2), 1.5).dtype == np.float64
    assert autotx.where(mask, 1.0, 0.0).data.tolist() == [1, 0]


class Series:
    """An array of another library."""

    def __array__(self, dtype=None, copy=None):
        return np.array([0.1, 0.2])


def test_arrays_of_other_libraries_keep_their_type():
    assert Tensor(Series()).dtype == np.float64
    assert (Tensor([1.0, 1.0], dtype=np.float64) * Series()).data.tolist() == [0.1, 0.2]


# Fill values that are no numbers of the type


@pytest.mark.parametrize("value", [1j, np.complex64(1j), "3", None, np.array("3"), object()], ids=str)
def test_a_fill_value_is_a_real_number(value):
    x = Tensor([1.0, 2.0])
    refused(TypeError, lambda: autotx.masked_fill(x, x > 1, value), "is not a real number; give one")
    refused(TypeError, lambda: autotx.pad(x, [(1, 0)], value=value), "is not a real number; give one")
    if value is not None:
        refused(TypeError, lambda: autotx.clip(x, value), "is not a real number; give one")


def test_a_fill_value_that_is_too_large_for_the_type():
    x = Tensor([1.0, 2.0])
    for call in (
        lambda x: autotx.masked_fill(x, x > 1, 1e300),
        lambda x: autotx.pad(x, [(1, 0)], value=-1e300),
        lambda x: autotx.clip(x, max=1e300),
    ):
        refused(ValueError, lambda call=call: call(x), "too large for float32; give a smaller number, or infinity")
        assert np.isfinite(call(leaf([1.0, 2.0])).data).all()
    assert autotx.masked_fill(x, x > 1, INF).data.tolist() == [1, INF]
    assert autotx.masked_fill(x, x > 1, np.finfo(np.float32).min).data[1] == np.finfo(np.float32).min


# Infinite logits, sizes of 0, a number as an array of one element


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_binary_cross_entropy_of_infinite_logits(dtype):
    x, y = leaf([INF, INF, -INF, -INF, INF, 0.0], dtype), Tensor([0.0, 1.0, 0.0, 1.0, 0.5, 1.0], dtype=dtype)
    losses = autotx.binary_cross_entropy_with_logits(x, y, reduction="none")
    np.testing.assert_allclose(losses.data, [INF, 0, 0, INF, INF, math.log(2)], rtol=1e-6)
    assert losses.dtype == dtype
    losses.backward(np.ones(6))
    assert x.grad.tolist() == [1, 0, 0, -1, 0.5, -0.5]


FINE = 16777217.0  # 2^24 + 1, which float32 rounds to 2^24


@pytest.mark.parametrize(
    "make",
    [
        np.asarray, memoryview, lambda a: array.array("d", a), list, lambda a: [a, a], lambda a: [[1.0], a],
        lambda a: [Tensor(a)], lambda a: a[0], lambda a: (1.0, a[0]),
    ],
)  # fmt: skip
def test_what_has_a_type_keeps_it(make):
    x = Tensor(make(np.array([FINE])))
    assert x.dtype == np.float64
    assert x.data.max() == FINE


def test_tables_of_other_libraries_keep_their_type():
    pd, torch = pytest.importorskip("pandas"), pytest.importorskip("torch")
    a = np.array([[FINE, 1.0]])
    frame = pd.DataFrame(a)
    for given in (frame, frame[0], frame.loc[0], torch.tensor(a), [frame[0], frame[1]], [torch.tensor(a[0])]):
        x = Tensor(given)
        assert x.dtype == np.float64
        assert x.data.max() == FINE
    assert Tensor(frame.astype(np.float32)).dtype == Tensor(torch.tensor([1.0])).dtype == np.float32


@pytest.mark.parametrize("numbers", [1.5, [1.5], [[1.5, 2], (True, 3)], [], [[]]])
def test_numbers_have_no_type_and_become_float32(numbers):
    assert Tensor(numbers).dtype == np.float32


@pytest.mark.parametrize("bad", [-1.0, 1.5, -1e-9, INF, math.nan])
def test_targets_of_binary_cross_entropy_are_probabilities(bad):
    x = leaf([0.5, 2.0])
    name = "binary_cross_entropy_with_logits"
    said = f"{name}: a target is {bad:g}; give probabilities, from 0 to 1"
    for y in ([1.0, bad], Tensor([1.0, bad], dtype=np.float64)):
        refused(ValueError, lambda y=y: autotx.binary_cross_entropy_with_logits(x, y), said)
    refused(ValueError, lambda: autotx.binary_cross_entropy_with_logits(x, [1, -1]), "for labels -1 and 1 give (y + 1)")
    labels = np.array([-1, 1])
    loss = autotx.binary_cross_entropy_with_logits(x, (labels + 1) / 2)
    assert loss.item() == pytest.approx((math.log1p(math.exp(0.5)) + math.log1p(math.exp(-2))) / 2, rel=1e-6)


def test_a_number_is_an_array_of_one_element_along_its_axis_0():
    for name, value in {
        "sum": 2, "mean": 2, "max": 2, "min": 2, "prod": 2, "norm": 2, "logsumexp": 2, "std": 0, "var": 0, "softmax": 1,
        "log_softmax": 0, "sort": 2, "flip": 2, "cumsum": 2, "squeeze": 2,
    }.items():  # fmt: skip
        for axis in (0, -1):
            x = leaf(2.0)
            result = getattr(autotx, name)(x, axis=axis)
            assert (result.shape, result.item()) == ((), pytest.approx(value))
            result.backward()
            slope = 0 if name in ("std", "var", "softmax", "log_softmax") else 1
            assert x.grad == pytest.approx(slope)
            assert x.grad.shape == ()
        if name != "squeeze":
            refused(ValueError, lambda name=name: getattr(autotx, name)(leaf(2.0), axis=1), f"{name}: axis 1 is out of")
    assert autotx.topk(2.0, 1, axis=0).shape == ()


def test_sizes_of_0():
    refused(
        ValueError,
        lambda: autotx.scaled_dot_product_attention(np.ones((3, 0)), np.ones((3, 0)), np.ones((3, 2))),
        "scaled_dot_product_attention: q (3, 0) and k (3, 0) have no channels to compare; give at least one",
    )
    weight = leaf(np.ones((4, 0)))
    rows = autotx.embedding(weight, [[0, 1], [3, 3]])
    assert rows.shape == (2, 2, 0)
    rows.sum().backward()
    assert weight.grad.shape == (4, 0)
    for pieces in (autotx.split(leaf([]), 2), autotx.chunk(leaf([]), 3)):
        assert [p.shape for p in pieces] == [(0,)]
    assert [p.shape for p in autotx.split(np.ones((2, 0)), 3, axis=1)] == [(2, 0)]


def test_whole_numbers_of_few_bits_become_float64():
    for name in ("exp", "log", "sqrt", "tanh", "sin", "log1p", "silu", "softplus", "elu", "norm", "std", "sigmoid"):
        for dtype in (np.int8, np.uint8, np.int16, np.int64, bool):
            assert getattr(autotx, name)(np.array([1, 1], dtype)).dtype == np.float64, (name, dtype)


# Messages


def test_gather_names_the_index():
    x = Tensor(np.ones((3, 4)))
    refused(
        ValueError,
        lambda: autotx.gather(x, np.zeros((2, 4), int), 1),
        "gather: index of shape (2, 4) for x of shape (3, 4); beside axis 1 give it as many places as x, or one",
    )
    assert autotx.gather(x, np.zeros((1, 2), int), -1).shape == (3, 2)


def test_a_tensor_of_one_element_formats_and_rounds_as_its_number():
    loss = leaf(1.23456)
    assert f"{loss:.4f}" == "1.2346"
    assert f"{leaf([[2.0]]):>6.1f}" == "   2.0"
    assert f"{loss}" == str(loss)
    assert (round(loss, 2), round(loss)) == (1.23, 1)
    assert isinstance(round(loss), int)
    refused(TypeError, lambda: f"{leaf([1.0, 2.0]):.2f}", "format: '.2f' is for one number, this tensor has shape (2,)")
    refused(ValueError, lambda: round(leaf([1.0, 2.0]), 2), "round: this tensor has shape (2,)")
    refused(ValueError, lambda: leaf([1.0, 2.0]).item(), "item: needs a tensor of one element, this one has shape (2,)")


def test_membership_and_deletion():
    x = leaf([1.0, 2.0])
    assert 2.0 in x
    assert 3.0 not in x
    assert [1.0, 2.0] in leaf([[1.0, 2.0], [3.0, 4.0]])

    def delete():
        del x[0]

    refused(TypeError, delete, "delitem: nothing is taken out of a tensor; select what stays, such as x[1:]")


def test_other_libraries_take_a_copy():
    x = Tensor([1.0, 2.0])
    assert np.from_dlpack(x).tolist() == [1, 2]
    assert not np.may_share_memory(np.from_dlpack(x), x.data)
    refused(BufferError, lambda: np.from_dlpack(x, copy=False), "dlpack: the values of a tensor are not shared")
    refused(BufferError, lambda: np.from_dlpack(leaf([1.0])), "dlpack: this tensor requires a gradient")


def test_torch_takes_tensors():
    torch = pytest.importorskip("torch")
    x = Tensor([[1.0, 2.0]])
    for take in (torch.tensor, torch.as_tensor, torch.from_dlpack):
        taken = take(x)
        taken[0, 0] = 9
        assert taken.dtype == torch.float32
    assert torch.tensor(x.sum()).item() == 3
    assert x.data.tolist() == [[1, 2]]
    refused(BufferError, lambda: torch.tensor(leaf([1.0])), "this tensor requires a gradient, which another library")


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda x: x.cuda(), "Tensor has no attribute 'cuda'; autotx computes on the CPU; leave it out"),
        (lambda x: x.to("cpu"), "Tensor has no attribute 'to'; x.astype(numpy.float32) changes the type"),
        (lambda x: x.float(), "Tensor has no attribute 'float'; use x.astype(numpy.float32)"),
        (lambda x: x.dim(), "use x.ndim"),
        (lambda x: x.add_(1), "Tensor has no attribute 'add_'; nothing is changed in place; use the form without the"),
        (lambda x: x.requires_grad_(), "set x.requires_grad = True"),
        (lambda x: nn.ReLU().train(), "ReLU has no attribute 'train'; there is no training mode: model(x, rng=rng) is"),
        (lambda x: nn.ReLU().eval(), "ReLU has no attribute 'eval'; there is no training mode"),
        (lambda x: nn.ReLU().cuda(), "ReLU has no attribute 'cuda'; autotx computes on the CPU; leave it out"),
        (lambda x: nn.ReLU().to("cpu"), "ReLU has no attribute 'to'; model.astype(numpy.float64) changes the type"),
    ],
)
def test_names_that_are_missing_say_what_to_use(call, text):
    refused(AttributeError, lambda: call(leaf([1.0, 2.0])), text)


def test_names_that_are_missing_are_not_listed():
    assert not hasattr(leaf(1.0), "cuda")
    assert not {"cuda", "add_"} & set(dir(leaf(1.0)))
    assert {"exp", "shape", "grad"} <= set(dir(leaf(1.0)))


class Own(nn.Module):
    """A module may have a method of that name."""

    def train(self):
        return "trained"


def test_a_module_may_have_a_name_that_is_missing_in_others():
    model = Own()
    model.cpu = 3
    assert (model.train(), model.cpu) == ("trained", 3)


def test_pytorchs_dim_is_axis_here():
    refused(TypeError, lambda: leaf([1.0]).sum(dim=0), "sum: no argument 'dim'; the call is sum(x, axis, keepdims)")
    refused(TypeError, lambda: autotx.concat([leaf([1.0])], dim=0), "unexpected keyword argument 'dim'")


# Gradients at NaN (ops/__init__.py): a comparison with NaN is false, arithmetic with NaN is NaN


@pytest.mark.parametrize(
    ("call", "gradient"),
    [
        (autotx.relu, 0),
        (lambda x: autotx.maximum(x, 0.0), 0),
        (lambda x: autotx.minimum(0.0, x), 0),
        (lambda x: autotx.clip(x, -1, 1), 0),
        (autotx.max, 0),
        (autotx.min, 0),
        (lambda x: autotx.leaky_relu(x, 0.5), 0.5),
        (autotx.abs, NAN),
        (autotx.exp, NAN),
        (autotx.square, NAN),
        (autotx.elu, NAN),
        (autotx.silu, NAN),
        (autotx.norm, NAN),
        (autotx.sort, 1),
    ],
)
def test_gradients_at_nan(call, gradient):
    x = leaf([NAN])
    y = call(x)
    assert np.isnan(y.data).all()
    y.sum().backward()
    np.testing.assert_equal(x.grad, [gradient])


EDGES = [  # function, x, its value, its gradient
    (autotx.std, [2.0, 2.0], 0, [0, 0]),
    (autotx.norm, [0.0, 0.0], 0, [0, 0]),
    (autotx.norm, [3e200, 4e200], 5e200, [0.6, 0.8]),
    (lambda x: autotx.norm(x, 1), [0.0, -2.0], 2, [0, -1]),
    (autotx.prod, [0.0, 3.0, 2.0], 0, [6, 0, 0]),
    (autotx.prod, [0.0, 3.0, 0.0], 0, [0, 0, 0]),
    (autotx.prod, [], 1, []),
    (autotx.silu, [-INF, INF, -1e4], [0, INF, 0], [0, 1, 0]),
    (autotx.softplus, [-INF, INF, 1e4], [0, INF, 1e4], [0, 1, 1]),
    (autotx.logsigmoid, [-INF, INF, -1e4], [-INF, 0, -1e4], [1, 0, 1]),
    (autotx.elu, [0.0, -INF, INF], [0, -1, INF], [1, 0, 1]),
    (autotx.leaky_relu, [0.0, -2.0], [0, -0.02], [0.01, 0.01]),
    (autotx.arcsin, [1.0, -1.0, 2.0], [math.pi / 2, -math.pi / 2, NAN], [INF, INF, NAN]),
    (autotx.arccos, [1.0, -1.0], [0, math.pi], [-INF, -INF]),
    (autotx.arccosh, [1.0, 0.5], [0, NAN], [INF, NAN]),
    (autotx.arctanh, [1.0, -1.0, 2.0], [INF, -INF, NAN], [INF, INF, -1 / 3]),
    (autotx.arctan, [INF, 1e300], [math.pi / 2, math.pi / 2], [0, 0]),
    (autotx.arcsinh, [1e300], [math.asinh(1e300)], [1e-300]),
    (autotx.log1p, [-1.0, 1e-20, -2.0], [-INF, 1e-20, NAN], [INF, 1, -1]),
    (autotx.expm1, [1e-20, -100.0], [1e-20, -1], [1, math.exp(-100)]),
    (autotx.log2, [0.0, 8.0], [-INF, 3], [INF, 1 / (8 * math.log(2))]),
    (lambda x: x // 2, [3.5, -3.5], [1, -2], [0, 0]),
    (lambda x: x % 2, [3.5, -3.5], [1.5, 0.5], [1, 1]),
    (lambda x: 7 % x, [2.0, -2.0], [1, -1], [-3, 4]),
    (lambda x: 7 // x, [2.0, -2.0], [3, -4], [0, 0]),
    (lambda x: x.topk(2), [1.0, 3.0, 3.0], [3, 3], [0, 1, 1]),
    (lambda x: x.topk(1), [3.0, 3.0], [3], [1, 0]),
    (lambda x: x.topk(1), [3.0, NAN], [NAN], [0, 1]),
    (lambda x: x.sort(descending=True), [1.0, 3.0, 2.0], [3, 2, 1], [1, 1, 1]),
]


@pytest.mark.parametrize(("call", "values", "result", "gradient"), EDGES)
def test_values_and_gradients_at_the_edges(call, values, result, gradient):
    x = leaf(values)
    y = call(x)
    np.testing.assert_allclose(y.data, result, rtol=1e-12)
    y.backward(np.ones(y.shape))
    np.testing.assert_allclose(x.grad, gradient, rtol=1e-12)


# Functions made of ops


def test_shapes_in_both_habits():
    x, a = leaf(np.arange(6.0).reshape(2, 3)), np.arange(6.0).reshape(2, 3)
    assert x.view(3, 2).shape == x.view((3, 2)).shape == x.view(-1, 2).shape == (3, 2)
    for ours, theirs in {
        x.flatten(): a.flatten(),
        x.ravel(): a.ravel(),
        x.tile(2): np.tile(a, 2),
        x.tile((2, 1, 2)): np.tile(a, (2, 1, 2)),
        x.repeat(2, axis=1): np.repeat(a, 2, 1),
        x.repeat([2, 0], axis=0): np.repeat(a, [2, 0], 0),
        x.take([2, 0], axis=1): a[:, [2, 0]],
        autotx.hstack([x, x]): np.hstack([a, a]),
        autotx.hstack([x[0], 4.0]): np.hstack([a[0], 4.0]),
        autotx.vstack([x, x[0]]): np.vstack([a, a[0]]),
        autotx.outer(x[0], x[1]): np.outer(a[0], a[1]),
        x.reshape(1, 2, 3).flatten(1): a.reshape(1, 6),
        x.reshape(1, 2, 3).flatten(0, 1): a,
        leaf(3.0).flatten(): np.array([3.0]),
    }.items():
        np.testing.assert_array_equal(ours.data, theirs, strict=True)
        assert autotx.gradcheck(lambda x: autotx.tile(x, 2), x)
    assert [p.shape for p in leaf(np.ones(7)).chunk(3)] == [(3,), (3,), (1,)]
    assert [p.shape for p in x.chunk(2, axis=1)] == [(2, 2), (2, 1)]
    assert x.tolist() == a.tolist()
    refused(TypeError, lambda: x.repeat(2), "repeat: give the axis along which each element is repeated; PyTorch's")
    refused(ValueError, lambda: x.chunk(0), "chunk: 0 pieces; give at least 1")


def test_gradients_of_functions_made_of_ops():
    x = leaf(np.random.default_rng(0).normal(size=(2, 3)))
    for call in (
        lambda x: x.repeat(2, axis=0),
        lambda x: x.repeat([1, 0, 3], axis=1),
        lambda x: x.tile((2, 2)),
        lambda x: x.take([0, 0, 2], axis=1),
        lambda x: autotx.hstack([x, x]),
        lambda x: autotx.vstack([x, x[0]]),
        lambda x: autotx.outer(x, x),
        lambda x: x.chunk(2, axis=1)[1],
        lambda x: x.flatten() * 2,
        lambda x: autotx.einsum("ij,ij->i", [x, x]),
        lambda x: autotx.einsum(x, [0, 1], x, [2, 1], [0, 2]),
        lambda x: x.softmax(axis=(0, 1)),
        lambda x: x.log_softmax(axis=None),
        lambda x: x.clone().square(),
    ):
        assert autotx.gradcheck(call, x)


def test_the_places_of_the_largest_are_arrays():
    x = leaf([[1.0, 3.0], [5.0, 2.0]])
    assert x.argmax() == 2
    assert x.argmin(axis=1).tolist() == [0, 1]
    assert x.argmax(axis=0, keepdims=True).tolist() == [[1, 0]]
    assert type(x.argmax(axis=0)) is np.ndarray


def test_ids_become_rows_of_one_and_zeros():
    ids = np.array([[2, 0], [1, 1]])
    rows = autotx.one_hot(ids, 3)
    assert (rows.shape, rows.dtype, rows.requires_grad) == ((2, 2, 3), np.float32, False)
    assert np.array_equal(rows.data, np.eye(3)[ids])
    assert np.array_equal(autotx.one_hot(Tensor(ids), 3).data, rows.data)
    assert autotx.one_hot(1, 2).tolist() == [0, 1]
    refused(
        ValueError, lambda: autotx.one_hot([0, 3], 3), "one_hot: id 3 is out of range, there are 3 classes (0 to 2)"
    )
    refused(TypeError, lambda: autotx.one_hot([0.5], 3), "one_hot: ids have type float32; give integers")
    refused(ValueError, lambda: autotx.one_hot([0], 0), "one_hot: num_classes is 0; give a whole number, 1 or more")


def test_batches_are_an_epoch_of_rows_that_belong_together():
    x, y = np.arange(20.0).reshape(10, 2), np.arange(10)
    rng = np.random.default_rng(0)
    epochs = [list(autotx.batches(x, Tensor(y), size=4, rng=rng)) for _ in range(2)]
    for epoch in epochs:
        assert [(a.shape, b.shape) for a, b in epoch] == [((4, 2), (4,)), ((4, 2), (4,)), ((2, 2), (2,))]
        rows = np.concatenate([b for _, b in epoch])
        assert sorted(rows) == list(range(10))
        assert np.array_equal(np.concatenate([a for a, _ in epoch]), x[rows])
    orders = [np.concatenate([b for _, b in epoch]).tolist() for epoch in epochs]
    assert orders[0] != orders[1] != list(range(10)) != orders[0], "each epoch is shuffled anew"
    again = np.concatenate([b for _, b in autotx.batches(x, y, size=3, rng=np.random.default_rng(0))])
    assert again.tolist() == orders[0], "the order is a matter of the seed"


def test_batches_of_one_array_without_an_rng_come_in_order():
    x = np.arange(5)
    found = list(autotx.batches(x, size=2))
    assert [b.tolist() for b in found] == [[0, 1], [2, 3], [4]]
    found[0][:] = 7
    assert x[0] == 0, "a batch is a copy"


def test_batches_say_what_does_not_fit():
    refused(
        ValueError, lambda: autotx.batches([1, 2], [1], size=1), "batches: arrays of shapes (2,) and (1,); give one"
    )
    refused(ValueError, lambda: autotx.batches(size=1), "batches: arrays of shapes none; give one or more")
    refused(ValueError, lambda: autotx.batches(3.0, size=1), "batches: arrays of shapes (); give one or more")
    refused(ValueError, lambda: autotx.batches([], size=1), "batches: arrays of shapes (0,) have no rows")
    refused(ValueError, lambda: autotx.batches([1], size=0), "batches: size is 0; give a whole number, 1 or more")
    refused(TypeError, lambda: autotx.batches([1], size=1, rng=0), "batches: rng is 0; give a numpy.random.Generator")
    refused(ValueError, lambda: autotx.batches(leaf([1.0]), size=1), "batches: the rows of a Tensor would get no grad")


def test_astype_keeps_the_gradient_between_floats():
    x = leaf([1.5, 2.5], np.float32)
    y = x.astype(np.float64)
    assert y.dtype == np.float64
    (y * [1.0, 2.0]).sum().backward()
    assert (x.grad.dtype, x.grad.tolist()) == (np.float32, [1, 2])
    whole = x.astype(np.int64)
    assert (whole.tolist(), whole.requires_grad) == ([1, 2], False)
    refused(TypeError, lambda: x.astype(np.float16), "astype: float16 is not computed with")


def test_einsum_says_what_it_wants():
    x = leaf(np.ones((2, 2)))
    refused(TypeError, lambda: autotx.einsum(x, "ij->ji"), "einsum: the subscripts are a Tensor; give them first, as")


def test_targets_that_are_no_probabilities():
    z = leaf(np.zeros((2, 3)))
    refused(ValueError, lambda: autotx.cross_entropy(z, np.ones((2, 3))), "give rows from 0 up that add to 1")
    refused(TypeError, lambda: autotx.cross_entropy(z, np.ones(2)), "cross_entropy: ids have type float64; give int")
    refused(
        ValueError, lambda: autotx.cross_entropy(z, np.full((2, 3), 1 / 3), ignore_index=1), "ignore_index is for integ"
    )
    refused(ValueError, lambda: autotx.cross_entropy(z, [0, 1], weight=[1.0]), "weight of shape (1,); give one number")
    refused(ValueError, lambda: autotx.cross_entropy(z, [0, 0], weight=[0.0, 1, 1]), "every target has weight 0")


def test_impossible_classes_cost_nothing_when_they_are_no_targets():
    z = leaf([[0.0, -INF, 0.0]])
    loss = autotx.cross_entropy(z, np.array([[0.5, 0.0, 0.5]]))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2))
    np.testing.assert_allclose(z.grad, [[0, 0, 0]], atol=1e-15)


# Modules and optimizers


def test_a_sequential_is_indexed():
    model = nn.Sequential(nn.ReLU(), nn.Linear(2, 3, rng=None), nn.Tanh())
    assert isinstance(model[1], nn.Linear)
    assert model[-1] is model.layers[2]
    assert len(model) == 3
    assert list(model) == model.layers
    assert isinstance(model[1:], nn.Sequential)
    assert model[1:].layers == model.layers[1:]


def test_modules_children_and_apply():
    linear = nn.Linear(2, 2, rng=None)
    model = nn.Sequential(linear, nn.Sequential(nn.ReLU(), linear))
    model.more = {"a": [nn.Tanh()]}
    assert model.children() == [linear, model[1], model.more["a"][0]]
    assert model.modules() == [model, linear, model[1], model[1][0], model.more["a"][0]]
    seen = []
    assert model.apply(seen.append) is model
    assert sorted(map(id, seen)) == sorted(map(id, model.modules()))
    assert seen[-1] is model


def test_gradients_are_set_to_none():
    x = leaf([1.0])
    x.sum().backward()
    optimizer = optim.SGD([x], lr=0.1)
    optimizer.zero_grad(set_to_none=True)
    assert x.grad is None
    refused(ValueError, lambda: optimizer.zero_grad(set_to_none=False), "zero_grad: gradients are always set to None")


OPTIMIZERS = {
    "nesterov": (optim.SGD, "SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
    "amsgrad": (optim.Adam, "Adam", {"lr": 0.1, "amsgrad": True, "weight_decay": 0.01}),
    "amsgrad, decoupled": (optim.AdamW, "AdamW", {"lr": 0.1, "amsgrad": True, "weight_decay": 0.01}),
    "adamw": (optim.AdamW, "AdamW", {"lr": 0.1, "weight_decay": 0.01}),
    "rmsprop": (optim.RMSprop, "RMSprop", {"lr": 0.1}),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers_and_groups_with_a_learning_rate_are_torchs(name):
    torch = pytest.importorskip("torch")
    ours, theirs, settings = OPTIMIZERS[name]
    start = [np.array([1.0, -2.0]), np.array([[0.5, 0.1]])]
    mine, others = [leaf(a) for a in start], [torch.tensor(a, requires_grad=True) for a in start]

    def groups(params):
        return [{"params": params[:1]}, {"params": params[1:], "lr": 0.02}]

    optimizer, other = ours(groups(mine), **settings), getattr(torch.optim, theirs)(groups(others), **settings)
    for step in range(5):
        scale = 3 if step == 1 else 1  # a large gradient, which amsgrad remembers
        for p, q in zip(mine, others):
            (scale * p**3).sum().backward()
            (scale * q**3).sum().backward()
        optimizer.step()
        other.step()
        optimizer.zero_grad()
        other.zero_grad()
        optimizer.lr *= 0.5
        for group in other.param_groups:
            group["lr"] *= 0.5
        for p, q in zip(mine, others):
            np.testing.assert_allclose(p.data, q.detach().numpy(), rtol=1e-6)


def test_settings_of_optimizers():
    x = leaf([1.0])
    refused(ValueError, lambda: optim.SGD([x], lr=0.1, nesterov=True), "nesterov is True; give a momentum above 0")
    refused(ValueError, lambda: optim.SGD([{"params": [x], "lr": -1}], lr=0.1), "lr of a group is -1; give 0 or more")
    refused(ValueError, lambda: optim.SGD([{"params": [x], "lr": 1}], lr=0), "and an lr above 0 beside it")
    state = optim.AdamW([x], amsgrad=True).state_dict()
    assert set(state) == {"lr", "steps", "m.0", "v.0", "v_max.0"}


# What logits and scores have in common changes no gradient


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("offset", [0.0, 2e4, 1e6, 1e8, 1e17, -1e8])
def test_cross_entropy_with_a_common_offset(offset, dtype):
    logits = Tensor([[offset, offset]], requires_grad=True, dtype=dtype)
    loss = autotx.cross_entropy(logits, [0])
    loss.backward()
    assert loss.item() == pytest.approx(np.log(2), rel=1e-6)
    np.testing.assert_allclose(logits.grad, [[-0.5, 0.5]], rtol=1e-6)


@pytest.mark.parametrize("offset", [80, -80])
@pytest.mark.parametrize(("T", "S", "D"), [(1, 3, 4), (2, 3, 4), (4, 4, 8), (3, 5, 16), (8, 8, 16), (40, 40, 32)])
def test_attention_with_scores_far_from_zero(T, S, D, offset, rng):
    """Gradients are as near to those of float64 as rounded scores allow: an ulp of 80 is 7.6e-6."""
    along = rng.standard_normal(D)
    along *= np.sqrt(abs(offset) * np.sqrt(D)) / np.linalg.norm(along)
    shapes = ((along, T), (np.sign(offset) * along, S), (0, S))
    data = [(base + 0.1 * rng.standard_normal((1, n, D))).astype(np.float32) for base, n in shapes]
    g = rng.standard_normal((1, T, D)).astype(np.float32)
    found = []
    for dtype in (np.float32, np.float64):
        q, k, v = (Tensor(x, requires_grad=True, dtype=dtype) for x in data)
        autotx.scaled_dot_product_attention(q, k, v).backward(g)
        found.append([t.grad for t in (q, k, v)])
    for single, double in zip(*found):
        assert np.abs(single - double).max() < 1e-4 * np.abs(double).max()

"""What the engine promises: any graph, any depth, freed as it is walked, and never a silently wrong gradient."""

import asyncio
import contextlib
import copy
import gc
import os
import pickle
import re
import subprocess
import sys
import threading
import weakref

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import autotx
from autotx import Tensor, gradcheck, tensor


def leaf(values, name=None, dtype=np.float64):
    return Tensor(values, requires_grad=True, dtype=dtype, name=name)


def error(kind, text):
    """The message of the error must be exactly `text`."""
    return pytest.raises(kind, match=f"^{re.escape(text)}$")


# ---- Graphs -----------------------------------------------------------------------------------------------------


def test_a_tensor_used_many_times():
    x = leaf([2.0, 3.0])
    (x * x * x + x + x).sum().backward()
    np.testing.assert_array_equal(x.grad, 3 * x.data**2 + 2)


def test_a_node_used_many_times():
    x = leaf([2.0, 3.0])
    y = x * 2
    total = y
    for _ in range(50):
        total = total + y
    total.sum().backward()
    np.testing.assert_array_equal(x.grad, [102, 102])


def test_diamonds_on_diamonds():
    """2^60 paths, 120 ops: every node is visited once."""
    x = leaf(1.0)
    y = x
    for _ in range(60):
        y = y * 0.5 + y * 0.5
    y.backward()
    assert x.grad == 1


def test_paths_of_different_lengths():
    x = leaf([0.3, -0.7])
    short = x * 3
    long = short.tanh().exp().sigmoid()
    assert gradcheck(lambda x: ((x * 3).tanh().exp().sigmoid() * (x * 3) + x).sum(), x)
    (long * short + x).sum().backward()
    s = 1 / (1 + np.exp(-np.exp(np.tanh(3 * x.data))))
    t = np.tanh(3 * x.data)
    np.testing.assert_allclose(x.grad, 3 * s + 3 * x.data * s * (1 - s) * np.exp(t) * 3 * (1 - t**2) + 1, rtol=1e-12)


def test_slices_and_whole_uses_of_one_tensor_add_up():
    x = leaf(np.arange(4.0))
    y = x * 1
    (y[1:3] * 10 + y[[1, 1]] + y[0]).sum().backward()
    np.testing.assert_array_equal(x.grad, [2, 12, 10, 0])
    x.zero_grad()
    y = x * 1
    (y + y[::2].sum() + y[0] * 100).sum().backward()
    np.testing.assert_array_equal(x.grad, [405, 1, 5, 1])


def test_numbers_are_added_up_along_every_way():
    """Gradients of 0-d tensors come as NumPy scalars, 0-d arrays and functions; their order must not matter."""
    uses = [
        lambda x: x * 2,
        lambda x: x.sum(),
        lambda x: x[()],
        lambda x: x.reshape(1).sum(),
        lambda x: x.expand(3).sum(),
    ]
    for first in uses:
        for second in uses:
            for third in uses:
                x = leaf(3.0)
                once = first(x) + second(x) + third(x)
                inner = x * 1
                twice = first(inner) + second(inner) + third(inner)
                (once + twice).backward()
                value = lambda f: {0: 2, 4: 3}.get(uses.index(f), 1)  # noqa: E731
                assert x.grad == 2 * (value(first) + value(second) + value(third))
                assert isinstance(x.grad, np.ndarray)


def test_a_chain_of_100_000_ops():
    x = leaf([1.0, 2.0])
    y = x
    for _ in range(50_000):
        y = -(y * 1.0)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad, [1, 1])


def test_a_chain_of_100_000_ops_can_be_dropped():
    y = leaf(1.0)
    for _ in range(100_000):
        y = y + 1.0
    last = weakref.ref(y)
    del y
    assert last() is None


# ---- Memory -----------------------------------------------------------------------------------------------------


@pytest.fixture
def no_collector():
    """Without the collector of cycles: what is freed is freed by reference counts, at once."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
def test_the_graph_is_freed_as_backward_walks():
    alive = []

    @autotx.lift
    def look(x, /):
        return x * 1, (lambda g: alive.append([name for name, ref in refs.items() if ref() is not None]) or g,)

    x = leaf(np.ones(3))
    before = look(x * 2)
    middle = before.exp()
    after = middle * middle
    refs = {"before": weakref.ref(before), "middle": weakref.ref(middle), "after": weakref.ref(after)}
    loss = after.sum()
    del before, middle, after
    loss.backward()
    assert alive == [["before"]]  # the op itself is being visited, what came later is gone
    assert [ref() for ref in refs.values()] == [None, None, None]


@pytest.mark.usefixtures("no_collector")
def test_a_graph_without_backward_is_freed_when_it_is_dropped():
    y = leaf(np.ones(3)) * 2
    ref = weakref.ref(y)
    loss = y.exp().sum()
    del y
    assert ref() is not None
    del loss
    assert ref() is None


@pytest.mark.usefixtures("no_collector")
def test_memory_is_flat_over_1000_steps(rng):
    w1, w2, table = (
        Tensor(rng.normal(size=s), requires_grad=True, dtype=np.float32) for s in [(16, 8), (5, 16), (5, 8)]
    )
    ids, targets = rng.integers(0, 5, 12), rng.integers(0, 5, 12)

    def step():
        x = autotx.embedding(table, ids)
        h = autotx.gelu(autotx.linear(x, w1))
        loss = autotx.cross_entropy(autotx.linear(h, w2), targets)
        loss.backward()
        for p in (w1, w2, table):
            p.writable()[...] -= 0.1 * p.grad
            p.zero_grad()
        return loss.item()

    first = step()
    for _ in range(20):
        step()
    before = sys.getallocatedblocks()
    for _ in range(1000):
        last = step()
    assert last < first
    assert sys.getallocatedblocks() - before < 300, "objects that 1,000 steps left behind"


# ---- Backward, and its errors -----------------------------------------------------------------------------------


def test_two_backwards_accumulate():
    x = leaf([1.0, 2.0])
    (x * 3).sum().backward()
    held = x.grad
    (x * x).sum().backward()
    np.testing.assert_array_equal(x.grad, [5, 7])
    assert x.grad is held, "the buffer is added to in place"
    x.zero_grad()
    assert x.grad is None
    np.testing.assert_array_equal(held, [5, 7])


def test_backward_twice_is_an_error():
    x = leaf([1.0, 2.0])
    y = x.exp()
    loss = y.sum()
    loss.backward()
    text = (
        "backward: the graph below this result of {} was freed by an earlier backward; carry h.detach() from step to "
        "step, call the earlier one with retain_graph=True, or compute the result again"
    )
    before = x.grad.copy()
    with error(ValueError, text.format("sum")):
        loss.backward()
    with error(ValueError, text.format("exp")):
        (y * 2).sum().backward()
    np.testing.assert_array_equal(x.grad, before)


def test_a_leaf_can_go_backward_again_and_again():
    x = leaf(2.0)
    x.backward()
    x.backward(3.0)
    assert x.grad == 4


@pytest.mark.parametrize("use", [lambda x: x * 2, lambda x: x[:1], lambda x: autotx.embedding(x, [0])], ids=str)
def test_a_gradient_that_is_read_only_is_not_written_to(use):
    x = leaf(np.ones((200, 200)), dtype=np.float32)
    x.grad = given = np.broadcast_to(np.float32(1), (200, 200))
    use(x).sum().backward()
    assert x.grad[0, 0] > 1
    assert (given == 1).all()


@pytest.mark.parametrize("limit", [0.1, np.float64(0.1), np.float32(0.1)])
def test_an_element_at_the_limit_of_clip_has_its_gradient_whatever_type_the_limit_has(limit):
    for values in (np.float32(0.1), np.full(3, 0.1, np.float32)):
        x = Tensor(values, requires_grad=True)
        x.clip(max=limit).sum().backward()
        np.testing.assert_array_equal(x.grad, np.ones(x.shape))


def test_tensors_in_a_list_would_get_no_gradient():
    a, b = leaf(2.0), leaf(3.0)
    text = ": Tensors in a list get no gradient; join them by autotx.stack, or give .detach()"
    uses = {"mul": lambda: a * [a, b], "Tensor": lambda: Tensor([[1.0], [b * 2]]), "sum": lambda: autotx.sum([a, b])}
    for name, use in uses.items():
        with error(ValueError, name + text):
            use()
    with error(ValueError, "clip: Tensors in min get no gradient; join them by autotx.stack, or give .detach()"):
        leaf([1.0, 2.0]).clip(min=[a, b])
    np.testing.assert_array_equal(Tensor([a.detach(), b.detach()]).data, [2, 3])
    with autotx.no_grad():
        np.testing.assert_array_equal((a * [a, b]).data, [4, 6])


def test_a_parameter_is_not_lost_in_place():
    p, text = leaf([1.0, 2.0]), "in place: p -= step would make a new tensor and leave the parameter p as it was; "
    with autotx.no_grad(), pytest.raises(TypeError, match=re.escape(text)):
        p -= 0.1
    y = p * 2
    y += p  # a result may have a new one take its name
    y.sum().backward()
    np.testing.assert_array_equal(p.grad, [3, 3])


@pytest.mark.parametrize("given", [0, Tensor([0.0, 0.0]), np.zeros((3, 1, 2))], ids=str)
def test_a_gradient_that_cannot_be_added_to(given):
    p = leaf([1.0, 2.0])
    p.grad = given
    kind = f"a {type(given).__name__} of shape {np.shape(given)}"
    text = f"backward: the .grad of a tensor of shape (2,) was set to {kind}; "
    with error(ValueError, text + "set it to None or to an array of that shape"):
        (p * p).sum().backward()


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("give", [list, np.array, Tensor], ids=str)
def test_whole_numbers_take_on_the_type_of_the_floats_beside_them(give, requires_grad):
    x = Tensor(np.ones((2, 3), np.float32), requires_grad=requires_grad)
    for y in (x.sum(1) / give([2, 3]), give([2, 3, 4]) * x, autotx.concat([x[0], give([2])])):
        assert y.dtype == np.float32


def test_no_grad_within_itself_and_around_a_function():
    x, off = leaf(1.0), autotx.no_grad()
    with off:
        with off:
            assert not (x * 2).requires_grad
        assert not (x * 2).requires_grad
    assert (x * 2).requires_grad

    @autotx.no_grad()
    def double(x):
        return x * 2

    assert not double(x).requires_grad
    assert (x * 2).requires_grad


@pytest.mark.parametrize("layout", [lambda a: a, np.asfortranarray, lambda a: a[:, ::-1]], ids=["C", "F", "reversed"])
def test_long_sums_in_float32_stay_right(layout):
    a = layout(np.random.default_rng(0).random((200_000, 2), dtype=np.float32))
    right = a.astype(np.float64)
    x, b = Tensor(a), Tensor(np.zeros(2, np.float32), requires_grad=True)
    for mine, theirs in [
        (x.sum(0), right.sum(0)),
        (x.T.sum(-1), right.sum(0)),
        (x.mean(axis=(0,)), right.mean(0)),
        (x.var(0), right.var(0)),
        (x.sum((0, 1), keepdims=True), right.sum(keepdims=True)),
    ]:
        assert mine.dtype == np.float32
        np.testing.assert_allclose(mine.data, theirs, rtol=1e-6)
    ((x + b) * 0.1).sum().backward()
    np.testing.assert_allclose(b.grad, np.float32(0.1) * 200_000.0, rtol=1e-6)
    b.grad = None
    autotx.linear(x, Tensor(np.ones((2, 2), np.float32)), b).sum().backward()
    np.testing.assert_allclose(b.grad, 200_000, rtol=1e-6)


def test_retain_graph_walks_again_and_keeps_every_gradient():
    x = leaf([1.0, 2.0])
    y = x * 3
    z = y * y
    loss = z.sum()
    loss.backward(retain_graph=True)
    np.testing.assert_array_equal(z.grad, [1, 1])
    np.testing.assert_array_equal(y.grad, 2 * y.data)
    np.testing.assert_array_equal(x.grad, 18 * x.data)
    loss.backward()
    np.testing.assert_array_equal(x.grad, 36 * x.data)
    assert y.grad is None
    assert z.grad is None


def test_two_losses_over_one_retained_graph():
    x = leaf([1.0, 2.0])
    y = x.exp()
    first, second = y.sum(), (y * y).sum()
    first.backward(retain_graph=True)
    second.backward()
    np.testing.assert_allclose(x.grad, y.data + 2 * y.data**2)


def test_not_a_scalar():
    x = leaf(np.ones((2, 3)))
    text = (
        "backward: a tensor of shape (2, 3) is not a scalar; reduce it (for example .sum()) or pass its gradient, "
        "backward(grad)"
    )
    with error(ValueError, text):
        (x * 2).backward()
    (x * 2).backward(np.full((2, 3), 5.0))
    np.testing.assert_array_equal(x.grad, np.full((2, 3), 10))
    with error(ValueError, "backward: the gradient has shape (3,), the tensor (2, 3); make them equal"):
        (x * 2).backward(np.ones(3))


def test_one_element_needs_no_gradient():
    for shape in [(), (1,), (1, 1)]:
        x = leaf(np.ones(shape))
        (x * 2).backward()
        np.testing.assert_array_equal(x.grad, np.full(shape, 2.0), strict=True)


def test_nothing_requires_a_gradient():
    with error(ValueError, "backward: no tensor that went into this one requires a gradient; pass requires_grad=True"):
        (Tensor([1.0]) * 2).backward()


def test_an_empty_tensor_goes_backward_with_its_gradient():
    x = leaf(np.zeros((0, 3)))
    (x * 2).sum().backward()
    assert x.grad.shape == (0, 3)
    (x * 2).backward(np.zeros((0, 3)))
    assert x.grad.shape == (0, 3)


@pytest.mark.parametrize("retain_graph", [False, True])
def test_a_backward_that_fails_leaves_every_gradient_as_it_was(retain_graph):
    broken = [True]

    @autotx.lift
    def careless(x, /):
        def dx(g):
            if broken:
                raise RuntimeError("a mistake of the user")
            return g

        return x * 1, (dx,)

    w, v = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    (w * 5).sum().backward()
    loss = (careless(w) + w * v).sum()  # w * v is newer, so that its gradients come first
    with pytest.raises(RuntimeError):
        loss.backward(retain_graph=retain_graph)
    assert (w.grad.tolist(), v.grad) == ([5, 5], None)
    broken.clear()
    if not retain_graph:
        loss = (careless(w) + w * v).sum()
    loss.backward()
    assert (w.grad.tolist(), v.grad.tolist()) == ([9, 10], [1, 2])


def test_threads_that_share_a_parameter_lose_no_gradient():
    w, x = leaf(np.ones(100_000), dtype=np.float32), Tensor(np.ones(100_000, np.float32))
    for _ in range(5):
        w.grad = None
        threads = [threading.Thread(target=lambda: [(w * x).sum().backward() for _ in range(5)]) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (w.grad == 40).all()


def test_threads_may_go_backward_over_one_retained_graph():
    w = leaf(np.ones(1000))
    loss = ((w * 2).exp() + w).sum()
    loss.backward(retain_graph=True)
    once, w.grad = w.grad, None
    threads = [threading.Thread(target=lambda: [loss.backward(retain_graph=True) for _ in range(25)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_allclose(w.grad, 100 * once)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked here")
def test_a_forked_child_goes_backward_whatever_a_thread_of_its_parent_does():
    with tensor._adding:
        child = os.fork()
        if not child:
            thread = threading.Thread(target=lambda: (leaf(1.0) * 2).backward(), daemon=True)
            thread.start()
            thread.join(10)
            os._exit(thread.is_alive())
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_pullback_that_writes_into_the_gradient_it_was_given_is_refused():
    @autotx.lift
    def greedy(x, /):
        def dx(g):
            g *= 10
            return g

        return x * 1, (dx,)

    x, w = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    text = (
        "backward: the pullback of greedy writes into g, which others use too, or into an argument; let it make a new "
        "array"
    )
    with error(ValueError, text):
        (greedy(x) + w).sum().backward()
    assert w.grad is None
    with error(ValueError, text):
        gradcheck(greedy, x)


# ---- Writing ----------------------------------------------------------------------------------------------------

WRITTEN = (
    "backward: {} was recorded with {} of shape {}, which has been written to since (by an optimizer step?); "
    "its gradient would be wrong. Call backward before, or compute the forward pass again"
)


def test_writing_after_the_graph_was_recorded_is_an_error():
    x, w = leaf([1.0, 2.0]), leaf([3.0, 4.0], name="weight")
    y = x * w
    loss = y.sum()
    w.writable()[...] = 0
    with error(ValueError, WRITTEN.format("mul", "'weight'", (2,))):
        loss.backward()
    assert x.grad is None
    loss = (x * w).sum()  # the forward pass again
    loss.backward()
    np.testing.assert_array_equal(x.grad, [0, 0])


def test_writing_into_a_constant_that_a_gradient_needs_is_an_error_too():
    x, constant = leaf([1.0, 2.0]), Tensor([3.0, 4.0], dtype=np.float64)
    loss = (x * constant).sum()
    constant.writable()[...] = 0
    with error(ValueError, WRITTEN.format("mul", "a tensor", (2,))):
        loss.backward()


def test_the_caller_may_write_into_what_he_gave(tmp_path):
    """Arrays beside Tensors, and settings, are kept as they were."""
    x, ids = leaf([1.0, 2.0, 3.0]), [0, 1]
    factors = np.memmap(tmp_path / "factors", np.float64, "w+", shape=3)
    factors[:] = 2
    loss = (x * factors).sum() + x[ids].sum()
    factors[:], ids[0] = 9, 2
    loss.backward()
    np.testing.assert_array_equal(x.grad, [3, 3, 2])


VIEWS = {
    "reshape": lambda x: autotx.reshape(x, (2, 2)),
    "transpose": lambda x: autotx.transpose(x, 0, 1),
    "getitem": lambda x: autotx.getitem(x, slice(None)),
    "expand": lambda x: autotx.expand(x, (2, 2)),
    "dropout": lambda x: autotx.dropout(x, 0.5),
    "einsum": lambda x: autotx.einsum("ij->ji", x),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
def test_a_result_without_a_graph_keeps_its_values(view):
    """It is a constant beside others, and no graph knows what it was made of."""
    x, w, array = leaf(np.ones((2, 2))), leaf(np.ones((2, 2))), np.ones((2, 2))
    with autotx.no_grad():
        of_parameter = view(x)
    of_constant, of_array = view(Tensor(x)), view(array)
    loss = (w * of_parameter + w * of_constant + w * of_array).sum()
    x.writable()[...], array[:] = 9, 9
    loss.backward()
    np.testing.assert_array_equal(w.grad, np.full((2, 2), 3))


def test_the_ends_of_a_slice_may_be_written_into_afterwards():
    x, start, stop = leaf([1.0, 2.0, 3.0]), np.array(0), np.array(2)
    loss = x[start:stop].sum()
    start += 1
    stop += 1
    loss.backward()
    np.testing.assert_array_equal(x.grad, [1, 1, 0])


def test_writing_before_or_after_the_walk_is_fine():
    w = leaf(2.0)
    w.writable()[...] = 3
    (w * w).backward()
    w.writable()[...] -= w.grad
    assert w.item() == -3
    (w * w).backward()
    assert w.grad == 0


def test_writable_reaches_the_tensor():
    for values in [2.0, [1.0, 2.0], 3]:
        t = Tensor(values)
        t.writable()[...] = 7
        assert np.all(t.data == 7)
        assert t.dtype == Tensor(values).dtype


def test_an_op_gets_its_arguments_read_only():
    @autotx.lift
    def scaled(x, y, /):
        x *= 2
        return x * y, (lambda g: g * y, lambda g: g * x)

    x, w, array = leaf([1.0, 2.0]), leaf([3.0, 4.0]), np.ones(2)
    text = "scaled: the op writes into an argument, which others use too; let it make a new array, as x.copy() does"
    for argument in (x, x * 1, array, Tensor(array)):
        for settings in (contextlib.nullcontext(), autotx.no_grad()):
            with settings, error(ValueError, text):
                scaled(argument, w)
    np.testing.assert_array_equal(x.data, [1, 2])
    np.testing.assert_array_equal(array, [1, 1])


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_an_op_without_a_pullback_is_refused(rows):
    @autotx.lift
    def double(x, /):
        return x * 2

    text = "double: the op returned {}; let it return (result, (lambda g: ...,)), a function for each argument"
    with error(TypeError, text.format("no pullback")):
        double(leaf(np.ones((rows, 2))))
    bare = "a pullback that does not take g and the list of wanted gradients"
    several = "something other than functions of g as pullbacks"
    for returned, what in {
        lambda x: (x * 2, lambda g: g * 2): bare,
        lambda x: (x * 2, x * 3): "no pullback",
        lambda x: (x, x, x): "no pullback",
        lambda x: (x * 2, ()): "0 pullbacks for 1 argument",
        lambda x: (x * 2, (x * 3,)): several,
    }.items():

        @autotx.lift
        def double(x, /, returned=returned):
            return returned(x)

        with error(TypeError, text.format(what)):
            double(leaf(np.ones((rows, 2))))


def test_a_pullback_of_none_gives_no_gradient():
    @autotx.lift
    def first(x, y, /):
        return x * y, (lambda g: g * y, None)

    x = leaf([1.0, 2.0])
    first(x, [3.0, 4.0]).sum().backward()
    np.testing.assert_array_equal(x.grad, [3, 4])
    with error(ValueError, "backward: first has no gradient for an argument that requires one"):
        first(x, x).sum().backward()


def test_an_error_of_an_op_is_one_error():
    @autotx.lift
    def careless(x, /):
        raise ValueError("a mistake of the user")

    @autotx.lift
    def double(x, /):
        return x * 2

    for call, function in (
        (lambda: double(leaf([1.0])), "function"),
        (lambda: leaf([1.0]) @ leaf([1.0, 2.0]), "matmul"),
        (lambda: leaf([1.0, 2.0]) * leaf([1.0, 2.0, 3.0]), "mul"),
        (lambda: careless(leaf([1.0])), "careless"),
    ):
        with pytest.raises((ValueError, TypeError)) as caught:
            call()
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__
        assert caught.traceback[-1].name == function  # where it was raised can be seen
        assert not [entry.name for entry in caught.traceback if entry.name == "function" and not entry.ishidden(caught)]


def test_a_result_stays_in_its_graph():
    x = leaf([1.0, 2.0])
    h = x * 2
    with error(
        ValueError,
        "requires_grad: this result of mul has a gradient as its arguments have; x = x.detach() has none, and with "
        "autotx.no_grad() no graph is recorded",
    ):
        h.requires_grad = False
    h.requires_grad = True
    h.sum().backward()
    np.testing.assert_array_equal(x.grad, [2, 2])


def test_a_result_without_a_graph_becomes_a_leaf():
    with autotx.no_grad():
        y = leaf([1.0, 2.0]) * 2
    y.requires_grad = True
    (y * y).sum().backward()
    np.testing.assert_array_equal(y.grad, [4, 8])
    y.writable()[...] = 7
    np.testing.assert_array_equal(y.data, [7, 7])


def test_a_frozen_parameter_is_still_a_parameter():
    w, x = leaf([1.0]), Tensor([1.0])
    w.requires_grad = x.requires_grad = False
    assert (w.is_parameter, x.is_parameter) == (True, False)
    assert not (w * 2).requires_grad
    w.requires_grad = True
    (w * 2).sum().backward()
    assert w.grad == 2


def test_tensor_has_no_subclass():
    with pytest.raises(
        TypeError, match=r"^Parameter: Tensor has no subclasses, which ops would take for constants; let"
    ):
        type("Parameter", (Tensor,), {})


COPIES = {"copy": copy.copy, "deepcopy": copy.deepcopy, "pickle": lambda x: pickle.loads(pickle.dumps(x))}


@pytest.mark.parametrize("duplicate", COPIES.values(), ids=COPIES)
def test_a_copy_of_a_leaf_has_values_of_its_own(duplicate):
    x = leaf([1.0, 2.0], name="x")
    x.sum().backward()
    x.requires_grad = False
    y, other = duplicate(x), duplicate(leaf([5.0]))
    loss = (other * other).sum()
    assert (y.name, y.requires_grad, y.is_parameter, y.grad.tolist()) == ("x", False, True, [1, 1])
    y.writable()[...] = y.grad[...] = 100
    assert (x.data.tolist(), x.grad.tolist()) == ([1, 2], [1, 1])
    duplicate(other).writable()[...] = 100
    loss.backward()
    assert other.grad == 10


def test_a_result_is_not_copied_with_its_graph():
    x = leaf([1.0, 2.0])
    y = x * x
    assert copy.copy(y) is y  # it is never written to
    text = (
        "copy: this result of {} belongs to a graph, which is not copied or pickled; give x.detach(), or x.clone() for "
        "a copy with a gradient"
    )
    for duplicate in (copy.deepcopy, pickle.dumps):
        with error(TypeError, text.format("mul")):
            duplicate((x, y))
    loss = y.sum()
    loss.backward()
    with error(TypeError, text.format("sum")):
        copy.deepcopy(loss)
    constant = Tensor([3.0]) * 2
    assert copy.deepcopy(constant).data == 6


def test_a_pickled_leaf_is_new_in_the_process_that_loads_it():
    """The ticks of the process that wrote it mean nothing there."""
    saved = pickle.dumps(leaf([3.0]))
    code = f"import pickle; x = pickle.loads({saved!r}); (x * x).sum().backward(); print(x.grad)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[6.]\n"


def test_whole_numbers_made_a_leaf_later():
    t = Tensor(np.array([1, 2]))
    with error(
        TypeError, "Tensor: int64 cannot require gradients, only floating-point numbers can; pass dtype=numpy.float32"
    ):
        t.requires_grad = True
    assert not t.requires_grad


def test_a_result_cannot_be_written_or_assigned():
    y = leaf([1.0]) * 2
    with error(ValueError, "writable: a result of mul is not written to, only tensors made by hand"):
        y.writable()
    with error(ValueError, "data: a result of mul cannot be assigned, only tensors made by hand"):
        y.data = [1.0]
    with autotx.no_grad(), pytest.raises(ValueError, match="writable: a result of reshape is not written to"):
        y.reshape(1, 1).writable()


def test_new_data_leaves_recorded_graphs_right():
    x, w = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    loss = (x * w).sum()
    w.data = np.zeros(2)
    loss.backward()
    np.testing.assert_array_equal(x.grad, [3, 4])
    np.testing.assert_array_equal(w.data, [0, 0])


def test_data_assignment_copies_and_keeps_shape_and_type():
    w = Tensor([1.0, 2.0])
    values = np.array([3.0, 4.0])
    w.data = values
    values[:] = 0
    np.testing.assert_array_equal(w.data, np.float32([3, 4]), strict=True)
    with error(ValueError, "data: the tensor has shape (2,), the new values (3,)"):
        w.data = [1, 2, 3]


def test_data_is_read_only():
    for t in [Tensor([1.0, 2.0]), Tensor(1.0), leaf([1.0]) * 2]:
        with pytest.raises(ValueError, match="read-only"):
            t.data[...] = 0
        with pytest.raises(ValueError, match="read-only"):
            np.asarray(t)[...] = 0


def test_a_tensor_shares_no_memory_with_what_it_was_made_of():
    values = np.ones(3, np.float32)
    t = Tensor(values)
    other, copy, cut = Tensor(t), t.numpy(), t.detach()
    values[:] = 5
    t.writable()[:] = 7
    for untouched in (other.data, copy, cut.data):
        np.testing.assert_array_equal(untouched, np.ones(3))
    copy[:] = 2


def test_items_cannot_be_assigned():
    text = "setitem: a tensor is not written into, a graph may need its values; build a new one with autotx.where or "
    with pytest.raises(TypeError, match=text):
        leaf([1.0, 2.0])[0] = 5


# ---- Whose memory a gradient is ---------------------------------------------------------------------------------


def test_gradients_are_different_memory():
    x, y = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    seed = np.ones(2)
    (x + y).backward(seed)
    assert not np.shares_memory(x.grad, y.grad)
    assert not np.shares_memory(x.grad, seed)
    x.grad[:] = 9
    np.testing.assert_array_equal(y.grad, [1, 1])
    np.testing.assert_array_equal(seed, [1, 1])


PASSING = [
    lambda x: x + 0.0,
    lambda x: x.reshape(2, 2),
    lambda x: x.T,
    lambda x: x[:],
    lambda x: x.unsqueeze(0).squeeze(0),
    lambda x: autotx.concat([x]),
    lambda x: x.expand(4),
    lambda x: autotx.dropout(x, 0.5),
    lambda x: x.pad([(0, 0)]),
]


@pytest.mark.parametrize("through", PASSING)
def test_the_gradient_given_is_never_written_nor_handed_out(through):
    x = leaf(np.ones(4))
    y = through(x)
    seed = np.arange(4.0).reshape(y.shape)
    for _ in range(2):  # the second one adds to the first
        y.backward(seed, retain_graph=True)
        assert not np.shares_memory(x.grad, seed)
    np.testing.assert_array_equal(seed.reshape(-1), np.arange(4))
    np.testing.assert_array_equal(x.grad, 2 * np.arange(4))
    (through(x) + through(x)).backward(seed)
    np.testing.assert_array_equal(x.grad, 4 * np.arange(4))
    np.testing.assert_array_equal(seed.reshape(-1), np.arange(4))


def test_a_gradient_given_may_be_the_one_that_is_added_to():
    x = leaf([1.0, 2.0])
    x.sum().backward()
    (x * 2 + x * 3).backward(x.grad)
    np.testing.assert_array_equal(x.grad, [6, 6])


def test_a_gradient_can_be_written():
    x = leaf(np.ones(3))
    for loss in [x.sum(), x.mean(), (x + 1).sum(), x[0]]:
        x.zero_grad()
        loss.backward()
        x.grad *= 2


# ---- Modes ------------------------------------------------------------------------------------------------------


def test_no_grad_records_nothing():
    x = leaf([1.0])
    with autotx.no_grad():
        y = x * 2
        with autotx.no_grad():
            pass
        z = x * 3
    assert not y.requires_grad
    assert not z.requires_grad
    assert (x * 2).requires_grad
    with pytest.raises(RuntimeError, match="stop"), autotx.no_grad():
        raise RuntimeError("stop")
    assert (x * 2).requires_grad


def test_no_grad_above_a_generator_holds_while_it_runs():
    x = leaf(1.0)

    @autotx.no_grad()
    def values(n):
        """Doubled."""
        for _ in range(n):
            if (yield (x * 2).requires_grad) == "stop":
                return "stopped"
        raise RuntimeError

    it = values(3)
    assert [next(it), (x * 2).requires_grad, next(it)] == [False, True, False]
    with pytest.raises(StopIteration, match="stopped"):
        it.send("stop")
    with pytest.raises(RuntimeError):
        list(values(1))
    assert (x * 2).requires_grad
    assert values.__doc__ == "Doubled."


def test_no_grad_above_async_functions_holds_while_they_run():
    x = leaf(1.0)

    @autotx.no_grad()
    async def without():
        first = (x * 2).requires_grad
        await asyncio.sleep(0)
        return first, (x * 2).requires_grad

    async def with_graph():
        await asyncio.sleep(0)
        return (x * 2).requires_grad

    @autotx.no_grad()
    async def values():
        for _ in range(2):
            await asyncio.sleep(0)
            yield (x * 2).requires_grad

    async def all_of_them():
        return await asyncio.gather(without(), with_graph(), without()), [v async for v in values()]

    assert asyncio.run(all_of_them()) == ([(False, False), True, (False, False)], [False, False])
    assert (x * 2).requires_grad


def test_blocks_of_no_grad_may_be_left_in_any_order():
    def suspended():
        with autotx.no_grad():
            yield

    first, second = suspended(), suspended()
    next(first)
    next(second)
    first.close()
    assert not (leaf(1.0) * 2).requires_grad
    thread = threading.Thread(target=second.close)
    thread.start()
    thread.join()
    assert (leaf(1.0) * 2).requires_grad


def test_no_grad_is_of_its_own_thread():
    x, seen = leaf([1.0]), []
    entered, leave = threading.Event(), threading.Event()

    def other():
        with autotx.no_grad():
            entered.set()
            leave.wait(10)
            seen.append((x * 2).requires_grad)

    thread = threading.Thread(target=other)
    thread.start()
    entered.wait(10)
    assert (x * 2).requires_grad
    leave.set()
    thread.join()
    assert seen == [False]


def test_a_result_made_a_leaf():
    x = leaf([1.0, 2.0])
    with autotx.no_grad():
        y = x * 2
    y.requires_grad = True
    (y * y).sum().backward()
    np.testing.assert_array_equal(y.grad, 2 * y.data)
    assert x.grad is None
    cut = (x * 2).detach()
    assert not cut.requires_grad
    cut.requires_grad = True
    (cut * x).sum().backward()
    np.testing.assert_array_equal(cut.grad, x.data)
    np.testing.assert_array_equal(x.grad, cut.data)


# ---- Anomalies --------------------------------------------------------------------------------------------------


def test_the_op_that_made_a_nan_is_named_with_its_line():
    x = leaf([1.0, -1.0])
    with autotx.detect_anomaly():
        y = x * 2
        with pytest.raises(FloatingPointError) as caught:
            y.log()  # here
    text = str(caught.value)
    assert text.startswith("log: its result has nan at index (1,), its arguments were finite; called at ")
    assert text.endswith("y.log()  # here")
    assert "test_engine.py:" in text


def test_the_op_whose_gradient_is_infinite_is_named_with_its_forward_line():
    x = leaf([4.0, 0.0], name="weight")
    with autotx.detect_anomaly():
        y = x.sqrt()  # here
        loss = (y * 3).sum()
        with pytest.raises(FloatingPointError) as caught:
            loss.backward()
    text = str(caught.value)
    assert text.startswith("backward of sqrt: the gradient of 'weight' has inf at index (1,); called at ")
    assert text.endswith("y = x.sqrt()  # here")


def test_the_line_is_found_behind_operators_and_layers():
    x = leaf([0.0])
    with (
        autotx.detect_anomaly(),
        pytest.raises(FloatingPointError, match=r"^div: .*1 / x  # here$"),
        np.errstate(divide="ignore"),
    ):
        1 / x  # here


def test_infinities_put_in_on_purpose_are_no_anomaly():
    x = leaf([[1.0, 2.0], [3.0, 4.0]])
    with autotx.detect_anomaly():
        masked = x.masked_fill(np.array([[False, True], [False, False]]), -np.inf)
        masked.softmax().log_softmax()[0].sum().backward()
    assert np.isfinite(x.grad).all()


def test_outside_nothing_is_inspected():
    x = leaf([-1.0])
    with autotx.detect_anomaly():
        pass
    assert np.isnan(x.log().data)


# ---- Tensors among arrays and numbers ---------------------------------------------------------------------------


@pytest.mark.parametrize("other", [2, 2.0, np.float64(2), np.array(2.0), np.array([2.0, 3.0]), [2.0, 3.0], True])
def test_operators_take_arrays_and_numbers_on_either_side(other):
    x, value = leaf([1.5, 4.0]), np.asarray(other, np.float64)
    for ours, numpys in [
        (other + x, value + x.data),
        (x + other, x.data + value),
        (other - x, value - x.data),
        (x - other, x.data - value),
        (other * x, value * x.data),
        (other / x, value / x.data),
        (x / other, x.data / value),
        (x**other, x.data**value),
        (other**x, value**x.data),
        (-x, -x.data),
        (abs(x), x.data),
    ]:
        assert isinstance(ours, Tensor)
        assert ours.requires_grad
        np.testing.assert_allclose(ours.data, numpys, rtol=1e-12)


def test_matrix_products_with_arrays():
    x = leaf(np.arange(6.0).reshape(2, 3))
    a = np.ones((4, 2))
    for product in (a @ x, x.T @ a.T):
        assert isinstance(product, Tensor)
    np.testing.assert_array_equal((a @ x).data, a @ x.data)


def test_comparisons_give_boolean_arrays():
    x = leaf([1.0, 2.0, 3.0])
    for result, expected in [
        (x > 2, [False, False, True]),
        (x >= 2, [False, True, True]),
        (x < 2, [True, False, False]),
        (x < np.array([2.0, 2.0, 2.0]), [True, False, False]),
        (np.array([2.0, 2.0, 2.0]) <= x, [False, True, True]),
        (x == Tensor([1.0, 0.0, 3.0]), [True, False, True]),
        (x != 1, [False, True, True]),
    ]:
        assert isinstance(result, np.ndarray)
        np.testing.assert_array_equal(result, expected, strict=True)
    assert x in {x}, "a tensor is a key by identity"


def test_array_protocol():
    x = leaf([1.0, 2.0])
    assert type(np.asarray(x)) is np.ndarray
    assert np.asarray(x, dtype=np.float32).dtype == np.float32
    np.testing.assert_array_equal(np.stack([x, x]), [[1, 2], [1, 2]])
    copy = np.array(x)
    copy[:] = 0
    np.testing.assert_array_equal(x.data, [1, 2])
    assert np.asarray(Tensor(1.0)).shape == ()


def test_conversions():
    assert float(Tensor(2.5)) == 2.5
    assert int(Tensor([3])) == 3
    assert bool(Tensor(1.0)) is True
    assert [10, 20, 30][Tensor(1)] == 20
    assert Tensor([[7.0]]).item() == 7
    assert isinstance(Tensor([[7.0]]).item(), float)
    with error(ValueError, "item: needs a tensor of one element, this one has shape (2,)"):
        Tensor([1.0, 2.0]).item()
    with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
        [10, 20][Tensor(1.0)]


def test_length_and_iteration():
    x = leaf([[1.0, 2.0], [3.0, 4.0]])
    assert len(x) == 2
    a, b = x
    (a * b).sum().backward()
    np.testing.assert_array_equal(x.grad, [[3, 4], [1, 2]])
    with error(TypeError, "len: a tensor with no axes has no length"):
        len(Tensor(1.0))


def test_types():
    half = np.array([1.0, 2.0], np.float16)
    for data, expected in [
        ([1, 2], np.int64),
        ([1.0, 2], np.float32),
        (3.0, np.float32),
        (True, np.bool_),
        (np.float64(3), np.float64),
        (np.ones(2), np.float64),
        (np.ones(2, np.float32), np.float32),
        (half, np.float32),
        (np.ones(2, np.int32), np.int32),
    ]:
        assert Tensor(data).dtype == expected, data
    assert Tensor([1, 2], dtype=np.float64).dtype == np.float64
    assert Tensor([1.5], dtype=np.int64).data == 1
    x = Tensor([1.0, 2.0], requires_grad=True)
    for result in [
        x + 1,
        2.5 * x,
        x**2,
        2**x,
        x / 3,
        x.mean(),
        x.var(),
        x.sum(),
        x.softmax(),
        x.clip(0, 1),
        x.maximum(0.5),
        x > 1,
    ]:
        assert result.dtype in (np.float32, bool)
    assert (x + np.ones(2)).dtype == np.float64, "as in NumPy, arrays of both types give float64"
    (x * np.ones(2)).sum().backward()
    assert x.grad.dtype == np.float32, "the gradient has the type of its tensor"


def test_type_errors():
    text = "Tensor: int64 cannot require gradients, only floating-point numbers can; pass dtype=numpy.float32"
    with error(TypeError, text):
        Tensor([1, 2], requires_grad=True)
    with pytest.raises(TypeError, match="Tensor: data of type <U3 are not real numbers"):
        Tensor("abc")
    with pytest.raises(TypeError, match="Tensor: data of type complex128 are not real numbers"):
        Tensor(1j)
    with error(TypeError, "Tensor: dtype float16 is not computed with; give numpy.float32 or numpy.float64"):
        Tensor([1.0], dtype=np.float16)
    with pytest.raises(ValueError, match="Tensor: rows of different lengths or not numbers"):
        Tensor([[1, 2], [3]])


def test_repr():
    assert repr(Tensor([1.0, 2.0])) == "Tensor([1., 2.])"
    assert repr(leaf([1.0], name="w")) == "Tensor([1.], dtype=float64, requires_grad=True, name='w')"
    assert repr(Tensor(2.5, requires_grad=True) * 2) == "Tensor(5., op=mul)"
    assert "shape=(0, 3)" in repr(Tensor(np.zeros((0, 3))))
    for shape in [(1_000_000,), (1000, 1000), (10, 10, 10, 10), (5,) * 6, (2,) * 16]:
        text = repr(Tensor(np.zeros(shape, np.float32)))
        assert len(text) < 10_000
        assert f"shape={shape}" in text


# ---- Ops of one's own -------------------------------------------------------------------------------------------


def test_an_op_of_ones_own():
    @autotx.lift
    def hypot(x, y, /, squared=False):
        """z = sqrt(x^2 + y^2), or its square.   dx = g x / z, dy = g y / z; for the square g 2 x and g 2 y."""
        z = x**2 + y**2
        if squared:
            return z, (lambda g: g * 2 * x, lambda g: g * 2 * y)
        z = np.sqrt(z)
        return z, lambda g, wanted: (g * x / z, g * y / z)

    x, y = leaf([3.0, 1.0]), leaf([[4.0], [2.0]])
    assert gradcheck(hypot, [x, y])
    assert gradcheck(lambda x, y: hypot(x, y, squared=True), [x, y])
    assert gradcheck(lambda x: hypot(x, 2.0, True), x)
    assert hypot(3.0, y=Tensor(4.0, requires_grad=True)).item() == 5
    assert hypot.__doc__.startswith("z = ")


def test_an_op_needs_a_slash():
    with error(TypeError, "lift: f has no differentiable argument; put a slash after them: def f(x, /)"):

        @autotx.lift
        def f(x):
            return x, (lambda g: g,)


def test_an_op_with_any_number_of_arguments():
    @autotx.lift
    def total(*xs, weight=1.0):
        return weight * sum(xs), lambda g, wanted: (weight * g,) * len(xs)

    xs = [leaf([1.0, 2.0]), leaf([3.0]), leaf(4.0)]
    assert gradcheck(lambda *xs: total(*xs, weight=3.0), xs)


@pytest.mark.parametrize("first", [True, False])
def test_arguments_that_get_one_array_for_their_gradients(first):
    @autotx.lift
    def sum_of(x, y, /):
        return x + y, lambda g, wanted: (1 * g,) * 2

    x, y = leaf([1.0, 2.0]), leaf([3.0, 4.0])
    others = 3 * x + 5 * y
    (sum_of(x, y) + others if first else others + sum_of(x, y)).sum().backward()
    np.testing.assert_array_equal(x.grad, [4, 4])
    np.testing.assert_array_equal(y.grad, [6, 6])


def test_an_argument_that_gets_two_views_of_one_array_for_its_gradient():
    d = np.arange(60_000, dtype=np.float32).reshape(300, 200)

    @autotx.lift
    def both_ways(x, y, /):
        return x + y, lambda g, wanted: (e := g * d, e[::-1])

    x = leaf(np.zeros_like(d))
    both_ways(x, x).sum().backward()
    np.testing.assert_array_equal(x.grad, d + d[::-1])


def test_a_pullback_with_too_few_gradients():
    @autotx.lift
    def first(x, y, /):
        return x + y, lambda g, wanted: (g,)

    message = "backward: first has 2 arguments, its pullback gradients for 1; give one for each"
    with error(ValueError, message):
        first(leaf(1.0), leaf(2.0)).backward()


def test_a_pullback_that_returns_all_gradients_is_told_which_are_wanted():
    told = []

    @autotx.lift
    def product(x, y, factor, /):
        def gradients(g, wanted):
            told.append(wanted)
            return g * y * factor, g * x * factor, None

        return x * y * factor, gradients

    x, y = leaf(2.0), leaf(3.0)
    product(x, y, 5.0).backward()
    product(x, Tensor(3.0), 5.0).backward()
    assert told == [[True, True, False], [True, False, False]]
    assert x.grad == 30


def test_arguments_by_name_and_by_position():
    x, w, b = leaf(np.ones((2, 3))), leaf(np.ones((4, 3))), leaf(np.ones(4))
    np.testing.assert_array_equal(autotx.linear(x, w, b).data, autotx.linear(x=x, bias=b, weight=w).data)
    assert autotx.softmax(x, 0).shape == (2, 3)
    with error(TypeError, "softmax: axis was given twice, by position and by name"):
        autotx.softmax(x, 0, axis=1)
    with error(TypeError, "softmax: takes at most 2 arguments, got 3"):
        autotx.softmax(x, 0, 1)
    with error(TypeError, "linear: weight is missing, what comes after it was given by name"):
        autotx.linear(x, bias=b)
    with pytest.raises(TypeError, match=r"^softmax: no argument 'dim'; the call is softmax\(x, axis\)$"):
        autotx.softmax(x, dim=1)
    with pytest.raises(TypeError, match=r"^mul: missing 'y'; the call is mul\(x, y\)$"):
        autotx.mul(x)


def test_a_setting_that_wants_a_gradient_is_an_error():
    x, bias = leaf(np.ones((2, 2))), leaf(np.zeros((2, 2)))
    with error(
        ValueError,
        "scaled_dot_product_attention: mask is a setting, which gets no gradient; the call is "
        "scaled_dot_product_attention(q, k, v, mask, causal, dropout_p, rng); give mask.detach() if that is meant",
    ):
        autotx.scaled_dot_product_attention(x, x, x, mask=bias)
    autotx.scaled_dot_product_attention(x, x, x, mask=bias.detach())
    with autotx.no_grad():
        autotx.scaled_dot_product_attention(x, x, x, mask=bias)


def test_settings_may_be_integer_tensors():
    x, ids = leaf(np.arange(6.0).reshape(3, 2)), Tensor([2, 0])
    for ours, arrays in [
        (x[ids], x.data[[2, 0]]),
        (x[ids, 0], x.data[[2, 0], 0]),
        (autotx.embedding(x, ids), x.data[[2, 0]]),
        (x.gather(Tensor([[1], [0], [1]]), axis=1), [[1], [2], [5]]),
    ]:
        np.testing.assert_array_equal(ours.data, arrays)


# ---- Errors that name the op, the shapes and the cure -----------------------------------------------------------


def z(*shape):
    return Tensor(np.zeros(shape))


attend = autotx.scaled_dot_product_attention
heads = autotx.multi_head_attention


ERRORS = [
    (
        lambda: z(2, 3) + z(4),
        ValueError,
        "add: shapes (2, 3) and (4,) do not broadcast; from the right, sizes must be equal or 1 (reshape or "
        "unsqueeze one)",
    ),
    (
        lambda: autotx.where(np.ones((2, 3)) > 0, z(2), z(2)),
        ValueError,
        "where: shapes (2,) and (2,) do not broadcast",
    ),
    (
        lambda: autotx.where(np.ones(2), z(2), z(2)),
        TypeError,
        "where: the condition has type float64; give booleans, for example x > 0",
    ),
    (
        lambda: z(2, 3) @ z(4, 5),
        ValueError,
        "matmul: shapes (2, 3) and (4, 5): the last axis of the first (3) must equal the second-last of the "
        "second (4); transpose one of them?",
    ),
    (lambda: z(2, 3) @ 2.0, ValueError, "matmul: shapes (2, 3) and (): a number has no rows; use * instead"),
    (
        lambda: autotx.linear(z(2, 3), z(4, 5)),
        ValueError,
        "linear: x of shape (2, 3) and weight of shape (4, 5): weight must be (out, in), and the last axis of x "
        "have `in` elements",
    ),
    (
        lambda: autotx.linear(z(2, 3), z(4, 3), z(3)),
        ValueError,
        "linear: bias of shape (3,), weight of shape (4, 3): give (4,)",
    ),
    (
        lambda: autotx.layer_norm(z(2, 3), z(2), z(3)),
        ValueError,
        "layer_norm: gamma of shape (2,) for x of shape (2, 3): give (3,)",
    ),
    (
        lambda: z(2, 3).reshape(4),
        ValueError,
        "reshape: cannot reshape array of size 6 into shape (4,) (shapes (2, 3))",
    ),
    (
        lambda: z(2, 3).permute(0, 0),
        ValueError,
        "permute: axes (0, 0) are not an order of the 2 axes of shape (2, 3)",
    ),
    (
        lambda: z(2, 3).sum(axis=5),
        ValueError,
        "sum: axis 5 is out of bounds for array of dimension 2 (shapes (2, 3))",
    ),
    (
        lambda: z(2, 3).mean(axis=5),
        ValueError,
        "mean: axis 5 is out of bounds for array of dimension 2 (shapes (2, 3))",
    ),
    (
        lambda: z(2, 3).softmax(axis=5),
        ValueError,
        "softmax: axis 5 is out of bounds for array of dimension 2 (shapes (2, 3))",
    ),
    (lambda: z(0).mean(), ValueError, "mean: no elements along axis None of shape (0,); there is no mean of nothing"),
    (lambda: z(0).max(), ValueError, "max: no elements along axis None of shape (0,); there is no max of nothing"),
    (
        lambda: z(1).var(correction=1),
        ValueError,
        "var: correction 1 leaves nothing to divide by along axis None of (1,)",
    ),
    (lambda: z(2, 3)[5], IndexError, "getitem: index 5 is out of bounds for axis 0 with size 2 (shapes (2, 3))"),
    (
        lambda: z(2, 3).gather(np.array([[3]]), axis=1),
        ValueError,
        "gather: index 3 to 3 is outside axis 1 of shape (2, 3)",
    ),
    (
        lambda: z(2, 3).gather(np.array([0]), axis=1),
        ValueError,
        "gather: index of shape (1,) for x of shape (2, 3); give it as many axes",
    ),
    (
        lambda: z(2, 3).gather(np.array([[0.5]]), axis=1),
        TypeError,
        "gather: the index has type float64; give integers",
    ),
    (
        lambda: z(2, 3).masked_fill(np.ones((4, 2, 3)) > 0, 0),
        ValueError,
        "masked_fill: a mask of shape (4, 2, 3) does not broadcast to the tensor's (2, 3)",
    ),
    (
        lambda: z(2, 3).masked_fill(np.ones(3), 0),
        TypeError,
        "masked_fill: the mask has type float64; give booleans, for example ids == pad",
    ),
    (lambda: z(5).split([2, 2]), ValueError, "split: sizes [2, 2] add up to 4, the axis has 5 elements"),
    (lambda: z(5).split(0), ValueError, "split: pieces of 0 elements; give at least 1"),
    (
        lambda: z(2, 3).pad([(1, 1)]),
        ValueError,
        "pad: widths [(1, 1)] are not one (before, after), none negative, for each axis of (2, 3)",
    ),
    (lambda: z(3).tril(), ValueError, "tril: shape (3,) has no rows and columns; reshape it to two axes or more"),
    (lambda: z(3).clip(), ValueError, "clip: give min, max or both"),
    (lambda: z(3).dropout(1.0), ValueError, "dropout: p is 1.0; give a probability from 0 to below 1"),
    (lambda: z(3).gelu("fast"), ValueError, "gelu: approximate is 'fast'; give 'none' or 'tanh'"),
    (lambda: autotx.einsum("ij,jk", z(2, 3)), ValueError, "einsum: 'ij,jk' names 2 arguments, 1 were given"),
    (
        lambda: autotx.einsum("ij->i", z(2)),
        ValueError,
        "einsum: 'ij' in 'ij->i' does not fit an argument with 1 axes",
    ),
    (
        lambda: autotx.embedding(z(5, 2), np.array([1, 5])),
        ValueError,
        "embedding: id 5 is out of range, there are 5 rows in the table (0 to 4)",
    ),
    (
        lambda: autotx.embedding(z(5, 2), np.array([-1])),
        ValueError,
        "embedding: id -1 is out of range, there are 5 rows in the table (0 to 4)",
    ),
    (
        lambda: autotx.embedding(z(5, 2), np.array([2**63 + 1], np.uint64)),
        ValueError,
        "embedding: id 9223372036854775809 is out of range, there are 5 rows in the table (0 to 4)",
    ),
    (
        lambda: autotx.embedding(z(5, 2), np.array([1.0])),
        TypeError,
        "embedding: ids have type float64; give integers",
    ),
    (
        lambda: autotx.cross_entropy(z(2, 3), np.array([0, 3])),
        ValueError,
        "cross_entropy: id 3 is out of range, there are 3 classes (0 to 2)",
    ),
    (
        lambda: autotx.cross_entropy(z(2, 3), np.array([-1, 0])),
        ValueError,
        "cross_entropy: id -1 is out of range, there are 3 classes (0 to 2)",
    ),
    (
        lambda: autotx.cross_entropy(z(2, 3), np.array([0])),
        ValueError,
        "cross_entropy: targets of shape (1,) for scores of shape (2, 3): give (2,)",
    ),
    (
        lambda: autotx.cross_entropy(z(2, 3), np.array([7, 7]), ignore_index=7),
        ValueError,
        "cross_entropy: no target counts (all are ignored, or there are none); there is no mean of nothing",
    ),
    (
        lambda: autotx.cross_entropy(z(2, 3), np.array([0, 1]), reduction="avg"),
        ValueError,
        "cross_entropy: reduction is 'avg'; give 'mean', 'sum' or 'none'",
    ),
    (
        lambda: autotx.cross_entropy(z(2, 3), np.array([0, 1]), label_smoothing=1.5),
        ValueError,
        "cross_entropy: label_smoothing is 1.5; give a number from 0 to below 1",
    ),
    (
        lambda: autotx.mse_loss(z(2, 1), z(2)),
        ValueError,
        "mse_loss: shapes (2, 1) and (2,) differ; reshape one of them",
    ),
    (
        lambda: attend(z(3), z(3), z(3)),
        ValueError,
        "scaled_dot_product_attention: q (3,), k (3,), v (3,): give (..., tokens, channels)",
    ),
    (
        lambda: attend(z(3, 2), z(4, 3), z(4, 3)),
        ValueError,
        "scaled_dot_product_attention: q (3, 2), k (4, 3), v (4, 3): q and k need the same last axis, k and v as "
        "many tokens",
    ),
    (
        lambda: attend(z(3, 2), z(3, 2), z(3, 2), mask=np.ones((2, 2)) > 0),
        ValueError,
        "scaled_dot_product_attention: a mask of shape (2, 2) does not broadcast to the scores' (3, 3)",
    ),
    (
        lambda: attend(z(3, 2), z(3, 2), z(3, 2), mask=np.ones((3, 3), int)),
        TypeError,
        "scaled_dot_product_attention: the mask has type int64; give mask != 0, booleans (True: may attend)",
    ),
    (
        lambda: heads(z(2, 6), n_head=2),
        ValueError,
        "multi_head_attention: x (2, 6); give (batch, tokens, 3 C), C a multiple of the 2 heads",
    ),
    (
        lambda: heads(z(1, 2, 8), n_head=2),
        ValueError,
        "multi_head_attention: x (1, 2, 8); give (batch, tokens, 3 C), C a multiple of the 2 heads",
    ),
    (
        lambda: heads(z(1, 2, 9), n_head=2),
        ValueError,
        "multi_head_attention: x (1, 2, 9); give (batch, tokens, 3 C), C a multiple of the 2 heads",
    ),
    (
        lambda: heads(z(1, 2, 6), n_head=0),
        ValueError,
        "multi_head_attention: 0 heads of keys and values do not divide the 0 heads of queries",
    ),
    (
        lambda: heads(z(1, 2, 3), z(1, 4, 6), n_head=2),
        ValueError,
        "multi_head_attention: x (1, 2, 3); give (batch, tokens, C), C a multiple of the 2 heads",
    ),
    (
        lambda: heads(z(1, 2, 4), z(1, 4, 4), n_head=2),
        ValueError,
        "multi_head_attention: kv (1, 4, 4) for x (1, 2, 4); give (1, tokens, 8)",
    ),
    (
        lambda: heads(z(1, 2, 6), n_head=2, mask=np.ones((3, 3)) > 0),
        ValueError,
        "multi_head_attention: a mask of shape (3, 3) does not broadcast to the scores' (1, 2, 2, 2)",
    ),
    (
        lambda: heads(z(1, 2, 6), n_head=2, mask=np.ones((2, 2), int)),
        TypeError,
        "multi_head_attention: the mask has type int64; give mask != 0, booleans (True: may attend)",
    ),
    (
        lambda: heads(z(1, 2, 6), n_head=2, dropout_p=1.0),
        ValueError,
        "multi_head_attention: dropout_p is 1.0; give a probability from 0 to below 1",
    ),
    (lambda: z(3) + "abc", TypeError, "Tensor: data of type <U3 are not real numbers"),
    (
        lambda: autotx.concat([z(2, 3), z(2, 4)]),
        ValueError,
        "concat: all the input array dimensions except for the concatenation axis must match exactly",
    ),
    (
        lambda: autotx.stack([z(2), z(3)]),
        ValueError,
        "stack: all input arrays must have the same shape (shapes (2,) and (3,))",
    ),
    (
        lambda: z(2, 3).sum(dim=1),
        TypeError,
        "sum: no argument 'dim'; the call is sum(x, axis, keepdims); the sum of two tensors is x + y",
    ),
    (
        lambda: autotx.dropout(z(3), 0.5, 0),
        TypeError,
        "dropout: rng is 0; give a numpy.random.Generator, such as numpy.random.default_rng(0)",
    ),
    (lambda: autotx.init.normal((2,), 7), TypeError, "normal: rng is 7; give a numpy.random.Generator"),
    (
        lambda: autotx.nn.MultiHeadAttention(6, 2, rng=None)(z(3, 6)),
        ValueError,
        "MultiHeadAttention: an input of shape (3, 6); give (batch, tokens, 6)",
    ),
    *(
        (f, TypeError, f"{name}: computes with floats, got int64; pass dtype=numpy.float32")
        for name, f in {
            "mse_loss": lambda: autotx.mse_loss(np.array([1, 2]), np.array([3, 5])),
            "nll_loss": lambda: autotx.nll_loss(np.array([[1, 2]]), [0]),
            "cross_entropy": lambda: autotx.cross_entropy(np.array([[1, 2]]), [0]),
            "dropout": lambda: autotx.dropout(np.array([1, 2]), 0.3, np.random.default_rng(0)),
            "layer_norm": lambda: autotx.layer_norm(*[np.array([[1, 1]]), *[np.array([1, 1])] * 2]),
            "scaled_dot_product_attention": lambda: autotx.scaled_dot_product_attention(*[np.array([[1, 2]])] * 3),
            "multi_head_attention": lambda: autotx.multi_head_attention(np.ones((1, 2, 6), int), n_head=1),
        }.items()
    ),
    *(
        (f, TypeError, f"{name}: 0.5 cannot be stored as int64; give a whole number, or x as floats")
        for name, f in {
            "clip": lambda: autotx.clip(np.array([1, 2]), min=0.5),
            "masked_fill": lambda: autotx.masked_fill(np.array([1, 2]), np.array([True, False]), 0.5),
            "pad": lambda: autotx.pad(np.array([1, 2]), [(1, 1)], 0.5),
        }.items()
    ),
    (lambda: leaf(1.0) * np.array([1j]), TypeError, "Cannot cast array data from dtype('complex128')"),
    (lambda: autotx.softmax(3.0, axis=1), ValueError, "softmax: axis 1 is out of bounds for array of dimension 1"),
    (lambda: autotx.split(z(6), [7, -1]), ValueError, "split: sizes [7, -1] add up to 6, the axis has 6 elements;"),
    (
        lambda: autotx.binary_cross_entropy_with_logits(z(2), z(2), pos_weight=z(3)),
        ValueError,
        "binary_cross_entropy_with_logits: pos_weight of shape (3,); give numbers, 0 or more, that broadcast to (2,)",
    ),
    (
        lambda: autotx.binary_cross_entropy_with_logits(z(2), z(2), pos_weight=-1.0),
        ValueError,
        "binary_cross_entropy_with_logits: pos_weight of shape (); give numbers, 0 or more, that broadcast to (2,)",
    ),
    (lambda: autotx.concat(z(2), z(2)), TypeError, "concat: the axis is a Tensor; give the tensors as one list"),
    (lambda: autotx.stack(z(2), z(2)), TypeError, "stack: the axis is a Tensor; give the tensors as one list"),
    (lambda: autotx.einsum(z(2, 2), "ij"), TypeError, "einsum: the subscripts are a Tensor; give them first"),
    (lambda: autotx.embedding(z(5), [0]), ValueError, "embedding: a table of shape (5,); give (ids, channels)"),
    (lambda: z(2, 2).expand(-2, 2), ValueError, "expand: sizes (-2, 2) of shape (2, 2); give sizes, or -1 where"),
    (lambda: z(2, 2).expand(-1, 2, 2), ValueError, "expand: sizes (-1, 2, 2) of shape (2, 2); give sizes, or -1"),
    (lambda: autotx.pad(z(2, 2), (1, 1)), ValueError, "pad: widths (1, 1) are not one (before, after), none"),
    (lambda: autotx.concat([leaf(1.0), leaf(2.0)]), ValueError, "concat: zero-dimensional arrays cannot be"),
    (
        lambda: z(2).sum(axis="a"),
        TypeError,
        "sum: 'str' object cannot be interpreted as an integer; give whole numbers",
    ),
    (
        lambda: z(2, 2).mean(0, 1),
        TypeError,
        "mean: takes at most 2 arguments, got 3; give keepdims by name, several axes",
    ),
    (
        lambda: autotx.transpose(z(2, 2)),
        TypeError,
        "transpose: missing 'axis0' and 'axis1'; the call is transpose(x, axis0",
    ),
    (
        lambda: autotx.max(leaf(1.0), leaf(2.0)),
        ValueError,
        "max: axis is a setting, which gets no gradient; the call is max(x, axis, keepdims); the larger of two tensors",
    ),
    (
        lambda: autotx.embedding([0], leaf([[1.0]])),
        ValueError,
        "embedding: ids is a setting, which gets no gradient; the call is embedding(weight, ids); give ids.detach()",
    ),
    (
        lambda: autotx.cross_entropy(input=z(2, 2), target=[0, 1]),
        TypeError,
        "cross_entropy: no argument 'input'; the call is cross_entropy(logits, targets, ",
    ),
    (lambda: autotx.einsum("ij", [z(2, 2), z(2, 2)]), ValueError, "einsum: 'ij' names 1 argument, 2 were given"),
    (lambda: autotx.tensor([1.0]), TypeError, "tensor: autotx.tensor is a module; autotx.Tensor(data) makes a tensor"),
    (lambda: z(2).cumsum(), TypeError, "cumsum: missing 'axis'; the call is cumsum(x, axis)"),
]


@pytest.mark.parametrize(("call", "kind", "text"), ERRORS, ids=[text.partition(":")[0] for _, _, text in ERRORS])
def test_errors_name_the_op_the_shapes_and_the_cure(call, kind, text):
    with pytest.raises(kind) as caught:
        call()
    assert str(caught.value).startswith(text)
    assert "\n" not in str(caught.value)


# ---- Shapes drawn by hypothesis ---------------------------------------------------------------------------------

PAIRS = hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=3, min_side=0, max_side=3)
SHAPES = hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=4)


def positive(shape, seed):
    return leaf(np.random.default_rng(seed).uniform(0.5, 2, size=shape))


@pytest.mark.parametrize("op", ["add", "sub", "mul", "div", "pow"])
@given(shapes=PAIRS, seed=st.integers(0, 100))
def test_binary_ops_broadcast(op, shapes, seed):
    x, y = (positive(shape, seed + i) for i, shape in enumerate(shapes.input_shapes))
    assert getattr(autotx, op)(x, y).shape == shapes.result_shape
    assert gradcheck(getattr(autotx, op), [x, y], rtol=1e-5)


@given(shapes=hnp.mutually_broadcastable_shapes(signature="(m,k),(k,n)->(m,n)", max_dims=2, min_side=0, max_side=3))
def test_matrix_products_broadcast(shapes):
    x, y = (positive(shape, i) for i, shape in enumerate(shapes.input_shapes))
    assert (x @ y).shape == shapes.result_shape
    assert gradcheck(autotx.matmul, [x, y], rtol=1e-5)


@given(data=st.data(), shape=SHAPES)
def test_basic_indices(data, shape):
    index = data.draw(hnp.basic_indices(shape, allow_newaxis=True, allow_ellipsis=True))
    check_index(shape, index)


@given(data=st.data(), shape=hnp.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=4))
def test_integer_indices(data, shape):
    check_index(shape, data.draw(hnp.integer_array_indices(shape)))


@given(data=st.data(), shape=SHAPES)
def test_mask_indices(data, shape):
    check_index(shape, data.draw(hnp.arrays(bool, shape)))


def check_index(shape, index):
    """The gradient of x[index], weighted, is the weights added up at their places: what np.add.at does."""
    x = leaf(np.arange(float(np.prod(shape))).reshape(shape))
    taken = x[index]
    np.testing.assert_array_equal(taken.data, x.data[index], strict=True)
    weights = np.arange(1.0, taken.size + 1).reshape(taken.shape)
    taken.backward(weights)
    expected = np.zeros(shape)
    np.add.at(expected, index, weights)
    np.testing.assert_array_equal(x.grad, expected)


@given(data=st.data(), shape=hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=3))
def test_reductions_along_any_axes(data, shape):
    axis = data.draw(st.none() | hnp.valid_tuple_axes(len(shape)))
    keepdims = data.draw(st.booleans())
    op = data.draw(st.sampled_from(["sum", "mean", "var", "max", "min"]))
    x = leaf(np.random.default_rng(0).permutation(float(np.prod(shape)) + np.arange(np.prod(shape))).reshape(shape))
    out = getattr(autotx, op)(x, axis, keepdims=keepdims)
    np.testing.assert_allclose(out.data, getattr(np, op)(x.data, axis=axis, keepdims=keepdims), strict=True)
    out.backward(np.ones(out.shape))
    wanted = {"sum": x.size, "mean": out.size, "var": 0, "max": out.size, "min": out.size}[op]
    np.testing.assert_allclose(x.grad.sum(), wanted, atol=1e-9)


@given(data=st.data(), shape=SHAPES)
def test_splitting_and_joining_again(data, shape):
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    size = data.draw(st.integers(1, 5))
    x = leaf(np.random.default_rng(0).normal(size=shape))
    pieces = x.split(size, axis)
    whole = autotx.concat(pieces, axis)
    np.testing.assert_array_equal(whole.data, x.data, strict=True)
    seed = np.random.default_rng(1).normal(size=shape)
    whole.backward(seed)
    np.testing.assert_array_equal(x.grad, seed)


def test_arrays_beside_tensors_may_be_written_into_afterwards():
    x = Tensor(np.ones((2, 3)), requires_grad=True)
    factor, ids, mask = np.full((2, 3), 2.0), np.array([0, 1]), np.array([True, False, True])
    out = (x * factor).sum() + autotx.embedding(x, ids).sum() + x.masked_fill(mask, 0.0).sum() + x[ids].sum()
    factor[:], ids[:], mask[:] = 100, 0, False
    out.backward()
    np.testing.assert_array_equal(x.grad, [[4, 5, 4]] * 2)


def test_numbers_and_whole_numbers_take_the_type_of_the_tensor_beside_them():
    x = Tensor([1.0, 2.0], requires_grad=True)
    for y in (x * np.sqrt(2), x * np.float64(2), x * np.array([1, 2]), x * np.array([True, False]), 2 - x):
        assert y.dtype == np.float32
    assert (x * np.array([1.0, 2.0])).dtype == np.float64  # an array of float64 was meant


def test_a_tensor_is_not_none():
    x = Tensor([1.0])
    assert x != None  # noqa: E711


@pytest.mark.parametrize("retain_graph", [False, True])
@pytest.mark.parametrize("op", [lambda x: x, lambda x: x + 0, lambda x: x.reshape(4), lambda x: -1 * x * -1])
def test_the_gradient_that_backward_begins_with_stays_its_callers(op, retain_graph):
    x, g = Tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True), np.full(4, 3, np.float32)
    y = op(x)
    g = g.reshape(y.shape)
    y.backward(g, retain_graph=retain_graph)
    g[...] = 7  # not read-only afterwards, and in no gradient
    for t in (x, y):
        assert t.grad is None or (t.grad == 3).all()

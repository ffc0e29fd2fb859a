"""The checker is checked: what it must catch, what it must not accept, and what it says."""

import re

import numpy as np
import pytest

import autotx
from autotx import GradcheckError, Tensor, gradcheck


def leaf(*shape, name=None):
    x = np.random.default_rng(1).normal(size=shape)
    return Tensor(x, requires_grad=True, dtype=np.float64, name=name)


def doubled(factor):
    """y = 2 x, whose gradient is 2 g, with the gradient `factor` g."""

    @autotx.lift
    def double(x, /):
        return 2 * x, (lambda g: factor * g,)

    return double


def test_a_right_gradient_passes():
    assert gradcheck(doubled(2), leaf(3, 2)) is True
    assert gradcheck(lambda x, y: x * y.exp(), [leaf(3, 1), leaf(2)]) is True


@pytest.mark.parametrize("factor", [2.001, 1.999, 2.1, 0, -2])
@pytest.mark.parametrize("shape", [(), (1,), (3, 2)])
def test_a_wrong_factor_is_caught_even_a_twentieth_of_a_percent(factor, shape):
    with pytest.raises(GradcheckError):
        gradcheck(doubled(factor), leaf(*shape))


def test_one_wrong_element_among_many_is_caught():
    @autotx.lift
    def cube(x, /):
        wrong = np.ones_like(x)
        wrong[1, 2] = 1.01
        return x**3, (lambda g: 3 * x**2 * g * wrong,)

    with pytest.raises(GradcheckError, match=r"^cube: d out\[1, 2\] / d argument 0\[1, 2\] is "):
        gradcheck(cube, leaf(4, 5))


def test_the_message_names_op_argument_element_and_both_numbers():
    @autotx.lift
    def scale(x, y, /):
        return x * y, (lambda g: g * y, lambda g: g * x * [1, 1, 1.5])

    x = Tensor([1.0, 2.0, 4.0], requires_grad=True, dtype=np.float64)
    y = Tensor([3.0, 5.0, 7.0], requires_grad=True, dtype=np.float64, name="weight")
    with pytest.raises(GradcheckError) as error:
        gradcheck(scale, [x, y])
    text = str(error.value)
    assert text.startswith("scale: d out[2] / d argument 1 ('weight')[2] is 6 by backward, ")
    assert text.endswith(" by central differences")
    assert float(text.split("backward, ")[1].split()[0]) == pytest.approx(4, rel=1e-6)


def test_a_pullback_that_keeps_state_is_caught():
    @autotx.lift
    def forgetful(x, /):
        calls = []

        def dx(g):
            calls.append(1)
            return 2 * g if len(calls) < 2 else 3 * g

        return 2 * x, (dx,)

    with pytest.raises(GradcheckError, match="forgetful: argument 0 has another gradient when backward is run again"):
        gradcheck(forgetful, leaf(2))


def test_a_pullback_that_hands_out_its_own_memory_is_caught():
    @autotx.lift
    def keeper(x, /):
        kept = np.ones_like(x)
        return x.sum(), (lambda g: kept,)

    with pytest.raises(
        GradcheckError, match="keeper: the gradient of argument 0 is memory the op keeps; return a new array"
    ):
        gradcheck(keeper, leaf(3))


@pytest.mark.parametrize("shape", [(4,), (3, 3, 2), (2,), ()])
def test_a_gradient_of_the_wrong_shape_is_an_error_of_the_op(shape):
    @autotx.lift
    def lopsided(x, /):
        return 2 * x, (lambda g: np.ones(shape),)

    text = f"lopsided: its pullback returned a gradient of shape {shape} for an argument of shape (3, 3); it must have"
    with pytest.raises(ValueError, match=re.escape(text)):
        gradcheck(lopsided, leaf(3, 3))


def test_a_nan_is_not_a_gradient():
    @autotx.lift
    def nan(x, /):
        return 2 * x, (lambda g: g * np.nan,)

    with pytest.raises(GradcheckError, match="nan by backward"):
        gradcheck(nan, leaf(2))


def test_a_result_that_is_not_finite_has_no_differences():
    with pytest.raises(ValueError, match="gradcheck: the result of log has a NaN or an Inf, which has no differences"):
        gradcheck(autotx.log, Tensor([1.0, 0.0], requires_grad=True, dtype=np.float64))


def test_a_gradient_that_is_missing_is_caught():
    with pytest.raises(GradcheckError, match="d argument 0"):
        gradcheck(lambda x, y: x.detach() * y, [leaf(2), leaf(2)])


def test_float32_is_refused():
    x = Tensor([1.0], requires_grad=True)
    with pytest.raises(
        TypeError, match=r"gradcheck: input 0 is float32; differences need float64 \(dtype=numpy.float64\)"
    ):
        gradcheck(doubled(2), x)
    with pytest.raises(
        TypeError, match="gradcheck: the function returned float32; differences need float64 throughout"
    ):
        gradcheck(lambda x: Tensor(x.detach(), dtype=np.float32), leaf(2))


def test_without_anything_to_check_it_is_an_error():
    with pytest.raises(ValueError, match="gradcheck: no input requires a gradient; make them with requires_grad=True"):
        gradcheck(doubled(2), Tensor([1.0], dtype=np.float64))


def test_inputs_are_left_as_they_were():
    x, constant = leaf(2, 2), np.ones(2)
    before = x.numpy()
    gradcheck(lambda x, c: (x * c).sum(), [x, constant])
    assert np.array_equal(x.data, before)
    assert x.grad is None


def test_tolerances_are_the_callers():
    assert gradcheck(doubled(2.001), leaf(2), rtol=0.1)
    with pytest.raises(GradcheckError):
        gradcheck(doubled(2.000001), leaf(2), atol=1e-9, rtol=1e-7)

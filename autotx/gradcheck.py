"""`gradcheck` compares the gradients of a function with finite differences."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from autotx.tensor import Tensor


class GradcheckError(AssertionError):
    """A gradient that differs from the finite difference. The message names op, argument, element and both numbers."""


def gradcheck(
    fn: Callable[..., Tensor], inputs: Tensor | Iterable[Any], eps: float = 1e-6, atol: float = 1e-5, rtol: float = 1e-3
) -> bool:
    """Check every entry of the Jacobian of `fn` against central differences (f(x + eps) - f(x - eps)) / (2 eps).

    fn: takes the inputs and returns a Tensor of any shape, computed in float64; if it draws random numbers, it must
    make its rng anew at every call. inputs: one Tensor or a sequence; those that require gradients (float64) are
    checked. An entry is right if |backward - difference| <= atol + rtol |difference|. For the whole Jacobian of an
    argument rtol is ten times smaller, ||backward - difference|| <= atol + rtol / 10 ||difference||, which finds a
    factor that is wrong by 0.05 %. Where a difference is not finite, the gradient must not be finite either.
    Returns True. GradcheckError: a gradient is wrong, changes when backward is run again, or shares memory with an
    input. TypeError: an input is not float64. ValueError: no input requires a gradient, or the result is not finite.
    """
    inputs = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    checked = [(i, t) for i, t in enumerate(inputs) if isinstance(t, Tensor) and t.requires_grad]
    if not checked:
        raise ValueError("gradcheck: no input requires a gradient; make them with requires_grad=True")
    for i, t in checked:
        if t.dtype != np.float64:
            raise TypeError(f"gradcheck: input {i} is {t.dtype}; differences need float64 (dtype=numpy.float64)")
    out = fn(*inputs)
    if out.dtype != np.float64:
        raise TypeError(f"gradcheck: the function returned {out.dtype}; differences need float64 throughout")
    name = out._op or getattr(fn, "__name__", "the function")
    if not np.isfinite(out.data).all():
        raise ValueError(f"gradcheck: the result of {name} has a NaN or an Inf, which has no differences")
    exact = _rows_by_backward(name, out, checked)
    for (i, t), jacobian in zip(checked, exact):
        differences = np.zeros_like(jacobian)
        for j in range(t.size):
            differences[:, j] = _column(fn, inputs, t, j, eps)
        wrong = _wrong_entry(jacobian, differences, atol, rtol)
        if wrong is not None:
            raise GradcheckError(_report(name, out, i, t, wrong, jacobian[wrong], differences[wrong]))
    return True


def _rows_by_backward(name, out, checked):
    """The Jacobian (outputs, inputs) of every checked input, by one backward pass for each output element."""
    jacobians = [np.zeros((out.size, t.size)) for _, t in checked]
    for k in range(out.size):
        seed = np.zeros(out.size)
        seed[k] = 1
        rows = _gradients(out, seed, checked)
        if k == 0:
            _same_again(name, rows, _gradients(out, seed, checked), checked)
        for jacobian, row in zip(jacobians, rows):
            jacobian[k] = 0 if row is None else row.reshape(-1)
    return jacobians


def _gradients(out, seed, checked):
    for _, t in checked:
        t.grad = None
    out.backward(seed.reshape(out.shape), retain_graph=True)
    gradients = [t.grad for _, t in checked]
    for _, t in checked:
        t.grad = None
    return gradients


def _same_again(name, first, second, checked):
    """A pullback must give equal gradients when it is called again, in arrays that share no memory with others."""
    for (i, t), a, b in zip(checked, first, second):
        if (a is None) != (b is None) or (a is not None and not np.array_equal(a, b, equal_nan=True)):
            raise GradcheckError(f"{name}: argument {i} has another gradient when backward is run again")
        if a is not None and (np.shares_memory(a, b) or np.shares_memory(a, t.data)):
            raise GradcheckError(f"{name}: the gradient of argument {i} is memory the op keeps; return a new array")


def _column(fn, inputs, t, j, eps):
    """d out / d t_j by a central difference. The input is restored."""
    kept, values = t._data, []
    for step in (eps, -eps):
        moved = np.array(kept)
        moved.flat[j] += step
        t._data = moved
        try:
            values.append(fn(*inputs)._data.reshape(-1))
        finally:
            t._data = kept
    return (values[0] - values[1]) / (2 * eps)


def _wrong_entry(backward, difference, atol, rtol):
    """The (row, column) where a Jacobian is farthest from the differences, or None if all of it is near enough."""
    finite = np.isfinite(backward)
    with np.errstate(invalid="ignore"):
        off = np.where(finite != np.isfinite(difference), np.inf, np.where(finite, np.abs(backward - difference), 0))
    too_far = off > atol + rtol * np.abs(difference)
    if not too_far.any() and np.linalg.norm(off) <= atol + rtol / 10 * np.linalg.norm(difference[finite]):
        return None
    return np.unravel_index(np.argmax(np.where(too_far, off, 0) if too_far.any() else off), off.shape)


def _report(name, out, i, t, wrong, backward, difference):
    where_out, where_in = (
        tuple(int(a) for a in np.unravel_index(flat, shape)) for flat, shape in zip(wrong, (out.shape, t.shape))
    )
    label = f" ('{t.name}')" if t.name else ""
    return (
        f"{name}: d out{list(where_out)} / d argument {i}{label}{list(where_in)} is {backward:.9g} by backward, "
        f"{difference:.9g} by central differences"
    )

"""The checks of the exercises: is the number, op, layer or kernel that you wrote right?

Each function prints one line, `right` or what differs, and returns whether it is right.
Mistakes in what you wrote are told, never raised, so that a notebook runs to its end.
"""

import numpy as np

import autotx
from answers import ANSWERS
from autotx import Tensor


def check_answer(exercise, yours):
    """Whether a number or an array is the answer of an exercise, say "1.3". It is not shown.

    Whole numbers have to be exact, others to two thousandths.
    """

    def wrong():
        if yours is ... or (isinstance(yours, list) and ... in yours):
            return "nothing is there yet"
        right = np.asarray(ANSWERS[exercise])
        found = _difference(yours, right, 0 if right.dtype.kind == "i" else 2e-3)
        return found and found.split(", and should be")[0] + ", which is not the answer"

    return _told(wrong)


def check_op(op, formula, *arrays, **settings):
    """Whether an op is right: op(*arrays, /, **settings) returns its result and its pullback.

    (See autotx.lift.) formula: the same result in NumPy. arrays: float64, where the gradients
    are compared with central differences.
    """

    def wrong():
        found = op(*arrays, **settings)
        if not_an_op := _not_an_op(found):
            return not_an_op
        different = _difference(found[0], formula(*arrays, **settings), 1e-12)
        if different:
            return different
        inputs = [Tensor(x, requires_grad=True, dtype=np.float64) for x in arrays]
        # times 3, so that g is not 1 where the result is one number: to forget g is a mistake
        autotx.gradcheck(lambda *given: autotx.lift(op)(*given, **settings) * 3, inputs)
        return None

    return _told(wrong)


def check_like(op, right, *arrays):
    """Whether an op does what `right` does, a function of Tensors.

    Its result and gradients are compared in float32, to a hundred-thousandth.
    """

    def wrong():
        found = op(*arrays)
        if not_an_op := _not_an_op(found):
            return not_an_op
        g, sides = np.random.default_rng(0).normal(size=np.shape(found[0])), []
        for function in (autotx.lift(op), right):
            inputs = [Tensor(x, requires_grad=True, dtype=np.float32) for x in arrays]
            result = function(*inputs)
            result.backward(g.astype(np.float32))
            sides.append([result.numpy(), *(x.grad for x in inputs)])
        arguments = [f"the gradient of argument {i + 1}" for i in range(len(arrays))]
        for name, *both in zip(["the result", *arguments], *sides):
            if different := _difference(*both, 1e-5):
                return f"{name}: {different}"
        return None

    return _told(wrong)


def check_layer(layer, formula, x, starts=()):
    """Whether a layer computes formula(x, *its parameters), and the gradients of all of them.

    layer: an autotx.nn.Module, which is changed to float64 and gets random parameters, so that
    zeros and ones hide no mistake. x: a float64 array. starts: what the parameters have to be
    before, if that was asked for.
    """

    def wrong():
        module = layer.astype(np.float64)
        parameters = list(module.parameters())
        if not parameters:
            return "it has no parameters: attributes that are Tensor(..., requires_grad=True)"
        for i, (parameter, start) in enumerate(zip(parameters, starts)):
            if different := _difference(parameter.data, start, 1e-12):
                return f"parameter {i} at the start: {different}"
        rng = np.random.default_rng(0)
        for parameter in parameters:
            parameter.data = rng.normal(size=parameter.shape)
        different = _difference(
            module(x).data, formula(x, *(p.data for p in parameters)), 1e-12
        )
        if different:
            return different
        autotx.gradcheck(
            lambda given, *_: module(given), [Tensor(x, requires_grad=True), *parameters]
        )
        return None

    return _told(wrong)


def check_kernel(kernel, twin, *shapes, rtol=1e-5):
    """Whether a kernel for one float32 array gives what its twin gives, at each of the shapes.

    The twin is plain NumPy in float64.
    Also for an array that is not contiguous, and with the same bits on one thread as on all.
    """

    def wrong():
        rng, threads = np.random.default_rng(0), autotx.get_num_threads()
        for shape in shapes:
            x = rng.standard_normal(shape).astype(np.float32)
            for given in (x, x.T):
                found = kernel(given)
                different = _difference(found, twin(given.astype(np.float64)), rtol)
                if different:
                    return f"for the shape {given.shape}: {different}"
                autotx.set_num_threads(1)
                try:
                    if not np.array_equal(kernel(given), found):
                        at = f"for the shape {given.shape}"
                        return f"{at}: one thread gives other bits than {threads}"
                finally:
                    autotx.set_num_threads(threads)
        return None

    return _told(wrong)


def _not_an_op(found):
    """What is wrong with the form of what an op returned, or None."""
    if isinstance(found, tuple) and len(found) == 2:
        return None
    return f"it returns {type(found).__name__}, not the result and a tuple of functions"


def _difference(yours, right, rtol):
    """What differs, as a text; None if nothing does."""
    if yours is None or yours is ...:
        return "nothing is there yet"
    yours, right = np.asarray(yours, np.float64), np.asarray(right, np.float64)
    if yours.shape != right.shape:
        return f"the shape is {yours.shape}, and should be {right.shape}"
    far = np.abs(yours - right) > rtol * np.maximum(np.abs(right), 1e-12)
    far |= np.isnan(yours) != np.isnan(right)
    if not far.any():
        return None
    at = tuple(int(i) for i in np.argwhere(far)[0])
    place = f"element {list(at)}" if at else "it"
    return f"{place} is {yours[at]:.6g}, and should be {right[at]:.6g}"


def _told(wrong):
    """Print whether wrong() finds something. Returns whether it finds nothing."""
    try:
        found = wrong()
    except Exception as error:
        found = f"{type(error).__name__}: {' '.join(str(error).split())}"
    print("right" if found is None else f"not yet: {found}")
    return found is None

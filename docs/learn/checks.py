"""What the exercises of the notebooks are checked with: is the number, op, layer or kernel that you wrote right?

Each function prints one line, `right` or what differs, and returns whether it is right. Mistakes in what you wrote are
told, never raised, so that a notebook runs to its end.
"""

import numpy as np

import autotx
from autotx import Tensor


def check_value(yours, right, rtol=1e-6):
    """Whether a number or an array equals `right`, to a relative error of rtol."""
    return _told(lambda: _difference(yours, right, rtol))


def check_op(op, formula, *arrays, **settings):
    """Whether an op is right: op(*arrays, /, **settings) returns its result and its pullback (see autotx.lift).

    formula: the same result in NumPy. arrays: float64, the point at which the gradients are compared with central
    differences.
    """

    def wrong():
        found = op(*arrays, **settings)
        if not isinstance(found, tuple) or len(found) != 2:
            return f"it returns {type(found).__name__}; return the result and the pullback, a tuple of functions"
        different = _difference(found[0], formula(*arrays, **settings), 1e-12)
        if different:
            return different
        inputs = [Tensor(x, requires_grad=True, dtype=np.float64) for x in arrays]
        autotx.gradcheck(lambda *given: autotx.lift(op)(*given, **settings), inputs)
        return None

    return _told(wrong)


def check_layer(layer, formula, x):
    """Whether a layer computes formula(x, *its parameters), and the gradients of x and of all of them.

    layer: an autotx.nn.Module, which is changed to float64. x: a float64 array.
    """

    def wrong():
        module = layer.astype(np.float64)
        parameters = list(module.parameters())
        if not parameters:
            return "it has no parameters; keep each as a Tensor with requires_grad=True in an attribute"
        different = _difference(module(x).data, formula(x, *(p.data for p in parameters)), 1e-12)
        if different:
            return different
        autotx.gradcheck(lambda given, *_: module(given), [Tensor(x, requires_grad=True), *parameters])
        return None

    return _told(wrong)


def check_kernel(kernel, twin, *shapes, rtol=1e-5):
    """Whether a kernel for one float32 array gives what its twin, plain NumPy in float64, gives, at each of the shapes.

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
                        return f"for the shape {given.shape}: one thread gives other bits than {threads}"
                finally:
                    autotx.set_num_threads(threads)
        return None

    return _told(wrong)


def _difference(yours, right, rtol):
    """What differs, as a text; None if nothing does."""
    if yours is None or yours is Ellipsis:
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

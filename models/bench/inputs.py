"""The inputs of all libraries in the benchmark: NumPy arrays of the same sizes, with the same numbers.

Each contestant makes them in its own process from the same seeds, so that no large array crosses a pipe, and results
can be compared.
"""

import numpy as np


def weight(name, shape):
    """The initial value of the matrix called `name`: normal, standard deviation 0.02. Vectors start as 0 or 1."""
    return np.random.default_rng(list(name.encode())).standard_normal(shape, np.float32) * np.float32(0.02)


def batch(B, T, V):
    """ids and targets, (B, T) integers below V."""
    return np.random.default_rng(1).integers(V, size=(2, B, T))


def product(rows, inputs, outputs, which):
    """The two operands of a product of a layer y = x W^T, with the memory layout that they have in training.

    x: (rows, inputs), W: (outputs, inputs), g: (rows, outputs).
    which: "forward" x W^T, "dX" g W, "dW" g^T x.
    """
    rng = np.random.default_rng(2)
    x, W, g = (rng.standard_normal(s, np.float32) for s in ((rows, inputs), (outputs, inputs), (rows, outputs)))
    return {"forward": (x, W.T), "dX": (g, W), "dW": (g.T, x)}[which]


# The operands of each op, made from the sizes in the case: (differentiable arrays, integer arrays).
_OPERANDS = {
    "layer_norm": lambda rng, n, c: ([_normal(rng, n, c), 1 + _normal(rng, c) / 10, _normal(rng, c) / 10], []),
    "gelu": lambda rng, n, c: ([_normal(rng, n, c)], []),
    "gelu_tanh": lambda rng, n, c: ([_normal(rng, n, c)], []),
    "softmax": lambda rng, n, c: ([_normal(rng, n, c)], []),
    "cross_entropy": lambda rng, n, v: ([_normal(rng, n, v)], [rng.integers(v, size=n)]),
    "embedding": lambda rng, v, c, n: ([_normal(rng, v, c)], [rng.integers(v, size=n)]),
    "attention": lambda rng, b, h, t, d: ([_normal(rng, b, h, t, d) for _ in range(3)], []),
    "rnn": lambda rng, *sizes: (_recurrent(rng, 1, 1, *sizes), []),
    "gru": lambda rng, *sizes: (_recurrent(rng, 3, 1, *sizes), []),
    "lstm": lambda rng, *sizes: (_recurrent(rng, 4, 2, *sizes), []),
}


def _recurrent(rng, gates, states, batch, steps, inputs, units):
    """x, the first states, the two matrices and the two biases of a recurrent layer."""
    first = [_normal(rng, batch, units) for _ in range(states)]
    weights = [_normal(rng, gates * units, n) / np.float32(n**0.5) for n in (inputs, units)]
    return [_normal(rng, batch, steps, inputs), *first, *weights, *(_normal(rng, gates * units) for _ in range(2))]


def operands(name, shape):
    """(differentiable arrays, integer arrays) of the op called `name`."""
    return _OPERANDS[name](np.random.default_rng(3), *shape)


def gradient(shape):
    """The gradient that the backward pass of an op starts from."""
    return _normal(np.random.default_rng(4), *shape)


def parameters(shapes):
    """[(value, gradient)] of parameters of the given shapes, for the timing of an optimizer alone."""
    rng = np.random.default_rng(5)
    return [(_normal(rng, *shape), _normal(rng, *shape)) for shape in shapes]


def _normal(rng, *shape):
    return rng.standard_normal(shape, np.float32)

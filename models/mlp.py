"""The multilayer perceptron: linear layers with an activation between them. It learns XOR, or a curve like sin(x)."""

from collections.abc import Sequence
from itertools import pairwise

import autotx
from autotx import Tensor, init, nn
from autotx.types import Array, Generator, Rng

ACTIVATIONS = {
    "relu": autotx.relu,
    "gelu": autotx.gelu,
    "tanh": autotx.tanh,
    "sigmoid": autotx.sigmoid,
    "none": lambda x: x,  # then all layers are equivalent to one: W2 (W1 x + b1) + b2 = (W2 W1) x + (W2 b1 + b2)
}


class MLP(nn.Module):
    """y = W_n f(... f(W_1 x + b_1) ...) + b_n.   x: (..., sizes[0]), y: (..., sizes[-1]).

    sizes: the width of the input, of each hidden layer, and of the output: MLP((2, 8, 1), rng=rng).
    activation: the name of f, a key of ACTIVATIONS. Initial weights are those of He et al. for relu and gelu, of Glorot
    and Bengio for the others; biases are zero. ValueError for fewer than two sizes and for an unknown activation.
    """

    def __init__(self, sizes: Sequence[int], activation: str = "relu", *, rng: Generator):
        if len(sizes) < 2:
            raise ValueError(f"MLP: sizes are {tuple(sizes)}; give the widths of input and output at least")
        if activation not in ACTIVATIONS:
            raise ValueError(f"MLP: activation is {activation!r}; give one of {', '.join(ACTIVATIONS)}")
        self.activation = activation
        self.layers = [nn.Linear(i, o, rng=None) for i, o in pairwise(sizes)]
        draw = init.kaiming_normal if activation in ("relu", "gelu") else init.xavier_normal
        for layer in self.layers:
            layer.weight.data = draw(layer.weight.shape, rng)

    def forward(self, x: Array, rng: Rng = None) -> Tensor:
        for layer in self.layers[:-1]:
            x = ACTIVATIONS[self.activation](layer(x))
        return self.layers[-1](x)

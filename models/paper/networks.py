"""'Linear Regression Code', 'Plot XOR', 'XOR Example' and 'ReLU': the small networks of the supplement."""

import numpy as np

from autotx.models.mlp import MLP
from autotx.models.paper import trained
from autotx.models.paper.case import Claim, Digits, Section
from autotx.models.paper.steps import linear, tensor

regression = Section("linear-regression", "Linear Regression Code", (1669, 1722))
points = Section("plot-xor", "Plot XOR", (1724, 1763))
sigmoid = Section("xor", "XOR Example", (1765, 1836))
relu = Section("xor-relu", "Using Rectified Linear Units (ReLU)", (1838, 1975))

XOR = "XOR(x_{1}, x_{2})"
SIZES = "Two inputs, two hidden neurons, one output"
OR_NAND_AND = "y = AND(OR(x), NAND(x))"


def xor_by_sigmoid(x):
    """Hidden values and output of the sigmoid network: (..., 2), (...)."""
    hidden = linear([[20, -20], [20, -20]], [-10, 30])(tensor(x)).sigmoid()
    return hidden, linear([[20], [20]], [-30])(hidden).sigmoid()[..., 0]


def xor_by_relu(x):
    """Hidden values and output of the ReLU network: (..., 2), (...)."""
    hidden = linear([[1, -1], [-1, 1]], [0, 0])(tensor(x)).relu()
    return hidden, linear([[1], [1]], [-0.5])(hidden).relu()[..., 0]


@regression.case(1678, "100 points from -10 to 10", printed=Digits("100 -10 10"))
def data():
    x = trained.sine_fits()[0]
    return [len(x), x[0, 0], x[-1, 0]]


@regression.case(1679, "The true function", printed="sin(x)", formula="y = sin(x)")
def true_function():
    x, y, *_ = trained.sine_fits()
    return Claim(bool(np.abs(y).max() <= 1 and abs(y[0, 0] + np.sin(10)) < 1e-12), f"{len(x)} values between -1 and 1")


@regression.case(
    (1681, 1686),
    "The linear model",
    formula="slope = cov(x, y) / var(x)",
    printed="a straight line, the best one",
    note="Any other slope has a larger error; the best line is nearly flat, since sin(x) rises and falls.",
)
def line():
    x, y, fit, *_ = trained.sine_fits()
    errors = [np.mean((fit + tilt * x - y) ** 2) for tilt in (0, -0.01, 0.01)]
    slope = (fit[-1, 0] - fit[0, 0]) / 20
    return Claim(errors[0] == min(errors), f"slope {slope:.4f}, mean squared error {errors[0]:.4f}")


@regression.case(
    (1689, 1693),
    "The widths of the deep network's layers",
    formula="10-10-1",
    printed=Digits("10 10 1"),
    note="Its parameters are (1+1)·10 + (10+1)·10 + (10+1)·1 = 141; the line has two.",
)
def widths():
    return [layer.weight.shape[0] for layer in MLP((1, 10, 10, 1), rng=np.random.default_rng(0)).layers]


@regression.case((1695, 1696), "Epochs of training", printed=Digits("1000"))
def epochs():
    return trained.sine_fits()[4] / 4  # four batches of 32 in 100 points


@regression.case(
    (1698, 1714),
    "The deep network fits better than the line",
    printed="the two panels of the plot",
    note="The plot's numbers are not given. After 1,000 epochs the network follows part of the wave; more training "
    "would take it further.",
)
def better():
    _, y, straight, deep, _ = trained.sine_fits()
    errors = [np.mean((fit - y) ** 2) for fit in (straight, deep)]
    return Claim(errors[1] < errors[0] / 2, f"mean squared errors {errors[0]:.3f} and {errors[1]:.3f}")


@points.case((1731, 1736), "The four points and their colours", formula=XOR, printed=Digits("0 1 1 0"))
def colours():
    corners = np.array([[0, 0], [1, 0], [0, 1], [1, 1]])
    return xor_by_sigmoid(corners)[1].data.round()


@points.case((1747, 1748), "All points lie inside the axes", formula="-0.1 ≤ x ≤ 1.1", printed="limits -0.1 and 1.1")
def inside():
    x = trained.XOR_INPUTS
    return Claim(bool(x.min() >= -0.1 and x.max() <= 1.1), f"coordinates from {x.min():g} to {x.max():g}")


@sigmoid.table(("truth_table", (1767, 1774), "The truth table", XOR, Digits("0 1 1 0")))
@relu.table(("truth_table_again", (1842, 1849), "The truth table again", XOR, Digits("0 1 1 0")))
def truth_table():
    a, b = tensor(trained.XOR_INPUTS).T
    return (a - b).abs()


@sigmoid.table(("architecture", (1776, 1780), SIZES, "", Digits("2 2 1"), xor_by_sigmoid))
@relu.table(("relu_architecture", (1851, 1855), SIZES, "", Digits("2 2 1"), xor_by_relu))
def architecture(network):
    hidden, y = network(trained.XOR_INPUTS)
    return [trained.XOR_INPUTS.shape[1], hidden.shape[1], 1 if y.ndim == 1 else y.shape[1]]


@sigmoid.case((1806, 1810), "The sigmoid", formula="σ(z) = 1 / (1 + e^{-z})", printed="between 0 and 1")
def sigmoid_formula():
    z = tensor([-30.0, -1, 0, 2, 30])
    difference = (z.sigmoid() - 1.0 / (1.0 + (-z).exp())).abs().max().item()
    return Claim(difference < 1e-15, f"the engine's sigmoid and the formula differ by {difference:.1g}")


@sigmoid.table(
    ("hidden_1", (1782, 1820), "First hidden value of [0, 0]", "h_{1} = σ(-10)", Digits("0"), 0),
    ("hidden_2", (1822, 1824), "Second hidden value of [0, 0]", "h_{2} = σ(30)", Digits("1"), 1),
    ("output", (1826, 1832), "Output for [0, 0]", "y = σ(20·0 + 20·1 - 30) = σ(-10)", Digits("0"), 2),
)
def neuron(index):
    hidden, y = xor_by_sigmoid([0, 0])
    return [*hidden, y][index]


@sigmoid.case(
    (1771, 1834),
    "All four inputs",
    formula="y for 00, 01, 10, 11",
    printed=Digits("0 1 1 0"),
    note="0.0000454, 0.9999546, 0.9999546, 0.0000454.",
)
def all_outputs():
    return xor_by_sigmoid(trained.XOR_INPUTS)[1]


@sigmoid.case(
    1836,
    "Hidden layer and output layer",
    formula=OR_NAND_AND,
    printed="the hidden layer finds the regions, the output combines them",
    note="The first hidden neuron is OR, the second NAND, and the output their AND.",
)
def or_and_nand():
    hidden, y = xor_by_sigmoid(trained.XOR_INPUTS)
    logic = hidden.data.round()
    holds = (logic[:, 0] == [0, 1, 1, 1]).all() and (logic[:, 1] == [1, 1, 1, 0]).all()
    both = (logic.all(axis=1) == y.data.round()).all()
    return Claim(bool(holds and both), "OR 0 1 1 1, NAND 1 1 1 0, both 0 1 1 0")


@sigmoid.case(
    (1788, 1794),
    "W stands to the left of x",
    formula="h = σ(W x + c); σ(x W + c) gives 0 0 1 0 for XOR",
    printed="W = [20 20; -20 -20]",
    note="The steps at lines 1819 and 1823 take the rows of W for the neurons. Multiplied as x W, as the ReLU listing "
    "does, these weights would not solve XOR; the ReLU ones are symmetric, so there it does not matter.",
)
def left_of_x():
    x = tensor(trained.XOR_INPUTS)
    other = linear([[20], [20]], [-30])(linear([[20, 20], [-20, -20]], [-10, 30])(x).sigmoid()).sigmoid()[:, 0]
    right = xor_by_sigmoid(x)[1].data.round()
    wrong = other.data.round().astype(int)
    holds = (right == [0, 1, 1, 0]).all() and not (wrong == [0, 1, 1, 0]).all()
    return Claim(bool(holds), f"W x + c solves XOR; x W + c gives {' '.join(map(str, wrong))}")


@sigmoid.case(
    1834,
    "The network can represent XOR",
    printed="and such a network can also be learned",
    note="From random weights, 2-4-1 with tanh, 1,000 steps of Adam: drawn at the end of this section.",
)
def learned():
    network, _ = trained.xor_network()
    p = network(trained.XOR_INPUTS)[:, 0].sigmoid().data
    return Claim(bool((p.round() == trained.XOR_OUTPUTS).all()), "learned answers " + ", ".join(f"{v:.4f}" for v in p))


@relu.case((1857, 1861), "ReLU", formula="max(0, z)", printed="the larger of 0 and z")
def relu_formula():
    out = tensor([-2.0, 0, 3]).relu().data.tolist()
    return Claim(out == [0, 0, 3], "-2, 0, 3 become " + ", ".join(f"{v:g}" for v in out))


@relu.table(
    ("hidden_00", (1865, 1899), "Hidden values of [0, 0]", "ReLU(x W + c)", Digits("0 0", places=9), [0, 0], 0),
    ("output_00", (1901, 1907), "Output for [0, 0]", "ReLU(h w - 0.5)", Digits("0", places=9), [0, 0], 1),
    ("hidden_01", (1909, 1919), "Hidden values of [0, 1]", "ReLU(x W + c)", Digits("0 1", places=9), [0, 1], 0),
    ("output_01", (1921, 1925), "Output for [0, 1]", "ReLU(h w - 0.5)", Digits("0.5", places=9), [0, 1], 1),
)
def hidden_or_output(x, which):
    return xor_by_relu(x)[which]


@relu.case(
    (1927, 1929),
    "Thresholded at 0.5",
    formula="y ≥ 0.5 for 00, 01, 10, 11",
    printed=Digits("0 1 1 0"),
    note="The outputs 0, 0.5, 0.5, 0 lie exactly on the threshold: any smaller weight, or > in place of ≥, and the "
    "answer for 01 and 10 is lost. A threshold of 0.25 would be safe.",
)
def thresholded():
    return (xor_by_relu(trained.XOR_INPUTS)[1].data >= 0.5).astype(float)


@relu.case((1931, 1975), "Listing: outputs", formula="y ≥ 0.5", printed=Digits("0 1 1 0"))
def listing():
    return [float(xor_by_relu(x)[1].item() >= 0.5) for x in ([0, 0], [0, 1], [1, 0], [1, 1])]


relu.quote(
    "most_common",
    1840,
    "Among activations ReLU is the commonest",
    printed="for deep learning",
    note="A count over other people's networks. GPT models use GELU.",
)

"""'Feed Forward Neural Net': what such nets are, why they are not linear, and the transformer's own net."""

import numpy as np

import autotx
from autotx import nn, viz
from autotx.models.gpt import GPT, GPTConfig
from autotx.models.mlp import MLP
from autotx.models.paper import trained
from autotx.models.paper.case import Claim, Digits, Section
from autotx.models.paper.constants import B_1, B_2, ENCODED, FFN, LN_M, W_1, W_2, M
from autotx.models.paper.steps import agree, computable, distance, layer_norm, layer_norm_eps_outside, linear, tensor
from autotx.models.transformer import FeedForward, TransformerConfig

section = Section("feed-forward", "Feed Forward Neural Net", (639, 743))

NET = "max(0, x W_{1} + b_{1}) W_{2} + b_{2}"


def net():
    """The example's feed-forward net, 4 -> 6 -> 4."""
    return nn.Sequential(linear(W_1, B_1), nn.ReLU(), linear(W_2, B_2))


@section.case(
    651,
    "A network is a chain of functions",
    formula="f(x) = f^{(3)}(f^{(2)}(f^{(1)}(x)))",
    printed="three functions in a chain make one",
    note="nn.Sequential is that chain; its depth is its length.",
)
def chain():
    x, (first, second, third) = tensor(LN_M), net().layers
    return agree(net()(x), third(second(first(x))), 0, f"{len(net().layers)} functions, largest difference {{:g}}")


@section.case(
    653,
    "A layer is a row of units side by side",
    printed="each unit maps a vector to one number",
    note="The hidden layer of the example has six units; each alone gives its column.",
)
def units():
    together = linear(W_1, B_1)(tensor(LN_M)).relu()
    alone = [(tensor(LN_M) @ tensor(W_1)[:, unit] + B_1.values[unit]).relu() for unit in range(6)]
    return agree(together, autotx.stack(alone, axis=1), 1e-14, "6 units one by one: largest difference {:.1g}")


@section.case(
    647,
    "No output is fed back",
    printed="information flows one way, from x to y",
    note="A recurrent network would: its state at one step is an input of the next.",
)
def no_feedback():
    network, x = net(), tensor(LN_M)
    return agree(network(x), network(x), 0, "two calls with one input differ by {:g}: nothing is kept between them")


section.quote(
    "convolutional",
    649,
    "Convolutional networks, for photos, are feed-forward networks",
    printed="object recognition from photos",
    note="Convolutional networks are only named here, without a formula or a number; autotx does not have them.",
)
section.quote(
    "recurrent",
    649,
    "Recurrent networks build on feed-forward ones",
    printed="many natural language applications",
    note="Recurrent networks are only named, as what attention replaces; in autotx they are nn.RNN, nn.LSTM and "
    "nn.GRU. At lines 585 and 876 a recurrence of one line is counted beside attention.",
)


@section.case(
    651,
    "A model's functions form a directed acyclic graph",
    printed="functions composed in a graph without cycles",
    note="The engine records this graph to go backward through it. Only without a cycle is there an order in which "
    "every op comes after what it is made of.",
)
def acyclic():
    edges = viz.graph_json(net()(tensor(LN_M)))["edges"]
    forward = [edge["source"] < edge["target"] for edge in edges]
    return Claim(all(forward), f"{sum(forward)} of {len(edges)} arrows lead forward in the order of computing")


@section.case(
    651,
    "The data does not say what a hidden layer has to do",
    formula="f(x; W_{1}, b_{1}, W_{2}) with its six hidden units in another order",
    printed="only the output layer's task is given",
    note="With the hidden units in another order the hidden values differ and the output does not: no label tells one "
    "unit from another.",
)
def hidden_layer_is_free():
    order = [3, 0, 5, 1, 4, 2]
    hidden = linear(W_1, B_1)(tensor(LN_M)).relu()
    moved = linear(W_1.values[:, order], B_1.values[order])(tensor(LN_M)).relu()
    outputs = linear(W_2, B_2)(hidden), linear(W_2.values[order], B_2)(moved)
    inside, outside = distance(hidden, moved), distance(*outputs)
    return Claim(outside < 1e-14 < inside, f"hidden values differ by up to {inside:.2f}, outputs by {outside:.1g}")


@section.case(
    645,
    "Training looks for the parameters that fit best",
    formula="y = f(x; θ)",
    printed="learns θ",
    note="XOR learned from random weights, by the network that is drawn in 'XOR Example'.",
)
def learns():
    _, losses = trained.xor_network()
    first, last = losses[0], losses[-1]
    return Claim(last < 0.01 < first, f"loss {first:.3f} at the start, {last:.4f} after {len(losses)} steps")


@section.case(
    (655, 659),
    "A line and a deep network, fitted to sin(x)",
    printed="the network comes closer to the true function",
    note="100 points of [-10, 10], 10-10-1 with ReLU, 1,000 epochs of Adam, as in the listing at line 1689.",
)
def sine():
    _, y, line, network, _ = trained.sine_fits()
    straight, deep = (np.mean((fit - y) ** 2) for fit in (line, network))
    return Claim(deep < straight, f"mean squared error of the line {straight:.3f}, of the network {deep:.3f}")


@section.case(
    661,
    "No linear regression approximates XOR",
    formula="the best line answers 1/2 to every input",
    printed="there is no way to do it",
    note="Gradient descent on the squared error ends at 0.5 for all four inputs: as good as not looking at them.",
)
def xor_regression():
    answers = trained.xor_regression()
    return Claim(bool(np.abs(answers - 0.5).max() < 1e-6), f"answers {', '.join(f'{a:.4f}' for a in answers)}")


section.quote(
    "page_165",
    655,
    "The Deep Learning book compares linear and deep models on page 165",
    printed="page 165",
    note="A page number of another book; its chapter 6, which begins near there, does treat XOR.",
)
section.quote(
    "factor_4",
    669,
    "The authors of the transformer did not say why the factor is 4",
    printed="no reason given",
    note="A statement about another paper: Vaswani et al., 2017, 3.3, give 512 and 2048 without a reason.",
)


@section.case(
    669,
    "A vector of n by 1 is multiplied with an n × 4n matrix",
    formula="(n × 1) (n × 4n)",
    printed="an n by 1 vector for each token",
    note="That product does not exist. The result named in the same passage, 1 x 4n, needs a row, 1 x n, and rows are "
    "what the formula x W_{1} and the example have.",
)
def column_times_matrix():
    column, row, matrix = (tensor(np.ones(shape)) for shape in ((4, 1), (1, 4), (4, 16)))
    evidence = f"shapes (4, 1) and (4, 16) have no product; (1, 4) gives {(row @ matrix).shape}"
    return computable(lambda: column @ matrix, evidence)


@section.case(669, "n to 4n and back", formula="1 × n → 1 × 4n → 1 × n", printed="n, then 4n, then n again")
def widths():
    net = FeedForward(TransformerConfig(vocab_size=7, n_head=2, n_embd=4), rng=None).astype(np.float64)
    x, shapes = tensor(np.ones((1, 4))), [(1, 4)]
    for layer in (net.fc, net.proj):
        x = layer(x)
        shapes.append(x.shape)
    return Claim(shapes == [(1, 4), (1, 16), (1, 4)], "n = 4: " + " → ".join(map(str, shapes)))


@section.case(
    675,
    "The same transformation at every position",
    printed="positions share the parameters",
    note="Tokens in another order give the same rows in that order.",
)
def shared_by_positions():
    order = [2, 0, 1]
    return agree(net()(tensor(LN_M))[order], net()(tensor(LN_M)[order]), 0, "largest difference {:g}")


@section.case(
    (701, 702),
    "Every layer has parameters of its own",
    printed="parameters unique to each layer",
    note="Counted in autotx.models.GPT.",
)
def own_parameters():
    model = GPT(GPTConfig(8, 11, 3, 1, 4), rng=None)
    weights = {id(p) for name, p in model.named_parameters() if name.endswith("mlp.fc.weight")}
    return Claim(len(weights) == 3, f"3 layers, {len(weights)} distinct matrices W_{{1}}")


@section.case(
    (671, 673),
    "The formula, and the engine's layers",
    formula=NET,
    printed="a ReLU between two multiplications",
    note="Written out with max, and as nn.Linear, nn.ReLU, nn.Linear.",
)
def formula_and_layers():
    x, w_1, w_2 = tensor(LN_M), tensor(W_1), tensor(W_2)
    written_out = autotx.maximum(0.0, x @ w_1 + B_1.values) @ w_2 + B_2.values
    return agree(written_out, net()(x), 1e-14)


@section.case(
    (681, 683),
    "The input of the example, token by token",
    formula="n × 1",
    printed=Digits("4 1"),
    note="Each token is a row of LN(M), 1 x 4. As a column, 4 x 1, it could not be multiplied with W_{1}, 4 x 6.",
)
def input_shape():
    return tensor(LN_M)[:1].shape


@section.case(683, "Each row is a token, and n is the number of columns", formula="n", printed=Digits("4"))
def rows_and_columns():
    return tensor(LN_M).shape[-1]


@section.case(687, "Width of the hidden layer, by the factor 4", formula="4 n, n = 4", printed=Digits("16"))
def hidden_width():
    return GPT(GPTConfig(8, 11, 1, 1, 4), rng=None).blocks[0].mlp.fc.weight.shape[0]


@section.case(687, "Width of the hidden layer in the example", printed=Digits("6"))
def hidden_width_of_example():
    return linear(W_1)(tensor(LN_M)).shape[-1]


@section.case((690, 691), "ReLU, element by element", formula="max(0, z)", printed="applied to each element")
def relu():
    out = tensor([-1.5, 0, 0.5, 2]).relu().data.tolist()
    return Claim(out == [0, 0, 0.5, 2], "-1.5, 0, 0.5, 2 become " + ", ".join(f"{v:g}" for v in out))


@section.case(
    690,
    "ReLU makes the network non-linear",
    printed="non-linearity, without which nothing complex is learned",
    formula="f(-x) = -f(x) for a linear f",
    note="In the example itself it never acts: all 18 hidden values are positive, so this net is linear on these "
    "inputs.",
)
def non_linear():
    x = tensor([[1.0, -2.0]])
    difference = distance(x.relu() * -1.0, (x * -1.0).relu())
    smallest = linear(W_1, B_1)(tensor(LN_M)).min().item()
    return Claim(difference > 0, f"ReLU(-x) is not -ReLU(x); the smallest z_{{1}} of the example is {smallest:.3f}")


@section.case((693, 699), "The second matrix goes back to n", formula="columns of z_{2}", printed=Digits("4"))
def back_to_n():
    return net()(tensor(LN_M)).shape[-1]


@section.case(
    (704, 706),
    "The input of the net, by the formula",
    formula="(M - μ) / √(σ^{2} + ε)",
    printed=LN_M,
    note="The matrix of line 631 again, with ε outside the root.",
)
def net_input():
    return layer_norm(M)


@section.case(715, "The sizes of W_{1} and W_{2}", printed=Digits("4 6; 6 4"))
def matrix_sizes():
    return [tensor(W_1).shape, tensor(W_2).shape]


@section.case(716, "The sizes of b_{1} and b_{2}", printed=Digits("6 4"))
def bias_sizes():
    return [tensor(B_1).size, tensor(B_2).size]


@section.case(
    (718, 724),
    "Randomly initialized parameters",
    formula="W_{1,ij} = (6 i + j + 1) / 10, W_{2} the same by columns",
    printed="random",
    note="The matrices count 0.1, 0.2, ... 2.4, one along its rows, the other down its columns. It matters: this "
    "pattern is why the final layer norm comes out the same for every token.",
)
def random_parameters():
    count = np.arange(1, 25).reshape(4, 6) / 10
    difference = max(distance(W_1, count), distance(W_2, count.T))
    return Claim(difference > 1e-12, f"distance from 0.1, 0.2, ... 2.4: {difference:.1g}")


@section.case(
    (722, 726),
    "The biases as columns",
    formula="x W_{1} + b_{1}: (3 × 6) + (6 × 1)",
    printed="b_1 of 6 rows and b_2 of 4, one column each",
    note="A column of six cannot be added to rows of six. The formula x W_{1} + b_{1} needs rows, and the listing has "
    "them.",
)
def bias_columns():
    x, column = tensor(LN_M), tensor(B_1.values[:, None])
    evidence = f"(3, 6) + (6, 1) cannot be added; with a row of 6 the result is {linear(W_1, B_1)(x).shape}"
    return computable(lambda: linear(W_1)(x) + column, evidence)


@section.case((730, 733), "The size of z_{2}", formula=NET, printed=Digits("3 4"))
def step_shapes():
    return net()(tensor(LN_M)).shape


@section.case((735, 737), "The feed-forward net's result", formula=NET, printed=FFN)
def feed_forward():
    return net()(tensor(LN_M))


@section.case(
    (739, 741),
    "The encoder's output",
    formula="(x - μ) / √(σ^{2} + ε), ε = 10^{-6}",
    printed=ENCODED,
    note="All digits, with ε inside the root.",
)
def encoder_output():
    return layer_norm(FFN)


@section.case(
    (739, 741),
    "Exactly the process of before",
    formula="(x - μ) / (σ + ε), which gave line 631",
    printed=ENCODED,
    note="It is not the same process: line 631 was made with ε outside the root, and that gives -1.34164037 here. "
    "This output has ε inside, as the formula says.",
)
def encoder_output_outside():
    return layer_norm_eps_outside(FFN)


@section.case(
    743,
    "The net's columns are multiples of each other",
    formula="each column / the one before it",
    printed="each column three times another",
    note="They are not: the ratios are 2.69, 1.63 and 1.39. What is constant is the step from column to column, 2.883 "
    "in the first row, because W_{2} counts down its columns; and layer norm makes ±3/√5 and ±1/√5 of any four evenly "
    "spaced numbers. Only there is one column three times another.",
)
def ratios():
    quotients = (tensor(FFN)[:, 1:] / tensor(FFN)[:, :-1]).data
    rows = "; ".join(" ".join(f"{v:.2f}" for v in row) for row in quotients)
    return Claim(bool(np.abs(quotients - 3).max() < 0.01), rows)


@section.case(
    743,
    "Why each column has one value",
    formula="LN(a, a + k, a + 2k, a + 3k) = (-3, -1, 1, 3) / √5",
    printed="columns the same by the way the numbers were set up",
    note="True of any evenly spaced row, up to ε, which makes the difference in the eighth decimal.",
)
def evenly_spaced():
    exact = tensor([-3.0, -1.0, 1.0, 3.0]) / tensor(5.0).sqrt()
    difference = max(distance(row, exact) for row in layer_norm(FFN, eps=0.0))
    return Claim(difference < 1e-8, f"without ε the rows are (-3, -1, 1, 3) / √5 within {difference:.1g}")


@section.case(
    743,
    "With other numbers it would not happen",
    printed="not in a model of real size",
    note="Two random matrices in place of the counting ones.",
)
def not_with_random():
    out = layer_norm(MLP((4, 6, 4), rng=np.random.default_rng(0)).astype(np.float64)(tensor(LN_M)))
    spread = (out.max(axis=0) - out.min(axis=0)).max().item()
    return Claim(spread > 0.01, f"with random weights the rows of the final layer norm differ by up to {spread:.2f}")

"""'Layer Normalization': mean 0 and variance 1 for each token, with ε inside or outside the root."""

import math

import numpy as np

import autotx
from autotx import nn
from autotx.models.paper.case import Claim, Digits, Section
from autotx.models.paper.constants import CONCAT, LN_M, W_O, M
from autotx.models.paper.steps import agree, descend, layer_norm, layer_norm_eps_outside, tensor
from autotx.optim import SGD

section = Section("layer-norm", "Layer Normalization", (592, 637))

FORMULA = "γ (x - μ) / √(σ^{2} + ε) + β"


def shifted_features(rng):
    """1,000 examples of two features in [0, 1], their labels (first feature > 0.5), and all with it times 1000."""
    x = rng.random((1000, 2))
    return x, x[:, 0] > 0.5, x * [1000, 1]


@section.case(
    (598, 603),
    "A feature that grows a thousandfold breaks the learned weights",
    printed="the learned weights become less useful",
    note="A classifier that was right about all examples is right about half of them afterwards, no more than a coin.",
)
def scale_shift():
    x, label, stretched = shifted_features(np.random.default_rng(0))
    answers = [(tensor(features) @ tensor([1.0, 0.0])).data > 0.5 for features in (x, stretched)]
    before, after = ((answer == label).mean() for answer in answers)
    return Claim(after < before, f"right before: {before:.0%}, after: {after:.0%}")


@section.case(
    603,
    "With such a feature training may diverge",
    formula="10 steps of gradient descent on a squared error, rate 0.5",
    printed="it might fail to train",
    note="A linear layer, once on the features in [0, 1] and once with the first of them in [0, 1000]. The gradient "
    "grows with the square of the feature, so that the same learning rate overshoots further with every step.",
)
def diverges():
    x, label, stretched = shifted_features(np.random.default_rng(0))
    losses = []

    def loss(layer, features):
        return autotx.mse_loss(layer(tensor(features))[:, 0], label.astype(np.float64))

    for features in (x, stretched):
        layer = nn.Linear(2, 1, rng=np.random.default_rng(1)).astype(np.float64)
        losses += descend(SGD(layer.parameters(), lr=0.5), 10, loss, layer, features)
    holds = losses[9] < losses[0] and losses[19] > losses[10]
    before, after = (f"from {losses[i]:.2g} to {losses[i + 9]:.2g}" for i in (0, 10))
    return Claim(holds, f"the loss goes {before}, stretched {after}")


@section.case(
    605,
    "Layer norm rescues the example",
    formula="LN([x_{1}, x_{2}]) = [±1, ∓1]",
    printed="the model adapts more easily to the new distribution",
    note="Layer norm works across the features of one example. Of two features it leaves only which is larger, and "
    "once x_{1} reaches to 1000 that is nearly always x_{1}: the information is gone. Normalizing each feature over "
    "the examples, as batch normalization does, is what would help here.",
)
def norm_of_two_features():
    _, label, stretched = shifted_features(np.random.default_rng(0))
    first = layer_norm(stretched)[:, 0].data
    right = max(np.mean((first > 0) == label), np.mean((first > 0) != label))
    same = np.mean(first > 0.99)
    return Claim(right > 0.9, f"{same:.1%} of 1,000 examples become [1, -1]: at best {right:.0%} can be told apart")


@section.case(605, "Inputs get mean zero", formula="mean of each row of LN(M)", printed=Digits("0 0 0", places=8))
def zero_mean():
    return layer_norm(M).mean(axis=-1)


@section.case(605, "and unit variance", formula="variance of each row of LN(M)", printed=Digits("1 1 1", places=5))
def unit_variance():
    return layer_norm(M).var(axis=-1)


@section.case(
    607,
    "Results are not confined to [-1, 1]",
    printed="no range like [0, 1] or [-1, 1]",
    note="In the example itself the largest is 1.59.",
)
def beyond_one():
    largest = layer_norm(M).abs().max().item()
    return Claim(largest > 1, f"the largest entry of LN(M) is {largest:.4f}")


@section.case(
    607,
    "There is no hard limit on the results",
    formula="|x - μ| / σ ≤ √(n - 1)",
    printed="the range has no firm bounds",
    note="There is one, before γ and β: n numbers of variance 1 and mean 0 cannot exceed √(n - 1), here √3 = 1.732.",
)
def hard_limit():
    largest = layer_norm([[1e9, 0, 0, 0], [-1e3, 1e6, 0, 7]]).abs().max().item()
    return Claim(largest > math.sqrt(3) + 1e-6, f"1000000000 beside three zeros becomes {largest:.4f}, no more")


@section.case(
    609,
    "Each row has mean 0 and standard deviation 1",
    formula="mean and standard deviation of the printed rows",
    printed=Digits("0 1; 0 1; 0 1", places=5),
)
def rows_of_result():
    rows = tensor(LN_M)
    return np.stack([rows.mean(axis=-1).data, rows.var(axis=-1).sqrt().data], axis=1)


@section.case(
    611,
    "Layer norm is for each example, not across examples",
    printed="an example's result does not depend on the others",
    note="Batch normalization, which does work across examples, is only named here, and autotx does not have it.",
)
def per_example():
    changed = M.values.copy()
    changed[2] = [0, 5, -5, 9]
    return agree(layer_norm(M)[:2], layer_norm(changed)[:2], 0, "another third row changes the first two by {:g}")


@section.case(
    (613, 615),
    "The matrix M",
    formula="M = Concat(head_{1}, head_{2}) W_{O}",
    printed=M,
    note="The text calls M given; it is the output of multi-head attention that line 583 should have shown.",
)
def matrix_m():
    return tensor(CONCAT) @ tensor(W_O)


@section.case(
    (617, 631),
    "The layer norm of M by the formula",
    formula=f"{FORMULA}, γ = 1, β = 0, ε = 10^{{-6}} inside the root",
    printed=LN_M,
    note="With ε inside the root, as the formula and the listing at line 1655 have it, the first number is "
    "-1.03927194 and not -1.03927142. All twelve differ, most in the seventh decimal.",
)
def norm_of_m():
    return layer_norm(M)


@section.case(
    (617, 631),
    "The layer norm of M with ε outside the root",
    formula="(x - μ) / (σ + ε)",
    printed=LN_M,
    note="This gives every printed digit: the output was made with ε added to the standard deviation, as the "
    "decoder's listing at line 2098 does, and not by the formula or the listing shown for it.",
)
def norm_of_m_outside():
    return layer_norm_eps_outside(M)


@section.case(
    626,
    "γ and β can be learned, or be 1 and 0",
    printed="learnable parameters",
    note="nn.LayerNorm begins with 1 and 0; a loss sends a gradient to both.",
)
def gamma_and_beta():
    layer = nn.LayerNorm(4, eps=1e-6).astype(np.float64)
    start = [layer.weight.data.tolist(), layer.bias.data.tolist()]
    (layer(tensor(M)) * tensor(LN_M)).sum().backward()
    learned = np.abs(layer.weight.grad).min() > 0 and np.abs(layer.bias.grad).min() > 0
    return Claim(bool(learned and start == [[1.0] * 4, [0.0] * 4]), "they begin at 1 and 0, and both get gradients")


@section.case(
    627,
    "What ε is for",
    formula="LN of 3 3 3 3: (3 - 3) / √(0 + ε)",
    printed="numerical stability",
    note="Without ε a row of equal numbers would be 0 / 0.",
)
def epsilon():
    row = layer_norm([[3.0, 3, 3, 3]], eps=1e-6)[0].data
    return Claim(bool((row == 0).all()), f"with ε = 1e-6 it is {' '.join(f'{v:g}' for v in row)}")

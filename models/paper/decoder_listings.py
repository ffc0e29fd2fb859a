"""'Math for FFN' to 'What is Cross Entropy Loss': the listings behind the feed-forward net, decoder and loss."""

import math

import numpy as np

from autotx.models.paper.case import Claim, Digits, Section
from autotx.models.paper.constants import (
    B_1,
    CROSS,
    DECODER_ATTENTION,
    DECODER_NORM,
    ENCODED,
    FFN,
    LN_M,
    W_1,
    W_2,
    W_K,
    W_Q,
    Y_PE,
)
from autotx.models.paper.decoder import CROSS_WEIGHTS, cross_attention, listing_attention, listing_weights
from autotx.models.paper.feed_forward import net
from autotx.models.paper.loss import GOOD, POOR, after_step, cross_entropy, gradient, loss_of
from autotx.models.paper.steps import agree, distance, layer_norm_eps_outside, linear, position_encoding, tensor

feed_forward = Section("ffn-listing", "Math for FFN", (1977, 2055))
heads = Section("decoder-heads", "Decoder Attention Heads", (2057, 2119))
cross = Section("encoder-decoder-listing", "Calculate Encoder-Decoder Output", (2121, 2208))
entropy = Section("cross-entropy", "What is Cross Entropy Loss", (2210, 2265))


@feed_forward.case(
    (1979, 2020),
    "Listing: the feed-forward net",
    formula="max(0, x W_{1} + b_{1}) W_{2} + b_{2}",
    printed="what line 737 shows",
    note="The listing prints z_{2} and the paper shows its output in the text.",
)
def listing():
    return agree(net()(tensor(LN_M)), FFN, 0.5e-8, "all 12 numbers of line 737 within {:.1g}")


@feed_forward.case(
    (2022, 2055),
    "Listing: first row, first column alone",
    formula="max(0, x_{0} W_{1} + b_{1}) W_{2}[:, 0] + 0.01",
    printed="one number of the matrix",
    note="The listing shows no output. It is the first number of line 737.",
)
def one_entry():
    hidden = linear(W_1, B_1)(tensor(LN_M)[0]).relu()
    alone = (hidden @ tensor(W_2)[:, 0] + 0.01).item()
    difference = abs(alone - net()(tensor(LN_M))[0, 0].item())
    return Claim(difference < 1e-14, f"{alone:.8f}, as in the whole matrix: difference {difference:.1g}")


@heads.case(
    (2064, 2067),
    "The matrix called position encoding",
    formula="PE by the formulas",
    printed=Y_PE,
    note="It is Y + PE, words and positions together, under the name of the positions alone.",
)
def called_positions():
    return position_encoding(3, 4)


@heads.case(
    (2069, 2113),
    "Listing: self-attention output",
    formula="softmax(Q K^{T}) V W_{o}: no scale, no mask",
    printed=DECODER_ATTENTION,
    note="With NumPy's seed 42, as the listing stands. The text's scale and mask are missing; see lines 763-771.",
)
def attention_output():
    return listing_attention(scale=1.0)


@heads.case(
    (2094, 2119),
    "Listing: layer norm",
    formula="(x - μ) / (σ + ε)",
    printed=DECODER_NORM,
    note="As the listing stands, with ε outside the root; the formula of line 620 has it inside.",
)
def norm_output():
    return layer_norm_eps_outside(listing_attention(scale=1.0))


@heads.case(
    (2085, 2086),
    "Listing: each row of weights sums to 1",
    formula="e^{Q K^{T}} / Σ e^{Q K^{T}}",
    printed=Digits("1 1 1", places=12),
    note="Right, though without subtracting the largest score first, which a longer text could need.",
)
def weights_sum():
    w_q, w_k, _, _ = listing_weights()
    e = (tensor(Y_PE) @ w_q @ (tensor(Y_PE) @ w_k).T).exp()
    return (e / e.sum(axis=-1, keepdims=True)).sum(axis=-1)


@cross.case(
    (2160, 2166),
    "The decoder's own W_{Q}",
    formula="largest difference of the decoder's and the encoder's W_{Q}",
    printed="weights of the decoder",
    note="They are the encoder's, entry by entry. A decoder has its own, and its cross attention has its own W_{K} "
    "and W_{V} too, applied to the encoder's output.",
)
def own_weights():
    decoder, encoder = tensor([[1, 0, 0, 1], [0, 1, 1, 0], [0, 1, 0, 1], [1, 0, 1, 0]]), tensor(W_Q)
    difference = distance(decoder, encoder)
    return Claim(difference > 0, f"largest difference from the encoder's W_{{Q}}: {difference:g}")


@cross.case(
    (2176, 2177),
    "Listing: the divisor",
    formula="d_{k} under the root",
    printed=Digits("3"),
    note="The listing divides by √3, the number of tokens; the text at lines 802 to 805 rightly by √4, the length of "
    "a key.",
)
def divisor():
    return linear(W_K)(tensor(ENCODED)).shape[-1]


@cross.case(
    (2123, 2202),
    "Listing: attention weights",
    formula="softmax(Q K^{T} / √3), with W^{T} in place of W",
    printed=CROSS_WEIGHTS,
    note="As the listing stands. √4 gives the same digits, as the encoder's rows, and so the scores, hardly differ.",
)
def weights():
    return cross_attention(scale=math.sqrt(3), transposed=True)[0]


@cross.case(
    (2204, 2208),
    "Listing: attention output",
    formula="softmax(Q K^{T} / √3) V, with W^{T} in place of W",
    printed=CROSS,
    note="As the listing stands; the formulas of the text give 0, -0.8944, 0, 0.8944 (line 826).",
)
def output():
    return cross_attention(scale=math.sqrt(3), transposed=True)[1]


@cross.case(
    (2169, 2205),
    "Listing: the matrices are transposed",
    formula="LN(x_{e}) W_{V}",
    printed=Digits("-1.7888543 1.7888543 0. 0.", places=7),
    note="Everywhere else, in the text (line 787) and in the encoder's listings, it is x W and not x W^{T}; this "
    "alone changes the result.",
)
def transposed():
    return cross_attention(scale=math.sqrt(3))[1][0]


@cross.case(
    (2179, 2181),
    "Listing: softmax less the largest score",
    formula="e^{x - max x} / Σ e^{x - max x}",
    printed="the same as without",
    note="One maximum for the whole matrix is subtracted. A row far below it could underflow to 0 / 0; the maximum of "
    "each row is the safe choice.",
)
def shifted_softmax():
    x = tensor([[2.0, 1.0, 0.2], [-3.0, 0.0, 1.0]])
    e = (x - x.max()).exp()
    return agree(e / e.sum(axis=-1, keepdims=True), x.softmax(), 1e-15)


@entropy.case((2214, 2263), "The loss", formula="L = -Σ y_{i} log p_{i}", printed=Digits("0.357"))
def formula():
    return cross_entropy(GOOD)


@entropy.case(
    2218,
    "Only the true token's probability counts",
    formula="-log p_{true}",
    printed="y_{i} is 1 once and 0 everywhere else",
)
def only_true():
    same = loss_of(tensor(np.log(POOR))).item()
    return Claim(abs(same + math.log(0.1)) < 1e-12, f"{same:.6f} = -log 0.1")


@entropy.case(
    2226,
    "The logarithm gives a strong gradient",
    formula="∂/∂Z of -log p_{mat}, and of (p_{mat} - 1)^{2}",
    printed="natural and strong",
    note="Compared with a squared error on the same wrong prediction, for the logit of the true word.",
)
def strong_gradient():
    z = tensor(np.log(POOR), requires_grad=True)
    ((z.softmax()[0] - 1.0) * (z.softmax()[0] - 1.0)).backward()
    log, squared = abs(gradient(POOR)[0]), abs(z.grad[0])
    return Claim(log > squared, f"{log:.3f} against {squared:.3f}")


@entropy.case(
    (2222, 2228),
    "The more divergent the prediction, the higher the loss",
    printed="penalizes divergence from the true distribution",
)
def penalty():
    losses = [cross_entropy([p, *[(1 - p) / 3] * 3]).item() for p in (0.9, 0.5, 0.1, 0.01)]
    return Claim(losses == sorted(losses), "p = 0.9, 0.5, 0.1, 0.01: " + ", ".join(f"{v:.3f}" for v in losses))


@entropy.case(
    2230,
    "Cross entropy is the number of extra bits",
    formula="H(p, q) = H(p) + KL(p, q)",
    printed="the extra cost of assuming the wrong distribution",
    note="The extra cost is the Kullback-Leibler divergence; cross entropy is the whole cost, H(p) included. For "
    "one-hot labels H(p) is 0 and both agree.",
)
def extra_bits():
    p, q = tensor([0.5, 0.5]), tensor([0.9, 0.1])
    whole, extra = -(p * q.log()).sum().item(), (p * (p / q).log()).sum().item()
    return Claim(abs(whole - extra) < 1e-9, f"p = 0.5 0.5, q = 0.9 0.1: cross entropy {whole:.3f}, extra {extra:.3f}")


@entropy.case(
    (2230, 2263),
    "It is measured in bits",
    formula="-log_{2} 0.7",
    printed=Digits("0.357"),
    note="With the natural logarithm, which gives 0.357 and 2.303, the unit is the nat; in bits it is 0.515 and 3.322.",
)
def bits():
    return cross_entropy(GOOD) / math.log(2)


@entropy.case(
    2232,
    "Minimizing the loss lowers all other tokens' probabilities",
    formula="softmax(Z - α (P - y)) from P = 0.1 0.1 0.1 0.7, α = 0.1",
    printed="the next token's rises, the others' fall",
    note="The sum of the others falls, not each: 'hat' and 'bat' rise from 0.1 to 0.1031 while 'rat' falls to 0.6798.",
)
def others_fall():
    new = after_step(POOR, 0.1).data
    return Claim(bool((new[1:] < POOR[1:]).all()), "the others go to " + ", ".join(f"{p:.4f}" for p in new[1:]))


@entropy.table(
    ("first_loss", (2237, 2263), "Listing: first loss", "-log 0.7", Digits("0.357"), GOOD),
    ("second_loss", (2256, 2264), "Listing: second loss", "-log 0.1", Digits("2.303"), POOR),
)
def listed_loss(p):
    return loss_of(tensor(np.log(p)))

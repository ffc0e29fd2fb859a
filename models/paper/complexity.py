"""'GPT Time Complexity': how the multiplications grow with the tokens n, the width d and the layers l."""

import math
import time

import numpy as np

from autotx.models.gpt import GPT, GPTConfig
from autotx.models.paper.case import Claim, Digits, Section
from autotx.models.paper.sizes import (
    counted_multiplications,
    gpt_multiplications,
    gpt_parameters,
    transformer_parameters,
)
from autotx.models.paper.steps import attention_weights, tensor
from autotx.models.transformer import Transformer, TransformerConfig

section = Section("complexity", "GPT Time Complexity", (1187, 1208))

LAYERS, WIDTH, CONTEXT = 96, 12288, 2048  # GPT-3, Brown et al., 2020, table 2.1


def count(layers, width, tokens):
    """Multiplications in the blocks of a GPT for one text, counted in its graph: (by weights, of pairs of tokens)."""
    model = GPT(GPTConfig(tokens, 3, layers, 1, width), rng=None).astype(np.float64)
    return counted_multiplications(model.hidden(np.zeros((1, tokens), dtype=int)))


def grows(which, claimed, evidence, **change):
    """A Claim that the multiplications grow by the factor `claimed` when sizes change.

    which: 0 for those by weights, 1 for those of pairs; evidence: a format that takes the factor.
    """
    sizes = {"layers": 2, "width": 8, "tokens": 16}
    factor = count(**{**sizes, **change})[which] / count(**sizes)[which]
    return Claim(factor == claimed, evidence.format(factor))


@section.case(
    1190,
    "Pairs of tokens to be scored",
    formula="n^{2}",
    printed="n^{2} pairs",
    note="A GPT's causal mask leaves n (n + 1) / 2 of them in use, of three tokens 6.",
)
def pairs():
    sizes = [attention_weights(np.eye(n), np.eye(n)).size for n in (3, 10)]
    return Claim(sizes == [9, 100], f"{sizes[0]} scores for 3 tokens, {sizes[1]} for 10")


@section.case(1190, "The work of the pairs grows with n^{2}", formula="(2n)^{2} / n^{2}", printed="n^{2}")
def pairs_growth():
    return grows(1, 4, "twice the tokens, {:g} times the multiplications", tokens=32)


@section.case(
    1193,
    "Each pair is multiplied with the matrices of Q, K and V",
    formula="multiplications by weights for 2n tokens / for n tokens",
    printed="a product with these matrices for every pair",
    note="If every pair needed them the factor would be 4. The matrices are applied once to each token, so it is 2; a "
    "pair costs a product of two vectors.",
)
def projections_for_pairs():
    return grows(0, 4, "twice the tokens, {:g} times the products with weights", tokens=32)


@section.case(
    1193,
    "The products with Q, K and V are O(d)",
    formula="multiplications by weights for width 2d / for width d",
    printed="O(d)",
    note="A vector of d numbers times a d x d matrix is d^{2} multiplications, so twice the width makes four times "
    "the work. O(d) is the price of one pair's score.",
)
def projections_in_width():
    return grows(0, 2, "twice the width, {:g} times the products with weights", width=16)


@section.case((1193, 1196), "A score of a pair is O(d)", formula="pairs, width 2d / width d", printed="O(d)")
def score_in_width():
    return grows(1, 2, "twice the width, {:g} times the multiplications of pairs", width=16)


@section.case(1196, "Attention is O(n^{2} d)", formula="pairs, 2n and 2d / n and d", printed="O(n^{2} d)")
def attention_growth():
    return grows(
        1, 8, "twice the tokens and twice the width, {:g} times the multiplications of pairs", tokens=32, width=16
    )


@section.case(
    1196,
    "Self-attention overall, projections included, is O(n^{2} d)",
    formula="4 n d^{2} + 2 n^{2} d",
    printed="n^{2} d covers both steps",
    note="The projections are another term, n d^{2}, and it is the larger one as long as n is below 2 d. The sum is "
    "O(n^{2} d + n d^{2}).",
)
def attention_overall():
    projections, scores = 4 * CONTEXT * WIDTH**2, gpt_multiplications(1, WIDTH, CONTEXT)[1]
    share = scores / (scores + projections)
    return Claim(share > 0.5, f"GPT-3, n = 2,048, d = 12,288: n^{{2}} d has {share:.1%} of attention's multiplications")


@section.case(1199, "All layers: O(l n^{2} d)", formula="pairs, 3l / l", printed="O(l n^{2} d)")
def layers_growth():
    return grows(1, 3, "three times the layers, {:g} times the multiplications of pairs", layers=6)


@section.case(
    1202,
    "Feed-forward nets and layer norms are linear in n",
    formula="multiplications by weights, 3n / n",
    printed="linear in the length of the sequence",
)
def rest_is_linear():
    return grows(0, 3, "three times the tokens, {:g} times the multiplications", tokens=48)


@section.case(
    1204,
    "Self-attention's n^{2} d is the primary bottleneck",
    formula="2 n^{2} d / (12 n d^{2} + 2 n^{2} d) = n / (6 d + n)",
    printed="the primary bottleneck of GPT models",
    note="Not at the sizes of GPT-3: of its multiplications at full context, 2.7 % grow with n^{2}. They outgrow the "
    "rest only from n = 6 d = 73,728 tokens on.",
)
def bottleneck():
    by_weights, of_pairs = gpt_multiplications(LAYERS, WIDTH, CONTEXT)
    share = of_pairs / (of_pairs + by_weights)
    return Claim(share > 0.5, f"in GPT-3, n = 2,048, d = 12,288: {share:.1%} of the multiplications")


@section.case(
    1204,
    "Twice the length, four times the time",
    formula="multiplications of a block for 2n / for n, n = 1024, d = 12288",
    printed="time grows quadratically with the length",
    note="4 is the limit for long texts. From 1,024 to 2,048 tokens GPT-3's work grows 2.03 times, nearly in "
    "proportion.",
)
def doubling():
    twice, once = (sum(gpt_multiplications(LAYERS, WIDTH, n)) for n in (2048, 1024))
    return Claim(twice / once > 3.5, f"twice the tokens, {twice / once:.2f} times the multiplications")


@section.case(
    1204,
    "The length of the input is limited",
    printed="no sequence may exceed some length",
    note="The reason given, the time, is one; the first limit of these models is the table of learned positions.",
)
def limit():
    model = GPT(GPTConfig(4, 3, 1, 1, 4), rng=None)
    try:
        model(np.zeros((1, 5), dtype=int))
    except ValueError as error:
        return Claim(True, str(error))
    return Claim(False, "5 tokens went into a model of block size 4")


@section.case(
    1206,
    "Implementations matter as much as the theory",
    formula="seconds for 8 × 256 scores, one by one / as one product of matrices",
    printed="a huge impact on performance",
    note="The same multiplications both times, measured as the page is made, forward only.",
)
def implementations():
    vectors = np.random.default_rng(0).standard_normal((256, 64))
    q, rows, seconds = tensor(vectors), [tensor(row) for row in vectors], []
    for work, times in ((lambda: [(a * b).sum() for a in rows[:8] for b in rows], 1), (lambda: q[:8] @ q.T, 10)):
        taken = []
        for _ in range(times):
            start = time.perf_counter()
            work()
            taken.append(time.perf_counter() - start)
        seconds.append(min(taken))
    factor = seconds[0] / seconds[1]
    return Claim(factor > 10, f"one by one takes more than {10 ** int(math.log10(factor)):,} times as long")


@section.case(
    1208,
    "Layers of GPT-3",
    formula="l = (175 · 10^{9} - tables) / (12 d^{2} + 13 d), d = 12288",
    printed=Digits("175"),
    note="96 layers, of width 12,288. 175 is the number of its parameters, in billions (line 1109).",
)
def gpt_3_layers():
    tables = gpt_parameters(0, WIDTH, 50257, CONTEXT)
    return (175e9 - tables) / (gpt_parameters(1, WIDTH, 50257, CONTEXT) - tables)


@section.case(
    1208,
    "Width of GPT-3",
    formula="12 l d^{2} + (13 l + V + T + 2) d = 175 · 10^{9}, solved for d, l = 96",
    printed=Digits("1024"),
    note="The width is 12,288; the solution is a little larger as 175 is rounded. 1,024 is the width of GPT-2 medium; "
    "with 175 layers of it a model has 2.3 billion parameters.",
)
def gpt_3_width():
    a, b = 12 * LAYERS, 13 * LAYERS + 50257 + CONTEXT + 2
    return (math.sqrt(b**2 + 4 * a * 175e9) - b) / (2 * a)


@section.case(
    1208,
    "What 175 layers of width 1024 would make, in billions",
    formula="12 l d^{2} + …",
    printed=Digits("175"),
    note="The two numbers of this line do not fit the 175 billion parameters of line 1109: they give 2.3 billion.",
)
def gpt_3_as_printed():
    return gpt_parameters(175, 1024, 50257, CONTEXT) / 1e9


@section.case(
    (1190, 1199),
    "The formulas behind these numbers, counted on small models",
    printed="parameters and multiplications of any size",
    note="Every count above and in the GPT section comes from polynomials that agree with models of the engine.",
)
def formulas_hold():
    sizes = [(1, 4, 5, 5), (3, 8, 7, 16), (2, 12, 40, 9)]
    models = [GPT(GPTConfig(T, V, L, 1, C), rng=None) for L, C, V, T in sizes]
    same = [m.num_parameters() == gpt_parameters(*size) for m, size in zip(models, sizes)]
    same += [count(L, C, T) == gpt_multiplications(L, C, T) for L, C, _, T in sizes]
    for L, C, V, T in sizes:
        model = Transformer(TransformerConfig(V, T, L, n_head=1, n_embd=C), rng=None)
        same.append(model.num_parameters() == transformer_parameters(L, C, V))
    return Claim(all(same), f"{len(same)} counts of small models, all as the formulas say")

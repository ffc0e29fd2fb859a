"""'Encoder Stack Processing' and 'Self Attention': the parts of a block, and the steps of attention."""

import math

import numpy as np

import autotx
from autotx.models.paper.case import Claim, Section
from autotx.models.paper.constants import W_K, W_Q, W_V, X_PE, M, V
from autotx.models.paper.steps import agree, attention, attention_weights, distance, layer_norm, linear, tensor
from autotx.models.transformer import EncoderBlock, Transformer, TransformerConfig

encoder = Section("encoder", "Encoder Stack Processing", (241, 253))
section = Section("self-attention", "Self Attention", (255, 371))

ATTENTION = "softmax(Q K^{T} / √d_{k}) V"


def block_sizes(width):
    """Parameters of the attention and of the feed-forward net of a block of this width: two numbers."""
    block = EncoderBlock(TransformerConfig(vocab_size=7, n_embd=width), rng=None)
    return block.attn.num_parameters(), block.mlp.num_parameters()


def project(x):
    """Q, K and V: the rows of x times W_Q, W_K and W_V of the example."""
    return [linear(weight)(tensor(x)) for weight in (W_Q, W_K, W_V)]


@encoder.case(249, "Attention gives a matrix of the size it was given", printed="the size stays")
def attention_keeps_shape():
    before, after = tensor(X_PE).shape, attention(*project(X_PE)).shape
    return Claim(after == before, f"{before} goes in, {after} comes out")


@encoder.case(
    249,
    "It combines the input by the attention scores",
    printed="each row is a weighted mean",
    note="A mean of the rows of V, which are the input times W_{V}: no entry leaves the range of its column.",
)
def weighted_mean():
    out = attention(*project(X_PE)).data
    inside = (out >= V.values.min(axis=0) - 1e-12).all() and (out <= V.values.max(axis=0) + 1e-12).all()
    return Claim(bool(inside), "every output lies between the smallest and the largest value of its column of V")


@encoder.case(
    250,
    "Layer norm follows attention",
    formula="LN(attention(x)) in the text; LN(x + attention(x)) in its source",
    printed="a layer norm after self-attention",
    note="The numbers that follow are those of the text's own order. It never mentions the residual connection: in the "
    "transformer of Vaswani et al., 2017, 3.1, each part's input is added to its output before the layer norm.",
)
def norm_follows_attention():
    plain, residual = layer_norm(M), layer_norm(tensor(X_PE) + tensor(M))
    mean, variance = plain.mean(axis=-1).abs().max().item(), plain.var(axis=-1).min().item()
    shown = " and ".join(" ".join(f"{v:.4f}" for v in rows[0].data) for rows in (plain, residual))
    return Claim(mean < 1e-9 and abs(variance - 1) < 1e-5, f"first row without and with a residual connection: {shown}")


@encoder.case(
    251,
    "Every block has a feed-forward net",
    printed="present in each transformer block",
    note="Counted in an autotx.models.Transformer of three encoders and three decoders: each net has its own weights.",
)
def in_every_block():
    model = Transformer(TransformerConfig(vocab_size=7, n_layer=3, n_head=1, n_embd=4), rng=None)
    nets = {id(block.mlp.fc.weight) for block in [*model.encoder, *model.decoder]}
    return Claim(len(nets) == 6, f"6 blocks, {len(nets)} nets")


@encoder.case(
    252,
    "Most of the learning sits in the feed-forward net",
    printed="more than half",
    note="As a count of parameters, biases included, for the width 512 of the original: 8 n^{2} of 12 n^{2}.",
)
def most_of_the_learning():
    heads, net = block_sizes(512)
    return Claim(net > heads, f"{net:,} of a block's {net + heads:,} weights, {net / (net + heads):.1%}")


@encoder.case(
    252,
    "Each word is transformed independently",
    printed="a word's result does not depend on the other words",
    note="So only attention relates the words of a sentence to each other; the net works on its result for each word.",
)
def words_independent():
    config = TransformerConfig(vocab_size=7, n_layer=1, n_head=2, n_embd=4)
    net = Transformer(config, rng=np.random.default_rng(0)).astype(np.float64).encoder[0].mlp
    changed = X_PE.values.copy()
    changed[2] = 9
    return agree(net(tensor(X_PE))[:2], net(tensor(changed))[:2], 0, "another third word changes the first two by {:g}")


@encoder.case(
    252,
    "A linear transformation may be an addition",
    formula="f(x + y) = f(x) + f(y)",
    printed="addition, subtraction, multiplication or division",
    note="Adding a constant is affine, not linear, and matrices have no division: the linear part is the product with "
    "a weight matrix, and the bias is added to it.",
)
def addition_is_linear():
    x, y = tensor(X_PE)[0], tensor(X_PE)[1]
    return agree((x + y) + 1.0, (x + 1.0) + (y + 1.0), 1e-12, "for f(x) = x + 1 the two sides differ by {:.3g}")


@encoder.case(
    252,
    "Layers without a non-linearity are one linear model",
    formula="W_{2} (W_{1} x) = (W_{2} W_{1}) x",
    printed="no better than a linear regression",
    note="Two linear layers in a row are a single one, whose matrix is the product of theirs.",
)
def linear_collapses():
    rng = np.random.default_rng(0)
    first, second = tensor(rng.standard_normal((4, 16))), tensor(rng.standard_normal((16, 4)))
    x, product = tensor(X_PE), linear(first @ second)
    return agree(
        linear(second)(linear(first)(x)), product(x), 1e-12, "two layers against the one of their product: {:.1g}"
    )


encoder.quote(
    "depth",
    252,
    "Low layers see outlines, deep ones what a picture means",
    printed="edges, then eyes and noses, then who it is",
    note="Said of networks for pictures, which are not built here. That layers after a non-linearity can do more than "
    "one is shown on sin(x) and XOR (lines 659 and 1834).",
)


@encoder.case(
    253,
    "A layer norm follows the feed-forward net",
    printed="mean 0 and variance 1 again",
    note="Whatever the net gives, its rows leave the block normalized.",
)
def second_norm():
    rows = layer_norm(tensor(M) * 100.0 + 7.0)
    mean, variance = rows.mean(axis=-1).abs().max().item(), rows.var(axis=-1).min().item()
    return Claim(mean < 1e-9 and abs(variance - 1) < 1e-5, f"means within {mean:.1g} of 0, variances {variance:.6f}")


section.quote(
    "he",
    (266, 276),
    "'He' is associated with 'Professor Marcus'",
    printed="attention links the two",
    note="What a trained model's weights show for one sentence; the weights are not given.",
)


@section.case(
    283,
    "Q, K and V need not be as long as the embedding",
    printed="all three have one length, which may differ from the embedding's",
    note="Only Q and K have to match: V may have a length of its own, as the listing at line 2073 allows with d_{v}.",
)
def free_lengths():
    rng = np.random.default_rng(0)
    q, k, v = (linear(rng.standard_normal((4, n)))(tensor(X_PE)) for n in (3, 3, 5))
    shape = attention(q, k, v).shape
    return Claim(shape == (3, 5), f"Q {q.shape}, K {k.shape} and V {v.shape} give {shape}")


@section.case(
    283,
    "The three weight matrices have one shape",
    formula="length of an embedding × length of a query",
    printed="the same dimensions for all three",
    note="True of the example. In general W_{V} may have another number of columns, as above.",
)
def weight_shapes():
    shapes = [tensor(weight).shape for weight in (W_Q, W_K, W_V)]
    return Claim(len(set(shapes)) == 1, f"W_{{Q}}, W_{{K}} and W_{{V}}: {', '.join(map(str, shapes))}")


@section.case(
    283,
    "Every query meets every key, its own included",
    formula="n^{2}",
    printed="a score for each embedding of the sequence, itself among them",
)
def number_of_scores():
    size = attention_weights(*project(X_PE)[:2]).size
    return Claim(size == 9, f"3 words, {size} scores")


@section.case(
    (330, 331),
    "Scores with the key of every other token",
    formula="n^{2}, not n (n - 1)",
    printed="each query meets the keys of the others",
    note="A token's own key is among them: 3 x 3 = 9 scores. Lines 283 and 329 say so, and so does Q K^{T}.",
)
def scores_with_others():
    size = attention_weights(*project(X_PE)[:2]).size
    return Claim(size == 3 * 2, f"3 words, {size} scores; without those of a word with itself it would be 6")


@section.case(
    285,
    "Vectors one by one, or matrices",
    formula=f"softmax(q · K / √d_{{k}}) · V for each q, against {ATTENTION}",
    printed="each vector's computation is independent and identical",
    note="The recipe of lines 322-356, one query and one product at a time, gives the matrix form's rows.",
)
def vectors_or_matrices():
    q, k, v = project(X_PE)
    rows = []
    for query in q:
        scores = autotx.stack([(query * key).sum() for key in k]) / math.sqrt(4)
        weights = scores.softmax()
        rows.append(sum((weights[s] * v[s] for s in range(1, 3)), weights[0] * v[0]))
    return agree(autotx.stack(rows), attention(q, k, v), 1e-14)


@section.case(
    (285, 287),
    "What goes into the softmax",
    formula=ATTENTION,
    printed="all three of Q, K and V",
    note="V stays outside: the softmax sees Q K^{T} / √d_{k} only, and its result is multiplied with V.",
)
def inside_softmax():
    q, k, v = project(X_PE)
    difference = distance(attention(q, k, v * 2.0), attention(q, k, v) * 2.0)
    return Claim(difference > 1e-12, f"twice V gives exactly twice the result (difference {difference:g})")


@section.case(
    (320, 371),
    "The formula, and the engine's op",
    formula=ATTENTION,
    printed="scores of Q and K^{T}, scaled, through a softmax, weigh the rows of V",
    note="Step by step, and by the one op that the engine's models are made of.",
)
def formula_and_op():
    q, k, v = project(X_PE)
    steps = (q @ k.T / math.sqrt(k.shape[-1])).softmax(axis=-1) @ v
    return agree(steps, attention(q, k, v), 1e-14)


@section.case(
    324,
    "Three different matrices make Q, K and V",
    printed="distinct matrices, so distinct vectors",
    note="In the example K and V are Q with its columns in another order, as the columns of W_{K} and W_{V} are those "
    "of W_{Q}.",
)
def distinct():
    q, k, v = project(X_PE)
    gaps = [distance(a, b) for a, b in ((q, k), (k, v), (q, v))]
    return Claim(min(gaps) > 0.1, "Q and K, K and V, Q and V differ by up to " + ", ".join(f"{g:.2f}" for g in gaps))


@section.case(
    (336, 337),
    "Without the scale gradients get too small",
    formula="scores / √d_{k}",
    printed="worse the longer the keys",
    note="Scores of random vectors have the variance d_{k}. Unscaled they push the softmax to its flat ends.",
)
def scaling():
    rng, norms = np.random.default_rng(0), {}
    for d_k in (16, 1024):
        vectors = rng.standard_normal((2, 16, d_k))
        for scale in (1.0, math.sqrt(d_k)):
            scores = tensor(vectors[0] @ vectors[1].T / scale, requires_grad=True)
            (scores.softmax() * rng.standard_normal((16, 16))).sum().backward()
            norms[d_k, scale] = np.abs(scores.grad).mean()
    few, many = (norms[d, 1.0] / norms[d, math.sqrt(d)] for d in (16, 1024))
    return Claim(many < few < 1, f"gradient without / with scale: {few:.2f} for 16 channels, {many:.3f} for 1,024")


@section.case(
    342, "Softmax gives numbers between 0 and 1 that sum to 1", printed="a probability distribution in each row"
)
def softmax_rows():
    weights = attention_weights(*project(X_PE)[:2])
    sums = weights.sum(axis=-1).data
    inside = weights.data.min() >= 0 and weights.data.max() <= 1
    return Claim(bool(inside and np.allclose(sums, 1, atol=1e-15)), f"row sums {', '.join(f'{s:.15f}' for s in sums)}")


@section.case(
    (343, 349),
    "A higher weight, a larger share of V",
    printed="each row of V enters in proportion to its weight",
    formula="∂ output_{t} / ∂ V_{s} = weight_{ts}",
    note="Read off as a derivative: what reaches row s of V from an output is exactly its weight.",
)
def shares():
    q, k, v = project(X_PE)
    v = tensor(v.data, requires_grad=True)
    attention(q, k, v)[0].sum().backward()
    return agree(v.grad[:, 0], attention_weights(q, k)[0], 1e-14, "largest difference of derivative and weight: {:.1g}")


@section.case(
    (358, 362),
    "Stacked rows do the work in one product",
    printed="all tokens at once, in place of one at a time",
    note="One product of matrices holds the n^{2} products of vectors; on the same numbers it gives the same scores.",
)
def one_product():
    q, k, _ = project(X_PE)
    singles = [[(a * b).sum().item() for b in k] for a in q]
    return agree(q @ k.T, singles, 1e-14, "1 product in place of 9, largest difference {:.1g}")


@section.case(
    303, "A high product of query and key, a high weight", printed="the largest score gets the largest weight"
)
def largest_score():
    q, k, _ = project(X_PE)
    scores, weights = (q @ k.T).data, attention_weights(q, k).data
    same = (scores.argsort(axis=-1) == weights.argsort(axis=-1)).all()
    return Claim(bool(same), "scores and weights have the same order in every row")


@section.case(
    300, "The query of one token, scored with all keys", formula="q_{0} · k_{s}", printed="one query and every key"
)
def scores_of_one():
    q, k, _ = project(X_PE)
    scores = q[0] @ k.T
    return Claim(scores.shape == (3,), "the scores of 'You': " + " ".join(f"{score:.4f}" for score in scores.data))

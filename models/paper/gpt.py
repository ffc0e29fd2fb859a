"""'Generative Pre-Trained Transformer (GPT)': its differences, the example "I love AI", and its training."""

import numpy as np

import autotx
from autotx.models.classifier import Classifier
from autotx.models.data import random_blocks
from autotx.models.gpt import GPT, GPTConfig
from autotx.models.paper.case import Claim, Digits, Section
from autotx.models.paper.sizes import gpt_parameters, transformer_parameters
from autotx.models.paper.steps import (
    attention,
    attention_weights,
    causal,
    computable,
    descend,
    distance,
    layer_norm,
    linear,
    tensor,
)
from autotx.optim import Adam

differences = Section("gpt", "What's so different about GPT models?", (1091, 1115))
example = Section("gpt-example", "Going Through an Example", (1117, 1168))
training = Section("training", "Training", (1170, 1185))

WORDS = ["I", "love", "AI"]
U = Digits("0.12 0.87; 0.56 0.32; 0.74 0.51")
W_P = Digits("0.02 0.04 0.03 0.07 0.05 0.09")
H_1 = Digits("0.155 0.458")
W = Digits("0.2 0.3 0.4 0.5")
MIX = "0.1 h_{0}(I) + 0.9 h_{0}(love)"


def h_0():
    """The embeddings plus the positions, W_p as three rows of two numbers: (3, 2)."""
    return tensor(U) + tensor(W_P).reshape(3, 2)


@differences.case(
    1097,
    "GPT learns from unlabeled text",
    printed="the text alone is enough",
    note="Inputs and labels are cut from one list of tokens, the labels one place later; see line 1185.",
)
def unlabeled():
    _, losses = _learn_sentence()
    first, last = losses[0], losses[-1]
    return Claim(last < 0.1 < first, f"a small GPT on one sentence: loss {first:.2f}, in the end {last:.3f}")


@differences.case(
    1097,
    "Labelled data fits a GPT to a task",
    formula="texts labelled right by what a head reads off the last token",
    printed="labelled data enhances it",
    note="The small GPT of above, and a head that has to tell texts that begin with 'I' from those that begin with "
    "'love'. autotx finetune does the same with the labelled lines of a file.",
)
def labelled():
    gpt, _ = _learn_sentence()
    model = Classifier(gpt, 2, np.random.default_rng(0)).astype(np.float64)
    ids, lengths, labels = np.array([[1, 2], [0, 2], [0, 1], [1, 1]]), np.full(4, 2), np.array([0, 1, 1, 0])
    right = []

    def loss():
        right.append((model(ids, lengths).data.argmax(axis=-1) == labels).sum())
        return model.losses(ids, lengths, labels)[0]

    descend(Adam(model.parameters(), lr=0.01), 100, loss)
    return Claim(right[-1] == 4 > right[0], f"{right[0]} of 4 texts before, {right[-1]} after {len(right)} steps")


@differences.case(
    (1103, 1105),
    "No encoders, many decoders",
    printed="only stacked decoders",
    note="autotx.models.GPT with three blocks: no attention from one text to another, so no decoder's second "
    "attention.",
)
def stacked():
    blocks = GPT(GPTConfig(4, 5, 3, 1, 4), rng=None).blocks
    parts = [sorted({name.split(".")[0] for name, _ in block.named_parameters()}) for block in blocks]
    alike = parts == [["attn", "ln_1", "ln_2", "mlp"]] * 3
    return Claim(alike, f"3 blocks, each of one attention, a feed-forward net and 2 layer norms: {', '.join(parts[0])}")


@differences.case(
    (1106, 1107),
    "Every GPT has far more parameters than the first transformer",
    formula="GPT / large transformer of 2017, in parameters",
    printed="exponentially more",
    note="Not the first GPT: it has about half as many as the larger of the two transformers of 2017 (width 1024). "
    "Growth by a factor from model to model came later.",
)
def exponentially_more():
    first, original = gpt_parameters(12, 768, 40478, 512), transformer_parameters(6, 1024, 37000)
    return Claim(first > original, f"GPT {first / 1e6:.0f} million, the large transformer {original / 1e6:.0f} million")


@differences.case(
    (1107, 1108),
    "Parameters of the first GPT, in millions",
    formula="12 L C^{2} + 13 L C + V C + T C, L = 12, C = 768, V = 40478, T = 512",
    printed=Digits("150"),
    note="Its 12 layers of 768 channels, 40,478 tokens and 512 positions make 116.5 million; its authors say 117.",
)
def gpt_1():
    return gpt_parameters(12, 768, 40478, 512) / 1e6


@differences.case(
    1108,
    "Parameters of GPT-2, in billions",
    formula="12 L C^{2} + 13 L C + V C + T C, L = 48, C = 1600, V = 50257, T = 1024",
    printed=Digits("1.5"),
    note="1.558 billion, cut rather than rounded.",
)
def gpt_2():
    return gpt_parameters(48, 1600, 50257, 1024) / 1e9


@differences.case(
    (1108, 1109),
    "Parameters of GPT-3, in billions",
    formula="12 L C^{2} + 13 L C + V C + T C, L = 96, C = 12288, V = 50257, T = 2048",
    printed=Digits("175"),
)
def gpt_3():
    return gpt_parameters(96, 12288, 50257, 2048) / 1e9


differences.quote(
    "few_shots",
    1099,
    "GPT-3 needs a few examples in place of fine-tuning",
    printed="sufficient for most tasks",
    note="A result of Brown et al., 2020, about a model of 175 billion parameters; not to be computed here.",
)
differences.quote(
    "training_sets",
    (1106, 1107),
    "Every GPT learns from far more text than the first transformer",
    printed="exponentially larger",
    note="No sizes are given here. Their authors name some 7,000 books for the first GPT (Radford et al., 2018) and "
    "300 billion tokens for GPT-3 (Brown et al., 2020).",
)
differences.quote(
    "latest",
    (1108, 1109),
    "GPT-3 is the latest of the series",
    printed="the latest version",
    note="True of the cited thesis' time (2021); GPT-4 had appeared when the paper was written.",
)


@example.case(1121, "The sentence, cut into words", printed=["I", "love", "AI"])
def words():
    return ["I", "love", "AI"]


@example.case(1123, "The embeddings", formula="U", printed=U)
def embeddings():
    return autotx.embedding(tensor(U), np.arange(3))


@example.case(
    (1127, 1133),
    "W_{p} is added to U",
    formula="U + W_{p}: (3 × 2) + (6)",
    printed="a list of six numbers",
    note="Six numbers in a row cannot be added to three rows of two. The sums that follow take them as three rows: "
    "0.02 0.04, 0.03 0.07, 0.05 0.09.",
)
def flat_positions():
    evidence = f"(3, 2) + (6,) cannot be added; as three rows of two it gives {h_0().shape}"
    return computable(lambda: tensor(U) + tensor(W_P), evidence)


@example.table(
    ("h_0_i", (1135, 1137), "h_{0} of 'I'", "U + W_{p}", Digits("0.14 0.91"), 0),
    ("h_0_love", (1139, 1141), "h_{0} of 'love'", "U + W_{p}", Digits("0.59 0.39"), 1),
    ("h_0_ai", (1143, 1145), "h_{0} of 'AI'", "U + W_{p}", Digits("0.79 0.60"), 2),
)
def h_0_of_word(word):
    return h_0()[word]


@example.case(
    1149,
    "The attention of a GPT is that of before",
    formula="softmax(mask(Q K^{T} / √d_{k})) V",
    printed="the math remains the same",
    note="But for the mask: it changes nothing for the last word, which sees all, and leaves the others less to see. "
    "Shown with h_{0} as Q, K and V.",
)
def same_attention():
    h = h_0()
    gaps = [distance(a, b) for a, b in zip(attention(h, h, h, causal=True), attention(h, h, h))]
    shown = ", ".join(f"{word} {gap:.2g}" for word, gap in zip(WORDS, gaps))
    return Claim(gaps[2] == 0 and min(gaps[:2]) > 0, f"with and without the mask: {shown}")


@example.case(
    1151,
    "The weights of 'love' are a distribution",
    formula="0.1 + 0.9 + 0",
    printed="0.1 for 'I', 0.9 for itself, 0 for 'AI'",
)
def weights_sum():
    total = tensor([0.1, 0.9, 0.0]).sum().item()
    return Claim(abs(total - 1) < 1e-15, f"their sum is {total:.15g}")


@example.case(
    1151,
    "The word 'AI', not there yet, gets weight 0",
    formula="softmax with the causal mask",
    printed=Digits("0", places=12),
)
def weight_of_the_future():
    return attention_weights(h_0(), h_0(), mask=causal(3))[1, 2]


@example.case(
    (1152, 1154),
    "The attention output of 'love'",
    formula=f"h_{{1}}(love) = {MIX}",
    printed=H_1,
    note="0.1 x 0.14 + 0.9 x 0.59 = 0.545 and 0.1 x 0.91 + 0.9 x 0.39 = 0.442. (The rows are mixed as they are: no "
    "W_{V}.)",
)
def h_1():
    return tensor([0.1, 0.9, 0.0]) @ h_0()


@example.case(
    (1158, 1160),
    "W of the feed-forward step",
    formula="h_{1} W: (1 × 2) (4)",
    printed="a list of four numbers",
    note="A row of two times four numbers has no product; a 2 x 2 matrix is needed. Read row by row it is 0.2 0.3; "
    "0.4 0.5.",
)
def flat_matrix():
    evidence = "shapes (1, 2) and (4,) have no product; with (2, 2) the result is (1, 2)"
    return computable(lambda: tensor(H_1).reshape(1, 2) @ tensor(W), evidence)


@example.case(
    (1162, 1164),
    "The output of 'love'",
    formula="h_{2} = h_{1} W, from the printed h_{1}",
    printed=Digits("0.1753 0.309"),
    note="0.155 x 0.2 + 0.458 x 0.4 = 0.2142 and 0.155 x 0.3 + 0.458 x 0.5 = 0.2755. With W transposed it would be "
    "0.1684 0.2910, and from the right h_{1}, 0.545 0.442, it is 0.2858 0.3845. None of them is printed.",
)
def h_2():
    return linear(tensor(W).reshape(2, 2))(tensor(H_1))


@example.case(
    (1156, 1164),
    "Feed forward and layer norm",
    formula="LN(h_{1} W)",
    printed=Digits("0.1753 0.309"),
    note="The heading promises a layer norm, and none is applied. Of two numbers it would leave -1 and 1, whatever "
    "they are, so the example is too narrow for it. The simplified feed-forward step also has neither ReLU nor second "
    "matrix.",
)
def feed_forward_and_norm():
    return layer_norm(linear(tensor(W).reshape(2, 2))(tensor(H_1)), eps=0.0)


@example.case(
    1168,
    "The output of a GPT is that of before",
    formula="softmax(h W), W: d_{model} × V",
    printed="a linear layer and a softmax",
    note="autotx.models.GPT, as GPT-2, has the table of embeddings for W, transposed: no matrix of its own.",
)
def same_output():
    model, _ = _learn_sentence(steps=5)
    ids = np.array([[0, 1, 2]])
    h = model.hidden(ids)[0]
    by_hand = linear(model.wte.weight.T)(h).softmax()
    p = model(ids)[0][0].softmax()
    difference = max(distance(p, by_hand), distance(p.sum(axis=-1), np.ones(3)))
    return Claim(difference < 1e-14, f"{p.shape[0]} words, {p.shape[1]} probabilities each: within {difference:.1g}")


def _learn_sentence(steps=60):
    """A GPT of one block, trained on "I love AI" repeated without end, and its losses, step by step."""
    ids = np.array([[0, 1, 2, 0, 1, 2, 0, 1]])
    model = GPT(GPTConfig(8, 3, 1, 1, 8), rng=np.random.default_rng(0)).astype(np.float64)
    return model, descend(Adam(model.parameters(), lr=0.01), steps, lambda: model(ids[:, :-1], ids[:, 1:])[1])


@training.case(
    1173,
    "Pre-training raises the likelihood of each token after those before it",
    printed="maximize the likelihood",
    note="A GPT of one block, trained on 'I love AI' repeated without end.",
)
def likelihood():
    _, losses = _learn_sentence()
    first, last = np.exp(-losses[0]), np.exp(-losses[-1])
    return Claim(last > first, f"mean likelihood of a token: {first:.2f} before, {last:.2f} after {len(losses)} steps")


training.quote(
    "roses",
    1176,
    "The example 'roses are red'",
    printed="from the passage",
    note="No such example stands in this paper: the passage that is meant is in the thesis that it cites.",
)


@training.case(1176, "A context window of two words", printed=["I love", "AI"])
def window():
    seen, following = _block()
    return [" ".join(WORDS[i] for i in seen), WORDS[following[-1]]]


def _block():
    """The first two words, and the word after each: ids (2,) and (2,), cut from the text as autotx train does."""
    inputs, targets = random_blocks(np.arange(3), 1, 2, np.random.default_rng(0))
    return inputs[0], targets[0]


@training.case(
    1179,
    "Tokens become dense vectors",
    printed="words, tokenized and embedded",
    note="What such vectors come to say of words is shown in 'Word Embeddings'.",
)
def dense_vectors():
    model, _ = _learn_sentence()
    vectors = model.wte(np.array([WORDS.index(word) for word in ["I", "love", "AI"]]))
    filled = np.abs(vectors.data).min()
    return Claim(vectors.shape == (3, 8) and filled > 0, f"3 words, 8 numbers each, the smallest {filled:.2g} from 0")


@training.case(
    1182,
    "The objective L_{1}",
    formula="L_{1} = Σ_{i} log P(u_{i} | u_{i-k}, …, u_{i-1})",
    printed="the sum of the log probabilities",
    note="It is the cross entropy of every place, summed, with the sign turned: maximizing the one is minimizing the "
    "other.",
)
def objective():
    model, _ = _learn_sentence(steps=5)
    ids = np.array([[0, 1, 2, 0, 1]])
    logits, _ = model(ids[:, :-1])
    p = logits.softmax().data[0, np.arange(4), ids[0, 1:]]
    loss = autotx.cross_entropy(logits, ids[:, 1:], reduction="sum").item()
    likelihood = np.log(p).sum()
    return Claim(abs(likelihood + loss) < 1e-12, f"L_{{1}} = {likelihood:.6f}, summed cross entropy {loss:.6f}")


@training.case(
    1182,
    "After 'I love' the model gives 'AI' a high probability",
    printed="when the phrase is frequent in the training data",
)
def high_probability():
    model, losses = _learn_sentence()
    p = model(np.array([[0, 1]]))[0][0, 1].softmax().data
    return Claim(p[2] > 0.9, f"P(AI | I love) = {p[2]:.3f} after {len(losses)} steps")


@training.case(1185, "The text is its own label", formula="label_{t} = u_{t+1}", printed=["I -> love", "love -> AI"])
def labels():
    return [f"{WORDS[a]} -> {WORDS[b]}" for a, b in zip(*_block())]

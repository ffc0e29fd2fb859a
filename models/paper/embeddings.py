"""The overview, and '1 - Input Sequence to Encoder Embeddings': each word selects a row of a table."""

import numpy as np

import autotx
from autotx import nn
from autotx.models.gpt import GPT, GPTConfig
from autotx.models.inference.beams import translate
from autotx.models.pairs import decode, encode, pad
from autotx.models.paper import trained
from autotx.models.paper.case import Claim, Digits, Section
from autotx.models.paper.constants import X, Y
from autotx.models.paper.steps import agree, tensor
from autotx.models.transformer import END, PAD, START, Transformer, TransformerConfig

overview = Section("overview", "How Transformers Work", (60, 81))
section = Section("embeddings", "1 - Input Sequence to Encoder Embeddings", (83, 119))

SOURCE, TARGET = ["You", "are", "welcome"], ["<start>", "de", "nada"]
WORDS = [*SOURCE, *TARGET, "<pad>"]


def table():
    """The vectors of WORDS as an nn.Embedding; that of <pad>, which the paper does not give, is zero."""
    layer = nn.Embedding(len(WORDS), 4, rng=None).astype(np.float64)
    layer.weight.data = np.concatenate([X.values, Y.values, np.zeros((1, 4))])
    return layer


def ids(words):
    return np.array([WORDS.index(word) for word in words])


def target_words_of(row):
    """The words of a row of target ids of autotx.models.Transformer; its three special ids get names."""
    tokenizer = trained.translator()[1]
    names = {PAD: "<pad>", START: "<start>", END: "<end>"}
    return [names.get(token) or decode(tokenizer, [token]) for token in row]


def decoder_input():
    """The decoder's input for "de nada" in training: ids (3,)."""
    _, _, (_, target) = trained.translator()
    return target[0, :-1]


@overview.case(
    62,
    "GPT-style models have decoders only",
    printed="no encoders, hence nothing that attends to one",
    note="Confirmed on autotx.models.GPT: each block holds one attention, over the text itself.",
)
def decoder_only():
    names = [name for name, _ in GPT(GPTConfig(8, 11, 2, 2, 4), rng=None).named_parameters()]
    attentions = [name for name in names if name.endswith("qkv.weight")]
    return Claim(len(attentions) == 2, f"2 blocks, {len(attentions)} attentions, both of the text on itself")


@overview.case(
    66,
    "The translation to be learned",
    printed=["De", "Nada"],
    note="The vocabulary of the example has lower-case words (lines 108 and 854): 'De' and 'Nada' would be unknown, "
    "so 'de nada' is right. The word tokenizer of autotx settles it by writing all words in lower case.",
)
def target_words():
    tokenizer = trained.translator()[1]
    return decode(tokenizer, encode(tokenizer, "De Nada")).split()


@overview.case(
    66,
    "Training and inference are one process but for details",
    formula="scores of the next word, with the target given and with the words written one by one",
    printed="alike, seen from above",
    note="The same network in both: in training the right words stand in front of each place, in inference those that "
    "it has written itself.",
)
def two_modes():
    model, _, (source, target) = trained.translator()
    given = model(source[:1], target[:1, :-1]).data[0]
    reader = model.reader(source[:1])
    written = [reader.scores(reader.read(np.array([[token]])))[0, 0] for token in target[0, : len(given)]]
    return agree(given, written, 1e-12, "the scores differ by up to {:.1g}")


@overview.case(76, "A start token stands in front of the target", printed=["<start>", "de", "nada"])
def start_token():
    return target_words_of(decoder_input())


@overview.case(
    (72, 79),
    "The six steps, one after another",
    formula="source → encoder → decoder with the target → scores → probabilities → loss",
    printed="embed, encode, embed the target, decode, choose words, compare",
    note="By autotx.models.Transformer, two encoders and two decoders of 16 channels, after 60 steps of training on "
    "this pair and three more. Here the target is given, as in training; at line 854 the model writes it by itself.",
)
def six_steps():
    model, tokenizer, batch = trained.translator()
    source, target = (side[:1] for side in batch)
    encoded = model.encode(source)
    decoded = model.decode(encoded, source, target[:, :-1])
    scores = model.scores(decoded)
    words = decode(tokenizer, scores.data[0].argmax(axis=-1))
    loss = autotx.cross_entropy(scores, target[:, 1:]).item()
    shapes = " → ".join(str(t.shape) for t in (source, encoded, decoded, scores))
    return Claim(words == "de nada", f"shapes {shapes}, words '{words}', loss {loss:.3f}")


@overview.case(
    79,
    "The loss sends gradients to the whole transformer",
    printed="gradients to train it",
    note="One backward pass; see line 870 for what a gradient says.",
)
def gradients_everywhere():
    model = Transformer(TransformerConfig(11, 8, n_layer=2, n_head=2, n_embd=4), rng=np.random.default_rng(0))
    model.astype(np.float64).loss([[3, 4, 5]], [[START, 6, 7, END]]).backward()
    reached = [p.grad is not None for p in model.parameters()]
    return Claim(all(reached), f"{sum(reached)} of {len(reached)} parameter arrays of a small transformer have one")


@section.case(85, "Each word becomes a vector of 4 numbers", printed=Digits("4"))
def width():
    return table()(ids(SOURCE)).shape[-1]


@section.case(88, "The source, cut into words", printed=["You", "are", "welcome"])
def source_words():
    return ["You", "are", "welcome"]


@section.table(
    ("you", 92, "The vector of 'You'", "X_{0} = E[You]", Digits("0.1 0.2 -0.1 0.4"), "You"),
    ("are", 93, "The vector of 'are'", "X_{1} = E[are]", Digits("-0.3 0.5 0.1 -0.2"), "are"),
    ("welcome", 94, "The vector of 'welcome'", "X_{2} = E[welcome]", Digits("0.4 -0.3 0.2 0.1"), "welcome"),
)
def vector(word):
    return table()(ids([word])).reshape(4)


@section.case((97, 103), "The rows stacked: X", formula="X = E[You, are, welcome]", printed=X)
def input_matrix():
    return table()(ids(SOURCE))


@section.case(
    105,
    "Start and end tokens signal where a sequence begins and ends",
    printed="they help in generation",
    note="The paper gives the end token no vector. In autotx.models.Transformer both are rows of the table, trained "
    "like those of words: the model begins with one and stops when the other is the likeliest.",
)
def end_token():
    model, _, (source, _) = trained.translator()
    (best,) = translate(model, source[:1])[0]
    p = model(source[:1], [[START, *best.ids]]).softmax().data[0, -1, END]
    written = " ".join(target_words_of([START, *best.ids, END]))
    room = model.config.block_size
    return Claim(p > 0.5 and len(best.ids) + 1 < room, f"{written}, with room for {room}; P(<end>) there is {p:.3f}")


@section.case(108, "The target, cut into words, after a start token", printed=["<start>", "de", "nada"])
def target_tokens():
    return target_words_of(decoder_input())


@section.case((111, 113), "The vectors of '<start>', 'de' and 'nada'", formula="E[word]", printed=Y)
def target_vectors():
    return np.concatenate([table()(ids([word])).data for word in TARGET])


@section.case((115, 117), "The rows stacked: Y", formula="Y = E[<start>, de, nada]", printed=Y)
def output_matrix():
    return table()(ids(TARGET))


@section.case(
    111,
    "A start vector of zeros is only a placeholder",
    printed="in practice it has values of its own",
    note="A row of the table is trained as soon as a loss depends on it, so a zero vector does not stay zero.",
)
def start_is_trained():
    layer = table()
    (layer(ids(TARGET)) * tensor(X)).sum().backward()
    moved = np.abs(layer.weight.grad[WORDS.index("<start>")]).max()
    return Claim(moved > 0, f"the gradient of the row of '<start>' is not zero (largest entry {moved:g})")


@section.case(119, "Padded to one length", printed=["<start>", "de", "nada", "<pad>", "<pad>"])
def padded():
    row = decoder_input()
    return target_words_of(pad([row, np.resize(row, 5)])[0])


@section.case(
    119,
    "Padding makes sequences equally long",
    printed="sequences of a batch have one length",
    note="Only equally long rows form one array: with two pads the target fits beside a sentence of five tokens.",
)
def padding_makes_equal():
    rows = [TARGET + ["<pad>"] * 2, ["<start>", *SOURCE, "<pad>"]]
    shape = table()(np.stack([ids(row) for row in rows])).shape
    return Claim(shape == (2, 5, 4), f"two padded sentences make one array of shape {shape}")


@section.case(
    119,
    "GPT-style models do without padding",
    printed="no pad tokens in GPT-style models",
    note="Holds for pre-training, where a running text is cut into equal windows. A batch of prompts or of labelled "
    "lines of different lengths does need it; behind the text it is harmless, as the causal mask hides it.",
)
def gpt_needs_no_pad():
    windows = np.lib.stride_tricks.sliding_window_view(ids(SOURCE * 4), 5)
    pads = (windows == WORDS.index("<pad>")).sum()
    return Claim(pads == 0, f"a text of 12 words gives {len(windows)} full windows of 5, with {pads} pads")

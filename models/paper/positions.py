"""'1.5 Position Encoding': each position has a row of sines and cosines, added to the word's vector."""

import numpy as np

from autotx import nn
from autotx.models.paper import trained
from autotx.models.paper.case import Claim, Digits, Section
from autotx.models.paper.constants import PE, X_PE, Y_PE, X, Y
from autotx.models.paper.steps import agree, cos, distance, exponents, position_encoding, tensor, waves
from autotx.models.transformer import END, START, EncoderBlock, TransformerConfig, sinusoidal_positions

section = Section("positions", "1.5 Position Encoding", (121, 237))

SINE, COSINE = "PE(pos, 2i) = sin(pos / 10000^{2i/d})", "PE(pos, 2i+1) = cos(pos / 10000^{2i/d})"
BOTH = f"{SINE},  {COSINE}"
WRITTEN = [0, 0.5, 2, 2.5]  # exponents of 10000 in the paper's matrix of sines and cosines, one for each column
AS_PRINTED = [0, 0.5, 1, 1.5]  # the exponents that give the printed numbers


def _shuffled_attention(positions):
    """Largest difference of self-attention before and after the words are shuffled, with its rows shuffled back."""
    rng = np.random.default_rng(0)
    layer = nn.MultiHeadAttention(4, 2, rng=rng).astype(np.float64)
    words, order = tensor(rng.standard_normal((6, 4))), rng.permutation(6)
    first = layer((words + positions).reshape(1, 6, 4))
    second = layer((words[order] + positions).reshape(1, 6, 4))
    return distance(first[:, order], second)


@section.case(
    123,
    "Without positions attention cannot tell word orders apart",
    printed="word order would be lost",
    note="The rows of the result change places with the words, and nothing else happens to them.",
)
def order_is_lost():
    difference = _shuffled_attention(0.0)
    return Claim(difference < 1e-14, f"words shuffled, rows shuffled back: largest difference {difference:.1g}")


@section.case(
    125,
    "With positions it can",
    printed="'cat sat on the mat' and 'mat sat on the cat' differ",
    note="The same shuffle, with position encodings added first.",
)
def order_is_kept():
    difference = _shuffled_attention(position_encoding(6, 4))
    return Claim(difference > 1e-3, f"words shuffled, rows shuffled back: largest difference {difference:.2f}")


@section.case(
    123,
    "All words are processed at the same time",
    printed="no word waits for another",
    note="One call computes the rows of all words; each row equals what a query alone would get.",
)
def all_at_once():
    layer = nn.MultiHeadAttention(4, 2, rng=np.random.default_rng(0)).astype(np.float64)
    x = tensor(X_PE).reshape(1, 3, 4)
    alone = np.concatenate([layer(x[:, i : i + 1], x).data for i in range(3)], axis=1)
    return agree(layer(x), alone, 1e-15, "all at once against one by one: largest difference {:.1g}")


@section.case(
    123,
    "That saves time in training and in inference",
    formula="passes through the decoder for 'de nada' and the end",
    printed="training and inference time drastically reduced",
    note="In training, where the target is given, yes. In inference only what is read goes through at once; what is "
    "written comes word by word, as each word has to be there before the next one.",
)
def inference_too():
    model, _, (source, target) = trained.translator()
    given = model(source[:1], target[:1, :-1]).data[0].argmax(axis=-1)
    reader, written = model.reader(source[:1]), [START]
    while written[-1] != END:
        written.append(int(reader.scores(reader.read(np.array([written[-1:]]))).argmax()))
    same = "the same words" if written[1:] == given.tolist() else "other words"
    return Claim(reader.length == 1, f"1 pass when they are given, {reader.length} when they are written; {same}")


@section.case(
    127,
    "Every position has an encoding of its own",
    printed="unique for each position",
    note="Shown for the first 1,000 positions and 4 columns: the closest two differ by far more than float64 resolves.",
)
def unique():
    rows = position_encoding(1000, 4).data
    gaps = np.abs(rows[:, None] - rows[None]).max(axis=-1) + 9 * np.eye(1000)
    return Claim(gaps.min() > 1e-6, f"the closest two of 1,000 positions differ by {gaps.min():.1e}")


@section.case(
    136,
    "What even and odd mean",
    formula=BOTH,
    printed="sine for even positions, cosine for odd positions",
    note="Even and odd are the columns 2i and 2i+1, not the positions: at the odd position 1, column 0 is a sine. The "
    "formulas and the printed matrix both say so.",
)
def even_and_odd():
    sine, cosine = position_encoding(2, 4)[1, 0].item(), cos(tensor(1.0)).item()
    return Claim(abs(cosine - PE.values[1, 0]) < 1e-4, f"PE(1, 0) is sin 1 = {sine:.4f}, not cos 1 = {cosine:.4f}")


@section.case(
    (129, 134),
    "The formulas, and the model's positions",
    formula=BOTH,
    printed="positions are encoded so",
    note="autotx.models.Transformer adds this table to its words, in float32; on this page all is float64.",
)
def model_is_formula():
    rows = position_encoding(256, 512)
    return agree(rows, sinusoidal_positions(256, 512), 1e-7, "256 positions, d = 512: largest difference {:.1g}")


@section.case((139, 148), "The indices i", formula="i = 0 .. d/2 - 1", printed=Digits("0 1"))
def indices():
    return sorted({column // 2 for column in range(4)})


@section.case(146, "d_{model} of the example", printed=Digits("4"))
def d_model():
    return tensor(X).shape[-1]


@section.case(152, "The positions of three words", printed=Digits("0 1 2"))
def three_positions():
    return np.arange(len(X.values))


@section.case((158, 163), "Position 0", formula=BOTH, printed=Digits("0 1 0 1", places=4))
def position_0():
    return position_encoding(1, 4)[0]


@section.case(
    160,
    "The exponent inside PE(0, 1)",
    formula="2i/d with i = 0",
    printed=Digits("0.5"),
    note="The formula has 2i/d in both lines; i is 0 for columns 0 and 1, so the exponent is 0. The paper writes "
    "2(i+1)/d. At position 0 the value is 1 all the same.",
)
def exponent_0_1():
    return exponents(4)[1]


@section.case(
    162,
    "The exponent inside PE(0, 3)",
    formula="2i/d with i = 1",
    printed=Digits("1.0"),
    note="For i = 1 the exponent is 2/4 = 0.5; the paper writes 2(1+1)/4.",
)
def exponent_0_3():
    return exponents(4)[3]


@section.table(
    ("step_0_0", (170, 174), "PE(0, 0), step by step", "sin(0)", Digits("0", places=4), 0),
    ("step_0_2", (183, 188), "PE(0, 2), step by step", "sin(0)", Digits("0", places=4), 2),
)
def step_of_sine(column):
    return position_encoding(1, 4)[0, column]


@section.case(
    (176, 181),
    "PE(0, 1), step by step",
    formula="cos(0)",
    printed=Digits("1", places=4),
    note="The value is right. The exponent inside is again written as 2(0+1)/4 in place of 0.",
)
def step_0_1():
    return position_encoding(1, 4)[0, 1]


@section.case(
    (190, 195),
    "PE(0, 3), step by step",
    formula="cos(0)",
    printed=Digits("1", places=4),
    note="The value is right. The exponent inside is again written as 2(1+1)/4 in place of 0.5.",
)
def step_0_3():
    return position_encoding(1, 4)[0, 3]


@section.case(
    199,
    "The four exponents in the matrix of the source",
    formula="2i/d: one i for each sine and its cosine",
    printed=Digits("0 0.5 2 2.5", places=1),
    note="By the formula they are 0, 0, 0.5, 0.5. The ones written here agree neither with it nor with lines 160-162 "
    "(0, 0.5, 0.5, 1).",
)
def written_exponents():
    return exponents(4)


@section.case(
    199,
    "Position 1 by the formulas",
    formula=BOTH,
    printed=Digits("0.8415 0.99995 0.0001 1", places=4),
    note="cos 1 = 0.5403, sin 0.01 = 0.0100 and cos 0.01 = 0.99995 belong in columns 1 to 3.",
)
def position_1():
    return position_encoding(2, 4)[1]


@section.case(
    199,
    "Position 2 by the formulas",
    formula=BOTH,
    printed=Digits("0.9093 0.9998 0.0002 1", places=4),
    note="cos 2 = -0.4161, sin 0.02 = 0.0200 and cos 0.02 = 0.9998 belong in columns 1 to 3.",
)
def position_2():
    return position_encoding(3, 4)[2]


@section.case(
    199,
    "The matrix as its own sines and cosines are written",
    formula="columns: sin(pos), cos(pos/10000^{0.5}), sin(pos/10000^{2}), cos(pos/10000^{2.5})",
    printed=PE,
    note="sin(1/10000^{2}) is 0.00000001 and sin(2/10000^{2}) is 0.00000002. Both round to 0.0000 where 0.0001 and "
    "0.0002 are printed: the numbers do not follow from the terms beside them either.",
)
def as_written():
    return waves(range(3), WRITTEN)


@section.case(
    199,
    "Where the printed matrix comes from",
    formula="exponents 0, 0.5, 1, 1.5: 2j/d with the column j in place of i",
    printed=PE,
    note="With the column's own number as i every printed digit appears, so this is how the numbers were made.",
)
def as_printed():
    return waves(range(3), AS_PRINTED)


@section.case(
    (205, 207),
    "The matrix of the target, by the formulas",
    formula=BOTH,
    printed=PE,
    note="The same matrix and the same errors as for the source: columns 1 to 3 of positions 1 and 2.",
)
def target_positions():
    return position_encoding(3, 4)


@section.case(
    127,
    "Source and target have the same encodings",
    printed="the same for every sequence, whatever its words",
    note="The formulas have no word in them: positions 0 to 2 are the same rows in a sequence of 3 and of 30.",
)
def same_for_all():
    short, long = position_encoding(3, 4), position_encoding(30, 4)
    return agree(short, long[:3], 0, "largest difference of the first three rows: {:g}")


@section.case(
    (213, 219),
    "The matrix once more, for both",
    formula=BOTH,
    printed=PE,
    note="The matrix of line 199, with its errors, goes into every number after it. Right is 0 1 0 1, then 0.8415 "
    "0.5403 0.0100 0.99995, then 0.9093 -0.4161 0.0200 0.9998.",
)
def repeated():
    return position_encoding(3, 4)


@section.case(221, "Words and positions of the source", formula="X + PE", printed=X_PE)
def source_sum():
    return tensor(X) + tensor(PE)


@section.case(223, "Words and positions of the target", formula="Y + PE", printed=Y_PE)
def target_sum():
    return tensor(Y) + tensor(PE)


@section.case((227, 229), "The target's sum, term by term", formula="Y_{ij} + PE_{ij}", printed=Y_PE)
def target_terms():
    return [[(tensor(Y)[i, j] + tensor(PE)[i, j]).item() for j in range(4)] for i in range(3)]


@section.case(
    231,
    "Words and positions do not depend on each other",
    printed="the position's part is the same for any word",
    note="Other words, the same positions: what was added is the same.",
)
def independent():
    x, y, pe = tensor(X), tensor(Y), position_encoding(3, 4)
    return agree((x + pe) - x, (y + pe) - y, 1e-15, "largest difference of what was added: {:.1g}")


@section.case(
    237,
    "A batch of texts has one axis more",
    printed="many texts at once, in an array of more than two axes",
    note="(B, T, C): texts, tokens, channels.",
)
def batches():
    shape = (tensor([X.values, Y.values]) + position_encoding(3, 4)).shape
    return Claim(shape == (2, 3, 4), f"two texts make an array of shape {shape}")


@section.case(
    237,
    "The shape stays until the output layer",
    printed="one shape throughout",
    formula="(B, T, C) after attention, layer norm, feed-forward, layer norm",
    note="Between blocks. Inside them the example is wider: 8 columns after joining heads, 6 in the hidden layer.",
)
def shape_stays():
    block = EncoderBlock(TransformerConfig(vocab_size=7, n_head=2, n_embd=4), rng=None).astype(np.float64)
    x, shapes = tensor([X_PE.values]), []
    for part in (block.attn, block.ln_1, block.mlp, block.ln_2):
        x = part(x)
        shapes.append(x.shape)
    return Claim(set(shapes) == {(1, 3, 4)}, "(1, 3, 4) goes in; out come " + ", ".join(map(str, shapes)))

"""'A Concrete Example': the attention of "You are welcome", of which the text mixes two versions.

The text has two versions of X + PE: with the formulas of lines 430 to 500, which add 0.00000001 to the third column of
'are', and as the rounded matrix of line 221, which adds 0.0001. Its Q follows from the first; its V and all later
listings follow from the second.
"""

from autotx.models.paper.case import Claim, Digits, Section
from autotx.models.paper.constants import (
    ATTENTION,
    K_TARGET,
    Q_TARGET,
    Q_TEXT,
    V_TARGET,
    V_TEXT,
    W_K,
    W_Q,
    W_V,
    WEIGHTS,
    X_PE,
    Y_PE,
    K,
    Q,
    V,
    X,
)
from autotx.models.paper.positions import WRITTEN
from autotx.models.paper.steps import agree, attention, attention_weights, distance, linear, tensor, waves

section = Section("example", "A Concrete Example", (373, 532))

W_V_502 = Digits("0 0 1 1; 1 1 0 0; 0 1 0 1; 1 0 1 0")
SCORE = "Q K^{T} / √d_{k}"


def source_as_written():
    """X + PE with the sines and cosines of lines 430 to 500, (3, 4)."""
    return tensor(X) + waves(range(3), WRITTEN)


@section.case(
    (378, 390),
    "The three matrices are square here",
    formula="d_{model} × d_{k}",
    printed="four rows and four columns each",
)
def square():
    shapes = [tensor(weight).shape for weight in (W_Q, W_K, W_V)]
    return Claim(shapes == [(4, 4)] * 3, f"W_{{Q}}, W_{{K}} and W_{{V}}: {', '.join(map(str, shapes))}")


@section.case(
    (392, 472),
    "Q, K and V from X alone",
    formula="Q = X W_{Q}, and so K and V",
    printed=Q_TEXT,
    note="The positions are missing in these formulas. Line 376 in words and line 441 as a formula have X + PE, and "
    "only that gives the printed numbers.",
)
def q_without_positions():
    return linear(W_Q)(tensor(X))


@section.case(406, "The length of a key", formula="d_{k}", printed=Digits("4"))
def d_k():
    return linear(W_K)(tensor(X_PE)).shape[-1]


@section.case(
    (428, 430),
    "X + PE as sines and cosines",
    formula="X + PE as line 430 writes it, against line 221",
    printed="one matrix, X + PE",
    note="Line 430 has sin(1/10000^{2}) = 0.00000001 in the third column and line 221 has 0.0001, so 0.1 against "
    "0.1001. Two versions of one matrix; the formulas of line 130 give neither.",
)
def source_in_two_versions():
    return agree(source_as_written(), X_PE, 5e-5, "the two differ by up to {:.2g}")


@section.case(430, "Its first row", formula="X_{0} + PE_{0}", printed=Digits("0.1 1.2 -0.1 1.4"))
def first_row():
    return source_as_written()[0]


@section.case(
    (458, 472),
    "Q",
    formula="Q = (X + PE) W_{Q}, X + PE as line 466 writes it",
    printed=Q_TEXT,
    note="All digits, from the formulas just above it.",
)
def q_from_formulas():
    return linear(W_Q)(source_as_written())


@section.case(
    (458, 472),
    "Q from the matrix of line 221",
    formula="Q = (X + PE) W_{Q}, X + PE of line 221",
    printed=Q_TEXT,
    note="With the rounded positions it is 0.6416, 0.9 and 1.5095 in place of 0.6415, 0.8998 and 1.5093, as the "
    "listing's output at line 1450 has it. The text's Q and V come from different versions of X + PE.",
)
def q_from_rounded():
    return linear(W_Q)(tensor(X_PE))


@section.case(
    (476, 486),
    "The matrix that K is to be made with",
    formula="W_{K}",
    printed=W_Q,
    note="The text announces W_{K} and shows W_{Q} a second time. W_{K} is at lines 385 and 435.",
)
def w_k():
    return tensor(W_K)


@section.case(
    (476, 490),
    "K",
    formula="K = (X + PE) W_{K}, X + PE as line 484 writes it",
    printed=Q_TEXT,
    note="What is printed is Q again. The rows of K are 1.1 1.5 0 2.6, then 1.6 1.3415 0.6415 2.3, then 0.8998 2.4093 "
    "1.5093 1.7998; the text never shows it, only the listing at line 1455 does.",
)
def k():
    return linear(W_K)(source_as_written())


@section.case(
    (492, 502),
    "The matrix that V is to be made with",
    formula="W_{V} of lines 389 and 436",
    printed=W_V_502,
    note="Another W_{V} than the two before it. The printed V follows the earlier one.",
)
def w_v():
    return tensor(W_V)


@section.case(
    (498, 506),
    "V with the matrix shown beside it",
    formula="V = (X + PE) W_{V}, W_{V} of line 502",
    printed=V_TEXT,
    note="The W_{V} of line 502 gives 2.6 where 1.5 is printed.",
)
def v_as_shown():
    return linear(W_V_502)(source_as_written())


@section.case(
    (498, 506),
    "V from the formulas shown beside it",
    formula="V = (X + PE) W_{V}, W_{V} of line 436, X + PE as line 500 writes it",
    printed=V_TEXT,
    note="Differs in the fourth decimal: 0.6415 and 1.5093 follow from line 500, the printed 0.6416 and 1.5095 from "
    "the rounded matrix of line 221.",
)
def v_from_formulas():
    return linear(W_V)(source_as_written())


@section.case(
    (498, 506),
    "V from the matrix of line 221",
    formula="V = (X + PE) W_{V}, W_{V} of line 436, X + PE of line 221",
    printed=V_TEXT,
    note="This is how the printed V was made.",
)
def v_from_rounded():
    return linear(W_V)(tensor(X_PE))


@section.table(
    ("target_q", 510, "Q of the target", "Q = (Y + PE) W_{Q}", Q_TARGET, W_Q),
    ("target_k", 511, "K of the target", "K = (Y + PE) W_{K}", K_TARGET, W_K),
    ("target_v", 512, "V of the target", "V = (Y + PE) W_{V}", V_TARGET, W_V),
)
def of_the_target(weight):
    return linear(weight)(tensor(Y_PE))


@section.case(
    (516, 522),
    "The attention of the source",
    formula=f"softmax({SCORE}) V",
    printed=ATTENTION,
    note="From Q, K and V of the listing (lines 1560-1570).",
)
def attention_output():
    return attention(Q, K, V)


@section.case(
    (516, 522),
    "The attention from the matrices that the text shows",
    formula=f"softmax({SCORE}) V, from lines 472, 490 and 506",
    printed=ATTENTION,
    note="With K as printed at line 490, which is Q, every number differs; the listing's K gives the printed ones.",
)
def attention_from_text():
    return attention(Q_TEXT, Q_TEXT, V_TEXT)


@section.case(
    (406, 520),
    "What an attention score is",
    formula="Q K^{T} / √d_{k},  softmax(Q K^{T} / √d_{k}),  softmax(Q K^{T} / √d_{k}) V",
    printed="one name for three matrices",
    note="Line 409 calls the scaled products scores, line 412 their softmax, and lines 516 to 520 the weighted "
    "values. The last are the attention output of line 421.",
)
def one_name():
    scores, weights = tensor(Q) @ tensor(K).T / 2.0, attention_weights(Q, K)
    difference = distance(scores, weights)
    shapes = f"{scores.shape}, {weights.shape} and {attention(Q, K, V).shape}"
    return Claim(difference == 0, f"shapes {shapes}; scores and weights differ by up to {difference:.2f}")


@section.case((524, 530), "The attention weights", formula=f"softmax({SCORE})", printed=WEIGHTS)
def weights():
    return attention_weights(Q, K)


@section.case(
    532, "Each row of the weights adds to one", formula="Σ_{s} weight_{ts} = 1", printed=Digits("1 1 1", places=8)
)
def row_sums():
    return attention_weights(Q, K).sum(axis=-1)


@section.case(
    (530, 532),
    "The rows as they are printed",
    formula="Σ_{s} of the printed digits",
    printed=Digits("1 1 1", places=8),
    note="Eight rounded digits may add up to one more or less in the last place.",
)
def printed_row_sums():
    return tensor(WEIGHTS).sum(axis=-1)


@section.case((522, 530), "Weights times V is the output", formula="weights × V", printed=ATTENTION)
def weights_times_v():
    return attention_weights(Q, K) @ tensor(V)

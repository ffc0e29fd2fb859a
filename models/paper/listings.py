"""'Matrix Multiplication' to 'Calculate Layer Normalization': the listings behind the encoder's numbers."""

from autotx.models.paper.case import Claim, Digits, Section
from autotx.models.paper.constants import (
    ATTENTION,
    CONCAT,
    LN_M,
    Q_TEXT,
    W_K,
    W_O,
    W_Q,
    W_V,
    X_PE,
    Y_PE,
    K,
    M,
    Q,
    V,
    X,
)
from autotx.models.paper.example import source_as_written
from autotx.models.paper.heads import concat
from autotx.models.paper.steps import (
    attention,
    attention_weights,
    distance,
    layer_norm,
    layer_norm_eps_outside,
    linear,
    tensor,
)

products = Section("matrix-multiplication", "Matrix Multiplication", (1314, 1464))
targets = Section("calculating-y", "Calculating Y", (1466, 1534))
scores = Section("attention-score", "Calculate Attention Score", (1536, 1585))
heads = Section("multi-head-output", "Calculate Multi-Attention Head Output", (1587, 1633))
norm = Section("norm-listing", "Calculate Layer Normalization", (1635, 1667))

Q_TARGET = Digits("1. 1. 2. 0.; 1.7415 1.70005 2.49995 0.9416; 2.7093 0.5 2.1998 1.0095", places=5)
K_TARGET = Digits("1. 1. 0. 2.; 1.70005 1.7415 0.9416 2.49995; 0.5 2.7093 1.0095 2.1998", places=5)
V_TARGET = Digits("1. 0. 1. 2.; 1.7415 0.9416 1.70005 2.49995; 2.7093 1.0095 0.5 2.1998", places=5)


def entry(row, column):
    """An entry of Q, a row of X + PE times a column of W_Q. row, column: from 1, as in the paper."""
    return (source_as_written()[row - 1] * tensor(W_Q)[:, column - 1]).sum()


@products.case((1318, 1325), "First row of X + PE", formula="X + PE", printed=Digits("0.1 1.2 -0.1 1.4", places=8))
def first_row():
    return source_as_written()[0]


@products.case((1327, 1335), "The matrix to multiply with", formula="W_{Q} of line 381", printed=W_Q)
def w_q():
    return tensor(W_Q)


@products.table(
    ("q_1_1", 1339, "Q[1,1]", "0.1·1 + 1.2·0 - 0.1·0 + 1.4·1", Digits("1.5"), 1),
    ("q_1_2", 1340, "Q[1,2]", "0.1·0 + 1.2·1 - 0.1·1 + 1.4·0", Digits("1.1"), 2),
    ("q_1_4", 1342, "Q[1,4]", "0.1·1 + 1.2·0 - 0.1·1 + 1.4·0", Digits("0"), 4),
)
def first_row_of_q(column):
    return entry(1, column)


@products.case(
    1341,
    "Q[1,3]",
    formula="0.1·0 + 1.2·1 - 0.1·0 + 1.4·1",
    printed=Digits("1.2"),
    note="The last product, 1.4 x 1, is left out of the sum: 2.6, as in the output at line 1384 and in the text at "
    "472.",
)
def q_1_3():
    return entry(1, 3)


@products.case(
    (1344, 1385),
    "The second row of Q, entry by entry",
    formula="Q[2,j] = Σ_{k} (X + PE)[2,k] W_{Q}[k,j]",
    printed=Digits("1.34147098 1.59995001 2.29995 0.64147099", places=8),
    note="The paper writes the sums out; their values are those of line 1385.",
)
def second_row():
    return [entry(2, j).item() for j in (1, 2, 3, 4)]


@products.case(
    (1351, 1386),
    "The third row of Q, entry by entry",
    formula="Q[3,j] = Σ_{k} (X + PE)[3,k] W_{Q}[k,j]",
    printed=Digits("2.40929743 0.89980003 1.79980001 1.50929745", places=8),
    note="The paper writes the sums out; their values are those of line 1386.",
)
def third_row():
    return [entry(3, j).item() for j in (1, 2, 3, 4)]


@products.case(
    (1360, 1387),
    "Listing: Q with sines and cosines as written",
    formula="Q = (X + PE) W_{Q}",
    printed=Digits(
        "1.5 1.1 2.6 0.; 1.34147098 1.59995001 2.29995 0.64147099; 2.40929743 0.89980003 1.79980001 1.50929745",
        places=8,
    ),
)
def q_listing():
    return linear(W_Q)(source_as_written())


@products.case((1389, 1397), "Q to four decimals", formula="Q = (X + PE) W_{Q}", printed=Q_TEXT)
def q_to_four_decimals():
    return linear(W_Q)(source_as_written())


@products.case(
    (1404, 1409),
    "The matrix called X",
    formula="X of line 100",
    printed=X_PE,
    note="It is X + PE of line 221, under the name of X alone.",
)
def called_x():
    return tensor(X)


@products.table(
    ("all_three_q", (1399, 1452), "Listing: Q", "Q = (X + PE) W_{Q}, X + PE of line 221", Q, W_Q),
    ("all_three_k", (1399, 1457), "Listing: K", "K = (X + PE) W_{K}, X + PE of line 221", K, W_K),
    ("all_three_v", (1399, 1462), "Listing: V", "V = (X + PE) W_{V}, X + PE of line 221", V, W_V),
)
def of_the_source(weight):
    return linear(weight)(tensor(X_PE))


@products.case(
    (1383, 1452),
    "Both listings give the same Q",
    formula="Q of line 1450 against Q of line 1384",
    printed=Digits("1.5 1.1 2.6 0.; 1.3415 1.60005 2.29995 0.6416; 2.4093 0.9 1.7998 1.5095", places=5),
    note="The first computes sin(1/10000^{2}), the second takes the rounded 0.0001 of line 221: 1.59995 or 1.60005. "
    "All later numbers come from the second.",
)
def two_listings():
    return linear(W_Q)(source_as_written())


@targets.case(
    (1474, 1479),
    "The matrix called X",
    formula="X of line 100",
    printed=Y_PE,
    note="It is Y + PE of line 223, the target's, under the name of the source.",
)
def target_called_x():
    return tensor(X)


@targets.table(
    ("target_q", (1470, 1525), "Listing: Q of the target", "Q = (Y + PE) W_{Q}", Q_TARGET, W_Q),
    ("target_k", (1470, 1529), "Listing: K of the target", "K = (Y + PE) W_{K}", K_TARGET, W_K),
    ("target_v", (1470, 1533), "Listing: V of the target", "V = (Y + PE) W_{V}", V_TARGET, W_V),
)
def of_the_target(weight):
    return linear(weight)(tensor(Y_PE))


@scores.case(
    (1545, 1551),
    "The scores, scaled after the product",
    formula="softmax((Q K^{T}) / √d_{k})",
    printed="product first, then the scale, then the softmax",
    note="It could as well be Q that is divided, before the product.",
)
def scaled_after():
    after = (tensor(Q) @ tensor(K).T / 2.0).softmax()
    before = ((tensor(Q) / 2.0) @ tensor(K).T).softmax()
    difference = max(distance(after, attention_weights(Q, K)), distance(after, before))
    return Claim(difference < 1e-14, f"either way, and by the formula of line 518: largest difference {difference:.1g}")


@scores.case(
    1544,
    "d_{k} taken from the columns of Q",
    formula="d_{k}",
    printed="the last size of Q",
    note="Q and K have equally many columns, or there is no product: it does not matter whose are counted.",
)
def d_k():
    sizes = tensor(Q).shape[-1], tensor(K).shape[-1]
    return Claim(sizes[0] == sizes[1], f"Q has {sizes[0]} columns, K has {sizes[1]}")


@scores.case((1538, 1585), "Listing: attention", formula="softmax(Q K^{T} / √d_{k}) V", printed=ATTENTION)
def attention_listing():
    return attention(Q, K, V)


@heads.case((1592, 1606), "Listing: both heads joined", formula="Concat(head_{1}, head_{2})", printed=CONCAT)
def joined():
    return concat()


@heads.case((1608, 1633), "Listing: multi-head output", formula="Concat(head_{1}, head_{2}) W_{O}", printed=M)
def multi_head():
    return linear(W_O)(tensor(CONCAT))


@norm.case(
    (1637, 1667),
    "Listing: layer norm",
    formula="(M - μ) / √(σ^{2} + ε), as line 1655 has it",
    printed=LN_M,
    note="The listing does not give the output printed under it: with ε inside the root it is -1.03927194, not "
    "-1.03927142.",
)
def layer_norm_listing():
    return layer_norm(M)


@norm.case(
    (1661, 1667),
    "Its output: ε outside the root",
    formula="(M - μ) / (σ + ε)",
    printed=LN_M,
    note="An earlier version of the listing must have been run: all twelve numbers have ε added to the deviation.",
)
def layer_norm_output():
    return layer_norm_eps_outside(M)

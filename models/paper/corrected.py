"""The paper's running example, recomputed by its own formulas from the first number to the last.

A case checks whether a number follows from the numbers printed just before it, so an error there does not count again.
Here the embeddings X and Y and the weight matrices are the only inputs; every later matrix is computed from them, with
the positions of line 130, ε inside the root, the scale √d_k, a causal mask in the decoder only, and x W throughout.
"""

from dataclasses import dataclass

import autotx
from autotx.models.paper.case import Digits
from autotx.models.paper.constants import ATTENTION as HEAD_1
from autotx.models.paper.constants import (
    CROSS,
    DECODER_ATTENTION,
    DECODER_NORM,
    ENCODED,
    FFN,
    HEAD_2,
    LN_M,
    Q_TEXT,
    V_TEXT,
    W_K,
    W_O,
    W_Q,
    W_V,
    X_PE,
    Y_PE,
    M,
    X,
    Y,
)
from autotx.models.paper.feed_forward import net
from autotx.models.paper.steps import attention, layer_norm, linear, position_encoding, tensor


@dataclass(frozen=True)
class Stage:
    """A matrix of the example: where the paper prints it, the printed numbers, and the right ones."""

    title: str
    line: int
    printed: Digits
    right: object  # ndarray


def chain():
    """The stages of the example, first to last, a list."""
    w_q, w_k, w_v = linear(W_Q), linear(W_K), linear(W_V)
    x, y = tensor(X) + position_encoding(3, 4), tensor(Y) + position_encoding(3, 4)
    q, v = w_q(x), w_v(x)
    head = attention(q, w_k(x), v)
    joined = autotx.concat([head, tensor(HEAD_2)], axis=1) @ tensor(W_O)
    normalized = layer_norm(joined)
    fed = net()(normalized)
    encoded = layer_norm(fed)
    decoder = attention(w_q(y), w_k(y), w_v(y), causal=True)
    decoder_norm = layer_norm(decoder)
    cross = attention(w_q(decoder_norm), w_k(encoded), w_v(encoded))
    stages = (
        ("Source with positions, X + PE", 221, X_PE, x),
        ("Target with positions, Y + PE", 223, Y_PE, y),
        ("Q", 472, Q_TEXT, q),
        ("V", 506, V_TEXT, v),
        ("Attention, head 1", 522, HEAD_1, head),
        ("Both heads times W_{O}: M", 615, M, joined),
        ("Layer norm of M", 631, LN_M, normalized),
        ("Feed-forward net", 737, FFN, fed),
        ("The encoder's output", 741, ENCODED, encoded),
        ("Masked self-attention of the target", 765, DECODER_ATTENTION, decoder),
        ("Its layer norm", 769, DECODER_NORM, decoder_norm),
        ("Encoder-decoder attention", 826, CROSS, cross),
    )
    return [Stage(title, line, printed, right.data) for title, line, printed, right in stages]

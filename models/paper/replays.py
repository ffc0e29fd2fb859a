"""Pages that replay two of the paper's examples step by step, forward and backward: the encoder, and P - y.

FILE-encoder.html    "You are welcome": positions, attention, two heads, layer norm, feed-forward net, layer norm
FILE-p-minus-y.html  "The cat sat on the ___": softmax, cross entropy, and the gradient that comes back
"""

import math
from pathlib import Path

import numpy as np

import autotx
from autotx import Tensor, viz
from autotx.models.paper.constants import B_1, B_2, HEAD_2, PE, W_1, W_2, W_K, W_O, W_Q, W_V, X
from autotx.models.paper.loss import POOR, TRUE, WORDS

# slug -> (slug of its section, text of the link, title, description)
PAGES = {
    "encoder": (
        "example",
        "step through the encoder, forward and backward",
        "The encoder reads “You are welcome”",
        "A row for each word, a column for each of the four features. The numbers are those that the paper prints, its "
        "second head too (after the first norm to five digits: there the paper has ε outside the root). It has no "
        "loss; for a backward pass, the last op measures how far the last norm moves the numbers.",
    ),
    "p-minus-y": (
        "loss",
        "step through P − y, forward and backward",
        "P − y: “The cat sat on the ___”",
        "Four words could follow: mat, hat, bat, rat. The model predicts rat (0.7); mat is right. The last step "
        "shows the gradient of the logits Z: the probabilities P, less 1 for the true word.",
    ),
}


def encoder():
    """The mean squared error between the feed-forward net's output and its layer norm; its graph is the whole example.

    A loss of the norm alone would give no useful gradient: the paper's W_2 makes all rows alike for any input.
    """
    w_q, w_k, w_v, w_o = (_named(name, m) for name, m in (("W_Q", W_Q), ("W_K", W_K), ("W_V", W_V), ("W_O", W_O)))
    x = _named("X", X) + _named("PE", PE, learned=False)
    q = x @ w_q
    k = x @ w_k
    v = x @ w_v
    scores = q @ k.T / math.sqrt(4)
    weights = scores.softmax()
    head_1 = weights @ v
    m = autotx.concat([head_1, _named("head 2", HEAD_2, learned=False)], axis=1) @ w_o
    gamma, beta = _named("γ", np.ones(4)), _named("β", np.zeros(4))
    n = autotx.layer_norm(m, gamma, beta, eps=1e-6)
    hidden = (n @ _named("W_1", W_1) + _named("b_1", B_1)).relu()
    f = hidden @ _named("W_2", W_2) + _named("b_2", B_2)
    encoded = autotx.layer_norm(f, gamma, beta, eps=1e-6)
    results = {"X + PE": x, "Q": q, "K": k, "V": v, "scores": scores, "weights": weights, "head 1": head_1, "M": m}
    for name, t in (results | {"net": f, "encoded": encoded}).items():
        t.name = name
    return autotx.mse_loss(f, encoded)


def p_minus_y():
    """The cross entropy of the poor prediction, -Σ y ln P, one op at a time, so that the page shows each gradient."""
    z = _named("Z", np.log(POOR))
    y = _named("y", TRUE, learned=False)
    p = z.softmax()
    p.name = "P"
    return -(y * p.log()).sum()


def write_beside(file, sections):
    """Write the PAGES of the given sections into the folder of `file`. OSError when that is not possible.

    Returns the links, a dict from a section's slug to (name of the file, text).
    """
    links = {}
    for slug, (section, text, *_) in PAGES.items():
        if any(section == shown.slug for shown in sections):
            target = beside(file, slug)
            write(slug, target)
            links[section] = target.name, text
    return links


def beside(file, slug):
    """The path of one of PAGES beside the page `file`."""
    return Path(file).with_name(f"{Path(file).stem}-{slug}.html")


def write(slug, file):
    """Write one of PAGES to a file. OSError when that is not possible."""
    make = {"encoder": encoder, "p-minus-y": p_minus_y}[slug]
    *_, title, about = PAGES[slug]
    with viz.record():
        last = make()
    rows = {"encoder": {"X": ["You", "are", "welcome"]}, "p-minus-y": {"Z": WORDS}}[slug]
    viz.page(last, file, title=title, about=about, rows=rows)


def _named(name, values, learned=True):
    """A float64 leaf with the name it has in the paper. learned: it requires a gradient."""
    values = np.asarray(getattr(values, "values", values), dtype=np.float64)
    return Tensor(values, requires_grad=learned, name=name)

"""A classifier of texts: a pre-trained language model, and a linear head on its state of a text's last token.

    pre-training    L1(U) = sum_i log P(u_i | u_(i-k), ..., u_(i-1))       on unlabelled text, k the context window
    fine-tuning     L2(C) = sum_(x, y) log P(y | x_1, ..., x_m)            on labelled texts
                    P(y | x_1, ..., x_m) = softmax(W_y h_m)                h_m: the last block's state of token m
    together        L3(C) = L2(C) + lambda L1(C)

Training maximises all three; autotx minimises losses, so its losses are -L1 and -L2, sums of cross entropies in nats.
`autotx train --text` is the pre-training: its loss is -L1 divided by the number of tokens, and --block-size is k (the
first tokens of a block have fewer than k before them).
The language model's loss stays in the sum because it makes the classifier generalise better and learn faster.

Source: Radford et al., 2018, "Improving Language Understanding by Generative Pre-Training", 3.1 and 3.2. There a text
is put between two new tokens and h_m is the state of the second; here it is the state of the text's own last token.
"""

import numpy as np

import autotx
from autotx import init, nn

BATCH = 64  # texts in a batch of `predict`
_NONE = -1  # the target at a position without one


class Classifier(nn.Module):
    """A language model and the matrix W_y, its weights normal with standard deviation 0.02.

    language_model: a GPT, or another with its `hidden`, `head_loss` and `config`; it is trained too. num_classes: the
    number of labels. rng: numpy.random.Generator that draws W_y; None leaves it zero, to be loaded.
    ValueError for fewer than two classes.

    Every method takes texts of different lengths as `padded` returns them: ids (B, T), where row b has lengths[b]
    tokens and then padding. Tokens attend only to earlier tokens, so the ids in the padding do not change any bit of
    the result. The length of the padding can change the last digits, because matrix products then add in another order.
    """

    def __init__(self, language_model, num_classes, rng):
        if num_classes < 2:
            raise ValueError(f"Classifier: num_classes is {num_classes}; give at least 2, or there is nothing to tell")
        self.language_model = language_model
        self.head = nn.Linear(language_model.config.n_embd, num_classes, bias=False, rng=None)
        if rng is not None:
            self.head.weight.data = init.normal(self.head.weight.shape, rng, std=0.02)

    @property
    def wte(self):
        """The token table."""
        return self.language_model.wte

    def forward(self, ids, lengths, rng=None):
        """The scores of the classes, (B, num_classes): softmax makes them P(y | x). rng: draws the dropout."""
        lengths = _checked_lengths(ids, lengths)
        return self._scores(self.language_model.hidden(ids, rng), lengths)

    def losses(self, ids, lengths, labels, rng=None):
        """-L2 and -L1 of a batch: two Tensors of one number, sums over its texts and over all their tokens but the
        first of each. labels: the right classes, integers (B,). rng: draws the dropout; None for no dropout.
        """
        ids, lengths = np.asarray(ids), _checked_lengths(ids, lengths)
        states = self.language_model.hidden(ids, rng)
        classes = autotx.cross_entropy(self._scores(states, lengths), labels, reduction="sum")
        following = np.where(np.arange(1, ids.shape[1]) < lengths[:, None], ids[:, 1:], _NONE)
        words = self.language_model.head_loss(states[:, :-1], following, ignore_index=_NONE, reduction="sum")
        return classes, words

    def _scores(self, states, lengths):
        return self.head(states[np.arange(len(lengths)), lengths - 1])


def padded(rows):
    """Texts of different lengths as one array: a list of ids (T_b,) -> (ids (B, T), lengths (B,)), T the longest.

    The padding after the end of a row is zeros.
    """
    lengths = np.array([len(row) for row in rows])
    ids = np.zeros((len(rows), lengths.max()), np.int64)
    for row, tokens in zip(ids, rows):
        row[: len(tokens)] = tokens
    return ids, lengths


def _checked_lengths(ids, lengths):
    ids, lengths = np.asarray(ids), np.asarray(lengths)
    if ids.ndim != 2 or lengths.shape != ids.shape[:1]:
        raise ValueError(f"Classifier: lengths {lengths.shape} for ids {ids.shape}; give ids (B, T) and lengths (B,)")
    wrong = lengths[(lengths < 1) | (lengths > ids.shape[1])]
    if wrong.size:
        raise ValueError(f"Classifier: a text of {wrong[0]} tokens in rows of {ids.shape[1]}; give 1 to {ids.shape[1]}")
    return lengths


def predict(model, tokenizer, texts):
    """The probabilities of the labels: a list of N str, none empty -> (N, labels). Only the first block_size tokens of
    a text are used."""
    rows = [tokenizer.encode(text)[: model.language_model.config.block_size] for text in texts]
    with autotx.no_grad():
        scores = [model(*padded(rows[i : i + BATCH])) for i in range(0, len(rows), BATCH)]
        return np.concatenate([autotx.softmax(z).numpy() for z in scores])


def check_known(tokenizer, text, place):
    """ValueError for a text with characters or words that the model has never seen. place: named in the error."""
    unknown = tokenizer.unknown(text)
    if unknown:
        raise ValueError(
            f"{place}: the text that the model was pre-trained on has no {', '.join(map(repr, unknown))}; "
            "leave that out, or pre-train with --tokenizer byte or bpe"
        )

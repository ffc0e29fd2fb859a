"""The tokens that a model wrote, each with its probability and the likeliest others: as a table and as data."""

import shutil
import sys
import unicodedata

from autotx.text import visible

LONGEST = 18  # characters of a token in the table


def listed(row, tokenizer):
    """The tokens of a Continuation, as viz.choices takes them: tuples (text, probability, rank, likeliest), and of
    these each (text, probability)."""

    def named(token):
        return tokenizer.texts([token])[0]

    return [(named(c.token), c.probability, c.rank, [(named(i), p) for i, p in c.likeliest]) for c in row.choices]


def data(row, tokenizer):
    """A Continuation as JSON values."""
    found = {"text": row.text, "ended": row.ended or "length", "ids": row.ids}
    if row.choices:
        keys = ("token", "probability", "rank", "likeliest")
        tokens = [(*known, [dict(zip(keys, pair)) for pair in best]) for *known, best in listed(row, tokenizer)]
        found["choices"] = [dict(zip(keys, token)) for token in tokens]
    return found


def table(row, tokenizer):
    """The choices of a Continuation: a line for each, as long as the terminal is wide."""
    lines = []
    for text, p, rank, best in listed(row, tokenizer):
        others = (cell for t, q in best for cell in (_quoted(t), _percent(q)))
        lines.append([_quoted(text), _percent(p), f"{rank:5,}", *others])
    widths = [max(map(_columns, cells)) for cells in zip(*lines)]
    room = shutil.get_terminal_size((0, 0)).columns if sys.stdout.isatty() else 0
    fitting = (n for n in range(5, len(widths) + 1, 2) if not room or sum(widths[:n]) + 2 * n <= room)
    shown = max(fitting, default=5)  # a terminal that is too narrow for the likeliest alone breaks the lines
    heading = "each token, its probability and rank, then the likeliest (probabilities are the model's own)"
    return "\n".join([heading, *("  ".join(map(_padded, line[:shown], widths)).rstrip() for line in lines)])


def _quoted(text):
    text = visible(text)
    return f"'{text if len(text) <= LONGEST else text[: LONGEST - 1] + '…'}'"


def _percent(p):
    return f"{100 * p:5.1f} %" if p >= 0.0005 else " <0.1 %"


def _padded(text, width):
    return text + " " * (width - _columns(text))


def _columns(text):
    """How many columns of a terminal a text takes."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)

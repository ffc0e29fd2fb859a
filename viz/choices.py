"""A page of texts that a language model wrote: under each token, how likely it was, and what was likelier."""

from collections.abc import Sequence

from autotx import files
from autotx.text import visible
from autotx.types import PathLike
from autotx.viz.page import Page, checked_path, document

Likely = tuple[str, float]  # a token, and its probability


def choices(
    texts: Sequence[Sequence[tuple[str, float, int, Sequence[Likely]]]], file: PathLike, title: str = "Choices",
    about: str = "", prompt: str = "",
) -> Page:  # fmt: skip
    """Write texts to `file` as one HTML page that needs nothing else. Returns the Page, which a notebook shows.

    texts: each a list of tokens, a token a tuple of its text, its probability from 0 to 1, its rank among all tokens (1
    for the likeliest), and the likeliest tokens, the likeliest first. prompt: the text before them. title, about: text
    at the top. ValueError: a name that does not end in .html or .htm, no such folder. OSError: it cannot be written.
    """
    file = checked_path(file)
    data = {"prompt": visible(prompt, "\n\t"), "texts": [[token_data(*token) for token in text] for text in texts]}
    content = document("choices.html", ("look.css", "choices.css"), ("likely.js", "choices.js"), data,
                       title=title, about=about)  # fmt: skip
    files.write_atomically(file, content)
    return Page(file)


def token_data(text: str, probability: float, rank: int, likeliest: Sequence[Likely]) -> list:
    """A token as the pages' scripts read it."""
    best = [[visible(other), _rounded(p)] for other, p in likeliest]
    return [visible(text, "\n\t"), visible(text), _rounded(probability), rank, best]


def _rounded(p):
    return float(f"{p:.4g}")

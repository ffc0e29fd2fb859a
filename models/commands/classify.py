"""`autotx classify`: label texts with a fine-tuned model."""

import sys

import numpy as np

from autotx.models.classifier import check_known, predict
from autotx.models.formats import open_model

SHOWN = 3  # labels for a text
SHORT = 40  # characters of a text that an error shows


EXAMPLES = (
    'autotx classify --model runs/reviews "What a film!"',
    'autotx classify --model runs/reviews "What a film!" "What a bore."',
)


def add_arguments(parser):
    parser.add_argument("texts", metavar="TEXT", nargs="+", help="what to label, each in quotes")
    parser.add_argument(
        "--model", metavar="DIR", default="runs/classifier", help="the run of autotx finetune (default: %(default)s)"
    )


def run(args):
    """Print the likeliest labels of each text, one line a text. Returns the exit status."""
    opened = open_model(args.model, needs="labels")
    model, tokenizer, labels = opened.model, opened.tokenizer, opened.known["labels"]
    texts = [text.strip() for text in args.texts]
    for text in texts:
        if not text:
            raise ValueError("a text is empty; there is nothing to label")
        check_known(tokenizer, text, f'"{text[:SHORT]}"')
    size = model.language_model.config.block_size
    cut = sum(len(tokenizer.encode(text)) > size for text in texts)
    if cut:
        print(f"autotx classify: {cut} of {len(texts)} texts: only the first {size} tokens are read", file=sys.stderr)
    for text, p in zip(texts, predict(model, tokenizer, texts)):
        likeliest = np.argsort(-p, kind="stable")[:SHOWN]
        shown = ", ".join(f"{labels[i]} {p[i]:.1%}" for i in likeliest)
        print(shown if len(texts) == 1 else f"{shown}: {text}")
    return 0

"""`autotx classify`: a fine-tuned model says which label a text has."""

import sys
from pathlib import Path

import numpy as np

import autotx
from autotx.checkpoint import read_json
from autotx.models.classifier import Classifier, padded
from autotx.models.config import ClassifierTrainConfig, read_config
from autotx.models.generate import load_weights
from autotx.models.gpt import GPT, GPTConfig
from autotx.models.run import LABELS, MODEL
from autotx.models.tokenizers import load_tokenizer

BATCH = 64
SHOWN = 3  # labels for a text


def add_arguments(parser):
    parser.add_argument("texts", metavar="TEXT", nargs="+", help="what to label, each in quotes")
    parser.add_argument(
        "--model", metavar="DIR", default="runs/classifier", help="the run of autotx finetune (default: %(default)s)"
    )


def run(args):
    """Print the likeliest labels of each text, one line a text. Returns the exit status."""
    model, tokenizer, labels = load_classifier(args.model)
    texts = [text.strip() for text in args.texts]
    for text in texts:
        if not text:
            raise ValueError("a text is empty; there is nothing to label")
        check_known(tokenizer, text, "the text")
    size = model.gpt.config.block_size
    cut = sum(len(tokenizer.encode(text)) > size for text in texts)
    if cut:
        print(f"autotx classify: {cut} of {len(texts)} texts: only the first {size} tokens are read", file=sys.stderr)
    for text, p in zip(texts, predict(model, tokenizer, texts)):
        likeliest = np.argsort(-p, kind="stable")[:SHOWN]
        shown = ", ".join(f"{labels[i]} {p[i]:.1%}" for i in likeliest)
        print(shown if len(texts) == 1 else f"{shown}: {text}")
    return 0


def load_classifier(folder):
    """The Classifier, the tokenizer and the labels (a list of str) of a run folder.

    ValueError or FileNotFoundError when a file is missing or broken, or the model is of another kind.
    """
    folder = Path(folder)
    if not (folder / MODEL).is_file():
        raise ValueError(f"--model {folder}: there is no trained model ({MODEL}) there; autotx finetune makes one")
    config, tokenizer = read_config(folder), load_tokenizer(folder)
    if not isinstance(config, ClassifierTrainConfig):
        raise ValueError(f"--model {folder} holds a {config.model}, not a classifier; autotx finetune makes one")
    model, labels = empty_classifier(folder, tokenizer, config.dropout)
    load_weights(model, folder)
    return model, tokenizer, labels


def empty_classifier(folder, tokenizer, dropout):
    """A Classifier in the shape that a run folder describes, its weights not yet loaded, and its labels."""
    path = Path(folder) / LABELS
    saved = read_json(path)
    try:
        shape = GPTConfig(**{**saved["gpt"], "dropout": dropout})
        labels = [str(label) for label in saved["labels"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} should hold the labels and the shape of the model: {error}") from error
    if shape.vocab_size != tokenizer.vocab_size:
        raise ValueError(f"{path} is for {shape.vocab_size} tokens, the tokenizer has {tokenizer.vocab_size}")
    return Classifier(GPT(shape, None), len(labels), None), labels


def predict(model, tokenizer, texts):
    """The probabilities of the labels: a list of N str, none empty -> (N, labels). What exceeds a block is not read."""
    rows = [tokenizer.encode(text)[: model.gpt.config.block_size] for text in texts]
    with autotx.no_grad():
        scores = [model(*padded(rows[i : i + BATCH])) for i in range(0, len(rows), BATCH)]
        return np.concatenate([autotx.softmax(z).numpy() for z in scores])


def check_known(tokenizer, text, place):
    """ValueError for a text with characters or words that the model has never seen. place: how it is called."""
    unknown = tokenizer.unknown(text)
    if unknown:
        raise ValueError(
            f"{place}: the text that the model was pre-trained on has no {', '.join(map(repr, unknown))}; "
            "leave that out, or pre-train with --tokenizer byte or bpe"
        )

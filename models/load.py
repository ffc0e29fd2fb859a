"""How settings become a model, and a run's folder a trained one.

    load_gpt  load_transformer  load_classifier     a trained model with its tokenizer
    load_word_vectors                               only the vectors of its words
    make_gpt  make_transformer  make_classifier     a model in the shape of a run, its weights to be drawn or loaded
"""

from pathlib import Path

import numpy as np

from autotx.checkpoint import load_tensors
from autotx.files import read_json
from autotx.models.classifier import Classifier
from autotx.models.config import (
    ClassifierTrainConfig,
    GPTTrainConfig,
    TransformerTrainConfig,
    Word2VecTrainConfig,
    read_config,
)
from autotx.models.gpt import GPT, GPTConfig
from autotx.models.run import LABELS, MODEL, VECTORS
from autotx.models.tokenizers import load_tokenizer
from autotx.models.transformer import SPECIALS, Transformer, TransformerConfig
from autotx.models.vectors import WordVectors, load_vectors, words_of

_MADE_BY = {
    GPTTrainConfig: "autotx train",
    TransformerTrainConfig: "autotx train --model transformer",
    ClassifierTrainConfig: "autotx finetune",
}


def load_gpt(folder):
    """The GPT and the tokenizer of a run folder. ValueError or FileNotFoundError when a file is missing or broken."""
    config, tokenizer = trained_config(folder, GPTTrainConfig), load_tokenizer(folder)
    return _with_weights(make_gpt(config, tokenizer), folder), tokenizer


def load_transformer(folder):
    """The Transformer and the tokenizer of a run folder. Errors as in `load_gpt`."""
    config, tokenizer = trained_config(folder, TransformerTrainConfig), load_tokenizer(folder)
    return _with_weights(make_transformer(config, tokenizer), folder), tokenizer


def load_classifier(folder):
    """The Classifier, the tokenizer and the labels (a list of str) of a run folder. Errors as in `load_gpt`."""
    config, tokenizer = trained_config(folder, ClassifierTrainConfig), load_tokenizer(folder)
    model, labels = make_classifier(folder, tokenizer, config.dropout)
    return _with_weights(model, folder), tokenizer, labels


def load_word_vectors(folder):
    """The WordVectors of a run folder: what word2vec learned, or the tokens' vectors of any other model.

    Tokens that are the same word, with and without a space before it, count once, the one with the lower id.
    Errors as in `load_gpt`.
    """
    folder = Path(folder)
    if isinstance(trained_config(folder), Word2VecTrainConfig):
        return load_vectors(folder / VECTORS)
    weights, _ = load_tensors(folder / MODEL)
    tables = [array for name, array in weights.items() if name in ("wte.weight", "gpt.wte.weight")]
    if not tables:
        raise ValueError(f"{folder / MODEL} has no table of tokens (wte.weight)")
    words = words_of(load_tokenizer(folder))
    rows = {word: row for row, word in reversed(list(enumerate(words))) if word}
    table = tables[0][-len(words) :]  # the ids of START, END and PAD come before those of the tokenizer
    return WordVectors(rows, table[list(rows.values())])


def trained_config(folder, kind=None):
    """The settings of the run in a folder. ValueError when it holds no trained model, or one of another kind.

    kind: the class of settings that is wanted; None for any.
    """
    made_by = _MADE_BY.get(kind, "autotx train")
    if Path(folder).is_file():
        raise ValueError(f"{folder} is a file; give the folder of a run")
    if not (Path(folder) / MODEL).is_file():
        raise ValueError(f"{folder}: there is no trained model ({MODEL}) there; {made_by} makes one")
    config = read_config(folder)
    if kind and not isinstance(config, kind):
        raise ValueError(f"{folder} holds a {config.model}, not a {kind.model}; {made_by} makes one")
    return config


def _with_weights(model, folder):
    """The model, filled with the weights of a run folder. ValueError when they do not fit, or hold NaN or Inf."""
    path = Path(folder) / MODEL
    weights, _ = load_tensors(path)
    for name, array in weights.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{path}: {name} holds NaN or Inf")
    try:
        model.load_state_dict(weights)
    except ValueError as error:
        first, *others = str(error).removeprefix("load_state_dict: ").split("; ")[:-1]
        more = f" (and {len(others)} more)" if others else ""
        raise ValueError(f"{path} is not of the model that {folder} describes: {first}{more}; restore it") from error
    return model


def make_gpt(config, tokenizer, rng=None):
    """The GPT that a GPTTrainConfig describes. rng: draws the weights; None leaves them zero, to be loaded."""
    names = ("block_size", "n_layer", "n_head", "n_embd", "dropout")
    return GPT(GPTConfig(vocab_size=tokenizer.vocab_size, **{name: getattr(config, name) for name in names}), rng)


def make_transformer(config, tokenizer, rng=None):
    """The Transformer that a TransformerTrainConfig describes. rng: as in `make_gpt`."""
    names = ("block_size", "n_layer", "n_head", "n_embd", "dropout", "pre_norm")
    same = {name: getattr(config, name) for name in names}
    shape = TransformerConfig(vocab_size=tokenizer.vocab_size + SPECIALS, tied=not config.untied, **same)
    return Transformer(shape, rng)


def make_classifier(folder, tokenizer, dropout):
    """The Classifier whose shape a run folder describes, its weights zero, and its labels."""
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

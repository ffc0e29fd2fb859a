"""The settings of training runs: a dataclass is the flags, their help, their checks and the run's config.json."""

import argparse
import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from autotx.files import read_json, to_json
from autotx.models.optimizers import OPTIMIZERS, SCHEDULES
from autotx.models.tokenizers import KINDS as TOKENIZERS

FILE = "config.json"


def _setting(default, text, **limits):
    """A field with its help text and its limits: at_least, above, at_most, below, or choices.

    fixed: a resumed run cannot change it, for it is the shape of the model, its tokens or its random numbers.
    """
    return field(default=default, metadata={"help": text, **limits})


@dataclass(frozen=True)
class TrainConfig:
    """What every training has. Each kind of model adds its own settings and defaults, in a class below.

    ValueError when a value makes no sense.
    """

    model: ClassVar[str]  # the kind, as --model takes it

    # Where the run goes
    out: str = _setting("", "the folder of the run", metavar="DIR")
    resume: bool = _setting(False, "go on with the run in --out: its settings are kept, those given now replace them")
    seed: int = _setting(1337, "where all randomness starts; the same seed gives the same run", at_least=0, fixed=True)

    # The training
    steps: int = _setting(1250, "optimizer steps in all", at_least=1)
    grad_accum: int = _setting(1, "batches whose gradients are averaged for one step", at_least=1)
    optimizer: str = _setting("adamw", "how gradients change the weights", choices=OPTIMIZERS, fixed=True)
    schedule: str = _setting("cosine", "how the learning rate goes on after the warm-up", choices=SCHEDULES)
    lr: float = _setting(1e-3, "learning rate after the warm-up, the largest", above=0)
    min_lr: float = _setting(1e-4, "learning rate at the end of the cosine", at_least=0)
    warmup_steps: int = _setting(100, "steps in which the learning rate rises", at_least=0)
    weight_decay: float = _setting(0.1, "decay of the matrices, for adamw", at_least=0)
    beta1: float = _setting(0.9, "memory of the gradient, for adamw and adam", at_least=0, below=1)
    beta2: float = _setting(0.99, "memory of its square, for adamw, adam and rmsprop", at_least=0, below=1)
    momentum: float = _setting(0.0, "memory of the gradient, for sgd", at_least=0, below=1, fixed=True)
    grad_clip: float = _setting(1.0, "largest norm of the gradient, 0 for no limit", at_least=0)

    # How often it is looked at
    eval_interval: int = _setting(250, "steps between validations; each one saves a checkpoint", at_least=1)
    eval_batches: int = _setting(40, "batches in a validation", at_least=1)
    stats_interval: int = _setting(0, "steps between notes of every layer's size and gradient, 0: none", at_least=0)

    def __post_init__(self):
        for f in dataclasses.fields(self):
            if f.type is tuple:
                if isinstance(getattr(self, f.name), str):
                    raise ValueError(f"{flag(f.name)} {getattr(self, f.name)!r} should be a list of files")
                object.__setattr__(self, f.name, tuple(map(str, getattr(self, f.name))))
            _check(f, getattr(self, f.name))
        if self.schedule == "noam" and not self.warmup_steps:
            raise ValueError("--schedule noam is not defined for --warmup-steps 0; give 1 or more")
        if self.schedule == "cosine" and self.min_lr > self.lr:
            raise ValueError(f"--min-lr {self.min_lr:g} is above --lr {self.lr:g}; it is where the learning rate ends")

    def to_bytes(self):
        """The content of config.json. Only --resume is left out: it is about one call, not about the run."""
        settings = {name: value for name, value in dataclasses.asdict(self).items() if name != "resume"}
        return to_json({"model": self.model, **settings})


@dataclass(frozen=True)
class GPTTrainConfig(TrainConfig):
    """A GPT that learns a text.

    The defaults are nanoGPT's recipe for a small GPT on a CPU, but for the steps, of which that has 2,000: a first run,
    which compiles the kernels too, should not take longer than a cup of tea.
    """

    model: ClassVar[str] = "gpt"

    out: str = _setting("runs/gpt", "the folder of the run", metavar="DIR")
    text: tuple = _setting((), "UTF-8 text to learn from, repeat for more (default: Python's manual)", metavar="FILE")

    # How the text becomes tokens
    tokenizer: str = _setting("char", "what a token is: a character, a byte, ...", choices=TOKENIZERS, fixed=True)
    vocab_size: int = _setting(1024, "how many tokens bpe and word may have", at_least=257, fixed=True)

    # The shape of the model
    n_layer: int = _setting(4, "transformer blocks", at_least=1, fixed=True)
    n_head: int = _setting(4, "attention heads in a block", at_least=1, fixed=True)
    n_embd: int = _setting(128, "channels, a multiple of --n-head", at_least=1, fixed=True)
    block_size: int = _setting(64, "tokens that the model sees at once", at_least=1, fixed=True)
    dropout: float = _setting(0.0, "share of activations dropped in training", at_least=0, below=1)

    batch_size: int = _setting(12, "blocks of text in a batch", at_least=1)

    def __post_init__(self):
        super().__post_init__()
        _check_heads(self)


@dataclass(frozen=True)
class TransformerTrainConfig(TrainConfig):
    """A Transformer that learns to translate from pairs of sentences.

    The defaults suit the few short pairs that are learned without --pairs. Longer sentences want a larger model and
    --tokenizer bpe.
    """

    model: ClassVar[str] = "transformer"

    out: str = _setting("runs/transformer", "the folder of the run", metavar="DIR")
    pairs: str = _setting(
        "", "lines to learn from: source TAB target (default: emoji names, English and Spanish)", metavar="FILE"
    )
    val_pairs: str = _setting("", "pairs to validate on (default: a tenth of those to learn from)", metavar="FILE")

    # How the text becomes tokens
    tokenizer: str = _setting("word", "what a token is: a character, a byte, ...", choices=TOKENIZERS, fixed=True)
    vocab_size: int = _setting(10_000, "how many tokens bpe and word may have", at_least=257, fixed=True)

    # The shape of the model
    n_layer: int = _setting(2, "transformer blocks", at_least=1, fixed=True)
    n_head: int = _setting(4, "attention heads in a block", at_least=1, fixed=True)
    n_embd: int = _setting(128, "channels, a multiple of --n-head", at_least=1, fixed=True)
    block_size: int = _setting(128, "tokens that the model sees at once", at_least=1, fixed=True)
    pre_norm: bool = _setting(False, "layer norm before each part of a block, not after it", fixed=True)
    untied: bool = _setting(False, "tables of their own for source, target and output", fixed=True)
    dropout: float = _setting(0.1, "share of activations dropped in training", at_least=0, below=1)
    embeddings: str = _setting("", "vectors to begin with: word2vec, GloVe, FastText", metavar="FILE", fixed=True)
    freeze_embeddings: bool = _setting(False, "leave those vectors as they are", fixed=True)

    # The training
    batch_tokens: int = _setting(1000, "tokens in a batch, on the longer side, padding included", at_least=1)
    label_smoothing: float = _setting(0.1, "share of the truth that is spread over all words", at_least=0, below=1)
    steps: int = _setting(1200, "optimizer steps in all", at_least=1)
    min_lr: float = _setting(1e-5, "learning rate at the end of the cosine", at_least=0)
    weight_decay: float = _setting(0.01, "AdamW's decay of the matrices", at_least=0)
    beta2: float = _setting(0.98, "AdamW's memory of its square", at_least=0, below=1)

    def __post_init__(self):
        super().__post_init__()
        _check_heads(self)
        if self.val_pairs and not self.pairs:
            raise ValueError("--val-pairs is given without --pairs; give the pairs to learn from too")
        if self.freeze_embeddings and not self.embeddings:
            raise ValueError("--freeze-embeddings is given without --embeddings; give a file of word vectors")


@dataclass(frozen=True)
class Word2VecTrainConfig(TrainConfig):
    """Word vectors, learned from a text by skip-gram with negative sampling. The defaults suit a text of a megabyte."""

    model: ClassVar[str] = "word2vec"

    out: str = _setting("runs/word2vec", "the folder of the run", metavar="DIR")
    text: tuple = _setting((), "UTF-8 text to learn from, repeat for more (default: Python's manual)", metavar="FILE")

    # The model
    dim: int = _setting(100, "numbers in a word's vector", at_least=1, fixed=True)
    min_count: int = _setting(5, "how often a word must occur to have a vector", at_least=1, fixed=True)

    # What it is asked
    window: int = _setting(5, "how many words away a neighbour may be", at_least=1)
    negatives: int = _setting(5, "words drawn at random for each pair of neighbours", at_least=1)
    subsample: float = _setting(1e-4, "words with a larger share of the text are thinned out", at_least=1e-6)

    # The training
    batch_words: int = _setting(4096, "words of text in a batch", at_least=1)
    steps: int = _setting(1500, "optimizer steps in all", at_least=1)
    lr: float = _setting(7e-3, "learning rate after the warm-up", above=0)
    min_lr: float = _setting(7e-4, "learning rate at the end of the cosine", at_least=0)
    weight_decay: float = _setting(0.0, "AdamW's decay of the matrices", at_least=0)


@dataclass(frozen=True)
class ClassifierTrainConfig(TrainConfig):
    """A pre-trained GPT that learns to label texts. Its shape and its tokens are those it was pre-trained with."""

    model: ClassVar[str] = "classifier"

    out: str = _setting("runs/classifier", "the folder of the run", metavar="DIR")
    pretrained: str = _setting("", None, fixed=True)  # the folder of a GPT's run; autotx finetune takes it as --model
    labels: str = _setting("", "labelled texts to learn from, in lines: text TAB label", metavar="FILE")
    held_out: str = _setting("", "labelled texts to measure on (default: a share of --labels)", metavar="FILE")
    held_out_share: float = _setting(0.2, "that share, the same of every label", above=0, below=1, fixed=True)
    from_scratch: bool = _setting(False, "begin with random weights: is the pre-training worth anything?", fixed=True)

    # The training
    lm_weight: float = _setting(0.5, "the weight of the language model's loss beside the labels'", at_least=0)
    dropout: float = _setting(0.1, "share of activations dropped in training", at_least=0, below=1)
    batch_size: int = _setting(32, "texts in a batch", at_least=1)
    steps: int = _setting(100, "optimizer steps in all", at_least=1)
    lr: float = _setting(5e-4, "learning rate after the warm-up", above=0)
    min_lr: float = _setting(0.0, "learning rate at the end of the cosine", at_least=0)
    warmup_steps: int = _setting(10, "steps in which the learning rate rises", at_least=0)
    weight_decay: float = _setting(0.01, "AdamW's decay of the matrices", at_least=0)
    eval_interval: int = _setting(25, "steps between validations; each one saves a checkpoint", at_least=1)
    eval_batches: int = _setting(40, "batches for the validation loss; the accuracy is of all", at_least=1)

    def __post_init__(self):
        super().__post_init__()
        if not self.pretrained:
            raise ValueError("no pre-trained model is given; give the folder of its run by --model DIR")
        if not self.labels:
            raise ValueError("no labelled texts are given; give a file of them by --labels FILE")


_KINDS = (GPTTrainConfig, TransformerTrainConfig, Word2VecTrainConfig, ClassifierTrainConfig)
CONFIGS = {kind.model: kind for kind in _KINDS}


def read_config(folder):
    """The settings of the run in a folder. ValueError for an unknown key or a value that makes no sense."""
    path = Path(folder) / FILE
    saved = read_json(path)
    kind = CONFIGS.get(saved.pop("model", None))
    if kind is None:
        raise ValueError(f"{path} does not say what kind of model it is for: model should be {' or '.join(CONFIGS)}")
    known = {f.name for f in dataclasses.fields(kind)} - {"resume"}
    unknown = sorted(saved.keys() - known)
    if unknown:
        raise ValueError(f"{path} has settings that autotx does not know: {', '.join(unknown)}")
    try:
        return kind(**saved)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


def add_flags(parser, *kinds):
    """A flag for every field of some kinds of TrainConfig. A flag that was not given leaves no trace in parse_args."""
    types = {int: {"type": int, "metavar": "N"}, float: {"type": float, "metavar": "X"}, str: {"metavar": "NAME"}}
    fields = {}
    for kind in kinds:
        for f in dataclasses.fields(kind):
            fields.setdefault(f.name, {})[kind.model] = f
    for name, found in fields.items():
        f = next(iter(found.values()))
        if f.metadata["help"] is None:  # the command has a flag of its own for it
            continue
        how = {"help": f.metadata["help"], "default": argparse.SUPPRESS}
        if f.type is bool:
            how["action"] = "store_true"
        elif f.type is tuple:
            how["action"] = "append"
        else:
            how |= types[f.type]
        if len(found) < len(kinds):
            how["help"] += f"; only for {' and '.join(found)}"
        how["help"] += _default(found)
        if "choices" in f.metadata:
            how |= {"choices": f.metadata["choices"], "metavar": "|".join(f.metadata["choices"])}
        elif "metavar" in f.metadata:
            how["metavar"] = f.metadata["metavar"]
        parser.add_argument(flag(name), **how)


def _default(found):
    """The default in words, of a field that has one for each kind of model. Flags and empty texts have none."""
    defaults = {kind: f.default for kind, f in found.items() if f.type is not bool and f.default not in ((), "")}
    values = list(dict.fromkeys(defaults.values()))
    if not values:
        return ""
    each = [str(values[0])] if len(values) == 1 else [f"{value} for {kind}" for kind, value in defaults.items()]
    return f" (default: {', '.join(each)})"


def make_config(kind, given, saved=None):
    """The settings of one kind of training. given: {field: value}, of any kind. saved: those of a resumed run.

    ValueError for a setting of another kind, and for one that the chosen optimizer or schedule does not use.
    """
    names = {f.name for f in dataclasses.fields(kind)}
    wrong = [flag(name) for name in given if name not in names]
    if wrong:
        raise ValueError(f"{wrong[0]} is no setting of a {kind.model}; leave it out, or give another --model")
    config = kind(**{**(saved or {}), **given})
    for field_name, choices in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
        chosen = getattr(config, field_name)
        unused = {name for choice in choices.values() for name in choice.uses} - {*choices[chosen].uses}
        for name in given:
            if name in unused:
                raise ValueError(f"{flag(name)} is not used by {flag(field_name)} {chosen}; leave it out")
    return config


def flag(name):
    """The flag of a field: n_layer -> --n-layer."""
    return "--" + name.replace("_", "-")


def _check(f, value):
    """The type and the limits of one field. ValueError, naming its flag."""
    limits, name = f.metadata, flag(f.name)
    accepted = (int, float) if f.type is float else f.type
    if not isinstance(value, accepted) or (isinstance(value, bool) and f.type is not bool):
        raise ValueError(f"{name} {value!r} should be of type {f.type.__name__}")
    if f.type is float and not math.isfinite(value):
        raise ValueError(f"{name} {value} should be a finite number")
    wrong = {
        "at_least": lambda limit: value < limit,
        "above": lambda limit: value <= limit,
        "at_most": lambda limit: value > limit,
        "below": lambda limit: value >= limit,
        "choices": lambda limit: value not in limit,
    }
    for word, limit in limits.items():
        if word in wrong and wrong[word](limit):
            allowed = f"one of {', '.join(limit)}" if word == "choices" else f"{word.replace('_', ' ')} {limit}"
            raise ValueError(f"{name} {value} should be {allowed}")


def _check_heads(config):
    if config.n_embd % config.n_head:
        raise ValueError(f"--n-embd {config.n_embd} is not a multiple of --n-head {config.n_head}; choose one that is")

"""The settings of a training run: one dataclass is the flags, their help, their checks and the run's config.json."""

import argparse
import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path

from autotx.checkpoint import read_json, to_json
from autotx.models.tokenizers import KINDS

FILE = "config.json"


def _setting(default, text, **limits):
    """A field with its help text and its limits: at_least, above, at_most, below, or choices."""
    return field(default=default, metadata={"help": text, **limits})


@dataclass(frozen=True)
class TrainConfig:
    """ValueError when a value makes no sense.

    The defaults are nanoGPT's recipe for a small GPT on a CPU, but for the steps, of which that has 2,000: a first run,
    which compiles the kernels too, should not take longer than a cup of tea.
    """

    # What is read and where the run goes
    text: tuple = _setting((), "a UTF-8 text file to learn from, repeat for more (default: Python's own manual)")
    out: str = _setting("runs/gpt", "the folder of the run")
    resume: bool = _setting(False, "go on with the run in --out: its settings are kept, those given now replace them")
    seed: int = _setting(1337, "where all randomness starts; the same seed gives the same run", at_least=0)

    # How the text becomes tokens
    tokenizer: str = _setting("char", "what a token is: a character, a byte, or a piece of a word", choices=KINDS)
    vocab_size: int = _setting(1024, "how many tokens bpe may have", at_least=257)

    # The shape of the model
    n_layer: int = _setting(4, "transformer blocks", at_least=1)
    n_head: int = _setting(4, "attention heads in a block", at_least=1)
    n_embd: int = _setting(128, "channels, a multiple of --n-head", at_least=1)
    block_size: int = _setting(64, "tokens that the model sees at once", at_least=1)
    dropout: float = _setting(0.0, "share of activations dropped in training", at_least=0, below=1)

    # The training
    steps: int = _setting(1250, "optimizer steps in all", at_least=1)
    batch_size: int = _setting(12, "blocks of text in a batch", at_least=1)
    grad_accum: int = _setting(1, "batches whose gradients are averaged for one step", at_least=1)
    lr: float = _setting(1e-3, "learning rate after the warm-up", above=0)
    min_lr: float = _setting(1e-4, "learning rate at the end of the cosine", at_least=0)
    warmup_steps: int = _setting(100, "steps in which the learning rate rises", at_least=0)
    weight_decay: float = _setting(0.1, "AdamW's decay of the matrices", at_least=0)
    beta1: float = _setting(0.9, "AdamW's memory of the gradient", at_least=0, below=1)
    beta2: float = _setting(0.99, "AdamW's memory of its square", at_least=0, below=1)
    grad_clip: float = _setting(1.0, "largest norm of the gradient, 0 for no limit", at_least=0)

    # How often it is looked at
    eval_interval: int = _setting(250, "steps between validations; each one saves a checkpoint", at_least=1)
    eval_batches: int = _setting(40, "batches in a validation", at_least=1)

    def __post_init__(self):
        if isinstance(self.text, str):
            raise ValueError(f"--text {self.text!r} should be a list of files")
        object.__setattr__(self, "text", tuple(map(str, self.text)))
        for f in dataclasses.fields(self):
            _check(f, getattr(self, f.name))
        if self.n_embd % self.n_head:
            raise ValueError(f"--n-embd {self.n_embd} is not a multiple of --n-head {self.n_head}; choose one that is")
        if self.min_lr > self.lr:
            raise ValueError(f"--min-lr {self.min_lr:g} is above --lr {self.lr:g}; it is where the learning rate ends")

    def to_bytes(self):
        """The content of config.json. Only --resume is left out: it is about one call, not about the run."""
        return to_json({name: value for name, value in dataclasses.asdict(self).items() if name != "resume"})


def read_config(folder):
    """The settings of the run in a folder. ValueError for an unknown key or a value that makes no sense."""
    path = Path(folder) / FILE
    saved = read_json(path)
    known = {f.name for f in dataclasses.fields(TrainConfig)} - {"resume"}
    unknown = sorted(saved.keys() - known)
    if unknown:
        raise ValueError(f"{path} has settings that autotx does not know: {', '.join(unknown)}")
    try:
        return TrainConfig(**saved)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


def add_flags(parser):
    """A flag for every field. A flag that was not given leaves no trace in the result of parse_args."""
    kinds = {int: {"type": int, "metavar": "N"}, float: {"type": float, "metavar": "X"}, str: {"metavar": "DIR"}}
    for f in dataclasses.fields(TrainConfig):
        how = {"help": f.metadata["help"], "default": argparse.SUPPRESS}
        if f.type is bool:
            how["action"] = "store_true"
        elif f.type is tuple:
            how |= {"action": "append", "metavar": "FILE"}
        else:
            how |= kinds[f.type]
            how["help"] += f" (default: {f.default})"
        if "choices" in f.metadata:
            how |= {"choices": f.metadata["choices"], "metavar": "|".join(f.metadata["choices"])}
        parser.add_argument(flag(f.name), **how)


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

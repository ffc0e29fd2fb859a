"""The settings of training runs. One dataclass gives the flags, their help, their checks and the run's config.json.

A run has the settings of every training (TrainConfig), of its task (tasks/) and of its architecture (architecture.py).
"""

import argparse
import dataclasses
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from autotx.files import to_json
from autotx.models.optimizers import OPTIMIZERS, SCHEDULES
from autotx.modes import DTYPES

FILE = "config.json"
LARGEST = (1 << 63) - 1  # of a seed


def setting(default: Any, text: str | None, **limits: Any) -> Any:
    """A field with its help text and its limits: at_least, above, at_most, below, or choices.

    fixed: a resumed run cannot change it, because the model's shape, its tokens or its random numbers depend on it.
    replaced_by: the name of a setting beside which it has no use, and is refused.
    """
    return field(default=default, metadata={"help": text, **limits})


@dataclass(frozen=True)
class Settings:
    """Settings, each field made by `setting`. ValueError for a value of another type or outside its limits."""

    defaults: ClassVar[dict] = {}  # {name: default} for inherited fields, applied by registry.settings_of

    def __post_init__(self):
        for f in dataclasses.fields(self):
            if f.type is tuple:
                value = getattr(self, f.name)
                if not isinstance(value, list | tuple) or not all(isinstance(path, str | Path) for path in value):
                    raise ValueError(f"{flag(f.name)} {value!r} should be a list of files")
                object.__setattr__(self, f.name, tuple(map(str, value)))
            _check(f, getattr(self, f.name))


@dataclass(frozen=True)
class TrainConfig(Settings):
    """The settings of every training. Each task adds its own settings and defaults."""

    # Set by registry.settings_of
    architecture: ClassVar[Any]
    task: ClassVar[Any]
    kind: ClassVar[str]  # the name of the trained model, see architecture.kind_of
    label: ClassVar[str]  # what help texts call these settings: the kind, or the flag that asks for them

    init: ClassVar[str] = ""  # the trained model to begin with; a field in tasks that need one

    # Where the run goes
    out: str = setting("", "the folder of the run", metavar="DIR")
    resume: bool = setting(False, "go on with the run in --out: its settings are kept, those given now replace them")
    seed: int = setting(
        1337, "where all randomness starts; the same seed gives the same run", at_least=0, at_most=LARGEST, fixed=True
    )

    # The training
    steps: int = setting(1250, "optimizer steps in all", at_least=1, at_most=10**9)
    grad_accum: int = setting(1, "batches whose gradients are averaged for one step", at_least=1, at_most=1 << 16)
    optimizer: str = setting("adamw", "how gradients change the weights", choices=OPTIMIZERS, fixed=True)
    schedule: str = setting("cosine", "how the learning rate goes on after the warm-up", choices=SCHEDULES)
    lr: float = setting(1e-3, "learning rate after the warm-up, the largest", above=0, at_most=1e30)
    min_lr: float = setting(1e-4, "learning rate at the end of the cosine", at_least=0, at_most=1e30)
    warmup_steps: int = setting(100, "steps in which the learning rate rises", at_least=0, at_most=10**9)
    weight_decay: float = setting(0.1, "decay of the matrices, for adamw", at_least=0, at_most=1000)
    beta1: float = setting(0.9, "memory of the gradient, for adamw and adam", at_least=0, below=1)
    beta2: float = setting(0.99, "memory of its square, for adamw, adam and rmsprop", at_least=0, below=1)
    momentum: float = setting(0.0, "memory of the gradient, for sgd", at_least=0, below=1, fixed=True)
    grad_clip: float = setting(1.0, "largest norm of the gradient, 0 for no limit", at_least=0, at_most=1e30)

    dtype: str = setting(
        "float32", "in what matrix products are computed; bfloat16 rounds their factors", choices=DTYPES
    )
    recompute: bool = setting(False, "compute each block again for backward: less memory, a quarter more time")

    # Validation and statistics
    eval_interval: int = setting(
        250, "steps between validations; each one saves a checkpoint", at_least=1, at_most=10**9
    )
    save_minutes: float = setting(
        10.0, "minutes after which a checkpoint is due, 0: only at validations", at_least=0, at_most=1e6
    )
    keep: int = setting(0, "checkpoints to keep beside the newest, the last ones", at_least=0, at_most=10**6)
    keep_best: bool = setting(False, "keep the checkpoint with the smallest validation loss, too")
    tensorboard: bool = setting(False, "also write the log as TensorBoard's event files, in the folder tensorboard")
    eval_batches: int = setting(40, "batches in a validation", at_least=1, at_most=10_000)
    stats_interval: int = setting(
        0, "steps between notes of every layer's size and gradient, 0: none", at_least=0, at_most=10**9
    )

    def __post_init__(self):
        super().__post_init__()
        if self.schedule == "noam" and not self.warmup_steps:
            raise ValueError("--schedule noam is not defined for --warmup-steps 0; give 1 or more")
        if self.schedule == "cosine" and self.min_lr > self.lr:
            raise ValueError(f"--min-lr {self.min_lr:g} is above --lr {self.lr:g}; it is where the learning rate ends")

    def to_bytes(self) -> bytes:
        """The content of config.json: all settings but `resume`, which is about one call and not about the run."""
        settings = {name: value for name, value in dataclasses.asdict(self).items() if name != "resume"}
        names = {"model": self.kind, "architecture": self.architecture.name, "task": self.task.name}
        return to_json({**names, **settings})


def add_flags(parser: argparse.ArgumentParser, *kinds: type[Any]) -> None:
    """Add a flag for every field of the classes `kinds`, which registry.settings_of made.

    The result of parse_args has no attribute for a flag that was not given.
    """
    types = {int: {"type": int, "metavar": "N"}, float: {"type": float, "metavar": "X"}, str: {"metavar": "NAME"}}
    fields = {}
    for kind in kinds:
        for f in dataclasses.fields(kind):
            fields.setdefault(f.name, {})[kind.label] = f
    for name, found in fields.items():
        f = next(iter(found.values()))
        if f.metadata["help"] is None:  # the command adds this flag itself
            continue
        how = {"help": f.metadata["help"], "default": argparse.SUPPRESS}
        if f.type is bool:
            how["action"] = "store_true"
        elif f.type is tuple:
            how["action"] = "append"
        else:
            how |= types[f.type]
        if len(found) < len(kinds) and flag(name) not in found:
            how["help"] += f"; only for {' and '.join(found)}"
        how["help"] += _default(found)
        if "choices" in f.metadata:
            how |= {"choices": f.metadata["choices"], "metavar": "|".join(f.metadata["choices"])}
        elif "metavar" in f.metadata:
            how["metavar"] = f.metadata["metavar"]
        parser.add_argument(flag(name), **how)


def _default(found):
    """The default for a help text. found: {kind of model: field}. Empty for booleans, empty texts and empty lists."""
    defaults = {kind: f.default for kind, f in found.items() if f.type is not bool and f.default not in ((), "")}
    values = list(dict.fromkeys(defaults.values()))
    if not values:
        return ""
    each = [str(values[0])] if len(values) == 1 else [f"{value} for {kind}" for kind, value in defaults.items()]
    return f" (default: {', '.join(each)})"


def flag(name: str) -> str:
    """The flag of a field: n_layer -> --n-layer."""
    return "--" + name.replace("_", "-")


def _check(f, value):
    """Check the type and the limits of one field. ValueError, naming its flag."""
    name = flag(f.name)
    accepted = (int, float) if f.type is float else f.type
    if not isinstance(value, accepted) or (isinstance(value, bool) and f.type is not bool):
        raise ValueError(f"{name} {value!r} should be of type {f.type.__name__}")
    check_limits(name, value, **f.metadata)


def check_limits(name: str, value: Any, **limits: Any) -> None:
    """Check the value of a flag, None for one that was not given. ValueError, naming the flag.

    limits: at_least, above, at_most, below, or choices.
    """
    if value is None:
        return
    if isinstance(value, float) and not math.isfinite(value):
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

"""What a network is to the commands, and what they get of one that was read from a file."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from autotx.models.config import Settings, setting


@dataclass(frozen=True)
class Architecture(Settings):
    """A kind of network. The fields of a subclass are the settings of its shape, which become flags of `autotx train`.

    What else a network must have depends on the task that it learns: each says so in its docstring (see tasks/).
    """

    name: ClassVar[str]  # as --model and config.json call it
    learns: ClassVar[str] = "text"  # the name of the task that it learns
    model: ClassVar[type]  # the class of the network: model(shape, rng); rng=None leaves the weights zero
    shape: ClassVar[type]  # the dataclass of its exact sizes, which the network keeps as .config
    published: ClassVar[Any] = None  # a shape that is known from a paper, for `autotx graph --model NAME`

    def build(self, vocab_size, rng):
        """The network of these settings for so many tokens. rng: draws the weights; None leaves them zero."""
        raise NotImplementedError

    def describe(self):
        """The shape in a few words for the user, where the task asks for it."""
        raise NotImplementedError


@dataclass(frozen=True)
class Blocks(Architecture):
    """What architectures of equal blocks with attention have in common. ValueError when the heads do not fit."""

    n_layer: int = setting(4, "transformer blocks", at_least=1, fixed=True)
    n_head: int = setting(4, "attention heads in a block", at_least=1, fixed=True)
    n_embd: int = setting(128, "channels, a multiple of --n-head", at_least=1, fixed=True)
    block_size: int = setting(64, "tokens that the model sees at once", at_least=1, fixed=True)
    dropout: float = setting(0.0, "share of activations dropped in training", at_least=0, below=1)

    def __post_init__(self):
        super().__post_init__()
        if self.n_embd % self.n_head:
            raise ValueError(f"--n-embd {self.n_embd} is not a multiple of --n-head {self.n_head}; choose one that is")


@dataclass(frozen=True)
class Opened:
    """A trained model, and what is known of it."""

    path: Path
    architecture: type  # of Architecture
    task: type  # what it learned: a Task
    model: Any
    tokenizer: Any = None
    config: Any = None  # the settings of its run; None when it was trained elsewhere
    known: dict = field(default_factory=dict)  # what else the task needs, such as the names of the labels

    @property
    def kind(self):
        return kind_of(self.architecture, self.task)


def kind_of(architecture, task):
    """What a model is called: by its architecture, or by what the task makes of one, such as a classifier."""
    return task.makes or architecture.name

"""An architecture: the settings of a kind of network and how it is built. Opened: a trained model from a file."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from autotx.models.config import Settings, setting
from autotx.types import Rng

LARGEST_MODEL = 10**10  # weights


@dataclass(frozen=True)
class Architecture(Settings):
    """A kind of network. The fields of a subclass are the settings of its shape, which become flags of `autotx train`.

    The docstring of each task (see tasks/) lists the methods that a network needs to learn it.
    """

    name: ClassVar[str]  # in --model and config.json
    learns: ClassVar[str] = "text"  # the name of the task that it learns
    model: ClassVar[type]  # the class of the network: model(shape, rng); rng=None leaves the weights zero
    shape: ClassVar[type]  # the dataclass of its sizes, an instance of which is the network's .config
    published: ClassVar[Any] = None  # the shape in a paper, for `autotx graph --model NAME`

    def build(self, vocab_size: int, rng: Rng) -> Any:
        """The network with these settings and vocab_size tokens. rng: draws the weights; None leaves them zero."""
        raise NotImplementedError

    def describe(self) -> str:
        """The shape in a few words, for the user; only some tasks call it."""
        raise NotImplementedError

    @staticmethod
    def fewest_weights(shape: Any, vocab_size: int) -> int:
        """A number of weights that a network of this shape has at least. A file with fewer is refused before the
        network is built, which could take much time and memory. shape: settings of the architecture, or its `shape`."""
        return 0


@dataclass(frozen=True)
class Blocks(Architecture):
    """Settings of architectures of equal blocks with attention. ValueError when n_head does not divide n_embd."""

    n_layer: int = setting(4, "transformer blocks", at_least=1, at_most=1000, fixed=True)
    n_head: int = setting(4, "attention heads in a block", at_least=1, at_most=1000, fixed=True)
    n_embd: int = setting(128, "channels, a multiple of --n-head", at_least=1, at_most=1 << 16, fixed=True)
    block_size: int = setting(64, "tokens that the model sees at once", at_least=1, at_most=1 << 16, fixed=True)
    dropout: float = setting(0.0, "share of activations dropped in training", at_least=0, below=1)

    def __post_init__(self):
        super().__post_init__()
        if self.n_embd % self.n_head:
            raise ValueError(f"--n-embd {self.n_embd} is not a multiple of --n-head {self.n_head}; choose one that is")
        weights = self.fewest_weights(self, 0)
        if weights > LARGEST_MODEL:
            sizes = f"--n-layer {self.n_layer}, --n-embd {self.n_embd} and --block-size {self.block_size}"
            raise ValueError(f"{sizes} make {weights:,} weights, more than {LARGEST_MODEL:,}; make one smaller")

    @staticmethod
    def fewest_weights(shape: Any, vocab_size: int) -> int:
        """The token table, and in each block four matrices C x C in attention and eight in the feed-forward net."""
        return (vocab_size + 12 * shape.n_layer * shape.n_embd) * shape.n_embd


@dataclass(frozen=True)
class Opened:
    """A trained model that was read from a file, and what the file says about it."""

    path: Path
    architecture: type[Architecture]
    task: Any  # what it learned: a subclass of Task
    model: Any
    tokenizer: Any = None
    config: Any = None  # the settings of its run; None when it was trained elsewhere
    known: dict = field(default_factory=dict)  # what else the task needs, such as the names of the labels

    @property
    def kind(self) -> str:
        return kind_of(self.architecture, self.task)


def kind_of(architecture: type[Architecture], task: Any) -> str:
    """The name of a kind of model: what the task makes, such as a classifier, or else the architecture's name."""
    return task.makes or architecture.name

"""The base class of tasks: what the training loop and the commands call."""

import itertools
import math
from typing import Any

import numpy as np

from autotx.models.architecture import Opened
from autotx.models.comm import ALONE
from autotx.models.config import flag
from autotx.models.run import MODEL, check_size
from autotx.models.tokenizers import load_tokenizer
from autotx.models.vectors import WordVectors, words_of
from autotx.modes import no_grad

LARGEST_STEP = 1 << 24  # tokens, texts or scores in a step; such a step takes hours
MOST_TIMED = 1 << 14  # tokens in a batch whose parts are timed; with more, the shares of the parts are the same


class Task:
    """A model and the data that it learns from.

    A subclass sets in __init__(config, rng, begin): `model`, a Module, its weights drawn from rng; `digest`, a str that
    changes when the data change, which a resumed run compares; `tokenizer`, if it has one.
    config: the settings of the run. begin: the Opened model to begin with, which is the one of the resumed run or of
    config.init; None for a new model.
    """

    name = None  # in config.json
    settings = None  # the dataclass of its settings, a subclass of TrainConfig
    makes = None  # what it makes of a trained model, such as a classifier; None when it trains a new one
    made_by = "autotx train"  # the command that trains it
    stride = 0  # how far the place in the data advances in a step; 0 when batches are drawn at random
    flag = None  # of autotx train, that asks for it; None when --model does
    begins = False  # whether it begins with a trained model, config.init, whose shape it takes
    specials = 0  # the number of special tokens, whose ids come before those of the tokenizer
    tokenizer = None
    file = MODEL  # of the checkpoint, with the weights
    model: Any
    digest: str

    flop: Any = None  # (batch) -> the FLOP of a training step on it, for the log; None when they are not counted

    # What commands do with a trained model: static methods, None for those that its task does not offer.
    example_loss = None  # (model) -> the loss of one short example, to draw its graph
    timed_loss = None  # (model, config) -> (function that computes the loss of a random batch, its rows, its columns)
    replay = None  # (model, tokenizer, prompt, target=None) -> (a loss, arguments of viz.page: title, about, rows)

    def __init__(self, config):
        self.config = config

    @classmethod
    def rebuild(cls, config, folder):
        """The model of a run's folder as an Opened, its weights zero. ValueError or OSError for a bad folder."""
        tokenizer = load_tokenizer(folder)
        vocab_size = cls.specials + tokenizer.vocab_size
        check_size(folder, config.architecture, config, vocab_size)
        model = config.build(vocab_size, None)
        return Opened(folder, config.architecture, cls, model, tokenizer, config)

    @classmethod
    def resumed(cls, config, folder):
        """The Opened model that a resumed run begins with; None for that of config.init, or a new one. Its weights are
        loaded later."""
        return cls.rebuild(config, folder)

    @classmethod
    def word_vectors(cls, opened):
        """The WordVectors of a model: here the rows of its token table, `wte`.

        Of tokens that differ only in the space before the word, the one with the lower id is used. Words are in the
        order of their ids.
        """
        rows: dict[str, int] = {}
        for row, word in enumerate(words_of(opened.tokenizer)):
            if word:
                rows.setdefault(word, row)
        table = opened.model.wte.weight.data[cls.specials :]
        return WordVectors(rows, table[list(rows.values())])

    def batches(self, place, rng):
        """The batches of one optimizer step, config.grad_accum of them.

        place: where in the data they begin, an int; `stride` is added to it after each step. It is saved with the run,
        so that a run that is resumed with another batch size continues at the same place.
        rng: numpy.random.Generator, saved with the run.
        """
        raise NotImplementedError

    def count(self, batch):
        """The number of targets in the mean loss of a batch, an int above 0: its weight among the batches of a step."""
        raise NotImplementedError

    def tokens(self, batch):
        """The number of tokens in a batch, for the speed that is shown."""
        return self.count(batch)

    def loss(self, batch, rng=None):
        """The mean loss over the targets of a batch, a Tensor of one number. rng: draws the dropout, None for none."""
        raise NotImplementedError

    def validation(self):
        """An iterator of batches of the validation data, the same ones at every call."""
        raise NotImplementedError

    def validate(self, comm=ALONE):
        """Metrics of the model, a dict: "val_loss", the mean loss over all targets of `validation`.

        comm: the processes that share out the batches.
        """
        sums = np.zeros(2)  # of the losses, and of the targets
        with no_grad():
            for batch in itertools.islice(self.validation(), comm.rank, None, comm.size):
                count = self.count(batch)
                sums += self.loss(batch).item() * count, count
        comm.sum(sums)
        return {"val_loss": float(sums[0] / sums[1])}

    def save(self, folder):
        """Write the files that the model needs besides its weights: the tokenizer."""
        if self.tokenizer is not None:
            self.tokenizer.save(folder)

    def weights(self):
        """The weights for the checkpoint, a dict of arrays."""
        return self.model.state_dict()

    def load(self, weights, state):
        """Set the weights to those of a checkpoint. state: its state.json. ValueError: it does not fit."""
        self.model.load_state_dict(weights)

    def state(self):
        """What state.json keeps about the data, a dict of JSON values."""
        return {"data_sha256": self.digest}

    def export(self, folder):
        """Write files for other programs, after each checkpoint. By default none."""

    def introduction(self):
        """Lines about the data and the model for the user, each a (heading, text)."""
        raise NotImplementedError

    def show(self):
        """Print something that the trained model can do."""

    def next_commands(self, out):
        """Command lines that use the trained model. out: the run folder, quoted for a shell."""
        return []


def check_product(what, config, *names):
    """ValueError if the product of settings, which is the size of a step, is above LARGEST_STEP. what: its unit."""
    values = [getattr(config, name) for name in names]
    if math.prod(values) > LARGEST_STEP:
        given = " × ".join(f"{flag(name)} {value}" for name, value in zip(names, values))
        raise ValueError(f"{given} are {math.prod(values):,} {what}, more than {LARGEST_STEP:,}; make one smaller")


def checked_text(flag, ids, unknown, most):
    """The ids of a text that a flag gave. ValueError when there are unknown words, or more than `most` ids."""
    if unknown:
        raise ValueError(f"{flag}: the model has never seen {', '.join(map(repr, unknown))}; leave that out")
    if len(ids) > most:
        raise ValueError(f"{flag}: {len(ids)} tokens are more than the {most} that the model reads at once; cut it")
    return ids

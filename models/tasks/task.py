"""What the training loop and the commands ask of a task: data, a loss, a few words for the user, and its pictures."""

from autotx.models.architecture import Opened
from autotx.models.tokenizers import load_tokenizer
from autotx.models.vectors import WordVectors, words_of
from autotx.modes import no_grad


class Task:
    """Something to learn: a model, and data that it learns from.

    A task sets, in __init__(config, rng, begin), `model` (a Module, its weights drawn from rng) and `digest` (a str by
    which a resumed run knows that its data are still the same); `tokenizer` if it has one. config: the settings of the
    run. begin: the Opened model to begin with, that of the run that is resumed or the one of config.pretrained; None
    for a new one.
    """

    name = None  # as config.json calls it
    settings = None  # the dataclass of its settings, a TrainConfig
    makes = None  # what it makes of a trained model, such as a classifier; None when it trains a new one
    made_by = "autotx train"  # the command that trains it
    stride = 0  # how far the place in the data advances in a step; 0 where it does not matter, as batches are drawn
    specials = 0  # how many ids stand for no text; they come before those of the tokenizer
    tokenizer = None

    # What the commands can do with a model that has learned it, static methods; None when they cannot.
    example_loss = None  # (model) -> the loss of one short example, for a picture of its graph
    timed_loss = None  # (model, config) -> (function that makes the loss of a random batch, its rows, its columns)
    replay = None  # (model, tokenizer, prompt, target=None) -> (a loss, and what viz.page is told: title, about, rows)

    def __init__(self, config):
        self.config = config

    @classmethod
    def rebuild(cls, config, folder):
        """The model of a run's folder as an Opened, its weights zero. ValueError or OSError when a file is missing."""
        tokenizer = load_tokenizer(folder)
        model = config.build(cls.specials + tokenizer.vocab_size, None)
        return Opened(folder, config.architecture, cls, model, tokenizer, config)

    @classmethod
    def resumed(cls, config, folder):
        """What a run that is resumed begins with: the Opened model of its folder, its weights to be restored."""
        return cls.rebuild(config, folder)

    @classmethod
    def word_vectors(cls, opened):
        """The WordVectors of a model: here the rows of its table of tokens, `wte`.

        Tokens that are the same word, with and without a space before it, count once, the one with the lower id.
        """
        words = words_of(opened.tokenizer)
        rows = {word: row for row, word in reversed(list(enumerate(words))) if word}
        table = opened.model.wte.weight.data[cls.specials :]
        return WordVectors(rows, table[list(rows.values())])

    def batches(self, place, rng):
        """The batches of one optimizer step, config.grad_accum of them.

        place: where in the data they begin, an int, saved with the run; the next step's is `stride` more. So a run that
        is resumed with batches of another size goes on where it was. rng: a Generator, saved with the run.
        """
        raise NotImplementedError

    def count(self, batch):
        """How many targets of a batch count, an int above 0: its weight among the batches of a step."""
        raise NotImplementedError

    def tokens(self, batch):
        """How many tokens a batch holds, for the speed that is shown."""
        return self.count(batch)

    def loss(self, batch, rng=None):
        """The mean loss over the targets that count, a Tensor of one number. rng: draws the dropout, None for none."""
        raise NotImplementedError

    def validation(self):
        """An iterator of batches that are never learned from, the same ones every time."""
        raise NotImplementedError

    def validate(self):
        """Figures of how good the model is, a dict: "val_loss", the mean loss over all targets of `validation`."""
        total = targets = 0
        with no_grad():
            for batch in self.validation():
                count = self.count(batch)
                total += self.loss(batch).item() * count
                targets += count
        return {"val_loss": total / targets}

    def save(self, folder):
        """Write what the model needs, beside its weights, to be used: the tokenizer."""
        if self.tokenizer is not None:
            self.tokenizer.save(folder)

    def state(self):
        """What a checkpoint keeps of the data, in its state.json: a dict of what JSON can hold."""
        return {"data_sha256": self.digest}

    def export(self, folder):
        """Write what other programs can read of the model, after each checkpoint. Nothing, as a rule."""

    def introduction(self):
        """What is learned from, and by which model: lines, each a (heading, text)."""
        raise NotImplementedError

    def show(self):
        """Print something that the trained model can do."""

    def next_commands(self, out):
        """What the user may do now: command lines. out: the run folder, quoted for a shell."""
        return []


def checked_text(flag, ids, unknown, most):
    """The ids of a text that a flag gave. ValueError when it has unknown tokens, or more than `most` tokens."""
    if unknown:
        raise ValueError(f"{flag}: the model has never seen {', '.join(map(repr, unknown))}; leave that out")
    if len(ids) > most:
        raise ValueError(f"{flag}: {len(ids)} tokens are more than the {most} that the model reads at once; cut it")
    return ids

"""What the training loop asks of a kind of training: batches, a loss, and a few words for the user."""

from autotx.modes import no_grad


class Task:
    """A model and what it learns from.

    A kind of training sets, in __init__(config, rng, folder), `model` (a Module, its weights drawn from rng) and
    `digest` (a str by which a resumed run knows that its data are still the same); `tokenizer` if it has one. folder:
    that of the run that is resumed, which holds its tokenizer; None for a new run.
    """

    tokenizer = None

    def __init__(self, config):
        self.config = config

    def batches(self, step, rng):
        """The batches of one optimizer step, config.grad_accum of them. rng: a Generator, saved with the run."""
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

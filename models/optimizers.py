"""The choices of --optimizer and --schedule."""

from collections.abc import Callable
from typing import NamedTuple

from autotx.optim import SGD, Adam, AdamW, RMSprop, constant, decay_groups, noam, warmup_cosine


class Choice(NamedTuple):
    """uses: the fields of TrainConfig that this choice needs and some other choice ignores."""

    uses: tuple
    make: Callable


# make(model, config) returns an Optimizer of the parameters that are not frozen.
OPTIMIZERS = {
    "adamw": Choice(
        ("weight_decay", "beta1", "beta2"),
        lambda model, c: AdamW(decay_groups(model, c.weight_decay), c.lr, (c.beta1, c.beta2)),
    ),
    "adam": Choice(("beta1", "beta2"), lambda model, c: Adam(decay_groups(model, 0.0), c.lr, (c.beta1, c.beta2))),
    "rmsprop": Choice(("beta2",), lambda model, c: RMSprop(decay_groups(model, 0.0), c.lr, alpha=c.beta2)),
    "sgd": Choice(("momentum",), lambda model, c: SGD(decay_groups(model, 0.0), c.lr, c.momentum)),
}

# make(config) returns a function from the step, counted from 0, to the learning rate. Its largest value is config.lr.
SCHEDULES = {
    "cosine": Choice(("min_lr",), lambda c: warmup_cosine(c.lr, c.min_lr, min(c.warmup_steps, c.steps), c.steps)),
    # The paper's factor, 1 / sqrt(n_embd), gives the largest rate 1 / sqrt(n_embd warmup_steps); here it is config.lr.
    "noam": Choice((), lambda c: noam(1, c.warmup_steps, factor=c.lr * c.warmup_steps**0.5)),
    "constant": Choice((), lambda c: constant(c.lr, c.warmup_steps)),
}

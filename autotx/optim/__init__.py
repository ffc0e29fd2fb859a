# The names that users see: those of optimizers.py, without what it imports
from autotx.optim import optimizers
from autotx.optim.optimizers import (
    SGD, Adam, AdamW, Optimizer, RMSprop, clip_grad_norm, constant, decay_groups, noam, warmup_cosine,
)  # fmt: skip

__doc__ = optimizers.__doc__
__all__ = [
    "SGD", "Adam", "AdamW", "Optimizer", "RMSprop", "clip_grad_norm", "constant", "decay_groups", "noam",
    "warmup_cosine",
]  # fmt: skip

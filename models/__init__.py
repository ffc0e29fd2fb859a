"""Models built on autotx."""

from autotx.models.gpt import GPT, GPTConfig
from autotx.models.mlp import MLP

__all__ = ["GPT", "MLP", "GPTConfig"]

"""Models built on autotx."""

from autotx.models.gpt import GPT, GPTConfig
from autotx.models.llama import Llama, LlamaConfig
from autotx.models.mlp import MLP
from autotx.models.transformer import Transformer, TransformerConfig

__all__ = ["GPT", "MLP", "GPTConfig", "Llama", "LlamaConfig", "Transformer", "TransformerConfig"]

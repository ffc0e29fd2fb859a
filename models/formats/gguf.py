"""Language models of llama.cpp as a format: GGUF files of the architectures llama and qwen2.

Names and layouts are those of llama.cpp (gguf-py/gguf/constants.py and convert_hf_to_gguf.py). A setting of the network
that stands in the file and is not in `_config` is refused: the model would compute something else in silence.
"""

from pathlib import Path
from typing import Any

import numpy as np

from autotx.models.architecture import Opened
from autotx.models.formats import weights
from autotx.models.formats.gguf_file import GGUF, MAGIC
from autotx.models.formats.gguf_tokenizer import tokenizer_of
from autotx.models.formats.weights import SAME, chain, joined, reordered, row
from autotx.models.inference.pieces import Matrix
from autotx.models.llama import Llama, LlamaArchitecture, LlamaConfig
from autotx.models.tasks.text import TextTask
from autotx.types import PathLike

NAMES = ("llama", "qwen2")  # of general.architecture
TEMPLATE = "tokenizer.chat_template"


def recognises(path: PathLike) -> bool:
    """A GGUF file begins with these four letters."""
    try:
        with open(path, "rb") as file:
            return file.read(4) == MAGIC
    except OSError:
        return False


def identify(path: PathLike) -> tuple:
    return LlamaArchitecture, TextTask


def read(path: Path) -> Opened:
    file, model, rows = _network(path)
    weights.fill(model, rows, file.tensors, path)
    return _opened(file, model)


def read_reader(path: Path, matrix: type[Matrix]) -> Opened:
    """As `read`, but the model is a LlamaReader with matrices of this class, made one at a time."""
    file, model, rows = _network(path)
    return _opened(file, weights.reader(model, rows, file.tensors, path, matrix))


def _network(path):
    """(the GGUF, a Llama of its shape, whose weights are zero, and how the tensors become its weights)."""
    file = GGUF(path)
    name = file.metadata.get("general.architecture")
    if name not in NAMES:
        raise ValueError(f"{path}: its architecture is {name!r}; autotx reads {' and '.join(NAMES)}")
    config = _config(file, name)
    return file, Llama(config, None), _rows(config, rotated_in_pairs=name == "llama")


def _opened(file, model):
    tokenizer = tokenizer_of(file.metadata, file.path)
    if tokenizer.vocab_size != model.config.vocab_size:
        sizes = f"{tokenizer.vocab_size} tokens, its table of tokens {model.config.vocab_size}"
        raise ValueError(f"{file.path}: its tokenizer has {sizes}; the two should be equal")
    known = {"template": file.metadata.get(TEMPLATE)}
    return Opened(file.path, LlamaArchitecture, TextTask, model, tokenizer, known=known)


def _config(file, name):
    """The LlamaConfig. ValueError for settings that are missing, unknown, or not those of the tensors."""
    given = {key.removeprefix(f"{name}."): v for key, v in file.metadata.items() if key.startswith(f"{name}.")}

    def take(key, kind: Any = int, default=None):
        value = given.pop(key, default)
        if type(value) is not kind:
            raise ValueError(f"{file.path}: {name}.{key} is {value!r}; it should be one {kind.__name__}")
        return value

    scaling = given.pop("rope.scaling.type", "none")
    if scaling != "none":
        raise ValueError(
            f"{file.path}: {name}.rope.scaling.type is {scaling!r}; autotx computes plain rotary positions"
        )
    C, H, L = take("embedding_length"), take("attention.head_count"), take("block_count")
    D = C // max(H, 1)
    sizes = {
        "n_embd": C,
        "n_head": H,
        "n_layer": L,
        "n_kv_head": take("attention.head_count_kv", default=H),
        "n_hidden": take("feed_forward_length"),
        "block_size": take("context_length"),
        "norm_eps": take("attention.layer_norm_rms_epsilon", float),
        "rope_base": take("rope.freq_base", float, 10000.0),
        "bias": name == "qwen2",
        "tied": "output.weight" not in file.tensors,
    }
    if "token_embd.weight" not in file.tensors:
        raise ValueError(f"{file.path}: token_embd.weight is missing")
    V = take("vocab_size", default=file.tensors["token_embd.weight"].shape[0])
    for key, right in {"rope.dimension_count": D, "attention.key_length": D, "attention.value_length": D}.items():
        if take(key, default=D) != right:
            raise ValueError(f"{file.path}: {name}.{key} is not {D}, the channels of a head; autotx reads no others")
    for key in ("expert_count", "expert_used_count"):
        if take(key, default=0):
            raise ValueError(f"{file.path}: {name}.{key} is not 0; autotx reads no mixtures of experts")
    if given:
        raise ValueError(f"{file.path}: {name}.{min(given)} is a setting that autotx does not know")
    _hold(file, C, V, sizes)
    try:
        return LlamaConfig(vocab_size=V, **sizes)
    except ValueError as error:
        raise ValueError(f"{file.path}: {error}") from None


def _hold(file, C, V, sizes):
    """ValueError unless the tensors, which are within the file, have these sizes: the sizes alone could be anything."""
    layers, F = min(sizes["n_layer"], len(file.tensors)), sizes["n_hidden"]
    shapes = {"token_embd.weight": (V, C)} | {f"blk.{i}.ffn_up.weight": (F, C) for i in range(layers)}
    for name, shape in shapes.items():
        found = file.tensors.get(name)
        if found is None or found.shape != shape:
            there = "is missing" if found is None else f"has shape {found.shape}"
            raise ValueError(f"{file.path}: {name} {there}; by the settings of the file it should be {shape}")


def _rows(config, rotated_in_pairs):
    """How the tensors become the parameters of a Llama.

    rotated_in_pairs: in files of the architecture llama, the two channels of a head that are rotated together, i and
    i + D / 2 of ours, are the rows 2 i and 2 i + 1 of the queries' and keys' matrices.
    """
    C, G, D = config.n_embd, config.n_kv_head, config.n_embd // config.n_head
    qkv = joined(C, G * D, G * D)
    if rotated_in_pairs:
        rows = np.arange(C + 2 * G * D)
        turned = rows[: C + G * D].reshape(-1, D // 2, 2).swapaxes(1, 2).reshape(-1)
        qkv = chain(qkv, reordered(np.concatenate([turned, rows[C + G * D :]])))
    found = [row("token_embd.weight", "wte.weight"), row("output_norm.weight", "norm.weight")]
    found += [] if config.tied else [row("output.weight", "head.weight")]
    for i in range(config.n_layer):
        theirs, ours = f"blk.{i}.", f"blocks.{i}."
        for kind in ("weight", "bias") if config.bias else ("weight",):
            names = [f"{theirs}attn_{part}.{kind}" for part in "qkv"]
            found.append(row(names, f"{ours}attention.qkv.{kind}", qkv))
        for their, our in (
            *(("attn_output", "attention.proj"), ("attn_norm", "norm1"), ("ffn_norm", "norm2")),
            *(("ffn_gate", "mlp.gate"), ("ffn_up", "mlp.up"), ("ffn_down", "mlp.down")),
        ):
            found.append(row(f"{theirs}{their}.weight", f"{ours}{our}.weight", SAME))
    return found

"""Language models of llama.cpp as a format: GGUF files of the architectures llama, qwen2 and gpt2.

Names and layouts are those of llama.cpp (gguf-py/gguf/constants.py and convert_hf_to_gguf.py). A setting of the network
that stands in the file and is not read here is refused: the model would compute something else in silence.
"""

from pathlib import Path
from typing import Any

import numpy as np

from autotx.models.architecture import Opened
from autotx.models.formats import weights
from autotx.models.formats.gguf_file import GGUF, MAGIC
from autotx.models.formats.gguf_tokenizer import tokenizer_of
from autotx.models.formats.weights import chain, joined, renamed, reordered
from autotx.models.gpt import GPT, GPTArchitecture, GPTConfig
from autotx.models.inference.pieces import Matrix
from autotx.models.llama import Llama, LlamaArchitecture, LlamaConfig
from autotx.models.tasks.text import TextTask
from autotx.types import PathLike

ARCHITECTURE = "general.architecture"
NAMES = {"llama": LlamaArchitecture, "qwen2": LlamaArchitecture, "gpt2": GPTArchitecture}
TEMPLATE = "tokenizer.chat_template"
_ATTENTION = ("attn_q", "attn_k", "attn_v")
MODULES = {  # our modules: theirs
    Llama: {
        "wte": "token_embd",
        "norm": "output_norm",
        "head": "output",
        "norm1": "attn_norm",
        "attention.qkv": _ATTENTION,
        "attention.proj": "attn_output",
        "norm2": "ffn_norm",
        "mlp.gate": "ffn_gate",
        "mlp.up": "ffn_up",
        "mlp.down": "ffn_down",
    },
    GPT: {
        "wte": "token_embd",
        "wpe": "position_embd",
        "ln_f": "output_norm",
        "ln_1": "attn_norm",
        "attn.qkv": "attn_qkv",
        "attn.proj": "attn_output",
        "ln_2": "ffn_norm",
        "mlp.fc": "ffn_up",
        "mlp.proj": "ffn_down",
    },
}


def recognises(path: PathLike) -> bool:
    """A GGUF file begins with these four letters."""
    try:
        with open(path, "rb") as file:
            return file.read(4) == MAGIC
    except OSError:
        return False


def identify(path: PathLike) -> tuple:
    return NAMES[_name(GGUF(Path(path), only=ARCHITECTURE))], TextTask


def read(path: Path) -> Opened:
    file, model, rows = _network(path)
    weights.fill(model, rows, file.tensors, path)
    return _opened(file, model)


def read_reader(path: Path, matrix: type[Matrix]) -> Opened:
    """As `read`, but the model is its reader with matrices of this class, made one at a time."""
    file, model, rows = _network(path)
    return _opened(file, weights.reader(model, rows, file.tensors, path, matrix))


def _name(file):
    name = file.metadata.get(ARCHITECTURE)
    if name not in NAMES:
        raise ValueError(f"{file.path}: its architecture is {name!r}; autotx reads {', '.join(NAMES)}")
    return name


def _network(path):
    """(the GGUF, a model of its shape, whose weights are zero, and how the tensors become its weights)."""
    file = GGUF(path)
    name = _name(file)
    settings = _Settings(file, name)
    try:
        model = Llama(_llama(settings), None) if NAMES[name] is LlamaArchitecture else GPT(_gpt(settings), None)
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from None
    return file, model, rows(model)


def _opened(file, model):
    tokenizer = tokenizer_of(file.metadata, file.path)
    if tokenizer.vocab_size != model.config.vocab_size:
        sizes = f"{tokenizer.vocab_size} tokens, its table of tokens {model.config.vocab_size}"
        raise ValueError(f"{file.path}: its tokenizer has {sizes}; the two should be equal")
    known = {"template": file.metadata.get(TEMPLATE)}
    return Opened(file.path, NAMES[_name(file)], TextTask, model, tokenizer, known=known)


class _Settings:
    """The keys of a network in a file, which are taken one by one."""

    def __init__(self, file, name):
        self.file, self.name = file, name
        self.left = {key.removeprefix(f"{name}."): v for key, v in file.metadata.items() if key.startswith(f"{name}.")}

    def fault(self, what):
        return ValueError(f"{self.file.path}: {self.name}.{what}")

    def take(self, key, kind: Any = int, default=None):
        value = self.left.pop(key, default)
        if type(value) is not kind:
            raise self.fault(f"{key} is {value!r}; it should be one {kind.__name__}")
        return value

    def table(self):
        """(V, C) by the table of tokens."""
        if "token_embd.weight" not in self.file.tensors:
            raise ValueError(f"{self.file.path}: token_embd.weight is missing")
        return self.take("vocab_size", default=self.file.tensors["token_embd.weight"].shape[0])

    def end(self, shapes):
        """ValueError for settings that were not taken, and for tensors without the shapes {name: shape}."""
        if self.left:
            raise self.fault(f"{min(self.left)} is a setting that autotx does not know")
        weights.hold(shapes, self.file.tensors, self.file.path)


def _llama(settings):
    """The LlamaConfig. ValueError for settings that are missing, unknown, or not those of the tensors."""
    take, tensors = settings.take, settings.file.tensors
    scaling = take("rope.scaling.type", str, "none")
    if scaling != "none":
        raise settings.fault(f"rope.scaling.type is {scaling!r}; autotx computes plain rotary positions")
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
        "bias": settings.name == "qwen2",
        "tied": "output.weight" not in tensors,
    }
    V = settings.table()
    for key, right in {"rope.dimension_count": D, "attention.key_length": D, "attention.value_length": D}.items():
        if take(key, default=D) != right:
            raise settings.fault(f"{key} is not {D}, the channels of a head; autotx reads no others")
    for key in ("expert_count", "expert_used_count"):
        if take(key, default=0):
            raise settings.fault(f"{key} is not 0; autotx reads no mixtures of experts")
    layers = {f"blk.{i}.ffn_up.weight": (sizes["n_hidden"], C) for i in range(min(L, len(tensors)))}
    settings.end({"token_embd.weight": (V, C), **layers})
    return LlamaConfig(vocab_size=V, **sizes)


def _gpt(settings):
    """The GPTConfig. Errors as in `_llama`. A second table for the head is left out if it is the table of tokens."""
    take, tensors = settings.take, settings.file.tensors
    C, L, T = take("embedding_length"), take("block_count"), take("context_length")
    H, eps, F = take("attention.head_count"), take("attention.layer_norm_epsilon", float), take("feed_forward_length")
    if take("attention.head_count_kv", default=H) != H:
        raise settings.fault(f"attention.head_count_kv is not {H}, the heads; autotx reads no others")
    if F != 4 * C:
        raise settings.fault(f"feed_forward_length is {F}; autotx computes {4 * C}, four times embedding_length")
    V = settings.table()
    layers = {f"blk.{i}.ffn_up.weight": (F, C) for i in range(min(L, len(tensors)))}
    settings.end({"token_embd.weight": (V, C), "position_embd.weight": (T, C), **layers})
    weights.drop_tied("output.weight", "token_embd.weight", tensors, settings.file.path)
    return GPTConfig(T, V, L, H, C, norm_eps=eps)


def rows(model: Llama | GPT) -> list:
    """How the tensors of a file become the parameters of a model."""
    return renamed(model, MODULES[type(model)], _layouts(model.config) if isinstance(model, Llama) else {}, "blk.{}.")


def _layouts(config):
    """Queries, keys and values of a Llama. In files of the architecture llama (without biases), the two channels of a
    head that are rotated together, i and i + D / 2 of ours, are the rows 2 i and 2 i + 1 of the queries' and keys'."""
    C, G, D = config.n_embd, config.n_kv_head, config.n_embd // config.n_head
    qkv = joined(C, G * D, G * D)
    if not config.bias:
        order = np.arange(C + 2 * G * D)
        turned = order[: C + G * D].reshape(-1, D // 2, 2).swapaxes(1, 2).reshape(-1)
        qkv = chain(qkv, reordered(np.concatenate([turned, order[C + G * D :]])))
    return {"attention.qkv.weight": qkv, "attention.qkv.bias": qkv}

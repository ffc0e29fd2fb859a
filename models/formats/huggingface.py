"""Folders of Hugging Face's transformers as a format, in and out: config.json, model.safetensors, tokenizer.json.

The families gpt2, llama and qwen2. A setting in config.json is read, or has the one value that the network here
computes, or is HARMLESS: it changes nothing in the network's results. Every other one is refused by name: the model
would compute something else in silence.

Names and layouts are those of transformers (models/gpt2, llama and qwen2); a GPT-2 of theirs keeps its matrices
transposed.
"""

import math
import mmap
import re
from pathlib import Path
from typing import Any

from autotx.checkpoint import list_tensors, save_tensors
from autotx.files import checked, entry, read_json, to_json, write_atomically
from autotx.models.architecture import Opened
from autotx.models.config import FILE as CONFIG
from autotx.models.formats import huggingface_tokenizer, weights
from autotx.models.formats.quantised import FORMATS, Stored
from autotx.models.formats.weights import TRANSPOSED, joined, renamed
from autotx.models.gpt import GPT, GPTArchitecture, GPTConfig
from autotx.models.inference.pieces import Matrix
from autotx.models.llama import Llama, LlamaArchitecture, LlamaConfig
from autotx.models.run import MODEL
from autotx.models.tasks.text import TextTask
from autotx.models.tokenizers import FILE as TOKENIZER
from autotx.types import PathLike

INDEX = f"{MODEL}.index.json"
NAMES = {"gpt2": GPTArchitecture, "llama": LlamaArchitecture, "qwen2": LlamaArchitecture}  # model_type
PREFIX = {"gpt2": "transformer.", "llama": "model.", "qwen2": "model."}  # which files of the bare network lack
HEAD = "lm_head.weight"
BUFFERS = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)|(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")
TYPES = {form.name: form for form in FORMATS.values() if form.name in ("F32", "F16", "BF16")}
MODULES = {  # our modules: theirs
    GPT: {
        "wte": "wte",
        "wpe": "wpe",
        "ln_f": "ln_f",
        "ln_1": "ln_1",
        "ln_2": "ln_2",
        "attn.qkv": "attn.c_attn",
        "attn.proj": "attn.c_proj",
        "mlp.fc": "mlp.c_fc",
        "mlp.proj": "mlp.c_proj",
    },
    Llama: {
        "wte": "embed_tokens",
        "norm": "norm",
        "norm1": "input_layernorm",
        "norm2": "post_attention_layernorm",
        "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        "attention.proj": "self_attn.o_proj",
        "mlp.gate": "mlp.gate_proj",
        "mlp.up": "mlp.up_proj",
        "mlp.down": "mlp.down_proj",
    },
}
OUTER = ("wte", "wpe", "ln_f", "norm")  # of our modules, those outside of blocks, whose names begin with PREFIX
CLASSES = {"gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM"}
FIXED = {  # settings of which autotx computes these values; the first is the default
    "gpt2": {
        "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
        "tie_word_embeddings": (True,),
    },
    "llama": {"hidden_act": ("silu",), "attention_bias": (False,), "mlp_bias": (False,), "rope_interleaved": (False,)},
    "qwen2": {"hidden_act": ("silu",), "use_sliding_window": (False,)},
}
HARMLESS = {
    *("model_type", "architectures", "transformers_version", "_name_or_path", "torch_dtype", "dtype", "use_bfloat16"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "tokenizer_class", "prefix", "use_cache"),
    *("initializer_range", "gradient_checkpointing", "attention_dropout", "resid_pdrop", "embd_pdrop", "attn_pdrop"),
    *("summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj"),
    *("task_specific_params", "finetuning_task", "problem_type", "id2label", "label2id", "num_labels", "n_ctx"),
    *("output_past", "output_attentions", "output_hidden_states", "return_dict", "torchscript", "is_llama_config"),
    *("sliding_window", "max_window_layers"),  # where use_sliding_window is false
    *("pretraining_tp", "reorder_and_upcast_attn"),  # the same numbers, added in another order
    *("_attn_implementation", "attn_implementation", "_flash_attn_2_enabled", "unsloth_version", "unsloth_fixed"),
    *("do_sample", "temperature", "top_k", "top_p", "repetition_penalty", "max_length", "max_new_tokens"),
}


def recognises(path: PathLike) -> bool:
    """A folder whose config.json names a model_type."""
    try:
        return isinstance(read_json(Path(path) / CONFIG).get("model_type"), str)
    except (OSError, ValueError):
        return False


def identify(path: PathLike) -> tuple:
    return NAMES[_Settings(Path(path)).name], TextTask


def read(path: Path) -> Opened:
    settings, model, rows, tensors = _network(path)
    weights.fill(model, rows, tensors, path, CONFIG)
    return _opened(settings, model)


def read_reader(path: Path, matrix: type[Matrix]) -> Opened:
    """As `read`, but the model is its reader with matrices of this class, made one at a time."""
    settings, model, rows, tensors = _network(path)
    return _opened(settings, weights.reader(model, rows, tensors, path, matrix, CONFIG))


def _opened(settings, model):
    found = huggingface_tokenizer.read_tokenizer(settings.folder, settings.saved, model.config.vocab_size)
    known = {"template": found.template, "texts": found.texts}
    return Opened(settings.folder, NAMES[settings.name], TextTask, model, found.tokenizer, known=known)


class _Settings:
    """The settings of a config.json, which are taken one by one. ValueError for another family."""

    def __init__(self, folder):
        self.folder, self.path = folder, folder / CONFIG
        self.saved = read_json(self.path)
        self.left = {key: value for key, value in self.saved.items() if value is not None}  # null: the default
        self.name = entry(self.saved, "model_type", str, self.path)
        if self.name not in NAMES:
            raise ValueError(f"{self.path}: model_type is {self.name!r}; autotx reads {', '.join(NAMES)}")

    def take(self, key, kind: Any = int, default: Any = None) -> Any:
        value = self.left.pop(key, default)
        if kind is not bool or not isinstance(value, bool):
            checked(value, kind, key, self.path)
        if kind is float and not math.isfinite(value):
            raise ValueError(f"{self.path}: {key} is {value}; it should be a finite number")
        return float(value) if kind is float else value

    def fixed(self, key, values):
        """Take a setting that has to have one of some values, of which the first is the default."""
        value = self.left.pop(key, values[0])
        if value not in values or type(value) is not type(values[0]):
            right = " or ".join(map(str, values))
            raise ValueError(f"{self.path}: {key} is {str(value)[:60]!r}; autotx computes {right} only")

    def end(self):
        """ValueError for a setting that autotx does not compute, or does not know."""
        for key, values in FIXED[self.name].items():
            self.fixed(key, values)
        unknown = sorted(self.left.keys() - HARMLESS)
        if unknown:
            raise ValueError(
                f"{self.path}: {unknown[0]} is a setting that autotx does not know; delete it there if it changes "
                "nothing in what the network computes"
            )


def _network(path):
    """(the settings, a model of its shape, whose weights are zero, the rows, and the tensors)."""
    settings, tensors = _Settings(path), _tensors(path)
    prefix = PREFIX[settings.name] if any(name.startswith(PREFIX[settings.name]) for name in tensors) else ""
    tensors = {name: t for name, t in tensors.items() if not BUFFERS.fullmatch(name.removeprefix(prefix))}
    gpt = NAMES[settings.name] is GPTArchitecture
    shape, shapes = (_gpt if gpt else _llama)(settings, len(tensors))
    settings.end()
    weights.hold({prefix + name: shape for name, shape in shapes.items()}, tensors, path)
    if gpt or shape["tied"]:
        weights.drop_tied(HEAD, f"{prefix}{'wte' if gpt else 'embed_tokens'}.weight", tensors, path)
    try:
        model = GPT(GPTConfig(**shape), None) if gpt else Llama(LlamaConfig(**shape), None)
    except ValueError as error:
        raise ValueError(f"{settings.path}: {error}") from None
    return settings, model, _rows(model, prefix), tensors


def _gpt(settings, most):
    """The sizes of a GPTConfig, and shapes of tensors that follow from them. most: tensors in the file."""
    take = settings.take
    V, T, L, H = take("vocab_size"), take("n_positions"), take("n_layer"), take("n_head")
    C, eps = take("n_embd"), take("layer_norm_epsilon", float, 1e-5)
    settings.fixed("n_inner", (4 * C,))
    shapes = {"wte.weight": (V, C), "wpe.weight": (T, C)}
    shapes |= {f"h.{i}.mlp.c_fc.weight": (C, 4 * C) for i in range(min(L, most))}
    return {"block_size": T, "vocab_size": V, "n_layer": L, "n_head": H, "n_embd": C, "norm_eps": eps}, shapes


def _llama(settings, most):
    """The sizes of a LlamaConfig, and shapes of tensors that follow from them. most: tensors in the file."""
    take = settings.take
    V, C, H, L = (take(key) for key in ("vocab_size", "hidden_size", "num_attention_heads", "num_hidden_layers"))
    D = C // max(H, 1)
    sizes = {
        "vocab_size": V,
        "n_embd": C,
        "n_head": H,
        "n_layer": L,
        "n_kv_head": take("num_key_value_heads", default=H),
        "n_hidden": take("intermediate_size"),
        "block_size": take("max_position_embeddings"),
        "norm_eps": take("rms_norm_eps", float, 1e-6),
        "rope_base": _rope_base(settings),
        "bias": settings.name == "qwen2",
        "tied": take("tie_word_embeddings", bool, False),
    }
    settings.fixed("head_dim", (D,))
    layers = settings.left.pop("layer_types", [])
    if not isinstance(layers, list) or any(kind != "full_attention" for kind in layers):
        raise ValueError(f"{settings.path}: layer_types are not all full_attention; autotx computes no other")
    shapes = {"embed_tokens.weight": (V, C)}
    shapes |= {f"layers.{i}.mlp.up_proj.weight": (sizes["n_hidden"], C) for i in range(min(L, most))}
    return sizes, shapes


def _rope_base(settings):
    """The base of plain rotary positions. transformers 5 keeps it in rope_parameters, 4 in rope_theta."""
    base = settings.take("rope_theta", float, 10000.0)
    for key in ("rope_scaling", "rope_parameters"):
        given = {**settings.take(key, dict, {})}
        base = given.pop("rope_theta", base)
        kind = given.pop("rope_type", given.pop("type", "default"))
        if kind != "default" or given:
            what = f"is {kind!r}" if kind != "default" else f"has {min(given)}"
            raise ValueError(f"{settings.path}: {key} {what}; autotx computes plain rotary positions (default)")
    settings.left["rope_theta"] = base
    return settings.take("rope_theta", float)


def _rows(model, prefix):
    """How the tensors become the parameters of a model. prefix: of all names but the head's."""
    config, modules = model.config, MODULES[type(model)]
    modules = {our: prefix + their if our in OUTER else their for our, their in modules.items()} | {"head": "lm_head"}
    if isinstance(model, GPT):
        transposed = {f"{name}.weight": TRANSPOSED for name in ("attn.qkv", "attn.proj", "mlp.fc", "mlp.proj")}
        return renamed(model, modules, transposed, prefix + "h.{}.")
    rows = config.n_embd // config.n_head * config.n_kv_head
    qkv = {f"attention.qkv.{kind}": joined(config.n_embd, rows, rows) for kind in ("weight", "bias")}
    return renamed(model, modules, qkv, prefix + "layers.{}.")


# Tensors


def _tensors(folder):
    """{name: Stored} of a folder, whose tensors are in one file or, by an index, in several."""
    if (folder / MODEL).is_file():
        return _stored(folder / MODEL)
    index = folder / INDEX
    if not index.is_file():
        pickles = sorted(path.name for path in folder.glob("pytorch_model*.bin"))
        if pickles:
            raise ValueError(
                f"{folder}: {pickles[0]} is a pickle, which can run any code; make {MODEL} of it, by transformers: "
                f"AutoModelForCausalLM.from_pretrained({str(folder)!r}).save_pretrained(another folder)"
            )
        raise FileNotFoundError(f"there is no file {folder / MODEL}, nor {INDEX}")
    place_of = entry(read_json(index), "weight_map", dict, index)
    files = sorted({checked(name, str, "a file in weight_map", index) for name in place_of.values()})
    for name in files:
        if Path(name).name != name or name in ("", ".."):
            raise ValueError(f"{index}: {name[:60]!r} is no name of a file in that folder")
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise ValueError(f"{index} names {missing[0]}, one of {len(files)} files, which is missing; get it, too")
    found = {name: _stored(folder / name) for name in files}
    for name, file in place_of.items():
        if name not in found[file]:
            raise ValueError(f"{index}: {name} is not in {file}; get both anew")
    return {name: tensor for tensors in found.values() for name, tensor in tensors.items()}


def _stored(path):
    """{name: Stored} of a safetensors file, which is mapped, not read."""
    listed, _ = list_tensors(path)
    for name, tensor in listed.items():
        if tensor.type not in TYPES:
            known = ", ".join(TYPES)
            raise ValueError(f"{path}: {name} is of type {tensor.type}, which autotx does not read (it reads {known})")
    with open(path, "rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return {name: Stored(t.shape, TYPES[t.type], data, t.start) for name, t in listed.items()}


# Out


def write(opened: Opened, folder: Path) -> None:
    """Write a GPT or a Llama into an empty folder, as float32. ValueError for a model or a tokenizer that transformers
    has not."""
    model, tokenizer = opened.model, opened.tokenizer
    name, settings = _written(model)
    config = model.config
    ends, start = list(tokenizer.ends), getattr(tokenizer, "start", None)
    marks = {} if start is None else {"bos_token_id": start}
    marks["eos_token_id"] = ends[0] if len(ends) == 1 else ends
    saved = {
        "architectures": [CLASSES[name]],
        "model_type": name,
        "torch_dtype": "float32",
        "vocab_size": config.vocab_size,
        **settings,
        **marks,
    }
    texts, template = opened.known.get("texts", {}), opened.known.get("template")
    for file, content in {
        CONFIG: saved,
        huggingface_tokenizer.GENERATION: marks,
        TOKENIZER: huggingface_tokenizer.written(tokenizer),
        huggingface_tokenizer.CONFIG: huggingface_tokenizer.settings_of(tokenizer, texts, template, config.block_size),
    }.items():
        write_atomically(folder / file, to_json(content))
    tensors = weights.taken(model, _rows(model, PREFIX[name]))
    save_tensors(folder / MODEL, tensors, {"format": "pt"})  # transformers asks for this mark


def _written(model):
    """(model_type, the settings of a config.json that are its shape)."""
    c = model.config
    if isinstance(model, GPT):
        if not c.bias:
            raise ValueError("a GPT without biases cannot be expressed in other formats; train one with them")
        sizes = {"n_positions": c.block_size, "n_embd": c.n_embd, "n_layer": c.n_layer, "n_head": c.n_head}
        fixed = {"n_inner": None, "activation_function": "gelu_new", "tie_word_embeddings": True}
        return "gpt2", {**sizes, **fixed, "layer_norm_epsilon": c.norm_eps}
    sizes = {
        "hidden_size": c.n_embd,
        "intermediate_size": c.n_hidden,
        "num_hidden_layers": c.n_layer,
        "num_attention_heads": c.n_head,
        "num_key_value_heads": c.n_kv_head,
        "hidden_act": "silu",
        "max_position_embeddings": c.block_size,
        "rms_norm_eps": c.norm_eps,
        "rope_theta": c.rope_base,
        "tie_word_embeddings": c.tied,
    }
    if c.bias:
        return "qwen2", {**sizes, "use_sliding_window": False}
    return "llama", {**sizes, "attention_bias": False, "mlp_bias": False}

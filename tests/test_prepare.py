"""Token files: what is read, what is written, that an interruption changes nothing, and training from them."""

import gzip
import json

import numpy as np
import pytest

from autotx.models import cli, corpus, prepare
from autotx.models.prepare import PrepareSettings
from autotx.models.token_files import TokenFiles
from autotx.models.tokenizers import ByteTokenizer, CharTokenizer

STORY = "".join(f"Line {i} of a story about {i * i} sheep.\n" + "\n" * (i % 3) for i in range(3000))


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(corpus, "PIECE", 1000)
    monkeypatch.setattr(corpus, "LONGEST_PIECE", 4000)
    monkeypatch.setattr(corpus, "_BLOCK", 700)
    monkeypatch.setattr(prepare, "BATCH", 5000)
    monkeypatch.setattr(prepare, "NOTED", 10000)


@pytest.fixture
def folder(tmp_path):
    """Texts of every kind."""
    there = tmp_path / "texts"
    (there / "deep").mkdir(parents=True)
    (there / "story.txt").write_text(STORY)
    (there / "deep" / "note.md").write_text("# A note\n\nwith äöü\n")
    rows = [json.dumps({"text": f"Document {i}: " + "word " * (i % 700), "id": i}) for i in range(200)]
    (there / "rows.jsonl").write_text("\n".join(rows) + "\n\n")
    (there / "packed.txt.gz").write_bytes(gzip.compress(STORY[:5000].encode()))
    (there / "ignored.bin").write_bytes(b"\0\1")
    return there


def settings(folder, out, **given):
    return PrepareSettings(text=(str(folder),), out=str(out), **{"validation_share": 0.1, "tokenizer": "char", **given})


def pieces(path, **given):
    return list(corpus.find([path])[0].pieces(**given))


def test_a_text_is_the_sum_of_its_pieces_wherever_blocks_end(tmp_path, monkeypatch):
    path = tmp_path / "story.txt"
    path.write_text("\ufeff" + STORY + "é" * 9000)
    found = pieces(path)
    assert "".join(text for text, _ in found) == STORY + "é" * 9000
    assert [ends for _, ends in found] == [False] * (len(found) - 1) + [True]
    assert all(1000 <= len(text) <= 4000 for text, _ in found[:-1])
    for block in (1, 64, 1 << 20):
        monkeypatch.setattr(corpus, "_BLOCK", block)
        assert pieces(path) == found


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_compressed_texts(suffix, tmp_path):
    pack = gzip.compress if suffix == "gz" else pytest.importorskip("zstandard").ZstdCompressor().compress
    path = tmp_path / f"story.txt.{suffix}"
    path.write_bytes(pack(STORY[:9000].encode()) + pack(STORY[9000:].encode()))  # two frames
    assert "".join(text for text, _ in pieces(path)) == STORY
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=rf"--text .*story.txt.{suffix}: cannot be read: .*end"):
        pieces(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match=rf"--text .*story.txt.{suffix}: cannot be read: "):
        pieces(path)


def test_parquet(tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.table({"text": ["one", None, "", "two"], "n": [1, 2, 3, 4]}), path)
    assert pieces(path) == [("one", True), ("two", True)]
    with pytest.raises(ValueError, match="there is no column 'body', but 'text', 'n'; name it by --field"):
        pieces(path, field="body")
    with pytest.raises(ValueError, match="column 'n' does not hold text"):
        pieces(path, field="n")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="not a whole Parquet file"):
        pieces(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"body": "y"}\n', "line 2: there is no text 'text', but 'body'; name it by"),
        ("a.jsonl", b"[1, 2]\n", "line 1: there is no text 'text', but a list"),
        ("a.jsonl", b'{"text": "x"\n', "line 1: not JSON"),
        ("a.jsonl", b"[" * 100_000 + b"\n", "line 1: not JSON"),
        ("a.txt", b"x" * 800 + b"\xff", "not UTF-8, first at byte 800"),
        ("a.txt", b"x\0y", "it has a zero byte"),
    ],
)
def test_what_cannot_be_read_is_named(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        pieces(tmp_path / name)


def test_paths_that_name_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"no file of \.txt, \.md, \.jsonl, \.parquet in this folder"):
        corpus.find([tmp_path])
    for path in ("nothing.txt", "*.txt"):
        with pytest.raises(ValueError, match="there is no such file"):
            corpus.find([tmp_path / path])


def test_token_files_hold_every_document_once(folder, tmp_path):
    facts = prepare.prepare(settings(folder, tmp_path / "data"))
    data = TokenFiles(tmp_path / "data")
    parts = [data.tokenizer.decode(part) for part in data.split()]
    documents = [
        STORY,
        STORY[:5000],
        "# A note\n\nwith äöü\n",
        *(f"Document {i}: {'word ' * (i % 700)}" for i in range(200)),
    ]
    assert sum(map(len, parts)) == sum(map(len, documents)) + sum(part.count("\0") for part in parts)
    assert all(document in parts[0] or document in parts[1] for document in documents[3:] if len(document) < 1000)
    assert all(part.endswith("\0") and "\0\0" not in part for part in parts)
    share = len(parts[1]) / sum(map(len, parts))
    assert 0.03 < share < 0.2
    assert [len(part) for part in data.split()] == [facts[name]["tokens"] for name in ("training", "validation")]
    assert data.split()[0].dtype == np.uint16
    assert data.tokenizer.unknown(STORY) == []


def test_another_seed_draws_other_documents(folder, tmp_path):
    for seed in (1, 2):
        prepare.prepare(settings(folder, tmp_path / str(seed), seed=seed))
    one, two = (np.load(tmp_path / str(seed) / "validation.npy") for seed in (1, 2))
    assert one.tolist() != two.tolist()


@pytest.mark.parametrize("tokenizer", ["char", "word", "bpe"])
def test_an_interrupted_preparation_ends_in_the_same_bytes(tokenizer, folder, tmp_path, monkeypatch):
    chosen = {"tokenizer": tokenizer, "vocab_size": 400}
    prepare.prepare(settings(folder, tmp_path / "whole", **chosen))
    rng, written, stops = np.random.default_rng(0), prepare.write_atomically, 0

    def unlucky(path, data):
        if rng.random() < 0.4:
            raise KeyboardInterrupt
        written(path, data)
        if rng.random() < 0.4:
            raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "write_atomically", unlucky)
    while True:
        try:
            prepare.prepare(settings(folder, tmp_path / "parts", **chosen))
            break
        except KeyboardInterrupt:
            stops += 1
    assert stops > 3
    for name in ("training.npy", "validation.npy", "tokenizer.json", "data.json"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert sorted(p.name for p in (tmp_path / "parts").iterdir()) == sorted(
        p.name for p in (tmp_path / "whole").iterdir()
    )


def test_a_folder_keeps_the_files_it_was_made_with(folder, tmp_path):
    out = tmp_path / "data"
    prepare.prepare(settings(folder, out))
    before = (out / "training.npy").stat().st_mtime_ns
    prepare.prepare(settings(folder, out))
    assert (out / "training.npy").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="holds token files of another seed; give another folder, or remove it"):
        prepare.prepare(settings(folder, out, seed=9))
    (folder / "story.txt").write_text("changed")
    with pytest.raises(ValueError, match="holds token files of other texts"):
        prepare.prepare(settings(folder, out))
    (out / "data.json").unlink()
    with pytest.raises(ValueError, match=r"holds a tokenizer\.json that is not of token files"):
        prepare.prepare(settings(folder, out))


def test_one_document_cannot_be_split(tmp_path):
    (tmp_path / "a.txt").write_text("one document")
    with pytest.raises(ValueError, match=r"validation part is empty: 1 document and --validation-share 0\.1"):
        prepare.prepare(settings(tmp_path / "a.txt", tmp_path / "data", seed=3))


def test_more_than_65536_tokens_take_32_bits(folder, tmp_path):
    tokenizer = CharTokenizer("".join(map(chr, range(1, 0xD800))) + "".join(map(chr, range(0xE000, 0x13000))))
    prepare.prepare(settings(folder, tmp_path / "data"), tokenizer)
    assert TokenFiles(tmp_path / "data").split()[0].dtype == np.uint32


def damaged(out, name, content):
    (out / name).write_bytes(content)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("training.npy", lambda old: old[:-2], "training.npy or data.json is damaged"),
        ("training.npy", lambda old: b"", "training.npy or data.json is damaged"),
        ("training.npy", None, "training.npy is missing; prepare it again"),
        ("validation.npy", lambda old: old + b"\0\0", "opened"),
        ("data.json", lambda old: b"{}", "data.json: dtype should be a text"),
        (
            "data.json",
            lambda old: old.replace(b"uint16", b"uint32"),
            "has .* tokens of uint16, data.json says .* uint32",
        ),
        ("data.json", None, "there is no data.json, so autotx prepare did not make or finish it"),
    ],
)
def test_damaged_token_files_are_named(name, change, message, folder, tmp_path):
    out = tmp_path / "data"
    prepare.prepare(settings(folder, out))
    path = out / name
    path.write_bytes(change(path.read_bytes())) if change else path.unlink()
    if name in ("data.json",) and change is None:
        (out / "tokenizer.json").unlink()
    if message == "opened":
        TokenFiles(out)  # what comes after the tokens is not looked at
        return
    with pytest.raises(ValueError, match=message):
        TokenFiles(out)


@pytest.mark.parametrize("header", [[], [20240520, 1]])
def test_bin_files_of_nanogpt_and_llmc(header, tmp_path):
    text = STORY.encode()
    for name, part in (("tiny_train.bin", text[:9000]), ("tiny_val.bin", text[9000:])):
        first = np.zeros(256 * bool(header), np.int32)
        first[: len(header)], first[2:3] = header, len(part)
        (tmp_path / name).write_bytes(first.tobytes() + np.frombuffer(part, np.uint8).astype("<u2").tobytes())
    with pytest.raises(ValueError, match="give their tokenizer by --tokenizer-file"):
        TokenFiles(tmp_path)
    ByteTokenizer().save(tmp_path)
    training, validation = TokenFiles(tmp_path).split()
    assert ByteTokenizer().decode(training) == STORY[:9000]
    assert bytes(validation.astype(np.uint8)) == text[9000:]
    with open(tmp_path / "tiny_train.bin", "ab") as file:
        file.write(np.array([300], "<u2").tobytes() if not header else b"\0")
    message = "has the token 300, the tokenizer only 256 tokens" if not header else "it may be truncated"
    with pytest.raises(ValueError, match=message):
        TokenFiles(tmp_path)


SMALL = "--steps=4 --n-layer=1 --n-head=1 --n-embd=8 --block-size=8 --eval-interval=2 --eval-batches=1".split()  # noqa: SIM905


def test_training_from_token_files_goes_on_and_notices_other_data(folder, tmp_path, capsys):
    out, run = tmp_path / "data", str(tmp_path / "run")
    files = ["--text", str(folder), "--out", str(out), "--tokenizer", "char", "--validation-share", "0.1"]
    assert cli.main(["prepare", *files]) == 0
    assert f"autotx train --data {out}" in capsys.readouterr().out
    assert cli.main(["train", "--data", str(out), "--out", run, *SMALL]) == 0
    assert cli.main(["train", "--out", run, "--resume", "--steps", "6"]) == 0
    assert cli.main(["generate", "--model", run, "--max-new-tokens", "5", "--weights", "int8"]) == 0
    capsys.readouterr()
    assert cli.main(["train", "--data", str(out), "--tokenizer", "bpe", "--out", run + "2"]) == 2
    assert "--tokenizer has no use beside --data; leave it out" in capsys.readouterr().err
    (out / "data.json").write_bytes((out / "data.json").read_bytes() + b"\n")
    assert cli.main(["train", "--out", run, "--resume", "--steps", "8"]) == 2
    assert "the data are not those that the run" in capsys.readouterr().err


def test_a_large_text_becomes_token_files_of_its_run(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("autotx.models.tasks.text.LARGE", 1000)
    run = str(tmp_path / "run")
    assert cli.main(["train", "--text", str(folder / "story.txt"), "--out", run, *SMALL]) == 0
    assert f"its tokens are kept in {run}/data" in capsys.readouterr().out
    (folder / "story.txt").unlink()  # not read again
    assert cli.main(["train", "--out", run, "--resume", "--steps", "6"]) == 0

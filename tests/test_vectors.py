"""Word vectors: every format in, word2vec out, nearest words, and a model's table made of them."""

import gzip

import numpy as np
import pytest

import autotx
from autotx import nn
from autotx.checkpoint import load_tensors
from autotx.models.cli import main
from autotx.models.formats import open_model
from autotx.models.tokenizers import WordTokenizer, load_tokenizer
from autotx.models.vectors import WordVectors, embedding, load_embedding, load_vectors, words_of
from autotx.optim import AdamW, clip_grad_norm, decay_groups

WORDS = ["the", "King", "königin", "1984", "."]
NUMBERS = np.array([[0.5, -1, 2e-3], [1, 2, 3], [-4, 5.25, 0], [1e-5, 0, 1], [0, 0, -7]], np.float32)


def rows(end="\n"):
    return "".join(f"{word} {' '.join(map(str, row))}{end}" for word, row in zip(WORDS, NUMBERS))


def binary(end=b"\n"):
    body = b"".join(word.encode() + b" " + row.astype("<f4").tobytes() + end for word, row in zip(WORDS, NUMBERS))
    return b"5 3\n" + body


FORMATS = {
    "word2vec text": ("5 3\n" + rows()).encode(),
    "word2vec text by the C program": ("5 3\n" + rows(" \n")).encode(),
    "line ends of Windows": ("5 3\r\n" + rows("\r\n")).encode(),
    "no line end at the end": ("5 3\n" + rows()).rstrip().encode(),
    "FastText .vec": ("5 3\n" + rows(" \n")).encode(),
    "GloVe": rows().encode(),
    "tabs": rows().replace(" ", "\t").encode(),
    "binary by the C program": binary(),
    "binary without line ends": binary(b""),
}


@pytest.fixture
def load(tmp_path):
    """load(content, ...) is load_vectors of a file "v" with this content."""

    def load(content, words=None):
        (tmp_path / "v").write_bytes(content)
        return load_vectors(tmp_path / "v", words)

    return load


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_vectors(load, name, packed):
    content = gzip.compress(FORMATS[name]) if packed else FORMATS[name]
    vectors = load(content)
    assert vectors.words == WORDS
    assert vectors.matrix.dtype == np.float32
    np.testing.assert_array_equal(vectors.matrix, NUMBERS)


@pytest.mark.parametrize("name", FORMATS)
def test_only_the_words_asked_for_are_kept_whatever_their_case(load, name):
    vectors = load(FORMATS[name], words=["king", "1984", "unheard-of"])
    assert vectors.words == ["King", "1984"]
    np.testing.assert_array_equal(vectors.matrix, NUMBERS[[1, 3]])


def test_lines_of_other_words_are_not_looked_at(load):
    content = b"a 1 2\nb broken 2\n\xff 0 0\nc 3 4\n"
    np.testing.assert_array_equal(load(content, words="ac").matrix, [[1, 2], [3, 4]])


@pytest.mark.parametrize("is_binary", [False, True])
@pytest.mark.parametrize("dim", [1, 2, 50])
def test_saved_and_loaded_the_numbers_are_the_same_to_the_bit(tmp_path, rng, is_binary, dim):
    matrix = (rng.standard_normal((200, dim)) * 10.0 ** rng.integers(-30, 30, (200, 1))).astype(np.float32)
    WordVectors([f"w{i}" for i in range(200)], matrix).save(tmp_path / "v", binary=is_binary)
    loaded = load_vectors(tmp_path / "v")
    assert loaded.words == [f"w{i}" for i in range(200)]
    np.testing.assert_array_equal(loaded.matrix, matrix)
    assert [path.name for path in tmp_path.iterdir()] == ["v"]


def test_a_word_with_a_space_is_read_but_not_written(load, tmp_path):
    vectors = load(b"the 1 2\n. . . 3 4\nat name@example.org 5 6\n")
    assert vectors.words == ["the", ". . .", "at name@example.org"]
    with pytest.raises(ValueError, match=r"the word '\. \. \.' is empty or has a space in it"):
        vectors.save(tmp_path / "v")


def test_a_word_that_comes_twice_keeps_its_first_vector(load):
    vectors = load(b"3 2\na 1 2\nb 3 4\na 5 6\n")
    assert (vectors.words, vectors.repeated) == (["a", "b"], 1)
    np.testing.assert_array_equal(vectors.matrix, [[1, 2], [3, 4]])


def test_a_first_word_with_spaces_is_one_word(load):
    vectors = load(b". . . 0.1 3 4\nthe 1 2 5\nat name@example.org 5 6 7\n")
    assert vectors.words == [". . .", "the", "at name@example.org"]
    assert vectors.matrix.shape == (3, 3)


@pytest.mark.parametrize("header", [b"", b"2 2\n"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_byte_order_mark_is_skipped(load, header, pack):
    vectors = load(pack(b"\xef\xbb\xbf" + header + b"a 1 2\nb 3 4\n"))
    assert vectors.words == ["a", "b"]
    np.testing.assert_array_equal(vectors.matrix, [[1, 2], [3, 4]])


def test_words_that_are_no_utf8_are_skipped_and_counted(load):
    vectors = load(b"3 2\na 1 2\nb\xff 1 2\nc 3 4\n")
    assert (vectors.words, vectors.skipped) == (["a", "c"], 1)
    whole, cut = load(binary()), load(binary().replace(b"the ", b"t\xff "))
    assert (cut.words, cut.skipped, whole.skipped) == ([w for w in whole.words if w != "the"], 1, 0)
    np.testing.assert_array_equal(cut.matrix, whole.matrix[[w != "the" for w in whole.words]])


FAULTS = {
    b"": "v: there are no words",
    b"\n\n": "v: line 1 is not a word and its numbers",
    b"0 5\n": "v: there are no words",
    b"5 0\n": "v: line 1 says that vectors have 0 numbers",
    b"lonely\nword 1\n": "v: line 1 is not a word and its numbers",
    b"To be, or not to be\n": "v: line 1: 'be,' is not a number",
    b"a 1 2\nb 1 2\nc 1\n": "v: line 3: 1 numbers after the word, where line 1 has 2",
    b"a 1 2\nb 1 2 3\n": "v: line 2: 3 numbers after the word, where line 1 has 2",
    b"2 3\na 1 2\nb 1 2\n": "v: line 2: 2 numbers after the word, where line 1 has 3",
    b"2 2\na 1 2\nb 1 0.x5\n": "v: line 3: '0.x5' is not a number",
    b"2 2\na 1 2\nb nan 2\n": "v: line 3: the vector of 'b' holds NaN or Inf",
    b"2 2\na 1 2\nb 1 1e39\n": "v: line 3: the vector of 'b' holds NaN or Inf",
    b"3 2\na 1 2\nb 1 2\n": "v: line 1 promises 3 words, and there are 2",
    b"1 2\na 1 2\nb 1 2\n": "v: line 1 promises 1 words, and there are 2",
    b"1 2\nb\xff 1 2\n": "v: there are no words",
    binary()[:-5]: "v: line 1 promises 5 words of 3 numbers, and the file ends or breaks at word 5",
    binary().replace(b"5 3", b"6 3"): "v: line 1 promises 6 words of 3 numbers, and the file ends or breaks at word 6",
    binary().replace(b"5 3", b"4 3"): "v: line 1 promises 4 words of 3 numbers, and the file goes on after them",
    binary().replace(b"5 3", b"9" * 15 + b" 3"): "and the file ends or breaks at word 6",
    b"1 3\na " + np.array([1, np.inf, 2], "<f4").tobytes(): "v: word 1: the vector of 'a' holds NaN or Inf",
    gzip.compress(rows().encode())[:-9]: "v: the gzip file is cut off or damaged",
    b"x" * (1 << 21): "v: line 1 is not a word and its numbers",
}


@pytest.mark.parametrize("content", FAULTS, ids=range(len(FAULTS)))
def test_what_is_wrong_is_told_with_its_line(load, content):
    with pytest.raises(ValueError, match=FAULTS[content]) as told:
        load(content)
    assert "\n" not in str(told.value)


def test_none_of_the_wanted_words(load):
    with pytest.raises(ValueError, match="v: there is none of the 2 words wanted"):
        load(rows().encode(), words=["x", "y"])


def test_vectors_that_do_not_fit_their_words():
    with pytest.raises(ValueError, match=r"WordVectors: 2 words, matrix of shape \(3, 2\); give one row a word"):
        WordVectors(["a", "b"], np.ones((3, 2)))
    with pytest.raises(ValueError, match="a word comes twice"):
        WordVectors(["a", "a"], np.ones((2, 2)))
    with pytest.raises(ValueError, match="the matrix holds NaN or Inf"):
        WordVectors(["a", "b"], np.full((2, 2), np.nan))


ROSE = WordVectors(
    ["north", "Northeast", "east", "south", "nowhere", "far"], [[0, 1], [1, 1], [2, 0], [0, -3], [0, 0], [-3, 9]]
)


def test_the_nearest_words_by_cosine():
    near = ROSE.nearest("north", 3)
    assert [word for word, _ in near] == ["far", "Northeast", "east"]
    np.testing.assert_allclose([cosine for _, cosine in near], [9 / 90**0.5, 0.5**0.5, 0], rtol=1e-6)
    assert ROSE.nearest("north", 100)[-1] == ("south", -1)
    assert len(ROSE.nearest("north", 100)) == 5
    assert ROSE.nearest("NORTHEAST", 1) == ROSE.nearest("Northeast", 1)  # the word itself is not its own neighbour
    assert ROSE.nearest([1.0, 1.0], 1) == [("Northeast", pytest.approx(1))]


def test_nearest_refuses_what_has_no_answer():
    with pytest.raises(ValueError, match="nearest: 'up' has no vector; there are 6 words that have"):
        ROSE.nearest("up")
    with pytest.raises(ValueError, match="nearest: the vector is zero"):
        ROSE.nearest("nowhere")
    with pytest.raises(ValueError, match=r"nearest: a vector of shape \(3,\); give \(2,\)"):
        ROSE.nearest(np.ones(3))
    with pytest.raises(ValueError, match="nearest: n is 0; give 1 or more"):
        ROSE.nearest("north", 0)


def test_a_table_for_a_model(rng):
    words = ["king", None, "the", "unheard-of"] * 500
    vectors = WordVectors(["King", "the"], rng.normal(0, 0.3, (2, 40)))
    layer, found = embedding(vectors, words, rng=rng)
    table = layer.weight.data.reshape(500, 4, 40)
    assert found == 1000
    assert layer.weight.requires_grad
    np.testing.assert_array_equal(table[:, 0], np.broadcast_to(vectors.matrix[0], (500, 40)))
    np.testing.assert_array_equal(table[:, 2], np.broadcast_to(vectors.matrix[1], (500, 40)))
    np.testing.assert_allclose(table[:, [1, 3]].std(), vectors.matrix.std(), rtol=0.02)
    assert len(np.unique(table[:, [1, 3]])) > 30_000
    scaled, _ = embedding(vectors, ["king", "the"], rng=rng, std=0.05)
    np.testing.assert_allclose(scaled.weight.data.std(), 0.05, rtol=1e-5)
    np.testing.assert_allclose(scaled.weight.data / layer.weight.data[[0, 2]], 0.05 / vectors.matrix.std(), rtol=1e-5)


def test_a_table_of_which_no_word_is_found(rng):
    with pytest.raises(ValueError, match="embedding: none of the 2 words is among the 6 with vectors"):
        embedding(ROSE, ["haut", None], rng=rng)
    with pytest.raises(ValueError, match="embedding: all numbers of the 2 vectors are 1"):
        embedding(WordVectors(["a", "b"], np.ones((2, 3))), ["a"], rng=rng)


class Reader(nn.Module):
    def __init__(self, frozen, rng):
        self.table, _ = embedding(ROSE, ROSE.words, rng=rng, frozen=frozen)
        self.head = nn.Linear(2, 3, rng=rng)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_table_stays_and_a_tuned_one_moves(frozen, rng):
    model = Reader(frozen, rng)
    before = model.state_dict()
    optimizer = AdamW(decay_groups(model, weight_decay=0.1), lr=0.1)
    assert len(optimizer.params) == (2 if frozen else 3)
    autotx.cross_entropy(model.head(model.table(np.array([0, 1]))), np.array([2, 1])).backward()
    assert clip_grad_norm(model.parameters(), 1e-3) > 1e-3
    optimizer.step()
    after = model.state_dict()
    assert before.keys() == after.keys() == {"table.weight", "head.weight", "head.bias"}
    assert np.array_equal(before["table.weight"], after["table.weight"]) == frozen
    assert not np.array_equal(before["head.weight"], after["head.weight"])
    assert model.num_parameters() == 6 * 2 + 3 * 2 + 3
    model.load_state_dict(before)
    np.testing.assert_array_equal(model.table.weight.data, before["table.weight"])
    assert model.table.weight.requires_grad == (not frozen)
    assert model.astype(np.float64).table.weight.dtype == np.float64


def test_a_table_from_a_file_of_which_only_the_vocabulary_is_read(tmp_path, rng):
    (tmp_path / "v").write_text("king 1 2\nrubbish x y\nqueen 3 4\n")
    words = [None, *words_of(WordTokenizer([" king", "king", " thou", " "]))]
    assert words[:5] == [None, "king", "king", "thou", None]
    layer, found = load_embedding(tmp_path / "v", words, 2, rng=rng, frozen=True)
    assert found == 2
    assert layer.weight.shape == (1 + 4 + 257, 2)
    assert not layer.weight.requires_grad
    np.testing.assert_array_equal(layer.weight.data[1:3], [[1, 2], [1, 2]])
    with pytest.raises(ValueError, match="v: its vectors have 2 numbers, the model 128 channels; make them equal"):
        load_embedding(tmp_path / "v", words, 128, rng=rng)


# autotx nearest


def test_nearest_lists_words_of_a_file(tmp_path, capsys):
    ROSE.save(tmp_path / "v")
    assert main(["nearest", "--vectors", str(tmp_path / "v"), "north", "East", "--n", "2"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "north\n   0.949  far\n   0.707  Northeast\nEast\n   0.707  Northeast\n   0.000  north\n"
    assert shown.err == ""


def test_nearest_says_that_words_come_twice(tmp_path, capsys):
    (tmp_path / "v").write_text("a 1 2\nb 2 1\na 1 1\n")
    assert main(["nearest", "--vectors", str(tmp_path / "v"), "a"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "a\n   0.800  b\n"
    assert shown.err == "autotx nearest: 1 repeated word in the file; the first of each counts\n"


def test_nearest_says_that_words_were_skipped(tmp_path, capsys):
    (tmp_path / "v").write_bytes(b"a 1 2\nb 2 1\n\xff 1 1\n")
    assert main(["nearest", "--vectors", str(tmp_path / "v"), "a"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "a\n   0.800  b\n"
    assert shown.err == "autotx nearest: 1 word in the file left out, not written in UTF-8\n"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--vectors v up", "'up' has no vector"),
        ("--vectors v a --n 0", "--n 0 should be at least 1"),
        ("--vectors nowhere a", "nowhere: No such file"),
        ("--vectors broken a", "broken: line 2: 'x' is not a number"),
        ("--model . a", ".: there is no trained model"),
        ("a", "one of the arguments --model --vectors is required"),
        ("--vectors v", "the following arguments are required: WORD"),
    ],
)
def test_nearest_tells_mistakes_in_one_line(argv, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "v").write_text("a 1 2\nb 3 4\n")
    (tmp_path / "broken").write_text("a 1 2\nb x 4\n")
    try:
        status = main(["nearest", *argv.split()])
    except SystemExit as stopped:
        status = stopped.code
    shown = capsys.readouterr()
    assert (status, shown.out, shown.err.count("\n")) == (2, "", 1)
    assert message in shown.err


def test_nearest_reads_the_tokens_of_a_gpt(tmp_path, capsys):
    (tmp_path / "text").write_text("the king and the queen. " * 100)
    run = str(tmp_path / "run")
    sizes = "--n-layer 1 --n-head 1 --n-embd 8 --block-size 8 --batch-size 2 --steps 1 --eval-batches 1"
    train = ["train", "--text", str(tmp_path / "text"), "--out", run, "--tokenizer", "word", *sizes.split()]
    assert main([*train, "--vocab-size", "262"]) == 0
    capsys.readouterr()
    assert main(["nearest", "--model", run, "king", "--n", "3"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    opened = open_model(run)
    vectors = opened.task.word_vectors(opened)
    assert {"the", "king", "and", "queen", "."} <= set(vectors.words)
    words = [vectors.words.index(word) for word in ("the", "queen")]
    ids = [int(opened.tokenizer.encode(f" {word}")[0]) for word in ("the", "queen")]
    assert (words[0] < words[1]) == (ids[0] < ids[1])  # the commonest first
    weights, _ = load_tensors(tmp_path / "run" / "model.safetensors")
    row = load_tokenizer(run).encode(" king")[0]
    np.testing.assert_array_equal(vectors.matrix[vectors.row("king")], weights["wte.weight"][row])

"""Every text survives the way to token ids and back, whatever its characters, whole or one token at a time."""

import json
import random
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotx.models import tokenizers
from autotx.models.data import read_text
from autotx.models.tokenizers import KINDS, ByteTokenizer, CharTokenizer, WordTokenizer, load_tokenizer, make_tokenizer

TEXT = "The quick brown fox jumps over the lazy dog.\nThe dog sleeps.\r\n\tNaïve façade, 10 €.\n" * 4
MADE = {kind: make_tokenizer(kind, TEXT, 300) for kind in KINDS}
NASTY = ["", "\x00", "é", "e\u0301", "中文", "\U0001f600", "\r\n", " \t ", "\u2028", "\ufeff", "<0x41>", "Ġ", "\ud7ff"]


@pytest.fixture(params=KINDS)
def tokenizer(request):
    return MADE[request.param]


def kept(tokenizer, text):
    """What of a text comes back: all, but that words are in lower case."""
    return text.lower() if tokenizer.kind == "word" else text


def bpe_pieces(text):
    """What BPE cuts a text into before it merges bytes."""
    library = pytest.importorskip("tokenizers")
    split = library.pre_tokenizers.Split(library.Regex(tokenizers._BPE_PIECE), "isolated")
    return [piece for piece, _ in split.pre_tokenize_str(text)]


def streamed(tokenizer, ids):
    decoder = tokenizer.decoder()
    return [*map(decoder.push, ids), decoder.finish()]


@pytest.mark.parametrize("text", [TEXT, *NASTY])
def test_a_text_comes_back(tokenizer, text):
    ids = tokenizer.encode(text)
    assert ids.dtype == np.int32
    assert ids.ndim == 1
    assert tokenizer.decode(ids) == kept(tokenizer, text)


@given(text=st.text())
def test_any_text_comes_back(text):
    for tokenizer in MADE.values():
        ids = tokenizer.encode(text)
        assert all(0 <= i < tokenizer.vocab_size for i in ids)
        assert tokenizer.decode(ids) == kept(tokenizer, text)
        assert "".join(streamed(tokenizer, ids)) == kept(tokenizer, text)


@given(ids=st.lists(st.integers(0, 255)))
def test_any_ids_decode_and_streaming_says_the_same(ids):
    for tokenizer in MADE.values():
        assert "".join(streamed(tokenizer, ids)) == tokenizer.decode(ids)


def test_a_stream_never_prints_half_a_character():
    assert streamed(ByteTokenizer(), "é€".encode()) == ["", "é", "", "", "€", ""]
    assert streamed(ByteTokenizer(), "€".encode()[:2]) == ["", "", "\ufffd"]


def test_half_a_surrogate_pair_becomes_a_question_mark(tokenizer):
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a?b"
    assert tokenizer.unknown("\ud800") in ([], ["?"])


def test_characters_are_numbered_in_order_and_bytes_follow():
    tokenizer = CharTokenizer("cab")
    assert tokenizer.vocab_size == 3 + 256
    np.testing.assert_array_equal(tokenizer.encode("abc"), [0, 1, 2])
    np.testing.assert_array_equal(tokenizer.encode("aéb"), [0, 3 + 0xC3, 3 + 0xA9, 1])
    assert tokenizer.unknown("abxcéx") == ["x", "é"]


def test_a_text_is_not_taken_for_a_list_of_words():
    with pytest.raises(TypeError, match=r"give a list of words, or use WordTokenizer.train\(text, size\)"):
        WordTokenizer("a text", 300)  # pyright: ignore[reportArgumentType]


def test_a_word_is_one_token_wherever_it_stands_and_bytes_follow():
    tokenizer = WordTokenizer.train("You are, I say, you ARE!\n", 257 + 5)
    assert WordTokenizer.split("Don't  go, you.\n") == ["don't", " ", " go", ",", " you", ".", "\n"]
    assert tokenizer.words == [" you", " are", ",", " i", " say"]  # the commonest first, of equals the earliest
    join, byte = 5 + 256, 5
    np.testing.assert_array_equal(tokenizer.encode("You are"), [join, 0, 1])
    signs = {c: byte + ord(c) for c in " ()!"}
    ids = [join, 1, signs[" "], signs["("], join, 0, signs[")"], signs["!"]]
    np.testing.assert_array_equal(tokenizer.encode("are (you)!"), ids)
    assert [tokenizer.pieces[i] for i in (join, byte + ord("!"), 0)] == [b"", b"!", b" you"]


def test_a_sign_that_is_known_with_a_space_or_without_one_is_no_bytes():
    tokenizer = WordTokenizer.train("a . b, c\n", 300)
    byte, join = len(tokenizer.words), len(tokenizer.words) + 256
    comma, stop = (tokenizer.words.index(word) for word in (",", " ."))
    np.testing.assert_array_equal(tokenizer.encode(" a."), [tokenizer.words.index(" a"), join, stop])
    np.testing.assert_array_equal(tokenizer.encode(" ,"), [byte + ord(" "), comma])
    assert tokenizer.decode(tokenizer.encode("a. b ,c")) == "a. b ,c"


@pytest.mark.parametrize(
    ("text", "unknown"),
    [
        ("house", []),  # in the text with a space before it
        ("The house.", []),  # in the text the stop has a space before it
        ("stands\t", ["\t"]),
        ("a  dog", [" "]),  # two spaces were never there
        ("The mouse sleeps", ["mouse"]),
    ],
)
def test_a_word_is_known_with_and_without_its_space(text, unknown):
    tokenizer = WordTokenizer.train("The red house stands .\nA dog sleeps . The dog eats .\n", 1000)
    assert tokenizer.unknown(text) == unknown
    if not unknown:
        assert (tokenizer.encode(text) < len(tokenizer.words)).sum() == len(WordTokenizer.split(text))


def test_a_word_that_was_learned_as_bytes_is_known():
    text = "the cat and the dog and the zebu\n"
    tokenizer = WordTokenizer.train(text, 257 + 2)
    assert tokenizer.words == [" the", " and"]
    assert tokenizer.unknown(text) == []
    assert tokenizer.unknown("the bat") == []  # its letters were learned, in other words
    assert tokenizer.unknown("the ox, and") == [",", "ox"]


def test_no_line_of_the_text_is_called_unknown():
    text = read_text(())[:200_000]
    for size in (600, 10**6):
        tokenizer = WordTokenizer.train(text, size)
        assert [line for line in text.splitlines() if tokenizer.unknown(line)] == []
        assert tokenizer.unknown("called") == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("नमस्ते दुनिया", ["नमस्ते", " दुनिया"]),
        ("sen\u0303or, jose\u0301", ["sen\u0303or", ",", " jose\u0301"]),
        ("می\u200cخواهم", ["می\u200cخواهم"]),  # a joiner inside a word
        ("ok ❤\ufe0f!", ["ok", " ❤\ufe0f", "!"]),  # a mark belongs to the sign before it
        ("1 = 3.5²", ["1", " =", " 3", ".", "5²"]),
    ],
)
def test_marks_and_joiners_belong_to_their_words(text, words):
    assert WordTokenizer.split(text) == words
    pieces = bpe_pieces(text)
    assert [p for p in pieces if p[-1].isalpha()] == [word for word in words if word[-1].isalpha()]


def test_bpe_learns_to_say_more_with_less():
    tokenizer = MADE["bpe"]
    assert 256 < tokenizer.vocab_size <= 300
    assert len(tokenizer.encode(TEXT)) < len(TEXT.encode()) / 1.5
    assert tokenizer.unknown("中") == []


def test_bpe_learns_empty_lines_and_indentations():
    tokenizer = make_tokenizer("bpe", "if a\n    b\n\nif b:\n    a\n\n" * 20, 300)
    assert {b"\n\n", b"\n   ", b":\n"} <= {*tokenizer.pieces}
    pieces = [tokenizer.pieces[i] for i in tokenizer.encode("a\n\nif a")]
    assert pieces == [b"a", b"\n\n", b"if", b" a"]


def test_bpe_of_a_whole_text_needs_fewer_tokens_than_of_its_lines():
    library = pytest.importorskip("tokenizers")
    text = read_text(())
    training, rest = text[:-20_000], text[-20_000:]
    by_lines = library.Tokenizer(library.models.BPE())
    by_lines.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = library.pre_tokenizers.ByteLevel.alphabet()
    trainer = library.trainers.BpeTrainer(vocab_size=1024, initial_alphabet=alphabet, show_progress=False)
    by_lines.train_from_iterator(training.splitlines(keepends=True), trainer)
    assert len(make_tokenizer("bpe", training, 1024).encode(rest)) < 0.971 * len(by_lines.encode(rest).ids)


def test_bpe_is_trained_on_parts_of_the_text_as_on_the_whole():
    """The text is cut between a line end and what is no space, where no piece goes on."""
    draw = random.Random(0)
    text = "".join(draw.choice(" \n\n\r\t.,'’aé\u0301नम\u200d9\u2028\x85") for _ in range(20_000))
    assert [piece for part in re.split(r"(?<=\n)(?=\S)", text) for piece in bpe_pieces(part)] == bpe_pieces(text)


def test_the_end_of_a_text_is_a_token_of_its_own(tokenizer):
    text = "The dog. \0The\n\0(dog)\0\0"
    for made in (tokenizer, make_tokenizer(tokenizer.kind, text * 9, 300)):
        assert made.pieces[made.end] == b"\0"
        assert not any(b"\0" in piece for piece in made.pieces if piece != b"\0")
        assert (made.encode(text) == made.end).sum() == 4


def test_saved_and_loaded_it_is_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert type(loaded) is type(tokenizer)
    assert loaded.vocab_size == tokenizer.vocab_size
    np.testing.assert_array_equal(loaded.encode(TEXT + "中"), tokenizer.encode(TEXT + "中"))


def test_the_bpe_file_is_the_librarys_own(tmp_path):
    library = pytest.importorskip("tokenizers")
    MADE["bpe"].save(tmp_path)
    theirs = library.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert theirs.encode(TEXT).ids == MADE["bpe"].encode(TEXT).tolist()
    assert theirs.decode(theirs.encode(TEXT).ids) == TEXT


def test_the_byte_alphabet_is_gpt2s():
    library = pytest.importorskip("tokenizers")
    alphabet = {chr(c) for c, byte in tokenizers.BYTE_OF.items() if byte < 256}
    assert alphabet == set(library.pre_tokenizers.ByteLevel.alphabet())
    assert tokenizers.BYTE_OF[ord("Ġ")] == ord(" ")


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ('{"type": "char"', "truncated or not JSON"),
        ('{"type": "char"}', "characters should be a text, it is 'None'"),
        ('{"type": "morse"}', "holds no tokenizer that autotx knows"),
        ('{"model": {"type": "WordPiece"}}', "holds no tokenizer that autotx knows"),
        ('{"model": {"type": "BPE"}}', "is not a file of the library tokenizers"),
        (json.dumps({"model": {"type": "BPE", "vocab": {"一": 0}, "merges": []}}), "一.*is not bytes"),
    ],
)
def test_a_broken_file_is_refused(tmp_path, content, error):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=error):
        load_tokenizer(tmp_path)


def test_mistakes_are_named(tokenizer, monkeypatch, tmp_path):
    with pytest.raises(ValueError, match=f"there is no token 5000, the ids go from 0 to {tokenizer.vocab_size - 1}"):
        tokenizer.decode([5000])
    with pytest.raises(ValueError, match="there is no token -1"):
        tokenizer.decode([-1])
    with pytest.raises(ValueError, match="--tokenizer morse is not known; it is one of char, byte, word, bpe"):
        make_tokenizer("morse", TEXT, 300)
    with pytest.raises(ValueError, match="--vocab-size 100 is too small"):
        make_tokenizer("bpe", TEXT, 100)
    with pytest.raises(ValueError, match="--vocab-size 256 leaves no room for words"):
        make_tokenizer("word", TEXT, 256)
    with pytest.raises(FileNotFoundError, match=r"there is no file .*tokenizer.json"):
        load_tokenizer(tmp_path)
    monkeypatch.setattr(tokenizers, "bpe_library", None)
    with pytest.raises(ValueError, match=r'pip install "autotx\[bpe\]"'):
        make_tokenizer("bpe", TEXT, 300)

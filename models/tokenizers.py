"""Text to token ids and back: characters, bytes, words, or byte-pair encoding (BPE).

A tokenizer has a list of pieces: piece i is the UTF-8 bytes of token i. All kinds decode by joining pieces; they differ
in how `encode` splits a text. Every text can be encoded, because each kind has the 256 single bytes as tokens, and
spells with them what has no token of its own. Only a lone surrogate, which is not text, becomes a question mark.
"""

import codecs
import collections
import functools
import itertools
import json
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from autotx.files import checked, entry, read_json, to_json, write_atomically
from autotx.types import PathLike

try:
    import tokenizers as bpe_library
except ImportError:  # an extra: pip install "autotx[bpe]"
    bpe_library: Any = None

FILE = "tokenizer.json"
END_OF_TEXT = "\0"  # ends each of several joined texts: no text file holds it, and every tokenizer has a token for it
KINDS = ("char", "byte", "word", "bpe")
UNUSED = 0.1  # at most this share of a model's table has no token; models have some, for round numbers
_BYTES = [bytes([b]) for b in range(256)]
# GPT-2 writes each byte as a visible character. A byte that is a visible character stays that one, the others are the
# characters from U+0100 on. A table for str.translate: character -> that of the byte, U+FFFF for what is no byte.
_VISIBLE = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)}
_HIDDEN = [b for b in range(256) if b not in _VISIBLE]
BYTE_OF = {b: b if b in _VISIBLE else 0xFFFF for b in range(256)} | {256 + i: b for i, b in enumerate(_HIDDEN)}
_QUOTE = "\ufdd0"  # no character, and reserved for use inside programs
_JOIN = b""  # a token that writes nothing and removes the space of the next one

# A word is letters, numbers, marks (accents, and most vowels of Indian scripts) and the joiners inside words of Persian
# or Hindi; \w of the module re has no marks and no joiners. _MARK first excludes what is below U+0300, to save time.
_PLANES = (range(0x300, 0x20000), range(0xE0100, 0xE01F0))  # all marks of Unicode are in these
_MARKS = "".join(c for c in map(chr, itertools.chain(*_PLANES)) if unicodedata.category(c)[0] == "M")
_MARK = rf"(?![\0-\u02ff])[{_MARKS}\u200c\u200d]"
_LETTERS = rf"(?:\w+|{_MARK})+"  # not possessive: before 3.11.5 Python matches ++ of a group wrongly
_PIECE = re.compile(rf" ?{_LETTERS}(?:['’]{_LETTERS})*| ?[^\s\0](?:{_MARK})*|[\s\0]")

# How BPE splits a text before it merges bytes, in the syntax of the library tokenizers: as cl100k_base (GPT-4), except
# that marks and joiners belong to words, and that the white space of an indentation is one piece.
_BPE_PIECE = "|".join(
    (
        r"'(?i:[sdmt]|ll|ve|re)",  # the end of I'll
        r"[^\r\n\0\p{L}\p{M}\p{N}]?[\p{L}\p{M}\x{200c}\x{200d}]+",  # a word, with a space or sign directly before it
        r"\p{N}{1,3}",
        r" ?[^\s\0\p{L}\p{M}\p{N}]+[\r\n]*",  # signs, with the line ends after them
        r"\s*[\r\n]+(?=\S)",  # empty lines
        r"\s+(?!\S)",  # white space without its last character, which belongs to the next word
        r"\s+",
        r"\0",  # the end of a text
    )
)


class Tokenizer:
    """The base of all tokenizers. `pieces[i]` are the bytes of token i."""

    kind: str
    lower_case = False  # whether it turns capitals into small letters

    def __init__(self, pieces: list[bytes]):
        self.pieces = pieces

    @property
    def vocab_size(self) -> int:
        return len(self.pieces)

    @functools.cached_property
    def ends(self) -> tuple[int, ...]:
        """The ids of the tokens that end a text, the usual one first."""
        return (int(self.encode(END_OF_TEXT)[-1]),)

    @property
    def end(self) -> int:
        """The id of the token that usually ends a text."""
        return self.ends[0]

    def encode(self, text: str) -> np.ndarray:
        """The token ids of a str: an int32 array (T,)."""
        raise NotImplementedError

    def encode_batch(self, texts: list[str]) -> list[np.ndarray]:
        """The token ids of each of some texts."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """The str of token ids (T,). Bytes that are no UTF-8 become U+FFFD. ValueError for an id out of range."""
        decoder = self.decoder()
        return "".join(decoder.push(i) for i in ids) + decoder.finish()

    def decoder(self) -> "StreamDecoder":
        """A StreamDecoder, which decodes one token at a time."""
        return StreamDecoder(self.pieces)

    def texts(self, ids: Iterable[int]) -> list[str]:
        """The text of each token. Bytes that are not a whole character are written like \\xe4."""
        return [self.pieces[i].decode(errors="backslashreplace") or "‹join›" for i in ids]

    def unknown(self, text: str) -> list[str]:
        """The characters or words of `text` that a model trained with this tokenizer cannot have seen: a sorted list.

        They are not in the text that the tokenizer was made from, neither as tokens nor spelled as bytes.
        """
        return []

    def describe(self) -> str:
        """The kind and size in a few words, for the user."""
        return f"{self.kind} tokenizer of {self.vocab_size:,} tokens"

    def save(self, folder: PathLike) -> None:
        """Write `tokenizer.json` into a folder."""
        write_atomically(Path(folder) / FILE, self.to_bytes())

    def to_bytes(self) -> bytes:
        """The content of `tokenizer.json`."""
        return to_json({"type": self.kind})


class StreamDecoder:
    """Decodes one token at a time. A character whose bytes are in several tokens is returned with the last of them."""

    def __init__(self, pieces: list[bytes]):
        self._pieces, self._before = pieces, None
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """The text that this token completes, which may be empty."""
        token = int(token)
        if not 0 <= token < len(self._pieces):
            raise ValueError(f"decode: there is no token {token}, the ids go from 0 to {len(self._pieces) - 1}")
        piece = self._pieces[token]
        joined, self._before = self._before == _JOIN, piece
        return self._utf8.decode(piece.removeprefix(b" ") if joined else piece)

    def finish(self) -> str:
        """The end of the text: U+FFFD for a character whose last bytes did not come, or nothing."""
        return self._utf8.decode(b"", final=True)


class ByteTokenizer(Tokenizer):
    """The 256 bytes of UTF-8."""

    kind = "byte"

    def __init__(self):
        super().__init__(_BYTES)

    def encode(self, text: str) -> np.ndarray:
        return np.frombuffer(_utf8(text), np.uint8).astype(np.int32)


class CharTokenizer(Tokenizer):
    """The sorted characters of a text, followed by the 256 bytes, for characters that the text does not have."""

    kind = "char"

    def __init__(self, text: str):
        self.characters = "".join(sorted(set(_clean(text))))
        super().__init__([c.encode() for c in self.characters] + _BYTES)
        self._ids = np.full(0x110000, -1, np.int32)  # code point -> token id
        self._ids[_code_points(self.characters)] = np.arange(len(self.characters))

    def encode(self, text: str) -> np.ndarray:
        text = _clean(text)
        ids = self._ids[_code_points(text)]
        if (ids >= 0).all():
            return ids
        parts, first_byte = [], len(self.characters)
        for i, c in zip(ids, text):
            parts.extend([i] if i >= 0 else [first_byte + b for b in c.encode()])
        return np.array(parts, np.int32)

    def unknown(self, text):
        return sorted(set(_clean(text)) - set(self.characters))

    def to_bytes(self):
        return to_json({"type": self.kind, "characters": self.characters})


class WordTokenizer(Tokenizer):
    """The words of a text in lower case, followed by the 256 bytes, for other words, and by a token that joins.

    A word has one token, with a space before it. Where the text has no space, as at the start of a line or after a
    bracket, the joining token comes first. A sign has a token with a space and one without, if both occur.
    "Don't  go (you)." becomes join, " don't", " ", " go", " (", join, " you", ")", ".".

    words: list of str. spelled: the characters of those words of the training text that are not in `words`, so that a
    model has learned them as bytes.
    """

    kind = "word"
    lower_case = True

    def __init__(self, words: list[str], spelled: str = ""):
        if isinstance(words, str):
            raise TypeError(
                "WordTokenizer: words is a text; give a list of words, or use WordTokenizer.train(text, size)"
            )
        self.words, self.spelled = words, spelled
        super().__init__([word.encode() for word in words] + _BYTES + [_JOIN])
        self._ids = {word: i for i, word in enumerate(words)}
        self._known = {_bare(word) for word in words}

    @classmethod
    def train(cls, text: str, vocab_size: int):
        """The vocab_size - 257 commonest words of a text, the commonest first; equally common ones in their order."""
        if vocab_size <= 257:
            raise ValueError(f"--vocab-size {vocab_size} leaves no room for words beside 257 other tokens; use more")
        counts = collections.Counter()
        for piece, count in collections.Counter(cls.split(text)).items():
            counts[f" {piece}" if re.match(_LETTERS, piece) else piece] += count
        words = [word for word, _ in counts.most_common(vocab_size - 257)]
        rare = counts.keys() - set(words)
        return cls(words, "".join(sorted(set().union(*map(_bare, rare)))))

    @classmethod
    def split(cls, text: str) -> list[str]:
        """The words and signs of a text in lower case, each with the space before it: a list of str."""
        return _PIECE.findall(_clean(text).lower())

    def encode(self, text: str) -> np.ndarray:
        pieces = self.split(text)
        ids = {piece: self._encode_piece(piece) for piece in set(pieces)}
        return np.array([i for piece in pieces for i in ids[piece]], np.int32)

    def _encode_piece(self, piece):
        first_byte, join = len(self.words), len(self.words) + 256
        if piece in self._ids:
            return [self._ids[piece]]
        if f" {piece}" in self._ids:
            return [join, self._ids[f" {piece}"]]
        if piece[0] == " " and piece[1:] in self._ids:
            return [self._ids.get(" ", first_byte + ord(" ")), self._ids[piece[1:]]]
        return [first_byte + b for b in piece.encode()]

    def unknown(self, text):
        words = {_bare(piece) for piece in self.split(text)} - self._known
        return sorted(word for word in words if not set(word) <= set(self.spelled))

    def describe(self):
        return f"{super().describe()}, all in lower case"

    def to_bytes(self):
        return to_json({"type": self.kind, "words": self.words, "spelled": self.spelled})


class BPETokenizer(Tokenizer):
    """Byte-pair encoding by the library `tokenizers`: on bytes, as in GPT-2 and later models, or on characters with
    bytes for those that have no token, as in Llama 2 ("SentencePiece").

    merges: a tokenizers.Tokenizer. Its added tokens, such as <|im_end|>, are found in a text before anything else.
    start: the id of the token that every text begins with, or None. ends: the ids of tokens that end a text, the usual
    one first; () for the one of "\\0". size: the rows of the model's table, if it has some for no token.
    ValueError for a kind of BPE that is neither, and for tokens that do not fit the table.
    """

    kind = "bpe"

    def __init__(self, merges: Any, start: int | None = None, ends: Iterable[int] = (), size: int = 0):
        self._merges, self.start, self._ends = merges, start, tuple(ends)
        added = {i: token.content.encode() for i, token in merges.get_added_tokens_decoder().items()}
        names = {i: name for name, i in merges.get_vocab().items()}
        size = size or len(names)
        if not all(0 <= i < size for i in (*names, *self._ends, 0 if start is None else start)):
            raise ValueError(f"an id is not below {size}, the number of tokens; restore the file")
        if len(names) < (1 - UNUSED) * size:
            raise ValueError(f"its tokenizer has {len(names)} tokens, its table of tokens {size}; get both anew")
        bytes_of = _spelled_in(merges) if getattr(merges.model, "byte_fallback", False) else _byte_level
        pieces = (added.get(i) or bytes_of(names[i]) if i in names else f"[PAD{i}]".encode() for i in range(size))
        super().__init__(list(pieces))
        single = {piece for piece in self.pieces if len(piece) == 1}
        self._missing = {b for b in range(256) if bytes([b]) not in single}

    @functools.cached_property
    def ends(self):
        return self._ends or super().ends

    @classmethod
    def train(cls, text: str, vocab_size: int):
        """Learn at most vocab_size - 256 merges from a text."""
        need_library()
        if vocab_size < 256:
            raise ValueError(f"--vocab-size {vocab_size} is too small: BPE starts from 256 bytes; use 257 or more")
        merges = bpe_library.Tokenizer(bpe_library.models.BPE())
        pieces = bpe_library.pre_tokenizers.Split(bpe_library.Regex(_BPE_PIECE), "isolated")
        as_bytes = bpe_library.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        merges.pre_tokenizer = bpe_library.pre_tokenizers.Sequence([pieces, as_bytes])
        merges.decoder = bpe_library.decoders.ByteLevel()
        trainer = bpe_library.trainers.BpeTrainer(
            vocab_size=min(vocab_size, 256 + len(_utf8(text))),  # a merge needs two bytes; the library reserves memory
            initial_alphabet=bpe_library.pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        # No piece continues after a line end with anything but white space. Splitting there saves memory.
        merges.train_from_iterator(re.split(r"(?<=\n)(?=\S)", _clean(text)), trainer)
        return cls(merges)

    def encode(self, text: str) -> np.ndarray:
        """The token ids. ValueError for a character of which the tokenizer has no token, nor for its bytes."""
        unknown = self._missing and self.unknown(text)
        if unknown:
            raise ValueError(f"the tokenizer has no token for {', '.join(map(repr, unknown))}; leave that out")
        return self._begun(self._merges.encode(_clean(text), add_special_tokens=False).ids)

    def _begun(self, ids):
        begun = self.start is None or ids[:1] == [self.start]
        return np.array(ids if begun else [self.start, *ids], np.int32)

    def quote(self, text: str) -> str:
        """The text with marks around what would be read as special tokens, for `encode_quoted`."""
        names = [t.content for t in self._merges.get_added_tokens_decoder().values() if t.special]
        text = _clean(text).replace(_QUOTE, "\ufffd")
        return re.sub("|".join(map(re.escape, names)), rf"{_QUOTE}\g<0>{_QUOTE}", text) if names else text

    def encode_quoted(self, text: str) -> np.ndarray:
        """`encode` of a text that has parts that were quoted: in these, the names of special tokens are only text."""
        ids = []
        for i, part in enumerate(text.split(_QUOTE)):
            self._merges.encode_special_tokens = bool(i % 2)
            ids += self._merges.encode(_clean(part), add_special_tokens=False).ids
        self._merges.encode_special_tokens = False
        return self._begun(ids)

    def token_of(self, i: int) -> str:
        """The name of a token in the library tokenizers."""
        return self._merges.id_to_token(i)

    def library(self) -> dict[str, Any]:
        """What the library tokenizers writes of its tokenizer."""
        return json.loads(self._merges.to_str())

    def unknown(self, text):
        return sorted(c for c in set(_clean(text)) if not self._missing.isdisjoint(c.encode()))

    def encode_batch(self, texts):
        """As the base class, on all cores."""
        found = self._merges.encode_batch_fast([_clean(text) for text in texts])
        return [np.array(encoding.ids, np.int32) for encoding in found]

    def to_bytes(self):
        merges, unused = self.library(), self.vocab_size - self._merges.get_vocab_size()
        marked = {"start": self.start, "ends": self._ends, **({"size": self.vocab_size} if unused else {})}
        named = self.start is not None or self._ends or unused
        return to_json({**marked, "library": merges} if named else merges)  # the library refuses keys it does not know


def make_tokenizer(kind: str, text: str, vocab_size: int) -> Tokenizer:
    """A new tokenizer for a text. kind: one of KINDS; only "word" and "bpe" use vocab_size."""
    if kind == "char":
        return CharTokenizer(text)
    if kind == "byte":
        return ByteTokenizer()
    if kind == "word":
        return WordTokenizer.train(text, vocab_size)
    if kind == "bpe":
        return BPETokenizer.train(text, vocab_size)
    raise ValueError(f"--tokenizer {kind} is not known; it is one of {', '.join(KINDS)}")


def load_tokenizer(path: PathLike) -> Tokenizer:
    """The tokenizer in a file or in the tokenizer.json of a folder. ValueError for a file of another kind,
    FileNotFoundError without one."""
    path = Path(path)
    path = path / FILE if path.is_dir() else path
    saved = read_json(path)
    if saved.get("type") == "byte":
        return ByteTokenizer()
    if saved.get("type") == "char":
        return CharTokenizer(entry(saved, "characters", str, path))
    if saved.get("type") == "word":
        words = [checked(word, str, "words", path) for word in entry(saved, "words", list, path)]
        if len(set(words) - {""}) < len(words):
            raise ValueError(f"{path}: words should differ and not be empty")
        return WordTokenizer(words, entry(saved, "spelled", str, path))
    merges = saved.get("library", saved)
    if isinstance(merges, dict) and isinstance(merges.get("model"), dict) and merges["model"].get("type") == "BPE":
        start, ends = saved.get("start"), entry({"ends": [], **saved}, "ends", list, path)
        for i in ends if start is None else [start, *ends]:
            checked(i, int, "start and ends", path)
        size, library = entry({"size": 0, **saved}, "size", int, path), library_tokenizer(path, merges)
        try:
            return BPETokenizer(library, start, ends, size)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
    raise ValueError(f"{path} holds no tokenizer that autotx knows (characters, bytes, words or byte-level BPE)")


def library_tokenizer(path: PathLike, saved: dict[str, Any]) -> Any:
    """The tokenizer of the library tokenizers that a dict of its own describes. ValueError, which names the path, for
    one that it does not understand."""
    need_library()
    try:
        return bpe_library.Tokenizer.from_str(json.dumps(saved))
    except Exception as error:  # the library raises nothing more specific
        raise ValueError(f"{path} is not a file of the library tokenizers ({error})") from error


def need_library():
    """ValueError without the library tokenizers."""
    if bpe_library is None:
        raise ValueError('the BPE tokenizer needs the library tokenizers: pip install "autotx[bpe]"')


def _byte_level(name):
    """The bytes of a token of byte-level BPE."""
    try:
        return name.translate(BYTE_OF).encode("latin-1")
    except UnicodeEncodeError:
        raise ValueError(f"its BPE has a token {name!r}, which is not bytes; autotx reads byte-level BPE") from None


def _spelled_in(merges):
    """A function from a token of characters to its bytes: <0x0A> stands for a byte, and ▁ for a space, if the decoder
    of the library's tokenizer says so."""
    space = "▁" if merges.decoder is None or "▁" in merges.decoder.decode(["a", "▁", "a"]) else " "

    def spelled(name):
        byte = re.fullmatch("<0x([0-9A-F]{2})>", name)
        return bytes.fromhex(byte[1]) if byte else name.replace("▁", space).encode()

    return spelled


def _bare(piece):
    """A word without the space before it. A space alone stays one."""
    return piece.removeprefix(" ") or piece


def _utf8(text):
    return text.encode("utf-8", errors="replace")


def _clean(text):
    """The text without lone surrogates."""
    return _utf8(text).decode()


def _code_points(text):
    return np.frombuffer(text.encode("utf-32-le"), "<u4")

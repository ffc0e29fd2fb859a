"""Training data: reading text files, splitting a text into training and validation part, and drawing random blocks."""

import hashlib
from collections.abc import Callable, Sequence
from pydoc_data import topics
from typing import Any, NamedTuple

import numpy as np

from autotx.models.tokenizers import END_OF_TEXT, Tokenizer
from autotx.types import Generator, PathLike

TRAINING_SHARE = 0.9


class Data(NamedTuple):
    """The tokens of a text, in a training and a validation part."""

    training: np.ndarray  # (number of tokens,) integers; may be memory-mapped
    validation: np.ndarray
    tokenizer: Tokenizer
    digest: str  # SHA-256 of the source; a resumed run checks that it has not changed


class TextSource:
    """A text as a source of tokens: the last tenth of its characters is the validation part.

    A source has `tokenizer`, `digest` (as in Data) and `split`. text: str. make_tokenizer: a function of the training
    part that returns its Tokenizer.
    """

    def __init__(self, text: str, make_tokenizer: Callable[[str], Tokenizer]):
        cut = int(len(text) * TRAINING_SHARE)
        self.parts = text[:cut], text[cut:]
        self.tokenizer = make_tokenizer(self.parts[0])
        self.digest = hashlib.sha256(text.encode()).hexdigest()

    def split(self) -> tuple[np.ndarray, np.ndarray]:
        """The tokens of the training and of the validation part: integers, (number of tokens,) each."""
        return self._encoded(self.parts[0]), self._encoded(self.parts[1])

    def _encoded(self, text):
        """The tokens of a text; END_OF_TEXT becomes the token that ends a text for the tokenizer of any model."""
        tokenizer, texts = self.tokenizer, text.split(END_OF_TEXT)
        if len(texts) == 1 or tokenizer.encode(END_OF_TEXT).tolist() == [tokenizer.end]:
            return tokenizer.encode(text)
        parts = [tokenizer.encode(texts[0])]
        for text in texts[1:]:
            parts += [np.array([tokenizer.end]), tokenizer.encode(text)] if text else [np.array([tokenizer.end])]
        return np.concatenate(parts)


def read_text(paths: Sequence[PathLike], end_of_text: bool = False) -> str:
    """The text of some files, joined by line ends; without files, the manual that comes with Python.

    end_of_text: end each file with END_OF_TEXT instead. ValueError for a file that is missing, unreadable, empty, or
    not UTF-8 text.
    """
    if not paths:
        # The manual repeats sections. Each paragraph is kept once, so that none is in both parts.
        return "\n\n".join(dict.fromkeys("\n\n".join(topics.topics.values()).split("\n\n")))
    texts = [read_file("--text", path) for path in paths]
    return "".join(text + END_OF_TEXT for text in texts) if end_of_text else "\n".join(texts)


def read_file(flag: str, path: PathLike) -> str:
    """The text of one UTF-8 file. flag: what gave its path, for errors. ValueError as in `read_text`."""
    content = bytearray()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                content += block
                if b"\0" in block:  # a device such as /dev/zero has no end
                    at = content.index(b"\0")
                    raise ValueError(
                        f"{flag} {path}: not a text file, byte {at} is zero; it should be plain UTF-8 text"
                    )
    except OSError as error:
        raise ValueError(f"{flag} {path}: cannot be read: {error.strerror}") from error
    if not content.strip():
        raise ValueError(f"{flag} {path}: the file is empty")
    try:
        return content.decode("utf-8-sig")  # a byte order mark is not part of the text
    except UnicodeDecodeError as error:
        raise ValueError(f"{flag} {path}: not UTF-8, first at byte {error.start}; convert it to UTF-8") from error


def read_columns(flag: str, path: PathLike, names: Sequence[str]) -> list[tuple[str, str, str]]:
    """The rows of a UTF-8 file with two columns, separated by a tab: a list of (place, left, right). Skips empty lines.

    Lines end with LF or CR LF, or, in a file without any LF, with CR. place: flag, path and number of the line.
    flag: what gave the path, names: what the two columns are, both for errors.
    ValueError, naming the line, for a line without a tab, with several, or with an empty column; and as in `read_file`.
    """
    rows, content = [], read_file(flag, path)
    for number, line in enumerate(content.split("\n" if "\n" in content else "\r"), 1):
        if not line.strip():
            continue
        place, sides = f"{flag} {path}, line {number}", [side.strip() for side in line.split("\t")]
        if len(sides) != 2:
            found = "no tab" if len(sides) == 1 else f"{len(sides) - 1} tabs"
            raise ValueError(f"{place}: it has {found}; each line should be: {' TAB '.join(names)}")
        if not all(sides):
            raise ValueError(f"{place}: it has no {names[sides.index('')]}")
        rows.append((place, *sides))
    return rows


def load_data(source: Any, block_size: int, flag: str = "--block-size") -> Data:
    """The Data of a source, such as a TextSource. ValueError when a part has fewer than block_size + 1 tokens.

    flag: what gave the block_size, for the error.
    """
    data = Data(*source.split(), tokenizer=source.tokenizer, digest=source.digest)
    for name, ids in (("training", data.training), ("validation", data.validation)):
        if len(ids) <= block_size:
            raise ValueError(
                f"the text is too short: its {name} part has {len(ids)} tokens and must have more than {flag} "
                f"{block_size}; give more text or a smaller {flag}"
            )
    return data


def random_blocks(ids: np.ndarray, count: int, block_size: int, rng: Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw blocks of consecutive tokens at random places. Returns (inputs, targets), both (count, block_size).

    targets[b, t] is the token after inputs[b, t]. ids: integers (number of tokens,), more than block_size of them.
    rng: numpy.random.Generator, which is advanced.
    """
    starts = rng.integers(len(ids) - block_size, size=count)
    blocks = ids[starts[:, None] + np.arange(block_size + 1)].astype(np.int32)  # token files are unsigned
    return blocks[:, :-1], blocks[:, 1:]

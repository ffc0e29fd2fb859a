"""The text to learn from: read, split into a part for training and one for validation, and drawn from at random."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from pydoc_data import topics
from typing import NamedTuple

import numpy as np

from autotx.models.tokenizers import END_OF_TEXT, Tokenizer
from autotx.types import Generator, PathLike

TRAINING_SHARE = 0.9


class Data(NamedTuple):
    """Tokens to learn from, and others that are never trained on."""

    training: np.ndarray  # (number of tokens,) integers; may be memory-mapped
    validation: np.ndarray
    tokenizer: Tokenizer
    digest: str  # SHA-256 of the source, by which a resumed run knows that it is still the same


class TextSource:
    """A text as a source of tokens: its last tenth is for validation.

    A source has `tokenizer`, `digest` (as in Data) and `split`. text: str. make_tokenizer: a function of the part to
    learn from, which returns the Tokenizer.
    """

    def __init__(self, text, make_tokenizer):
        cut = int(len(text) * TRAINING_SHARE)
        self.parts = text[:cut], text[cut:]
        self.tokenizer = make_tokenizer(self.parts[0])
        self.digest = hashlib.sha256(text.encode()).hexdigest()

    def split(self):
        """The tokens to learn from and those for validation: integers, (number of tokens,) each."""
        return tuple(self.tokenizer.encode(part) for part in self.parts)


def read_text(paths: Sequence[PathLike], end_of_text: bool = False) -> str:
    """The text of some files, joined by line ends; without files, the manual that is part of every Python.

    end_of_text: put END_OF_TEXT behind each file instead. ValueError for a file that is missing, unreadable, empty, or
    not UTF-8 text.
    """
    if not paths:
        # The manual repeats whole sections. Each paragraph is kept once, or some would be in both parts.
        return "\n\n".join(dict.fromkeys("\n\n".join(topics.topics.values()).split("\n\n")))
    texts = [read_file("--text", path) for path in paths]
    return "".join(text + END_OF_TEXT for text in texts) if end_of_text else "\n".join(texts)


def read_file(flag, path):
    """The text of one UTF-8 file. ValueError, naming the flag that gave it, as in `read_text`."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"{flag} {path}: cannot be read: {error.strerror}") from error
    if not content.strip():
        raise ValueError(f"{flag} {path}: the file is empty")
    if b"\0" in content:
        at = content.index(b"\0")
        raise ValueError(f"{flag} {path}: not a text file, byte {at} is zero; it should be plain text in UTF-8")
    try:
        return content.decode("utf-8-sig")  # a byte order mark is not part of the text
    except UnicodeDecodeError as error:
        raise ValueError(f"{flag} {path}: not UTF-8, first at byte {error.start}; convert it to UTF-8") from error


def read_columns(flag, path, names):
    """The lines of a UTF-8 file that have a tab in their middle: a list of (place, left, right), empty lines left out.

    Lines end with LF or CR LF, or, in a file without any LF, with CR.
    flag: what gave the path. names: what stands on the left and on the right. place: flag, path and number of the line.
    ValueError, naming the line, for one without a tab, with several, or with nothing on a side; and as in `read_file`.
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


def load_data(source, block_size):
    """The Data of a source, such as a TextSource. ValueError when a part has no block of `block_size` with targets."""
    data = Data(*source.split(), source.tokenizer, source.digest)
    for name, ids in (("training", data.training), ("validation", data.validation)):
        if len(ids) <= block_size:
            raise ValueError(
                f"the text is too short: its {name} part has {len(ids)} tokens and must have more than --block-size "
                f"{block_size}; give more text or a smaller --block-size"
            )
    return data


def random_blocks(ids: np.ndarray, count: int, block_size: int, rng: Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw blocks, each from anywhere in the text. Returns (inputs, targets), both (count, block_size).

    The targets are the tokens that follow. ids: integers (number of tokens,), more than block_size of them.
    rng: numpy.random.Generator, which is advanced.
    """
    starts = rng.integers(len(ids) - block_size, size=count)
    blocks = ids[starts[:, None] + np.arange(block_size + 1)]
    return blocks[:, :-1], blocks[:, 1:]

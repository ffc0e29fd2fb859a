"""Word vectors: one vector a word. Words that are used in similar ways have vectors with similar directions.

    vectors = load_vectors("glove.6B.100d.txt")            from a file; words=vocabulary reads only these words
    vectors.nearest("king", 5)                             the words whose vectors have the most similar directions
    table, found = embedding(vectors, words, rng=rng)      an nn.Embedding with these vectors as initial weights

`load_vectors` recognises the format of a file, and gzip, by its content:

    word2vec text, FastText .vec    a line "<number of words> <dimension>", then a line "<word> <numbers>" for each word
    GloVe                           the same without the first line
    word2vec binary                 the first line, then for each word its bytes, a space, and float32 numbers
"""

import contextlib
import functools
import gzip
import io
import zlib
from collections.abc import Callable, Iterable

import numpy as np

from autotx import init, nn
from autotx.files import write_atomically
from autotx.models.tokenizers import Tokenizer
from autotx.types import ArrayLike, Generator, PathLike

LONGEST_LINE = 1 << 20  # bytes; a file with a longer line is not accepted
LONGEST_WORD = 1000  # bytes of a word in a binary file
LARGEST_DIM = 1 << 16  # numbers of a vector


class WordVectors:
    """Words and their vectors.

    words: a list of N distinct str, the commonest first if there is an order. matrix: (N, dim), kept as float32.
    repeated: how many repeated words a file had (the first vector of each is kept). skipped: how many of its words are
    no UTF-8 (they are left out).
    ValueError for shapes that do not fit, for a word that comes twice, and for NaN or Inf.
    """

    def __init__(self, words: Iterable[str], matrix: ArrayLike, repeated: int = 0, skipped: int = 0):
        self.words, self.matrix = list(words), np.asarray(matrix, np.float32)
        self.repeated, self.skipped = repeated, skipped
        if self.matrix.ndim != 2 or len(self.words) != len(self.matrix) or not self.matrix.size:
            shape = self.matrix.shape
            raise ValueError(f"WordVectors: {len(self.words)} words, matrix of shape {shape}; give one row a word")
        if not np.isfinite(self.matrix).all():
            raise ValueError("WordVectors: the matrix holds NaN or Inf")
        self._rows = {word: row for row, word in enumerate(self.words)}
        if len(self._rows) < len(self.words):
            raise ValueError("WordVectors: a word comes twice; give each once")

    @property
    def dim(self) -> int:
        return self.matrix.shape[1]

    def __len__(self):
        return len(self.words)

    def row(self, word: str) -> int | None:
        """The row of a word, an int, or None. A missing word gets the row of the first word that differs only in case:
        "king" finds "King", so that a lower-case vocabulary can use vectors of words with capitals."""
        found = self._rows.get(word)
        return self._folded.get(word.casefold()) if found is None else found

    @functools.cached_property
    def _folded(self):
        return {word.casefold(): row for row, word in reversed(list(enumerate(self.words)))}

    def nearest(self, word: str | ArrayLike, n: int = 10) -> list[tuple[str, float]]:
        """The n words whose vectors make the smallest angle with that of `word`: a list of (word, cosine), best first.

        word: a str, which is not listed itself; or a vector (dim,), such as king - man + woman.
        cos(a, b) = a b / (|a| |b|), from -1 to 1; 0 where a word's vector is zero.
        ValueError for a word that has no vector, for a vector that is zero or of another shape, and for n below 1.
        """
        if n < 1:
            raise ValueError(f"nearest: n is {n}; give 1 or more")
        itself = self._known_row(word) if isinstance(word, str) else None
        vector = np.asarray(word, np.float32) if itself is None else self.matrix[itself]
        if vector.shape != (self.dim,):
            raise ValueError(f"nearest: a vector of shape {vector.shape}; give ({self.dim},)")
        norm = np.linalg.norm(vector)
        if not norm > 0:
            raise ValueError("nearest: the vector is zero, which points nowhere")
        cosines = np.clip(self.matrix @ vector / (self._norms * norm), -1, 1)
        best = np.argsort(-cosines, kind="stable")
        return [(self.words[i], float(cosines[i])) for i in best[: n + 1] if i != itself][:n]

    def _known_row(self, word):
        row = self.row(word)
        if row is None:
            raise ValueError(f"nearest: {word!r} has no vector; there are {len(self):,} words that have")
        return row

    @functools.cached_property
    def _norms(self):
        return np.maximum(np.linalg.norm(self.matrix, axis=1), np.finfo(np.float32).tiny)

    def save(self, path: PathLike, binary: bool = False) -> None:
        """Write a word2vec file, text or binary, atomically; `load_vectors` returns the same numbers to the bit.

        ValueError for a word that is empty or has spaces, since a space ends a word in this format.
        """
        faulty = [word for word in self.words if not word or word.split() != [word]]
        if faulty:
            raise ValueError(f"WordVectors.save: the word {faulty[0]!r} is empty or has a space in it; leave it out")
        rows = self.matrix.astype("<f4") if binary else self.matrix.astype(str)
        lines = [f"{len(self)} {self.dim}\n".encode()]
        for word, row in zip(self.words, rows):
            lines += [word.encode(), b" ", row.tobytes() if binary else " ".join(row).encode(), b"\n"]
        write_atomically(path, b"".join(lines))


def embedding(vectors: WordVectors, words: list[str | None], *, rng: Generator, frozen: bool = False,
              std: float | None = None) -> tuple[nn.Embedding, int]:  # fmt: skip
    """A layer whose initial weights are given vectors. Returns (nn.Embedding, how many of the words had a vector).

    vectors: WordVectors. words: the words of the V rows of the table, see `words_of`; None for a row that is no word,
    such as padding. Rows that are no word or have no vector are normal numbers from `rng`, with the vectors' standard
    deviation. frozen: the weight requires no gradient, so optimizers do not change it; otherwise all rows are trained.
    std: multiply the table to have this standard deviation, which keeps the angles; None keeps the numbers.
    ValueError when no word at all has a vector, and when all the vectors' numbers are the same.
    """
    rows = [None if word is None else vectors.row(word) for word in words]
    places = [i for i, row in enumerate(rows) if row is not None]
    if not places:
        raise ValueError(
            f"embedding: none of the {len(rows)} words is among the {len(vectors):,} with vectors; another language?"
        )
    spread = float(vectors.matrix.std())
    if not spread:
        raise ValueError(f"embedding: all numbers of the {len(vectors):,} vectors are {vectors.matrix[0, 0]:g}")
    table = init.normal((len(rows), vectors.dim), rng, std=spread)
    table[places] = vectors.matrix[[row for row in rows if row is not None]]
    if std is not None:
        table *= std / spread
    layer = nn.Embedding(len(rows), vectors.dim, rng=None)
    layer.weight.data = table
    layer.weight.requires_grad = not frozen
    return layer, len(places)


def load_embedding(path: PathLike, words: list[str | None], dim: int, *, rng: Generator, frozen: bool = False,
                   std: float | None = None) -> tuple[nn.Embedding, int]:  # fmt: skip
    """`embedding` from a file, of which only the words needed are kept. dim: the C of the model.

    Returns (nn.Embedding, how many of the words had a vector). ValueError as in `load_vectors`, and for another dim.
    """
    vectors = load_vectors(path, [word for word in words if word is not None])
    if vectors.dim != dim:
        raise ValueError(f"{path}: its vectors have {vectors.dim} numbers, the model {dim} channels; make them equal")
    return embedding(vectors, words, rng=rng, frozen=frozen, std=std)


def words_of(tokenizer: Tokenizer) -> list[str | None]:
    """Each token of a Tokenizer as a word, without the space before it: a list of V, str or None for no word."""
    return [_text(piece).strip() or None for piece in tokenizer.pieces]


def _text(piece):
    try:
        return piece.decode()
    except UnicodeDecodeError:  # a part of a character
        return ""


def load_vectors(path: PathLike, words: Iterable[str] | None = None) -> WordVectors:
    """Read a file of vectors, as WordVectors. Words that are not wanted take no memory.

    path: word2vec text or binary, GloVe or FastText .vec, possibly in gzip. words: keep only these, ignoring case, and
    do not parse the numbers of others; None keeps all. Of a repeated word the first vector is kept, because such files
    are sorted by frequency; `.repeated` counts the others. A word that is not UTF-8 is left out; `.skipped` counts
    these. A byte order mark is skipped.
    ValueError, naming the file and the line (the word, in a binary file): an invalid number, NaN or Inf, a wrong count
    of numbers, a first line with a wrong count of words, and a file without a word to keep.
    """
    wanted = None if words is None else {word.casefold() for word in words}
    try:
        with _opened(path) as file:
            return _collected(path, file, wanted)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: the gzip file is cut off or damaged ({error})") from error


@contextlib.contextmanager
def _opened(path):
    with open(path, "rb") as file:
        if file.peek(2)[:2] == b"\x1f\x8b":
            with gzip.open(file) as unpacked:
                yield io.BufferedReader(unpacked)
        else:
            yield file


def _collected(path, file, wanted):
    """The vectors of an open file. The matrix grows with the rows, since the count in line 1 may be wrong."""

    def keep(key):
        return wanted is None or key.decode(errors="replace").casefold() in wanted

    words, matrix, found, repeated, skipped = {}, bytearray(), 0, 0, 0
    count, dim, rows = _format(path, file)
    for place, key, numbers in rows(keep):
        found += 1
        if not keep(key):
            continue
        try:
            word = key.decode()
        except UnicodeDecodeError:  # some files have words that are cut off in the middle of a letter
            skipped += 1
            continue
        if not np.isfinite(numbers).all():
            raise ValueError(f"{path}: {place}: the vector of {word!r} holds NaN or Inf")
        repeated += word in words
        if word not in words:
            words[word] = None
            matrix += numbers.tobytes()
    if count not in (None, found):
        raise ValueError(f"{path}: line 1 promises {count} words, and there are {found}; is the file cut off?")
    if not words:
        none = f"is none of the {len(wanted)} words wanted" if found and wanted is not None else "are no words"
        raise ValueError(f"{path}: there {none}")
    return WordVectors(words, np.frombuffer(matrix, np.float32).reshape(len(words), dim), repeated, skipped)


def _format(path, file) -> tuple[int | None, int, Callable]:
    """Returns (the number of words in the first line, None without such a line; the dimension; rows).

    rows(keep) iterates over (place, the word's bytes, its numbers). Numbers of a word for which keep(bytes) is False
    are None and are not parsed.
    """
    start = file.seek(3 if file.read(3) == b"\xef\xbb\xbf" else 0)  # behind a byte order mark
    first = file.readline(LONGEST_LINE)
    fields = first.split()
    if len(fields) == 2 and all(field.isdigit() for field in fields):
        if max(map(len, fields)) > 18:
            raise ValueError(f"{path}: line 1 has a number of {max(map(len, fields))} digits; is the file damaged?")
        count, dim = map(int, fields)
        if not 0 < dim <= LARGEST_DIM:
            raise ValueError(f"{path}: line 1 says that vectors have {dim} numbers; 1 to {LARGEST_DIM} are read")
        row = file.read(LONGEST_WORD + 2 * dim)
        file.seek(start + len(first))
        if _is_text(row, dim):
            return count, dim, lambda keep: _text_rows(path, file, dim, 2, keep)
        return count, dim, lambda keep: _binary_rows(path, file, count, dim, keep)
    if (first and len(fields) < 2) or len(first) == LONGEST_LINE:
        raise ValueError(f"{path}: line 1 is not a word and its numbers; this is no file of word vectors")
    file.seek(start)
    spaced = next((i for i, field in enumerate(fields) if i and _is_number(field)), 1)  # 3 for the word ". . ."
    return None, len(fields) - spaced, lambda keep: _text_rows(path, file, len(fields) - spaced, 1, keep)


def _is_text(start, dim):
    """Whether rows are text. start: the first bytes of a row. Its dim numbers as text take two bytes or more each, all
    of them printable; float32 numbers have bytes of any value, so that some are not printable."""
    numbers = start.partition(b" ")[2][: 2 * dim]
    return all(32 <= byte < 127 or byte in b"\t\r\n" for byte in numbers)


def _text_rows(path, file, dim, first, keep):
    for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE), b""), first):
        if len(line) == LONGEST_LINE:
            raise ValueError(f"{path}: line {number} is too long; at most {LONGEST_LINE:,} bytes are read")
        key = line.split(None, 1)[:1]
        if key and not keep(key[0]):
            yield None, key[0], None
        elif key:  # else the line is empty
            try:
                yield f"line {number}", *_word_and_numbers(line, dim)
            except ValueError as error:
                raise ValueError(f"{path}: line {number}: {error}") from error


def _word_and_numbers(line, dim):
    """(word, numbers) of a line: bytes, float32 (dim,). The last `dim` fields are numbers; the word may have spaces."""
    fields = line.split()
    if len(fields) <= dim or any(map(_is_number, fields[1:-dim])):
        raise ValueError(f"{len(fields) - 1} numbers after the word, where line 1 has {dim}")
    try:
        with np.errstate(over="ignore"):  # what is too large for float32 becomes Inf, which is refused
            return b" ".join(fields[:-dim]), np.array(fields[-dim:], np.float32)
    except ValueError:
        broken = next(field for field in fields[-dim:] if not _is_number(field))
        raise ValueError(f"{broken[:20].decode(errors='replace')!r} is not a number") from None


def _is_number(field):
    try:
        float(field)
    except ValueError:
        return False
    return True


def _binary_rows(path, file, count, dim, keep):
    for number in range(1, count + 1):
        key = bytearray()
        while (byte := file.read(1)) not in (b" ", b"") and len(key) <= LONGEST_WORD:
            key += byte
        numbers = file.read(4 * dim)
        if byte != b" " or len(numbers) < 4 * dim:
            raise ValueError(
                f"{path}: line 1 promises {count} words of {dim} numbers, and the file ends or breaks at word {number}"
            )
        key = bytes(key).lstrip(b"\n")  # some programs end each vector with a line end
        yield f"word {number}", key, np.frombuffer(numbers, "<f4") if keep(key) else None
    if file.read(2).strip():
        raise ValueError(f"{path}: line 1 promises {count} words of {dim} numbers, and the file goes on after them")

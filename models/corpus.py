"""Text of any size, read in pieces.

find       the files that paths, folders and patterns name
TextFile   one of them: its text in pieces of bounded length
"""

import codecs
import gzip
import hashlib
import io
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from autotx.types import PathLike

COMPRESSED = (".gz", ".zst")
KINDS = (".txt", ".md", ".jsonl", ".parquet")  # what is read of a folder, each also compressed
PIECE = 1 << 16  # characters, about: a longer document is cut
LONGEST_PIECE = 1 << 20  # characters: where no line ends, a piece is cut off here
LONGEST_LINE = 1 << 28  # bytes of a line of JSONL
_BLOCK = 1 << 20  # bytes that are read at once
_LINE_END = re.compile(r"\n(?=\S)")  # no token of any tokenizer here continues across it


def find(paths: Iterable[PathLike]) -> list["TextFile"]:
    """The text files of paths, in a fixed order, each once.

    paths: files, folders (with all that is in them, of KINDS), or patterns such as "books/*.txt".
    ValueError for one that names no file.
    """
    found: dict[Path, None] = {}
    for path in map(Path, paths):
        if path.is_dir():
            files = sorted(file for file in path.rglob("*") if file.is_file() and _kind(file) in KINDS)
        elif path.exists():
            files = [path]
        else:
            anchor = Path(path.anchor)
            pattern = str(path.relative_to(anchor)) if path.anchor else str(path)
            files = sorted(file for file in anchor.glob(pattern) if file.is_file()) if set("*?[") & {*pattern} else []
        if not files:
            what = f"no file of {', '.join(KINDS)} in this folder" if path.is_dir() else "there is no such file"
            raise ValueError(f"--text {path}: {what}")
        found |= dict.fromkeys(files)
    return [TextFile(path) for path in found]


class TextFile:
    """A file of text. .txt, .md and all other names are one document, .jsonl and .parquet one document a row.

    path: of the file. size: bytes. position: how many of them have been read.
    """

    def __init__(self, path: Path):
        self.path = path
        self.position = 0
        try:
            self.size = path.stat().st_size
        except OSError as error:
            raise ValueError(f"--text {path}: cannot be read: {error.strerror}") from error

    def sha256(self) -> str:
        with open(self.path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def pieces(self, field: str = "text") -> Iterator[tuple[str, bool]]:
        """The text as (piece, whether a document ends with it). Empty documents are left out.

        field: of JSONL and Parquet, what holds the text. ValueError, naming the file and the line, for what is
        damaged, not UTF-8, or without the field, and for a zero byte.
        """
        self.position, kind = 0, _kind(self.path)
        try:
            documents = _parquet(self, field) if kind == ".parquet" else self._documents(kind, field)
            for place, document in documents:
                for text, ends in _cut(document):
                    if "\0" in text:
                        raise ValueError(f"--text {place}: it has a zero byte; it should be plain text")
                    yield text, ends
        except (OSError, EOFError, zlib.error) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ValueError(f"--text {self.path}: cannot be read: {reason}") from error

    def _documents(self, kind, field):
        """(its place, for errors; the document in blocks of str) of each document."""
        with open(self.path, "rb") as file:
            stream = _decompressed(self.path, file)
            if kind == ".jsonl":
                yield from self._rows(file, stream, field)
            else:
                yield str(self.path), self._decoded(file, stream)

    def _rows(self, file, stream, field):
        number = 0
        while line := stream.readline(LONGEST_LINE):
            number += 1
            self.position = file.tell()
            if line.strip():
                place = f"{self.path}, line {number}"
                yield place, [_text_of(line, field, place)]

    def _decoded(self, file, stream):
        decoder, done = codecs.getincrementaldecoder("utf-8-sig")(), 0  # a byte order mark is not part of the text
        while True:
            block = stream.read(_BLOCK)
            self.position = file.tell()
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                at = done - len(error.object) + len(block) + error.start
                raise ValueError(f"--text {self.path}: not UTF-8, first at byte {at}; convert it to UTF-8") from error
            done += len(block)
            yield text
            if not block:
                return


def _text_of(line, field, place):
    """The text in a line of JSONL."""
    if len(line) == LONGEST_LINE:
        raise ValueError(f"--text {place}: longer than {LONGEST_LINE >> 20} MB; one document a line")
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"--text {place}: not JSON ({error})") from error
    text = row.get(field) if isinstance(row, dict) else None
    if not isinstance(text, str):
        names = ", ".join(map(repr, list(row)[:5])) if isinstance(row, dict) else f"a {type(row).__name__}"
        raise ValueError(f"--text {place}: there is no text {field!r}, but {names}; name it by --field")
    return text


def _parquet(source, field):
    """As TextFile._documents, of a Parquet file."""
    try:
        from pyarrow import ArrowException, parquet  # heavy, and rare
    except ImportError as error:
        raise ValueError(f'--text {source.path}: reading Parquet needs pyarrow: pip install "autotx[data]"') from error
    try:
        table = parquet.ParquetFile(source.path)
        if field not in table.schema_arrow.names:
            names = ", ".join(map(repr, table.schema_arrow.names[:5]))
            raise ValueError(f"--text {source.path}: there is no column {field!r}, but {names}; name it by --field")
        number = 0
        for rows in table.iter_batches(256, columns=[field]):
            for text in rows.column(0).to_pylist():
                number += 1
                if text is not None and not isinstance(text, str):
                    raise ValueError(f"--text {source.path}: column {field!r} does not hold text")
                yield f"{source.path}, row {number}", [text or ""]
            source.position = source.size * number // max(table.metadata.num_rows, 1)
    except ArrowException as error:
        raise ValueError(f"--text {source.path}: not a whole Parquet file ({error})") from error


def _cut(blocks):
    """A document, given in blocks of any length, as (piece, whether it is the last). Where it is cut does not depend on
    the blocks: at the first line end after PIECE characters that is followed by more than white space."""
    held = ""
    for block in blocks:
        held += block
        start = 0
        while (end := _end_of_piece(held, start)) is not None:
            yield held[start:end], False
            start = end
        held = held[start:]
    if held:
        yield held, True


def _end_of_piece(text, start):
    found = _LINE_END.search(text, start + PIECE, start + LONGEST_PIECE)
    if found:
        return found.end()
    return start + LONGEST_PIECE if len(text) > start + LONGEST_PIECE else None


def _kind(path):
    """The suffix of a file's name, without that of its compression."""
    return (path.with_suffix("") if path.suffix in COMPRESSED else path).suffix


def _decompressed(path, file) -> Any:
    """The stream of a file's bytes, decompressed."""
    if path.suffix == ".gz":
        return gzip.GzipFile(fileobj=file)
    return io.BufferedReader(_Zst(path, file)) if path.suffix == ".zst" else file


class _Zst(io.RawIOBase):
    """A stream of Zstandard frames, decompressed. Unlike the library's own stream, it raises EOFError where a frame is
    cut off."""

    def __init__(self, path, file):
        try:
            import zstandard  # an extra
        except ImportError as error:
            raise ValueError(f'--text {path}: reading .zst needs zstandard: pip install "autotx[data]"') from error
        self._file, self._library, self._frame, self._held = file, zstandard, None, b""

    def readable(self):
        return True

    def readinto(self, buffer):
        while not self._held:
            data = (self._frame.unused_data if self._frame and self._frame.eof else b"") or self._file.read(_BLOCK)
            if not data:
                if self._frame and not self._frame.eof:
                    raise EOFError("the compressed data end too early")
                return 0
            if self._frame is None or self._frame.eof:
                self._frame = self._library.ZstdDecompressor().decompressobj()
            try:
                self._held = self._frame.decompress(data)
            except self._library.ZstdError as error:
                raise OSError(f"damaged ({error})") from error
        count = min(len(buffer), len(self._held))
        buffer[:count], self._held = self._held[:count], self._held[count:]
        return count

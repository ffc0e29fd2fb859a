"""Atomic writing of files, which hold either their old or their new content; checks of paths; JSON; texts of errors.

A file is replaced by a temporary file in the same folder, which is written, flushed to the disk (fsync) and renamed,
as a rename is atomic.

JSON is read with limits, because a file may be damaged or made by somebody else: whatever it holds, reading ends soon,
with a dict or a ValueError of one line. `entry` checks the type of a value in it."""

import contextlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from autotx.types import PathLike

LARGEST_JSON = 1 << 28  # bytes of a file; the tokenizers of large models have some 30 MB
LONGEST_LINE = 1 << 20  # bytes of a line in a file of lines
DEEPEST_JSON = 50  # lists and dicts in each other
LONGEST_NUMBER = 40  # characters; the states of random generators are numbers of 128 bits, which have 39


def write_atomically(path: PathLike, data: bytes) -> None:
    """Replace the content of the file `path` by `data`, atomically. After an OSError the file has its old content."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def replacing(path: PathLike) -> Iterator[Path]:
    """`with replacing(path) as temporary:` writes the file `temporary`, which then replaces `path`, atomically.

    A symbolic link is followed: the file that it leads to is replaced. What is no regular file, such as a pipe or a
    device, is written to as it is, and so is the file that is this process's standard output. OSError: `path` cannot be
    written; it then has its old content.
    """
    path = Path(path)
    if _is_stream(path):
        with tempfile.TemporaryDirectory() as folder:
            temporary = Path(folder, path.name)
            yield temporary
            with open(temporary, "rb") as file, open(os.open(path, os.O_WRONLY | os.O_APPEND), "wb") as stream:
                shutil.copyfileobj(file, stream)
        return
    path = Path(os.path.realpath(path))
    temporary = temporary_path(path)
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def making(folder: PathLike) -> Iterator[Path]:
    """`with making(folder) as temporary:` fills the folder `temporary`, which then becomes `folder`: all or nothing.

    OSError: `folder` is there already, or cannot be made; nothing is left then.
    """
    folder = Path(folder)
    temporary = temporary_path(folder)
    temporary.mkdir()
    try:
        yield temporary
        if os.path.lexists(folder):  # an empty folder would be replaced
            raise FileExistsError(f"{folder} is there already")
        os.rename(temporary, folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def temporary_path(path: Path) -> Path:
    """The path that `replacing` writes to: in the same folder, since a rename cannot cross file systems.

    The name depends only on `path`, so that killed processes leave at most one such file.
    """
    return path.with_name(path.name + ".tmp")


def _is_stream(path):
    """Whether a path leads to no regular file, or to the standard output or error of this process."""
    try:
        found = os.stat(path)
    except OSError:  # there is no file yet
        return False
    return not stat.S_ISREG(found.st_mode) or any(os.path.samestat(found, os.fstat(number)) for number in (1, 2))


def checked_path(path: PathLike, types: tuple[str, ...] | None = None) -> Path:
    """The path of a file to write, checked before the work begins. types: the endings that its name may have, or None.

    ValueError: another ending, no such folder, or a folder of this name; OSError: it cannot be written.
    """
    given, path = os.fspath(path), Path(path)
    if types and path.suffix.lower() not in types:
        ending = f"ends in {path.suffix}" if path.suffix else "has no ending"
        allowed = " or ".join(filter(None, (", ".join(types[:-1]), types[-1])))
        raise ValueError(f"{path} {ending}; give it a name that ends in {allowed}")
    if path.is_dir() or given.endswith(("/", os.sep)):
        raise ValueError(f"{given} is a folder; give the name of a file")
    if _is_stream(path):
        if not os.access(path, os.W_OK):
            raise PermissionError(f"{path} cannot be written to; name another one")
        return path
    folder = Path(os.path.realpath(path)).parent if path.is_symlink() else path.parent
    if not folder.is_dir():
        raise ValueError(f"{path}: there is no folder {folder}; make it first")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{path}: the folder {folder} cannot be written to; name another one")
    if temporary_path(path).is_dir():  # OSError: the name is too long
        raise ValueError(f"{path}: there is a folder {temporary_path(path)}, a name that is needed; move it away")
    return path


def checked_new(path: PathLike) -> Path:
    """The path of a file or folder to make, checked before the work begins. ValueError: it is there already, or
    an error of `checked_path`."""
    if os.path.lexists(path):
        raise ValueError(f"{path} is there already; give another name, or move it away")
    path = checked_path(os.path.normpath(path))
    if os.path.lexists(temporary_path(path)):
        raise ValueError(f"{path}: there is {temporary_path(path)}, a name that is needed; move it away")
    return path


def checked_folder(path: PathLike) -> Path:
    """The path of a folder to write to, made if it is not there, checked before the work begins. ValueError: it is a
    file; OSError: it cannot be made or written to."""
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file; give the name of a folder")
    there = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not there.is_dir():
        raise ValueError(f"{path}: {there} is a file; give the name of a folder")
    if not os.access(there, os.W_OK):
        raise PermissionError(f"{path}: the folder {there} cannot be written to; name another one")
    return path


def sync_folder(folder: PathLike) -> None:
    """Flush a folder's entries to the disk; otherwise a power cut can undo a rename."""
    if os.name != "posix":  # Windows cannot open folders, and writes entries at once
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def to_json(value: Any) -> bytes:
    """Indented JSON as UTF-8 bytes. Reading it gives exactly equal numbers."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def read_json(path: Path) -> dict[str, Any]:
    """The dict in a JSON file. FileNotFoundError; ValueError: as `parse_json`, or the file is too large."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if path.stat().st_size > LARGEST_JSON:
        raise ValueError(f"{path} is too large, {path.stat().st_size:,} bytes; at most {LARGEST_JSON:,} are read")
    return parse_json(path.read_bytes(), str(path))


def read_json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The dicts in a file with one in each line: an iterator of (place, dict); the place is for error messages.

    A last line without a line end, which a program was writing when it was stopped, is left out.
    ValueError: as `parse_json`, or a line is too long.
    """
    with open(path, "rb") as file:
        for number in range(1, 1 << 62):
            line, place = file.readline(LONGEST_LINE), f"{path}, line {number}"
            if len(line) == LONGEST_LINE:
                raise ValueError(f"{place} is too long; at most {LONGEST_LINE:,} bytes are read")
            if not line.endswith(b"\n"):
                return
            yield place, parse_json(line, place)


def parse_json(content: bytes, place: str) -> dict[str, Any]:
    """The dict in a JSON text. place: where the text stands, for errors.

    ValueError: it is truncated, not JSON, no dict, nested too deeply, or holds a number of too many digits or half of a
    surrogate pair, which is not text.
    """
    try:
        value = json.loads(content, parse_int=_whole_number)
        _check_levels(value)
    except RecursionError:
        raise ValueError(f"{place} is nested too deeply; at most {DEEPEST_JSON} levels are read") from None
    except ValueError as error:  # the base class of JSONDecodeError and UnicodeError
        raise ValueError(f"{place} is truncated or not JSON ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"{place} should hold a JSON object, it holds a {type(value).__name__}")
    return value


def _whole_number(digits):
    if len(digits) > LONGEST_NUMBER:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _check_levels(value):
    """RecursionError: JSON values are nested too deeply. UnicodeEncodeError: a text has half of a surrogate pair."""
    level = [value]
    for _ in range(DEEPEST_JSON + 1):
        nested = [v for v in level if isinstance(v, dict | list)]
        if not nested:
            return
        level = [x for v in nested for x in ((*v, *v.values()) if isinstance(v, dict) else v)]
        "".join(x for x in level if isinstance(x, str)).encode()
    raise RecursionError


_KINDS = {
    bool: "true or false",
    str: "a text",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "an object",
}


def entry(saved: dict[str, Any], name: str, kind: type, place: object) -> Any:
    """saved[name], whose type must be `kind`. place: where `saved` was read, for the error. ValueError: as `checked`;
    an entry that is missing is None."""
    return checked(saved.get(name), kind, name, place)


def checked(value: Any, kind: type, name: str, place: object) -> Any:
    """A value read from JSON. ValueError: its type is not `kind`. A whole number is a float too, True is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float if kind is float else kind):
        raise ValueError(f"{place}: {name} should be {_KINDS[kind]}, it is {str(value)[:30]!r}")
    return value


def describe(error: OSError) -> str:
    """The text of an OSError, without its number: "runs/gpt: Permission denied"."""
    return f"{error.filename}: {error.strerror}" if error.filename and error.strerror else error.strerror or str(error)

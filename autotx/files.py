"""Atomic writing of files, which hold either their old or their new content; JSON; texts of errors.

A file is replaced by a temporary file in the same folder, which is written, flushed to the disk (fsync) and renamed,
as a rename is atomic."""

import json
import os
from pathlib import Path
from typing import Any

from autotx.types import PathLike


def write_atomically(path: PathLike, data: bytes) -> None:
    """Replace the content of the file `path` by `data`, atomically. After an OSError the file has its old content."""
    path = Path(path)
    temporary = temporary_path(path)
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def temporary_path(path: Path) -> Path:
    """The path to write to before `replace`: in the same folder, since a rename cannot cross file systems.

    The name depends only on `path`, so that killed processes leave at most one such file.
    """
    return path.with_name(path.name + ".tmp")


def replace(temporary: Path, path: Path) -> None:
    """Rename the flushed file `temporary` to `path`, and wait until the rename is on the disk."""
    os.replace(temporary, path)
    sync_folder(path.parent)


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
    """The dict in a JSON file. FileNotFoundError; ValueError: the file is truncated, not JSON or not a dict."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:  # the base class of JSONDecodeError and UnicodeDecodeError
        raise ValueError(f"{path} is truncated or not JSON ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} should hold a JSON object, it holds a {type(value).__name__}")
    return value


def describe(error: OSError) -> str:
    """The text of an OSError, without its number: "runs/gpt: Permission denied"."""
    return f"{error.filename}: {error.strerror}" if error.filename and error.strerror else error.strerror or str(error)

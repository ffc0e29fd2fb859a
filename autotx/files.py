"""Files that hold either their old content or their new one, never something between; JSON; errors in words.

A file is replaced by writing a temporary file beside it, flushing it to the disk (fsync) and renaming it: a rename is
atomic.
"""

import json
import os
from pathlib import Path
from typing import Any

from autotx.types import PathLike


def write_atomically(path: PathLike, data: bytes) -> None:
    """Replace the content of the file `path` by `data` (bytes), atomically. OSError leaves the old content."""
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
    """Where to write before `replace`: in the same folder, since a rename cannot cross disks.

    The name is always the same, so that killed processes leave at most one such file.
    """
    return path.with_name(path.name + ".tmp")


def replace(temporary: Path, path: Path) -> None:
    """Rename the file `temporary`, whose content is on the disk, to `path`, and wait until that is on the disk too."""
    os.replace(temporary, path)
    sync_folder(path.parent)


def sync_folder(folder: PathLike) -> None:
    """Write a folder's entries to the disk: without it a rename can be lost in a power cut."""
    if os.name != "posix":  # Windows cannot open folders, and writes entries through
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def to_json(value: Any) -> bytes:
    """Readable JSON as UTF-8 bytes. Numbers come back exactly as they were."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def read_json(path: Path) -> dict[str, Any]:
    """The dict in a JSON file. FileNotFoundError, or ValueError when it is truncated or not a dict."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are both
        raise ValueError(f"{path} is truncated or not JSON ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} should hold a JSON object, it holds a {type(value).__name__}")
    return value


def describe(error: OSError) -> str:
    """An OSError in words, without its number: "runs/gpt: Permission denied"."""
    return f"{error.filename}: {error.strerror}" if error.filename and error.strerror else error.strerror or str(error)

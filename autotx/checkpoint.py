"""Tensors in files, and checkpoints: several files that are replaced together, all of them or none.

Tensors are stored as safetensors, everything else as JSON; nothing is pickled, so loading runs no code.

One file is replaced atomically (files.py). A checkpoint is several files that must belong together (weights, optimizer,
the state of the run), and several renames are not atomic. So a checkpoint is saved in three moves:

    1. every file is written into `checkpoint.new/`                         killed here: the folder is thrown away
    2. `checkpoint.new/` is renamed to `checkpoint.ready/`                  this is the moment the checkpoint counts
    3. its files are moved over the old ones, `checkpoint.ready/` removed   killed here: the next load finishes the move

Whatever the moment of a SIGKILL or a power cut, the next load sees one whole checkpoint, the old or the new. The files
carry plain names at all times. `state.json` holds the SHA-256 of the others, so that one that was truncated, changed
or replaced is noticed.
"""

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from autotx.files import read_json, replace, sync_folder, temporary_path, to_json, write_atomically
from autotx.types import ArrayLike, PathLike

STATE = "state.json"
_NEW = "checkpoint.new"
_READY = "checkpoint.ready"


def save_tensors(path: PathLike, tensors: Mapping[str, ArrayLike], metadata: dict[str, str] | None = None) -> None:
    """Write arrays to one safetensors file, atomically.

    path: the file. tensors: dict of name -> array or number. metadata: dict of str -> str, kept in the header.
    OSError when it cannot be written; the file that was there before is then untouched.
    """
    path = Path(path)
    temporary = temporary_path(path)
    # The library writes from the arrays' memory, in order, so they must lie in one piece.
    tensors = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    try:
        save_file(tensors, temporary, metadata=metadata)
        os.chmod(temporary, path.parent.stat().st_mode & 0o666)  # as readable as its folder; the library says 0600
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        replace(temporary, path)
    except SafetensorError as error:
        raise OSError(f"{path}: cannot be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def load_tensors(path: PathLike) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read a safetensors file. Returns (dict of name -> array, dict of metadata).

    ValueError when the file is truncated or not a safetensors file, FileNotFoundError when there is none.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"load_tensors: there is no file {path}")
    try:
        with safe_open(path, framework="np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"load_tensors: {path} is truncated or not a safetensors file ({error})") from error


def save_checkpoint(folder: PathLike, tensors: Mapping[str, Mapping[str, ArrayLike]], state: dict[str, Any]) -> None:
    """Replace the checkpoint in `folder` by a new one, all of it or nothing.

    folder: an existing folder. tensors: dict of file name -> dict of name -> array. state: what JSON can hold.
    ValueError when a tensor holds NaN or Inf, OSError when the disk is full; the old checkpoint is then untouched.
    """
    folder = Path(folder)
    recover_checkpoint(folder)
    new, ready = folder / _NEW, folder / _READY
    for file, arrays in tensors.items():
        _check_finite("save_checkpoint", file, arrays)
    try:
        new.mkdir()
        for file, arrays in tensors.items():
            save_tensors(new / file, arrays)
        state = {**state, "sha256": {file: _digest(new / file) for file in tensors}}
        write_atomically(new / STATE, to_json(state))
        os.rename(new, ready)
    except BaseException:  # a Ctrl-C too must not leave half a checkpoint
        shutil.rmtree(new, ignore_errors=True)
        raise
    recover_checkpoint(folder)


def load_checkpoint(folder: PathLike) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, Any]]:
    """Read what `save_checkpoint` wrote. Returns (dict of file name -> dict of name -> array, state).

    FileNotFoundError when there is no checkpoint. ValueError when a file was truncated or changed, or holds NaN or Inf.
    """
    folder = Path(folder)
    recover_checkpoint(folder)
    state = read_json(folder / STATE)
    digests = state.pop("sha256", None)
    if not isinstance(digests, dict):
        raise ValueError(f"load_checkpoint: {folder / STATE} lacks its entry 'sha256'; it is not whole")
    tensors = {}
    for file, digest in digests.items():
        path = folder / file
        if not path.is_file():
            raise ValueError(f"load_checkpoint: {path} is missing; the checkpoint in {folder} cannot be used")
        if _digest(path) != digest:
            raise ValueError(f"load_checkpoint: {path} was truncated or changed after it was saved (SHA-256)")
        tensors[file], _ = load_tensors(path)
        _check_finite("load_checkpoint", file, tensors[file])
    return tensors, state


def recover_checkpoint(folder: PathLike) -> None:
    """Finish the save that a kill interrupted, or forget it: then `folder` holds one whole checkpoint, or none."""
    new, ready = Path(folder) / _NEW, Path(folder) / _READY
    if ready.is_dir():
        sync_folder(ready)
        sync_folder(folder)  # the rename to checkpoint.ready reaches the disk before any old file is replaced
        for path in sorted(ready.iterdir()):
            os.replace(path, Path(folder) / path.name)
        sync_folder(folder)
        ready.rmdir()
    if new.is_dir():
        shutil.rmtree(new)


def _check_finite(who, file, arrays):
    for name, array in arrays.items():
        if np.asarray(array).dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"{who}: {name} in {file} holds NaN or Inf")


def _digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

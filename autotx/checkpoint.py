"""Tensors in files, and checkpoints: several files that are replaced together, all or none.

Tensors are stored as safetensors, everything else as JSON; nothing is pickled, so loading runs no code.

The rename of one file is atomic (files.py). A checkpoint consists of several files from the same step (weights,
optimizer, state of the run), and several renames are not atomic. Therefore it is saved in three steps:

    1. every file is written into `checkpoint.new/`                     killed here: the next load removes the folder
    2. `checkpoint.new/` is renamed to `checkpoint.ready/`              from now on the new checkpoint is valid
    3. its files replace the old files, `checkpoint.ready/` is removed  killed here: the next load finishes this step

After a SIGKILL or a power cut at any time, the next load sees one complete checkpoint, the old or the new. `state.json`
holds the SHA-256 of the other files; loading finds files that were truncated, changed or replaced.
"""

import hashlib
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from autotx.files import entry, parse_json, read_json, replacing, sync_folder, temporary_path, to_json, write_atomically
from autotx.types import ArrayLike, PathLike

STATE = "state.json"
NEW = "checkpoint.new"
READY = "checkpoint.ready"


def save_tensors(path: PathLike, tensors: Mapping[str, ArrayLike], metadata: dict[str, str] | None = None) -> None:
    """Write arrays to one safetensors file, atomically.

    path: the file. tensors: dict of name -> array or number. metadata: dict of str -> str, stored in the header.
    OSError: it cannot be written; an existing file is then unchanged.
    """
    path = Path(path)
    # The library writes the memory of an array as it is, which must be contiguous in C order.
    tensors = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    try:
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata=metadata)
            os.chmod(temporary, path.parent.stat().st_mode & 0o666)  # permissions as its folder; the library sets 0600
    except SafetensorError as error:
        raise OSError(f"{path}: cannot be written: {error}") from error


class Listed(NamedTuple):
    """A tensor as the header of a safetensors file lists it. start: the place of its first byte in the file."""

    type: str  # such as "F32"
    shape: tuple[int, ...]
    start: int


def list_tensors(path: PathLike) -> tuple[dict[str, Listed], dict[str, str]]:
    """Read the header of a safetensors file. Returns (dict of name -> Listed, dict of metadata).

    ValueError: the file is truncated or not a safetensors file; FileNotFoundError: there is no file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"load_tensors: there is no file {path}")
    try:
        with safe_open(path, framework="np"), open(path, "rb") as file:  # the library checks the whole header
            size = int.from_bytes(file.read(8), "little")
            header = parse_json(file.read(size), f"the header of {path}")
    except SafetensorError as error:
        raise ValueError(f"load_tensors: {path} is truncated or not a safetensors file ({error})") from error
    metadata, start = header.pop("__metadata__", None) or {}, 8 + size
    return {n: Listed(t["dtype"], tuple(t["shape"]), start + t["data_offsets"][0]) for n, t in header.items()}, metadata


_TYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip


def load_tensors(path: PathLike) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read a safetensors file. Returns (dict of name -> array, dict of metadata). bfloat16 becomes float32.

    ValueError: the file is truncated or not a safetensors file, or holds a tensor of another type; FileNotFoundError:
    there is no file.
    """
    listed, metadata = list_tensors(path)
    for name, tensor in listed.items():
        if tensor.type not in _TYPES:
            raise ValueError(f"load_tensors: {path}: {name} is of type {tensor.type}, which autotx does not read")
    with open(path, "rb") as file:
        return {name: _read(file, tensor) for name, tensor in listed.items()}, metadata


def _read(file, tensor):
    file.seek(tensor.start)
    array = np.fromfile(file, _TYPES[tensor.type], math.prod(tensor.shape))
    if tensor.type == "BF16":  # the upper half of a float32
        array = (array.astype(np.uint32) << 16).view(np.float32)
    return array.reshape(tensor.shape)


def save_checkpoint(folder: PathLike, tensors: Mapping[str, Mapping[str, ArrayLike]], state: dict[str, Any]) -> None:
    """Replace the checkpoint in `folder` by a new one, completely or not at all.

    folder: an existing folder. tensors: dict of file name -> dict of name -> array. state: a dict that JSON can store.
    ValueError: a tensor holds NaN or Inf; OSError: the disk is full. The old checkpoint is then unchanged.
    """
    folder = Path(folder)
    recover_checkpoint(folder)
    new, ready = folder / NEW, folder / READY
    for file, arrays in tensors.items():
        _check_finite("save_checkpoint", file, arrays)
    try:
        new.mkdir()
        for file, arrays in tensors.items():
            save_tensors(new / file, arrays)
        state = {**state, "sha256": {file: _digest(new / file) for file in tensors}}
        write_atomically(new / STATE, to_json(state))
        os.rename(new, ready)
    except BaseException:  # after Ctrl-C, too, no partial checkpoint may remain
        shutil.rmtree(new, ignore_errors=True)
        raise
    recover_checkpoint(folder)


def load_checkpoint(folder: PathLike) -> tuple[dict[str, dict[str, np.ndarray]], dict[str, Any]]:
    """Read a checkpoint of `save_checkpoint`. Returns (dict of file name -> dict of name -> array, state).

    FileNotFoundError: there is no checkpoint. ValueError: a file is missing, truncated or changed, or holds NaN or Inf.
    """
    folder = Path(folder)
    recover_checkpoint(folder)
    state = read_json(folder / STATE)
    digests = entry(state, "sha256", dict, f"load_checkpoint: {folder / STATE}")
    del state["sha256"]
    tensors = {}
    for file, digest in digests.items():
        path = folder / file
        if path.name != file:
            raise ValueError(f"load_checkpoint: {folder / STATE}: {file!r} is no name of a file in that folder")
        if not path.is_file():
            raise ValueError(f"load_checkpoint: {path} is missing; the checkpoint in {folder} cannot be used")
        if _digest(path) != digest:
            raise ValueError(f"load_checkpoint: {path} was truncated or changed after it was saved (SHA-256)")
        tensors[file], _ = load_tensors(path)
        _check_finite("load_checkpoint", file, tensors[file])
    return tensors, state


def recover_checkpoint(folder: PathLike) -> None:
    """Finish or undo an interrupted save; afterwards `folder` holds one complete checkpoint or none."""
    new, ready = Path(folder) / NEW, Path(folder) / READY
    if ready.is_dir():
        sync_folder(ready)
        sync_folder(folder)  # the rename to checkpoint.ready reaches the disk before any old file is replaced
        for path in sorted(ready.iterdir()):
            os.replace(path, Path(folder) / path.name)
        sync_folder(folder)
        ready.rmdir()
    if new.is_dir():
        shutil.rmtree(new)


def link_files(files: Sequence[Path], folder: Path) -> None:
    """Make a folder that holds these files as hard links, which take no space, or copies where there are no links.

    Files that are only ever replaced, as those of a checkpoint, stay in it as they are now. The folder appears whole or
    not at all; one of this name is replaced. OSError: it cannot be made.
    """
    if all((folder / file.name).exists() and os.path.samefile(file, folder / file.name) for file in files):
        return
    new = temporary_path(folder)
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    for file in files:
        try:
            os.link(file, new / file.name)
        except OSError:  # a file system without links
            shutil.copy2(file, new / file.name)
    sync_folder(new)
    remove_folder(folder)
    os.rename(new, folder)
    sync_folder(folder.parent)


def remove_folder(folder: Path) -> None:
    """Remove a folder if it is there; killed meanwhile, nothing of it is left under its name."""
    if folder.is_dir():
        os.rename(folder, folder.with_name(folder.name + ".old"))
    shutil.rmtree(folder.with_name(folder.name + ".old"), ignore_errors=True)


def _check_finite(who, file, arrays):
    for name, array in arrays.items():
        if np.asarray(array).dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"{who}: {name} in {file} holds NaN or Inf")


def _digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Token files: the tokens of a text of any size, on the disk, as a source of training data.

    training.npy, validation.npy    the tokens: NumPy arrays of uint16, or of uint32 beyond 65,536 tokens
    tokenizer.json                  the tokenizer
    data.json                       where they come from, how many there are, and the SHA-256 of each file

`autotx prepare` makes them (prepare.py). nanoGPT's and llm.c's .bin files are read too, beside a tokenizer.
"""

import hashlib
from pathlib import Path

import numpy as np

from autotx.files import entry, read_json
from autotx.models.tokenizers import FILE as TOKENIZER
from autotx.models.tokenizers import Tokenizer, load_tokenizer
from autotx.types import PathLike

FILE = "data.json"
PARTS = ("training", "validation")
_LLMC = {(20240520, 1): "<u2", (20240801, 7): "<u4"}  # llm.c: (magic number, version): type of the tokens
_LLMC_HEADER = 1024  # bytes, 256 integers: magic number, version, number of tokens, zeros


def read_facts(folder: PathLike) -> dict:
    """The content of data.json. ValueError: it is damaged."""
    path = Path(folder) / FILE
    facts = read_json(path)
    if entry(facts, "dtype", str, path) not in ("uint16", "uint32"):
        raise ValueError(f"{path}: the tokens are of type {facts['dtype']}, not uint16 or uint32; prepare it again")
    for name in PARTS:
        entry(entry(facts, name, dict, path), "tokens", int, path)
    return facts


class TokenFiles:
    """A folder of token files as a source of training data, with `tokenizer`, `digest` and `split` (see data.py).

    folder: of `autotx prepare`, or with a .bin file of each part, whose names have "train" and "val" in them.
    tokenizer_file: a tokenizer.json, or a folder with one, for a folder without.
    ValueError for a folder that holds no token files, and for files that are damaged or have been changed.
    """

    def __init__(self, folder: PathLike, tokenizer_file: PathLike = ""):
        self.folder = Path(folder)
        prepared = (self.folder / FILE).is_file()
        if not self.folder.is_dir():
            raise ValueError(f"--data {folder}: there is no such folder; autotx prepare makes one")
        if prepared and tokenizer_file:
            raise ValueError(f"--tokenizer-file: {folder} has a tokenizer of its own; leave that out")
        if not prepared and not tokenizer_file and not (self.folder / TOKENIZER).is_file():
            raise ValueError(
                f"--data {folder}: there is no {FILE}, so autotx prepare did not make or finish it; for .bin files of "
                "other programs, give their tokenizer by --tokenizer-file"
            )
        self.tokenizer: Tokenizer = load_tokenizer(tokenizer_file or self.folder)
        self._parts, self.digest = self._prepared() if prepared else self._bin()

    def split(self) -> tuple[np.ndarray, np.ndarray]:
        """The tokens of the training and of the validation part, memory-mapped: (number of tokens,) each."""
        return self._parts

    def _prepared(self):
        path, parts = self.folder / FILE, []
        facts = read_facts(self.folder)
        for name in PARTS:
            file = self.folder / f"{name}.npy"
            try:
                tokens = np.load(file, mmap_mode="r", allow_pickle=False)
                expected = facts[name]["tokens"], facts["dtype"]
            except FileNotFoundError as error:
                raise ValueError(f"--data {self.folder}: {file.name} is missing; prepare it again") from error
            except Exception as error:  # NumPy reads the header as Python, which raises errors of many kinds
                raise ValueError(f"--data {self.folder}: {file.name} or {FILE} is damaged ({error})") from error
            if (tokens.size, tokens.dtype) != expected or tokens.ndim != 1:
                raise ValueError(
                    f"--data {self.folder}: {file.name} has {tokens.size:,} tokens of {tokens.dtype}, "
                    f"{FILE} says {expected[0]:,} of {expected[1]}; prepare it again"
                )
            parts.append(tokens)
        return tuple(parts), hashlib.sha256(path.read_bytes()).hexdigest()

    def _bin(self):
        parts, digest = [], hashlib.sha256()
        for name in ("train", "val"):
            files = sorted(self.folder.glob(f"*{name}*.bin"))
            if len(files) != 1:
                raise ValueError(
                    f"--data {self.folder}: it should have one .bin file with {name!r} in its name, it has {len(files)}"
                )
            tokens = _read_bin(files[0])
            largest = int(tokens.max(initial=0))
            if largest >= self.tokenizer.vocab_size:
                raise ValueError(
                    f"--data {self.folder}: {files[0].name} has the token {largest}, the tokenizer only "
                    f"{self.tokenizer.vocab_size:,} tokens; give the right one by --tokenizer-file"
                )
            digest.update(tokens.data)
            parts.append(tokens)
        return tuple(parts), digest.hexdigest()


def _read_bin(path):
    """The tokens of a .bin file, memory-mapped: llm.c's, with its header, or nanoGPT's, which are uint16 only."""
    size = path.stat().st_size
    header = np.fromfile(path, "<i4", 3)
    kind = _LLMC.get(tuple(header[:2].tolist()))
    start, dtype = (_LLMC_HEADER, np.dtype(kind)) if kind else (0, np.dtype("<u2"))
    count, rest = divmod(size - start, dtype.itemsize)
    if count < 1 or rest or (kind and count != header[2]):
        raise ValueError(f"{path}: {size:,} bytes are not a whole file of tokens; it may be truncated")
    return np.memmap(path, dtype, "r", start, (count,))

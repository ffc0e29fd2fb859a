"""Make token files (token_files.py) of a text of any size.

The text is read twice. First the tokenizer is made: of all characters, or, for words and BPE, of a sample. Then the
text is encoded and written. What is done is noted now and then in PLACE, so that a preparation that was interrupted
goes on there; the files are the same, byte for byte, as of one that was not.
"""

import dataclasses
import hashlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from autotx.files import checked, entry, read_json, to_json, write_atomically
from autotx.models import corpus
from autotx.models.config import LARGEST, Settings, setting
from autotx.models.progress import Meter
from autotx.models.run import Run
from autotx.models.token_files import FILE, PARTS, read_facts
from autotx.models.tokenizers import FILE as TOKENIZER
from autotx.models.tokenizers import KINDS, Tokenizer, load_tokenizer, make_tokenizer
from autotx.text import counted

PLACE = "preparing.json"
HEADER = 128  # bytes before the tokens of an .npy file
BATCH = 1 << 22  # characters that are encoded at once
NOTED = 1 << 25  # characters between two notes of the place


@dataclass(frozen=True)
class PrepareSettings(Settings):
    """The settings of `autotx prepare`."""

    label: ClassVar[str] = "prepare"

    text: tuple = setting((), "what to read: a file, a folder, or a pattern; repeat for more", metavar="PATH")
    out: str = setting("data", "the folder for the token files", metavar="DIR")
    field: str = setting("text", "what holds the text in .jsonl and .parquet")
    tokenizer: str = setting("bpe", "what a token is: a character, a byte, ...", choices=KINDS)
    vocab_size: int = setting(16384, "how many tokens bpe and word may have", at_least=257, at_most=10**6)
    tokenizer_file: str = setting("", "a tokenizer.json or a model, whose tokenizer is used instead", metavar="FILE")
    sample_mb: int = setting(
        50, "million characters of the text from which bpe and word learn", at_least=1, at_most=10_000
    )
    validation_share: float = setting(0.01, "share of the documents to validate on", at_least=1e-6, at_most=0.5)
    seed: int = setting(1337, "draws the documents to validate on", at_least=0, at_most=LARGEST)


def prepare(settings: PrepareSettings, tokenizer: Tokenizer | None = None) -> dict:
    """Make the token files of settings.text in the folder settings.out. Returns the content of data.json.

    tokenizer: what to encode with; None makes one. Goes on where an earlier call with the same settings and texts
    stopped. ValueError for texts that cannot be read and for a folder with other token files; OSError when writing
    fails, which loses nothing.
    """
    sources = corpus.find(settings.text)
    if not sources:
        raise ValueError("--text: give what to read: files, folders or patterns")
    preparation = _Preparation(settings, sources, tokenizer)
    if facts := preparation.finished():  # without the lock, which only one of several processes could take
        return facts
    with Run(settings.out).locked():
        return preparation.finished() or preparation.run()


class _Preparation:
    def __init__(self, settings, sources, tokenizer):
        self.settings, self.sources, self.folder = settings, sources, Path(settings.out)
        if tokenizer is None and settings.tokenizer_file:
            tokenizer = load_tokenizer(settings.tokenizer_file)
        self.tokenizer: Any = tokenizer
        self.place: Any = None  # how far the encoding is; None before it
        self.plan = {
            **{k: v for k, v in dataclasses.asdict(settings).items() if k not in ("text", "out", "tokenizer_file")},
            "given_tokenizer": hashlib.sha256(tokenizer.to_bytes()).hexdigest() if tokenizer else None,
            "sources": [{"path": str(s.path), "bytes": s.size, "sha256": s.sha256()} for s in sources],
        }

    def finished(self):
        """The content of data.json, None when there is none yet. ValueError: it is of other texts or settings."""
        if not (self.folder / FILE).is_file():
            return None
        facts = read_facts(self.folder)
        self._check_plan(facts)
        return facts

    def run(self):
        place = self.folder / PLACE
        if place.is_file():
            noted = read_json(place)
            self._check_plan(noted)
            self.place = _checked_place(noted, place)
        else:
            self._check_free()
            self._note()
        if self.place:
            self.tokenizer = load_tokenizer(self.folder)
        else:
            self.tokenizer = self.tokenizer or self._learn()
            self.tokenizer.save(self.folder)
            self.place = {"source": 0, "piece": 0, "index": 0, "characters": 0, "tokens": [0, 0], "pieces": [0, 0]}
        self._encode()
        facts = self._finish()
        place.unlink(missing_ok=True)
        return facts

    def _check_plan(self, found):
        """ValueError when the folder's files are of other texts or settings."""
        for name, value in self.plan.items():
            if entry(found, "settings", dict, self.folder).get(name) != value:
                what = "other texts" if name == "sources" else f"another {name.replace('_', ' ')}"
                raise ValueError(f"--out {self.folder} holds token files of {what}; give another folder, or remove it")

    def _check_free(self):
        for name in (TOKENIZER, *(f"{part}.npy" for part in PARTS)):
            if (self.folder / name).exists():
                raise ValueError(f"--out {self.folder} holds a {name} that is not of token files; give another folder")

    def _read(self, source=0, piece=0) -> Iterator[tuple[int, int, str, bool]]:
        """(source, piece, text, whether a document ends) of each piece, from a given one on."""
        for i in range(source, len(self.sources)):
            for n, (text, ends) in enumerate(self.sources[i].pieces(self.settings.field)):
                if i > source or n >= piece:
                    yield i, n, text, ends

    def _part(self, index):
        """The part, 0 or 1 as in PARTS, of the piece with a number: one of every 1 / validation_share validates."""
        stratum = round(1 / self.settings.validation_share)
        return int(index % stratum == _drawn(self.settings.seed, stratum, index // stratum))

    def _learn(self):
        """A new tokenizer of the training part. It reads the whole text, and keeps a sample that is spread evenly."""
        kind, most = self.settings.tokenizer, self.settings.sample_mb * 1_000_000
        characters, sample, size, every, index = set(), [], 0, 1, 0
        if kind == "byte":
            return make_tokenizer(kind, "", 0)
        with Meter("reading", self.sources) as meter:
            for i, _, text, _ in self._read():
                if self._part(index) == 0 and kind == "char":
                    characters.update(text)
                elif self._part(index) == 0 and index % every == 0:
                    sample.append((index, text))
                    size += len(text)
                    while size > most and len(sample) > 1:  # keep every second piece of those kept so far
                        every *= 2
                        sample = [kept for kept in sample if kept[0] % every == 0]
                        size = sum(len(text) for _, text in sample)
                index += 1
                meter.show_file(i, len(text))
        if kind == "char":
            return make_tokenizer(kind, "".join(characters), 0)
        print(f"        learning {kind} tokens from {size / 1e6:,.0f} million characters", flush=True)
        return make_tokenizer(kind, "\n".join(text for _, text in sample), self.settings.vocab_size)

    def _encode(self):
        """Write the tokens of all pieces from the place on."""
        place = self.place
        self.dtype = np.dtype(np.uint16 if self.tokenizer.vocab_size <= 1 << 16 else np.uint32)
        end = np.array([self.tokenizer.end], self.dtype)
        files = [self._open(part, count) for part, count in zip(PARTS, place["tokens"])]
        noted = place["characters"]
        try:
            with Meter("encoding", self.sources) as meter:
                for batch in _batches(self._read(place["source"], place["piece"])):
                    for (_, _, text, ends), ids in zip(batch, self.tokenizer.encode_batch([p[2] for p in batch])):
                        part = self._part(place["index"])
                        place["index"] += 1
                        # A document that goes on in the other part ends in this one.
                        ends = ends or part != self._part(place["index"])
                        for tokens in (ids.astype(self.dtype), end)[: 1 + ends]:
                            tokens.tofile(files[part])
                            place["tokens"][part] += tokens.size
                        place["pieces"][part] += 1
                        place["characters"] += len(text)
                    place["source"], place["piece"] = batch[-1][0], batch[-1][1] + 1
                    meter.show_file(place["source"], sum(len(p[2]) for p in batch))
                    if place["characters"] - noted > NOTED:
                        noted = place["characters"]
                        self._note(files)
            self._note(files)
        finally:
            for file in files:
                file.close()

    def _open(self, part, count):
        """The file of a part, open for writing after `count` tokens; what was written behind them is removed."""
        path, length = self.folder / f"{part}.npy", HEADER + count * self.dtype.itemsize
        if count and not (path.is_file() and path.stat().st_size >= length):
            raise ValueError(f"{path} is shorter than {PLACE} says; remove {self.folder} and prepare it again")
        file = open(path, "r+b" if count else "w+b")  # noqa: SIM115 (the caller closes it)
        file.truncate(length)
        file.seek(length)
        return file

    def _note(self, files=()):
        """Note the place, after what comes before it is on the disk."""
        for file in files:
            file.flush()
            os.fsync(file.fileno())
        write_atomically(self.folder / PLACE, to_json({"settings": self.plan, "place": self.place}))

    def _finish(self):
        """Write the headers of the token files and data.json."""
        facts = {"settings": self.plan, "dtype": self.dtype.name, "vocab_size": self.tokenizer.vocab_size}
        facts |= {"end_of_text": self.tokenizer.end, "characters": self.place["characters"]}
        for name, tokens, pieces in zip(PARTS, self.place["tokens"], self.place["pieces"]):
            if not tokens:
                raise ValueError(
                    f"the {name} part is empty: {counted(self.place['index'], 'document')} and --validation-share "
                    f"{self.settings.validation_share:g}; give more text or a larger share"
                )
            header = io.BytesIO()
            layout = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (tokens,)}
            np.lib.format.write_array_header_1_0(header, layout)
            assert header.tell() == HEADER
            with open(self.folder / f"{name}.npy", "r+b") as file:
                file.write(header.getvalue())
                file.flush()
                os.fsync(file.fileno())
                file.seek(0)
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            facts[name] = {"tokens": tokens, "pieces": pieces, "sha256": digest}
        write_atomically(self.folder / FILE, to_json(facts))
        return facts


@lru_cache(2)
def _drawn(seed, stratum, number):
    """The place in a stratum, of that many pieces, of the one to validate on."""
    return int(np.random.default_rng([seed, number]).integers(stratum))


def _checked_place(noted, path):
    """The entry "place" of a note, None before the encoding. ValueError: it is damaged."""
    if noted.get("place") is None:
        return None
    place = entry(noted, "place", dict, path)
    for name in ("source", "piece", "index", "characters"):
        entry(place, name, int, path)
    for name in ("tokens", "pieces"):
        if len([checked(n, int, name, path) for n in entry(place, name, list, path)]) != len(PARTS):
            raise ValueError(f"{path}: {name} should be {len(PARTS)} numbers; remove the folder and prepare it again")
    return place


def _batches(pieces):
    """Lists of consecutive pieces with BATCH characters together, or a little more."""
    batch, size = [], 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece[2])
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch

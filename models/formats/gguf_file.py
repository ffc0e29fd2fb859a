"""GGUF, the file format of llama.cpp: metadata, a directory of tensors, and their bytes, memory-mapped.

No number of a file is trusted: every count, length, offset and shape is held against what is left of the file before
anything of that size is made. So memory and time are bounded by the size of the file.

Source: docs/gguf.md of ggml; all numbers are little-endian.
"""

import math
import mmap
import struct
from pathlib import Path
from typing import Any

import numpy as np

from autotx.models.formats.quantised import FORMATS, Stored

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = 32  # bytes, unless general.alignment says otherwise
STRING, ARRAY = 8, 9
NUMBERS = {0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8"}
_UNPACK = {kind: struct.Struct("<" + np.dtype(code).char) for kind, code in NUMBERS.items()}
_COUNT, _KIND = struct.Struct("<Q"), struct.Struct("<I")


class GGUF:
    """The metadata of a file, {key: number, bool, str, list or array}, and its tensors, {name: Stored}.

    ValueError, of one line, for a file that is truncated, of another version or inconsistent. Tensors of a format that
    autotx does not read are an error too, which names it. only: a key after which reading ends.
    """

    def __init__(self, path: Path, only: str | None = None):
        self.path, self.at = path, 0
        with open(path, "rb") as file:
            if path.stat().st_size < 24 or file.read(4) != MAGIC:
                raise self.fault("it is not a GGUF file, or only its beginning")
            self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.at, self.end = 4, len(self.data)
        version = self.number(_KIND, "the version")
        if version not in VERSIONS:
            raise self.fault(f"GGUF version {version} (supported: {', '.join(map(str, VERSIONS))}, little-endian)")
        tensors = self.count("the number of tensors", 24)  # each has a name, a number of axes, a format and an offset
        pairs = self.count("the number of metadata", 13)  # each has a key, a kind and a value
        self.metadata: dict[str, Any] = {}
        for _ in range(pairs):
            key = self.string("a key")
            if key in self.metadata:
                raise self.fault(f"{key} comes twice")
            self.metadata[key] = self.value(self.number(_KIND, key), key)
            if key == only:
                return
        entries = [self.entry() for _ in range(tensors)]
        alignment = self.metadata.get("general.alignment", ALIGNMENT)
        if not isinstance(alignment, int) or alignment <= 0:
            raise self.fault(f"general.alignment is {alignment!r}")
        first = -(-self.at // alignment) * alignment
        self.tensors = {entry[0]: self.stored(*entry, first, alignment) for entry in entries}
        if len(self.tensors) < len(entries):
            raise self.fault("two tensors have the same name")

    def fault(self, what):
        return ValueError(f"{self.path}: {what}; get the file anew, or another one")

    def take(self, size, what):
        """Move on by `size` bytes. Returns where they begin."""
        if size > self.end - self.at:
            raise self.fault(f"{what} at byte {self.at} needs {size} bytes, {self.end - self.at} are left")
        self.at += size
        return self.at - size

    def number(self, struct, what):
        return struct.unpack_from(self.data, self.take(struct.size, what))[0]

    def count(self, what, size):
        """A number of things of at least `size` bytes each."""
        count = self.number(_COUNT, what)
        if count * size > self.end - self.at:
            raise self.fault(f"{what} at byte {self.at} is {count}, too many for the {self.end - self.at} bytes left")
        return count

    def string(self, what):
        start = self.take(self.count(f"the length of {what}", 1), what)
        try:
            return self.data[start : self.at].decode()
        except UnicodeDecodeError:
            raise self.fault(f"{what} at byte {start} is not UTF-8") from None

    def strings(self, what):
        """A list of strings; there may be 100,000, so this loop is short."""
        found, at, unpack = [], self.at + 8, _COUNT.unpack_from
        try:
            for _ in range(self.count(f"the length of {what}", 8)):
                start = at + 8
                at = start + unpack(self.data, at)[0]
                if at > self.end:
                    raise struct.error
                found.append(self.data[start:at].decode())
        except (struct.error, UnicodeDecodeError):
            raise self.fault(f"{what}: string {len(found)} is cut off or not UTF-8") from None
        self.at = at
        return found

    def value(self, kind, what):
        """The value of a key, which has the kind with this number."""
        if kind in NUMBERS:
            return self.number(_UNPACK[kind], what)
        if kind == STRING:
            return self.string(what)
        if kind == ARRAY:
            kind = self.number(_KIND, what)
            if kind in NUMBERS:
                code = np.dtype(NUMBERS[kind])
                count = self.count(f"the length of {what}", code.itemsize)
                return np.frombuffer(self.data, code, count, self.take(count * code.itemsize, what)).copy()
            if kind == STRING:
                return self.strings(what)
            what += ", an array,"
        raise self.fault(f"{what} has values of kind {kind}, which autotx does not read")

    def entry(self):
        """(name, axes, number of the format, offset) of the next tensor in the directory."""
        name = self.string("the name of a tensor")
        axes = self.number(_KIND, name)
        if not 1 <= axes <= 4:
            raise self.fault(f"tensor {name} has {axes} axes")
        shape = tuple(self.number(_COUNT, name) for _ in range(axes))
        return name, shape[::-1], self.number(_KIND, name), self.number(_COUNT, name)  # GGUF names the last axis first

    def stored(self, name, shape, number, offset, first, alignment):
        """An entry as a Stored. first: where the tensors begin."""
        if number not in FORMATS:
            known = ", ".join(form.name for form in FORMATS.values())
            raise self.fault(f"tensor {name} is of type {number}, which autotx does not read (it reads {known})")
        form, count = FORMATS[number], math.prod(shape)
        if not count or shape[-1] % form.numbers or offset % alignment:
            raise self.fault(f"tensor {name}: shape {shape} in {form.name} at offset {offset} is not possible")
        if first + offset + form.nbytes(count) > self.end:
            raise self.fault(f"tensor {name}, {shape} in {form.name} at offset {offset}, ends beyond the file")
        return Stored(shape, form, self.data, first + offset)

"""The number formats of tensors in GGUF files: how the bytes of a tensor become float32, or codes for the kernels.

All but the first three are blocks: 32 or 256 numbers share a scale d, some also a minimum m, and each number is a small
integer q. FORMATS lists them by the number that stands in a file. A function for each makes `Parts` of its blocks (see
kernels/codes.py), with which the kernels compute as they are. Every product and sum is one of float32 and in the order
of ggml's own Python package, so the numbers are the same to the bit. (d and m of groups in the formats of 256 numbers
are themselves products, which are exact in float32.)

    Q4_0, Q4_1              codes of 4 bits, d (and m) in float16: 18 and 20 bytes for 32 weights, as in the file
    Q4_K                    codes of 4 bits, d and m in float32: 24 bytes, 18 in the file
    Q8_0, Q5_0, Q5_1        codes of 8 bits, d (and m) in float16: 34, 34 and 36 bytes; 34, 22 and 24 in the file
    Q5_K, Q6_K              codes of 8 bits, d (and m) in float32: 40 and 40 bytes; 22 and 26.25 in the file
    F32, F16, BF16          float32

Queries, keys and values that come in several of these are joined as codes of 8 bits, without loss.

Source: the layouts are those of ggml (ggml-common.h).
"""

import math
import mmap
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from autotx import kernels

CHUNK = 1 << 16  # numbers that are converted at a time: their intermediate arrays stay in the cache


class Format(NamedTuple):
    name: str
    numbers: int  # in a block
    block: np.dtype  # the bytes of a block
    decode: Callable  # blocks (n,) -> float32 (n, numbers); of a coded format, (rows, blocks) -> Parts
    coded: bool

    def nbytes(self, count: int) -> int:
        """The size of `count` numbers in bytes; count is a multiple of `numbers`."""
        return count // self.numbers * self.block.itemsize

    def to_float32(self, data: np.ndarray) -> np.ndarray:
        """The float32 numbers (n,) of the bytes of some blocks."""
        blocks = data.view(self.block)
        out = np.empty((len(blocks), self.numbers), np.float32)
        step = max(1, CHUNK // self.numbers)
        for i in range(0, len(blocks), step):
            piece = self.decode(blocks[i : i + step, None] if self.coded else blocks[i : i + step])
            out[i : i + step] = piece.decoded().reshape(-1, self.numbers) if self.coded else piece
        return out.reshape(-1)


class Stored:
    """A tensor in a file: its shape and format. `np.asarray` converts it to float32."""

    dtype = np.dtype(np.float32)

    def __init__(self, shape: tuple[int, ...], form: Format, data: mmap.mmap, start: int):
        self.shape, self.format = shape, form
        self._data, self._start = data, start

    def __array__(self, dtype=None, copy=None):
        numbers = self.format.to_float32(self._bytes()).reshape(self.shape)
        self.release()
        return numbers if dtype is None else numbers.astype(dtype, copy=False)

    def parts(self):
        """The Parts of a matrix in a coded format. They may be views of the file: `release` it after their use."""
        return self.format.decode(self._bytes().view(self.format.block).reshape(self.shape[0], -1))

    def release(self):
        """Let the system forget the pages of the tensor; else they count as memory of this process."""
        if hasattr(mmap, "MADV_DONTNEED"):
            first = self._start // mmap.PAGESIZE * mmap.PAGESIZE
            self._data.madvise(mmap.MADV_DONTNEED, first, self._start + self._bytes().size - first)

    def _bytes(self):
        return np.frombuffer(self._data, np.uint8, self.format.nbytes(math.prod(self.shape)), self._start)


def _parts(bits, codes, d, m=None, **coding):
    """Parts of a Coding. The kernels are imported here, when a file is read: importing them makes the system give
    memory to the zeros of a model, which are replaced."""
    return kernels.codes.Parts(kernels.codes.Coding(bits, m is not None, **coding), codes, d, m)


def _bits(packed, width, count):
    """Integers of `width` bits: packed (..., n) bytes -> (..., count, n), those of the lowest bits first."""
    shifts = np.arange(0, width * count, width, dtype=np.uint8)[:, None]
    return (packed[..., None, :] >> shifts) & np.uint8((1 << width) - 1)


def _fifth(b):
    """32 numbers of 5 bits a block: q has 4 bits of each, and bit i of h is the highest bit of number i."""
    low = _bits(b["q"], 4, 2).reshape(*b.shape, 32)
    return low | np.unpackbits(b["h"], axis=-1, bitorder="little") << np.uint8(4)


def _pairs(q):
    """Bytes (..., n) whose halves hold numbers i and n + i -> (..., 2, n / 2), those of numbers 2 i and 2 i + 1."""
    two, low, high = q.view("<u2"), np.uint16(0x0F), np.uint16(0xF0)
    first, second = (two & low) | ((two >> 4) & high), ((two >> 4) & low) | ((two >> 8) & high)
    return np.stack([first, second], axis=-2).astype(np.uint8)


def _q4_0(b):
    return _parts(4, _pairs(b["q"]).reshape(*b.shape, 16), b["d"])


def _q4_1(b):
    return _parts(4, _pairs(b["q"]).reshape(*b.shape, 16), b["d"], b["m"])


def _q5_0(b):
    return _parts(8, _fifth(b).view(np.int8) - np.int8(16), b["d"])


def _q5_1(b):
    return _parts(8, _fifth(b).view(np.int8), b["d"], b["m"])


def _q8_0(b):
    return _parts(8, b["q"], b["d"])


def _groups(b):
    """d and m of the 8 groups of 32 numbers in each block of 256: (..., 8) float32. They are products of the block's d
    and m and a scale and a minimum of 6 bits; m is to be subtracted.

    The 12 bytes of `s` hold 6 bits of the scales, then of the minima, of groups 0 to 3; then the 4 low bits of both of
    groups 4 to 7, whose 2 high bits are in the first 8 bytes.
    """
    scales, minima, low = np.split(b["s"], 3, axis=-1)
    six, two = np.uint8(63), np.uint8(0x30)
    for name, first, four in (("d", scales, low & np.uint8(15)), ("m", minima, low >> np.uint8(4))):
        numbers = np.concatenate([first & six, four | ((first >> np.uint8(2)) & two)], axis=-1)
        yield b[name].astype(np.float32)[..., None] * numbers.astype(np.float32)


def _by_groups(bits, codes, d, m=None, block=32):
    """Parts of blocks of 256 numbers. codes: (rows, blocks, groups, bytes); d, m: (rows, blocks, groups)."""
    rows = len(codes)
    m = None if m is None else -m.reshape(rows, -1)
    codes = codes.reshape(rows, -1, codes.shape[-1])
    return _parts(bits, codes, d.reshape(rows, -1), m, half=False, block=block)


def _q4_k(b):
    codes = _pairs(b["q"].reshape(*b.shape, 4, 32)).reshape(*b.shape, 8, 16)
    return _by_groups(4, codes, *_groups(b))


def _q5_k(b):
    q = _bits(b["q"].reshape(*b.shape, 4, 32), 4, 2).reshape(*b.shape, 8, 32)
    q |= _bits(b["h"], 1, 8) << np.uint8(4)
    return _by_groups(8, q.view(np.int8), *_groups(b))


def _q6_k(b):
    """256 numbers in 16 groups of 16, each with a scale of 8 bits. A number has 4 bits in `q` and 2 in `h`."""
    low = _bits(b["q"].reshape(*b.shape, 2, 64), 4, 2).reshape(*b.shape, 8, 32)
    high = _bits(b["h"].reshape(*b.shape, 2, 32), 2, 4).reshape(*b.shape, 8, 32)
    q = (low | high << np.uint8(4)).view(np.int8) - np.int8(32)
    scales = b["d"].astype(np.float32)[..., None] * b["s"].astype(np.float32)
    return _by_groups(8, q.reshape(*b.shape, 16, 16), scales, block=16)


def _bfloat16(b):
    return (b.astype(np.uint32) << np.uint32(16)).view(np.float32)[:, None]


def _plain(b):
    return b.astype(np.float32)[:, None]


_D, _M, _S = ("d", "<f2"), ("m", "<f2"), ("s", "u1", 12)

FORMATS = {
    number: Format(name, numbers, np.dtype(block), decode, numbers > 1)
    for number, name, numbers, block, decode in (
        (0, "F32", 1, "<f4", _plain),
        (1, "F16", 1, "<f2", _plain),
        (30, "BF16", 1, "<u2", _bfloat16),
        (2, "Q4_0", 32, [_D, ("q", "u1", 16)], _q4_0),
        (3, "Q4_1", 32, [_D, _M, ("q", "u1", 16)], _q4_1),
        (6, "Q5_0", 32, [_D, ("h", "u1", 4), ("q", "u1", 16)], _q5_0),
        (7, "Q5_1", 32, [_D, _M, ("h", "u1", 4), ("q", "u1", 16)], _q5_1),
        (8, "Q8_0", 32, [_D, ("q", "i1", 32)], _q8_0),
        (12, "Q4_K", 256, [_D, _M, _S, ("q", "u1", 128)], _q4_k),
        (13, "Q5_K", 256, [_D, _M, _S, ("h", "u1", 32), ("q", "u1", 128)], _q5_k),
        (14, "Q6_K", 256, [("q", "u1", 128), ("h", "u1", 64), ("s", "i1", 16), _D], _q6_k),
    )
}

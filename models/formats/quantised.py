"""The number formats of tensors in GGUF files: how the bytes of a tensor become float32.

All but the first three are blocks: 32 or 256 numbers share a scale d, some also a minimum m, and each number is a small
integer q. FORMATS lists them by the number that stands in a file. Every product and sum is one of float32 and in the
order of ggml's own Python package, so the results are the same to the bit.

Source: the layouts are those of ggml (ggml-common.h).
"""

import math
import mmap
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

CHUNK = 1 << 16  # numbers that are converted at a time: their intermediate arrays stay in the cache


class Format(NamedTuple):
    name: str
    numbers: int  # in a block
    block: np.dtype  # the bytes of a block
    decode: Callable  # blocks (n,) -> float32 (n, numbers)

    def nbytes(self, count: int) -> int:
        """The size of `count` numbers in bytes; count is a multiple of `numbers`."""
        return count // self.numbers * self.block.itemsize

    def to_float32(self, data: np.ndarray) -> np.ndarray:
        """The float32 numbers (n,) of the bytes of some blocks."""
        blocks = data.view(self.block)
        out = np.empty((len(blocks), self.numbers), np.float32)
        step = max(1, CHUNK // self.numbers)
        for i in range(0, len(blocks), step):
            out[i : i + step] = self.decode(blocks[i : i + step])
        return out.reshape(-1)


class Stored:
    """A tensor in a file: its shape and format. `np.asarray` converts it to float32."""

    dtype = np.dtype(np.float32)

    def __init__(self, shape: tuple[int, ...], form: Format, data: mmap.mmap, start: int):
        self.shape, self.format = shape, form
        self._data, self._start = data, start

    def __array__(self, dtype=None, copy=None):
        count = self.format.nbytes(math.prod(self.shape))
        numbers = self.format.to_float32(np.frombuffer(self._data, np.uint8, count, self._start)).reshape(self.shape)
        self._release(count)
        return numbers if dtype is None else numbers.astype(dtype, copy=False)

    def _release(self, count):
        """Let the system forget the pages of the tensor; else they count as memory of this process."""
        if hasattr(mmap, "MADV_DONTNEED"):
            first = self._start // mmap.PAGESIZE * mmap.PAGESIZE
            self._data.madvise(mmap.MADV_DONTNEED, first, self._start + count - first)


def _scale(number):
    """A number for each block as float32 (n, 1)."""
    return number.astype(np.float32)[:, None]


def _bits(packed, width, count):
    """Integers of `width` bits: packed (..., n) bytes -> (..., count, n), those of the lowest bits first."""
    shifts = np.arange(0, width * count, width, dtype=np.uint8)[:, None]
    return (packed[..., None, :] >> shifts) & np.uint8((1 << width) - 1)


def _halves(q):
    """Bytes (n, 16) -> 32 numbers of 4 bits a block: the low halves of all bytes, then the high halves."""
    return _bits(q, 4, 2).reshape(len(q), 32)


def _fifth(block):
    """32 numbers of 5 bits a block: q has 4 bits of each, and bit i of h is the highest bit of number i."""
    return _halves(block["q"]) | np.unpackbits(block["h"], axis=1, bitorder="little") << np.uint8(4)


def _q4_0(b):
    return _scale(b["d"]) * (_halves(b["q"]).view(np.int8) - np.int8(8)).astype(np.float32)


def _q4_1(b):
    return _scale(b["d"]) * _halves(b["q"]).astype(np.float32) + _scale(b["m"])


def _q5_0(b):
    return _scale(b["d"]) * (_fifth(b).view(np.int8) - np.int8(16)).astype(np.float32)


def _q5_1(b):
    return _scale(b["d"]) * _fifth(b).astype(np.float32) + _scale(b["m"])


def _q8_0(b):
    return b["q"].astype(np.float32) * _scale(b["d"])


def _superblock(b, q):
    """256 numbers in 8 groups of 32, each with a scale and a minimum of 6 bits, and d and m for all. q: (n, 8, 32).

    The 12 bytes of `s` hold 6 bits of the scales, then of the minima, of groups 0 to 3; then the 4 low bits of both of
    groups 4 to 7, whose 2 high bits are in the first 8 bytes.
    """
    scales, minima, low = b["s"].reshape(-1, 3, 4).swapaxes(0, 1)
    six, two = np.uint8(63), np.uint8(0x30)
    scales, minima = (
        np.concatenate([first & six, four | ((first >> 2) & two)], axis=1).astype(np.float32)
        for first, four in ((scales, low & np.uint8(15)), (minima, low >> np.uint8(4)))
    )
    d, m = (_scale(b["d"]) * scales)[..., None], (_scale(b["m"]) * minima)[..., None]
    return (d * q.astype(np.float32) - m).reshape(len(b), 256)


def _q4_k(b):
    return _superblock(b, _bits(b["q"].reshape(-1, 4, 32), 4, 2).reshape(-1, 8, 32))


def _q5_k(b):
    q = _bits(b["q"].reshape(-1, 4, 32), 4, 2).reshape(-1, 8, 32)
    return _superblock(b, q | _bits(b["h"], 1, 8) << np.uint8(4))


def _q6_k(b):
    """256 numbers in 16 groups of 16, each with a scale of 8 bits. A number has 4 bits in `q` and 2 in `h`."""
    low = _bits(b["q"].reshape(-1, 2, 64), 4, 2).reshape(-1, 8, 32)
    high = _bits(b["h"].reshape(-1, 2, 32), 2, 4).reshape(-1, 8, 32)
    q = ((low | high << np.uint8(4)).view(np.int8) - np.int8(32)).astype(np.float32)
    scales = _scale(b["d"]) * b["s"].astype(np.float32)
    return (scales[..., None] * q.reshape(-1, 16, 16)).reshape(len(b), 256)


def _bfloat16(b):
    return (b.astype(np.uint32) << np.uint32(16)).view(np.float32)[:, None]


def _plain(b):
    return _scale(b)


_D, _M, _S = ("d", "<f2"), ("m", "<f2"), ("s", "u1", 12)

FORMATS = {
    number: Format(name, numbers, np.dtype(block), decode)
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

"""Freed memory is kept and reused for later arrays.

Every training step allocates the same arrays. By default glibc returns the memory of a large array to the system when
it is freed. The next array then gets new pages, which the system fills with zeros when each is first touched: for the
GELU of a small GPT (1.5 MB) that took six times as long as the GELU. With other settings, glibc keeps freed memory: a
training step takes 28 % less time at size S and 11 % less at M, for 3 % more peak memory. It needs glibc.

NumPy requests huge pages for arrays of 4 MB and more. A few large arrays that are allocated at import and freed at
once, untouched, leave memory in huge pages for smaller arrays too: another 2 % of a step of size S.

Above 32 MB, the largest threshold that glibc accepts, `empty` reuses memory instead, for the logits of a large
vocabulary and their gradient. New arrays of 96 MB took up to 0.2 s, with a kernel of 0.02 s to fill them.

`lasting` is for what is read from memory again and again, as the weights of a model for each token: in huge pages the
96 MB of SmolLM2 were read in three quarters of the time, on an Intel Xeon (family 6, model 207).
"""

import contextlib
import ctypes
import math
import mmap
import sys
import threading

import numpy as np

LARGE_BYTES = 32 * 2**20  # glibc keeps the memory of arrays up to this size, `empty` that of larger ones
HUGE_ARRAYS = 8  # arrays of LARGE_BYTES that are allocated once to obtain huge pages
PIECE = 32 * 2**20  # bytes that `lasting` takes from the system at a time
LINE = 64  # bytes of a cache line
KEPT = 4  # free blocks that `empty` keeps, at most
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h
_blocks = {}  # id -> free block. One dict operation removes a block, so two threads cannot take the same one


def keep_freed_memory():
    """Make glibc keep freed memory in this process, for blocks of up to 32 MB. Does nothing without glibc."""
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
        size = LARGE_BYTES - 2**16  # below the threshold, so that glibc does not use mmap
        [np.empty(size, np.uint8) for _ in range(HUGE_ARRAYS)]


def empty(shape, dtype):
    """np.empty(shape, dtype). A large array reuses the memory of an earlier one that was deleted, if there is a fit.

    Batches differ a little in size, so a new block is an eighth larger than the array, and a free block is used for
    arrays of at least half its size.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if size <= LARGE_BYTES:
        return np.empty(shape, dtype)
    block = _fitting(size)
    return np.asarray(_Lease(np.empty(size + size // 8, np.uint8) if block is None else block, shape, dtype))


def is_whole(array):
    """Whether the array is all that there is of its memory, from NumPy or `empty`: no view of another array."""
    return array.base is None or array.base.__class__ is _Lease


def lasting(size):
    """A new array of `size` bytes on a cache line, in huge pages where the system has them.

    It is a part of a larger piece, which is freed with the last of its parts: small arrays fill huge pages together.
    """
    size = -(-size // LINE) * LINE
    if size > PIECE // 4:
        return _mapped(size)
    with _lock:
        if len(_rest[0]) < size:
            _rest[0] = _mapped(PIECE)
        part, _rest[0] = _rest[0][:size], _rest[0][size:]
    return part


_rest = [np.empty(0, np.uint8)]  # of the newest piece
_lock = threading.Lock()


def _mapped(size):
    """New memory of the system's own, which begins on a page."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        whole = np.empty(size + LINE, np.uint8)
        return whole[-whole.ctypes.data % LINE :][:size]
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a system without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.uint8)


class _Lease:
    """The base of an array from `empty`: when the last view of it is deleted, its block becomes free."""

    def __init__(self, block, shape, dtype):
        self.block = block
        self.__array_interface__ = {**block.__array_interface__, "shape": tuple(shape), "typestr": np.dtype(dtype).str}

    def __del__(self):
        _blocks[id(self.block)] = self.block
        for oldest in list(_blocks)[:-KEPT]:
            _blocks.pop(oldest, None)


def _fitting(size):
    """Remove and return the smallest free block of `size` to 2 * `size` bytes, or None."""
    for block in sorted(_blocks.values(), key=len):
        if size <= len(block) <= 2 * size and _blocks.pop(id(block), None) is not None:
            return block
    return None

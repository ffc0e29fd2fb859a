"""Matrices of small integers with scales: what they stand for, and how they lie in memory.

A weight is d q or d q + m, where q is an integer of 4 or 8 bits, its code, and a block of weights, neighbours in a row,
shares d and m. A matrix is kept in panels of WIDTH rows. A panel holds, for each block, the codes of all its rows, then
their scales d, then their minima m, so that the kernels in dots.py read memory in order, and find neighbouring rows in
the lanes of a vector.

The kernels make float32 of a code in registers: d q + m, rounded once, as NumPy computes it here, because a product d q
has at most 24 bits wherever there is an m. So nothing is lost: a product with codes has the bits of the product with
the float32 matrix.
"""

from dataclasses import astuple, dataclass

import numpy as np
from numba import types
from numba.core.datamodel import models
from numba.extending import register_model

from autotx.kernels.memory import lasting
from autotx.kernels.rows import FLOAT32, tasks
from autotx.kernels.simd import FLOAT32_TILE, host_features

ACROSS = 3  # vectors of a panel: so many sums hide the time that a multiply-add takes
WIDTH = ACROSS * FLOAT32_TILE.lanes
BLOCK = 32  # pieces of a product's sum are multiples of it, so that they begin with a block
READS_HALF = bool({"avx512f", "f16c", "neon"} & host_features())  # an instruction makes float32 of float16
QUANTIZED = 2**16  # weights that are rounded at a time


@dataclass(frozen=True)
class Coding:
    """How the weights of a matrix are coded.

    4 bits: q is from 0 to 15, or, without a minimum, from -8 to 7. Byte i of a block's codes holds q of number 2 i in
    its low half and q of number 2 i + 1 in its high half; without a minimum, plus 8. 8 bits: q is from -128 to 127.
    """

    bits: int  # 4 or 8
    minimum: bool  # whether there is an m
    half: bool = True  # whether d and m are float16, else float32
    block: int = BLOCK  # weights that share them: 32, or 16 of 8 bits

    @property
    def panel(self):
        """The NumPy type of the blocks of WIDTH rows."""
        words, scale = ("<u4", self.block // 8) if self.bits == 4 else ("i1", self.block), self.scale
        minima = [("minima", scale, WIDTH)] if self.minimum else []
        return np.dtype([("codes", words[0], (words[1], WIDTH)), ("scales", scale, WIDTH), *minima])

    @property
    def scale(self):
        return np.dtype("<f2" if self.half and READS_HALF else "<f4")

    @property
    def type(self):
        """The Numba type, by which a kernel is compiled for this coding; it takes no memory."""
        name = "_".join(str(int(part)) for part in astuple(self))
        _codings[name] = self
        return CodingType(f"Coding_{name}")

    def integers(self, codes):
        """q of codes (..., bytes): int8 (..., block)."""
        if self.bits == 8:
            return codes
        halves = np.stack([codes & np.uint8(15), codes >> np.uint8(4)], axis=-1).view(np.int8)
        numbers = halves.reshape(*codes.shape[:-1], self.block)
        return numbers if self.minimum else numbers - np.int8(8)


_codings = {}  # the end of the Numba type's name -> coding


class CodingType(types.Dummy):
    """The Numba type of one coding. It is pickled by its name."""

    @property
    def coding(self):
        return _codings[self.name.removeprefix("Coding_")]


register_model(CodingType)(models.OpaqueModel)


@dataclass(frozen=True)
class Parts:
    """The numbers of a matrix (N, K) by blocks: codes (N, blocks, bytes), uint8 of 4 bits and int8 of 8; d (N, blocks);
    m (N, blocks) or None."""

    coding: Coding
    codes: np.ndarray
    scales: np.ndarray
    minima: np.ndarray | None = None

    def decoded(self):
        """The float32 weights, (N, blocks, block)."""
        d, m = (None if part is None else part.astype(np.float32)[..., None] for part in (self.scales, self.minima))
        products = d * self.coding.integers(self.codes).astype(np.float32)
        return products if m is None else products + m

    def recoded(self, coding):
        """The same weights in a coding of 8 bits whose blocks divide those of this one."""
        if coding == self.coding:
            return self
        (N, _), times = self.scales.shape, self.coding.block // coding.block
        codes = self.coding.integers(self.codes).reshape(N, -1, coding.block)
        scales, minima = (None if p is None else np.repeat(p, times, axis=1) for p in (self.scales, self.minima))
        return Parts(coding, codes, scales, np.zeros_like(scales) if coding.minimum and minima is None else minima)


def join(parts, joined):
    """Several matrices as one, by a function that makes one array of a list of theirs, with their rows. If they are
    coded differently it gets 8 bits, into which all of them fit exactly."""
    codings = {p.coding for p in parts}
    if len(codings) > 1:
        minimum, half = any(c.minimum for c in codings), all(c.half for c in codings)
        codings = {Coding(8, minimum, half, min(c.block for c in codings))}
    (coding,) = codings
    parts = [p.recoded(coding) for p in parts]
    scales, codes = joined([p.scales for p in parts]), joined([p.codes for p in parts])
    return Parts(coding, codes, scales, joined([p.minima for p in parts]) if coding.minimum else None)


class Coded:
    """A matrix W (N, K) of codes, in panels (see above): panels[p, b] holds block b of rows p WIDTH to p WIDTH + WIDTH
    - 1; rows beyond the last, and columns beyond K in the last block, are zeros. dtype: that of the weights."""

    def __init__(self, parts: Parts, shape, dtype=FLOAT32):
        self.coding, self.shape, self.dtype = parts.coding, shape, dtype
        P, blocks, panel = tasks(shape[0], WIDTH), parts.scales.shape[1], parts.coding.panel
        size = P * blocks * panel.itemsize
        self.panels = lasting(size)[:size].view(panel).reshape(P, blocks)
        self._fill(0, parts)

    @classmethod
    def rounded(cls, weight):
        """A matrix of floats, rounded to 8 bits: a block of 32 as round(w / d), from -127 to 127, with d = max |w| /
        127, a float32. The error of a weight is at most d / 2."""
        (N, K), coding = weight.shape, Coding(8, minimum=False, half=False)
        blocks, step = tasks(K, BLOCK), WIDTH * max(1, QUANTIZED // max(1, K * WIDTH))
        empty = Parts(coding, np.empty((0, blocks, BLOCK), np.int8), np.empty((0, blocks), np.float32))
        coded = cls(empty, weight.shape, weight.dtype)
        for first in range(0, N, step):  # a piece at a time: the intermediate arrays are as large as the weights
            part = np.asarray(weight[first : first + step], np.float32)
            part = np.pad(part, ((0, 0), (0, blocks * BLOCK - K))).reshape(len(part), blocks, BLOCK)
            scales = np.abs(part).max(axis=2, initial=0) / np.float32(127)
            codes = np.rint(part / np.where(scales == 0, 1, scales)[..., None]).astype(np.int8)
            coded._fill(first, Parts(coding, codes, scales))
        return coded

    def _fill(self, first, parts):
        """Write rows, of which the first has the number `first`, a multiple of WIDTH."""
        names = {"codes": parts.codes.view(self.coding.panel["codes"].base), "scales": parts.scales}
        names |= {"minima": parts.minima} if self.coding.minimum else {}
        for name, rows in names.items():
            to, whole = self.panels[name][first // WIDTH :], len(rows) // WIDTH
            to[:whole] = np.moveaxis(rows[: whole * WIDTH].reshape(whole, WIDTH, *rows.shape[1:]), 1, -1)
            if left := len(rows) % WIDTH:
                to[whole] = 0
                to[whole, ..., :left] = np.moveaxis(rows[-left:], 0, -1)

    def rows(self, ids):
        """The rows with the numbers ids: an array of shape ids.shape + (K,)."""
        panel, place = np.asarray(ids) // WIDTH, np.asarray(ids) % WIDTH
        codes = np.ascontiguousarray(self.panels["codes"][panel, ..., place])
        scales = [self.panels[name][panel, ..., place] for name in self.panels.dtype.names[1:]]
        parts = Parts(self.coding, codes.view(np.uint8 if self.coding.bits == 4 else np.int8), *scales)
        whole = parts.decoded().reshape(*panel.shape, codes.shape[-2] * self.coding.block)
        return whole[..., : self.shape[1]].astype(self.dtype, copy=False)

    def __array__(self, dtype=None, copy=None):
        whole = self.rows(np.arange(len(self)))
        return whole if dtype is None else whole.astype(dtype, copy=False)

    def __len__(self):
        return self.shape[0]

    @property
    def nbytes(self):
        return self.panels.nbytes

"""Tiles that multiply in bfloat16, for arrays of float32: factors are rounded when they are packed, sums stay float32.

A bfloat16 is the upper half of a float32: its sign, its exponent, and 8 of its 24 bits of precision. So it has the
range of float32, and gradients neither overflow nor vanish as they do in float16: the loss needs no scaling.

The processor multiplies pairs of bfloat16 that are neighbours along the summed axis, and adds both products to a
float32. A pair takes the memory of one float32, a slot. Panels are built of squares of 16 lines and 32 numbers of each,
16 x 16 slots or 1 KB, in one of two orders:

    of A: line by line, square[i, p] = pair p of line i          of B: pair by pair, square[p, j] = pair p of line j

A panel of `width` lines holds the squares of its lines for the first 32 numbers, then those for the next 32, and so on,
with zeros for lines beyond the last and numbers beyond their end. The order of a panel follows from its width.

`PairTile` is the base of amx.py's tile; `DotTile` computes with the instruction vdpbf16ps of AVX512-BF16. `RoundedTile`
runs everywhere: it rounds to bfloat16 and multiplies the results as float32.
"""

from dataclasses import asdict, astuple, dataclass
from typing import ClassVar

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, register_jitable

from autotx.kernels import simd
from autotx.kernels.jit import kernel, outlined
from autotx.kernels.rows import floats
from autotx.kernels.simd import FLOAT32_TILE, INT, Vectors, address_of
from autotx.kernels.tile import Tile

LINES, NUMBERS = 16, 32  # of a square
SLOTS = LINES * NUMBERS // 2
SQUARE = 4 * SLOTS  # bytes
STACK = 1024


def rounded(x):
    """x, of any type, with float32 rounded to bfloat16 (to nearest, ties to even), as float32; by NumPy."""
    if x.dtype != np.float32:
        return x
    bits = np.ascontiguousarray(x).view(np.uint32)
    up = (bits + ((bits >> 16 & 1) + np.uint32(0x7FFF))) & np.uint32(0xFFFF0000)
    return np.where(np.isnan(x), x, up.view(np.float32))


# ---- packing squares --------------------------------------------------------------------------------------------


class BfloatType(ir.Type):
    """LLVM's bfloat."""

    intrinsic_name = "bf16"

    def _to_string(self):
        return "bfloat"

    def __eq__(self, other):
        return isinstance(other, BfloatType)

    def __hash__(self):
        return hash(BfloatType)


def _halves(vectors, first, second):
    """The 32 floats of two vectors, rounded: a vector of 32 halves of slots."""
    both = vectors.shuffle(first, second, list(range(2 * vectors.lanes)))
    half = vectors.builder.fptrunc(both, ir.VectorType(BfloatType(), 2 * vectors.lanes))
    return vectors.builder.bitcast(half, ir.VectorType(ir.IntType(16), 2 * vectors.lanes))


@register_jitable
def panel_size(tile, width, depth):
    """Slots in a panel of `width` lines; for a depth that is a multiple of 32 also those before it."""
    return (width + LINES - 1) // LINES * ((depth + NUMBERS - 1) // NUMBERS) * SLOTS


def _pack(tile, x, lines, depth, i_step, k_step, width, panels):
    """`simd.pack` into squares; x, panels: addresses. i_step: floats from line to line of x; k_step: along a line."""
    buffer, zeros, size = stack(), address_of(tile.zeros, 0), 4 * tile.panel_size(tile, width, depth)
    across, squares = (width + LINES - 1) // LINES, (depth + NUMBERS - 1) // NUMBERS  # of a panel
    groups = across * ((lines + width - 1) // width)
    for n in range(groups * squares):  # in the order in which x lies in memory
        group, square = (n // squares, n % squares) if k_step == 1 else (n % groups, n // groups)
        i, k = group // across * width + group % across * LINES, square * NUMBERS
        source, there = x + 4 * (i * i_step + k * k_step), lines - i
        target = panels + group // across * size + (square * across + group % across) * SQUARE
        if depth - k >= NUMBERS and k_step == 1:
            _square(tile, source, i_step, there, zeros, target, width == tile.cols, False)
        elif depth - k >= NUMBERS and i_step == 1:
            _square(tile, source, k_step, there, zeros, target, width == tile.rows, True)
        else:
            _gather(buffer, source, max(min(there, LINES), 0), min(depth - k, NUMBERS), i_step, k_step)
            _square(tile, buffer, NUMBERS, LINES, zeros, target, width == tile.cols, False)


@kernel
def _gather(buffer, x, lines, depth, i_step, k_step):
    """Copy a part of a square to `buffer`, line by line, with zeros for what is not there. All but sizes: addresses."""
    square = floats(buffer, LINES * NUMBERS)
    for i in range(square.size):
        square[i] = np.float32(0)
    for i in range(lines):
        for k in range(depth):
            square[i * NUMBERS + k] = floats(x + 4 * (i * i_step + k * k_step), 1)[0]


@intrinsic
def stack(typing):
    """The address of memory for STACK floats, on a cache line, which lasts until the function returns."""

    def generate(context, builder, signature, arguments):
        with builder.goto_entry_block():
            place = builder.alloca(ir.ArrayType(ir.FloatType(), STACK))
            place.align = 64
        return builder.ptrtoint(place, INT)

    return types.int64(), generate


@intrinsic(prefer_literal=True)
def _square(typing, tile, x, step, lines, zeros, target, turn, by_pairs):
    """Round a square of x and store it. step: floats between the rows of x, which are lines of 32 numbers or, by_pairs
    (a constant), numbers of 16 lines. lines: how many there are; others are zero, read from the address `zeros`.
    turn: whether the target has the other order."""
    across = by_pairs.literal_value

    def generate(context, builder, signature, arguments):
        _, x, step, lines, zeros, target, turn, _ = arguments
        vectors = Vectors(context, builder, tile.tile)
        source, zeros, to = vectors.pointers(x, zeros, target)
        there = vectors.first_lanes(lines)
        row = lambda i: builder.gep(source, [builder.mul(i, step)])  # noqa: E731
        square = []
        for i in range(LINES):
            if across:
                two = (vectors.masked_load(row(INT(k)), there) for k in (2 * i, 2 * i + 1))
                pairs = _halves(vectors, *two)
                by_turns = [lane // 2 + lane % 2 * vectors.lanes for lane in range(2 * vectors.lanes)]
                pairs = vectors.shuffle(pairs, pairs, by_turns)
            else:
                line = builder.select(builder.icmp_signed("<", INT(i), lines), row(INT(i)), zeros)
                pairs = _halves(vectors, vectors.load(line), vectors.load(line, INT(vectors.lanes)))
            square.append(builder.bitcast(pairs, vectors.kind))
        with builder.if_else(turn) as (turned, as_it_is):
            with turned:
                for i, vector in enumerate(vectors.transposed(list(square))):
                    vectors.store(vector, to, INT(i * LINES))
            with as_it_is:
                for i, vector in enumerate(square):
                    vectors.store(vector, to, INT(i * LINES))
        return context.get_dummy_value()

    return types.void(tile, *5 * [types.int64], types.boolean, by_pairs), generate


# ---- tiles ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RoundingTile(Tile):
    """A tile that rounds its factors to bfloat16."""

    rounds: ClassVar = True
    pack, copy, copy_size, multiply = map(staticmethod, (simd.pack, simd.copy, simd.panel_size, simd.multiply))

    def product(self, a, b, out=None):
        if a.dtype == b.dtype:
            a, b = rounded(a), rounded(b)
        return np.matmul(a, b, out=out)


class PairTile(RoundingTile):
    """A tile that reads panels of squares. Its rows and cols differ, as they tell the order."""

    panel_size = offset = staticmethod(panel_size)

    def outlined(self):
        kinds = self.type, *7 * [types.int64]
        return {"pack_outlined": outlined(*kinds)(_pack), "copy_outlined": outlined(*kinds)(simd.copy_lines)}


class RoundedTile(RoundingTile):
    """A tile that multiplies what it rounded as float32. Its sizes are those of FLOAT32_TILE."""

    panel_size, offset = map(staticmethod, (simd.panel_size, simd.offset))
    reader, heights = simd.Panels, simd.SimdTile.heights

    def outlined(self):
        plain = simd.SimdTile.outlined(self)
        return {**plain, "pack_outlined": outlined(self.type, *7 * [types.int64])(_pack_rounded)}


def _pack_rounded(tile, x, lines, depth, i_step, k_step, width, panels):
    """`simd.pack` of a RoundedTile, with addresses for x and panels."""
    simd.copy_lines(tile, x, lines, depth, i_step, k_step, width, panels)
    size = tile.panel_size(tile, width, depth)
    for i in range(0, lines, width):
        panel = floats(panels + 4 * (i // width * size), width * depth)
        for j in range(panel.size):
            panel[j] = _round(panel[j])


@intrinsic
def _round(typing, x):
    """`rounded`, of one number."""

    def generate(context, builder, signature, arguments):
        number, word = arguments[0], ir.IntType(32)
        bits = builder.bitcast(number, word)
        odd = builder.and_(builder.lshr(bits, word(16)), word(1))
        up = builder.add(bits, builder.add(odd, word(0x7FFF)))
        up = builder.bitcast(builder.and_(up, word(0xFFFF0000)), number.type)
        return builder.select(builder.fcmp_unordered("uno", number, number), number, up)

    return types.float32(types.float32), generate


class _Squares(simd.Panels):
    """A step of a DotTile: a pair of each row and column. vdpbf16ps adds the products of 16 pairs to 16 floats."""

    def steps(self, depth):
        return self.builder.ashr(self.builder.add(depth, INT(1)), INT(1))

    def a_at(self, k):
        pair = self.builder.gep(self.a, [self.place(k, 1, 1)])
        return [self.builder.gep(pair, [INT(i * LINES)]) for i in range(self.tile.rows)]

    def b_at(self, k):
        across = self.tile.cols // LINES
        row = self.builder.gep(self.b, [self.place(k, across, LINES)])
        return [self.load(row, j * SLOTS) for j in range(across)]

    def place(self, k, squares, step):
        """Slots before pair k, in panels of so many squares side by side, where pairs are `step` slots apart."""
        builder, pairs = self.builder, INT(NUMBERS // 2)
        before = builder.mul(builder.udiv(k, pairs), INT(squares * SLOTS))
        return builder.add(before, builder.mul(builder.urem(k, pairs), INT(step)))

    def multiply_add(self, a, b, c):
        """c + a b. The fence is no instruction: it keeps LLVM from loading the values of all rows of A first, for
        which there are too few registers. On a Zen 5, without it, sums went to memory and back, at half the speed."""
        pairs = ir.VectorType(BfloatType(), 2 * self.tile.lanes)
        a, b = (self.builder.bitcast(x, pairs) for x in (a, b))
        total = self.vectors.call("llvm.x86.avx512bf16.dpbf16ps.512", c.type, c, a, b)
        self.builder.fence("seq_cst", "singlethread")
        return total


class DotTile(PairTile):
    """A tile of AVX512-BF16. It is as wide and high as that of float32; a panel of A holds a square for its 14 rows."""

    reader, heights = _Squares, simd.SimdTile.heights

    def outlined(self):
        return {**super().outlined(), "multiply_outlined": simd.SimdTile.outlined(self)["multiply_outlined"]}


def rounded_tile():
    return RoundedTile(*astuple(FLOAT32_TILE))


def dot_tile():
    return DotTile(**asdict(FLOAT32_TILE) | {"packing": 2 * FLOAT32_TILE.packing})  # multiply-adds take half

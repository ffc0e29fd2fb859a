"""The register tile: the innermost loop of every matrix product, and the packing that feeds it.

A processor multiplies and adds whole vectors of `lanes` numbers. To keep its arithmetic units busy, a small tile of the
result, rows x cols, stays in vector registers while the loop runs along the depth (the summed axis): a step loads
cols / lanes vectors of B and rows values of A, and makes rows * cols / lanes multiply-adds of vectors. There are two
shapes, for processors with enough registers: two vectors wide with as many rows as the other registers allow, or six
rows of four vectors.

| instructions   | lanes | registers | tall, rows x cols | multiply-adds / loads | wide    | multiply-adds / loads |
|----------------|-------|-----------|-------------------|-----------------------|---------|-----------------------|
| AVX-512        | 16    | 32        | 14 x 32           | 28 / 16               | 6 x 64  | 24 / 10               |
| AVX2 with FMA  | 8     | 16        | 6 x 16            | 12 / 8                | 6 x 16  | 12 / 8                |
| NEON           | 4     | 32        | 14 x 8            | 28 / 16               | 6 x 16  | 24 / 10               |

The tall tile loads the fewest numbers (46 for 448 multiply-adds, the wide one 70 for 384), the wide one needs the
fewest instructions for them, which matters where two hardware threads share a core. On an Emerald Rapids both ran at
0.97 to 0.99 of the speed of multiply-adds without loads (172 GFLOP/s); at times, by all signs when another virtual
machine used the core's second thread, at 0.68 and 0.83. Six rows also leave registers for the address of each row, so A
may have any steps: where the numbers of a row are neighbours, the tile reads A as it lies, and it need not be packed.
So products use the wide tile, and attention the tall one, because a wider tile computes more beyond the causal edge.

The panels of B come from L2, where each number is read once for a tile. The loop prefetches them into L1, AHEAD steps
before they are needed: on an Intel Xeon (family 6, model 167) whole products take 2 to 3 % less time, from 4 steps on
as from 16.

Where the number of rows is not a multiple of the tile's, the last tile computes rows of zeros that are then dropped.
Tiles of half and a quarter of the rows compute the last rows with less waste: with the tile of 14 alone, 9 % of the
work on 128 rows would be on zeros, and 24 % on the 32 channels of a head. They save 2 % of a step of size S.

Compilers do not derive such a tile from three loops, so it is an `intrinsic`: a Python function that Numba calls while
it compiles, and that emits the instructions (of LLVM, which then assigns the registers). On a Zen 4 core the tall tile
runs at 102 to 106 GFLOP/s from L1 and L2; a whole product of OpenBLAS reaches 95 there. The wide one was not measured
on a Zen 4; it needs 39 of the 60 bytes a nanosecond that a core loads from L2 (see gemm.py).

Use in a kernel that takes a tile as its first argument:

    a_size, b_size = tile.panel_size(tile, tile.rows, depth), tile.panel_size(tile, tile.cols, depth)
    a_panels = aligned(a_size * -(-rows // tile.rows), tile.number)      # made outside of the kernel, on a cache line
    b_panels = aligned(b_size * -(-cols // tile.cols), tile.number)
    tile.pack(tile, a, tile.rows, a_panels, 0)                           # a: (rows, depth), any strides
    tile.pack(tile, b.T, tile.cols, b_panels, 0)                         # b: (depth, cols), any strides
    tile.multiply(
        tile, depth, a_panels, 0, (a_size, 1, tile.rows), b_panels, 0, b_size,
        start, 0, (row_step, 1), c, 0, row_step, rows, cols,
    )

`pack` copies lines into panels of `tile.rows` or `tile.cols` lines, in the order in which the tile reads them: all
lines at depth 0, all lines at depth 1, and so on, with zeros for lines beyond the last. `multiply` then computes

    C[i, j] = start[i, j] + sum over k of A[i, k] B[k, j]         for i < rows, j < cols

where `start` is C itself to add into it, a row of biases (steps 0 and 1), or tile.zeros (0 and 0). Every operand is an
array and an offset in numbers from its first element, so C may be any part of a larger array whose last axis is
contiguous. Nothing outside that part is written. The sum runs in the order of k, one fused multiply-add a step, so an
element has the same bits in every tile and at every position in it.

Both functions are compiled once for a tile; kernels call them, they are not inlined (see jit.outlined).
"""

from typing import ClassVar

import llvmlite.binding
import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, register_jitable

from autotx.kernels.jit import kernel, outlined
from autotx.kernels.tile import CACHE_LINE, Tile


def host_features():
    """The names of the processor features that Numba compiles for, a set."""
    if numba.config.CPU_FEATURES is not None:  # the environment variable NUMBA_CPU_FEATURES
        return {name[1:] for name in numba.config.CPU_FEATURES.split(",") if name.startswith("+")}
    return {name for name, present in llvmlite.binding.get_host_cpu_features().items() if present}


def tile_shape(features, itemsize=4, wide=False):
    """(lanes, rows, cols) of the tile for a processor with these features and numbers of `itemsize` bytes."""
    if "avx512f" in features:
        register, registers = 64, 32
    elif "avx2" in features:
        register, registers = 32, 16
    else:
        register, registers = 16, 32 if "neon" in features else 16
    lanes = register // itemsize
    if wide and registers == 32:
        return lanes, 6, 4 * lanes
    return lanes, (registers - 4) // 2, 2 * lanes  # 4 registers: two vectors of B, a value of A, one in reserve


INT = ir.IntType(64)


# ---- pieces of LLVM ---------------------------------------------------------------------------------------------


@intrinsic
def address_of(typing, array, offset):
    """The address of the element `offset` elements after the first of the array."""

    def generate(context, builder, signature, arguments):
        first = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.ptrtoint(builder.gep(first, [arguments[1]]), INT)

    return types.int64(array, types.int64), generate


@intrinsic
def prefetch(typing, address):
    """Prefetch the cache line at an address into L2."""

    def generate(context, builder, signature, arguments):
        _prefetch(builder, builder.inttoptr(arguments[0], ir.IntType(8).as_pointer()), False, 2)
        return context.get_dummy_value()

    return types.void(types.int64), generate


def _prefetch(builder, pointer, write, level):
    """Emit a prefetch of the cache line at a pointer, into L1 (level 3) or L2 (2)."""
    number, byte = ir.IntType(32), builder.bitcast(pointer, ir.IntType(8).as_pointer())
    kind = ir.FunctionType(ir.VoidType(), [byte.type, *3 * [number]])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [byte, number(int(write)), number(level), number(1)])


class Vectors:
    """Emits LLVM instructions for vectors of a tile's numbers."""

    def __init__(self, context, builder, tile):
        self.builder, self.tile, self.lanes, self.itemsize = builder, tile, tile.lanes, tile.itemsize
        self.number = context.get_value_type(tile.scalar)
        self.kind = ir.VectorType(self.number, tile.lanes)
        self.zeros = ir.Constant(self.kind, [0.0] * tile.lanes)
        self.suffix = f"v{tile.lanes}f{8 * tile.itemsize}"

    def pointers(self, *addresses):
        return [self.builder.inttoptr(address, self.number.as_pointer()) for address in addresses]

    def at(self, pointer, *offset):
        """A pointer to the vector that begins `offset` numbers after `pointer`."""
        place = self.builder.gep(pointer, list(offset)) if offset else pointer
        return self.builder.bitcast(place, self.kind.as_pointer())

    def load(self, pointer, *offset):
        return self.builder.load(self.at(pointer, *offset), align=self.itemsize)

    def store(self, vector, pointer, *offset):
        self.builder.store(vector, self.at(pointer, *offset), align=self.itemsize)

    def splat(self, pointer):
        """A vector with the number at `pointer` in every lane."""
        return self._spread(self.builder.load(pointer, align=self.itemsize), self.kind)

    def _spread(self, scalar, kind):
        one = self.builder.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.IntType(32)(0))
        return self.shuffle(one, one, [0] * kind.count)

    def shuffle(self, first, second, lanes):
        """The vector of the given lanes, counted through `first` (from 0) and then `second` (from self.lanes)."""
        return self.builder.shuffle_vector(
            first, second, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes)
        )  # fmt: skip

    def call(self, name, result, *arguments):
        """Call the LLVM intrinsic `name` (https://llvm.org/docs/LangRef.html#intrinsic-functions)."""
        function_type = ir.FunctionType(result, [argument.type for argument in arguments])
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, function_type, name), arguments)

    def fma(self, a, b, c):
        return self.call(f"llvm.fma.{self.suffix}", self.kind, a, b, c)

    def prefetch(self, pointer, write, near=False):
        """Prefetch the cache line at `pointer`: into L1 for a write or if it is `near`, else into L2."""
        _prefetch(self.builder, pointer, write, 3 if write or near else 2)

    def first_lanes(self, count):
        """A mask that is true in the first `count` lanes."""
        wide = ir.VectorType(INT, self.lanes)
        return self.builder.icmp_signed("<", ir.Constant(wide, list(range(self.lanes))), self._spread(count, wide))

    def masked_load(self, pointer, mask):
        align, name = ir.IntType(32)(self.itemsize), f"llvm.masked.load.{self.suffix}.p0"
        return self.call(name, self.kind, self.at(pointer), align, mask, self.zeros)

    def masked_store(self, vector, pointer, mask):
        align, name = ir.IntType(32)(self.itemsize), f"llvm.masked.store.{self.suffix}.p0"
        self.call(name, ir.VoidType(), vector, self.at(pointer), align, mask)

    def transposed(self, vectors):
        """Transpose `lanes` vectors: swap the off-diagonal halves, then quarters within each half, and so on."""
        half, n = self.lanes // 2, self.lanes
        while half:
            upper = [lane if not lane & half else n + lane - half for lane in range(n)]
            lower = [lane + half if not lane & half else n + lane for lane in range(n)]
            for i in range(n):
                if not i & half:
                    pair = vectors[i], vectors[i + half]
                    vectors[i], vectors[i + half] = (self.shuffle(*pair, lanes) for lanes in (upper, lower))
            half //= 2
        return vectors


# ---- the tile ---------------------------------------------------------------------------------------------------


@register_jitable
def panel_size(tile, width, depth):
    """Numbers in a panel of `width` lines: depth rounded up to whole vectors, one more vector, whole cache lines."""
    depth, line = (depth + tile.lanes - 1) // tile.lanes * tile.lanes, CACHE_LINE // tile.itemsize
    return (width * depth + tile.lanes + line - 1) // line * line


@register_jitable
def offset(tile, width, depth):
    """Numbers between the start of a panel of `width` lines and those at `depth`."""
    return width * depth


@kernel
def multiply(tile, depth, a, a_at, a_steps, b, b_at, b_size, start, start_at, start_steps, c, c_at, c_step, rows, cols):
    """C[i, j] = start[i, j] + sum over k < depth of A[i, k] B[k, j], for i < rows and j < cols, tile by tile.

    a: an array that holds A from element `a_at` on; a_steps: elements from tile to tile, from row to row in a tile, and
    from one k to the next; only a tile that `takes_steps` takes others than (size of a panel, 1, tile.rows). b: an
    array of packed panels: the first begins at element `b_at`, each next one `b_size` elements later, on a cache line.
    start, c: arrays, used from elements `start_at`, `c_at`. start_steps: elements from row to row and from column to
    column, (0, 0) for tile.zeros. c_step: elements from row to row.
    """
    a_at, b_at, c_at = address_of(a, a_at), address_of(b, b_at), address_of(c, c_at)
    start_at = address_of(start, start_at)
    tile.multiply_outlined(tile, depth, a_at, *a_steps, b_at, b_size, start_at, *start_steps, c_at, c_step, rows, cols)


def _multiply(tile, depth, a, a_size, a_row, a_k, b, b_size, start, start_row, start_col, c, c_step, rows, cols):
    """`multiply`, with the addresses of the first elements in place of arrays."""
    for i in range(0, rows, tile.rows):
        a_panel = a + tile.itemsize * (i // tile.rows * a_size)
        for j in range(0, cols, tile.cols):
            b_panel = b + tile.itemsize * (j // tile.cols * b_size)
            start_tile = start + tile.itemsize * (i * start_row + j * start_col)
            c_tile = c + tile.itemsize * (i * c_step + j)
            _tile(tile, depth, a_panel, a_row, a_k, b_panel, start_tile, start_row, c_tile, c_step, rows - i, cols - j)


@intrinsic
def _tile(typing, tile, depth, a, a_row, a_k, b, start, start_step, c, c_step, rows, cols):
    """One tile: C[i, j] = start[i, j] + sum over k < depth of A[i, k] B[k, j], where i < rows and j < cols."""
    sizes, heights = tile.tile, tile.tile.heights

    def generate(context, builder, signature, arguments):
        _, depth, a, a_row, a_k, b, start, start_step, c, c_step, rows, cols = arguments
        vectors = Vectors(context, builder, sizes)
        a_panel, b_panel, start, c = vectors.pointers(a, b, start, c)
        base, target = _Rows(vectors, start, start_step), _Rows(vectors, c, c_step)
        a_steps = a_row, a_k
        for height, lower in zip(heights, (*heights[1:], 0)):
            fits = builder.icmp_signed(">", rows, INT(lower))  # the next smaller tile is too small
            if height < sizes.rows:
                fits = builder.and_(fits, builder.icmp_signed("<=", rows, INT(height)))
            with builder.if_then(fits):
                _tile_of(vectors, height, depth, a_panel, a_steps, b_panel, base, target, rows, cols)
        return context.get_dummy_value()

    return types.void(tile, *11 * [types.int64]), generate


def _tile_of(vectors, height, depth, a_panel, a_steps, b_panel, base, target, rows, cols):
    """Emit the instructions of `_tile` for a tile of `height` rows."""
    builder, tile = vectors.builder, vectors.tile
    across = tile.cols // tile.lanes
    for i, j in np.ndindex(height, across):
        target.prefetch(i, j)
    panels = tile.reader(vectors, a_panel, a_steps, b_panel, rows)
    sums = sum_over_depth(vectors, height, across, panels.steps(depth), panels.a_at, panels.b_at, panels.multiply_add)
    whole = builder.and_(builder.icmp_signed(">=", rows, INT(height)), builder.icmp_signed(">=", cols, INT(tile.cols)))
    with builder.if_else(whole) as (all_of_it, a_part):
        with all_of_it:
            for i, j in np.ndindex(height, across):
                vectors.store(builder.fadd(sums[i][j], vectors.load(base.place(i, j))), target.place(i, j))
        with a_part:
            masks = [vectors.first_lanes(builder.sub(cols, INT(j * tile.lanes))) for j in range(across)]
            for i in range(height):
                with builder.if_then(builder.icmp_signed("<", INT(i), rows)):
                    for j in range(across):
                        old = vectors.masked_load(base.place(i, j), masks[j])
                        vectors.masked_store(builder.fadd(sums[i][j], old), target.place(i, j), masks[j])


class Panels:
    """What a step of the loop over the depth computes, from a packed panel of B, and of A or, for a tile that
    `takes_steps`, from A with any steps: a_steps are numbers from row to row and from one k to the next."""

    def __init__(self, vectors, a, a_steps, b, rows):
        self.vectors, self.builder, self.tile, self.a, self.b = vectors, vectors.builder, vectors.tile, a, b
        builder, steps = self.builder, self.tile.takes_steps
        a_row, self.a_k = a_steps if steps else (INT(1), INT(self.tile.rows))
        self.lines = []
        for i in map(INT, range(self.tile.rows)):
            row = builder.select(builder.icmp_signed("<", i, rows), i, INT(0)) if steps else i  # of A, no other
            self.lines.append(builder.gep(a, [builder.mul(row, a_row)]))

    def steps(self, depth):
        return depth

    def a_at(self, k):
        """Pointers to the values of A, one for each row."""
        skip = self.builder.mul(k, self.a_k)
        return [self.builder.gep(line, [skip]) for line in self.lines]

    def b_at(self, k):
        """The vectors of B, one for each vector across the tile. Those of AHEAD steps later are prefetched into L1."""
        row = self.builder.gep(self.b, [self.builder.mul(k, INT(self.tile.cols))])
        places = range(0, self.tile.cols, self.tile.lanes)
        for j in places:
            later = self.builder.gep(row, [INT(AHEAD * self.tile.cols + j)])
            self.vectors.prefetch(later, write=False, near=True)
        return [self.load(row, j) for j in places]

    def multiply_add(self, a, b, c):
        return self.vectors.fma(a, b, c)

    def load(self, row, place):
        whole = self.tile.lanes * self.tile.itemsize  # B's panels are aligned
        return self.builder.load(self.vectors.at(row, INT(place)), align=whole)


class _Rows:
    """Pointers to vectors in rows of memory that are `step` numbers apart."""

    def __init__(self, vectors, first, step):
        self.vectors, self.first, self.step = vectors, first, step

    def place(self, i, j):
        builder = self.vectors.builder
        row = builder.gep(self.first, [builder.mul(INT(i), self.step)])
        return builder.gep(row, [INT(j * self.vectors.lanes)])

    def prefetch(self, i, j):
        """Prefetch vector j of row i for a write: it is in L1 when the loop over the depth ends."""
        self.vectors.prefetch(self.place(i, j), write=True)


UNROLLED = 2  # steps of the loop over the depth that are emitted one after another
AHEAD = 6  # steps of the loop over the depth: how far ahead B is prefetched


def sum_over_depth(vectors, height, across, depth, a_at, b_at, multiply_add):
    """Emit the loop over k < depth. Returns sums[i][j]: height x across vectors, held in registers during the loop.

    a_at(k): pointers to `height` numbers or more. b_at(k): `across` vectors. multiply_add(a, b, c): c + a b.
    """
    builder = vectors.builder

    def step(k, *sums):
        b, new = b_at(k), []
        for i, pointer in zip(range(height), a_at(k)):
            a = vectors.splat(pointer)
            new += [multiply_add(a, b[j], sums[i * across + j]) for j in range(across)]
        return builder.add(k, INT(1)), *new

    values = INT(0), *height * across * [vectors.zeros]  # k and the sums
    for count in (UNROLLED, 1):  # a second loop takes the steps that remain
        end = builder.sub(depth, INT(count - 1))
        before, loop, after = builder.block, builder.append_basic_block("depth"), builder.append_basic_block("sums")
        builder.cbranch(builder.icmp_signed("<", values[0], end), loop, after)
        builder.position_at_end(loop)
        new = old = [builder.phi(value.type) for value in values]
        for _ in range(count):
            new = step(*new)
        builder.cbranch(builder.icmp_signed("<", new[0], end), loop, after)
        builder.position_at_end(after)
        results = [builder.phi(value.type) for value in values]
        for phis in (old, results):
            for phi, first, last in zip(phis, values, new):
                phi.add_incoming(first, before)
                phi.add_incoming(last, loop)
        values = results
    return [values[1 + i * across : 1 + (i + 1) * across] for i in range(height)]


# ---- packing ----------------------------------------------------------------------------------------------------


@kernel
def copy(tile, x, width, panels, at):
    """Copy the lines of `x` (lines, depth; any strides) into panels of `width` lines each.

    panels[at + p * panel_size(tile, width, depth) + k * width + i] = x[p * width + i, k], zeros for lines beyond the
    last. The rest of a panel, up to its size, may be overwritten: panels that are closer together must be packed one
    by one, in ascending order of position.
    """
    (lines, depth), steps = x.shape, (x.strides[0] // tile.itemsize, x.strides[1] // tile.itemsize)
    tile.copy_outlined(tile, address_of(x, 0), lines, depth, *steps, width, address_of(panels, at))


@kernel
def pack(tile, x, width, panels, at):
    """`copy`, in the order and with the rounding that the tile's `multiply` needs."""
    (lines, depth), steps = x.shape, (x.strides[0] // tile.itemsize, x.strides[1] // tile.itemsize)
    tile.pack_outlined(tile, address_of(x, 0), lines, depth, *steps, width, address_of(panels, at))


@register_jitable
def copy_lines(tile, x, lines, depth, i_step, k_step, width, panels):
    """`copy`, with addresses for x and panels. i_step: numbers from line to line of x; k_step: along a line."""
    size, lanes, itemsize = panel_size(tile, width, depth), tile.lanes, tile.itemsize
    groups = (width + lanes - 1) // lanes  # vectors across a panel; the last may extend beyond its width
    if i_step == 1 or lines == 1:  # neighbours in a panel are neighbours in x: copy vectors
        for k in range(depth):
            target = panels + itemsize * (k * width - size)
            for i in range(0, lines, width):
                source, target = x + itemsize * (k * k_step + i), target + itemsize * size
                _copy(tile, source, target, lines - i)
                for v in range(lanes, groups * lanes, lanes):
                    _copy(tile, source + itemsize * v, target + itemsize * v, lines - i - v)
    elif k_step == 1 or depth == 1:  # transpose squares of lanes x lanes
        for i in range(0, lines, width):
            for k in range(0, depth, lanes):
                source = x + itemsize * (i * i_step + k)
                target = panels + itemsize * (i // width * size + k * width)
                for v in range((groups - 1) * lanes, -1, -lanes):  # backwards: the next group overwrites any overflow
                    there, wanted, line = lines - i - v, min(width - v, lanes), source + itemsize * v * i_step
                    _transpose(tile, line, i_step, target + itemsize * v, width, there, wanted, depth - k)
    else:
        for i in range(0, lines, width):
            for k in range(depth):
                source = x + itemsize * (i * i_step + k * k_step)
                target = panels + itemsize * (i // width * size + k * width)
                for v in range(width):  # one by one, each overwrites zeros that the one before wrote
                    _copy(tile, source + itemsize * v * i_step, target + itemsize * v, min(lines - i - v, 1))


@intrinsic
def _copy(typing, tile, x, panels, count):
    """Copy the first `count` numbers of a vector (all where count >= tile.lanes); its other lanes are written as 0."""

    def generate(context, builder, signature, arguments):
        vectors, count = Vectors(context, builder, tile.tile), arguments[3]
        source, target = vectors.pointers(*arguments[1:3])
        with builder.if_else(builder.icmp_signed(">=", count, INT(vectors.lanes))) as (all_of_it, a_part):
            with all_of_it:
                vectors.store(vectors.load(source), target)
            with a_part:
                vectors.store(vectors.masked_load(source, vectors.first_lanes(count)), target)
        return context.get_dummy_value()

    return types.void(tile, *3 * [types.int64]), generate


@intrinsic
def _transpose(typing, tile, x, x_step, panels, width, lines, wanted, depth):
    """Transpose a square: panels[k * width + i] = x[i * x_step + k], for i and k < tile.lanes.

    Only the first `lines` lines and `depth` columns of x exist and are read; the result needs `wanted` of the lines.
    """

    def generate(context, builder, signature, arguments):
        _, x, x_step, panels, width, lines, wanted, depth = arguments
        vectors = Vectors(context, builder, tile.tile)
        source, target = vectors.pointers(x, panels)
        for k, vector in enumerate(square_columns(vectors, source, x_step, lines, wanted, depth)):
            vectors.store(vector, target, builder.mul(INT(k), width))
        return context.get_dummy_value()

    return types.void(tile, *7 * [types.int64]), generate


def square_columns(vectors, source, step, lines, wanted, depth):
    """Emit the loads of a transposition, see `_transpose`. Returns the columns of the square, one vector for each k."""
    builder, lanes = vectors.builder, range(vectors.lanes)
    enough = builder.icmp_signed(">=", lines, wanted), builder.icmp_signed(">=", depth, INT(vectors.lanes))
    with builder.if_else(builder.and_(*enough)) as (all_of_it, a_part):
        with all_of_it:
            full = []
            for i in lanes:  # for a line that is not needed, load the first again
                line = builder.select(builder.icmp_signed("<", INT(i), wanted), INT(i), INT(0))
                full.append(vectors.load(builder.gep(source, [builder.mul(line, step)])))
            full_block = builder.block
        with a_part:
            part = []
            for i in lanes:
                count = builder.select(builder.icmp_signed("<", INT(i), lines), depth, INT(0))
                start = builder.gep(source, [builder.mul(INT(i), step)])
                part.append(vectors.masked_load(start, vectors.first_lanes(count)))
            part_block = builder.block
    rows = []
    for from_full, from_part in zip(full, part):
        row = builder.phi(vectors.kind)
        row.add_incoming(from_full, full_block)
        row.add_incoming(from_part, part_block)
        rows.append(row)
    return vectors.transposed(rows)


# ---- the tile of this processor ---------------------------------------------------------------------------------


class SimdTile(Tile):
    """A tile computed with vector instructions in the type of its numbers, float32 or float64."""

    reader: ClassVar = Panels

    panel_size, offset, pack, multiply, copy = map(staticmethod, (panel_size, offset, pack, multiply, copy))
    copy_size = panel_size

    @property
    def takes_steps(self):
        """Whether `multiply` takes A with any steps. It needs a register for the address of each row of the tile."""
        return self.rows <= 8

    @property
    def heights(self):
        """The rows of the tile, and of the two smaller tiles for the last rows."""
        return self.rows, (self.rows + 2) // 2, (self.rows + 2) // 4

    def outlined(self):
        copying = outlined(self.type, *7 * [types.int64])(copy_lines)
        multiplying = outlined(self.type, *14 * [types.int64])(_multiply)
        return {"multiply_outlined": multiplying, "copy_outlined": copying, "pack_outlined": copying}


FLOAT32_TILE = SimdTile(np.dtype(np.float32), *tile_shape(host_features()))  # of attention and recurrent layers
PRODUCT_TILE = SimdTile(np.dtype(np.float32), *tile_shape(host_features(), wide=True), strip=24)  # 144 rows

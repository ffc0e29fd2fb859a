"""The register tile: the innermost loop of every matrix product, and the packing that feeds it.

A processor multiplies and adds whole vectors of LANES floats. To keep it doing nothing else, a small tile of the
result, ROWS x COLS, stays in vector registers while the loop runs down the depth (the summed axis): a step loads COLS
values of B and ROWS values of A and makes ROWS * COLS multiply-adds of them. Two vectors across and as many rows as
there are registers left give the most arithmetic for a load:

| vectors        | lanes | registers | tile ROWS x COLS | multiply-adds a loaded value |
|----------------|-------|-----------|------------------|------------------------------|
| AVX-512        | 16    | 32        | 14 x 32          | 448 / 46 = 9.7               |
| AVX2 with FMA  | 8     | 16        | 6 x 16           | 96 / 22 = 4.4                |
| NEON           | 4     | 32        | 14 x 8           | 112 / 22 = 5.1               |

Where rows run out, the last tile computes zeros for those that are missing. So there are two smaller ones beside it, of
HALF and QUARTER rows, for the last rows: of 128 rows, the tile of 14 would spend 9 % on zeros, and of the 32 channels
of a head 24 %. A step of size S takes 2 % less time with them.

No compiler finds this in plain loops, so the tile is written as an `intrinsic`: a Python function that Numba calls
while it compiles, and that emits the instructions (LLVM's, not the processor's: LLVM picks the registers). On a Zen 4
core it runs at 102 to 106 GFLOP/s from L1 and L2, where OpenBLAS's whole product makes 95.

How to use it, in any `@kernel` function:

    a_size, b_size = panel_size(ROWS, depth), panel_size(COLS, depth)
    a_panels = aligned(a_size * -(-rows // ROWS))      # made outside of the kernel, float32, on a cache line
    b_panels = aligned(b_size * -(-cols // COLS))
    pack(a, ROWS, a_panels, 0)                         # a: (rows, depth), any strides
    pack(b.T, COLS, b_panels, 0)                       # b: (depth, cols), any strides
    multiply(depth, a_panels, 0, a_size, b_panels, 0, b_size, start, 0, (row_step, 1), c, 0, row_step, rows, cols)

`pack` lays panels of ROWS or COLS lines out in the order in which the tile reads them: all lines at depth 0, all lines
at depth 1, and so on, with zeros for the lines that are missing at an edge. `multiply` then computes, tile by tile,

    C[i, j] = start[i, j] + sum over k of A[i, k] B[k, j]         for i < rows, j < cols

where `start` is C itself to add into it, a row of biases (steps 0 and 1), or ZEROS (0 and 0). Places are given as an
array and the number of floats from the array's first element, so C may be any piece of a larger array whose last axis
is contiguous. Nothing outside of the rows x cols piece is written. The sum runs in the order of k, by one fused
multiply-add a step: an element does not depend on the tile, or the place in it, that it is computed in.

Both are compiled once, apart from the kernels that call them (jit.apart).

To bring another tile (bfloat16 on AMX), replace this module: the same names, another shape and another panel.
"""

import threading

import llvmlite.binding
import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, register_jitable

from autotx.kernels.jit import apart, kernel
from autotx.kernels.threads import get_num_threads


def host_features():
    """The set of names of the processor's features that Numba compiles for."""
    if numba.config.CPU_FEATURES is not None:  # the environment variable NUMBA_CPU_FEATURES
        return {name[1:] for name in numba.config.CPU_FEATURES.split(",") if name.startswith("+")}
    return {name for name, present in llvmlite.binding.get_host_cpu_features().items() if present}


def tile_shape(features):
    """(lanes, rows, cols) of the tile for a processor with these features."""
    if "avx512f" in features:
        lanes, registers = 16, 32
    elif "avx2" in features:
        lanes, registers = 8, 16
    else:
        lanes, registers = 4, 32 if "neon" in features else 16
    return lanes, (registers - 4) // 2, 2 * lanes  # the four: two vectors of B, one value of A, one in reserve


LANES, ROWS, COLS = tile_shape(host_features())
HALF, QUARTER = (ROWS + 2) // 2, (ROWS + 2) // 4
ZEROS = np.zeros(COLS, np.float32)

FLOAT, INT, BIT = ir.FloatType(), ir.IntType(64), ir.IntType(1)
VECTOR, MASK = ir.VectorType(FLOAT, LANES), ir.VectorType(BIT, LANES)


def aligned(size):
    """A new float32 array of `size` elements that starts on a cache line: a vector then never straddles two lines."""
    whole = np.empty(size + 16, np.float32)
    skip = -whole.ctypes.data % 64 // 4
    return whole[skip : skip + size]


_kept = threading.local()  # for each thread of Python that calls


def thread_memory(size):
    """Memory to pack into, kept for the next kernel: for each thread a row of `size` or more floats, whole lines."""
    threads, rows = get_num_threads(), getattr(_kept, "rows", None)
    if rows is None or rows.shape[0] < threads or rows.shape[1] < size:
        width = -(-size // 1024) * 1024
        rows = _kept.rows = aligned(threads * width).reshape(threads, width)
    return rows


@register_jitable
def panel_size(width, depth):
    """Floats that a panel of `width` lines takes: whole squares of LANES x LANES, a vector more, whole cache lines."""
    depth = (depth + LANES - 1) // LANES * LANES
    return (width * depth + LANES + 15) // 16 * 16


# ---- pieces of LLVM ---------------------------------------------------------------------------------------------


def _pointers(builder, *addresses):
    return [builder.inttoptr(address, FLOAT.as_pointer()) for address in addresses]


@intrinsic
def address_of(typing, array, offset):
    """The address of the float that is `offset` floats after the array's first."""

    def generate(context, builder, signature, arguments):
        first = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.ptrtoint(builder.gep(first, [arguments[1]]), INT)

    return types.int64(array, types.int64), generate


def _as_vector(builder, pointer):
    return builder.bitcast(pointer, VECTOR.as_pointer())


def _splat(builder, scalar):
    """A vector with `scalar` in every lane."""
    one = builder.insert_element(ir.Constant(VECTOR, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))


def _call(builder, name, result, *arguments):
    """Call LLVM's own function `name` (https://llvm.org/docs/LangRef.html#intrinsic-functions)."""
    function_type = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), arguments)


def _fma(builder, a, b, c):
    return _call(builder, f"llvm.fma.v{LANES}f32", VECTOR, a, b, c)


def _first_lanes(builder, count):
    """A mask that is true in the first `count` lanes."""
    wide = ir.VectorType(INT, LANES)
    one = builder.insert_element(ir.Constant(wide, ir.Undefined), count, ir.Constant(ir.IntType(32), 0))
    counts = builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))
    return builder.icmp_signed("<", ir.Constant(wide, list(range(LANES))), counts)


def _masked_load(builder, pointer, mask):
    align, zeros = ir.Constant(ir.IntType(32), 4), ir.Constant(VECTOR, [0.0] * LANES)
    return _call(builder, f"llvm.masked.load.v{LANES}f32.p0", VECTOR, _as_vector(builder, pointer), align, mask, zeros)


def _masked_store(builder, vector, pointer, mask):
    align, target = ir.Constant(ir.IntType(32), 4), _as_vector(builder, pointer)
    _call(builder, f"llvm.masked.store.v{LANES}f32.p0", ir.VoidType(), vector, target, align, mask)


# ---- the tile ---------------------------------------------------------------------------------------------------


@kernel
def multiply(depth, a, a_at, a_size, b, b_at, b_size, start, start_at, start_steps, c, c_at, c_step, rows, cols):
    """C[i, j] = start[i, j] + sum over k < depth of A[i, k] B[k, j], for i < rows and j < cols, tile by tile.

    a, b: packed panels, the first at float number `a_at`, `b_at`, the next `a_size`, `b_size` floats further on; those
    of B begin on a cache line. start, c: float32 arrays, from float number `start_at`, `c_at` on. start_steps: how
    many floats it is from row to row and from column to column, (0, 0) for ZEROS; c_step: from row to row.
    """
    a_at, b_at, c_at = address_of(a, a_at), address_of(b, b_at), address_of(c, c_at)
    start_at = address_of(start, start_at)
    _multiply(depth, a_at, a_size, b_at, b_size, start_at, *start_steps, c_at, c_step, rows, cols)


@apart(*12 * [types.int64])
def _multiply(depth, a, a_size, b, b_size, start, start_row, start_col, c, c_step, rows, cols):
    """`multiply`, with arrays by the addresses of their first floats."""
    for i in range(0, rows, ROWS):
        a_panel = a + 4 * (i // ROWS * a_size)
        for j in range(0, cols, COLS):
            b_panel = b + 4 * (j // COLS * b_size)
            start_tile, c_tile = start + 4 * (i * start_row + j * start_col), c + 4 * (i * c_step + j)
            _tile(depth, a_panel, b_panel, start_tile, start_row, c_tile, c_step, rows - i, cols - j)


@intrinsic
def _tile(typing, depth, a, b, start, start_step, c, c_step, rows, cols):
    """C[i, j] = start[i, j] + sum over k < depth of A[k, i] B[k, j], for i < ROWS and j < COLS that are there."""

    def generate(context, builder, signature, arguments):
        depth, a, b, start, start_step, c, c_step, rows, cols = arguments
        a_panel, b_panel, start, c = _pointers(builder, a, b, start, c)
        base, target = _Rows(builder, start, start_step), _Rows(builder, c, c_step)
        for height, lower in ((ROWS, HALF), (HALF, QUARTER), (QUARTER, 0)):
            fits = builder.icmp_signed(">", rows, INT(lower))  # and no lower tile does
            if height < ROWS:
                fits = builder.and_(fits, builder.icmp_signed("<=", rows, INT(height)))
            with builder.if_then(fits):
                _tile_of(builder, height, depth, a_panel, b_panel, base, target, rows, cols)
        return context.get_dummy_value()

    return types.void(*9 * [types.int64]), generate


def _tile_of(builder, height, depth, a_panel, b_panel, base, target, rows, cols):
    """Emit `_tile` for i < height."""
    for i, j in np.ndindex(height, 2):
        target.prefetch(i, j)
    sums = _sum_over_depth(builder, height, depth, a_panel, b_panel)
    whole = builder.and_(builder.icmp_signed(">=", rows, INT(height)), builder.icmp_signed(">=", cols, INT(COLS)))
    with builder.if_else(whole) as (all_of_it, a_part):
        with all_of_it:
            for i, j in np.ndindex(height, 2):
                target.store(i, j, builder.fadd(sums[i][j], base.load(i, j)))
        with a_part:
            masks = [_first_lanes(builder, builder.sub(cols, INT(j * LANES))) for j in range(2)]
            for i in range(height):
                with builder.if_then(builder.icmp_signed("<", INT(i), rows)):
                    for j in range(2):
                        old = _masked_load(builder, base.place(i, j), masks[j])
                        _masked_store(builder, builder.fadd(sums[i][j], old), target.place(i, j), masks[j])


class _Rows:
    """Rows of two vectors, `step` floats apart, in memory."""

    def __init__(self, builder, first, step):
        self.builder, self.first, self.step = builder, first, step

    def place(self, i, j):
        row = self.builder.gep(self.first, [self.builder.mul(INT(i), self.step)])
        return self.builder.gep(row, [INT(j * LANES)])

    def load(self, i, j):
        return self.builder.load(_as_vector(self.builder, self.place(i, j)), align=4)

    def store(self, i, j, vector):
        self.builder.store(vector, _as_vector(self.builder, self.place(i, j)), align=4)

    def prefetch(self, i, j):
        """Ask for row i to be brought near, to be written: by the end of the loop it has arrived."""
        number = ir.IntType(32)
        byte = self.builder.bitcast(self.place(i, j), ir.IntType(8).as_pointer())
        _call(self.builder, "llvm.prefetch.p0", ir.VoidType(), byte, number(1), number(3), number(1))


def _sum_over_depth(builder, height, depth, a_panel, b_panel):
    """Emit the loop over k. Returns sums[i][j], height x 2 vectors that live in registers throughout."""
    before, loop, after = builder.block, builder.append_basic_block("depth"), builder.append_basic_block("sums")
    zeros = ir.Constant(VECTOR, [0.0] * LANES)
    some = builder.icmp_signed(">", depth, INT(0))
    builder.cbranch(some, loop, after)

    builder.position_at_end(loop)
    k = builder.phi(INT)
    sums = [[builder.phi(VECTOR) for _ in range(2)] for _ in range(height)]
    b_row = builder.gep(b_panel, [builder.mul(k, INT(COLS))])
    a_column = builder.gep(a_panel, [builder.mul(k, INT(ROWS))])
    b = [builder.load(_as_vector(builder, builder.gep(b_row, [INT(j * LANES)])), align=4 * LANES) for j in range(2)]
    new = []
    for i in range(height):
        a = _splat(builder, builder.load(builder.gep(a_column, [INT(i)]), align=4))
        new.append([_fma(builder, a, b[j], sums[i][j]) for j in range(2)])
    k_next = builder.add(k, INT(1))
    builder.cbranch(builder.icmp_signed("<", k_next, depth), loop, after)
    k.add_incoming(INT(0), before)
    k.add_incoming(k_next, loop)

    builder.position_at_end(after)
    results = []
    for i in range(height):
        for j in range(2):
            sums[i][j].add_incoming(zeros, before)
            sums[i][j].add_incoming(new[i][j], loop)
        results.append([builder.phi(VECTOR) for _ in range(2)])
    for i, j in np.ndindex(height, 2):
        results[i][j].add_incoming(zeros, before)
        results[i][j].add_incoming(new[i][j], loop)
    return results


# ---- packing ----------------------------------------------------------------------------------------------------


@kernel
def pack(x, width, panels, at):
    """Lay the lines of `x` (lines, depth; any strides) out in panels of `width` lines each.

    panels[at + p * panel_size(width, depth) + k * width + i] = x[p * width + i, k]. Where the last panel runs out of
    lines, zeros stand in their places. The rest of a panel's size may be overwritten: to put panels closer together,
    pack them one by one, in the order of their places.
    """
    lines, depth = x.shape
    _pack(address_of(x, 0), lines, depth, x.strides[0] // 4, x.strides[1] // 4, width, address_of(panels, at))


@apart(*7 * [types.int64])
def _pack(x, lines, depth, i_step, k_step, width, panels):
    """`pack`, with x and panels by their addresses: i_step, k_step floats from line to line, along a line."""
    size = panel_size(width, depth)
    groups = (width + LANES - 1) // LANES  # vectors across a panel; the last may be wider than what is left of it
    if i_step == 1 or lines == 1:  # what lies together in a panel lies together in x: copy vectors
        for k in range(depth):
            target = panels + 4 * (k * width - size)
            for i in range(0, lines, width):
                source, target = x + 4 * (k * k_step + i), target + 4 * size
                _copy(source, target, lines - i)
                for v in range(LANES, groups * LANES, LANES):
                    _copy(source + 4 * v, target + 4 * v, lines - i - v)
    elif k_step == 1 or depth == 1:  # transpose squares of LANES x LANES
        for i in range(0, lines, width):
            for k in range(0, depth, LANES):
                source, target = x + 4 * (i * i_step + k), panels + 4 * (i // width * size + k * width)
                for v in range((groups - 1) * LANES, -1, -LANES):  # backwards: what spills over is written after it
                    there, wanted = lines - i - v, min(width - v, LANES)
                    _transpose(source + 4 * v * i_step, i_step, target + 4 * v, width, there, wanted, depth - k)
    else:
        for i in range(0, lines, width):
            for k in range(depth):
                source, target = x + 4 * (i * i_step + k * k_step), panels + 4 * (i // width * size + k * width)
                for v in range(width):  # one by one, each over the zeros behind the last
                    _copy(source + 4 * v * i_step, target + 4 * v, min(lines - i - v, 1))


@intrinsic
def _copy(typing, x, panels, count):
    """Copy `count` floats, at most LANES, and write zeros up to LANES."""

    def generate(context, builder, signature, arguments):
        source, target = _pointers(builder, *arguments[:2])
        target, count = _as_vector(builder, target), arguments[2]
        with builder.if_else(builder.icmp_signed(">=", count, INT(LANES))) as (all_of_it, a_part):
            with all_of_it:
                builder.store(builder.load(_as_vector(builder, source), align=4), target, align=4)
            with a_part:
                builder.store(_masked_load(builder, source, _first_lanes(builder, count)), target, align=4)
        return context.get_dummy_value()

    return types.void(*3 * [types.int64]), generate


@intrinsic
def _transpose(typing, x, x_step, panels, width, lines, wanted, depth):
    """Transpose a square: panels[k * width + i] = x[i * x_step + k], for i and k < LANES.

    Only the first `lines` lines and `depth` columns are there to be read; of the lines, `wanted` are needed.
    """

    def generate(context, builder, signature, arguments):
        x, x_step, panels, width, lines, wanted, depth = arguments
        source, target = _pointers(builder, x, panels)
        enough = builder.icmp_signed(">=", lines, wanted), builder.icmp_signed(">=", depth, INT(LANES))
        with builder.if_else(builder.and_(*enough)) as (all_of_it, a_part):
            with all_of_it:
                full = []
                for i in range(LANES):  # a line that is not wanted: read the first again
                    line = builder.select(builder.icmp_signed("<", INT(i), wanted), INT(i), INT(0))
                    start = builder.gep(source, [builder.mul(line, x_step)])
                    full.append(builder.load(_as_vector(builder, start), align=4))
                full_block = builder.block
            with a_part:
                part = []
                for i in range(LANES):
                    count = builder.select(builder.icmp_signed("<", INT(i), lines), depth, INT(0))
                    start = builder.gep(source, [builder.mul(INT(i), x_step)])
                    part.append(_masked_load(builder, start, _first_lanes(builder, count)))
                part_block = builder.block
        vectors = []
        for from_full, from_part in zip(full, part):
            vector = builder.phi(VECTOR)
            vector.add_incoming(from_full, full_block)
            vector.add_incoming(from_part, part_block)
            vectors.append(vector)
        for k, vector in enumerate(_transposed(builder, vectors)):
            place = builder.gep(target, [builder.mul(INT(k), width)])
            builder.store(vector, _as_vector(builder, place), align=4)
        return context.get_dummy_value()

    return types.void(*7 * [types.int64]), generate


def _transposed(builder, vectors):
    """Transpose LANES vectors of LANES lanes: swap the halves off the diagonal, then their quarters, and so on."""
    half = LANES // 2
    while half:
        upper = [lane if not lane & half else LANES + lane - half for lane in range(LANES)]
        lower = [lane + half if not lane & half else LANES + lane for lane in range(LANES)]
        for i in range(LANES):
            if not i & half:
                pair = vectors[i], vectors[i + half]
                vectors[i], vectors[i + half] = (_shuffle(builder, *pair, lanes) for lanes in (upper, lower))
        half //= 2
    return vectors


def _shuffle(builder, first, second, lanes):
    """The vector of these lanes of `first` (0 to LANES - 1) and `second` (LANES and up)."""
    return builder.shuffle_vector(first, second, ir.Constant(ir.VectorType(ir.IntType(32), LANES), lanes))

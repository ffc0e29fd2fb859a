"""Scalar products of rows with rows: y += x W^T, where an element does not depend on how many others are made with it.

Each element is the same sum in the same order, whatever the block that it is computed in: for each piece of DEPTH
numbers, LANES sums of every LANES-th product, one fused multiply-add at a time; then the halves of these are added up
until one is left. So one row gives the same bits alone as among a thousand: a model that reads its prompt at once and
one that reads it token by token come to the same scores.

A block is HEIGHT x WIDTH = 6 x 4 elements, in 24 vector registers: 10 loads serve 24 multiply-adds, and nothing is
packed. For few rows it is lower, and as fast as the weights come from memory. int8 weights become float32 in registers.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from autotx.kernels.jit import outlined
from autotx.kernels.simd import FLOAT32_TILE, INT, Vectors

LANES = FLOAT32_TILE.lanes
DEPTH = 768  # numbers of a row in a piece: HEIGHT rows of x stay in L1
WIDTH = 4
HEIGHT = (2 * FLOAT32_TILE.rows - WIDTH) // WIDTH  # 6 where there are 32 registers
BROAD = min(2 * WIDTH, LANES)  # the width for a single row
LINE, NEAR, FAR = 64, 2**11, 3 * 2**14  # bytes of a cache line; how far ahead weights are asked for: one row, several
FLOAT, INT32, BYTE = ir.FloatType(), ir.IntType(32), ir.IntType(8)
VECTOR, BYTES = ir.VectorType(FLOAT, LANES), ir.VectorType(BYTE, LANES)


@outlined(*11 * [types.int64])
def dots(x, x_step, M, w, w_step, itemsize, N, depth, y, y_step, add):
    """y[i, j] = (y[i, j] if add else 0) + sum over k < depth of x[i, k] w[j, k], for i < M and j < N.

    x, w, y: addresses; the steps are elements from row to row. itemsize: bytes of an element of w, float32 or int8.
    """
    _dots(x, x_step, M, w, w_step, itemsize, N, depth, y, y_step, add)


@intrinsic
def _dots(typing, x, x_step, M, w, w_step, itemsize, N, depth, y, y_step, add):
    def generate(context, builder, signature, arguments):
        x, x_step, M, w, w_step, itemsize, N, depth, y, y_step, add = arguments
        vectors = Vectors(context, builder, FLOAT32_TILE)
        x, y, add = *vectors.pointers(x, y), builder.icmp_signed("!=", add, INT(0))
        for size, number, weights in ((FLOAT32_TILE.itemsize, FLOAT, VECTOR), (1, BYTE, BYTES)):
            with builder.if_then(builder.icmp_signed("==", itemsize, INT(size))):
                of_w = builder.inttoptr(w, number.as_pointer())
                for i, height in _steps(builder, M, (HEIGHT, 2, 1)):
                    alone = height == 1 and size > 1  # one row after the other is as fast as memory, and in its order
                    ahead = 0 if height == HEIGHT else (NEAR if alone else FAR) // size
                    for j, width in _steps(builder, N, (1,) if alone else (BROAD, WIDTH, 1)[height > 1 :]):
                        xs, ys = _rows(builder, x, i, x_step, height), _rows(builder, y, i, y_step, height)
                        ys = [builder.gep(row, [j]) for row in ys]
                        ws = _rows(builder, of_w, j, w_step, width)
                        _block(vectors, xs, ws, weights, LINE // size, depth, ys, add, ahead)
        return context.get_dummy_value()

    return types.void(*11 * [types.int64]), generate


def _steps(builder, count, sizes):
    """Emit a loop over 0 .. count - 1 in steps of the first size, then of the next for what remains, and so on.

    Yields (index, size) within each; the last size is 1.
    """
    start = INT(0)
    for size in sizes:
        stop = builder.sub(count, builder.srem(builder.sub(count, start), INT(size)))
        with cgutils.for_range_slice(builder, start, stop, INT(size), INT) as (index, _):
            yield index, size
        start = stop


def _rows(builder, first, i, step, count):
    """Pointers to the first elements of rows i, i + 1, ..., which lie `step` elements apart."""
    return [builder.gep(first, [builder.mul(builder.add(i, INT(row)), step)]) for row in range(count)]


def _block(vectors, xs, ws, weights, line, depth, ys, add, ahead):
    """Emit y[i][j] = x[i] w[j], or y[i][j] += x[i] w[j]; xs, ws and ys are pointers to rows.

    weights: LLVM's type of a vector of w; line: how many elements of w are a cache line. ahead: for each line of w that
    is read, the one so many elements further on is asked for, as the processor guesses badly; 0 for none.
    """
    builder = vectors.builder
    sums = [[cgutils.alloca_once_value(builder, ir.Constant(VECTOR, [0.0] * LANES)) for _ in ws] for _ in xs]

    def step(k, mask=None):
        of_w = [_load(vectors, builder.gep(w, [k]), weights, mask) for w in ws]
        for x, row in zip(xs, sums):
            of_x = _load(vectors, builder.gep(x, [k]), VECTOR, mask)
            for a, place in zip(of_w, row):
                builder.store(vectors.fma(of_x, a, builder.load(place)), place)

    whole = builder.and_(depth, INT(-LANES))
    for k, count in _steps(builder, whole, (line, LANES)):
        for w in ws if ahead else ():
            vectors.prefetch(builder.gep(w, [builder.add(k, INT(ahead))]), write=False)
        for first in range(0, count, LANES):
            step(builder.add(k, INT(first)))
    with builder.if_then(builder.icmp_signed("<", whole, depth)):
        step(whole, vectors.first_lanes(builder.sub(depth, whole)))
    totals = _totals(vectors, [builder.load(place) for row in sums for place in row])
    for i, y in enumerate(ys):
        vector, first = totals[i * len(ws) // LANES], i * len(ws) % LANES
        lanes = ir.Constant(ir.VectorType(INT32, len(ws)), list(range(first, first + len(ws))))
        total = builder.shuffle_vector(vector, vector, lanes)
        place = builder.bitcast(y, total.type.as_pointer())
        before = builder.select(add, builder.load(place, align=4), ir.Constant(total.type, None))
        builder.store(builder.fadd(before, total), place, align=4)


def _load(vectors, pointer, kind, mask):
    """LANES elements as floats; where there is a mask, only those that it lets through, and zeros."""
    builder, align = vectors.builder, vectors.itemsize if kind is VECTOR else 1
    place = builder.bitcast(pointer, kind.as_pointer())
    if mask is None:
        vector = builder.load(place, align=align)
    else:
        name = f"llvm.masked.load.v{LANES}{'f32' if kind is VECTOR else 'i8'}.p0"
        vector = vectors.call(name, kind, place, INT32(align), mask, ir.Constant(kind, None))
    return vector if kind is VECTOR else builder.sitofp(builder.sext(vector, ir.VectorType(INT32, LANES)), VECTOR)


def _totals(vectors, values):
    """The sum of the lanes of each vector, LANES sums in a vector: two vectors' halves are added up in one, and so on.

    Whichever two are paired, the lanes of one are added in the same order.
    """
    size = LANES  # lanes that are left of each sum
    while size > 1:
        size //= 2
        lower = [lane for start in range(0, 2 * LANES, 2 * size) for lane in range(start, start + size)]
        upper = [lane + size for lane in lower]
        pairs = [(values[i], values[min(i + 1, len(values) - 1)]) for i in range(0, len(values), 2)]
        values = [vectors.builder.fadd(vectors.shuffle(a, b, lower), vectors.shuffle(a, b, upper)) for a, b in pairs]
    return values

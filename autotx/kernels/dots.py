"""Dot products of rows with rows, y += x W^T, where the bits of an element do not depend on the number of rows.

Each element is the same sum in the same order in every block: for each piece of DEPTH numbers, LANES sums of every
LANES-th product, one fused multiply-add at a time; then halves of the vector are added until one number is left. So a
row gives the same bits alone as among a thousand: a model that reads its prompt at once computes the same scores as
one that reads it token by token.

A block has HEIGHT x WIDTH = 6 x 4 elements in 24 vector registers: 10 loads for 24 multiply-adds, without packing. With
few rows, blocks have fewer rows, and memory limits the speed. int8 weights are converted to float32 in registers.
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
LINE, NEAR, FAR = 64, 2**11, 3 * 2**14  # bytes: of a cache line; prefetch distance of weights for one row, and for more
FLOAT, INT32, BYTE = ir.FloatType(), ir.IntType(32), ir.IntType(8)
VECTOR, BYTES = ir.VectorType(FLOAT, LANES), ir.VectorType(BYTE, LANES)


@outlined(*11 * [types.int64])
def dots(x, x_step, M, w, w_step, itemsize, N, depth, y, y_step, add):
    """y[i, j] = (y[i, j] if add else 0) + sum over k < depth of x[i, k] w[j, k], for i < M and j < N.

    x, w, y: addresses. The steps are elements from row to row. itemsize: bytes of an element of w (float32 or int8).
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
                    alone = height == 1 and size > 1  # one row of w at a time: in memory order, at memory speed
                    ahead = 0 if height == HEIGHT else (NEAR if alone else FAR) // size
                    for j, width in _steps(builder, N, (1,) if alone else (BROAD, WIDTH, 1)[height > 1 :]):
                        xs, ys = _rows(builder, x, i, x_step, height), _rows(builder, y, i, y_step, height)
                        ys = [builder.gep(row, [j]) for row in ys]
                        ws = _rows(builder, of_w, j, w_step, width)
                        _block(vectors, xs, ws, weights, LINE // size, depth, ys, add, ahead)
        return context.get_dummy_value()

    return types.void(*11 * [types.int64]), generate


def _steps(builder, count, sizes):
    """Emit loops over 0 .. count - 1: in steps of the first size, then of the next size for the remainder, and so on.

    Yields (index, size) inside each loop. The last size is 1.
    """
    start = INT(0)
    for size in sizes:
        stop = builder.sub(count, builder.srem(builder.sub(count, start), INT(size)))
        with cgutils.for_range_slice(builder, start, stop, INT(size), INT) as (index, _):
            yield index, size
        start = stop


def _rows(builder, first, i, step, count):
    """Pointers to the first elements of rows i to i + count - 1, `step` elements apart."""
    return [builder.gep(first, [builder.mul(builder.add(i, INT(row)), step)]) for row in range(count)]


def _block(vectors, xs, ws, weights, line, depth, ys, add, ahead):
    """Emit y[i][j] = x[i] w[j], or y[i][j] += x[i] w[j] if `add`. xs, ws, ys: pointers to rows.

    weights: LLVM's type of a vector of w. line: elements of w in a cache line. ahead: the prefetch distance in elements
    of w, 0 for none; the hardware prefetcher predicts these reads badly.
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
    """Load LANES elements as floats; with a mask, the elements where it is true, and zeros."""
    builder, align = vectors.builder, vectors.itemsize if kind is VECTOR else 1
    place = builder.bitcast(pointer, kind.as_pointer())
    if mask is None:
        vector = builder.load(place, align=align)
    else:
        name = f"llvm.masked.load.v{LANES}{'f32' if kind is VECTOR else 'i8'}.p0"
        vector = vectors.call(name, kind, place, INT32(align), mask, ir.Constant(kind, None))
    return vector if kind is VECTOR else builder.sitofp(builder.sext(vector, ir.VectorType(INT32, LANES)), VECTOR)


def _totals(vectors, values):
    """The sum of the lanes of each vector, as vectors of LANES sums: the halves of two vectors are added into one, etc.

    The lanes of a vector are added in the same order, whichever vector it is paired with.
    """
    size = LANES  # lanes that each sum still has
    while size > 1:
        size //= 2
        lower = [lane for start in range(0, 2 * LANES, 2 * size) for lane in range(start, start + size)]
        upper = [lane + size for lane in lower]
        pairs = [(values[i], values[min(i + 1, len(values) - 1)]) for i in range(0, len(values), 2)]
        values = [vectors.builder.fadd(vectors.shuffle(a, b, lower), vectors.shuffle(a, b, upper)) for a, b in pairs]
    return values

"""y += x W^T for few rows x, where every element is the same sum in the same order as in gemm.py.

There an element is, for each piece of the summed axis, one fused multiply-add after another in the order of k, and the
sums of the pieces are added in their order. So a row gives the same bits alone as among a thousand: a model that reads
its prompt at once computes the same scores as one that reads it token by token.

A vector holds neighbouring elements of y, which need neighbouring rows of W:

    float32   W as it lies in the model, (N, K): squares of LANES x LANES weights are transposed in registers, which
              takes less time than reading them from memory
    int8      W in panels of WIDTH rows, one k after the other (see gemv.Int8), so that memory is read in order. Weights
              become floats in registers. `to_floats` does this for gemm.py
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from autotx.kernels.jit import outlined
from autotx.kernels.simd import FLOAT32_TILE, INT, Vectors, square_columns

LANES, COLS = FLOAT32_TILE.lanes, FLOAT32_TILE.cols
ACROSS = 3  # vectors of a panel: so many sums hide the time that a multiply-add takes
WIDTH = ACROSS * LANES
HEIGHTS = 4, 1  # rows of x that are multiplied together
UNROLLED = 8  # steps of k
LINE = 64  # bytes of a cache line
AHEAD, AHEAD_INT8 = 9 * 2**13, 2**15  # bytes: how far ahead weights are prefetched
BYTE = ir.IntType(8)


@outlined(*9 * [types.int64])
def dots(x, x_step, M, w, w_step, N, depth, y, y_step):
    """y[i, j] += sum over k < depth of x[i, k] w[j, k], for i < M and j < N. x, w, y: addresses of floats.

    The steps are numbers from row to row.
    """
    _dots(x, x_step, M, w, w_step, N, depth, y, y_step)


@outlined(*9 * [types.int64])
def dots_int8(x, x_step, M, panels, panel_size, N, depth, y, y_step):
    """`dots` with int8 weights. panels: the address of the first weight of a panel; panel_size: from panel to panel."""
    _dots_int8(x, x_step, M, panels, panel_size, N, depth, y, y_step)


@outlined(*7 * [types.int64])
def to_floats(panels, panel_size, first, N, depth, to, to_size):
    """The weights of columns `first` to `first` + N - 1 in panels of the tile's width: what `pack` makes of floats.

    panels, to: addresses; panel_size, to_size: numbers from panel to panel. `first` is a multiple of the tile's width.
    """
    _to_floats(panels, panel_size, first, N, depth, to, to_size)


@intrinsic
def _dots(typing, x, x_step, M, w, w_step, N, depth, y, y_step):
    def generate(context, builder, signature, arguments):
        x, x_step, M, w, w_step, N, depth, y, y_step = arguments
        vectors = Vectors(context, builder, FLOAT32_TILE)
        x, w, y = vectors.pointers(x, w, y)
        for i, height in _steps(builder, M, HEIGHTS):
            xs, ys = _rows(builder, x, i, x_step, height), _rows(builder, y, i, y_step, height)
            with cgutils.for_range_slice(builder, INT(0), N, INT(LANES), INT) as (j, _):
                of_w, there = builder.gep(w, [builder.mul(j, w_step)]), builder.sub(N, j)
                sums = _sums(vectors, height, 1)
                with cgutils.for_range_slice(builder, INT(0), depth, INT(LANES), INT) as (k, _):
                    _prefetch(vectors, builder.gep(of_w, [k]), w_step)
                    left = builder.sub(depth, k)
                    square = square_columns(vectors, builder.gep(of_w, [k]), w_step, there, INT(LANES), left)
                    _add_square(vectors, [builder.gep(row, [k]) for row in xs], left, square, sums)
                _add_to(vectors, sums, [builder.gep(row, [j]) for row in ys], there)
        return context.get_dummy_value()

    return types.void(*9 * [types.int64]), generate


def _prefetch(vectors, pointer, step):
    """Prefetch the weights that come AHEAD bytes after the next square."""
    for row in _rows(vectors.builder, pointer, INT(0), step, LANES):
        vectors.prefetch(vectors.builder.gep(row, [INT(AHEAD // vectors.itemsize)]), write=False)


def _add_square(vectors, xs, left, square, sums):
    """sums[i] += x[i, k] square[k], for each k below LANES and `left`."""
    builder = vectors.builder
    with builder.if_else(builder.icmp_signed(">=", left, INT(LANES))) as (all_of_it, a_part):
        with all_of_it:
            for k, column in enumerate(square):
                for x, [place] in zip(xs, sums):
                    _add(vectors, vectors.splat(builder.gep(x, [INT(k)])), column, place)
        with a_part:  # products of zeros beyond
            rows = [vectors.masked_load(x, vectors.first_lanes(left)) for x in xs]
            for k, column in enumerate(square):
                for row, [place] in zip(rows, sums):
                    _add(vectors, vectors.shuffle(row, row, [k] * LANES), column, place)


@intrinsic
def _dots_int8(typing, x, x_step, M, panels, panel_size, N, depth, y, y_step):
    def generate(context, builder, signature, arguments):
        x, x_step, M, panels, panel_size, N, depth, y, y_step = arguments
        vectors = Vectors(context, builder, FLOAT32_TILE)
        panels, [x, y] = builder.inttoptr(panels, BYTE.as_pointer()), vectors.pointers(x, y)
        for i, height in _steps(builder, M, HEIGHTS):
            xs, ys = _rows(builder, x, i, x_step, height), _rows(builder, y, i, y_step, height)
            with cgutils.for_range_slice(builder, INT(0), N, INT(WIDTH), INT) as (j, _):
                panel = builder.gep(panels, [builder.mul(builder.sdiv(j, INT(WIDTH)), panel_size)])
                sums = _sums(vectors, height, ACROSS)
                for k, count in _steps(builder, depth, (UNROLLED, 1)):
                    row = builder.gep(panel, [builder.mul(k, INT(WIDTH))])
                    for ahead in range(0, count * WIDTH, LINE) if count > 1 else ():
                        vectors.prefetch(builder.gep(row, [INT(AHEAD_INT8 + ahead)]), write=False)
                    for step in range(count):
                        weights = [_floats(vectors, row, step * WIDTH + v * LANES) for v in range(ACROSS)]
                        for of_x, places in zip(xs, sums):
                            factor = vectors.splat(builder.gep(of_x, [builder.add(k, INT(step))]))
                            for weight, place in zip(weights, places):
                                _add(vectors, factor, weight, place)
                _add_to(vectors, sums, [builder.gep(row, [j]) for row in ys], builder.sub(N, j))
        return context.get_dummy_value()

    return types.void(*9 * [types.int64]), generate


@intrinsic
def _to_floats(typing, panels, panel_size, first, N, depth, to, to_size):
    def generate(context, builder, signature, arguments):
        panels, panel_size, first, N, depth, to, to_size = arguments
        vectors = Vectors(context, builder, FLOAT32_TILE)
        panels, [to] = builder.inttoptr(panels, BYTE.as_pointer()), vectors.pointers(to)

        def place(base, j, width, size):
            """The pointer to column j at k = 0, in panels of this width."""
            panel, column = builder.sdiv(j, INT(width)), builder.srem(j, INT(width))
            return builder.gep(base, [builder.add(builder.mul(panel, size), column)])

        with cgutils.for_range_slice(builder, INT(0), N, INT(LANES), INT) as (j, _):
            source, target = place(panels, builder.add(first, j), WIDTH, panel_size), place(to, j, COLS, to_size)
            for k, _ in _steps(builder, depth, (1,)):
                weights = _floats(vectors, builder.gep(source, [builder.mul(k, INT(WIDTH))]), 0)
                vectors.store(weights, target, builder.mul(k, INT(COLS)))
        return context.get_dummy_value()

    return types.void(*7 * [types.int64]), generate


def _floats(vectors, pointer, skip):
    """LANES int8 numbers, `skip` bytes after the pointer, as a vector of floats."""
    builder = vectors.builder
    place = builder.bitcast(builder.gep(pointer, [INT(skip)]), ir.VectorType(BYTE, LANES).as_pointer())
    wide = builder.sext(builder.load(place, align=1), ir.VectorType(ir.IntType(32), LANES))
    return builder.sitofp(wide, vectors.kind)


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


def _sums(vectors, height, across):
    """Places (height, across) for vectors of sums, which are zero. LLVM keeps them in registers."""
    return [[cgutils.alloca_once_value(vectors.builder, vectors.zeros) for _ in range(across)] for _ in range(height)]


def _add(vectors, x, weight, place):
    vectors.builder.store(vectors.fma(x, weight, vectors.builder.load(place)), place)


def _add_to(vectors, sums, ys, there):
    """Add the sums to y. there: how many columns y has from here on."""
    builder = vectors.builder
    for row, y in zip(sums, ys):
        for v, place in enumerate(row):
            at, mask = builder.gep(y, [INT(v * LANES)]), vectors.first_lanes(builder.sub(there, INT(v * LANES)))
            total = builder.fadd(builder.load(place), vectors.masked_load(at, mask))
            vectors.masked_store(total, at, mask)

"""y += x W^T for few rows x, where every element is the same sum in the same order as in gemm.py.

There an element is, for each piece of the summed axis, one fused multiply-add after another in the order of k, and the
sums of the pieces are added in their order. So a row gives the same bits alone as among a thousand: a model that reads
its prompt at once computes the same scores as one that reads it token by token.

A vector holds neighbouring elements of y, which need neighbouring rows of W:

    float32   W as it lies in the model, (N, K): squares of LANES x LANES weights are transposed in registers, which
              takes less time than reading them from memory
    codes     W in panels (see codes.py), so that memory is read in order. Codes become floats in registers: of 4 bits,
              where there is such an instruction, by a look-up of the low 4 bits of each lane in a vector of 16 floats,
              which are loaded from the byte with the code on; then by a multiply-add with the block's d and m

Kernels get the address of a function for the kind of their matrix, which `products_of` and `expand_of` give, and `call`
it: so a kernel is compiled once, and a function for the codings that are used.
"""

import functools

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from autotx.kernels.codes import ACROSS, WIDTH, Coded
from autotx.kernels.jit import address, kernel, outlined
from autotx.kernels.simd import FLOAT32_TILE, INT, PRODUCT_TILE, Vectors, host_features, square_columns

LANES, COLS = FLOAT32_TILE.lanes, PRODUCT_TILE.cols
HEIGHTS = 4, 2, 1  # rows of x that are multiplied together: weights are loaded and expanded once for them
UNROLLED = 8  # steps of k
LINE = 64  # bytes of a cache line
AHEAD, AHEAD_CODES = 9 * 2**13, 2**15  # bytes: how far ahead weights are prefetched
BYTE, WORD = ir.IntType(8), ir.IntType(32)
LOOKS_UP = LANES == 16 and "avx512f" in host_features()


@kernel
def products(coding, x, M, K, w, first, count, k, depth, y, N):
    """y[i, j] += sum over `depth` columns of x and W, from k on, of x[i, k] W[j, k], for i < M and `count` columns j of
    y from `first` on, a multiple of WIDTH.

    x (M, K), y (M, N): addresses of floats. w: that of W (N, K), floats if coding is None, else of the panels; then k
    is a multiple of BLOCK.
    """
    if coding is None:
        _dots(x + 4 * k, K, M, w + 4 * (first * K + k), K, count, depth, y + 4 * first, N)
    else:
        _coded_dots(coding, x, M, K, w, first, count, k, depth, y, N)


@kernel
def expand(coding, w, K, first, count, k, depth, to, to_size):
    """`count` columns of W^T, from `first` on, and `depth` rows, from k on, in panels of the tile's width: what `pack`
    makes of floats. first: a multiple of that width. to_size: numbers from panel to panel."""
    _expand(coding, w, K, first, count, k, depth, to, to_size)


@outlined(*6 * [types.int64])
def sum_of_rows(factors, count, x, step, y, n):
    """y[j] = sum over k < count of factors[k] x[k, j], one after the other, for j < n. factors, x, y: addresses of
    floats. step: numbers from row to row of x. The sums stay in registers."""
    _sum_of_rows(factors, count, x, step, y, n)


def products_of(weight):
    """(the address of `products` for this matrix, an array (N, K) or Coded; the address of its first weight)."""
    if isinstance(weight, Coded):
        return _address(products, weight.coding, 10), weight.panels.ctypes.data
    return _address(products, None, 10), weight.ctypes.data


def expand_of(weight):
    """(the address of `expand` for a Coded, that of its panels)."""
    return _address(expand, weight.coding, 8), weight.panels.ctypes.data


@functools.cache
def _address(function, coding, count):
    """The address of the machine code for a coding and `count` integers."""
    return address(function, types.void(types.none if coding is None else coding.type, *count * [types.int64]))


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
def _sum_of_rows(typing, factors, count, x, step, y, n):
    def generate(context, builder, signature, arguments):
        factors, count, x, step, y, n = arguments
        vectors = Vectors(context, builder, FLOAT32_TILE)
        factors, x, y = vectors.pointers(factors, x, y)
        with cgutils.for_range_slice(builder, INT(0), n, INT(4 * LANES), INT) as (j, _):
            at = [builder.add(j, INT(v * LANES)) for v in range(4)]
            masks, [sums] = [vectors.first_lanes(builder.sub(n, column)) for column in at], _sums(vectors, 1, 4)
            for k, _ in _steps(builder, count, (1,)):
                factor, row = vectors.splat(builder.gep(factors, [k])), builder.gep(x, [builder.mul(k, step)])
                for column, mask, place in zip(at, masks, sums):
                    _add(vectors, factor, vectors.masked_load(builder.gep(row, [column]), mask), place)
            for column, mask, place in zip(at, masks, sums):
                vectors.masked_store(builder.load(place), builder.gep(y, [column]), mask)
        return context.get_dummy_value()

    return types.void(*6 * [types.int64]), generate


@intrinsic
def _coded_dots(typing, coding, x, M, K, w, first, count, k, depth, y, N):
    coding = coding.coding

    def generate(context, builder, signature, arguments):
        _, x, M, K, w, first, count, k, depth, y, N = arguments
        vectors = Vectors(context, builder, FLOAT32_TILE)
        x, y = vectors.pointers(x, y)
        x, y = builder.gep(x, [k]), builder.gep(y, [first])
        for i, height in _steps(builder, M, HEIGHTS):
            xs, ys = _rows(builder, x, i, K, height), _rows(builder, y, i, N, height)
            with cgutils.for_range_slice(builder, INT(0), count, INT(WIDTH), INT) as (j, _):
                panel = _panel(builder, coding, w, K, builder.add(first, j), k)
                sums = _sums(vectors, height, ACROSS)
                with cgutils.for_range_slice(builder, INT(0), depth, INT(coding.block), INT) as (b, _):
                    at = _block(builder, coding, panel, b)
                    for ahead in range(0, coding.panel.itemsize, LINE):
                        vectors.prefetch(builder.gep(at, [INT(AHEAD_CODES + ahead)]), write=False)
                    blocks = [_Block(vectors, coding, at, INT(v * LANES)) for v in range(ACROSS)]
                    for step in _block_steps(builder, coding, builder.sub(depth, b)):
                        weights = [block.weights(step) for block in blocks]
                        for of_x, places in zip(xs, sums):
                            factor = vectors.splat(builder.gep(of_x, [builder.add(b, step)]))
                            for weight, place in zip(weights, places):
                                _add(vectors, factor, weight, place)
                _add_to(vectors, sums, [builder.gep(row, [j]) for row in ys], builder.sub(count, j))
        return context.get_dummy_value()

    return types.void(coding.type, *10 * [types.int64]), generate


@intrinsic
def _expand(typing, coding, w, K, first, count, k, depth, to, to_size):
    coding = coding.coding

    def generate(context, builder, signature, arguments):
        _, w, K, first, count, k, depth, to, to_size = arguments
        vectors = Vectors(context, builder, FLOAT32_TILE)
        [to] = vectors.pointers(to)
        with cgutils.for_range_slice(builder, INT(0), count, INT(LANES), INT) as (j, _):
            column = builder.add(first, j)
            panel = _panel(builder, coding, w, K, column, k)
            place = builder.add(builder.mul(builder.sdiv(j, INT(COLS)), to_size), builder.srem(j, INT(COLS)))
            target = builder.gep(to, [place])
            with cgutils.for_range_slice(builder, INT(0), depth, INT(coding.block), INT) as (b, _):
                block = _Block(vectors, coding, _block(builder, coding, panel, b), builder.srem(column, INT(WIDTH)))
                for step in _block_steps(builder, coding, builder.sub(depth, b)):
                    vectors.store(block.weights(step), target, builder.mul(builder.add(b, step), INT(COLS)))
        return context.get_dummy_value()

    return types.void(coding.type, *8 * [types.int64]), generate


def _panel(builder, coding, w, K, column, k):
    """The pointer to the block that begins at k, in the panel of a column of W^T."""
    blocks = builder.sdiv(builder.add(K, INT(coding.block - 1)), INT(coding.block))
    panel = builder.mul(builder.sdiv(column, INT(WIDTH)), blocks)
    first = builder.inttoptr(w, BYTE.as_pointer())
    return _block(builder, coding, first, builder.add(builder.mul(panel, INT(coding.block)), k))


def _block(builder, coding, first, k):
    """The pointer to the block with number k / block after the first."""
    return builder.gep(first, [builder.mul(builder.sdiv(k, INT(coding.block)), INT(coding.panel.itemsize))])


def _block_steps(builder, coding, left):
    """The numbers of a block, of which there are `left`. Those of 8 bits are taken in loops; of 4 bits there are always
    all, as constants."""
    if coding.bits == 4:
        yield from map(INT, range(coding.block))
        return
    there = builder.select(builder.icmp_signed("<", left, INT(coding.block)), left, INT(coding.block))
    for first, count in _steps(builder, there, (UNROLLED, 1)):
        yield from (builder.add(first, INT(step)) for step in range(count))


class _Block:
    """A block's weights in LANES rows of its panel, from row `row` on."""

    def __init__(self, vectors, coding, pointer, row):
        self.vectors, self.coding, self.pointer, self.row = vectors, coding, pointer, row
        kind = {2: ir.HalfType(), 4: ir.FloatType()}[coding.scale.itemsize]
        load = lambda name: self._floats(self._load(name, INT(0), kind))  # noqa: E731
        self.scale, self.minimum = load("scales"), load("minima") if coding.minimum else None

    def weights(self, k):
        """Number k of each row, as a vector of floats."""
        builder = self.vectors.builder
        q = self._nibbles(k.constant) if self.coding.bits == 4 else self._bytes(k)
        if self.minimum is None:
            return builder.fmul(self.scale, q)
        return self.vectors.fma(self.scale, q, self.minimum)

    def _bytes(self, k):
        builder = self.vectors.builder
        return builder.sitofp(builder.sext(self._load("codes", k, BYTE), _vector(WORD)), self.vectors.kind)

    def _nibbles(self, k):
        vectors, builder, zero = self.vectors, self.vectors.builder, 0 if self.coding.minimum else 8
        shifted = self._load("codes", INT(k // 8), WORD, skip=k % 8 // 2)  # the byte with the code is the lowest
        if k % 2:
            shifted = builder.lshr(shifted, ir.Constant(_vector(WORD), [4] * LANES))
        if LOOKS_UP:
            table = ir.Constant(vectors.kind, [float(q - zero) for q in range(16)])
            return vectors.call("llvm.x86.avx512.permvar.sf.512", vectors.kind, table, shifted)
        low = builder.and_(shifted, ir.Constant(shifted.type, [15] * LANES))
        return builder.sitofp(builder.sub(low, ir.Constant(low.type, [zero] * LANES)), vectors.kind)

    def _load(self, name, index, kind, skip=0):
        """LANES neighbours of a field of the panel's type, `skip` bytes further on."""
        builder, (field, offset) = self.vectors.builder, self.coding.panel.fields[name][:2]
        place = builder.add(builder.mul(index, INT(WIDTH)), self.row)
        at = builder.gep(self.pointer, [builder.add(INT(offset + skip), builder.mul(place, INT(field.base.itemsize)))])
        return builder.load(builder.bitcast(at, _vector(kind).as_pointer()), align=1)

    def _floats(self, vector):
        return vector if vector.type == self.vectors.kind else self.vectors.builder.fpext(vector, self.vectors.kind)


def _vector(kind):
    return ir.VectorType(kind, LANES)


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

"""Matrix products at nearly the speed at which the processor multiplies and adds: why a BLAS is fast, in one file.

C = A B with A (M, K) and B (K, N): every element of C is a sum of K products, M N K multiply-adds in all. Three plain
loops compute one or two of them in a nanosecond. One core of the machines measured below can compute 53 (Zen 4) or 86
to 100 (Emerald Rapids): an instruction computes 16, and 3.3 or 5.4 to 6.3 instructions start in a nanosecond (106 and
172 to 200 GFLOP/s, where a multiply-add is 2 FLOP). The difficulty is not the arithmetic but its input: a multiply-add
reads two floats, so 53 need 424 bytes a nanosecond, which no memory provides. So every number that was loaded into a
cache or a register is used there many times:

| kept in   | what                                    | multiply-adds per float there   | bytes a ns at 53 (86)      |
|-----------|-----------------------------------------|---------------------------------|----------------------------|
| registers | a tile of C, rows x cols = 6 x 64       | 64 (of A), 6 (of B)             | 39 (63) from L1 and L2     |
| L1, 32 KB | rows of A, rows x depth: 9 KB           | width = 512: the columns in L2  | 0.4 (0.7) from memory      |
| L2, 1 MB  | a block of B, depth x width: 786 KB     | m_block = 384: rows of the task | 0.6 (0.9) from memory      |
| -         | C itself, which is read and written     | depth = 384                     | 1.1 (1.8) to and from it   |

The last column is 53 (86) multiply-adds / uses x 4 bytes (8 bytes for C). The sizes are those of a Tile (see tile.py).
A core of the Zen 4 can load 128 bytes a nanosecond from L1, 60 from L2, and 10 to 20 from memory; one of the Emerald
Rapids, whose caches have 48 KB and 2 MB, at least 74 from L2 and 12 from memory: on every level more than is needed,
so only the arithmetic limits the speed. This is the roofline argument (Williams, Waterman and Patterson, 2009), applied
to each level. The order of the loops is that of Goto and van de Geijn ("Anatomy of high-performance matrix
multiplication", 2008), with A and B exchanged:

    for each task, a block of C, m_block x n_block:              the threads share the tasks
        for each piece of K, at most `depth` long:
            pack that piece of B's columns                       the block of B: stays in L2
            for each strip of A's rows:                          `_block`
                pack the strip, unless its rows lie ready
                for each `rows` of its rows, for each panel of B:
                    multiply                                     the register tile, simd.py

Packing copies a piece into the order in which the tile reads it. The tile then reads whole cache lines, one after the
other, and only the packing depends on whether a matrix is transposed, sliced or reversed. It takes 0.1 to 0.4 ns a
float, which is what memory takes, or as long as 5 to 40 multiply-adds, once for a block of C. `_blocks` weighs that
cost against the number of tasks. A matrix A whose rows have neighbouring numbers, as in y = x W^T and dx = g W, is read
as it lies: the tile goes along its rows anyway. In dW = g^T x its columns are the rows of g, far from each other in
memory, so strips of 144 are packed: in wide ones memory is read in order (0.25 ns a float, against 0.37 in strips of
48), and 144 floats are 9 cache lines, an odd number, so that the lines of a tile's rows spread over the whole of L1.
Where a strip is multiplied by FEW panels of B or less, packing it takes longer than reading it as it lies.

Block sizes, measured with a tile of 14 x 32 on a Zen 4 core (CPU time of one thread, machine shared; a GPT's products
forward and back; speed relative to depth x width = 384 x 512): 384 x 256 0.95, 256 x 512 0.97, 320 x 512 0.97, 768 x
256 0.97, 384 x 384 0.98, 512 x 384 0.99, 384 x 768 1.01, 512 x 512 1.01. On the Emerald Rapids, with twice the L2, 384
x 1,024 was as fast as 384 x 512; on an Intel Xeon with the same caches (family 6, model 167; the wide tile, whole
products, two threads) 128 x 512 0.94, 192 x 512 0.945, 256 x 512 0.96, 256 x 1,024 0.99. The choice matters little as
long as the rows of A fit into L1 and a block of B nearly into L2; of the best, the smaller sizes also fit smaller
caches. Two threads make 1.92 to 2.03 times what one makes there.

Results have the same bits with any number of threads: an element is the sum over k in order, piece after piece, and the
pieces depend on K alone.

`linear_backward` computes both products of a linear layer's backward pass, and the bias gradient, in one launch.
"""

import functools

import numba
import numpy as np
from numba import types
from numba.extending import register_jitable

from autotx.kernels import gelu, gemv, total
from autotx.kernels.codes import BLOCK, Coded
from autotx.kernels.dots import expand_of
from autotx.kernels.exp import ZERO
from autotx.kernels.gelu import gelu_of, gelu_tanh_of
from autotx.kernels.gemv import FEW_ROWS
from autotx.kernels.jit import call, kernel, outlined
from autotx.kernels.launches import shared_by_tile
from autotx.kernels.rows import FLOAT32, FLOAT_BYTES, floats
from autotx.kernels.simd import PRODUCT_TILE, address_of
from autotx.kernels.threads import get_num_threads
from autotx.kernels.tile import even_pieces, thread_memory

SMALL = 2**18  # multiply-adds: NumPy computes products of at most so many
FEW = 3  # panels of B for which columns of A are not packed


def matmul(a, b, out=None, accumulate=False, bias=None, activation=None, tile=PRODUCT_TILE):
    """out = f(a @ b + bias), or out += a @ b + bias.

    a: (..., M, K), b: (..., K, N), the same leading axes, any strides. out: (..., M, N), a new array if None; it must
    not overlap a or b. accumulate: add into `out`, a gradient or a residual. bias: (N,), added to every row.
    activation: f, "relu", "gelu", or "gelu_tanh"; None for none. It is applied while the results are in the cache.

    The kernels compute products of more than SMALL multiply-adds in the tile's type. np.matmul computes all others, and
    all under NUMBA_DISABLE_JIT=1. Up to that size OpenBLAS takes microseconds, in the calling thread; above it, its own
    threads would run, and then spin on the cores that the workers need.
    Raises ValueError if shapes do not fit, `accumulate` lacks `out` or has an activation, or `activation` is unknown.
    """
    (M, K), N = a.shape[-2:], b.shape[-1]
    shape = (*a.shape[:-1], N)
    if a.shape[:-2] != b.shape[:-2] or b.shape[-2] != K or (out is not None and out.shape != shape):
        given = f"{a.shape} and {b.shape}" + ("" if out is None else f" into {out.shape}")
        raise ValueError(f"matmul: shapes {given}; give (..., M, K) and (..., K, N), into (..., M, N)")
    if accumulate and (out is None or activation is not None):
        raise ValueError("matmul: accumulate adds to what is in `out`; give `out`, and no activation")
    if activation not in ACTIVATIONS:
        raise ValueError(f"matmul: activation is {activation!r}; give one of {', '.join(map(repr, ACTIVATIONS))}")
    if out is None:
        out = np.empty(shape, np.result_type(a, b))
    if out.size * K <= SMALL or not _kernel_takes(tile, a, b, out):
        return _matmul_numpy(tile, a, b, out, accumulate, bias, activation)
    if tile.number != FLOAT32 and (bias is not None or activation):  # `_finish` computes float32 alone
        matmul(a, b, out, accumulate, tile=tile)
        return activate(out if bias is None else np.add(out, bias, out), activation)
    if M <= FEW_ROWS and tile is PRODUCT_TILE and out.ndim == 2 and b.flags.f_contiguous:
        if accumulate:
            return gemv.linear(a, b.T, bias, onto=out)
        out[...] = gemv.linear(a, b.T, bias)
        return activate(out, activation)
    return multiply(a, b, out, accumulate, bias, activation, tile)


def multiply(a, b, out, accumulate=False, bias=None, activation=None, tile=PRODUCT_TILE):
    """`matmul`, by the kernels for any size, of arrays that they take. b may be a Coded, the transpose of B."""
    a, c, codes = _stack(a), _stack(out), expand_of(b) if isinstance(b, Coded) else (0, 0)
    start, finish, bias = _ends(tile, c, accumulate, bias, activation)
    b = tile.zeros[None, None] if isinstance(b, Coded) else _stack(b)
    tasks, product, size = _product(tile, a, b, c, start, finish, bias, codes=codes)
    _products(tile, tasks, product, product, tasks, 0, *_memory(tile, size))
    return out


def _kernel_takes(tile, a, b, out):
    """Whether Numba is enabled, all arrays are aligned and of the tile's type, and rows of `out` are contiguous."""
    return (
        not numba.config.DISABLE_JIT
        and tile.takes(a, b, out)
        and (out.strides[-1] == tile.itemsize or out.shape[-1] == 1)
        and (out.ndim <= 3 or out.flags.c_contiguous)  # more leading axes are merged
    )


def _matmul_numpy(tile, a, b, out, accumulate, bias, activation):
    """`matmul` in NumPy, for checked arguments."""
    if accumulate:
        out += tile.product(a, b)
    else:
        tile.product(a, b, out)
    if bias is not None:
        out += bias
    return activate(out, activation)


def activate(out, activation):
    """Apply an activation of `matmul`, given by its name, in place. Returns `out`."""
    if activation:
        out[...] = activated(out, activation)
    return out


def activated(x, activation):
    """f(x), for an activation of `matmul`."""
    if activation is None:
        return x
    return np.maximum(x, 0) if activation == "relu" else gelu.gelu(x, "tanh" if activation == "gelu_tanh" else "none")


def _ends(tile, c, accumulate, bias, activation):
    """(start, steps), finish, bias, as arguments of `_product`: the initial values of C, and what follows the sums.

    c: three axes. With `accumulate` the sums start from C, and the bias is added at the end; else they start from it.
    """
    bias = tile.zeros if bias is None else np.array(bias, tile.number)  # a copy: contiguous, and may be written
    given = bias is not tile.zeros
    if accumulate:
        start = c, (c.strides[0] // tile.itemsize, c.strides[1] // tile.itemsize, 1)
        return start, ADD_BIAS if given else 0, bias
    return (bias[None, None], (0, 0, int(given))), ACTIVATIONS[activation], bias


def _stack(x):
    """x with its leading axes merged into one."""
    return x[None] if x.ndim == 2 else x if x.ndim == 3 else x.reshape(-1, *x.shape[-2:])


def linear_backward(g, x, weight, with_x=True, with_weight=True, with_bias=False, tile=PRODUCT_TILE):
    """dx = g W, dweight = g^T x, and dbias, the sum of the rows of g: the gradients of y = x W^T + bias.

    g: (N, O), x: (N, I), weight W: (O, I), which only dx needs. Results that are not requested are None. The rows of g
    are summed when they are packed for dweight. Both products are computed in one launch (see `_products`), so a thread
    that has finished dweight continues with dx without waiting. The tasks of dweight are as large as for half the
    threads, which packs less; the tasks of dx even out the load.
    """
    dx = np.empty(x.shape, np.result_type(g, weight)) if with_x else None
    dweight = np.empty((g.shape[1], x.shape[1]), np.result_type(g, x)) if with_weight else None
    large = with_weight and x.size * g.shape[1] > SMALL and g.strides[1] == tile.itemsize
    large = large and (tile.number == FLOAT32 or not with_bias)  # `_add_row_sums` reads float32 alone
    if not large or not _kernel_takes(tile, g.T, x, dweight) or (with_x and not _kernel_takes(tile, g, weight, dx)):
        dx = matmul(g, weight, dx, tile=tile) if with_x else None
        dweight = matmul(g.T, x, dweight, tile=tile) if with_weight else None
        return dx, dweight, total(g, 0) if with_bias else None
    sums = np.zeros((-(-len(g) // tile.depth), g.shape[1] if with_bias else 0), tile.number)
    threads = -(-get_num_threads() // 2) if with_x else None
    start = tile.zeros[None, None], (0, 0, 0)
    tasks, of_weight, size = _product(tile, g.T[None], x[None], dweight[None], start, sums=sums, threads=threads)
    tasks_x, of_x, size_x = 0, of_weight, 0
    if with_x:
        tasks_x, of_x, size_x = _product(tile, g[None], weight[None], dx[None], start)
    _products(tile, tasks + tasks_x, of_weight, of_x, tasks, tasks_x, *_memory(tile, max(size, size_x)))
    return dx, dweight, total(sums, 0) if with_bias else None


def _product(tile, a, b, c, start, finish=0, bias=None, sums=None, threads=None, codes=(0, 0)):
    """The plan of C = start + A B: the number of tasks, the arguments of the kernels, the size of a worker's memory.

    a, b, c: stacks of matrices (three axes each). start: the array of initial values of the sums, and its steps in
    numbers from matrix to matrix, row to row, and column to column. finish, bias: see `_finish`. sums: (pieces of K,
    M), to which the sums of the rows of A are added, or None; only for one matrix with contiguous columns. codes: what
    `expand_of` returns for a Coded, in place of b; zeros for none.
    """
    stack, M, K = a.shape
    tasks, blocks, b_at, size = _plan(tile, stack, M, c.shape[2], K, threads or get_num_threads())
    bias = tile.zeros if bias is None else bias
    sums = tile.zeros[None, :0] if sums is None else sums
    return tasks, (a, b, codes, c, *start, finish, bias, sums, blocks, b_at), size


@functools.lru_cache(maxsize=4096)
def _plan(tile, stack, M, N, K, threads):
    """The number of tasks, the sizes of their blocks, where B's panels begin in a worker's memory, and its size."""
    m_block, n_block, k_block = blocks = _blocks(tile, stack, M, N, K, threads)
    tasks = stack * -(-M // m_block) * -(-N // n_block)
    width = _packed_width(tile)
    b_at = tile.panel_size(tile, width, k_block) * (tile.strip * tile.rows // width)  # panels of A, then panels of B
    return tasks, blocks, b_at, b_at + tile.panel_size(tile, tile.cols, k_block) * -(-n_block // tile.cols)


def _blocks(tile, stack, M, N, K, threads):
    """(m_block, n_block, k_block): the rows and columns of C in a task, and the length of a piece of K.

    Chooses the candidates with the least expected time: the number of tasks per thread times the cost of a task, in
    multiply-adds per unit of K. A tenth of a task is added for a thread that starts late or has a slower core: with
    many small tasks the other threads make up for it, with few large ones less is packed. Where A is not packed, each
    task reads its rows from memory, which takes as long.
    """
    k_block = even_pieces(K, tile.depth, max(tile.lanes, BLOCK))  # whole blocks of codes
    best, strip = None, min(8, tile.strip) * tile.rows
    for n_block in {even_pieces(N, width, tile.cols) for width in (tile.width, tile.width // 2, tile.width // 4)}:
        for m_pieces in range(1, min(64, -(-M // strip)) + 1):
            m_block = even_pieces(M, -(-M // m_pieces), tile.rows)
            tasks = stack * -(-M // m_block) * -(-N // n_block)
            rounds = -(-tasks // threads) + 0.1
            pack_b = n_block if k_block < K else n_block * min(1, threads / m_pieces)  # see `_block_of_c`
            cost = rounds * (m_block * n_block + tile.packing * (pack_b + m_block) + tile.task / K)
            best = min(best or (cost, m_block, n_block), (cost, m_block, n_block))
    return *best[1:], k_block


def _memory(tile, size):
    """For each worker: a row of at least `size` numbers for panels; and `packed`, a -1 on a cache line of its own."""
    rows = thread_memory(size, tile.number)
    packed = np.empty((len(rows), 8), np.int64)
    packed.fill(-1)
    return rows, packed


THREE = types.UniTuple(types.intp, 3)
PACKED = types.Array(types.int64, 2, "C")


def _types(tile):
    """The types of the arguments of `_products`."""
    given, written, row = tile.array(3, readonly=True), tile.array(3), tile.array(1, "C")
    scratch = tile.array(2, "C")
    ends = types.intp, row, scratch, THREE, types.intp
    product = types.Tuple([given, given, types.UniTuple(types.int64, 2), written, written, THREE, *ends])
    return product, product, types.intp, types.intp, scratch, PACKED


@shared_by_tile(_types)
@kernel
def _products(tile, ends, middle, ends_tasks, middle_tasks, scratch, packed, worker, task):
    """One task of two products, numbered so that the tasks of `middle` come between the halves of those of `ends`.

    Threads take tasks from both ends (see threads.py) and meet in the middle. With no `middle` it is one product.
    """
    half = (ends_tasks + 1) // 2
    if half <= task < half + middle_tasks:
        product, before, mark = middle, half, ends_tasks
    else:
        product, before, mark = ends, (0 if task < half else middle_tasks), 0
    _block_of_c(tile, *product, task - before, mark, scratch[worker], packed[worker])


@kernel
def _block_of_c(tile, a, b, codes, c, start, steps, finish, bias, sums, blocks, b_at, task, mark, panels, packed):
    """Compute block number `task` of C. Successive blocks have the same columns, so B is packed once for them.

    packed[0] is mark + n while the panels hold block n of B's columns; `mark` differs between the two products.
    """
    M, N = c.shape[1:]
    K = a.shape[2]
    m_block, n_block, k_block = blocks
    m_blocks, n_blocks = (M + m_block - 1) // m_block, (N + n_block - 1) // n_block
    c_steps = c.strides[0] // tile.itemsize, c.strides[1] // tile.itemsize, c.strides[2] // tile.itemsize
    columns, row = task // m_blocks, task % m_blocks * m_block
    matrix, column = columns // n_blocks, columns % n_blocks * n_block
    i, j = slice(row, min(row + m_block, M)), slice(column, min(column + n_block, N))
    for k in range(0, K, k_block):
        depth = slice(k, min(k + k_block, K))
        if mark + columns != packed[0] or k_block < K:  # else the block of B is still packed, from the last task
            if codes[0]:
                length, to = depth.stop - k, address_of(panels, b_at)
                size = tile.panel_size(tile, tile.cols, length)
                call(codes[0], (codes[1], K, column, j.stop - column, k, length, to, size))
            else:
                tile.pack(tile, b[matrix, depth, j].T, tile.cols, panels, b_at)
            packed[0] = mark + columns
        if sums.size and column == 0:
            _add_row_sums(a[matrix, i, depth], sums[k // k_block, i])
        c_at, N = matrix * c_steps[0] + row * c_steps[1] + column, j.stop - column
        last = finish if depth.stop == K else 0
        piece, to = a[matrix, i, depth], (c, c_at, c_steps[1], N, last, bias, column)
        if k == 0:
            at = matrix * steps[0] + row * steps[1] + column * steps[2]
            _block(tile, piece, panels, b_at, start, at, steps[1:], *to)
        else:
            _block(tile, piece, panels, b_at, c, c_at, c_steps[1:], *to)


@register_jitable
def _packed_width(tile):
    """The lines of A's panels: a panel is a strip, from which each tile takes its rows, or the rows of one tile."""
    return tile.rows * (tile.strip if tile.takes_steps else 1)


@kernel
def _add_row_sums(a, sums):
    """sums[i] += the sum of row i of `a`, whose columns are contiguous."""
    for k in range(a.shape[1]):
        column = floats(a.ctypes.data + k * a.strides[1], a.shape[0])
        for i in range(column.size):
            sums[i] += column[i]


@kernel
def _block(tile, a, scratch, b_at, start, start_at, steps, c, c_at, c_step, N, finish, bias, bias_at):
    """A block of C = start + A B, with a: (M, depth) unpacked, B: (depth, N) packed at `b_at`; then `_finish`."""
    M, depth = a.shape
    strip, width, b_size = tile.strip * tile.rows, _packed_width(tile), tile.panel_size(tile, tile.cols, depth)
    row, k = a.strides[0] // tile.itemsize, a.strides[1] // tile.itemsize
    as_it_lies = tile.takes_steps and (k == 1 or (row == 1 and FEW * tile.cols >= N))  # A is read so, not packed
    for i in range(0, M, strip):
        last, from_, to = min(i + strip, M), start_at + i * steps[0], c_at + i * c_step
        rest = scratch, b_at, b_size, start, from_, steps, c, to, c_step, last - i, N
        if as_it_lies:
            tile.multiply(tile, depth, a, i * row, (tile.rows * row, row, k), *rest)
        else:
            tile.pack(tile, a[i:last], width, scratch, 0)
            a_size = tile.rows if tile.takes_steps else tile.panel_size(tile, width, depth)
            tile.multiply(tile, depth, scratch, 0, (a_size, 1, width), *rest)
        if finish:
            _finish(finish, address_of(c, to), c_step, last - i, N, address_of(bias, bias_at))


ADD_BIAS, RELU, GELU, GELU_TANH = 1, 2, 3, 4
ACTIVATIONS = {None: 0, "relu": RELU, "gelu": GELU, "gelu_tanh": GELU_TANH}


@outlined(*6 * [types.int64])
def _finish(what, c, step, rows, cols, bias):
    """Apply the bias or activation `what` to finished float32 rows of C, while they are in the cache.

    c, bias: addresses. step: floats from row to row.
    """
    for i in range(rows):
        row, added = floats(c + FLOAT_BYTES * i * step, cols), floats(bias, cols)
        if what == ADD_BIAS:
            for j in range(cols):
                row[j] += added[j]
        elif what == RELU:
            for j in range(cols):
                row[j] = ZERO if row[j] < ZERO else row[j]
        elif what == GELU:
            for j in range(cols):
                row[j] = gelu_of(row[j])
        else:
            for j in range(cols):
                row[j] = gelu_tanh_of(row[j])

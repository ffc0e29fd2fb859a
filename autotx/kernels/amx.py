"""The bfloat16 tile of processors with AMX: eight registers of 16 x 64 bytes, and an instruction that multiplies two.

TDPBF16PS adds the product of a square of A and a square of B (see bfloat16.py), 16 x 32 times 32 x 16 numbers, to
16 x 16 floats: 8,192 multiply-adds in 16 cycles, 16 times as many as AVX-512 computes in float32. Four registers hold
32 x 32 floats of C, two the squares of 32 rows of A, two those of 32 columns of B: 4 KB are loaded for four products.
"""

import ctypes
import functools
import platform
import sys

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from autotx.kernels.bfloat16 import LINES, NUMBERS, SQUARE, PairTile, stack
from autotx.kernels.jit import kernel, outlined
from autotx.kernels.rows import FLOAT32, floats
from autotx.kernels.simd import INT

SIDE = 32  # rows and columns of C that are computed at a time
BYTE = ir.IntType(8)


@functools.cache
def permitted():
    """Whether the system lets this process use AMX. Linux asks for a system call, which holds for all threads and for
    forked processes."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    arch_prctl, request, tile_data = 158, 0x1023, 18
    return ctypes.CDLL(None, use_errno=True).syscall(arch_prctl, request, tile_data) == 0


def _multiply(tile, depth, a, a_size, _row, _k, b, b_size, start, start_row, start_col, c, c_step, rows, cols):
    """`simd.multiply`, with the addresses of the first elements in place of arrays."""
    buffer, squares = stack(), (depth + NUMBERS - 1) // NUMBERS
    configure()
    for i in range(0, rows, tile.rows):
        for j in range(0, cols, SIDE):
            b_panel = b + tile.itemsize * (j // SIDE * b_size)
            for half in range(i, min(i + tile.rows, rows), SIDE):
                a_panel = a + tile.itemsize * (i // tile.rows * a_size) + (half - i) // LINES * SQUARE
                first = start + tile.itemsize * (half * start_row + j * start_col)
                last = c + tile.itemsize * (half * c_step + j)
                m, n = min(rows - half, SIDE), min(cols - j, SIDE)
                if m == SIDE and n == SIDE:
                    _block(tile, squares, a_panel, b_panel, first, start_row, start_col, last, c_step)
                else:
                    _copy(first, start_row, start_col, buffer, SIDE, m, n)
                    _block(tile, squares, a_panel, b_panel, buffer, SIDE, 1, buffer, SIDE)
                    _copy(buffer, SIDE, 1, last, c_step, m, n)
    release()


@kernel
def _copy(x, row, col, y, step, rows, cols):
    """Copy a block of floats between addresses. row, col, step: floats from row to row and from column to column."""
    for i in range(rows):
        source, target = floats(x + 4 * i * row, (cols - 1) * col + 1), floats(y + 4 * i * step, cols)
        for j in range(cols):
            target[j] = source[j * col]


def _call(builder, name, *arguments):
    kind = ir.FunctionType(ir.VoidType(), [argument.type for argument in arguments])
    builder.call(builder.module.declare_intrinsic(f"llvm.x86.{name}", (), kind), arguments)


@intrinsic
def configure(typing):
    """Set all eight registers to 16 rows of 64 bytes."""
    layout = [1, 0, *14 * [0], *8 * [64, 0], *16 * [0], *8 * [16], *8 * [0]]

    def generate(context, builder, signature, arguments):
        kind = ir.ArrayType(BYTE, 64)
        with builder.goto_entry_block():
            place = builder.alloca(kind)
        place.align = 64
        builder.store(ir.Constant(kind, layout), place)
        _call(builder, "ldtilecfg", builder.bitcast(place, BYTE.as_pointer()))
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def release(typing):
    """Give the registers up: the system then need not save them when it switches threads."""

    def generate(context, builder, signature, arguments):
        _call(builder, "tilerelease")
        return context.get_dummy_value()

    return types.void(), generate


def move(builder, name, register, address, step):
    """Emit a load or store of a register. step: bytes from row to row in memory."""
    _call(builder, name, BYTE(register), builder.inttoptr(address, BYTE.as_pointer()), step)


def multiply_add(builder):
    """Emit C[i, j] += A[i] B[j] for squares in registers: of C in 0 to 3, of A in 4 and 5, of B in 6 and 7."""
    for i, j in np.ndindex(2, 2):
        _call(builder, "tdpbf16ps", BYTE(2 * i + j), BYTE(4 + i), BYTE(6 + j))


@intrinsic
def _block(typing, tile, squares, a, b, start, start_row, start_col, c, c_step):
    """32 x 32 floats: C = start + the sum of the products of so many pairs of squares in each panel."""
    a_step, b_step = tile.tile.rows // LINES * SQUARE, SIDE // LINES * SQUARE

    def generate(context, builder, signature, arguments):
        _, squares, a, b, start, start_row, start_col, c, c_step = arguments
        to_bytes = lambda floats: builder.mul(floats, INT(4))  # noqa: E731

        def each_quarter(name, first, row, col):
            for i, j in np.ndindex(2, 2):
                at = builder.add(builder.mul(to_bytes(row), INT(16 * i)), builder.mul(to_bytes(col), INT(16 * j)))
                move(builder, name, 2 * i + j, builder.add(first, at), to_bytes(row))

        each_quarter("tileloadd64", start, start_row, start_col)
        before, loop, after = builder.block, builder.append_basic_block("squares"), builder.append_basic_block("sums")
        builder.cbranch(builder.icmp_signed(">", squares, INT(0)), loop, after)
        builder.position_at_end(loop)
        k = builder.phi(INT)
        k.add_incoming(INT(0), before)
        a_at, b_at = builder.add(a, builder.mul(k, INT(a_step))), builder.add(b, builder.mul(k, INT(b_step)))
        for i in range(2):
            move(builder, "tileloadd64", 4 + i, builder.add(a_at, INT(i * SQUARE)), INT(64))
            move(builder, "tileloadd64", 6 + i, builder.add(b_at, INT(i * SQUARE)), INT(64))
        multiply_add(builder)
        after_this = builder.add(k, INT(1))
        k.add_incoming(after_this, builder.block)
        builder.cbranch(builder.icmp_signed("<", after_this, squares), loop, after)
        builder.position_at_end(after)
        each_quarter("tilestored64", c, c_step, INT(1))
        return context.get_dummy_value()

    return types.void(tile, *8 * [types.int64]), generate


class AmxTile(PairTile):
    """A panel of A has 64 rows, twice what is computed at a time: a panel of B is loaded into L1 once for both halves.
    Sums start from `start`, then add the products in the order of k."""

    def outlined(self):
        return {"multiply_outlined": outlined(self.type, *14 * [types.int64])(_multiply), **super().outlined()}


def amx_tile():
    permitted()  # or its first instruction would end the process
    return AmxTile(FLOAT32, 16, 2 * SIDE, SIDE, depth=512, width=768, packing=200, task=400_000)

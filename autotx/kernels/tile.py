"""A register tile: the number type, the sizes and the functions from which every matrix product is built.

A product C = A B is computed tile by tile: a tile is a block of C, rows x cols numbers, that stays in vector registers
while the loop runs along the depth (the summed axis). The best shape, and the instructions, depend on the processor and
on the number type. gemm.py and attention.py work with any `Tile`, which they receive as an argument, so one process can
use several. simd.py defines the tile for float32. For another number type, add a file with a new subclass.

Inside a kernel a Tile takes no memory: its Numba type identifies it, and Numba compiles its attributes as constants.
So a kernel is compiled once for each tile that it is called with.
"""

import inspect
import threading
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numba import from_dtype, types
from numba.core import typing
from numba.core.datamodel import models
from numba.core.imputils import lower_getattr_generic
from numba.extending import infer_getattr, register_model

from autotx.kernels.launches import recorded
from autotx.kernels.threads import MOST_THREADS

CACHE_LINE = 64  # bytes


@dataclass(frozen=True)
class Tile:
    """The sizes of a tile and of the blocks around it, in numbers (elements). Tiles with equal sizes share one type.

    A subclass defines kernels (or functions for kernels), which take the tile as their first argument:

        panel_size(tile, width, depth)                       numbers in a panel of `width` lines; callable from Python
        offset(tile, width, depth)                           numbers in a panel before `depth`, a multiple of cols
        pack(tile, x, width, panels, at)                     copy lines of x into panels, in the order `multiply` reads
        multiply(tile, depth, a, a_at, a_steps, b, ...)      C = start + A B from packed panels, tile by tile
        copy_size, copy                                      `panel_size` and `pack` of a tile that does not round

    simd.py describes them in full. A tile may round the factors of a product to another type, see bfloat16.py.
    """

    rounds: ClassVar[bool] = False  # whether `pack` rounds
    takes_steps: ClassVar[bool] = False  # whether `multiply` takes A as it lies, with any steps

    number: np.dtype  # the type of the elements of A, B and C
    lanes: int  # numbers in a vector register
    rows: int  # of a tile: the lines of a panel of A
    cols: int  # of a tile: the lines of a panel of B
    depth: int = 384  # of a product: the longest piece of the summed axis in a block; a sum is split into such pieces
    width: int = 512  # of a product: the most columns of B in a block
    strip: int = 4  # of a product: tiles of rows of A that are packed at a time
    packing: int = 40  # the time to pack one number, in multiply-adds
    task: int = 50_000  # the time to start one task of a product, in multiply-adds
    keys: int = 112  # of attention: keys in a block; sums over keys are split into such blocks
    queries: int = 128  # of attention: queries in a block

    def __post_init__(self):
        name = "_".join(str(part) for part in (type(self).__name__, *astuple(self)))
        known = _tiles.setdefault(name, self)
        if known is self:
            own = {
                "type": TileType(name),
                "scalar": from_dtype(self.number),  # Numba's name for the number type
                "itemsize": self.number.itemsize,  # bytes of a number
                "zeros": np.zeros(self.cols, self.number),
            }
            self.__dict__.update(own)
            self.__dict__.update(self.outlined())
        else:
            self.__dict__.update(known.__dict__)

    def outlined(self):
        """Functions that are compiled once for this tile (see jit.outlined): a dict of name -> function."""
        return {}

    def array(self, ndim, layout="A", readonly=False):
        """The Numba type of an array of this tile's numbers."""
        return types.Array(self.scalar, ndim, layout, readonly=readonly)

    def product(self, a, b, out=None):
        """a @ b, by NumPy."""
        return np.matmul(a, b, out=out)

    def takes(self, *arrays):
        """Whether these arrays are aligned and of this tile's number type."""
        return all(x.dtype == self.number and x.flags.aligned for x in arrays)


_tiles = {}  # name of the Numba type -> tile


class TileType(types.Dummy):
    """The Numba type of one tile. It is pickled by its name, which contains all sizes."""

    @property
    def tile(self):
        return _tiles[self.name]

    @property
    def file(self):
        """The source file of the tile's functions, which jit.py needs to know."""
        return Path(inspect.getfile(type(self.tile)))


register_model(TileType)(models.OpaqueModel)


@infer_getattr
class _Attributes(typing.templates.AttributeTemplate):
    key = TileType

    def generic_resolve(self, kind, name):
        return self.context.resolve_value_type(getattr(kind.tile, name))


@lower_getattr_generic(TileType)
def _attribute(context, builder, kind, value, name):
    attribute = getattr(kind.tile, name)
    resolved = context.typing_context.resolve_value_type(attribute)
    if isinstance(resolved, types.Callable):
        return context.get_dummy_value()
    return context.get_constant_generic(builder, resolved, attribute)


def even_pieces(size, longest, unit):
    """The length of equal pieces of `size`, a multiple of `unit`; there are as few as `longest` allows."""
    pieces = -(-size // longest)
    return -(-size // (pieces * unit)) * unit


def aligned(size, number):
    """A new array of `size` elements that starts on a cache line, so that no aligned vector crosses two lines."""
    whole = np.empty(size + CACHE_LINE // number.itemsize, number)
    skip = -whole.ctypes.data % CACHE_LINE // number.itemsize
    return whole[skip : skip + size]


_kept = threading.local()  # number type -> memory, for each Python thread that launches kernels


def thread_memory(size, number):
    """Scratch memory, reused by later kernels: for each worker one row of at least `size` numbers, on cache lines.

    There is a row for every worker that may come: another Python thread may raise the number of threads meanwhile.
    Memory that nobody writes to is not taken from the system. Launches that are recorded have memory of their own.
    """
    kept = _kept.__dict__ if recorded() is None else recorded().memory
    rows = kept.get(number)
    if rows is None or rows.shape[1] < size:
        width = -(-size // 1024) * 1024
        rows = kept[number] = aligned(MOST_THREADS * width, number).reshape(MOST_THREADS, width)
    return rows

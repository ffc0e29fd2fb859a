"""What a register tile is: the number type, the sizes and the two functions that every matrix product is built from.

A product C = A B is computed tile by tile: a block of C, rows x cols numbers, that stays in vector registers while the
loop runs down the depth (the summed axis). Which shape is best, and how it is computed, depends on the processor and
on the type of the numbers. gemm.py and attention.py are written for any `Tile` and receive one as an argument, so one
process can use several. simd.py has the tile for float32. Another number type is a new file with a new subclass.

Inside a kernel a Tile takes no memory: its Numba type names it, and its attributes are constants while Numba compiles.
A kernel is thus compiled once for each tile that it is called with.
"""

import threading
from dataclasses import astuple, dataclass

import numpy as np
from numba import from_dtype, types
from numba.core import typing
from numba.core.datamodel import models
from numba.core.imputils import lower_getattr_generic
from numba.extending import infer_getattr, register_model

from autotx.kernels.threads import get_num_threads

CACHE_LINE = 64  # bytes


@dataclass(frozen=True)
class Tile:
    """The sizes of a tile and of the blocks around it, in numbers. A subclass brings the functions.

    A subclass has three kernels (or functions for kernels), which take the tile as their first argument:

        panel_size(tile, width, depth)                       numbers that a panel of `width` lines takes; also in Python
        pack(tile, x, width, panels, at)                     lay out lines of x in panels, as `multiply` reads them
        multiply(tile, depth, a, a_at, a_size, b, ...)       C = start + A B from packed panels, tile by tile

    see simd.py for their full descriptions. Two tiles with equal sizes are the same tile.
    """

    number: np.dtype  # the type of the elements of A, B and C
    lanes: int  # numbers in a vector register
    rows: int  # of a tile: the lines of a panel of A
    cols: int  # of a tile: the lines of a panel of B
    depth: int = 384  # the longest piece of the summed axis in a block of a product; sums are cut by it
    width: int = 512  # the most columns of B in a block of a product
    strip: int = 4  # panels of A that are packed at a time
    packing: int = 15  # packing a number takes as long as this many multiply-adds,
    task: int = 50_000  # and starting a task of a product as long as this many
    keys: int = 112  # attention: keys in a block; sums over keys are cut by it
    queries: int = 128  # attention: queries in a block

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
        """Functions of a subclass that are compiled once for this tile, by name: see jit.outlined."""
        return {}

    def array(self, ndim, layout="A", readonly=False):
        """The Numba type of an array of this tile's numbers."""
        return types.Array(self.scalar, ndim, layout, readonly=readonly)

    def takes(self, *arrays):
        """Whether these arrays are aligned and of this tile's number type."""
        return all(x.dtype == self.number and x.flags.aligned for x in arrays)


_tiles = {}  # by the names of their types


class TileType(types.Dummy):
    """The Numba type of one tile. It is pickled by its name, which holds all sizes."""

    @property
    def tile(self):
        return _tiles[self.name]


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


def aligned(size, number):
    """A new array of `size` elements that starts on a cache line: a vector then never straddles two lines."""
    whole = np.empty(size + CACHE_LINE // number.itemsize, number)
    skip = -whole.ctypes.data % CACHE_LINE // number.itemsize
    return whole[skip : skip + size]


_kept = threading.local()  # for each thread of Python that calls


def thread_memory(size, number):
    """Memory to pack into, kept for the next kernel: for each thread a row of `size` or more numbers, whole lines."""
    threads, rows = get_num_threads(), _kept.__dict__.get(number)
    if rows is None or rows.shape[0] < threads or rows.shape[1] < size:
        width = -(-size // 1024) * 1024
        rows = _kept.__dict__[number] = aligned(threads * width, number).reshape(threads, width)
    return rows

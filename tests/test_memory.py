"""Large arrays whose memory is used again."""

import gc
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from autotx.kernels import memory

ROWS = memory.LARGE_BYTES // 4000 + 1  # of 1,000 float32: just large enough


def address(a):
    return a.__array_interface__["data"][0]


def test_a_large_array_takes_the_memory_of_one_that_nobody_holds():
    a = memory.empty((ROWS, 1000), np.float32)
    a[:] = 1
    first, view = address(a), a[1:]
    del a
    gc.collect()
    b = memory.empty((ROWS, 1000), np.float32)
    b[:] = 2
    assert address(b) != first  # a view of the first one is still there
    assert (view == 1).all()
    del view
    gc.collect()
    c = memory.empty((1000, ROWS), np.float32)
    assert address(c) == first
    assert c.shape == (1000, ROWS)
    assert all((c.flags.c_contiguous, c.flags.writeable, c.flags.aligned))


def test_a_block_is_used_for_arrays_a_little_larger_but_not_for_much_smaller_ones():
    a = memory.empty((ROWS * 4, 1000), np.float32)
    first = address(a)
    del a
    b = memory.empty((ROWS, 1000), np.float32)
    assert address(b) != first
    c = memory.empty((ROWS * 4 + 1, 1000), np.float32)
    assert address(c) == first


def test_small_arrays_are_numpys():
    a = memory.empty((2, 3), np.float64)
    assert (a.base, a.shape, a.dtype) == (None, (2, 3), np.float64)


def test_an_array_is_whole_where_no_other_has_its_memory():
    for a in (np.empty(3), memory.empty((ROWS, 1000), np.float32)):
        assert memory.is_whole(a)
        assert not memory.is_whole(a[1:])


def test_only_a_few_blocks_wait():
    arrays = [memory.empty((ROWS + 1000 * i, 1000), np.float32) for i in range(memory.KEPT + 3)]
    arrays.clear()
    gc.collect()
    assert len(memory._blocks) <= memory.KEPT


def test_threads_that_come_together_get_memory_of_their_own(monkeypatch):
    monkeypatch.setattr(memory, "LARGE_BYTES", 10)
    before = sys.getswitchinterval()

    def work(me):
        for i in range(4000):
            a = memory.empty((20 + 7 * i % 60,), np.uint8)
            a[:] = me
            assert (a == me).all()
        return True

    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(work, range(4)))
    finally:
        sys.setswitchinterval(before)


def test_lasting_arrays_lie_on_cache_lines_and_do_not_overlap():
    arrays = [memory.lasting(size) for size in (1, 64, 65, memory.PIECE // 4, memory.PIECE // 4 + 1, 1000)]
    for i, array in enumerate(arrays):
        assert array.ctypes.data % 64 == 0
        array[:] = i
    assert all((array == i).all() for i, array in enumerate(arrays))
    assert [len(array) for array in arrays[:3]] == [64, 64, 128]

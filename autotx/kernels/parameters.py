"""Operations on all parameters or gradients in one launch: AdamW, the sum of squares (for the norm), scaling.

A model has many parameters, and most are small: GPT-2 has 148, of which 98 have fewer than 4,000 elements. A launch for
each would take longer than its work. So one launch handles all: a table holds the address of each array, and a task is
a piece of an array. The pieces depend on the sizes of the arrays alone.

AdamW reads and writes 28 bytes per element with little arithmetic, so memory bandwidth limits its speed.
"""

import ctypes
import functools
import math

import numpy as np
from numba import types

from autotx.kernels.jit import kernel
from autotx.kernels.launches import shared
from autotx.kernels.rows import CHUNK, FLOAT_BYTES, REAL, floats, use_numba


def adamw(params, grads, ms, vs, lr, beta1, beta2, eps, decays, steps):
    """One step of AdamW for lists of arrays, in place on params, ms and vs. decays, steps (from 1): a number for each.

    p <- (1 - lr decay) p,   m <- beta1 m + (1 - beta1) g,   v <- beta2 v + (1 - beta2) g^2,
    p <- p - lr mhat / (sqrt(vhat) + eps),   mhat = m / (1 - beta1^step),   vhat = v / (1 - beta2^step).
    Source: Loshchilov and Hutter, 2019, "Decoupled Weight Decay Regularization".
    """
    betas = beta1, 1 - beta1, beta2, 1 - beta2, eps
    pairs = list(zip(decays, steps))  # few differ: most arrays share their pair
    of_pair = {
        (decay, step): (1 - lr * decay, lr / (1 - beta1**step), 1 / math.sqrt(1 - beta2**step))
        for decay, step in set(pairs)
    }
    numbers = [of_pair[pair] for pair in pairs]
    if use_numba(*params, *grads, *ms, *vs):
        _for_all(_adamw, [params, ms, vs], [grads], np.array(numbers, np.float32), *betas)
    else:
        for *arrays, own in zip(params, grads, ms, vs, numbers):
            _adamw_twin(*arrays, *own, *betas)


def sum_of_squares(arrays):
    """The sum of the squares of all elements of a list of arrays, accumulated in float64. Returns a float."""
    if not use_numba(*arrays):
        return sum(float(np.square(x, dtype=np.float64).sum()) for x in arrays)
    sums = np.zeros(len(_pieces(_sizes(arrays))))
    _for_all(_sum_of_squares, [], [arrays], sums)
    return float(sums.sum())


def scale(arrays, factor):
    """Multiply each array of a list by `factor`, in place."""
    if use_numba(*arrays):
        _for_all(_scale, [arrays], [], factor)
    else:
        for x in arrays:
            x *= factor


def _for_all(function, written, read, *settings):
    """Launch a kernel on lists of arrays: `written`, lists that it modifies, and `read`, lists that it only reads.

    Its first argument is a table of addresses, (lists, arrays). An array that is not contiguous is copied, and copied
    back if it is written.
    """
    lists = written + read
    if not lists[0]:
        return
    to_write_back, to_hold = [], []  # arrays, each with its copy
    table = [[_address(x, to_write_back) for x in arrays] for arrays in written]
    table += [[_address(x, to_hold) for x in arrays] for arrays in read]
    pieces = _pieces(_sizes(lists[0]))
    function(len(pieces), np.array(table, np.int64), pieces, *settings)
    for x, copy in to_write_back:
        x[...] = copy


def _address(x, copies):
    """The address of the elements of x. If x is not contiguous: of a copy; (x, copy) is then appended to `copies`."""
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(x))  # by far the fastest way
    except (TypeError, ValueError):  # not contiguous, read-only, or empty
        copies.append((x, np.array(x, order="C")))
        return copies[-1][1].ctypes.data


def _sizes(arrays):
    return tuple([x.size for x in arrays])


@functools.lru_cache(maxsize=16)
def _pieces(sizes):
    """Pieces of at most CHUNK elements, an array of rows (index of the array, first element, number of elements)."""
    pieces = [(i, at, min(CHUNK, size - at)) for i, size in enumerate(sizes) for at in range(0, size, CHUNK)]
    return np.array(pieces, np.int64).reshape(-1, 3)


# ---- NumPy twin -------------------------------------------------------------------------------------------------


def _adamw_twin(p, g, m, v, keep, size, spread, beta1, rest1, beta2, rest2, eps):
    m *= beta1
    m += rest1 * g
    v *= beta2
    v += rest2 * g * g
    p *= keep
    p -= size * m / (np.sqrt(v) * spread + eps)


# ---- kernels ----------------------------------------------------------------------------------------------------

TABLE, NUMBERS = types.Array(types.int64, 2, "C"), types.Array(types.float32, 2, "C")


@kernel
def _floats(table, pieces, task, which):
    """The task's piece of an array in list number `which`."""
    return floats(table[which, pieces[task, 0]] + FLOAT_BYTES * pieces[task, 1], pieces[task, 2])


@shared(TABLE, TABLE, NUMBERS, *[REAL] * 5)
@kernel(fastmath={"contract"})
def _adamw(table, pieces, numbers, beta1, rest1, beta2, rest2, eps, worker, task):
    p, m = _floats(table, pieces, task, 0), _floats(table, pieces, task, 1)
    v, g = _floats(table, pieces, task, 2), _floats(table, pieces, task, 3)
    row = numbers[pieces[task, 0]]
    keep, size, spread = row[0], row[1], row[2]
    for i in range(p.size):
        m_new = beta1 * m[i] + rest1 * g[i]
        v_new = beta2 * v[i] + rest2 * g[i] * g[i]
        m[i], v[i] = m_new, v_new
        p[i] = keep * p[i] - size * m_new / (math.sqrt(v_new) * spread + eps)


@shared(TABLE, TABLE, types.float64[::1])
@kernel(fastmath={"contract", "reassoc"})
def _sum_of_squares(table, pieces, sums, worker, task):
    x, s = _floats(table, pieces, task, 0), 0.0
    for i in range(x.size):
        s += np.float64(x[i]) * np.float64(x[i])
    sums[task] = s


@shared(TABLE, TABLE, REAL)
@kernel
def _scale(table, pieces, factor, worker, task):
    x = _floats(table, pieces, task, 0)
    for i in range(x.size):
        x[i] *= factor

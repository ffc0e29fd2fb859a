"""Rotary positions: each pair of channels of a token is rotated by an angle that grows with the token's position."""

import functools

import numpy as np
from numba import types

from autotx.kernels.attention import IN4, OUT4
from autotx.kernels.jit import kernel, outlined
from autotx.kernels.launches import shared
from autotx.kernels.rows import CHUNK, FLOAT_BYTES, IN2, INTEGER, floats, tasks, use_numba


def rope(x, base, start=0, out=None, back=False):
    """Rotate channels i and i + D / 2 of token t by the angle (start + t) base^(-2 i / D).

    x: (..., T, D), D even. out: an array of x's shape that does not overlap x, None for a new one with the memory order
    of x. back: rotate by the opposite angles, which is the gradient. Returns out.
    """
    T, D = x.shape[-2:]
    out = np.empty_like(x) if out is None else out
    cos, sin = angles(start + T, D, base, x.dtype)
    cos, sin = cos[start : start + T], sin[start : start + T]
    sin = -sin if back else sin
    if x.ndim > 4 or not use_numba(x, out) or not (_rows_are_contiguous(x) and _rows_are_contiguous(out)):
        return _rope_twin(x, cos, sin, out)
    x4, out4 = (a.reshape((1,) * (4 - a.ndim) + a.shape) for a in (x, out))
    B, H = x4.shape[:2]
    step = max(1, CHUNK // max(1, H * D))
    if out.size:
        _rope(tasks(B * T, step), x4, cos, sin, out4, step)
    return out


def _rows_are_contiguous(x):
    return x.strides[-1] == FLOAT_BYTES and x.flags.aligned


def angles(T, D, base, dtype):
    """The cosines and sines of the angles of positions 0 to T - 1: two arrays (T, D / 2). They are kept."""
    cos, sin = _angles(max(64, 1 << (T - 1).bit_length()), D, float(base), np.dtype(dtype))
    return cos[:T], sin[:T]


@functools.lru_cache(maxsize=16)
def _angles(T, D, base, dtype):
    angle = np.arange(T)[:, None] * base ** (np.arange(D // 2) * (-2 / D))  # in float64: positions may be large
    return np.cos(angle).astype(dtype), np.sin(angle).astype(dtype)


# ---- NumPy twin -------------------------------------------------------------------------------------------------


def _rope_twin(x, cos, sin, out):
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    out[..., :half] = first * cos - second * sin
    out[..., half:] = second * cos + first * sin
    return out


# ---- kernel -----------------------------------------------------------------------------------------------------


@shared(IN4, IN2, IN2, OUT4, INTEGER)
@kernel
def _rope(x, cos, sin, out, step, worker, task):
    """A task: `step` tokens, counted through the batch, with all their heads."""
    (B, H, T), half = x.shape[:3], x.shape[3] // 2
    for token in range(task * step, min(task * step + step, B * T)):
        b, t = token // T, token % T
        for h in range(H):
            rotate_row(_row(x, b, h, t), cos[t].ctypes.data, sin[t].ctypes.data, half, _row(out, b, h, t))


@kernel
def _row(x, b, h, t):
    return x.ctypes.data + b * x.strides[0] + h * x.strides[1] + t * x.strides[2]


@kernel(fastmath={"contract"})
def _rotate_row(first, second, cos, sin, to_first, to_second):
    for i in range(first.size):
        to_first[i] = first[i] * cos[i] - second[i] * sin[i]
        to_second[i] = second[i] * cos[i] + first[i] * sin[i]


@outlined(*5 * [types.int64])
def rotate_row(x, cos, sin, half, y):
    """One row of `rope`, of 2 `half` channels. x, cos, sin, y: addresses. Compiled once, as rmsnorm.norm_row."""
    skip = FLOAT_BYTES * half
    _rotate_row(
        floats(x, half), floats(x + skip, half), floats(cos, half), floats(sin, half), floats(y, half),
        floats(y + skip, half),
    )  # fmt: skip

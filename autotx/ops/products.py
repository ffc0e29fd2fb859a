"""Matrix products, linear layers and einsum."""

import math
import string

import numpy as np

from autotx import kernels
from autotx.text import counted
from autotx.types import Array


def matmul(x: Array, y: Array, /):
    """z = x y, the matrix product over the last two axes; leading axes broadcast, as in NumPy.

    x: (..., M, K) or (K,), y: (..., K, N) or (K,), z: (..., M, N), without the axis that a 1-D argument lacks.
    z_mn = sum_k x_mk y_kn, so dx_mk = sum_n g_mn y_kn and dy_kn = sum_m x_mk g_mn:
    dx = g y^T, dy = x^T g. Source: the whitepaper's "Matrix Multiplication"; Goodfellow et al., Deep Learning, 6.5.6.
    """
    if not np.ndim(x) or not np.ndim(y):
        raise ValueError(f"matmul: shapes {np.shape(x)} and {np.shape(y)}: a number has no rows; use * instead")
    a = x[None, :] if x.ndim == 1 else x
    b = y[:, None] if y.ndim == 1 else y
    if a.shape[-1] != b.shape[-2]:
        raise ValueError(
            f"matmul: shapes {x.shape} and {y.shape}: the last axis of the first ({a.shape[-1]}) must equal the "
            f"second-last of the second ({b.shape[-2]}); transpose one of them?"
        )
    tile = kernels.mixed.tile()
    z = _product(a, b, tile)
    shape = z.shape
    if x.ndim == 1:
        z = z[..., 0, :]
    if y.ndim == 1:
        z = z[..., 0]

    def dx(g):
        d = _product(np.reshape(g, shape), _t(b), tile)
        return kernels.total(d, tuple(range(d.ndim - 1))) if x.ndim == 1 else d

    def dy(g):
        g = np.reshape(g, shape)
        d = _product(_t(_rows(a)), _rows(g), tile) if b.ndim == 2 else _product(_t(a), g, tile)
        return kernels.total(d, tuple(range(d.ndim - 2)))[:, 0] if y.ndim == 1 else d

    return z, (dx, dy)


def _t(a):
    return a.swapaxes(-1, -2)


def _rows(a):
    """(..., K) as one matrix (rows, K)."""
    return a.reshape(math.prod(a.shape[:-1]), a.shape[-1]) if a.ndim != 2 else a


def _product(a, b, tile):
    """The kernel's product, with leading axes broadcast; a stack times one matrix is one product of all its rows."""
    if b.ndim == 2:
        return kernels.gemm.matmul(_rows(a), b, tile=tile).reshape(a.shape[:-1] + b.shape[-1:])
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a, b = np.broadcast_to(a, lead + a.shape[-2:]), np.broadcast_to(b, lead + b.shape[-2:])
    return kernels.gemm.matmul(a, b, tile=tile)


def linear(x: Array, weight: Array, bias: Array | None = None, /):
    """y = x W^T + b: a fully connected layer.

    x: (..., I), weight W: (O, I), bias b: (O,) or None, y: (..., O). With the leading axes taken as rows n:
    y_no = sum_i x_ni W_oi + b_o, so dx = g W, dweight = g^T x, dbias = sum of g over the rows.
    y has the type of W, which x is converted to: float64 data would make the whole model compute in float64.
    Source: the whitepaper's "Feed Forward Neural Net".
    """
    if weight.ndim != 2 or not np.ndim(x) or x.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"linear: x of shape {np.shape(x)} and weight of shape {weight.shape}: weight must be (out, in), and the "
            "last axis of x have `in` elements"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"linear: bias of shape {bias.shape}, weight of shape {weight.shape}: give {weight.shape[:1]}")
    rows, tile = _rows(x.astype(weight.dtype, copy=False)), kernels.mixed.tile()
    y = kernels.memory.empty((len(rows), len(weight)), weight.dtype)
    y = kernels.gemm.matmul(rows, weight.T, y, bias=bias, tile=tile).reshape((*x.shape[:-1], weight.shape[0]))

    def gradients(g, wanted):
        dx, *others = kernels.gemm.linear_backward(_rows(g), rows, weight, *wanted, tile=tile)
        return None if dx is None else dx.reshape(x.shape), *others

    return y, gradients


def einsum(*xs: Array, subscripts: str):
    """z = sums of products as `subscripts` say: "ik,kj->ij" is the matrix product. Letters, "..." and "->" as in NumPy.

    z is linear in each argument, so the gradient of one is the same kind of sum: g takes the argument's place and its
    letters become the result ("ik,kj->ij" gives dx: "ij,kj->ik"). If a letter occurs only in this argument, z sums over
    it, and the gradient is repeated along its axis. If it occurs twice in the argument, only the diagonal gets one.
    """
    terms, result = _letters(subscripts, [np.ndim(x) for x in xs])
    z = _sum_of_products(terms, result, xs)

    def gradient(i):
        others = [j for j in range(len(xs)) if j != i]
        given = [result] + [terms[j] for j in others]
        own = "".join(dict.fromkeys(terms[i]))
        known = "".join(c for c in own if any(c in term for term in given))

        def dx(g):
            d = _sum_of_products(given, known, [g, *(xs[j] for j in others)])
            d = np.reshape(d, [np.shape(d)[known.index(c)] if c in known else 1 for c in own])
            full = np.zeros(xs[i].shape, xs[i].dtype)
            place = np.einsum(f"{terms[i]}->{own}", full) if own else full  # a view: of the diagonal for "ii"
            stretched = tuple(k for k, n in enumerate(place.shape) if n == 1)  # a size of 1 may have been broadcast
            place[...] = kernels.total(d, stretched, keepdims=True)
            return full

        return dx

    return z, tuple(gradient(i) for i in range(len(xs)))


def _sum_of_products(terms, result, xs):
    """np.einsum. It adds one after another, except for a product of two matrices: in float64 where terms are many."""
    sizes = {c: n for term, x in zip(terms, xs) for c, n in zip(term, np.shape(x)) if n != 1}
    count = math.prod(n for c, n in sizes.items() if c not in result)
    kind = np.result_type(*xs)
    wide = kind == np.float32 and count > kernels.FLOAT32_TERMS and not _is_matrix_product(terms, result)
    if wide:
        xs = [np.asarray(x, np.float64) for x in xs]
    z = np.einsum(",".join(terms) + "->" + result, *xs, optimize=True)
    return z.astype(kind, copy=False) if wide else z


def _is_matrix_product(terms, result):
    """Whether these are two arrays, of axes that both have and sum over and of axes that one has and keeps."""
    both = [set(term) for term in terms]
    return len(both) == 2 and set(result) == both[0] ^ both[1] and both[0] - both[1] and both[1] - both[0]


def _letters(subscripts, ndims):
    """The terms and the result in letters only, with "..." replaced by letters and a missing result filled in.
    ValueError: subscripts that do not fit the arguments."""
    left, arrow, result = subscripts.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(ndims):
        raise ValueError(f"einsum: '{subscripts}' names {counted(len(terms), 'argument')}, {len(ndims)} were given")
    spare = [c for c in string.ascii_letters if c not in subscripts]
    widths = [n - len(t.replace("...", "")) for t, n in zip(terms, ndims)]
    dots = "".join(spare[: max([w for t, w in zip(terms, widths) if "..." in t], default=0)])
    for t, w, n in zip(terms, widths, ndims):
        if w < 0 or (w > 0 and "..." not in t):
            raise ValueError(f"einsum: '{t}' in '{subscripts}' does not fit an argument with {n} axes")
    if not arrow:
        result = "..." * bool(dots) + "".join(sorted(c for c in set(left) - set(".,") if left.count(c) == 1))
    return [t.replace("...", dots[len(dots) - w :]) for t, w in zip(terms, widths)], result.replace("...", dots)

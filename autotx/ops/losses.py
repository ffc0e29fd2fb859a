"""Losses. The gradient of cross entropy with respect to the logits, P - y, is derived here line by line."""

import functools

import numpy as np

from autotx import kernels
from autotx.checks import broadcasts_to, checked_ids, need_floats
from autotx.ops.arithmetic import as_floats
from autotx.types import Array, ArrayLike, Reduction


def cross_entropy(
    logits: Array, /, targets: ArrayLike, ignore_index: int | None = None, label_smoothing: float = 0.0,
    reduction: Reduction = "mean", weight: ArrayLike | None = None
):  # fmt: skip
    """L = -sum_i y_i ln P_i with P = softmax(logits), y the target distribution.

    logits z: (..., V), targets: (...) integers below V, or ignore_index for positions to ignore; or the distribution y
    itself, (..., V) floats from 0 to 1 that sum to 1.
    reduction: "mean" over the positions that are not ignored, "sum", or "none" (losses of the shape of targets).

    The gradient, line by line, for one position with logits z_1 .. z_V:
        P_i = exp(z_i) / S,  S = sum_j exp(z_j)                              softmax
        L   = -sum_i y_i ln P_i = -sum_i y_i z_i + ln S sum_i y_i            logarithm of a quotient
            = ln S - sum_i y_i z_i                                           because sum_i y_i = 1
        d(ln S)/dz_j = exp(z_j) / S = P_j                                    chain rule
        d(sum_i y_i z_i)/dz_j = y_j
        dL/dz_j = P_j - y_j
    With one-hot y it is P for every wrong class and P - 1 for the target. The gradient sums to 0 over the classes, and
    is 0 only when P = y. Then dlogits = g (P - y) / n for the mean over n places; n = 1 for a sum.

    label_smoothing a: y = (1 - a) one-hot + a / V, which also sums to 1, so the same lines hold.
    weight w: (V,), a factor for each class: L = -sum_i q_i ln P_i with q_i = w_i y_i, so dL/dz_j = P_j sum_i q_i - q_j.
    The mean over positions is then weighted by the w of their targets; given distributions, positions weigh equally.
    Source: the whitepaper's "Loss Function and Back-Propagation"; Szegedy et al., 2016 (label smoothing).
    ValueError: reduction is "mean" and all positions are ignored, or a target is not a class; the error names it.
    """
    V = logits.shape[-1] if logits.ndim else 0
    _check_smoothing("cross_entropy", label_smoothing)
    given = np.asarray(targets)
    if weight is not None or (V and given.dtype.kind == "f" and given.shape == logits.shape):
        return _of_distributions(logits, given, ignore_index, label_smoothing, reduction, weight)
    targets, counted = _checked_targets("cross_entropy", logits, targets, ignore_index, reduction)
    rows, flat = logits.reshape(-1, V), targets.reshape(-1)
    losses, m, s = kernels.cross_entropy.cross_entropy(rows, flat, _IGNORED, label_smoothing)
    loss, factor = _reduced(losses.reshape(targets.shape), counted, reduction)

    def dlogits(g):
        scale = np.full(targets.shape, g * factor, logits.dtype).reshape(-1)
        d = kernels.cross_entropy.cross_entropy_backward(rows, m, s, flat, scale, _IGNORED, label_smoothing)
        return d if logits.ndim == 2 else d.reshape(logits.shape)

    return loss, (dlogits,)


def linear_cross_entropy(
    x: Array, weight: Array, /, targets: ArrayLike, ignore_index: int | None = None, label_smoothing: float = 0.0,
    reduction: Reduction = "mean", wanted: tuple[bool, bool] = (True, True)
):  # fmt: skip
    """L = cross_entropy(linear(x, weight), targets), without an array of all logits.

    x: (..., I); weight: (V, I); targets: (...) integers below V, or ignore_index. reduction: "mean" or "sum".
    The logits z = x W^T are made for a few positions at a time, and so is their gradient. With dz = (P - y) / n of
    cross_entropy, dx = g dz W and dweight = g dz^T x. As they need no other value from later in the forward pass than
    the number g, both are computed while the logits of a piece are there, and multiplied by g in the backward pass.
    wanted: which of dx and dweight are computed. Source: Hsu et al., 2024, "Liger Kernel".
    ValueError as for cross_entropy.
    """
    name = "linear_cross_entropy"
    if weight.ndim != 2 or not np.ndim(x) or x.shape[-1] != weight.shape[1]:
        raise ValueError(f"{name}: x of shape {np.shape(x)}, weight {weight.shape}; give (..., in) and (out, in)")
    _check_smoothing(name, label_smoothing)
    if reduction == "none":
        raise ValueError(f"{name}: reduction is 'none'; give 'mean' or 'sum', or use linear and cross_entropy")
    scores = np.broadcast_to(weight.dtype.type(0), (*x.shape[:-1], len(weight)))  # the shape and type that they have
    targets, counted = _checked_targets(name, scores, targets, ignore_index, reduction)
    rows, flat = x.astype(weight.dtype, copy=False).reshape(-1, x.shape[-1]), targets.reshape(-1)
    factor = _factor(counted, reduction, weight.dtype)
    pieces = functools.partial(_in_pieces, kernels.mixed.tile(), rows, weight, flat, factor, label_smoothing)
    losses, made = pieces(wanted)
    loss = losses.sum(dtype=np.float64).astype(losses.dtype) * factor

    def times(g, i):
        d, made[i] = made[i], None  # whoever gets the array may add to it
        if d is None:  # a second backward pass through the same graph
            d = pieces((i == 0, i == 1))[1][i]
        if g != 1:
            kernels.parameters.scale([d], float(g))
        return d

    return loss, (lambda g: times(g, 0).reshape(x.shape), lambda g: times(g, 1))


def _in_pieces(tile, x, weight, ids, factor, label_smoothing, wanted):
    """The losses of rows x (N, I), and [dx, dweight] of their sum times `factor`, empty where not wanted."""
    losses, step = np.empty(len(x), weight.dtype), max(1, PIECE // max(1, len(weight)))
    dx = np.empty(x.shape if wanted[0] else 0, weight.dtype)
    dweight = kernels.memory.empty(weight.shape if wanted[1] else (0,), weight.dtype)
    matmul = functools.partial(kernels.gemm.matmul, tile=tile)
    for i in range(0, max(1, len(x)), step):  # without rows, dweight is zeros
        piece, its = x[i : i + step], ids[i : i + step]
        z = matmul(piece, weight.T, kernels.memory.empty((len(piece), len(weight)), weight.dtype))
        losses[i : i + step], m, s = kernels.cross_entropy.cross_entropy(z, its, _IGNORED, label_smoothing)
        if any(wanted):
            scale = np.full(len(its), factor, weight.dtype)
            dz = kernels.cross_entropy.cross_entropy_backward(z, m, s, its, scale, _IGNORED, label_smoothing, out=z)
        if wanted[0]:
            matmul(dz, weight, dx[i : i + step])
        if wanted[1]:
            matmul(dz.T, piece, dweight, accumulate=i > 0)
    return losses, [dx, dweight]


def _of_distributions(logits, targets, ignore_index, label_smoothing, reduction, weight):
    """Cross entropy for targets that are distributions, or with weights of classes; y is an array like the logits."""
    name, V = "cross_entropy", logits.shape[-1] if logits.ndim else 0
    weight = np.ones(V, logits.dtype) if weight is None else np.asarray(weight, logits.dtype)
    if weight.shape != (V,) or not (np.isfinite(weight) & (weight >= 0)).all():
        raise ValueError(f"{name}: weight of shape {weight.shape}; give one number, 0 or more, for each of {V} classes")
    if targets.dtype.kind == "f":
        y = _checked_distributions(name, logits, targets, ignore_index, reduction)
        counted = parts = np.ones(logits.shape[:-1])
    else:
        ids, counted = _checked_targets(name, logits, targets, ignore_index, reduction)
        y = (ids[..., None] == np.arange(V)).astype(logits.dtype)
        parts = counted * weight[np.where(counted, ids, 0)]
    q = ((1 - label_smoothing) * y + (label_smoothing / V * counted)[..., None]).astype(logits.dtype) * weight
    log_p = kernels.softmax.log_softmax(logits)
    with np.errstate(invalid="ignore"):
        losses = -kernels.total(np.where(q == 0, 0, q * log_p), -1).astype(logits.dtype, copy=False)
    total = parts.sum() if reduction == "mean" else 1
    if total == 0:
        raise ValueError(f"{name}: every target has weight 0; there is no mean of nothing")
    factor = logits.dtype.type(1 / total)

    def dlogits(g):
        return (g * factor)[..., None] * (np.exp(log_p) * kernels.total(q, -1, keepdims=True) - q)

    loss = losses if reduction == "none" else losses.sum(dtype=np.float64).astype(losses.dtype) * factor
    return loss, (dlogits,)


def _checked_distributions(name, logits, y, ignore_index, reduction):
    """The targets in the type of the logits. TypeError, ValueError: targets that are not probabilities."""
    _check_reduction(name, reduction)
    need_floats(name, logits)
    if y.shape != logits.shape:
        raise TypeError(f"{name}: ids have type {y.dtype}; give integers, or probabilities of shape {logits.shape}")
    if ignore_index is not None:
        raise ValueError(f"{name}: ignore_index is for integers as targets; here probabilities are given")
    if y.size and not ((y >= 0).all() and np.allclose(y.sum(axis=-1), 1, atol=1e-3)):
        raise ValueError(f"{name}: targets of the logits' shape are probabilities; give rows from 0 up that add to 1")
    if reduction == "mean" and not y.size:
        raise ValueError(f"{name}: there are no targets; there is no mean of nothing")
    return y.astype(logits.dtype, copy=False)


def nll_loss(log_probs: Array, /, targets: ArrayLike, ignore_index: int | None = None, reduction: Reduction = "mean"):
    """L = -log_probs[target]: cross entropy for given log probabilities.

    log_probs: (..., V), targets: (...). dlog_probs = -g / n at the target, else 0, for the mean over n places; n = 1
    for a sum.
    """
    targets, counted = _checked_targets("nll_loss", log_probs, targets, ignore_index, reduction)
    targets = np.where(targets == _IGNORED, 0, targets)[..., None]
    losses = np.where(counted, -np.take_along_axis(log_probs, targets, -1)[..., 0], 0)
    losses = losses.astype(log_probs.dtype, copy=False)
    loss, weight = _reduced(losses, counted, reduction)

    def dlog_probs(g):
        d = np.zeros_like(log_probs)
        np.put_along_axis(d, targets, (-g * weight * counted).astype(log_probs.dtype)[..., None], -1)
        return d

    return loss, (dlog_probs,)


PIECE = 1 << 25  # logits that linear_cross_entropy makes at a time: 134 MB
_IGNORED = -1  # stands for ignore_index in checked targets


def _checked_targets(name, scores, targets, ignore_index, reduction):
    """The targets, _IGNORED where they are ignored, and booleans, True where they are not. TypeError, ValueError."""
    _check_reduction(name, reduction)
    need_floats(name, scores)
    targets = np.asarray(targets)
    if not scores.ndim or targets.shape != scores.shape[:-1]:
        wanted = scores.shape[:-1]
        raise ValueError(f"{name}: targets of shape {targets.shape} for scores of shape {scores.shape}: give {wanted}")
    if ignore_index is None:
        counted, ids = np.ones(targets.shape, bool), targets
    else:
        counted = targets != ignore_index
        ids = np.where(counted, targets, 0)
    ids = checked_ids(name, ids, scores.shape[-1], "classes")
    if reduction == "mean" and not counted.any():
        raise ValueError(f"{name}: no target counts (all are ignored, or there are none); there is no mean of nothing")
    return ids if ignore_index is None else np.where(counted, ids, _IGNORED), counted


def _check_reduction(name, reduction):
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f"{name}: reduction is {reduction!r}; give 'mean', 'sum' or 'none'")


def _check_smoothing(name, label_smoothing):
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"{name}: label_smoothing is {label_smoothing}; give a number from 0 to below 1")


def _check_pair(name, x, y, reduction):
    _check_reduction(name, reduction)
    if np.shape(x) != np.shape(y):
        raise ValueError(f"{name}: shapes {np.shape(x)} and {np.shape(y)} differ; reshape one of them")
    if reduction == "mean" and np.size(x) == 0:
        raise ValueError(f"{name}: no elements in shape {np.shape(x)}; there is no mean of nothing")


def _check_answers(name, y):
    """ValueError for a target below 0 or above 1, such as the labels -1 and 1: the loss would have no minimum."""
    y = np.asarray(y)
    wrong = y[~((y >= 0) & (y <= 1))]
    if wrong.size:
        cure = "; for labels -1 and 1 give (y + 1) / 2" if np.isin(y, (-1, 1)).all() else ""
        raise ValueError(f"{name}: a target is {wrong[0]:g}; give probabilities, from 0 to 1{cure}")


def _reduced(losses, counted, reduction):
    """The loss, and the factor of each position in it."""
    if reduction == "none":
        return losses, losses.dtype.type(1)
    factor = _factor(counted, reduction, losses.dtype)
    return losses.sum(dtype=np.float64).astype(losses.dtype) * factor, factor


def _factor(counted, reduction, dtype):
    """The factor of each counted position in the mean or the sum."""
    return dtype.type(1 / np.count_nonzero(counted) if reduction == "mean" else 1)


def mse_loss(x: Array, y: Array, /, reduction: Reduction = "mean"):
    """L = mean of (x - y)^2 over n elements.   dx = g 2 (x - y) / n and dy = -dx; no 1 / n for "sum" and "none".

    ValueError: x and y differ in shape, as broadcasting is nearly always a mistake here.
    """
    _check_pair("mse_loss", x, y, reduction)
    d = x - y
    need_floats("mse_loss", d)
    factor = d.dtype.type(1 / d.size if reduction == "mean" else 1)
    loss = d * d if reduction == "none" else np.sum(d * d) * factor
    return loss, (lambda g: g * (2 * factor) * d, lambda g: g * (-2 * factor) * d)


def binary_cross_entropy_with_logits(
    x: Array, y: Array, /, reduction: Reduction = "mean", pos_weight: ArrayLike | None = None
):
    """L = -y ln s(x) - (1 - y) ln(1 - s(x)), s the sigmoid, y in [0, 1] the probability of yes. x and y of one shape.

    -ln s(x) = ln(1 + e^-x) and -ln(1 - s(x)) = ln(1 + e^x) are computed without the power that could overflow: for
    example, the second as max(x, 0) + ln(1 + e^-|x|).
    dx = g (s(x) - y) / n (P - y again, for two classes); dy = -g x / n; n elements in the mean, n = 1 for a sum.
    pos_weight w: numbers, 0 or more, that broadcast to x; a factor of the first term, which makes a rare yes count
    more. Then dx = g ((1 - y) s(x) - w y (1 - s(x))) / n and dy = g (w ln(1 + e^-x) - ln(1 + e^x)) / n.
    ValueError: a target below 0 or above 1.
    """
    name = "binary_cross_entropy_with_logits"
    _check_pair(name, x, y, reduction)
    _check_answers(name, y)
    x = as_floats(x)
    w = np.asarray(1 if pos_weight is None else pos_weight, x.dtype)
    if not broadcasts_to(w.shape, x.shape) or not (np.isfinite(w) & (w >= 0)).all():
        raise ValueError(f"{name}: pos_weight of shape {w.shape}; give numbers, 0 or more, that broadcast to {x.shape}")
    e = np.exp(-np.abs(x))
    of_yes, of_no = np.log1p(e) - np.minimum(x, 0), np.log1p(e) + np.maximum(x, 0)
    yes, no = w * y, 1 - y
    losses = _times(yes, of_yes) + _times(no, of_no)
    factor = losses.dtype.type(1 / losses.size if reduction == "mean" else 1)
    loss = losses if reduction == "none" else losses.sum() * factor

    def dx(g):
        above = np.greater_equal(x, 0)
        return g * factor * (no * np.where(above, 1, e) - yes * np.where(above, e, 1)) / (1 + e)

    return loss, (dx, lambda g: g * factor * (w * of_yes - of_no))


def _times(probability, cost):
    """The product, and 0 where the probability is 0, even if the cost is infinite."""
    with np.errstate(invalid="ignore"):
        return np.where(np.equal(probability, 0), 0, probability * cost).astype(cost.dtype, copy=False)

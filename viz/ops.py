"""The table that the pictures take each op from: its notation, its composition of simpler ops, and an example.

An op without a row is written by its name; the arguments of its example have the shape (2, 3).
"""

import copy
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from autotx import functional
from autotx.lift import lift
from autotx.tensor import Tensor

# Fused ops composed of simpler ops: functions of the op's arguments and settings, on Tensors. A function returns None
# where the op has no composition with these settings.


@lift
def erf(x, /):
    """y = erf(x), the error function.   dx = g 2 / sqrt(pi) exp(-x^2)."""
    y = np.vectorize(math.erf, otypes=[x.dtype])(x)
    return y, (lambda g: g * (2 / math.sqrt(math.pi)) * np.exp(-x * x),)


def _linear(x, weight, bias=None):
    y = x @ weight.transpose(0, 1)
    return y if bias is None else y + bias


def _layer_norm(x, gamma, beta, eps=1e-5):
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred**2).mean(axis=-1, keepdims=True)
    return gamma * (centred / (variance + eps).sqrt()) + beta


def _softmax(x, axis=-1):
    m = x.max(axis=axis, keepdims=True)
    hidden = m.data == -np.inf  # lines of -inf alone, as of a token that may look at nothing, become zeros
    if not hidden.any():
        e = (x - m).exp()
        return e / e.sum(axis=axis, keepdims=True)
    e = (x - m.masked_fill(hidden, 0.0)).exp()
    return e / e.sum(axis=axis, keepdims=True).masked_fill(hidden, 1.0)


def _log_softmax(x, axis=-1):
    below = x - x.max(axis=axis, keepdims=True)
    return below - below.exp().sum(axis=axis, keepdims=True).log()


def _gelu(x, approximate="none"):
    if approximate == "tanh":
        return x * 0.5 * ((math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)).tanh() + 1)
    return x * 0.5 * (erf(x / math.sqrt(2)) + 1)


def _attention(q, k, v, mask=None, causal=False, dropout_p=0.0, rng=None):
    if rng is not None and dropout_p:
        return None  # the graph does not keep the dropout mask
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if mask is not None:
        mask = np.asarray(mask)
        scores = scores.masked_fill(~mask, -np.inf) if mask.dtype == bool else scores + mask
    if causal:
        T, S = scores.shape[-2:]
        scores = scores.masked_fill(np.triu(np.ones((T, S), bool), S - T + 1), -np.inf)
    return scores.softmax() @ v


def _multi_head_attention(
    x, kv=None, n_head=1, mask=None, causal=False, dropout_p=0.0, rng=None, n_kv_head=None, rope_base=None
):
    if rng is not None and dropout_p:
        return None
    if n_kv_head in (None, n_head):
        q, k, v = _heads(x, 3, n_head) if kv is None else (*_heads(x, 1, n_head), *_heads(kv, 2, n_head))
    else:
        q, k, v = _grouped_heads(x, kv, n_head, n_kv_head)
    if rope_base is not None:
        q, k = functional.rope(q, rope_base), functional.rope(k, rope_base)
    out = functional.scaled_dot_product_attention(q, k, v, mask, causal)
    return out.transpose(1, 2).reshape(*x.shape[:2], n_head * q.shape[-1])


def _heads(x, count, n_head):
    """The `count` parts of x (B, T, count C), each of shape (B, n_head, T, D)."""
    B, T, channels = x.shape
    packed = x.reshape(B, T, count, n_head, channels // (count * n_head))
    return [packed[:, :, i].transpose(1, 2) for i in range(count)]


def _grouped_heads(x, kv, n_head, n_kv_head):
    """Queries (B, n_head, T, D), and keys and values of that shape, each of whose heads stands there several times."""
    D = x.shape[2] // (n_head + (2 * n_kv_head if kv is None else 0))
    parts = functional.split(x, [n_head * D, 2 * n_kv_head * D], axis=2) if kv is None else (x, kv)
    (q,), (k, v) = _heads(parts[0], 1, n_head), _heads(parts[1], 2, n_kv_head)
    of_query = np.arange(n_head) // (n_head // n_kv_head)
    return q, k[:, of_query], v[:, of_query]


def _rms_norm(x, gamma, eps=1e-5):
    return gamma * (x / ((x**2).mean(axis=-1, keepdims=True) + eps).sqrt())


def _rope(x, base=10000.0, start=0):
    T, D = x.shape[-2:]
    angles = np.arange(start, start + T)[:, None] * base ** (np.arange(D // 2) * (-2 / D))
    cos, sin = (Tensor(f(angles).astype(x.dtype), name=f.__name__) for f in (np.cos, np.sin))
    first, second = x[..., : D // 2], x[..., D // 2 :]
    return functional.concat([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _swiglu(gate, up):
    return gate * gate.sigmoid() * up


def _cross_entropy(logits, targets, ignore_index=None, label_smoothing=0.0, reduction="mean", weight=None):
    if weight is not None or np.asarray(targets).dtype.kind == "f":
        return None
    V = logits.shape[-1]
    counted = np.ones(targets.shape, bool) if ignore_index is None else targets != ignore_index
    y = np.eye(V, dtype=logits.dtype)[np.where(counted, targets, 0)] * (1 - label_smoothing) + label_smoothing / V
    y = Tensor((y * counted[..., None]).astype(logits.dtype), name="y")
    below = logits.log_softmax()
    if np.isinf(below.data).any():  # an impossible class costs nothing where it is no target
        below = below.masked_fill(np.isinf(below.data) & (y.data == 0), 0.0)
    losses = -(y * below).sum(axis=-1)
    return losses if reduction == "none" else losses.sum() / int(counted.sum()) if reduction == "mean" else losses.sum()


def _reduced(losses, reduction):
    return losses if reduction == "none" else losses.mean() if reduction == "mean" else losses.sum()


def _mse_loss(x, y, reduction="mean"):
    return _reduced((x - y) ** 2, reduction)


def _linear_cross_entropy(x, weight, targets, ignore_index=None, label_smoothing=0.0, reduction="mean", wanted=None):
    return _cross_entropy(_linear(x, weight), targets, ignore_index, label_smoothing, reduction)


def _binary_cross_entropy(x, y, reduction="mean", pos_weight=None):
    no = x.maximum(0.0) + (1 + (-x.abs()).exp()).log()  # -ln(1 - s), s the sigmoid of x; -ln s is x less
    if pos_weight is None:
        return _reduced(no - x * y, reduction)
    return _reduced((1 - y) * no + pos_weight * y * (no - x), reduction)


def _unrolled(x, states, w_ih, w_hh, b_ih, b_hh, step):
    """The states h of each step, and the further states after the last. step: from the two products and the states
    before a step to the states after it."""
    h = []
    for t in range(x.shape[1]):
        states = step(_linear(x[:, t], w_ih, b_ih), _linear(states[0], w_hh, b_hh), *states)
        h.append(states[0])
    return functional.stack([*h, *states[1:]], axis=1)


def _rnn(x, h, w_ih, w_hh, b_ih=None, b_hh=None, nonlinearity="tanh"):
    f = getattr(functional, nonlinearity)
    return _unrolled(x, (h,), w_ih, w_hh, b_ih, b_hh, lambda p, q, h: (f(p + q),))


def _lstm(x, h, c, w_ih, w_hh, b_ih=None, b_hh=None):
    def step(p, q, h, c):
        i, f, n, o = (p + q).split(h.shape[1], axis=1)
        c = f.sigmoid() * c + i.sigmoid() * n.tanh()
        return o.sigmoid() * c.tanh(), c

    return _unrolled(x, (h, c), w_ih, w_hh, b_ih, b_hh, step)


def _gru(x, h, w_ih, w_hh, b_ih=None, b_hh=None):
    def step(p, q, h):
        (p_r, p_z, p_n), (q_r, q_z, q_n) = p.split(h.shape[1], axis=1), q.split(h.shape[1], axis=1)
        z = (p_z + q_z).sigmoid()
        n = (p_n + (p_r + q_r).sigmoid() * q_n).tanh()
        return ((1 - z) * n + z * h,)

    return _unrolled(x, (h,), w_ih, w_hh, b_ih, b_hh, step)


# The table


@dataclass(frozen=True)
class Row:
    """math: the op as mathematics; {x} and {y} stand for arguments, which may be numbers; other words in braces stand
    for settings. title: its name, where it differs from the function's. commutes: whether its arguments may be
    exchanged. composed: a function that computes it from simpler ops. shapes, settings: the arguments of its example,
    whose numbers are 1 to 7, divided by `divisor`.
    keeps: "order" if the result has the elements of the argument in the same order, "elements" if the op only moves or
    selects them. looks_up: whether it takes rows of a table by their ids. sums_last: whether it sums over the last axis
    of its arguments. last: the (argument, axis) that the last axis of the result comes from; None: the last axis of the
    first argument."""

    math: str | None = None
    title: str | None = None
    commutes: bool = False
    composed: Callable | None = None
    shapes: tuple | None = None
    settings: dict = field(default_factory=dict)
    divisor: int = 4
    keeps: str | None = None
    looks_up: bool = False
    sums_last: bool = False
    last: tuple | None = None


_IDS = np.array([0, 2, 2])
_ATTENTION = "softmax(Q Kᵀ / √D) V"

ROWS = {
    "add": Row("{x} + {y}", commutes=True),
    "sub": Row("{x} − {y}"),
    "mul": Row("{x} × {y}", commutes=True),
    "div": Row("{x} / {y}"),
    "neg": Row("−x"),
    "exp": Row("exp x"),
    "log": Row("ln x"),
    "sqrt": Row("√x"),
    "tanh": Row("tanh x"),
    "abs": Row("|x|"),
    "relu": Row("max(x, 0)"),
    "maximum": Row("max({x}, {y})", commutes=True),
    "minimum": Row("min({x}, {y})", commutes=True),
    "where": Row("{x} or {y}", shapes=((3,), (3,)), settings={"condition": np.array([True, False, True])}),
    "clip": Row(shapes=((4,),), settings={"min": 0.5, "max": 1.5}),
    "masked_fill": Row("x, filled where mask", settings={"mask": np.array([False, True, False]), "value": 0.0}),
    "square": Row("x²"),
    "floor_divide": Row("⌊{x} / {y}⌋"),
    "remainder": Row("{x} mod {y}"),
    "sum": Row("Σ x"),
    "mean": Row("mean of x"),
    "var": Row("variance of x"),
    "max": Row("max x"),
    "min": Row("min x"),
    "std": Row("deviation of x"),
    "norm": Row("‖x‖"),
    "prod": Row("Π x"),
    "logsumexp": Row("ln Σ exp x"),
    "cumsum": Row(shapes=((4,),), settings={"axis": 0}),
    "reshape": Row("{title}", settings={"shape": (3, 2)}, keeps="order"),
    "squeeze": Row("{title}", shapes=((2, 1),), settings={"axis": 1}, keeps="order"),
    "unsqueeze": Row("{title}", shapes=((3,),), settings={"axis": 0}, keeps="order"),
    "permute": Row("{title}", settings={"axes": (1, 0)}, keeps="elements"),
    "transpose": Row("axes {axis0} ↔ {axis1}", settings={"axis0": 0, "axis1": 1}, keeps="elements"),
    "getitem": Row("x[{index}]", shapes=((3, 2),), settings={"index": (slice(None), 1)}, keeps="elements"),
    "expand": Row("{title}", shapes=((1, 3),), settings={"shape": (2, 3)}),
    "concat": Row("{title}", commutes=True, shapes=((2,), (3,))),
    "stack": Row("{title}", commutes=True, shapes=((3,), (3,))),
    "pad": Row("{title}", shapes=((2,),), settings={"widths": ((1, 1),)}),
    "gather": Row("{title}", shapes=((3, 2),), settings={"index": np.array([[0], [2]]), "axis": 0}),
    "flip": Row("{title}", keeps="elements"),
    "roll": Row("{title}", shapes=((4,),), settings={"shift": 1}, keeps="elements"),
    "diagonal": Row("{title}", shapes=((3, 3),), keeps="elements"),
    "sort": Row("{title}", shapes=((4,),)),
    "topk": Row("{title}", shapes=((4,),), settings={"k": 2}),
    "clone": Row("{title}", keeps="order"),
    "astype": Row("{title}", shapes=((3,),), settings={"dtype": np.float64}, keeps="order"),
    "matmul": Row("x y", shapes=((2, 3), (3, 2)), sums_last=True, last=(1, -1)),
    "linear": Row("x Wᵀ + b", composed=_linear, shapes=((2, 3), (2, 3), (2,)), sums_last=True, last=(1, 0)),
    "einsum": Row("Σ products", shapes=((2, 3), (3, 2)), settings={"subscripts": "ik,kj->ij"}),
    "embedding": Row("W[ids]", shapes=((3, 2),), settings={"ids": _IDS}, looks_up=True),
    "softmax": Row("softmax", composed=_softmax),
    "log_softmax": Row("ln softmax", composed=_log_softmax),
    **dict.fromkeys(("arcsin", "arccos", "arctanh"), Row(divisor=8)),
    "arccosh": Row(divisor=1),
    "gelu": Row(composed=_gelu),
    "layer_norm": Row("γ (x − m) / σ + β", composed=_layer_norm, shapes=((2, 3), (3,), (3,))),
    "rms_norm": Row("γ x / √(mean of x²)", "RMS norm", composed=_rms_norm, shapes=((2, 3), (3,))),
    "rope": Row("x, rotated by position", "rotary positions", composed=_rope, shapes=((3, 4),)),
    "swiglu": Row("silu({x}) × {y}", "SwiGLU", composed=_swiglu),
    "dropout": Row(settings={"p": 0.5, "rng": np.random.default_rng(0)}),
    "scaled_dot_product_attention": Row(
        _ATTENTION, "attention", composed=_attention, sums_last=True, last=(2, -1),
        shapes=((3, 2), (3, 2), (3, 2)), settings={"causal": True},
    ),
    "multi_head_attention": Row(
        _ATTENTION + ", heads: {n_head}", "multi-head attention", composed=_multi_head_attention, sums_last=True,
        shapes=((1, 2, 6),), settings={"n_head": 2, "causal": True},
    ),
    "rnn": Row(
        "tanh(W x + U h)", "recurrent layer", composed=_rnn, last=(1, -1),
        shapes=((1, 2, 2), (1, 2), (2, 2), (2, 2), (2,), (2,)),
    ),
    "lstm": Row(
        "o × tanh(f × c + i × n)", "LSTM", composed=_lstm, last=(1, -1),
        shapes=((1, 2, 2), (1, 1), (1, 1), (4, 2), (4, 1), (4,), (4,)),
    ),
    "gru": Row(
        "(1 − z) × n + z × h", "GRU", composed=_gru, last=(1, -1),
        shapes=((1, 2, 2), (1, 1), (3, 2), (3, 1), (3,), (3,)),
    ),
    "cross_entropy": Row("−Σ y ln softmax", composed=_cross_entropy, shapes=((3, 4),), settings={"targets": _IDS}),
    "linear_cross_entropy": Row(
        "−Σ y ln softmax x Wᵀ", composed=_linear_cross_entropy, shapes=((3, 2), (4, 2)), settings={"targets": _IDS},
    ),
    "nll_loss": Row("−ln P[target]", shapes=((3, 4),), settings={"targets": _IDS}),
    "mse_loss": Row("mean (x − y)²", composed=_mse_loss),
    "recompute": Row("{call}(x), not kept"),
    "binary_cross_entropy_with_logits": Row(
        "ln(1 + eˣ) − x y", "binary cross entropy", composed=_binary_cross_entropy, divisor=8
    ),
}  # fmt: skip
_NO_ROW = Row()
COMPOSED = {name: row.composed for name, row in ROWS.items() if row.composed}
OPS = {name: f for name, f in sorted(vars(functional).items()) if hasattr(f, "op") and not name.startswith("_")}


def row(op: str | None) -> Row:
    """The Row of an op; an empty Row for an op that is not in the table."""
    return ROWS.get(op or "", _NO_ROW)


def example(name: str) -> tuple[Tensor, np.ndarray]:
    """An example of an op: its result on multiples of 1/4 (or 1/8), all positive so that logarithms and roots exist,
    and a random gradient of the result, of the same shape. name: a key of OPS."""
    op, known = OPS[name].op, row(name)
    parameters = inspect.signature(op).parameters.values()
    names = [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY]
    shapes = known.shapes or ((2, 3),) * len(names)
    names = names or [f"x{i + 1}" for i in range(len(shapes))]
    rng = np.random.default_rng(1)
    tensors = [
        Tensor(rng.integers(1, 8, shape) / known.divisor, requires_grad=True, dtype=np.float32, name=n)
        for n, shape in zip(names, shapes)
    ]
    settings = copy.deepcopy(known.settings)  # an rng draws the same at every call
    out = lift(op)(*tensors, **settings)  # lifted again: some functions take their arguments in another order
    grads = rng.integers(-4, 5, out.shape) / 4 if out.shape else np.ones(())
    return out, grads.astype(np.float32)

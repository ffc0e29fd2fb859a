"""Fused ops, opened: how each is composed of simpler ones. What is drawn is computed from these, with real numbers."""

import math

import numpy as np

from autotx.functional import scaled_dot_product_attention
from autotx.lift import lift
from autotx.tensor import Tensor
from autotx.viz.trace import Argument, Group, Trace


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
    e = (x - x.max(axis=axis, keepdims=True)).exp()
    return e / e.sum(axis=axis, keepdims=True)


def _log_softmax(x, axis=-1):
    below = x - x.max(axis=axis, keepdims=True)
    return below - below.exp().sum(axis=axis, keepdims=True).log()


def _gelu(x, approximate="none"):
    if approximate == "tanh":
        return x * 0.5 * ((math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)).tanh() + 1)
    return x * 0.5 * (erf(x / math.sqrt(2)) + 1)


def _attention(q, k, v, mask=None, causal=False):
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if mask is not None:
        mask = np.asarray(mask)
        scores = scores.masked_fill(~mask, -np.inf) if mask.dtype == bool else scores + mask
    if causal:
        T, S = scores.shape[-2:]
        scores = scores.masked_fill(np.triu(np.ones((T, S), bool), S - T + 1), -np.inf)
    return scores.softmax() @ v


def _multi_head_attention(x, kv=None, n_head=1, mask=None, causal=False):
    q, k, v = _heads(x, 3, n_head) if kv is None else (*_heads(x, 1, n_head), *_heads(kv, 2, n_head))
    out = scaled_dot_product_attention(q, k, v, mask, causal)
    return out.transpose(1, 2).reshape(*x.shape[:2], n_head * q.shape[-1])


def _heads(x, count, n_head):
    """The parts of x (B, T, count C), each (B, n_head, T, D)."""
    B, T, channels = x.shape
    packed = x.reshape(B, T, count, n_head, channels // (count * n_head))
    return [packed[:, :, i].transpose(1, 2) for i in range(count)]


def _cross_entropy(logits, targets, label_smoothing=0.0, reduction="mean"):
    V = logits.shape[-1]
    counted = np.asarray(targets) >= 0
    y = np.eye(V, dtype=logits.dtype)[np.where(counted, targets, 0)] * (1 - label_smoothing) + label_smoothing / V
    y = Tensor((y * counted[..., None]).astype(logits.dtype), name="y")
    losses = -(y * logits.log_softmax()).sum(axis=-1)
    return losses if reduction == "none" else losses.sum() / int(counted.sum()) if reduction == "mean" else losses.sum()


def _reduced(losses, reduction):
    return losses if reduction == "none" else losses.mean() if reduction == "mean" else losses.sum()


def _mse_loss(x, y, reduction="mean"):
    return _reduced((x - y) ** 2, reduction)


def _binary_cross_entropy(x, y, reduction="mean"):
    s = x.sigmoid()
    return _reduced(-(y * s.log() + (1 - y) * (1 - s).log()), reduction)


COMPOSED = {
    "linear": _linear,
    "layer_norm": _layer_norm,
    "softmax": _softmax,
    "log_softmax": _log_softmax,
    "gelu": _gelu,
    "scaled_dot_product_attention": _attention,
    "multi_head_attention": _multi_head_attention,
    "cross_entropy": _cross_entropy,
    "mse_loss": _mse_loss,
    "binary_cross_entropy_with_logits": _binary_cross_entropy,
}
_KNOWN = {  # the settings that the functions above take
    "layer_norm": {"eps"},
    "softmax": {"axis"},
    "log_softmax": {"axis"},
    "gelu": {"approximate"},
    "scaled_dot_product_attention": {"mask", "causal"},
    "multi_head_attention": {"n_head", "mask", "causal"},
    "cross_entropy": {"targets", "label_smoothing", "reduction"},
    "mse_loss": {"reduction"},
    "binary_cross_entropy_with_logits": {"reduction"},
}


def open_fused(trace, ops):
    """Replace every node of `trace` whose op is in `ops` by the primitive ops it is composed of, as a group of its own.

    The values are computed anew. A node whose composition does not give its value (dropout in attention is drawn by
    chance, and not kept) stays whole. `trace` is changed. ValueError for an op that is not in COMPOSED.
    """
    for op in ops:
        if op not in COMPOSED:
            raise ValueError(f"graph: {op} is not known to be composed of others; known are {', '.join(COMPOSED)}")
    count = 0
    while count < len(trace.groups):  # what was opened may hold more to open
        count = len(trace.groups)
        _open_once(trace, ops)


def _open_once(trace, ops):
    """Replace those that are there, whatever is inside them."""
    nodes, place = [], {}  # place: old id -> new id
    for node in trace.nodes:
        inner = _compose(trace, node) if node.op in ops else None
        for argument in node.parents:
            argument.node = place[argument.node]
        if inner is None:
            place[node.id] = len(nodes)
        else:
            _splice(trace.groups, nodes, node, inner)
            place[node.id] = len(nodes) - 1
            continue
        node.id = len(nodes)
        nodes.append(node)
    trace.nodes, trace.root = nodes, place[trace.root]
    for group in trace.groups:
        group.nodes = [n.id for n in nodes if n.group == group.id]


def _compose(trace, node):
    """The Trace of the primitives that give what `node` has; None when they do not."""
    leaves = {}
    for argument in node.parents:
        if argument.position is not None:
            source = trace.nodes[argument.node].value
            leaves[argument.name] = Tensor(source, requires_grad=source.dtype.kind == "f", name=argument.name)
    settings = {k: v for k, v in node.settings.items() if k in _KNOWN.get(node.op, ())}
    for reduction in ("mean", "sum", "none") if "reduction" in _KNOWN.get(node.op, ()) else (None,):
        chosen = settings | ({"reduction": reduction} if reduction else {})
        out = COMPOSED[node.op](**leaves, **chosen)
        if out.shape == node.shape and np.allclose(out.data, node.value, rtol=1e-3, atol=1e-5):
            return Trace(out)
    return None


def _splice(groups, nodes, node, inner):
    """Append the nodes of `inner` in the place of `node`."""
    above = groups[node.group]
    path = f"{above.path}.{node.op}".lstrip(".")
    taken = sum(g.path.partition("#")[0] == path for g in groups)
    group = Group(len(groups), path if not taken else f"{path}#{taken + 1}", node.op, above.id)
    groups.append(group)
    above.children.append(group.id)
    sources = {a.name: a.node for a in node.parents}
    given = [a for a in node.parents if a.position is None]  # arrays that are settings, such as targets
    grads = {} if node.grad is None else inner.gradients(node.grad)
    place = {}
    for part in inner.nodes:
        if part.kind == "parameter":
            place[part.id] = sources[part.name]
            continue
        if part.kind == "input":
            same = [a.node for a in given if np.array_equal(nodes[a.node].value, part.value)]
            if same:  # a setting that was handed on
                place[part.id] = same[0]
                continue
        part.grad = grads.get(part.id)
        place[part.id] = part.id = len(nodes)
        part.parents = [Argument(place[a.node], a.name, a.position) for a in part.parents]
        if part.kind == "input":  # made of them
            part.parents = list(given)
        part.group, part.module = group.id, group.path
        nodes.append(part)
    last = nodes[-1]
    last.kind, last.grad, last.name = node.kind, node.grad, node.name

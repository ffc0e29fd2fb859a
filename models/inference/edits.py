"""Reading and replacing the values that a language model computes: `with model.edit({name: f}) as seen:`.

A value is named by its place, alike for every architecture. Shapes are those of a batch of B texts of T tokens:

    embedding                     (B, T, C)     what goes into the first block
    blocks.i.norm1.out            (B, T, C)
    blocks.i.attention.q          (B, H, T, D)  as it is compared, rotated where positions are
    blocks.i.attention.k, .v      (B, G, T, D)  k likewise; G = H but in a Llama with grouped heads
    blocks.i.attention.weights    (B, H, T, S)  how much each token attends to the S tokens so far
    blocks.i.attention.heads      (B, T, H, D)  the heads' results, before they are joined
    blocks.i.attention.out        (B, T, C)     what is added to the residual
    blocks.i.norm2.out            (B, T, C)
    blocks.i.mlp.hidden           (B, T, F)
    blocks.i.mlp.out              (B, T, C)     what is added to the residual
    blocks.i.out                  (B, T, C)     the residual after the block
    norm.out                      (B, T, C)
    logits                        (..., V)      of the positions that scores are asked of

A model's forward gives an edit Tensors, and gradients flow through what it makes of them. A reader, which generates
text, gives it arrays of the T tokens that it reads at a time: a prompt, then one new token after another.

A value that an edit returns as it is changes no bit of the result. Where the kernels do not compute a value by itself,
this takes a rule. A reader adds a product to the residual in an order of its own: numbers of attention.out and mlp.out
that an edit leaves as they are keep the kernel's sum, and others are added to the residual. And no kernel keeps the
attention weights, which are computed beside it: in a reader the queries whose weights are left as they are keep the
kernel's result, and others get the sum of the values by the new weights; in forward the result is the kernel's, plus
the values by the difference of the weights, through which gradients flow.

Letters: C channels, H heads of queries, G of keys and values, D channels a head, F hidden channels, V vocabulary.
"""

import contextlib
import difflib
import re
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

import autotx
from autotx import Tensor, nn
from autotx.models.inference.pieces import Within

INSIDE = (
    *("norm1.out", "attention.q", "attention.k", "attention.v", "attention.weights", "attention.heads"),
    *("attention.out", "norm2.out", "mlp.hidden", "mlp.out", "out"),
)  # a block
NEAR = 3  # names that an unknown one is answered with


def names(layers: int) -> list[str]:
    """The names of all values of a model with so many blocks."""
    return ["embedding", *(f"blocks.{i}.{name}" for i in range(layers) for name in INSIDE), "norm.out", "logits"]


def without(heads: Iterable[tuple[int, int]], count: int) -> dict[str, Callable]:
    """The edits that switch heads off, (layer, head) each: their results become 0. count: of the heads of a layer."""
    kept: dict[int, np.ndarray] = {}
    for layer, head in heads:
        kept.setdefault(layer, np.ones((count, 1), np.float32))[head] = 0
    return {f"blocks.{layer}.attention.heads": lambda x, on=on: x * on for layer, on in kept.items()}


@contextlib.contextmanager
def editing(model: Any, edits: Mapping[str, Callable | None]) -> Iterator[dict[str, Any]]:
    """`LanguageModel.edit`."""
    if not edits:
        yield {}
        return
    if not hasattr(model, "edits"):
        raise ValueError(f"edit: a {type(model).__name__} names no values; a GPT and a Llama do")
    edit, active = Edit(edits, names(len(model.blocks))), model.edits
    active.append(edit)
    try:
        with _replaced(_forwards(model, edit) if isinstance(model, nn.Module) else ()):
            yield edit.seen
    finally:
        active.remove(edit)


class Edit:
    """The functions of a `with model.edit(...)`, by the names of values, and the values that were only to be seen."""

    def __init__(self, edits, known):
        self.seen: dict[str, Any] = {}
        self.functions: dict[str, list] = {}
        for name, function in edits.items():
            if not (function is None or callable(function)):
                raise ValueError(f"edit: {name}: {function!r} is no function; give one, or None to see the value")
            for one in _matching(name, known):
                self.functions.setdefault(one, []).append(function)

    def __call__(self, name, value):
        """What the functions make of a value, an array or a Tensor; `value` itself where they leave it."""
        for function in self.functions.get(name, ()):
            if function is None:
                self.seen[name] = value if isinstance(value, Tensor) else value.copy()
            else:
                value = _applied(name, function, value)
        return value


def _matching(pattern, known):
    """The names that a name or a pattern stands for. ValueError for none."""
    form = re.escape(pattern).replace(r"\*", "[^.]+")
    found = [name for name in known if re.fullmatch(form, name)]
    if not found:
        near = difflib.get_close_matches(pattern, known, NEAR, 0.5)
        near = f"; near it: {', '.join(near)}" if near else ""
        raise ValueError(f"edit: the model has no value {pattern!r}{near}")
    return found


def _applied(name, function, value):
    """function(value), checked. ValueError, which names the value: it raises, or returns another shape or type."""
    given = value
    if not isinstance(value, Tensor):
        given = value.view()
        given.flags.writeable = False  # a function that writes into it is told
    try:
        made = function(given)
    except Exception as error:
        raise ValueError(f"edit: {name}: {traceback.format_exception_only(error)[-1].strip()}") from error
    if made is given:
        return value
    shape, kind = (getattr(made, what, None) for what in ("shape", "dtype"))
    if (shape, kind) != (value.shape, value.dtype):
        told = f"{shape} of {kind}" if shape is not None else f"a {type(made).__name__}"
        raise ValueError(f"edit: {name}: the function returned {told}; return {value.shape} of {value.dtype}")
    return made if isinstance(made, Tensor) or not isinstance(value, Tensor) else Tensor(made)


# A forward's values


def _forwards(model, edit):
    """What takes the place of methods of a model and its modules while an edit is on: (owner, name, function)."""
    modules, parts = dict(model.named_modules()), model.parts
    yield from _changed(modules["dropout"], edit, "embedding")
    for i in range(len(model.blocks)):
        place = f"blocks.{i}"
        norm1, attention, norm2, last = (
            modules[f"{place}.{parts[p]}"] for p in ("norm1", "attention", "norm2", "last")
        )
        yield from _changed(norm1, edit, f"{place}.norm1.out")
        if any(f"{place}.attention.{name}" in edit.functions for name in ("q", "k", "v", "weights")):
            yield attention, "forward", _attention(attention, Within(model.edits).block(i))
        yield from _changed(attention.proj, edit, f"{place}.attention.heads", attention.n_head)
        yield from _changed(attention, edit, f"{place}.attention.out")
        yield from _changed(norm2, edit, f"{place}.norm2.out")
        yield from _changed(last, edit, f"{place}.mlp.hidden", 1)
        yield from _changed(modules[f"{place}.mlp"], edit, f"{place}.mlp.out")
        yield from _changed(modules[place], edit, f"{place}.out")
    yield from _changed(modules[parts["norm"]], edit, "norm.out")
    if "logits" in edit.functions:
        head = (model.head, "forward") if isinstance(model.head, nn.Module) else (model, "head")
        yield *head, _edited(getattr(*head), edit, "logits")
        yield (
            model,
            "head_loss",
            lambda x, targets, **settings: autotx.cross_entropy(model.head(x), targets, **settings),
        )


def _changed(module, edit, name, heads=None):
    """The module's forward with an edit of its result, or, as so many heads, of its argument."""
    if name in edit.functions:
        yield module, "forward", _edited(module.forward, edit, name, heads)


def _edited(forward, edit, name, heads=None):
    def after(*args, **settings):
        return edit(name, forward(*args, **settings))

    def before(x, *args, **settings):
        shown = x if heads == 1 else x.reshape(*x.shape[:2], heads, -1)
        made = edit(name, shown)
        return forward(x if made is shown else made.reshape(x.shape), *args, **settings)

    return after if heads is None else before


def _attention(module, edit):
    """The forward of an nn.MultiHeadAttention of tokens to each other, with edits of what is inside."""
    H, G, p = module.n_head, module.n_kv_head, module.dropout.p

    def forward(x, kv_input=None, mask=None, causal=False, rng=None):
        B, T, C = x.shape
        D = C // H
        parts = module.qkv(x, rng).split([H * D, G * D, G * D], axis=2)
        q, k, v = (part.reshape(B, T, -1, D).transpose(1, 2) for part in parts)
        if module.rope_base is not None:
            q, k = (autotx.rope(part, module.rope_base) for part in (q, k))
        q, k, v = (edit(f"attention.{name}", part) for name, part in (("q", q), ("k", k), ("v", v)))
        packed = autotx.concat([part.transpose(1, 2).reshape(B, T, -1) for part in (q, k, v)], axis=2)
        shape = {"n_head": H, "n_kv_head": G}
        y = autotx.multi_head_attention(packed, **shape, mask=mask, causal=causal, dropout_p=p, rng=rng)
        if edit.changes("attention.weights"):
            k, v = (part.reshape(B, G, 1, T, D).expand(B, G, H // G, T, D).reshape(B, H, T, D) for part in (k, v))
            scores = q @ k.transpose(2, 3) * D**-0.5
            weights = scores.masked_fill(~np.tri(T, dtype=bool), -np.inf).softmax(-1)
            made = edit("attention.weights", weights)
            if made is not weights:
                if rng is not None and p:
                    raise ValueError("edit: attention.weights: dropout drops some of them; give rng=None to edit them")
                y = y + ((made - weights) @ v).transpose(1, 2).reshape(B, T, C)
        return module.proj(y, rng)

    return forward


@contextlib.contextmanager
def _replaced(functions):
    """Inside, attributes are others. functions: tuples (owner, name, value); each is made after those before it are
    in their places."""
    undo = []
    try:
        for owner, name, function in functions:
            own = vars(owner)
            undo.append((own, name, own.get(name)))
            own[name] = function
        yield
    finally:
        for own, name, before in reversed(undo):
            if before is None:
                del own[name]
            else:
                own[name] = before

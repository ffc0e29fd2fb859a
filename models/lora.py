"""Low-rank adapters (LoRA): a trained matrix W stays as it is, and a thin product is learned beside it.

    y = x (W + s B A)^T + b        A (r, in), B (out, r), s = alpha / r, r the rank, a few numbers

W needs no gradient, so the optimizer keeps nothing for it: of a model of 135 million weights, some 460,000 are learned
with r = 8 beside the queries' and values' matrices. B begins at zero, so training begins with the model as it was.

Names and files are those of the library peft, which calls a matrix by its place in the model of transformers, such as
model.layers.0.self_attn.q_proj. Ours may hold several of them one below the other, as `qkv` does: then each has an A
and a B of its own, for its rows of W.

Source: Hu et al., 2021, "LoRA: Low-Rank Adaptation of Large Language Models".
"""

import copy
import functools
import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

import autotx
from autotx import Tensor, init, kernels, nn
from autotx.ops.layers import kept
from autotx.types import Array, ArrayLike, Rng

PREFIX = "base_model.model."  # of every name in peft's files
NAMES = {  # architecture: (where transformers has block i, {our layer in a block: its matrices there})
    "llama": (
        "model.layers.{}.",
        {
            "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            "attention.proj": ("self_attn.o_proj",),
            "mlp.gate": ("mlp.gate_proj",),
            "mlp.up": ("mlp.up_proj",),
            "mlp.down": ("mlp.down_proj",),
        },
    ),
    "gpt": (
        "transformer.h.{}.",
        {
            "attn.qkv": ("attn.c_attn",),
            "attn.proj": ("attn.c_proj",),
            "mlp.fc": ("mlp.c_fc",),
            "mlp.proj": ("mlp.c_proj",),
        },
    ),
}
TARGETS = {"llama": "q_proj,v_proj", "gpt": "c_attn"}  # by default, as peft's


@autotx.lift
def lora(x: Array, weight: Array, bias: Array | None, a: Array, b: Array, /, rows: tuple = (), scale: float = 1.0,
         dropout_p: float = 0.0, rng: Rng = None):  # fmt: skip
    """y = x W^T + bias, and on the columns of each part t of y: y_t = y_t + s (d A_t^T) B_t^T, d = dropout(x).

    x: (..., I); W: (O, I); bias: (O,) or None; y: (..., O). rows: (first, last + 1) of W for each of n parts, which do
    not overlap. a: (n r, I), the A_t one below the other; b: (the sum of their rows, r), the B_t likewise.
    scale: s. dropout_p: numbers of x are dropped for the second term, if an rng is given.

    With h_t = s d A_t^T the second term is h_t B_t^T, so, g_t being the columns of g of part t, db_t = g_t^T h_t.
    The gradient of h_t is g_t B_t, and that of d A_t^T is u_t = s g_t B_t; so da_t = u_t^T d, and, with m the factors
    of the dropout, dx = g W + m * sum_t u_t A_t. dweight = g^T x and dbias, the sum of g, are as for `linear`.
    """
    flat = x.astype(weight.dtype, copy=False).reshape(-1, weight.shape[1])
    keep = None if rng is None or not dropout_p else kept("lora", flat.shape, dropout_p, rng, flat.dtype)
    seen, rank = flat if keep is None else flat * keep, b.shape[1]
    parts, first = [], 0  # the columns of y, those of h, and the rows of b of each part
    for i, (begin, end) in enumerate(rows):
        parts.append((slice(begin, end), slice(i * rank, (i + 1) * rank), slice(first, first + end - begin)))
        first += end - begin
    tile = kernels.mixed.tile()
    matmul = functools.partial(kernels.gemm.matmul, tile=tile)
    y = matmul(flat, weight.T, kernels.memory.empty((len(flat), len(weight)), weight.dtype), bias=bias)
    h = matmul(seen, a.T)
    h *= scale
    for columns, ranks, own in parts:
        matmul(h[:, ranks], b[own].T, y[:, columns], accumulate=True)

    def gradients(g, wanted):
        g = g.reshape(y.shape)
        u = np.empty_like(h)
        for columns, ranks, own in parts:
            matmul(g[:, columns], b[own], u[:, ranks])
        u *= scale
        db = np.concatenate([matmul(g[:, columns].T, h[:, ranks]) for columns, ranks, _ in parts])
        dx, dweight, dbias = kernels.gemm.linear_backward(g, flat, weight, *wanted[:3], tile=tile)
        if wanted[0] and keep is None:
            matmul(u, a, dx, accumulate=True)
        elif wanted[0]:
            dx += matmul(u, a) * keep
        return None if dx is None else dx.reshape(x.shape), dweight, dbias, matmul(u.T, seen), db

    return y.reshape(*x.shape[:-1], len(weight)), gradients


class Place(NamedTuple):
    """Where a matrix of transformers is in our model: the name of the layer, and the rows of its weight."""

    layer: str
    first: int
    end: int


def places(architecture: str, model: Any) -> dict[str, Place]:
    """The matrices that can have adapters, by the names that transformers gives them. ValueError: none are known."""
    if architecture not in NAMES:
        raise ValueError(f"adapters of a {architecture} are not known; there are those of a {' or a '.join(NAMES)}")
    block, layers = NAMES[architecture]
    modules, found = dict(model.named_modules()), {}
    for i in range(model.config.n_layer):
        for ours, theirs in layers.items():
            layer = f"blocks.{i}.{ours}"
            C, rows = model.config.n_embd, len(modules[layer].weight)
            ends = [C, (C + rows) // 2, rows] if len(theirs) == 3 else [rows]  # queries, keys, values
            for name, first, end in zip(theirs, [0, *ends], ends):
                found[block.format(i) + name] = Place(layer, first, end)
    return found


def chosen(found: dict[str, Place], targets: str) -> dict[str, Place]:
    """Those of `places` that names of peft's kind choose: the ends of theirs, with commas between."""
    names = [name.strip() for name in targets.split(",")]
    for name in names:
        if not any(f".{place}".endswith(f".{name}") for place in found):
            known = ", ".join(dict.fromkeys(place.rpartition(".")[2] for place in found))
            raise ValueError(f"--lora-targets: there is no {name!r}; choose among {known}")
    return {place: at for place, at in found.items() if any(f".{place}".endswith(f".{name}") for name in names)}


class LoRA(nn.Module):
    """A linear layer with adapters. names: of its parts, by transformers; rows: those of the weight for each.

    a: (n r, in), uniform within +-1 / sqrt(in), as peft's; b: (the sum of the rows, r), zero.
    """

    def __init__(self, layer: nn.Linear, names: list[str], rows: list[tuple[int, int]], rank: int, scale: float,
                 dropout: float, rng: Rng):  # fmt: skip
        self.weight, self.bias = layer.weight, layer.bias
        self.names, self.rows, self.scale, self.dropout_p = names, tuple(rows), scale, dropout
        inputs = layer.weight.shape[1]
        drawn = np.zeros((len(names) * rank, inputs), np.float32)
        if rng is not None:
            drawn = init.uniform(drawn.shape, rng, -(inputs**-0.5), inputs**-0.5)
        self.a = Tensor(drawn, requires_grad=True)
        self.b = Tensor(np.zeros((sum(end - first for first, end in rows), rank), np.float32), requires_grad=True)

    def forward(self, x: Array, rng: Rng = None) -> Tensor:
        settings: Any = {"rows": self.rows, "scale": self.scale, "dropout_p": self.dropout_p, "rng": rng}
        return lora(x, self.weight, self.bias, self.a, self.b, **settings)

    def parts(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """The A (r, in) and B (rows, r) of each part, as views, by the part's name."""
        ends = np.cumsum([end - first for first, end in self.rows])[:-1]
        return dict(zip(self.names, zip(np.split(self.a.data, len(self.names)), np.split(self.b.data, ends))))

    def merged(self) -> nn.Linear:
        """The linear layer with the weight W + s B A."""
        layer = nn.Linear(self.weight.shape[1], self.weight.shape[0], bias=False, rng=None)
        weight = self.weight.numpy()
        for (a, b), (first, end) in zip(self.parts().values(), self.rows):
            weight[first:end] += np.float32(self.scale) * (b @ a)
        layer.weight, layer.bias = Tensor(weight, requires_grad=True), self.bias
        return layer


def attach(model: Any, found: dict[str, Place], rank: int, alpha: float, dropout: float = 0.0, rng: Rng = None) -> None:
    """Freeze a model, and put LoRA layers in the place of those that hold the matrices `found`, of `places`.

    rng: draws A; None leaves it zero, to be loaded.
    """
    for p in model.parameters():
        p.requires_grad = False
    modules = dict(model.named_modules())
    for layer in dict.fromkeys(place.layer for place in found.values()):
        names = [name for name, place in found.items() if place.layer == layer]
        rows = [(found[name].first, found[name].end) for name in names]
        above, _, name = layer.rpartition(".")
        setattr(modules[above], name, LoRA(modules[layer], names, rows, rank, alpha / rank, dropout, rng))


def layers_of(model: Any) -> list[LoRA]:
    return [module for module in model.modules() if isinstance(module, LoRA)]


def merged(model: Any) -> Any:
    """The model with plain layers in the place of LoRA layers. It shares all other tensors with the given one."""
    shared: dict[int, Any] = {id(p): p for p in model.parameters()}
    return copy.deepcopy(model, shared | {id(layer): layer.merged() for layer in layers_of(model)})


# Files: the tensors and settings of peft


def tensors_of(model: Any) -> dict[str, np.ndarray]:
    """The adapters of a model by the names of peft's adapter_model.safetensors."""
    found = {}
    for layer in layers_of(model):
        for name, (a, b) in layer.parts().items():
            found |= {f"{PREFIX}{name}.lora_A.weight": a.copy(), f"{PREFIX}{name}.lora_B.weight": b.copy()}
    return found


def set_tensors(model: Any, tensors: Mapping[str, ArrayLike]) -> None:
    """The inverse of `tensors_of`. ValueError, and no change, unless each adapter is there, of its shape and finite."""
    shapes = {name: array.shape for name, array in tensors_of(model).items()}
    given = {name: np.asarray(array) for name, array in tensors.items()}
    faults = [f"missing {name}" for name in shapes if name not in given]
    faults += [f"unexpected {name}" for name in given if name not in shapes]
    for name in shapes.keys() & given.keys():
        if given[name].shape != shapes[name] or given[name].dtype.kind != "f":
            kind = f"{given[name].dtype} {given[name].shape}"
            faults.append(f"{name} is {kind}, of this model it would be {shapes[name]}")
        elif not np.isfinite(given[name]).all():
            faults.append(f"{name} holds NaN or Inf")
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise ValueError(f"{min(faults)}{more}")
    for layer in layers_of(model):
        for kind, into in (("A", layer.a), ("B", layer.b)):
            rows = [given[f"{PREFIX}{name}.lora_{kind}.weight"] for name in layer.names]
            into.data = np.concatenate(rows).astype(into.dtype)


def settings_for(base: str, found: dict[str, Place], rank: int, alpha: float, dropout: float, fan_in: bool) -> dict:
    """The content of adapter_config.json. base: what names the model below; fan_in: whether its matrices are (in, out)
    in transformers, as GPT-2's."""
    ends = (name.split(".", 3)[3] for name in found)  # without the block, such as self_attn.q_proj
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": dropout,
        "target_modules": list(dict.fromkeys(ends)),
        "fan_in_fan_out": fan_in,
        "bias": "none",
        "inference_mode": True,
    }


def digest(model: Any) -> str:
    """SHA-256 of the names and values of all parameters."""
    found = hashlib.sha256()
    for name, p in model.named_parameters():
        found.update(f"{name} {p.shape} {p.dtype}\n".encode())
        found.update(np.ascontiguousarray(p.data).data)
    return found.hexdigest()

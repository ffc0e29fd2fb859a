"""Layers: a Module holds parameters, and is called with arrays or Tensors.

Nothing is registered, and there is no training mode. The parameters of a module are the Tensors among its attributes,
and randomness is an argument: every `forward` takes `rng`, and dropout happens only if one is given. So layer(x) is
evaluation, and layer(x, rng=rng) is training.

A layer draws its initial weights from the `rng` of its constructor. With rng=None the weights stay zero, for models
that set or load them. It computes in the type of its weights, which float64 inputs are converted to.

Shapes: B batch, T tokens, S source tokens, C channels, H heads, D = C / H channels a head.
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, ParamSpec, Protocol, Self, TypeVar

import numpy as np

from autotx import functional, init
from autotx.checks import Missing, checked_probability, checked_size
from autotx.frames import hide
from autotx.notes import note_span
from autotx.tensor import Tensor, next_tick, sealed
from autotx.types import Array, ArrayLike, DTypeLike, Mask, Rng

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)


class _Forward(Protocol[P, R_co]):
    """Tells type checkers that calling a module takes and returns what its `forward` takes and returns."""

    def forward(self, *args: P.args, **settings: P.kwargs) -> R_co: ...


class _SignatureOfForward:
    """Shows `help`, notebooks and inspect.signature what calling a module takes."""

    def __get__(self, module, owner):
        if module is None:
            raise AttributeError("__signature__")  # of the class: what __init__ takes
        return inspect.signature(module.forward)


class Module:
    """The base of layers and models: set Tensors and Modules (or lists, tuples, dicts of them) as attributes, and
    define `forward`. A Tensor with requires_grad=True is a parameter, which is trained and saved, frozen or not;
    one without is a buffer, such as a running mean, which is saved only. NumPy arrays are constants, and results of ops
    are passing values: neither is trained or saved.

    TypeError: a parameter is replaced by anything but another parameter or None; a set of layers, which has no order.
    """

    forward: Callable[..., Any]
    __signature__ = _SignatureOfForward()

    def __setattr__(self, name: str, value: Any) -> None:
        old, learns = vars(self).get(name), isinstance(value, Tensor) and value.is_parameter
        if isinstance(old, Tensor) and old.is_parameter and value is not None and not learns:
            raise TypeError(
                f"{type(self).__name__}.{name} is a parameter; a {type(value).__name__} that needs no gradient cannot "
                f"replace it; give it values by layer.{name}.data = array, or freeze it by "
                f"layer.{name}.requires_grad = False"
            )
        if isinstance(value, set | frozenset) and any(isinstance(v, Tensor | Module) for v in value):
            raise TypeError(
                f"{type(self).__name__}.{name}: a set has no order, so its parameters no names; give a list"
            )
        object.__setattr__(self, name, value)

    def __call__(self: _Forward[P, R_co], *args: P.args, **settings: P.kwargs) -> R_co:
        before = next_tick()
        try:
            out = self.forward(*args, **settings)
        except Exception as error:
            hide(error)
            raise
        note_span(out, self, before)
        return out

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """An iterator of (dotted name, Tensor), such as ("blocks.0.attn.qkv.weight", ...), in the order of assignment.

        A Tensor that is found at two places (tied weights) comes once, under its first name. ValueError: two values
        have one name.
        """
        return ((name, value) for name, value in self._saved() if value.is_parameter)

    def named_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """As `named_parameters`, of the buffers: the Tensors that are saved and not trained."""
        return ((name, value) for name, value in self._saved() if not value.is_parameter)

    def named_modules(self) -> "Iterator[tuple[str, Module]]":
        """An iterator of (dotted name, Module), this module first, as "", in the order of assignment.

        A module that is found at two places comes once, under its first name.
        """
        yield "", self
        yield from ((name, value) for name, value in walk(self) if isinstance(value, Module))

    def parameters(self) -> list[Tensor]:
        """A list of the Tensors of `named_parameters`."""
        return [p for _, p in self.named_parameters()]

    def num_parameters(self) -> int:
        """How many numbers the parameters hold."""
        return sum(p.size for p in self.parameters())

    def children(self) -> "list[Module]":
        """The modules directly below this one: its attributes, and what lists, tuples and dicts of them hold."""
        return list(_below(vars(self), {id(self)}))

    def modules(self) -> "list[Module]":
        """This module and all below it, each once, parents before what they hold."""
        found, seen = [], set()
        stack: list[Module] = [self]
        while stack:
            module = stack.pop()
            if id(module) not in seen:
                seen.add(id(module))
                found.append(module)
                stack += reversed(module.children())
        return found

    def apply(self, function: "Callable[[Module], Any]") -> Self:
        """Call the function with every module, those below before those above. Returns the module."""
        for module in reversed(self.modules()):
            function(module)
        return self

    def zero_grad(self) -> None:
        """Forget every gradient."""
        for p in self.parameters():
            p.zero_grad()

    def astype(self, dtype: DTypeLike) -> Self:
        """Convert all parameters, and buffers of floats, to float32 or float64, in place; gradients are forgotten.
        Returns the module."""
        if np.dtype(dtype) not in (np.float32, np.float64):
            raise TypeError(f"astype: parameters are float32 or float64, not {dtype}")
        for p in (t for _, t in self._saved() if t.dtype.kind == "f"):
            p.writable()  # the graphs that were recorded are void
            p._data = sealed(p._data.astype(dtype))
            p.zero_grad()
        return self

    def state_dict(self) -> dict[str, np.ndarray]:
        """A dict from the name of each parameter and buffer to a copy of its values."""
        return {name: t.numpy() for name, t in self._saved()}

    def _saved(self):
        return ((name, value) for name, value in walk(self) if isinstance(value, Tensor))

    def load_state_dict(self, state: Mapping[str, ArrayLike], strict: bool = True) -> tuple[list[str], list[str]]:
        """Copy the arrays of `state` (as from `state_dict`) into the parameters and buffers, converted to their
        dtype.

        strict: whether `state` must have a value for each of them and no others; if not, names that only one of the
        two has are left alone. Returns the names that are missing in `state`, and those that the model does not have.
        ValueError that lists every name that is missing, unexpected, or of another shape, or where no name is the same;
        nothing is changed then.
        """
        own = dict(self._saved())
        values = {name: np.asarray(value) for name, value in state.items()}
        missing = [name for name in own if name not in values]
        unexpected = [name for name in values if name not in own]
        faults = []
        if strict or len(missing) == len(own):
            faults = [f"missing {name}" for name in missing] + [f"unexpected {name}" for name in unexpected]
        both = {name: p for name, p in own.items() if name in values}
        for name in both:
            if own[name].shape != values[name].shape:
                faults.append(f"{name} has shape {values[name].shape}, the model {own[name].shape}")
            elif values[name].dtype.kind not in "fiu":
                faults.append(f"{name} has type {values[name].dtype}, which are not real numbers")
        if faults:
            faults = "; ".join(sorted(faults))
            raise ValueError(f"load_state_dict: {faults}; build the model with the sizes it was saved with")
        for name, p in both.items():
            p.writable()[...] = values[name]
        return missing, unexpected

    def __repr__(self):
        facts = [f"{k}={v!r}" for k, v in vars(self).items() if isinstance(v, int | float | str)]
        rows = []
        for name, value in walk(self):
            if isinstance(value, Tensor):
                rows.append(f"  {name} {value.shape}{'' if value.is_parameter else ' buffer'}")
            elif isinstance(value, Module) and not value._holds_something():  # an activation or dropout
                rows.append(f"  {name} {value}")
        facts += [f"num_parameters={self.num_parameters():,}"] if self._holds_something() else []
        return "\n".join([f"{type(self).__name__}({', '.join(facts)})", *rows])

    def _holds_something(self):
        return any(isinstance(value, Tensor | Module) for _, value in walk(self))


def walk(module: Module, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """An iterator of (dotted name, value) for each Tensor, array and Module below a module, in the order of assignment.

    Lists, tuples and dicts are looked into. What is found at two places (tied weights) comes once, under its first
    name. Results of ops are left out. prefix: what every name begins with. ValueError: two values have one name.
    """
    names = set()
    for name, value in _walk(vars(module), prefix, {id(module)}):
        if name in names:
            raise ValueError(
                f"{type(module).__name__}: two of its values have the name {name!r}, as the keys 1 and '1' give, or "
                "'a.b' and 'b' in 'a'; rename one"
            )
        names.add(name)
        yield name, value


def _walk(attributes, prefix, seen):
    for key, value in attributes.items():
        if isinstance(value, Tensor | np.ndarray | Module | list | tuple | dict) and id(value) not in seen:
            seen.add(id(value))
            if isinstance(value, np.ndarray | Module) or (isinstance(value, Tensor) and value._op is None):
                yield f"{prefix}{key}", value
            if isinstance(value, Module):
                yield from _walk(vars(value), f"{prefix}{key}.", seen)
            elif isinstance(value, list | tuple | dict):
                inner = value if isinstance(value, dict) else dict(enumerate(value))
                yield from _walk(inner, f"{prefix}{key}.", seen)


def _below(attributes, seen):
    """The distinct Modules among these values, and in the lists, tuples and dicts among them."""
    for value in attributes.values():
        if isinstance(value, Module | list | tuple | dict) and id(value) not in seen:
            seen.add(id(value))
            if isinstance(value, Module):
                yield value
            else:
                yield from _below(value if isinstance(value, dict) else dict(enumerate(value)), seen)


_NO_MODE = "there is no training mode: model(x, rng=rng) is training, with dropout, model(x) is evaluation"
_ONE_DEVICE = "autotx computes on the CPU; leave it out"
INSTEAD = {  # names that PyTorch's users look for -> what to do
    **dict.fromkeys(["train", "eval", "training"], _NO_MODE),
    **dict.fromkeys(["cuda", "cpu"], _ONE_DEVICE),
    "to": f"model.astype(numpy.float64) changes the type; {_ONE_DEVICE}",
    **dict.fromkeys(["float", "half", "double", "bfloat16"], "use model.astype(numpy.float32) or numpy.float64"),
    **dict.fromkeys(["register_parameter", "register_module", "add_module"], "set it as an attribute: model.name = it"),
    "register_buffer": "set a Tensor without requires_grad as an attribute: it is saved, and not trained",
    "requires_grad_": "set p.requires_grad for each p of model.parameters()",
    "compile": "kernels are compiled when they are first needed; leave it out",
}
for _name, _cure in INSTEAD.items():
    setattr(Module, _name, Missing(_name, _cure))


def _zeros(*shape: int) -> Tensor:
    t = Tensor(0.0, requires_grad=True)
    t._data = sealed(np.zeros(shape, np.float32))  # not copied: until it is written to, the system gives it no memory
    return t


def _check_sizes(layer: str, **sizes: int) -> None:
    for name, size in sizes.items():
        checked_size(layer, name, size)


class Linear(Module):
    """y = x W^T + b. x: (..., in_features), y: (..., out_features), weight W: (out_features, in_features), bias b:
    (out_features,); bias=False leaves it out. Both begin uniform within +-1 / sqrt(in_features), as PyTorch's: with
    biases of zero, the kinks of all units of a first ReLU layer begin at x = 0, and a curve is learned more slowly."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True, *, rng: Rng):
        _check_sizes("Linear", in_features=in_features, out_features=out_features)
        self.weight = _zeros(out_features, in_features)
        if rng is not None:
            self.weight.data = init.kaiming_uniform(self.weight.shape, rng, gain=3**-0.5)
        self.bias = _zeros(out_features) if bias else None
        if self.bias is not None and rng is not None:
            self.bias.data = init.uniform(self.bias.shape, rng, -(in_features**-0.5), in_features**-0.5)

    def forward(self, x: Array, rng: Rng = None) -> Tensor:
        return functional.linear(x, self.weight, self.bias)


class Embedding(Module):
    """y = weight[ids]: one row of the table for each id. ids: integers of any shape, y: ids.shape + (dim,).

    weight: (num, dim), beginning normal with standard deviation 1. ValueError for an id outside 0 .. num - 1.
    """

    def __init__(self, num: int, dim: int, *, rng: Rng):
        _check_sizes("Embedding", num=num, dim=dim)
        self.weight = _zeros(num, dim)
        if rng is not None:
            self.weight.data = init.normal(self.weight.shape, rng)

    def forward(self, ids: ArrayLike, rng: Rng = None) -> Tensor:
        return functional.embedding(self.weight, ids)


class LayerNorm(Module):
    """y = weight (x - mean) / sqrt(variance + eps) + bias, mean and variance over the last axis. x and y: (..., dim).

    weight and bias: (dim,), beginning at one and at zero. bias=False leaves it out.
    """

    def __init__(self, dim: int, bias: bool = True, eps: float = 1e-5):
        _check_sizes("LayerNorm", dim=dim)
        self.weight = Tensor(np.ones(dim, np.float32), requires_grad=True)
        self.bias = _zeros(dim) if bias else None
        self.eps = eps

    def forward(self, x: Array, rng: Rng = None) -> Tensor:
        bias = np.zeros(self.weight.shape, self.weight.dtype) if self.bias is None else self.bias
        return functional.layer_norm(x, self.weight, bias, eps=self.eps)


class RMSNorm(Module):
    """y = weight x / sqrt(mean of x^2 + eps), the mean over the last axis. x, y: (..., dim), weight: (dim,), ones."""

    def __init__(self, dim: int, eps: float = 1e-5):
        _check_sizes("RMSNorm", dim=dim)
        self.weight = Tensor(np.ones(dim, np.float32), requires_grad=True)
        self.eps = eps

    def forward(self, x: Array, rng: Rng = None) -> Tensor:
        return functional.rms_norm(x, self.weight, eps=self.eps)


class Dropout(Module):
    """Each number is 0 with probability p, else divided by 1 - p, when an rng is given; else x itself. Any shape."""

    def __init__(self, p: float):
        self.p = checked_probability("Dropout", "p", p)

    def forward(self, x: Array, rng: Rng = None) -> Tensor:
        if rng is None or self.p == 0:
            return x if isinstance(x, Tensor) else Tensor(x)
        return functional.dropout(x, self.p, rng)


class MultiHeadAttention(Module):
    """n_head attentions side by side, each on its own D = dim / n_head channels, then joined by a linear layer.

    The weights of Q, K and V are one matrix, qkv, so that self-attention is one product: (3 dim, dim), or
    (dim + 2 n_kv_head D, dim) with n_kv_head heads of keys and values, a divisor of n_head.
    dropout: the probability with which attention weights are dropped when an rng is given.
    n_kv_head, rope_base: as in autotx.multi_head_attention; None for as many as n_head, and for no rotation.
    Source: Vaswani et al., 2017, 3.2.2.
    """

    def __init__(
        self, dim: int, n_head: int, dropout: float = 0.0, bias: bool = True, *, n_kv_head: int | None = None,
        rope_base: float | None = None, rng: Rng
    ):  # fmt: skip
        n_kv_head = n_head if n_kv_head is None else n_kv_head
        _check_sizes("MultiHeadAttention", dim=dim, n_head=n_head, n_kv_head=n_kv_head)
        if dim % n_head:
            raise ValueError(f"MultiHeadAttention: {n_head} heads do not divide {dim} channels; give a multiple")
        if n_head % n_kv_head:
            raise ValueError(f"MultiHeadAttention: n_kv_head {n_kv_head} does not divide n_head {n_head}")
        self.n_head, self.n_kv_head, self.rope_base, self.dropout = n_head, n_kv_head, rope_base, Dropout(dropout)
        self.qkv = Linear(dim, dim + 2 * n_kv_head * (dim // n_head), bias, rng=rng)
        self.proj = Linear(dim, dim, bias, rng=rng)

    def forward(
        self, q_input: Array, kv_input: Array | None = None, mask: Mask = None, causal: bool = False, rng: Rng = None
    ) -> Tensor:
        """q_input: (B, T, C); kv_input: (B, S, C), what is attended to, None for q_input itself. Returns (B, T, C).

        mask: booleans (True: may attend) or floats (added to the scores) that broadcast to (B, H, T, S); for a padding
        mask (B, S) give mask[:, None, None, :]. causal: token t sees the tokens up to itself.
        ValueError for inputs of another shape.
        """
        C = self.proj.weight.shape[0]
        for x in (q_input,) if kv_input is None else (q_input, kv_input):
            if x.ndim != 3 or x.shape[2] != C:
                raise ValueError(f"MultiHeadAttention: an input of shape {x.shape}; give (batch, tokens, {C})")
        if kv_input is None:
            packed = (self.qkv(q_input, rng),)
        else:
            packed = self._linear(q_input, slice(C)), self._linear(kv_input, slice(C, self.qkv.weight.shape[0]))
        settings: Any = {"n_head": self.n_head, "mask": mask, "causal": causal, "dropout_p": self.dropout.p, "rng": rng}
        if self.n_kv_head != self.n_head:
            settings["n_kv_head"] = self.n_kv_head
        if self.rope_base is not None:
            settings["rope_base"] = self.rope_base
        return self.proj(functional.multi_head_attention(*packed, **settings), rng)

    def _linear(self, x: Array, rows: slice) -> Tensor:
        """The part of `qkv` that these rows of its weight are."""
        weight, bias = self.qkv.weight, self.qkv.bias
        return functional.linear(x, weight[rows], None if bias is None else bias[rows])


class _Recurrent(Module):
    """What RNN, LSTM and GRU share: num_layers layers one on another, each reading the states of the one below.

    The names, layout and initial values of the weights are PyTorch's: all are uniform within +-1 / sqrt(hidden_size).
    """

    gates = 1  # blocks of hidden_size rows in a weight

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, *, bias: bool = True, dropout: float = 0.0,
        batch_first: bool = True, rng: Rng
    ):  # fmt: skip
        name = type(self).__name__
        _check_sizes(name, input_size=input_size, hidden_size=hidden_size, num_layers=num_layers)
        if not batch_first:  # PyTorch's default
            raise ValueError(f"{name}: batch_first is False; give x as (batch, steps, inputs), and leave it out")
        self.hidden_size, self.num_layers, self.dropout = hidden_size, num_layers, Dropout(dropout)
        rows, bound = self.gates * hidden_size, hidden_size**-0.5
        for layer in range(num_layers):
            shapes = (rows, hidden_size if layer else input_size), (rows, hidden_size), (rows,), (rows,)
            for kind, shape in zip(_WEIGHTS, shapes):
                p = _zeros(*shape) if bias or len(shape) == 2 else None
                if p is not None and rng is not None:
                    p.data = init.uniform(shape, rng, -bound, bound)
                setattr(self, f"{kind}_l{layer}", p)

    def _layers(self, run: Callable[..., Tensor], x: Array, states: Any, rng: Rng) -> tuple[Tensor, list[Tensor]]:
        """The result of `run`, a recurrent op, for the last layer, and the states after the last step of all layers.

        states: arrays (num_layers, B, H), None for zeros.
        """
        if np.ndim(x) != 3 or not np.shape(x)[1]:
            raise ValueError(f"{type(self).__name__}: x of shape {np.shape(x)}; give (batch, steps, inputs)")
        steps, wanted = np.shape(x)[1], (self.num_layers, len(x), self.hidden_size)
        for s in states:
            if s is not None and np.shape(s) != wanted:
                raise ValueError(f"{type(self).__name__}: a state of shape {np.shape(s)}; give {wanted}")
        states = [np.zeros(wanted, np.float32) if s is None else s for s in states]
        last = []
        for layer in range(self.num_layers):
            x = self.dropout(x, rng) if layer else x
            out = run(x, *(s[layer] for s in states), *(getattr(self, f"{kind}_l{layer}") for kind in _WEIGHTS))
            x = out if out.shape[1] == steps else out[:, :steps]  # an LSTM's result ends with c
            last.append([out[:, t] for t in range(steps - 1, out.shape[1])])
        return x, [functional.stack(parts) for parts in zip(*last)]


_WEIGHTS = "weight_ih", "weight_hh", "bias_ih", "bias_hh"


class RNN(_Recurrent):
    """h_t = tanh(W_ih x_t + b_ih + W_hh h_(t-1) + b_hh), or max(..., 0) with nonlinearity="relu"; see `autotx.rnn`.

    Called with x (B, T, input_size) and the first h (num_layers, B, hidden_size), or None for zeros, it returns y, the
    states of the last layer at each step, (B, T, hidden_size), and the h after the last step. The batch is the first
    axis, always. num_layers: how many layers lie one on another. dropout: the probability with which a number is
    dropped between layers when an rng is given. The weights are PyTorch's: weight_ih_l0, (gates hidden_size,
    input_size), weight_hh_l0, bias_ih_l0, bias_hh_l0, and so on; uniform within +-1 / sqrt(hidden_size) at first.
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, *, nonlinearity: Literal["tanh", "relu"] = "tanh",
        bias: bool = True, dropout: float = 0.0, batch_first: bool = True, rng: Rng
    ):  # fmt: skip
        settings: Any = {"bias": bias, "dropout": dropout, "batch_first": batch_first, "rng": rng}
        super().__init__(input_size, hidden_size, num_layers, **settings)
        self.nonlinearity: Literal["tanh", "relu"] = nonlinearity

    def forward(self, x: Array, h: Array | None = None, rng: Rng = None) -> tuple[Tensor, Tensor]:
        run = functools.partial(functional.rnn, nonlinearity=self.nonlinearity)
        y, (h,) = self._layers(run, x, (h,), rng)
        return y, h


class GRU(_Recurrent):
    """h_t = (1 - z) * n + z * h_(t-1), with three gates of hidden_size rows; see `autotx.gru`. Otherwise as RNN."""

    gates = 3

    def forward(self, x: Array, h: Array | None = None, rng: Rng = None) -> tuple[Tensor, Tensor]:
        y, (h,) = self._layers(functional.gru, x, (h,), rng)
        return y, h


class LSTM(_Recurrent):
    """h_t = o * tanh(c_t), c_t = f * c_(t-1) + i * n, with four gates of hidden_size rows; see `autotx.lstm`.

    As RNN, but the state is a pair, (h, c): y, (h, c) = lstm(x, (h, c)), or lstm(x) to begin with zeros.
    """

    gates = 4

    def forward(
        self, x: Array, state: tuple[Array, Array] | None = None, rng: Rng = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        if state is not None and not (isinstance(state, tuple | list) and len(state) == 2):
            raise TypeError("LSTM: the state is a pair of arrays; give (h, c)")
        y, (h, c) = self._layers(functional.lstm, x, (None, None) if state is None else state, rng)
        return y, (h, c)


class Sequential(Module):
    """Layers one after another: x goes through each. An rng is handed to every layer.

    model[0] is a layer, model[1:3] a Sequential of those layers themselves; len(model), `for layer in model`.
    TypeError: a layer is not a Module, or returns several results, as nn.LSTM.
    """

    def __init__(self, *layers: Module):
        for i, layer in enumerate(layers):
            if not isinstance(layer, Module):
                raise TypeError(f"Sequential: layer {i} is {_described(layer)}")
        self.layers = list(layers)

    def __getitem__(self, index: Any) -> Any:
        return Sequential(*self.layers[index]) if isinstance(index, slice) else self.layers[index]

    def __len__(self) -> int:
        return len(self.layers)

    def forward(self, x: Array, rng: Rng = None) -> Tensor:
        for i, layer in enumerate(self.layers):
            try:
                x = layer(x) if rng is None else layer(x, rng=rng)
            except (TypeError, ValueError) as error:
                cure = "; let its forward take rng=None" if "keyword argument 'rng'" in str(error) else ""
                error.add_note(f"in layer {i} of Sequential, {type(layer).__name__}{cure}")
                raise
            if isinstance(x, tuple):
                given = f"layer {i}, {type(layer).__name__}, returns {len(x)} results"
                raise TypeError(f"Sequential: {given}; write a Module that takes the one that the next layer needs")
        return x


def _described(layer):
    """What was given for a layer, and what to give."""
    name = getattr(layer, "__name__", type(layer).__name__)
    if isinstance(layer, type) and issubclass(layer, Module):
        return f"the class {name}; make a layer of it, such as {name}(...)"
    if isinstance(layer, list | tuple):
        return f"a {name}; give the layers one by one, Sequential(*layers)"
    return f"{'the function ' if callable(layer) else 'of type '}{name}; give Modules, such as nn.ReLU()"


class ReLU(Module):
    """max(x, 0), element by element, any shape."""

    def forward(self, x: Array, rng: Rng = None) -> Tensor:
        return functional.relu(x)


class GELU(Module):
    """x P(x), P the normal distribution function; approximate="tanh" for GPT-2's form. Any shape."""

    def __init__(self, approximate: Literal["none", "tanh"] = "none"):
        self.approximate: Literal["none", "tanh"] = approximate

    def forward(self, x: Array, rng: Rng = None) -> Tensor:
        return functional.gelu(x, approximate=self.approximate)


class Tanh(Module):
    """tanh(x), element by element, any shape."""

    def forward(self, x: Array, rng: Rng = None) -> Tensor:
        return functional.tanh(x)


class Sigmoid(Module):
    """1 / (1 + exp(-x)), element by element, any shape."""

    def forward(self, x: Array, rng: Rng = None) -> Tensor:
        return functional.sigmoid(x)

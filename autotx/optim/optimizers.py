"""Optimizers, which update parameters by their gradients; learning-rate schedules; gradient clipping.

    optimizer = AdamW(decay_groups(model, 0.1), lr=1e-3)
    for step in range(steps):
        optimizer.lr = schedule(step)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

Letters: p parameter, g its gradient, t the number of steps counted from 1, lr learning rate. A parameter without a
gradient is not changed, and its t is not increased.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from autotx import kernels
from autotx.nn import Module
from autotx.tensor import Tensor
from autotx.text import counted

Params = Iterable[Tensor] | Iterable[dict[str, Any]]  # parameters, or groups of them
Schedule = Callable[[int], float]  # from the step, counted from 0, to the learning rate


class Optimizer:
    """The base of optimizers. A subclass has `buffers`, the names of the arrays that it keeps for each parameter, and
    update(params, grads, *buffers, lr, decays, steps), which takes lists of arrays and numbers and changes parameters
    and buffers in place. `step` calls it once for each learning rate.

    params: Tensors, or groups {"params": [...], "weight_decay": x, "lr": y}; what a group leaves out is as given here.
    lr: the learning rate, 0 or more; assign `optimizer.lr` to change it. A group with an lr of its own keeps its ratio
    to it.
    ValueError: no parameters, one given twice, the result of an op, unknown group keys, numbers out of range.
    TypeError: not Tensors.
    """

    buffers: tuple[str, ...] = ()
    update: Callable[..., None]

    def __init__(self, params: Params, lr: float, weight_decay: float = 0.0):
        self.lr = lr
        self.params, self.decays, self.rates = _flattened(params, weight_decay, self.lr)
        self.steps = np.zeros(len(self.params), np.int64)
        self.state = {name: [np.zeros(p.shape, p.dtype) for p in self.params] for name in self.buffers}

    @property
    def lr(self) -> float:
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._lr = _checked("lr", float(value), value >= 0, "0 or more")

    @property
    def weight_decay(self) -> float | tuple[float, ...]:
        """The weight decay of all parameters, or those of the groups."""
        first, *others = dict.fromkeys(self.decays)
        return (first, *others) if others else first

    def __repr__(self):
        settings = [n for n in inspect.signature(type(self)).parameters if n != "params" and hasattr(self, n)]
        settings = ", ".join(f"{name}={getattr(self, name)!r}" for name in settings)
        count = sum(p.size for p in self.params)
        return (
            f"{type(self).__name__}({settings}) of {counted(count, 'number')} in {counted(len(self.params), 'tensor')}"
        )

    def step(self) -> None:
        """Update every parameter that has a gradient. The gradients stay; `zero_grad` removes them."""
        moving = [i for i, p in enumerate(self.params) if p.grad is not None]
        _check_gradients("optimizer", self.params)
        self.steps[moving] += 1
        for rate in dict.fromkeys(self.rates[i] for i in moving):
            part = [i for i in moving if self.rates[i] == rate]
            arrays = [self.params[i].writable() for i in part], [self.params[i].grad for i in part]
            buffers = ([self.state[name][i] for i in part] for name in self.buffers)
            decays, steps = [self.decays[i] for i in part], self.steps[part].tolist()
            self.update(*arrays, *buffers, lr=self.lr * rate, decays=decays, steps=steps)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Set `.grad` of every parameter to None. ValueError: set_to_none is False, which is not supported."""
        if not set_to_none:
            raise ValueError("zero_grad: gradients are always set to None; leave set_to_none out")
        for p in self.params:
            p.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """All that is needed to resume, as a flat dict: "lr" (a number), "steps" and "<buffer>.<i>" (array copies)."""
        return {"lr": self.lr, **{name: a.copy() for name, a in self._arrays().items()}}

    def _arrays(self):
        buffers = {f"{name}.{i}": a for name, per_param in self.state.items() for i, a in enumerate(per_param)}
        return {"steps": self.steps, **buffers}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Set the state to that of a `state_dict`, bit for bit. ValueError lists what does not fit."""
        own = {"lr": np.asarray(self.lr), **self._arrays()}
        faults = [f"missing {name}" for name in own if name not in state]
        faults += [f"unexpected {name}" for name in state if name not in own]
        for name in own.keys() & state.keys():
            have, want = np.asarray(state[name]), own[name]
            if (have.shape, have.dtype) != (want.shape, want.dtype):
                faults.append(f"{name} is {have.dtype} of shape {have.shape}, here {want.dtype} of shape {want.shape}")
        if faults:
            faults = "; ".join(sorted(faults))
            raise ValueError(f"load_state_dict: {faults}; use the optimizer and the parameters it was saved with")
        self.lr = state["lr"]
        for name, a in self._arrays().items():
            a[...] = state[name]


class SGD(Optimizer):
    """Stochastic gradient descent: v = momentum v + g, p = p - lr v. weight_decay d adds d p to g.

    nesterov: p = p - lr (g + momentum v), which adds the momentum of the next step in advance.
    Source: the whitepaper's weight update (momentum 0); Polyak, 1964 (momentum); Sutskever et al., 2013 (nesterov).
    """

    def __init__(
        self, params: Params, lr: float, momentum: float = 0.0, weight_decay: float = 0.0, nesterov: bool = False
    ):
        self.nesterov = _checked("nesterov", nesterov, momentum or not nesterov, "a momentum above 0 with it")
        self.momentum = _checked("momentum", momentum, 0 <= momentum < 1, "from 0 to below 1")
        self.buffers = ("v",) if momentum else ()
        super().__init__(params, lr, weight_decay)

    def update(self, params, grads, *buffers, lr, decays, steps):
        for p, g, decay, *buffer in zip(params, grads, decays, *buffers):
            g = g + decay * p if decay else g
            for v in buffer:  # empty without momentum
                v *= self.momentum
                v += g
                g = g + self.momentum * v if self.nesterov else v
            p -= lr * g


class RMSprop(Optimizer):
    """v = alpha v + (1 - alpha) g^2, p = p - lr g / (sqrt(v) + eps): the size of a step does not depend on that of g.

    weight_decay d adds d p to g.

    Source: Tieleman and Hinton, 2012, lecture 6.5.
    """

    buffers = ("v",)

    def __init__(
        self, params: Params, lr: float = 0.01, alpha: float = 0.99, eps: float = 1e-8, weight_decay: float = 0.0
    ):
        self.alpha = _checked("alpha", alpha, 0 <= alpha < 1, "from 0 to below 1")
        self.eps = _checked("eps", eps, eps >= 0, "0 or more")
        super().__init__(params, lr, weight_decay)

    def update(self, params, grads, vs, *, lr, decays, steps):
        for p, g, v, decay in zip(params, grads, vs, decays):
            g = g + decay * p if decay else g
            v *= self.alpha
            v += (1 - self.alpha) * g * g
            p -= lr * g / (np.sqrt(v) + self.eps)


class AdamW(Optimizer):
    """Adam with decoupled weight decay: steps along a running mean of g, of a size that does not depend on that of g.

    m = beta1 m + (1 - beta1) g             running mean of the gradient
    v = beta2 v + (1 - beta2) g^2           and of its square
    p = p - lr weight_decay p - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)
    The divisions by 1 - beta^t correct the bias of m and v, which start at 0.
    amsgrad: the last line uses the largest v so far instead of v, so that steps do not grow where gradients are rare.
    Source: Kingma and Ba, 2015; Loshchilov and Hutter, 2019 (the decay outside the gradient); Reddi, Kale and Kumar,
    2018 (amsgrad).
    """

    buffers = ("m", "v")

    def __init__(self, params: Params, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 0.01, amsgrad: bool = False):  # fmt: skip
        self.amsgrad, self.buffers = amsgrad, ("m", "v", "v_max") if amsgrad else ("m", "v")
        self.betas = self.beta1, self.beta2 = _checked(
            "betas", betas, np.shape(betas) == (2,) and all(0 <= b < 1 for b in betas), "two from 0 to below 1"
        )
        self.eps = _checked("eps", eps, eps >= 0, "0 or more")
        super().__init__(params, lr, weight_decay)

    def update(self, params, grads, ms, vs, *largest, lr, decays, steps):
        if not largest:
            kernels.parameters.adamw(params, grads, ms, vs, lr, self.beta1, self.beta2, self.eps, decays, steps)
            return
        for p, g, m, v, v_max, decay, t in zip(params, grads, ms, vs, *largest, decays, steps):
            m += (1 - self.beta1) * (g - m)
            v += (1 - self.beta2) * (g * g - v)
            np.maximum(v_max, v, out=v_max)
            p *= 1 - lr * decay
            p -= lr / (1 - self.beta1**t) * m / (np.sqrt(v_max / (1 - self.beta2**t)) + self.eps)


class Adam(AdamW):
    """AdamW whose weight_decay d adds d p to g instead. Source: Kingma and Ba, 2015."""

    def __init__(self, params: Params, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8,
                 weight_decay: float = 0.0, amsgrad: bool = False):  # fmt: skip
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad)

    def update(self, params, grads, *buffers, lr, decays, steps):
        grads = [g + decay * p if decay else g for p, g, decay in zip(params, grads, decays)]
        super().update(params, grads, *buffers, lr=lr, decays=[0.0] * len(params), steps=steps)


def decay_groups(model: Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups of a model's parameters: matrices and tables have weight decay, biases and norms (under 2 axes) none.

    A frozen parameter (requires_grad is False) is in neither, so the optimizer keeps no buffers for it.
    """
    params = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in params if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in params if p.ndim < 2], "weight_decay": 0.0},
    ]


def clip_grad_norm(params: Iterable[Tensor], max_norm: float) -> float:
    """Scale all gradients, in place, so that their total norm is at most max_norm. Returns the norm before, a float.

    The norm is that of one vector of all gradients. ValueError: a gradient has a NaN or an Inf; the error names its
    parameter, and nothing is changed; or it is not an array of its parameter's shape. Source: Pascanu et al., 2013.
    """
    if not max_norm > 0:
        raise ValueError(f"clip_grad_norm: max_norm is {max_norm}; give a number above 0 (infinity only measures)")
    params = [params] if isinstance(params, Tensor) else list(params)
    _check_gradients("clip_grad_norm", params)
    grads = [p.grad for p in params if p.grad is not None]
    norm = math.sqrt(kernels.parameters.sum_of_squares(grads))
    if not math.isfinite(norm):
        raise ValueError(f"clip_grad_norm: {_culprit(params)}; lower the learning rate, or see autotx.detect_anomaly")
    if norm > max_norm:
        kernels.parameters.scale(grads, max_norm / norm)
    return norm


def _check_gradients(who, params):
    """ValueError for a gradient that is not an array of its parameter's shape: kernels read p.size numbers of it."""
    for p in params:
        if p.grad is not None and (not isinstance(p.grad, np.ndarray) or p.grad.shape != p.shape):
            given = f"a {type(p.grad).__name__} of shape {np.shape(p.grad)}"
            cure = "set it to None or to an array of that shape"
            raise ValueError(f"{who}: the gradient of a parameter of shape {p.shape} is {given}; {cure}")


def _culprit(params):
    for i, p in enumerate(params):
        if p.grad is not None and not np.isfinite(p.grad).all():
            return f"the gradient of {p.name or f'parameter {i}'} of shape {p.shape} has a NaN or an Inf"
    return "the gradients are finite, but their norm is too large for a number"


# Schedules: functions from the step, counted from 0, to the learning rate


def constant(lr: float, warmup_steps: int = 0) -> Schedule:
    """A linear rise over warmup_steps, then lr."""
    return lambda step: lr * min(1, (step + 1) / (warmup_steps + 1))


def warmup_cosine(lr: float, min_lr: float, warmup_steps: int, total_steps: int) -> Schedule:
    """A linear rise over warmup_steps, then half a cosine from lr down to min_lr at total_steps, then min_lr."""
    if not 0 <= min_lr <= lr or not 0 <= warmup_steps <= total_steps:
        given = f"{min_lr=}, {lr=}, {warmup_steps=}, {total_steps=}"
        raise ValueError(f"warmup_cosine: {given}; give 0 <= min_lr <= lr and 0 <= warmup_steps <= total_steps")

    def schedule(step: int) -> float:
        if step < warmup_steps:
            return lr * (step + 1) / (warmup_steps + 1)
        if step >= total_steps:
            return min_lr
        progress = (step - warmup_steps) / (total_steps - warmup_steps)
        return min_lr + (lr - min_lr) * 0.5 * (1 + math.cos(math.pi * progress))

    return schedule


def noam(dim: int, warmup_steps: int, factor: float = 1.0) -> Schedule:
    """factor / sqrt(dim) min(1 / sqrt(s), s / warmup_steps^1.5), s = step + 1. Source: Vaswani et al., 2017, 5.3."""
    if dim < 1 or warmup_steps < 1:
        raise ValueError(f"noam: dim {dim}, warmup_steps {warmup_steps}; give 1 or more")
    return lambda step: factor * dim**-0.5 * min((step + 1) ** -0.5, (step + 1) * warmup_steps**-1.5)


def _checked(name, value, good, wanted):
    if not good:
        raise ValueError(f"optimizer: {name} is {value}; give {wanted}")
    return value


def _flattened(params, weight_decay, lr):
    """Every parameter, its weight decay, and the factor of its learning rate, as three lists. Errors: as Optimizer."""
    params = _listed(params)
    groups: list[dict[str, Any]] = params if params and isinstance(params[0], dict) else [{"params": params}]
    flat, decays, rates = [], [], []
    for group in groups:
        if not {"params"} <= group.keys() <= {"params", "weight_decay", "lr"}:
            raise ValueError(f"optimizer: a group has the keys {sorted(group)}; give 'params', 'weight_decay', 'lr'")
        decay = group.get("weight_decay", weight_decay)
        _checked("weight_decay", decay, decay >= 0, "0 or more")
        own = group.get("lr", lr)
        _checked("lr of a group", own, own >= 0 and (lr > 0 or own == lr), "0 or more, and an lr above 0 beside it")
        flat += _listed(group["params"])
        decays += [decay] * (len(flat) - len(decays))
        rates += [own / lr if lr else 1.0] * (len(flat) - len(rates))
    for p in flat:
        if not isinstance(p, Tensor):
            raise TypeError(f"optimizer: a parameter is a {type(p).__name__}; give Tensors, such as model.parameters()")
        if p._op is not None:
            raise ValueError(f"optimizer: a parameter is a result of {p._op}; give tensors that were made by hand")
    if not flat or len({id(p) for p in flat}) < len(flat):
        raise ValueError("optimizer: no parameters, or one given twice; give each once, such as model.parameters()")
    return flat, decays, rates


def _listed(params):
    if isinstance(params, Tensor) or not hasattr(params, "__iter__"):  # a Tensor would iterate over its rows
        raise TypeError(f"optimizer: params is a {type(params).__name__}; give a list, such as model.parameters()")
    return list(params)

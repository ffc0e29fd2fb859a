"""`recompute` trades time for memory: what a function keeps for backward is computed again when it is needed.

A graph keeps the arguments of nearly every op until backward. Of a function called through `recompute`, here f, it
keeps one result instead, y = f(x_1, x_2, ...), with the tensors from outside that f used, its parameters included. The
backward pass calls f again, with the graph recorded, and walks through that graph:

    forward     y = f(x)                 the graph of f is recorded, to see what it used, and dropped
    backward    f(x) again, then         dx and the parameters' gradients, from g, the gradient of y
                a walk through its graph

So a model of L blocks keeps the inputs of L blocks and the graph of one, instead of L graphs, for the time of a second
forward pass. Source: Chen et al., 2016, "Training Deep Nets with Sublinear Memory Cost".
"""

import copy
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from autotx.backward import FREED, by_tick, walk_back
from autotx.lift import lift
from autotx.modes import apart, autocast, modes
from autotx.tensor import Tensor, next_tick


def recompute(function: Callable[..., Tensor], *args: Any, **settings: Any) -> Tensor:
    """function(*args, **settings), a Tensor, whose graph is not kept but made again in the backward pass.

    function: any function of Tensors, such as an nn.Module; its gradients are those of the usual call, also of tensors
    that it uses without being given them, such as its parameters. A numpy.random.Generator among the arguments draws
    the same numbers again, so that dropout drops the same.
    TypeError: the function does not return one Tensor. ValueError: it makes a tensor that requires a gradient, or calls
    backward; and, in the backward pass, it gave another result the second time.
    """
    if not modes.recording:
        return function(*args, **settings)
    call = _Call(function, *_with_own_generators(args, settings))
    before, begun = next_tick(), time.perf_counter()
    result = function(*args, **settings)
    seconds = time.perf_counter() - begun
    if not isinstance(result, Tensor):
        raise TypeError(f"recompute: {call.name} returned a {type(result).__name__}; let it return one Tensor")
    if result._parents is None or result._tick < before:  # it has no graph, or is one of the arguments
        return result
    call.dtype, call.result, (_, call.used) = modes.dtype, result._data, _graph(result, before, call.name)
    result = _recompute(*call.used, call=call)
    seen: Any = getattr(result._settings, "record", None)  # inside viz.record: the time is that of the function
    if seen:
        seen.forward_seconds = seconds
    return result


class _Call:
    """A call of a function, its result (an array) and the tensors from outside that it used."""

    dtype: str  # of `autocast`
    result: Any
    used: list[Tensor]

    def __init__(self, function, args, settings):
        self.function, self.args, self.settings = function, args, settings
        self.name = getattr(function, "__name__", type(function).__name__)

    def __repr__(self):
        return self.name

    def gradients(self, g):
        """The gradient of each tensor in `used`, from g, the gradient of the result."""
        args, settings = _with_own_generators(self.args, self.settings)
        with apart(), autocast(self.dtype):
            before = next_tick()
            result = self.function(*args, **settings)
            if not np.array_equal(result._data, self.result, equal_nan=True):
                raise ValueError(
                    f"recompute: {self.name} gave another result in the backward pass, so its gradient would be wrong; "
                    "give it its numpy.random.Generator as an argument, and change nothing that it uses in between"
                )
            nodes, _ = _graph(result, before, self.name)
            gradients = {result: g}
            walk_back(nodes, gradients)
        return [gradients.get(t) for t in self.used]


def recompute_(*tensors: Any, call: _Call):
    """y = call(tensors), computed again in the backward pass.   dx of each tensor: by a walk through that graph."""
    return call.result, lambda g, wanted: call.gradients(g)


_recompute = lift(recompute_)


def _with_own_generators(args, settings):
    """The arguments with a copy of each random generator, in its present state."""

    def own(value):
        return copy.deepcopy(value) if isinstance(value, np.random.Generator) else value

    return [own(a) for a in args], {name: own(value) for name, value in settings.items()}


def _graph(root, before, name):
    """The results in the graph of `root` that were made after the tick `before`, oldest first, and the tensors of
    before that they were computed from and that require a gradient."""
    nodes, used, stack, seen = [], [], [root], {id(root)}
    while stack:
        t = stack.pop()
        nodes.append(t)
        if t._backward is FREED:
            raise ValueError(f"recompute: {name} calls backward on what it returns; call backward outside")
        for p in t._parents:
            if isinstance(p, Tensor) and p._requires_grad and id(p) not in seen:
                seen.add(id(p))
                if p._tick > before and p._parents is None:
                    raise ValueError(
                        f"recompute: {name} makes a tensor that requires a gradient, which nobody would get; make it "
                        "outside, or without requires_grad"
                    )
                (used if p._tick < before else stack).append(p)
    return sorted(nodes, key=by_tick), used

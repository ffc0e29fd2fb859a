"""How long a GPT takes, measured: against the tokens n, the layers l and the width d, beside the paper's O(l n^2 d)."""

import functools
import time
from dataclasses import dataclass

import numpy as np

import autotx
from autotx.models.gpt import GPT, GPTConfig

REPEATS, BUDGET = 7, 0.15  # at most so many measurements of one thing, and about so many seconds


@dataclass(frozen=True)
class Sweep:
    """Seconds for each size, for each of a few things measured. The exponent is fitted to the larger half of sizes."""

    title: str
    axis: str
    letter: str
    sizes: list[int]
    times: dict[str, list[float]]

    @property
    def fitted_sizes(self):
        return self.sizes[len(self.sizes) // 2 - 1 :]


def fitted(sizes, times):
    """The exponent of times ~ sizes^exponent over the larger sizes, by least squares of logarithms; the fit's times."""
    start = len(sizes) // 2 - 1
    logs = np.log(sizes[start:]), np.log(times[start:])
    exponent, offset = np.polyfit(*logs, 1)
    return exponent, np.exp(offset + exponent * logs[0])


def _seconds(work):
    """The shortest of a few times, after one to warm up: what the machine does when nothing else interrupts it."""
    work()
    times = []
    while not times or (len(times) < REPEATS and sum(times) < BUDGET):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def _model_seconds(tokens, layers, width):
    """A whole GPT, forward, on one text: float64, so that nothing has to be compiled first."""
    model = GPT(GPTConfig(tokens, 16, layers, 1, width), rng=np.random.default_rng(0)).astype(np.float64)
    ids = np.zeros((1, tokens), dtype=np.int64)
    with autotx.no_grad():
        return _seconds(lambda: model.hidden(ids))


def _attention_seconds(tokens, width):
    """The scores, the softmax and the mean of V alone."""
    q = autotx.Tensor(np.random.default_rng(0).standard_normal((tokens, width)))
    return _seconds(lambda: autotx.scaled_dot_product_attention(q, q, q, causal=True))


@functools.cache
def sweeps():
    """The three sweeps: a tuple of Sweep. Takes a few seconds."""
    tokens, layers, widths = [32, 64, 128, 256, 512, 1024], [1, 2, 4, 8], [32, 64, 128, 256, 512]
    by_tokens = {
        "whole model": [_model_seconds(n, 1, 64) for n in tokens],
        "attention alone": [_attention_seconds(n, 64) for n in tokens],
    }
    by_layers = {"whole model": [_model_seconds(256, l, 64) for l in layers]}
    by_width = {
        "whole model": [_model_seconds(256, 1, d) for d in widths],
        "attention alone": [_attention_seconds(256, d) for d in widths],
    }
    return (
        Sweep("Tokens (1 layer, width 64)", "n", "n", tokens, by_tokens),
        Sweep("Layers (256 tokens, width 64)", "l", "l", layers, by_layers),
        Sweep("Width (256 tokens, 1 layer)", "d", "d", widths, by_width),
    )

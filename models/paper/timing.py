"""Measured time of a GPT as its tokens n, layers l or width d grow, to compare with the paper's O(l n^2 d)."""

import functools
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass

import numpy as np

import autotx
from autotx.models.gpt import GPT, GPTConfig

ROUNDS, BUDGET = 7, 5.0  # measure each function at most so often, in all about so many seconds


@dataclass(frozen=True)
class Sweep:
    """Seconds by name of what is measured, one for each size. The exponent is fitted to the larger half of sizes."""

    title: str
    letter: str
    sizes: list[int]
    times: dict[str, list[float]]

    @property
    def fitted_sizes(self):
        return self.sizes[len(self.sizes) // 2 - 1 :]


def fitted(sizes, times):
    """The exponent of times ~ sizes^exponent, fitted to the larger sizes by least squares of logarithms; the fit."""
    start = len(sizes) // 2 - 1
    logs = np.log(sizes[start:]), np.log(times[start:])
    exponent, offset = np.polyfit(*logs, 1)
    return exponent, np.exp(offset + exponent * logs[0])


def _model(tokens, layers, width):
    """A function to be timed: the forward pass of a GPT on one text, in float64, which needs no compiled kernels."""
    model = GPT(GPTConfig(tokens, 16, layers, 1, width), rng=np.random.default_rng(0)).astype(np.float64)
    ids = np.zeros((1, tokens), dtype=np.int64)
    return lambda: model.hidden(ids)


def _attention(tokens, width):
    """A function to be timed: attention alone, that is the scores, their softmax, and the weighted mean of V."""
    q = autotx.Tensor(np.random.default_rng(0).standard_normal((tokens, width)))
    return lambda: autotx.scaled_dot_product_attention(q, q, q, causal=True)


def _seconds(works, rounds):
    """The shortest of several runs of each function, in seconds of CPU time. The functions run in turns."""
    best, started = [np.inf] * len(works), time.perf_counter()
    with autotx.no_grad():
        for _ in range(rounds):
            for i, work in enumerate(works):
                start = time.process_time()
                work()
                best[i] = min(best[i], time.process_time() - start)
            if time.perf_counter() - started > BUDGET:
                break
    return best


PLAN = (  # title, letter, sizes, (tokens, layers, width) of a size, whether attention alone is measured too
    ("Tokens n (1 layer, width 64)", "n", [32, 64, 128, 256, 512, 1024], lambda n: (n, 1, 64), True),
    ("Layers l (256 tokens, width 64)", "l", [1, 2, 4, 8], lambda l: (256, l, 64), False),
    ("Width d (256 tokens, 1 layer)", "d", [32, 64, 128, 256, 512], lambda d: (256, 1, d), True),
)


def measure(rounds):
    """The seconds of all runs of PLAN, in its order, a list."""
    works = []
    for _, _, sizes, shape, with_attention in PLAN:
        works += [_model(*shape(size)) for size in sizes]
        works += [_attention(shape(size)[0], shape(size)[2]) for size in sizes if with_attention]
    return _seconds(works, rounds)


@functools.cache
def sweeps():
    """The three sweeps: a tuple of Sweep. Takes a few seconds.

    Measured is CPU time on one thread, which depends less on other programs than elapsed time. A BLAS library sets its
    number of threads when it is loaded, so a new process does the measuring.
    """
    one_thread = dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"), "1")
    command = [sys.executable, "-m", "autotx.models.paper.timing", str(ROUNDS)]
    answer = subprocess.run(command, env=os.environ | one_thread, stdout=subprocess.PIPE, check=True).stdout
    seconds, done = iter(json.loads(answer)), []
    for title, letter, sizes, _, with_attention in PLAN:
        labels = ["whole model", "attention alone"][: 1 + with_attention]
        done.append(Sweep(title, letter, sizes, {label: [next(seconds) for _ in sizes] for label in labels}))
    return tuple(done)


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]))))

"""How long a GPT takes, measured: against the tokens n, the layers l and the width d, beside the paper's O(l n^2 d)."""

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

ROUNDS, BUDGET = 7, 5.0  # at most so many rounds through everything measured, and about so many seconds


@dataclass(frozen=True)
class Sweep:
    """Seconds for each size, for each of a few things measured. The exponent is fitted to the larger half of sizes."""

    title: str
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


def _model(tokens, layers, width):
    """A whole GPT, forward, on one text: float64, so that nothing has to be compiled first. A function to be timed."""
    model = GPT(GPTConfig(tokens, 16, layers, 1, width), rng=np.random.default_rng(0)).astype(np.float64)
    ids = np.zeros((1, tokens), dtype=np.int64)
    return lambda: model.hidden(ids)


def _attention(tokens, width):
    """The scores, the softmax and the mean of V alone. A function to be timed."""
    q = autotx.Tensor(np.random.default_rng(0).standard_normal((tokens, width)))
    return lambda: autotx.scaled_dot_product_attention(q, q, q, causal=True)


def _seconds(works, rounds):
    """The shortest of several times of each function, in seconds of the processor's time. All are measured in turns."""
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


PLAN = (  # title, letter, sizes, tokens and layers and width for a size, whether attention alone is measured too
    ("Tokens n (1 layer, width 64)", "n", [32, 64, 128, 256, 512, 1024], lambda n: (n, 1, 64), True),
    ("Layers l (256 tokens, width 64)", "l", [1, 2, 4, 8], lambda l: (256, l, 64), False),
    ("Width d (256 tokens, 1 layer)", "d", [32, 64, 128, 256, 512], lambda d: (256, 1, d), True),
)


def measure(rounds):
    """The seconds of all that is planned, in the plan's order, a list."""
    works = []
    for _, _, sizes, shape, with_attention in PLAN:
        works += [_model(*shape(size)) for size in sizes]
        works += [_attention(shape(size)[0], shape(size)[2]) for size in sizes if with_attention]
    return _seconds(works, rounds)


@functools.cache
def sweeps():
    """The three sweeps: a tuple of Sweep. Takes a few seconds.

    The processor's time on one thread is what the work costs, whoever else is using the machine. How many threads the
    matrix library takes is settled when it is loaded, so the measuring is done by a process of its own.
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

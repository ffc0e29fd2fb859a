"""The chain of scalar operations in micrograd."""

import sys

from micrograd.engine import Value


def scalar_chain(pairs):
    sys.setrecursionlimit(100 + 10 * pairs)  # micrograd's backward pass recurses once for each operation
    w, b = Value(0.999), Value(0.001)

    def run():
        w.grad = b.grad = 0
        y = w
        for _ in range(pairs):
            y = y * w + b
        y.backward()
        return [y.data, w.grad, b.grad]

    return run

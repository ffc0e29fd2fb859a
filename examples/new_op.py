"""A new op: the Huber loss, derived, checked against finite differences, and used to fit a line. Two seconds.

    python examples/new_op.py

One measurement in ten is far off. The squared error follows those, because its gradient grows with the error; the
gradient of the Huber loss is bounded by delta, so a few outliers cannot pull the line away.
"""

import numpy as np

import autotx
from autotx import Tensor


@autotx.lift
def huber(x, /, delta=1.0):
    """y = x^2 / 2 where |x| <= delta, else delta (|x| - delta / 2).   dx = g clip(x, -delta, delta).

    The derivative is x where |x| <= delta, else delta sign(x); at |x| = delta both pieces have the value delta^2 / 2
    and the slope delta.
    Source: Huber, 1964, "Robust Estimation of a Location Parameter".
    """
    size = np.abs(x)
    y = np.where(size <= delta, x * x / 2, delta * (size - delta / 2))
    return y, (lambda g: g * np.clip(x, -delta, delta),)


def fit(loss, x, y, steps=400):
    """The slope and offset of the line that makes the mean of loss(error) smallest."""
    slope, offset = (Tensor(0.0, requires_grad=True) for _ in range(2))
    optimizer = autotx.optim.Adam([slope, offset], lr=0.05)
    for _ in range(steps):
        loss(x * slope + offset - y).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return slope.item(), offset.item()


def main():
    """Check the op, fit the line 2 x + 1 with both losses, and return both results."""
    point = Tensor([-2.0, -0.3, 0.4, 3.0], requires_grad=True, dtype=np.float64)
    assert autotx.gradcheck(huber, point)
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, 200).astype(np.float32)
    y = 2 * x + 1 + rng.normal(0, 0.1, 200).astype(np.float32)
    y[::10] += 8 * (x[::10] > 0)
    found = {"squared error": fit(lambda e: e * e, x, y), "Huber loss": fit(lambda e: huber(e, delta=0.2), x, y)}
    for name, (slope, offset) in found.items():
        print(f"{name}: y = {slope:.2f} x + {offset:.2f} (the truth: 2 x + 1)")
    return found


if __name__ == "__main__":
    main()

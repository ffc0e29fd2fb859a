"""A small network tells two crescents of points apart that no straight line separates. One second.

python examples/two_moons.py
"""

import numpy as np

import autotx
from autotx import nn


def moons(count, rng):
    """Points (count, 2) on two interlocking half circles, with noise, and which of them each is on (count,)."""
    which, angle = rng.integers(2, size=count), rng.uniform(0, np.pi, count)
    x = np.where(which, 1 - np.cos(angle), np.cos(angle))
    y = np.where(which, 0.5 - np.sin(angle), np.sin(angle))
    return np.stack([x, y], axis=1) + rng.normal(0, 0.1, (count, 2)), which


def main(epochs=20):
    """Train, and return the share of new points that are told apart."""
    rng = np.random.default_rng(0)
    model = nn.Sequential(
        nn.Linear(2, 32, rng=rng), nn.ReLU(), nn.Linear(32, 32, rng=rng), nn.ReLU(), nn.Linear(32, 1, rng=rng)
    )
    optimizer = autotx.optim.Adam(model.parameters(), lr=1e-2)
    points, which = moons(1000, rng)
    for _ in range(epochs):
        for x, y in autotx.batches(points, which, size=64, rng=rng):
            loss = autotx.binary_cross_entropy_with_logits(model(x)[:, 0], y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    points, which = moons(1000, rng)
    with autotx.no_grad():
        right = float(np.mean((model(points)[:, 0] > 0) == which))
    print(f"{right:.1%} of 1,000 new points are told apart")
    return right


if __name__ == "__main__":
    main()

"""A network that answers with a distribution: where y is not a function of x, the mean of all answers is none of them.
Five seconds.

    python examples/mixture_density.py

x = y + 0.3 sin(2 pi y) + noise: for x near 0.5 there are three y. The network gives weights, means and spreads of
normal distributions; what is made small is -ln of the density at the y that was seen.
Source: Bishop, 1994, "Mixture Density Networks".
"""

import math

import numpy as np

import autotx
from autotx import nn


def pairs(count, rng):
    """x and y, both (count, 1)."""
    y = rng.uniform(0, 1, (count, 1))
    return y + 0.3 * np.sin(2 * np.pi * y) + rng.uniform(-0.1, 0.1, (count, 1)), y


class Mixture(nn.Module):
    """The distribution of y, given x, as a mixture of normal distributions."""

    def __init__(self, components, *, rng, hidden=64):
        self.body = nn.Sequential(
            nn.Linear(1, hidden, rng=rng), nn.Tanh(), nn.Linear(hidden, hidden, rng=rng), nn.Tanh()
        )
        self.head = nn.Linear(hidden, 3 * components, rng=rng)

    def loss(self, x, y):
        """The mean of -ln p(y | x), in nats."""
        weight, mean, log_sigma = autotx.chunk(self.head(self.body(x)), 3, axis=1)
        normal = -0.5 * ((y - mean) / log_sigma.exp()) ** 2 - log_sigma - 0.5 * math.log(2 * math.pi)
        return -autotx.logsumexp(weight.log_softmax() + normal, axis=1).mean()


def learn(components, epochs):
    """The loss on new pairs."""
    rng = np.random.default_rng(0)
    model = Mixture(components, rng=rng)
    optimizer = autotx.optim.Adam(model.parameters(), lr=5e-3)
    xs, ys = pairs(1000, rng)
    for _ in range(epochs):
        for x, y in autotx.batches(xs, ys, size=100, rng=rng):
            model.loss(x, y).backward()
            optimizer.step()
            optimizer.zero_grad()
    with autotx.no_grad():
        return model.loss(*pairs(1000, rng)).item()


def main(epochs=120):
    """Train with one and with five normal distributions, and return both losses."""
    losses = learn(1, epochs), learn(5, epochs)
    print(f"-ln p(y | x): {losses[0]:.2f} nats with one normal distribution, {losses[1]:.2f} with five")
    return losses


if __name__ == "__main__":
    main()

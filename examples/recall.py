"""A network reads 30 symbols and has to name the first: an RNN does not learn it, an LSTM does if its gates begin open.
Ten seconds.

    python examples/recall.py

The gradient has to find its way back through 29 steps of noise. In an RNN it vanishes; in an LSTM it is multiplied by
the gate f at each step, which begins near 1/2, unless its bias begins above zero.
Source: Gers et al., 2000; Jozefowicz et al., 2015, "An Empirical Exploration of Recurrent Network Architectures".
"""

import numpy as np

import autotx
from autotx import nn

SYMBOLS, NOISE = 8, 4  # what is to be kept, and what comes after


def sequences(count, length, rng):
    """Sequences (count, length) that begin with one of SYMBOLS and go on with NOISE."""
    ids = SYMBOLS + rng.integers(NOISE, size=(count, length))
    ids[:, 0] = rng.integers(SYMBOLS, size=count)
    return ids


class Reader(nn.Module):
    """Scores of the symbols (B, SYMBOLS), after the last step of a recurrent layer that reads ids (B, T)."""

    def __init__(self, layer, *, rng):
        self.table = nn.Embedding(SYMBOLS + NOISE, 16, rng=rng)
        self.layer = layer
        self.head = nn.Linear(layer.hidden_size, SYMBOLS, rng=rng)

    def forward(self, ids, rng=None):
        states, _ = self.layer(self.table(ids))
        return self.head(states[:, -1])


def learn(layer, steps, length, rng):
    """The share of new sequences of whose first symbol the trained network is right."""
    model = Reader(layer, rng=rng)
    optimizer = autotx.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(steps):
        ids = sequences(64, length, rng)
        loss = autotx.cross_entropy(model(ids), ids[:, 0])
        loss.backward()
        autotx.optim.clip_grad_norm(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    ids = sequences(500, length, rng)
    with autotx.no_grad():
        return float(np.mean(model(ids).argmax(axis=-1) == ids[:, 0]))


def main(steps=300, length=30):
    """Train three networks, and return how often each is right: a dict from its name."""
    rng, H = np.random.default_rng(0), 64
    layers = {"RNN": nn.RNN(16, H, rng=rng), "LSTM": nn.LSTM(16, H, rng=rng), "open LSTM": nn.LSTM(16, H, rng=rng)}
    bias = layers["open LSTM"].bias_hh_l0
    bias.data = bias.data + 3.0 * (np.arange(4 * H) // H == 1)  # the second of four blocks is the gate f
    right = {name: learn(layer, steps, length, rng) for name, layer in layers.items()}
    for name, share in right.items():
        print(f"{name}: right about {share:.0%} of the first symbols (guessing: {1 / SYMBOLS:.0%})")
    return right


if __name__ == "__main__":
    main()

"""A variational autoencoder finds the two numbers that its pictures were made of, without being told. Five seconds.

    python examples/vae.py

A picture of 12 x 12 pixels shows a spot at a random place. The encoder maps it to the mean and spread of two numbers,
the decoder draws it again from a sample of them. What is made small is the negative evidence lower bound: the cost of
the drawing, and of what the two numbers tell (their divergence from the standard normal distribution).
Source: Kingma and Welling, 2014, "Auto-Encoding Variational Bayes".
"""

import numpy as np

import autotx
from autotx import nn

SIZE = 12


def spots(count, rng):
    """Pictures (count, SIZE SIZE) of spots, from 0 to 1, and the places of the spots (count, 2)."""
    places = rng.uniform(2, SIZE - 3, (count, 2))
    far = np.arange(SIZE) - places[:, :, None]  # (count, 2, SIZE)
    return np.exp(-(far[:, 0, :, None] ** 2 + far[:, 1, None] ** 2) / 4).reshape(count, -1), places


class VAE(nn.Module):
    def __init__(self, *, rng, hidden=128):
        self.encoder = nn.Sequential(nn.Linear(SIZE**2, hidden, rng=rng), nn.Tanh(), nn.Linear(hidden, 4, rng=rng))
        self.decoder = nn.Sequential(nn.Linear(2, hidden, rng=rng), nn.Tanh(), nn.Linear(hidden, SIZE**2, rng=rng))

    def loss(self, x, rng):
        """The negative evidence lower bound of pictures, in nats a picture."""
        mean, log_variance = self.encoder(x).split(2, axis=1)
        z = mean + (log_variance / 2).exp() * rng.standard_normal(mean.shape, np.float32)
        drawn = autotx.binary_cross_entropy_with_logits(self.decoder(z), x, reduction="sum")
        told = 0.5 * (mean**2 + log_variance.exp() - log_variance - 1).sum()
        return (drawn + told) / len(x)


def explained(z, places):
    """The share of the variance of the places that a quadratic function of z explains."""
    features = np.column_stack([np.ones(len(z)), z, z**2, z[:, 0] * z[:, 1]])
    rest = places - features @ np.linalg.lstsq(features, places, rcond=None)[0]
    return float(1 - rest.var() / places.var())


def main(epochs=40):
    """Train, and return the loss of new pictures and how well their places are found."""
    rng = np.random.default_rng(0)
    model = VAE(rng=rng)
    optimizer = autotx.optim.Adam(model.parameters(), lr=2e-3)
    pictures, _ = spots(2000, rng)
    for _ in range(epochs):
        for x in autotx.batches(pictures, size=50, rng=rng):
            model.loss(x, rng).backward()
            optimizer.step()
            optimizer.zero_grad()
    pictures, places = spots(500, rng)
    with autotx.no_grad():
        loss = model.loss(pictures, rng).item()
        found = explained(model.encoder(pictures).numpy()[:, :2], places)
    print(f"{loss:.1f} nats a picture; {found:.0%} of the variance of the places is in the two numbers")
    return loss, found


if __name__ == "__main__":
    main()

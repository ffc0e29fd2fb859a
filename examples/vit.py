"""A vision transformer from the library's blocks tells four shapes apart. Ten seconds.

    python examples/vit.py

A picture of 16 x 16 pixels becomes 16 patches of 4 x 4, each a token; a further token collects what is seen.
Source: Dosovitskiy et al., 2021, "An Image is Worth 16x16 Words".
"""

import numpy as np

import autotx
from autotx import Tensor, init, nn
from autotx.models import TransformerConfig
from autotx.models.transformer import EncoderBlock

SIZE, PATCH = 16, 4


def shapes(count, rng):
    """Noisy pictures (count, SIZE, SIZE) of a lying or a standing bar, a cross or a frame, and which (count,)."""
    pictures, kinds = rng.normal(0, 0.3, (count, SIZE, SIZE)).astype(np.float32), rng.integers(4, size=count)
    for picture, kind in zip(pictures, kinds):
        y, x = rng.integers(SIZE - 6, size=2)
        part = picture[y : y + 7, x : x + 7]
        part[3] += kind in (0, 2)
        part[:, 3] += kind in (1, 2)
        if kind == 3:
            part[[0, 6]] += 1
            part[1:6, [0, 6]] += 1
    return pictures, kinds


class ViT(nn.Module):
    def __init__(self, dim=64, depth=2, heads=4, *, rng):
        config = TransformerConfig(vocab_size=4, n_embd=dim, n_head=heads, dropout=0.0, pre_norm=True)
        self.embed = nn.Linear(PATCH * PATCH, dim, rng=rng)
        self.first = Tensor(np.zeros((1, 1, dim), np.float32), requires_grad=True)
        self.positions = Tensor(init.normal((1 + (SIZE // PATCH) ** 2, dim), rng, std=0.02), requires_grad=True)
        self.blocks = [EncoderBlock(config, rng=rng) for _ in range(depth)]
        self.head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 4, rng=rng))

    def forward(self, pictures, rng=None):
        n = SIZE // PATCH
        patches = pictures.reshape(-1, n, PATCH, n, PATCH).swapaxes(2, 3).reshape(-1, n * n, PATCH * PATCH)
        x = self.embed(patches)
        x = autotx.concat([self.first.expand(len(pictures), -1, -1), x], axis=1) + self.positions
        for block in self.blocks:
            x = block(x, rng=rng)
        return self.head(x[:, 0])


def main(steps=300):
    """Train, and return the share of new pictures that are told apart."""
    rng = np.random.default_rng(0)
    model = ViT(rng=rng)
    optimizer = autotx.optim.AdamW(autotx.optim.decay_groups(model, 0.05), lr=1e-3)
    for step in range(1, steps + 1):
        pictures, kinds = shapes(64, rng)
        loss = autotx.cross_entropy(model(pictures), kinds)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            print(f"step {step}: loss {loss.item():.3f}")
    pictures, kinds = shapes(500, rng)
    with autotx.no_grad():
        right = float(np.mean(model(pictures).argmax(axis=-1) == kinds))
    print(f"{right:.1%} of 500 new pictures are told apart")
    return right


if __name__ == "__main__":
    main()

"""A multilayer perceptron learns to read digits that this program draws itself. About three seconds.

    python examples/digits.py

Each digit is a pattern of 5 x 7 pixels, placed at random in an image of 9 x 11 and covered with noise. The network sees
only pixels; after 1,000 steps it reads nearly all of 1,000 images that it was not trained on.
"""

import numpy as np

import autotx
from autotx.models import MLP

PATTERNS = """
01110 00100 01110 11110 00010 11111 00110 11111 01110 01110
10001 01100 10001 00001 00110 10000 01000 00001 10001 10001
10011 00100 00001 00001 01010 11110 10000 00010 10001 10001
10101 00100 00010 01110 10010 00001 11110 00100 01110 01111
11001 00100 00100 00001 11111 00001 10001 00100 10001 00001
10001 00100 01000 00001 00010 10001 10001 00100 10001 00010
01110 01110 11111 11110 00010 01110 01110 00100 01110 01100
"""


def patterns():
    """The ten digits: (10, 7, 5), 1.0 where there is ink."""
    lines = [[[float(pixel) for pixel in word] for word in line.split()] for line in PATTERNS.split("\n") if line]
    return np.array(lines, np.float32).transpose(1, 0, 2)


def images(count, rng):
    """Random images (count, 99) and the digits on them (count,)."""
    digits, labels = patterns(), rng.integers(10, size=count)
    pictures = rng.normal(0, 0.2, (count, 11, 9)).astype(np.float32)
    for picture, label in zip(pictures, labels):
        top, left = rng.integers(5), rng.integers(5)
        picture[top : top + 7, left : left + 5] += digits[label]
    return pictures.reshape(count, -1), labels


def main(steps=1000):
    """Train, print the loss on the way, and return the share of new images that are read correctly."""
    rng = np.random.default_rng(0)
    model = MLP((99, 128, 10), "relu", rng=rng)
    optimizer = autotx.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(1, steps + 1):
        x, y = images(128, rng)
        loss = autotx.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 200 == 0:
            print(f"step {step}: loss {loss.item():.3f}")
    x, y = images(1000, rng)
    with autotx.no_grad():
        guesses = model(x).data.argmax(axis=-1)
    correct = float((guesses == y).mean())
    print(f"{correct:.1%} of 1,000 new images are read correctly")
    return correct


if __name__ == "__main__":
    main()

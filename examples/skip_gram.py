"""Word vectors from what words stand beside each other (word2vec). Five seconds.

    python examples/skip_gram.py

The sentences are drawn at random, each from the words of one of four subjects. The program sees only which words are
neighbours; words of one subject come to lie together. Source: Mikolov et al., 2013, with negative sampling.
"""

import numpy as np

import autotx
from autotx import nn

SUBJECTS = [
    ["king", "queen", "crown", "castle", "throne", "knight"],
    ["bread", "butter", "cheese", "soup", "apple", "salad"],
    ["goal", "ball", "team", "match", "player", "referee"],
    ["rain", "wind", "storm", "cloud", "snow", "thunder"],
]
WORDS = [word for subject in SUBJECTS for word in subject]


def neighbours(sentences, rng, length=8):
    """Pairs (n, 2) of the ids of words that stand beside each other."""
    ids = rng.integers(len(SUBJECTS), size=(sentences, 1)) * 6 + rng.integers(6, size=(sentences, length))
    return np.concatenate([np.stack([ids[:, :-1], ids[:, 1:]], -1), np.stack([ids[:, 1:], ids[:, :-1]], -1)]).reshape(
        -1, 2
    )


class SkipGram(nn.Module):
    """How likely a word is beside another: the sigmoid of the product of a vector of each."""

    def __init__(self, *, rng, dim=16):
        self.words, self.contexts = nn.Embedding(len(WORDS), dim, rng=rng), nn.Embedding(len(WORDS), dim, rng=rng)

    def loss(self, words, contexts, negatives):
        """words, contexts: (B,), neighbours; negatives: (B, K), drawn at random."""
        both = np.concatenate([contexts[:, None], negatives], axis=1)
        scores = autotx.einsum("bd,bkd->bk", self.words(words), self.contexts(both))
        answers = np.zeros(scores.shape, np.float32)
        answers[:, 0] = 1
        return autotx.binary_cross_entropy_with_logits(scores, answers)


def main(epochs=5):
    """Train, and return the share of words whose nearest word is of the same subject."""
    rng = np.random.default_rng(0)
    model = SkipGram(rng=rng)
    optimizer = autotx.optim.Adam(model.parameters(), lr=1e-2)
    pairs = neighbours(500, rng)
    for _ in range(epochs):
        for batch in autotx.batches(pairs, size=128, rng=rng):
            negatives = rng.integers(len(WORDS), size=(len(batch), 5))
            model.loss(batch[:, 0], batch[:, 1], negatives).backward()
            optimizer.step()
            optimizer.zero_grad()
    vectors = model.words.weight.numpy()
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    likeness = vectors @ vectors.T - 2 * np.eye(len(WORDS))
    nearest = likeness.argmax(axis=1)
    for word in ("king", "soup", "rain"):
        print(f"{word}: {', '.join(WORDS[i] for i in np.argsort(-likeness[WORDS.index(word)])[:3])}")
    return float(np.mean(nearest // 6 == np.arange(len(WORDS)) // 6))


if __name__ == "__main__":
    main()

"""An encoder-decoder of two recurrent layers learns to add, from characters alone: "37+85=" becomes "122". Ten seconds.

    python examples/addition.py

The encoder's last state is all that the decoder gets to know of the sum. Source: Sutskever et al., 2014, "Sequence to
Sequence Learning with Neural Networks".
"""

import numpy as np

import autotx
from autotx import nn

CHARACTERS = "0123456789+ "  # a space ends the answer, fills it up, and begins what the decoder reads
ids = np.vectorize(CHARACTERS.index)


def sums(count, rng):
    """Sums (count, 5) and their values (count, 4), as ids of characters. The last digit comes first, as one adds."""
    a, b = rng.integers(100, size=(2, count))
    questions = [list(f"{x:2}+{y:2}") for x, y in zip(a, b)]
    answers = [list(f"{x + y}"[::-1].ljust(4)) for x, y in zip(a, b)]
    return ids(questions), ids(answers)


class Adder(nn.Module):
    def __init__(self, hidden=128, *, rng):
        self.table = nn.Embedding(len(CHARACTERS), 32, rng=rng)
        self.encoder, self.decoder = nn.GRU(32, hidden, rng=rng), nn.GRU(32, hidden, rng=rng)
        self.head = nn.Linear(hidden, len(CHARACTERS), rng=rng)

    def forward(self, questions, before, rng=None):
        """Scores of each next character of the answers, given those before it: (B, T, characters)."""
        _, state = self.encoder(self.table(questions))
        states, _ = self.decoder(self.table(before), state)
        return self.head(states)

    def answers(self, questions):
        """The likeliest character at each step, from those that were written before."""
        written = np.full((len(questions), 1), CHARACTERS.index(" "))
        with autotx.no_grad():
            for _ in range(4):
                scores = self(questions, written)
                written = np.concatenate([written, scores.argmax(axis=-1)[:, -1:]], axis=1)
        return written[:, 1:]


def main(steps=700):
    """Train, and return the share of sums that are right to the last digit."""
    rng = np.random.default_rng(0)
    model = Adder(rng=rng)
    optimizer = autotx.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(1, steps + 1):
        questions, answers = sums(128, rng)
        before = np.pad(answers[:, :-1], ((0, 0), (1, 0)), constant_values=CHARACTERS.index(" "))
        loss = autotx.cross_entropy(model(questions, before), answers)
        loss.backward()
        autotx.optim.clip_grad_norm(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 100 == 0:
            print(f"step {step}: loss {loss.item():.3f}")
    questions, answers = sums(1000, rng)
    right = float(np.mean((model.answers(questions) == answers).all(axis=1)))
    print(f"{right:.1%} of 1,000 sums are right")
    return right


if __name__ == "__main__":
    main()

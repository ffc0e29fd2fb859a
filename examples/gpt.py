"""A small GPT learns a text and continues it, with a training loop of its own. About ten seconds.

    python examples/gpt.py [FILE]

FILE is any UTF-8 text of more than a few thousand characters; without one, the manual that comes with Python. The
command `autotx train` does the same with validation, checkpoints, a schedule and a log.
"""

import sys

import numpy as np

import autotx
from autotx.models import GPT, GPTConfig
from autotx.models.data import random_blocks, read_text
from autotx.models.tokenizers import CharTokenizer


def main(files=(), steps=300):
    """Train, print the loss on the way and a continuation at the end. Returns the last loss, in nats a token."""
    rng = np.random.default_rng(0)
    text = read_text(files)
    tokenizer = CharTokenizer(text)
    ids = tokenizer.encode(text)
    model = GPT(GPTConfig(block_size=64, vocab_size=tokenizer.vocab_size, n_layer=2, n_head=4, n_embd=96), rng)
    optimizer = autotx.optim.AdamW(autotx.optim.decay_groups(model, 0.1), lr=2e-3)
    for step in range(1, steps + 1):
        inputs, targets = random_blocks(ids, 16, 64, rng)
        _, loss = model(inputs, targets)
        loss.backward()
        autotx.optim.clip_grad_norm(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0 or step == steps:
            print(f"step {step}: loss {loss.item():.3f}")
    prompt = tokenizer.encode(text[:20])
    written = model.generate(prompt[None], 200, temperature=0.8, rng=rng)[0]
    print(tokenizer.decode(written))
    return loss.item()


if __name__ == "__main__":
    main(sys.argv[1:])

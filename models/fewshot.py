"""Few-shot (in-context) learning: a GPT does a task that is given only by the examples in its prompt.

A task is a small dictionary: up to four words, each with another word as its value. Every line of the training text has
a new dictionary, and repeats its entries in random order:

    flow>any based>range since>over since>over flow>any

The value of a word differs from line to line, so the GPT can predict it only from earlier entries of the same line.
With the prompt `flow>any based>range flow>` a GPT that has learned this writes `any`; its weights do not change.

A tenth of all pairs of words is held out: no line of the training text has one of them. The GPT is measured on tasks of
held-out pairs alone, so that it has seen the words of a prompt, but none of its pairs.

The words are from Python's manual. The text also has lines with a single entry, which teach copying, the first half of
the skill; without them a small GPT needs many times as many steps.
Source: Brown et al., 2020, "Language Models are Few-Shot Learners"; the whitepaper's passage on GPT-3.
"""

import re
from collections import Counter

import numpy as np

from autotx.models.classifier import padded
from autotx.models.data import read_text
from autotx.modes import no_grad

WORDS = 300
ENTRIES = 4  # the most entries of a dictionary
HELD_OUT = 0.1
LINES, PAIRS_A_LINE = 60_000, 7


class Tasks:
    """Draws tasks: from the held-out pairs of words, or from the others."""

    def __init__(self, seed):
        self.seed, self.words = seed, common_words()
        n = len(self.words)
        self.held_out = np.random.default_rng([seed, 10]).random((n, n)) < HELD_OUT  # (word, value)

    def draw(self, count, held_out, rng):
        """Tasks as indices of words, (count, ENTRIES, 2), all different in a task. held_out: from these pairs or the
        others."""
        pairs = np.argwhere(self.held_out == held_out)
        pairs = pairs[pairs[:, 0] != pairs[:, 1]]
        tasks = np.empty((0, ENTRIES, 2), int)
        while len(tasks) < count:
            drawn = pairs[rng.integers(len(pairs), size=(count, ENTRIES))]
            flat = np.sort(drawn.reshape(count, -1), axis=-1)
            tasks = np.concatenate([tasks, drawn[(np.diff(flat) > 0).all(axis=-1)]])
        return tasks[:count]

    def text(self):
        """The training text: a task of 1 to ENTRIES entries in each line, with no held-out pair."""
        rng = np.random.default_rng([self.seed, 11])
        tasks = self.draw(LINES, False, rng)
        sizes = rng.integers(1, ENTRIES + 1, size=(LINES, 1))
        order = (rng.random((LINES, PAIRS_A_LINE)) * sizes).astype(int)
        return "".join(" ".join(self.pair(task[i]) for i in entries) + "\n" for task, entries in zip(tasks, order))

    def prompts(self, examples, count, held_out):
        """A list of `count` (prompt, answer). A prompt is `examples` different entries of a task, and then the question
        for one of its ENTRIES entries. The same arguments give the same list."""
        rng = np.random.default_rng([self.seed, 12, examples, held_out])
        tasks = self.draw(count, held_out, rng)
        shown = rng.permuted(np.tile(np.arange(ENTRIES), (count, 1)), axis=-1)[:, :examples]
        made = []
        for task, entries, asked in zip(tasks, shown, rng.integers(ENTRIES, size=count)):
            pairs = "".join(f"{self.pair(task[i])} " for i in entries)
            question, _, answer = self.pair(task[asked]).partition(">")
            made.append((f"{pairs}{question}>", answer))
        return made

    def pair(self, entry):
        """An entry as it is written in the text."""
        return f"{self.words[entry[0]]}>{self.words[entry[1]]}"


def common_words():
    """The commonest words of 3 to 5 letters in Python's manual."""
    counts = Counter(re.findall(r"\b[a-z]+\b", read_text(())))
    return [word for word, _ in counts.most_common() if 3 <= len(word) <= 5][:WORDS]


def right_answers(model, tokenizer, prompts):
    """How many of the prompts, a list of (prompt, answer), greedy decoding answers exactly. A line end is put before
    each prompt; a space or a line end must follow the answer."""
    rows = [(tokenizer.encode(f"\n{prompt}"), tokenizer.encode(answer)) for prompt, answer in prompts]
    ids, lengths = padded([np.concatenate(row) for row in rows])
    with no_grad():
        likeliest = model(ids)[0].numpy().argmax(axis=-1)
    ends = {int(tokenizer.encode(end)[0]) for end in " \n"}
    # One forward with the answer as input is enough: up to the first wrong token, greedy decoding has the same input.
    right = 0
    for (prompt, answer), row, length in zip(rows, likeliest, lengths):
        written = row[len(prompt) - 1 : length]
        right += np.array_equal(written[:-1], answer) and int(written[-1]) in ends
    return right


def is_told(prompt):
    """Whether the examples of a prompt have the entry that is asked for."""
    *examples, question = prompt.split(" ")
    return any(example.startswith(question) for example in examples)

"""A GPT does a task that only the examples in its prompt tell it (few-shot, or in-context, learning).

A task is a small dictionary: up to four words, each of which stands for another word. Every line of the text that the
GPT learns from has a new one, and repeats its entries in any order:

    flow>any based>range since>over since>over flow>any

What a word stands for holds for this line alone. So there is nothing to remember but how to use the examples before.
Prompted with `flow>any based>range flow>` a GPT that has learned that writes `any`; its weights do not change.

A tenth of all pairs of words is held out: no line of the training text has one of them. The tasks that the GPT is
measured on are made of held-out pairs alone, so it has seen nothing of what it is told there, only the words.

The words are those of Python's own manual. Lines with one entry are in the text because they teach the first half of
the trick, to copy; without them a small GPT takes many times as long.
Source: Brown et al., 2020, "Language Models are Few-Shot Learners"; the whitepaper's passage on GPT-3.
"""

import re
from collections import Counter

import numpy as np

from autotx.models.classifier import padded
from autotx.models.data import read_text
from autotx.modes import no_grad

WORDS = 300
ENTRIES = 4  # of the largest dictionary
HELD_OUT = 0.1
LINES, PAIRS_A_LINE = 60_000, 7


class Tasks:
    """Dictionaries: which pairs of words are held out, and how tasks are drawn of the others, or of those."""

    def __init__(self, seed):
        self.seed, self.words = seed, common_words()
        n = len(self.words)
        self.held_out = np.random.default_rng([seed, 10]).random((n, n)) < HELD_OUT  # (word, what it stands for)

    def draw(self, count, held_out, rng):
        """(count, ENTRIES, 2) indices of words, all different within a task; its pairs all held out, or none."""
        pairs = np.argwhere(self.held_out == held_out)
        pairs = pairs[pairs[:, 0] != pairs[:, 1]]
        tasks = np.empty((0, ENTRIES, 2), int)
        while len(tasks) < count:
            drawn = pairs[rng.integers(len(pairs), size=(count, ENTRIES))]
            flat = np.sort(drawn.reshape(count, -1), axis=-1)
            tasks = np.concatenate([tasks, drawn[(np.diff(flat) > 0).all(axis=-1)]])
        return tasks[:count]

    def text(self):
        """What is learned from: a task of 1 to ENTRIES entries in each line, none of its pairs held out."""
        rng = np.random.default_rng([self.seed, 11])
        tasks = self.draw(LINES, False, rng)
        sizes = rng.integers(1, ENTRIES + 1, size=(LINES, 1))
        order = (rng.random((LINES, PAIRS_A_LINE)) * sizes).astype(int)
        return "".join(" ".join(self.pair(task[i]) for i in entries) + "\n" for task, entries in zip(tasks, order))

    def prompts(self, examples, count, held_out):
        """A list of (prompt, answer): so many different entries of a task, then the question for any of its entries.

        The same ones every time.
        """
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
        """An entry as it stands in the text."""
        return f"{self.words[entry[0]]}>{self.words[entry[1]]}"


def common_words():
    """The commonest words of 3 to 5 letters in Python's manual."""
    counts = Counter(re.findall(r"\b[a-z]+\b", read_text(())))
    return [word for word, _ in counts.most_common() if 3 <= len(word) <= 5][:WORDS]


def right_answers(model, tokenizer, prompts):
    """How many of the prompts, a list of (prompt, answer), are answered to the letter when the likeliest token is taken
    at every place. A line end stands before each prompt; a space or a line end has to follow the answer."""
    rows = [(tokenizer.encode(f"\n{prompt}"), tokenizer.encode(answer)) for prompt, answer in prompts]
    ids, lengths = padded([np.concatenate(row) for row in rows])
    with no_grad():
        likeliest = model(ids)[0].numpy().argmax(axis=-1)
    ends = {int(tokenizer.encode(end)[0]) for end in " \n"}
    # As long as the likeliest tokens are those of the answer, they are what would be written after the prompt.
    right = 0
    for (prompt, answer), row, length in zip(rows, likeliest, lengths):
        written = row[len(prompt) - 1 : length]
        right += np.array_equal(written[:-1], answer) and int(written[-1]) in ends
    return right


def is_told(prompt):
    """Whether the word that is asked for is among the examples."""
    *examples, question = prompt.split(" ")
    return any(example.startswith(question) for example in examples)

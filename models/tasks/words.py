"""The task of word vectors: tell the neighbours of a word in a text from words drawn at random (models/word2vec.py)."""

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from autotx.models.architecture import Opened
from autotx.models.config import TrainConfig, setting
from autotx.models.data import TRAINING_SHARE, random_blocks, read_text
from autotx.models.run import VECTORS, check_size
from autotx.models.tasks.task import Task, check_product
from autotx.models.tokenizers import WordTokenizer
from autotx.models.vectors import WordVectors, load_vectors
from autotx.models.word2vec import PairSampler
from autotx.text import counted

BLOCK = 128  # consecutive words of the text; both words of a pair are from one block
SHOWN = 10  # words whose neighbours are shown at the end


@dataclass(frozen=True)
class WordsSettings(TrainConfig):
    """The defaults suit a text of a megabyte."""

    defaults: ClassVar[dict] = {"steps": 1500, "lr": 7e-3, "min_lr": 7e-4, "weight_decay": 0.0}

    text: tuple = setting((), "UTF-8 text to learn from, repeat for more (default: Python's manual)", metavar="FILE")
    min_count: int = setting(5, "how often a word must occur to have a vector", at_least=1, at_most=10**9, fixed=True)
    window: int = setting(5, "how many words away a neighbour may be", at_least=1, at_most=BLOCK - 1)
    negatives: int = setting(5, "words drawn at random for each pair of neighbours", at_least=1, at_most=1000)
    subsample: float = setting(1e-4, "words of a larger share of the text are thinned out", at_least=1e-6, at_most=1)
    batch_words: int = setting(4096, "words of text in a batch", at_least=1, at_most=1 << 22)


class WordsTask(Task):
    """A batch is (centers (N,), contexts (N,), drawn (N, K)), as PairSampler makes them. The model is a SkipGram.

    The vocabulary is the words that occur config.min_count times or more in the training part, the commonest first;
    other words are removed from the text. A resumed run computes it again from the text.
    """

    name = "words"
    settings = WordsSettings
    made_by = "autotx train --model word2vec"

    def __init__(self, config, rng, begin=None):
        super().__init__(config)
        check_product("scores in a batch", config, "batch_words", "window", "negatives")
        text = read_text(config.text)
        self.digest = hashlib.sha256(text.encode()).hexdigest()
        cut = int(len(text) * TRAINING_SHARE)
        parts = {"training": split_words(text[:cut]), "validation": split_words(text[cut:])}
        counts = Counter(parts["training"])
        self.words = [word for word, count in counts.most_common() if count >= config.min_count]
        ids = {word: i for i, word in enumerate(self.words)}
        self.training, self.held_out = (np.array([ids[w] for w in part if w in ids], int) for part in parts.values())
        for name, part in zip(parts, (self.training, self.held_out)):
            if len(part) <= BLOCK:
                raise ValueError(
                    f"the text is too short: its {name} part has {len(part)} words that occur {config.min_count} times "
                    f"or more, and must have more than {BLOCK}; give more text or a smaller --min-count"
                )
        kept = np.array([counts[word] for word in self.words])
        self.shares = kept / kept.sum()
        self.sampler = PairSampler(kept, config.window, config.negatives, config.subsample)
        self.blocks = -(-config.batch_words // BLOCK)  # in a batch
        self.model = config.build(len(self.words), rng)

    @classmethod
    def rebuild(cls, config, folder):
        vectors = load_vectors(Path(folder) / VECTORS)
        check_size(folder, config.architecture, config, len(vectors))
        model = config.build(len(vectors), None)
        return Opened(folder, config.architecture, cls, model, config=config, known={"vectors": vectors})

    @classmethod
    def resumed(cls, config, folder):
        return None  # the vocabulary is computed from the text

    @staticmethod
    def word_vectors(opened):
        return opened.known["vectors"]

    def batches(self, place, rng):
        return [self._batch(self.training, rng) for _ in range(self.config.grad_accum)]

    def _batch(self, ids, rng):
        """The pairs of blocks drawn from a part of the text. Drawn again when subsampling leaves no pair."""
        while True:
            blocks, _ = random_blocks(ids, self.blocks, BLOCK, rng)
            batch = self.sampler.sample(blocks, rng)
            if len(batch[0]):
                return batch

    def count(self, batch):
        return len(batch[0])

    def tokens(self, batch):
        return self.blocks * BLOCK

    def loss(self, batch, rng=None):
        return self.model.loss(*batch)

    def validation(self):
        rng = np.random.default_rng([self.config.seed, 3])
        for _ in range(self.config.eval_batches):
            yield self._batch(self.held_out, rng)

    def vectors(self):
        """The current vectors, as WordVectors."""
        return WordVectors(self.words, self.model.words.weight.numpy())

    def export(self, folder):
        self.vectors().save(Path(folder) / VECTORS)

    def introduction(self):
        config = self.config
        return [
            ("text", ", ".join(config.text) or "Python's own manual (give your own with --text FILE)"),
            (
                "",
                f"{len(self.training):,} words to learn from, {len(self.held_out):,} to validate on; "
                f"{len(self.words):,} different ones (--min-count {config.min_count})",
            ),
            (
                "model",
                f"word2vec, skip-gram: vectors of {counted(config.dim, 'number')}, neighbours up to "
                f"{counted(config.window, 'word')} away, {counted(config.negatives, 'drawn word')} a pair",
            ),
        ]

    def show(self):
        print("Some common words, and those whose vectors are nearest:\n")
        vectors = self.vectors()
        for word in self._telling_words():
            print(f"  {word:12}{', '.join(near for near, _ in vectors.nearest(word, 6))}")
        print(f"\nAll vectors are in {Path(self.config.out) / VECTORS}, as word2vec writes them.")

    def _telling_words(self):
        """The SHOWN commonest words after those that make up 60 % of the text, such as "the"."""
        first = np.searchsorted(np.cumsum(self.shares), 0.6) + 1
        return self.words[first : first + SHOWN]

    def next_commands(self, out):
        return [f"autotx nearest --model {out} {word}" for word in self._telling_words()[:1]]


def split_words(text):
    """The words of a text in lower case, in order, without spaces, signs and numbers: a list of str."""
    words = (piece.strip().strip("_") for piece in WordTokenizer.split(text))
    return [word for word in words if word[:1].isalpha()]

"""The task of language models: predict the next token at every position of a text."""

import functools
import os
import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autotx import nn, viz
from autotx.models.config import TrainConfig, flag, setting
from autotx.models.data import TextSource, load_data, random_blocks, read_text
from autotx.models.inference.continuations import stream_text
from autotx.models.prepare import PrepareSettings, prepare
from autotx.models.tasks.task import MOST_TIMED, Task, check_product, checked_text
from autotx.models.token_files import FILE as DATA
from autotx.models.token_files import TokenFiles
from autotx.models.tokenizers import END_OF_TEXT, KINDS, make_tokenizer
from autotx.text import counted

SAMPLE_TOKENS = 300
MOST_SCORES = 1 << 24  # of a batch whose parts are timed: tokens times vocabulary
DRAWN = 8  # tokens of the text that the model is drawn with
LARGE = 20_000_000  # bytes of text that are kept as token files
SEARCHED = 1 << 24  # tokens that are searched for what a text may begin with


@dataclass(frozen=True)
class TextData(TrainConfig):
    """Where the text comes from, and how much of it is read at once."""

    text: tuple = setting(
        (), "UTF-8 text to learn from, repeat for more (default: Python's manual)", metavar="FILE", replaced_by="data"
    )
    data: str = setting("", "learn from token files instead, as autotx prepare makes them", metavar="FOLDER")
    tokenizer_file: str = setting("", "the tokenizer.json of token files that have none of their own", metavar="FILE")
    end_of_text: bool = setting(
        False, "end each --text with a token of its own, so that the model can end", fixed=True, replaced_by="data"
    )
    batch_size: int = setting(12, "blocks of text in a batch", at_least=1, at_most=1 << 16)


@dataclass(frozen=True)
class TextSettings(TextData):
    """The defaults are nanoGPT's for a small GPT on a CPU, but with fewer steps (nanoGPT: 2,000), to keep a first run,
    which also compiles the kernels, short."""

    tokenizer: str = setting(
        "char", "what a token is: a character, a byte, ...", choices=KINDS, fixed=True, replaced_by="data"
    )
    vocab_size: int = setting(
        1024, "how many tokens bpe and word may have", at_least=257, at_most=10**6, fixed=True, replaced_by="data"
    )


def text_source(config, tokenizer=None):
    """The source of a run's tokens (see data.py). tokenizer: that of a trained model; None makes a new one.

    A text of more than LARGE bytes becomes token files in the folder of the run, once.
    """
    folder, kept = Path(config.data), Path(config.out, "data")
    if not config.data and tokenizer and (kept / DATA).is_file():
        folder = kept
    elif not config.data and sum(map(_size, config.text)) <= LARGE:
        text = read_text(config.text, config.end_of_text)
        return TextSource(text, lambda text: tokenizer or make_tokenizer(config.tokenizer, text, config.vocab_size))
    elif not config.data:
        print(f"text    more than {LARGE // 1_000_000} MB: its tokens are kept in {kept}", flush=True)
        names = ("text", "tokenizer", "vocab_size", "seed")  # without a tokenizer, where a model has one
        same = {name: getattr(config, name) for name in names if hasattr(config, name)}
        prepare(PrepareSettings(out=str(kept), **same), tokenizer)
        folder = kept
    source = TokenFiles(folder, config.tokenizer_file)
    if tokenizer and source.tokenizer.to_bytes() != tokenizer.to_bytes():
        raise ValueError(f"--data {folder}: its tokens are of another tokenizer than the model's; prepare it with that")
    return source


def _size(path):
    """The bytes of a file, 0 for one that is not there."""
    return os.path.getsize(path) if os.path.isfile(path) else 0


class TextTask(Task):
    """A batch is (inputs, targets), both (B, T) integers.

    The model is a language model:

        model(ids, targets=None, rng=None)   ids (B, T) -> (scores (B, T, V), the mean loss or None)
        model(ids, targets, rng, scores=False)   (None, the loss), without an array of all scores
        model.hidden(ids, rng=None)          the states that it scores: (B, T, C); for other tasks
        model.head_loss(x, targets, **more)  the loss of states, without an array of all scores; for other tasks
        model.reader(rows, size, matrix)     see inference/pieces.py; its base LanguageModel generates text with it
        model.config                         has block_size, the longest text in tokens, and vocab_size
        model.wte                            the nn.Embedding of its tokens
        model.position_tables()              its position tables, {name: (T, C)}, if it has any
    """

    name = "text"
    settings = TextSettings
    length = "block_size"  # the setting of how many tokens a row of a batch has

    def __init__(self, config, rng, begin=None):
        super().__init__(config)
        check_product("tokens in a step", config, "batch_size", "grad_accum", self.length)
        self.take_data(begin)
        self.model = begin.model if begin else config.build(self.tokenizer.vocab_size, rng)

    def take_data(self, begin):
        """Read what is learned from: set `digest`, `tokenizer` and `opening`, what a text begins with."""
        config, size = self.config, getattr(self.config, self.length)
        source = text_source(config, begin.tokenizer if begin else None)
        self.data = load_data(source, size, flag(self.length))
        self.digest, self.tokenizer = self.data.digest, self.data.tokenizer
        if config.end_of_text and self.tokenizer.end not in self.data.training[:SEARCHED]:
            raise ValueError("--end-of-text: no text ends in the part to learn from; give more texts, each by --text")
        self.opening = self._opening()

    def _opening(self):
        """The prompt when none is given: the end of a text or a line end, if the training part has them, or else the
        first character of the training part."""
        for opening in (END_OF_TEXT, "\n"):
            if self.tokenizer.encode(opening)[0] in self.data.training[:SEARCHED]:
                return opening
        beginnings = (self.tokenizer.decode(self.data.training[:n]) for n in range(1, 9))  # a character: 1 to 4 tokens
        return next((text for text in beginnings if text.strip("\ufffd")), "\n")

    def state(self):
        return {**super().state(), "opening": self.opening}

    @staticmethod
    def example_loss(model):
        count = min(DRAWN, model.config.block_size)
        ids = np.arange(count + 1)[None] % model.config.vocab_size
        return model(ids[:, :-1], ids[:, 1:])[1]

    @staticmethod
    def timed_loss(model, config):
        most = min(MOST_TIMED, MOST_SCORES // model.config.vocab_size)
        columns = min(model.config.block_size, most)
        rows = min(config.batch_size, most // columns)
        ids = np.random.default_rng(0).integers(0, model.config.vocab_size, (rows, columns + 1))
        return lambda: model(ids[:, :-1], ids[:, 1:], scores=False)[1], rows, columns

    @staticmethod
    def replay(model, tokenizer, prompt, target=None):
        """The loss of predicting each token of the prompt after the first, as Task.replay returns it."""
        name = type(model).__name__
        if target is not None:
            raise ValueError(f"--target is for a translator; a {name} is asked for the next token of --prompt itself")
        ids, unknown = tokenizer.encode(prompt), tokenizer.unknown(prompt)
        checked_text("--prompt", ids, unknown, model.config.block_size + 1)
        if len(ids) < 2:
            raise ValueError(
                f"--prompt {prompt!r} is one token; give two or more, for the model is asked what comes next"
            )
        with viz.record():
            _, loss = model(ids[None, :-1], ids[None, 1:])
        about = "At each token it is asked for the one after it."
        rows = {"wte.weight": tokenizer.texts(range(tokenizer.vocab_size))}
        return loss, {"title": f"A {name} reads “{prompt}”", "about": about, "rows": rows}

    def batches(self, place, rng):
        config = self.config
        size = getattr(config, self.length)
        blocks = random_blocks(self.data.training, config.grad_accum * config.batch_size, size, rng)
        return list(zip(*(np.split(part, config.grad_accum) for part in blocks)))

    def count(self, batch):
        return batch[1].size

    def flop(self, batch):
        """The FLOP of the products of a step: for each token 6 by each weight (2 forward, 4 backward; 4 in all by one
        that is frozen), and 12 L T C in attention, as if it read all T. Tables that are looked up do not count.

        Source: Chowdhery et al., 2022, "PaLM", appendix B, "model FLOPs utilization".
        """
        ids, shape = batch[0], self.model.config
        attention = 12 * getattr(shape, "n_layer", 0) * ids.shape[1] * self.model.wte.weight.shape[1]
        return (self._flop_of_weights + attention) * ids.size

    @functools.cached_property
    def _flop_of_weights(self):
        model = self.model
        looked_up = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
        if getattr(model.config, "tied", True):  # the head is this table
            looked_up.discard(id(model.wte.weight))
        return sum((6 if p.requires_grad else 4) * p.size for p in model.parameters() if id(p) not in looked_up)

    def loss(self, batch, rng=None):
        return self.model(*batch, rng=rng, scores=False)[1]

    def validation(self):
        config, rng = self.config, np.random.default_rng([self.config.seed, 3])
        for _ in range(config.eval_batches):
            yield random_blocks(self.data.validation, config.batch_size, getattr(config, self.length), rng)

    def introduction(self):
        config, data = self.config, self.data
        sizes = f"{counted(len(data.training), 'token')} to learn from, {len(data.validation):,} to validate on"
        return [
            ("text", config.data or ", ".join(config.text) or "Python's own manual (give your own with --text FILE)"),
            ("", f"{sizes}; {data.tokenizer.describe()}"),
            *self.about_model(),
        ]

    def about_model(self):
        """The lines of the introduction about the model."""
        what = f"{type(self.model).__name__} of {self.model.num_parameters():,} parameters"
        return [("model", f"{what}: {self.config.describe()}")]

    @property
    def trained(self):
        """The model to be used, after training."""
        return self.model

    def show(self):
        print("A sample of what the model writes:\n")
        rng = np.random.default_rng([self.config.seed, 4])
        print(self.opening.strip(f"\n{END_OF_TEXT}"), end="")
        for piece in stream_text(self.trained, self.tokenizer, self.opening, SAMPLE_TOKENS, temperature=0.8, rng=rng):
            print(piece, end="", flush=True)
        print()

    def next_commands(self, out):
        # Not every text has "The ", but each has its own first words.
        words = ["The ", *self.tokenizer.decode(self.data.training[:1000]).replace(END_OF_TEXT, " ").split()]
        prompt = next((word for word in words if not self.tokenizer.unknown(word)), "")
        return [f"autotx generate --model {out} --prompt {shlex.quote(prompt)}"]

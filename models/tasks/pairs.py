"""The task of translators: learn from pairs of sentences, a source and its translation."""

import functools
import shlex
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from autotx import viz
from autotx.models import pairs
from autotx.models.config import TrainConfig, setting
from autotx.models.inference.beams import translate, translations
from autotx.models.tasks.task import MOST_TIMED, Task, check_product, checked_text
from autotx.models.tokenizers import KINDS, make_tokenizer
from autotx.models.transformer import END, PAD, SPECIALS, START
from autotx.models.vectors import load_embedding, words_of
from autotx.text import counted

SHOWN = 5  # held-out sentences whose translations are shown at the end
DRAWN = 8  # tokens in the example of the model's graph


@dataclass(frozen=True)
class PairsSettings(TrainConfig):
    """The defaults suit the few short pairs that are the data without --pairs."""

    defaults: ClassVar[dict] = {"steps": 1200, "min_lr": 1e-5, "weight_decay": 0.01, "beta2": 0.98}

    pairs: str = setting(
        "", "lines to learn from: source TAB target (default: emoji names, English and Spanish)", metavar="FILE"
    )
    val_pairs: str = setting("", "pairs to validate on (default: a tenth of those to learn from)", metavar="FILE")
    tokenizer: str = setting("word", "what a token is: a character, a byte, ...", choices=KINDS, fixed=True)
    vocab_size: int = setting(10_000, "how many tokens bpe and word may have", at_least=257, at_most=10**6, fixed=True)
    embeddings: str = setting("", "vectors to begin with: word2vec, GloVe, FastText", metavar="FILE", fixed=True)
    freeze_embeddings: bool = setting(False, "leave those vectors as they are", fixed=True)
    batch_tokens: int = setting(
        1000, "tokens in a batch, on the longer side, padding included", at_least=1, at_most=1 << 22, fixed=True
    )
    label_smoothing: float = setting(0.1, "share of the truth that is spread over all words", at_least=0, below=1)

    def __post_init__(self):
        super().__post_init__()
        if self.val_pairs and not self.pairs:
            raise ValueError("--val-pairs is given without --pairs; give the pairs to learn from too")
        if self.freeze_embeddings and not self.embeddings:
            raise ValueError("--freeze-embeddings is given without --embeddings; give a file of word vectors")


class PairsTask(Task):
    """A batch is (source (B, S), target (B, T + 1)), as Sentences makes them.

    The model is a Transformer, or another with the same `loss`, `wte`, `reader` and `config.block_size`.
    """

    name = "pairs"
    settings = PairsSettings
    made_by = "autotx train --model transformer"
    specials = SPECIALS

    def __init__(self, config, rng, begin=None):
        super().__init__(config)
        check_product("tokens in a step", config, "batch_tokens", "grad_accum")
        self.texts = self._read()
        self.digest = pairs.digest(*self.texts)
        if begin:
            self.tokenizer = begin.tokenizer
        else:
            text = "\n".join(pairs.spaced(sentence) for pair in self.texts[0] for sentence in pair)
            self.tokenizer = make_tokenizer(config.tokenizer, text, config.vocab_size)
        self.training, self.held_out = (pairs.Sentences(p, self.tokenizer, config.block_size) for p in self.texts)
        for name, part in (("learn from", self.training), ("validate on", self.held_out)):
            if not part.pairs:
                raise ValueError(f"no pair is left to {name} within --block-size {config.block_size}; give more")
        self.model = begin.model if begin else config.build(SPECIALS + self.tokenizer.vocab_size, rng)
        # The checkpoint of a resumed run has the vectors, so their file is not read again.
        self.found = self._take_embeddings(rng) if config.embeddings and not begin else None
        self.model.wte.weight.requires_grad = not config.freeze_embeddings
        self.per_epoch = len(self._epoch_batches(0))

    @staticmethod
    def example_loss(model):
        words = SPECIALS + np.arange(min(DRAWN, model.config.block_size) - 2) % (model.config.vocab_size - SPECIALS)
        return model.loss(np.array([[*words, END]]), np.array([[START, *words, END]]))

    @staticmethod
    def timed_loss(model, config):
        columns = min(16, model.config.block_size - 1)
        rows = max(1, min(config.batch_tokens, MOST_TIMED) // columns)
        ids = np.random.default_rng(0).integers(SPECIALS, model.config.vocab_size, (rows, columns + 1))
        return lambda: model.loss(ids, ids), rows, columns

    @staticmethod
    def replay(model, tokenizer, prompt, target=None):
        """The loss of translating the prompt to the target (by default the model's own), as Task.replay returns it."""
        size = model.config.block_size
        source = pairs.encode(tokenizer, prompt)
        checked_text("--prompt", source, tokenizer.unknown(pairs.spaced(prompt)), size)
        if target is None:
            answer = np.asarray(translate(model, np.asarray(source)[None])[0][0].ids)
            target = pairs.decode(tokenizer, answer)
            answer = answer[answer >= SPECIALS][: size - 1]
        else:
            answer = pairs.encode(tokenizer, target)
            answer = answer[answer >= SPECIALS]
            checked_text("--target", answer, tokenizer.unknown(pairs.spaced(target)), size - 1)
        with viz.record():
            loss = model.loss(np.asarray(source)[None], np.array([[START, *answer, END]]))
        tables = {name for name, _ in model.named_parameters()} & {"wte.weight", "target_wte.weight", "out.weight"}
        rows = dict.fromkeys(tables, pairs.names(tokenizer, range(SPECIALS + tokenizer.vocab_size)))
        about = f"It is asked for “{target}”, word by word."
        return loss, {"title": f"A transformer translates “{prompt}”", "about": about, "rows": rows}

    def _read(self):
        """The pairs to learn from and the pairs to validate on, two lists."""
        config, rng = self.config, np.random.default_rng([self.config.seed, 5])
        if config.val_pairs:
            return pairs.read_pairs(config.pairs), pairs.read_pairs(config.val_pairs, "--val-pairs")
        given = pairs.read_pairs(config.pairs) if config.pairs else pairs.emoji_pairs()
        training, held_out = pairs.split_pairs(given, rng)
        if not held_out:
            raise ValueError(f"--pairs {config.pairs}: too few pairs to keep some for validation; give --val-pairs")
        return training if config.pairs else [*training, pairs.PAPER], held_out

    def _take_embeddings(self, rng):
        """Set the source's table (the only one, when tied) to the given vectors. Returns how many words have one."""
        words, C = [None] * SPECIALS + words_of(self.tokenizer), self.config.n_embd
        table, found = load_embedding(self.config.embeddings, words, C, rng=rng, std=C**-0.5)
        self.model.wte.weight.data = table.weight.data
        return found

    @property
    def stride(self):
        return self.config.grad_accum

    def batches(self, place, rng):
        """As in Task. place: the number of batches since the start of the run."""
        return [self._batch(place + i) for i in range(self.stride)]

    def _batch(self, number):
        """The batch with this number since the start. It depends on the number and the seed alone."""
        epoch, place = divmod(number, self.per_epoch)
        return self.training.batch(self._epoch_batches(epoch)[place])

    @functools.lru_cache(maxsize=1)  # noqa: B019  (a process has one task)
    def _epoch_batches(self, epoch):
        return self.training.batches(self.config.batch_tokens, np.random.default_rng([self.config.seed, 1, epoch]))

    def count(self, batch):
        return int((batch[1][:, 1:] != PAD).sum())

    def loss(self, batch, rng=None):
        # Validation, which gives no rng, measures the loss without label smoothing.
        return self.model.loss(*batch, self.config.label_smoothing if rng is not None else 0.0, rng)

    def validation(self):
        rng = np.random.default_rng([self.config.seed, 3])
        for indices in self.held_out.batches(self.config.batch_tokens, rng)[: self.config.eval_batches]:
            yield self.held_out.batch(indices)

    def introduction(self):
        config, model, left_out = self.config, self.model, self.training.left_out + self.held_out.left_out
        longer = f"; left out as longer than --block-size {config.block_size}: {left_out:,}" if left_out else ""
        learned, held_out = set(self.texts[0]), self.texts[1]
        repeated = sum(pair in learned for pair in held_out)
        notes = [("", f"of those to validate on, also among those to learn from: {repeated:,}")] if repeated else []
        return [
            ("pairs", config.pairs or "the names of emoji, English and Spanish (give your own with --pairs FILE)"),
            ("", f"{len(self.training.pairs):,} to learn from, {len(self.held_out.pairs):,} to validate on{longer}"),
            *notes,
            ("", f"batches an epoch: {self.per_epoch:,}; {self.tokenizer.describe()}"),
            *self._vectors(),
            ("model", f"{type(model).__name__} of {model.num_parameters():,} parameters: {config.describe()}"),
        ]

    def _vectors(self):
        if self.found is None:
            return []
        how = "frozen" if self.config.freeze_embeddings else "trained further"
        return [("vectors", f"{counted(self.found, 'word')} from {self.config.embeddings}, {how}")]

    def show(self):
        held_out = self.texts[1]
        if not self.config.pairs:
            print(f'"{pairs.PAPER[0]}" becomes "{self._translate([pairs.PAPER[0]])[0]}".')
            for name, part in (("learned", self.texts[0]), ("held out of training", held_out)):
                written = self._translate([source for source, _ in part])
                # A source may occur with several targets, each of which counts as right.
                right = sum((source, target) in set(part) for (source, _), target in zip(part, written))
                new = sum(bool(self.tokenizer.unknown(pairs.spaced(" ".join(pair)))) for pair in part)
                note = f"; {new:,} have a word that is in no learned one" if new else ""
                print(f"Of {len(part):,} names {name} it translates {right:,} to the letter{note}.")
        print("\nSome that it has not seen:")
        for (source, target), written in zip(held_out[:SHOWN], self._translate([s for s, _ in held_out[:SHOWN]])):
            print(f"  {source}\n    {written}\n    (held-out translation: {target})")

    def _translate(self, sentences):
        return [best[0].text for best in translations(self.model, self.tokenizer, sentences)]

    def next_commands(self, out):
        sentence = shlex.quote(pairs.PAPER[0] if not self.config.pairs else self.texts[1][0][0])
        return [f"autotx translate --model {out} {sentence}"]

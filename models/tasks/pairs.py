"""A Transformer learns to translate pairs of sentences."""

import functools
import shlex

import numpy as np

from autotx.models.inference.beams import translations
from autotx.models.load import make_transformer
from autotx.models.pairs import PAPER, Sentences, digest, emoji_pairs, read_pairs, spaced, split_pairs
from autotx.models.tasks.task import Task
from autotx.models.tokenizers import load_tokenizer, make_tokenizer
from autotx.models.transformer import PAD, SPECIALS
from autotx.models.vectors import load_embedding, words_of
from autotx.text import counted

SHOWN = 5  # held-out sentences that are shown translated at the end


class PairsTask(Task):
    """config: TransformerTrainConfig. A batch is (source (B, S), target (B, T + 1)), as Sentences makes them."""

    def __init__(self, config, rng, folder=None):
        super().__init__(config)
        self.texts = self._read()
        self.digest = digest(*self.texts)
        if folder:
            self.tokenizer = load_tokenizer(folder)
        else:
            text = "\n".join(spaced(sentence) for pair in self.texts[0] for sentence in pair)
            self.tokenizer = make_tokenizer(config.tokenizer, text, config.vocab_size)
        self.training, self.held_out = (Sentences(p, self.tokenizer, config.block_size) for p in self.texts)
        for name, part in (("learn from", self.training), ("validate on", self.held_out)):
            if not part.pairs:
                raise ValueError(f"no pair is left to {name} within --block-size {config.block_size}; give more")
        self.model = make_transformer(config, self.tokenizer, rng)
        # In a resumed run they are in the checkpoint, and their file may be gone.
        self.found = self._take_embeddings(rng) if config.embeddings and not folder else None
        self.model.wte.weight.requires_grad = not config.freeze_embeddings
        self.per_epoch = len(self._epoch_batches(0))

    def _read(self):
        """The pairs to learn from, and those to validate on."""
        config, rng = self.config, np.random.default_rng([self.config.seed, 5])
        if config.val_pairs:
            return read_pairs(config.pairs), read_pairs(config.val_pairs, "--val-pairs")
        training, held_out = split_pairs(read_pairs(config.pairs) if config.pairs else emoji_pairs(), rng)
        if not held_out:
            raise ValueError(f"--pairs {config.pairs}: too few pairs to keep some for validation; give --val-pairs")
        return training if config.pairs else [*training, PAPER], held_out

    def _take_embeddings(self, rng):
        """Begin the source's table (the only one, when tied) with given vectors. Returns how many words have one."""
        words, C = [None] * SPECIALS + words_of(self.tokenizer), self.config.n_embd
        table, found = load_embedding(self.config.embeddings, words, C, rng=rng, std=C**-0.5)
        self.model.wte.weight.data = table.weight.data
        return found

    def batches(self, step, rng):
        accumulated = self.config.grad_accum
        return [self._batch(step * accumulated + i) for i in range(accumulated)]

    def _batch(self, number):
        """The batch with this number since the run began. Number and seed decide, so there is nothing to save."""
        epoch, place = divmod(number, self.per_epoch)
        return self.training.batch(self._epoch_batches(epoch)[place])

    @functools.lru_cache(maxsize=1)  # noqa: B019  (one task a process)
    def _epoch_batches(self, epoch):
        return self.training.batches(self.config.batch_tokens, np.random.default_rng([self.config.seed, 1, epoch]))

    def count(self, batch):
        return int((batch[1][:, 1:] != PAD).sum())

    def loss(self, batch, rng=None):
        # Without dropout it is a validation, and measures the model itself: no smoothing.
        return self.model.loss(*batch, self.config.label_smoothing if rng is not None else 0.0, rng)

    def validation(self):
        rng = np.random.default_rng([self.config.seed, 3])
        for indices in self.held_out.batches(self.config.batch_tokens, rng)[: self.config.eval_batches]:
            yield self.held_out.batch(indices)

    def introduction(self):
        config, left_out = self.config, self.training.left_out + self.held_out.left_out
        longer = f"; left out as longer than --block-size {config.block_size}: {left_out:,}" if left_out else ""
        return [
            ("pairs", config.pairs or "the names of emoji, English and Spanish (give your own with --pairs FILE)"),
            ("", f"{len(self.training.pairs):,} to learn from, {len(self.held_out.pairs):,} to validate on{longer}"),
            ("", f"batches an epoch: {self.per_epoch:,}; {self.tokenizer.describe()}"),
            *self._vectors(),
            (
                "model",
                f"Transformer of {self.model.num_parameters():,} parameters: "
                f"{counted(config.n_layer, 'layer')} on each side, {counted(config.n_head, 'head')}, "
                f"{config.n_embd} channels",
            ),
        ]

    def _vectors(self):
        if self.found is None:
            return []
        how = "frozen" if self.config.freeze_embeddings else "trained further"
        return [("vectors", f"{counted(self.found, 'word')} from {self.config.embeddings}, {how}")]

    def show(self):
        held_out = self.texts[1]
        if not self.config.pairs:
            print(f'"{PAPER[0]}" becomes "{self._translate([PAPER[0]])[0]}".')
            for name, pairs in (("learned", self.texts[0]), ("held out of training", held_out)):
                written = self._translate([source for source, _ in pairs])
                # A source may have several translations, each of which is right.
                right = sum((source, target) in set(pairs) for (source, _), target in zip(pairs, written))
                new = sum(bool(self.tokenizer.unknown(spaced(" ".join(pair)))) for pair in pairs)
                note = f"; {new:,} have a word that is in no learned one" if new else ""
                print(f"Of {len(pairs):,} names {name} it translates {right:,} to the letter{note}.")
        print("\nSome that it has not seen:")
        for (source, target), written in zip(held_out[:SHOWN], self._translate([s for s, _ in held_out[:SHOWN]])):
            print(f"  {source}\n    {written}\n    (held-out translation: {target})")

    def _translate(self, sentences):
        return [best[0].text for best in translations(self.model, self.tokenizer, sentences)]

    def next_commands(self, out):
        sentence = shlex.quote(PAPER[0] if not self.config.pairs else self.texts[1][0][0])
        return [f"autotx translate --model {out} {sentence}"]

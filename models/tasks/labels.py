"""The task of classifiers: fine-tune a pre-trained language model to label texts, with its own loss as an auxiliary."""

import dataclasses
import hashlib
import shlex
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from autotx.files import checked, entry, read_json, to_json, write_atomically
from autotx.models.architecture import Opened
from autotx.models.classifier import Classifier, check_known, padded, predict
from autotx.models.comm import ALONE
from autotx.models.config import TrainConfig, setting
from autotx.models.data import read_columns
from autotx.models.run import LABELS, read_shape
from autotx.models.tasks.task import Task, check_product
from autotx.models.tokenizers import load_tokenizer
from autotx.text import counted

SHOWN = 5  # labels that the introduction lists


class Line(NamedTuple):
    """A labelled text. place: the flag, file and line that it comes from, for errors."""

    text: str
    label: str
    place: str


@dataclass(frozen=True)
class LabelsSettings(TrainConfig):
    """The model's shape and its tokenizer are those of the pre-trained model."""

    defaults: ClassVar[dict] = {
        "steps": 100, "lr": 5e-4, "min_lr": 0.0, "warmup_steps": 10, "weight_decay": 0.01, "eval_interval": 25,
    }  # fmt: skip

    init: str = setting("", None, fixed=True)  # a language model, the --model of autotx finetune
    labels: str = setting("", "labelled texts to learn from, in lines: text TAB label", metavar="FILE")
    held_out: str = setting("", "labelled texts to measure on (default: a share of --labels)", metavar="FILE")
    held_out_share: float = setting(0.2, "that share, the same of every label", above=0, below=1, fixed=True)
    from_scratch: bool = setting(False, "begin with random weights: is the pre-training worth anything?", fixed=True)
    lm_weight: float = setting(
        0.5, "the weight of the language model's loss beside the labels'", at_least=0, at_most=1e6
    )
    dropout: float = setting(0.1, "share of activations dropped in training", at_least=0, below=1)
    batch_size: int = setting(32, "texts in a batch", at_least=1, at_most=1 << 16)
    eval_batches: int = setting(
        40, "batches for the validation loss; the accuracy is of all", at_least=1, at_most=10_000
    )

    def __post_init__(self):
        super().__post_init__()
        if not self.init:
            raise ValueError("no pre-trained model is given; give the folder of its run by --model DIR")
        if not self.labels:
            raise ValueError("no labelled texts are given; give a file of them by --labels FILE")


class LabelsTask(Task):
    """A batch is (ids (B, T), lengths (B,), classes (B,)), padded on the right.

    The loss is the mean over texts of -log P(label | text) - lm_weight / m sum_i log P(u_i | u_1, ..., u_(i-1)), where
    m is the average number of predicted tokens in a training text. That is L3 = L2 + lambda L1, each text with the same
    weight in L2 and each token with the same weight in L1, however they are spread over batches.
    """

    name = "labels"
    settings = LabelsSettings
    begins = True
    makes = "classifier"
    made_by = "autotx finetune"

    def __init__(self, config, rng, begin):
        super().__init__(config)
        check_product("texts in a step", config, "batch_size", "grad_accum")
        self.texts, self.held_out_texts = read_parts(config)
        self.labels = sorted({line.label for line in self.texts})
        content = repr([[line[:2] for line in part] for part in (self.texts, self.held_out_texts)])
        self.digest = hashlib.sha256(content.encode()).hexdigest()
        self.tokenizer = begin.tokenizer
        if begin.task is LabelsTask:
            self.model = begin.model
            if begin.known["labels"] != self.labels:
                raise ValueError(
                    f"--resume: the labels are not those that the run in {begin.path} began with; restore them"
                )
        else:
            self.model = self._from_pretrained(begin.model, rng)
        self.training, self.held_out = self._encode(self.texts), self._encode(self.held_out_texts)
        self.cut = sum(len(ids) > self.block_size for ids, _ in self.training + self.held_out)
        self.to_predict = np.mean([min(len(ids), self.block_size) - 1 for ids, _ in self.training])

    def _from_pretrained(self, pretrained, rng):
        config = self.config
        shape = dataclasses.replace(pretrained.config, dropout=config.dropout)
        fresh = type(pretrained)(shape, rng if config.from_scratch else None)
        if not config.from_scratch:
            fresh.load_state_dict(pretrained.state_dict())
        return Classifier(fresh, len(self.labels), rng)

    @classmethod
    def rebuild(cls, config, folder):
        """As in Task. The labels and the shape are in classifier.json, so the pre-trained model is not needed."""
        path, tokenizer, architecture = Path(folder) / LABELS, load_tokenizer(folder), config.architecture
        saved = read_json(path)
        labels = [checked(label, str, "labels", path) for label in entry(saved, "labels", list, path)]
        sizes = {**entry(saved, "shape", dict, path), "dropout": config.dropout}
        shape = read_shape(sizes, path, architecture, tokenizer.vocab_size)
        model = Classifier(architecture.model(shape, None), len(labels), None)
        return Opened(folder, architecture, cls, model, tokenizer, config, {"labels": labels})

    def _encode(self, lines):
        """A list of (ids, class). ValueError for a character or word that the pre-training text does not have."""
        for line in lines:
            check_known(self.tokenizer, line.text, line.place)
        classes = {label: i for i, label in enumerate(self.labels)}
        return [(self.tokenizer.encode(line.text), classes[line.label]) for line in lines]

    @property
    def block_size(self):
        return self.model.language_model.config.block_size

    @property
    def stride(self):
        return self.config.grad_accum * self.config.batch_size

    def batches(self, place, rng):
        """As in Task. Each epoch has its own order, given by the seed. place: the number of texts since the start."""
        texts = [self.training[self._text_at(place + i)] for i in range(self.stride)]
        size = self.config.batch_size
        return [self._batch(texts[b : b + size]) for b in range(0, len(texts), size)]

    def _text_at(self, number):
        """The index of the text that is at this place, counted over all epochs."""
        epoch, place = divmod(number, len(self.training))
        return np.random.default_rng([self.config.seed, 1, epoch]).permutation(len(self.training))[place]

    def _batch(self, examples):
        rows, classes = zip(*examples)
        return *padded([ids[: self.block_size] for ids in rows]), np.array(classes)

    def count(self, batch):
        return len(batch[2])

    def tokens(self, batch):
        return int(batch[1].sum())

    def loss(self, batch, rng=None):
        classes, words = self.model.losses(*batch, rng=rng)
        if self.to_predict:
            classes = classes + words * (self.config.lm_weight / self.to_predict)
        return classes * (1 / self.count(batch))

    def validation(self):
        size = self.config.batch_size
        order = np.random.default_rng([self.config.seed, 3]).permutation(len(self.held_out))
        for first in range(0, len(order), size)[: self.config.eval_batches]:
            yield self._batch([self.held_out[i] for i in order[first : first + size]])

    def validate(self, comm=ALONE):
        right = sum(self._right())
        return super().validate(comm) | {"val_accuracy": right / len(self.held_out)}

    def _right(self):
        """For each held-out text, whether its label is the likeliest one: booleans (N,)."""
        p = predict(self.model, self.tokenizer, [line.text for line in self.held_out_texts])
        return p.argmax(axis=-1) == [label for _, label in self.held_out]

    def save(self, folder):
        super().save(folder)
        shape = dataclasses.asdict(self.model.language_model.config)
        write_atomically(Path(folder) / LABELS, to_json({"labels": self.labels, "shape": shape}))

    def introduction(self):
        config, model = self.config, self.model.language_model
        repeated = len({line.text for line in self.texts} & {line.text for line in self.held_out_texts})
        notes = [
            f"{counted(len(self.texts), 'text')} to learn from, {len(self.held_out_texts):,} held out; "
            f"{len(self.labels)} labels: {_counts(self.texts)}"
        ]
        if self.cut:
            notes.append(f"longer than {counted(self.block_size, 'token')}, so that the end is cut off: {self.cut:,}")
        if repeated:
            notes.append(f"of those held out, also among those to learn from: {repeated:,}")
        begin = "random weights" if config.from_scratch else f"the weights of {config.init}"
        return [
            ("labels", config.labels),
            *(("", note) for note in notes),
            (
                "model",
                f"{type(model).__name__} of {model.num_parameters():,} parameters from {begin}, and a head of "
                f"{self.model.head.weight.size:,}; blocks of {counted(self.block_size, 'token')}",
            ),
        ]

    def show(self):
        right = self._right()
        common = Counter(line.label for line in self.texts).most_common(1)[0][0]
        guessed = sum(line.label == common for line in self.held_out_texts)
        print(
            f"The label is right for {sum(right):,} of {counted(len(right), 'held-out text')} ({np.mean(right):.1%}).\n"
            f'The commonest label of training, "{common}", for all would be right for {guessed:,} '
            f"({guessed / len(right):.1%})."
        )
        width = max(map(len, self.labels))
        for label in self.labels:
            hits = right[[line.label == label for line in self.held_out_texts]]
            print(f"  {label:{width}}  {sum(hits):,} of {len(hits):,}")

    def next_commands(self, out):
        return [f"autotx classify --model {out} {shlex.quote(self.held_out_texts[0].text)}"]


def read_parts(config):
    """The lines to learn from and the held-out lines, two lists of Line.

    Without --held-out, a share of every label's lines is held out, drawn by the seed.
    ValueError for files that cannot be used, for fewer than two labels, for a held-out label that is not learned, and,
    without --held-out, for a label with a single line.
    """
    lines = read_lines("--labels", config.labels)
    counts = Counter(line.label for line in lines)
    if len(counts) < 2:
        raise ValueError(f'--labels {config.labels}: all lines have the label "{lines[0].label}"; give two or more')
    if config.held_out:
        held_out = read_lines("--held-out", config.held_out)
        for line in held_out:
            if line.label not in counts:
                raise ValueError(f'{line.place}: the label "{line.label}" is not among those of {config.labels}')
        return lines, held_out
    for line in lines:
        if counts[line.label] == 1:
            raise ValueError(
                f'{line.place}: the label "{line.label}" has this line alone, none is left to hold out; give it '
                "another, or all held-out lines by --held-out FILE"
            )
    return _split(lines, config.held_out_share, np.random.default_rng([config.seed, 5]))


def read_lines(flag, path):
    """The labelled texts of a file, a list of distinct Lines. Errors as in data.read_columns."""
    lines = {}
    for place, text, label in read_columns(flag, path, ("text", "label")):
        lines.setdefault((text, label), Line(text, label, place))
    return list(lines.values())


def _split(lines, share, rng):
    """Hold out `share` of the lines of every label, but at least one line and not all. Returns (the others, these)."""
    held_out = set()
    for label in sorted({line.label for line in lines}):
        own = [i for i, line in enumerate(lines) if line.label == label]
        count = min(max(1, round(share * len(own))), len(own) - 1)
        held_out.update(own[i] for i in rng.permutation(len(own))[:count])
    parts = ([], [])
    for i, line in enumerate(lines):
        parts[i in held_out].append(line)
    return parts


def _counts(lines):
    """The labels and their numbers of lines, the commonest first, as a text."""
    counts = [f"{label} ({count:,})" for label, count in Counter(line.label for line in lines).most_common()]
    return ", ".join(counts[:SHOWN]) + (", ..." if len(counts) > SHOWN else "")

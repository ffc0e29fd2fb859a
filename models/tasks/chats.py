"""The task of going on with a trained language model on conversations: it learns what the assistant says in them."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from autotx.models import conversations
from autotx.models.architecture import Opened
from autotx.models.chat import Conversation
from autotx.models.config import setting
from autotx.models.tasks.tune import Begun, TuneTask
from autotx.text import counted

ANSWER_TOKENS = 80  # of the answer that is shown at the end


@dataclass(frozen=True)
class ChatsSettings(Begun):
    """The settings of a run that goes on with a model on conversations."""

    defaults: ClassVar[dict] = {**Begun.defaults, "out": "runs/chats"}

    chats: tuple = setting(
        (), 'conversations to learn from, a line each: {"messages": [...]}; repeat for more', metavar="FILE"
    )
    val_chats: tuple = setting((), "conversations to validate on (default: a tenth of --chats)", metavar="FILE")
    batch_size: int = setting(4, "conversations in a batch", at_least=1, at_most=1 << 16)

    def __post_init__(self):
        super().__post_init__()
        if not self.chats:
            raise ValueError("--val-chats: no conversations are given to learn from; give them by --chats")


class ChatsTask(TuneTask):
    """A batch is (inputs, targets, counted), each (B, T), as conversations.batch makes it: the targets that count are
    the assistant's tokens. The loss is their mean, each with the same weight, however they are spread over batches."""

    name = "chats"
    settings = ChatsSettings
    flag = "--chats"

    def take_data(self, begin):
        config = self.config
        template, self.tokenizer = Conversation.template_of(begin), begin.tokenizer
        chats = conversations.read_chats("--chats", config.chats)
        if config.val_chats:
            parts = chats, conversations.read_chats("--val-chats", config.val_chats)
        elif len(chats) > 1:
            parts = conversations.split_chats(chats, np.random.default_rng([config.seed, 5]))
        else:
            raise ValueError(f"{chats[0].place}: it is the only conversation, none is left to validate on; give more")
        self.digest, self.opening = conversations.digest(*parts), "\n"
        self.question = next(m["content"] for m in parts[1][0].messages if m["role"] != "system")
        examples = [[conversations.encode(chat, self.tokenizer, template) for chat in part] for part in parts]
        (self.training, self.cut), (self.held_out, cut) = (
            conversations.fitted(part, config.length) for part in examples
        )
        self.cuts = {"learn from": self.cut, "validate on": cut}
        for what, part in zip(self.cuts, (self.training, self.held_out)):
            if not part:
                raise ValueError(f"no answer is left to {what} within --length {config.length}; give a larger one")

    @property
    def stride(self):
        return self.config.grad_accum * self.config.batch_size

    def batches(self, place, rng):
        """As in Task. Each epoch has its own order, given by the seed. place: conversations since the start."""
        size, found = self.config.batch_size, [self.training[self._at(place + i)] for i in range(self.stride)]
        return [conversations.batch(found[b : b + size]) for b in range(0, len(found), size)]

    def _at(self, number):
        """The index of the conversation that is at this place, counted over all epochs."""
        epoch, place = divmod(number, len(self.training))
        return np.random.default_rng([self.config.seed, 1, epoch]).permutation(len(self.training))[place]

    def count(self, batch):
        return int(batch[2].sum())

    def tokens(self, batch):
        return batch[0].size

    def loss(self, batch, rng=None):
        inputs, targets, counted = batch
        states = self.model.hidden(inputs, rng)[np.nonzero(counted)]  # only these are scored
        return self.model.head_loss(states, targets[counted])

    def validation(self):
        size = self.config.batch_size
        order = np.random.default_rng([self.config.seed, 3]).permutation(len(self.held_out))
        for first in range(0, len(order), size)[: self.config.eval_batches]:
            yield conversations.batch([self.held_out[i] for i in order[first : first + size]])

    def introduction(self):
        said = sum(int(example.said[1:].sum()) for example in self.training)
        tokens = sum(len(example.ids) for example in self.training)
        sizes = f"{counted(len(self.training), 'conversation')} to learn from, {len(self.held_out):,} to validate on"
        notes = [sizes, f"of {counted(tokens, 'token')} to learn from {said:,} are the assistant's, which it learns"]
        for what, cut in self.cuts.items():
            for count, lost, how in (
                (cut.shortened, cut.tokens, f"cut off after {self.config.length} tokens"),
                (cut.left_out, cut.left_out_tokens, "left out, for the first answer comes after those"),
            ):
                if count:
                    notes.append(f"to {what}: {counted(lost, 'token')} of {counted(count, 'conversation')} {how}")
        return [("chats", ", ".join(self.config.chats)), *(("", note) for note in notes), *self.about_model()]

    def show(self):
        opened = Opened(
            Path(self.config.out), self.config.architecture, type(self), self.trained, self.tokenizer,
            known=self.known,
        )  # fmt: skip
        chat = Conversation(opened, min(self.model.config.block_size, 2048))
        print(f"Its answer to “{self.question}”:\n")
        chat.ask(self.question)
        for piece in chat.answer(temperature=0, max_new_tokens=ANSWER_TOKENS):
            print(piece, end="", flush=True)
        print()

    def next_commands(self, out):
        return [f"autotx chat --model {out}"]

"""A conversation with a language model, kept within the tokens that the model reads at once."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from autotx.models.architecture import Opened
from autotx.models.chat_template import ChatTemplate
from autotx.models.inference.pieces import in_common
from autotx.types import ArrayLike

ANSWER = 256  # tokens that are kept free for an answer, or a quarter of all


@dataclass
class Turn:
    question: str
    answer: str = ""


class Left(NamedTuple):
    """A turn that no longer fits, so the model does not see it any more."""

    number: int  # from 1
    question: str
    tokens: int


class Conversation:
    """What was said to a model and what it answered. `ask` adds a question, `answer` gives the answer as it is made.

    opened: a language model with a chat template. size: how many tokens it reads at once; None for as many as it can.
    system: what it is told before all turns, or None.
    ValueError for a model without a chat template, and for a system message that leaves no room.
    """

    def __init__(self, opened: Opened, size: int | None = None, system: str | None = None):
        self.tokenizer: Any = opened.tokenizer
        self.template = self.template_of(opened)
        self.reader = opened.model.reader(1, size)
        self.size, self.system = int(self.reader.size), system
        self.turns: list[Turn] = []
        self.first = 0  # the first turn that the model still sees
        self.cut = False  # whether the last answer ended because all tokens were used
        self.read_ids: list[int] = []  # the tokens that the reader has read
        self._ids: list[int] = []  # the prompt of the last question
        self._check(self._prompt(0, [Turn("")]))

    @staticmethod
    def template_of(opened: Opened) -> ChatTemplate:
        """The chat template of a model. ValueError for one that has none."""
        source, tokenizer = opened.known.get("template"), opened.tokenizer
        if not isinstance(source, str):
            raise ValueError(
                f"{opened.path} has no chat template, so it has not learned to converse; try autotx generate"
            )
        marks = {"bos_token": tokenizer.start, "eos_token": tokenizer.end}
        texts = {name: "" if i is None else tokenizer.pieces[i].decode() for name, i in marks.items()}
        texts |= opened.known.get("texts", {})  # a format may know tokens that no text begins with by itself
        return ChatTemplate(source, texts["bos_token"], texts["eos_token"])

    def reset(self) -> None:
        """Forget all turns."""
        self.turns, self.first = [], 0

    def resume(self, system: str | None, turns: list[Turn], first: int = 0, ids: ArrayLike = (), **known: Any) -> None:
        """Go on with a conversation of which the model has read the tokens ids. known: those of `reader.known`."""
        self.system, self.turns, self.first, self.read_ids = system, turns, first, np.asarray(ids).tolist()
        self._check(self._prompt(0, [Turn("")]))
        if known:
            self.reader.resume(**known)

    def set_system(self, text: str | None) -> None:
        """Change what the model is told before all turns. ValueError, and no change, when that leaves no room."""
        before, self.system = self.system, text
        try:
            self._check(self._prompt(0, [Turn("")]))
        except ValueError:
            self.system = before
            raise

    def messages(self, first: int = 0, turns: list[Turn] | None = None) -> list[dict[str, str]]:
        """What was said from the turn `first` on, each {"role": "system", "user" or "assistant", "content": text}."""
        found = [("system", self.system)] if self.system else []
        for turn in (self.turns if turns is None else turns)[first:]:
            found += [("user", turn.question), ("assistant", turn.answer)]
        return [{"role": role, "content": text} for role, text in found]

    def ask(self, question: str) -> list[Left]:
        """Add a turn. Returns the turns that no longer fit. ValueError, and no change, when not even this one fits."""
        turns, first, left = [*self.turns, Turn(question)], self.first, []
        ids = self._prompt(first, turns)
        while len(ids) > self.size - self._kept_free and first < len(turns) - 1:
            shorter = self._prompt(first + 1, turns)
            left.append(Left(first + 1, turns[first].question, len(ids) - len(shorter)))
            first, ids = first + 1, shorter
        self._check(ids)
        self.turns, self.first, self._ids = turns, first, ids
        return left

    def answer(self, **settings: Any) -> Iterator[str]:
        """The answer to the last question, piece by piece. settings: those of LanguageModel.stream.

        What was made before an interruption stays part of the conversation.
        """
        ids, turn, written = self._ids, self.turns[-1], []
        self.read_ids = self.read_ids[: in_common(self.read_ids, ids)]
        self.reader.rewind(len(self.read_ids))
        decoder, ends, self.cut = self.tokenizer.decoder(), self.tokenizer.ends, False
        settings = {"max_new_tokens": self.size - len(ids), "end": ends, "reader": self.reader, **settings}
        for (token,) in self.reader.stream([ids], **settings):
            self.read_ids = [*ids, *written]
            if token in ends:
                break
            written.append(int(token))
            text = decoder.push(token)
            turn.answer += text
            yield text
        else:
            self.cut = True
        text = decoder.finish()
        turn.answer += text
        yield text

    @property
    def _kept_free(self):
        return min(ANSWER, self.size // 4)

    def _prompt(self, first, turns):
        """The tokens of the turns from `first` on, up to where the answer to the last one begins."""
        return prompt_of(self.tokenizer, self.template, self.messages(first, turns)[:-1])

    def _check(self, ids):
        most = self.size - self._kept_free
        if len(ids) > most:
            raise ValueError(
                f"that makes {len(ids)} tokens; of the {self.size} that the model reads at once {self._kept_free} are "
                "kept for its answer, so give a shorter text, or more by --context"
            )


def prompt_of(tokenizer: Any, template: ChatTemplate, messages: list[dict[str, str]]) -> list[int]:
    """The tokens of messages, up to where the answer to the last one begins. ValueError: the template refuses them."""
    quoted = [{**message, "content": tokenizer.quote(message["content"])} for message in messages]
    return tokenizer.encode_quoted(template.render(quoted)).tolist()

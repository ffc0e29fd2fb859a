"""Conversations to learn from: reading them, and which of their tokens are the assistant's."""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from autotx.files import parse_json
from autotx.models.chat_template import ChatTemplate
from autotx.models.data import read_file
from autotx.types import Generator, PathLike

ROLES = ("system", "user", "assistant")
HELD_OUT = 10  # one conversation in HELD_OUT is for validation, when no file of such is given


class Chat(NamedTuple):
    """A conversation. place: the flag, file and line that it comes from, for errors."""

    messages: list[dict[str, str]]
    place: str


class Example(NamedTuple):
    """A conversation as tokens (T,), and booleans (T,): which of them the assistant says, its end included."""

    ids: np.ndarray
    said: np.ndarray


def read_chats(flag: str, paths: Sequence[PathLike]) -> list[Chat]:
    """The conversations of files of lines {"messages": [{"role": ..., "content": ...}, ...]}.

    ValueError, naming file and line: a line that is no such object, a role that is none of ROLES, a content that is no
    text, a conversation in which the assistant says nothing.
    """
    found = []
    for path in paths:
        for number, line in enumerate(read_file(flag, path).split("\n"), 1):
            if line.strip():
                place = f"{flag} {path}, line {number}"
                found.append(Chat(_checked(parse_json(line.encode(errors="surrogatepass"), place), place), place))
    return found


def _checked(row, place):
    messages: Any = row.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ValueError(f'{place}: it should be {{"messages": [...]}}, a list that is not empty')
    for i, message in enumerate(messages, 1):
        role, content = (message.get(name) if isinstance(message, dict) else None for name in ("role", "content"))
        if role not in ROLES:
            raise ValueError(f"{place}: message {i} has the role {role!r}; it should be one of {', '.join(ROLES)}")
        if not isinstance(content, str) or not content.strip():
            raise ValueError(f"{place}: message {i} of the {role} has no text as content")
    if all(message["role"] != "assistant" for message in messages):
        raise ValueError(f"{place}: the assistant says nothing; a conversation to learn from has a message of its own")
    return [{name: message[name] for name in ("role", "content")} for message in messages]


def split_chats(chats: list[Chat], rng: Generator) -> tuple[list[Chat], list[Chat]]:
    """(those to learn from, those to validate on): one in HELD_OUT, drawn, and at least one."""
    order = rng.permutation(len(chats))
    held_out = set(order[: max(1, len(chats) // HELD_OUT)].tolist())
    return [c for i, c in enumerate(chats) if i not in held_out], [chats[i] for i in sorted(held_out)]


def digest(*parts: list[Chat]) -> str:
    """SHA-256 of lists of conversations."""
    return hashlib.sha256(repr([[chat.messages for chat in part] for part in parts]).encode()).hexdigest()


def encode(chat: Chat, tokenizer: Any, template: ChatTemplate) -> Example:
    """A conversation as the model sees it, and what in it the assistant says.

    The template alone tells what that is: the text of the conversation up to and with a message of the assistant,
    without the text up to where an answer begins, as far as the token that ends a turn. ValueError, naming the place:
    the template refuses the conversation, or writes its beginning in another way when more follows.
    """
    quoted = [{**message, "content": tokenizer.quote(message["content"])} for message in chat.messages]
    text, ids, said = "", np.zeros(0, np.int64), np.zeros(0, bool)
    try:
        for i, message in enumerate(quoted):
            if message["role"] == "assistant":
                for longer in (template.render(quoted[:i], True), template.render(quoted[: i + 1], False)):
                    if not longer.startswith(text):
                        raise ValueError("the model's chat template writes it in another way when more follows")
                    before, ids = len(ids), _continued(tokenizer, text, ids, longer)
                    text = longer
                ends = np.flatnonzero(np.isin(ids[before:], tokenizer.ends))
                last = before + int(ends[0]) + 1 if ends.size else len(ids)
                said = np.concatenate([said, np.arange(len(said), len(ids)) >= before])
                said[last:] = False
    except ValueError as error:
        raise ValueError(f"{chat.place}: {error}") from error
    return Example(ids, said)


def _continued(tokenizer, text, ids, longer):
    """The tokens of a longer text that begin with those of a text, as they do when the model has read these."""
    whole = tokenizer.encode_quoted(longer)
    if np.array_equal(whole[: len(ids)], ids):
        return whole
    rest = tokenizer.encode_quoted(longer[len(text) :])  # a token of the whole text lies across the border
    return np.concatenate([ids, rest if tokenizer.start is None else rest[1:]])


class Cut(NamedTuple):
    """What does not fit: of how many conversations, how many tokens; and how many are left out, with how many."""

    shortened: int
    tokens: int
    left_out: int
    left_out_tokens: int


def fitted(examples: list[Example], length: int) -> tuple[list[Example], Cut]:
    """The examples cut to `length` + 1 tokens, as the last one is only predicted, and what that costs. An example is
    left out when nothing of what the assistant says remains."""
    kept, shortened, left_out = [], [], []
    for ids, said in examples:
        short = Example(ids[: length + 1], said[: length + 1])
        if not short.said[1:].any():
            left_out.append(len(ids))
        else:
            kept.append(short)
            if len(ids) > length + 1:
                shortened.append(len(ids) - length - 1)
    return kept, Cut(len(shortened), sum(shortened), len(left_out), sum(left_out))


def batch(examples: list[Example]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(inputs (B, T), targets (B, T), booleans (B, T): which targets count), padded on the right with zeros."""
    longest = max(len(example.ids) for example in examples)
    ids, said = np.zeros((len(examples), longest), np.int64), np.zeros((len(examples), longest), bool)
    for row, example in enumerate(examples):
        ids[row, : len(example.ids)], said[row, : len(example.ids)] = example
    return ids[:, :-1], ids[:, 1:], said[:, 1:]

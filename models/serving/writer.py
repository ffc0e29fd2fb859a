"""Generation for a server: one text at a time, each with what the one before it has in common already read."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from autotx.models.inference.continuations import Continuation
from autotx.models.inference.pieces import in_common

PIECE = 128  # tokens of a prompt that are read between two looks at the client; the cuts change no bit


class Writer:
    """A language model's reader that goes on with texts of at most `size` tokens, and remembers the last one."""

    def __init__(self, model: Any, tokenizer: Any, size: int):
        self.model, self.tokenizer, self.size = model, tokenizer, min(size, model.config.block_size)
        self._reader, self._read = model.reader(1, self.size), []

    def write(self, ids: list[int], row: Continuation, most: int, check: Callable[[], None], seconds: float,
              edits: Mapping[str, Callable] | None = None, **settings: Any) -> Iterator[str]:  # fmt: skip
        """Go on with the tokens ids, and push each new token to `row`; yield the text that is certain.

        most: new tokens; fewer where the context is full, or after so many seconds. check: called for each piece of the
        prompt and each token; it may raise. edits: those of LanguageModel.edit, while this text is written. settings:
        those of LanguageModel.stream. ValueError: the prompt leaves no room for a token, or an edit's error.
        """
        if len(ids) >= self.size:
            raise ValueError(f"the prompt has {len(ids):,} tokens; the context of {self.size:,} has no room for more")
        end = time.monotonic() + seconds
        with self.model.edit(edits or {}):
            reader = self.read(ids, check, bool(edits))
            scores: list[Any] = []
            tokens = reader.stream([ids], min(most, self.size - len(ids)), end=self.tokenizer.ends, reader=reader,
                                   watch=lambda found, _: scores.append(found[0]), **settings)  # fmt: skip
            with contextlib.closing(tokens):
                for (token,) in tokens:
                    self._remember(reader, [*ids, *row.ids])
                    yield row.push(token, scores.pop())
                    check()
                    if row.ended or time.monotonic() > end:
                        break
        yield row.finish()

    def read(self, ids: list[int], check: Callable[[], None], edited: bool) -> Any:
        """A reader that has read all of ids but the last one. edited: whether edits of the model are on."""
        reader = self._begun(ids, edited)
        while reader.length < len(ids) - 1:
            check()
            reader.read(np.array([ids[reader.length : min(reader.length + PIECE, len(ids) - 1)]]))
            self._remember(reader, ids)
        return reader

    def known(self, ids: list[int]) -> int:
        """How many tokens of a text, but the last, have been read already."""
        return in_common(self._read, ids)

    def _begun(self, ids, edited):
        """The reader, which knows what ids have in common with the last text; a new one for an edited model."""
        if edited:
            return self._reader.reader(1, self.size)
        self._read = self._read[: self.known(ids)]
        self._reader.rewind(len(self._read))
        return self._reader

    def _remember(self, reader, ids):
        if reader is self._reader:
            self._read = ids[: reader.length]

"""The API of one model: which path answers what, and the objects that the answers are, as OpenAI's API has them."""

import contextlib
import math
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from autotx.models.architecture import Opened
from autotx.models.chat import Conversation, prompt_of
from autotx.models.inference.continuations import Choice, Continuation
from autotx.models.serving.inside import Inside
from autotx.models.serving.requests import Request, request_of, sampling
from autotx.models.serving.transport import Handler, RefusedError, Turns
from autotx.models.serving.writer import Writer

SECONDS = 600.0  # that a text may take
LEAST_LOGPROB = -9999.0  # of a token that is impossible, as the API has it


class Service:
    """A model, and what it answers. name: what clients call it; size: of its context; seconds: that a text may take."""

    def __init__(self, opened: Opened, name: str, size: int, seconds: float = SECONDS):
        self.name, self.tokenizer, self.seconds = name, opened.tokenizer, seconds
        self.opened, self.writer, self.turns = opened, Writer(opened.model, opened.tokenizer, size), Turns()
        self.made, self.stopping = int(time.time()), threading.Event()
        self.inside = Inside(self)

    def warm(self) -> float:
        """Write a short text, which compiles or loads the kernels. Returns the seconds that it took."""
        begun, row = time.monotonic(), Continuation(self.tokenizer, likeliest=1)
        for _ in self.writer.write([0], row, 2, lambda: None, math.inf, **sampling(Request(seed=0))):
            pass
        return time.monotonic() - begun

    def answer(self, handler: Handler) -> None:
        """Answer a request. RefusedError for one that cannot be; GoneError when its client has gone."""
        paths = {
            ("GET", "/v1/models"): self.models,
            ("GET", f"/v1/models/{self.name}"): lambda handler: handler.send_json(self._model()),
            ("POST", "/v1/chat/completions"): lambda handler: self.complete(handler, chat=True),
            ("POST", "/v1/completions"): lambda handler: self.complete(handler, chat=False),
            **self.inside.paths(),
        }
        path = handler.path.partition("?")[0]
        if (handler.command, path) not in paths:
            there = [method for method, known in paths if known == path]
            status, told = (405, f"give it by {there[0]}") if there else (404, "there is no such path")
            raise RefusedError(status, f"{handler.command} {path[:100]}: {told}", code="unknown_url")
        paths[handler.command, path](handler)

    def models(self, handler):
        handler.send_json({"object": "list", "data": [self._model()]})

    def _model(self):
        return {"id": self.name, "object": "model", "created": self.made, "owned_by": "autotx"}

    # Generation

    def complete(self, handler, chat):
        request = request_of(handler.body(), self.name, chat)
        with self.turn(handler) as before:
            self._complete(handler, request, chat, {"X_Queue_Length": str(before)})

    @contextlib.contextmanager
    def turn(self, handler: Handler, tell: Callable[[int], None] | None = None) -> Iterator[int]:
        """`with service.turn(handler) as before:` as Turns.wait; a ValueError inside is one of the request."""
        with self.turns.wait(self.check(handler), tell) as before:
            try:
                yield before
            except ValueError as error:
                code = "context_length_exceeded" if "context of" in str(error) else None
                raise RefusedError(400, " ".join(str(error).split()), code=code) from None

    def _complete(self, handler, request, chat, headers):
        ids, most = self.ids(request), request.most or self.writer.size
        answer = (Chat if chat else Completion)(self, request, ids)
        pieces = self.writer.write(ids, answer.row, most, self.check(handler), self.seconds, **sampling(request))
        first = next(pieces)  # an error of the request comes before the headers
        if not request.stream:
            for _ in pieces:
                pass
            handler.send_json(answer.whole(), **headers)
            return
        handler.begin(200, "text/event-stream; charset=utf-8", **headers)
        for event in answer.events(first, pieces):
            handler.send_event(event)

    def check(self, handler: Handler) -> Callable[[], None]:
        """What raises when nobody waits for the answer any more, or the server stops."""

        def check():
            handler.check()
            if self.stopping.is_set():
                raise RefusedError(503, "the server is stopping", code="stopping")

        return check

    def ids(self, request: Request) -> list[int]:
        """The tokens of what is to be gone on with. ValueError: there are none."""
        if request.messages is not None:
            template = Conversation.template_of(self.opened)
            return prompt_of(self.tokenizer, template, request.messages)
        ids = self.tokenizer.encode(request.prompt).tolist() if isinstance(request.prompt, str) else request.prompt
        if not ids:
            raise ValueError("the prompt is empty; give at least one character")
        return ids


class Answer:
    """An answer of the API, which grows with its Continuation `row`."""

    kind: str
    prefix: str

    def __init__(self, service: Service, request: Request, ids: list[int]):
        self.service, self.request, self.given = service, request, len(ids)
        self.cached = service.writer.known(ids)
        likeliest = max(1, request.likeliest) if request.logprobs else 0
        self.row = Continuation(service.tokenizer, request.stops, likeliest)
        self.head = {"id": f"{self.prefix}-{secrets.token_hex(12)}", "created": int(time.time()), "model": service.name}
        self._told = 0  # choices that events have told

    def whole(self) -> dict[str, Any]:
        choice = {
            "index": 0,
            **self.content(self.row.text),
            "logprobs": self.logprobs(),
            "finish_reason": self._reason(),
        }
        return {**self.head, "object": self.kind, "choices": [choice], "usage": self._usage()}

    def events(self, first: str, pieces: Iterator[str]) -> Iterator[Any]:
        """The parts of a stream: JSON values, and the text that ends it."""
        yield from self._event(self.opening(), None) if self.opening() else ()
        yield from self._piece(first)
        for text in pieces:
            yield from self._piece(text)
        yield from self._event(self.part(""), self._reason(), None)
        if self.request.usage:
            yield {**self.head, "object": self.part_kind, "choices": [], "usage": self._usage()}
        yield "[DONE]"

    def _piece(self, text):
        logprobs = self.logprobs()
        if text or logprobs:
            yield from self._event(self.part(text), None, logprobs)

    def _event(self, part, reason, logprobs=None):
        choice = {"index": 0, **part, "logprobs": logprobs, "finish_reason": reason}
        yield {**self.head, "object": self.part_kind, "choices": [choice]}

    def _reason(self):
        return "stop" if self.row.ended else "length"

    def _usage(self):
        made = len(self.row.ids)
        return {"prompt_tokens": self.given, "completion_tokens": made, "total_tokens": self.given + made,
                "prompt_tokens_details": {"cached_tokens": self.cached}}  # fmt: skip

    def new(self) -> list[Choice]:
        """The choices since the last call."""
        new = self.row.choices[self._told :]
        self._told = len(self.row.choices)
        return new

    # What differs between the two APIs

    part_kind: str

    def content(self, text: str) -> dict[str, Any]:
        raise NotImplementedError

    def part(self, text: str) -> dict[str, Any]:
        raise NotImplementedError

    def opening(self) -> dict[str, Any]:
        return {}

    def logprobs(self) -> dict[str, Any] | None:
        raise NotImplementedError


class Chat(Answer):
    kind, part_kind, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def content(self, text):
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def part(self, text):
        return {"delta": {"content": text} if text else {}}

    def opening(self):
        return {"delta": {"role": "assistant", "content": ""}}

    def logprobs(self):
        tokens = [
            {**self._token(c.token, c.probability),
             "top_logprobs": [self._token(*pair) for pair in c.likeliest[: self.request.likeliest]]}
            for c in self.new()
        ]  # fmt: skip
        return {"content": tokens, "refusal": None} if tokens else None

    def _token(self, token, probability):
        tokenizer = self.service.tokenizer
        text, raw = tokenizer.texts([token])[0], list(tokenizer.pieces[token])
        return {"token": text, "logprob": logprob(probability), "bytes": raw}


class Completion(Answer):
    kind = part_kind = "text_completion"
    prefix = "cmpl"
    offset = 0

    def content(self, text):
        return {"text": text}

    part = content

    def logprobs(self):
        new, name = self.new(), lambda token: self.service.tokenizer.texts([token])[0]
        if not new:
            return None
        texts, offsets = [name(c.token) for c in new], []
        for text in texts:
            offsets.append(self.offset)
            self.offset += len(text)
        likeliest = [{name(t): logprob(p) for t, p in c.likeliest[: self.request.likeliest]} for c in new]
        return {"tokens": texts, "token_logprobs": [logprob(c.probability) for c in new],
                "top_logprobs": likeliest if self.request.likeliest else None, "text_offset": offsets}  # fmt: skip


def logprob(probability: float) -> float:
    return math.log(probability) if probability > 0 else LEAST_LOGPROB

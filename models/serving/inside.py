"""The page at /, and what it asks for: a text with each token's rivals, and what led to one of its tokens.

An answer to the page is a stream of JSON values that ends with [DONE]. While other requests are before it, it says how
many: {"waiting": 3}. An error is the API's error object, as a whole answer or as the last value.
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autotx.files import describe
from autotx.models.chat import Conversation
from autotx.models.formats import open_model
from autotx.models.inference.attribution import attribution
from autotx.models.inference.continuations import Choice, Continuation
from autotx.models.inference.edits import without
from autotx.models.inference.lens import accounts, lens
from autotx.models.inference.pieces import Int8Matrix
from autotx.models.serving.requests import Look, Request, Shape, look_of, page_request_of, sampling
from autotx.models.serving.transport import Handler, RefusedError
from autotx.text import visible
from autotx.viz.page import WEB as SHARED

if TYPE_CHECKING:
    from autotx.models.serving.server import Service

WEB = Path(__file__).parent / "web"
FILES = {
    "/": (WEB / "page.html", "text/html; charset=utf-8"),
    "/inside/look.css": (SHARED / "look.css", "text/css; charset=utf-8"),
    "/inside/likely.js": (SHARED / "likely.js", "text/javascript; charset=utf-8"),
    **{f"/inside/{name}.js": (WEB / f"{name}.js", "text/javascript; charset=utf-8")
       for name in ("asking", "answers", "token", "page")},
    "/inside/page.css": (WEB / "page.css", "text/css; charset=utf-8"),
    "/inside/icon.svg": (WEB / "icon.svg", "image/svg+xml"),
}  # fmt: skip
RIVALS = 6  # the likeliest tokens that are listed of each place
NEAR = 1e-3  # of the score: by how much the server's and the float32 model's may differ


class Inside:
    """What a Service answers to its page."""

    def __init__(self, service: "Service"):
        self.service, self.tokenizer, self.writer = service, service.tokenizer, service.writer
        model, config = service.opened.model, service.opened.model.config
        self.model, layers = model, len(getattr(model, "blocks", ()))
        self.shape = Shape(layers, config.n_head if layers else 0, self.writer.size, config.vocab_size)

    def paths(self) -> dict[tuple[str, str], Callable[[Handler], None]]:
        """What answers a method and a path."""
        files = {("GET", path): lambda handler, it=it: _send_file(handler, *it) for path, it in FILES.items()}
        answers = {
            "write": (self.write, lambda body: page_request_of(body, self.shape)),
            "token": (self.token, self._look_of),
            "attribution": (self.attribution, self._look_of),
        }
        posts = {
            ("POST", f"/inside/{name}"): lambda handler, it=it: self._answer(handler, it[0], it[1](handler.body()))
            for name, it in answers.items()
        }
        return {**files, **posts, ("GET", "/inside/model"): lambda handler: handler.send_json(self.facts())}

    def facts(self) -> dict[str, Any]:
        """What the page says of the model, and offers."""
        try:
            Conversation.template_of(self.service.opened)
            chats = True
        except ValueError:
            chats = False
        return {"name": self.service.name, "chats": chats, **self.shape._asdict()}

    def _look_of(self, body):
        if not self.shape.layers:
            raise RefusedError(400, f"a {type(self.model).__name__} names no inner values; a GPT and a Llama do")
        return look_of(body, self.shape)

    def _answer(self, handler, method, request):
        """Send what method(request, check, tell) tells when the turn of the request has come."""
        check = self.service.check(handler)

        def tell(**value):
            if not handler.begun:
                handler.begin(200, "text/event-stream; charset=utf-8")
            handler.send_event(value)

        with self.service.turn(handler, lambda before: tell(waiting=before)):
            method(request, check, tell)
        handler.send_event("[DONE]")

    # Answers

    def write(self, request: Request, check: Callable, tell: Callable) -> None:
        """A text, token by token: "ids" and "tokens" of the prompt, "token" for each new one, why it has "ended"."""
        ids, most = self.service.ids(request), request.most or self.writer.size
        row, told = Continuation(self.tokenizer, likeliest=RIVALS), 0
        edits = without(request.off, self.shape.heads)
        for _ in self.writer.write(ids, row, most, check, self.service.seconds, edits, **sampling(request)):
            if not told:  # an error of the request comes before that
                tell(ids=ids, tokens=[self._text(token) for token in ids])
            for one in row.choices[told:]:
                tell(token=self._token(one))
            told = len(row.choices)
        full = len(ids) + told >= self.writer.size
        tell(ended=row.ended or ("context" if full else "length" if told >= most else "time"))

    def token(self, look: Look, check: Callable, tell: Callable) -> None:
        """What was in the model when it came to the last token of a text, as the next one after all others.

        "lens": of each layer, how likely it found the token, and what else. "attention" (L, H, T): of the token before
        it, to all T before it. "heads" (L, H): what each contributes directly to its score.
        """
        ids, edits, before = np.array(look.ids), without(look.off, self.shape.heads), len(look.ids) - 1
        with self.model.edit(edits):
            reader = self.writer.read(look.ids[:-1], check, bool(edits))
            with self.model.edit({"blocks.*.attention.weights": None}) as seen:
                found = lens(self.model, ids, RIVALS, reader)
            reader.rewind(before - 1)
            of = accounts(self.model, ids[:-1], look.ids[-1], reader=reader)
        cells = [
            self._token(Choice(look.ids[-1], float(p), int(rank), list(zip(tokens.tolist(), chances.tolist()))))
            for p, rank, tokens, chances in zip(*(part[:, 0] for part in found[1:]))
        ]
        weights = [value[0, :, 0, :before].tolist() for value in seen.values()]
        tell(layers=found.layers, lens=cells, attention=weights, heads=of.heads.tolist())

    def attribution(self, look: Look, check: Callable, tell: Callable) -> None:
        """Which of the others the score of the last token of a text comes from: "points" while it is computed, then
        the Attribution. It is that of the model in float32, which is read for it from its file and let go again."""
        ids, target, edits = np.array(look.ids[:-1]), look.ids[-1], without(look.off, self.shape.heads)
        if len(ids) < 2:
            raise ValueError("one token is before this one, and all of its score comes from it; take a later token")
        if target == look.against:
            raise ValueError("a token cannot be compared with itself; take another one")
        with self.model.edit(edits):
            reader = self.writer.read(look.ids[:-1], check, bool(edits))
            scores = reader.scores(reader.read(ids[None, -1:])[0])[0]
        check()
        model, seconds = self._with_gradients(), self.service.seconds
        end = time.monotonic() + seconds

        def watch(points):
            check()
            tell(points=points)
            if time.monotonic() > end:
                raise ValueError(f"{points} points took more than {seconds:g} s (--seconds); take an earlier token")

        with model.edit(edits):
            found = attribution(model, ids, target, look.against, watch=watch)
        score = scores[target] - (0 if look.against is None else scores[look.against])
        if not isinstance(self.model.head, Int8Matrix) and abs(score - found.score) > NEAR * np.abs(scores).max():
            raise ValueError("the model's file is not what it was when the server began; start the server again")
        tell(shares=found.integrated.tolist(), score=found.score, baseline=found.baseline, points=found.points,
             missed=found.error, adds_up=found.adds_up())  # fmt: skip

    def _with_gradients(self):
        try:
            return open_model(self.service.opened.path, "text").model
        except OSError as error:
            raise ValueError(f"the model cannot be read again: {describe(error)}") from None

    def _text(self, token):
        """The text of a token, with newlines, and as it is shown."""
        text = self.tokenizer.texts([token])[0]
        return {"id": token, "text": visible(text, "\n\t"), "shown": visible(text)}

    def _token(self, one):
        """A Choice."""
        likeliest = [[self._text(token)["shown"], p, token] for token, p in one.likeliest]
        return {**self._text(one.token), "probability": one.probability, "rank": one.rank, "likeliest": likeliest}


def _send_file(handler, file, kind):
    handler.send(200, kind, file.read_bytes())

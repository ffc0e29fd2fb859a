"""What a client of OpenAI's API asks for: its JSON, checked, as a Request.

A setting that would change the answer and is not computed here, such as tools, is refused, as is one that the API does
not know. IGNORED are those that change nothing of an answer. null is the same as leaving a setting out.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from autotx.models.config import LARGEST
from autotx.models.serving.transport import RefusedError

IGNORED = {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"}
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
MOST_STOPS = 4
MOST_LIKELIEST = 20
COMPLETION = 16  # tokens of a completion without max_tokens
ONLY: dict[
    str, tuple
] = {  # settings with which the API computes what it does without them, when they have these values
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "modalities": (["text"],),
}


@dataclass
class Request:
    """A text to go on with, or messages to answer, and how."""

    prompt: str | list[int] | None = None
    messages: list[dict[str, str]] | None = None
    most: int | None = None  # new tokens; None for as many as there is room for
    stops: list[str] = field(default_factory=list)
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    likeliest: int = 0  # tokens that are listed for each place
    logprobs: bool = False
    stream: bool = False
    usage: bool = False  # whether a stream ends with the numbers of tokens
    off: list[tuple[int, int]] = field(default_factory=list)  # heads that are switched off, (layer, head); of the page


class Shape(NamedTuple):
    """What the page may ask of a model."""

    layers: int  # 0 for one that names no inner values
    heads: int  # of a layer
    size: int  # of the context
    vocab: int


class Look(NamedTuple):
    """Which token of a text the page asks about."""

    ids: list[int]  # of the text, the token is the last one
    off: list[tuple[int, int]]  # heads that are switched off, (layer, head)
    against: int | None  # a token that it is compared with


def request_of(body: dict[str, Any], name: str, chat: bool) -> Request:
    """The Request of a body for chat/completions, or else for completions. name: of the model. RefusedError."""
    left = {key: value for key, value in body.items() if value is not None and key not in IGNORED}
    _check_model(left.pop("model", None), name)
    found = Request()
    if chat:
        found.messages = _messages(left.pop("messages", None))
        found.most = _take(left, "max_completion_tokens", _tokens) or _take(left, "max_tokens", _tokens)
        left.pop("max_tokens", None)
        found.logprobs = _take(left, "logprobs", _boolean) or False
        found.likeliest = _take(left, "top_logprobs", _whole(0, MOST_LIKELIEST)) or 0
        if found.likeliest and not found.logprobs:
            raise RefusedError(400, "top_logprobs needs logprobs: true", "top_logprobs")
    else:
        found.prompt = _prompt(left.pop("prompt", None))
        found.most = _take(left, "max_tokens", _tokens) or COMPLETION
        found.likeliest = _take(left, "logprobs", _whole(0, MOST_LIKELIEST)) or 0
        found.logprobs = body.get("logprobs") is not None
    found.temperature = _take(left, "temperature", _number(0, 2), 1.0)
    found.top_p = _take(left, "top_p", _number(0, 1), 1.0)
    found.seed = _take(left, "seed", _whole(-(1 << 63), LARGEST))
    found.stops = _take(left, "stop", _stops, [])
    found.stream = _take(left, "stream", _boolean, False)
    found.usage = _take(left, "stream_options", _stream_options, False)
    for key, value in left.items():
        if key not in ONLY:
            raise RefusedError(400, f"{key!r} is no setting of this API", key, "unknown_parameter")
        if value not in ONLY[key]:
            few = " or ".join(map(repr, ONLY[key]))
            raise RefusedError(400, f"{key} other than {few} is not computed here", key, "unsupported_parameter")
    return found


def sampling(request: Request) -> dict[str, Any]:
    """The settings of LanguageModel.stream. The same seed gives the text of autotx generate --seed."""
    seed = secrets.randbits(32) if request.seed is None else request.seed % (1 << 63)
    narrowed = {"top_p": request.top_p} if request.top_p else {"top_k": 1}
    return {"temperature": request.temperature, "rng": np.random.default_rng(seed), "speculate": True, **narrowed}


# Of the page, which needs no agreement with another API


def page_request_of(body: dict[str, Any], shape: Shape) -> Request:
    """The Request of the page for a text. RefusedError."""
    left, found = dict(body), Request()
    if "messages" in left:
        found.messages = _messages(left.pop("messages"))
    else:
        found.prompt = _prompt(left.pop("prompt", None))
    found.most = _take(left, "tokens", _tokens, COMPLETION)
    found.temperature = _take(left, "temperature", _number(0, 2), 0.0)
    found.seed = _take(left, "seed", _whole(0, LARGEST), 0)
    found.off = _take(left, "off", _heads(shape), [])
    _none_left(left)
    return found


def look_of(body: dict[str, Any], shape: Shape) -> Look:
    """The Look of what the page asks about a token. RefusedError."""
    left, last = dict(body), shape.vocab - 1
    ids: Any = body.get("ids")
    if not _are_tokens(ids) or not 2 <= len(ids) <= shape.size or not all(0 <= i <= last for i in ids):
        raise RefusedError(400, f"ids should be 2 to {shape.size:,} tokens, each from 0 to {last:,}", "ids")
    del left["ids"]
    off, against = _take(left, "off", _heads(shape), []), _take(left, "against", _whole(0, last))
    _none_left(left)
    return Look(ids, off, against)


def _heads(shape):
    layers, heads = shape.layers, shape.heads

    def check(value):
        pairs: list[Any] = value if isinstance(value, list) else [None]
        if len(pairs) > layers * heads or not all(_are_tokens(pair) and len(pair) == 2 for pair in pairs):
            raise ValueError(f"a list of at most {layers * heads} pairs, [layer, head]")
        if not all(0 <= layer < layers and 0 <= head < heads for layer, head in pairs):
            raise ValueError(f"of layers below {layers} and heads below {heads}, both from 0")
        return [(layer, head) for layer, head in pairs]

    return check


def _none_left(left):
    for key in left:
        raise RefusedError(400, f"{key[:100]!r} is no setting here", key[:100], "unknown_parameter")


def _check_model(model, name):
    if not isinstance(model, str):
        raise RefusedError(400, "model should be a text, the name of the model", "model")
    if model != name:
        raise RefusedError(404, f"the model {model[:100]!r} does not exist; this server has {name!r}", "model",
                           "model_not_found")  # fmt: skip


def _take(left, key, check: Callable, default=None) -> Any:
    """The value of a setting, taken out of those left, as `check` returns it. RefusedError: what `check` has raised."""
    value = left.pop(key, None)
    if value is None:
        return default
    try:
        return check(value)
    except (TypeError, ValueError) as error:
        raise RefusedError(400, f"{key} should be {error}", key, "invalid_value") from None


def _number(least, most):
    def check(value):
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise ValueError(f"a number from {least} to {most}")
        return float(value)

    return check


def _whole(least, most):
    def check(value):
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError(f"a whole number from {least:,} to {most:,}")
        return value

    return check


_tokens = _whole(1, 1 << 31)


def _boolean(value):
    if not isinstance(value, bool):
        raise TypeError("true or false")
    return value


def _stops(value):
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > MOST_STOPS or not all(isinstance(s, str) and s for s in stops):
        raise ValueError(f"a text, or at most {MOST_STOPS} of them, none empty")
    return stops


def _stream_options(value):
    if not isinstance(value, dict) or set(value) - {"include_usage", "include_obfuscation"}:
        raise ValueError('{"include_usage": true or false}')
    return _boolean(value.get("include_usage", False))


def _messages(messages):
    if not isinstance(messages, list) or not messages:
        raise RefusedError(400, "messages should be a list that is not empty", "messages")
    return [_message(message, f"messages[{i}]") for i, message in enumerate(messages)]


def _message(message, place):
    if not isinstance(message, dict):
        raise RefusedError(400, f"{place} should be an object with role and content", place)
    role, content = message.get("role"), message.get("content")
    if not isinstance(role, str) or role not in ROLES:
        raise RefusedError(400, f"{place}.role should be one of {', '.join(ROLES)}", f"{place}.role")
    if isinstance(content, list):
        parts = [p.get("text") if isinstance(p, dict) and p.get("type") == "text" else None for p in content]
        content = "".join(map(str, parts)) if all(isinstance(p, str) for p in parts) else None
    if not isinstance(content, str):
        raise RefusedError(
            400, f"{place}.content should be a text, or a list of parts of the type text", f"{place}.content"
        )
    extra = set(message) - {"role", "content", "name", "refusal", "annotations", "audio", "function_call", "tool_calls"}
    if extra or any(message.get(key) for key in ("audio", "function_call", "tool_calls")):
        raise RefusedError(400, f"{place} should have role and content alone", place)
    return {"role": ROLES[role], "content": content}


def _prompt(prompt):
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], str | list):
        (prompt,) = prompt
    if isinstance(prompt, str) or _are_tokens(prompt):
        return prompt
    raise RefusedError(400, "prompt should be one text, or the tokens of one", "prompt")


def _are_tokens(ids):
    return isinstance(ids, list) and bool(ids) and all(isinstance(i, int) and not isinstance(i, bool) for i in ids)

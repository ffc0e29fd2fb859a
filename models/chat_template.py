"""Chat templates: how a model was taught to see a conversation, written in the language of the library Jinja.

A template comes with a model, so it may be hostile. It runs in Jinja's immutable sandbox, which keeps it away from
Python's insides and from changing the messages; and it may take only so much time and memory.
"""

import contextlib
import datetime
import json
import sys
import time
from typing import Any

try:
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment
except ImportError:  # an extra: pip install "autotx[llm]"
    loopcontrols: Any = None
    ImmutableSandboxedEnvironment: Any = object

try:
    import resource
except ImportError:  # Windows has no such limits
    resource: Any = None

SECONDS = 5  # a long conversation takes a hundredth of one
MEMORY = 1 << 28  # bytes beyond those of the process
LONGEST = 1 << 24  # characters of the result


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment that templates expect, which is that of Hugging Face, with small numbers only."""

    intercepted_binops = frozenset({"*", "**"})

    def __init__(self):
        super().__init__(trim_blocks=True, lstrip_blocks=True, optimized=False, extensions=[loopcontrols])
        self.filters["tojson"] = _to_json
        self.globals.update(raise_exception=_refuse, strftime_now=lambda form: datetime.datetime.now().strftime(form))

    def call_binop(self, context, operator, left, right):
        if operator == "**" or max((abs(x) for x in (left, right) if isinstance(x, int)), default=0) > 1 << 32:
            raise ValueError(f"its numbers are too large for {operator}")
        return super().call_binop(context, operator, left, right)


class ChatTemplate:
    """A template: `render` writes a conversation as the model was taught to see it.

    source: of the template. start, end: the texts of the tokens that start and end a text. ValueError, of one line, for
    a template that cannot be understood, and where Jinja is missing.
    """

    def __init__(self, source: str, start: str = "", end: str = ""):
        if loopcontrols is None:
            raise ValueError('chat templates need the library Jinja: pip install "autotx[llm]"')
        self.source, self.texts = source, {"bos_token": start, "eos_token": end}
        with _explained(), _limited():
            self._template = Sandbox().from_string(source)

    def render(self, messages: list[dict[str, str]], more: bool = True) -> str:
        """The text of the messages, each {"role": "system", "user" or "assistant", "content": text}.

        more: end with what an answer of the model begins with. ValueError when the template refuses the messages, or
        does what it may not.
        """
        with _explained(), _limited():
            text = self._template.render(messages=messages, add_generation_prompt=more, tools=None, **self.texts)
        if len(text) > LONGEST:
            raise ValueError(
                f"the model's chat template writes {len(text):,} characters; at most {LONGEST:,} are taken"
            )
        return text


def _to_json(value, indent=None, **settings):
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message):
    raise ValueError(message)


@contextlib.contextmanager
def _explained():
    """Whatever a template raises, as one line."""
    try:
        yield
    except Exception as error:
        text = " ".join(str(error).split()) or "it takes too much memory"
        raise ValueError(f"the model's chat template cannot be used: {text[:300]}") from None


@contextlib.contextmanager
def _limited():
    """At most SECONDS and MEMORY more bytes for the body. The time is looked at on every line that Python runs."""
    end, tracer = time.monotonic() + SECONDS, sys.gettrace()

    def look(frame, event, argument):
        if time.monotonic() > end:
            raise ValueError(f"it takes more than {SECONDS} s")
        return look

    with _little_memory():
        sys.settrace(look)
        try:
            yield
        finally:
            sys.settrace(tracer)


@contextlib.contextmanager
def _little_memory():
    if resource is None or not sys.platform.startswith("linux"):
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm", encoding="ascii") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    limits = [used + MEMORY, *(n for n in before if n != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_AS, (min(limits), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)

"""Pieces of reStructuredText."""

import re
from collections.abc import Iterable, Sequence


def escaped(text: str) -> str:
    """Text that is no markup."""
    return re.sub(r"([\\*`_|<>:])", r"\\\1", text)


def literal(text: str) -> str:
    """Text in which a command line at the end is code."""
    head, found, command = text.rpartition("autotx ")
    return f"{escaped(head)}``autotx {command}``" if found else escaped(text)


def heading(text: str, line: str) -> str:
    return f"{escaped(text)}\n{line * len(escaped(text))}"


def raw(html: str) -> str:
    """HTML as it is."""
    return ".. raw:: html\n\n" + _indented(html)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the cells are reStructuredText."""
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for cells in [head, *rows]:
        for i, cell in enumerate(cells):
            lines.append(f"   {'*' if i == 0 else ' '} - {_indented(cell, 7).lstrip()}")
    return "\n".join(lines)


def _indented(text, width=3):
    return "\n".join(f"{' ' * width}{line}".rstrip() for line in text.splitlines())

"""Docstrings as HTML: paragraphs, labelled paragraphs, lists, derivations and code.

A line that begins with the name of an argument, of an error or with "Source" and a colon is a labelled paragraph:

    x: (..., C), gamma and beta: (C,)
    ValueError: there is no such axis

Lines that are indented are a derivation, a line each, if the docstring has formulas, else code.
"""

import html
import inspect
import re
from collections.abc import Collection

from making.notation import as_html

LABEL = re.compile(r"((?:[*\w]+(?:, [*\w]+)*|[\w ]+ [a-zA-Z]|[a-z_]+=\"?\w+\"?)): ")
ALWAYS = re.compile(r"\w*Error$|Source$|Letters$|Shapes$|Returns$")


def blocks(doc: str, names: Collection[str]):
    """The blocks of a docstring: (kind, text), of the kinds "text", "item" and "indented"."""
    found = []
    for line in inspect.cleandoc(doc).splitlines():
        if not line.strip():
            found.append(("end", ""))
            continue
        kind = "indented" if line.startswith("    ") else "item" if line.startswith("- ") else "text"
        goes_on = found and (found[-1][0] == kind or (found[-1][0] == "item" and line.startswith("  ")))
        label = LABEL.match(line)
        begins = kind == "item" or (kind == "text" and label and _is_label(label[1], names))
        if goes_on and not begins:
            kind, before = found.pop()
            found.append((kind, f"{before}\n{line}" if kind == "indented" else f"{before} {line.strip()}"))
        else:
            found.append((kind, line.removeprefix("- ") if kind == "item" else line))
    return [(kind, text) for kind, text in found if kind != "end"]


def _is_label(label, names):
    first = re.split(r"[,= ]", label)[0].lstrip("*")
    return first in names or ALWAYS.match(first)


def docstring_html(doc: str, names: Collection[str], mathematics: bool) -> str:
    """A docstring as HTML. names: those of the arguments. mathematics: whether it has formulas."""
    parts = []
    for kind, text in blocks(doc, names):
        if kind == "indented":
            parts.append(derivation(text, names) if mathematics else f"<pre>{html.escape(_dedented(text))}</pre>")
            continue
        for piece in re.split(r"(?<=\.) {3}", text) if mathematics else [text]:
            label = LABEL.match(piece)
            start = ""
            if label and _is_label(label[1], names):
                start, piece = f"<strong>{html.escape(label[1])}:</strong> ", piece[label.end() :]
            piece = as_html(piece, names) if mathematics else plain_html(piece)
            parts.append(f"<li>{start}{piece}</li>" if kind == "item" else f"<p>{start}{piece}</p>")
    return re.sub(r"(?:<li>.*?</li>\n?)+", lambda found: f"<ul>{found[0]}</ul>", "\n".join(parts))


def plain_html(text: str) -> str:
    """Text without formulas: what stands in backticks is code."""
    pieces = re.split(r"`([^`]+)`", text)
    return "".join(f"<code>{html.escape(p)}</code>" if i % 2 else html.escape(p) for i, p in enumerate(pieces))


def derivation(text: str, names: Collection[str]) -> str:
    """Lines of a derivation as a table: the left side, the right side, and the words beside them."""
    rows = []
    for line in text.splitlines():
        line = re.sub(r"\s+(\+?=)\s+", r" \1 ", f" {line.strip()}").strip()
        for cell in re.split(r",?\s{2,}", line):
            left, equals, right = cell.partition("= ")
            if equals and not re.match(r"\(|[a-z]{3,} (?![+=])", cell):  # else words: "because sum_i y_i = 1"
                rows.append([left.rstrip("+ "), f"{'+' if left.rstrip().endswith('+') else ''}= {right}", ""])
            elif rows:
                rows[-1][2] = cell
            else:
                rows.append(["", cell, ""])
    cells = "\n".join(f"<tr>{''.join(f'<td>{as_html(c, names, True)}</td>' for c in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table class="derivation">\n{cells}\n</table></div>'


def _dedented(text):
    return inspect.cleandoc(f"\n{text}")

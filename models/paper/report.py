"""The cases as a table on the terminal, and as JSON."""

import textwrap

import numpy as np

from autotx.models.paper.case import VERDICTS, Digits, as_text
from autotx.text import counted

WIDTH = 112
_COLOURS = {"exact": "32", "rounding": "33", "erratum": "31;1", "external": "36"}
_MOST = 3  # differing numbers of a matrix that are shown


def table(sections, wanted, write, colour=False):
    """Compute and write one section after another. Returns the number of cases of each verdict, a dict.

    sections: all sections of the paper; wanted: those to write, with formulas and evidence when they are not all.
    write: a function that takes one line of text. colour: colour the verdicts by ANSI codes.
    """
    counts = dict.fromkeys(VERDICTS, 0)
    for number, section in enumerate(sections, 1):
        if section not in wanted:
            continue
        write(f"\n[{number:2}/{len(sections)}] {section.title}, lines {section.lines[0]}-{section.lines[1]}")
        for case in section.cases:
            counts[case.result.verdict] += 1
            for line in _entry(case, colour, detailed=len(wanted) < len(sections)):
                write(line)
    return counts


def _entry(case, colour, detailed):
    """Yield the text of a case: verdict, lines and title, then what differs. detailed: formula and evidence too."""
    verdict = case.result.verdict
    shown = f"{verdict:8}"
    if colour:
        shown = f"\033[{_COLOURS[verdict]}m{shown}\033[0m"
    yield f"  {shown}  {line_range(case):9}  {plain(case.title)}"
    texts = [] if verdict == "exact" else [*differences(case), case.note]
    if detailed:
        texts = [case.formula, *(texts or [f"printed and computed: {_words(case)}", case.note])]
    if detailed and verdict == "exact" and isinstance(case.result.computed, str):
        texts[1:2] = [f"printed: {_words(case)}", f"computed: {case.result.computed}"]
    for text in filter(None, texts):
        yield from textwrap.wrap(plain(text), WIDTH, initial_indent=" " * 23, subsequent_indent=" " * 25)


def line_range(case):
    """The line numbers of a case as text: "199", or "97-103"."""
    first, last = case.lines
    return str(first) if first == last else f"{first}-{last}"


def differences(case):
    """A line for each of the first _MOST numbers that differ, printed and computed; for words, a line for either."""
    result = case.result
    if case.compute is None:
        return [f"printed: {_words(case)}"]
    if result.grades is None:
        return [f"printed: {_words(case)}", f"computed: {_text(result.computed)}"]
    wrong = np.argwhere(result.grades != "exact")
    lines = []
    for index in map(tuple, wrong[:_MOST]):
        places = case.printed.places[index]
        right = shown(np.asarray(result.computed)[index], case.printed.values[index], places)
        lines.append(f"{_position(index)}printed {case.printed.literals[index]}, computed {right}")
    if len(wrong) > _MOST:
        lines.append(f"and {len(wrong) - _MOST} more of {result.grades.size} numbers")
    return lines


def shown(right, printed, places, same=False):
    """A computed number as text, with the printed number of decimals, or up to five more where these are too few.

    A number that differs is shown precisely enough to differ from the printed text, and to about four digits. A number
    graded exact (same=True) gets one more decimal where it rounds to another text, which is a tie.
    """
    for extra in range(6):
        text = f"{right:z.{places + extra}f}"
        if same and (extra or float(text) == printed):
            break
        if not same and float(text) != printed and abs(float(text) - right) <= max(5e-4 * abs(right), 1e-8):
            break
    return text


def _position(index):
    names = {0: (), 1: ("number",), 2: ("row", "column")}[len(index)]
    words = ", ".join(f"{name} {i + 1}" for name, i in zip(names, index))
    return f"{words}: " if words else ""


def _words(case):
    """What is printed, with its digits, in one line."""
    return _text(case.printed.literals.tolist() if isinstance(case.printed, Digits) else case.printed)


def _text(value):
    """Numbers, lists or text in one line."""
    if isinstance(value, float):
        return f"{value:.8g}"
    if isinstance(value, list):
        return " ".join(f"[{_text(v)}]" if isinstance(v, list) else _text(v) for v in value)
    return str(value)


def plain(text):
    """The markup of formulas and notes as plain text: x_{i} -> x_i, 10^{-6} -> 10^-6, 10^{2i/d} -> 10^(2i/d)."""
    out, depth = [], []
    for i, letter in enumerate(text):
        if letter == "{" and i and text[i - 1] in "_^":
            inner = text[i + 1 : text.index("}", i)]
            depth.append(len(inner) > 2 and not inner.isalnum() and text[i - 1] == "^")
            out.append("(" if depth[-1] else "")
        elif letter == "}" and depth:
            out.append(")" if depth.pop() else "")
        else:
            out.append(letter)
    return "".join(out)


def summary(counts):
    """The last line: the number of cases of each verdict."""
    parts = ", ".join(f"{verdict} {count}" for verdict, count in counts.items())
    return f"{counted(sum(counts.values()), 'case')}: {parts}"


def as_objects(cases):
    """The cases as a list of dicts for JSON."""
    return [
        {
            "id": case.id,
            "lines": list(case.lines),
            "section": case.section,
            "title": plain(case.title),
            "printed": _plain_if_text(case.printed_values),
            "computed": _plain_if_text(as_text(case.result.computed)),
            "verdict": case.result.verdict,
            "note": plain(case.note),
        }
        for case in cases
    ]


def _plain_if_text(value):
    return plain(value) if isinstance(value, str) else value

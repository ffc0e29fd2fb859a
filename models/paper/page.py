"""The cases as one HTML page: formulas, numbers as small matrices, verdicts and pictures. Loads nothing else."""

import html
import re
from pathlib import Path

import numpy as np

from autotx.models.paper import corrected, pictures
from autotx.models.paper.case import VERDICTS, Digits, grade
from autotx.models.paper.report import line_range, shown

STYLE = Path(__file__).with_name("page.css")
CHAIN = "The running example, set right"
_INNERMOST = re.compile(r"([_^])\{([^{}]*)\}")
_MEANINGS = {
    "exact": "every printed digit is right, or the sentence holds",
    "rounding": "wrong in the last printed digit only",
    "erratum": "wrong; the note says what is right",
    "external": "quoted from elsewhere, not to be computed",
}

# The picture at the end of a section: slug -> (function, caption)
PICTURES = {
    "positions": (
        pictures.positions,
        "Every position is a row of waves that get longer to the right. Beside it the three rows of the example: as "
        "printed, and by the formulas. They differ first in column 1, a cosine.",
    ),
    "example": (
        pictures.attention,
        "How much each word of “You are welcome” looks at each other one. The printed weights are right for the "
        "printed positions; with the positions of the formulas “welcome” hardly looks at itself.",
    ),
    "feed-forward": (
        pictures.sine,
        "sin(x) at 100 points, fitted by a line and by a network of two hidden layers of ten, trained by the engine.",
    ),
    "trainer": (
        pictures.word_trainer,
        "The script's 2,000 steps. The final probabilities are the paper's, to all eight digits.",
    ),
    "complexity": (
        pictures.complexity,
        "Measured while this page was made: forward only, one thread, float64; the exponents are fitted to the larger "
        "sizes. Dashed is O(l n^{2} d): 2 for tokens and 1 for layers and width. The whole model stays below 2 in n "
        "and above 1 in d: that is the term n d^{2}, which the paper leaves out. Attention alone grows less with d, as "
        "its softmax costs n^{2} whatever the width.",
    ),
    "plot-xor": (
        pictures.xor_points,
        "No straight line parts the black points from the white, and the best linear regression answers 1/2 to all.",
    ),
    "xor": (
        pictures.xor_networks,
        "XOR solved: by the paper's sigmoid network, by its ReLU network, and by a network that learned it from random "
        "weights, with its loss. Red is 1, blue is 0.",
    ),
}


def page(sections, counts, links):
    """The page as a str. sections: those to show; counts: the number of cases of each verdict, a dict;
    links: a dict from a section's slug to the page that replays its example, (name of the file, text)."""
    body = [_head(sections, counts), *(_section(section, links.get(section.slug)) for section in sections)]
    if len(sections) > 1:
        body.append(_chain())
    title, content = "The Math Behind GPT Models, recomputed", "\n".join(body)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<style>\n{STYLE.read_text(encoding='utf-8')}</style>\n</head>\n<body>\n{content}\n</body>\n</html>\n"
    )


def markup(text):
    """The markup of formulas and notes as HTML: x_{i} and 10^{-6} become subscripts and superscripts."""
    text = html.escape(text)
    while _INNERMOST.search(text):
        text = _INNERMOST.sub(lambda m: f"<{_TAG[m[1]]}>{m[2]}</{_TAG[m[1]]}>", text)
    return text


_TAG = {"_": "sub", "^": "sup"}


def _head(sections, counts):
    """Title, introduction, counts, and table of contents."""
    chips = "".join(
        f'<li class="{verdict}"><b>{counts[verdict]}</b> {verdict}<small>{_MEANINGS[verdict]}</small></li>'
        for verdict in VERDICTS
    )
    contents = "".join(f'<li><a href="#{s.slug}">{html.escape(s.title)}</a>{_bar(s)}</li>' for s in sections)
    if len(sections) > 1:
        contents += f'<li><a href="#set-right">{CHAIN}</a></li>'
    return (
        "<header><h1>The Math Behind GPT Models, recomputed</h1>\n"
        "<p>A draft whitepaper explains transformers and GPT with worked numbers. Here each of its numbers, formulas "
        "and checkable sentences is computed again by autotx, an autograd engine, in double precision, and compared "
        "digit by digit. The verdict follows from the comparison. What is right follows from the formula that the "
        "paper states and the numbers that it prints just before; line numbers are those of its text.</p>\n"
        f'<ul class="counts">{chips}</ul>\n<nav><ol>{contents}</ol></nav>\n'
        '<label><input type="checkbox" id="only"> show only what is not exact</label></header>'
    )


def _bar(section):
    """A row of small squares, one for each case, in the colours of the verdicts."""
    squares = "".join(f'<i class="{case.result.verdict}"></i>' for case in section.cases)
    return f'<span class="bar">{squares}</span>'


def _section(section, link):
    first, last = section.lines
    title = f"<h2>{html.escape(section.title)} <small>lines {first}–{last}</small></h2>"
    parts = [f'<section id="{section.slug}">', title]
    if link:
        parts.append(f'<p class="replay"><a href="{html.escape(link[0])}">{html.escape(link[1])}</a></p>')
    parts.extend(_case(case) for case in section.cases)
    if section.slug in PICTURES:
        draw, caption = PICTURES[section.slug]
        parts.append(f"<figure>{pictures.as_svg(draw())}<figcaption>{markup(caption)}</figcaption></figure>")
    return "\n".join([*parts, "</section>"])


def _case(case):
    result = case.result
    parts = [
        f'<article class="{result.verdict}" id="{case.id}">',
        f'<h3><span class="verdict">{result.verdict}</span><span>{markup(case.title)}</span>'
        f'<a href="#{case.id}" class="lines">{_lines(case)}</a></h3>',
    ]
    if case.formula:
        parts.append(f'<p class="formula">{markup(case.formula)}</p>')
    parts.append(_numbers(case))
    if case.note:
        parts.append(f'<p class="note">{markup(case.note)}</p>')
    return "\n".join([*parts, "</article>"])


def _lines(case):
    """ "line 199" or "lines 97–103"."""
    text = line_range(case)
    return f"lines {text.replace('-', '–')}" if "-" in text else f"line {text}"


def _numbers(case):
    """What is printed and what is computed; one matrix for both where all numbers are exact."""
    result, printed = case.result, case.printed
    if not isinstance(printed, Digits):
        left = _labelled("the paper", f"<q>{_words(printed)}</q>")
        right = "" if case.compute is None else _labelled("the engine", _words(result.computed))
        return f'<div class="numbers words">{left}{right}</div>'
    same = case.compute is not None and result.verdict == "exact"
    left = _labelled("printed and computed" if same else "printed", _matrix(printed, result.grades))
    if same or case.compute is None:
        return f'<div class="numbers">{left}</div>'
    right = _labelled("computed", _matrix(printed, result.grades, np.asarray(result.computed)))
    return f'<div class="numbers">{left}{right}</div>'


def _labelled(label, content):
    return f'<div><span class="label">{label}</span>{content}</div>'


def _words(value):
    if isinstance(value, list):
        return f"<span>{' '.join(f'<kbd>{html.escape(v)}</kbd>' for v in value)}</span>"
    return markup(str(value))


def _matrix(printed, grades, computed=None):
    """The printed numbers, or the computed ones where given, as a table in which numbers that differ are marked."""
    values = printed.literals if computed is None else computed
    places = np.broadcast_to(printed.places, values.shape) if values.shape == printed.shape else None
    rows = []
    for row in np.ndindex(values.shape[:-1]):
        cells = []
        for column in range(values.shape[-1] if values.ndim else 1):
            index = (*row, column) if values.ndim else ()
            off = grades is not None and grades[index] != "exact"
            if computed is None:
                number = _padded(values[index], printed.literals)
            elif places is None:
                number = f"{values[index]:z.{printed.places.max()}f}"
            else:
                number = shown(values[index], printed.values[index], places[index], same=not off)
            cells.append(f'<td class="off">{number}</td>' if off else f"<td>{number}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table>{''.join(rows)}</table>"


def _padded(literal, literals):
    """A printed number, padded on the right so that the decimal points of all `literals` line up."""
    tails = [len(number) - number.find(".") if "." in number else 0 for number in literals.ravel().tolist()]
    tail = len(literal) - literal.find(".") if "." in literal else 0
    return literal + " " * (max(tails) - tail)


def _chain():
    """The running example with all errata corrected."""
    rows = []
    for stage in corrected.chain():
        grades = grade(stage.printed, stage.right)
        title = f"<h3><span>{markup(stage.title)}</span><span class='lines'>line {stage.line}</span></h3>"
        left = _labelled("printed", _matrix(stage.printed, grades))
        right = _labelled("right", _matrix(stage.printed, grades, stage.right))
        rows.append(f'<article>{title}<div class="numbers">{left}{right}</div></article>')
    return (
        f'<section id="set-right"><h2>{CHAIN}</h2>\n'
        "<p>A verdict above asks whether a number follows from those printed just before it, so that one error is "
        "counted once. Here none is passed on: the example is computed through from X, Y and the weight matrices, with "
        "the positions of line 130, ε inside the root, the scale √d<sub>k</sub>, a causal mask in the decoder only, "
        f"and x W throughout. Marked is what changes.</p>\n{''.join(rows)}</section>"
    )

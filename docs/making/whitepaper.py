"""The whitepaper: the page of `autotx paper`, its replay pages, the errata as a list, and which ops its cases use."""

from collections import Counter, defaultdict
from pathlib import Path

from making.rst import heading, raw, table

from autotx import modes
from autotx.models import paper
from autotx.models.paper import page, replays, report
from autotx.models.paper.case import VERDICTS
from autotx.viz.ops import OPS

COMMANDS = (
    "autotx paper                                table of all, in a few seconds",
    "autotx paper --section softmax              one section, with formulas and evidence",
    "autotx paper --json cases.json --html paper.html",
)


class _Used(modes.Watcher):
    """Notes the ops that are computed."""

    def __init__(self):
        self.ops = set()

    def result(self, op, t, data, settings):
        self.ops.add(op)


def sections_by_op() -> dict:
    """Compute all cases. Returns a dict: op -> {(slug, title) of a section: how many of its cases use the op}."""
    found = defaultdict(Counter)
    for section in paper.SECTIONS:
        for case in section.cases:
            used = _Used()
            modes.watch(used)
            try:
                _ = case.result  # computed here, and kept for the pages
            finally:
                modes.unwatch(used)
            for op in used.ops & OPS.keys():
                found[op][section.slug, section.title] += 1
    return found


def counts() -> Counter:
    """How many cases have each verdict."""
    return Counter(case.result.verdict for case in paper.cases())


def write(folder: Path) -> None:
    """Write paper.html, and the pages that it links to, into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    links = replays.write_beside(folder / "paper.html", paper.SECTIONS)
    text = page.page(paper.SECTIONS, counts(), links)
    (folder / "paper.html").write_text(text, encoding="utf-8")


def pages() -> dict:
    """The pages: a dict of document name -> text."""
    return {"whitepaper/index": _index(), "whitepaper/errata": _errata()}


def _index():
    found, all_cases = counts(), len(paper.cases())
    links = [("paper.html", "The paper, recomputed"), *((f"paper-{n}.html", p[2]) for n, p in replays.PAGES.items())]
    texts = [
        "every case with its formula, what is printed and what is right, and pictures",
        *(f"{text[0].upper()}{text[1:]}" for _, text, *_ in replays.PAGES.values()),
    ]
    listed = "".join(f'<li><a href="{url}">{name}</a>: {text}</li>' for (url, name), text in zip(links, texts))
    rows = []
    for section in paper.SECTIONS:
        verdicts = Counter(case.result.verdict for case in section.cases)
        name = raw(f'<a href="paper.html#{section.slug}">{page.markup(section.title)}</a>')
        rows.append((name, *(str(verdicts[verdict] or "") for verdict in VERDICTS)))
    parts = [
        heading("The whitepaper", "="),
        "*The Math Behind GPT Models*, the whitepaper that this project grew from, explains transformers with worked "
        "numbers. ``autotx paper`` recomputes each of its numbers, formulas and checkable sentences with the engine, "
        f"in float64: {all_cases} cases, of which {found['exact']} are exact, {found['rounding']} differ in the last "
        f"printed digit only, {found['erratum']} are wrong, each with what is right, and {found['external']} quote "
        "what cannot be computed here. Every case is a test. Convolutional networks and batch normalization, which the "
        "paper only names, are not in autotx.",
        raw(f"<ul>{listed}</ul>"),
        "The errata alone, as a list: :doc:`errata`.",
        ".. code-block:: none\n\n   " + "\n   ".join(COMMANDS),
        heading("Its sections", "-"),
        table(("section", *VERDICTS), rows),
        ".. toctree::\n   :hidden:\n\n   errata",
    ]
    return "\n\n".join(parts) + "\n"


def _errata():
    wrong = [case for case in paper.cases() if case.result.verdict == "erratum"]
    parts = [
        heading("Errata of the whitepaper", "="),
        f"{len(wrong)} of {len(paper.cases())} cases. Each is computed by the engine and compared with the printed "
        "digits; a number counts as wrong only if it does not follow from those printed just before it. The line "
        "number leads to the case with its formula and all its numbers.",
    ]
    for section in paper.SECTIONS:
        cases = [case for case in section.cases if case.result.verdict == "erratum"]
        if cases:
            parts += [heading(section.title, "-"), raw("\n".join(map(_erratum, cases)))]
    return "\n\n".join(parts) + "\n"


def _erratum(case):
    lines = report.line_range(case).replace("-", "–")
    differences = "".join(f"<br>{page.markup(text)}" for text in report.differences(case))
    note = f"<p>{page.markup(case.note)}</p>" if case.note else ""
    return (
        f'<div class="erratum" id="{case.id}"><p><a class="anchor" href="#{case.id}">{page.markup(case.title)}</a>, '
        f'<a href="paper.html#{case.id}">line {lines}</a>{differences}</p>{note}</div>'
    )

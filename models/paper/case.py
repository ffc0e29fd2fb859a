"""A case of the paper: what the paper prints, what the engine computes, and how the two are compared.

Each case of a section is a function that computes a result; its decorator says what the paper prints:

    section = Section("softmax", "Softmax", (1258, 1312))

    @section.case(1298, "Three logits", formula="e^{x_i} / Σ_{j} e^{x_j}", printed=Digits("0.65 0.24 0.11"))
    def three_logits():
        return tensor([2.0, 1.0, 0.2]).softmax()

No verdict is stored. Each is derived from the printed digits and the computed numbers:

    exact      every printed digit is right
    rounding   numbers differ in their last printed digit, none by more than one unit of that digit
    erratum    any other difference; the case then has a note that says what is wrong and what is right
    external   the paper quotes data from elsewhere, which cannot be computed here

For a sentence of the paper the function returns a Claim: whether the sentence holds, and the evidence.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np

from autotx import Tensor

VERDICTS = ("exact", "rounding", "erratum", "external")
_SLACK = 1e-6  # of a unit of the last digit: 1.60005 may be printed as 1.6001 though binary has no exact 1.60005


class Digits:
    """Numbers with the digits that the paper prints: a number, a row, or a matrix.

    text: a number "0.65", a row "0.65 0.24", or a matrix with semicolons between its rows, "1 0; 0 1".
    places: the least number of decimals of each number, for output of NumPy, which drops zeros at the end:
    in Digits("1.6 0.8998", places=4), 1.6 stands for 1.6000.
    """

    def __init__(self, text, places=0):
        rows = [row.split() for row in text.split(";")]
        literals = rows if len(rows) > 1 else rows[0] if len(rows[0]) > 1 else rows[0][0]
        self.literals = np.array(literals)
        self.values = self.literals.astype(np.float64)
        self.places = np.maximum(np.vectorize(_decimals, otypes=[int])(literals), places)

    @property
    def shape(self):
        return self.values.shape


def _decimals(literal):
    """How many digits a printed number has after its point: 2 for "0.65", 0 for "7" and "7."."""
    return len(literal.partition(".")[2])


@dataclass(frozen=True)
class Claim:
    """Whether a sentence of the paper holds, and the measured evidence in words."""

    holds: bool
    evidence: str


@dataclass(frozen=True)
class Result:
    """A computed case. computed: a number, nested lists of numbers, a list of words, or a sentence.

    grades: the verdict of each number, an array of str in the shape of the printed numbers; None for text, and where
    the shapes of printed and computed numbers differ.
    """

    case: "Case"
    computed: object
    verdict: str
    grades: np.ndarray | None = None


@dataclass(frozen=True)
class Case:
    """A number, formula, output of a listing or sentence of the paper. lines: its first and last line, from 1."""

    id: str
    lines: tuple[int, int]
    section: str
    title: str
    formula: str
    printed: object  # Digits, a list of words, or a sentence
    compute: Callable | None  # None: the paper quotes data from elsewhere
    note: str = ""

    @cached_property
    def result(self):
        """The Result, computed and compared on first access, then kept."""
        if self.compute is None:
            return Result(self, "outside data, not computed", "external")
        computed = self.compute()
        if isinstance(computed, Claim):
            return Result(self, computed.evidence, "exact" if computed.holds else "erratum")
        if isinstance(self.printed, Digits):
            computed = np.asarray(computed.data if isinstance(computed, Tensor) else computed, dtype=np.float64)
            grades = grade(self.printed, computed)
            return Result(self, computed.tolist(), worst(grades), grades)
        return Result(self, computed, "exact" if computed == self.printed else "erratum")

    @property
    def printed_values(self):
        """The printed numbers as a number or nested lists, or the printed text."""
        return self.printed.values.tolist() if isinstance(self.printed, Digits) else as_text(self.printed)


def as_text(words):
    """A list of words joined to one text; any other value unchanged."""
    return " ".join(words) if isinstance(words, list) and all(isinstance(w, str) for w in words) else words


def grade(printed, computed):
    """The verdict of each number, an array of str in the shape of both arguments; None where their shapes differ."""
    if printed.shape != computed.shape:
        return None
    unit = 10.0**-printed.places
    off = np.abs(computed - printed.values) / unit
    whole = printed.places == 0  # a count or a size has no rounded last digit
    grades = np.where((off <= 1 + _SLACK) & ~whole, "rounding", "erratum")
    return np.where(off <= 0.5 + _SLACK, "exact", grades)


def worst(grades):
    """The worst verdict in an array of verdicts; "erratum" for None."""
    if grades is None:
        return "erratum"
    return max(grades.ravel().tolist(), key=VERDICTS.index)


@dataclass
class Section:
    """A section of the paper. slug: prefix of its cases' ids, and its name for --section; lines: first and last."""

    slug: str
    title: str
    lines: tuple[int, int]
    cases: list = field(default_factory=list)

    def case(self, lines, title, *, printed, formula="", note=""):
        """Decorator: adds a case that the function computes, with the function's name in its id.

        lines: the first and the last line, or the number of the only line.
        """

        def add(compute):
            self._add(compute.__name__, lines, title, formula, printed, compute, note)
            return compute

        return add

    def table(self, *rows):
        """Decorator: adds a case for each row, which the function computes from the row's arguments.

        A row is (name, lines, title, formula, what is printed, *arguments).
        """

        def add(compute):
            for name, lines, title, formula, printed, *arguments in rows:
                self._add(name, lines, title, formula, printed, partial(compute, *arguments), "")
            return compute

        return add

    def quote(self, name, lines, title, *, printed, note):
        """Add a case that cannot be computed here, as it quotes outside data; the note names their source."""
        self._add(name, lines, title, "", printed, None, note)

    def _add(self, name, lines, title, formula, printed, compute, note):
        lines = (lines, lines) if isinstance(lines, int) else lines
        case = Case(f"{self.slug}.{name}", lines, self.title, title, formula, printed, compute, note)
        self.cases.append(case)

"""What one case of the paper is: what is printed, what the engine computes, and how the two are compared.

A section lists its cases as functions that compute, each under a decorator that says what the paper prints:

    section = Section("softmax", "Softmax", (1258, 1312))

    @section.case(1298, "Three logits", formula="e^{x_i} / Σ_{j} e^{x_j}", printed=digits("0.65 0.24 0.11"))
    def three_logits():
        return tensor([2.0, 1.0, 0.2]).softmax()

The verdict is never written down. It follows from the printed digits and the computed numbers:

    exact      every printed digit is right
    rounding   some number is wrong in its last printed digit, none by more than one unit of it
    erratum    anything else; the case then needs a note that says what is wrong and what is right
    external   the paper quotes data that cannot be computed here

A sentence is a case too: its function returns a Claim, which says whether the sentence holds, and the evidence.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np

from autotx import Tensor

VERDICTS = ("exact", "rounding", "erratum", "external")
_SLACK = 1e-6  # of a unit of the last digit: 1.60005 may be printed as 1.6001 though binary has no exact 1.60005


class Digits:
    """Numbers as they are printed, digit by digit: a number, a row, or a matrix.

    text: "0.65", "0.65 0.24" or, with rows parted by semicolons, "1 0; 0 1".
    places: how many decimals every number has at least. Give it where the paper drops zeros at the end, as NumPy does:
    in digits("1.6 0.8998", places=4) the 1.6 stands for 1.6000.
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


def digits(text, places=0):
    """See Digits."""
    return Digits(text, places)


@dataclass(frozen=True)
class Claim:
    """What became of a sentence: whether it holds, and the measured evidence in words."""

    holds: bool
    evidence: str


@dataclass(frozen=True)
class Result:
    """A computed case. computed: a number, nested lists of numbers, a list of words, or a sentence.

    grades: for numbers, the verdict of each as an array of str in the shape of what is printed; None otherwise, and
    where printed and computed differ in shape.
    """

    case: "Case"
    computed: object
    verdict: str
    grades: np.ndarray | None = None


@dataclass(frozen=True)
class Case:
    """One number, formula, listing output or sentence of the paper. lines: its first and last line, from 1."""

    id: str
    lines: tuple[int, int]
    section: str
    title: str
    formula: str
    printed: object  # Digits, a list of words, or a sentence
    compute: Callable | None  # None: the paper quotes outside data
    note: str = ""

    @cached_property
    def result(self):
        """Compute, compare, and remember. Returns a Result."""
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
        """What is printed, as a number, nested lists of numbers, or text."""
        return self.printed.values.tolist() if isinstance(self.printed, Digits) else as_text(self.printed)


def as_text(words):
    """A list of words as one text; anything else as it is."""
    return " ".join(words) if isinstance(words, list) and all(isinstance(w, str) for w in words) else words


def grade(printed, computed):
    """The verdict of every number: an array of str of the printed shape; None where the shapes differ."""
    if printed.shape != computed.shape:
        return None
    unit = 10.0**-printed.places
    off = np.abs(computed - printed.values) / unit
    whole = printed.places == 0  # a count or a size has no rounded last digit
    grades = np.where((off <= 1 + _SLACK) & ~whole, "rounding", "erratum")
    return np.where(off <= 0.5 + _SLACK, "exact", grades)


def worst(grades):
    """The verdict of a whole matrix: that of its worst number."""
    if grades is None:
        return "erratum"
    return max(grades.ravel().tolist(), key=VERDICTS.index)


@dataclass
class Section:
    """A section of the paper. slug: how ids begin and what --section finds; lines: the first and last line."""

    slug: str
    title: str
    lines: tuple[int, int]
    cases: list = field(default_factory=list)

    def case(self, lines, title, *, printed, formula="", note=""):
        """Decorator: the function computes what is printed there, and its name becomes the case's id.

        lines: the first and the last line, or one number where they are the same.
        """

        def add(compute):
            self._add(compute.__name__, lines, title, formula, printed, compute, note)
            return compute

        return add

    def table(self, *rows):
        """Decorator for cases that differ in their numbers only: the function computes each from its row's arguments.

        A row is (name, lines, title, formula, what is printed, *arguments).
        """

        def add(compute):
            for name, lines, title, formula, printed, *arguments in rows:
                self._add(name, lines, title, formula, printed, partial(compute, *arguments), "")
            return compute

        return add

    def quote(self, name, lines, title, *, printed, note):
        """A case of outside data, which nothing here can compute; the note says where it comes from."""
        self._add(name, lines, title, "", printed, None, note)

    def _add(self, name, lines, title, formula, printed, compute, note):
        lines = (lines, lines) if isinstance(lines, int) else lines
        case = Case(f"{self.slug}.{name}", lines, self.title, title, formula, printed, compute, note)
        self.cases.append(case)

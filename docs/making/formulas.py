"""Formulas of the notebooks, which are written in LaTeX, as MathML: no script is needed to show them."""

import re

from docutils.nodes import SkipNode
from latex2mathml.converter import convert


def inline(translator, node):
    """Write a formula in a line. (A visitor of Sphinx, as is `displayed`.)"""
    _write(translator, node, "inline")


def displayed(translator, node):
    """Write a formula that stands by itself."""
    _write(translator, node, "block")


def _write(translator, node, display):
    # "ln x" and not "lnx": convert forgets the space between a function and its argument
    spaced = re.sub(r"(\\(?:ln|tanh|sinh|cosh)(?:\^2)?) (?=\w)", r"\1\\, ", node.astext())
    formula = convert(spaced, display=display)
    translator.body.append(formula if display == "inline" else f'<div class="formula">{formula}</div>\n')
    raise SkipNode

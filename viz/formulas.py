"""The formulas of an op, read from its docstring."""

import functools
import inspect
import re


@functools.cache
def parameters(op):
    """The parameters of a function: a tuple of inspect.Parameter."""
    return tuple(inspect.signature(op).parameters.values())


def formulas(op, settings=None):
    """The formulas in the docstring of an op: its own ("y = x W^T + b"), and a dict of argument name -> formula of the
    gradient ("dx = g W"). (None, {}) if there is no docstring.

    The formula is the beginning of the docstring. The gradient of the argument x begins with "dx =" (or "dx +=",
    "dL/dx ="); a formula without indices is preferred. A line that begins with setting="value": holds only for that
    value. An argument without a formula of its own gets the sentence after the first. The gradient of *arguments has
    the key "*".
    """
    if op is None or not op.__doc__:
        return None, {}
    chosen = tuple((name, value) for name, value in (settings or {}).items() if isinstance(value, str))
    formula, gradients = _formulas(op, chosen)
    return formula, dict(gradients)


@functools.cache
def _formulas(op, settings):
    general, special = _for_settings(inspect.cleandoc(op.__doc__), dict(settings))
    text = special or general
    formula = re.split(rf"{_STOP}|, so ", text, maxsplit=1)[0].strip()
    gradients = {}
    for p in parameters(op):
        if p.kind is p.POSITIONAL_ONLY:
            found = _gradient(p.name, text) or _gradient(p.name, general)
            if found:
                gradients[p.name] = found
            elif "   " in text:
                gradients[p.name] = re.split(r"(?<!\.)\.(?=\s|$)|;", text.split("   ", 1)[1])[0].strip()
        elif p.kind is p.VAR_POSITIONAL:
            rest = text.split("   ", 1) if "   " in text else text.split(".\n", 1)
            gradients["*"] = re.split(r"(?<!\.)\.(?=\s|$)", rest[-1].strip())[0]
    return formula, gradients


_STOP = r"(?<!\.)\.(?=\s|$)|;|\s{2,}|:\s"  # the end of a formula: a full stop, a semicolon, two spaces, a colon


def _gradient(name, text):
    end = rf"{_STOP}|,?\s(?:and|so)\s(?:d\w+\s\+?=|[01]\s|g\s/)|,\s(?:so|d\w+\s=)|\s\(the\s\w+\srule\)|$"
    letter = f"(?i:{name})" if len(name) == 1 else name
    for index in ("", r"(?:_\w+|\[[^=]*\])"):
        found = re.search(rf"(?:dL/|(?<![\w/]))d{letter}{index}\s\+?=\s.+?(?={end})", text)
        if found:
            return found[0].strip()
    return None


def _for_settings(doc, settings):
    """The general text of a docstring, and the text that holds only for these settings ("" if there is none). An
    indented line is a formula by itself: it is separated by three spaces."""
    general, special, into = "", "", None
    for line in doc.partition("Source:")[0].splitlines():
        found = re.match(r"(\w+)=\"?(\w+)\"?: (.*)", line)
        if found:
            into, line = str(settings.get(found[1])) == found[2], found[3]
        gap = "   " if line.startswith(" ") or not line else " "
        if into is None:
            general += f"{gap}{line}{gap if gap != ' ' else ''}"
        elif into:
            special += f"{gap}{line}"
    return general.strip(), special.strip()

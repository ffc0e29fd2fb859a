"""The formulas of an op, read from its docstring."""

import functools
import inspect
import re


@functools.cache
def parameters(op):
    """The parameters of a function, as inspect has them."""
    return tuple(inspect.signature(op).parameters.values())


def formulas(op, settings=None):
    """What the docstring of an op says: its formula ("y = x W^T + b"), and a dict from the name of each argument to
    the formula of its gradient ("dx = g W"). (None, {}) when there is no docstring.

    The formula is the beginning of the docstring. The gradient of the argument x is what follows "dx =" (or "dx +=",
    "dL/dx ="), without indices when there is a choice. A line that begins with setting="value": holds for that alone.
    When an argument has no formula of its own, the sentence after the first stands for all. The key of an op's varying
    number of arguments is "*".
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


_STOP = r"(?<!\.)\.(?=\s|$)|;|\s{2,}|:\s"  # where a formula ends: a full stop, a semicolon, a gap, a colon


def _gradient(name, text):
    end = rf"{_STOP}|,?\s(?:and|so)\s(?:d\w+\s\+?=|[01]\s|g\s/)|,\s(?:so|d\w+\s=)|\s\(the\s\w+\srule\)|$"
    letter = f"(?i:{name})" if len(name) == 1 else name
    for index in ("", r"(?:_\w+|\[[^=]*\])"):
        found = re.search(rf"(?:dL/|(?<![\w/]))d{letter}{index}\s\+?=\s.+?(?={end})", text)
        if found:
            return found[0].strip()
    return None


def _for_settings(doc, settings):
    """The text of a docstring, and the part of it that holds for these settings alone ("" for none). A line that is
    indented is a formula by itself: gaps are put around it."""
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

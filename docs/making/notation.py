"""The notation of the docstrings, set as HTML: formulas become MathML, the words between them stay text.

A docstring writes mathematics as plain text: dx_j = p_j (g_j - sum_i g_i p_i), x^2, h_(t-1), 1 / sqrt(v + eps).

    as_html(text)       text with formulas in it, as HTML
    mathml(formula)     one formula, as a <math> element

What is a formula is found by its tokens: single letters, Greek names, functions, numbers and operators. Every other
word is prose, so that "y = x without axes of size 1" is a formula, "y = x", and words beside it, of which none is lost.
"""

import html
import re
from collections.abc import Collection
from typing import NamedTuple

GREEK = {"alpha": "α", "beta": "β", "gamma": "γ", "eps": "ε", "pi": "π", "sigma": "σ"}
HATS = {"xhat": "x", "yhat": "y"}
FUNCTIONS = {
    "exp", "ln", "log", "log2", "log10", "sin", "cos", "tan", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh",
    "arcsinh", "arccosh", "arctanh", "sign", "erf", "floor", "sqrt", "sum", "max", "min", "mean", "var", "softmax",
    "silu", "cross_entropy", "linear",
}  # fmt: skip
SIGNS = {"-": "−", "*": "⊙", ">=": "≥", "<=": "≤", "!=": "≠", "->": "→", "+-": "±", "||": "‖"}
OPERATORS = {"+", "-", "*", "=", "<", ">", "+=", ">=", "<=", "!=", "->", "+-"}
OPENING, CLOSING = {"(": ")", "[": "]", "|": "|", "||": "||"}, {")", "]"}
JOINING = {"/", "^", "_"}

TOKEN = re.compile(
    r"""(?P<space>\s+)
    |(?P<code>`[^`]*` | [A-Za-z_]\w*(?:\.[A-Za-z_]\w*(?:\([^()]*\))?)+)
    |(?P<prose>"[^"]+" | [A-Za-z]+(?:-[A-Za-z]{2,})+ | [A-Za-z]+'[a-z]+ | \d+-[A-Za-z]+\b)
    |(?P<number>\d+(?:,\d{3})*(?:\.\d+)?)
    |(?P<word>[A-Za-z][A-Za-z0-9]*(?:_[A-Za-z0-9]+)*'?)
    |(?P<sign>\.\.\.|\.\.|\+=|>=|<=|!=|->|\+-|\|\||[-+*/^_=<>|()\[\],])
    |(?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)


class Token(NamedTuple):
    kind: str  # a group of TOKEN
    text: str
    gap: bool  # whether a space stands before it


def as_html(text: str, names: Collection[str] = (), display: bool = False) -> str:
    """Text with formulas in it as HTML. names: words that stand for numbers, such as the arguments of an op.

    display: formulas are set large, with fractions one above the other.
    """
    tokens, names = _tokens(text), frozenset(names)
    formulas = _formulas(tokens, names)
    parts, i = [], 0
    while i < len(tokens):
        after_operator = parts and parts[-1].endswith("</mo></math>")  # which has a space of its own
        parts.append(" " if tokens[i].gap and not after_operator else "")
        if i in formulas:
            made, i = _math(tokens[i : formulas[i]], names, display), formulas[i]
            if i < len(tokens) and tokens[i].text in (",", ".", ";", ":", ")") and not tokens[i].gap:
                made, i = f'<span class="kept">{made}{tokens[i].text}</span>', i + 1  # no line begins with a comma
            parts.append(made)
        else:
            kind, word, _ = tokens[i]
            quoted = word[1:-1] if word.startswith("`") else word
            parts.append(f"<code>{html.escape(quoted)}</code>" if kind == "code" else html.escape(word, quote=False))
            i += 1
    return "".join(parts)


def mathml(formula: str, names: Collection[str] = (), display: bool = False) -> str:
    """A formula as a <math> element."""
    return _math(_tokens(formula), frozenset(names), display)


def _tokens(text):
    tokens, gap = [], False
    for found in TOKEN.finditer(text):
        if found.lastgroup == "space":
            gap = True
        else:
            tokens.append(Token(str(found.lastgroup), found[0], gap))
            gap = False
    return tokens


# Where formulas are


def _formulas(tokens, names):
    """A dict of first token -> end of each formula, the longest runs of tokens that can be part of one."""
    pairs = _pairs(tokens)
    part = [False] * len(tokens)  # of a formula
    for i in reversed(range(len(tokens))):
        part[i] = part[i] or _is_part(tokens, i, names, pairs, part)
        if part[i] and i in pairs:
            part[pairs[i]] = True
    found, i = {}, 0
    while i < len(tokens):
        start = i
        while i < len(tokens) and part[i]:
            i = pairs[i] + 1 if i in pairs else i + 1
        if i > start + 1 and _is_word(tokens[start].text, names) and tokens[start + 1].gap and part[start + 1]:
            start += tokens[start + 1].kind == "word"  # the name of an argument, in a sentence, before a formula
        if _says_something(tokens[start:i]):
            found[start] = i
        i = max(i, start + 1)
    return found


def _pairs(tokens):
    """A dict of opening bracket -> its closing bracket, by their places."""
    pairs, stack = {}, []
    for i, (kind, text, _) in enumerate(tokens):
        if kind != "sign":
            continue
        if stack and text == OPENING[tokens[stack[-1]].text]:
            pairs[stack.pop()] = i
        elif text in OPENING:
            stack.append(i)
    return pairs


def _is_part(tokens, i, names, pairs, part):
    """Whether a token may be part of a formula; of those after it this is known."""
    kind, text, _ = tokens[i]
    if kind == "word":
        if text in ("a", "A") and i + 1 < len(tokens) and tokens[i + 1].kind in ("word", "prose", "code"):
            return part[i + 1] and len(tokens[i + 1].text) == 1  # an article stands before words
        if text not in names and _is_function(text):
            return i + 1 < len(tokens) and part[i + 1]
        return text in names or _symbol(text, names) is not None
    if i in pairs:  # a bracket, if all that is in it is, with commas between
        return all(part[k] or tokens[k].text == "," for k in range(i + 1, pairs[i])) and pairs[i] > i + 1
    return kind == "number" or text in ("...", "..") or text in OPERATORS | JOINING


def _says_something(tokens):
    """Whether a run of tokens is a formula, and not a number or a name in a sentence, or a dash."""
    letters = [t for t in tokens if t.kind == "word"]
    return bool(letters) and (len(tokens) > 1 or _symbol(letters[0].text) is not None)


def _is_function(word):
    base, _, index = word.rstrip("'").partition("_")
    return base + (f"_{index}" if index and base != "sum" else "") in FUNCTIONS


def _is_word(word, names):
    """Whether a token is the name of an argument that is a word."""
    return word in names and len(word) > 1 and _symbol(word) is None


def _symbol(word, names=()):
    """The MathML of a word that is a symbol: a letter, a Greek name, or d and one of these or of the names; with its
    subscript beside it, (symbol, subscript or ""). None for other words."""
    if word[0] == "d" and word[1:] in names:
        made, index = _symbol(word[1:]) or (_name(word[1:]), "")
        return f"<mrow><mi>d</mi>{made}</mrow>", index
    base, _, index = word.rstrip("'").partition("_")
    if index and (len(index) > 2 or not index.isalnum()):
        return None
    if len(base) == 1:
        made = f"<mi>{base}</mi>"
    elif base in GREEK:
        made = f"<mi>{GREEK[base]}</mi>"
    elif base in HATS:
        made = f'<mover accent="true"><mi>{HATS[base]}</mi><mo stretchy="false">^</mo></mover>'
    elif base[0] == "d" and base != "do" and (len(base) == 2 or base[1:] in GREEK):
        made = f"<mrow><mi>d</mi>{''.join(_symbol(base[1:]))}</mrow>"
    else:
        return None
    if word.endswith("'"):
        made = f"<msup>{made}<mo>′</mo></msup>"
    return made, "".join(f"<mn>{c}</mn>" if c.isdigit() else f"<mi>{c}</mi>" for c in index)


def _name(word):
    return f"<mi>{html.escape(word)}</mi>"


# One formula


def _math(tokens, names, display):
    if display:
        return f'<math displaystyle="true">{_Formula(tokens, names, True).row()}</math>'
    # A line may end before any equals sign but the first, if it stands in no bracket
    inside = {k for i, end in _pairs(tokens).items() for k in range(i, end)}
    equals = [i for i, t in enumerate(tokens) if t.text == "=" and i not in inside]
    ends = [0, *equals[1:]]
    pieces = [tokens[i:j] for i, j in zip(ends, [*ends[1:], len(tokens)])]
    return "<wbr>".join(f"<math>{_Formula(piece, names, False).row()}</math>" for piece in pieces)


class _Formula:
    """Reads the tokens of a formula from left to right. stacked: a / b is set as one above the other."""

    def __init__(self, tokens, names, stacked):
        self.tokens, self.names, self.stacked, self.i = tokens, names, stacked, 0

    def peek(self):
        return self.tokens[self.i].text if self.i < len(self.tokens) else None

    def take(self):
        self.i += 1
        return self.tokens[self.i - 1]

    def row(self, end=None):
        """Terms and the operators between them, up to the bracket `end`, which is not taken."""
        parts, operand = [], False
        while self.peek() not in (None, end):
            text = self.peek()
            if text in OPERATORS or text == ",":
                self.take()
                form = "" if operand or text in (",", "=") else ' form="prefix"'
                parts.append(f"<mo{form}>{html.escape(SIGNS.get(text, text))}</mo>")
                operand = False
            else:
                parts.append(self.product(end))
                operand = True
        return "".join(parts)

    def product(self, end=None):
        """Factors side by side; what stands before a stroke, all of it, is divided by the factor behind it."""
        parts = []
        while self.peek() not in (None, end, ",", *CLOSING) and self.peek() not in OPERATORS:
            if self.peek() == "/":
                self.take()
                below = self.factor(end) if self.peek() not in (None, end) else ""
                if self.stacked:
                    above = f"<mrow>{_bare(''.join(parts))}</mrow>"
                    parts = [f"<mfrac>{above}<mrow>{_bare(below)}</mrow></mfrac>"]
                else:
                    parts.append(f"<mo>/</mo>{below}")
            else:
                parts.append(self.space() + self.factor(end) if parts else self.factor(end))
        if not parts:  # a bracket without its partner
            parts.append(f"<mo>{html.escape(self.take().text)}</mo>")
        return "".join(parts)

    def space(self):
        return '<mspace width="0.17em"></mspace>' if self.tokens[self.i].gap else ""

    def factor(self, end=None):
        """An atom with its index and its exponent. A function without brackets takes the factor after it."""
        token = self.take()
        if token.kind == "word" and token.text not in self.names and _is_function(token.text):
            return self.function(token, end)
        symbol = _symbol(token.text, self.names) if token.kind == "word" else None
        return self.scripts(*(symbol or [self.atom(token)]))

    def function(self, token, end):
        word, prime = token.text.rstrip("'"), "′" * token.text.count("'")
        if word == "sqrt":
            return self.scripts(f"<msqrt>{_bare(self.factor(end))}</msqrt>")
        if word.startswith("sum"):
            under = f"<mi>{word[4:]}</mi>" if word[4:] else ""
            kind = "munder" if self.stacked else "msub"
            sign = f"<{kind}><mo>∑</mo>{under}</{kind}>" if under else "<mo>∑</mo>"
            rest = self.product(end) if self.peek() not in (None, end, *CLOSING, *OPERATORS) else ""
            return f"<mrow>{self.scripts(sign)}{rest}</mrow>"
        base, digits = re.match(r"(\D+)(\d*)", word).groups()
        sign = f"<msub><mi>{base}</mi><mn>{digits}</mn></msub>" if digits else f"<mi>{base}{prime}</mi>"
        sign = self.scripts(sign)
        if self.peek() in (None, end, ",", *CLOSING) or self.peek() in OPERATORS | JOINING:
            return sign
        gap = "" if self.peek() in ("(", "[") else '<mspace width="0.17em"></mspace>'
        return f"<mrow>{sign}{gap}{self.factor(end)}</mrow>"

    def atom(self, token):
        kind, text, _ = token
        if text in OPENING:
            close = OPENING[text]
            inner = self.row(close)
            if self.peek() == close:
                self.take()
            flat = "" if "<mfrac>" in inner or "<munder>" in inner else ' stretchy="false"'
            left, right = (html.escape(SIGNS.get(c, c)) for c in (text, close))
            return f'<mrow><mo form="prefix"{flat}>{left}</mo>{inner}<mo form="postfix"{flat}>{right}</mo></mrow>'
        if text in ("...", ".."):
            return "<mi>…</mi>"
        if kind == "number":
            return f"<mn>{text}</mn>"
        if kind == "word":
            return "".join(_symbol(text, self.names) or [_name(text)])
        return f"<mo>{html.escape(text)}</mo>"

    def scripts(self, made, index=""):
        """What was made, with its index and the exponent that follows it."""
        below = f"<mrow>{index}</mrow>" if index else self.script("_")
        above = self.script("^")
        if below and above:
            return f"<msubsup>{made}{below}{above}</msubsup>"
        return f"<msub>{made}{below}</msub>" if below else f"<msup>{made}{above}</msup>" if above else made

    def script(self, sign):
        if self.peek() != sign:
            return ""
        self.take()
        flat, self.stacked = self.stacked, False
        minus = ""
        if self.peek() == "-":
            self.take()
            minus = '<mo form="prefix">−</mo>'
        if self.peek() == "T":
            self.take()
            made = '<mi mathvariant="normal">T</mi>'
        else:
            made = self.atom(self.take()) if self.peek() is not None else ""
        self.stacked = flat
        return f"<mrow>{minus}{_bare(made)}</mrow>"


_BARE = re.compile(r'<mrow><mo form="prefix"[^>]*>\(</mo>(.*)<mo form="postfix"[^>]*>\)</mo></mrow>')


def _bare(made):
    """What was made without the parentheses around all of it."""
    found = _BARE.fullmatch(made)
    if not found or any(d < 0 for d in _depths(found[1])):
        return made
    return found[1]


def _depths(made):
    depth = 0
    for sign in re.findall(r'form="(prefix|postfix)"[^>]*>[()]', made):
        depth += 1 if sign == "prefix" else -1
        yield depth

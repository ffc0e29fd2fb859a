"""Text for people, used by every part of the package."""


def counted(n: int, noun: str) -> str:
    """How many there are of a thing whose plural only adds an s: "1 layer", "1,024 layers"."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def visible(text: str, keep: str = "") -> str:
    """The text with escapes, such as \\n or \\u202e, for characters that are not seen. keep: those that stay."""
    return "".join(c if c.isprintable() or c in keep else repr(c)[1:-1] for c in text)

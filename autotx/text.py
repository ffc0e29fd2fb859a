"""Text for people, used by every part of the package."""


def counted(n: int, noun: str) -> str:
    """How many there are of a thing whose plural only adds an s: "1 layer", "1,024 layers"."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"

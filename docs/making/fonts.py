"""The font of the formulas: STIX Two Math, of which the pages get the characters that formulas can have.

A browser sets MathML well only with a font that has a table of mathematical sizes, which phones and many Linux systems
lack. The font is under the SIL Open Font License and comes with ziamath, a package on PyPI.
"""

from importlib import resources
from pathlib import Path

from fontTools import subset
from fontTools.ttLib import TTFont

# Latin, Latin-1, Greek; dashes, primes and ellipses; arrows and operators; floors; italics, h among them
CHARACTERS = (
    *range(0x20, 0x7F), *range(0xA0, 0x100), *range(0x370, 0x400), *range(0x2010, 0x2040), 0x210E,
    *range(0x2190, 0x21A0), *range(0x2200, 0x22C8), *range(0x2308, 0x230C), *range(0x1D434, 0x1D468),
    *range(0x1D6E2, 0x1D71C),
)  # fmt: skip


def write(path: Path) -> None:
    """Write the font to a file."""
    with resources.as_file(resources.files("ziamath") / "fonts" / "STIXTwoMath-Regular.ttf") as file:
        font = TTFont(file)
    options = subset.Options(layout_features=["*"], flavor="woff", notdef_outline=True)
    made = subset.Subsetter(options)
    made.populate(unicodes=CHARACTERS)
    made.subset(font)
    font.flavor = "woff"
    font.save(path)

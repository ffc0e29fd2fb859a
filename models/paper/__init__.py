"""The whitepaper "The Math Behind GPT Models", recomputed by the engine: each number, formula and checkable sentence.

    autotx paper                     print the cases of each section, each with its verdict
    autotx paper --html page.html    also write a page with the pictures that the text describes

case.py defines what a case and a verdict are: read it first, then the modules in the order of SECTIONS.
"""

from autotx.models.paper import (
    attention,
    complexity,
    decoder,
    decoder_listings,
    embeddings,
    example,
    feed_forward,
    gpt,
    heads,
    listings,
    loss,
    networks,
    norm,
    positions,
    trainer,
    words,
)
from autotx.models.paper.case import VERDICTS, Case, Section

SECTIONS = [
    embeddings.overview,
    embeddings.section,
    positions.section,
    attention.encoder,
    attention.section,
    example.section,
    heads.section,
    norm.section,
    feed_forward.section,
    decoder.target,
    decoder.cross,
    decoder.output,
    loss.section,
    trainer.section,
    gpt.differences,
    gpt.example,
    gpt.training,
    complexity.section,
    words.embeddings,
    words.matrices,
    words.softmax,
    listings.products,
    listings.targets,
    listings.scores,
    listings.heads,
    listings.norm,
    networks.regression,
    networks.points,
    networks.sigmoid,
    networks.relu,
    decoder_listings.feed_forward,
    decoder_listings.heads,
    decoder_listings.cross,
    decoder_listings.entropy,
]

for _section in SECTIONS:
    _section.cases.sort(key=lambda case: case.lines[0])


def cases():
    """All cases, in the order of the paper."""
    return [case for section in SECTIONS for case in section.cases]


def sections_named(name):
    """The section whose slug is `name`, else those whose title contains it, a list. ValueError when there is none."""
    wanted = name.lower()
    found = [s for s in SECTIONS if s.slug == wanted] or [s for s in SECTIONS if wanted in s.title.lower()]
    if not wanted or not found:
        raise ValueError(f"--section {name}: there is none; give one of {', '.join(s.slug for s in SECTIONS)}")
    return found

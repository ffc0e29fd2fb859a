"""`autotx prepare`: make token files of a text of any size."""

import os

from autotx.models.config import add_flags
from autotx.models.formats import format_of, located, open_model
from autotx.models.prepare import PrepareSettings, prepare
from autotx.text import counted

EXAMPLES = (
    "autotx prepare --text corpus.txt --out corpus",
    "autotx prepare --text corpus.txt --out corpus --tokenizer bpe --vocab-size 16384",
)


def add_arguments(parser):
    add_flags(parser, PrepareSettings)


def run(args):
    """Make the files, and say what they hold and what to do with them. Returns the exit status."""
    settings = PrepareSettings(**vars(args))
    given = settings.tokenizer_file
    of_model = given and (os.path.isdir(given) or format_of(located(given)))
    tokenizer = open_model(given).tokenizer if of_model else None
    facts = prepare(settings, tokenizer)
    training, validation = (facts[part]["tokens"] for part in ("training", "validation"))
    print(f"{settings.out} holds {counted(training, 'token')} to learn from and {validation:,} to validate on.")
    print(f"Next:\n  autotx train --data {settings.out}")
    return 0

"""`autotx finetune`: train a pre-trained language model to label texts."""

import argparse

from autotx.models.commands.train import absolute, resumed
from autotx.models.config import add_flags
from autotx.models.formats import identify
from autotx.models.registry import make_config, settings_of
from autotx.models.train import train

PROCESSES = True  # mpiexec may start several


EXAMPLES = (
    "autotx finetune --model runs/book --labels reviews.tsv --out runs/reviews",
    "autotx finetune --out runs/reviews --resume --steps 600",
)


def add_arguments(parser):
    parser.add_argument(
        "--model", dest="init", metavar="DIR", default=argparse.SUPPRESS, help="the language model to start from"
    )
    add_flags(parser, settings_of("gpt", "labels"))  # the settings are the same for every architecture


def run(args):
    """Fine-tune with the settings of the command line. Returns the exit status."""
    given, architecture = vars(args), "gpt"
    if given.get("resume"):
        return train(resumed(given, "classifier"))
    if "init" in given:
        architecture = identify(given["init"], needs="text")[1].name
    kind = settings_of(architecture, "labels")
    return train(make_config(kind, absolute(kind, given)))

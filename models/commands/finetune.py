"""`autotx finetune`: a pre-trained GPT learns to label texts."""

import argparse
import os

from autotx.models.commands.train import absolute, resumed
from autotx.models.config import ClassifierTrainConfig, add_flags, make_config
from autotx.models.train import train


def add_arguments(parser):
    parser.add_argument(
        "--model", dest="pretrained", metavar="DIR", default=argparse.SUPPRESS, help="the run of the GPT to start from"
    )
    add_flags(parser, ClassifierTrainConfig)


def run(args):
    """Fine-tune as the command line says. Returns the exit status."""
    given = vars(args)
    if "pretrained" in given:
        given["pretrained"] = os.path.abspath(given["pretrained"])
    if given.get("resume"):
        return train(resumed(given, ClassifierTrainConfig.model))
    return train(make_config(ClassifierTrainConfig, absolute(ClassifierTrainConfig, given)))

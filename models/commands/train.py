"""`autotx train`: a model learns."""

import dataclasses
import os

from autotx.models.config import CONFIGS, add_flags, flag, make_config, read_config
from autotx.models.run import Run
from autotx.models.train import train

KINDS = [kind for kind in CONFIGS if kind != "classifier"]  # autotx finetune trains that one


def add_arguments(parser):
    parser.add_argument("--model", choices=KINDS, help="what learns (default: gpt, or transformer with --pairs)")
    add_flags(parser, *(CONFIGS[name] for name in KINDS))


def run(args):
    """Train as the command line says. Returns the exit status."""
    given = {name: value for name, value in vars(args).items() if name != "model"}
    if given.get("resume"):
        return train(resumed(given, args.model))
    kind = CONFIGS[args.model or ("transformer" if "pairs" in given else "gpt")]
    return train(make_config(kind, absolute(kind, given)))


def absolute(kind, given):
    """The given settings with the files' paths made absolute: the run can then be resumed from any folder."""
    files = {f.name: f.type for f in dataclasses.fields(kind) if f.metadata.get("metavar") == "FILE"}
    path = os.path.abspath
    return {
        name: value if name not in files else tuple(map(path, value)) if files[name] is tuple else path(value)
        for name, value in given.items()
    }


def resumed(given, model=None):
    """The settings of the run in given["out"], with those given now in their place. ValueError when that cannot be."""
    folder = given.get("out", CONFIGS[model or "gpt"].out)
    Run(folder).check_there()
    saved = read_config(folder)
    if model not in (None, saved.model):
        raise ValueError(f"--resume: the run in {folder} is of a {saved.model}, not a {model}; leave --model out")
    given = absolute(type(saved), given)
    for f in dataclasses.fields(saved):
        was = getattr(saved, f.name)
        if f.metadata.get("fixed") and given.get(f.name, was) != was:
            raise ValueError(
                f"--resume: the run in {folder} has {flag(f.name)} {was}, which cannot become {given[f.name]}; "
                f"leave {flag(f.name)} out, or start a new run"
            )
    return make_config(type(saved), {**given, "out": folder}, dataclasses.asdict(saved))

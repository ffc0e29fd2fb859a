"""`autotx train`: train a model, go on with a trained one, or resume a run."""

import dataclasses
import os

from autotx.models.config import add_flags, flag
from autotx.models.formats import identify
from autotx.models.registry import ARCHITECTURES, TASKS, make_config, read_config, settings_of
from autotx.models.run import Run
from autotx.models.train import train

PROCESSES = True  # mpiexec may start several


EXAMPLES = (
    "autotx train --text book.txt --out runs/book",
    "autotx train --out runs/book --resume --steps 4000",
)


def add_arguments(parser):
    what = "what learns (default: gpt, or transformer with --pairs)"
    parser.add_argument("--model", choices=ARCHITECTURES, help=what)
    by_flag = [settings_of("gpt", task.name) for task in TASKS.values() if task.flag]  # alike for any architecture
    add_flags(parser, *map(settings_of, ARCHITECTURES), *by_flag)


def run(args):
    """Train with the settings of the command line. Returns the exit status."""
    given = {name: value for name, value in vars(args).items() if name != "model"}
    if given.get("resume"):
        return train(resumed(given, args.model))
    kind = _kind(args.model, given)
    return train(make_config(kind, absolute(kind, given)))


def _kind(model, given):
    """The class of the settings that the flags ask for. ValueError for flags that exclude each other."""
    task = next((name for name in ("chats", "tune") if TASKS[name].flag[2:] in given), None)
    if task is None:
        return settings_of(model or ("transformer" if "pairs" in given else "gpt"))
    if model:
        raise ValueError(f"--model {model} has no use beside {TASKS[task].flag}; --init says what learns")
    return settings_of(identify(given["init"], needs="text")[1].name if "init" in given else "gpt", task)


def absolute(kind, given):
    """The given settings with absolute paths of files, so that the run can be resumed from any folder. A model may be a
    name instead, such as smollm2."""
    files = {f.name: f.type for f in dataclasses.fields(kind) if f.metadata.get("metavar") in ("FILE", "FOLDER")}
    path = os.path.abspath
    if "init" in given and os.path.exists(given["init"]):
        given = {**given, "init": path(given["init"])}
    return {
        name: value if name not in files else tuple(map(path, value)) if files[name] is tuple else path(value)
        for name, value in given.items()
    }


def resumed(given, kind=None):
    """The settings of the run in given["out"], replaced by those in `given`. ValueError when they cannot be changed.

    kind: the kind of model that the run must have; None for any.
    """
    folder = given.get("out", f"runs/{kind or 'gpt'}")
    Run(folder).check_there()
    saved = read_config(folder)
    if kind not in (None, saved.kind):
        raise ValueError(f"--resume: the run in {folder} is of a {saved.kind}, not a {kind}; leave --model out")
    given = absolute(type(saved), given)
    for f in dataclasses.fields(saved):
        was = getattr(saved, f.name)
        if f.metadata.get("fixed") and given.get(f.name, was) != was:
            raise ValueError(
                f"--resume: the run in {folder} has {flag(f.name)} {was}, which cannot become {given[f.name]}; "
                f"leave {flag(f.name)} out, or start a new run"
            )
    return make_config(type(saved), {**given, "out": folder}, dataclasses.asdict(saved))

"""The registries of architectures and tasks, and the settings of runs, each of one architecture and one task.

A new kind of network is added to ARCHITECTURES, a new kind of training to TASKS.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

from autotx.files import read_json
from autotx.models.architecture import kind_of
from autotx.models.config import FILE, flag
from autotx.models.gpt import GPTArchitecture
from autotx.models.llama import LlamaArchitecture
from autotx.models.optimizers import OPTIMIZERS, SCHEDULES
from autotx.models.tasks.chats import ChatsTask
from autotx.models.tasks.labels import LabelsTask
from autotx.models.tasks.pairs import PairsTask
from autotx.models.tasks.text import TextTask
from autotx.models.tasks.tune import TuneTask
from autotx.models.tasks.words import WordsTask
from autotx.models.transformer import TransformerArchitecture
from autotx.models.word2vec import Word2VecArchitecture
from autotx.types import PathLike

ARCHITECTURES: dict[str, Any] = {
    a.name: a for a in (GPTArchitecture, LlamaArchitecture, TransformerArchitecture, Word2VecArchitecture)
}
TASKS: dict[str, Any] = {t.name: t for t in (TextTask, PairsTask, WordsTask, LabelsTask, TuneTask, ChatsTask)}


def that_have(capable) -> str:
    """The architectures for which capable(architecture, its task) is true, in words: "a gpt or a transformer"."""
    return " or ".join(f"a {a.name}" for a in ARCHITECTURES.values() if capable(a, TASKS[a.learns]))


def settings_of(architecture: str, task: str | None = None) -> type[Any]:
    """The class of the settings of runs in which an architecture learns a task, both given by name.

    It is a dataclass with the fields of the architecture and of the task's settings, a TrainConfig. task: None for the
    default task of the architecture.
    """
    network = ARCHITECTURES[architecture]
    return _composed(network, TASKS[task or network.learns])


@functools.cache
def _composed(architecture, task):
    kind = kind_of(architecture, task)
    # A task that begins with a trained model takes the shape from that model, not from settings.
    bases = (task.settings,) if task.begins else (architecture, task.settings)
    known = {f.name: f for base in bases for f in dataclasses.fields(base)}
    defaults = {"out": f"runs/{kind}"} | {name: value for base in bases for name, value in base.defaults.items()}
    fields = [(n, known[n].type, dataclasses.field(default=v, metadata=known[n].metadata)) for n, v in defaults.items()]
    facts = {"architecture": architecture, "task": task, "kind": kind, "label": task.flag or kind}
    facts["__module__"] = __name__
    return dataclasses.make_dataclass("RunConfig", fields, bases=bases, namespace=facts, frozen=True)


def make_config(kind: type, given: dict, saved: dict | None = None) -> Any:
    """Settings of the class `kind`. given: {field: value} from flags. saved: the settings of a resumed run.

    ValueError for a given field that the class lacks or that the chosen optimizer or schedule does not use.
    """
    names = {f.name for f in dataclasses.fields(kind)}
    wrong = [flag(name) for name in given if name not in names]
    if wrong and kind.task.begins:
        raise ValueError(f"{wrong[0]} is no setting beside --init, whose shape and tokens stay; leave it out")
    if wrong:
        instead = f"give {instead}" if (instead := _asked_by(wrong[0])) else "leave it out, or give another --model"
        raise ValueError(f"{wrong[0]} is no setting of a {kind.kind}; {instead}")
    config = kind(**{**(saved or {}), **given})
    for f in dataclasses.fields(kind):
        instead = f.metadata.get("replaced_by")
        if instead and f.name in given and getattr(config, instead):
            raise ValueError(f"{flag(f.name)} has no use beside {flag(instead)}; leave it out")
    for field_name, choices in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
        chosen = getattr(config, field_name)
        unused = {name for choice in choices.values() for name in choice.uses} - {*choices[chosen].uses}
        for name in given:
            if name in unused:
                raise ValueError(f"{flag(name)} is not used by {flag(field_name)} {chosen}; leave it out")
    return config


def _asked_by(name):
    """The flag that asks for the task with the setting of this flag, None if there is none."""
    found = (t for t in TASKS.values() if t.flag and name in {flag(f.name) for f in dataclasses.fields(t.settings)})
    return next((task.flag for task in found), None)


def read_config(folder: PathLike) -> Any:
    """The settings of the run in a folder. ValueError for an unknown key or a value outside its limits."""
    path = Path(folder) / FILE
    saved = read_json(path)
    model, *names = (saved.pop(key, None) for key in ("model", "architecture", "task"))
    for key, name, registry in zip(("architecture", "task"), names, (ARCHITECTURES, TASKS)):
        if not isinstance(name, str) or name not in registry:
            known = " or ".join(registry)
            raise ValueError(f"{path} does not say what kind of model it is for: {key} should be {known}")
    kind = settings_of(*names)
    if model != kind.kind:
        raise ValueError(f"{path} does not say what kind of model it is for: model should be {kind.kind}")
    known = {f.name for f in dataclasses.fields(kind)} - {"resume"}
    unknown = sorted(saved.keys() - known)
    if unknown:
        raise ValueError(f"{path} has settings that autotx does not know: {', '.join(unknown)}")
    try:
        return kind(**saved)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error

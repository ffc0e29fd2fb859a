"""Formats of files and folders that hold a model. FORMATS lists them; `open_model` opens a path of any of them.

A format is a module (or any object) with three functions of a path:

    recognises(path)   whether the path is of this format, a bool; it never raises
    identify(path)     (Architecture, Task) of the model, without reading its weights
    read(path)         the model as an Opened; ValueError or OSError for what is missing or broken

File names alone do not identify a format: other programs also write config.json and model.safetensors, with other
contents. `recognises` therefore reads the content of a file.
"""

from pathlib import Path
from typing import Any

from autotx.models.architecture import Opened, kind_of
from autotx.models.formats import run
from autotx.models.registry import TASKS, that_have
from autotx.models.run import MODEL
from autotx.types import PathLike

FORMATS: list[Any] = [run]


def open_model(path: PathLike, needs: str | None = None) -> Opened:
    """Read the model at a path, of any format. Returns an Opened.

    needs: the name of the task that the model must have learned; None for any. ValueError or OSError when the path
    holds no such model or cannot be read.
    """
    return identify(path, needs)[0].read(Path(path))


def format_of(path: PathLike) -> Any:
    """The first of FORMATS that recognises a path, or None."""
    return next((f for f in FORMATS if f.recognises(Path(path))), None)


def identify(path: PathLike, needs: str | None = None) -> tuple[Any, Any, Any]:
    """(format, Architecture, Task) of the model at a path, without reading its weights. Errors as in `open_model`."""
    path, found, made_by = Path(path), format_of(path), TASKS[needs].made_by if needs else "autotx train"
    if found is None:
        raise ValueError(_unrecognised(path, made_by))
    architecture, task = found.identify(path)
    if needs and not issubclass(task, TASKS[needs]):
        wanted = f"a {TASKS[needs].makes}" if TASKS[needs].makes else that_have(lambda a, t: t is TASKS[needs])
        raise ValueError(f"{path} holds a {kind_of(architecture, task)}, not {wanted}; {made_by} makes one")
    return found, architecture, task


def _unrecognised(path, made_by):
    if path.is_file():
        return f"{path} is a file; give the folder of a run"
    if not (path / MODEL).is_file():
        return f"{path}: there is no trained model ({MODEL}) there; {made_by} makes one"
    return f"{path} holds a {MODEL}, but it is not the folder of a run; {made_by} makes one"

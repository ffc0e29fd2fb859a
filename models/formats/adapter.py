"""Adapters as a format: a folder of peft's, with adapter_config.json and adapter_model.safetensors.

An adapter is a change of another model, its base, whose place it names. It is opened as a whole: base and adapter are
merged. Ours are folders of runs too, with a digest of the base, so that another model in that place is noticed.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from autotx.checkpoint import STATE, load_tensors
from autotx.files import checked, entry, read_json
from autotx.models import config, lora
from autotx.models.architecture import Opened
from autotx.models.registry import read_config
from autotx.models.run import ADAPTER, ADAPTER_CONFIG
from autotx.models.tasks.tune import BASE
from autotx.types import PathLike

# Settings of peft that do not change what is computed, and those that may have these values alone
NEUTRAL = {
    *("peft_type", "r", "lora_alpha", "target_modules", "base_model_name_or_path", "task_type", "auto_mapping"),
    *("peft_version", "revision", "lora_dropout", "inference_mode", "fan_in_fan_out", "exclude_modules"),
    *("layers_to_transform", "layers_pattern", "megatron_config", "megatron_core", "qalora_group_size"),
    *("runtime_config", "loftq_config"),
}
ONLY = {"bias": ("none",), "init_lora_weights": (True, False, "gaussian", "orthogonal")}  # others change the base


def recognises(path: PathLike) -> bool:
    return all((Path(path) / name).is_file() for name in (ADAPTER_CONFIG, ADAPTER))


def base_of(path: Path) -> str:
    """What names the base: a path, or a name such as smollm2. ValueError: a setting that autotx does not compute."""
    place = path / ADAPTER_CONFIG
    settings = read_json(place)
    if settings.get("peft_type") != "LORA":
        raise ValueError(f"{place}: peft_type is {settings.get('peft_type')!r}; autotx reads LORA")
    for name, value in settings.items():
        if value not in ONLY[name] if name in ONLY else name not in NEUTRAL and value:
            raise ValueError(f"{place}: {name} is {str(value)[:40]!r}, which autotx does not compute")
    return entry(settings, "base_model_name_or_path", str, place)


def merged(path: Path, base: Opened) -> Opened:
    """The base with the adapters of a folder. ValueError: they are for another model."""
    place, settings = path / ADAPTER, read_json(path / ADAPTER_CONFIG)
    rank, alpha = (
        checked(settings.get(name), kind, name, path / ADAPTER_CONFIG)
        for name, kind in (("r", int), ("lora_alpha", float))
    )
    if rank < 1:
        raise ValueError(f"{path / ADAPTER_CONFIG}: r should be 1 or more, it is {rank}")
    ours: Any = read_config(path) if (path / config.FILE).is_file() else None
    expected = read_json(path / STATE).get(BASE) if ours else None
    if expected and expected != lora.digest(base.model):
        raise ValueError(f"{path} is an adapter for another model than {base.path} is now; restore that one")
    tensors, _ = load_tensors(place)
    try:
        found = lora.places(base.architecture.name, base.model)
        given = {name.removeprefix(lora.PREFIX).removesuffix(".lora_A.weight") for name in tensors}
        lora.attach(base.model, {name: at for name, at in found.items() if name in given}, rank, alpha)
        lora.set_tensors(base.model, tensors)
    except ValueError as error:
        raise ValueError(f"{place} is not an adapter for {base.path}: {error}") from error
    model = lora.merged(base.model)
    for p in model.parameters():
        p.requires_grad = True
    return replace(base, path=path, model=model, config=ours, task=ours.task if ours else base.task)

"""The task of going on with a trained language model, of any format: on another text, with all weights or adapters."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from autotx.files import checked, entry, read_json, to_json, write_atomically
from autotx.models import lora
from autotx.models.architecture import Opened
from autotx.models.config import TrainConfig, setting
from autotx.models.run import ADAPTER, ADAPTER_CONFIG, CHAT, SHAPE, read_shape
from autotx.models.tasks.text import TextData, TextTask
from autotx.models.tokenizers import load_tokenizer
from autotx.text import counted

LENGTH = 256  # tokens that are learned at once, by default
BASE = "base_sha256"  # in state.json: lora.digest of the model below the adapters


@dataclass(frozen=True)
class Begun(TrainConfig):
    """The settings of a run that begins with a trained model. Its shape and its tokenizer are that model's."""

    defaults: ClassVar[dict] = {
        "out": "runs/tuned", "steps": 100, "lr": 2e-4, "min_lr": 2e-5, "warmup_steps": 10, "weight_decay": 0.01,
        "beta2": 0.999, "batch_size": 4, "eval_interval": 25, "eval_batches": 10,
    }  # fmt: skip

    init: str = setting("", "go on with a trained model: a run, a .gguf file, smollm2 ...", metavar="MODEL", fixed=True)
    length: int = setting(
        0,
        f"tokens of a text that are learned at once; 0: {LENGTH}, or all that the model reads",
        at_least=0,
        at_most=1 << 20,
    )
    lora_rank: int = setting(
        0, "learn adapters of this rank alone, and no weights; 0: all weights", at_least=0, at_most=1 << 14, fixed=True
    )
    lora_alpha: float = setting(
        0.0, "the adapters' factor is this, divided by the rank; 0: twice the rank", at_least=0, at_most=1e6, fixed=True
    )
    lora_targets: str = setting(
        "", "the matrices that get adapters, with commas (default: q_proj,v_proj; c_attn of a gpt)", fixed=True
    )
    lora_dropout: float = setting(0.0, "share of the adapters' inputs that is dropped", at_least=0, below=1)

    def __post_init__(self):
        super().__post_init__()
        if not self.init:
            raise ValueError(f"{self.task.flag}: no model is given to go on with; give one by --init")
        if not self.lora_rank and (self.lora_alpha or self.lora_targets or self.lora_dropout):
            raise ValueError("--lora-alpha, --lora-targets and --lora-dropout need adapters; give --lora-rank too")


@dataclass(frozen=True)
class TuneSettings(Begun, TextData):
    """The settings of a run that goes on with a model on a text."""


class TuneTask(TextTask):
    """As TextTask, with the model of config.init.

    With adapters (see lora.py) the weights of that model are neither changed nor saved: the checkpoint is theirs alone,
    in files that peft reads. A resumed run then opens the model again, and state.json has a digest of it. Without
    adapters the run needs that model no more.
    """

    name = "tune"
    settings = TuneSettings
    flag = "--init"
    begins = True
    length = "length"

    def __init__(self, config, rng, begin):
        most = begin.model.config.block_size
        if config.length > most:
            raise ValueError(f"--length {config.length} is more than the {most:,} tokens that {config.init} reads")
        super().__init__(dataclasses.replace(config, length=config.length or min(LENGTH, most)), rng, begin)
        self.known = {name: value for name, value in begin.known.items() if name in ("template", "texts") and value}
        self.base, self.places = None, {}
        if config.lora_rank:
            found = lora.places(config.architecture.name, self.model)
            self.places = lora.chosen(found, config.lora_targets or lora.TARGETS[config.architecture.name])
            self.file, self.base = ADAPTER, lora.digest(self.model)
            lora.attach(self.model, self.places, config.lora_rank, self.alpha, config.lora_dropout, rng)

    @property
    def alpha(self):
        return self.config.lora_alpha or 2.0 * self.config.lora_rank

    @classmethod
    def rebuild(cls, config, folder):
        folder, tokenizer = Path(folder), load_tokenizer(folder)
        path = folder / SHAPE
        shape = read_shape(read_json(path), path, config.architecture, tokenizer.vocab_size)
        model = config.architecture.model(shape, None)
        return Opened(folder, config.architecture, cls, model, tokenizer, config, read_known(folder))

    @classmethod
    def resumed(cls, config, folder):
        return None if config.lora_rank else cls.rebuild(config, folder)

    def weights(self):
        return lora.tensors_of(self.model) if self.base else super().weights()

    def load(self, weights, state):
        if self.base != state.get(BASE):
            raise ValueError(f"{self.config.init} is another model than the run began with; restore it")
        lora.set_tensors(self.model, weights) if self.base else super().load(weights, state)

    def state(self):
        return super().state() | ({BASE: self.base} if self.base else {})

    def save(self, folder):
        super().save(folder)
        config, folder = self.config, Path(folder)
        if self.known:
            write_atomically(folder / CHAT, to_json(self.known))
        if not self.base:
            write_atomically(folder / SHAPE, to_json(dataclasses.asdict(self.model.config)))
            return
        gpt = config.architecture.name == "gpt"
        settings = config.init, self.places, config.lora_rank, self.alpha, config.lora_dropout, gpt
        write_atomically(folder / ADAPTER_CONFIG, to_json(lora.settings_for(*settings)))

    def about_model(self):
        config, model = self.config, self.model
        learned = sum(p.size for p in model.parameters() if p.requires_grad)
        frozen = model.num_parameters() - learned
        what = f"{type(model).__name__} of {frozen or learned:,} parameters from {config.init}"
        blocks = f"blocks of at most {counted(config.length, 'token')}; it reads {model.config.block_size:,}"
        lines = [("model", f"{what}: {blocks}")]
        if frozen:
            kinds = ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in self.places))
            rank = f"rank {config.lora_rank}, alpha {self.alpha:g}"
            lines.append(("", f"which stay as they are; learned are {learned:,} of adapters ({rank}) of {kinds}"))
        return lines

    @property
    def trained(self):
        return lora.merged(self.model)

    def next_commands(self, out):
        return super().next_commands(out) + ([f"autotx chat --model {out}"] if "template" in self.known else [])


def read_known(folder):
    """What a run knows of conversations, as Opened.known: the chat template, and the texts of the tokens in it."""
    path = folder / CHAT
    if not path.is_file():
        return {}
    saved = read_json(path)
    texts = entry({"texts": {}, **saved}, "texts", dict, path)
    return {"template": saved.get("template"), "texts": {n: checked(t, str, n, path) for n, t in texts.items()}}

"""`python experiments/training.py`: trains a GPT or a Transformer, and its twin in PyTorch.

Both start from the same weights and make the same steps on the same batches: forward, cross entropy, backward,
clipping, AdamW; without dropout, whose random numbers would differ. Losses and times can then be compared. The two take
turns of TURN steps, each with all threads. The settings are those of `autotx train`.
"""

import argparse
import copy
import dataclasses
import sys
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  (its usual name)

from autotx.models.bench import with_torch
from autotx.models.config import add_flags
from autotx.models.registry import make_config, settings_of
from autotx.models.train import Trainer
from autotx.models.transformer import PAD
from autotx.optim import decay_groups
from autotx.viz.curves import curves
from autotx.viz.saving import save
from autotx.viz.style import checked_path

MODELS = ("gpt", "transformer")
TURN = 50  # steps: so many that threads of the other, which spin at the start of a turn, hardly count
PAIR = "autotx", "PyTorch"
NAMES = {
    "attn.qkv.": "self_attn.in_proj_",
    "attn.proj.": "self_attn.out_proj.",
    "cross.qkv.": "multihead_attn.in_proj_",
    "cross.proj.": "multihead_attn.out_proj.",
    "mlp.fc.": "linear1.",
    "mlp.proj.": "linear2.",
    "ln_1.": "norm1.",
    "ln_2.": "norm2.",
    "ln_3.": "norm3.",
}


class GPTTwin(with_torch.GPT):
    """The benchmark's GPT in PyTorch with the weights of a given GPT. pairs: as in TransformerTwin."""

    def __init__(self, model):
        c = model.config
        super().__init__(c.n_layer, c.n_head, c.n_embd, c.block_size, c.vocab_size)
        found = dict(self.named_parameters())
        self.pairs = [(p, found[name]) for name, p in model.named_parameters()]
        _copy_weights(self.pairs)

    def loss(self, batch, config):
        return self(*(torch.from_numpy(np.array(x, np.int64)) for x in batch))


class TransformerTwin(nn.Module):
    """A Transformer (post- or pre-norm, tied) made of PyTorch's layers, with the weights of a given Transformer.

    pairs: the parameters of both, a list of (Tensor of autotx, torch.nn.Parameter).
    """

    def __init__(self, model):
        super().__init__()
        c = model.config
        settings = {"dropout": 0.0, "batch_first": True, "norm_first": c.pre_norm}
        layers = nn.TransformerEncoderLayer, nn.TransformerDecoderLayer
        self.encoder, self.decoder = (
            nn.ModuleList(layer(c.n_embd, c.n_head, 4 * c.n_embd, **settings) for _ in range(c.n_layer))
            for layer in layers
        )
        self.table = nn.Parameter(torch.empty(c.vocab_size, c.n_embd))
        self.norms = nn.ModuleList(nn.LayerNorm(c.n_embd) if c.pre_norm else nn.Identity() for _ in range(2))
        self.register_buffer("waves", torch.from_numpy(model.positions), persistent=False)
        self.pairs = [(model.wte.weight, self.table)]
        for ours, theirs in zip([*model.encoder, *model.decoder], [*self.encoder, *self.decoder]):
            found = dict(theirs.named_parameters())
            for name, p in ours.named_parameters():
                layer = next(layer for layer in NAMES if name.startswith(layer))
                self.pairs.append((p, found[name.replace(layer, NAMES[layer])]))
        if c.pre_norm:
            for ours, theirs in zip((model.encoder_norm, model.decoder_norm), self.norms):
                self.pairs += [(ours.weight, theirs.weight), (ours.bias, theirs.bias)]
        _copy_weights(self.pairs)

    def forward(self, source, target):
        scale = self.table.shape[1] ** 0.5
        x, y = (F.embedding(ids, self.table) * scale + self.waves[: ids.shape[1]] for ids in (source, target))
        padding, future = source == PAD, torch.ones(target.shape[1], target.shape[1], dtype=torch.bool).triu(1)
        for block in self.encoder:
            x = block(x, src_key_padding_mask=padding)
        x = self.norms[0](x)
        for block in self.decoder:
            y = block(y, x, tgt_mask=future, tgt_is_causal=True, memory_key_padding_mask=padding)
        return F.linear(self.norms[1](y), self.table)

    def loss(self, batch, config):
        source, target = (torch.from_numpy(x).long() for x in batch)
        logits, smoothing = self(source, target[:, :-1]).flatten(0, 1), config.label_smoothing
        return F.cross_entropy(logits, target[:, 1:].flatten(), ignore_index=PAD, label_smoothing=smoothing)


def _copy_weights(pairs):
    with torch.no_grad():
        for ours, theirs in pairs:
            theirs.copy_(torch.from_numpy(ours.numpy()))


class TwinTrainer:
    """Trains the twin with the settings and the schedule of a Trainer."""

    def __init__(self, trainer):
        twin = GPTTwin if trainer.config.kind == "gpt" else TransformerTwin
        self.trainer, self.twin = trainer, twin(trainer.model)
        theirs = {id(ours): p for ours, p in self.twin.pairs}
        groups = [
            {"params": [theirs[id(p)] for p in group["params"]], "weight_decay": group["weight_decay"]}
            for group in decay_groups(trainer.model, trainer.config.weight_decay)
        ]
        c = trainer.config
        self.optimizer = torch.optim.AdamW(groups, lr=c.lr, betas=(c.beta1, c.beta2))
        self.rng, self.number, self.place = copy.deepcopy(trainer.data_rng), 0, 0  # the twin draws the same batches

    def train_step(self):
        """Make the next step. Returns the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.trainer.schedule(self.number)
        [batch] = self.trainer.task.batches(self.place, self.rng)
        self.number, self.place = self.number + 1, self.place + self.trainer.task.stride
        loss = self.twin.loss(batch, self.trainer.config)
        loss.backward()
        nn.utils.clip_grad_norm_(self.twin.parameters(), self.trainer.config.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()

    def validate(self):
        """The validation figures of the twin's weights, which replace those of the trainer's model for good."""
        for ours, theirs in self.twin.pairs:
            ours.data = theirs.detach().numpy()
        return self.trainer.validate()


def main(argv=None):
    """Train both, print and draw the losses. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python experiments/training.py", description=__doc__)
    parser.add_argument("--model", choices=MODELS, help="what learns (default: gpt, or transformer with --pairs)")
    parser.add_argument("--compared", type=int, metavar="N", default=100, help="steps to compare (default: 100)")
    parser.add_argument("--picture", metavar="FILE", default="losses.png", help="where to draw (default: losses.png)")
    add_flags(parser, *map(settings_of, MODELS))
    given = vars(parser.parse_args(argv))
    model, compared, picture = (given.pop(name) for name in ("model", "compared", "picture"))
    checked_path(picture)
    kind = settings_of(model or ("transformer" if "pairs" in given else "gpt"))
    config = dataclasses.replace(make_config(kind, given), dropout=0.0, grad_accum=1)
    if config.optimizer != "adamw":
        parser.error(f"--optimizer {config.optimizer}: the twin has AdamW alone; leave it out")
    trainer = Trainer(config)
    peer, ours, theirs = TwinTrainer(trainer), [], []
    for first in range(0, compared, TURN):
        steps = range(first, min(first + TURN, compared))
        ours += [_timed(lambda: trainer.train_step()["loss"]) for _ in steps]
        theirs += [_timed(peer.train_step) for _ in steps]
        for step in steps:
            if (step + 1) % max(10, compared // 20) == 0 or step == 0:
                print(f"step {step + 1:4}: autotx {ours[step][0]:.6f}, PyTorch {theirs[step][0]:.6f}", flush=True)
    losses, seconds = np.array([ours, theirs]).transpose(2, 0, 1)
    _report(losses, seconds, trainer.validate()["val_loss"], peer.validate()["val_loss"])
    logs = {name: [{"step": i, "loss": x} for i, x in enumerate(column, 1)] for name, column in zip(PAIR, losses)}
    save(curves(logs, "The same model on the same batches")[0], picture)
    return 0


def _timed(step):
    begun = time.perf_counter()
    return step(), time.perf_counter() - begun


def _report(losses, seconds, *validation):
    """Print the comparison. losses, seconds: (2, steps), of autotx and of PyTorch."""
    first = losses[:, :100]
    print(f"largest difference of the first {first.shape[1]} losses: {np.abs(first[0] - first[1]).max():.2g}")
    print("validation loss in the end: {:.4f} of autotx, {:.4f} of PyTorch's weights".format(*validation))
    print("seconds in all: {:.1f} of autotx, {:.1f} of PyTorch".format(*seconds.sum(axis=1)))
    a, b = 1e3 * np.median(seconds, axis=1)
    print(f"median of a step: {a:.1f} ms of autotx, {b:.1f} ms of PyTorch, {b / a:.2f} times as long")


if __name__ == "__main__":
    sys.exit(main())

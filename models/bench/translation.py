"""`python -m autotx.models.bench.translation`: a Transformer learns beside its twin in PyTorch, on the same batches.

Both begin with the same weights and do the same without dropout, whose random numbers would differ: forward, cross
entropy with label smoothing, backward, clipping, AdamW. In turns, each with all threads; so the losses can be laid over
each other, and the times compared. The settings are those of `autotx train --model transformer`.
"""

import argparse
import dataclasses
import sys
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  (its usual name)

from autotx.models.config import TransformerTrainConfig, add_flags, make_config
from autotx.models.train import Trainer
from autotx.models.transformer import PAD
from autotx.optim import decay_groups
from autotx.viz.curves import curves
from autotx.viz.style import checked_path, save

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


class Twin(nn.Module):
    """A Transformer (post- or pre-norm, tied, no dropout) made of PyTorch's own layers, with the same weights.

    `pairs` lists the parameters of both, (Tensor of autotx, torch.nn.Parameter).
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
        with torch.no_grad():
            for ours, theirs in self.pairs:
                theirs.copy_(torch.from_numpy(ours.numpy()))

    def forward(self, source, target):
        scale = self.table.shape[1] ** 0.5
        x, y = (F.embedding(ids, self.table) * scale + self.waves[: ids.shape[1]] for ids in (source, target))
        nobody, future = source == PAD, torch.ones(target.shape[1], target.shape[1], dtype=torch.bool).triu(1)
        for block in self.encoder:
            x = block(x, src_key_padding_mask=nobody)
        x = self.norms[0](x)
        for block in self.decoder:
            y = block(y, x, tgt_mask=future, tgt_is_causal=True, memory_key_padding_mask=nobody)
        return F.linear(self.norms[1](y), self.table)

    def loss(self, source, target, label_smoothing):
        source, target = torch.from_numpy(source).long(), torch.from_numpy(target).long()
        logits = self(source, target[:, :-1]).flatten(0, 1)
        return F.cross_entropy(logits, target[:, 1:].flatten(), ignore_index=PAD, label_smoothing=label_smoothing)


class TwinTrainer:
    """Steps of the twin, with the optimizer and the schedule of a Trainer."""

    def __init__(self, trainer):
        self.trainer, self.twin = trainer, Twin(trainer.model)
        theirs = {id(ours): p for ours, p in self.twin.pairs}
        groups = [
            {"params": [theirs[id(p)] for p in group["params"]], "weight_decay": group["weight_decay"]}
            for group in decay_groups(trainer.model, trainer.config.weight_decay)
        ]
        c = trainer.config
        self.optimizer = torch.optim.AdamW(groups, lr=c.lr, betas=(c.beta1, c.beta2))

    def step(self, number):
        """Step `number`, from 0, on the trainer's own batch. Returns the loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.trainer.schedule(number)
        [batch] = self.trainer.task.batches(number, None)
        loss = self.twin.loss(*batch, self.trainer.config.label_smoothing)
        loss.backward()
        nn.utils.clip_grad_norm_(self.twin.parameters(), self.trainer.config.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


def main(argv=None):
    """Train both, print and draw the losses. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m autotx.models.bench.translation", description=__doc__)
    parser.add_argument("--compared", type=int, metavar="N", default=100, help="steps to compare (default: 100)")
    parser.add_argument("--picture", metavar="FILE", default="losses.png", help="where to draw (default: losses.png)")
    add_flags(parser, TransformerTrainConfig)
    given = vars(parser.parse_args(argv))
    compared, picture = given.pop("compared"), given.pop("picture")
    checked_path(picture)
    config = dataclasses.replace(make_config(TransformerTrainConfig, given), dropout=0.0, grad_accum=1)
    trainer = Trainer(config)
    peer = TwinTrainer(trainer)
    losses, seconds = [], []
    for step in range(compared):
        begun = time.perf_counter()
        theirs = peer.step(step)
        between = time.perf_counter()
        ours = trainer.train_step()["loss"]
        losses.append((ours, theirs))
        seconds.append((time.perf_counter() - between, between - begun))
        if (step + 1) % 10 == 0 or step == 0:
            print(f"step {step + 1:4}: autotx {ours:.6f}, PyTorch {theirs:.6f}", flush=True)
    ours, theirs = np.array(losses).T
    print(f"largest difference of the losses: {np.abs(ours - theirs).max():.2g}")
    print(f"median of PyTorch's time over autotx's: {np.median([b / a for a, b in seconds[2:]]):.2f}")
    logs = {name: [{"step": i, "loss": x} for i, x in enumerate(column, 1)] for name, column in zip(PAIR, zip(*losses))}
    save(curves(logs, "The same model on the same batches")[0], picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())

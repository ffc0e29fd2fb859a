"""`python -m autotx.models.experiments.labels`: what pre-training is worth when labels are few.

The names of emoji are to be told English from Spanish; HELD_OUT in ten are set aside. A GPT reads the others without
labels. Then it, and one of the same size with random weights, learns from a few of them with their labels, and labels
the names set aside. But for SHAPE all settings are those of `autotx train` and `autotx finetune`.
"""

import argparse
import contextlib
import io
import statistics
import tempfile
from pathlib import Path

import numpy as np

from autotx.models.pairs import emoji_pairs
from autotx.models.registry import settings_of
from autotx.models.train import Trainer, train

HELD_OUT = 2  # in ten
LANGUAGES = "English", "Spanish"
SHAPE = {"tokenizer": "byte", "n_layer": 3, "n_embd": 64, "batch_size": 16, "eval_interval": 1000}


def main(argv=None):
    """Pre-train, fine-tune, print a table. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m autotx.models.experiments.labels", description=__doc__)
    parser.add_argument("--labels", type=int, nargs="+", metavar="N", default=[20, 50, 200], help="names with a label")
    parser.add_argument("--draws", type=int, metavar="N", default=5, help="how often they are drawn (default: 5)")
    parser.add_argument("--steps", type=int, metavar="N", default=2000, help="of pre-training (default: 2000)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        known = _prepare(np.random.default_rng(0))
        print(f"pre-training, {args.steps:,} steps", flush=True)
        with contextlib.redirect_stdout(io.StringIO()):  # it speaks of a folder that is not to stay
            status = train(settings_of("gpt")(text=["names.txt"], out="pre", steps=args.steps, **SHAPE))
        if status:
            return status
        print(f"{'labels':>8s}{'pre-trained':>16s}{'random weights':>18s}   (right, mean of {args.draws} draws)")
        for count in args.labels:
            rights = [[_right(known, count, draw, scratch) for draw in range(args.draws)] for scratch in (False, True)]
            pre_trained, random = map(statistics.mean, rights)
            print(f"{count:8d}{pre_trained:16.1%}{random:18.1%}", flush=True)
    return 0


def _prepare(rng):
    """Write the text of the pre-training and the names held out. Returns the lines that labels are drawn from."""
    pairs = [pair for pair in emoji_pairs() if pair[0] != pair[1]]  # what is the same in both has no label
    pairs = [pairs[i] for i in rng.permutation(len(pairs))]
    cut = len(pairs) * HELD_OUT // 10
    held_out, known = (
        [f"{name}\t{language}" for pair in part for name, language in zip(pair, LANGUAGES)]
        for part in (pairs[:cut], pairs[cut:])
    )
    Path("held_out.tsv").write_text("\n".join(held_out), encoding="utf-8")
    known = [line for line in known if line not in held_out]  # some emoji share a name
    names = [line.partition("\t")[0] for line in known]
    Path("names.txt").write_text("\n".join(names[i] for i in rng.permutation(len(names))), encoding="utf-8")
    return known


def _right(known, count, draw, from_scratch):
    """The share of the names held out that is labelled right, after fine-tuning on the `draw`th `count` names."""
    chosen = np.random.default_rng([count, draw]).choice(known, count, replace=False)
    Path("labels.tsv").write_text("\n".join(chosen), encoding="utf-8")
    files = {"labels": "labels.tsv", "held_out": "held_out.tsv"}
    trainer = Trainer(settings_of("gpt", "labels")(pretrained="pre", seed=draw, from_scratch=from_scratch, **files))
    while trainer.step < trainer.config.steps:
        trainer.train_step()
    return trainer.validate()["val_accuracy"]


if __name__ == "__main__":
    raise SystemExit(main())

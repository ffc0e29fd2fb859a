"""`python experiments/labels.py`: how much pre-training improves a classifier when labels are few.

The task: is the name of an emoji English or Spanish? HELD_OUT of ten names are held out. A GPT is pre-trained on the
others without labels. It, and a GPT of the same size with random weights, are then fine-tuned on a few names with
labels, and tested on the held-out names. Settings other than SHAPE are those of `autotx train` and `autotx finetune`.
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

HELD_OUT = 2  # of ten
LANGUAGES = "English", "Spanish"
SHAPE = {"tokenizer": "byte", "n_layer": 3, "n_embd": 64, "batch_size": 16, "eval_interval": 1000}


def main(argv=None):
    """Pre-train, fine-tune, print a table. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python experiments/labels.py", description=__doc__)
    parser.add_argument("--labels", type=int, nargs="+", metavar="N", default=[20, 50, 200], help="names with a label")
    parser.add_argument("--draws", type=int, metavar="N", default=5, help="how often they are drawn (default: 5)")
    parser.add_argument("--steps", type=int, metavar="N", default=2000, help="of pre-training (default: 2000)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        known = _prepare(np.random.default_rng(0))
        print(f"pre-training, {args.steps:,} steps", flush=True)
        with contextlib.redirect_stdout(io.StringIO()):  # it names a temporary folder
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
    """Write the text for pre-training and the held-out names. Returns a list: the other names with labels."""
    pairs = [pair for pair in emoji_pairs() if pair[0] != pair[1]]  # equal names have no label
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
    """Accuracy on the held-out names after fine-tuning on `count` names; the seed of the choice contains `draw`."""
    chosen = np.random.default_rng([count, draw]).choice(known, count, replace=False)
    Path("labels.tsv").write_text("\n".join(chosen), encoding="utf-8")
    files = {"labels": "labels.tsv", "held_out": "held_out.tsv"}
    trainer = Trainer(settings_of("gpt", "labels")(init="pre", seed=draw, from_scratch=from_scratch, **files))
    while trainer.step < trainer.config.steps:
        trainer.train_step()
    return trainer.validate()["val_accuracy"]


if __name__ == "__main__":
    raise SystemExit(main())

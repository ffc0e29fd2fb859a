"""`autotx fewshot`: train a GPT to do tasks from the examples in its prompt, and measure it (models/fewshot.py)."""

import os
from pathlib import Path

import numpy as np

from autotx.files import write_atomically
from autotx.models.config import LARGEST, check_limits
from autotx.models.fewshot import ENTRIES, Tasks, is_told, right_answers
from autotx.models.formats import open_model
from autotx.models.inference.continuations import stream_text
from autotx.models.registry import settings_of
from autotx.models.run import Run
from autotx.models.train import as_argument, train

TEXT = "tasks.txt"  # the training text, in the run folder
SHAPE = {"n_layer": 2, "n_head": 4, "n_embd": 128, "block_size": 64}


EXAMPLES = (
    "autotx fewshot --out runs/fewshot",
    "autotx fewshot --model runs/fewshot",
)


def add_arguments(parser):
    parser.add_argument(
        "--out", metavar="DIR", default="runs/fewshot", help="the folder of the run (default: %(default)s)"
    )
    parser.add_argument("--model", metavar="DIR", help="measure this earlier run, of the same seed, and train none")
    parser.add_argument("--steps", type=int, metavar="N", default=10_000, help="optimizer steps (default: %(default)s)")
    parser.add_argument(
        "--seed", type=int, metavar="N", default=1337, help="where all randomness starts (default: %(default)s)"
    )
    parser.add_argument(
        "--prompts", type=int, metavar="N", default=500, help="prompts of each kind to ask (default: %(default)s)"
    )


def run(args):
    """Train and measure. Returns the exit status."""
    check_limits("--seed", args.seed, at_least=0, at_most=LARGEST)
    check_limits("--prompts", args.prompts, at_least=1, at_most=100_000)
    tasks = Tasks(args.seed)
    folder = args.model or args.out
    if args.model is None:
        status = _train(tasks, args)
        if status:
            return status
    opened = open_model(folder, needs="text")
    model, tokenizer = opened.model, opened.tokenizer
    _check_model(model, tokenizer, tasks, folder)
    _report(model, tokenizer, tasks, args)
    print(f"\nAgain, without training: autotx fewshot --model {as_argument(folder)} --seed {args.seed}")
    return 0


def _train(tasks, args):
    config = settings_of("gpt")(
        **SHAPE,
        text=(str((Path(args.out) / TEXT).absolute()),),
        out=args.out,
        seed=args.seed,
        steps=args.steps,
        eval_interval=1000,
    )
    run, file, text = Run(args.out), Path(args.out) / TEXT, tasks.text().encode()
    run.check_free()
    with run.made():
        if os.path.lexists(file) and (not file.is_file() or file.read_bytes() != text):
            raise ValueError(f"{file} is there and holds something else; give another folder by --out")
        write_atomically(file, text)
        try:
            return train(config)
        finally:
            if not run.holds_checkpoint():
                file.unlink()


def _check_model(model, tokenizer, tasks, folder):
    unknown = tokenizer.unknown("".join(tasks.words) + "> \n")
    if unknown or model.config.block_size < SHAPE["block_size"]:
        raise ValueError(f"--model {folder} was not trained by autotx fewshot; give a run that was")


def _report(model, tokenizer, tasks, args):
    print(f"\nHow many of {args.prompts:,} prompts are answered to the letter. A word that is not among the examples")
    print("can only be guessed, so the last column is about the best possible.\n")
    print("examples   tasks of held-out pairs   tasks of pairs seen in training   word among the examples")
    for examples in range(ENTRIES + 1):
        rights = []
        for held_out in (True, False):
            prompts = tasks.prompts(examples, args.prompts, held_out)
            rights.append(right_answers(model, tokenizer, prompts) / args.prompts)
            if held_out:
                known = np.mean([is_told(prompt) for prompt, _ in prompts])
        print(f"{examples:8}   {rights[0]:23.1%}   {rights[1]:31.1%}   {known:23.1%}", flush=True)
    print("\nSome of the prompts of held-out pairs, and what the model writes:\n")
    for prompt, answer in tasks.prompts(ENTRIES, 4, True):
        written = "".join(stream_text(model, tokenizer, f"\n{prompt}", 6, temperature=0)).split()
        print(f"  {prompt} {written[0] if written else ''}" + ("" if written[:1] == [answer] else f"   (not {answer})"))

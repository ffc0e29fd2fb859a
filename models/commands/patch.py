"""`autotx patch`: which values of one prompt, put into the reading of another, bring its answer back."""

import json
import sys
from pathlib import Path

import numpy as np

from autotx import files, viz
from autotx.models.commands.chat import add_weights, weights_of
from autotx.models.commands.prompts import ids_of, likeliest, quoted, score_of, targets_of
from autotx.models.formats import KNOWN, open_reader
from autotx.models.inference.patching import WHAT, patch
from autotx.models.inference.sampling import largest
from autotx.text import visible
from autotx.viz import style

PLACES = 5  # that are printed

EXAMPLES = (
    'autotx patch --model smollm2 --clean "The capital of France is" --corrupt "The capital of Italy is"',
    'autotx patch --clean "the value of" --corrupt "the valve of" --what mlp --out patch.png',
)


def add_arguments(parser):
    parser.add_argument("--model", metavar="NAME", default="runs/gpt", help=f"{KNOWN} (default: %(default)s)")
    parser.add_argument("--clean", metavar="TEXT", required=True, help="the prompt whose values are put in")
    parser.add_argument(
        "--corrupt", metavar="TEXT", required=True, help="the prompt, of as many tokens, that gets them"
    )
    parser.add_argument(
        "--what",
        choices=WHAT,
        default="residual",
        help="the residual after a block, or what its attention or its mlp adds to it (default: residual)",
    )
    parser.add_argument("--target", metavar="TEXT", help="a token (default: the likeliest one after --clean)")
    parser.add_argument(
        "--against",
        metavar="TEXT",
        help="a token; how much the score of --target is above its score is noted (default: the likeliest one after "
        "--corrupt)",
    )
    parser.add_argument("--out", metavar="FILE", help="a picture, .png, .svg or .pdf, or the numbers as .json")
    parser.add_argument("--json", action="store_true", help="print one JSON object, with all of it, instead of text")
    add_weights(parser)


def outputs(args):
    return {"--out": (args.out, lambda path: files.checked_path(path, (*style.TYPES, ".json")))}


def run(args):
    """Print where the answer comes back, and draw it. Returns the exit status."""
    opened = open_reader(args.model, weights_of(args))
    model, tokenizer = opened.model, opened.tokenizer
    clean, corrupt = ids_of("--clean", args.clean, opened), ids_of("--corrupt", args.corrupt, opened)
    if len(clean) != len(corrupt):
        told = " and ".join(f"{len(ids)} ({' '.join(quoted(tokenizer, i) for i in ids)})" for ids in (clean, corrupt))
        raise ValueError(f"--clean and --corrupt have {told} tokens; give two prompts of as many")
    target, against = (
        likeliest(model, ids) if token is None else token
        for token, ids in zip(targets_of(args, tokenizer), (clean, corrupt))
    )
    if target == against:
        raise ValueError(f"--target and --against are both {quoted(tokenizer, target)}; give two tokens that the "
                         "prompts make likelier, one each")  # fmt: skip
    found = patch(model, clean, corrupt, args.what, target, against)
    if found.clean == found.corrupt:
        raise ValueError("--clean and --corrupt give the same scores, so there is nothing to bring back")
    labels = _labels(tokenizer, clean, corrupt)
    data = {
        "model": args.model, "clean": args.clean, "corrupt": args.corrupt, "what": args.what,
        "target": tokenizer.texts([target])[0], "against": tokenizer.texts([against])[0], "tokens": labels,
        "difference": {"clean": found.clean, "corrupt": found.corrupt, "patched": found.patched.tolist()},
        "restored": found.restored().tolist(),
    }  # fmt: skip
    print(
        json.dumps(data, ensure_ascii=False)
        if args.json
        else _described(found, args, tokenizer, target, against, labels)
    )
    if args.out:
        _write(found, args, data, labels, tokenizer, target, against)
        print(f"autotx patch: {args.out} has every layer and position", file=sys.stderr)
    return 0


def _labels(tokenizer, clean, corrupt):
    """A token for each place; both where the prompts differ."""
    pairs = zip(tokenizer.texts(clean), tokenizer.texts(corrupt))
    return [one if one == other else f"{one}|{other}" for one, other in pairs]


def _write(found, args, data, labels, tokenizer, target, against):
    if Path(args.out).suffix == ".json":
        files.write_atomically(args.out, files.to_json(data))
        return
    title = (
        f"{Path(args.model).name}: what brings {quoted(tokenizer, target)} back against {quoted(tokenizer, against)}"
    )
    viz.save(viz.patching(found.restored(), labels, args.what, title=title), args.out)


def _described(found, args, tokenizer, target, against, labels):
    """At which places, and in which layers, the answer comes back, in lines for people."""
    restored = found.restored()
    what = score_of(tokenizer, target, against)
    lines = [
        f"{what} is {found.clean:.2f} after --clean and {found.corrupt:.2f} after --corrupt",
        f"share of the difference that one {args.what} of the clean run brings back, where it is largest:",
    ]
    for t in largest(np.abs(restored).max(axis=0), PLACES):
        layer, half = np.abs(restored[:, t]).argmax(), np.flatnonzero(restored[:, t] > 0.5)
        ranges = np.split(half, np.flatnonzero(np.diff(half) > 1) + 1)
        told = ", ".join(f"{r[0]} to {r[-1]}" if len(r) > 1 else f"{r[0]}" for r in ranges if len(r))
        told = f"; more than half in block {told}" if told else ""
        lines.append(f"  {t}, '{visible(labels[t])}': {restored[layer, t]:.1%} in block {layer}{told}")
    return "\n".join(lines)

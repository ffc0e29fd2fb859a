"""`autotx explain`: which tokens of a prompt the score of the next one comes from."""

import json
import sys
from pathlib import Path

from autotx import viz
from autotx.models.commands.edits import add_edit, edits_of
from autotx.models.commands.prompts import ids_of, likeliest, quoted, score_of, targets_of
from autotx.models.config import check_limits
from autotx.models.formats import KNOWN, open_model
from autotx.models.inference.attribution import PIECES, TOLERANCE, attribution
from autotx.viz import style

POINTS = 200
MEAN = "the mean of all embeddings at every token but the first, which stays"
WARNING = (
    "rollout is no attribution: it says from where attention could have carried something to the last token, not what "
    "it carried, nor which token the score is of"
)

EXAMPLES = (
    'autotx explain --model smollm2 --prompt "The capital of France is" --target " Paris" --against " Rome"',
    'autotx explain --prompt "the value of" --target " " --out explain.png',
)


def add_arguments(parser):
    parser.add_argument("--model", metavar="NAME", default="runs/gpt", help=f"{KNOWN} (default: %(default)s)")
    parser.add_argument("--prompt", metavar="TEXT", required=True, help="the text, of 2 tokens or more")
    parser.add_argument("--target", metavar="TEXT", help="the token whose score is explained (default: the likeliest)")
    parser.add_argument("--against", metavar="TEXT", help="a token whose score is subtracted from it")
    parser.add_argument(
        "--baseline",
        metavar="TEXT",
        help=f"a prompt of as many tokens that this one is compared with (default: {MEAN})",
    )
    parser.add_argument(
        "--steps",
        metavar="N",
        type=int,
        default=POINTS,
        help="compute at most so many gradients; it stops when the shares add up (default: %(default)s)",
    )
    parser.add_argument("--out", metavar="FILE", help="draw the shares: a .png, .svg or .pdf")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    add_edit(parser)


def outputs(args):
    return {"--out": (args.out, style.checked_path)}


def run(args):
    """Print the shares of the tokens. Returns the exit status."""
    check_limits("--steps", args.steps, at_least=2 * PIECES + 1, at_most=10**6)
    edits, opened = edits_of(args.edit), open_model(args.model, needs="text")
    model, tokenizer, ids = opened.model, opened.tokenizer, ids_of("--prompt", args.prompt, opened)
    baseline = None if args.baseline is None else ids_of("--baseline", args.baseline, opened)
    if baseline is not None and len(baseline) != len(ids):
        told = ", ".join(quoted(tokenizer, i) for i in baseline)
        raise ValueError(f"--baseline has {len(baseline)} tokens, {told}, and --prompt {len(ids)}; give as many")
    target, against = targets_of(args, tokenizer)
    with model.edit(edits):
        target = likeliest(model, ids) if target is None else target
        if target == against:
            raise ValueError(f"--target and --against are both {quoted(tokenizer, target)}; give two tokens")
        found = attribution(model, ids, target, against, baseline, args.steps)
    what = score_of(tokenizer, target, against)
    told = "\n".join(_described(found, what, args.baseline))
    tokens = tokenizer.texts(ids)
    if args.json:
        print(json.dumps(_data(found, args, tokens, tokenizer, target, against), ensure_ascii=False))
    else:
        print(told)
        print(f"{'token':16}{'integrated':>12}{'grad x input':>14}{'rollout':>10}")
        for i, *numbers in zip(ids, found.integrated, found.gradient, found.rollout):
            print("{:16}{:12.3f}{:14.3f}{:10.1%}".format(quoted(tokenizer, i)[:16], *numbers))
        print(f"sum             {found.integrated.sum():12.3f}{found.gradient.sum():14.3f}\n{WARNING}")
    if args.out:
        name = Path(args.model).name
        columns = {"integrated gradients": found.integrated, "gradient × input": found.gradient,
                   "attention rollout (no attribution)": found.rollout}  # fmt: skip
        viz.save(viz.shares(columns, tokens, title=f"{name}: where {what} comes from", note=told), args.out)
        print(f"autotx explain: {args.out} shows the shares", file=sys.stderr)
    return 0


def _described(found, what, baseline):
    """What adds up to what, in lines for people."""
    difference, of = found.score - found.baseline, MEAN if baseline is None else repr(baseline)
    yield f"{what} is {found.score:.3f}; after the baseline, {of}, {found.baseline:.3f}"
    added = f"the shares, of integrated gradients at {found.points} points, add up to {found.integrated.sum():.3f}"
    if found.adds_up():
        yield f"{added}, the difference is {difference:.3f}"
    else:
        missed = f"by {found.error:.3f} in all, more than {TOLERANCE:.0%}"
        yield f"{added}, but the difference is {difference:.3f}: parts of the line disagree {missed}; give more --steps"


def _data(found, args, tokens, tokenizer, target, against):
    """What --json prints."""
    keys = "integrated", "gradient", "rollout"
    rows = zip(tokens, *(getattr(found, key).tolist() for key in keys))
    return {
        "model": args.model,
        "prompt": args.prompt,
        "target": tokenizer.texts([target])[0],
        "against": None if against is None else tokenizer.texts([against])[0],
        "baseline": args.baseline or MEAN,
        "score": found.score,
        "baseline_score": found.baseline,
        "points": found.points,
        "error": found.error,
        "adds_up": found.adds_up(),
        "tokens": [dict(zip(("token", *keys), row)) for row in rows],
        "warning": WARNING,
    }

"""`autotx replay`: a page that steps through a trained model's computation on a text, forward and backward."""

from pathlib import Path

from autotx import viz
from autotx.models.formats import KNOWN, identify, open_model
from autotx.viz.page import checked_path

EXAMPLES = (
    'autotx replay --model runs/book --prompt "To be" --out replay.html',
    'autotx replay --model smollm2 --prompt "The sea is" --out smollm2.html',
)


def add_arguments(parser):
    parser.add_argument("--model", metavar="NAME", default="runs/gpt", help=f"{KNOWN} (default: %(default)s)")
    parser.add_argument("--prompt", metavar="TEXT", required=True, help="what the model reads: a short sentence")
    parser.add_argument("--target", metavar="TEXT", help="for a translator: the right answer (default: its own)")
    parser.add_argument("--out", metavar="FILE", default="replay.html", help="where to write it (default: %(default)s)")


def outputs(args):
    return {"--out": (args.out, checked_path)}


def run(args):
    """Write the page. Returns the exit status."""
    for flag, text in (("--prompt", args.prompt), ("--target", args.target)):
        if text is not None and not text.strip():
            raise ValueError(f"{flag}: an empty text gives nothing to replay; give a few words")
    opened = open_model(args.model, needs=None if identify(args.model)[2].replay else "text")
    loss, shown = opened.task.replay(opened.model, opened.tokenizer, args.prompt, args.target)
    viz.page(loss, args.out, **shown)
    print(f"written: {args.out} ({Path(args.out).stat().st_size / 1e6:.2g} MB); open it in a browser")
    return 0

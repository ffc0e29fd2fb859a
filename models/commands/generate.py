"""`autotx generate`: continue a text with a trained language model."""

import json
import secrets
import sys
from pathlib import Path

import numpy as np

from autotx import viz
from autotx.checkpoint import STATE
from autotx.files import entry, read_json
from autotx.models.commands import choices, maps
from autotx.models.commands.chat import add_weights, weights_of
from autotx.models.commands.edits import add_edit, edits_of
from autotx.models.config import LARGEST, check_limits
from autotx.models.data import read_file
from autotx.models.formats import KNOWN, open_model, open_reader
from autotx.models.inference.continuations import Continuation, continue_text
from autotx.models.inference.speculation import SPECULATE
from autotx.models.run import checkpoint_of
from autotx.models.tokenizers import END_OF_TEXT
from autotx.text import counted
from autotx.viz import style
from autotx.viz.page import checked_path

NEW_TOKENS = 500  # written without --max-new-tokens
LIKELIEST = 5  # tokens that --show-choices lists


EXAMPLES = (
    'autotx generate --model runs/book --prompt "Once upon" --temperature 0.8 --top-k 40',
    'autotx generate --model smollm2 --prompt "The sea is" --temperature 0 --show-choices',
)


def add_arguments(parser):
    parser.add_argument("--model", metavar="NAME", default="runs/gpt", help=f"{KNOWN} (default: %(default)s)")
    parser.add_argument(
        "--step", metavar="N", help="the checkpoint of this step of a run with --keep, or best (default: the newest)"
    )
    given = parser.add_mutually_exclusive_group()
    given.add_argument(
        "--prompt",
        metavar="TEXT",
        default="",
        help="the text to go on with, - for that of the input (default: what a text may begin with)",
    )
    given.add_argument("--prompt-file", metavar="FILE", help="a file with the text, without its last line end")
    parser.add_argument(
        "--stop", metavar="TEXT", action="append", default=[], help="end before this text; repeat for more"
    )
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        metavar="N",
        help=f"how many tokens to write (default: {NEW_TOKENS}, or as many as --attention has room for), fewer where a "
        "model that was trained with --end-of-text ends the text",
    )
    parser.add_argument("--min-new-tokens", type=int, metavar="N", default=0, help="write so many before the text ends")
    parser.add_argument(
        "--temperature",
        type=float,
        metavar="X",
        default=0.8,
        help="below 1 for safer text, above for wilder; 0 always takes the likeliest token (default: %(default)s)",
    )
    parser.add_argument("--top-k", type=int, metavar="N", help="choose among the N likeliest tokens (default: all)")
    parser.add_argument(
        "--top-p", type=float, metavar="X", help="choose among the likeliest that make up this share (default: all)"
    )
    parser.add_argument(
        "--min-p",
        type=float,
        metavar="X",
        default=0.0,
        help="choose among the tokens at least this share as likely as the likeliest (default: all)",
    )
    parser.add_argument(
        "--repetition-penalty",
        type=float,
        metavar="X",
        default=1.0,
        help="above 1 makes tokens that the text has already less likely (default: %(default)s, as likely)",
    )
    parser.add_argument("--seed", type=int, metavar="N", help="the same seed gives the same text (default: a new one)")
    parser.add_argument(
        "--samples",
        type=int,
        metavar="N",
        default=1,
        help="write N texts at once; each has a seed of its own, made of --seed and its number, so it is the same "
        "however many there are (default: %(default)s)",
    )
    parser.add_argument(
        "--show-choices",
        type=int,
        metavar="N",
        nargs="?",
        const=LIKELIEST,
        help="list each token with its probability and the N likeliest (default: 5). The probabilities are the model's "
        "own: before --temperature, --top-k and other settings",
    )
    parser.add_argument("--html", metavar="FILE", help="write a page of the text that shows them for each token")
    parser.add_argument("--json", action="store_true", help="print one JSON object, with all of this, instead of text")
    add_weights(parser)
    parser.add_argument("--speculate", action="store_true", help=SPECULATE)
    add_edit(parser)
    parser.add_argument(
        "--attention", metavar="FILE", help="draw what every head looked at, prompt and answer: a .png, .svg or .pdf"
    )
    for what in ("layers", "heads"):
        parser.add_argument(
            f"--{what}",
            metavar="N,N-N",
            help=f"the {what} that --attention draws, from 0, such as 0,3-5 (default: all, or {maps.SOME} of a model "
            "that is too large for a readable picture)",
        )


def outputs(args):
    return {"--attention": (args.attention, style.checked_path), "--html": (args.html, checked_path)}


def run(args):
    """Print the prompt and its continuations, the first of them token by token. Returns the exit status."""
    _check(args)
    edits = edits_of(args.edit)
    if args.step:
        args.model = checkpoint_of(args.model, args.step)
    opened = open_model(args.model, "text") if args.attention else open_reader(args.model, weights_of(args))
    model, tokenizer = opened.model, opened.tokenizer
    prompt = _prompt(args, opened)
    ids = tokenizer.encode(prompt)
    shown = None
    if args.attention:
        shown = maps.shown_of(model.config, args.layers, args.heads, len(ids), args.max_new_tokens)
        args.max_new_tokens = args.max_new_tokens or shown.most - len(ids)
    elif args.max_new_tokens is None:
        args.max_new_tokens = NEW_TOKENS
    size = model.config.block_size
    if len(ids) > size:
        _say(f"the prompt has {len(ids):,} tokens, and the model reads {size:,} at once: it does not see the first "
             f"{len(ids) - size:,}, and reads the others anew for each token that it writes")  # fmt: skip
    args.seed = secrets.randbits(32) if args.seed is None else args.seed
    with model.edit(edits):
        rows = _written(args, model, tokenizer, prompt, ids)
    _tell_unseen(len(ids), max(len(row.ids) for row in rows), size)
    if args.json:
        print(json.dumps(_data(args, prompt, ids, rows, tokenizer), ensure_ascii=False))
    if args.html:
        name = Path(args.model).name
        viz.choices([choices.listed(row, tokenizer) for row in rows], args.html, f"What {name} wrote", prompt=prompt)
        _say(f"{args.html} shows each token beside the likeliest ones")
    if args.attention:
        _draw_attention(args, model, tokenizer, [*ids, *rows[0].ids], len(ids), shown)
    return 0


def _written(args, model, tokenizer, prompt, ids):
    """The Continuations, one for each of --samples. Prints them, unless they are to be printed as JSON."""
    names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "min_new_tokens", "speculate")
    settings = {name: getattr(args, name) for name in names}
    settings["rng"] = [np.random.default_rng([args.seed, i]) for i in range(args.samples)]  # [n, 0] is the same as n
    likeliest = args.show_choices or (LIKELIEST if args.html else 0)
    rows = [Continuation(tokenizer, args.stop, likeliest) for _ in range(args.samples)]
    pieces = continue_text(model, ids, args.max_new_tokens, rows, tokenizer.ends, **settings)
    if args.json:
        for _ in pieces:
            pass
        return rows
    beginning = prompt.strip(END_OF_TEXT)
    for i, row in enumerate(rows):
        if len(rows) > 1:
            print(("\n" if i else "") + f"--- sample {i + 1} of {len(rows)} ---")
        print(beginning, end="", flush=True)
        if i == 0:
            for first, *_ in pieces:
                print(first, end="", flush=True)
            print()
        else:
            print(row.text)
        if args.show_choices:
            print(f"\n{choices.table(row, tokenizer)}")
    return rows


def _data(args, prompt, ids, rows, tokenizer):
    """What --json prints."""
    names = ("model", "seed", "temperature", "top_k", "top_p", "min_p", "repetition_penalty")
    samples = [choices.data(row, tokenizer) for row in rows]
    return {name: getattr(args, name) for name in names} | {
        "prompt": prompt, "prompt_ids": ids.tolist(), "samples": samples
    }  # fmt: skip


def _tell_unseen(given, written, size):
    """Say how many tokens the model no longer saw when it chose the last one, if it saw them when it began."""
    unseen = given + written - 1 - size
    if unseen > 0 and given <= size:
        _say(f"the text has {given + written:,} tokens, and the model reads {size:,} at once: at the end it no longer "
             f"saw the first {unseen:,}")  # fmt: skip


def _say(text):
    print(f"autotx generate: {text}", file=sys.stderr)


def _prompt(args, opened):
    """The text to go on with. ValueError for one that the model cannot have learned."""
    flag, text = "--prompt", args.prompt
    if args.prompt_file:
        flag, text = "--prompt-file", read_file("--prompt-file", args.prompt_file).removesuffix("\n")
    elif text == "-":
        text = sys.stdin.read().removesuffix("\n")
    unknown = opened.tokenizer.unknown(text)
    if unknown:
        raise ValueError(
            f"{flag}: the text that the model learned has no {', '.join(map(repr, unknown))}, so it would only make "
            "noise of it; leave that out, or train with --tokenizer byte or bpe"
        )
    return text or _opening(opened)


def _opening(opened):
    """The prompt when none is given, as TextTask.state keeps it; a text of some models begins with a token for it."""
    if opened.config is None:
        return "" if opened.tokenizer.encode("").size else "\n"
    path = opened.path / STATE
    return entry(read_json(path), "opening", str, path)


def _draw_attention(args, model, tokenizer, ids, given, shown):
    """Draw the picture of --attention. ids: all tokens. given: how many of them are the prompt's. shown: a Shown."""
    name = Path(args.model).name
    title = f"Attention of {name}: a prompt of {counted(given, 'token')}, and the {len(ids) - given} that it wrote"
    figure, _ = maps.of_text(model, tokenizer, ids, given, title, shown=shown)
    viz.save(figure, args.attention)
    _say(f"{args.attention} shows what {'the heads' if shown.note else 'every head'} looked at")


def _check(args):
    """ValueError for a flag outside its limits, and for flags that exclude each other."""
    check_limits("--max-new-tokens", args.max_new_tokens, at_least=1, at_most=10**9)
    check_limits("--min-new-tokens", args.min_new_tokens, at_least=0, at_most=10**9)
    check_limits("--repetition-penalty", args.repetition_penalty, above=0, at_most=1e30)
    check_limits("--temperature", args.temperature, at_least=0, at_most=1e30)
    check_limits("--top-k", args.top_k, at_least=1, at_most=10**9)
    check_limits("--top-p", args.top_p, above=0, at_most=1)
    check_limits("--min-p", args.min_p, at_least=0, at_most=1)
    if "" in args.stop:
        raise ValueError("--stop is empty; give the text to end before")
    check_limits("--seed", args.seed, at_least=0, at_most=LARGEST)
    check_limits("--samples", args.samples, at_least=1, at_most=100)
    check_limits("--show-choices", args.show_choices, at_least=1, at_most=100)
    if args.speculate and args.samples > 1:
        raise ValueError("--speculate is for one text; leave it or --samples out")
    if args.attention and args.edit:
        raise ValueError("--attention draws the model as it is; leave --edit out")
    if args.attention and args.weights == "int8":
        raise ValueError("--attention draws the model in float32; leave --weights out")
    if (args.layers, args.heads) != (None, None) and not args.attention:
        raise ValueError("--layers and --heads belong to --attention; give it too")
    if args.attention and args.samples > 1:
        raise ValueError("--attention draws one text; leave --samples out")

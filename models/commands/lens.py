"""`autotx lens`: what a language model would say after each layer, and what contributes to the score of a token."""

import json
import sys
from pathlib import Path

import numpy as np

from autotx import viz
from autotx.models.commands.chat import add_weights, weights_of
from autotx.models.commands.edits import add_edit, edits_of
from autotx.models.commands.prompts import ids_of, quoted, score_of, targets_of
from autotx.models.config import check_limits
from autotx.models.formats import KNOWN, open_reader
from autotx.models.inference.lens import accounts, lens
from autotx.models.inference.sampling import largest
from autotx.viz import style
from autotx.viz.page import checked_path

LIKELIEST = 5
CONTRIBUTIONS = 10  # that are printed
FROZEN = "the scale of the final norm is frozen at its value"

EXAMPLES = (
    'autotx lens --model smollm2 --prompt "The capital of France is" --out lens.png',
    'autotx lens --prompt "the value of" --target e --against a --html lens.html',
)


def add_arguments(parser):
    parser.add_argument("--model", metavar="NAME", default="runs/gpt", help=f"{KNOWN} (default: %(default)s)")
    parser.add_argument("--prompt", metavar="TEXT", required=True, help="the text, of 2 tokens or more")
    parser.add_argument(
        "--target",
        metavar="TEXT",
        help="a token: who contributes how much to its score as the next one (default: the likeliest one)",
    )
    parser.add_argument("--against", metavar="TEXT", help="a token whose score is subtracted from that of --target")
    parser.add_argument(
        "--likeliest",
        metavar="N",
        type=int,
        default=LIKELIEST,
        help="how many tokens are listed of each layer (default: %(default)s)",
    )
    parser.add_argument("--out", metavar="FILE", help="draw all layers and positions: a .png, .svg or .pdf")
    parser.add_argument("--html", metavar="FILE", help="write a page of all layers and positions")
    parser.add_argument("--json", action="store_true", help="print one JSON object, with all of it, instead of text")
    add_weights(parser)
    add_edit(parser)


def outputs(args):
    return {"--out": (args.out, style.checked_path), "--html": (args.html, checked_path)}


def run(args):
    """Print what the layers say after the last token, and the contributions. Returns the exit status."""
    check_limits("--likeliest", args.likeliest, at_least=1, at_most=100)
    edits, opened = edits_of(args.edit), open_reader(args.model, weights_of(args))
    model, tokenizer, ids = opened.model, opened.tokenizer, ids_of("--prompt", args.prompt, opened)
    target, against = targets_of(args, tokenizer)
    with model.edit(edits):
        found = lens(model, ids, args.likeliest)
        target = int(found.next[-1]) if target is None else target
        of = accounts(model, ids, target, against)
    name = Path(args.model).name
    if args.json:
        data = _data(found, of, ids, tokenizer, target, against)
        print(json.dumps({"model": args.model, "prompt": args.prompt, **data}, ensure_ascii=False))
    else:
        print(_described(found, of, ids, tokenizer, target, against))
    title = f"What {name} would say after each layer"
    if args.out:
        viz.save(viz.lens(*shown(found, ids, tokenizer), title=title), args.out)
    if args.html:
        about = "\n".join(_contributions(of, tokenizer, target, against, CONTRIBUTIONS))
        viz.lens_page(*shown(found, ids, tokenizer), args.html, title=title, about=about)
    for file in filter(None, (args.out, args.html)):
        print(f"autotx lens: {file} shows every layer and position", file=sys.stderr)
    return 0


def shown(found, ids, tokenizer):
    """A Lens as viz.lens takes it: the layers' names, the tokens, those that come next, and the cells."""
    tokens, following = tokenizer.texts(ids), tokenizer.texts(found.next)
    cells = [
        [
            (following[t], float(found.probability[i, t]), int(found.rank[i, t]),
             list(zip(tokenizer.texts(found.likeliest[i, t]), found.probabilities[i, t].tolist())))
            for t in range(len(ids))
        ]
        for i in range(len(found.layers))
    ]  # fmt: skip
    return found.layers, tokens, cells


def _data(found, of, ids, tokenizer, target, against):
    """What --json prints of both."""
    layers, tokens, cells = shown(found, ids, tokenizer)
    keys = "next", "probability", "rank", "likeliest"
    parts = {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in of._asdict().items()}
    return {
        "tokens": tokens,
        "layers": {name: [dict(zip(keys, cell)) for cell in row] for name, row in zip(layers, cells)},
        "target": tokenizer.texts([target])[0],
        "against": None if against is None else tokenizer.texts([against])[0],
        "contributions": {**parts, "total": of.total(), "norm": FROZEN},
    }


def _described(found, of, ids, tokenizer, target, against):
    """Both in lines for people."""
    lines = [f"after {quoted(tokenizer, ids[-1])}, the last of {len(ids)} tokens, each layer's likeliest next ones:"]
    for name, tokens, p in zip(found.layers, found.likeliest[:, -1], found.probabilities[:, -1]):
        best = (f"{quoted(tokenizer, token)} {100 * q:.3g} %" for token, q in zip(tokens, p))
        lines.append(f"  {name:9}  {'  '.join(best)}")
    return "\n".join([*lines, *_contributions(of, tokenizer, target, against, CONTRIBUTIONS)])


def _contributions(of, tokenizer, target, against, most):
    """The largest contributions in lines for people."""
    what = score_of(tokenizer, target, against)
    parts = {f"head {i}.{h}": c for (i, h), c in np.ndenumerate(of.heads)}
    parts |= {f"mlp {i}": c for i, c in enumerate(of.mlps)} | {"embedding": of.embedding}
    size = np.abs(list(parts.values()))
    best = [list(parts.items())[i] for i in largest(size, most)]
    rest = of.total() - sum(c for _, c in best)
    listed = ", ".join(f"{name} {c:+.2f}" for name, c in best)
    return [f"{what} is {of.score:.2f}; direct contributions ({FROZEN}): {listed}, all others {rest:+.2f}"]

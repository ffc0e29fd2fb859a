"""`autotx evaluate`: how well a language model predicts a text, also beside another model, or how well a translator
translates a file of pairs."""

import json
import math
import time

import numpy as np

from autotx.models.commands.chat import CONTEXT, add_weights, weights_of
from autotx.models.commands.edits import add_edit, edits_of
from autotx.models.commands.translate import SCORING, add_scoring, check_scoring
from autotx.models.config import check_limits, flag
from autotx.models.data import read_file
from autotx.models.formats import KNOWN, open_model, open_reader
from autotx.models.inference import bleu
from autotx.models.inference.losses import compared, token_losses
from autotx.models.inference.pieces import Float32Matrix
from autotx.models.inference.sampling import largest
from autotx.models.progress import Measured
from autotx.text import visible

WORST = 8  # tokens that --against lists
BEFORE = 48  # characters of the text that stand before each

EXAMPLES = (
    "autotx evaluate --model smollm2 --text book.txt",
    "autotx evaluate --model runs/pairs --pairs held-out.tsv",
)


def add_arguments(parser):
    parser.add_argument("--model", metavar="NAME", default="runs/gpt", help=f"{KNOWN} (default: %(default)s)")
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--text", metavar="FILE", help="the text that a language model is to predict")
    given.add_argument("--pairs", metavar="FILE", help="lines of source TAB target, for a translator: BLEU and chrF")
    parser.add_argument(
        "--context",
        type=int,
        metavar="N",
        help=f"how many tokens the model reads at once (default: as many as it can, at most {CONTEXT:,})",
    )
    parser.add_argument(
        "--stride",
        type=int,
        metavar="N",
        help="how many of them are new in each window of the text; fewer give each token more context and take longer "
        "(default: half of --context)",
    )
    add_weights(parser)
    parser.add_argument(
        "--against",
        metavar="NAME",
        help="a model of the same tokens, in float32: how far --model departs from it, after a change for instance",
    )
    add_edit(parser)
    add_scoring(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args):
    """Print the figures. Returns the exit status."""
    _check(args)
    if args.pairs:
        opened = open_model(args.model, needs="pairs")
        settings = {name: getattr(args, name) for name in SCORING}
        found, describe = bleu.score_pairs(opened.model, opened.tokenizer, args.pairs, **settings), bleu.described
    else:
        found, describe = _of_text(args), _described
    print(json.dumps({"model": args.model, **found}) if args.json else describe(found))
    return 0


def _of_text(args):
    """The figures of --text, as JSON values."""
    text, edits = read_file("--text", args.text), edits_of(args.edit)
    opened = open_reader(args.model, weights_of(args))
    model, tokenizer, size = opened.model, opened.tokenizer, opened.model.config.block_size
    context = args.context or min(CONTEXT, size)
    stride = args.stride or max(1, context // 2)
    if context > size:
        raise ValueError(f"--context {context} is more than the {size} tokens that the model reads at once")
    if stride > context:
        raise ValueError(f"--stride {stride} is more than --context {context}, which would leave out tokens; give less")
    ids = tokenizer.encode(text)
    if len(ids) < 2:
        raise ValueError(f"--text {args.text} is one token, which has none before it; give a longer text")
    other = _other(args.against, tokenizer, text, ids) if args.against else None
    if other and context > other.model.config.block_size:
        raise ValueError(f"--context {context} is more than the {other.model.config.block_size} that --against reads")
    begun, scored, total, parts = time.perf_counter(), 0, 0.0, []
    with Measured(len(ids) - 1) as line, model.edit(edits):
        for losses in _losses(model, other, ids, context, stride, parts):
            scored, total = scored + len(losses), total + losses.sum()
            line.show_loss(scored, total / scored)
    loss, count = total / scored, _bytes(text, ids[0], tokenizer)
    return {
        "text": args.text,
        "weights": args.weights or "file",
        "tokens": len(ids),
        "scored": scored,
        "context": context,
        "stride": stride,
        "loss": loss,
        "perplexity": _perplexity(loss),
        "bits_per_byte": total / math.log(2) / count,
        "bytes": count,
        "unknown": len(tokenizer.unknown(text)),
        "seconds": time.perf_counter() - begun,
    } | ({"against": _compared(args.against, parts, ids, tokenizer)} if other else {})


def _losses(model, other, ids, context, stride, parts):
    """`token_losses`; beside another model, whose `Compared` are appended to parts."""
    if other is None:
        yield from token_losses(model, ids, context, stride)
        return
    for part in compared(model, other.model, ids, context, stride):
        parts.append(part)
        yield part.losses[0]


def _perplexity(loss):
    return math.exp(loss) if loss < 700 else None


def _other(name, tokenizer, text, ids):
    """The model of --against. ValueError: its tokens are others."""
    other = open_reader(name, Float32Matrix)
    for i, (ours, theirs) in enumerate(zip(tokenizer.pieces, other.tokenizer.pieces)):
        if ours != theirs:
            raise ValueError(f"--against {name}: its token {i} is {theirs!r}, that of --model {ours!r}; the "
                             "vocabularies must be equal")  # fmt: skip
    if len(tokenizer.pieces) != len(other.tokenizer.pieces):
        raise ValueError(f"--against {name} has {len(other.tokenizer.pieces):,} tokens, --model "
                         f"{len(tokenizer.pieces):,}; the vocabularies must be equal")  # fmt: skip
    if not np.array_equal(ids, other.tokenizer.encode(text)):
        raise ValueError(f"--against {name} cuts the text into other tokens than --model; the tokenizers must be equal")
    return other


def _compared(name, parts, ids, tokenizer):
    """The figures of --against, as JSON values."""
    divergence = np.concatenate([part.divergence for part in parts])
    (best, theirs), (p, q) = (
        [np.concatenate([getattr(part, what)[i] for part in parts]) for i in (0, 1)]
        for what in ("likeliest", "probability")
    )
    loss = float(np.concatenate([part.losses[1] for part in parts]).mean())
    worst = []
    for i in largest(divergence, WORST) if divergence.any() else ():
        text = tokenizer.decode(ids[max(0, i + 1 - BEFORE) : i + 1])[-BEFORE:]
        (token, ours, others) = tokenizer.texts([ids[i + 1], best[i], theirs[i]])
        likeliest = {"model": [ours, float(p[i])], "against": [others, float(q[i])]}
        worst.append({"place": int(i) + 1, "divergence": float(divergence[i]), "before": text, "token": token,
                      "likeliest": likeliest})  # fmt: skip
    return {
        "model": name,
        "loss": loss,
        "perplexity": _perplexity(loss),
        "divergence": float(divergence.mean()),
        "same_likeliest": float((best == theirs).mean()),
        "worst": worst,
    }


def _bytes(text, first, tokenizer):
    """How many bytes of a text its tokens after the first stand for. The first may be one that begins every text."""
    first = 0 if first == getattr(tokenizer, "start", None) else len(tokenizer.pieces[first])
    return max(1, len(text.encode()) - first)


def _described(found):
    """The figures of --text in lines for people."""
    perplexity = _shown(found["perplexity"])
    before, context = found["context"] - found["stride"] + 1, found["context"]
    known = "all" if found["scored"] <= context else f"{before:,} to {context:,}, or all if they are fewer, of the"
    unknown = f"\ncharacters or words that the model has not learned: {found['unknown']:,}" if found["unknown"] else ""
    return (
        f"loss {found['loss']:.4f}, perplexity {perplexity}, {found['bits_per_byte']:.4f} bits per byte\n"
        f"{found['scored']:,} of {found['tokens']:,} tokens predicted (the first has none before it), each from "
        f"{known} tokens before it; weights: {found['weights']}, {found['seconds']:.1f} s{unknown}"
        + (_described_against(found["against"]) if "against" in found else "")
    )


def _shown(perplexity):
    return f"{perplexity:.5g}" if perplexity else "above 1e300"


def _described_against(found):
    """The figures of --against in lines for people."""
    lines = [
        f"\nagainst {found['model']} (loss {found['loss']:.4f}, perplexity {_shown(found['perplexity'])}): divergence "
        f"{found['divergence']:.3g} nats a token, the likeliest token is the same for "
        f"{100 * found['same_likeliest']:.4g} %"
    ]
    if found["worst"]:
        lines.append("where they differ most: the divergence, the text and its next token, what each finds likeliest")
    for at in found["worst"]:
        told = (f"'{visible(token)}' {100 * p:.3g} %" for token, p in at["likeliest"].values())
        lines.append(f"{at['divergence']:9.3g}  {visible(at['before'])}[{visible(at['token'])}]  {', '.join(told)}")
    return "\n".join(lines)


def _check(args):
    """ValueError for a flag outside its limits, and for flags that exclude each other."""
    check_scoring(args)
    check_limits("--context", args.context, at_least=1, at_most=10**9)
    check_limits("--stride", args.stride, at_least=1, at_most=10**9)
    for_text = [name for name in ("context", "stride", "weights", "against", "edit") if getattr(args, name) is not None]
    for_pairs = [name for name, default in SCORING.items() if getattr(args, name) != default]
    wrong, other = (for_text, "--text") if args.pairs else (for_pairs, "--pairs")
    if wrong:
        raise ValueError(f"{flag(wrong[0])} belongs to {other}; leave it out")

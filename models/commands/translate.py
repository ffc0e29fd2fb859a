"""`autotx translate`: translate sentences with a trained Transformer, or score it on a file of pairs."""

import sys

from autotx.models.commands import maps
from autotx.models.config import check_limits
from autotx.models.formats import open_model
from autotx.models.inference.beams import translations
from autotx.models.inference.bleu import check_length, described, score_pairs
from autotx.models.pairs import encode, spaced
from autotx.viz import save, style

SCORING = {"beam": 1, "length_penalty": 0.6, "bleu_tokenize": "13a"}  # the flags of add_scoring and their defaults


EXAMPLES = (
    'autotx translate --model runs/pairs "A man sleeps." "Two dogs run."',
    'autotx translate --model runs/pairs "A man sleeps." --beam 4 --n-best 4',
)


def add_arguments(parser):
    parser.add_argument("sentences", metavar="SENTENCE", nargs="*", help="what to translate, each in quotes")
    parser.add_argument(
        "--model", metavar="DIR", default="runs/transformer", help="the folder of a run (default: %(default)s)"
    )
    parser.add_argument("--n-best", type=int, metavar="N", default=1, help="candidates to print (default: %(default)s)")
    parser.add_argument("--attention", metavar="FILE", help="draw what the model looked at: a .png, .svg or .pdf")
    parser.add_argument("--pairs", metavar="FILE", help="translate the sources of this file, print BLEU and chrF")
    add_scoring(parser)


def add_scoring(parser):
    """Add the flags of SCORING: how pairs are translated and scored."""
    parser.add_argument(
        "--beam",
        type=int,
        metavar="N",
        default=SCORING["beam"],
        help="candidates that are kept, 1 for greedy (default: %(default)s)",
    )
    parser.add_argument(
        "--length-penalty",
        type=float,
        metavar="X",
        default=SCORING["length_penalty"],
        help="0 for short translations, more for longer ones; only with --beam (default: %(default)s)",
    )
    parser.add_argument(
        "--bleu-tokenize",
        metavar="NAME",
        default=SCORING["bleu_tokenize"],
        help="how BLEU finds words: one of sacrebleu's, such as zh, ja-mecab or char (default: %(default)s)",
    )


def outputs(args):
    return {"--attention": (args.attention, style.checked_path)}


def run(args):
    """Print a translation for each sentence, or a score. Returns the exit status."""
    _check(args)
    opened = open_model(args.model, needs="pairs")
    model, tokenizer = opened.model, opened.tokenizer
    if args.pairs:
        settings = {name: getattr(args, name) for name in SCORING}
        print(described(score_pairs(model, tokenizer, args.pairs, **settings)))
        return 0
    for sentence in args.sentences:
        _check_sentence(sentence, tokenizer, model.config.block_size)
    found = translations(model, tokenizer, args.sentences, args.beam, args.length_penalty, args.n_best)
    for best in found:
        for translated in best:
            print(f"{translated.score:8.3f}  {translated.text}" if args.n_best > 1 else translated.text)
    if args.attention:
        best = found[0][0]
        title = f"{args.sentences[0]} \N{RIGHTWARDS ARROW} {best.text}"
        figure, _ = maps.of_translation(model, tokenizer, encode(tokenizer, args.sentences[0]), best.ids, title)
        save(figure, args.attention)
        print(f"autotx translate: {args.attention} shows what every head looked at", file=sys.stderr)
    return 0


def _check_sentence(sentence, tokenizer, block_size):
    """ValueError for a sentence that the model cannot read."""
    if not sentence.strip():
        raise ValueError("an empty sentence cannot be translated; give some words in quotes")
    unknown = tokenizer.unknown(spaced(sentence))
    if unknown:
        raise ValueError(f"the pairs that the model learned have no {', '.join(map(repr, unknown))}; leave that out")
    check_length("", sentence, tokenizer, block_size)


def _check(args):
    """ValueError for a flag outside its limits, and for flags that exclude each other."""
    check_scoring(args)
    check_limits("--n-best", args.n_best, at_least=1)
    if args.n_best > args.beam:
        raise ValueError(f"--n-best {args.n_best} is above --beam {args.beam}; make that as large")
    if bool(args.sentences) == bool(args.pairs):
        raise ValueError("give sentences to translate, in quotes, or a file of pairs to score by --pairs")
    if args.pairs and args.n_best > 1:
        raise ValueError("--n-best is for sentences; the score of --pairs is that of the best translations")
    if args.attention and len(args.sentences) != 1:
        raise ValueError("--attention draws one sentence; give one")


def check_scoring(args):
    """ValueError for a flag of SCORING that is outside its limits."""
    check_limits("--beam", args.beam, at_least=1, at_most=1000)
    check_limits("--length-penalty", args.length_penalty, at_least=0, at_most=10)

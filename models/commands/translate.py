"""`autotx translate`: translate sentences with a trained Transformer, or score it on a file of pairs."""

import sys
import time

from autotx.models.commands import maps
from autotx.models.config import check_limits
from autotx.models.data import read_columns
from autotx.models.formats import open_model
from autotx.models.inference.beams import translations
from autotx.models.pairs import encode, spaced
from autotx.text import counted
from autotx.viz import save, style

try:
    import sacrebleu
except ImportError:  # an extra: pip install "autotx[bleu]"
    sacrebleu = None


def add_arguments(parser):
    parser.add_argument("sentences", metavar="SENTENCE", nargs="*", help="what to translate, each in quotes")
    parser.add_argument(
        "--model", metavar="DIR", default="runs/transformer", help="the folder of a run (default: %(default)s)"
    )
    parser.add_argument(
        "--beam", type=int, metavar="N", default=1, help="candidates that are kept, 1 for greedy (default: %(default)s)"
    )
    parser.add_argument("--n-best", type=int, metavar="N", default=1, help="candidates to print (default: %(default)s)")
    parser.add_argument(
        "--length-penalty",
        type=float,
        metavar="X",
        default=0.6,
        help="0 for short translations, more for longer ones; only with --beam (default: %(default)s)",
    )
    parser.add_argument("--attention", metavar="FILE", help="draw what the model looked at: a .png, .svg or .pdf")
    parser.add_argument("--pairs", metavar="FILE", help="translate the sources of this file, print BLEU and chrF")
    parser.add_argument(
        "--bleu-tokenize",
        metavar="NAME",
        default="13a",
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
        _score(model, tokenizer, args)
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


def scores(written, references, tokenize="13a"):
    """BLEU and chrF of translations (str), each 0 to 100, by sacrebleu. references: the right translations.

    tokenize: the name of sacrebleu's tokenizer for BLEU; chrF compares characters.
    ValueError when sacrebleu, or a library that the tokenizer needs, is not installed, and for an unknown name.
    Source: Papineni et al., 2002; Popović, 2015 (chrF); Post, 2018 (sacrebleu).
    """
    if sacrebleu is None:
        raise ValueError('the BLEU score needs the library sacrebleu: pip install "autotx[bleu]"')
    if tokenize not in sacrebleu.BLEU.TOKENIZERS:
        known = ", ".join(sacrebleu.BLEU.TOKENIZERS)
        raise ValueError(f"--bleu-tokenize {tokenize} is not known to sacrebleu; it is one of {known}")
    try:
        metrics = sacrebleu.BLEU(tokenize=tokenize), sacrebleu.CHRF()
    except (ImportError, RuntimeError) as error:  # some tokenizers need another library
        raise ValueError(f"--bleu-tokenize {tokenize} cannot be used: {error}") from error
    return tuple(metric.corpus_score(written, [references]).score for metric in metrics)


def _score(model, tokenizer, args):
    """Print the scores of --pairs. Words that the model has not learned are no error here."""
    scores(["a"], ["a"], args.bleu_tokenize)  # raises before the work if BLEU cannot be computed
    places, sources, targets = zip(*read_columns("--pairs", args.pairs, ("source", "target")))
    for place, source in zip(places, sources):
        _check_length(f"{place}: ", source, tokenizer, model.config.block_size)
    begun = time.perf_counter()
    written = [best[0].text for best in translations(model, tokenizer, sources, args.beam, args.length_penalty)]
    seconds = time.perf_counter() - begun
    new = sum(bool(tokenizer.unknown(spaced(source))) for source in sources)
    how = f"beam {args.beam}" if args.beam > 1 else "greedy"
    print(f"{counted(len(sources), 'sentence')} in {seconds:.1f} s ({how})")
    figures, lower = _figures(written, targets, args.bleu_tokenize), [target.lower() for target in targets]
    if tokenizer.lower_case and lower != list(targets):
        print(f"{figures}, with the capitals of the targets, which this model does not write")
        figures = f"{_figures(written, lower, args.bleu_tokenize)}, with the targets in lower case"
    print(figures)
    if max(len(target.split()) for target in targets) < 4:
        print("(BLEU counts runs of four words too, and no target has so many)")
    if new:
        print(f"sources with words that the model has not learned: {new:,}")


def _figures(written, targets, tokenize):
    bleu, chrf = scores(written, targets, tokenize)
    return f"BLEU {bleu:.2f}, chrF {chrf:.2f}, {sum(map(str.__eq__, written, targets)):,} to the letter"


def _check_sentence(sentence, tokenizer, block_size):
    """ValueError for a sentence that the model cannot read."""
    if not sentence.strip():
        raise ValueError("an empty sentence cannot be translated; give some words in quotes")
    unknown = tokenizer.unknown(spaced(sentence))
    if unknown:
        raise ValueError(f"the pairs that the model learned have no {', '.join(map(repr, unknown))}; leave that out")
    _check_length("", sentence, tokenizer, block_size)


def _check_length(place, sentence, tokenizer, block_size):
    count = len(encode(tokenizer, sentence))
    if count > block_size:
        raise ValueError(
            f"{place}a sentence of {count} tokens is longer than --block-size {block_size} of the run; cut it"
        )


def _check(args):
    """ValueError for a flag outside its limits, and for flags that exclude each other."""
    check_limits("--beam", args.beam, at_least=1, at_most=1000)
    check_limits("--n-best", args.n_best, at_least=1)
    if args.n_best > args.beam:
        raise ValueError(f"--n-best {args.n_best} is above --beam {args.beam}; make that as large")
    check_limits("--length-penalty", args.length_penalty, at_least=0, at_most=10)
    if bool(args.sentences) == bool(args.pairs):
        raise ValueError("give sentences to translate, in quotes, or a file of pairs to score by --pairs")
    if args.pairs and args.n_best > 1:
        raise ValueError("--n-best is for sentences; the score of --pairs is that of the best translations")
    if args.attention and len(args.sentences) != 1:
        raise ValueError("--attention draws one sentence; give one")

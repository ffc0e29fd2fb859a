"""`autotx nearest`: the words whose vectors are most similar to that of a word."""

import sys

from autotx.models.config import check_limits
from autotx.models.formats import open_model
from autotx.models.vectors import load_vectors
from autotx.text import counted

EXAMPLES = (
    "autotx nearest king --model runs/words",
    "autotx nearest king --vectors vectors.txt --n 20",
)


def add_arguments(parser):
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", metavar="DIR", help="the folder of a run, of word2vec or any other model")
    source.add_argument("--vectors", metavar="FILE", help="a file of vectors: word2vec, GloVe or FastText .vec")
    parser.add_argument("--n", type=int, metavar="N", default=10, help="how many to list (default: %(default)s)")
    parser.add_argument("word", metavar="WORD", nargs="+", help="the word, or several one after another")


def run(args):
    """Print each word, and below it the nearest words with their cosines. Returns the exit status."""
    check_limits("--n", args.n, at_least=1, at_most=10**9)
    if args.vectors:
        vectors = load_vectors(args.vectors)
    else:
        opened = open_model(args.model)
        vectors = opened.task.word_vectors(opened)
    if vectors.repeated:
        again = counted(vectors.repeated, "repeated word")
        print(f"autotx nearest: {again} in the file; the first of each counts", file=sys.stderr)
    if vectors.skipped:
        bad = counted(vectors.skipped, "word")
        print(f"autotx nearest: {bad} in the file left out, not written in UTF-8", file=sys.stderr)
    found = [vectors.nearest(word, args.n) for word in args.word]
    for word, near in zip(args.word, found):
        print(word)
        for other, cosine in near:
            print(f"  {cosine:6.3f}  {other}")
    return 0

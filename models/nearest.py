"""`autotx nearest`: the words whose vectors are most like that of a word."""

import sys
from pathlib import Path

from autotx.checkpoint import load_tensors
from autotx.models.config import Word2VecTrainConfig, read_config
from autotx.models.run import MODEL
from autotx.models.tasks.words import FILE
from autotx.models.tokenizers import load_tokenizer
from autotx.models.vectors import WordVectors, load_vectors, words_of


def add_arguments(parser):
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", metavar="DIR", help="the folder of a run, of word2vec or any other model")
    source.add_argument("--vectors", metavar="FILE", help="a file of vectors: word2vec, GloVe or FastText .vec")
    parser.add_argument("--n", type=int, metavar="N", default=10, help="how many to list (default: %(default)s)")
    parser.add_argument("word", metavar="WORD", nargs="+", help="the word, or several one after another")


def run(args):
    """Print each word, and below it the nearest ones with their cosines. Returns the exit status."""
    if args.n < 1:
        raise ValueError(f"--n {args.n} should be at least 1")
    vectors = load_vectors(args.vectors) if args.vectors else run_vectors(args.model)
    if vectors.repeated:
        print(f"autotx nearest: {vectors.repeated} words come again in the file; the first counts", file=sys.stderr)
    found = [vectors.nearest(word, args.n) for word in args.word]
    for word, near in zip(args.word, found):
        print(word)
        for other, cosine in near:
            print(f"  {cosine:6.3f}  {other}")
    return 0


def run_vectors(folder):
    """The WordVectors of a run folder: what word2vec learned, or the tokens' vectors of a GPT or a Transformer.

    Tokens that are the same word, with and without a space before it, count once, the one with the lower id. ValueError
    when the folder holds no model, or one whose tokens have no vectors.
    """
    folder = Path(folder)
    if not (folder / MODEL).is_file():
        raise ValueError(f"--model {folder}: there is no trained model ({MODEL}) there; autotx train makes one")
    if isinstance(read_config(folder), Word2VecTrainConfig):
        return load_vectors(folder / FILE)
    weights, _ = load_tensors(folder / MODEL)
    tables = [array for name, array in weights.items() if name in ("wte.weight", "gpt.wte.weight")]
    if not tables:
        raise ValueError(f"{folder / MODEL} has no table of tokens (wte.weight)")
    words = words_of(load_tokenizer(folder))
    rows = {word: row for row, word in reversed(list(enumerate(words))) if word}
    table = tables[0][-len(words) :]  # the ids of START, END and PAD come before those of the tokenizer
    return WordVectors(rows, table[list(rows.values())])

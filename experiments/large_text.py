"""`python experiments/large_text.py --text FILE ... --megabytes 1000 --out large.txt`: a large text of real lines.

It holds paragraphs of the given texts (without --text: of Python's manual), drawn at random. They repeat, so that a BPE
learns from it as from the texts themselves; time and memory of `autotx prepare` are those of a text of that size.
"""

import argparse

import numpy as np

from autotx.models.data import read_text

CHUNK = 1 << 24  # characters that are written at once


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", action="append", default=[], metavar="FILE")
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    paragraphs = [p for p in read_text(args.text).split("\n\n") if p.strip()]
    rng, left = np.random.default_rng(0), args.megabytes * 1_000_000
    mean = np.mean([len(p) + 2 for p in paragraphs])
    with open(args.out, "wb") as file:
        while left > 0:
            drawn = rng.integers(len(paragraphs), size=int(min(left, CHUNK) / mean) + 1)
            left -= file.write("".join(f"{paragraphs[i]}\n\n" for i in drawn).encode())


if __name__ == "__main__":
    main()

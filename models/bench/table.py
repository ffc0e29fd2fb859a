"""`python -m autotx.models.bench.table FILE`: the README's table of training steps, from the JSON of a benchmark.

FILE is what `autotx bench --json FILE` wrote; those behind the README are kept in models/bench/history. With --readme
the table in the README is replaced: it stands between two comments, of which the first names the file.
"""

import argparse
import json
import re
from pathlib import Path

from autotx.models.bench.cases import L, M, S, parameter_count
from autotx.models.bench.results import clock

SIZES = {"S": S, "M": M, "L": L}
PEERS = "torch", "torch fused"
HEADER = """\
| training step (`autotx bench --only step`) | autotx | PyTorch eager (fused AdamW) | PyTorch / autotx | peak memory |
|---|---|---|---|---|
"""
PLACE = re.compile(r"(?<=<!-- from )(\S+)( -->\n\n)(.*?\n)(?=\n<!-- end of table -->)", re.DOTALL)


def table(measured):
    """The table in Markdown. measured: what results.as_json made of a run with the section `step`."""
    return HEADER + "".join(_line(row) for row in measured["rows"] if row["section"] == "step")


def _line(row):
    size, peers = SIZES[row["case"]], [row["peers"][name] for name in PEERS if name in row["peers"]]
    cells = [
        f"{row['case']}: {size['L']} layers, {size['C']} channels, {parameter_count(**size) / 1e6:.1f} M parameters",
        clock(row["seconds"]),
        _with_second([clock(peer["seconds"]) for peer in peers]),
        _with_second([f"{peer['ratio']:.2f}" for peer in peers]),
        "".join(f"{peer['memory_ratio']:.2f}" for peer in peers[:1] if peer["memory_ratio"]),
    ]
    return f"| {' | '.join(cells)} |\n"


def _with_second(texts):
    return "".join(texts[:1]) + "".join(f" ({text})" for text in texts[1:])


def main(argv=None):
    """Print the table, or write it into the README. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m autotx.models.bench.table", description=__doc__)
    parser.add_argument("file", type=Path, metavar="FILE", help="the JSON of a benchmark")
    parser.add_argument("--readme", type=Path, metavar="FILE", help="replace the table in this README")
    args = parser.parse_args(argv)
    made = table(json.loads(args.file.read_text(encoding="utf-8")))
    if args.readme is None:
        print(made, end="")
        return 0
    text = args.readme.read_text(encoding="utf-8")
    args.readme.write_text(PLACE.sub(lambda found: f"{args.file}{found[2]}{made}", text), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""`python -m autotx.models.bench.table FILE`: prints the README's table of training steps, in Markdown.

FILE: written by `autotx bench --json FILE`. The README's files are in models/bench/history; a comment above its table
names the file that it is made from.
"""

import json
import sys
from pathlib import Path

from autotx.models.bench.cases import L, M, S, parameter_count
from autotx.models.bench.results import clock

SIZES = {"S": S, "M": M, "L": L}
HEADER = """\
| training step (`autotx bench --only step`) | autotx | PyTorch eager (fused AdamW) | PyTorch / autotx | peak memory |
|---|---|---|---|---|
"""


def table(measured):
    """The table as a str. measured: the dict from results.as_json, of a run with the section `step`."""
    return HEADER + "".join(_line(row) for row in measured["rows"] if row["section"] == "step")


def _line(row):
    size, peers = SIZES[row["case"]], [row["peers"][name] for name in ("torch", "torch fused") if name in row["peers"]]
    cells = [
        f"{row['case']}: {size['L']} layers, {size['C']} channels, {parameter_count(**size) / 1e6:.1f} M parameters",
        clock(row["seconds"]),
        " ".join(clock(p["seconds"]) if i == 0 else f"({clock(p['seconds'])})" for i, p in enumerate(peers)),
        " ".join(f"{p['ratio']:.2f}" if i == 0 else f"({p['ratio']:.2f})" for i, p in enumerate(peers)),
        "".join(f"{p['memory_ratio']:.2f}" for p in peers[:1] if p["memory_ratio"]),
    ]
    return f"| {' | '.join(cells)} |\n"


if __name__ == "__main__":
    print(table(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))), end="")

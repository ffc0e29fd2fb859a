"""`python -m autotx.models.bench.table FILE [SECTION]`: prints a table of training steps, as the README and the site
show them, in Markdown: of the section `step` (the default) or `step-bfloat16`.

FILE: written by `autotx bench --json FILE`. The files of the README and the site are in models/bench/history; a comment
above each table names the file that it is made from, and its section.
"""

import json
import sys
from pathlib import Path

from autotx.models.bench.cases import L, M, S, parameter_count
from autotx.models.bench.results import clock

SIZES = {"S": S, "M": M, "L": L}
HEADERS = {
    "step": """\
| training step (`autotx bench --only step`) | autotx | PyTorch eager (fused AdamW) | PyTorch / autotx | peak memory |
|---|---|---|---|---|
""",
    "step-bfloat16": """\
| `autotx bench --only step-bfloat16` | autotx | autotx in float32 | PyTorch, autocast | PyTorch, float32 |
|---|---|---|---|---|
""",
}


def table(measured, section="step"):
    """The table as a str. measured: the dict from results.as_json, of a run with this section."""
    line = {"step": _line, "step-bfloat16": _line_of_bfloat16}[section]
    return HEADERS[section] + "".join(line(row) for row in measured["rows"] if row["section"] == section)


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


def _line_of_bfloat16(row):
    """The time of autotx, and how many times as long the others take."""
    ratios = [f"{row['peers'][name]['ratio']:.2f}" for name in ("autotx", "torch bfloat16", "torch")]
    return f"| {' | '.join([row['case'], clock(row['seconds']), *ratios])} |\n"


if __name__ == "__main__":
    print(table(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), *sys.argv[2:]), end="")

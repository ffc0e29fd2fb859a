"""The table computed from times: medians, ratios, geometric means and exponents."""

import math
import os
import platform
import statistics
import time
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path

WRONG = 1e-3  # a larger difference of results, relative to their largest number, is an error


@dataclass
class Peer:
    """The measurements of a peer in one case, and their ratios to those of autotx."""

    seconds: float
    ratio: float  # the peer's time / the time of autotx
    low: float  # the smallest ratio of two consecutive turns
    high: float  # the largest
    difference: float | None = None  # of the results, relative to the largest number; None where they are not compared
    memory: int | None = None  # bytes
    memory_ratio: float | None = None  # the peer's memory / the memory of autotx


@dataclass
class Row:
    """One case: the times of the first contestant, and the peers by name."""

    section: str
    case: str
    seconds: float
    work: float = 0
    unit: str = ""
    group: str = ""
    x: float = 0
    share: float | None = None  # of the machine's limit
    memory: int | None = None  # bytes
    tolerance: float = WRONG  # of the peers' differences
    goal: str = ""
    peers: dict = field(default_factory=dict)


def row(section, case, turns, samples=None, memory=None, limit=None):
    """A Row from `turns`, a dict from name to seconds of each turn. Ratios refer to the first name.

    limit: how many of what limits the case this machine does in a nanosecond, or None.
    """
    ours, *others = turns
    samples, memory = samples or {}, memory or {}
    seconds = statistics.median(turns[ours])
    result = Row(section, case.name, seconds, case.work, case.unit, case.group, case.x, memory=memory.get(ours))
    result.share = case.need[1] / seconds / 1e9 / limit if case.need[1] and limit else None
    result.tolerance, result.goal = case.tolerance, case.goal
    for name in others:
        pairs = [theirs / own for theirs, own in zip(turns[name], turns[ours])]
        theirs = statistics.median(turns[name])
        difference = difference_of(samples.get(ours), samples.get(name))
        peak = memory.get(name)
        more = peak / result.memory if peak and result.memory else None
        result.peers[name] = Peer(theirs, theirs / seconds, min(pairs), max(pairs), difference, peak, more)
    return result


def difference_of(ours, theirs):
    """The largest difference of two lists of runs of results of numbers, relative to each result's largest number.

    None when there is nothing to compare.
    """
    worst = None
    for a, b in zip(flat(ours), flat(theirs)):
        size = max(map(abs, b), default=0) or 1
        difference = max((abs(p - q) for p, q in zip(a, b, strict=True)), default=0) / size
        worst = difference if worst is None or not difference <= worst else worst  # NaN counts as the largest
    return worst


def flat(runs):
    return [result for run in runs or [] for result in run]


# ---- the table, 120 columns -----------------------------------------------------------------------------------------

COLUMNS = "{:<33}{:>9}{:>15}{:>6}  {:<16}{:>9}{:>7}{:>15}{:>8}"
HEADER = COLUMNS.format("case", "autotx", "rate", "limit", "peer", "time", "ratio", "low - high", "differ")


def lines(row):
    """Yield the lines of a row in the table: one for each peer, then the peak memory."""
    own = [row.case, clock(row.seconds), rate(row), f"{row.share:.0%}" if row.share else ""]
    peers = [
        [name, clock(p.seconds), f"{p.ratio:.2f}", f"{p.low:.2f} - {p.high:.2f}", differs(p.difference, row.tolerance)]
        for name, p in row.peers.items()
    ]
    for peer in peers or [[""] * 5]:
        yield COLUMNS.format(*own, *peer).rstrip()
        own = [""] * 4
    held = {name: p for name, p in row.peers.items() if p.memory_ratio}
    if held:
        of_peers = (f"{name} {p.memory / 1e6:,.0f} MB (ratio {p.memory_ratio:.2f})" for name, p in held.items())
        yield f"    peak memory: autotx {row.memory / 1e6:,.0f} MB, {', '.join(of_peers)}"
    if row.goal:
        yield f"    goal: {row.goal}"


def clock(seconds):
    """Seconds as text, in a unit in which one to three digits stand before the point."""
    factor, unit = next((f, u) for f, u in ((1, "s"), (1e3, "ms"), (1e6, "us")) if seconds * f >= 1 or u == "us")
    return f"{seconds * factor:.3g} {unit}" if seconds * factor < 1000 else f"{seconds * factor:,.0f} {unit}"


def rate(row):
    if row.unit == "FLOP":
        return f"{row.work / row.seconds / 1e9:.1f} GFLOP/s"
    if row.unit == "tokens":
        return f"{row.work / row.seconds:,.0f} tokens/s"
    return f"{row.seconds / row.work * 1e6:.2f} us/op" if row.unit else ""


def differs(difference, tolerance=WRONG):
    if difference is None:
        return ""
    return f"{difference:.0e}" if difference <= tolerance else "WRONG"


def summary(rows):
    """Yield the lines under a section: exponents of time ~ x^p for groups with x, else geometric means of ratios."""
    for group in dict.fromkeys(row.group for row in rows if row.group):
        members = [row for row in rows if row.group == group]
        if all(row.x for row in members):
            fits = {"autotx": exponent([(row.x, row.seconds) for row in members])}
            for name in peer_names(members):
                fits[name] = exponent([(row.x, row.peers[name].seconds) for row in members if name in row.peers])
            yield f"    time ~ {group}^p: " + ", ".join(f"{name} p = {p:.2f}" for name, p in fits.items())
        else:
            yield f"    {group}, geometric mean: " + _means(members)
    if len(rows) > 1 and any(row.group and not row.x for row in rows):
        yield "    all, geometric mean: " + _means(rows)


def _means(rows):
    return ", ".join(f"{name} {geometric_mean(rows, name):.2f}" for name in peer_names(rows))


def peer_names(rows):
    return list(dict.fromkeys(name for row in rows for name in row.peers))


def geometric_mean(rows, name):
    return statistics.geometric_mean(row.peers[name].ratio for row in rows if name in row.peers)


def exponent(points):
    """The exponent p of time ~ size^p, by least squares of logarithms; NaN for fewer than two points."""
    if len(points) < 2:
        return math.nan
    return statistics.linear_regression(*zip(*[(math.log(x), math.log(y)) for x, y in points])).slope


# ---- where it was measured ------------------------------------------------------------------------------------------


def machine(threads):
    """The processor, cores, memory, load and versions, as a dict."""
    versions = {}
    for name in ("autotx", "numpy", "numba", "llvmlite", "torch", "jax", "transformers", "xllamacpp", "micrograd"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "date": time.strftime("%Y-%m-%d"),
        "processor": _processor(),
        "cores": cores(),
        "threads": threads,
        "memory": _proc("meminfo", "MemTotal"),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "versions": versions,
    }


def _processor():
    """Its name, and where Linux tells them its family and model: virtual machines often hide the name."""
    name = _proc("cpuinfo", "model name") or platform.processor() or platform.machine()
    family, model = _proc("cpuinfo", "cpu family"), _proc("cpuinfo", "model")
    return f"{name} (family {family}, model {model})" if family and model else name


def cores():
    """The number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _proc(file, key):
    """The value of `key` in a file of Linux' /proc; None where there is none."""
    path = Path("/proc", file)
    for line in path.read_text().splitlines() if path.exists() else []:
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return None


def as_json(rows, facts, limits):
    return {
        "machine": facts,
        "limit_gflops": limits.get("FLOP"),
        "register_gflops": limits.get("registers"),
        "bfloat16_limit_gflops": limits.get("bfloat16"),
        "bfloat16_register_gflops": limits.get("bfloat16 registers"),
        "read_gb_s": limits.get("bytes"),
        "rows": [asdict(row) for row in rows],
    }

"""`autotx bench`: runs the sections, prints each row as soon as it is measured, writes the JSON and the picture."""

import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec

from autotx.files import checked_path, to_json, write_atomically
from autotx.models.bench import picture, results, startup
from autotx.models.bench.cases import SECTIONS
from autotx.models.bench.turns import FULL, ONCE, QUICK, Arena, Contestant, Effort, race
from autotx.models.config import check_limits
from autotx.models.formats import located
from autotx.text import counted
from autotx.viz import save, style

NAMES = [*SECTIONS, "startup"]


EXAMPLES = (
    "autotx bench --only step",
    "autotx bench --quick --json bench.json --picture ratios.png",
)


def add_arguments(parser):
    parser.add_argument("--only", nargs="+", choices=NAMES, metavar="NAME", help=f"sections, of {', '.join(NAMES)}")
    parser.add_argument("--quick", action="store_true", help="few cases and few repeats: a check, not a measurement")
    parser.add_argument("--threads", type=int, default=results.cores(), help="for every library (default: all cores)")
    parser.add_argument(
        "--llama-bench",
        metavar="PATH",
        help="also time this program of llama.cpp, one that was built for this processor, with SmolLM2",
    )
    parser.add_argument("--json", metavar="FILE", help="also write the numbers here")
    parser.add_argument("--picture", metavar="FILE", help="also draw the ratios here (.png, .svg or .pdf)")


def outputs(args):
    return {"--json": (args.json, checked_path), "--picture": (args.picture, style.checked_path)}


def run(args):
    """Run the benchmark. Returns 0, or 1 when a case failed or results differed. ValueError for bad arguments."""
    check_limits("--threads", args.threads, at_least=1, at_most=1024)
    facts = results.machine(args.threads)
    _print_machine(facts)
    rows, limits, sound = [], {}, True
    with Arena(args.threads) as arena:
        for name in args.only or NAMES:
            if name == "startup":
                new, well = _startup(args)
            else:
                section = SECTIONS[name]
                if name == "models" and args.llama_bench:
                    peer = Contestant("llama-bench", "with_llamabench", options={"program": args.llama_bench})
                    section = replace(section, contestants=(*section.contestants, peer))
                new, well = _section(arena, name, section, args.quick, limits)
                if name == "models" and new:
                    found, all_of_them = _first_tokens(args)
                    new, well = new + found, well and all_of_them
            rows, sound = rows + new, sound and well
    if args.json:
        write_atomically(args.json, to_json(results.as_json(rows, facts, limits)))
    if args.picture:
        save(picture.ratios(rows, facts), args.picture, dpi=150)
    return 0 if sound else 1


def _print_machine(facts):
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    memory = f"{facts['memory'] or 'unknown'} of memory"
    print(f"{facts['processor']}, {counted(facts['cores'], 'core')}, {memory}, {facts['system']}")
    print(f"Python {facts['python']}, {versions}; {counted(facts['threads'], 'thread')} for each; load {facts['load']}")
    if (facts["load"] or 0) > 0.5 * facts["cores"]:
        print("Other programs are using this machine: do not quote what follows.")
    print("ratio = the peer's time / autotx's time, medians of turns: above 1, autotx is faster", flush=True)


LIMITS = {
    "FLOP": (Contestant("limit", "limit"), "GFLOP/s (the register tile in L1, on all threads)"),
    "registers": (Contestant("limit", "limit", builder="registers"), "GFLOP/s from registers alone, by all threads"),
    "bfloat16": (Contestant("limit", "limit", builder="limit_bfloat16"), "GFLOP/s in bfloat16 (its tile in L1)"),
    "bfloat16 registers": (
        Contestant("limit", "limit", builder="registers_bfloat16"),
        "GFLOP/s in bfloat16 from registers alone, by all threads",
    ),
    "bytes": (Contestant("limit", "limit", builder="bandwidth"), "GB/s read from memory, by all threads"),
}
BESIDE = {"FLOP": "registers", "bfloat16": "bfloat16 registers"}  # a limit -> another that is printed beside it


def _limit(arena, what):
    """What the machine does in a nanosecond at most, in one of LIMITS. None when its process fails."""
    contestant, words = LIMITS[what]
    outcome = race(arena, [contestant], "limit", {}, Effort(turn=0.1, case=1.0, fewest=5))
    arena.clear()
    if outcome.failed:
        return None
    limit = outcome.samples["limit"][0][0][0] / min(outcome.turns["limit"])
    print(f"limit of this machine: {limit:.0f} {words}", flush=True)
    return limit


def _section(arena, name, section, quick, limits):
    """Run one section. limits: those measured so far, a dict, which gets what else the section needs. Returns its rows,
    and whether no case failed and no results differed."""
    missing = _missing(section.model)
    needed = {case.need[0] for case in section.cases}
    needed |= {BESIDE[what] for what in needed & BESIDE.keys()}
    for what in () if missing else [what for what in LIMITS if what in needed - limits.keys()]:
        limits[what] = _limit(arena, what)
    print(f"\n{name}: {section.title}\n{results.HEADER}", flush=True)
    if missing:
        print(f"    {missing}", flush=True)
        return [], True
    installed = [c for c in section.contestants if not c.needs or find_spec(c.needs)]
    missing = sorted({c.needs for c in section.contestants} - {c.needs for c in installed})
    if missing:
        print(f"    not installed, so not in the table: {', '.join(missing)}", flush=True)
    if section.contestants[0] not in installed:
        return [], True
    rows, sound = [], True
    for case in section.cases:
        if quick and not case.quick:
            continue
        contestants = [c for c in installed if c.name not in case.without]
        effort = ONCE if case.once else QUICK if quick else FULL
        outcome = race(arena, contestants, case.builder, case.settings, effort)
        for failure in outcome.failed.values():
            print(f"    {case.name}: {failure}; its error output is above", file=sys.stderr)
            sound = False
        if section.fresh:
            arena.clear()
        if contestants[0].name not in outcome.turns:
            continue
        memory = outcome.memory if section.fresh else {}
        limit = limits.get(case.need[0])
        rows.append(results.row(name, case, outcome.turns, outcome.samples, memory, limit))
        _print(results.lines(rows[-1]))
        sound = sound and not any(
            results.differs(p.difference, case.tolerance) == "WRONG" for p in rows[-1].peers.values()
        )
    arena.clear()
    _print(results.summary(rows))
    return rows, sound


def _missing(model):
    """How to install a model that is not there, or None."""
    try:
        located(model)
    except ValueError as error:
        return str(error)
    return None


def _startup(args):
    print(f"\nstartup: new processes, from start to end\n{results.HEADER}", flush=True)
    rows = []
    try:
        for case, turns in startup.measure(args.threads, rounds=3 if args.quick else 7, cold=not args.quick):
            rows.append(results.row("startup", case, turns))
            _print(results.lines(rows[-1]))
    except subprocess.CalledProcessError as error:
        print(f"    startup: this failed with exit status {error.returncode}: {error.cmd[-1]}", file=sys.stderr)
    return rows, len(rows) == (2 if args.quick else 3)


def _first_tokens(args):
    """From the command `autotx chat` to the first token of its answer."""
    rows = []
    for case, turns in startup.first_tokens(args.threads, rounds=1 if args.quick else 3, cold=not args.quick):
        rows.append(results.row("models", case, turns))
        _print(results.lines(rows[-1]))
    return rows, len(rows) == (1 if args.quick else 2)


def _print(lines):
    for line in lines:
        print(line, flush=True)

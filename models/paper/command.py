"""`autotx paper`: recomputes the whitepaper; writes a table, JSON, or a page."""

import sys
import time

from autotx.files import checked_path, to_json, write_atomically
from autotx.models import paper, streams
from autotx.models.paper import page, replays, report

EXAMPLES = (
    "autotx paper --section softmax",
    "autotx paper --json cases.json --html paper.html",
)


def add_arguments(parser):
    """Define the flags of the command on an argparse parser."""
    parser.add_argument("--section", metavar="NAME", help="only this one, by its short name or a part of its title")
    parser.add_argument("--json", metavar="FILE", help="also write all cases to FILE as a list of objects")
    parser.add_argument("--html", metavar="FILE", help="also write a page to FILE, and two that it links to beside it")


def outputs(args):
    beside = [replays.beside(args.html, slug) for slug in replays.PAGES] if args.html else []
    named = {"--json": args.json, "--html": args.html} | {f"{path}, which --html links to,": path for path in beside}
    return {name: (path, checked_path) for name, path in named.items()}


def run(args):
    """Print the table and write the files. Returns the exit status, 0.

    ValueError: there is no such section, or no file can be at a given path. OSError: a file cannot be written.
    """
    started = time.perf_counter()
    sections = paper.SECTIONS if args.section is None else paper.sections_named(args.section)
    print("The Math Behind GPT Models (rough draft), recomputed by autotx in float64")
    counts = report.table(paper.SECTIONS, sections, _coloured, colour=sys.stdout.isatty())
    cases = [case for section in sections for case in section.cases]
    if args.json:
        write_atomically(args.json, to_json(report.as_objects(cases)))
        _write(f"\nwritten: {args.json}")
    if args.html:
        _write("\ndrawing the pictures ...")
        links = replays.write_beside(args.html, sections)
        write_atomically(args.html, page.page(sections, counts, links).encode())
        _write(f"written: {', '.join([args.html, *(name for name, _ in links.values())])}")
    _write(f"\n{report.summary(counts)}; {time.perf_counter() - started:.0f} s")
    return 0


def _coloured(line):
    streams.control(sys.stdout, f"{line}\n")
    sys.stdout.flush()


def _write(line):
    print(line, flush=True)

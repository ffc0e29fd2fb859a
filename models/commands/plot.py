"""`autotx plot`: the curves of one or more runs, finished or not, and other pictures of a trained model.

PICTURES lists the kinds: each is a function of the command's arguments that returns a Figure.
"""

import math
import time
from pathlib import Path

from autotx import viz
from autotx.files import entry, read_json
from autotx.models import config as configs
from autotx.models.formats import format_of, located, open_model
from autotx.models.formats import run as run_format
from autotx.models.registry import settings_of, that_have
from autotx.models.run import LOG, STATISTICS, Run, read_log
from autotx.viz.style import checked_path

SECONDS_BETWEEN_LOOKS = 2
TIMED_STEPS = 5


EXAMPLES = (
    "autotx plot runs/book runs/other --out curves.png",
    "autotx plot runs/book --live",
)


def add_arguments(parser):
    parser.add_argument(
        "folders", metavar="DIR", nargs="+", help="the folder of a run, or several to compare; or another model"
    )
    parser.add_argument(
        "--what",
        choices=PICTURES,
        help="what is drawn: the curves of the training, the statistics of its layers (after autotx train "
        "--stats-interval N), where the time of a step goes, or the tokens' embeddings or the positions of a model "
        "(default: curves, or embeddings of a model that is no run)",
    )
    parser.add_argument("--out", metavar="FILE", help="a .png, .svg or .pdf (default: curves.png, or what is drawn)")
    parser.add_argument("--live", action="store_true", help="draw again whenever a run has gone on, until all are done")
    parser.add_argument("--mark", metavar="WORD", nargs="+", help="words to show with the nearest embeddings")
    parser.add_argument("--dark", action="store_true", help="light on dark")


def outputs(args):
    if args.what is None:
        args.what = "curves" if format_of(located(args.folders[0])) in (run_format, None) else "embeddings"
    return {"--out": (_out(args), checked_path)}


def _out(args):
    return f"{args.what}.png" if args.out is None else args.out


def run(args):
    """Write the picture. Returns the exit status."""
    out = _out(args)
    _check(args)
    if args.live:
        _follow(args, out)
    else:
        viz.save(PICTURES[args.what](args), out)
    print(f"{out} shows {', '.join(args.folders)}")
    return 0


def read_runs(folders, empty=False):
    """The records of runs: {name: list}. A name is the folder's last part, or its path if two names are the same.

    empty: whether a run may have no record yet. ValueError for a folder without a run, and for a file that is no log.
    """
    names = [Path(folder).name for folder in folders]
    names = [folder if names.count(name) > 1 else name for folder, name in zip(folders, names)]
    return {name: _records(Path(folder), empty) for name, folder in zip(names, folders)}


def _records(folder, empty):
    path = folder / LOG
    if not path.is_file():
        if empty and (folder / configs.FILE).is_file():
            return []  # the run has just begun
        raise ValueError(f"{folder}: there is no run, it has no {LOG}; give the folder that autotx train wrote")
    records = read_log(path, math.inf)
    if not records and not empty:
        raise ValueError(f"{path} is empty, no step is done yet; --live waits for it")
    return records


def _curves(args, empty=False):
    runs = read_runs(args.folders, empty)
    return viz.curves(runs, title=None if len(runs) > 1 else f"Training of {next(iter(runs))}", dark=args.dark)[0]


def _embeddings(args):
    """A model's token table, or word2vec's vectors, in two dimensions."""
    opened = open_model(_only(args))
    vectors = opened.task.word_vectors(opened)
    title = f"{len(vectors.words):,} embeddings of {Path(args.folders[0]).name} in two dimensions (PCA)"
    return viz.embeddings(vectors.matrix, vectors.words, args.mark or (), title=title, dark=args.dark)[0]


def _positions(args):
    """A model's position table, learned or sinusoidal."""
    opened = open_model(_only(args))
    if not hasattr(opened.model, "position_tables"):
        wanted = that_have(lambda architecture, task: hasattr(architecture.model, "position_tables"))
        raise ValueError(f"{opened.path} holds a {opened.kind}, which has no positions; give {wanted}")
    return viz.positions(opened.model.position_tables(), dark=args.dark)[0]


def _statistics(args):
    """The statistics of every layer that --stats-interval has recorded."""
    folder = Path(_only(args))
    records = Run(folder).read_statistics(math.inf)
    if not records:
        raise ValueError(f"{folder} has no {STATISTICS} yet; train with --stats-interval 10, up to a checkpoint")
    return viz.layer_statistics(records, f"Activations and gradients of {folder.name}", dark=args.dark)[0]


def _times(args):
    """The times of the parts of a training step, on random tokens, in batches as large as those of the run."""
    opened = open_model(_only(args))
    if not opened.task.timed_loss:
        wanted = that_have(lambda architecture, task: task.timed_loss)
        raise ValueError(f"{opened.path} holds a {opened.kind}; a step of {wanted} can be timed")
    config = opened.config or settings_of(opened.architecture.name)()
    make_loss, rows, columns = opened.task.timed_loss(opened.model, config)
    return timed(make_loss, f"A training step of {opened.path.name}: {rows} × {columns} tokens", args.dark)


def timed(make_loss, title, dark=False):
    """Draw the times of the parts of make_loss() and of the loss's backward. Returns a Figure."""
    make_loss().backward()  # not timed: the first step is slower
    with viz.record() as recorded:
        for _ in range(TIMED_STEPS):
            make_loss().backward()
    return viz.step_times(recorded.records, TIMED_STEPS, title=title, dark=dark)[0]


PICTURES = {
    "curves": _curves,
    "statistics": _statistics,
    "times": _times,
    "embeddings": _embeddings,
    "positions": _positions,
}


def _only(args):
    if len(args.folders) > 1:
        raise ValueError(f"--what {args.what} draws one model; give one folder, not {len(args.folders)}")
    return args.folders[0]


def _check(args):
    if args.live and args.what != "curves":
        raise ValueError(f"--live follows curves; {args.what} are drawn once, leave it out")
    if args.mark and args.what != "embeddings":
        raise ValueError("--mark belongs to --what embeddings")


def _follow(args, out):
    """Draw the curves whenever there are new records, until every run has done its steps, or Ctrl-C."""
    sizes = None
    while True:
        runs, before = read_runs(args.folders, empty=True), sizes
        sizes = [len(records) for records in runs.values()]
        if sizes != before and any(sizes):
            viz.save(_curves(args, empty=True), out)
        if before is None:
            print(f"{out} is drawn again while the run goes on; Ctrl-C stops this", flush=True)
        if all(map(_is_done, args.folders, runs.values())):
            return
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _is_done(folder, records):
    """Whether the last record is of the last step in the run's settings."""
    try:
        path = Path(folder) / configs.FILE
        steps = entry(read_json(path), "steps", int, path)
    except (OSError, ValueError):
        return False
    return bool(records) and records[-1]["step"] >= steps

"""The folder of a training run.

    config.json             all settings                        tokenizer.json    the tokenizer
    model.safetensors       the weights                         log.jsonl         one line a step
    optimizer.safetensors   the optimizer's state               loss.png          the curves of the log
    shape.json              of a run that began with another model: the sizes of the network
    chat.json               of one that began with a model with a chat template: that, and what it needs
    adapter_config.json, adapter_model.safetensors   with --lora-rank, in place of the weights, as peft writes them
    classifier.json         of a classifier only: the labels, and the shape of its language model
    vectors.txt             of word2vec only: the words and their vectors, in word2vec's text format
    checkpoints/            with --keep and --keep-best only: for each checkpoint that is kept a folder, named by its
                            step, with all but the log: a run to generate with, or to go on from; `best` links to one
    statistics.jsonl        with --stats-interval only: statistics of every layer's results and gradients
    state.json              the step, the random generators' states, the SHA-256 of the data and of both .safetensors

The weights, the optimizer and the state are one checkpoint: they are replaced together (see autotx/checkpoint.py).
"""

import contextlib
import io
import json
import math
import os
import platform
import shutil
import time
from pathlib import Path

from autotx.checkpoint import (
    NEW,
    READY,
    STATE,
    link_files,
    list_tensors,
    load_checkpoint,
    recover_checkpoint,
    remove_folder,
    save_checkpoint,
)
from autotx.files import checked, checked_folder, entry, read_json, read_json_lines, temporary_path, write_atomically
from autotx.models import config as configs
from autotx.models import tokenizers
from autotx.viz.curves import loss_curve

try:
    import fcntl
except ImportError:  # Windows has other locks
    fcntl = None

MODEL = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
SHAPE = "shape.json"
CHAT = "chat.json"
LABELS = "classifier.json"
LOG = "log.jsonl"
PICTURE = "loss.png"
STATISTICS = "statistics.jsonl"
VECTORS = "vectors.txt"
KEPT, BEST = "checkpoints", "best"
LOCK = "in-use"  # on file systems without locks
SECONDS_BETWEEN_PICTURES = 10
LAST_STEP = 1 << 53  # the whole numbers below it are exact as floats
_FILES = (
    *(configs.FILE, tokenizers.FILE, LABELS, SHAPE, CHAT, ADAPTER_CONFIG, MODEL, ADAPTER, OPTIMIZER, STATE, LOG),
    *(PICTURE, STATISTICS, VECTORS),
)
_FOLDERS = (NEW, READY, KEPT)


class Run:
    """The folder of a run: reads and writes its files."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self._drawn = -SECONDS_BETWEEN_PICTURES

    def check_free(self):
        """ValueError when a new run cannot begin here, because the folder holds a run, or what is left of one."""
        for path in self._paths():
            if os.path.lexists(path):
                raise ValueError(
                    f"{self.folder} has {path.name}, so it already holds a run; go on with it by --resume (to train "
                    "on: --resume --steps N), or give a new one another folder by --out"
                )

    def check_there(self):
        """ValueError when there is no run here to resume, or what is here is not whole."""
        found = [path.name for path in self._paths() if os.path.lexists(path)]
        if configs.FILE not in found:
            if found:
                raise ValueError(
                    f"--resume: {self.folder} has {found[0]} but no {configs.FILE}; put that back, or start a new run "
                    "in another folder"
                )
            raise ValueError(f"--resume: there is no run in {self.folder}; leave --resume out to start one")
        for path in self._paths():
            folder = path.name in _FOLDERS
            if path.exists() and path.is_dir() != folder:
                raise ValueError(f"--resume: {path} should be a {'folder' if folder else 'file'}; move it away")
        begun = [name for name in (MODEL, ADAPTER, OPTIMIZER, LOG) if name in found]
        if begun and not self.holds_checkpoint():
            raise ValueError(
                f"--resume: {self.folder} has {begun[0]} but no {STATE}, so how far the run was is not known; put that "
                "back, or start a new run in another folder"
            )

    def _paths(self):
        """The paths of all that a run may have, and of the temporary files that a killed process leaves."""
        files = [self.folder / name for name in _FILES]
        return [*files, *map(temporary_path, files), *(self.folder / name for name in _FOLDERS)]

    def holds_checkpoint(self):
        """Whether there is a checkpoint. There is none when the run was killed before it saved the first."""
        return any((folder / STATE).is_file() for folder in (self.folder, self.folder / READY))

    def recovered(self):
        """Finish or undo what a killed process began to write. Returns whether there is a checkpoint."""
        recover_checkpoint(self.folder)
        for name in _FILES:
            temporary_path(self.folder / name).unlink(missing_ok=True)
        for path in (self.folder / KEPT).glob("*.*"):
            if path.suffix in (".tmp", ".old"):
                path.unlink() if path.is_symlink() else shutil.rmtree(path)
        return self.holds_checkpoint()

    @contextlib.contextmanager
    def made(self):
        """Make the folder. At the end, remove folders that this made and that are empty."""
        folder = checked_folder(self.folder)
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        try:
            yield
        finally:
            for path in made:
                with contextlib.suppress(OSError):
                    path.rmdir()

    @contextlib.contextmanager
    def locked(self):
        """`made`, and lock the folder for this process. ValueError when another process trains here: two would
        overwrite each other's checkpoints."""
        with self.made(), _locked(self.folder):
            yield

    @contextlib.contextmanager
    def beginning(self):
        """If the body fails, remove what it made of a run, but nothing that was there before."""
        made = [path for path in self._paths() if not os.path.lexists(path)]
        try:
            yield
        except BaseException:  # KeyboardInterrupt included
            for path in made:
                with contextlib.suppress(OSError):
                    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            raise

    def write_config(self, config):
        write_atomically(self.folder / configs.FILE, config.to_bytes())

    def save(self, model, optimizer, state, file=MODEL):
        """Replace the checkpoint. model: a dict of arrays, for `file`, MODEL or ADAPTER. optimizer: of arrays and
        numbers. state: of JSON values."""
        save_checkpoint(self.folder, {file: model, OPTIMIZER: optimizer}, state)

    def keep(self, step, last, best):
        """Keep the checkpoint, which is of this step, beside: as one of so many last ones, or as the best.

        best: the step of the best checkpoint, None for none. What is no longer needed is removed. Killed at any moment,
        every folder that has a name is whole, and the next call does the rest.
        """
        kept = self.folder / KEPT
        if last or best == step:
            names = [name for name in _FILES if name not in (LOG, PICTURE, STATISTICS)]
            link_files([path for path in (self.folder / name for name in names) if path.exists()], kept / str(step))
        if best is not None and (kept / str(best)).is_dir():
            link = temporary_path(kept / BEST)
            link.unlink(missing_ok=True)
            os.symlink(str(best), link)
            os.replace(link, kept / BEST)
        if last or best is not None:
            steps = kept_steps(self.folder)
            needed = {best, *([s for s in steps if s <= step][-last:] if last else ())}
            for path in (kept / str(s) for s in steps if s not in needed):
                remove_folder(path)

    def load(self, file=MODEL):
        """The dicts (model, optimizer, state) of the checkpoint. ValueError when a file is missing or damaged."""
        tensors, state = load_checkpoint(self.folder)
        if tensors.keys() != {file, OPTIMIZER}:
            raise ValueError(f"{self.folder / STATE} should list {file} and {OPTIMIZER}; it is not of a training run")
        return tensors[file], tensors[OPTIMIZER], state

    def read_log(self, step):
        """The records of the log up to a step; none if there is no log."""
        path = self.folder / LOG
        return read_log(path, step) if path.exists() else []

    def open_log(self, records):
        """Make the log hold these records, as lines, and open it. The caller writes `line(record)` for each new one."""
        path, content = self.folder / LOG, b"".join(map(line, records))
        if not path.exists() or path.read_bytes() != content:
            write_atomically(path, content)
        return open(path, "ab", buffering=0)

    def write_statistics(self, records):
        """Write the records of viz.LayerStatistics, one a line."""
        write_atomically(self.folder / STATISTICS, b"".join(map(line, records)))

    def read_statistics(self, step):
        """The records of viz.LayerStatistics up to a step."""
        path = self.folder / STATISTICS
        return read_statistics(path, step) if path.exists() else []

    def draw(self, records):
        """Draw the curves of the log's records to loss.png."""
        picture = io.BytesIO()
        loss_curve(records, title=f"Loss of {self.folder.name}").savefig(picture, format="png", dpi=120)
        write_atomically(self.folder / PICTURE, picture.getvalue())
        self._drawn = time.monotonic()

    def draw_if_older(self, records):
        """`draw`, if the picture is older than the log, as it is after a kill."""
        log, picture = self.folder / LOG, self.folder / PICTURE
        if not picture.exists() or picture.stat().st_mtime_ns < log.stat().st_mtime_ns:
            self.draw(records)

    def draw_now_and_then(self, records):
        """`draw`, but at most once in SECONDS_BETWEEN_PICTURES: it takes as long as many small steps."""
        if time.monotonic() > self._drawn + SECONDS_BETWEEN_PICTURES:
            self.draw(records)


@contextlib.contextmanager
def _locked(folder):
    """A lock on the folder itself: it leaves no file behind, and the system releases it when the process ends. Where
    there are no such locks, a file is the lock."""
    with contextlib.ExitStack() as held:
        try:
            if fcntl is None:
                raise OSError
            opened = os.open(folder, os.O_RDONLY)
            held.callback(os.close, opened)
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"--out {folder}: a run is going on there; wait, or give another folder") from None
        except OSError:
            held.enter_context(_lock_file(folder / LOCK))
        yield


@contextlib.contextmanager
def _lock_file(path):
    """A file that names the process which has the folder. A process that is killed leaves it behind."""
    try:
        with open(path, "x") as file:
            file.write(f"process {os.getpid()} of {platform.node()}")
    except FileExistsError:
        owner = path.read_text(errors="replace") or "a process"
        raise ValueError(
            f"--out {path.parent}: {owner} trains there; wait, or, if it has ended, remove {path}"
        ) from None
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def kept_steps(folder):
    """The steps whose checkpoints are kept in a run's folder, in order."""
    kept = Path(folder, KEPT)
    return sorted(int(path.name) for path in kept.iterdir() if path.name.isdecimal()) if kept.is_dir() else []


def checkpoint_of(folder, step):
    """The folder with the checkpoint of a run that --step asks for. step: a number as a text, or BEST.

    ValueError: it is not kept.
    """
    folder = Path(folder)
    if (folder / STATE).is_file() and step == str(read_json(folder / STATE).get("step")):
        return folder
    found = [*map(str, kept_steps(folder)), *([BEST] if (folder / KEPT / BEST).is_dir() else [])]
    if step not in found:
        have = f"it has {', '.join(found)}" if found else "it keeps none but the newest"
        raise ValueError(f"--step {step}: {folder} has no such checkpoint, {have}; train keeps more with --keep")
    return folder / KEPT / step


def check_size(folder, architecture, shape, vocab_size):
    """ValueError if the weights of a run are fewer than a network of this shape needs. Arguments as those of
    Architecture.fewest_weights."""
    path, needed = Path(folder) / MODEL, architecture.fewest_weights(shape, vocab_size)
    found = sum(math.prod(tensor.shape) for tensor in list_tensors(path)[0].values())
    if found < needed:
        sizes = f"it has {found:,} weights, the model {needed:,} or more"
        raise ValueError(f"{path} is not of the model that {folder} describes: {sizes}; restore it")


def read_shape(sizes, path, architecture, vocab_size):
    """The shape of the network of a run, from the sizes that a file of the run holds, a dict.

    ValueError: they are no sizes, not those of a network of so many tokens, or not of the run's weights.
    """
    try:
        shape = architecture.shape(**sizes)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} should hold the shape of the model: {error}") from error
    if shape.vocab_size != vocab_size:
        raise ValueError(f"{path} is for {shape.vocab_size} tokens, the tokenizer has {vocab_size}")
    check_size(path.parent, architecture, shape, vocab_size)
    return shape


def read_log(path, last_step):
    """The records of a log up to a step, in order. Reading ends at the first line of a later step, or where the last
    line is incomplete. ValueError, naming the line: it is no record with a step and a loss."""
    return _records(path, last_step, lambda record, place: entry(record, "loss", float, place))


def read_statistics(path, last_step):
    """The records of a file of viz.LayerStatistics up to a step, as `read_log`."""
    return _records(path, last_step, _check_statistics)


def _check_statistics(record, place):
    for kind in ("activations", "gradients"):
        for layer, size in entry(record, kind, dict, place).items():
            checked(size, float, f"{kind} of {layer}", place)


def _records(path, last_step, check):
    records = []
    try:
        for place, record in read_json_lines(path):
            step = entry(record, "step", int, place)
            if not 0 <= step < LAST_STEP:
                raise ValueError(f"{place}: there is no step {step}")
            if step > last_step:
                break
            check(record, place)
            records.append(record)
    except ValueError as error:
        raise ValueError(f"{error}; restore the file, or move it away to go on without it") from error
    return records


def line(record):
    """A record as a line of a log."""
    return json.dumps(record).encode() + b"\n"

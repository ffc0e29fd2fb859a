"""The folder of a training run.

    config.json             every setting                       tokenizer.json    how text becomes tokens
    model.safetensors       the weights                         log.jsonl         one line a step
    optimizer.safetensors   AdamW's two means                   loss.png          the log as a picture
    classifier.json         of a classifier only: the labels, and the shape of its language model
    vectors.txt             of word2vec only: the words and their vectors, for other programs too
    statistics.jsonl        with --stats-interval only: how large every layer's results and gradients were
    state.json              the step, the random generators' states, the SHA-256 of the text and of the two above

The weights, the optimizer and the state are one checkpoint: they are replaced together (see autotx/checkpoint.py).
"""

import contextlib
import io
import json
import os
import time
from pathlib import Path

from autotx.checkpoint import STATE, load_checkpoint, recover_checkpoint, save_checkpoint
from autotx.files import write_atomically
from autotx.models import config as configs
from autotx.models import tokenizers
from autotx.viz.curves import loss_curve

try:
    import fcntl
except ImportError:  # Windows has other locks
    fcntl = None

MODEL = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
LABELS = "classifier.json"
LOG = "log.jsonl"
PICTURE = "loss.png"
STATISTICS = "statistics.jsonl"
VECTORS = "vectors.txt"
SECONDS_BETWEEN_PICTURES = 10
_ALL = (configs.FILE, tokenizers.FILE, LABELS, MODEL, OPTIMIZER, STATE, LOG, PICTURE, STATISTICS, VECTORS)


class Run:
    """A run folder: what is in it, and how it is written."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self._drawn = -SECONDS_BETWEEN_PICTURES

    def check_free(self):
        """ValueError when a new run cannot begin here, because there is one already."""
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"--out {self.folder} is a file; give the name of a folder")
        if any((self.folder / name).exists() for name in _ALL):
            raise ValueError(
                f"{self.folder} already holds a run; go on with it by --resume (to train on: --resume --steps N), "
                "or give a new one another folder by --out"
            )

    def check_there(self):
        """ValueError when there is no run here to go on with."""
        if not (self.folder / configs.FILE).is_file():
            raise ValueError(f"--resume: there is no run in {self.folder}; leave --resume out to start one")

    def has_checkpoint(self):
        """False only when the run was killed before its very first checkpoint."""
        recover_checkpoint(self.folder)
        return (self.folder / STATE).is_file()

    @contextlib.contextmanager
    def locked(self):
        """Make the folder, and keep it to this process. A folder that was made and is left empty is taken away again.

        ValueError when another one trains here: two would move each other's checkpoints away.
        """
        made = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with _locked(self.folder):
                yield
        finally:
            for path in made:
                with contextlib.suppress(OSError):
                    path.rmdir()

    @contextlib.contextmanager
    def beginning(self):
        """If what is done inside fails, every file is taken away again."""
        try:
            yield
        except BaseException:  # after a Ctrl-C too
            for name in _ALL:
                with contextlib.suppress(OSError):
                    (self.folder / name).unlink(missing_ok=True)
            raise

    def write_config(self, config):
        write_atomically(self.folder / configs.FILE, config.to_bytes())

    def save(self, model, optimizer, state):
        """Replace the checkpoint: a dict of arrays, a dict of arrays and numbers, a dict of what JSON can hold."""
        save_checkpoint(self.folder, {MODEL: model, OPTIMIZER: optimizer}, state)

    def load(self):
        """The three dicts that were saved last. ValueError when a file is missing, truncated or changed."""
        tensors, state = load_checkpoint(self.folder)
        if tensors.keys() != {MODEL, OPTIMIZER}:
            raise ValueError(f"{self.folder / STATE} should list {MODEL} and {OPTIMIZER}; it is not of a training run")
        return tensors[MODEL], tensors[OPTIMIZER], state

    def open_log(self, step):
        """Open the log to go on after `step`: later lines, of steps that were never saved, are dropped.

        Returns (the records up to the step, the open file, to which `line` of each new one is written).
        """
        path = self.folder / LOG
        records = read_log(path, step) if path.exists() else []
        write_atomically(path, b"".join(map(line, records)))
        return records, open(path, "ab", buffering=0)

    def write_statistics(self, records):
        """Write what --stats-interval asks for: records of viz.LayerStatistics, one a line."""
        write_atomically(self.folder / STATISTICS, b"".join(map(line, records)))

    def read_statistics(self, step):
        """Those records up to a step."""
        path = self.folder / STATISTICS
        return read_log(path, step) if path.exists() else []

    def draw(self, records):
        """Draw the log."""
        picture = io.BytesIO()
        loss_curve(records, title=f"Loss of {self.folder.name}").savefig(picture, format="png", dpi=120)
        write_atomically(self.folder / PICTURE, picture.getvalue())
        self._drawn = time.monotonic()

    def draw_now_and_then(self, records):
        """Draw the log, if it was not done just before: a picture takes as long as many small steps."""
        if time.monotonic() > self._drawn + SECONDS_BETWEEN_PICTURES:
            self.draw(records)


@contextlib.contextmanager
def _locked(folder):
    """A lock that leaves no file behind, and goes with the process, however that ends."""
    if fcntl is None:
        yield
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(f"--out {folder}: a run is going on there; wait, or give another folder") from None
        yield
    finally:
        os.close(opened)


def read_log(path, last_step):
    """The records of a log up to a step, in order. A line that a kill cut off ends it."""
    records = []
    for found in path.read_bytes().splitlines():
        try:
            record = json.loads(found)
        except ValueError:
            break
        if not isinstance(record, dict) or not record.get("step", last_step + 1) <= last_step:
            break
        records.append(record)
    return records


def line(record):
    """A record as a line of a log."""
    return json.dumps(record).encode() + b"\n"

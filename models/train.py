"""Training.

    Trainer    a task (a model and its data), the optimizer and the random generators: one step, save and restore
    train      the loop over the steps, which logs, shows and saves, and stops on Ctrl-C

All random numbers come from generators whose states are in the checkpoint, so a run that was stopped or killed and is
resumed gives the same bits as one that was not. The models' data and losses are in tasks/.

Several processes (comm.py) run this code in step: each draws the whole batch of every step, from generators of the same
seed, and computes the gradients of its rows of it.
"""

import contextlib
import copy
import hashlib
import importlib
import math
import os
import shlex
import signal
import threading
import time
from typing import Any

import numpy as np

import autotx
from autotx import Tensor, kernels
from autotx.checkpoint import STATE
from autotx.files import describe, entry
from autotx.models.comm import ALONE, Comm, started
from autotx.models.events import check_tensorboard, event_files
from autotx.models.formats import open_model
from autotx.models.optimizers import OPTIMIZERS, SCHEDULES
from autotx.models.progress import Progress
from autotx.models.run import LOG, Run, line
from autotx.models.shares import share
from autotx.models.streams import lasting
from autotx.optim import clip_grad_norm
from autotx.text import counted
from autotx.types import PathLike, Rng
from autotx.viz.statistics import LayerStatistics

INTERRUPTED = 128 + signal.SIGINT  # the exit status after Ctrl-C, as shells report it
STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class DivergedError(ValueError):
    """The loss or a gradient became NaN or Inf."""


class Trainer:
    """A model in training. config: the settings of the run. folder: the run to resume, None for a new one.

    comm: the processes that train it together. ValueError: what several processes cannot do.
    """

    def __init__(self, config, folder: PathLike | None = None, comm: Comm = ALONE):
        self.config, self.comm = config, comm
        if comm.size > getattr(config, "batch_size", comm.size):
            raise ValueError(f"{comm.size} processes cannot share out --batch-size {config.batch_size}; make it larger")
        if comm.size > 1 and config.stats_interval:
            raise ValueError("--stats-interval measures what one process computes; leave it out, or mpiexec")
        init_rng, self.data_rng, self.dropout_rng = (np.random.default_rng([config.seed, i]) for i in range(3))
        self.task = config.task(config, init_rng, _begin(config, folder))
        self.model = self.task.model
        for name, p in self.model.named_parameters():
            p.name = name  # for error messages
        if config.recompute:
            _recompute_blocks(self.model, config.kind)
        self.optimizer = OPTIMIZERS[config.optimizer].make(self.model, config)
        self.schedule = SCHEDULES[config.schedule].make(config)
        self.statistics = LayerStatistics(self.model, config.stats_interval) if config.stats_interval else None
        self.step = self.place = 0  # steps done; the place in the data, as Task.batches counts it
        self.product: str | None = None  # what multiplied bfloat16 before the run was resumed, see kernels/mixed.py
        self.limit = 0.0  # FLOP/s of all processes, 0 when not measured
        self.best: dict | None = None  # with --keep-best: {"step", "val_loss"} of the smallest validation loss

    def rehearse(self) -> None:
        """Compute the gradients of the next batch and forget them, to find out whether there is memory for it.

        Nothing changes. MemoryError: there is not.
        """
        before = copy.deepcopy((self.data_rng, self.dropout_rng))
        with np.errstate(all="ignore"):
            batch = self.task.batches(self.place, self.data_rng)[0]
            own, _, rng = share(self.task, batch, self.comm, self.dropout_rng)
            self.loss(own, rng).backward()
        self.optimizer.zero_grad()
        self.data_rng, self.dropout_rng = before

    def loss(self, batch: Any, rng: Rng) -> Tensor:
        """The mean loss over the targets of a batch, by products of config.dtype. Validation computes in float32."""
        with autotx.autocast(self.config.dtype):
            return self.task.loss(batch, rng=rng)

    def choose_product(self) -> str:
        """Settle what multiplies bfloat16: what did so before the run was resumed, else what is fastest here. Returns a
        line about it for the user, empty for float32."""
        if self.config.dtype == "float32":
            return ""
        mixed, before = kernels.mixed, self.product
        fastest, kept = self.comm.first(mixed.fastest), mixed.use(before)
        if not kept and not mixed.use(fastest):  # another processor than that of process 0
            mixed.use(mixed.fastest())
        how = "rounded and multiplied as float32" if mixed.name() == "float32" else f"multiplied by {mixed.name()}"
        lost = "" if kept or before is None else f"; before it was by {before}, which is not here: sums differ slightly"
        return f"bfloat16, {how}{lost}"

    def train_step(self) -> dict:
        """One optimizer step. Returns its record for the log, a dict. DivergedError when a number is not finite."""
        begun = time.perf_counter()
        batches = self.task.batches(self.place, self.data_rng)
        self.place += self.task.stride
        loss = self.accumulate(batches)
        norm = self.update(loss)
        seconds = time.perf_counter() - begun
        record = {"step": self.step, "loss": loss, "val_loss": None, "lr": self.optimizer.lr, "grad_norm": norm}
        record["tokens_per_second"] = round(sum(map(self.task.tokens, batches)) / seconds, 1)
        if self.limit:
            record["limit_share"] = round(sum(map(self.task.flop, batches)) / seconds / self.limit, 4)
        return record

    def measure_limit(self) -> None:
        """Find out what the cores of all processes could do, for the log, if the task tells the FLOP of a step."""
        if self.task.flop:
            measured = importlib.import_module("autotx.models.bench.limit")  # here, because it loads Numba
            limit = np.array([measured.flop_per_second(self.config.dtype)])
            self.comm.sum(limit)
            self.limit = limit.item()

    def accumulate(self, batches: list) -> float:
        """Add the gradients of the mean loss over all targets of the batches to those of the parameters. Returns it.

        Every target has the same weight, however the targets are spread over batches and processes: with n_b targets in
        the rows of batch b that a process computes and n in all, the mean is the sum of (n_b / n) mean_b.
        """
        total, mean = sum(map(self.task.count, batches)), np.zeros(1)
        with self.statistics.step(self.step + 1) if self.statistics else contextlib.nullcontext():
            for batch in batches:
                own, count, rng = share(self.task, batch, self.comm, self.dropout_rng)
                loss = self.loss(own, rng)
                mean += loss.item() * (count / total)
                (loss if count == total else loss * (count / total)).backward()
        self.comm.sum(mean)
        self.comm.sum_gradients(self.model.parameters())
        return mean.item()

    def update(self, loss: float) -> float:
        """Clip the gradients, step the optimizer, clear the gradients. Returns their norm before clipping.

        loss: the mean loss over the targets of the step. DivergedError when it or a gradient is not finite.
        """
        self.optimizer.lr = self.schedule(self.step)
        self.step += 1
        if not math.isfinite(loss):
            raise DivergedError(f"the loss became {loss} at step {self.step}")
        try:
            norm = clip_grad_norm(self.model.parameters(), self.config.grad_clip or math.inf)
        except ValueError as error:
            raise DivergedError(f"step {self.step}: {error}") from error
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    def validate(self) -> dict[str, float]:
        """The task's metrics on its validation data, a dict. DivergedError when the loss is not finite, ValueError when
        the processes no longer have the same parameters."""
        self.check_same()
        figures = self.task.validate(self.comm)
        if not math.isfinite(figures["val_loss"]):
            raise DivergedError(f"the validation loss became {figures['val_loss']} at step {self.step}")
        if self.config.keep_best and (not self.best or figures["val_loss"] < self.best["val_loss"]):
            self.best = {"step": self.step, "val_loss": figures["val_loss"]}
        return figures

    def check_same(self) -> None:
        """ValueError when the processes do not have the same parameters, to the bit."""

        def digest():
            found = hashlib.sha256()
            for p in self.model.parameters():
                found.update(p.data.tobytes())
            return found.hexdigest()

        self.comm.check_same("the parameters", digest)

    def save(self, run: Run) -> None:
        """Write a checkpoint into a Run, last of all: what it stands for is then on the disk, whenever the process is
        killed."""
        state = {
            "step": self.step,
            "place": self.place,
            **({"best": self.best} if self.best else {}),
            **self.task.state(),
            **({"product": kernels.mixed.name()} if self.config.dtype != "float32" else {}),
            "data_rng": self.data_rng.bit_generator.state,
            "dropout_rng": self.dropout_rng.bit_generator.state,
        }
        if self.statistics:
            run.write_statistics(self.statistics.records)
        self.task.export(run.folder)
        run.save(self.task.weights(), self.optimizer.state_dict(), state, self.task.file)

    def keep(self, run: Run) -> None:
        """Keep the checkpoint that was saved last, where the settings ask for it."""
        run.keep(self.step, self.config.keep, self.best["step"] if self.best else None)

    def restore(self, run: Run) -> None:
        """Load the checkpoint of a Run. ValueError when it is incomplete or does not fit the settings."""
        weights, optimizer, state = run.load(self.task.file)
        if state.get("data_sha256") != self.task.digest:
            raise ValueError(f"--resume: the data are not those that the run in {run.folder} began with; restore them")
        try:
            self.task.load(weights, state)
            self.optimizer.load_state_dict(optimizer)
            self.data_rng.bit_generator.state = state["data_rng"]
            self.dropout_rng.bit_generator.state = state["dropout_rng"]
            self.step, self.place = (_counted(state, name) for name in ("step", "place"))
            self.product = state.get("product")
            if self.config.keep_best and "best" in state:
                best = entry(state, "best", dict, STATE)
                self.best = {"step": _counted(best, "step"), "val_loss": entry(best, "val_loss", float, STATE)}
            if self.statistics:
                self.statistics.records = run.read_statistics(self.step)
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise ValueError(f"--resume: the checkpoint in {run.folder} does not fit its settings: {error}") from error


def _counted(state, name):
    if type(state[name]) is not int or state[name] < 0:
        raise ValueError(f"{name} {state[name]!r} should be a whole number, 0 or more")
    return state[name]


def _begin(config, folder):
    """The Opened model to begin with: that of the resumed run in `folder`, a trained model, or None."""
    begin = config.task.resumed(config, folder) if folder else None
    return begin or (open_model(config.init, needs="text") if config.init else None)


def _recompute_blocks(model, kind):
    """Let a model compute its blocks again in the backward pass. ValueError for one without blocks."""
    found = [module for module in model.modules() if hasattr(module, "recompute")]
    if not found:
        raise ValueError(f"--recompute: a {kind} has no blocks to compute again; leave it out")
    for module in found:
        module.recompute = True


class Interrupt:
    """In a `with` block, Ctrl-C and the signals of STOPPING only set `asked` to their number. A second Ctrl-C raises
    KeyboardInterrupt. A signal that is ignored, as SIGHUP is under nohup, stays ignored. tells: it says so."""

    def __init__(self, tells=True):
        self.asked, self.tells = 0, tells

    def __enter__(self):
        self.before = {}
        if threading.current_thread() is threading.main_thread():  # other threads cannot set handlers
            heeded = [n for n in STOPPING if signal.getsignal(n) is not signal.SIG_IGN]
            self.before = {number: signal.signal(number, self._ask) for number in heeded}
        return self

    def _ask(self, number, frame):
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = self.asked or number
        with contextlib.suppress(OSError):  # the terminal may be what has gone
            if self.tells:
                os.write(2, b"\nstopping after this step (Ctrl-C again: at once, without saving)\n")

    def __exit__(self, *error):
        for number, handler in self.before.items():
            signal.signal(number, handler)


def train(config) -> int:
    """Train a model with the given settings; all files are in the folder config.out. Returns the exit status.

    0 when all steps are done, 128 + the number of the signal, such as 130 for Ctrl-C, when one of STOPPING stopped the
    run, after saving a checkpoint. ValueError for settings, data and checkpoints that cannot be used, MemoryError when
    a batch is too large: then nothing has been written. DivergedError (a ValueError) when a loss or gradient is not
    finite, OSError when writing fails, such as on a full disk; the last checkpoint is kept in both cases. An error
    while printing stops nothing. mpiexec starts several processes that do this together.
    """
    run = Run(config.out)
    with started() as comm, lasting(), contextlib.ExitStack() as held:
        comm.check_same("the settings or the versions", lambda: (config.to_bytes(), autotx.__version__, np.__version__))
        if config.tensorboard:
            check_tensorboard()
        go_on = comm.first(lambda: _claim(config, run, held))
        return _train(config, run, go_on, comm)


def _claim(config, run, held):
    """Lock the run's folder until `held`, an ExitStack, ends. Returns whether there is a checkpoint to go on from."""
    held.enter_context(run.locked())
    run.check_there() if config.resume else run.check_free()
    return config.resume and run.recovered()


def _train(config, run, go_on, comm):
    trainer = comm.ahead(lambda: Trainer(config, run.folder if go_on else None, comm))
    comm.check_same("the data", lambda: trainer.task.digest)
    if go_on:
        trainer.restore(run)
        if trainer.step > config.steps:
            raise ValueError(f"--steps {config.steps}: the run in {config.out} is at step {trainer.step} already")
    product = trainer.choose_product()
    records = run.read_log(trainer.step)  # those of later steps, which no checkpoint has, are removed below
    if trainer.step < config.steps:
        trainer.rehearse()
    trainer.check_same()  # and nobody is still reading
    comm.first(lambda: _write_beginning(trainer, run, go_on))
    trainer.measure_limit()
    with contextlib.ExitStack() as held:
        log, note = run.open_log(records) if comm.rank == 0 else open(os.devnull, "ab"), lambda record: None  # noqa: SIM115
        held.enter_context(log)
        if config.tensorboard and comm.rank == 0:
            note = held.enter_context(event_files(run.folder, records))
        _introduce(trainer, len(records), product)
        stopped_by = _loop(trainer, run, records, log, note)
    if trainer.step < config.steps:
        print(f"Stopped at step {trainer.step} of {config.steps}; saved in {config.out}. Go on with:")
        print(f"  autotx train --out {as_argument(config.out)} --resume")
        return 128 + stopped_by
    _finish(trainer)
    return 0


def _write_beginning(trainer, run, go_on):
    """Write what a new run begins with, or what may have changed where one goes on."""
    if go_on:
        run.write_config(trainer.config)
        trainer.task.export(run.folder)  # made again, if it is older than the checkpoint or has been lost
        trainer.keep(run)
        return
    with run.beginning():
        run.write_config(trainer.config)
        trainer.task.save(run.folder)
        trainer.save(run)  # at step 0: a run killed early can be resumed, and a full disk is noticed at once


def _loop(trainer, run, records, log, note):
    """Train to the last step and save. Returns 0, or the number of the signal that stopped it, after saving, before.

    records: those in the log so far, a list. log: the open file. note(record): called for each new one.
    """
    config, comm = trainer.config, trainer.comm
    saved_at, seconds, asked = time.monotonic(), 60 * config.save_minutes or math.inf, 0
    saved = [trainer.step]  # the steps of the checkpoints
    interrupt = Interrupt(tells=comm.rank == 0)
    try:
        # NaN and Inf are checked after every step, so NumPy's warnings would repeat the error.
        with Progress(trainer.step, config.steps, records) as progress, interrupt, np.errstate(all="ignore"):
            while trainer.step < config.steps and not asked:
                record = trainer.train_step()
                validate = trainer.step % config.eval_interval == 0 or trainer.step == config.steps
                if validate:
                    record |= trainer.validate()
                log.write(line(record))
                note(record)
                records.append(record)
                progress.show_step(record)
                asked, due = comm.largest([interrupt.asked, time.monotonic() > saved_at + seconds])
                if validate or due:
                    _save(trainer, run, log, saved)
                    saved_at = time.monotonic()
                    comm.first(lambda: run.draw_now_and_then(records))
            if saved[-1] < trainer.step:
                _save(trainer, run, log, saved)
            comm.first(lambda: run.draw_if_older(records))
    except DivergedError as error:
        raise DivergedError(
            f"{error}; stopped. The checkpoint of step {saved[-1]} in {run.folder} is good: go on from it with "
            f"--resume and a lower --lr (now {config.lr:g})"
        ) from error
    except OSError as error:
        kept = f"the checkpoint of step {saved[-1]} in {run.folder} is kept"
        if not run.holds_checkpoint():
            kept = f"{run.folder} holds no checkpoint any more"
        raise OSError(f"{describe(error)}; {kept}") from error
    return int(asked)


def _save(trainer, run, log, saved):
    """Save a checkpoint, after the lines of the log for the steps that it covers, and note its step in `saved`."""

    def save():
        os.fsync(log.fileno())
        trainer.save(run)

    trainer.comm.first(save)
    saved.append(trainer.step)
    trainer.comm.first(lambda: trainer.keep(run))


def _introduce(trainer, logged, product):
    """Print what is learned and where. logged: the number of steps in the log. product: of `choose_product`."""
    config = trainer.config
    for heading, text in trainer.task.introduction():
        print(f"{heading:8}{text}")
    if product:
        print(f"dtype   {product}")
    if trainer.comm.size > 1:
        print(f"mpi     {trainer.comm.describe()}")
    if 1 < config.steps <= config.warmup_steps:
        print(f"        the learning rate only rises: --steps {config.steps}, --warmup-steps {config.warmup_steps}")
    if logged < trainer.step:
        print(f"log     {LOG} lacks {counted(trainer.step - logged, 'step')} of the {trainer.step:,} that are done")
    at = f"from step {trainer.step} " if trainer.step else ""
    print(f"run     {at}to step {config.steps} in {config.out}; Ctrl-C stops and saves", flush=True)


def as_argument(path: str) -> str:
    """A path as an argument of a command line, quoted for a shell; a leading dash would make it a flag."""
    return shlex.quote(os.path.join(os.curdir, path) if path.startswith("-") else path)


def _finish(trainer):
    """Print what the model learned, where the files are, and the next commands."""
    config = trainer.config
    print(f"\nDone: {counted(trainer.step, 'step')}.", end=" ")
    trainer.task.show()
    out = as_argument(config.out)
    print(f"\n{config.out} holds the model ({trainer.task.file}), the log (log.jsonl, loss.png), all to go on from.")
    print("Next:")
    for command in trainer.task.next_commands(out):
        print(f"  {command}")
    print(f"  autotx train --out {out} --resume --steps {2 * config.steps}")

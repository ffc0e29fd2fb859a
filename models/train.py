"""`autotx train`: a GPT learns a text.

    Trainer    the model, its optimizer, its text and its random numbers: one step, one validation, save and restore
    train      the loop around it: what is shown, logged and saved, and when it stops

Everything random comes from generators that are part of the checkpoint, so a run that was stopped, or killed, goes on
exactly as if it had not been.
"""

import dataclasses
import math
import os
import shlex
import signal
import threading
import time

import numpy as np

from autotx import no_grad
from autotx.checkpoint import describe
from autotx.models.config import TrainConfig, add_flags, flag, read_config
from autotx.models.data import load_data, random_blocks, read_text
from autotx.models.generate import gpt_config, stream_text
from autotx.models.gpt import GPT
from autotx.models.progress import Progress
from autotx.models.run import Run
from autotx.models.tokenizers import load_tokenizer, make_tokenizer
from autotx.optim import AdamW, clip_grad_norm, decay_groups, warmup_cosine

INTERRUPTED = 130  # the exit status after Ctrl-C, as every shell has it
SAMPLE_TOKENS = 300
# A resumed run is the same run: the shape of its model, its tokens and its random numbers cannot change.
UNCHANGEABLE = ("seed", "tokenizer", "vocab_size", "n_layer", "n_head", "n_embd", "block_size")


class DivergedError(ValueError):
    """The loss or a gradient is no longer a number."""


class Trainer:
    """A model in training. config: TrainConfig. data: Data."""

    def __init__(self, config, data):
        self.config, self.data = config, data
        init_rng, self.data_rng, self.dropout_rng = (np.random.default_rng([config.seed, i]) for i in range(3))
        self.model = GPT(gpt_config(config, data.tokenizer.vocab_size), init_rng)
        for name, p in self.model.named_parameters():
            p.name = name  # for error messages
        groups = decay_groups(self.model, config.weight_decay)
        self.optimizer = AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2))
        self.schedule = warmup_cosine(config.lr, config.min_lr, min(config.warmup_steps, config.steps), config.steps)
        self.step = 0

    def train_step(self):
        """One step of the optimizer. Returns the record of it, a dict. DivergedError when a number is not finite."""
        config, begun = self.config, time.perf_counter()
        self.optimizer.lr = self.schedule(self.step)
        blocks = random_blocks(
            self.data.training, config.grad_accum * config.batch_size, config.block_size, self.data_rng
        )
        rng = self.dropout_rng if config.dropout else None
        total = 0.0
        for inputs, targets in zip(*(np.split(part, config.grad_accum) for part in blocks)):
            _, loss = self.model(inputs, targets, rng=rng)
            total += loss.item()
            # Every batch has the same number of tokens, so the mean over all is the mean of the batches' means.
            (loss if config.grad_accum == 1 else loss * (1 / config.grad_accum)).backward()
        self.step += 1
        mean = total / config.grad_accum
        if not math.isfinite(mean):
            raise DivergedError(f"the loss became {mean} at step {self.step}")
        try:
            norm = clip_grad_norm(self.model.parameters(), config.grad_clip or math.inf)
        except ValueError as error:
            raise DivergedError(f"step {self.step}: {error}") from error
        self.optimizer.step()
        self.optimizer.zero_grad()
        return {
            "step": self.step,
            "loss": mean,
            "val_loss": None,
            "lr": self.optimizer.lr,
            "grad_norm": norm,
            "tokens_per_second": round(blocks[0].size / (time.perf_counter() - begun), 1),
        }

    def evaluate(self):
        """The mean loss over blocks of the validation part, always the same. DivergedError when it is not finite."""
        config, rng, total = self.config, np.random.default_rng([self.config.seed, 3]), 0.0
        with no_grad():
            for _ in range(config.eval_batches):
                inputs, targets = random_blocks(self.data.validation, config.batch_size, config.block_size, rng)
                total += self.model(inputs, targets)[1].item()
        mean = total / config.eval_batches
        if not math.isfinite(mean):
            raise DivergedError(f"the validation loss became {mean} at step {self.step}")
        return mean

    def save(self, run):
        """Write a checkpoint into a Run."""
        state = {
            "step": self.step,
            "text_sha256": self.data.digest,
            "data_rng": self.data_rng.bit_generator.state,
            "dropout_rng": self.dropout_rng.bit_generator.state,
        }
        run.save(self.model.state_dict(), self.optimizer.state_dict(), state)

    def restore(self, run):
        """Go back to the checkpoint of a Run. ValueError when it is not whole or does not fit."""
        weights, optimizer, state = run.load()
        if state.get("text_sha256") != self.data.digest:
            raise ValueError(f"--resume: the text is not the one that the run in {run.folder} began with; give it back")
        try:
            self.model.load_state_dict(weights)
            self.optimizer.load_state_dict(optimizer)
            self.data_rng.bit_generator.state = state["data_rng"]
            self.dropout_rng.bit_generator.state = state["dropout_rng"]
            self.step = int(state["step"])
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"--resume: the checkpoint in {run.folder} does not fit its settings: {error}") from error


class Interrupt:
    """Inside `with Interrupt() as interrupt`, Ctrl-C only sets `interrupt.asked`. A second one stops at once."""

    asked = False

    def __enter__(self):
        self.handled = threading.current_thread() is threading.main_thread()  # elsewhere Python allows no handlers
        if self.handled:
            self.before = signal.signal(signal.SIGINT, self._ask)
        return self

    def _ask(self, number, frame):
        self.asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.write(2, b"\nstopping after this step (Ctrl-C again: at once, without saving)\n")

    def __exit__(self, *error):
        if self.handled:
            signal.signal(signal.SIGINT, self.before)


def train(config):
    """Train a GPT as the settings say, and leave everything in the folder config.out. Returns the exit status.

    0 when all steps are done, 130 when Ctrl-C stopped it; it is saved then. ValueError for settings, texts and
    checkpoints that cannot be used. DivergedError (a ValueError) when the loss is no longer a number: the last good
    checkpoint is kept. OSError when the disk is full: likewise.
    """
    run = Run(config.out)
    run.check_there() if config.resume else run.check_free()
    go_on = config.resume and run.has_checkpoint()
    data = load_data(
        read_text(config.text),
        config.block_size,
        lambda text: load_tokenizer(run.folder) if go_on else make_tokenizer(config.tokenizer, text, config.vocab_size),
    )
    trainer = Trainer(config, data)
    if go_on:
        trainer.restore(run)
        if trainer.step > config.steps:
            raise ValueError(f"--steps {config.steps}: the run in {config.out} is at step {trainer.step} already")
        run.write_config(config)
    else:
        with run.beginning():
            run.write_config(config)
            data.tokenizer.save(run.folder)
            trainer.save(run)  # at step 0: a kill can come at any time, and a disk without room shows now
    _introduce(trainer)
    if trainer.step < config.steps and not _loop(trainer, run):
        print(f"Stopped at step {trainer.step} of {config.steps}; saved in {config.out}. Go on with:")
        print(f"  autotx train --out {shlex.quote(config.out)} --resume")
        return INTERRUPTED
    _finish(trainer)
    return 0


def _loop(trainer, run):
    """Train to the last step. False when Ctrl-C came before it; the checkpoint is of the step reached either way."""
    config = trainer.config
    records, log = run.open_log(trainer.step)
    saved = trainer.step
    try:
        # NaN and Inf are looked for after every step, so NumPy need not warn about them as well.
        with log, Progress(trainer.step, config.steps) as progress, Interrupt() as interrupt, np.errstate(all="ignore"):
            while trainer.step < config.steps and not interrupt.asked:
                record = trainer.train_step()
                validate = trainer.step % config.eval_interval == 0 or trainer.step == config.steps
                if validate:
                    record["val_loss"] = trainer.evaluate()
                log.write(record)
                records.append(record)
                progress.show(record)
                if validate:
                    trainer.save(run)
                    saved = trainer.step
                    run.draw_now_and_then(records)
            if saved < trainer.step:
                trainer.save(run)
            run.draw(records)
    except DivergedError as error:
        raise DivergedError(
            f"{error}; stopped. The checkpoint of step {saved} in {run.folder} is good: go on from it with --resume "
            f"and a lower --lr (now {config.lr:g})"
        ) from error
    except OSError as error:
        raise OSError(f"{describe(error)}; the checkpoint of step {saved} in {run.folder} is kept") from error
    return trainer.step == config.steps


def _introduce(trainer):
    config, data = trainer.config, trainer.data
    texts = ", ".join(config.text) or "Python's own manual (give your own with --text FILE)"
    print(f"text    {texts}")
    print(
        f"        {len(data.training):,} tokens to learn from, {len(data.validation):,} to validate on; "
        f"{config.tokenizer} tokenizer of {data.tokenizer.vocab_size:,} tokens"
    )
    print(
        f"model   GPT of {trainer.model.num_parameters():,} parameters: {config.n_layer} layers, "
        f"{config.n_head} heads, {config.n_embd} channels, blocks of {config.block_size} tokens"
    )
    at = f"from step {trainer.step} " if trainer.step else ""
    print(f"run     {at}to step {config.steps} in {config.out}; Ctrl-C stops and saves", flush=True)


def _finish(trainer):
    """A sample of what it learned, where it all is, and what can be done next."""
    config = trainer.config
    print(f"\nAll {trainer.step} steps are done. A sample of what the model writes:\n")
    rng = np.random.default_rng([config.seed, 4])
    for piece in stream_text(trainer.model, trainer.data.tokenizer, "\n", SAMPLE_TOKENS, temperature=0.8, rng=rng):
        print(piece, end="", flush=True)
    out = shlex.quote(config.out)
    print(f"\n\n{config.out} holds the model (model.safetensors), the log (log.jsonl, loss.png), all to go on from.")
    print("Next:")
    print(f'  autotx generate --model {out} --prompt "The "')
    print(f"  autotx train --out {out} --resume --steps {2 * config.steps}")


def add_arguments(parser):
    add_flags(parser)


def run(args):
    """Train as the command line says. Returns the exit status."""
    given = {name: value for name, value in vars(args).items() if name in TrainConfig.__dataclass_fields__}
    if "text" in given:  # the run can then be resumed from any folder
        given["text"] = tuple(os.path.abspath(path) for path in given["text"])
    return train(resumed(given) if given.get("resume") else TrainConfig(**given))


def resumed(given):
    """The settings of the run in given["out"], with those given now in their place. ValueError when that cannot be."""
    folder = given.get("out", TrainConfig.out)
    Run(folder).check_there()
    saved = read_config(folder)
    for name in UNCHANGEABLE:
        was = getattr(saved, name)
        if given.get(name, was) != was:
            raise ValueError(
                f"--resume: the run in {folder} has {flag(name)} {was}, which cannot become {given[name]}; "
                f"leave {flag(name)} out, or start a new run"
            )
    return dataclasses.replace(saved, **{**given, "out": folder})

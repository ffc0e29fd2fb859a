"""The command line: `autotx <command>`.

GROUPS lists the commands. Each is a module with `add_arguments(parser)`, `run(args)`, which returns the exit status,
and EXAMPLES, two command lines that its help ends with. If it writes files, it has `outputs(args)`, a dict of flag ->
(path or None, function that checks a path): all are checked before it runs. One that several processes may do together
has `PROCESSES`. Only the module of the given command is imported, so that `autotx --help` is fast.

Exit status: 0 done; 2 wrong usage or a failure, explained in one line on stderr; 130 stopped by Ctrl-C; a training also
143 and 129, by SIGTERM and SIGHUP.
"""

import argparse
import contextlib
import errno
import importlib
import os
import re
import sys

import numpy as np

import autotx
from autotx import signals
from autotx.files import describe
from autotx.models import streams
from autotx.models.comm import check_alone, started

MOST_THREADS = 1024

GROUPS = {  # what for: {command: (module in autotx.models, summary)}
    "train": {
        "train": ("commands.train", "train a GPT or a Llama on text, a translator on pairs, or word vectors"),
        "prepare": ("commands.prepare", "make token files of a text of any size, to train on"),
        "finetune": ("commands.finetune", "teach a trained GPT to label texts, from labelled examples"),
        "fewshot": ("commands.fewshot", "train a GPT that does tasks from the examples in its prompt, and measure it"),
    },
    "use": {
        "generate": ("commands.generate", "let a language model go on with a text"),
        "chat": ("commands.chat", "converse with a language model, such as SmolLM2"),
        "serve": ("commands.serve", "serve a language model by OpenAI's API, to programs on this machine"),
        "translate": ("commands.translate", "translate sentences with a trained transformer"),
        "classify": ("commands.classify", "label texts with a fine-tuned model"),
        "nearest": ("commands.nearest", "list the words whose vectors are most like that of a word"),
        "export": ("commands.export", "write a GPT or a Llama for transformers or llama.cpp"),
    },
    "look": {
        "lens": ("commands.lens", "show what a language model would say after each layer, and who contributes to it"),
        "explain": ("commands.explain", "tell which tokens of a prompt a language model's answer comes from"),
        "patch": ("commands.patch", "find which values of one prompt bring its answer back in another"),
        "plot": ("commands.plot", "draw the curves of runs, also while they go on, or what a model learned"),
        "graph": ("commands.graph", "draw the computation of a model, or of a single op"),
        "replay": ("commands.replay", "write a page that steps through a model's work, forward and backward"),
        "gallery": ("commands.gallery", "make a picture of each kind, of small models that it trains itself"),
    },
    "measure": {
        "evaluate": ("commands.evaluate", "measure how well a model predicts a text, or translates pairs"),
        "bench": ("bench.command", "time autotx against the libraries people would use instead"),
        "warmup": ("commands.warmup", "compile every kernel now, so that nothing waits for it later"),
    },
    "the whitepaper": {
        "paper": ("paper.command", "recompute every number of the whitepaper, and say where it is wrong"),
    },
}
COMMANDS = {name: entry for group in GROUPS.values() for name, entry in group.items()}


# How libraries that cannot be loaded, and threads that cannot be started, say that there is no memory (ulimit -v)
NO_MEMORY = (
    *("failed to map segment", "Could not find/load shared object file 'libllvmlite", "can't start new thread"),
    "error return without exception set",
)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors take one line, and that tells when its help cannot be written."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")

    def _print_message(self, message, file=None):
        (file or sys.stderr).write(message or "")  # the base class ignores an OSError, which a long text raises here

    def exit(self, status=0, message=None):
        sys.stdout.flush()
        super().exit(status, message)


class _Help(argparse.HelpFormatter):
    """Wraps a command's summary, and leaves its examples a line each."""

    def _fill_text(self, text, width, indent):
        return text if "\n" in text else super()._fill_text(text, width, indent)


def main(argv: list[str] | None = None) -> int:
    """Run a command. argv: the arguments after `autotx`, by default sys.argv[1:]. Returns the exit status."""
    if "_ARGCOMPLETE" in os.environ:
        _complete()
    argv = sys.argv[1:] if argv is None else argv
    command = argv[0] if argv and argv[0] in COMMANDS else ""
    name = f"autotx {command}".rstrip()
    with streams.for_people():
        try:
            status = _run(argv)
            sys.stdout.flush()
            return status
        except BrokenPipeError:  # the reader of the output has closed it, as in `autotx generate | head`
            streams.silence(sys.stdout)
            return 0
        except KeyboardInterrupt:
            return _fail(f"\n{name}: ", "stopped", 130)
        except (ValueError, OSError, MemoryError, ImportError, RuntimeError, SystemError) as error:
            told = _told(error)
            if told is None:
                raise
            told = told.removeprefix(f"{command}: ")  # an op's error begins with its name
            return _fail(f"{name}: ", ": ".join([*getattr(error, "__notes__", ()), told]))  # a note: which process


def _told(error):
    """What to tell the user of an error that is not a mistake in the code, else None."""
    no_memory = isinstance(error, MemoryError) or getattr(error, "errno", None) == errno.ENOMEM
    if no_memory or any(text in str(error) for text in NO_MEMORY):
        return f"not enough memory; make the model or the batch smaller ({error})"
    if isinstance(error, OSError):
        return describe(error)
    return str(error) if isinstance(error, ValueError) else None


def _run(argv):
    """Run a command, after everything that can be known before it does has been checked."""
    for word in argv:
        if any("\ud800" <= c <= "\udfff" for c in word):  # how Python keeps bytes that it cannot decode
            raise ValueError(f"{os.fsencode(word)} is not UTF-8; type it in UTF-8, or rename the file")
    top = _top_parser()
    if not argv:
        top.print_help()
        return 0
    name = top.parse_args(argv[:1]).command
    _check_threads()
    command, parser = load(name)
    if not hasattr(command, "PROCESSES"):
        check_alone(name)
        return _run_command(command, parser.parse_args(argv[1:]))
    with started():
        return _run_command(command, parser.parse_args(argv[1:]))


def _run_command(command, args):
    signals.release()
    _check_umask()
    if hasattr(command, "outputs"):
        _check_outputs(command.outputs(args))
    with np.errstate(all="ignore"):  # commands say in their own words where a result is NaN or Inf
        status = command.run(args)
    signals.hold()
    return status


def _check_outputs(outputs):
    """Check the files that a command is to write. outputs: a dict of flag -> (path or None, function that checks it).

    ValueError or OSError: a file cannot be written, or two of them are the same.
    """
    taken = {}
    for flag, (path, check) in outputs.items():
        if path is None:
            continue
        check(path)
        other = taken.setdefault(os.path.realpath(path), flag)
        if other != flag and (os.path.isfile(path) or not os.path.exists(path)):  # a device can be written to twice
            raise ValueError(f"{other} and {flag} are the same file, {path}; give each its own")


def _check_threads():
    """ValueError for a number of threads that Numba, which the commands import, cannot read."""
    threads = os.environ.get("NUMBA_NUM_THREADS", "1")
    if not re.fullmatch("[0-9]{1,4}", threads) or not 1 <= int(threads) <= MOST_THREADS:
        raise ValueError(f"NUMBA_NUM_THREADS={threads} should be a whole number from 1 to {MOST_THREADS}; change it")


def _check_umask():
    """ValueError when files and folders that this process makes could not be used by their owner."""
    mask = os.umask(0o077)
    os.umask(mask)
    if mask & 0o700:
        raise ValueError(f"umask {mask:03o} makes files that their owner cannot use; set another, such as umask 022")


def load(name: str) -> tuple:
    """The module of a command, and the Parser of its arguments."""
    module, summary = COMMANDS[name]
    command = importlib.import_module(f"autotx.models.{module}")
    parser = Parser(
        prog=f"autotx {name}",
        description=summary[0].upper() + summary[1:] + ".",
        epilog="\n  ".join(["examples:", *command.EXAMPLES]),
        formatter_class=_Help,
        allow_abbrev=False,
    )
    command.add_arguments(parser)
    return command, parser


def _top_parser():
    width, commands = max(map(len, COMMANDS)), ""
    for title, group in GROUPS.items():
        commands += f"\n{title}:\n" + "".join(f"  {name:{width}}  {summary}\n" for name, (_, summary) in group.items())
    parser = Parser(
        prog="autotx",
        description="An autograd engine on NumPy and Numba, and the transformers built on it.",
        epilog=f"{commands.lstrip()}\nautotx <command> --help tells a command's settings.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"autotx {autotx.__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="command", help="one of those below")
    return parser


def _complete():
    """Tell the shell how the command line may go on, and exit. argcomplete set the variables of the environment."""
    import argcomplete

    top = argparse.ArgumentParser()
    commands = top.add_subparsers()
    for name, (_, summary) in COMMANDS.items():
        parser = commands.add_parser(name, help=summary)
        if name in os.environ["COMP_LINE"].split()[1:2]:
            load(name)[0].add_arguments(parser)
    argcomplete.autocomplete(top)


def _fail(name, message, status=2):
    """Print an error in one line. Returns the exit status."""
    with contextlib.suppress(OSError):  # nobody is left to read it
        print(name + " ".join(message.split()), file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())

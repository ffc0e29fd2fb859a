"""The command line: `autotx <command>`.

COMMANDS lists the commands. Each is a module with `add_arguments(parser)` and `run(args)`, which returns the exit
status. Only the module of the given command is imported, so that `autotx --help` is fast.

Exit status: 0 done; 2 wrong usage or a failure, explained in one line on stderr; 130 stopped by Ctrl-C.
"""

import argparse
import importlib
import os
import sys

import autotx
from autotx.files import describe

COMMANDS = {  # name: (module in autotx.models, summary)
    "train": ("commands.train", "train a GPT on text, a transformer on pairs of sentences, or word vectors"),
    "prepare": ("commands.prepare", "make token files of a text of any size, to train on"),
    "generate": ("commands.generate", "let a trained GPT go on with a text"),
    "translate": ("commands.translate", "translate sentences with a trained transformer"),
    "fewshot": ("commands.fewshot", "train a GPT that does tasks from the examples in its prompt, and measure it"),
    "finetune": ("commands.finetune", "teach a trained GPT to label texts, from labelled examples"),
    "classify": ("commands.classify", "label texts with a fine-tuned model"),
    "nearest": ("commands.nearest", "list the words whose vectors are most like that of a word"),
    "plot": ("commands.plot", "draw the curves of runs, also while they go on, or what a model learned"),
    "graph": ("commands.graph", "draw the computation of a model, or of a single op"),
    "replay": ("commands.replay", "write a page that steps through a model's work, forward and backward"),
    "gallery": ("commands.gallery", "make a picture of each kind, of small models that it trains itself"),
    "paper": ("paper.command", "recompute every number of the whitepaper, and say where it is wrong"),
    "warmup": ("commands.warmup", "compile every kernel now, so that nothing waits for it later"),
    "bench": ("bench.command", "time autotx against the libraries people would use instead"),
}


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors take one line."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(argv: list[str] | None = None) -> int:
    """Run a command. argv: the arguments after `autotx`, by default sys.argv[1:]. Returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):  # characters that the terminal's encoding lacks become question marks
        getattr(stream, "reconfigure", dict)(errors="replace")
    top = _top_parser()
    if not argv:
        top.print_help()
        return 0
    name = top.parse_args(argv[:1]).command
    command, parser = load(name)
    args = parser.parse_args(argv[1:])
    try:
        status = command.run(args)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader of the output has closed it, as in `autotx generate | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(f"\nautotx {name}: stopped", file=sys.stderr)
        return 130
    except OSError as error:
        return _fail(name, describe(error))
    except MemoryError as error:
        return _fail(name, f"not enough memory; make the model or the batch smaller ({error})")
    except ValueError as error:
        return _fail(name, str(error))


def load(name: str) -> tuple:
    """The module of a command, and the Parser of its arguments."""
    module, summary = COMMANDS[name]
    command = importlib.import_module(f"autotx.models.{module}")
    parser = Parser(prog=f"autotx {name}", description=summary[0].upper() + summary[1:] + ".", allow_abbrev=False)
    command.add_arguments(parser)
    return command, parser


def _top_parser():
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:{width}}  {summary}" for name, (_, summary) in COMMANDS.items())
    parser = Parser(
        prog="autotx",
        description="An autograd engine on NumPy and Numba, and the transformers built on it.",
        epilog=f"commands:\n{commands}\n\nautotx <command> --help tells a command's settings.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"autotx {autotx.__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="command", help="one of those below")
    return parser


def _fail(name, message):
    message = " ".join(message.split()).removeprefix(f"{name}: ")  # errors of ops begin with a name, such as "generate"
    print(f"autotx {name}: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())

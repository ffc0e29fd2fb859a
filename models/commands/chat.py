"""`autotx chat`: a conversation with a language model, in the terminal."""

import contextlib
import sys
from pathlib import Path

import numpy as np

from autotx.files import describe
from autotx.models import saved_chats
from autotx.models.chat import Conversation
from autotx.models.commands.edits import add_edit, edits_of
from autotx.models.config import LARGEST, check_limits
from autotx.models.formats import KNOWN, open_reader
from autotx.models.inference.pieces import WEIGHTS
from autotx.models.inference.speculation import SPECULATE
from autotx.text import counted

CONTEXT = 2048
HELP = "/reset forgets, /system TEXT tells it how to answer, /save FILE keeps what was said; Ctrl-C stops an answer"
EXAMPLES = (
    "autotx chat",
    'autotx chat --system "Answer in one sentence." --temperature 0',
)


def add_arguments(parser):
    parser.add_argument(
        "--model", metavar="NAME", default="smollm2", help=f"one with a chat template: {KNOWN} (default: %(default)s)"
    )
    parser.add_argument(
        "--system", metavar="TEXT", help="what the model is told first (default: what its template says)"
    )
    parser.add_argument("--continue", dest="go_on", metavar="FILE", help="go on with a conversation of /save")
    add_context(parser)
    add_weights(parser)
    parser.add_argument(
        "--temperature",
        type=float,
        metavar="X",
        default=0.2,
        help="above 0 for varied answers; 0 always takes the likeliest token (default: %(default)s)",
    )
    parser.add_argument(
        "--top-p", type=float, metavar="X", default=0.9, help="choose among the likeliest of this share (default: 0.9)"
    )
    parser.add_argument(
        "--seed", type=int, metavar="N", help="the same seed gives the same answers (default: a new one)"
    )
    parser.add_argument("--speculate", action="store_true", help=SPECULATE)
    add_edit(parser)


def add_context(parser):
    """--context, of the commands that converse."""
    parser.add_argument(
        "--context",
        type=int,
        metavar="N",
        default=CONTEXT,
        help="how many tokens the model sees at once (default: %(default)s, or as many as it can)",
    )


def add_weights(parser):
    """--weights, of every command that only reads with a language model."""
    parser.add_argument(
        "--weights",
        choices=WEIGHTS,
        help="file: as they are there, those of 4 and 8 bits, too (default); int8: rounded to 8 bits, faster than "
        "float32 and a little less exact; float32: gives what file does, in more memory",
    )


def weights_of(args):
    """The class of matrices of --weights."""
    return WEIGHTS[args.weights or "file"]


def run(args):
    """Talk until the input ends. Returns the exit status."""
    _check(args)
    edits = edits_of(args.edit)
    opened = open_reader(args.model, weights_of(args))
    chat, rng = Conversation(opened, args.context, args.system), np.random.default_rng(args.seed)
    settings = {"temperature": args.temperature, "top_p": args.top_p, "rng": rng, "speculate": args.speculate}
    if args.go_on:
        with opened.model.edit(edits):
            known = saved_chats.load(chat, args.go_on, rng if args.seed is None else None)
        again = "" if known else ", which the model reads again"
        _say(f"{args.go_on}: {counted(len(chat.turns), 'turn')}{again}")
    _say(f"{opened.path.name}, weights of {opened.model.nbytes / 1e6:.3g} MB, {chat.size:,} tokens at once. {HELP}")
    talk = _Talk(chat, settings)
    talk.saved.update([Path(args.go_on)] if args.go_on else [])
    with opened.model.edit(edits):
        for line in _lines():
            try:
                talk.take(line.strip())
            except (ValueError, OSError) as error:  # of this line; the conversation goes on
                _say(describe(error) if isinstance(error, OSError) else str(error))
    return 0


class _Talk:
    """What lines of input do to a conversation."""

    def __init__(self, chat, settings):
        self.chat, self.settings, self.saved = chat, settings, set()

    def take(self, line):
        """A line: a command, or a question, whose answer is printed."""
        name, _, text = line.partition(" ")
        commands = {"/reset": self.reset, "/system": self.system, "/save": self.save}
        if name in commands:
            commands[name](text.strip())
        elif name.startswith("/") and "/" not in name[1:]:
            _say(f"there is no {name}; {HELP}")
        elif line:
            self.answer(line)

    def reset(self, text):
        self.chat.reset()
        _say("all turns are forgotten")

    def system(self, text):
        if text:
            self.chat.set_system(text)
        _say(f"system: {self.chat.system or 'what the template says'}")

    def save(self, text):
        if not text:
            raise ValueError("/save needs the name of a file")
        path, kept = Path(text), saved_chats.beside(text)
        for file in (path, kept):
            if file.exists() and path not in self.saved:
                raise ValueError(f"{file} exists; give another name")
        known = saved_chats.save(self.chat, path, self.settings["rng"])
        self.saved.add(path)
        _say(f"saved to {path}{', and keys and values beside it' if known else ''}; --continue {path} goes on")

    def answer(self, question):
        for turn in self.chat.ask(question):
            which = f"turn {turn.number} ({_short(turn.question)}, {turn.tokens} tokens)"
            _say(f"{which} no longer fits into {self.chat.size:,} tokens: the model does not see it any more")
        try:
            for text in self.chat.answer(**self.settings):
                print(text, end="", flush=True)
        except KeyboardInterrupt:
            print()
            _say("stopped; the model sees its answer up to here")
            return
        print(flush=True)
        if self.chat.cut:
            _say(f"all {self.chat.size:,} tokens are used, so the answer ends here")


def _lines():
    """The lines of the input; a prompt is shown if a person types them."""
    typed = sys.stdin.isatty()
    if typed:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (gives input() arrow keys and a history)
    while True:
        try:
            yield input("> " if typed else "")
        except EOFError:
            if typed:
                print()
            return


def _say(text):
    print(f"[{text}]", file=sys.stderr, flush=True)


def _short(text):
    return f"“{text if len(text) <= 30 else text[:29] + '…'}”"


def _check(args):
    if args.go_on and args.system is not None:
        raise ValueError("--system begins a conversation, --continue has its own; leave one out")
    check_limits("--context", args.context, at_least=1, at_most=10**9)
    check_limits("--temperature", args.temperature, at_least=0, at_most=1e30)
    check_limits("--top-p", args.top_p, above=0, at_most=1)
    check_limits("--seed", args.seed, at_least=0, at_most=LARGEST)

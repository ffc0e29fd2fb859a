"""`autotx serve`: a language model behind OpenAI's API, for programs on this machine, and a page that looks into it."""

import sys
from pathlib import Path

from autotx.models.commands.chat import add_context, add_weights, weights_of
from autotx.models.config import check_limits
from autotx.models.formats import KNOWN, open_reader
from autotx.models.serving.server import SECONDS, Service
from autotx.models.serving.transport import HOST, Server

PORT = 8000
EXAMPLES = ("autotx serve", "autotx serve --model runs/book --port 8001")


def add_arguments(parser):
    parser.add_argument("--model", metavar="NAME", default="smollm2", help=f"{KNOWN} (default: %(default)s)")
    parser.add_argument(
        "--port", type=int, metavar="N", default=PORT, help="of 127.0.0.1; 0 for a free one (default: %(default)s)"
    )
    add_context(parser)
    parser.add_argument(
        "--seconds", type=float, metavar="X", default=SECONDS, help="that a text may take (default: %(default)s)"
    )
    add_weights(parser)


def run(args):
    """Answer requests until Ctrl-C. Returns the exit status."""
    check_limits("--port", args.port, at_least=0, at_most=65535)
    check_limits("--context", args.context, at_least=2, at_most=10**9)
    check_limits("--seconds", args.seconds, above=0, at_most=1e9)
    service = Service(open_reader(args.model, weights_of(args)), Path(args.model).name, args.context, args.seconds)

    def prepare():
        print(f"{service.name}: ready after {service.warm():.1f} s of compiling or loading kernels", file=sys.stderr)

    try:
        server = Server(args.port, service.answer, prepare)
    except OSError as error:
        raise ValueError(f"--port {args.port}: {error.strerror}; give another one") from None
    with server:
        place = f"http://{HOST}:{server.port}"
        told = f"{service.name}: the page is at {place}/, the API is at {place}/v1; Ctrl-C ends"
        print(told, file=sys.stderr, flush=True)
        try:
            server.serve_forever()
        finally:
            service.stopping.set()
    return 0

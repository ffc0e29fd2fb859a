"""HTTP for programs on this machine alone: what is too large, too slow or comes from a foreign page is refused.

The server listens on the loopback. A page in a browser on this machine could still send requests to it, in the name of
the user: directly, or by a domain name of its own that it lets point here ("DNS rebinding"). So the header Host must
name this server, and Origin and Sec-Fetch-Site, which browsers send and pages cannot change, must not be those of a
foreign page. No answer allows other origins to read it, and no path of a request is ever looked up on the disk.
"""

import contextlib
import json
import select
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from autotx.files import parse_json

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")
LARGEST_BODY = 1 << 20  # bytes
REQUEST_SECONDS = 20  # that a request may take to arrive, and a client to take a piece of the answer
CONNECTIONS = 64
WAITING = 8  # requests, beside the one that is answered
SAFE = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)  # what a browser lets a page of this server do: nothing but with this server
LINGER = 2.0  # seconds in which the rest of a refused body is thrown away, so that the client reads why


class RefusedError(Exception):
    """A request that is not answered: its status, and the API's error object."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None, **headers: str):
        super().__init__(message)
        self.status, self.headers = status, {name.replace("_", "-"): value for name, value in headers.items()}
        kind = "invalid_request_error" if status < 500 else "server_error"
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


class GoneError(Exception):
    """The client has closed the connection."""


class Turns:
    """A queue: one request at a time has its turn, in the order in which they came."""

    def __init__(self):
        self._line, self._changed = deque(), threading.Condition()

    @contextlib.contextmanager
    def wait(self, check: Callable[[], None], tell: Callable[[int], None] | None = None) -> Iterator[int]:
        """`with turns.wait(check) as before:` runs the body when it is its turn; before it there were so many requests.

        check: called now and then, and may raise. tell: called with the number of requests that are before this one,
        whenever it has changed. RefusedError: too many are waiting.
        """
        me = object()
        with self._changed:
            before = len(self._line)
            if before > WAITING:
                raise RefusedError(503, f"{before - 1} requests are waiting; try again later", code="queue_full",
                              Retry_After="5", X_Queue_Length=str(before))  # fmt: skip
            self._line.append(me)
        try:
            told = None
            while now := self._before(me, told):
                if tell is not None and now != told:
                    tell(now)
                told = now
                check()
            yield before
        finally:
            with self._changed:
                self._line.remove(me)
                self._changed.notify_all()

    def _before(self, me, told):
        """How many are before one; where they are `told` still, waits a little for a change."""
        with self._changed:
            self._changed.wait_for(lambda: self._line.index(me) != told, 0.2)
            return self._line.index(me)


class Server(ThreadingHTTPServer):
    """`serve_forever` answers requests by `answer(handler)`, each in a thread of its own.

    prepare: called when the port is known to be free, before it is open.
    """

    daemon_threads = True
    request_queue_size = CONNECTIONS

    def __init__(self, port: int, answer: Callable[["Handler"], None], prepare: Callable[[], None] | None = None):
        self.answer, self._free = answer, threading.Semaphore(CONNECTIONS)
        super().__init__((HOST, port), Handler, bind_and_activate=False)
        try:
            self.server_bind()
            if prepare is not None:
                prepare()
            self.server_activate()
        except BaseException:
            self.server_close()
            raise

    @property
    def port(self) -> int:
        return self.server_address[1]

    def process_request(self, request, client_address):
        self._free.acquire()  # at most CONNECTIONS threads; the system keeps some more waiting
        super().process_request(request, client_address)

    def process_request_thread(self, request, client_address):
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request, client_address):
        error = sys.exception()
        if not isinstance(error, OSError):  # a client that goes away is no fault
            print(f"autotx serve: {type(error).__name__}: {error}", file=sys.stderr)


class Handler(BaseHTTPRequestHandler):
    """One request, and its answer; then the connection is closed."""

    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "autotx", ""
    timeout = REQUEST_SECONDS
    begun = False  # whether the answer's headers are sent

    # Reading

    def handle(self):
        self.close_connection = True
        late = threading.Timer(REQUEST_SECONDS, self._hang_up)  # the timeout of the socket is for each piece of it
        late.daemon = True
        late.start()
        self._late = late
        try:
            self.handle_one_request()
        finally:
            late.cancel()

    def _hang_up(self):
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RD)

    def do_GET(self):
        try:
            self._check_origin()
            self.server.answer(self)
        except RefusedError as error:
            self._refuse(error)
        except GoneError:
            pass
        except Exception as error:  # a mistake of this program: the client is told, too
            print(f"autotx serve: {type(error).__name__}: {error}", file=sys.stderr)
            self._refuse(RefusedError(500, f"the server failed: {type(error).__name__}"))

    do_POST = do_GET  # noqa: N815  (the base class calls it so)

    def handle_expect_100(self):
        return True  # `body` says so, after the request has been checked

    def send_error(self, code, message=None, explain=None):
        """What the base class has to complain of: a request that is no HTTP, or of another method."""
        text = message or HTTPStatus(code).phrase
        self._refuse(RefusedError(405 if code == HTTPStatus.NOT_IMPLEMENTED else code, text))

    def log_message(self, format, *args):
        pass

    def _check_origin(self):
        hosts = [f"{name}:{self.server.port}" for name in NAMES]
        if self.headers.get_all("Host") not in [[host] for host in hosts]:
            raise RefusedError(403, f"the header Host should be {' or '.join(hosts)}", code="forbidden_host")
        origin, site = self.headers.get("Origin"), self.headers.get("Sec-Fetch-Site")
        if origin not in (None, *(f"http://{host}" for host in hosts)) or site not in (None, "none", "same-origin"):
            raise RefusedError(403, "pages of other origins may not use this server", code="forbidden_origin")

    def body(self) -> dict[str, Any]:
        """The JSON object of the request. RefusedError: it is too large (and not read), of unknown length, or none."""
        length = self.headers.get("Content-Length", "")
        if "Transfer-Encoding" in self.headers or not length.isascii() or not length.isdigit():
            raise RefusedError(411, "give the body's length by Content-Length")
        if len(length) > 12 or int(length) > LARGEST_BODY:
            raise RefusedError(413, f"the body has {length[:20]} bytes; at most {LARGEST_BODY:,} are taken")
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.send_response_only(100)
            self.end_headers()
        content = self.rfile.read(int(length))
        if len(content) < int(length):
            raise RefusedError(400, "the body ended, or stopped, before its Content-Length")
        self._late.cancel()
        try:
            return parse_json(content, "the body")
        except ValueError as error:
            raise RefusedError(400, " ".join(str(error).split()), code="invalid_json") from None

    def check(self) -> None:
        """GoneError when the client has closed the connection."""
        try:
            if select.select([self.connection], [], [], 0)[0] and not self.connection.recv(1, socket.MSG_PEEK):
                raise GoneError
        except OSError:
            raise GoneError from None

    # Answering

    def begin(self, status: int, kind: str, length: int | None = None, **headers: str) -> None:
        """Send the headers of an answer. length: of its body; None for one that ends with the connection."""
        self.begun = True
        self.send_response(status)
        fixed = {
            "Content_Type": kind,
            "Cache_Control": "no-store",
            "X_Content_Type_Options": "nosniff",
            "Content_Security_Policy": SAFE,
        }
        sized = {} if length is None else {"Content_Length": str(length)}
        for name, text in {**fixed, **sized, "Connection": "close", **headers}.items():
            self.send_header(name.replace("_", "-"), text)
        self.end_headers()

    def send(self, status: int, kind: str, content: bytes, **headers: str) -> None:
        """Send a whole answer."""
        self.begin(status, kind, len(content), **headers)
        self.write(content)

    def send_json(self, value: Any, status: int = 200, **headers: str) -> None:
        self.send(status, "application/json", json.dumps(value, ensure_ascii=False).encode(), **headers)

    def send_event(self, value: Any) -> None:
        """Send a part of a stream: a JSON value, or a text."""
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        self.write(f"data: {text}\n\n".encode())

    def write(self, content: bytes) -> None:
        """GoneError: the client has gone away, or takes nothing for REQUEST_SECONDS."""
        try:
            self.wfile.write(content)
        except OSError:
            raise GoneError from None

    def _refuse(self, error):
        with contextlib.suppress(GoneError, OSError):
            if self.begun:  # in the middle of a stream
                self.send_event(error.body)
                return
            self.send_json(error.body, error.status, **error.headers)
            self.connection.shutdown(socket.SHUT_WR)
            end = time.monotonic() + LINGER
            self.connection.settimeout(LINGER)
            while time.monotonic() < end and self.connection.recv(1 << 16):
                pass

"""The standard streams of the commands: closed, full, without a reader, or a terminal."""

import contextlib
import os
import re
import subprocess
import sys
import threading
import unicodedata

import pytest

from autotx.models import streams
from autotx.models.cli import NO_MEMORY, main

posix = pytest.mark.skipif(os.name != "posix", reason="the system has other streams")
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1"}  # each reserves memory
ACTING = "\x1b]0;title\x07\x9b31m\r\x7f"  # sets the title of a terminal, its colour, and the place in the line


def call(*argv):
    """The exit status of `autotx argv`."""
    try:
        return main([str(word) for word in argv])
    except SystemExit as end:
        return end.code


@contextlib.contextmanager
def terminal(monkeypatch):
    """`with terminal(monkeypatch) as shown:` the standard output and error are a terminal; afterwards `shown` is a list
    with the text that it got."""
    pty, end, shown = pytest.importorskip("pty"), "end of text", []
    ours, theirs = pty.openpty()

    def receive():
        received = b""
        while not received.endswith(end.encode()):
            received += os.read(ours, 1 << 16)
        shown.append(received.decode().removesuffix(end).replace("\r\n", "\n"))

    reader = threading.Thread(target=receive)
    reader.start()
    with open(theirs, "w") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        patch.setattr(sys, "stderr", stream)
        try:
            yield shown
        finally:
            stream.write(end)
            stream.flush()
            reader.join()
    os.close(ours)


@pytest.fixture(scope="module")
def acting(tmp_path_factory):
    """A run of a text with control characters."""
    folder = tmp_path_factory.mktemp("acting")
    (folder / "text.txt").write_bytes((f"a\tb{ACTING}\n" * 100).encode())
    sizes = {"n-layer": 1, "n-head": 2, "n-embd": 8, "block-size": 8, "batch-size": 2, "steps": 2, "eval-interval": 1}
    settings = [f"--{name}={value}" for name, value in sizes.items()]
    assert call("train", "--text", folder / "text.txt", "--out", folder / "run", *settings) == 0
    return folder / "run"


@posix
def test_control_characters_are_escapes_on_a_terminal(acting, monkeypatch):
    with terminal(monkeypatch) as shown:
        assert call("generate", "--model", acting, "--prompt", f"b{ACTING}", "--max-new-tokens=1", "--seed=1") == 0
        assert call("graph", "--model", f"x{ACTING}", "--out", "x.svg") == 2
        assert call("train", "--out", acting, "--resume", "--steps=3") == 0  # which prints a sample
    (text,) = shown
    assert r"b\x1b]0;title\x07\x9b31m\r\x7f" in text
    assert r"autotx graph: --model x\x1b]0;title\x07\x9b31m \x7f: there is no such folder" in text
    assert {c for c in text if unicodedata.category(c) == "Cc"} == {"\n", "\t"}


@posix
def test_control_characters_are_themselves_in_a_pipe(acting, capsys):
    assert call("generate", "--model", acting, "--prompt", f"b{ACTING}", "--max-new-tokens=1", "--seed=1") == 0
    assert capsys.readouterr().out.startswith(f"b{ACTING}")


@posix
def test_colours_of_our_own_are_meant(monkeypatch):
    with terminal(monkeypatch) as shown:
        assert call("paper", "--section", "softmax") == 0
    assert "\x1b[" in shown[0]


CLOSED = """
import os, sys
from autotx.models import streams
with streams.for_people():
    print("lost")
    print("lost", file=sys.stderr)
    opened = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
    os.write(opened, f"{opened} {sys.stdin.read()!r}".encode())
    os.write(2, b"lost")
"""


@posix
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_the_null_device(tmp_path, closed):
    """Otherwise a file that is opened takes the number of the stream, and receives what is meant for it."""
    command = f'"$0" -c "$1" file {closed}'
    process = subprocess.run(
        ["sh", "-c", command, sys.executable, CLOSED], cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True
    )
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "file").read_text() == "3 ''"


@posix
def test_a_python_without_streams(monkeypatch):
    """Such as pythonw."""
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)
    assert call("train", "--out", "nowhere", "--resume") == 2
    with streams.for_people():
        print("lost")
        assert sys.stdin.read() == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["train", "--help"], []])
def test_help_that_cannot_be_written_is_an_error(argv, monkeypatch, capsys):
    with open("/dev/full", "w") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", full)
        assert call(*argv) == 2
    name = " ".join(["autotx", *argv[:1]]) if argv[:1] == ["train"] else "autotx"
    assert capsys.readouterr().err == f"{name}: No space left on device\n"


@posix
def test_a_reader_that_leaves_ends_a_command_quietly(monkeypatch, capsys):
    reading, writing = os.pipe()
    os.close(reading)
    with open(writing, "w") as closed, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", closed)
        assert call("graph", "--model", "mlp", "--out", os.devnull) == 2
        assert call("paper", "--section", "softmax") == 0
    assert "Broken pipe" not in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["train", "--out", "bad\udcff"], ["generate", "--prompt", "h\udcff"], ["\udcff"]])
def test_what_is_not_utf8_is_shown_as_its_bytes(argv, capsys):
    assert call(*argv) == 2
    name = "autotx" if len(argv) == 1 else f"autotx {argv[0]}"
    shown = argv[-1].encode("utf-8", "surrogateescape")
    assert capsys.readouterr().err == f"{name}: {shown} is not UTF-8; type it in UTF-8, or rename the file\n"


@posix
def test_files_that_their_owner_could_not_use_are_not_made(fails, tmp_path):
    before = os.umask(0o777)
    try:
        fails(["train", "--out", tmp_path / "run"], "umask 777 makes files that their owner cannot use; set another")
    finally:
        os.umask(before)


@pytest.mark.parametrize("text", NO_MEMORY)
@pytest.mark.parametrize("kind", [ImportError, OSError, RuntimeError])
def test_a_library_or_a_thread_without_memory_is_told_in_one_line(fails, monkeypatch, text, kind):
    def starved(args):
        raise kind(f"{text}, which takes a long explanation")

    monkeypatch.setattr("autotx.models.commands.graph.run", starved)
    fails(["graph", "--model", "mlp"], "not enough memory; make the model or the batch smaller")


@pytest.mark.skipif(sys.platform != "linux", reason="limits differ")
def test_a_training_without_memory_for_the_compiler_leaves_nothing(tmp_path):
    # Python and NumPy fit into this, LLVM's library does not: nearer to what is needed, where memory ends is chance.
    limited = 'ulimit -v 220000; exec "$@"'
    command = ["sh", "-c", limited, "sh", sys.executable, "-m", "autotx", "train", "--n-embd=16", "--out", "run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, **ONE_THREAD})
    assert done.returncode == 2
    assert re.fullmatch(r"autotx train: not enough memory; make the model or the batch smaller \(.*\)\n", done.stderr)
    assert not list(tmp_path.iterdir())

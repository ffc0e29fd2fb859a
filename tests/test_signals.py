"""Signals and forks wait for imports and compilations: what comes after them works."""

import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

import numba
import pytest

from autotx.models.cli import main
from autotx.signals import uncut

needs_posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
needs_jit = pytest.mark.skipif(numba.config.DISABLE_JIT, reason="nothing is compiled")


@pytest.fixture
def handled():
    """Signals SIGUSR1 and SIGINT note themselves in this list."""
    came, before = [], {n: signal.getsignal(n) for n in (signal.SIGUSR1, signal.SIGINT)}
    for number in before:
        signal.signal(number, lambda number, frame: came.append(number))
    yield came
    for number, handler in before.items():
        signal.signal(number, handler)


@needs_posix
def test_signals_wait_for_the_end_of_the_outermost_block(handled):
    with uncut():
        with uncut():
            signal.raise_signal(signal.SIGUSR1)
            signal.raise_signal(signal.SIGINT)
        assert handled == []
    assert sorted(handled) == [signal.SIGINT, signal.SIGUSR1]
    signal.raise_signal(signal.SIGUSR1)
    assert handled[2:] == [signal.SIGUSR1]  # the handlers are those of before


@needs_posix
def test_an_interrupt_is_raised_at_the_end_of_the_block():
    before, done = signal.signal(signal.SIGINT, signal.default_int_handler), []

    def work():
        with uncut():
            signal.raise_signal(signal.SIGINT)
            done.append(True)

    try:
        with pytest.raises(KeyboardInterrupt):
            work()
        assert done
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


@needs_posix
def test_a_fork_waits_for_the_block_of_another_thread():
    inside, state = threading.Event(), []

    def work():
        with uncut():
            inside.set()
            time.sleep(0.2)
            state.append("whole")

    thread = threading.Thread(target=work)
    thread.start()
    inside.wait()
    child = os.fork()
    if child == 0:
        with uncut():  # the lock is free
            os._exit(0 if state == ["whole"] else 1)
    assert os.waitpid(child, 0)[1] == 0
    thread.join()


def _python(code, *arguments, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], env={**os.environ, **environment}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a shell's background ignores it
    )  # fmt: skip


HANDLER_COMPUTES = """
import signal, sys
import numpy as np
import autotx
from autotx.kernels import gemm
x, found = np.ones((80, 80), np.float32), []
def compute(number, frame):
    found.append(gemm.matmul(x, x)[0, 0])
signal.signal(signal.SIGALRM, compute)
signal.setitimer(signal.ITIMER_REAL, 0.1, 0.3)
print(gemm.matmul(x, x)[0, 0])
signal.setitimer(signal.ITIMER_REAL, 0)
print(set(map(float, found)))
"""
FORKED = """
import os, sys, threading, time
import numpy as np
from autotx.kernels import gelu
x = np.ones((80, 80), np.float32)
threads = [threading.Thread(target=gelu.gelu, args=(x, kind)) for kind in ("none", "tanh")]
for thread in threads:
    thread.start()
for _ in range(5):
    time.sleep(0.1)
    child = os.fork()
    if child == 0:
        os._exit(0 if abs(gelu.gelu(x)[0, 0] - 0.8413) < 1e-3 else 1)
    assert os.waitpid(child, 0)[1] == 0
for thread in threads:
    thread.join()
print("done")
"""


@needs_posix
@needs_jit
@pytest.mark.slow
@pytest.mark.parametrize(("code", "said"), [(HANDLER_COMPUTES, "80.0\n{80.0}\n"), (FORKED, "done\n")])
def test_while_kernels_compile(code, said, tmp_path):
    """A handler that computes is called when a kernel is done; a child of a fork has whole kernels."""
    out, errors = _python(code, NUMBA_CACHE_DIR=str(tmp_path)).communicate(timeout=300)
    assert out == said, errors


# Interrupted once at any moment, or not at all where it is too late; what comes after must work.
SESSION = """
import sys
print("begun", flush=True)
interrupted = False
while True:
    try:
        import autotx
        from autotx.kernels import gelu
        x = autotx.Tensor([[1.0, 2.0]] * 80, requires_grad=True)
        y = (x @ x.T).gelu()
        y.sum().backward()
        break
    except KeyboardInterrupt:
        if interrupted:
            raise
        interrupted = True
print(round(float(y.data[0, 0]), 3), x.grad.shape, flush=True)
"""


@needs_posix
@pytest.mark.slow
def test_a_session_works_after_an_interrupt_at_any_moment():
    """While NumPy, Numba and the kernels are imported."""
    chance, interrupts = random.Random(0), 0
    for _ in range(12):
        session = _python(SESSION)
        session.stdout.readline()
        time.sleep(chance.uniform(0, 1.5))
        session.send_signal(signal.SIGINT)
        out, errors = session.communicate(timeout=300)
        if "KeyboardInterrupt" in errors and out:  # after the last line
            continue
        assert out == "5.0 (80, 2)\n", errors
        interrupts += 1
    assert interrupts > 6


COMMAND_LINE = """
import sys
sys.argv[0] = "autotx"
print("begun", flush=True)
from autotx.models.cli import main
sys.exit(main())
"""


@needs_posix
@needs_jit
@pytest.mark.slow
def test_the_command_line_stops_in_one_line_at_any_moment(tmp_path):
    """While it imports and compiles, from an empty cache. Nothing is left in that but whole kernels."""
    chance, stopped = random.Random(0), 0
    run, tiny = tmp_path / "run", "--n-layer 1 --n-embd 16 --n-head 1 --block-size 16 --batch-size 2 --eval-batches 1"
    assert main(f"train --out {run} --steps 1 {tiny}".split()) == 0
    for command in [["warmup"], ["generate", "--model", str(run), "--max-new-tokens", "5"]] * 8:
        folder = tmp_path / "cache"
        process = _python(COMMAND_LINE, *command, NUMBA_CACHE_DIR=str(folder))
        process.stdout.readline()
        time.sleep(chance.uniform(0, 2.5))
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=300)
        lines = [line for line in errors.splitlines() if line and "compiling kernels" not in line]
        if process.returncode in (130, -signal.SIGINT):  # the same to a shell: Python ends so after exec() of a string
            assert lines == [f"autotx {command[0]}: stopped"]
            stopped += 1
        else:  # it was done before
            assert process.returncode == 0, errors
        assert [p for p in folder.rglob("*") if p.is_file() and p.suffix != ".kernel"] == []
        shutil.rmtree(folder, ignore_errors=True)
    assert stopped > 8

"""The pool of threads: every task is done once, whoever comes late, goes, or calls at the same time."""

import os
import subprocess
import sys
import threading
import time

import numba
import numpy as np
import pytest
from numba import types

import autotx
from autotx.kernels import gelu, gemm, launches, mixed, threads
from autotx.kernels.jit import kernel
from autotx.kernels.tile import thread_memory
from autotx.models import GPT, GPTConfig, Transformer, TransformerConfig
from autotx.models.transformer import PAD

if numba.config.DISABLE_JIT:
    pytest.skip("without the JIT there is no pool", allow_module_level=True)


@launches.shared(types.int64[::1], types.int64[::1], types.int64)
@kernel
def note(counts, workers, rounds, worker, task):
    """A task of some microseconds that notes that it was done, and by whom."""
    for _ in range(rounds):  # a walk that ends at worker, and that no compiler can foresee
        workers[task] = (workers[task] * 1103515245 + 12345) % 2147483648
    counts[task] += 1
    workers[task] = worker


def run(tasks, rounds=300):
    counts, workers = np.zeros(tasks, np.int64), np.full(tasks, -1)
    note(tasks, counts, workers, rounds)
    return counts, workers


@pytest.fixture(autouse=True)
def all_threads():
    before = autotx.get_num_threads()
    yield
    autotx.set_num_threads(before)


@pytest.mark.parametrize("tasks", [0, 1, 2, 3, 1000])
def test_every_task_is_done_once(tasks):
    for n in range(1, numba.config.NUMBA_NUM_THREADS + 1):
        autotx.set_num_threads(n)
        for _ in range(50):
            counts, workers = run(tasks)
            assert (counts == 1).all()
            assert set(workers) <= set(range(n))


def test_workers_come_to_help():
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("one core")
    for _ in range(100):
        if len(set(run(64, rounds=20_000)[1])) > 1:
            return
    pytest.fail("in 100 calls of some milliseconds no worker came")


def test_a_worker_that_fell_asleep_is_woken():
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("one core")
    run(64)
    for _ in range(20):
        time.sleep(0.02)
        if threads.pool[threads.ASLEEP]:
            break
    else:
        pytest.fail("no worker fell asleep")
    test_workers_come_to_help()


def test_threads_of_python_may_call_at_once():
    failed = []

    def work():
        for _ in range(300):
            counts, _ = run(17)
            if not (counts == 1).all():
                failed.append(counts)

    callers = [threading.Thread(target=work) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not failed


@launches.shared(types.float32[::1], types.float32[::1])
@kernel
def double_and_one(x, y, worker, task):
    y[task] = 2 * x[task] + 1


def test_recorded_launches_run_again_in_their_order_and_only_then():
    x, y, counts = np.zeros(33, np.float32), np.zeros(33, np.float32), np.zeros(17, np.int64)
    with launches.recording() as recorded:
        double_and_one(33, x, y)
        double_and_one(33, y, x)
        note(17, counts, np.full(17, -1), 1)
        note(1, counts, np.full(1, -1), 1)
    assert not y.any()
    assert not counts.any()
    for n in range(1, numba.config.NUMBA_NUM_THREADS + 1):
        autotx.set_num_threads(n)
        x[:], counts[:] = 0, 0
        for i in range(1, 8):
            recorded.run()
            assert (x == 4**i - 1).all()
            assert (counts[0], set(counts[1:])) == (2 * i, {i})
    double_and_one(33, x, y)  # no longer recorded
    assert (y == 2 * x + 1).all()
    with launches.recording() as nothing:
        pass
    nothing.run()


def test_recorded_launches_have_scratch_memory_of_their_own():
    outside = thread_memory(10, np.dtype(np.float32))
    with launches.recording():
        inside = thread_memory(10, np.dtype(np.float32))
        assert thread_memory(10, np.dtype(np.float32)) is inside
    assert not np.shares_memory(inside, outside)
    assert thread_memory(10, np.dtype(np.float32)) is outside


def test_a_worker_that_fell_asleep_between_recorded_launches_is_woken():
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("one core")
    counts, workers = np.zeros(64, np.int64), np.full(64, -1)
    with launches.recording() as recorded:
        note(64, counts, workers.copy(), 1)
        note(1, counts, workers.copy(), 5_000_000)  # the worker has nothing to do for some 20 ms
        note(64, counts, workers, 20_000)
    for _ in range(50):
        recorded.run()
        if len(set(workers)) > 1:
            return
    pytest.fail("in 50 runs no worker came after a long task of the caller's")


# A pool of more threads than there are cores, in a process of its own.
MANY = """
import numpy as np, sys
sys.path.insert(0, sys.argv[1])
import test_threads as t
import autotx
for n in (5, 1, 3):
    autotx.set_num_threads(n)
    for _ in range(200):
        counts, workers = t.run(40)
        assert (counts == 1).all()
        assert set(workers) <= set(range(n))
"""
FORKED = """
import os, sys
sys.path.insert(0, sys.argv[1])
import test_threads as t
assert (t.run(100)[0] == 1).all()
child = os.fork()
if child == 0:
    ok = all((t.run(100)[0] == 1).all() for _ in range(20))
    os._exit(0 if ok else 1)
assert os.waitpid(child, 0)[1] == 0
assert (t.run(100)[0] == 1).all()
"""


@pytest.mark.slow
@pytest.mark.parametrize("script", [MANY, FORKED])
def test_in_a_process_of_its_own(script):
    """Both also end while workers spin, without a word and in no time."""
    if script is FORKED and not hasattr(os, "fork"):
        pytest.skip("this system has no fork")
    environment = {**os.environ, "NUMBA_NUM_THREADS": "5"}
    done = subprocess.run(
        [sys.executable, "-c", script, os.path.dirname(__file__)],
        env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "Traceback" not in done.stderr


def test_the_number_of_threads_may_change_while_another_thread_computes():
    """Scratch memory has room for every worker that may come, not only for those at its allocation."""
    gemm.matmul(MATRIX, MATRIX)
    right, done, wrong = gemm.matmul(MATRIX, MATRIX), threading.Event(), []

    def switch():
        while not done.is_set():
            autotx.set_num_threads(1)
            autotx.set_num_threads(numba.config.NUMBA_NUM_THREADS)

    def multiply():
        wrong.extend(1 for _ in range(2) if not (gemm.matmul(MATRIX, MATRIX) == right).all())

    switching = threading.Thread(target=switch)
    switching.start()
    for _ in range(300):  # threads without scratch memory as yet
        short = threading.Thread(target=multiply)
        short.start()
        short.join()
    done.set()
    switching.join()
    assert not wrong


MATRIX = np.random.default_rng(0).standard_normal((300, 300)).astype(np.float32)

LIMIT_KEPT = """
import os
import numba, numpy as np
import autotx
most = autotx.get_num_threads()
os.environ["NUMBA_NUM_THREADS"] = "64"
numba.config.reload_config()  # as Numba does before it compiles
try:
    autotx.set_num_threads(64)
except ValueError as error:
    print(str(error).replace(str(most), "MOST"))
x = np.ones((300, 300), np.float32)
print((autotx.Tensor(x) @ x).data[0, 0])
"""


def test_the_limit_of_threads_is_that_of_the_import():
    gemm.matmul(MATRIX, MATRIX)  # compiled here
    environment = {**os.environ, "NUMBA_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", LIMIT_KEPT], env=environment, capture_output=True, text=True, check=True
    )  # fmt: skip
    advice = "to have more, set NUMBA_NUM_THREADS before Python starts"
    assert done.stdout == f"set_num_threads: 64 asked for, 1 to MOST can be had; {advice}\n300.0\n"


PINNED = """
import os, sys, time
import numpy as np
from autotx.kernels import gelu
core = max(os.sched_getaffinity(0))
child = os.fork()
if child == 0:
    os.sched_setaffinity(0, {core})
    for _ in range(5):
        gelu.gelu(np.ones((600, 600), np.float32))
        time.sleep(0.02)  # the worker goes to sleep, and chooses a core when it wakes up
    tasks = [os.sched_getaffinity(int(t)) for t in os.listdir("/proc/self/task")]
    print(all(cores == {core} for cores in tasks), flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""


@pytest.mark.skipif(sys.platform != "linux" or numba.config.NUMBA_NUM_THREADS < 2, reason="needs Linux and two cores")
def test_a_pinned_process_keeps_its_workers_on_its_cores():
    gelu.gelu(np.ones((600, 600), np.float32))  # compiled here
    done = subprocess.run(
        [sys.executable, "-c", PINNED], capture_output=True, text=True, check=True
    )  # fmt: skip
    assert done.stdout == "True\n"


def test_how_many_threads():
    for n in (0, 1.5):
        with pytest.raises(ValueError, match=f"set_num_threads: {n} asked for, 1 to"):
            autotx.set_num_threads(n)
    autotx.set_num_threads(1)
    assert autotx.get_num_threads() == 1
    assert set(run(100)[1]) == {0}


BLAS = """
import numpy as np, os, time
import autotx
x = np.ones((512, 512), np.float32)
def nanoseconds():
    tasks = f"/proc/{os.getpid()}/task"
    return sum(int(open(f"{tasks}/{t}/schedstat").read().split()[0]) for t in os.listdir(tasks))
for _ in range(3):
    x @ x
before = nanoseconds()
for _ in range(5):
    x @ x
    time.sleep(0.1)
print((nanoseconds() - before) / 5e6)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/schedstat"), reason="nobody here says how long a thread has run")
def test_blas_threads_go_to_sleep():
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_THREAD_TIMEOUT"}
    done = subprocess.run(
        [sys.executable, "-c", BLAS], env=environment, capture_output=True, text=True, check=True
    )  # fmt: skip
    assert float(done.stdout) < 50  # ms of work for a product of 3 ms; a thread that goes on spinning adds 100


AT_EXIT = """
import atexit, time
import numpy as np
x = np.ones((600, 600), np.float32)
atexit.register(lambda: print((gelu.gelu(x) == before).all()))  # before the pool's own: what comes last is called first
from autotx.kernels import gelu
before = gelu.gelu(x)
time.sleep(0.05)  # the worker goes to sleep
"""


def test_a_kernel_may_be_called_when_the_workers_have_gone():
    gelu.gelu(np.ones((600, 600), np.float32))  # compiled here, so that the process below has nothing to say
    done = subprocess.run([sys.executable, "-c", AT_EXIT], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("True\n", "")


def _losses(model, batches, dtype):
    """The losses of two steps, with dropout, accumulation, clipping and AdamW; and the bits of the weights after.
    dtype: of the products."""
    rng, losses = np.random.default_rng(1), []
    optimizer = autotx.optim.AdamW(autotx.optim.decay_groups(model, 0.1), lr=1e-2)
    for batch in batches:
        for _ in range(2):
            with autotx.autocast(dtype):
                loss = model(*batch, rng=rng)[1] if isinstance(model, GPT) else model.loss(*batch, 0.1, rng)
            loss.backward()
            losses.append(loss.item())
        autotx.optim.clip_grad_norm(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return losses, {name: array.tobytes() for name, array in model.state_dict().items()}


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="one core")
@pytest.mark.parametrize("kind", ["gpt", "transformer"])
@pytest.mark.parametrize("product", [None, *mixed._that_run()])
def test_a_training_step_is_the_same_bits_with_any_number_of_threads(kind, product, rng, monkeypatch):
    """The products are large enough to be computed by our own kernels, each of which is spread over the threads.
    product: what multiplies bfloat16; None for products in float32."""
    monkeypatch.setattr(mixed, "_used", [product] if product else [])
    dtype = "bfloat16" if product else "float32"
    ids = rng.integers(3, 65, (2, 2, 12, 64))
    ids[:, :, ::2, 40:] = PAD  # of the transformer's sentences some are shorter
    results = []
    for n in (1, 2, 1, 2):
        autotx.set_num_threads(n)
        sizes = {"block_size": 64, "vocab_size": 65, "n_layer": 2, "n_head": 4, "n_embd": 128, "dropout": 0.1}
        make = (GPT, GPTConfig) if kind == "gpt" else (Transformer, TransformerConfig)
        results.append(_losses(make[0](make[1](**sizes), np.random.default_rng(0)), ids, dtype))
    assert results[0][0][0] > results[0][0][2]
    assert results[1:] == results[:1] * 3


# Threads that compute, forks and switches of the number of threads, all at once, in a process of its own.
STRESS = """
import os, random, sys, threading, time
import numpy as np
import autotx
from autotx import Tensor
failed, walks = [], []
x = np.random.default_rng(0).standard_normal((300, 300)).astype(np.float32)
shared = Tensor(x, requires_grad=True)
def gradients(w):
    loss = ((w @ x).gelu().softmax() * x).sum()
    loss.backward()
    return loss.item()
def own():
    w = Tensor(x, requires_grad=True)
    return gradients(w), w.grad.tobytes()
right = own()
end = time.monotonic() + float(sys.argv[1])
def compute():
    while time.monotonic() < end:
        if own() != right:
            failed.append("other bits")
def share():
    while time.monotonic() < end:
        gradients(shared)
        walks.append(1)
def start():
    while time.monotonic() < end:  # threads without scratch memory as yet
        thread = threading.Thread(target=lambda: own() == right or failed.append("other bits in a short thread"))
        thread.start()
        thread.join()
def switch():
    most = autotx.get_num_threads()
    while time.monotonic() < end:
        autotx.set_num_threads(random.randint(1, most))
threads = [threading.Thread(target=work) for work in (compute, compute, share, share, start, switch)]
for thread in threads:
    thread.start()
forks = 0
while time.monotonic() < end:
    child = os.fork()
    if child == 0:
        os._exit(0 if own() == right else 1)
    if os.waitpid(child, 0)[1] != 0:
        failed.append("a child")
    forks += 1
for thread in threads:
    thread.join()
one = np.frombuffer(right[1], np.float32)
if not np.allclose(shared.grad.reshape(-1), len(walks) * one, rtol=1e-3, atol=1e-3 * len(walks)):
    failed.append("lost gradients")
print(sorted(set(failed)), forks > 0 and len(walks) > 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("seconds", [
    pytest.param(5, marks=pytest.mark.slow), pytest.param(600, marks=pytest.mark.fuzz),
])  # fmt: skip
def test_threads_forks_and_switches_at_once(seconds):
    done = subprocess.run(
        [sys.executable, "-c", STRESS, str(seconds)], capture_output=True, text=True, timeout=seconds + 300,
        env={**os.environ, "NUMBA_NUM_THREADS": "4"},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "[] True\n"), done.stderr

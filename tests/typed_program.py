"""What a user writes, for type checkers: pyright and mypy find no mistake in it, and see the types that it claims.

    python tests/typed_program.py

A test runs it, too. Where a type is claimed, by assert_type, a checker compares it with what it found out.
"""

# mypy: warn-unused-ignores
# pyright: reportUnnecessaryTypeIgnoreComment=error

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, assert_type

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import autotx
from autotx import GradcheckError, Tensor, gradcheck, init, lift, nn, no_grad, optim, viz
from autotx.checkpoint import load_tensors, save_tensors
from autotx.models import GPT, MLP, GPTConfig, Transformer, TransformerConfig
from autotx.models.architecture import Opened
from autotx.models.data import Data, TextSource, load_data, random_blocks
from autotx.models.formats import open_model
from autotx.models.gpt import GPTReader
from autotx.models.inference.beams import Translation, translate
from autotx.models.inference.continuations import stream_text
from autotx.models.inference.pieces import Int8Matrix
from autotx.models.registry import settings_of
from autotx.models.tokenizers import CharTokenizer, Tokenizer
from autotx.models.train import train as train_run
from autotx.types import Array


@lift
def swish(x: Array, /, beta: float = 1.0):
    """y = x s, s = 1 / (1 + exp(-beta x)).   dx = g (s + beta x s (1 - s))."""
    s = 1 / (1 + np.exp(-beta * x))
    return x * s, (lambda g: g * (s + beta * x * s * (1 - s)),)


class Net(nn.Module):
    """A classifier of points: two linear layers with a normalization and an op of our own between them."""

    def __init__(self, hidden: int, rng: np.random.Generator):
        self.inner = nn.Sequential(nn.Linear(2, hidden, rng=rng), nn.LayerNorm(hidden))
        self.outer = nn.Linear(hidden, 3, rng=rng)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: np.ndarray, rng: np.random.Generator | None = None) -> Tensor:
        return self.outer(self.dropout(nn.GELU()(self.inner(x)), rng=rng))


def train(rng: np.random.Generator, steps: int = 30) -> float:
    """Three clouds of points. Returns the last loss."""
    labels = rng.integers(3, size=90)
    points = np.eye(3, 2)[labels] + rng.normal(0, 0.1, (90, 2))
    model = Net(16, rng)
    optimizer = optim.AdamW(optim.decay_groups(model, 0.01), lr=1e-2, betas=(0.9, 0.99))
    schedule = optim.warmup_cosine(1e-2, 1e-3, warmup_steps=5, total_steps=steps)
    value = float("nan")
    for step in range(steps):
        optimizer.lr = schedule(step)
        logits = assert_type(model(points, rng=rng), Tensor)
        loss = autotx.cross_entropy(logits, labels, label_smoothing=0.1, reduction="mean")
        loss.backward()
        assert_type(optim.clip_grad_norm(model.parameters(), 1.0), float)
        optimizer.step()
        optimizer.zero_grad()
        value = float(loss)
    with no_grad():
        guesses = model(points).data.argmax(axis=-1)
    print(f"loss {value:.3f}, {np.mean(guesses == labels):.0%} right")
    state = assert_type(model.state_dict(), dict[str, np.ndarray])
    with tempfile.TemporaryDirectory() as folder:
        save_tensors(Path(folder) / "net.safetensors", state)
        arrays, _ = load_tensors(Path(folder) / "net.safetensors")
    model.astype(np.float64).load_state_dict(arrays)
    return value


def operators(rng: np.random.Generator) -> None:
    """Methods, operators and functions, the tensor on either side."""
    x = Tensor(init.normal((2, 3), rng), requires_grad=True, name="x")
    y = x @ x.T + 1 - x.sum(axis=0) @ np.ones(3, np.float32)
    y = assert_type(2 * y / (1 + y**2) - -y, Tensor)
    y = assert_type(np.ones((2, 2), np.float32) @ y, Tensor)
    y = assert_type(y[0].exp() + y[:, None].mean(axis=(0, 1), keepdims=False) + abs(y)[-1], Tensor)
    z = x.reshape(3, 2).transpose(0, 1).softmax(axis=-1).masked_fill(np.eye(2, 3) > 0, 0.0)
    parts = assert_type(z.split(1, axis=1), list[Tensor])
    z = autotx.concat([*parts, z], axis=1).permute((1, 0)).clip(min=0.1).log()
    z = autotx.where(z > 0, z, autotx.einsum("ij->ij", swish(z, beta=0.5)))
    loss = assert_type((y.sum() * z.sum()).tanh(), Tensor)
    loss.backward(retain_graph=True)
    assert x.grad is not None
    assert_type(x.grad, np.ndarray)
    assert_type(x.shape, tuple[int, ...])
    assert_type(x.data, np.ndarray)
    for row in x:
        assert_type(row, Tensor)
    point = Tensor([0.5, -0.5], requires_grad=True, dtype=np.float64)
    try:
        assert_type(gradcheck(swish, point), bool)
    except GradcheckError as error:
        print(error)
    viz.graph(loss, expand=["softmax"], fused="softmax", grads=True)


def language_model(rng: np.random.Generator) -> np.ndarray:
    """A GPT: a step, its states and scores, and a continuation, of ids and of text."""
    text = "to be or not to be, that is the question"
    tokenizer = CharTokenizer(text)
    data = assert_type(load_data(TextSource(text * 9, lambda part: tokenizer), block_size=8), Data)
    inputs, targets = assert_type(random_blocks(data.training, 2, 8, rng), tuple[np.ndarray, np.ndarray])
    model = GPT(GPTConfig(block_size=8, vocab_size=tokenizer.vocab_size, n_layer=1, n_head=2, n_embd=16), rng=rng)
    optimizer = optim.Adam(model.parameters(), lr=1e-2)
    logits, loss = model(inputs, targets)
    assert_type(logits, Tensor)
    loss.backward()
    optimizer.step()
    assert_type(model.head(model.hidden(inputs, rng)), Tensor)
    assert_type(model.config, GPTConfig)
    reader = assert_type(model.reader(rows=2, matrix=Int8Matrix), GPTReader)
    assert_type(reader.scores(reader.read(inputs)), np.ndarray)
    pieces = assert_type(stream_text(model, tokenizer, "to ", 5, top_k=3, rng=rng), Iterator[str])
    print("".join(pieces), assert_type(tokenizer.decode(inputs[0]), str))
    for new in model.stream(inputs, 2, top_p=0.9, rng=rng):
        assert_type(new, np.ndarray)
    return assert_type(model.generate(inputs[:1, :3], max_new_tokens=5, temperature=0.8, rng=rng), np.ndarray)


def translator(rng: np.random.Generator) -> list[list[Translation]]:
    """A Transformer: its loss, what encoder and decoder make of a pair, and a translation by two beams."""
    model = Transformer(TransformerConfig(vocab_size=9, block_size=8, n_layer=1, n_head=2, n_embd=8), rng)
    source, target = np.array([[3, 4, 5]]), np.array([[1, 6, 7, 2]])
    assert_type(model.loss(source, target, label_smoothing=0.1, rng=rng), Tensor).backward()
    memory = assert_type(model.encode(source), Tensor)
    assert_type(model.decode(memory, source, target), Tensor)
    assert_type(model(source, target), Tensor)
    return assert_type(translate(model, source, beam=2, n_best=2), list[list[Translation]])


def pictures(rng: np.random.Generator, folder: Path) -> None:
    """What autotx.viz draws of a small net, and the files that it writes."""
    model = MLP((2, 8, 1), "gelu", rng=rng)
    statistics = viz.LayerStatistics(model, every=1)
    with viz.record() as recorded, statistics.step(0):
        loss = assert_type(model(rng.normal(size=(5, 2)).astype(np.float32)), Tensor).mean()
        loss.backward(retain_graph=True)
    figure, axes = assert_type(viz.step_times(recorded.records), viz.Picture[Axes])
    assert_type(viz.layer_statistics(statistics.records), viz.Picture[np.ndarray])
    assert_type(viz.curves({"a run": [{"step": 1, "loss": 2.0}]}, dark=True), viz.Picture[np.ndarray])
    assert_type(viz.positions({"learned": rng.normal(size=(4, 6))}), viz.Picture[np.ndarray])
    assert_type(viz.embeddings(rng.normal(size=(3, 4)), ["a", "b", "c"], mark=["a"], n=1), viz.Picture[Axes])
    attention = nn.MultiHeadAttention(8, 2, rng=rng)
    maps = viz.attention_maps(attention, rng.normal(size=(1, 3, 8)).astype(np.float32), causal=True)
    assert_type(maps, dict[str, viz.AttentionMap])
    assert_type(viz.attention(maps, ["a", "b", "c"], title="A sentence"), viz.Picture[np.ndarray])
    viz.save(assert_type(figure, Figure), folder / "times.png")
    viz.render(loss, folder / "graph.dot", depth=1)
    viz.write_json(loss, folder / "graph.json", grads=True)
    assert_type(viz.page(loss, folder / "replay.html", title="A small net"), viz.Page)
    trace = assert_type(viz.trace(loss), viz.Trace)
    assert_type(trace.gradients(), dict[int, np.ndarray])
    assert_type(trace.nodes[0].shape, tuple[int, ...])
    print(axes.get_title(), len(viz.graph_json(loss)["nodes"]))


def run(folder: Path) -> Tokenizer:
    """A training run, and its model read again."""
    settings = settings_of("gpt")(out=str(folder / "run"), steps=1, eval_batches=1, n_layer=1, n_embd=16)
    assert_type(train_run(settings), int)
    opened = assert_type(open_model(folder / "run", needs="text"), Opened)
    assert_type(opened.model, Any)
    return opened.tokenizer


def mistakes(x: Tensor, layer: nn.Linear, optimizer: optim.Optimizer) -> None:
    """Never called. Each line is wrong, and a checker must say so: an ignored error that is none is an error."""
    x.sum(axis="0")  # type: ignore
    x.exp(2)  # type: ignore
    x.reshape(2, "3")  # type: ignore
    x.no_such_method()  # type: ignore
    autotx.cross_entropy(x, [0], reduction="average")  # type: ignore
    autotx.dropout(x, 0.1, rng=0)  # type: ignore
    swish(x, bta=0.5)  # type: ignore
    layer(x, x, x)  # type: ignore
    nn.Linear(2, 3)  # type: ignore
    GPT({"n_layer": 1}, rng=None)  # type: ignore
    MLP((2, 8, 1))  # type: ignore
    viz.graph(x, depth="all")  # type: ignore
    viz.page(x)  # type: ignore
    CharTokenizer(b"bytes")  # type: ignore
    optim.AdamW(3, lr=1e-3)  # type: ignore
    optimizer.lr = "high"  # type: ignore
    GPT({"n_layer": 1}, rng=None)  # type: ignore
    viz.graph(np.ones(3))  # type: ignore
    viz.curves([1.0])  # type: ignore


if __name__ == "__main__":
    generator = np.random.default_rng(0)
    train(generator)
    operators(generator)
    print(language_model(generator), translator(generator))
    with tempfile.TemporaryDirectory() as work:
        pictures(generator, Path(work))
        run(Path(work))

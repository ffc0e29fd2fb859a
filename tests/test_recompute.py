"""Activations that are computed again in the backward pass."""

import gc
import weakref

import numpy as np
import pytest

import autotx
from autotx import Tensor, nn, recompute
from autotx.models import GPT, GPTConfig, Llama, LlamaConfig, Transformer, TransformerConfig
from autotx.models.cli import main


def _net(rng):
    net = nn.Sequential(nn.Linear(6, 24, rng=rng), nn.GELU(), nn.LayerNorm(24), nn.Linear(24, 6, rng=rng))
    return net, Tensor(rng.normal(size=(5, 6)), requires_grad=True, dtype=np.float32)


def _gradients(loss, *tensors):
    for t in tensors:
        t.grad = None
    loss().backward()
    return [t.grad.copy() for t in tensors]


def test_gradients_are_equal_to_the_bit(rng):
    net, x = _net(rng)
    leaves = [x, *net.parameters()]
    plain = _gradients(lambda: (net(net(x) + x) ** 2).sum(), *leaves)
    again = _gradients(lambda: (recompute(net, recompute(net, x) + x) ** 2).sum(), *leaves)
    nested = _gradients(lambda: (recompute(lambda x: recompute(net, recompute(net, x) + x), x) ** 2).sum(), *leaves)
    for a, b, c in zip(plain, again, nested):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(a, c, rtol=1e-5, atol=1e-6)


def test_finite_differences_agree(rng):
    x, w = (Tensor(rng.normal(size=(3, 3)), requires_grad=True) for _ in range(2))
    assert autotx.gradcheck(lambda x, w: recompute(lambda x: (x @ w).tanh() * x, x * 2).sum(), [x, w])


def test_dropout_drops_the_same_and_the_generator_goes_on(rng):
    x = Tensor(rng.normal(size=(40, 40)), requires_grad=True)
    drawn = [np.random.default_rng(5) for _ in range(2)]
    drop = nn.Dropout(0.5)
    plain = _gradients(lambda: (drop(drop(x, drawn[0]), drawn[0]) ** 2).sum(), x)
    once = _gradients(lambda: (recompute(drop, recompute(drop, x, rng=drawn[1]), drawn[1]) ** 2).sum(), x)
    np.testing.assert_array_equal(plain[0], once[0])
    assert drawn[0].random() == drawn[1].random()


def test_what_a_function_uses_without_being_given_it_gets_gradients(rng):
    memory, w, x = (Tensor(rng.normal(size=(4, 4)), requires_grad=True) for _ in range(3))

    def loss(call):
        state = (memory * 2).tanh()  # a result with a graph, outside
        return (call(lambda x: x @ state + w, x) * state).sum()

    plain = _gradients(lambda: loss(lambda f, x: f(x)), memory, w, x)
    for a, b in zip(plain, _gradients(lambda: loss(recompute), memory, w, x)):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_the_activations_of_a_function_are_not_kept(rng):
    kept = []

    def f(x):
        y = x.exp()
        kept.append(weakref.ref(y))
        return y * x

    x = Tensor(rng.normal(size=5), requires_grad=True)
    loss = recompute(f, x).sum()
    gc.collect()
    assert kept[0]() is None
    loss.backward(retain_graph=True)
    first = x.grad.copy()
    loss.backward()  # a graph that is retained can be walked twice
    np.testing.assert_allclose(x.grad, 2 * first)
    assert len(kept) == 3


def test_without_a_graph_the_function_is_just_called(rng):
    x = Tensor(rng.normal(size=5))
    assert not recompute(lambda x: x.exp(), x).requires_grad
    x.requires_grad = True
    with autotx.no_grad():
        assert not recompute(lambda x: x.exp(), x).requires_grad
    assert recompute(lambda x: x, x) is x
    loss = recompute(lambda x: x.exp(), x).sum()
    with autotx.no_grad():  # backward records what it computes again all the same
        loss.backward()
    np.testing.assert_allclose(x.grad, np.exp(x.data))


def test_a_function_that_draws_from_a_hidden_generator_is_refused(rng):
    x = Tensor(np.ones(50), requires_grad=True)
    loss = recompute(lambda x: autotx.dropout(x, 0.5, rng), x).sum()
    with pytest.raises(ValueError, match=r"recompute: <lambda> gave another result in the backward pass.*Generator as"):
        loss.backward()
    assert x.grad is None


def test_errors(rng):
    x = Tensor(np.ones(3), requires_grad=True)
    with pytest.raises(TypeError, match="recompute: <lambda> returned a tuple; let it return one Tensor"):
        recompute(lambda x: (x, x), x)
    with pytest.raises(ValueError, match="makes a tensor that requires a gradient"):
        recompute(lambda x: x * Tensor(np.ones(3), requires_grad=True), x)
    loss = recompute(lambda x: x.exp(), x).sum()
    x.writable()[0] = 2
    with pytest.raises(ValueError, match=r"recompute was recorded with a tensor of shape .* which has been written to"):
        loss.backward()


def test_pictures_and_detect_anomaly_show_it(rng):
    net, x = _net(rng)
    with autotx.viz.record() as recorded:
        loss = (recompute(net, x) ** 2).sum()  # this line
    traced = autotx.viz.trace(loss)
    first = next(node for node in traced.nodes if node.op)
    assert first.op == "recompute"
    assert "# this line" in first.line[2]
    *inside, own = recorded.records[:5]
    assert own.forward_seconds > sum(r.forward_seconds for r in inside)
    assert "Sequential(x), not kept" in autotx.viz.graph(loss).source
    grads = traced.gradients()
    loss.backward()
    first = next(node for node in traced.nodes if node.name == "0.weight" or node.shape == (24, 6))
    np.testing.assert_array_equal(grads[first.id], net[0].weight.grad)
    with autotx.detect_anomaly(), pytest.raises(FloatingPointError, match="log: its result has nan"):
        recompute(lambda x: (x - 9.0).log(), x)


def _step(model, loss):
    """The loss and the gradients of a model with and without recompute."""
    found = []
    for model.recompute in (False, True):
        model.zero_grad()
        value = loss(np.random.default_rng(3))
        value.backward()
        found.append([value.data, *(p.grad for p in model.parameters())])
    return found


def test_models_have_the_same_gradients_to_the_bit(rng):
    ids = rng.integers(0, 50, (3, 9))
    gpt = GPT(GPTConfig(8, 50, 3, 2, 16, dropout=0.1), rng)
    llama = Llama(LlamaConfig(8, 50, 3, 4, 2, 16, 24, dropout=0.1), rng)
    pairs = Transformer(TransformerConfig(50, 12, 2, 2, 16, dropout=0.1), rng)
    for model, loss in (
        (gpt, lambda rng: gpt(ids[:, :-1], ids[:, 1:], rng, scores=False)[1]),
        (llama, lambda rng: llama(ids[:, :-1], ids[:, 1:], rng, scores=False)[1]),
        (pairs, lambda rng: pairs.loss(ids, ids, 0.1, rng)),
    ):
        for a, b in zip(*_step(model, loss)):
            np.testing.assert_array_equal(a, b)


def test_loss_without_scores_is_the_loss_of_forward(rng):
    ids = rng.integers(0, 50, (3, 9))
    for model in (GPT(GPTConfig(8, 50, 1, 2, 16), rng), Llama(LlamaConfig(8, 50, 1, 2, 2, 16, 24, tied=False), rng)):
        losses = model(ids[:, :-1], ids[:, 1:])[1], model(ids[:, :-1], ids[:, 1:], scores=False)[1]
        assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-6)
        grads = [_gradients(lambda loss=loss: loss, *model.parameters()) for loss in losses]
        for a, b in zip(*grads):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)


def test_training_with_recompute_makes_the_same_run(tmp_path, capsys, rng):
    text = tmp_path / "text.txt"
    text.write_text("The quick brown fox jumps over the lazy dog. " * 40)
    sizes = {"n-layer": 2, "n-embd": 16, "n-head": 2, "block-size": 8, "batch-size": 2, "eval-batches": 1, "steps": 6}
    shape = [word for name, size in sizes.items() for word in (f"--{name}", str(size))]
    runs = [tmp_path / name for name in ("plain", "again")]
    for run, more in zip(runs, ([], ["--recompute"])):
        assert main(["train", "--text", str(text), "--out", str(run), *shape, *more]) == 0
    assert (runs[0] / "model.safetensors").read_bytes() == (runs[1] / "model.safetensors").read_bytes()
    text.write_text(" ".join(f"w{i}" for i in rng.integers(0, 40, 9000)))
    assert main(["train", "--model", "word2vec", "--text", str(text), "--out", str(tmp_path / "v"), "--recompute"]) == 2
    assert "--recompute: a word2vec has no blocks to compute again; leave it out" in capsys.readouterr().err
    assert not (tmp_path / "v").exists()

"""The GPT: its first weights, its loss and gradients (also against PyTorch), causality, the cache, and sampling."""

import math

import numpy as np
import pytest

import autotx
from autotx import optim
from autotx.models import GPT, GPTConfig
from autotx.models.inference.pieces import Reader
from autotx.models.inference.sampling import LanguageModel, penalised, sample

TINY = GPTConfig(block_size=8, vocab_size=11, n_layer=2, n_head=2, n_embd=8)


def tiny(rng, dtype=np.float32, **changes):
    """A small model whose parameters are all far from zero, so that every gradient counts."""
    model = GPT(GPTConfig(**{**vars(TINY), **changes}), rng).astype(dtype)
    for p in model.parameters():
        p.data = p.data + 0.3 * rng.standard_normal(p.shape)
    return model


def tokens(rng, B=3, T=8, V=11):
    return rng.integers(0, V, (B, T))


# First weights and the loss


def test_names_shapes_and_first_weights(rng):
    model = GPT(GPTConfig(block_size=32, vocab_size=97, n_layer=3, n_head=4, n_embd=64), rng)
    shapes = {name: p.shape for name, p in model.named_parameters()}
    block = {
        "ln_1.weight": (64,), "ln_1.bias": (64,), "attn.qkv.weight": (192, 64), "attn.qkv.bias": (192,),
        "attn.proj.weight": (64, 64), "attn.proj.bias": (64,), "ln_2.weight": (64,), "ln_2.bias": (64,),
        "mlp.fc.weight": (256, 64), "mlp.fc.bias": (256,), "mlp.proj.weight": (64, 256), "mlp.proj.bias": (64,),
    }  # fmt: skip
    expected = {"wte.weight": (97, 64), "wpe.weight": (32, 64)}
    expected |= {f"blocks.{i}.{name}": shape for i in range(3) for name, shape in block.items()}
    expected |= {"ln_f.weight": (64,), "ln_f.bias": (64,)}
    assert list(shapes.items()) == list(expected.items())  # the head is the token table: it has no name of its own
    for name, p in model.named_parameters():
        if p.ndim == 2:
            std = 0.02 / math.sqrt(6) if name.endswith("proj.weight") else 0.02
            assert abs(p.data.std() / std - 1) < 0.1, name
        else:
            assert np.array_equal(p.data, np.full(p.shape, name.endswith("weight"))), name


def test_without_biases_and_without_an_rng(rng):
    model = GPT(GPTConfig(**{**vars(TINY), "bias": False}), rng)
    assert not any(name.endswith("bias") for name, _ in model.named_parameters())
    assert model(tokens(rng))[0].shape == (3, 8, 11)
    assert not GPT(TINY, None).wte.weight.data.any()
    first, second = (GPT(TINY, np.random.default_rng(3)).state_dict() for _ in "12")
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_loss_at_the_start_is_that_of_a_guess(rng):
    model = GPT(GPTConfig(block_size=32, vocab_size=97, n_layer=3, n_head=4, n_embd=64), rng)
    ids = tokens(rng, 8, 33, 97)
    logits, loss = model(ids[:, :-1], ids[:, 1:])
    assert logits.shape == (8, 32, 97)
    assert logits.dtype == np.float32
    assert abs(loss.item() - math.log(97)) < 0.05
    assert model(ids[:, :-1])[1] is None


def test_a_tiny_model_learns_a_row_by_heart(rng):
    model, ids = GPT(TINY, rng), np.array([[3, 1, 4, 1, 5, 9, 2, 6]])
    optimizer = optim.AdamW(optim.decay_groups(model, 0.1), lr=0.03, betas=(0.9, 0.99))
    for _ in range(60):
        _, loss = model(ids[:, :-1], ids[:, 1:])
        loss.backward()
        optim.clip_grad_norm(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    assert loss.item() < 0.05
    assert np.array_equal(model.generate(ids[:, :2], 6, temperature=0), ids)


# Gradients


def test_gradients_along_random_directions(rng):
    model = tiny(rng, np.float64)
    ids, targets = tokens(rng), tokens(rng)
    model(ids, targets)[1].backward()
    params = model.parameters()
    values, eps = [p.numpy() for p in params], 1e-6
    for _ in range(5):
        directions = [rng.standard_normal(p.shape) for p in params]
        losses = []
        for sign in (1, -1):
            for p, value, d in zip(params, values, directions):
                p.data = value + sign * eps * d
            losses.append(model(ids, targets)[1].item())
        expected = (losses[0] - losses[1]) / (2 * eps)
        by_backward = sum((p.grad * d).sum() for p, d in zip(params, directions))
        assert abs(by_backward - expected) < 1e-7 * max(1, abs(expected))


def torch_gpt(torch, config, parameters, ids, targets):
    """The same model in PyTorch's own functions: its loss."""
    F = torch.nn.functional
    C, H = config.n_embd, config.n_head
    B, T = ids.shape

    def norm(x, name):
        return F.layer_norm(x, (C,), parameters[f"{name}.weight"], parameters.get(f"{name}.bias"))

    def linear(x, name):
        return F.linear(x, parameters[f"{name}.weight"], parameters.get(f"{name}.bias"))

    x = parameters["wte.weight"][ids] + parameters["wpe.weight"][:T]
    for i in range(config.n_layer):
        block = f"blocks.{i}"
        heads = linear(norm(x, f"{block}.ln_1"), f"{block}.attn.qkv").view(B, T, 3, H, C // H).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(*heads, is_causal=True).transpose(1, 2).reshape(B, T, C)
        x = x + linear(y, f"{block}.attn.proj")
        y = F.gelu(linear(norm(x, f"{block}.ln_2"), f"{block}.mlp.fc"), approximate="tanh")
        x = x + linear(y, f"{block}.mlp.proj")
    logits = norm(x, "ln_f") @ parameters["wte.weight"].T
    return F.cross_entropy(logits.reshape(B * T, -1), targets.reshape(-1))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 2e-4)])
def test_loss_and_every_gradient_equal_pytorch(bias, dtype, tolerance, rng):
    torch = pytest.importorskip("torch")
    model = tiny(rng, dtype, n_embd=24, n_head=3, n_layer=3, block_size=20, vocab_size=50, bias=bias)
    ids, targets = tokens(rng, 4, 17, 50), tokens(rng, 4, 17, 50)
    _, loss = model(ids, targets)
    loss.backward()
    peers = {name: torch.tensor(p.numpy(), requires_grad=True) for name, p in model.named_parameters()}
    expected = torch_gpt(torch, model.config, peers, torch.from_numpy(ids), torch.from_numpy(targets))
    expected.backward()
    assert abs(loss.item() / expected.item() - 1) < tolerance
    for name, p in model.named_parameters():
        expected = peers[name].grad.numpy()
        scale = np.abs(expected).max()
        np.testing.assert_allclose(p.grad, expected, rtol=tolerance, atol=tolerance * scale, err_msg=name)


def test_dropout_only_with_an_rng_and_repeatable(rng):
    model = tiny(rng, dropout=0.5)
    ids = tokens(rng)
    with autotx.no_grad():
        plain, again = model(ids)[0].data, model(ids)[0].data
        dropped, same, other = (model(ids, rng=np.random.default_rng(s))[0].data for s in (1, 1, 2))
    assert np.array_equal(plain, again)
    assert np.array_equal(dropped, same)
    assert not np.allclose(dropped, plain)
    assert not np.allclose(dropped, other)


def test_dropout_is_at_every_place_where_gpt_2_has_it(rng):
    class Recorder(np.random.Generator):
        shapes = []  # noqa: RUF012

        def random(self, size, dtype):
            self.shapes.append(size)
            return super().random(size, dtype=dtype)

    recorder = Recorder(np.random.PCG64(0))
    tiny(rng, dropout=0.1)(tokens(rng), rng=recorder)
    x, weights = (3, 8, 8), (3, 2, 8, 8)
    assert recorder.shapes == [x, weights, x, x, weights, x, x]


# Causality and the cache


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_later_token_changes_nothing_before_it(dtype, rng):
    model, ids = tiny(rng, dtype), tokens(rng)
    with autotx.no_grad():
        before = model(ids)[0].data
        for t in range(ids.shape[1]):
            changed = ids.copy()
            changed[:, t] = (ids[:, t] + 1) % 11
            after = model(changed)[0].data
            assert np.array_equal(after[:, :t], before[:, :t])  # to the bit
            assert not np.allclose(after[:, t:], before[:, t:])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("pieces", [[1] * 8, [5, 1, 1, 1], [3, 4, 1], [8]])
def test_cached_scores_equal_uncached(pieces, bias, rng):
    model, ids = tiny(rng, bias=bias), tokens(rng)
    with autotx.no_grad():
        expected = model(ids)[0].data
    reader = model.reader(len(ids), 8)
    parts = [reader.scores(reader.read(part)) for part in np.split(ids, np.cumsum(pieces)[:-1], axis=1)]
    np.testing.assert_allclose(np.concatenate(parts, axis=1), expected, rtol=1e-5, atol=1e-5)
    assert reader.length == 8


def uncached(model, ids, max_new_tokens, choose):
    """Generation as it is defined: everything is computed anew for each token, from the last block_size ones."""
    for _ in range(max_new_tokens):
        with autotx.no_grad():
            logits = model(ids[:, -model.config.block_size :])[0].data[:, -1]
        ids = np.column_stack([ids, choose(logits)])
    return ids


@pytest.mark.parametrize("prompt", [1, 5, 8, 13])
def test_generation_equals_its_definition_beyond_the_context_too(prompt, rng):
    model, ids = tiny(rng), tokens(rng, 2, prompt)
    plain = uncached(model, ids, 14, lambda logits: logits.argmax(-1))
    assert np.array_equal(model.generate(ids, 14, temperature=0), plain)
    drawn = model.generate(ids, 14, 0.8, top_k=7, top_p=0.9, rng=np.random.default_rng(5))
    source = np.random.default_rng(5)
    assert np.array_equal(drawn, uncached(model, ids, 14, lambda logits: sample(logits, 0.8, 7, 0.9, source)))


@pytest.mark.parametrize("prompt", [1, 5, 8, 13])
def test_scores_while_generating_equal_the_uncached_ones(prompt, rng):
    model, ids = tiny(rng), tokens(rng, 2, prompt)
    cached, plain = [], []
    list(model._stream(ids, 14, lambda logits: cached.append(logits) or logits.argmax(-1)))
    uncached(model, ids, 14, lambda logits: plain.append(logits) or logits.argmax(-1))
    np.testing.assert_allclose(cached, plain, rtol=1e-5, atol=1e-5)


def test_stream_gives_what_generate_gives_and_records_nothing(rng):
    model, ids = tiny(rng), tokens(rng, 2, 3)
    new = model.stream(ids, 6, rng=np.random.default_rng(1))
    first = next(new)
    assert first.shape == (2,)
    assert model(ids)[0].requires_grad  # between two tokens, gradients are recorded as usual
    all_new = np.column_stack([first, *new])
    assert np.array_equal(model.generate(ids, 6, rng=np.random.default_rng(1))[:, 3:], all_new)
    assert np.array_equal(model.generate(ids, 0), ids)
    assert model.generate([1, 2], 3).shape == (1, 5)  # one row; an rng seeded by chance
    assert np.issubdtype(model.generate(ids, 1).dtype, np.integer)


class Scores(Reader, LanguageModel):
    """Scores that do not depend on the text."""

    config = GPTConfig(block_size=4, vocab_size=4, n_layer=1, n_head=1, n_embd=4)
    length = 0

    def __init__(self, scores):
        self.fixed = np.array(scores)

    def reader(self, rows, size):
        self.length = 0
        return self

    def read(self, ids):
        self.length += ids.shape[1]
        return np.zeros((*ids.shape, 1))

    def scores(self, x):
        return np.tile(self.fixed, (*x.shape[:-1], 1))


def test_what_was_seen_is_less_likely_by_the_repetition_penalty():
    model = Scores([2.0, 1.5, -1.0, -1.1])
    greedy = {"temperature": 0}
    assert model.generate([0], 3, **greedy)[0].tolist() == [0, 0, 0, 0]
    # 2 / 1.5 < 1.5; then 1.5 / 1.5 < 2 / 1.5
    assert model.generate([0], 3, **greedy, repetition_penalty=1.5)[0].tolist() == [0, 1, 0, 0]
    found = penalised([[2.0, 1.5, -1.0, -1.1]], np.array([[True, False, True, False]]), 2)
    np.testing.assert_allclose(found, [[1.0, 1.5, -2.0, -1.1]])
    # Tokens that the window of 4 no longer holds count too.
    model = Scores([2.0, 1.9, 1.8, 1.7])
    assert model.generate([3], 7, **greedy, repetition_penalty=1.01)[0].tolist() == [3, 0, 0, 0, 0, 0, 0, 0]
    assert model.generate([3], 7, **greedy, repetition_penalty=100)[0].tolist() == [3, 0, 1, 2, 0, 0, 0, 0]


def test_a_text_ends_with_its_token_and_not_before_it_may():
    rng = np.random.default_rng(0)
    model = Scores([0.0, 0.0, 0.0, 0.0])
    rows = model.generate(np.zeros((5, 1), int), 50, rng=rng, end=3)[:, 1:]
    firsts = [list(row).index(3) for row in rows]
    assert len(set(firsts)) > 1
    assert max(firsts) + 1 == rows.shape[1]  # there is nothing after the last of them
    assert all((row[first:] == 3).all() for row, first in zip(rows, firsts))
    always = Scores([0.0, 0.0, 0.0, 9.0])
    assert always.generate([0], 50, temperature=0, end=3)[0].tolist() == [0, 3]
    assert always.generate([0], 50, temperature=0, end=3, min_new_tokens=2)[0].tolist() == [0, 0, 0, 3]
    assert always.generate([0], 5, temperature=0)[0].tolist() == [0, 3, 3, 3, 3, 3]


# Sampling

PROBABILITIES = np.array([0.05, 0.4, 0.1, 0.25, 0.2])  # likeliest first: 1, 3, 4, 2, 0


def frequencies(temperature=1.0, top_k=None, top_p=None, logits=None, n=20000):
    logits = np.log(PROBABILITIES) if logits is None else logits
    drawn = sample(np.tile(logits, (n, 1)), temperature, top_k, top_p, np.random.default_rng(0))
    return np.bincount(drawn, minlength=len(logits)) / n


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, [0, 1, 2, 3, 4]),
        ({"top_k": 1}, [1]),
        ({"top_k": 3}, [1, 3, 4]),
        ({"top_k": 99}, [0, 1, 2, 3, 4]),
        ({"top_p": 1e-9}, [1]),
        ({"top_p": 0.39}, [1]),
        ({"top_p": 0.41}, [1, 3]),
        ({"top_p": 0.64}, [1, 3]),
        ({"top_p": 0.66}, [1, 3, 4]),
        ({"top_p": 1.0}, [0, 1, 2, 3, 4]),
        ({"top_k": 2, "top_p": 0.63}, [1, 3]),  # after top_k the likeliest has 0.4 / 0.65 = 0.615
        ({"top_k": 2, "top_p": 0.61}, [1]),
    ],
)
def test_top_k_and_top_p_keep_exactly_their_tokens(settings, kept):
    expected = np.where(np.isin(np.arange(5), kept), PROBABILITIES, 0)
    result = frequencies(**settings)
    assert np.array_equal(result > 0, expected > 0)
    np.testing.assert_allclose(result, expected / expected.sum(), atol=0.012)


def test_temperature():
    for temperature in (0.5, 2.0):
        expected = PROBABILITIES ** (1 / temperature)
        np.testing.assert_allclose(frequencies(temperature), expected / expected.sum(), atol=0.012)
    assert frequencies(0)[1] == 1
    assert frequencies(1e-300)[1] == 1
    np.testing.assert_allclose(frequencies(1e300), 0.2, atol=0.012)
    assert frequencies(logits=np.array([1e30, 0, -1e30]))[0] == 1


def test_ties_go_to_the_lower_id():
    level = np.repeat([0.0, 1.0, 0.0], 40)  # long enough for a sort that is not stable to mix it up
    assert np.array_equal(np.flatnonzero(frequencies(top_k=3, logits=level)), [40, 41, 42])
    assert np.array_equal(np.flatnonzero(frequencies(top_k=42, logits=level)), [0, 1, *range(40, 80)])
    assert np.array_equal(np.flatnonzero(frequencies(top_p=0.01, logits=level)), [40])
    assert frequencies(0, logits=level)[40] == 1


def test_rows_are_drawn_on_their_own():
    logits = np.log(np.eye(3) + 1e-30)
    assert np.array_equal(sample(logits, 1.0, None, None, np.random.default_rng(0)), [0, 1, 2])


# Mistakes


def test_sizes_of_numpy_become_pythons_and_a_seed_is_no_rng():
    config = GPTConfig(**{**vars(TINY), "vocab_size": np.int64(TINY.vocab_size)})
    assert type(config.vocab_size) is int
    with pytest.raises(TypeError, match=r"generate: rng is 0; give a numpy\.random\.Generator"):
        GPT(config, np.random.default_rng(0)).generate([0], 1, rng=0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_size": 0}, "GPTConfig: block_size is 0; give a whole number, 1 or more"),
        ({"vocab_size": -5}, "GPTConfig: vocab_size is -5"),
        ({"n_layer": 2.0}, "GPTConfig: n_layer is 2.0"),
        ({"n_head": 0}, "GPTConfig: n_head is 0"),
        ({"n_head": 3}, "GPTConfig: n_head 3 does not divide n_embd 8: .* a multiple of 3, such as 9, for n_embd"),
        ({"dropout": 1.0}, "GPTConfig: dropout is 1.0"),
    ],
)
def test_configurations_that_cannot_be(changes, message):
    with pytest.raises(ValueError, match=message):
        GPTConfig(**{**vars(TINY), **changes})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([], 3), r"generate: the prompt has shape \(1, 0\); give ids \(B, T\), T at least 1"),
        ((np.zeros((2, 0), int), 3), "generate: the prompt has shape"),
        ((np.zeros((1, 2, 3), int), 3), "generate: the prompt has shape"),
        (([[1, 11]], 3), "generate: id 11 is out of range, there are 11 tokens"),
        (([[-1]], 3), "generate: id -1 is out of range"),
        (([[1]], -1), "generate: max_new_tokens is -1"),
        (([[1]], 3, -0.5), "generate: temperature is -0.5"),
        (([[1]], 3, math.nan), "generate: temperature is nan"),
        (([[1]], 3, 1.0, 0), "generate: top_k is 0"),
        (([[1]], 3, 1.0, 2.5), "generate: top_k is 2.5"),
        (([[1]], 3, 1.0, None, 0), "generate: top_p is 0; give a probability above 0, at most 1"),
        (([[1]], 3, 1.0, None, 1.01), "generate: top_p is 1.01"),
        (([[1]], 3, {"repetition_penalty": 0}), "generate: repetition_penalty is 0; give 1 for none"),
        (([[1]], 3, {"min_new_tokens": -1}), "generate: min_new_tokens is -1"),
    ],
)
def test_generation_refuses_at_once(arguments, message, rng):
    model = GPT(TINY, rng)
    named = arguments[-1] if isinstance(arguments[-1], dict) else {}
    arguments = arguments[:-1] if named else arguments
    with pytest.raises(ValueError, match=message):
        model.stream(*arguments, **named)
    with pytest.raises(ValueError, match=message):
        model.generate(*arguments, **named)


def test_inputs_that_do_not_fit(rng):
    model = GPT(TINY, rng)
    with pytest.raises(ValueError, match="GPT: 9 tokens exceed block_size 8"):
        model(tokens(rng, 1, 9))
    with pytest.raises(ValueError, match=r"GPT: ids have shape \(8,\); give \(B, T\)"):
        model(tokens(rng)[0])
    with pytest.raises(ValueError, match="embedding: id 11 is out of range"):
        model(np.array([[11]]))
    with pytest.raises(ValueError, match="cross_entropy: id 12 is out of range"):
        model(np.array([[1]]), np.array([[12]]))
    with pytest.raises(ValueError, match="cross_entropy: targets of shape"):
        model(tokens(rng), tokens(rng, 3, 7))
    with pytest.raises(TypeError, match="generate: the prompt's ids have type float64"):
        model.generate([[1.0]], 1)
    model.wte.weight.data = np.full((11, 8), np.nan)
    with pytest.raises(ValueError, match="generate: the model's scores have a NaN"):
        model.generate([[1]], 1)

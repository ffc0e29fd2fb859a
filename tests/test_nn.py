"""Layers against plain NumPy, finite differences and PyTorch; how a Module finds, saves and loads its parameters."""

import inspect
import re

import numpy as np
import pytest

import autotx
from autotx import Tensor, gradcheck, init, nn, optim
from autotx.models import MLP, classifier, gpt, llama, transformer, word2vec


class Net(nn.Module):
    """Every way of holding a parameter, and one that is held twice."""

    def __init__(self, rng):
        self.first = nn.Linear(3, 4, rng=rng)
        self.blocks = [nn.Linear(4, 4, rng=rng), (nn.LayerNorm(4),)]
        self.tables = {"words": nn.Embedding(5, 4, rng=rng)}
        self.scale = Tensor(np.ones(2, np.float32), requires_grad=True)
        self.tied = self.tables["words"].weight
        self.again = self.first
        self.constant = np.ones(3)
        self.parent = self


NAMES = [
    "first.weight", "first.bias", "blocks.0.weight", "blocks.0.bias", "blocks.1.0.weight", "blocks.1.0.bias",
    "tables.words.weight", "scale",
]  # fmt: skip


def test_parameters_are_found_in_order_and_once(rng):
    net = Net(rng)
    assert [name for name, _ in net.named_parameters()] == NAMES
    assert len(net.parameters()) == len(NAMES)
    assert net.num_parameters() == 12 + 4 + 16 + 4 + 4 + 4 + 20 + 2
    assert "first.weight (4, 3)" in repr(net)
    assert "Net(num_parameters=66)" in repr(net)


def test_state_goes_out_and_in_bit_for_bit(rng):
    net, other = Net(rng), Net(rng)
    state = net.state_dict()
    assert list(state) == NAMES
    other.load_state_dict(state)
    for name, p in other.named_parameters():
        assert np.array_equal(p.data, state[name])
        assert p.dtype == np.float32
    state["scale"][:] = 7  # a copy: the model does not notice
    assert net.scale.data[0] == 1


def test_a_state_that_does_not_fit_is_listed_in_full_and_changes_nothing(rng):
    net = Net(rng)
    before, state = net.state_dict(), Net(rng).state_dict()
    del state["scale"]
    state["first.weight"] = np.zeros((3, 4), np.float32)
    state["first.bias"] = np.array(list("abcd"))
    state["head"] = np.zeros(1)
    with pytest.raises(ValueError, match="load_state_dict: ") as error:
        net.load_state_dict(state)
    wrong_shape = "first.weight has shape (3, 4), the model (4, 3)"
    for part in ("missing scale", "unexpected head", wrong_shape, "first.bias has type"):
        assert part in str(error.value)
    assert all(np.array_equal(before[name], p.data) for name, p in net.named_parameters())


def test_a_state_that_fits_in_part_is_loaded_where_it_fits_if_that_is_asked_for(rng):
    net, other = nn.Sequential(nn.Linear(3, 4, rng=rng), nn.Linear(4, 2, rng=rng)), nn.Linear(3, 4, rng=rng)
    state = {f"layers.0.{name}": value for name, value in other.state_dict().items()} | {"head": np.zeros(1)}
    last = net[1].weight.numpy()
    missing, unexpected = net.load_state_dict(state, strict=False)
    assert (missing, unexpected) == (["layers.1.weight", "layers.1.bias"], ["head"])
    assert np.array_equal(net[0].weight.data, other.weight.data)
    assert np.array_equal(net[1].weight.data, last)
    assert net.load_state_dict(net.state_dict()) == ([], [])
    with pytest.raises(ValueError, match=r"load_state_dict: layers.0.bias has shape \(5,\), the model \(4,\)"):
        net.load_state_dict({"layers.0.bias": np.zeros(5)}, strict=False)
    with pytest.raises(ValueError, match=r"load_state_dict: missing layers.0.bias; .*unexpected layer.0.bias"):
        net.load_state_dict({"layer.0.bias": np.zeros(4)}, strict=False)  # nothing would be loaded


def test_loading_outdates_a_graph_recorded_before(rng):
    layer = nn.Linear(3, 2, rng=rng)
    loss = layer(np.ones((1, 3), np.float32)).sum() * layer.weight.sum()
    layer.load_state_dict(layer.state_dict())
    with pytest.raises(ValueError, match="has been written to since"):
        loss.backward()


def test_astype_and_zero_grad(rng):
    layer = nn.Linear(3, 2, rng=rng)
    layer(np.ones((1, 3), np.float32)).sum().backward()
    assert layer.weight.grad is not None
    layer.zero_grad()
    assert layer.weight.grad is None
    assert layer.astype(np.float64) is layer.astype("float64") is layer
    assert layer(np.ones((1, 3))).dtype == np.float64
    with pytest.raises(TypeError, match="astype: parameters are float32 or float64"):
        layer.astype(np.int64)


# Layers


def test_linear(rng):
    x = rng.standard_normal((2, 5, 3)).astype(np.float32)
    layer = nn.Linear(3, 4, rng=rng)
    for p in layer.parameters():
        assert p.data.all()
        assert np.abs(p.data).max() <= 3**-0.5, "uniform within 1 / sqrt(in_features), as PyTorch's"
    layer.bias.data = rng.standard_normal(4)
    np.testing.assert_allclose(layer(x).data, x @ layer.weight.data.T + layer.bias.data, rtol=1e-5, atol=1e-6)
    assert np.abs(layer.weight.data).max() <= 3**-0.5
    assert nn.Linear(3, 4, bias=False, rng=rng).parameters()[0].shape == (4, 3)
    assert not nn.Linear(3, 4, rng=None).weight.data.any()


def test_embedding(rng):
    layer = nn.Embedding(7, 4, rng=rng)
    ids = np.array([[1, 6], [6, 0]])
    assert np.array_equal(layer(ids).data, layer.weight.data[ids])
    assert np.array_equal(layer(Tensor(ids)).data, layer.weight.data[ids])
    with pytest.raises(ValueError, match="embedding: id 7 is out of range"):
        layer(np.array([7]))


def test_layer_norm(rng):
    x = rng.standard_normal((2, 3, 8)).astype(np.float32)
    layer = nn.LayerNorm(8)
    layer.weight.data, layer.bias.data = rng.standard_normal(8), rng.standard_normal(8)
    xhat = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(layer(x).data, xhat * layer.weight.data + layer.bias.data, rtol=1e-4, atol=1e-5)
    plain = nn.LayerNorm(8, bias=False)
    assert len(plain.parameters()) == 1
    np.testing.assert_allclose(plain(x).data, xhat, rtol=1e-4, atol=1e-5)
    assert gradcheck(plain.astype(np.float64), Tensor(x.astype(np.float64), requires_grad=True))


def test_rms_norm(rng):
    x = rng.standard_normal((2, 3, 8)).astype(np.float32)
    layer = nn.RMSNorm(8, eps=0.1)
    layer.weight.data = rng.standard_normal(8)
    expected = x / np.sqrt((x * x).mean(-1, keepdims=True) + 0.1) * layer.weight.data
    np.testing.assert_allclose(layer(x).data, expected, rtol=1e-5, atol=1e-6)
    assert gradcheck(layer.astype(np.float64), Tensor(x.astype(np.float64), requires_grad=True))


def test_dropout_happens_exactly_when_an_rng_is_given(rng):
    x = Tensor(np.ones((100, 100), np.float32))
    layer = nn.Dropout(0.25)
    assert layer(x) is x
    y = layer(x, rng=rng).data
    assert set(np.unique(y)) == {np.float32(0), np.float32(1 / 0.75)}
    assert abs((y == 0).mean() - 0.25) < 0.02
    net = nn.Sequential(nn.Linear(3, 3, rng=rng), layer, nn.Tanh())
    z = np.ones((4, 3), np.float32)
    assert np.array_equal(net(z).data, net(z).data)
    assert np.array_equal(net(z, rng=np.random.default_rng(1)).data, net(z, rng=np.random.default_rng(1)).data)
    assert (net(z, rng=np.random.default_rng(1)).data == 0).any()


@pytest.mark.parametrize("given", [np.ones((2, 3)), [[1.0, 2.0]]])
def test_dropout_without_an_rng_returns_a_tensor_as_every_layer_does(given):
    y = nn.Dropout(0.5)(given)
    assert isinstance(y, Tensor)
    assert np.array_equal(y.data, given)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([nn.Tanh(), nn.ReLU], "layer 1 is the class ReLU; make a layer of it, such as ReLU(...)"),
        ([[nn.ReLU(), nn.Tanh()]], "layer 0 is a list; give the layers one by one, Sequential(*layers)"),
        ([autotx.relu], "layer 0 is the function relu; give Modules, such as nn.ReLU()"),
        ([3], "layer 0 is of type int; give Modules, such as nn.ReLU()"),
    ],
)
def test_sequential_refuses_what_is_no_layer_when_it_is_built(layers, message):
    with pytest.raises(TypeError) as error:
        nn.Sequential(*layers)
    assert str(error.value) == f"Sequential: {message}"


SMALL = {  # every Module with weights: how one is made, for a rng
    "Linear": lambda rng: nn.Linear(2, 3, rng=rng),
    "Embedding": lambda rng: nn.Embedding(2, 3, rng=rng),
    "MultiHeadAttention": lambda rng: nn.MultiHeadAttention(4, 2, rng=rng),
    "RNN": lambda rng: nn.RNN(2, 3, rng=rng),
    "GRU": lambda rng: nn.GRU(2, 3, num_layers=2, rng=rng),
    "LSTM": lambda rng: nn.LSTM(2, 3, rng=rng),
    "MLP": lambda rng: MLP((2, 3, 1), rng=rng),
    "Classifier": lambda rng: classifier.Classifier(gpt.GPT(GPT_SHAPE, rng), 2, rng),
    "SkipGram": lambda rng: word2vec.SkipGram(3, 2, rng=rng),
    "gpt.FeedForward": lambda rng: gpt.FeedForward(GPT_SHAPE, rng=rng),
    "gpt.Block": lambda rng: gpt.Block(GPT_SHAPE, rng=rng),
    "GPT": lambda rng: gpt.GPT(GPT_SHAPE, rng=rng),
    "llama.Attention": lambda rng: llama.Attention(LLAMA_SHAPE, rng=rng),
    "llama.FeedForward": lambda rng: llama.FeedForward(LLAMA_SHAPE, rng=rng),
    "llama.Block": lambda rng: llama.Block(LLAMA_SHAPE, rng=rng),
    "Llama": lambda rng: llama.Llama(LLAMA_SHAPE, rng=rng),
    "transformer.FeedForward": lambda rng: transformer.FeedForward(PAIR_SHAPE, rng=rng),
    "EncoderBlock": lambda rng: transformer.EncoderBlock(PAIR_SHAPE, rng=rng),
    "DecoderBlock": lambda rng: transformer.DecoderBlock(PAIR_SHAPE, rng=rng),
    "Transformer": lambda rng: transformer.Transformer(PAIR_SHAPE, rng=rng),
}
GPT_SHAPE = gpt.GPTConfig(block_size=4, vocab_size=5, n_layer=1, n_head=2, n_embd=4)
LLAMA_SHAPE = llama.LlamaConfig(block_size=4, vocab_size=5, n_layer=1, n_head=2, n_kv_head=1, n_embd=4, n_hidden=6)
PAIR_SHAPE = transformer.TransformerConfig(vocab_size=7, block_size=4, n_layer=1, n_head=2, n_embd=4, tied=False)
BEGINS_AT_ZERO = {"contexts.weight"}  # as in Mikolov's program


@pytest.mark.parametrize("make", SMALL.values(), ids=SMALL)
def test_no_weights_are_left_at_zero_because_the_rng_was_left_out(make, rng):
    model = make(rng)
    needs = inspect.signature(type(model)).parameters["rng"]
    assert needs.default is needs.empty
    zero = [name for name, p in model.named_parameters() if p.ndim > 1 and not p.data.any()]
    assert set(zero) <= BEGINS_AT_ZERO


def test_every_module_with_weights_is_tried_above(rng):
    tried = {type(make(rng)) for make in SMALL.values()}
    found = [c for door in (nn, gpt, llama, transformer, classifier, word2vec) for c in vars(door).values()]
    modules = {
        c for c in found if isinstance(c, type) and issubclass(c, nn.Module) and c.__init__ is not object.__init__
    }
    assert {c.__name__ for c in modules - tried} == {
        "LayerNorm",
        "RMSNorm",
        "Dropout",
        "Sequential",
        "GELU",
        "Block",
    }


def test_a_printed_model_shows_activations_and_dropout(rng):
    model = nn.Sequential(nn.Linear(3, 4, rng=rng), nn.ReLU(), nn.Dropout(0.1), nn.GELU("tanh"))
    rows = ["Sequential(num_parameters=16)", "  layers.0.weight (4, 3)", "  layers.0.bias (4,)", "  layers.1 ReLU()"]
    rows += ["  layers.2 Dropout(p=0.1)", "  layers.3 GELU(approximate='tanh')"]
    assert str(model).splitlines() == rows
    assert repr(nn.Dropout(0.5)) == "Dropout(p=0.5)"
    assert repr(MLP((2, 1), "tanh", rng=rng)).startswith("MLP(activation='tanh', num_parameters=3)\n")


def test_a_module_shows_what_calling_it_takes(rng):
    layer = nn.MultiHeadAttention(4, 2, rng=rng)
    assert list(inspect.signature(layer).parameters) == ["q_input", "kv_input", "mask", "causal", "rng"]
    assert list(inspect.signature(nn.Linear).parameters) == ["in_features", "out_features", "bias", "rng"]


def test_signatures_are_short_enough_to_read():
    for function in (autotx.cross_entropy, autotx.where, nn.MultiHeadAttention.forward, Tensor.backward):
        assert len(str(inspect.signature(function))) < 320


FLOATS_IN = {"Linear": 2, "MultiHeadAttention": 4, "MLP": 2, "gpt.FeedForward": 4, "transformer.FeedForward": 4}


@pytest.mark.parametrize(("name", "channels"), [*FLOATS_IN.items(), ("LayerNorm", 4)])
@pytest.mark.parametrize("wrap", [np.asarray, np.ndarray.tolist, lambda x: Tensor(x, requires_grad=True)])
def test_a_layer_computes_in_the_type_of_its_weights(name, channels, wrap, rng):
    """float64 tables, as of scikit-learn, would make a whole model compute in float64."""
    layer = nn.LayerNorm(4) if name == "LayerNorm" else SMALL[name](rng)
    x = wrap(rng.standard_normal((2, 3, channels)))
    x = Tensor(x) if isinstance(x, list) and name in ("MultiHeadAttention", "LayerNorm") else x
    y = layer(x)
    assert y.dtype == np.float32
    y.sum().backward()
    if isinstance(x, Tensor) and x.requires_grad:
        assert x.grad.dtype == np.float64
    assert layer.astype(np.float64)(x).dtype == np.float64


def test_an_encoder_block_of_ones_own_model_is_not_the_identity(rng):
    block, x = transformer.EncoderBlock(PAIR_SHAPE, rng=rng), rng.standard_normal((1, 3, 4)).astype(np.float32)
    norm = nn.LayerNorm(4)
    assert not np.allclose(block(x, None).data, norm(norm(x)).data, atol=1e-3)


@pytest.mark.parametrize(
    ("layer", "function"),
    [
        (nn.ReLU(), autotx.relu),
        (nn.GELU(), autotx.gelu),
        (nn.GELU("tanh"), lambda x: autotx.gelu(x, approximate="tanh")),
        (nn.Tanh(), autotx.tanh),
        (nn.Sigmoid(), autotx.sigmoid),
    ],
)
def test_activations_and_sequential(layer, function, rng):
    x = rng.standard_normal((3, 4)).astype(np.float32)
    assert np.array_equal(nn.Sequential(layer, layer)(x, rng=rng).data, function(function(x)).data)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Linear(0, 3, rng=None), "Linear: in_features is 0"),
        (lambda: nn.Linear(3, 2.5, rng=None), "Linear: out_features is 2.5"),
        (lambda: nn.Embedding(5, -1, rng=None), "Embedding: dim is -1"),
        (lambda: nn.LayerNorm(0), "LayerNorm: dim is 0"),
        (lambda: nn.Dropout(1.0), "Dropout: p is 1.0"),
        (lambda: nn.MultiHeadAttention(6, 4, rng=None), "MultiHeadAttention: 4 heads do not divide 6 channels"),
        (lambda: nn.MultiHeadAttention(6, 2, dropout=-0.1, rng=None), "Dropout: p is -0.1"),
        (lambda: MLP((3,), rng=None), "MLP: sizes are"),
        (lambda: MLP((3, 1), "swish", rng=None), "MLP: activation is 'swish'; give one of relu"),
    ],
)
def test_sizes_that_cannot_be(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# Recurrent layers


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM"])
def test_recurrent_layers_are_pytorchs_with_its_weights(name, bias, rng):
    torch = pytest.importorskip("torch")
    theirs = getattr(torch.nn, name)(3, 4, num_layers=2, bias=bias, batch_first=True).double()
    ours = getattr(nn, name)(3, 4, num_layers=2, bias=bias, rng=rng).astype(np.float64)
    ours.load_state_dict({key: value.numpy() for key, value in theirs.state_dict().items()})
    arrays = [rng.standard_normal(shape) for shape in [(2, 5, 3), (2, 2, 4), (2, 2, 4)][: 2 + (name == "LSTM")]]
    leaves = [Tensor(a, requires_grad=True) for a in arrays]
    tensors = [torch.tensor(a, requires_grad=True) for a in arrays]
    for layer, (x, *state) in ((ours, leaves), (theirs, tensors)):
        y, last = layer(x, tuple(state) if name == "LSTM" else state[0])
        loss = (y * y).sum() + sum((3 * s).sum() for s in (last if name == "LSTM" else (last,)))
        loss.backward()
        results = (y, *last) if name == "LSTM" else (y, last)
        if layer is ours:
            expected = [r.numpy() for r in results]
    for a, b in zip(expected, results):
        np.testing.assert_allclose(a, b.detach().numpy(), rtol=1e-9, atol=1e-12)
    for a, b in zip([*leaves, *ours.parameters()], [*tensors, *theirs.parameters()], strict=True):
        np.testing.assert_allclose(a.grad, b.grad.numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM"])
def test_a_sequence_in_two_parts_gives_the_states_of_the_whole(name, rng):
    layer, x = getattr(nn, name)(3, 4, num_layers=2, rng=rng), rng.standard_normal((2, 5, 3)).astype(np.float32)
    whole, last = layer(x)
    first, state = layer(x[:, :2])
    second, state = layer(x[:, 2:], state)
    np.testing.assert_allclose(np.concatenate([first.data, second.data], 1), whole.data, rtol=1e-5, atol=1e-6)
    for a, b in zip(state, last):
        np.testing.assert_allclose(a.data, b.data, rtol=1e-5, atol=1e-6)
    assert all(np.abs(p.data).max() <= 0.5 and p.data.any() for p in layer.parameters())


def test_dropout_between_recurrent_layers_is_an_rngs_matter(rng):
    layer, x = nn.GRU(3, 4, num_layers=2, dropout=0.5, rng=rng), rng.standard_normal((2, 5, 3)).astype(np.float32)
    assert np.array_equal(layer(x)[0].data, layer(x)[0].data)
    assert not np.allclose(layer(x, rng=rng)[0].data, layer(x)[0].data)


def test_recurrent_layers_compute_in_the_type_of_their_weights(rng):
    y, (h, c) = nn.LSTM(3, 4, rng=rng)(rng.standard_normal((2, 5, 3)))
    assert (y.dtype, h.dtype, c.dtype) == (np.float32, np.float32, np.float32)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda rng: nn.LSTM(3, 4, batch_first=False, rng=rng),
            "LSTM: batch_first is False; give x as (batch, steps, in",
        ),
        (lambda rng: nn.GRU(3, 0, rng=rng), "GRU: hidden_size is 0; give a whole number, 1 or more"),
        (
            lambda rng: nn.RNN(3, 4, nonlinearity="x", rng=rng)(np.ones((2, 5, 3))),
            "rnn: nonlinearity is 'x'; give 'tanh' or",
        ),
        (lambda rng: nn.GRU(3, 4, rng=rng)(np.ones((5, 3))), "GRU: x of shape (5, 3); give (batch, steps, inputs)"),
        (
            lambda rng: nn.GRU(3, 4, rng=rng)(np.ones((2, 0, 3))),
            "GRU: x of shape (2, 0, 3); give (batch, steps, inputs)",
        ),
        (
            lambda rng: nn.GRU(3, 4, rng=rng)(np.ones((2, 5, 3)), np.ones((2, 4))),
            "GRU: a state of shape (2, 4); give (1, 2, 4)",
        ),
        (
            lambda rng: nn.GRU(3, 4, rng=rng)(np.ones((2, 5, 2))),
            "gru: w_ih of shape (12, 3) for x of shape (2, 5, 2) and w_hh of shape (12, 4); give (12, 2)",
        ),
        (
            lambda rng: autotx.rnn(*[np.ones((2, 0, 3))] * 3, np.ones((3, 3))),
            "rnn: x of shape (2, 0, 3), w_hh of shape (3, 3); give (batch, steps, inputs) and (1 x units, units)",
        ),
        (
            lambda rng: autotx.lstm(*[np.ones((2, 3, 4))] * 5),
            "lstm: x of shape (2, 3, 4), w_hh of shape (2, 3, 4); give (batch, steps, inputs) and (4 x units, units)",
        ),
    ],
)
def test_what_recurrent_layers_do_not_take(call, message, rng):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        call(rng)


def test_several_results_do_not_go_through_a_sequential(rng):
    model = nn.Sequential(nn.LSTM(3, 4, rng=rng), nn.Linear(4, 2, rng=rng))
    with pytest.raises(
        TypeError, match=r"^Sequential: layer 0, LSTM, returns 2 results; write a Module that takes the"
    ):
        model(np.ones((2, 5, 3)))


@pytest.mark.parametrize("state", [np.zeros((1, 2, 4)), (np.zeros((1, 2, 4)),)])
def test_the_state_of_an_lstm_is_a_pair(state, rng):
    with pytest.raises(TypeError, match=r"^LSTM: the state is a pair of arrays; give \(h, c\)"):
        nn.LSTM(3, 4, rng=rng)(np.ones((2, 5, 3)), state)


# Attention


def attention_by_hand(layer, q_input, kv_input, may_attend):
    """The definition, one head and one query at a time."""
    C, D = q_input.shape[-1], q_input.shape[-1] // layer.n_head
    weights, biases = np.split(layer.qkv.weight.data, 3), np.split(layer.qkv.bias.data, 3)
    q, k, v = (x @ w.T + b for x, w, b in zip((q_input, kv_input, kv_input), weights, biases))
    out = np.zeros((*q_input.shape[:2], C))
    for b, t in np.ndindex(q_input.shape[:2]):
        for h in range(layer.n_head):
            cut = slice(h * D, h * D + D)
            seen = may_attend(b, t)
            scores = np.exp(k[b][seen][:, cut] @ q[b, t, cut] / np.sqrt(D))
            out[b, t, cut] = scores / scores.sum() @ v[b][seen][:, cut]
    return out @ layer.proj.weight.data.T + layer.proj.bias.data


@pytest.fixture
def attention(rng):
    layer = nn.MultiHeadAttention(8, 2, rng=rng)
    layer.qkv.bias.data, layer.proj.bias.data = rng.standard_normal(24), rng.standard_normal(8)
    return layer


def test_self_attention_full_causal_and_masked(attention, rng):
    x = rng.standard_normal((2, 5, 8)).astype(np.float32)
    near = {"rtol": 1e-4, "atol": 1e-5}
    np.testing.assert_allclose(attention(x).data, attention_by_hand(attention, x, x, lambda b, t: np.arange(5)), **near)
    expected = attention_by_hand(attention, x, x, lambda b, t: np.arange(t + 1))
    np.testing.assert_allclose(attention(x, causal=True).data, expected, **near)
    real = np.array([[True] * 5, [True, True, False, True, False]])
    expected = attention_by_hand(attention, x, x, lambda b, t: np.flatnonzero(real[b]))
    np.testing.assert_allclose(attention(x, mask=real[:, None, None, :]).data, expected, **near)


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (
            np.tri(5),
            ValueError,
            "a mask of floats is added to the scores, and this one has only 0 and 1; give mask != 0",
        ),
        (np.ones((5, 5), np.float32), ValueError, "has only 0 and 1; give mask != 0, booleans"),
        (np.tri(5, dtype=int), TypeError, "the mask has type int64; give mask != 0, booleans (True: may attend)"),
    ],
)
def test_a_mask_of_0_and_1_is_not_added_to_the_scores(mask, error, message, attention, rng):
    x = rng.standard_normal((2, 5, 8)).astype(np.float32)
    with pytest.raises(error) as raised:
        attention(x, mask=mask)
    assert message in str(raised.value)
    np.testing.assert_allclose(attention(x, mask=mask != 0).data, attention(x, causal=mask[0, 1] == 0).data, atol=1e-6)


def test_masks_of_floats_that_are_added(attention, rng):
    x = rng.standard_normal((2, 5, 8)).astype(np.float32)
    added = np.where(np.tri(5) > 0, 0, -np.inf)
    np.testing.assert_allclose(attention(x, mask=added).data, attention(x, causal=True).data, atol=1e-6)
    np.testing.assert_array_equal(attention(x, mask=np.zeros((5, 5))).data, attention(x).data)
    np.testing.assert_allclose(attention(x, mask=np.ones((5, 5)) * 0.5).data, attention(x).data, atol=1e-6)


def test_cross_attention(attention, rng):
    x, memory = (rng.standard_normal((2, n, 8)).astype(np.float32) for n in (3, 5))
    expected = attention_by_hand(attention, x, memory, lambda b, t: np.arange(5))
    np.testing.assert_allclose(attention(x, memory).data, expected, rtol=1e-4, atol=1e-5)
    same = attention(x, x).data  # itself as the memory is self-attention
    np.testing.assert_allclose(same, attention(x).data, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cross", [False, True])
def test_attention_gradients(cross, rng):
    layer = nn.MultiHeadAttention(4, 2, bias=not cross, rng=rng).astype(np.float64)
    x, memory = (Tensor(rng.standard_normal((1, n, 4)), requires_grad=True) for n in (2, 3))

    def f(x, memory, *parameters):
        return layer(x, memory if cross else None, causal=True)

    assert gradcheck(f, [x, memory, *layer.parameters()])


def test_attention_dropout_needs_an_rng(rng):
    layer = nn.MultiHeadAttention(8, 2, dropout=0.5, rng=rng)
    x = rng.standard_normal((1, 6, 8)).astype(np.float32)
    plain = layer(x).data
    assert np.array_equal(plain, layer(x).data)
    first, second = (layer(x, rng=np.random.default_rng(s)).data for s in (1, 1))
    assert np.array_equal(first, second)
    assert not np.allclose(first, plain)


def test_attention_equals_pytorch(attention, rng):
    torch = pytest.importorskip("torch")
    peer = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    pairs = {"in_proj_weight": "qkv.weight", "in_proj_bias": "qkv.bias"}
    pairs |= {"out_proj.weight": "proj.weight", "out_proj.bias": "proj.bias"}
    state = attention.state_dict()
    peer.load_state_dict({theirs: torch.from_numpy(state[ours]) for theirs, ours in pairs.items()})
    x, memory, g = (rng.standard_normal((2, n, 8)).astype(np.float32) for n in (4, 5, 4))
    ours, theirs = Tensor(x, requires_grad=True), torch.from_numpy(x).requires_grad_()
    out, (expected, _) = attention(ours, memory), peer(theirs, torch.from_numpy(memory), torch.from_numpy(memory))
    out.backward(g)
    expected.backward(torch.from_numpy(g))
    np.testing.assert_allclose(out.data, expected.detach().numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours.grad, theirs.grad.numpy(), rtol=1e-4, atol=1e-5)
    for name, parameter in peer.named_parameters():
        grad = dict(attention.named_parameters())[pairs[name]].grad
        np.testing.assert_allclose(grad, parameter.grad.numpy(), rtol=1e-4, atol=1e-4, err_msg=name)


# Initial values


@pytest.mark.parametrize(
    ("draw", "spread", "bounded"),
    [
        (init.xavier_uniform, np.sqrt(2 / 700), True),
        (init.xavier_normal, np.sqrt(2 / 700), False),
        (init.kaiming_uniform, np.sqrt(2 / 300), True),
        (init.kaiming_normal, np.sqrt(2 / 300), False),
    ],
)
def test_init_has_the_spread_of_its_formula(draw, spread, bounded, rng):
    x = draw((400, 300), rng)
    assert x.dtype == np.float32
    assert abs(x.std() / spread - 1) < 0.01
    assert abs(x.mean()) < 0.01 * spread * 3
    assert (np.abs(x).max() <= spread * np.sqrt(3) * (1 + 1e-6)) == bounded
    assert np.array_equal(draw((4, 3), np.random.default_rng(5)), draw((4, 3), np.random.default_rng(5)))
    assert draw((4, 3), rng, dtype=np.float64).dtype == np.float64
    with pytest.raises(ValueError, match=r"shape \(3,\) is not \(out, in\)"):
        draw((3,), rng)


def test_init_normal_and_filters(rng):
    x = init.normal((400, 300), rng, mean=2, std=0.5)
    assert abs(x.mean() - 2) < 0.01
    assert abs(x.std() - 0.5) < 0.01
    assert abs(init.kaiming_normal((64, 8, 5, 5), rng).std() / np.sqrt(2 / 200) - 1) < 0.05  # in = 8 * 25


# Small networks learn


def fit(net, x, y, steps, lr):
    optimizer = optim.Adam(net.parameters(), lr=lr)
    for _ in range(steps):
        loss = autotx.mse_loss(net(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return loss.item()


def test_xor_needs_a_hidden_layer(rng):
    x = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
    y = np.array([[0], [1], [1], [0]], np.float32)
    net = MLP((2, 8, 1), "tanh", rng=rng)
    assert fit(net, x, y, 400, 0.05) < 1e-3
    assert np.array_equal(net(x) > 0.5, y == 1)
    assert abs(fit(MLP((2, 8, 1), "none", rng=rng), x, y, 400, 0.05) - 0.25) < 0.01  # a line can only say 1/2


def test_a_sine_is_learned(rng):
    x = np.linspace(-np.pi, np.pi, 100, dtype=np.float32)[:, None]
    assert fit(MLP((1, 16, 16, 1), "relu", rng=rng), x, np.sin(x), 500, 0.01) < 0.005


class Keeps(nn.Module):
    """Keeps a result, a buffer and a frozen parameter as attributes."""

    def __init__(self):
        self.layer = nn.Linear(3, 2, rng=np.random.default_rng(0))
        self.mean = Tensor(np.zeros(3))
        self.layer.bias.requires_grad = False

    def forward(self, x):
        self.hidden = self.layer(x - self.mean)
        return self.hidden


def test_a_result_kept_as_an_attribute_is_no_parameter():
    model = Keeps()
    before = model.state_dict().keys(), model.num_parameters()
    with autotx.no_grad():
        model(np.ones((1, 3)))
    for _ in range(2):
        assert (model.state_dict().keys(), model.num_parameters()) == before
        model(np.ones((1, 3)))
    model.load_state_dict(model.state_dict())
    assert model.astype(np.float64).layer.weight.dtype == np.float64


def test_a_tensor_without_gradient_is_a_buffer_saved_and_not_trained():
    model, other = Keeps(), Keeps()
    assert [name for name, _ in model.named_buffers()] == ["mean"]
    assert [name for name, _ in model.named_parameters()] == ["layer.weight", "layer.bias"]  # frozen is no buffer
    assert model.num_parameters() == 8
    assert "mean (3,) buffer" in repr(model)
    model.mean.data = np.array([1.0, 2.0, 3.0], np.float32)
    other.load_state_dict(model.state_dict())
    assert other.mean.data.tolist() == [1, 2, 3]
    assert model.astype(np.float64).mean.dtype == np.float64


@pytest.mark.parametrize(
    "layers",
    [
        lambda linear: {"a.b": linear(), "a": {"b": linear()}},
        lambda linear: {1: linear(), "1": linear()},
    ],
)
def test_two_parameters_of_one_name_are_refused(layers):
    model = nn.Module()
    model.d = layers(lambda: nn.Linear(2, 2, rng=np.random.default_rng(0)))
    for use in (model.parameters, model.state_dict, lambda: model.load_state_dict({})):
        with pytest.raises(ValueError, match=r"Module: two of its values have the name 'd\.(a\.b|1)'"):
            use()


@pytest.mark.parametrize("value", [np.ones((2, 3)), Tensor(np.ones((2, 3))), 3.0])
def test_a_parameter_is_not_replaced_by_what_cannot_learn(value):
    layer = nn.Linear(3, 2, rng=np.random.default_rng(0))
    with pytest.raises(
        TypeError, match=r"Linear\.weight is a parameter; .*layer\.weight\.data = array, or freeze it by"
    ):
        layer.weight = value
    assert list(layer.state_dict()) == ["weight", "bias"]
    layer.weight = Tensor(np.ones((2, 3)), requires_grad=True)
    layer.bias = None
    assert list(layer.state_dict()) == ["weight"]


def test_a_set_of_layers_is_refused():
    with pytest.raises(TypeError, match=r"Module\.layers: a set has no order, .*; give a list"):
        nn.Module().layers = {nn.ReLU(), nn.Linear(2, 2, rng=None)}


def test_an_error_inside_sequential_names_the_layer():
    rng = np.random.default_rng(0)
    model = nn.Sequential(nn.Linear(2, 3, rng=rng), nn.Sequential(nn.ReLU(), nn.Linear(4, 1, rng=rng)))
    with pytest.raises(ValueError, match="linear: x of shape") as raised:
        model(np.ones((1, 2)))
    assert raised.value.__notes__ == ["in layer 1 of Sequential, Linear", "in layer 1 of Sequential, Sequential"]


def test_a_layer_without_rng_in_sequential_is_told_to_take_one():
    class Double(nn.Module):
        def forward(self, x):
            return x * 2

    with pytest.raises(TypeError) as raised:
        nn.Sequential(nn.ReLU(), Double())(Tensor([1.0]), rng=np.random.default_rng(0))
    assert raised.value.__notes__ == ["in layer 1 of Sequential, Double; let its forward take rng=None"]

"""What the engine recorded, as plain objects: nodes, modules, formulas, the backward pass step by step."""

import inspect

import numpy as np
import pytest

import autotx
from autotx import Tensor, functional, nn, viz
from autotx.models import GPT, MLP, GPTConfig
from autotx.viz.trace import formulas, record, trace

OPS = {
    name: f.op
    for name, f in vars(functional).items()
    if hasattr(f, "op") and not name.startswith("_") and f.__name__.strip("_") == name
}


def leaf(values, **settings):
    return Tensor(values, requires_grad=True, dtype=np.float64, **settings)


@pytest.fixture
def gpt():
    return GPT(GPTConfig(block_size=8, vocab_size=11, n_layer=2, n_head=2, n_embd=8), rng=np.random.default_rng(0))


def gpt_loss(gpt):
    ids = np.array([[1, 2, 3, 4, 5]])
    return gpt(ids, ids + 1)[1]


def node(t, **wanted):
    """The one node with these attributes."""
    found = [n for n in t.nodes if all(getattr(n, key) == value for key, value in wanted.items())]
    assert len(found) == 1, (wanted, found)
    return found[0]


# ---- Nodes ------------------------------------------------------------------------------------------------------


def test_nodes_stand_in_the_order_of_the_forward_pass():
    x, w = Tensor([[1.0, 2.0]], name="x"), leaf([[3.0], [4.0]], name="w")
    loss = (x @ w).tanh().sum()
    t = trace(loss)
    assert [(n.kind, n.op, n.name) for n in t.nodes] == [
        ("input", None, "x"),
        ("parameter", None, "w"),
        ("op", "matmul", None),
        ("op", "tanh", None),
        ("loss", "sum", None),
    ]
    assert [(a.node, a.name, a.position) for a in t.nodes[2].parents] == [(0, "x", 0), (1, "y", 1)]
    assert (t.nodes[2].shape, t.nodes[2].dtype, t.nodes[2].nbytes) == ((1, 1), np.float64, 8)
    assert t.root == 4
    for n in t.nodes:
        assert all(a.node < n.id for a in n.parents)
        assert not n.value.flags.writeable
    np.testing.assert_array_equal(t.nodes[3].value, np.tanh([[11.0]]))


def test_numbers_are_constants_and_arrays_are_inputs():
    x = leaf([1.0, 2.0])
    y = x * 2 + np.array([3.0, 4.0])
    t = trace(y)
    assert [n.kind for n in t.nodes] == ["parameter", "constant", "op", "input", "op"]
    assert t.nodes[-1].kind == "op"  # two numbers: no loss


def test_an_array_that_is_a_setting_is_an_input_and_other_settings_are_known():
    table = leaf(np.ones((4, 2)))
    ids = np.array([0, 3])
    t = trace(autotx.embedding(table, ids).softmax(axis=0))
    taken = node(t, kind="input")
    np.testing.assert_array_equal(taken.value, ids)
    assert taken.name == "ids"
    assert [(a.name, a.position) for a in node(t, op="embedding").parents] == [("weight", 0), ("ids", None)]
    assert node(t, op="softmax").settings == {"axis": 0}


def test_a_tensor_used_twice_is_one_node():
    x = leaf([3.0])
    t = trace(x * x)
    assert [a.node for a in t.nodes[-1].parents] == [0, 0]
    assert len(t.nodes) == 2


def test_gradients_are_those_of_the_time_of_the_recording():
    x, w = (Tensor(np.ones((n, 3)), requires_grad=True) for n in (2, 4))
    t = trace(autotx.linear(x, w).sum())
    w.requires_grad = False
    (gradient,) = (d for i, d in t.gradients().items() if t.nodes[i].shape == (4, 3))
    np.testing.assert_array_equal(gradient, np.full((4, 3), 2))


def test_gradients_are_there_after_backward():
    x = leaf([1.0, 2.0])
    y = (x * x).sum()
    assert trace(y).nodes[0].grad is None
    y.backward(retain_graph=True)
    np.testing.assert_array_equal(trace(y).nodes[0].grad, [2.0, 4.0])


def test_a_tensor_without_a_graph():
    with pytest.raises(ValueError, match=r"^trace: this tensor of shape \(2,\) has no graph; give the result of ops"):
        trace(Tensor([1.0, 2.0]))
    with pytest.raises(TypeError, match=r"^trace: ndarray is no Tensor; give the result of a computation"):
        trace(np.ones(2))


def test_a_freed_graph():
    x = leaf([1.0])
    loss = (x * 2).sum()
    loss.backward()
    with pytest.raises(ValueError, match=r"^trace: the graph below this result of sum was freed by backward; call "):
        trace(loss)


def test_a_deep_graph():
    x = leaf([1.0])
    y = x
    for _ in range(5000):
        y = y + x
    t = trace(y)
    assert len(t.nodes) == 5001
    np.testing.assert_array_equal(t.gradients([1.0])[0], [5001.0])


# ---- Modules ----------------------------------------------------------------------------------------------------


def test_ops_belong_to_the_modules_that_made_them(gpt):
    t = trace(gpt_loss(gpt))
    assert node(t, op="gelu", module="blocks.1.mlp").shape == (1, 5, 32)
    assert [n.module for n in t.nodes if n.op == "linear"][-1] == "GPT"  # the head is a function of the model
    assert node(t, kind="loss").module == "GPT"
    paths = [g.path for g in t.groups]
    assert paths[:4] == ["", "GPT", "wte", "wpe"]
    assert {"blocks.0", "blocks.0.attn", "blocks.0.attn.proj", "blocks.1.mlp.fc", "ln_f"} <= set(paths)
    block = t.groups[paths.index("blocks.1")]
    assert block.module == "Block"
    assert [t.groups[g].path for g in block.children] == [f"blocks.1.{m}" for m in ("ln_1", "attn", "ln_2", "mlp")]
    assert [t.nodes[n].op for n in block.nodes] == ["add", "add"]


def test_parameters_have_their_names_and_tied_ones_belong_to_what_their_uses_share(gpt):
    t = trace(gpt_loss(gpt))
    named = {n.name: n for n in t.nodes if n.kind == "parameter"}
    assert set(named) == {name for name, _ in gpt.named_parameters()}
    assert named["wte.weight"].module == "GPT"  # read by the embedding and by the head
    assert named["wpe.weight"].module == "wpe"
    uses = [n.op for n in t.nodes for a in n.parents if a.node == named["wte.weight"].id]
    assert uses == ["embedding", "linear"]


def test_a_tensor_held_twice_has_the_name_that_named_parameters_gives_it():
    class Tied(nn.Module):
        def __init__(self):
            self.layers = {"first": nn.Linear(2, 2, bias=False, rng=np.random.default_rng(0))}
            self.again = self.layers["first"].weight

        def forward(self, x):
            return self.layers["first"](x) @ self.again

    model = Tied()
    names = [name for name, _ in model.named_parameters()]
    assert names == ["layers.first.weight"]
    t = trace(model(np.array([[1.0, 2.0]], np.float32)))
    assert [n.name for n in t.nodes if n.kind == "parameter"] == names


def test_every_node_is_in_one_group(gpt):
    t = trace(gpt_loss(gpt))
    assert sorted(n for g in t.groups for n in g.nodes) == list(range(len(t.nodes)))
    for g in t.groups:
        assert all(t.groups[child].parent == g.id for child in g.children)
        assert all(t.nodes[n].group == g.id for n in g.nodes)


def test_a_module_called_twice():
    class Twice(nn.Module):
        def __init__(self):
            self.shared = nn.Linear(2, 2, rng=np.random.default_rng(0))

        def forward(self, x):
            return self.shared(self.shared(x))

    t = trace(Twice()(np.ones((1, 2), np.float32) * [1, 2]))
    assert [g.path for g in t.groups] == ["", "Twice", "shared", "shared#2"]
    assert [n.module for n in t.nodes if n.op] == ["shared", "shared#2"]
    assert {n.module for n in t.nodes if n.kind == "parameter"} == {"Twice"}


def test_what_is_handed_through_is_not_the_module_s():
    x = leaf([[1.0, 2.0]])
    y = nn.Dropout(0.5)(x * 2)
    assert [g.path for g in trace(y).groups] == [""]


def test_several_outermost_modules_and_ops_outside_them():
    rng = np.random.default_rng(0)
    first, second, out = nn.Linear(2, 3, rng=rng), nn.Linear(3, 1, rng=rng), nn.Tanh()
    loss = out(second(first(Tensor([[1.0, 2.0]])))).sum()
    t = trace(loss)
    assert [g.path for g in t.groups] == ["", "Linear_1", "Linear_2", "Tanh"]
    assert [n.module for n in t.nodes if n.op] == ["Linear_1", "Linear_2", "Tanh", ""]
    assert [n.name for n in t.nodes if n.kind == "parameter"] == [
        *("Linear_1.weight", "Linear_1.bias"),
        *("Linear_2.weight", "Linear_2.bias"),
    ]


def test_tensors_in_tuples_and_dicts_are_found():
    class Two(nn.Module):
        def forward(self, x):
            return {"both": (x * 2, [x * 3])}

    both = Two()(leaf([1.0]))["both"]
    assert [n.module for n in trace(both[0] + both[1][0]).nodes if n.op] == ["Two", "Two", ""]


def test_what_comes_in_belongs_outside_and_what_is_made_inside_does_not():
    class Layer(nn.Module):
        def __init__(self):
            self.inner = Inner()

        def forward(self, x, mask):
            return self.inner(x) * mask

    class Inner(nn.Module):
        def forward(self, x):
            return x * Tensor([5.0], name="made") + np.array([1.0, 2.0])

    t = trace(Layer()(leaf([1.0, 3.0], name="x"), np.array([0.0, 1.0])))
    modules = {n.name or n.value.tolist()[1]: n.module for n in t.nodes if not n.op}
    assert modules == {"x": "", "made": "inner", 2.0: "inner", 1.0: ""}


def test_arrays_that_modules_hold_have_names():
    class Waves(nn.Module):
        def __init__(self):
            self.positions = np.arange(6.0).reshape(3, 2)

        def forward(self, x):
            return x + self.positions[:2]

    n = node(trace(Waves()(leaf([1.0, 2.0]))), kind="input")
    assert (n.name, n.module, n.shape) == ("positions", "Waves", (2, 2))


def test_a_freed_graph_holds_no_module():
    loss = MLP((2, 3, 1), rng=np.random.default_rng(0))(np.ones((1, 2), np.float32)).sum()
    loss.backward()
    assert loss._parents == ()


# ---- Formulas ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(OPS))
def test_every_op_has_a_formula_and_one_for_each_gradient(name):
    op = OPS[name]
    formula, gradients = formulas(op)
    assert " = " in formula
    wanted = {p.name for p in inspect.signature(op).parameters.values() if p.kind is p.POSITIONAL_ONLY} or {"*"}
    assert set(gradients) == wanted
    for argument, text in gradients.items():
        own = f"d{argument}".lower() in text.lower()
        assert own or text.endswith(("the other 0", "it filled", "of g", '"ij,kj->ik")'))
        assert text.count("(") == text.count(")")
    assert formula.count("(") == formula.count(")")


def test_formulas_of_a_few():
    assert formulas(OPS["linear"]) == (
        "y = x W^T + b",
        {"x": "dx = g W", "weight": "dweight = g^T x", "bias": "dbias = sum of g over the rows"},
    )
    assert formulas(OPS["cross_entropy"])[1] == {"logits": "dlogits = g (P - y) / n for the mean over n places"}
    assert formulas(OPS["gelu"])[1]["x"] == "dx = g (P(x) + x p(x))"
    assert formulas(OPS["gelu"], {"approximate": "tanh"})[0].startswith("y = x (1 + tanh u) / 2")


@autotx.lift
def cube(x, /, scale=1.0):
    """y = scale x^3.   dx = 3 g scale x^2."""
    return scale * x**3, (lambda g: 3 * g * scale * x**2,)


def test_an_op_of_the_user_s_own():
    n = trace(cube(leaf([2.0]), scale=5.0)).nodes[-1]
    assert (n.formula, n.gradients, n.settings) == ("y = scale x^3", {"x": "dx = 3 g scale x^2"}, {"scale": 5.0})


def test_an_op_that_is_made_inside_a_function():
    @autotx.lift
    def inner(x, /):
        return x + 1, (lambda g: g,)

    n = trace(inner(leaf([2.0]))).nodes[-1]
    assert (n.op, n.formula, n.gradients, n.settings) == ("inner", None, {"x": None}, {})


# ---- The backward pass, step by step ----------------------------------------------------------------------------


def test_the_steps_give_the_engine_s_gradients_and_touch_none(gpt):
    loss = gpt_loss(gpt)
    t = trace(loss)
    gradients = t.gradients()
    assert all(p.grad is None for p in gpt.parameters())
    loss.backward(retain_graph=True)
    for n in trace(loss).nodes:
        if n.requires_grad:
            np.testing.assert_array_equal(gradients[n.id], n.grad)


def test_a_step_has_what_came_in_and_what_went_out():
    x, y = leaf([2.0, 3.0]), leaf(5.0)
    t = trace((x * y).sum())
    last, first = t.backward()
    assert (t.nodes[last.node].op, t.nodes[first.node].op) == ("sum", "mul")
    np.testing.assert_array_equal(first.incoming, [1.0, 1.0])
    np.testing.assert_array_equal(first.outgoing[0], [5.0, 5.0])
    assert first.outgoing[1].shape == ()
    assert first.outgoing[1] == 5.0


def test_the_steps_may_start_from_a_gradient():
    x = leaf([2.0, 3.0])
    t = trace(x * x)
    np.testing.assert_array_equal(t.gradients([1.0, 10.0])[0], [4.0, 60.0])
    with pytest.raises(ValueError, match=r"^backward: a tensor of shape \(2,\) is not a scalar; reduce it"):
        list(t.backward())


def test_the_steps_refuse_a_graph_whose_parameter_was_written_to():
    w = leaf([2.0], name="w")
    t = trace((w * w).sum())
    w.writable()[...] = 7
    with pytest.raises(ValueError, match=r"^backward: mul was recorded with 'w' of shape \(1,\), which has"):
        list(t.backward())


# ---- Lines and times --------------------------------------------------------------------------------------------


def test_record_sees_lines_times_and_settings():
    x = leaf([1.0, 2.0])
    with record() as r:
        y = x.softmax()  # here
        loss = y.sum()
        loss.backward(retain_graph=True)
    n = node(trace(loss), op="softmax")
    assert n.line[0].endswith("test_trace.py")
    assert n.line[2] == "y = x.softmax()  # here"
    assert n.forward_seconds > 0
    assert n.backward_seconds > 0
    assert [(seen.op, seen.shape) for seen in r.records] == [("softmax", (2,)), ("sum", ())]


def test_nothing_is_seen_outside_of_record():
    x = leaf([1.0])
    with record() as r:
        y = x * 2
    z = y + 1
    assert len(r.records) == 1
    assert trace(z).nodes[-1].line is None


def test_times_of_backward_are_there_when_the_graph_is_freed():
    with record() as r:
        (leaf([1.0]) * 2).sum().backward()
    assert all(seen.backward_seconds > 0 for seen in r.records)


def test_drawing_is_not_recorded(tmp_path):
    x = leaf([-1.0, 0.0])
    with record() as r:
        loss = x.softmax().sum()
        loss.backward(retain_graph=True)
        times = [seen.backward_seconds for seen in r.records]
        with autotx.no_grad(), autotx.detect_anomaly():
            opened = viz.graph(loss, grads=True, fused=["softmax"])
            viz.page(loss, tmp_path / "page.html")
    assert "Σ x" in opened.source
    assert [seen.op for seen in r.records] == ["softmax", "sum"]
    assert [seen.backward_seconds for seen in r.records] == times


def test_ops_without_settings_keep_no_dict():
    assert leaf([1.0]).exp()._settings is None
    assert trace(leaf([1.0]).exp()).nodes[-1].settings == {}


def test_record_and_detect_anomaly_at_once():
    x = leaf([-1.0])
    with record() as r, autotx.detect_anomaly(), pytest.raises(FloatingPointError, match=r"x\.log\(\)  # here$"):
        x.log()  # here
    assert [seen.op for seen in r.records] == ["log"]
    with autotx.detect_anomaly(), record() as r:
        x * 2
    assert len(r.records) == 1
    assert np.isnan(x.log().data).all()  # nobody looks on any more

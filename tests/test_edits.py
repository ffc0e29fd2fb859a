"""Values of a model are seen and replaced inside it, and an edit of nothing changes no bit."""

import functools
import io
import json
import tracemalloc

import numpy as np
import pytest
from gguf_files import TEXT, small_llama, write_model
from test_readers import ARCHITECTURES, ROWS, T, V, made, near, same

import autotx
from autotx import Tensor
from autotx.models import GPT, GPTConfig, Llama, LlamaConfig
from autotx.models.cli import main
from autotx.models.inference import edits
from autotx.models.inference.pieces import Int8Matrix, Matrix

MODELS = [name for name in ARCHITECTURES if "transformer" not in name and "norm" not in name]
SMALL = {"gpt": lambda: GPT(GPTConfig(12, 20, 2, 2, 8), np.random.default_rng(0)),
         "llama": lambda: Llama(LlamaConfig(12, 20, 2, 4, 2, 16, 24), np.random.default_rng(0))}  # fmt: skip
IDS = np.random.default_rng(1).integers(20, size=(2, 6))


def all_names(model):
    return edits.names(len(model.blocks))


def small(name, dtype=np.float64):
    """A model with weights far from zeros, in float64."""
    model, rng = SMALL[name](), np.random.default_rng(3)
    for p in model.parameters():
        p.data = p.numpy() + 0.3 * rng.standard_normal(p.shape)
    return model.astype(dtype)


def forward(model, ids):
    with autotx.no_grad():
        return model(ids)[0].data


def read(model, ids, piece=None, matrix=Matrix):
    reader = model.reader(len(ids), matrix=matrix)
    step = piece or ids.shape[1]
    return np.concatenate([reader.scores(reader.read(ids[:, i : i + step])) for i in range(0, ids.shape[1], step)], 1)


# Nothing changes


@pytest.mark.parametrize("piece", [1, 3, T])
@pytest.mark.parametrize("matrix", [Matrix, Int8Matrix])
@pytest.mark.parametrize("name", MODELS)
def test_an_edit_of_nothing_changes_no_bit_of_what_is_read(name, matrix, piece):
    model = made(name)
    expected = read(model, ROWS, piece, matrix)
    for nothing in (None, np.copy):
        with model.edit(dict.fromkeys(all_names(model), nothing)):
            found = read(model, ROWS, piece, matrix)
        assert np.array_equal(found, expected)
    assert not model.edits


@pytest.mark.parametrize("tokens", [1, 4, 5, T])
@pytest.mark.parametrize("name", MODELS)
def test_an_edit_of_nothing_changes_no_bit_of_forward_and_gradients(name, tokens):
    model, found = made(name), []
    for nothing in ((), None, lambda x: x, lambda x: 1 * x):
        changed = {} if nothing == () else dict.fromkeys(all_names(model), nothing)
        for recompute in (False, True):
            model.recompute = recompute
            model.zero_grad()
            with model.edit(changed):
                logits, loss = model(ROWS[:, :tokens], ROWS[:, 1 : tokens + 1] if tokens < T else ROWS)
                loss.backward()
            found.append([logits.data, loss.data, *(p.grad for p in model.parameters())])
    model.recompute = False
    for other in found[1:]:
        assert all(map(np.array_equal, found[0], other))


# What is seen


@pytest.mark.parametrize("name", ["gpt", "llama"])
def test_values_of_forward_and_of_a_reader_are_the_same_and_shaped_as_the_table_says(name):
    model = made(name)
    c, B = model.config, len(ROWS)
    C, H, G = c.n_embd, c.n_head, getattr(c, "n_kv_head", c.n_head)
    shapes = {
        "q": (B, H, T, C // H), "k": (B, G, T, C // H), "v": (B, G, T, C // H), "weights": (B, H, T, T),
        "heads": (B, T, H, C // H), "hidden": (B, T, getattr(c, "n_hidden", 4 * C)), "logits": (B, T, V),
    }  # fmt: skip
    nothing = dict.fromkeys(all_names(model))
    with model.edit(nothing) as seen:
        model(ROWS)
    with model.edit(nothing) as read_by_reader:
        read(model, ROWS)
    assert list(seen) == list(read_by_reader) == all_names(model)
    for value in seen:
        assert seen[value].shape == read_by_reader[value].shape == shapes.get(value.split(".")[-1], (B, T, C))
        near(read_by_reader[value], seen[value].data)
    assert np.allclose(seen["blocks.1.attention.weights"].data.sum(-1), 1, atol=1e-5)
    out = sum(seen[f"blocks.1.{part}.out"].data for part in ("attention", "mlp"))
    near(seen["blocks.1.out"].data, seen["blocks.0.out"].data + out)


def test_a_pattern_stands_for_one_part_of_a_name(rng):
    model = small("gpt")
    with model.edit({"blocks.*.out": None}) as seen:
        model(IDS)
    assert list(seen) == ["blocks.0.out", "blocks.1.out"]
    with model.edit({"blocks.1.attention.*": None}) as seen:
        read(model, IDS, 2)
    assert list(seen) == [f"blocks.1.attention.{part}" for part in ("q", "k", "v", "weights", "heads", "out")]
    assert seen["blocks.1.attention.weights"].shape == (2, 2, 2, 6)  # of the last piece: 2 tokens, to all 6


def test_a_value_that_was_seen_has_its_gradient():
    model = small("llama")
    with model.edit({"blocks.0.out": None}) as seen:
        model(IDS)[0].sum().backward(retain_graph=True)
    assert np.abs(seen["blocks.0.out"].grad).min() > 0


# What is replaced


@pytest.mark.parametrize("name", SMALL)
def test_every_value_is_replaced_alike_in_forward_and_in_a_reader_however_the_text_is_cut(name):
    model = small(name)
    plain = forward(model, IDS)
    for value in all_names(model):
        more = 0 if value.endswith("weights") else 0.1  # forward gives an edit the zeros of later tokens, too
        with model.edit({value: lambda x, more=more: x * 1.5 + more * np.cos(np.arange(x.shape[-1]))}):
            changed = forward(model, IDS)
            for piece in (1, 4, 6):
                np.testing.assert_allclose(read(model, IDS, piece), changed, rtol=1e-9, atol=1e-12)
        assert np.abs(changed - plain).max() > 1e-5
        assert np.array_equal(forward(model, IDS), plain)


@pytest.mark.parametrize("name", ["gpt", "llama"])
def test_without_its_blocks_a_model_scores_the_embedding(name):
    model = made(name)
    with model.edit(dict.fromkeys(["blocks.*.attention.out", "blocks.*.mlp.out"], np.zeros_like)):
        found, by_forward = read(model, ROWS), forward(model, ROWS)
    with model.edit({"embedding": None}) as seen:
        reader = model.reader(3)
        reader.read(ROWS)
    x = seen["embedding"]
    assert np.array_equal(found, reader.scores(reader.norm(x.reshape(-1, x.shape[2])).reshape(x.shape)))
    near(by_forward, found)


@pytest.mark.parametrize("name", ["gpt", "llama"])
def test_a_row_whose_weights_are_left_keeps_its_bits_and_another_takes_the_values_by_the_new_ones(name):
    model = made(name)

    def to_the_first(w):
        w = w.copy()
        w[:, 1, 5] = np.eye(w.shape[3], dtype=w.dtype)[0]
        return w

    wanted = {"blocks.0.attention.heads": None, "blocks.0.attention.v": None}
    with model.edit(wanted) as plain:
        read(model, ROWS)
    with model.edit({"blocks.0.attention.weights": to_the_first, **wanted}) as seen:
        read(model, ROWS)
    with model.edit({"blocks.0.attention.weights": lambda w: Tensor(to_the_first(w.data)), **wanted}) as by_forward:
        model(ROWS)
    heads, before = (x["blocks.0.attention.heads"] for x in (seen, plain))
    v = plain["blocks.0.attention.v"]
    same(heads[:, 5, 1], v[:, 1 * v.shape[1] // heads.shape[2], 0])
    changed = np.zeros(heads.shape[1:3], bool)
    changed[5, 1] = True
    assert np.array_equal(heads[:, ~changed], before[:, ~changed])
    near(by_forward["blocks.0.attention.heads"].data, heads)


INNER = ("attention.q", "attention.weights", "attention.heads", "mlp.hidden", "out")


@pytest.mark.parametrize("value", ["embedding", *(f"blocks.0.{name}" for name in INNER), "logits"])
@pytest.mark.parametrize("name", SMALL)
def test_gradients_flow_through_an_edit(name, value):
    """With respect to what it adds and multiplies by, against finite differences."""
    model = small(name)

    def loss(scale):
        with model.edit({value: lambda x: x * scale + 0.1}):
            return model(IDS, IDS, scores=False)[1]

    assert autotx.gradcheck(loss, Tensor(1.2, requires_grad=True, dtype=np.float64))
    p = model.blocks[0].norm1.weight if name == "llama" else model.blocks[0].ln_1.weight
    model.zero_grad()
    loss(1.2).backward()
    found, before = p.grad[0], p.numpy()
    sides = []
    for step in (1e-5, -1e-5):
        p.data = before + step * np.eye(len(before))[0]
        sides.append(loss(1.2).item())
    assert found == pytest.approx((sides[0] - sides[1]) / 2e-5, rel=1e-5, abs=1e-9)


def test_a_constant_cuts_the_gradient():
    model = small("gpt")
    with model.edit({"blocks.0.out": lambda x: np.ones_like(x.data)}):
        model(IDS, IDS)[1].backward()
    assert model.blocks[0].mlp.fc.weight.grad is None or not model.blocks[0].mlp.fc.weight.grad.any()
    assert model.blocks[1].mlp.fc.weight.grad.any()


def test_blocks_may_be_nested_and_a_value_goes_from_the_outside_in():
    model = small("llama")
    for value in ("blocks.0.out", "blocks.0.attention.q", "logits"):
        for compute in (forward, read):
            with model.edit({value: lambda x: x + 1}):
                with model.edit({value: lambda x: x * 2}):
                    nested = compute(model, IDS)
                outer = compute(model, IDS)
            with model.edit({value: lambda x: (x + 1) * 2}):
                expected = compute(model, IDS)
            assert np.array_equal(nested, expected)
            assert not np.array_equal(outer, expected)


# Where it holds


@pytest.mark.parametrize("name", SMALL)
def test_generation_sees_edits_also_when_the_window_slides(name):
    model = small(name, np.float32)
    ids = IDS[:1]
    with model.edit({"blocks.0.mlp.out": lambda x: -x}):
        found = model.generate(ids, 10, temperature=0)
        for _ in range(10):
            ids = np.column_stack([ids, forward(model, ids[:, -12:])[:, -1].argmax(-1)])
    assert np.array_equal(found, ids)
    assert not np.array_equal(found, model.generate(IDS[:1], 10, temperature=0))


def test_readers_of_before_and_their_copies_share_the_edits():
    model = small("llama", np.float32)
    reader, plain = model.reader(2), read(model, IDS)
    with reader.edit({"logits": lambda x: x + 1}):
        other = reader.reader(2)
        assert np.array_equal(other.scores(other.read(IDS)), plain + 1)
    reader = other.reader(2)
    assert np.array_equal(reader.scores(reader.read(IDS)), plain)


def test_a_loss_without_scores_is_that_of_the_edited_scores():
    model = small("gpt")
    with model.edit({"logits": lambda x: 2 * x}):
        _, loss = model(IDS, IDS)
        nothing, without = model(IDS, IDS, scores=False)
    assert nothing is None
    assert loss.item() == pytest.approx(without.item())
    assert loss.item() == pytest.approx(autotx.cross_entropy(2 * model(IDS)[0], IDS).item())


def test_what_an_edit_is_given_it_may_keep():
    """Not one of the arrays is written into afterwards."""
    model, kept, copies = made("llama"), [], []

    def keep(x):
        kept.append(x)
        copies.append(x.copy())
        return x

    with model.edit(dict.fromkeys(all_names(model), keep)):
        read(model, ROWS, 3)
    names = all_names(model)
    different = {names[i % len(names)] for i, (a, b) in enumerate(zip(kept, copies)) if not np.array_equal(a, b)}
    assert different == set()


def test_memory_is_what_was_asked_for():
    model = Llama(LlamaConfig(512, V, 8, 4, 2, 256, 512), np.random.default_rng(0))
    ids = np.random.default_rng(0).integers(V, size=(1, 512))

    def peak():
        reader = model.reader(1)
        tracemalloc.start()
        reader.read(ids)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    peak()  # the kernels' own memory
    plain = peak()
    with model.edit({"blocks.*.out": None, "blocks.3.mlp.out": None}) as seen:
        asked = peak()
    assert asked - plain < sum(x.nbytes for x in seen.values()) + 5e6
    assert len(seen) == 9


# What is wrong


def fails_with(model, edits, text, compute=None):
    with pytest.raises(ValueError, match=text) as failure, model.edit(edits):
        (compute or read)(model, IDS)
    assert "\n" not in str(failure.value)
    assert not model.edits
    assert np.array_equal(forward(model, IDS), model(IDS)[0].data)


def test_edits_that_are_wrong():
    model = small("gpt")
    fails_with(
        model, {"blocks.1.mlp.ot": None}, "^edit: the model has no value 'blocks.1.mlp.ot'; near it: blocks.1.mlp"
    )
    fails_with(model, {"blocks.2.out": None}, "^edit: the model has no value 'blocks.2.out'; near it: blocks.1.out")
    fails_with(model, {"???": None}, r"^edit: the model has no value '\?\?\?'$")
    for compute in (read, forward):
        fail = functools.partial(fails_with, model, compute=compute)
        fail(
            {"blocks.0.out": lambda x: x[:, :1]},
            r"^edit: blocks.0.out: the function returned \(2, 1, 8\) of float64; return \(2, 6, 8\) of float64$",
        )
        fail(
            {"logits": lambda x: x.astype(np.float32)}, r"^edit: logits: .* of float32; return \(2, 6, 20\) of float64$"
        )
        fail({"norm.out": lambda x: None}, "^edit: norm.out: the function returned a NoneType; return ")
        fail({"blocks.*.attention.v": lambda x: 1 / 0},
             "^edit: blocks.0.attention.v: ZeroDivisionError: division by zero$")  # fmt: skip

    def writes(x):
        x[:] = 0
        return x

    fails_with(model, {"embedding": writes}, "^edit: embedding: ValueError: assignment destination is read-only$")
    fails_with(model, {"logits": 3}, "^edit: logits: 3 is no function; give one, or None to see the value$")


def test_weights_are_not_edited_while_dropout_drops_some():
    model = GPT(GPTConfig(12, 20, 1, 2, 8, dropout=0.1), np.random.default_rng(0))
    with model.edit({"blocks.0.attention.weights": None}) as seen:
        model(IDS, rng=np.random.default_rng(0))
    assert seen
    told = "^edit: attention.weights: dropout drops some of them; give rng=None to edit them$"
    with pytest.raises(ValueError, match=told), model.edit({"blocks.0.attention.weights": lambda w: 2 * w}):
        model(IDS, rng=np.random.default_rng(0))


def test_a_model_that_names_no_values():
    from toy_family import Bigram, BigramConfig

    model = Bigram(BigramConfig(5, 4, 3), np.random.default_rng(0))
    told = r"^edit: a Bigram names no values; a GPT and a Llama do$"
    with pytest.raises(ValueError, match=told), model.edit({"logits": None}):
        pass
    with model.edit({}):
        model(IDS % 5)


# The commands


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A GGUF file of a small Llama with a chat template, a text, and files of edits."""
    folder = tmp_path_factory.mktemp("edits")
    write_model(folder / "small.gguf", small_llama())
    (folder / "text").write_text(TEXT[:400], encoding="utf-8")
    (folder / "edit.py").write_text(
        'def f(x):\n    return -x\n\n\nedits = {"blocks.*.mlp.out": f, "blocks.0.out": None}\n'
    )
    (folder / "nothing.py").write_text('edits = {"blocks.*.mlp.out": lambda x: x}\n')
    return folder


def said(capsys, *words):
    capsys.readouterr()
    assert main([str(word) for word in words]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("more", [[], ["--weights", "int8", "--speculate"], ["--samples", "2", "--json"]])
def test_generate_and_evaluate_with_edits(folder, capsys, more):
    same = ["generate", "--model", folder / "small.gguf", "--prompt", "the fox", "--max-new-tokens", 20, "--seed", 1]
    files = [], ["--edit", folder / "nothing.py"], ["--edit", folder / "edit.py"]
    plain, nothing, edited = (said(capsys, *same, *more, *file) for file in files)
    assert plain == nothing
    assert plain != edited
    same = ["evaluate", "--model", folder / "small.gguf", "--against", folder / "small.gguf", "--text", folder / "text"]
    found = json.loads(said(capsys, *same, "--json", "--edit", folder / "nothing.py"))
    assert found["against"]["divergence"] == 0
    found = json.loads(said(capsys, *same, "--json", "--edit", folder / "edit.py"))
    assert found["against"]["divergence"] > 0


def test_chat_with_edits(folder, capsys, monkeypatch):
    answers = []
    for edit in ([], ["--edit", folder / "nothing.py"], ["--edit", folder / "edit.py"]):
        monkeypatch.setattr("sys.stdin", io.StringIO("fox\ndog\n"))
        answers.append(said(capsys, "chat", "--model", folder / "small.gguf", "--seed", 1, *edit))
    assert answers[0] == answers[1] != answers[2]


def test_files_of_edits_that_are_wrong(folder, fails, tmp_path):
    file = tmp_path / "a.py"
    same = ["generate", "--model", folder / "small.gguf", "--prompt", "the fox", "--json", "--edit", file]
    fails(same, "--edit .*a.py is no file; give one of Python that defines edits")
    for content, told in (
        ("edits = {", "--edit .*a.py: SyntaxError: '{' was never closed"),
        ("1 / 0", "--edit .*a.py: ZeroDivisionError: division by zero"),
        ("x = 3", "--edit .*a.py defines no edits; let it say edits = {name of a value: function}"),
        (
            "edits = {'blocks.7.out': None}",
            "the model has no value 'blocks.7.out'; near it: blocks.1.out, blocks.0.out",
        ),
        (
            "edits = {'logits': lambda x: x[0]}",
            r"edit: logits: the function returned \(1, \d+\) of float32; return \(1, 1, ",
        ),
        ("edits = {'logits': 3}", "edit: logits: 3 is no function; give one, or None to see the value"),
    ):
        file.write_text(content)
        fails(same, told)
    fails([*same, "--attention", tmp_path / "a.png"], "--attention draws the model as it is; leave --edit out")

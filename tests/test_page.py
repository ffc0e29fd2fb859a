"""The replay page as a file: its numbers are the engine's, it needs nothing else, and what cannot be shown is told.

What a browser makes of it is tested in test_browser.py.
"""

import base64
import html
import json
import math
import re
import shutil
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest

import autotx
from autotx import Tensor, viz
from autotx.models import GPT, GPTConfig, cli
from autotx.models.paper import replays
from autotx.viz.page import EXACT

TEXT = "".join(f"{i} times {i} is {i * i}.\n" for i in range(300))
SETTINGS = {"steps": 1, "n-layer": 1, "n-head": 2, "n-embd": 16, "block-size": 16}
TINY = [word for name, value in SETTINGS.items() for word in (f"--{name}", str(value))]
TYPES = {"f2": "<f2", "f4": "<f4", "f8": "<f8", "i4": "<i4", "i8": "<f8"}


def opened(file):
    """The data of a page, its arrays decoded: array(number) -> (values that are kept, record)."""
    text = file.read_text(encoding="utf-8")
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])
    numbers = zlib.decompress(base64.b64decode(re.search(r'id="numbers">(.*?)</script>', text, re.S)[1]))

    def array(number):
        record = data["arrays"][number]
        shape = [-(-n // k) for n, k in zip(record["shape"], record["keep"])]
        values = np.frombuffer(numbers, TYPES[record["kind"]], int(np.prod(shape)), record["offset"])
        return values.reshape(shape).astype(np.float64) * record["scale"], record

    return data, array


def gpt(rng, **sizes):
    return GPT(GPTConfig(**{"block_size": 64, "vocab_size": 65, "n_layer": 2, "n_head": 2, "n_embd": 16, **sizes}), rng)


@pytest.fixture
def small():
    """A layer with a loss: (loss, x, w)."""
    x = Tensor([[1.0, 2.0], [3.0, 4.0]], requires_grad=True, name="x", dtype=np.float64)
    w = Tensor([[0.5, -1.0], [0.25, 2.0]], requires_grad=True, name="w", dtype=np.float64)
    return ((x @ w).tanh() * x).sum(), x, w


# The numbers


def test_small_arrays_are_exact_and_gradients_are_those_of_backward(small, tmp_path):
    loss, x, w = small
    viz.page(loss, tmp_path / "page.html")
    data, array = opened(tmp_path / "page.html")
    assert [op["op"] for op in data["ops"]] == ["matmul", "tanh", "mul", "sum"]
    assert data["backward"] == [3, 2, 1, 0]
    matmul, _, mul, last = data["ops"]
    assert np.array_equal(array(matmul["out"])[0], x.data @ w.data)
    assert array(last["out"])[0] == loss.item()
    assert x.grad is None, "the page leaves gradients alone"
    loss.backward()
    assert np.array_equal(array(matmul["inputs"][1]["grad"])[0], w.grad)
    for use in (matmul["inputs"][0], mul["inputs"][1]):  # x is used twice: each part, and their sum
        assert np.array_equal(array(use["total"])[0], x.grad)
    parts = [array(use["grad"])[0] for use in (matmul["inputs"][0], mul["inputs"][1])]
    assert np.array_equal(sum(parts), x.grad)


@pytest.mark.parametrize("numbers", [[2**40 + 7, 0], [-(2**31) - 1, 5], [2**31 - 1, -(2**31)], [2**53 - 1], [True]])
def test_whole_numbers_are_exact(numbers, tmp_path):
    x, w = np.array(numbers), Tensor(1.0, requires_grad=True, dtype=np.float64)
    viz.page((autotx.where(x == x[0], w, 0.0) * x).sum(), tmp_path / "page.html")
    data, array = opened(tmp_path / "page.html")
    kept = [array(i) for i in range(len(data["arrays"]))]
    assert [values.tolist() for values, record in kept if record["dtype"] == str(x.dtype)][-1] == numbers


@pytest.mark.skipif(not shutil.which("node"), reason="Node.js is not installed")
def test_numbers_are_written_with_their_digits():
    script = (Path(viz.__file__).parent / "web" / "page_numbers.js").read_text(encoding="utf-8")
    wanted = {"2**40 + 7, 16": "1099511627783", "2**40 + 7": "1.1e12", "-(2**40), 10": "\N{MINUS SIGN}1099511627776"}
    wanted |= {"1e300, 16": "1e300", "1234567, 4": "1234567", "0.125, 5": "0.125", "1e-7, 5": "1e\N{MINUS SIGN}7"}
    calls = ", ".join(f"formatNumber({call})" for call in wanted)
    done = subprocess.run(
        ["node", "-"], input=f"{script}\nconsole.log([{calls}].join('\\n'))", capture_output=True, text=True
    )
    assert done.stdout.split() == list(wanted.values()), done.stderr


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_numbers_near_the_largest_have_finite_statistics(dtype, tmp_path):
    most = float(np.finfo(dtype).max) / 2
    x = Tensor(np.full((10, 10), most, dtype), requires_grad=True)
    viz.page((x * 1.0).max(), tmp_path / "page.html")
    records = opened(tmp_path / "page.html")[0]["arrays"]
    assert all(math.isfinite(value) for r in records for value in (r["mean"], r["std"], r["min"], r["max"]))
    value = viz.graph_json((x * 1.0).max())["nodes"][0]["value"]
    assert value == pytest.approx({"mean": most, "std": 0, "min": most, "max": most})


def test_large_arrays_are_kept_to_three_digits_with_exact_statistics(rng, tmp_path):
    values = 1e-6 * rng.standard_normal((300, 40)).astype(np.float32)  # below what half precision can hold
    viz.page((Tensor(values, requires_grad=True) * 2.0).sum(), tmp_path / "page.html")
    data, array = opened(tmp_path / "page.html")
    kept, record = array(data["ops"][0]["inputs"][0]["array"])
    assert record["kind"] == "f2"
    sample = values[tuple(slice(None, None, k) for k in record["keep"])]
    np.testing.assert_allclose(kept, sample, rtol=5e-4, atol=1e-3 * np.abs(values).max() / 2**10)
    assert record["mean"] == pytest.approx(values.mean(dtype=np.float64), rel=1e-6)
    assert record["std"] == pytest.approx(values.std(dtype=np.float64), rel=1e-6)
    assert (record["min"], record["max"]) == pytest.approx((values.min(), values.max()), rel=1e-6)
    assert all(k == 1 for r in data["arrays"] for k in r["keep"] if np.prod(r["shape"]) <= EXACT)


def test_of_an_embeddings_gradient_every_row_is_kept(rng, tmp_path):
    weight, ids = Tensor(rng.standard_normal((400, 128)), requires_grad=True), np.array([3, 77, 3])
    viz.page(autotx.embedding(weight, ids).sum(), tmp_path / "page.html")
    data, array = opened(tmp_path / "page.html")
    kept, record = array(data["ops"][0]["inputs"][0]["grad"])
    assert (record["keep"][0], np.flatnonzero(kept[:, 0]).tolist()) == (1, [3, 77])


def test_what_rounding_leaves_of_a_mean_is_0(tmp_path):
    x = Tensor([0.1, 0.2, -0.3], requires_grad=True, dtype=np.float64)
    viz.page(x * 3.0, tmp_path / "page.html", grad=[1, 1, 1])
    data, array = opened(tmp_path / "page.html")
    values, record = array(data["ops"][0]["out"])
    assert values.mean() != 0
    assert record["mean"] == 0


def test_numbers_that_are_not_finite_are_counted(tmp_path):
    x = Tensor([1.0, 0.0, np.inf], requires_grad=True)
    with np.errstate(all="ignore"):
        viz.page(x.log().sum(), tmp_path / "page.html")
    data, array = opened(tmp_path / "page.html")
    kept, record = array(data["ops"][0]["out"])
    assert np.array_equal(kept, [0, -np.inf, np.inf])
    assert (record["bad"], record["mean"]) == (2, 0)


def test_a_gpt_of_size_s_stays_below_two_megabytes(rng, tmp_path):
    model = gpt(rng, n_layer=4, n_head=4, n_embd=128)
    for p in model.parameters():  # nothing that compresses well
        p.data = rng.standard_normal(p.shape).astype(np.float32)
    ids = rng.integers(65, size=(1, 43))
    with viz.record():
        _, loss = model(ids[:, :-1], ids[:, 1:])
    viz.page(loss, tmp_path / "page.html", about="A GPT.")
    assert (tmp_path / "page.html").stat().st_size < 2e6
    data, _ = opened(tmp_path / "page.html")
    found = re.search(r"^A GPT\. Of the ([\d,]+) numbers .* this page holds ([\d,]+): of large arrays", data["about"])
    whole, kept = (int(number.replace(",", "")) for number in found.groups())
    assert whole == sum(math.prod(record["shape"]) for record in data["arrays"])
    assert whole > kept > 100_000


def test_a_page_that_holds_all_numbers_says_nothing_of_them(tmp_path):
    viz.page(Tensor([1.0], requires_grad=True).exp(), tmp_path / "page.html", about="exp")
    assert opened(tmp_path / "page.html")[0]["about"] == "exp"


def test_modules_lines_and_settings(rng, tmp_path):
    with viz.record():
        _, loss = gpt(rng)(np.array([[1, 2, 3]]), np.array([[2, 3, 4]]))
    viz.page(loss, tmp_path / "page.html")
    data, array = opened(tmp_path / "page.html")
    names = [group["name"] for group in data["groups"].values()]
    assert [n for n in names if n.count(".") == 1] == ["blocks.0", "blocks.1"]
    (fold,) = (group for group in data["groups"].values() if group.get("fold"))
    assert (fold["name"], fold["module"], fold["parent"]) == ("blocks.0 to blocks.1", "Block × 2", 0)
    blocks = [group for group in data["groups"].values() if group["module"] == "Block"]
    assert [data["groups"][str(block["parent"])] for block in blocks] == [fold, fold]
    assert "blocks.0.ln_1" not in names, "a module of one op is that op"
    attention = next(op for op in data["ops"] if op["op"] == "multi_head_attention")
    assert data["groups"][str(attention["group"])]["name"] == "blocks.0.attn"
    (file, number, text), (inner_file, _, inner_text) = attention["lines"]
    assert (file, inner_file) == ("models/gpt.py", "nn/layers.py")
    assert number > 0
    assert "self.attn(" in text
    assert "functional.multi_head_attention(*packed" in inner_text
    assert [inner["name"] for inner in attention["inner"]] == ["Q", "K", "V", "P"]
    *_, v, weights = (array(inner["array"])[0] for inner in attention["inner"])
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-6)
    assert not np.triu(weights[0, 0], 1).any(), "the mask is causal"
    np.testing.assert_allclose((weights @ v)[0, 1], array(attention["out"])[0][0, :, 8:], rtol=1e-5, atol=1e-7)
    last = data["ops"][-1]
    assert next(i for i in last["inputs"] if i["name"] == "targets")["setting"]


def test_tokens_are_followed_through_the_graph(rng, tmp_path):
    model = gpt(rng, vocab_size=7)
    ids, words = np.array([[1, 2, 0]]), ["zero", " one", "two\n", *"3456"]
    viz.page(model(ids, ids)[1], tmp_path / "page.html", rows={"wte.weight": words})
    data, _ = opened(tmp_path / "page.html")
    vocabulary, sentence = ["zero", "␣one", "two↵", *"3456"], ["␣one", "two↵", "zero"]

    def named(part):
        return part["names"] and [None if k is None else data["names"][k] for k in part["names"]]

    first, places, attention, last = (data["ops"][i] for i in (0, 1, 5, -1))
    assert named(first) == [None, sentence, None]
    assert [named(i) for i in first["inputs"]] == [[vocabulary, None], [None, sentence]]
    assert named(places) is None
    assert attention["op"] == "multi_head_attention"
    assert [named(i) for i in attention["inputs"]] == [named(attention)] == [[None, sentence, None]]
    *heads, weights = map(named, attention["inner"])
    assert heads == [[None, None, sentence, None]] * 3
    assert weights == [None, None, sentence, sentence]
    assert named(last["inputs"][0]) == [None, sentence, vocabulary]
    for op in data["ops"][2:-1]:
        assert sentence in named(op), op["op"]


def test_an_attention_to_another_sentence_has_the_tokens_of_both(rng, tmp_path):
    x, kv = (Tensor(rng.standard_normal((1, 3, C)), requires_grad=True, name=name) for name, C in (("x", 4), ("kv", 8)))
    out = autotx.multi_head_attention(x, kv, n_head=2)
    viz.page(out.sum(), tmp_path / "page.html", rows={"x": list("abc"), "kv": list("def")})
    data, _ = opened(tmp_path / "page.html")
    op = data["ops"][0]
    found = {part["name"]: "".join(n for k in part["names"] if k is not None for n in data["names"][k])
             for part in (op, *op["inputs"], *op["inner"])}  # fmt: skip
    assert found == {None: "abc", "x": "abc", "kv": "def", "Q": "abc", "K": "def", "V": "def", "P": "abcdef"}


def test_tokens_after_moves_and_sums(rng, tmp_path):
    x = Tensor(rng.standard_normal((3, 4)), requires_grad=True, name="x")
    w = Tensor(rng.standard_normal((3, 4)), requires_grad=True)
    parts = [x @ x.T, x.reshape(3, 2, 2), x[1:], x.reshape(12), x * w, x.sum(axis=1, keepdims=True), x.sum(axis=0)]
    viz.page(sum(part.sum() for part in parts), tmp_path / "page.html", rows={"x": list("abc")})
    data, _ = opened(tmp_path / "page.html")
    found = [op["names"] and [k is not None and "".join(data["names"][k]) for k in op["names"]] for op in data["ops"]]
    assert found[0] == [False, "abc"], "x.T"
    assert found[1] == ["abc", "abc"]
    assert ["abc", False, False] in found
    assert ["bc", False] in found
    assert found.count(["abc", False]) == 2
    assert ["aaaabbbbcccc"] in found
    assert None in found, "the sum over the rows"


def test_where_moved_elements_came_from(rng, tmp_path):
    x = Tensor(rng.standard_normal((2, 3, 4)), requires_grad=True)
    viz.page(x.permute(2, 0, 1)[1:4:2, :, 0].reshape(4).sum(), tmp_path / "page.html")
    data, array = opened(tmp_path / "page.html")
    for op in data["ops"][:3]:
        values, source = array(op["out"])[0], array(op["inputs"][0]["array"])[0].ravel()
        first, *steps = op["source"]
        for index in np.ndindex(values.shape):
            assert values[index] == source[first + np.dot(steps, index)]


# The file


def test_nothing_is_loaded_from_elsewhere_and_names_are_escaped(tmp_path):
    evil = '</script><script>alert("x")</script> & \'"'
    x = Tensor([1.0], requires_grad=True, name=evil)
    viz.page((x * x).sum(), tmp_path / "page.html", title=evil, about=evil)
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert not re.search(r'(?:src|href)\s*=\s*"(?!data:)|url\((?!#)|@import', text)
    assert "default-src 'none'" in text
    assert text.count("<script") == text.count("</script>") == 3
    data, _ = opened(tmp_path / "page.html")
    assert data["title"] == data["ops"][0]["inputs"][0]["label"] == evil


def test_the_papers_examples(tmp_path):
    replays.write("encoder", tmp_path / "encoder.html")
    replays.write("p-minus-y", tmp_path / "p.html")
    data, array = opened(tmp_path / "encoder.html")
    results = {op["name"]: array(op["out"])[0] for op in data["ops"] if op["name"]}
    np.testing.assert_allclose(results["Q"][0], [1.5, 1.1, 2.6, 0], atol=1e-12)
    np.testing.assert_allclose(results["head 1"][0], [2.11372594, 1.21488963, 1.06582258, 1.96465889], atol=5e-9)
    data, array = opened(tmp_path / "p.html")
    np.testing.assert_allclose(array(data["ops"][0]["inputs"][0]["grad"])[0], [-0.9, 0.1, 0.1, 0.7], atol=1e-15)


# What cannot be shown


def test_a_notebook_shows_the_page(small, tmp_path):
    page = viz.page(small[0], tmp_path / "replay.html")
    shown = page._repr_html_()
    assert html.unescape(re.search('srcdoc="(.*?)"', shown, re.S)[1]) == page.file.read_text(encoding="utf-8")


def test_errors_of_the_function(small, tmp_path):
    loss, x, _ = small
    file = tmp_path / "page.html"
    with pytest.raises(TypeError, match="trace: float is no Tensor; give the result of a computation"):
        viz.page(1.5, file)
    with pytest.raises(ValueError, match="has no graph; give the result of ops on tensors"):
        viz.page(Tensor([1.0], requires_grad=True), file)
    with pytest.raises(ValueError, match=r"shape \(2, 2\) is not a scalar.*pass its gradient"):
        viz.page(x * x, file)
    with pytest.raises(ValueError, match=r"page: rows names 'y', which is no leaf of this graph"):
        viz.page(loss, file, rows={"y": "ab"})
    with pytest.raises(ValueError, match=r"page: rows has 3 names for x of shape \(2, 2\); give one a row"):
        viz.page(loss, file, rows={"x": "abc"})
    with pytest.raises(ValueError, match=r"page: the graph has 4 ops, more than 3, .*replay a smaller piece.*max_ops"):
        viz.page(loss, file, max_ops=3)
    with pytest.raises(ValueError, match=r"page\.html: there is no folder .*nowhere; make it first"):
        viz.page(loss, tmp_path / "nowhere" / "page.html")
    with pytest.raises(ValueError, match=r"page\.png ends in \.png; give it a name that ends in \.html or \.htm"):
        viz.page(loss, tmp_path / "page.png")
    loss.backward()
    with pytest.raises(ValueError, match="was freed by backward; call backward"):
        viz.page(loss, file)
    assert list(tmp_path.iterdir()) == []


def test_a_gradient_may_be_given(tmp_path):
    x = Tensor([1.0, 2.0], requires_grad=True)
    viz.page(x * 3.0, tmp_path / "page.html", grad=[1.0, 10.0])
    data, array = opened(tmp_path / "page.html")
    assert np.array_equal(array(data["ops"][0]["inputs"][0]["grad"])[0], [3, 30])


# The command


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder of a GPT, of characters."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "text.txt").write_text(TEXT)
    assert cli.main(["train", "--text", str(folder / "text.txt"), "--out", str(folder / "run"), *TINY]) == 0
    return folder / "run"


def test_replay_of_a_gpt(run, tmp_path, capsys):
    out = tmp_path / "replay.html"
    assert cli.main(["replay", "--model", str(run), "--prompt", "2 times 3", "--out", str(out)]) == 0
    assert f"written: {out}" in capsys.readouterr().out
    data, array = opened(out)
    assert data["title"] == "A GPT reads “2 times 3”"
    assert [data["names"][k] for k in data["ops"][0]["names"] if k is not None] == [list("2␣times␣")]
    assert array(data["ops"][0]["inputs"][1]["array"])[1]["shape"] == [1, 8]
    assert data["ops"][-1]["op"] == "cross_entropy"
    assert len(data["backward"]) == len(data["ops"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--prompt", ""], "--prompt: an empty text gives nothing to replay"),
        (["--prompt", "2"], "--prompt '2' is one token; give two or more"),
        (["--prompt", "2 × 3"], "--prompt: the model has never seen '×'; leave that out"),
        (["--prompt", "2 times 2 is 4.\n2 times"], "--prompt: 23 tokens are more than the 17 that the model reads"),
        (["--prompt", "2 times", "--target", "3"], "--target is for a translator"),
        (["--prompt", "2 times", "--target", ""], "--target: an empty text gives nothing to replay"),
        (
            ["--prompt", "2 times", "--out", "page.txt"],
            "page.txt ends in .txt; give it a name that ends in .html",
        ),
        (["--prompt", "2 times", "--out", "nowhere/page.html"], "nowhere/page.html: there is no folder nowhere"),
        (["--prompt", "2 times", "--model", "nowhere"], "nowhere: there is no trained model"),
    ],
)
def test_errors_of_the_command(flags, message, run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["replay", "--model", str(run), *flags]) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith(f"autotx replay: {message}")
    assert shown.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_replay_of_a_translator(tmp_path, capsys):
    (tmp_path / "pairs.tsv").write_text("".join(f"a cat {i}\tuna gata {i}\n" for i in range(40)))
    pairs, run = str(tmp_path / "pairs.tsv"), str(tmp_path / "run")
    assert cli.main(["train", "--model", "transformer", "--pairs", pairs, "--out", run, *TINY]) == 0
    out = tmp_path / "replay.html"
    flags = ["replay", "--model", run, "--out", str(out), "--prompt", "a cat"]
    assert cli.main([*flags, "--target", "una gata"]) == 0
    data, _ = opened(out)
    assert data["title"] == "A transformer translates “a cat”"
    assert {"encoder.0", "decoder.0"} <= {group["name"] for group in data["groups"].values()}
    assert ["‹start›", "una", "gata"] in data["names"]
    assert cli.main(flags) == 0, "without --target, its own translation is taken"
    capsys.readouterr()
    assert cli.main([*flags, "--target", "un perro"]) == 2
    assert "--target: the model has never seen" in capsys.readouterr().err

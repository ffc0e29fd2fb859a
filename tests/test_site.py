"""The site (docs/): what is made from the code is whole and true. The build itself, a step of CI, checks its links."""

import contextlib
import doctest
import itertools
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numba
import numpy as np
import pytest
from making import checks, commands, docstrings, notation, ops, reference

import autotx
from autotx.checkpoint import list_tensors
from autotx.models import cli, events, prepare, run
from autotx.viz.formulas import formulas, parameters
from autotx.viz.ops import OPS, row

DOCS = Path(__file__).parent.parent / "docs"


def _text(markup):
    """The text of HTML without its tags."""
    return "".join(ElementTree.fromstring(f"<div>{markup}</div>".replace("<wbr>", "")).itertext())


WRITTEN = {"−": "-", "⊙": "*", "≥": ">=", "≤": "<=", "≠": "!=", "→": "->", "±": "+-", "‖": "||", "…": "..", "′": "'"}
WRITTEN |= {"α": "alpha", "β": "beta", "γ": "gamma", "ε": "eps", "π": "pi", "∑": "sum", "^": "hat"}
LEFT_OUT = r"[\s/^_()`.]|sqrt"  # what only says how a formula is set


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("display", [False, True])
def test_a_docstring_loses_no_word_when_it_is_set(name, display):
    doc = OPS[name].__doc__
    set_ = _text(notation.as_html(doc, [p.name for p in parameters(OPS[name].op)], display))
    set_ = "".join(WRITTEN.get(c, c) for c in set_)
    assert re.sub(LEFT_OUT, "", set_) == re.sub(LEFT_OUT, "", doc)


@pytest.mark.parametrize("name", OPS)
def test_every_formula_and_every_gradient_is_set_as_mathematics(name):
    op = OPS[name].op
    made = ops.formula_html(name)
    _, gradients = formulas(op, row(name).settings)
    assert len(re.findall("<p class", made)) == 1 + len(set(gradients.values()))
    for line in made.splitlines():
        assert "<math" in line


SETS = {
    "x^2": "<msup><mi>x</mi><mrow><mn>2</mn></mrow></msup>",
    "h_(t-1)": "<msub><mi>h</mi><mrow><mi>t</mi><mo>−</mo><mn>1</mn></mrow></msub>",
    "1 / (x + y)": "<mfrac><mrow><mn>1</mn></mrow><mrow><mi>x</mi><mo>+</mo><mi>y</mi></mrow></mfrac>",
    "sqrt(x)": "<msqrt><mi>x</mi></msqrt>",
    "K^T": '<msup><mi>K</mi><mrow><mi mathvariant="normal">T</mi></mrow></msup>',
    "dgamma = -g": '<mrow><mi>d</mi><mi>γ</mi></mrow><mo>=</mo><mo form="prefix">−</mo><mi>g</mi>',
    "sum_i x": "<mrow><munder><mo>∑</mo><mi>i</mi></munder><mi>x</mi></mrow>",
}  # fmt: skip


@pytest.mark.parametrize("formula", SETS)
def test_notation(formula):
    assert notation.mathml(formula, display=True) == f'<math displaystyle="true">{SETS[formula]}</math>'


def test_prose_stays_prose():
    for text in (
        "a copy of the array",
        "one-hot rows, 3 of them",
        "the gradients do not flow",
        "A line of zeros (or ones)",
    ):
        assert "<math" not in notation.as_html(text)
    assert notation.as_html("y = a copy of x") == ("<math><mi>y</mi><mo>=</mo></math>a copy of <math><mi>x</mi></math>")


def test_a_derivation_becomes_a_table_of_sides_and_reasons():
    made = docstrings.derivation("    L   = -s\n        = s - s        because x = 1\n    dp = g     dq = h", ())
    rows = [[_text(cell) for cell in re.findall("<td>(.*?)</td>", line)] for line in re.findall("<tr>.*?</tr>", made)]
    assert rows == [["L", "=−s", ""], ["", "=s−s", "because x=1"], ["dp", "=g", ""], ["dq", "=h", ""]]


def test_arguments_and_errors_begin_a_paragraph():
    made = docstrings.docstring_html(
        "Sums x.\n\nx: any shape\nand type\nValueError: none `there`\n- one\n- two", ["x"], False
    )
    assert made.splitlines() == [
        "<p>Sums x.</p>",
        "<p><strong>x:</strong> any shape and type</p>",
        "<p><strong>ValueError:</strong> none <code>there</code></p>",
        "<ul><li>one</li>",
        "<li>two</li></ul>",
    ]


@pytest.mark.parametrize("name", OPS)
def test_the_example_of_an_op_prints_what_its_page_says(name):
    code = ops.example_code(name)
    values: dict = {"nan": np.nan, "inf": np.inf}
    exec(code, values)
    shown = re.findall(r"^(\S+)  # (.*)$", code, re.MULTILINE)
    assert len(shown) >= 2
    for expression, numbers in shown:
        np.testing.assert_allclose(eval(expression, values), eval(numbers, values), atol=5.1e-5)


def test_the_docstring_of_autotx_groups_every_public_name():
    assert sorted(n for names in ops.groups().values() for n in names) == sorted(
        {*autotx.__all__} - {"init", "nn", "optim"}
    )


def test_every_public_name_of_autotx_is_in_the_reference():
    page = reference.pages()["reference/autotx"]
    for name in {*autotx.__all__} - {"init", "nn", "optim"}:
        assert f"`{name} <" in page
        assert name in OPS or name == "Tensor" or f":: autotx.{name}\n" in page


def test_signatures_are_those_of_the_source():
    def shown(what, value):
        return reference.on_signature(None, what, "", value, None, "", "")

    assert shown("function", autotx.softmax) == (
        "(x: Array, /, axis: int | tuple[int, ...] | None=-1)",
        "Tensor",
    )
    assert shown("function", autotx.where) == ("(condition: ArrayLike, x: Array, y: Array)", "Tensor")
    assert shown("method", autotx.Tensor.item) == ("()", "Any")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_setting_of_a_command_is_on_its_page(name):
    page = commands.page(name)
    for action in cli.load(name)[1]._actions:
        for word in action.option_strings or [action.metavar or action.dest]:
            assert word in page


def test_times_come_from_the_history_of_the_benchmark(tmp_path, monkeypatch):
    rows = [
        {"case": "softmax 8192x256", "seconds": 0.002, "peers": {"torch": {"seconds": 0.004, "ratio": 2.0}}},
        {"case": "S", "seconds": 1.0, "peers": {"torch": {"seconds": 1.0, "ratio": 1.0}}},
    ]
    kept = {"machine": {"processor": "P", "threads": 2, "date": "2030-01-02"}, "rows": rows}
    (tmp_path / "a.json").write_text(ops.json.dumps(kept))
    monkeypatch.setattr(ops, "HISTORY", tmp_path)
    assert ops.times_of_ops().keys() == {"softmax"}
    page = ops.page("softmax", {}, ops.times_of_ops()["softmax"])
    for text in ("2 ms", "4 ms", "2.00", "P, 2 threads, 2030-01-02"):
        assert text in page


def test_the_check_finds_what_a_page_must_not_have(tmp_path):
    (tmp_path / "a.html").write_text(
        '<p id="here"><a href="#here">x</a><a href="b.html#there">y</a><a href="c.html">z</a>'
    )
    (tmp_path / "b.html").write_text('<script src="https://cdn/x.js"></script><a href="https://elsewhere">fine</a>')
    (tmp_path / "s.css").write_text(
        "@import 'https://fonts/x'; a { background: url(//x/y.png) } b { src: url(near.woff) }"
    )
    assert checks.faults(tmp_path) == [
        "a.html links to b.html#there: there is no such anchor",
        "a.html links to c.html: there is no such file",
        "b.html loads https://cdn/x.js",
        "s.css loads https://fonts/x",
        "s.css loads //x/y.png",
    ]


PAGES = [path for folder in ("", "use", "how", "files") for path in sorted((DOCS / folder).glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_examples_print_what_the_pages_say(page):
    failures, _ = doctest.testfile(str(page), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert failures == 0


def test_what_the_page_on_security_says_is_true():
    """Only the kernels' cache is unpickled, and nothing connects to anything."""
    root = Path(autotx.__file__).parent
    files = [f for folder in (root, root / "models", root / "viz") for f in folder.rglob("*.py")]
    sources = {str(f.relative_to(root)): f.read_text(encoding="utf-8") for f in files}
    assert [name for name, text in sources.items() if re.search(r"^\s*import pickle|pickle\.load", text, re.M)] == [
        "kernels/jit.py"
    ]
    client = r"urllib\.request|http\.client|import requests|create_connection|aiohttp|httpx"
    assert not [name for name, text in sources.items() if re.search(client, text)]


# The pages on file formats


def _listed(page, heading=None):
    """The rows of a table of a page: {name: when}, of the first one after a heading."""
    text = (DOCS / "files" / f"{page}.md").read_text(encoding="utf-8")
    text = text.partition(f"\n## {heading}\n")[2] if heading else text
    rows = itertools.takewhile(lambda line: line.startswith("|"), text[text.index("\n|") + 1 :].splitlines())
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in list(rows)[2:]]
    return {name: row[-1] for row in cells for name in re.findall(r"`([^`]+)`", row[0])}


def _needed(listed):
    return {name for name, when in listed.items() if when.startswith("always")}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with runs of several kinds and token files."""
    folder = tmp_path_factory.mktemp("formats")
    sizes = "--n-layer=1 --n-head=1 --n-embd=8 --block-size=8 --batch-size=2"
    steps = "--steps=2 --eval-interval=1 --eval-batches=1 --warmup-steps=1"
    with contextlib.chdir(folder):
        Path("text.txt").write_text("the quick brown fox jumps over the lazy dog.\n" * 200)
        Path("many.jsonl").write_text('{"text": "the quick brown fox"}\n' * 20)
        Path("labels.tsv").write_text("".join(f"fox {c}\ta\ndog {c}\tb\n" for c in "abcdefgh"))
        for line in (
            f"train --text=text.txt --out=gpt {sizes} {steps} --keep=1 --keep-best --stats-interval=1",
            f"train --text=text.txt --out=lora --init=gpt --lora-rank=2 {steps}",
            f"train --text=text.txt --out=tuned --init=gpt {steps}",
            "train --text=text.txt --out=words --model=word2vec --dim=4 --steps=2",
            "finetune --model=gpt --labels=labels.tsv --out=labels --steps=2",
            "prepare --text=many.jsonl --out=data --tokenizer=char --validation-share=0.1",
        ):
            assert cli.main(line.split()) == 0
    return folder


def test_the_files_of_a_run_are_those_that_the_page_lists(runs):
    listed = _listed("run")
    assert listed.keys() == {*run._FILES, run.KEPT, events.FOLDER}
    found = {
        name: {path.name for path in (runs / name).iterdir()} for name in ("gpt", "lora", "tuned", "words", "labels")
    }
    assert found["gpt"] >= _needed(listed)
    assert found["gpt"] - _needed(listed) == {"statistics.jsonl", "checkpoints"}
    assert found["lora"] - _needed(listed) == {"adapter_config.json", "adapter_model.safetensors"}
    assert found["tuned"] - _needed(listed) == {"shape.json"}
    assert found["words"] - _needed(listed) == {"vectors.txt"}
    assert found["labels"] - _needed(listed) == {"classifier.json"}
    kept = {path.name for path in (runs / "gpt" / "checkpoints" / "best").iterdir()}
    assert kept == _needed(listed) - {"log.jsonl", "loss.png"}


UNMEASURED = {"limit_share"} if numba.config.DISABLE_JIT else set()  # the limit is that of the kernels
JSON_FILES = {  # (run, file): (page, heading, keys that other runs have)
    ("gpt", "state.json"): ("run", "state.json", {"base_sha256", "product"}),
    ("lora", "state.json"): ("run", "state.json", {"best", "product"}),
    ("gpt", "log.jsonl"): ("run", "log.jsonl", {"val_accuracy"} | UNMEASURED),
    ("labels", "log.jsonl"): ("run", "log.jsonl", {"limit_share"}),
    ("gpt", "statistics.jsonl"): ("run", "statistics.jsonl", set()),
    ("lora", "adapter_config.json"): ("models", "Adapters", set()),
    ("data", "data.json"): ("tokens", "data.json", set()),
}


@pytest.mark.parametrize("file", JSON_FILES, ids="/".join)
def test_the_keys_of_a_file_are_those_that_the_page_lists(runs, file):
    page, heading, others = JSON_FILES[file]
    text = runs.joinpath(*file).read_text(encoding="utf-8")
    saved = json.loads(text.splitlines()[-1] if file[1].endswith("jsonl") else text)
    assert saved.keys() == _listed(page, heading).keys() - others


def test_settings_and_optimizer_are_kept_as_the_page_says(runs):
    saved = json.loads((runs / "gpt" / "config.json").read_text())
    flags = {word for action in cli.load("train")[1]._actions for word in action.option_strings}
    assert {f"--{name.replace('_', '-')}" for name in saved} <= flags | {"--architecture", "--task"}
    tensors, _ = list_tensors(runs / "gpt" / "optimizer.safetensors")
    assert {re.sub(r"\d+", "0", name) for name in tensors} == _listed("run", "optimizer.safetensors").keys()


def test_the_files_of_a_preparation_are_those_that_the_page_lists(runs):
    listed = _listed("tokens")
    assert {path.name for path in (runs / "data").iterdir()} == _needed(listed) == listed.keys() - {prepare.PLACE}
    tokens = np.load(runs / "data" / "training.npy", mmap_mode="r")
    assert (tokens.dtype, tokens.ndim, tokens.offset) == (np.uint16, 1, 128)

"""Files that hold a model: which format they are of, and that weights come back to the bit, whatever their layout."""

import json
import shutil

import numpy as np
import pytest
import toy_format

from autotx.models import GPT, GPTConfig
from autotx.models.cli import main
from autotx.models.formats import FORMATS, open_model, run, weights
from autotx.models.formats.weights import SAME, TRANSPOSED, chain, inverse, joined, reordered, row
from autotx.nn import Linear


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setattr("autotx.models.formats.FORMATS", [*FORMATS, toy_format])


@pytest.fixture
def gpt():
    return GPT(GPTConfig(16, 256, n_layer=2, n_head=2, n_embd=8), np.random.default_rng(0))


@pytest.fixture
def file(gpt, tmp_path):
    """A model in the toy format."""
    toy_format.write(tmp_path / "toy.npz", gpt)
    return tmp_path / "toy.npz"


def changed(file, change):
    """The file, after change(its arrays)."""
    arrays = dict(np.load(file))
    change(arrays)
    np.savez(file, **arrays)
    return file


# Layouts


LAYOUTS = {
    "same": (SAME, [(2, 3)]),
    "transposed": (TRANSPOSED, [(2, 3), (4, 5)]),
    "joined": (joined(2, 1, 3), [(2, 4), (1, 4), (3, 4)]),
    "split": (inverse(joined(2, 1, 3)), [(6, 4)]),
    "reordered": (reordered([2, 0, 1]), [(3, 2)]),
    "transposed, then joined": (chain(TRANSPOSED, joined(2, 2)), [(3, 2), (3, 2)]),
    "split, then reordered": (chain(inverse(joined(2, 2)), reordered([1, 0])), [(4, 3)]),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_can_be_inverted(name, rng):
    layout, shapes = LAYOUTS[name]
    theirs = [rng.normal(size=shape) for shape in shapes]
    back = layout.write(layout.read(theirs))
    assert len(back) == len(theirs)
    for one, other in zip(back, theirs):
        np.testing.assert_array_equal(one, other)


def test_layouts_do_what_they_say():
    one, two = np.arange(6).reshape(2, 3), np.arange(6, 9).reshape(1, 3)
    np.testing.assert_array_equal(joined(2, 1).read([one, two])[0], np.arange(9).reshape(3, 3))
    np.testing.assert_array_equal(reordered([1, 0]).read([one])[0], [[3, 4, 5], [0, 1, 2]])
    np.testing.assert_array_equal(TRANSPOSED.read([one])[0], one.T)


def test_rows_must_name_each_parameter_once():
    layer = Linear(2, 3, rng=None)
    for rows in ([row("w", "weight")], [row("w", "weight"), row("b", "bias"), row("c", "bias")]):
        with pytest.raises(ValueError, match=r"bias|twice"):
            weights.taken(layer, rows)


# A format of one's own


def test_a_file_is_read_and_written_bit_for_bit(gpt, file, tmp_path):
    opened = open_model(file)
    assert opened.kind == "gpt"
    assert opened.model.config == gpt.config
    for name, array in gpt.state_dict().items():
        np.testing.assert_array_equal(opened.model.state_dict()[name], array, err_msg=name)
    toy_format.write(tmp_path / "again.npz", opened.model)
    before, after = np.load(file), np.load(tmp_path / "again.npz")
    assert sorted(before) == sorted(after)
    for name in before:
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)
    np.testing.assert_array_equal(before["layer1/k/w"], gpt.blocks[1].attn.qkv.weight.data[8:16].T)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("layer0/k/w"), "missing layer0/k/w; restore it"),
        (lambda a: a.update(lm_head=np.zeros(3)), "unexpected lm_head; restore it"),
        (lambda a: (a.pop("tokens"), a.pop("places")), r"missing places \(and 1 more\)"),
        (lambda a: a.update(places=np.zeros((3, 8))), r"places has shape \(3, 8\), the model \(16, 8\)"),
        (lambda a: a.update({"layer1/v/b": np.full(8, np.nan)}), "layer1/v/b holds NaN or Inf"),
        (lambda a: a.update({"norm/scale": np.full(8, "x")}), "norm/scale has type .*not real numbers"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named_as_in_the_file(file, change, message):
    with pytest.raises(ValueError, match=message):
        open_model(changed(file, change))


def test_every_command_opens_it(file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    labels = tmp_path / "labels.tsv"
    labels.write_text("el gato\tspanish\nthe cat\tenglish\nla casa\tspanish\nthe house\tenglish\n" * 3)
    for words in (
        "generate --model toy.npz --prompt cat --max-new-tokens 3 --weights int8 --seed 1",
        "nearest --model toy.npz a",
        "graph --model toy.npz --out graph.svg",
        "replay --model toy.npz --prompt cat",
        "plot toy.npz --what positions --out positions.png",
        "plot toy.npz --what embeddings --out embeddings.png",
        "plot toy.npz --what times --out times.png",
        "finetune --model toy.npz --labels labels.tsv --steps 2 --out fine",
        "classify --model fine cat",
    ):
        assert main(words.split()) == 0, words
    for words in ("translate --model toy.npz cat", "classify --model toy.npz cat"):
        assert main(words.split()) == 2
        assert "toy.npz holds a gpt, not a " in capsys.readouterr().err


# Which format it is


@pytest.fixture
def folder(tmp_path):
    """A run of one step."""
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 20)
    sizes = "--n-layer 1 --n-head 1 --n-embd 4 --block-size 4 --batch-size 1 --steps 1 --eval-batches 1"
    argv = ["train", "--text", f"{tmp_path / 'text.txt'}", "--out", f"{tmp_path / 'run'}", *sizes.split()]
    assert main(argv) == 0
    return tmp_path / "run"


def test_a_run_is_one_also_without_its_checkpoint_or_without_its_settings(folder):
    (folder / "state.json").rename(folder / "state")
    assert open_model(folder, needs="text").config.block_size == 4
    (folder / "state").rename(folder / "state.json")
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"there is no file .*config.json"):
        open_model(folder)


@pytest.mark.parametrize("key", ["architecture", "task", "model"])
def test_settings_that_name_no_kind_of_model(folder, key):
    saved = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**saved, key: "bert"}))
    with pytest.raises(ValueError, match=f"does not say what kind of model it is for: {key} should be "):
        open_model(folder)


def test_the_weights_of_a_run_are_its_parameters(folder):
    model = open_model(folder).model
    taken = weights.taken(model, weights.identity(model))
    assert taken.keys() == model.state_dict().keys()


def test_a_folder_of_hugging_face_with_the_same_names_of_files_is_no_run(folder, tmp_path, capsys):
    """As Hugging Face's: config.json, tokenizer.json and model.safetensors, with other contents."""
    other = tmp_path / "other"
    other.mkdir()
    for name in ("model.safetensors", "tokenizer.json"):
        shutil.copy(folder / name, other)
    (other / "config.json").write_text('{"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_layer": 1}')
    assert run.recognises(folder)
    assert not run.recognises(other)
    capsys.readouterr()
    for argv in (["generate", "--model", other], ["plot", other, "--what", "times"], ["graph", "--model", other]):
        assert main([str(word) for word in argv]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "config.json: vocab_size should be a whole number" in error

"""A new family of networks: one file and one row of the registry make it known to every command."""

import json

import numpy as np
import pytest
from toy_family import Bigram, BigramArchitecture, BigramConfig

from autotx.models.cli import main
from autotx.models.formats import open_model
from autotx.models.registry import ARCHITECTURES, read_config, settings_of

TEXT = "the cat sat on the mat. the dog sat on the log.\n" * 40


@pytest.fixture(scope="module", autouse=True)
def _registered():
    ARCHITECTURES[BigramArchitecture.name] = BigramArchitecture
    yield
    del ARCHITECTURES[BigramArchitecture.name]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of a run, by the command line."""
    folder = tmp_path_factory.mktemp("family")
    (folder / "text.txt").write_text(TEXT)
    words = f"train --model bigram --text {folder}/text.txt --out {folder}/run --steps 60 --lr 0.1 --n-embd 16"
    assert main([*words.split(), "--eval-interval", "30", "--warmup-steps", "5", "--stats-interval", "20"]) == 0
    return folder


def test_its_settings_are_flags_and_are_kept(folder, capsys):
    config = read_config(folder / "run")
    assert isinstance(config, settings_of("bigram"))
    assert (config.kind, config.n_embd, config.block_size) == ("bigram", 16, 16)
    saved = json.loads((folder / "run/config.json").read_text())
    assert (saved["model"], saved["architecture"], saved["task"]) == ("bigram", "bigram", "text")
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "runs/bigram for bigram" in shown
    assert "channels, a multiple of --n-head; only for gpt and llama and transformer and bigram" in shown


def test_it_learns_and_goes_on(folder, capsys):
    losses = [json.loads(line)["loss"] for line in (folder / "run/log.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0] / 2
    assert main(["train", "--resume", "--out", f"{folder}/run", "--steps", "62"]) == 0
    assert "Bigram of " in capsys.readouterr().out


def test_its_reader_is_its_forward(rng):
    model = Bigram(BigramConfig(40, 16, 8), rng)
    ids = rng.integers(40, size=(2, 6))
    reader = model.reader(2)
    np.testing.assert_allclose(reader.scores(reader.read(ids)), model(ids)[0].data, rtol=1e-5, atol=1e-6)
    assert reader.length == 6


def test_every_command_takes_it(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    (folder / "labels.tsv").write_text("the cat\tcat\nthe dog\tdog\na cat\tcat\na dog\tdog\n" * 3)
    for words in (
        "generate --model run --prompt the --max-new-tokens 40 --seed 1",
        "generate --model run --max-new-tokens 4 --weights int8",
        "generate --model run --prompt the --samples 2 --show-choices 2 --html choices.html",
        "evaluate --model run --text text.txt",
        "graph --model run --out graph.svg --json graph.json",
        "replay --model run --prompt the --out replay.html",
        "plot run --out curves.png",
        "plot run --what statistics --out statistics.png",
        "plot run --what times --out times.png",
        "plot run --what embeddings --out embeddings.png",
        "nearest --model run t",
        "finetune --model run --labels labels.tsv --steps 2 --out fine",
        "classify --model fine cat",
    ):
        assert main(words.split()) == 0, words
    assert "the cat" in capsys.readouterr().out
    assert any(node["op"] == "tanh" for node in json.loads((folder / "graph.json").read_text())["nodes"])
    assert "A Bigram reads “the”" in (folder / "replay.html").read_text(encoding="utf-8")
    assert isinstance(open_model("fine").model.language_model, Bigram)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("translate --model run the", "run holds a bigram, not a transformer; autotx train --model transformer makes"),
        ("classify --model run the", "run holds a bigram, not a classifier; autotx finetune makes one"),
        (
            "plot run --what positions",
            "run holds a bigram, which has no positions; give a gpt or a llama or a transformer",
        ),
        ("generate --model run --attention a.png", "--attention: this model has no attention; leave it out"),
        (
            "graph --model bigram",
            "--model bigram: there is no such folder; give gpt, llama, transformer, mlp or",
        ),
        ("replay --model run --prompt the --target a", "--target is for a translator; a Bigram is asked for the next"),
        ("train --model bigram --n-layer 2", "--n-layer is no setting of a bigram; leave it out, or give another"),
    ],
)
def test_what_it_cannot_do_is_said_in_one_line(folder, monkeypatch, capsys, words, message):
    monkeypatch.chdir(folder)
    capsys.readouterr()
    assert main(words.split()) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1

"""The command line: what it says, and that a mistake costs one line, exit status 2 and nothing else."""

import contextlib
import dataclasses
import importlib.metadata
import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest

import autotx
from autotx.checkpoint import load_checkpoint, load_tensors, save_tensors
from autotx.models import progress, tokenizers
from autotx.models.cli import COMMANDS, load, main
from autotx.models.config import flag
from autotx.models.inference.continuations import stream_text
from autotx.models.progress import Progress
from autotx.models.registry import ARCHITECTURES, read_config, settings_of
from autotx.viz.curves import loss_curve

SIZES = {"n-layer": 1, "n-head": 2, "n-embd": 8, "block-size": 8, "batch-size": 2, "steps": 2, "eval-interval": 1}
TINY = [f"--{name}={value}" for name, value in SIZES.items()]
TEXT = "the quick brown fox jumps over the lazy dog\n" * 20


def call(*argv):
    """The exit status of `autotx argv`."""
    try:
        return main([str(word) for word in argv])
    except SystemExit as end:
        return end.code


@pytest.fixture
def text(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path / "text.txt"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A finished run of characters."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "text.txt").write_text(TEXT)
    assert call("train", "--text", folder / "text.txt", "--out", folder / "run", *TINY) == 0
    return folder / "run"


@pytest.fixture
def run(trained, tmp_path):
    """A copy of it, to be spoiled."""
    return shutil.copytree(trained, tmp_path / "run")


# Help


def test_help_names_every_command_and_loads_nothing_heavy():
    code = "import sys; from autotx.models.cli import main; main(sys.argv[1:]); print(sorted(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for name, (_, summary) in COMMANDS.items():
        assert re.search(rf"{name} +{re.escape(summary)}", shown)
    assert not {"numba", "matplotlib"} & set(re.findall(r"'(\w+)'", shown))


def test_help_shows_every_setting_with_its_default(capsys):
    for kind in (*map(settings_of, ARCHITECTURES), *(settings_of("gpt", name) for name in ("labels", "tune", "chats"))):
        finetune = kind.kind == "classifier"
        assert call("finetune" if finetune else "train", "--help") == 0
        shown = " ".join(capsys.readouterr().out.split())
        for f in dataclasses.fields(kind):
            assert f"{'--model' if finetune and f.name == 'init' else flag(f.name)} " in shown
            if f.type in (int, float):
                assert re.search(rf"{flag(f.name)} [^()]+\(default: [^()]*{f.default}", shown), f.name


def test_help_ends_with_two_examples_that_the_command_takes(capsys):
    for name in COMMANDS:
        command, parser = load(name)
        assert len(command.EXAMPLES) == 2
        assert call(name, "--help") == 0
        assert capsys.readouterr().out.endswith("".join(f"\n  {line}" for line in command.EXAMPLES) + "\n")
        for line in command.EXAMPLES:
            words = shlex.split(line)
            start = words.index("autotx")  # after a pipe or a variable
            assert words[start + 1] == name
            parser.parse_args(words[start + 2 :])


def test_generate_help(capsys):
    assert call("generate", "--help") == 0
    shown = capsys.readouterr().out
    for name in ("model", "prompt", "max-new-tokens", "temperature", "top-k", "top-p", "seed"):
        assert f"--{name} " in shown


@pytest.mark.parametrize(
    ("line", "words"),
    [("autotx gen", ["generate"]), ("autotx generate --mod", ["--model"]), ("autotx export --to ", ["hf", "gguf"])],
)
def test_the_shell_completes_commands_and_flags(line, words, tmp_path):
    pytest.importorskip("argcomplete")
    asked = {"COMP_LINE": line, "COMP_POINT": str(len(line)), "COMP_TYPE": "9", "_ARGCOMPLETE_IFS": "\n"}
    told = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "words")}
    subprocess.run([sys.executable, "-m", "autotx"], env={**os.environ, **asked, **told}, check=True)
    assert (tmp_path / "words").read_text().split() == words


def test_without_a_command_it_shows_the_help(capsys):
    assert call() == 0
    assert "\ntrain:\n" in capsys.readouterr().out
    assert call("--version") == 0
    assert re.fullmatch(r"autotx \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_the_version_is_told_everywhere_alike():
    command = [sys.executable, "-m", "autotx", "--version"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    assert shown == f"autotx {autotx.__version__}\n"
    assert importlib.metadata.version("autotx") == autotx.__version__


# Mistakes in the settings


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--n-layer 0", "--n-layer 0 should be at least 1"),
        ("--n-head -4", "--n-head -4 should be at least 1"),
        ("--n-embd 0", "--n-embd 0 should be at least 1"),
        ("--block-size 0", "--block-size 0 should be at least 1"),
        ("--batch-size -1", "--batch-size -1 should be at least 1"),
        ("--steps 0", "--steps 0 should be at least 1"),
        ("--grad-accum 0", "--grad-accum 0 should be at least 1"),
        ("--eval-interval 0", "--eval-interval 0 should be at least 1"),
        ("--eval-batches 0", "--eval-batches 0 should be at least 1"),
        ("--warmup-steps -1", "--warmup-steps -1 should be at least 0"),
        ("--seed -1", "--seed -1 should be at least 0"),
        ("--vocab-size 200", "--vocab-size 200 should be at least 257"),
        ("--lr 0", "--lr 0.0 should be above 0"),
        ("--lr nan", "--lr nan should be a finite number"),
        ("--lr 1e-5", "--min-lr 0.0001 is above --lr 1e-05"),
        ("--min-lr -1", "--min-lr -1.0 should be at least 0"),
        ("--weight-decay -0.1", "--weight-decay -0.1 should be at least 0"),
        ("--beta1 1", "--beta1 1.0 should be below 1"),
        ("--beta2 -0.1", "--beta2 -0.1 should be at least 0"),
        ("--dropout 1", "--dropout 1.0 should be below 1"),
        ("--grad-clip -1", "--grad-clip -1.0 should be at least 0"),
        ("--n-head 3", "--n-embd 128 is not a multiple of --n-head 3"),
        ("--n-layer four", "argument --n-layer: invalid int value: 'four'"),
        ("--tokenizer morse", "argument --tokenizer: invalid choice: 'morse'"),
        ("--layers 4", "unrecognized arguments: --layers 4"),
        ("--n-lay 4", "unrecognized arguments: --n-lay 4"),
    ],
)
def test_a_wrong_setting(fails, tmp_path, argv, message):
    fails(["train", "--out", tmp_path / "out", *argv.split()], message)


def test_an_unknown_command(capsys):
    assert call("trian") == 2
    assert "invalid choice: 'trian'" in capsys.readouterr().err


# Mistakes in the text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "text.bad: cannot be read: No such file"),
        (b"", "text.bad: the file is empty"),
        (b" \n", "text.bad: the file is empty"),
        (b"ab\0cd", "text.bad: not a text file, byte 2 is zero"),
        (b"abc\xff\xfe", "text.bad: not UTF-8, first at byte 3"),
        ("zwölf".encode("latin-1"), "text.bad: not UTF-8, first at byte 2"),
        (b"short", "the text is too short: its training part has 4 tokens and must have more than --block-size 64"),
        (b"x" * 600, "its validation part has 60 tokens and must have more than --block-size 64"),
    ],
)
def test_a_text_that_cannot_be_learned_from(fails, tmp_path, content, message):
    path = tmp_path / "text.bad"
    if content is not None:
        path.write_bytes(content)
    fails(["train", "--text", path, "--out", tmp_path / "out"], message)


def test_a_folder_is_no_text(fails, tmp_path):
    fails(["train", "--text", tmp_path, "--out", tmp_path / "out"], "cannot be read: Is a directory")


def test_bpe_without_its_library(fails, tmp_path, text, monkeypatch):
    monkeypatch.setattr(tokenizers, "bpe_library", None)
    argv = ["train", "--text", text, "--out", tmp_path / "out", "--tokenizer", "bpe"]
    fails(argv, r'needs the library tokenizers: pip install "autotx\[bpe\]"')


# Mistakes about the folder


def test_a_run_is_not_overwritten(fails, run, text):
    fails(["train", "--text", text, "--out", run, *TINY], "already holds a run; go on with it by --resume")


def test_a_folder_that_cannot_be_made(fails, text):
    fails(["train", "--text", text, "--out", text, *TINY], "text.txt is a file; give the name of a folder")
    fails(["train", "--text", text, "--out", text / "run", *TINY], "text.txt/run: .*text.txt is a file; give the")


def test_other_files_may_lie_in_the_folder(tmp_path, text):
    assert call("train", "--text", text, "--out", tmp_path, *TINY) == 0
    assert text.read_text() == TEXT


def test_resume_without_a_run(fails, tmp_path):
    fails(["train", "--out", tmp_path / "out", "--resume"], "--resume: there is no run in .*out; leave --resume out")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--n-layer 2", "has --n-layer 1, which cannot become 2"),
        ("--n-head 4", "has --n-head 2, which cannot become 4"),
        ("--n-embd 16", "has --n-embd 8, which cannot become 16"),
        ("--block-size 4", "has --block-size 8, which cannot become 4"),
        ("--tokenizer byte", "has --tokenizer char, which cannot become byte"),
        ("--seed 5", "has --seed 1337, which cannot become 5"),
        ("--steps 1", "--steps 1: the run in .* is at step 2 already"),
        ("--lr -1", "--lr -1.0 should be above 0"),
    ],
)
def test_resume_as_another_run(fails, run, argv, message):
    fails(["train", "--out", run, "--resume", *argv.split()], message)


def test_resume_with_another_text(fails, run, tmp_path):
    (tmp_path / "other.txt").write_text(TEXT.upper())
    fails(["train", "--out", run, "--resume", "--text", tmp_path / "other.txt"], "the data are not those")


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 64
    path.write_bytes(content)


def swap_weights(path):
    save_tensors(path, {name: a * 2 for name, a in load_tensors(path)[0].items()})


def delete(path):
    path.unlink()


@pytest.mark.parametrize(
    ("harm", "file", "message"),
    [
        (halve, "model.safetensors", "model.safetensors is truncated or not a safetensors file"),
        (flip_a_byte, "model.safetensors", "model.safetensors was truncated or changed"),
        (swap_weights, "model.safetensors", "model.safetensors was truncated or changed"),
        (delete, "model.safetensors", "there is no file .*model.safetensors"),
        (halve, "optimizer.safetensors", "optimizer.safetensors was truncated or changed"),
        (halve, "state.json", "state.json is truncated or not JSON"),
        (halve, "config.json", "config.json is truncated or not JSON"),
        (halve, "tokenizer.json", "tokenizer.json is truncated or not JSON"),
        (delete, "tokenizer.json", "there is no file .*tokenizer.json"),
    ],
)
def test_resume_with_a_spoiled_file(fails, run, harm, file, message):
    harm(run / file)
    fails(["train", "--out", run, "--resume", "--steps=3"], message)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("n_embd", 16, "model.safetensors is not of the model that .* describes: it has 3,224 weights"),
        ("n_layer", 2, "model.safetensors is not of the model that .* describes: it has 3,224 weights"),
        ("n_layer", "one", "--n-layer 'one' should be of type int"),
        ("n_layer", True, "--n-layer True should be of type int"),
        ("text", "abc", "--text 'abc' should be a list of files"),
        ("colour", "red", "has settings that autotx does not know: colour"),
    ],
)
def test_resume_with_a_changed_config(fails, run, key, value, message):
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, key: value}))
    fails(["train", "--out", run, "--resume", "--steps=3"], message)


@pytest.mark.parametrize(("key", "value"), [("step", "two"), ("data_rng", {}), ("dropout_rng", None)])
def test_resume_with_a_changed_state(fails, run, key, value):
    state = json.loads((run / "state.json").read_text())
    (run / "state.json").write_text(json.dumps({**state, key: value}))
    fails(["train", "--out", run, "--resume", "--steps=3"], "the checkpoint in .* does not fit its settings")


def test_a_learning_rate_that_explodes(tmp_path, text, capsys):
    argv = ["train", "--text", text, "--out", tmp_path / "out", *TINY, "--steps=50", "--warmup-steps=0"]
    assert call(*argv, "--lr=1e30", "--min-lr=1e30", "--grad-clip=0") == 2
    error = capsys.readouterr().err
    assert re.search(r"autotx train: .*(nan|NaN|inf).*[Tt]he checkpoint of step \d+ in .*out", error)
    assert error.count("\n") == 1
    assert call("generate", "--model", tmp_path / "out", "--max-new-tokens=3") == 0


def test_resume_keeps_the_settings(run, capsys):
    before = read_config(run)
    assert call("train", "--out", run, "--resume", "--steps", 3) == 0
    assert read_config(run) == dataclasses.replace(before, steps=3, out=str(run))
    assert "from step 2 to step 3" in capsys.readouterr().out


# Generating


def generated(capsys, *argv):
    assert call("generate", *argv) == 0
    return capsys.readouterr()


@pytest.mark.parametrize("kind", ["char", "word"])
def test_the_command_that_training_suggests_works(kind, text, tmp_path, capsys):
    """The text has no "The ", so that cannot be the prompt."""
    assert call("train", "--text", text, "--tokenizer", kind, "--vocab-size=270", "--out", tmp_path / "run", *TINY) == 0
    shown = capsys.readouterr().out
    assert ("tokens, all in lower case" in shown) == (kind == "word")
    (command,) = [line for line in shown.splitlines() if line.startswith("  autotx generate")]
    assert call(*shlex.split(command)[1:], "--max-new-tokens", 2) == 0


def test_generate_goes_on_with_the_prompt(trained, capsys):
    argv = ["--model", trained, "--prompt", "quick", "--max-new-tokens", 30, "--seed", 1]
    shown = generated(capsys, *argv)
    assert shown.out.startswith("quick")
    assert "at the end it no longer saw the first 26" in shown.err
    assert generated(capsys, *argv).out == shown.out
    assert generated(capsys, *argv[:-1], 2).out != shown.out
    greedy = [generated(capsys, *argv[:-1], seed, "--temperature", 0).out for seed in (1, 2)]
    assert greedy[0] == greedy[1]


def test_unknown_characters_are_named(trained, fails):
    told = "--prompt: the text that the model learned has no 'é', '中'"
    fails(["generate", "--model", trained, "--prompt", "thé 中"], told)


def test_an_empty_prompt_and_a_long_one(trained, capsys):
    assert generated(capsys, "--model", trained, "--prompt", "", "--max-new-tokens", 5).out.endswith("\n")
    long = generated(capsys, "--model", trained, "--prompt", TEXT, "--max-new-tokens", 5)
    assert long.out.startswith(TEXT)
    told = r"the prompt has (\S+) tokens, and the model reads (\d+) at once: it does not see the first (\S+), "
    given, size, unseen = (int(n.replace(",", "")) for n in re.search(told, long.err).groups())
    assert unseen == given - size > 0


def test_a_prompt_comes_from_a_file_or_from_the_input(trained, tmp_path, capsys, monkeypatch, fails):
    file = tmp_path / "prompt.txt"
    file.write_text("the quick\n", encoding="utf-8")
    same = ["--model", trained, "--max-new-tokens", 9, "--seed", 1]
    expected = generated(capsys, *same, "--prompt", "the quick").out
    assert generated(capsys, *same, "--prompt-file", file).out == expected
    monkeypatch.setattr(sys, "stdin", io.StringIO("the quick\n"))
    assert generated(capsys, *same, "--prompt", "-").out == expected
    fails(["generate", *same, "--prompt-file", tmp_path / "none"], "--prompt-file .*none: cannot be read")
    fails(["generate", *same, "--prompt-file", file, "--prompt", "a"], "not allowed with")
    file.write_text("thé", encoding="utf-8")
    fails(["generate", *same, "--prompt-file", file], "--prompt-file: the text that the model learned has no 'é'")


def test_a_text_ends_before_what_stops_it(trained, capsys, fails):
    same = ["--model", trained, "--prompt", "the quick", "--max-new-tokens", 40, "--seed", 1]
    whole = generated(capsys, *same).out
    new = whole.removeprefix("the quick")
    for stops in ([new[5:8]], [new[9:12], new[5:8]], [new[5:8], "never"]):
        flags = [word for stop in stops for word in ("--stop", stop)]
        assert generated(capsys, *same, *flags).out == "the quick" + new[: new.index(new[5:8])] + "\n"
    assert generated(capsys, *same, "--stop", "never").out == whole
    fails(["generate", *same, "--stop", ""], "--stop is empty")


def test_min_p_of_one_takes_the_likeliest(trained, capsys, fails):
    same = ["--model", trained, "--prompt", "the quick", "--max-new-tokens", 20]
    assert generated(capsys, *same, "--min-p", 1).out == generated(capsys, *same, "--temperature", 0).out
    fails(["generate", *same, "--min-p", "1.5"], "--min-p 1.5 should be at most 1")


@pytest.mark.parametrize("kind", ["byte", "bpe"])
def test_other_tokenizers_train_and_generate(kind, text, tmp_path, capsys):
    argv = ["train", "--text", text, "--out", tmp_path / "out", *TINY, "--tokenizer", kind, "--vocab-size", 300]
    assert call(*argv) == 0
    shown = generated(capsys, "--model", tmp_path / "out", "--prompt", "the é", "--max-new-tokens", 2)
    assert "the é" in shown.out
    assert shown.err == ""
    assert call("train", "--out", tmp_path / "out", "--resume", "--steps", 3) == 0


def test_a_stream_shows_whole_characters(monkeypatch):
    class Echo:
        def stream(self, ids, n, **settings):
            return ([i] for i in "a€b".encode())

    pieces = list(stream_text(Echo(), tokenizers.ByteTokenizer(), "x", 5))
    assert pieces == ["a", "", "", "€", "b", ""]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--top-p 0", "--top-p 0.0 should be above 0"),
        ("--top-p 1.5", "--top-p 1.5 should be at most 1"),
        ("--top-p nan", "--top-p nan should be a finite number"),
        ("--top-k 0", "--top-k 0 should be at least 1"),
        ("--repetition-penalty 0", "--repetition-penalty 0.0 should be above 0"),
        ("--min-new-tokens -1", "--min-new-tokens -1 should be at least 0"),
        ("--temperature -1", "--temperature -1.0 should be at least 0"),
        ("--temperature inf", "--temperature inf should be a finite number"),
        ("--max-new-tokens 0", "--max-new-tokens 0 should be at least 1"),
        ("--seed -1", "--seed -1 should be at least 0"),
        ("--model /nowhere", "/nowhere: there is no trained model"),
        (f"--model {__file__}", f"{__file__} is a file, but not a GGUF file; give one, or the folder"),
    ],
)
def test_wrong_settings_of_generate(fails, trained, argv, message):
    fails(["generate", "--model", trained, *argv.split()], message)


def test_words_of_the_text_are_a_prompt(text, tmp_path, capsys, fails):
    """Whether they stood at the start of a line or not, and even where they were too rare to be tokens."""
    tiny = [*TINY, "--tokenizer", "word", "--vocab-size", 260]
    assert call("train", "--text", text, "--out", tmp_path / "run", *tiny) == 0
    generate = ["generate", "--model", tmp_path / "run", "--max-new-tokens", 3]
    for prompt in ("fox", "the fox", "lazy", "Jumps over the"):
        assert call(*generate, "--prompt", prompt) == 0
        assert prompt in capsys.readouterr().out
    fails([*generate, "--prompt", "the fox!"], "--prompt: the text that the model learned has no '!'")


@pytest.mark.parametrize(("kind", "opening"), [("char", "t"), ("byte", "t"), ("word", "the"), ("bpe", "the")])
def test_without_a_prompt_a_text_begins_as_the_one_that_was_learned(kind, opening, tmp_path, capsys):
    """It has no line end, so the model cannot go on from one."""
    (tmp_path / "text").write_text(TEXT.replace("\n", " "))
    run = tmp_path / "run"
    assert (
        call("train", "--text", tmp_path / "text", "--out", run, *TINY, "--tokenizer", kind, "--vocab-size", 300) == 0
    )
    sample = capsys.readouterr().out.partition("A sample of what the model writes:\n\n")[2]
    assert sample.startswith(opening)
    for prompt in ([], ["--prompt", ""]):
        assert generated(capsys, "--model", run, "--max-new-tokens", 5, *prompt).out.startswith(opening)


def test_a_text_begins_with_a_line_end_where_there_are_some(trained, capsys):
    assert generated(capsys, "--model", trained, "--max-new-tokens", 5).out.startswith("\n")
    assert load_checkpoint(trained)[1]["opening"] == "\n"


@pytest.fixture(scope="module", params=["char", "byte", "word", "bpe"])
def of_short_texts(request, tmp_path_factory):
    """A run of 40 files "cat" and "dog", which end."""
    folder = tmp_path_factory.mktemp("short")
    texts = [argument for i in range(40) for argument in ("--text", folder / f"{'cat' if i % 2 else 'dog'}{i}")]
    for path in texts[1::2]:
        path.write_text(path.name[:3])
    sizes = {"n-layer": 1, "n-head": 2, "n-embd": 16, "block-size": 4, "steps": 200, "lr": 0.005, "warmup-steps": 10}
    settings = [f"--{name}={value}" for name, value in sizes.items()]
    tokenizer = ["--tokenizer", request.param, "--vocab-size", 270]
    assert call("train", "--end-of-text", *texts, "--out", folder / "run", *settings, *tokenizer) == 0
    return folder / "run"


def test_a_text_that_ends(of_short_texts, capsys):
    generate = ("--model", of_short_texts, "--temperature", 0.1, "--seed", 1)
    assert generated(capsys, *generate, "--prompt", "dog").out == "dog\n"
    assert generated(capsys, *generate).out in ("cat\n", "dog\n")
    longer = generated(capsys, *generate, "--prompt", "dog", "--min-new-tokens", 4, "--max-new-tokens", 9).out
    assert longer != "dog\n"
    assert "\0" not in longer
    assert generated(capsys, *generate, "--prompt", "dog", "--weights", "int8").out == "dog\n"


def test_texts_without_an_end_in_the_training_part(text, tmp_path, fails):
    train = ["train", "--out", tmp_path / "run", *TINY, "--end-of-text", "--text", text]
    fails(train, "--end-of-text: no text ends in the part to learn from; give more texts, each by --text")


def test_a_repetition_penalty(trained, capsys):
    generate = ("--model", trained, "--temperature", 0, "--max-new-tokens", 20)
    plain, other = (generated(capsys, *generate, "--repetition-penalty", x).out for x in (1, 1e9))
    assert len(set(plain)) < len(set(other))


def test_a_rate_that_only_rises_is_told(text, tmp_path, capsys):
    tiny = ["train", "--text", text, *TINY]
    assert call(*tiny, "--out", tmp_path / "a", "--warmup-steps", 2) == 0
    assert "\n        the learning rate only rises: --steps 2, --warmup-steps 2\n" in capsys.readouterr().out
    assert call(*tiny, "--out", tmp_path / "b", "--warmup-steps", 1) == 0
    assert "only rises" not in capsys.readouterr().out


def put_a_nan(path):
    save_tensors(path, {name: a * np.float32("nan") for name, a in load_tensors(path)[0].items()})


@pytest.mark.parametrize(
    ("harm", "file", "message"),
    [
        (halve, "model.safetensors", "model.safetensors is truncated or not a safetensors file"),
        (put_a_nan, "model.safetensors", "holds NaN or Inf"),
        (halve, "config.json", "config.json is truncated or not JSON"),
        (delete, "config.json", "there is no file .*config.json"),
        (halve, "tokenizer.json", "tokenizer.json is truncated or not JSON"),
    ],
)
def test_generate_with_a_spoiled_file(fails, run, harm, file, message):
    harm(run / file)
    fails(["generate", "--model", run], message)


# What is shown


LOSSES = "loss 2.0000, validation loss 2.5000"
FIGURES = f"{LOSSES}, 1,000 tokens/s, 00:00 left"


def steps_shown(progress_bar):
    """Ten steps, two of them with a validation."""
    with progress_bar:
        for step in range(1241, 1251):
            val_loss = 2.5 if step % 5 == 0 else None
            progress_bar.show_step({"step": step, "loss": 2.0, "val_loss": val_loss, "tokens_per_second": 1000.0})


@pytest.mark.parametrize(
    ("columns", "end"),
    [
        (0, f"\nstep 1250/1250: {FIGURES}"),  # it does not say how wide it is
        (20, f"\nstep 1250/1250: {FIGURES}"),
        (40, f"\nstep 1250/1250: {FIGURES}"),
        (60, f"\rstep 1250/1250 [######] {LOSSES}"),
        (80, f"\rstep 1250/1250 {FIGURES}"),
        (200, f"\rstep 1250/1250 [{38 * '#'}] {FIGURES}"),
    ],
)
def test_terminals_of_any_width_show_the_validation_loss(columns, end, monkeypatch):
    pty, termios = pytest.importorskip("pty"), pytest.importorskip("termios")  # not on Windows
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, columns))
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_CHANGES", -1)
    with open(theirs, "w") as terminal, monkeypatch.context() as patch:
        for stream in ("stdout", "stderr", "__stdout__"):
            patch.setattr(sys, stream, terminal)
        steps_shown(Progress(1240, 1250))
    shown = ""
    with contextlib.suppress(OSError):  # at the end
        while more := os.read(ours, 1 << 16):
            shown += more.decode()
    os.close(ours)
    shown = shown.replace("\r\n", "\n")
    assert shown.rstrip().endswith(end)
    rewritten = [line for line in re.split("[\r\n]", shown) if line and ":" not in line[:16]]
    assert all(len(line) == columns - 1 for line in rewritten)
    assert len(rewritten) == {0: 0, 20: 0, 40: 4}.get(columns, 10)  # with 40, until there is a validation loss


def test_lines_in_a_file(capsys):
    steps_shown(Progress(1240, 1250))
    lines = [f"step {step}/1250: {FIGURES}\n" for step in (1245, 1250)]
    assert capsys.readouterr() == ("".join(lines), "")


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "nowhere"])
@pytest.mark.parametrize("module", ["autotx.viz", "autotx.models.paper.command", "autotx.models.bench.command"])
def test_a_backend_that_is_not_there_does_not_matter(module, backend):
    """As a notebook sets it, for commands of another environment too."""
    drawn = "from autotx.viz.curves import loss_curve; loss_curve([])"
    code = f"import os, {module}; {drawn}; print(os.environ['MPLBACKEND'])"
    environment = {**os.environ, "MPLBACKEND": backend}
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert shown.stdout == f"{backend}\n"


def test_a_backend_that_is_there_is_kept():
    drawn = "from autotx.viz.curves import loss_curve; loss_curve([])"
    code = f"{drawn}; import matplotlib; print(matplotlib.rcParams['backend'])"
    environment = {**os.environ, "MPLBACKEND": "svg"}
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert shown.stdout == "svg\n"


def test_matplotlib_is_imported_only_where_a_picture_is_drawn():
    modules = ", ".join(f"autotx.models.{module}" for module, _ in COMMANDS.values())
    code = f"import sys, autotx.viz, {modules}; print('matplotlib' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout == "False\n"


def test_a_curve_needs_no_display(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # to import it is an error from here on
    records = [
        {"step": s, "loss": 5 / s, "val_loss": 6 / s if s % 10 == 0 else None, "lr": 1e-3} for s in range(1, 101)
    ]
    figure = loss_curve(records, title="A run")
    axes = figure.axes[0]
    assert axes.get_title(loc="left") == "A run"
    assert [len(line.get_xdata()) for line in axes.lines] == [100, 100, 10]
    assert loss_curve([]).axes


def test_the_command_itself(tmp_path):
    """The installed command, in a process of its own: exit status, one line, no traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "autotx", "train", "--text", "nowhere.txt"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert re.fullmatch(r"autotx train: --text .*nowhere.txt: cannot be read: No such file or directory\n", done.stderr)
    assert list(tmp_path.iterdir()) == []

"""Files that a command is told to write: checked before its work, the right file, and never more than that."""

import os
import stat
import threading

import numpy as np
import pytest

from autotx.checkpoint import load_tensors, save_tensors
from autotx.files import write_atomically
from autotx.models.cli import main

posix = pytest.mark.skipif(os.name != "posix", reason="the system has no such files")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


GRAPH = ["graph", "--model", "mlp"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([*GRAPH, "--json", "nowhere/g.json"], "nowhere/g.json: there is no folder nowhere; make it first"),
        ([*GRAPH, "--out", "g.svg", "--json", "g.svg"], "--out and --json are the same file, g.svg; give each its own"),
        ([*GRAPH, "--out", "g.svg", "--json", "./g.svg"], "--out and --json are the same file"),
        ([*GRAPH, "--out", "dir.svg/"], "dir.svg/ is a folder; give the name of a file"),
        ([*GRAPH, "--json", ""], " is a folder; give the name of a file"),
        ([*GRAPH, "--json", "n" * 253], "n.tmp: File name too long"),
        (["bench", "--json", "."], r"\. is a folder; give the name of a file"),
        (["bench", "--picture", "ratios"], "ratios has no ending; give it a name that ends in .png, .svg or .pdf"),
        (["bench", "--json", "same.svg", "--picture", "same.svg"], "--json and --picture are the same file"),
        (["paper", "--html", "p.html", "--json", "p-encoder.html"], "--json and p-encoder.html, which --html links to"),
        (["replay", "--prompt", "x", "--out", "dir.html/"], "dir.html/ is a folder; give the name of a file"),
        (["generate", "--attention", "a.gif"], "a.gif ends in .gif; give it a name that ends in .png, .svg or .pdf"),
        (["translate", "one", "--attention", "no/a.png"], "there is no folder no; make it first"),
        (["plot", "run", "--out", "a"], "a has no ending; give it a name that ends in .png, .svg or .pdf"),
    ],
)
def test_what_cannot_be_written_is_told_before_the_work(fails, folder, argv, message):
    fails(argv, message)


def test_the_name_of_a_file_is_no_folder_to_write_to(fails, folder):
    (folder / "file").write_text("")
    fails(["gallery", "file"], "file is a file; give the name of a folder")
    fails(["gallery", "file/pictures"], "file/pictures: .*file is a file; give the name of a folder")


def test_a_folder_that_cannot_be_written_to_is_told_before_the_work(fails, folder, monkeypatch):
    (folder / "closed").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: "closed" not in str(path))  # root may write everywhere
    fails([*GRAPH, "--json", "closed/g.json"], "closed/g.json: the folder closed cannot be written to; name another")
    fails(["gallery", "closed/pictures"], "closed/pictures: the folder .*closed cannot be written to; name another")


@posix
def test_a_symbolic_link_is_followed(folder):
    (folder / "far").mkdir()
    os.symlink("far/target.json", "link.json")
    for content in (b"one", b"two"):  # a target that is not there yet, and one that is
        write_atomically("link.json", content)
        assert os.path.islink("link.json")
        assert (folder / "far" / "target.json").read_bytes() == content
    save_tensors("link.json", {"a": np.ones(2)})
    assert os.path.islink("link.json")
    assert load_tensors(folder / "far" / "target.json")[0]["a"].sum() == 2
    assert sorted(p.name for p in folder.rglob("*")) == ["far", "link.json", "target.json"]


@posix
def test_a_link_to_nowhere_is_told_before_the_work(fails, folder):
    os.symlink("nowhere/target.json", "link.json")
    fails([*GRAPH, "--json", "link.json"], "link.json: there is no folder .*nowhere; make it first")


@posix
@pytest.mark.parametrize(
    "write", [lambda path: write_atomically(path, b"content"), lambda path: save_tensors(path, {"a": np.arange(3)})]
)
def test_a_pipe_is_written_to_as_it_is(folder, write):
    os.mkfifo("pipe")
    got = []
    reader = threading.Thread(target=lambda: got.append((folder / "pipe").read_bytes()))
    reader.start()
    write("pipe")
    reader.join()
    assert stat.S_ISFIFO(os.stat("pipe").st_mode)
    write("file")
    assert got == [(folder / "file").read_bytes()]
    assert sorted(os.listdir()) == ["file", "pipe"]


@posix
def test_a_device_stays_a_device(folder, capsys):
    assert main([*GRAPH, "--json", os.devnull]) == 0
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
    assert main([*GRAPH, "--out", "g.svg", "--json", "/dev/full"]) == 2
    assert capsys.readouterr().err == "autotx graph: No space left on device\n"

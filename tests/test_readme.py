"""The README and the site's pages tell the truth: their commands, tables and trees, and the README's examples.

`test_site.py` runs the examples of the pages.
"""

import argparse
import configparser
import doctest
import importlib
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import autotx
from autotx.models import cli

ROOT = Path(__file__).parent.parent


def test_examples_print_what_the_readme_says():
    failures, tried = doctest.testfile(str(ROOT / "README.md"), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert tried > 10
    assert failures == 0


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_the_readmes_links_lead_somewhere():
    links = re.findall(r"\]\(([^)]+)\)", (ROOT / "README.md").read_text())
    assert len(links) > 20
    assert not [link for link in links if not (ROOT / link).is_file()]


def test_the_two_commands_stand_in_the_readme():
    readme = (ROOT / "README.md").read_text()
    assert "\npython3 -m venv .venv && .venv/bin/pip install -e . && .venv/bin/autotx train\n" in readme
    assert "\npython3 -m venv .venv && .venv/bin/pip install -e '.[test]' && .venv/bin/pytest\n" in readme


PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("docs/*/*.md"))]


def _blocks():
    """The fenced blocks of the README and the pages: (language, or "" for none; content)."""
    language, lines = None, []
    for line in (line for page in PAGES for line in page.read_text().splitlines()):
        if not line.startswith("```"):
            lines.append(line)
        elif language is None:
            language, lines = line[3:], []
        else:
            yield language, "\n".join(lines)
            language = None


def test_a_run_of_the_command_line_is_loaded_in_python(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("book.txt").write_text("Once upon a time. " * 50)
    sizes = "--n-layer 1 --n-head 1 --n-embd 8 --block-size 16 --batch-size 2 --steps 1 --eval-batches 1"
    assert cli.main(["train", "--text", "book.txt", "--out", "runs/book", *sizes.split()]) == 0
    capsys.readouterr()
    (block,) = (block for _, block in _blocks() if "open_model(" in block)
    exec(block, {"np": np})
    assert capsys.readouterr().out.startswith("Once upon")


def _shell_lines():
    """The command lines of the README and the pages: in blocks without a language, without the comments beside them."""
    for language, block in _blocks():
        for line in re.sub(r"\\\n *", "", block).splitlines() if not language else ():
            command = re.split(r" {5,}", line.strip())[0]
            yield from (part.strip() for part in command.split("&&"))


COMMAND_LINES = sorted(
    {line for line in _shell_lines() if re.match(r"(\S*/)?autotx |python (-m autotx|experiments)", line)}
)


def test_the_table_of_extras_is_that_of_the_package():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = setup["options.extras_require"]
    rows = re.findall(r"^\| `(\w+)` \| .* \| (.*) ?\|$", (ROOT / "docs/use/start.md").read_text(), re.M)
    assert [name for name, _ in rows if name in extras] == list(extras)
    for name, brings in rows:
        if name in extras and "others" not in brings:
            required = re.findall(r"^([\w-]+)[>=]", extras[name], re.M)
            assert re.findall(r"[\w-]+", brings) == required, name
    for_users = set(extras) - {"all", "test", "docs", "peers"}
    assert set(re.findall(r"\w+", extras["all"].split("[")[1])) == for_users


def test_the_citation_names_this_version():
    assert f"\nversion: {autotx.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_the_pages_show_commands():
    assert len(COMMAND_LINES) > 30


class ParsedError(Exception):
    """The arguments were understood; what they ask for is not done here."""


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_command_lines_are_understood(line, monkeypatch):
    program, *words = shlex.split(line)
    if program == "python" and words[0] != "-m":
        module, words = Path(words[0]).stem, words[1:]
        assert (ROOT / shlex.split(line)[1]).is_file()
        parse = argparse.ArgumentParser.parse_args

        def parse_only(parser, argv):
            parse(parser, argv)
            raise ParsedError

        monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
        if module == "training":  # lets PyTorch learn beside
            pytest.importorskip("torch")
        with pytest.raises(ParsedError):
            importlib.import_module(module).main([word for word in words if word != "..."])
        return
    words = words[2:] if program == "python" else words
    _, parser = cli.load(words[0])
    parser.parse_args(words[1:])


def test_the_tree_exists():
    """Each file and folder that the map of the code names, below the folder that it stands in."""
    (tree,) = (block for language, block in _blocks() if block.startswith("autotx/ "))
    folder, named = ROOT, 0
    for line in tree.splitlines():
        if re.match(r" {10}", line):
            continue  # more words about the line above
        if not line.startswith(" "):
            folder = ROOT / line.split()[0]
            assert folder.is_dir(), folder
            continue
        for name in re.match(r"(\s+[\w.]+(\.py|/)(?=\s|$))+", line)[0].split():
            assert (folder / name).exists(), f"{folder.name}/{name} is in the map"
            named += 1
    assert named > 30

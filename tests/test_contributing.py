"""The examples of CONTRIBUTING.md run as they stand, and the files it names exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)$(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))


@pytest.mark.parametrize("title", ["Add an op", "Add a kernel"])
def test_an_example_runs(title, tmp_path):
    program = tmp_path / "example.py"
    program.write_text("\n\n".join(re.findall(r"```python\n(.*?)```", SECTIONS[title], re.DOTALL)), encoding="utf-8")
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_the_files_that_it_names_exist():
    named = set(re.findall(r"`((?:autotx|models|viz|tests)/[\w/.]*)`", TEXT)) | set(re.findall(r"\]\((\S+?)\)", TEXT))
    assert len(named) > 15
    missing = sorted(name for name in named if not (ROOT / name).exists())
    assert missing == ["autotx/kernels/softsign.py"]  # the example's own


def test_each_thing_that_is_added_has_an_example():
    assert [title for title in SECTIONS if title.startswith("Add")] == [
        "Add an op", "Add a kernel", "Add a model family", "Add a file format",
    ]  # fmt: skip

"""The README tells the truth: its examples print what they say, and its two commands stand in it literally."""

import doctest
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_examples_print_what_the_readme_says():
    failures, tried = doctest.testfile(str(ROOT / "README.md"), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert tried > 20
    assert failures == 0


def test_the_two_commands_stand_in_the_readme():
    readme = (ROOT / "README.md").read_text()
    assert "\npython3 -m venv .venv && .venv/bin/pip install -e . && .venv/bin/autotx train\n" in readme
    assert "\npython3 -m venv .venv && .venv/bin/pip install -e '.[test]' && .venv/bin/pytest\n" in readme

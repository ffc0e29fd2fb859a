"""What every test file shares: one seeded source of randomness, hypothesis drawing the same examples every time,
a browser, and a command line that has to fail.
"""

import re
import signal

import browsing
import hypothesis
import numpy as np
import pytest

from autotx.models.cli import main
from autotx.models.train import STOPPING

for number in STOPPING:  # ignored where the tests run in the background, or under nohup; tests send them
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

hypothesis.settings.register_profile("repeatable", deadline=None, max_examples=40, derandomize=True)
hypothesis.settings.load_profile("repeatable")


def pytest_collection_modifyitems(config, items):
    """Leave out what only `-m fuzz` runs."""
    if "fuzz" not in config.option.markexpr:
        items[:] = [item for item in items if not item.get_closest_marker("fuzz")]


@pytest.fixture
def rng():
    return np.random.default_rng(20261123)


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    driver = browsing.started(tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()


@pytest.fixture
def fails(tmp_path, capsys):
    """fails(argv, text): the command says one line with this text, exits with 2, and changes nothing on the disk."""

    def snapshot():
        return {p: p.read_bytes() if p.is_file() else None for p in tmp_path.rglob("*")}

    def check(argv, message):
        capsys.readouterr()
        before = snapshot()
        try:
            status = main([str(word) for word in argv])
        except SystemExit as end:  # argparse
            status = end.code
        shown = capsys.readouterr()
        assert status == 2
        assert re.search(message, shown.err), shown.err
        assert shown.err.startswith(f"autotx {argv[0]}: ")
        assert shown.err.count("\n") == 1
        assert shown.out == ""
        assert snapshot() == before

    return check

"""What every test file shares: one seeded source of randomness, and hypothesis drawing the same examples every time."""

import hypothesis
import numpy as np
import pytest

hypothesis.settings.register_profile("repeatable", deadline=None, max_examples=40, derandomize=True)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture
def rng():
    return np.random.default_rng(20261123)

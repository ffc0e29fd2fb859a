"""What the program computes and draws stays what it was: see golden.py."""

import json

import golden
import pytest


def test_results_are_those_that_were_recorded():
    expected, found = json.loads(golden.FILE.read_text(encoding="utf-8")), golden.computed()
    assert {name for name in found if not name.startswith("bits ")} == expected.keys()
    for name, value in expected.items():
        _assert_close(found[name], value, name)


def _assert_close(found, expected, where):
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key in expected:
            _assert_close(found[key], expected[key], f"{where}, {key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for i, (f, e) in enumerate(zip(found, expected)):
            _assert_close(f, e, f"{where}, {i}")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-5), where
    else:
        assert found == expected, where

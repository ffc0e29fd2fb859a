"""The comparison of code without words (same_code.py) sees code and overlooks words."""

import pytest
import same_code

BEFORE = '''"""A module."""

def f(x):
    """Adds one."""
    return x + 1  # why
'''


@pytest.mark.parametrize(
    ("after", "differs"),
    [
        (BEFORE.replace("Adds one.", "Adds 1 to x."), False),
        (BEFORE.replace("why", "because"), False),
        (BEFORE.replace('"""A module."""', ""), False),
        (BEFORE.replace("x + 1", "x + 2"), True),
        (BEFORE.replace("def f", "def g"), True),
        (BEFORE.replace('    """Adds one."""\n', "    print('Adds one.')\n"), True),
        (None, True),
    ],
)
def test_code_and_words_are_told_apart(after, differs):
    files = {} if after is None else {"m.py": after}
    assert same_code.changed({"m.py": BEFORE}, files) == (["m.py"] if differs else [])

"""Shows that a change touched only words: the code of every Python file is the same, docstrings and comments aside.

    python tests/same_code.py REVISION              compares the working tree with a revision
    python tests/same_code.py REVISION REVISION     compares two revisions

Prints each file whose code differs. Exit status 1 when there is one.
"""

import ast
import subprocess
import sys
from pathlib import Path


def without_words(source):
    """The syntax tree of a program as text, without docstrings, comments and line numbers."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)


def _git(*arguments):
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout


def _files(revision):
    """The Python files of a revision (None for the working tree): dict of path -> source."""
    if revision is None:
        names = _git("ls-files", "*.py").split()
        return {name: Path(name).read_text(encoding="utf-8") for name in names if Path(name).exists()}
    names = [name for name in _git("ls-tree", "-r", "--name-only", revision).split() if name.endswith(".py")]
    return {name: _git("show", f"{revision}:{name}") for name in names}


def changed(before, after):
    """The paths whose code differs, or that only one of two versions has. before, after: dicts of path -> source."""
    differ = []
    for name in sorted(before.keys() | after.keys()):
        sides = before.get(name), after.get(name)
        if sides[0] != sides[1] and (None in sides or without_words(sides[0]) != without_words(sides[1])):
            differ.append(name)
    return differ


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    revisions = sys.argv[1:]
    found = changed(_files(revisions[0]), _files(revisions[1] if len(revisions) == 2 else None))
    print("\n".join(found) or "only words differ")
    sys.exit(bool(found))

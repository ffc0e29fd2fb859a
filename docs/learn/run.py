"""Execute the notebooks of this folder, and compare what they print with what is kept in them.

    python docs/learn/run.py                  all of them, with short settings
    python docs/learn/run.py --whole 5-gpt    one of them, as a reader would run it
    python docs/learn/run.py --write 5-gpt    the same, and keep its outputs

Short settings: in a cell with the tag `settings` a line `steps = 2000  # short: 40` becomes
`steps = 40`. What cells with the tag `long` print depends on them, and is not compared. A
number may differ by a thousandth of its size: processors differ in the last digits.

The exit status is 1 if a notebook fails or prints something else.
"""

import argparse
import re
import sys
import tempfile
from pathlib import Path

import nbclient
import nbformat

HERE = Path(__file__).parent
NUMBER = r"-?\d+(?:,\d{3})*(?:\.\d*)?(?:e[-+]?\d+)?"
TOLERANCE = 1e-3


def notebooks(names=()):
    """The paths of the notebooks, all or those of these names."""
    found = sorted(HERE.glob("*.ipynb"), key=lambda path: int(path.name.split("-")[0]))
    missing = set(names) - {path.stem for path in found}
    if missing:
        there = ", ".join(path.stem for path in found)
        raise SystemExit(
            f"there is no notebook {', '.join(sorted(missing))}; there are {there}"
        )
    return [path for path in found if not names or path.stem in names]


def execute(path, short):
    """The notebook, executed in this folder with this Python. It stops at an error."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        if short and "settings" in tags(cell):
            cell.source = re.sub(r"= .*# short: (.*)", r"= \1", cell.source)
    client = nbclient.NotebookClient(
        notebook,
        timeout=3600,
        kernel_name="python3",
        coalesce_streams=True,
        resources={"metadata": {"path": HERE}},
    )
    client.execute()
    for output in [
        o for cell in notebook.cells for o in cell.get("outputs", ()) if "text" in o
    ]:
        output.text = re.sub(
            re.escape(tempfile.gettempdir()) + r"/tmp\w+/", "", output.text
        )  # another one each time
    return notebook


def tags(cell):
    return cell.metadata.get("tags", ())


def differences(kept, new, short):
    """Lines that say where what the cells printed differs from what is kept."""
    lines = []
    for before, after in zip(kept.cells, new.cells):
        if before.cell_type == "code" and not (short and "long" in tags(before)):
            one, other = printed(before), printed(after)
            if not alike(one, other):
                lines.append(f"in the cell\n{after.source}\nit printed\n{other}")
                lines.append(f"and what is kept is\n{one}")
    return lines


def printed(cell):
    """The text that a cell printed, without warnings and pictures."""
    return "".join(output.text for output in cell.outputs if output.get("name") == "stdout")


def alike(one, other):
    """Whether two texts are the same but for the last digits of their numbers."""
    numbers = [
        [float(n.replace(",", "")) for n in re.findall(NUMBER, text)] for text in (one, other)
    ]
    words = [re.sub(rf"\s*{NUMBER}", "#", text) for text in (one, other)]
    return words[0] == words[1] and all(
        abs(a - b) <= TOLERANCE * abs(a) + 1e-12 for a, b in zip(*numbers)
    )


def main(argv=None):
    """Run the command. Returns the exit status."""
    parser = argparse.ArgumentParser(
        description="Execute the notebooks, and compare what they print."
    )
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="of a notebook, without .ipynb (default: all)"
    )
    parser.add_argument("--whole", action="store_true", help="with the settings of a reader")
    parser.add_argument("--write", action="store_true", help="the same, and keep the outputs")
    args = parser.parse_args(argv)
    short, wrong = not (args.whole or args.write), 0
    for path in notebooks(args.names):
        new = execute(path, short)
        if args.write:
            for cell in new.cells:
                cell.metadata.pop("execution", None)  # when it ran
                if cell.cell_type == "code":
                    cell.outputs = [
                        output for output in cell.outputs if output.get("name") != "stderr"
                    ]
            nbformat.write(new, path)
            continue
        found = differences(nbformat.read(path, as_version=4), new, short)
        print("\n".join([f"{path.name}: {'differs' if found else 'as kept'}", *found]))
        wrong += bool(found)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())

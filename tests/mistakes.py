"""Executes examples/mistakes.ipynb, whose stored outputs are what test_mistakes.py expects.

python tests/mistakes.py --write          executes it and stores the outputs
"""

import re
import sys
import tempfile
from pathlib import Path

import nbclient
import nbformat

FILE = Path(__file__).parent.parent / "examples" / "mistakes.ipynb"


def executed(folder):
    """The notebook, executed by a kernel of its own in a folder, with errors as outputs."""
    notebook = nbformat.read(FILE, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=120, allow_errors=True, kernel_name="python3")
    return client.execute(cwd=str(folder))


def answer(output):
    """What an output says, without what differs from run to run: an error's line, a text, or the type of a picture."""
    if output.output_type == "error":
        return re.sub(r"/\S+/ipykernel_\d+/\d+.py", "cell", f"{output.ename}: {output.evalue}")
    if output.output_type == "stream":
        return output.text
    pictures = [kind for kind in output.data if kind != "text/plain"]
    return pictures[0] if pictures else output.data["text/plain"]


def main():
    with tempfile.TemporaryDirectory() as folder:
        notebook = executed(folder)
    notebook.metadata.pop("language_info", None)
    for cell in notebook.cells:
        cell.metadata.clear()  # times
        for output in cell.get("outputs", ()):
            if output.output_type == "error":
                output.traceback = [answer(output)]
                output.evalue = output.traceback[0].partition(": ")[2]
            elif output.output_type == "execute_result" and answer(output) in output.data:
                output.data.pop("text/plain")  # beside a picture; it holds an address in memory
    nbformat.write(notebook, FILE)


if __name__ == "__main__":
    if sys.argv[1:] != ["--write"]:
        sys.exit("give --write")
    main()

"""The commands, called from a real notebook: its kernel sets MPLBACKEND for all that it starts."""

import sys

import pytest

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel")

SETTINGS = "--n-layer 1 --n-head 1 --n-embd 8 --block-size 8 --batch-size 2 --steps 2 --eval-batches 1"


def run(cells, folder):
    """Run the cells of a notebook in a folder. Returns the text that each one printed."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": folder}}
    ).execute()
    return ["".join(output.get("text", "") for output in cell.outputs).strip() for cell in notebook.cells]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")  # of the notebook's own libraries
def test_commands_from_a_notebook(tmp_path):
    """With the backend that the kernel sets, and with one that the commands' environment does not have."""
    (tmp_path / "text.txt").write_text("the quick brown fox\n" * 50)
    autotx = f"!{sys.executable} -m autotx"
    _, backend, train, plot, generate, _, again, other = run(
        [
            f"import os; os.environ['PYTHONPATH'] = {':'.join(filter(None, sys.path))!r}",
            "print(os.environ['MPLBACKEND'])",
            f"{autotx} train --text text.txt --out run {SETTINGS}",
            f"{autotx} plot run",
            f"{autotx} generate --model run --max-new-tokens 5",
            "%env MPLBACKEND=module://nowhere.backend_inline",
            f"{autotx} plot run --out other.png",
            f"{autotx} generate --model run --max-new-tokens 5",
        ],
        tmp_path,
    )
    assert backend.startswith("module://")
    assert "Done: 2 steps." in train
    assert plot == "curves.png shows run"
    assert again == "other.png shows run"
    assert (tmp_path / "other.png").read_bytes() == (tmp_path / "curves.png").read_bytes()
    for shown in (train, plot, generate, again, other):
        assert "Error" not in shown
        assert "Traceback" not in shown


TRAINS = """
from autotx.models.registry import settings_of
from autotx.models.train import train

sizes = dict(n_layer=1, n_head=1, n_embd=8, block_size=8, batch_size=2, eval_batches=1, eval_interval=2)
train(settings_of("gpt")(out="run", text=("text.txt",), steps=6, **sizes));
"""
RESUMES = 'train(settings_of("gpt")(out="run", text=("text.txt",), steps=8, resume=True, **sizes));'
SHOWS = """
import numpy as np
from autotx import Tensor, viz

viz.attention({"attention": np.full((1, 3, 3), 1 / 3)}, list("abc"))
"""
GRAPHS = ["viz.show_graphs(); x = Tensor([1.0, 2.0], requires_grad=True)", "(x * x).sum()", "x"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_what_a_notebook_shows_of_python(tmp_path):
    """A training has one bar and one curve, a picture and a Tensor stand there once; nothing is printed beside them."""
    (tmp_path / "text.txt").write_text("the quick brown fox\n" * 50)
    sources = [f"import sys; sys.path[:0] = {sys.path!r}", TRAINS, RESUMES, SHOWS, *GRAPHS]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    resources = {"metadata": {"path": tmp_path}}
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    begins, trains, resumes, shows, switch, graph, leaf = (cell.outputs for cell in notebook.cells)
    assert not begins
    assert not switch
    for outputs, last in ((trains, 6), (resumes, 8)):
        bar, curve = (output.data for output in outputs if output.output_type == "display_data")
        assert bar["text/plain"].startswith(f"step {last}/{last}: loss ")
        assert "validation loss" in bar["text/plain"]
        assert '<progress value="1.0000" max="1">' in bar["text/html"]
        assert len(curve["image/png"]) > 1000
        printed = "".join(output.get("text", "") for output in outputs)
        assert printed.count(f"Done: {last} steps.") == 1
        assert "step 2/" not in printed
    for outputs, kind in ((shows, "image/png"), (graph, "text/html"), (leaf, "text/plain")):
        (output,) = outputs
        assert output.output_type == "execute_result"
        assert kind in output.data
    assert "<svg" in graph[0].data["text/html"]
    assert leaf[0].data["text/plain"].startswith("Tensor([1., 2.]")


MISTAKES = [
    "x @ x",
    "x.reshape(4, 5)",
    "x.sum().backward()",
    "autotx.embedding(Tensor(np.ones((5, 2))), [9])",
    "nn.Sequential(nn.Linear(3, 4, rng=rng), nn.ReLU(), nn.Linear(5, 1, rng=rng))(x)",
    "GPT(GPTConfig(block_size=8, vocab_size=5, n_layer=2, n_head=1, n_embd=8), rng=rng)(np.array([[9]]))",
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
def test_an_error_takes_at_most_30_lines_of_a_notebook():
    setup = f"""import sys; sys.path[:0] = {sys.path!r}
import numpy as np, autotx
from autotx import Tensor, nn
from autotx.models import GPT, GPTConfig
rng, x = np.random.default_rng(0), Tensor(np.ones((2, 3)), requires_grad=False)"""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in (setup, *MISTAKES)])
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", allow_errors=True).execute()
    assert not notebook.cells[0].outputs
    for cell in notebook.cells[1:]:
        (error,) = cell.outputs
        shown = "\n".join(error.traceback).splitlines()
        assert len(shown) <= 30, f"{cell.source}: {len(shown)} lines"
        assert sum(f": {error.evalue.splitlines()[0]}" in line for line in shown) == 1  # the message stands there once

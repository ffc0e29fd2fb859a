"""The notebook of usual mistakes, executed: each cell answers as the stored notebook shows."""

import re

import pytest

pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

import mistakes
import nbformat

STORED = [cell for cell in nbformat.read(mistakes.FILE, as_version=4).cells if cell.cell_type == "code"]


@pytest.mark.filterwarnings("ignore")  # of the packages that talk to the kernel
def test_every_mistake_is_answered_as_the_notebook_shows(tmp_path):
    cells = [cell for cell in mistakes.executed(tmp_path).cells if cell.cell_type == "code"]
    assert len(cells) > 20
    for cell, stored in zip(cells, STORED, strict=True):
        said, expected = ([mistakes.answer(output) for output in c.outputs] for c in (cell, stored))
        assert said == expected, cell.source
        assert len(said) == 1, f"{cell.source} is answered {len(said)} times"


def test_the_stored_notebook_names_no_place_of_a_machine():
    text = mistakes.FILE.read_text(encoding="utf-8")
    assert not re.search(r"/(tmp|home|root|Users|work)/|0x[0-9a-f]{6}", text)

"""The notebooks of the documentation run, and their committed outputs are what a reader may see."""

import json
import re
import sys
from pathlib import Path

import nbformat
import pytest
from helpers.notebooks import NOTEBOOKS, run, small

SAYS = {
    "images": [r"trained +│ 9\d\.\d\d%", r"one number per sample", r"\(1, 128\)"],
    "inside_the_loss": [r"by hand: True", r"1797 u were taken over", r"next u is the same: True"],
    "pairs": [r"a bold seven that leans right", r"zero-shot: [4-9]\d%"],
}


def texts(notebook):
    outputs = (output for cell in notebook.cells for output in cell.get("outputs", []))
    return "".join(output.get("text", "") for output in outputs)


def test_every_notebook_has_what_it_is_to_say():
    assert {path.stem for path in NOTEBOOKS} == set(SAYS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_outputs(path):
    """Pictures and texts are there, small, and say nothing of the machine that ran it."""
    notebook = nbformat.read(path, 4)
    assert path.stat().st_size < 300_000
    said = texts(notebook)
    for expected in SAYS[path.stem]:
        assert re.search(expected, said), expected
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count == number for number, cell in enumerate(code, start=1))
    assert any("data" in output for cell in code for output in cell.outputs)
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)
    for place in (str(Path.home()), sys.prefix, "/tmp/", "Traceback"):
        assert place not in json.dumps(notebook)


def test_outputs_of_a_cell_become_one_text_without_colors():
    new = nbformat.v4.new_output
    colored = new("display_data", data={"text/plain": "\x1b[1mb\x1b[0m"})
    outputs = [new("stream", text="a\n"), colored]
    (only,) = small(outputs)
    assert only.text == "a\nb"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of Jupyter
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebook_runs(path, tmp_path):
    said = texts(run(path, tmp_path))
    for expected in SAYS[path.stem]:
        assert re.search(expected, said), expected

"""Run the notebooks of the documentation.

`python tests/helpers/notebooks.py` renews the outputs that are committed.
"""

import base64
import io
import re
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image

FOLDER = Path(__file__).parents[2] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


def run(path: Path, folder: Path) -> nbformat.NotebookNode:
    """Run a notebook in a folder of its own, and return it with small outputs.

    The texts that a cell prints become one, without colours; pictures have 256 of them.
    """
    notebook = nbformat.read(path, 4)
    place = {"metadata": {"path": str(folder)}}
    client = NotebookClient(notebook, kernel_name="python3", resources=place, record_timing=False)
    client.execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = list(small(cell.outputs))
    notebook.metadata.pop("widgets", None)
    notebook.metadata.language_info = {"name": "python"}
    return notebook


def small(outputs):
    """Yield what a reader sees of the outputs of a cell: one text, then pictures."""
    texts = [ESCAPES.sub("", text_of(output)) for output in outputs]
    if printed := "".join(texts):
        yield nbformat.v4.new_output("stream", name="stdout", text=printed)
    for output in outputs:
        if picture := output.get("data", {}).get("image/png"):
            few = {"image/png": with_few_colors(picture)}
            yield nbformat.v4.new_output("display_data", data=few)


def text_of(output) -> str:
    if output.output_type == "stream":
        # Warnings of other libraries name the folders of the machine.
        return "" if output.name == "stderr" else output.text
    data = output.get("data", {})
    return "" if "image/png" in data else data.get("text/plain", "")


def with_few_colors(encoded: str) -> str:
    picture = Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGB").quantize(256)
    stored = io.BytesIO()
    picture.save(stored, "PNG", optimize=True)
    return base64.b64encode(stored.getvalue()).decode()


if __name__ == "__main__":
    for path in NOTEBOOKS:
        with tempfile.TemporaryDirectory() as folder:
            nbformat.write(run(path, Path(folder)), path)

"""Every notebook runs from its first cell to its last, with the mfjax under test, and shows its figures."""

import os
from pathlib import Path

import nbclient
import nbformat
import pytest

import mfjax as mf

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path, tmp_path, monkeypatch):
    source = Path(mf.__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(source), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    notebook = nbformat.read(path, as_version=4)
    last = nbformat.v4.new_code_cell("import mfjax\nprint(mfjax.__file__)")
    notebook.cells.append(last)
    # It starts in an empty folder: it needs no file of the repository.
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    assert last.outputs[0].text.strip() == mf.__file__
    drawing = [cell for cell in notebook.cells if cell.cell_type == "code" and "mf.plot." in cell.source]
    assert drawing
    for cell in drawing:
        shown = [output.data for output in cell.outputs if output.output_type == "execute_result"]
        assert ["image/png" in data for data in shown] == [True], cell.source

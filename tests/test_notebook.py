"""The notebook of the documentation runs from start to end."""

from __future__ import annotations

from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "compare.ipynb"


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, monkeypatch) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("COMPARE_OUTPUTS", str(tmp_path))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(NOTEBOOK.parent)}})
    client.execute()
    assert len(list(tmp_path.glob("graphnorm/*/*/result.json"))) == 4
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    measured, recorded = eval(outputs[-1]["data"]["text/plain"])
    assert measured == pytest.approx(recorded)

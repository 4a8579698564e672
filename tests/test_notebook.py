"""The notebook runs from top to bottom, and prunes what it says."""

from pathlib import Path

import nbclient
import nbformat

NOTEBOOK = Path("experiments/notebooks/quickstart.ipynb")


def test_quickstart_runs():
    root = Path(__file__).parents[1]
    notebook = nbformat.read(root / NOTEBOOK, as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=300, resources={"metadata": {"path": str(root)}}
    )
    client.execute()
    printed = "".join(
        output.get("text", "")
        for cell in notebook.cells
        for output in cell.get("outputs", [])
    )
    assert "pruned" in printed
    assert "exact: max" in printed
    assert any(
        "image/png" in output.get("data", {})
        for cell in notebook.cells
        for output in cell.get("outputs", [])
    )

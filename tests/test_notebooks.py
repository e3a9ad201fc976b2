"""The notebooks in examples/: as they are kept, and run again at a small size."""

import json
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
NAMES = ("live_scan", "attach_cluster", "read_results", "mixed_model")
SMALLER = {
    "4_000, 4_400, 100": "400, 440, 20",
    "300, 3_000, 6": "60, 300, 3", "1_030": "103", "2_750": "275", "[700]": "[70]", "3_900": "390",
    "block_size=50": "block_size=20", "stop=2_000": "stop=200",
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_kept_with_outputs(name: str) -> None:
    notebook = json.loads((EXAMPLES / f"{name}.ipynb").read_text(encoding="utf-8"))
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert outputs
    assert all(output["output_type"] != "error" for output in outputs)
    widgets = [
        o for o in outputs if "application/vnd.jupyter.widget-view+json" in o.get("data", {})
    ]
    # The state of a widget is kept too: it is shown without a kernel.
    kept = (
        notebook["metadata"]
        .get("widgets", {})
        .get("application/vnd.jupyter.widget-state+json", {"state": {}})["state"]
    )
    assert len(widgets) == (name in ("live_scan", "attach_cluster"))
    for output in widgets:
        model = output["data"]["application/vnd.jupyter.widget-view+json"]["model_id"]
        assert kept[model]["state"]["progress"]["state"] == "finished"


@pytest.mark.slow
def test_run_again(tmp_path) -> None:
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    for name in NAMES:
        text = (EXAMPLES / f"{name}.ipynb").read_text(encoding="utf-8")
        notebook = nbformat.reads(text, as_version=4)
        for cell in notebook.cells:
            for large, small in SMALLER.items():
                cell.source = cell.source.replace(large, small)
        resources = {"metadata": {"path": str(tmp_path)}}
        nbclient.NotebookClient(notebook, timeout=120, resources=resources).execute()
        written = {path.name for path in (tmp_path / "notebook_output").iterdir()}
        assert written == {*NAMES[: NAMES.index(name) + 1]}, "each has its own folder"
    store = tmp_path / "notebook_output" / "attach_cluster" / "attached.zarr"
    assert (store / ".run" / "finished.json").is_file()

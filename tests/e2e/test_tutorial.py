"""The tutorial notebook runs from top to bottom, finds what its text says, and leaves nothing."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from marks import OPENS_FEAST
from nbclient import NotebookClient
from nbformat import NotebookNode

pytestmark = [*OPENS_FEAST, pytest.mark.ray]

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "training" / "tutorial.ipynb"

# Asked of the kernel before the cell that removes the folder.
FOUND = """
import json

print(json.dumps({
    "imported": imported.imported,
    "again": again.imported,
    "published": outcome.record.state.value,
    "passed": bool(checks["passed"].all()),
    "arms": arms.to_dict(),
    "real": int((~rows["is_synthetic"]).sum()),
    "synthetic": int(rows["is_synthetic"].sum()),
    "drawn": len(drawn),
    "explained": len(explained),
    "comes_first": bool(comes_first.all()),
    "likelihood": [float(drawn["likelihood"].min()), float(drawn["likelihood"].max())],
    "calibration": calibration.values.tolist(),
    "times": float(times),
    "traced": [traced.batch.batch_id == outcome.record.batch_id, len(traced.sources)],
    "earlier": [len(earlier), int(earlier["is_synthetic"].sum())],
    "known_by_june": bool((earlier["available_at"] <= pd.Timestamp(june)).all()),
    "leaks": leaks,
    "hidden": len(hidden),
    "ndcg": [float(real_only.mean()), float(with_synthetic.mean())],
    "kept": kept.to_arrow().equals(dataset.to_arrow()),
    "afterwards": afterwards.manifest["counts"],
    "notes": list(saved.load(store, "july").notes),
    "as_it_was": as_it_was.to_arrow().equals(dataset.to_arrow()),
    "refused": [refused.record.state.value, refused.sentence],
    "folder": str(folder),
}))
"""


class ThisPython(AsyncKernelManager):
    """Starts the Python that runs the tests, whatever kernels are installed elsewhere."""

    @property
    def kernel_spec(self) -> KernelSpec:
        command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        return KernelSpec(argv=command, display_name="this Python", language="python")


def read() -> NotebookNode:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    return notebook


def ids(notebook: NotebookNode) -> list[str]:
    return [cell["id"] for cell in notebook.cells if cell.cell_type == "code"]


@pytest.fixture(scope="module")
def places() -> Iterator[dict[str, Path]]:
    """Folders of its own for all that a notebook, Ray and Jupyter write."""
    with tempfile.TemporaryDirectory(prefix="n", dir="/tmp") as short:
        names = ("TMPDIR", "RAY_TMPDIR", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR")
        folders = {name: Path(short) / str(at) for at, name in enumerate(names)}
        for folder in folders.values():
            folder.mkdir()
        yield folders


@pytest.fixture(scope="module")
def executed(places) -> NotebookNode:
    """The notebook with its outputs, and a cell more before the last: what was found."""
    notebook = read()
    asked = nbformat.v4.new_code_cell(FOUND, id="found")
    notebook.cells.insert(len(notebook.cells) - 1, asked)
    settings = {name: str(folder) for name, folder in places.items()}
    at = {"metadata": {"path": str(NOTEBOOK.parent)}}
    client = NotebookClient(notebook, kernel_manager_class=ThisPython, timeout=300, resources=at)
    with patch.dict(os.environ, {**settings, "PYTHONPATH": str(ROOT)}):
        client.execute()
    return notebook


@pytest.fixture(scope="module")
def found(executed) -> dict[str, Any]:
    (cell,) = (cell for cell in executed.cells if cell["id"] == "found")
    return json.loads(cell.outputs[0].text)


def test_it_is_kept_without_outputs():
    notebook = read()
    for cell in notebook.cells:
        assert cell.get("outputs", []) == [], cell["id"]
        assert cell.get("execution_count") is None, cell["id"]
        assert cell.metadata == {}, cell["id"]
    assert len(set(ids(notebook))) == len(ids(notebook)) > 10


def test_each_cell_ran_once_in_order_and_none_complains(executed):
    code = [cell for cell in executed.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    told = "".join(output.text for output in outputs if output.get("name") == "stderr")
    assert "Warning" not in told


def test_both_plots_are_drawn(executed):
    data = [output.get("data", {}) for cell in executed.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in content for content in data) == 2


def test_a_log_is_imported_once_and_its_batch_published(found):
    assert found["imported"]["books"] > found["imported"]["films"] > 10_000
    assert set(found["again"].values()) == {0}
    assert found["published"] == "published"
    assert found["passed"]


def test_the_events_help_users_without_history_and_a_placebo_does_not(found):
    arms = {name: arm["hidden"] for name, arm in found["arms"].items()}
    assert arms["synthetic"] > 1.2 * arms["real_only"] > arms["placebo"]
    assert arms["folded_in"] > 1.2 * arms["real_only"]
    assert found["arms"]["folded_in"]["warm"] == found["arms"]["real_only"]["warm"]
    assert found["hidden"] > 200
    real_only, with_synthetic = found["ndcg"]
    assert with_synthetic > 1.2 * real_only


def test_each_event_follows_from_an_earlier_one_and_is_likelier_than_chance(found):
    assert found["synthetic"] == found["drawn"] == found["explained"] > 10_000
    assert found["comes_first"]
    low, high = found["likelihood"]
    assert 0 < low < high <= 1
    assert found["times"] > 2
    said, true = zip(*found["calibration"], strict=True)
    assert list(true) == sorted(true)
    assert said[0] > true[0]
    assert said[-1] < true[-1]
    assert found["traced"] == [True, 1]


def test_an_earlier_pull_holds_nothing_of_what_was_known_later(found):
    rows, synthetic = found["earlier"]
    assert 0 < rows < found["real"]
    assert synthetic == 0
    assert found["known_by_june"]
    assert found["leaks"]["synthetic_events"] > 1000
    assert found["leaks"]["target_events"] > 0


def test_a_set_is_kept_through_the_retirement_of_its_batch(found):
    assert found["kept"]
    assert found["afterwards"] == {"real": found["real"], "synthetic": 0}
    assert any("was retired" in note and "wrong prices" in note for note in found["notes"])
    assert found["as_it_was"]


def test_where_nothing_transfers_the_gate_refuses(found):
    state, sentence = found["refused"]
    assert state == "rejected"
    assert "nothing transfers" in sentence


def test_nothing_is_left_of_it(found, places):
    assert Path(found["folder"]).parent == places["TMPDIR"]
    assert not Path(found["folder"]).exists()
    assert not list(NOTEBOOK.parent.glob(".ipynb_checkpoints"))

"""The notebook of the documentation, executed at a small size: in a kernel, and without one."""

import importlib.util
import json
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

import fastnst
from fastnst.errors import OptionError
from fastnst.image.read import load_image
from fastnst.transfer.callbacks import Live

NOTEBOOK = Path(__file__).parent.parent / "docs" / "fastnst.ipynb"
SMALL: dict[str, Any] = {"size": 32, "iterations": 3, "scales": None, "weights": "random"}


def small_notebook() -> dict[str, Any]:
    notebook: dict[str, Any] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert not any(cell.get("outputs") for cell in notebook["cells"]), "clear its outputs"
    (given,) = (cell for cell in notebook["cells"] if "parameters" in cell["metadata"].get("tags", ()))
    given["source"] = "".join(given["source"]).replace("SIZE, ITERATIONS = 512, 50", "SIZE, ITERATIONS = 64, 2")
    assert "64, 2" in given["source"]
    for cell in notebook["cells"]:
        # As nbformat reads it.
        cell["source"] = "".join(cell["source"])
    return notebook


class Displayed:
    """IPython.display's `display`, as far as the notebook goes: what was shown, and shown anew."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def __call__(self, shown: Any, *, display_id: bool = False) -> "Displayed | None":
        self.calls.append(shown)
        return self if display_id else None

    def update(self, shown: Any) -> None:
        self.calls.append(shown)


@pytest.fixture
def displayed(monkeypatch: pytest.MonkeyPatch) -> Displayed:
    """A place of output without IPython or ipywidgets."""
    ipython, module, shown = ModuleType("IPython"), ModuleType("IPython.display"), Displayed()
    module.display = shown  # type: ignore[attr-defined]
    for name, each in (("IPython", ipython), ("IPython.display", module)):
        each.__spec__ = importlib.util.spec_from_loader(name, None)
        monkeypatch.setitem(sys.modules, name, each)
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ipywidgets" else found(name))
    return shown


def test_its_cells_run(displayed: Displayed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for number, cell in enumerate(small_notebook()["cells"]):
        if cell["cell_type"] == "code":
            exec(compile(cell["source"], f"{NOTEBOOK.name}[{number}]", "exec"), names)
    assert load_image("stylized.png").rgb.shape == (3, 48, 64)
    assert names["texture"].tensor.shape == (3, 64, 64)
    assert len(names["results"]) == 3
    lines = [each for each in displayed.calls if isinstance(each, str)]
    assert lines[-1].startswith("iteration 2 of 2, 64 px, loss ")
    pictures = [each for each in displayed.calls if isinstance(each, Image.Image)]
    assert pictures[0].size == (64, 48)


def test_a_kernel_runs_it(tmp_path: Path) -> None:
    for package in ("nbclient", "nbformat", "ipykernel"):
        pytest.importorskip(package, reason="a kernel is the extra notebook")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import nbclient
        import nbformat

        notebook = nbformat.from_dict(small_notebook())
        client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
        client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert not [output for output in outputs if output.output_type == "error"]
    data = [output.data for output in outputs if "data" in output]
    assert sum("image/png" in each for each in data) >= 4
    if importlib.util.find_spec("ipywidgets") is not None:
        assert any("application/vnd.jupyter.widget-view+json" in each for each in data)
    assert load_image(tmp_path / "stylized.png").rgb.shape == (3, 48, 64)


def test_a_live_view(displayed: Displayed) -> None:
    picture = np.random.default_rng(0).random((24, 32, 3), dtype=np.float32)
    with Live(seconds=0, edge=16) as live:
        fastnst.stylize(picture, picture, callback=live, **SMALL)
    images = [each for each in displayed.calls if isinstance(each, Image.Image)]
    assert len(images) >= 3
    assert {image.size for image in images} == {(16, 12)}


def test_a_live_view_needs_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(OptionError, match="a live view needs a notebook with IPython; use Preview"):
        Live()

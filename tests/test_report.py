"""The tables of the kernels in the documents are what the results say."""

import json
from pathlib import Path
from typing import Any

import pytest
from fastnst_kernels.verify.everything import STYLE_LAYERS

from bench import report
from bench.page_tables import replaced

GPU = {"name": "Some GPU", "driver_version": "999.1", "clocks.current.sm": "1980 MHz", "clocks.max.sm": "1980 MHz"}


def measurement(layer: str, operation: str, form: str, seconds: float | None) -> dict[str, Any]:
    return {
        "layer": layer,
        "operation": operation,
        "implementation": form,
        "precision": "bf16",
        "work": {"bytes": 3_000_000, "flops": 200_000_000},
        "least_seconds": 1e-6,
        "timing": None if seconds is None else {"median": seconds},
        "extra_bytes": 1_500_000 if form == "fastnst" else 90_000_000,
        "features": 10_000_000,
    }


def profile(*, on_gpu: bool, compiled: bool = True) -> dict[str, Any]:
    times = {"fastnst": 2e-6, "eager": 8e-6, "compile": 4e-6 if compiled else None}
    return {
        "date": "2026-01-02T03:04:05+00:00",
        "commit": "0123456789ab",
        "device": "Some GPU" if on_gpu else "Some CPU",
        "machine": {"cpu": "Some CPU", "threads": 4},
        "gpu": [GPU] if on_gpu else [],
        "versions": {"torch": "2.13.0", "triton": "3.9.0"},
        "size": 1024,
        "compile_mode": "max-autotune" if compiled else None,
        "ceilings": {"bf16": {"gigabytes_per_second": 3000.0, "teraflops_per_second": 800.0}},
        "measurements": [
            measurement(layer, operation, form, seconds)
            for layer in STYLE_LAYERS
            for operation in ("forward", "loss", "backward")
            for form, seconds in times.items()
        ],
        "steps": [
            {**measurement("image", "adam_step", form, seconds), "gigabytes_per_second": 1500.0}
            for form, seconds in (("fastnst", 2e-6), ("eager", 8e-6))
        ],
    }


@pytest.fixture
def profiles(tmp_path: Path) -> Path:
    for name, content in (
        ("profile_cpu.json", profile(on_gpu=False, compiled=False)),
        ("gpu/profile_1024.json", profile(on_gpu=True)),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    return tmp_path


def test_without_a_gpu_it_says_so(profiles: Path) -> None:
    (profiles / "gpu" / "profile_1024.json").unlink()
    text = report.block(report.sections(profiles))
    assert "**No GPU figure exists yet**" in text
    assert "CPU: Some CPU, 4 threads, bf16, 1024 px" in text
    assert "| conv1_1 | 2.0 µs | 50% | 2.0 µs | 50% | 4.00 | - | 1.5 MB / 90.0 MB |" in text
    assert "| adam_step | image | 2.0 µs | 1500 | 50% | 4.00 | 1.5 MB / 90.0 MB |" in text


def test_figures_of_a_gpu_come_first(profiles: Path, tmp_path: Path) -> None:
    listed = report.sections(profiles)
    text = report.block(listed)
    assert "No GPU figure" not in text
    assert text.index("GPU: Some GPU, driver 999.1, 1980 MHz of 1980 MHz") < text.index("CPU: Some CPU")
    assert "torch.compile in mode max-autotune, commit `0123456789ab`, 2026-01-02" in text
    assert "| all | 10.0 µs | 50% | 10.0 µs | 50% | 4.00 | 2.00 | 1.5 MB (3.0% of the features) / 90.0 MB" in text
    assert [panel.title for panel in report.panels(listed)] == ["GPU: Some GPU, bf16, 1024 px"]
    pytest.importorskip("matplotlib")
    report.draw(report.panels(listed), tmp_path / "roofline.png", "a note")
    assert (tmp_path / "roofline.png").read_bytes().startswith(b"\x89PNG")


def test_a_page_without_marks_is_not_written() -> None:
    with pytest.raises(ValueError, match="the page has no marks of the table 'kernels'"):
        replaced("nothing\n", {"kernels": "a table"}, report.MODULE)

"""The tables of the kernels in the documents are what the results say."""

import json
from pathlib import Path
from typing import Any

import pytest
from fastnst_kernels.verify.everything import STYLE_LAYERS

from bench import report

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
def root(tmp_path: Path) -> Path:
    (tmp_path / "bench" / "results").mkdir(parents=True)
    (tmp_path / "docs").mkdir()
    begin, end = "<!-- kernels: begin (python -m bench.report --write) -->", "<!-- kernels: end -->"
    (tmp_path / "docs" / "figures.md").write_text(f"before\n\n{begin}\nold\n{end}\n\nafter\n", encoding="utf-8")
    return tmp_path


def put(root: Path, name: str, content: Any) -> None:
    path = root / "bench" / "results" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def test_without_a_gpu_it_says_so(root: Path) -> None:
    pytest.importorskip("matplotlib")
    put(root, "profile_cpu.json", profile(on_gpu=False, compiled=False))
    assert report.main(["--check", "--root", str(root)]) == 1
    assert report.main(["--write", "--root", str(root)]) == 0
    text = (root / "docs" / "figures.md").read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "old" not in text
    assert "**No GPU figure exists yet**" in text
    assert "CPU: Some CPU, 4 threads, bf16, 1024 px" in text
    assert "| conv1_1 | 2.0 µs | 50% | 2.0 µs | 50% | 4.00 | - | 1.5 MB / 90.0 MB |" in text
    assert "| adam_step | image | 2.0 µs | 1500 | 50% | 4.00 | 1.5 MB / 90.0 MB |" in text
    assert (root / "bench" / "results" / "roofline.png").read_bytes().startswith(b"\x89PNG")
    assert report.main(["--check", "--root", str(root)]) == 0


def test_figures_of_a_gpu_come_first(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(root, "profile_cpu.json", profile(on_gpu=False))
    put(root, "gpu/profile_1024.json", profile(on_gpu=True))
    assert report.main(["--root", str(root)]) == 0
    printed = capsys.readouterr().out
    assert "No GPU figure" not in printed
    assert printed.index("GPU: Some GPU, driver 999.1, 1980 MHz of 1980 MHz") < printed.index("CPU: Some CPU")
    assert "torch.compile in mode max-autotune, commit `0123456789ab`, 2026-01-02" in printed
    assert "| all | 10.0 µs | 50% | 10.0 µs | 50% | 4.00 | 2.00 | 1.5 MB (3.0% of the features) / 90.0 MB" in printed
    found = report.sections(root / "bench" / "results")
    assert [panel.title for panel in report.panels(found)] == ["GPU: Some GPU, bf16, 1024 px"]


def test_the_page_says_what_the_results_do(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report.main(["--check"]) == 0
    capsys.readouterr()
    assert report.main(["--root", str(root)]) == 0
    printed = capsys.readouterr().out
    assert "**No GPU figure exists yet**" in printed
    assert "No profile exists yet." in printed
    (root / "docs" / "figures.md").write_text("nothing\n")
    with pytest.raises(SystemExit, match=r"docs/figures\.md: the page has no marks of the table 'kernels'"):
        report.main(["--check", "--root", str(root)])
    for content in ("{", "[]", "{}", '{"measurements": []}', '{"measurements": [{}]}'):
        put(root, "profile_broken.json", content)
        with pytest.raises(SystemExit, match=r"profile_broken\.json is not what fastnst profile --json prints"):
            report.main(["--root", str(root)])

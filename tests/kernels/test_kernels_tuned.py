"""Launch parameters from a file: what is taken, and what is refused in one sentence."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastnst_kernels import tuned
from fastnst_kernels.blocks import Problem
from fastnst_kernels.config import backward_config, partial_config
from fastnst_kernels.gpu import TARGETS, Gpu
from fastnst_kernels.heuristic import backward_heuristic, partial_heuristic

H100 = TARGETS["sm_90"]
PARTIAL = {"block_c": 64, "block_m": 32, "splits": 7, "num_warps": 8, "num_stages": 2}
BACKWARD = {"block_c": 64, "block_m": 32, "block_k": 32, "num_warps": 8, "num_stages": 2}
CONV4_1 = (512, 4096, 1, 2, True, True)


def entry(kernel: str, config: dict[str, int]) -> dict[str, Any]:
    return {
        "kernel": kernel,
        "mode": "16-bit",
        "aligned": True,
        "channels": 512,
        "positions": 4096,
        "batch": 1,
        "config": dict(config),
        "seconds": 1e-5,
        "heuristic_seconds": 2e-5,
    }


def document(gpu: Gpu = H100) -> dict[str, Any]:
    return {
        "format": tuned.FORMAT,
        "arch": gpu.name,
        "device": gpu.device,
        "date": "2026-01-01T00:00:00+00:00",
        "commit": "unknown",
        "versions": {"torch": "2.13.0"},
        "entries": [entry("partial", PARTIAL), entry("backward", BACKWARD)],
    }


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Path]:
    """Writes a file and has it used."""

    def written(content: Any) -> Path:
        path = tmp_path / f"tuned{len(list(tmp_path.iterdir()))}.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        monkeypatch.setenv(tuned.VARIABLE, str(path))
        return path

    return written


def test_an_override_is_used_in_its_class_and_nowhere_else(write: Callable[[Any], Path]) -> None:
    write(document())
    found = partial_config(*CONV4_1, H100)
    assert (found.block_c, found.block_m, found.splits, found.num_warps, found.num_stages) == (64, 32, 7, 8, 2)
    assert found.split_length * found.splits >= 4096
    assert partial_config(512, 3000, 1, 2, True, True, H100).num_warps == 8
    assert backward_config(*CONV4_1, H100).block_m == 32
    for other in (
        (512, 16384, 1, 2, True, True),
        (256, 4096, 1, 2, True, True),
        (512, 4096, 2, 2, True, True),
        (512, 4096, 1, 4, True, True),
        (512, 4096, 1, 2, True, False),
    ):
        assert partial_config(*other, H100) == partial_heuristic(Problem(*other), H100)
        assert backward_config(*other, H100) == backward_heuristic(Problem(*other), H100)
    ampere = TARGETS["sm_80"]
    assert partial_config(*CONV4_1, ampere) == partial_heuristic(Problem(*CONV4_1), ampere)


def test_a_split_never_sums_longer_than_tensor_cores_may(write: Callable[[Any], Path]) -> None:
    content = document()
    content["entries"] = [{**entry("partial", {**PARTIAL, "splits": 1}), "positions": 1 << 20}]
    write(content)
    found = partial_config(512, 1 << 20, 1, 2, True, True, H100)
    assert (found.split_length, found.splits) == (4096, 256)


def test_a_file_in_the_package_is_found_by_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(tuned.VARIABLE, raising=False)
    monkeypatch.setattr(tuned, "FOLDER", tmp_path)
    gpu = Gpu("sm_90", "cuda", 90, 32, 232_448, 132, "Some GPU 80GB (X)")
    assert tuned.path_of(gpu.device).name == "some_gpu_80gb_x.json"
    tuned.path_of(gpu.device).write_text(json.dumps(document(gpu)))
    assert partial_config(*CONV4_1, gpu).splits == 7
    monkeypatch.setenv(tuned.VARIABLE, "off")
    assert partial_config(*CONV4_1, gpu) == partial_heuristic(Problem(*CONV4_1), gpu)


def test_no_file_is_shipped_for_a_device_without_measurements() -> None:
    for path in tuned.FOLDER.glob("*.json"):
        arch = json.loads(path.read_text())["arch"]
        assert tuned.load(path, TARGETS[arch]).entries


def changed(**fields: Any) -> dict[str, Any]:
    content = document()
    content["entries"][0].update(fields)
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ([], "is list; give an object with format, arch"),
        ({**document(), "colour": 1}, "key 'colour' is unknown; use format, arch"),
        ({**document(), "format": 2}, "format 2 is not 1; write it with python -m bench.tune, or set FASTNST"),
        ({**document(), "entries": {}}, "entries is {}; give list"),
        ({k: v for k, v in document().items() if k != "commit"}, "lacks commit"),
        (changed(kernel="product"), "entry 0: kernel 'product' is unknown; use partial, backward"),
        (changed(mode="fp8"), "entry 0: mode 'fp8' is unknown; use 16-bit, tf32, ieee"),
        (changed(channels=True), "entry 0: channels is True; give int"),
        (changed(channels=0), "entry 0: channels 0 is not positive"),
        (changed(aligned=1), "entry 0: aligned is 1; give bool"),
        (changed(positions=4095), "entry 0: positions 4095 is not a power of two"),
        (changed(config={**PARTIAL, "block_m": 48}), "entry 0: block_m 48 is not a power of two"),
        (changed(config={**PARTIAL, "block_c": 16}), "entry 0: block_c 16 is too small for 512 channels"),
        (changed(config={**PARTIAL, "block_c": 8}), "entry 0: block_c 8 is out of range; give 16 to 256"),
        (changed(config={**PARTIAL, "block_m": 64.0}), "entry 0: config: block_m is 64.0; give int"),
        (changed(config={**PARTIAL, "block_k": 64}), "entry 0: config: key 'block_k' is unknown"),
        (changed(config={"block_c": 64}), "entry 0: config lacks block_m"),
        (
            changed(config={**PARTIAL, "block_c": 256, "block_m": 256, "num_stages": 4}),
            "entry 0: it needs 1048576 bytes of shared memory and sm_90 has 232448; lower num_stages",
        ),
        ({**document(), "entries": [entry("partial", PARTIAL)] * 2}, "entry 1 has the kernel and shape class of an"),
    ],
)
def test_what_is_wrong_is_named(content: Any, message: str, write: Callable[[Any], Path]) -> None:
    path = write(content)
    with pytest.raises(ValueError) as raised:  # noqa: PT011  (the message is compared below)
        partial_config(*CONV4_1, H100)
    assert str(raised.value).startswith(str(path))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(tuned.VARIABLE, str(tmp_path / "none.json"))
    with pytest.raises(ValueError, match=r"none\.json: No such file or directory; write it with"):
        partial_config(*CONV4_1, H100)

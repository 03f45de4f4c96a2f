"""The kernels compiled ahead of time for GPUs that are not here, and kernels that are wrong for some target."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")
if sys.platform != "linux":
    pytest.skip("triton compiles on Linux", allow_module_level=True)

from fastnst_kernels import direct
from fastnst_kernels.launch.launch import Launch, planned
from triton.runtime import driver

from bench import aot, gpu_cache
from bench.targets import TARGETS


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def product(target: str, dtype: torch.dtype = torch.float16) -> Launch:
    features = torch.empty((1, 64, 32, 32), dtype=dtype, device="meta").to(memory_format=torch.channels_last)
    with planned(TARGETS[target]) as launches:
        direct.gram("triton", features, "ieee")
    return launches[0]


def test_kernels_are_right_for_sm_90(capsys: pytest.CaptureFixture[str]) -> None:
    products = ["partial_gram", "products", "first_forward", "first_backward"]
    kernels = [*products, "algebra", "bias_relu", "adam"]
    words = ["--target", "sm_90", "--shapes", "conv4_1", "image", "--modes", "float16", "--kernel", *kernels, "--json"]
    assert aot.main(words) == 0
    records = json.loads(capsys.readouterr().out)["kernels"]
    assert {record["kernel"] for record in records} == set(kernels)
    assert all(record["registers"] > 0 and not record["spills"] for record in records)
    assert all("HGMMA" in record["matrix"] for record in records if record["kernel"] in products)


@pytest.mark.parametrize(("target", "unit"), [("sm_80", "HMMA"), ("sm_100", "UTCHMMA"), ("gfx942", "v_mfma")])
def test_a_product_is_on_the_matrix_unit(target: str, unit: str) -> None:
    built = aot.build(product(target), TARGETS[target], mode="float16", layout="channels_last", shape="conv1_1")
    assert unit in " ".join(built.matrix)
    assert built.problems == ()


def test_each_problem_is_named() -> None:
    gpu = replace(TARGETS["sm_86"], shared_limit=16)
    launch = replace(product("sm_86"), num_warps=1, num_stages=1)
    arguments = {**launch.arguments, "BLOCK_C": 128, "BLOCK_M": 64}
    built = aot.build(replace(launch, arguments=arguments), gpu, mode="float16", layout="nchw", shape="conv1_1")
    assert f"{built.spills} registers spilled" in built.problems
    assert f"{built.shared} bytes of shared memory, 16 allowed" in built.problems
    dot = "%d = tt.dot %a, %b, %c : tensor<64x32xf16> * tensor<32x64xf16> -> tensor<64x64xf32>"
    assert list(aot.verdict(dot, 0, 0, {}, TARGETS["sm_90"])) == ["a product of 64 rows in f16 without HGMMA"]
    assert list(aot.verdict(dot.replace("f16", "f32"), 0, 0, {}, TARGETS["sm_90"])) == []
    broken = replace(launch, arguments={**arguments, "BLOCK_C": 48})
    built = aot.build(broken, gpu, mode="float16", layout="nchw", shape="conv1_1")
    assert built.problems[0].startswith("does not compile: ")


def test_a_cache_for_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its kernels are found by the keys that the launch itself looks for, and another compiler is named."""
    folder = tmp_path / "sm_90"
    whole = gpu_cache.rehearsals
    monkeypatch.setattr(gpu_cache, "rehearsals", lambda sizes: [next(iter(whole(sizes)))])
    monkeypatch.setattr(driver, "_active", None)
    built = gpu_cache.build_cache(folder, "sm_90", [64])
    binaries = list(folder.glob("*/*.cubin"))
    assert len(binaries) == built > 12
    before = {path: path.stat().st_mtime_ns for path in binaries}
    assert gpu_cache.build_cache(folder, "sm_90", [64]) == built
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*/*.cubin")} == before
    assert gpu_cache.main(["--compare", str(folder)]) == 0
    (folder / "key.json").write_text((folder / "key.json").read_text().replace('"compiler": "', '"compiler": "other '))
    assert [line.partition(":")[0] for line in gpu_cache.differing(folder)] == ["compiler"]

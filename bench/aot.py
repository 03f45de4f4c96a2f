"""Every Triton kernel compiled for a GPU that need not be here, as its launcher would, and judged by its machine code.

python -m bench.aot --target sm_90 sm_80
python -m bench.aot --target sm_90 --shapes conv4_1 odd --modes float16 --json

A line for each binary: blocks, warps, stages, registers of a thread, spilled registers, shared memory and the matrix
instructions. The exit code is 1 if one does not compile, spills, needs more shared memory than a block may have, or
multiplies 16-bit matrices without the matrix unit of its target: HGMMA on sm_90, HMMA on sm_80 … sm_89 and sm_120,
tcgen05 (UTCHMMA) on sm_100, mfma and wmma on AMD.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import triton
from fastnst_kernels import direct
from fastnst_kernels.first import FirstLayer
from fastnst_kernels.launch.build import specialised
from fastnst_kernels.launch.gpu import Gpu
from fastnst_kernels.launch.launch import Launch, interpreted, planned
from fastnst_kernels.launch.layout import dense_channels_last, empty_bits, empty_map, in_layout
from fastnst_kernels.lbfgs import FusedLBFGS
from fastnst_kernels.losses.targets import ContentTerm, StyleTerm
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from bench.targets import TARGETS
from fastnst.optim import LBFGS_HISTORY
from fastnst.optim.bands import radial_places

# (B, C, H, W): style layers of VGG at 512 px, and shapes that no block divides.
SHAPES = {
    "conv1_1": (1, 64, 512, 512),
    "conv2_1": (1, 128, 256, 256),
    "conv4_1": (1, 512, 64, 64),
    "odd": (2, 65, 37, 53),
    "image": (1, 3, 512, 512),
    "odd_image": (1, 3, 511, 509),
}
MODES = {
    "float32": (torch.float32, "ieee"),
    "tf32": (torch.float32, "tf32"),
    "float16": (torch.float16, "ieee"),
    "bfloat16": (torch.bfloat16, "ieee"),
}
_MATRIX = re.compile(r"\b(?:[A-Z]*(?:HGMMA|HMMA|UTC[A-Z]*MMA|OMMA|QMMA)|v_(?:mfma|wmma|smfmac)_\w+)")
_PRODUCT = re.compile(r"= tt\.dot .*: tensor<(\d+)x\d+x(\w+)(?:, [^>]*)?> \* ")


@dataclass(frozen=True)
class Built:
    """One binary: registers are a thread's (vector registers on AMD), `shared` bytes a block's, `problems` in words."""

    target: str
    kernel: str
    mode: str
    layout: str
    shape: str
    blocks: str
    warps: int
    stages: int
    registers: int
    spills: int
    shared: int
    matrix: dict[str, int]
    problems: tuple[str, ...]


def launches(shape: str, mode: str, layout: str, gpu: Gpu) -> list[Launch]:
    """The launches of all kernels in each of their switches, on meta tensors of a shape, mode and layout."""
    dtype, precision = MODES[mode]
    last = layout == "channels_last"
    features = in_layout(torch.empty(SHAPES[shape], dtype=dtype, device="meta"), last)  # (B, C, H, W)
    with planned(gpu) as planned_launches:
        if features.shape[1] == 3:
            if precision != "tf32":
                _run_image(features)
            if last and mode != "float32":
                _run_first(features, precision)
        else:
            _run_losses(features, precision)
            if last and precision == "ieee":
                _run_relu(features)
    return planned_launches


def _run_losses(features: Tensor, precision: str) -> None:
    batch, channels, height, width = features.shape
    sums = torch.empty((batch, channels, channels), device="meta")
    difference = torch.empty((batch, channels, channels), dtype=features.dtype, device="meta")
    ones = torch.empty((batch,), device="meta")
    top, left = min(16, (height - 1) // 2), min(16, (width - 1) // 2)
    inner = features[:, :, top : height - top, left : width - left]
    owned = (top, left, height - 2 * top, width - 2 * left)
    style = StyleTerm(difference, ones, ones, 1.0)
    content, part = ContentTerm(features, ones, 1.0), ContentTerm(inner, ones, 1.0)
    if features.stride(1) == 1:
        direct.bias_relu_gram("triton", features, ones, torch.empty_like(features), precision)
    target: dict[str, Any] = {"target": sums[:1], "weight": 1.0, "offset": ones, "offset_weight": 1.0}
    direct.gram_difference_loss("triton", features, **target, precision=precision)
    direct.gram("triton", features, precision)
    direct.accumulate_gram("triton", sums, inner, precision)
    direct.finish_gram_loss("triton", sums, height * width, **{**target, "offset": None}, dtype=features.dtype)
    for tile in (features, inner):
        direct.content_loss("triton", tile, tile, 1.0)
    terms: Sequence[dict[str, Any]] = (
        {"style": style},
        {"style": style, "upstream": features, "relu": True},
        {"style": style, "content": content, "upstream": features, "relu": True},
        {"style": style, "content": part, "upstream": features, "relu": True, "owned": owned},
        {"content": content},
        {"content": part, "upstream": features, "relu": True, "owned": owned},
    )
    for term in terms:
        gradient = torch.empty_like(features)
        direct.tap_backward("triton", gradient, features=features, **term, precision=precision)


def _run_relu(x: Tensor) -> None:
    bits, bias = empty_bits(x, True), torch.empty((x.shape[1],), dtype=x.dtype, device="meta")
    pooled = empty_map(x, True, size=(x.shape[2] // 2, x.shape[3] // 2))
    direct.relu_backward("triton", x, bits, None, x)
    direct.relu_backward("triton", pooled, bits, "avg", x)
    for shift, kept in ((bias, bits), (None, None)):
        direct.bias_relu("triton", x, shift, None, x, bits=kept)
        for pool in ("avg", "max"):
            direct.bias_relu("triton", x, shift, pool, pooled, bits=kept)


def _run_image(above: Tensor) -> None:
    ones, last = (1.0, 1.0, 1.0), dense_channels_last(above)
    best = torch.empty((), dtype=torch.bool, device="meta")
    for image_last, flip, kind in ((False, True, "squared"), (True, False, "absolute")):
        image = empty_map(above, image_last, dtype=torch.float32)
        direct.normalise("triton", image, ones, ones, flip, dtype=above.dtype, channels_last=last)
        direct.normalise_backward("triton", above, ones, flip, dtype=image.dtype, channels_last=image_last)
        terms: dict[str, Any] = {"tv_weight": 1.0, "tv_gradient": None, "kind": kind, "divisor": image[0, 0, 0]}
        direct.image_gradient("triton", image, above, ones, flip, **terms)
        direct.total_variation("triton", image, kind)
    direct.adam_step(
        "triton",
        image,
        gradient=image,
        first=image,
        second=image,
        step=torch.empty((), dtype=torch.int64, device="meta"),
        learning_rate=0.1,
        betas=(0.9, 0.99),
        epsilon=1e-8,
        limits=(0.0, 1.0),
        best=(image, best),
    )
    for places in (radial_places(*above.shape[2:])[0], None) if last else ():
        # Pairs in the dtype of the map.
        image = torch.empty((1, 3, *above.shape[2:]), device="meta")
        pairs: dict[str, Any] = {"history": LBFGS_HISTORY, "dtype": above.dtype, "places": places}
        FusedLBFGS(image, learning_rate=1.0, most=1.0, bounded=True, **pairs).step(image, image, (image, best))


def _run_first(x: Tensor, precision: str) -> None:
    """The first layer's kernels, which float32 in IEEE precision goes without."""
    batch, _, height, width = x.shape
    weight, bias = (torch.empty(size, dtype=x.dtype, device="meta") for size in ((64, 3, 3, 3), (64,)))
    y = empty_map(torch.empty((batch, 64, height, width), dtype=x.dtype, device="meta"), True)
    ones, matrix = (torch.empty(size, device="meta") for size in ((batch,), (batch, 64, 64)))
    style = StyleTerm(matrix.to(x.dtype), ones, ones, 1.0)
    switches: Sequence[tuple[str, bool, Tensor | None, StyleTerm | None, str]] = (
        ("zeros", True, y, style, "squared"),
        ("replicate", False, y, style, "absolute"),
        ("circular", True, y, None, "nine-point"),
        ("replicate", True, None, style, "squared"),
    )
    for padding, flip, above, term, kind in switches:
        layer = FirstLayer(in_layout(weight, True), bias, (1.0, 1.0, 1.0), (1.0, 1.0, 1.0), flip, padding)
        image = empty_map(x, not flip, dtype=torch.float32)
        direct.first_forward("triton", image, layer, y, term is not None, precision)
        # A divisor is what float16's loss scale asks for.
        last: dict[str, Any] = {"precision": precision, "divisor": ones[:1] if x.dtype == torch.float16 else None}
        direct.first_backward("triton", image, layer, above, term, tv_weight=1.0, kind=kind, **last)


def build_all(target: str, shapes: Sequence[str], modes: Sequence[str], kernels: Sequence[str]) -> Iterator[Built]:
    """Each distinct binary for `target`, of the named `kernels` alone if there are any, as it is built.

    Raises RuntimeError where TRITON_INTERPRET keeps triton from compiling.
    """
    if interpreted():
        raise RuntimeError("TRITON_INTERPRET is set, and interpreted kernels cannot be compiled; unset it")
    gpu, sources = TARGETS[target], set()
    for shape in shapes:
        for mode in modes:
            for layout in ("channels_last", "nchw"):
                if mode == "tf32" and not gpu.tf32:
                    continue
                for launch in launches(shape, mode, layout, gpu):
                    name = launch.kernel.__name__.removesuffix("_kernel")
                    source = ASTSource(launch.kernel, *specialised(launch, gpu))
                    key = (source.hash(), *launch.options.values())
                    if key not in sources and (not kernels or name in kernels):
                        sources.add(key)
                        yield build(launch, gpu, mode=mode, layout=layout, shape=shape)


def build(launch: Launch, gpu: Gpu, **names: str) -> Built:
    """One binary; `names` are the mode, the layout and the shape that it is for."""
    registers = spills = shared = 0
    matrix: dict[str, int] = {}
    try:
        source = ASTSource(launch.kernel, *specialised(launch, gpu))
        target = GPUTarget(gpu.backend, gpu.arch, gpu.warp_size)
        binary = triton.compile(source, target=target, options=launch.options)
    except Exception as error:  # noqa: BLE001  (the compiler's passes raise what they like)
        reason = (str(error).strip().splitlines() or [""])[0]
        problems = [f"does not compile: {type(error).__name__}: {reason}"]
    else:
        registers, spills, matrix = read_code(binary, gpu)
        shared = binary.metadata.shared
        problems = list(verdict(binary.asm["ttir"], spills, shared, matrix, gpu))
    sizes = [str(value) for key, value in launch.arguments.items() if "BLOCK" in key or key == "TILE"]
    return Built(
        target=gpu.name,
        kernel=launch.kernel.__name__.removesuffix("_kernel"),
        **names,
        blocks="×".join(sizes),
        warps=launch.num_warps,
        stages=launch.num_stages,
        registers=registers,
        spills=spills,
        shared=shared,
        matrix=matrix,
        problems=tuple(problems),
    )


def read_code(binary: Any, gpu: Gpu) -> tuple[int, int, dict[str, int]]:
    """Registers of a thread, spilled ones, and the matrix instructions of a binary; NVIDIA's is read with the cuobjdump
    and nvdisasm that triton ships."""
    if gpu.backend == "hip":
        code = binary.asm["amdgcn"]
        registers, spills = (int(re.findall(rf"\.vgpr_{kind}:\s*(\d+)", code)[0]) for kind in ("count", "spill_count"))
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "kernel.cubin"
            path.write_bytes(binary.asm["cubin"])
            usage = _output(triton.knobs.nvidia.cuobjdump.path, "-res-usage", str(path))
            code = _output(triton.knobs.nvidia.nvdisasm.path, "-c", str(path))
        registers, spills = int(re.findall(r"REG:(\d+)", usage)[-1]), len(re.findall(r"\bSTL\b", code))
    return registers, spills, dict(sorted(Counter(_MATRIX.findall(code)).items()))


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def verdict(ttir: str, spills: int, shared: int, matrix: dict[str, int], gpu: Gpu) -> Iterator[str]:
    """The reasons why a kernel is wrong for its GPU, by its intermediate code and its machine code."""
    if spills:
        yield f"{spills} registers spilled"
    if shared > gpu.shared_limit:
        yield f"{shared} bytes of shared memory, {gpu.shared_limit} allowed"
    for rows, dtype in set(_PRODUCT.findall(ttir)):
        # The instructions of a warp group, and of tensor memory, take 64 rows or more.
        wide = {"sm_90": "HGMMA", "sm_100": "UTCHMMA"}.get(gpu.name, "HMMA") if int(rows) >= 64 else "MMA"
        unit = {("hip", 64): "v_mfma", ("hip", 32): "v_wmma"}.get((gpu.backend, gpu.warp_size), wide)
        if dtype in ("f16", "bf16") and unit not in " ".join(matrix):
            yield f"a product of {rows} rows in {dtype} without {unit}"


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.aot", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--target", nargs="+", required=True, choices=list(TARGETS), metavar="TARGET")
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=list(SHAPES), metavar="SHAPE")
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=list(MODES), metavar="MODE")
    parser.add_argument("--kernel", nargs="+", default=[], metavar="NAME", help="these alone, as partial_gram")
    parser.add_argument("--json", action="store_true", help="print the builds as one JSON object")
    parsed = parser.parse_args(words)
    records = []
    with tempfile.TemporaryDirectory() as cache:
        os.environ.setdefault("TRITON_CACHE_DIR", cache)
        for target in parsed.target:
            for record in build_all(target, parsed.shapes, parsed.modes, parsed.kernel):
                records.append(record)
                if not parsed.json:
                    print(_line(record), flush=True)
    wrong = sum(bool(record.problems) for record in records)
    if parsed.json:
        print(json.dumps({"triton": version("triton"), "kernels": [asdict(record) for record in records]}))
    else:
        print(f"{len(records) - wrong} of {len(records)} right; triton {version('triton')}")
    return 1 if wrong or not records else 0


def _line(record: Built) -> str:
    matrix = ", ".join(f"{name} {count}" for name, count in record.matrix.items()) or "-"
    line = (
        f"{record.target:8}{record.kernel:19}{record.mode:9}{record.layout:14}{record.shape:10}{record.blocks:>11} "
        f"{record.warps} warps {record.stages} stages {record.registers:4} registers {record.spills:3} spills "
        f"{record.shared:7} B shared  {matrix}"
    )
    return "\n".join([line, *(f"    FAIL: {problem}" for problem in record.problems)])


if __name__ == "__main__":
    sys.exit(main())

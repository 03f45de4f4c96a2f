"""Compile every kernel for a named GPU, on a machine without one, as its launcher would.

    python -m fastnst_kernels.aot --target sm_90 [--shapes conv1_1 …] [--modes float16 …] [--json]

prints, for each kernel × dtype × layout × shape class, what the compiler made of it: registers, spills, shared memory
and the matrix instructions in the machine code. The exit code is 1 if a kernel spills or needs more than there is.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fastnst_kernels import triton_gram, triton_tap
from fastnst_kernels.gpu import TARGETS, Gpu
from fastnst_kernels.launch import Launch, interpreted

# (batch, channels, height, width): the five style layers of VGG at 512 px, and what does not divide by a block.
SHAPES: Mapping[str, tuple[int, int, int, int]] = MappingProxyType(
    {
        "conv1_1": (1, 64, 512, 512),
        "conv2_1": (1, 128, 256, 256),
        "conv3_1": (1, 256, 128, 128),
        "conv4_1": (1, 512, 64, 64),
        "conv5_1": (1, 512, 32, 32),
        "odd": (2, 65, 37, 53),
        "image": (1, 3, 512, 512),
        "wide": (1, 1024, 64, 64),
        "batch": (8, 256, 128, 128),
    }
)
MODES: Mapping[str, tuple[torch.dtype, str]] = MappingProxyType(
    {
        "float32": (torch.float32, "ieee"),
        "tf32": (torch.float32, "tf32"),
        "float16": (torch.float16, "ieee"),
        "bfloat16": (torch.bfloat16, "ieee"),
    }
)
LAYOUTS = ("nchw", "channels_last")

_MATRIX_INSTRUCTION = re.compile(r"\b(?:[A-Z]*(?:HGMMA|HMMA|UTC[A-Z]*MMA|OMMA|QMMA)|v_(?:mfma|wmma|smfmac)_\w+)")
_LOCAL_STORE = re.compile(r"\bSTL\b")


@dataclass(frozen=True)
class Compiled:
    """What the compiler made of one kernel.

    `mode` is the features' dtype, or "tf32" for float32 in that precision; `layout` is empty where the kernel reads no
    features. `registers` are for one thread (vector registers on AMD). `spills` counts the instructions that store a
    register to local memory (spilled vector registers on AMD). `shared` and `shared_limit` are bytes.
    `matrix_instructions` maps each mnemonic to how often it stands in the code; float32 in IEEE precision has none on
    NVIDIA.
    """

    target: str
    kernel: str
    mode: str
    layout: str
    shape: str
    config: Mapping[str, int | bool | str]
    registers: int
    spills: int
    shared: int
    shared_limit: int
    matrix_instructions: Mapping[str, int]

    @property
    def ok(self) -> bool:
        """Whether it runs on its target as it should: no spills, and no more shared memory than there is."""
        return self.spills == 0 and self.shared <= self.shared_limit


def compile_all(
    target: str, *, shapes: Sequence[str] = tuple(SHAPES), modes: Sequence[str] = tuple(MODES)
) -> Iterator[Compiled]:
    """Compile each distinct kernel for `target`, a key of `TARGETS`, at `shapes` of `SHAPES` in `modes` of `MODES`.

    Raises ValueError for an unknown target, RuntimeError where TRITON_INTERPRET keeps triton from compiling.
    """
    if target not in TARGETS:
        raise ValueError(f"target {target!r} is unknown; choose one of {', '.join(TARGETS)}")
    if interpreted():
        raise RuntimeError("TRITON_INTERPRET is set, and interpreted kernels cannot be compiled; unset it")
    gpu = TARGETS[target]
    seen = set()
    for shape in shapes:
        for mode in modes:
            dtype, precision = MODES[mode]
            if precision == "tf32" and not gpu.tf32:
                continue
            for layout in LAYOUTS:
                features = torch.empty(SHAPES[shape], dtype=dtype, device="meta")
                if layout == "channels_last":
                    features = features.to(memory_format=torch.channels_last)
                for launch in launches(features, precision, gpu):
                    source = _source(launch)
                    key = (source.hash(), *launch.options.values())
                    if key in seen:
                        continue
                    seen.add(key)
                    reads_features = "features" in launch.arguments
                    yield _compiled(
                        launch,
                        source,
                        gpu,
                        mode=mode if reads_features else "float32",
                        layout=layout if reads_features else "",
                        shape=shape,
                    )


def launches(features: Tensor, precision: str, gpu: Gpu) -> list[Launch]:
    """The launches of all operations, forward and backward, on features (B, C, H, W), which may be meta tensors."""
    channels = features.shape[1]
    target = torch.empty((1, channels, channels), device=features.device)
    forward = triton_gram.plan_difference_loss(features, target, 1.0, precision, gpu)
    loss, difference, scale = forward.outputs
    plain = triton_gram.plan_gram(features, precision, gpu)
    tapped = triton_tap.plan_tap_backward(features, difference, scale, loss, 1.0, features, precision, gpu)
    alone = triton_tap.plan_tap_backward(features, difference, scale, loss, 1.0, None, precision, gpu)
    return [*forward.launches, *plain.launches, *tapped.launches, *alone.launches]


def _source(launch: Launch) -> Any:
    """The kernel with its arguments specialised as at a launch: ones are constants, multiples of 16 are known."""
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[tuple[int], list[list[Any]]] = {}
    for position, parameter in enumerate(launch.kernel.params):
        name = parameter.name
        if name in launch.constants:
            signature[name] = "constexpr"
            constants[name] = launch.constants[name]
            continue
        value = launch.arguments[name]
        aligned = False
        if isinstance(value, Tensor):
            signature[name] = f"*{_TYPES[value.dtype]}"
            aligned = value.storage_offset() * value.element_size() % 16 == 0
        elif isinstance(value, float):
            signature[name] = "fp32"
        elif value == 1 and not parameter.do_not_specialize:
            signature[name] = "constexpr"
            constants[name] = 1
        else:
            signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            aligned = value % 16 == 0 and not parameter.do_not_specialize
        if aligned:
            attributes[(position,)] = [["tt.divisibility", 16]]
    return ASTSource(launch.kernel, signature, constants, attributes)


_TYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


def _compiled(launch: Launch, source: Any, gpu: Gpu, *, mode: str, layout: str, shape: str) -> Compiled:
    binary = triton.compile(source, target=GPUTarget(gpu.backend, gpu.arch, gpu.warp_size), options=launch.options)
    if gpu.backend == "hip":
        code = binary.asm["amdgcn"]
        registers, spills = _amd_number(code, "vgpr_count"), _amd_number(code, "vgpr_spill_count")
    else:
        usage, code = _disassembled(binary.asm["cubin"])
        registers = int(re.findall(r"REG:(\d+)", usage)[-1])
        spills = len(_LOCAL_STORE.findall(code))
    return Compiled(
        target=gpu.name,
        kernel=launch.kernel.__name__.removesuffix("_kernel"),
        mode=mode,
        layout=layout,
        shape=shape,
        config={**launch.constants, **launch.options},
        registers=registers,
        spills=spills,
        shared=binary.metadata.shared,
        shared_limit=gpu.shared_limit,
        matrix_instructions=dict(Counter(_MATRIX_INSTRUCTION.findall(code))),
    )


def _amd_number(code: str, name: str) -> int:
    return int(re.findall(rf"\.{name}:\s*(\d+)", code)[0])


def _disassembled(cubin: bytes) -> tuple[str, str]:
    """Resource usage and machine code of a cubin, as text, by the cuobjdump that triton ships."""
    tool = triton.knobs.nvidia.cuobjdump.path
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        usage, code = (
            subprocess.run([tool, option, path], check=True, capture_output=True, text=True).stdout
            for option in ("-res-usage", "-sass")
        )
    return usage, code


def _row(record: Compiled) -> str:
    blocks = "×".join(str(record.config[key]) for key in ("BLOCK_C", "BLOCK_M", "BLOCK_K") if key in record.config)
    matrix = ", ".join(f"{name} {count}" for name, count in record.matrix_instructions.items()) or "-"
    return (
        f"{record.kernel:<13} {record.mode:<9} {record.layout:<14} {record.shape:<8} {blocks:<11} "
        f"{record.config['num_warps']:>5} {record.config['num_stages']:>6} {record.registers:>9} {record.spills:>6} "
        f"{record.shared:>7}/{record.shared_limit:<7} {'ok  ' if record.ok else 'FAIL'} {matrix}"
    )


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m fastnst_kernels.aot", description=__doc__.splitlines()[0])
    parser.add_argument("--target", required=True, choices=sorted(TARGETS))
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES))
    parser.add_argument("--json", action="store_true", help="one JSON array instead of the table")
    options = parser.parse_args(arguments)
    records = []
    if not options.json:
        print(
            f"{'kernel':<13} {'mode':<9} {'layout':<14} {'shape':<8} {'blocks':<11} warps stages registers spills "
            f"{'shared/limit':>15}      matrix instructions"
        )
    for record in compile_all(options.target, shapes=options.shapes, modes=options.modes):
        records.append(record)
        if not options.json:
            print(_row(record), flush=True)
    if options.json:
        print(json.dumps([{**asdict(record), "ok": record.ok} for record in records], indent=1))
    return 0 if all(record.ok for record in records) else 1


if __name__ == "__main__":
    sys.exit(main())

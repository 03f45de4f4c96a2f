"""Every kernel compiled for a named GPU, on a machine without one, as its launcher would, and judged by its code.

A kernel is right for its target if it
- spills no register and fits the shared memory;
- multiplies 16-bit matrices on the matrix unit that the target has for them: HGMMA on sm_90 and UTCHMMA on sm_100
  (tiles of 64 rows and more, which those need), HMMA on other NVIDIA targets, mfma and wmma on AMD;
- reads and writes features 16 bytes at a time where their rows are aligned to 16 bytes. Features are the arguments of
  four axes in a floating dtype; an access to at most a quarter of the elements of the largest one through the same
  argument (a tile's border) is exempt. On AMD, triton stores a product's result as it lies in the matrix unit's
  registers, to save the way through shared memory: there four elements (mfma) or one (wmma) are enough.
  NVIDIA's TF32 instructions take operands along the summed axis only: the other layout is transposed on its way, by
  asynchronous copies (LDGSTS) of single elements, and these are exempt too.
"""

import importlib
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fastnst_kernels.disassembly import (
    Code,
    Instruction,
    Product,
    Site,
    accesses_by_argument,
    products,
    read_amdgcn,
    read_cubin,
    sites,
)
from fastnst_kernels.gpu import TARGETS, Gpu
from fastnst_kernels.launch import Launch, aligned, interpreted
from fastnst_kernels.layout import channels_last, position_stride
from fastnst_kernels.occupancy import LIMITS, Occupancy, occupancy

# Each exposes example_launches(features, precision, gpu): the launches of its kernels in each of their switches.
MODULES = (
    "triton_gram",
    "triton_tap",
    "triton_content",
    "triton_relu",
    "triton_relu_pool",
    "triton_image",
    "triton_adam",
)

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
        "odd_image": (1, 3, 511, 509),
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
LAYOUTS = ("channels_last", "nchw")

_TYPES = {
    torch.float64: "fp64",
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int16: "i16",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.bool: "i1",
}


@dataclass(frozen=True)
class Width:
    """Bytes that a thread loads, or stores, at once through one argument, at least and at most, and by what.

    `aligned` says whether the rows of the argument's tensor start at multiples of 16 bytes.
    """

    argument: str
    store: bool
    aligned: bool
    narrowest: int
    widest: int
    instructions: tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """One binary to build: launch number `index` of `module` on features of `shape`, `mode` and `layout`.

    `mode` is the features' dtype, or "tf32" for float32 in that precision. Where several modes, layouts and shapes need
    the same binary, they are the first of them.
    """

    target: str
    module: str
    index: int
    kernel: str
    mode: str
    layout: str
    shape: str


@dataclass(frozen=True)
class Compiled:
    """What the compiler made of one kernel.

    `registers` are for one thread (vector registers on AMD). `spills` counts the instructions
    that store a register to local memory (spilled vector registers on AMD). `shared` and `shared_limit` are bytes.
    `matrix_instructions` maps each mnemonic to how often it stands in the code; float32 in IEEE precision has none on
    NVIDIA. `features` are the widths of the accesses to features. `problems` says what is wrong with it, in words.
    """

    job: Job
    config: Mapping[str, int | bool | str]
    registers: int
    spills: int
    shared: int
    shared_limit: int
    occupancy: Occupancy | None
    matrix_instructions: Mapping[str, int]
    features: tuple[Width, ...]
    problems: tuple[str, ...]

    @property
    def switches(self) -> tuple[str, ...]:
        """The names of the kernel's switches that are on."""
        return tuple(name for name, value in self.config.items() if value is True)

    @property
    def ok(self) -> bool:
        """Whether it is right for its target."""
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        """All of it as one flat dictionary of what JSON knows."""
        record = asdict(self)
        job = record.pop("job")
        return {name: job[name] for name in ("target", "kernel", "mode", "layout", "shape")} | record | {"ok": self.ok}


def plan_jobs(targets: Sequence[str], cases: Sequence[tuple[str, str]], *, kernels: Sequence[str] = ()) -> list[Job]:
    """The distinct binaries for `targets` (of `TARGETS`) in `cases`, each a shape of `SHAPES` and a mode of `MODES`, in
    both layouts; of the named `kernels` alone if there are any.

    Raises ValueError for an unknown name, RuntimeError where TRITON_INTERPRET keeps triton from compiling.
    """
    for what, given, allowed in (
        ("target", targets, TARGETS),
        ("shape", [shape for shape, _ in cases], SHAPES),
        ("mode", [mode for _, mode in cases], MODES),
    ):
        for name in given:
            if name not in allowed:
                raise ValueError(f"{what} {name!r} is unknown; choose one of {', '.join(allowed)}")
    if interpreted():
        raise RuntimeError("TRITON_INTERPRET is set, and interpreted kernels cannot be compiled; unset it")
    jobs: list[Job] = []
    names: set[str] = set()
    for target in targets:
        seen = set()
        for shape, mode in cases:
            if mode == "tf32" and not TARGETS[target].tf32:
                continue
            for layout in LAYOUTS:
                for module in MODULES:
                    for index, launch in enumerate(_launches(target, module, shape, mode, layout)):
                        name = _name(launch)
                        names.add(name)
                        key = (_source(launch, TARGETS[target]).hash(), *launch.options.values())
                        if key not in seen and (not kernels or name in kernels):
                            seen.add(key)
                            jobs.append(Job(target, module, index, name, mode, layout, shape))
    for name in kernels:
        if name not in names:
            raise ValueError(f"kernel {name!r} is unknown; choose one of {', '.join(sorted(names))}")
    return jobs


def compile_all(jobs: Sequence[Job], processes: int) -> Iterator[Compiled]:
    """Builds `jobs` in so many processes at once; yields each as it is done, in no order.

    The cache is a temporary folder unless TRITON_CACHE_DIR is set. Raises RuntimeError if the compiler dies.
    """
    with ExitStack() as stack:
        cache_folder = os.environ.get("TRITON_CACHE_DIR") or stack.enter_context(tempfile.TemporaryDirectory())
        pool = stack.enter_context(
            ProcessPoolExecutor(
                max_workers=max(1, min(processes, len(jobs))),
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_set_up_process,
                initargs=(cache_folder,),
            )
        )
        stack.callback(pool.shutdown, wait=True, cancel_futures=True)
        futures = [pool.submit(compile_one, job) for job in jobs]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BrokenProcessPool:
            raise RuntimeError(
                "a compiling process died, perhaps for lack of memory; run fewer at once, or one kernel alone"
            ) from None


def in_order(records: Sequence[Compiled], jobs: Sequence[Job]) -> list[Compiled]:
    """The records in the order of the jobs that they come from."""
    places = {job: place for place, job in enumerate(jobs)}
    return sorted(records, key=lambda record: places[record.job])


def limits_of(target: str) -> dict[str, Any]:
    """The limits by which occupancy on `target` is computed, as numbers and in `words`."""
    limits = LIMITS[target]
    amd = TARGETS[target].backend == "hip"
    partition, warps = ("SIMD", "waves") if amd else ("partition", "warps")
    words = [
        f"{limits.partitions} {partition}s of {limits.registers} registers a thread in portions of "
        f"{limits.register_granule} and {limits.warps} {warps}",
        f"{limits.blocks} blocks",
        f"{limits.shared} bytes of shared memory in portions of {limits.shared_granule} "
        f"({TARGETS[target].shared_limit} for a block, {limits.shared_reserved} reserved in each)",
    ]
    if limits.tensor_columns:
        words.append(f"{limits.tensor_columns} columns of tensor memory")
    return {**asdict(limits), "shared_limit": TARGETS[target].shared_limit, "words": words}


def _set_up_process(cache_folder: str) -> None:
    # Ctrl-C is for the parent, which lets them end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TRITON_CACHE_DIR"] = cache_folder
    # The widths of the accesses are found by their source lines.
    os.environ["TRITON_DISABLE_LINE_INFO"] = "0"
    torch.set_num_threads(1)


def compile_one(job: Job) -> Compiled:
    """Builds one binary in this process."""
    gpu = TARGETS[job.target]
    launch = _launches(job.target, job.module, job.shape, job.mode, job.layout)[job.index]
    config = {**launch.constants, "num_warps": launch.num_warps, "num_stages": launch.num_stages}
    try:
        binary = triton.compile(
            _source(launch, gpu), target=GPUTarget(gpu.backend, gpu.arch, gpu.warp_size), options=launch.options
        )
    except Exception as error:  # noqa: BLE001  (the compiler's passes raise what they like)
        reason = (str(error).strip().splitlines() or [""])[0]
        problem = f"does not compile: {type(error).__name__}: {reason}"
        return Compiled(
            job,
            config,
            registers=0,
            spills=0,
            shared=0,
            shared_limit=gpu.shared_limit,
            occupancy=None,
            matrix_instructions={},
            features=(),
            problems=(problem,),
        )
    code = (
        read_amdgcn(binary.asm["amdgcn"])
        if gpu.backend == "hip"
        else read_cubin(binary.asm["cubin"], binary.asm["ptx"])
    )
    metadata = binary.metadata
    found = sites(binary.asm["ttir"])
    widths, narrow = _feature_widths(launch, found, code, job.mode, gpu)
    return Compiled(
        job,
        config,
        registers=code.registers,
        spills=code.spills,
        shared=metadata.shared,
        shared_limit=gpu.shared_limit,
        occupancy=occupancy(
            LIMITS[job.target],
            registers=code.registers,
            shared=metadata.shared,
            num_warps=metadata.num_warps,
            tensor_columns=getattr(metadata, "tmem_size", 0) or 0,
        ),
        matrix_instructions=code.matrix_instructions,
        features=widths,
        problems=(
            *_resource_problems(code, metadata.shared, gpu),
            *_matrix_problems(products(binary.asm["ttir"]), job.mode, code, gpu),
            *narrow,
        ),
    )


def _resource_problems(code: Code, shared: int, gpu: Gpu) -> Iterator[str]:
    if code.spills:
        yield f"{code.spills} registers spilled"
    if shared > gpu.shared_limit:
        yield f"{shared} bytes of shared memory, {gpu.shared_limit} allowed"


def _matrix_problems(found: Sequence[Product], mode: str, code: Code, gpu: Gpu) -> Iterator[str]:
    names = " ".join(code.matrix_instructions)
    for product in found:
        unit = _matrix_unit(product, mode, gpu)
        if mode != "float32" and unit not in names:
            yield f"a {product.rows}×{product.depth}×{product.columns} product in {mode} without {unit}"
            return


def _matrix_unit(product: Product, mode: str, gpu: Gpu) -> str:
    if gpu.backend == "hip":
        return "v_mfma" if gpu.warp_size == 64 else "v_wmma"
    # The instructions of a warp group, and of tensor memory, take at least 64 rows.
    if mode != "tf32" and product.rows >= 64:
        return {"sm_90": "HGMMA", "sm_100": "UTCHMMA"}.get(gpu.name, "HMMA")
    return "MMA"


def _feature_widths(
    launch: Launch, found: Sequence[Site], code: Code, mode: str, gpu: Gpu
) -> tuple[tuple[Width, ...], list[str]]:
    """The widths of the accesses to features, and what is wrong with them."""
    widths = []
    problems = []
    for (argument, store), accesses in accesses_by_argument(found, code).items():
        value = launch.arguments.get(argument)
        if not (isinstance(value, Tensor) and value.ndim == 4 and value.dtype.is_floating_point):
            continue
        instructions = [one for _, ones in accesses for one in ones]
        verb = "stored" if store else "loaded"
        if not instructions:
            problems.append(f"no instruction found by which {argument} is {verb}")
            continue
        rows_aligned = _rows_aligned(value, by_width="W" in launch.arguments)
        widths.append(
            Width(
                argument,
                store,
                rows_aligned,
                min(one.width for one in instructions),
                max(one.width for one in instructions),
                tuple(sorted({one.mnemonic for one in instructions})),
            )
        )
        if not rows_aligned:
            continue
        narrow = _narrow_sites(accesses, _least_width(value, store, code, gpu), transposed=mode == "tf32", gpu=gpu)
        if narrow:
            lines = ", ".join(str(line) for line in sorted({site.line[1] for site, _ in narrow}))
            problems.append(f"{argument} is {verb} {min(width for _, width in narrow)} bytes at a time in line {lines}")
    return tuple(widths), problems


def _narrow_sites(
    accesses: Sequence[tuple[Site, list[Instruction]]], least: int, *, transposed: bool, gpu: Gpu
) -> list[tuple[Site, int]]:
    """The sites, borders of tiles apart, whose instructions are narrower than `least` bytes, with their widths.

    Asynchronous copies may be as narrow as they are where they may be `transposed`.
    """
    largest = max(site.elements for site, _ in accesses)
    # On AMD a line does not tell an argument's borders from its bulk where one function reads both.
    mixed = gpu.backend == "hip" and any(4 * site.elements <= largest for site, _ in accesses)
    found = []
    for site, instructions in accesses:
        # Which instruction is whose cannot be told where another argument shares the line.
        pick = min if site.alone and not mixed and all(len(one.lines) == 1 for one in instructions) else max
        counted = [one for one in instructions if not (transposed and one.mnemonic.startswith("LDGSTS"))]
        width = pick((one.width for one in counted), default=16)
        if 4 * site.elements > largest and width < least:
            found.append((site, width))
    return found


def _least_width(value: Tensor, store: bool, code: Code, gpu: Gpu) -> int:
    if store and gpu.backend == "hip" and code.matrix_instructions:
        return min(16, value.element_size() * (4 if gpu.warp_size == 64 else 1))
    return 16


def _rows_aligned(value: Tensor, *, by_width: bool) -> bool:
    """Whether the rows are aligned that a kernel walks along: those of the matrix, or with `by_width` the picture's."""
    if position_stride(value) is None or not aligned(value):
        return False
    return not by_width or channels_last(value) or value.stride(2) * value.element_size() % 16 == 0


@cache
def _module(name: str) -> Any:
    return importlib.import_module(f"fastnst_kernels.{name}")


@cache
def _launches(target: str, module: str, shape: str, mode: str, layout: str) -> list[Launch]:
    dtype, precision = MODES[mode]
    features = torch.empty(SHAPES[shape], dtype=dtype, device="meta")
    if layout == "channels_last":
        features = features.to(memory_format=torch.channels_last)
    launches: list[Launch] = _module(module).example_launches(features, precision, TARGETS[target])
    return launches


def _name(launch: Launch) -> str:
    name: str = launch.kernel.__name__
    return name.removesuffix("_kernel")


def _source(launch: Launch, gpu: Gpu) -> Any:
    """The kernel with its arguments specialised as at a launch: ones are constants, multiples of 16 are known, and on
    AMD that a tensor spans less than 2 GiB."""
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
        known: list[list[Any]] = []
        if value is None:
            signature[name] = "constexpr"
            constants[name] = None
        elif isinstance(value, Tensor):
            signature[name] = f"*{_TYPES[value.dtype]}"
            if value.storage_offset() * value.element_size() % 16 == 0:
                known.append(["tt.divisibility", 16])
            if gpu.backend == "hip" and value.untyped_storage().nbytes() < 2**31:
                known.append(["tt.pointer_range", 32])
        elif isinstance(value, bool):
            signature[name] = "u1"
        elif isinstance(value, float):
            signature[name] = "fp32"
        elif value == 1 and not parameter.do_not_specialize:
            signature[name] = "constexpr"
            constants[name] = 1
        else:
            signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            if value % 16 == 0 and not parameter.do_not_specialize:
                known.append(["tt.divisibility", 16])
        if known:
            attributes[(position,)] = known
    return ASTSource(launch.kernel, signature, constants, attributes)

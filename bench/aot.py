"""Every kernel compiled for a named GPU, on a machine without one, as its launcher would, and judged by its code."""

import importlib
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

import torch
import triton
from fastnst_kernels.aot_source import source_of
from fastnst_kernels.aot_verdict import Width, feature_widths, matrix_problems, resource_problems
from fastnst_kernels.disassembly import products, read_amdgcn, read_cubin, sites
from fastnst_kernels.gpu import TARGETS
from fastnst_kernels.launch import Launch, interpreted
from fastnst_kernels.occupancy import LIMITS, Occupancy, occupancy
from triton.backends.compiler import GPUTarget

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
    _check_known("target", targets, TARGETS)
    _check_known("shape", [shape for shape, _ in cases], SHAPES)
    _check_known("mode", [mode for _, mode in cases], MODES)
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
                        key = (source_of(launch, TARGETS[target]).hash(), *launch.options.values())
                        if key not in seen and (not kernels or name in kernels):
                            seen.add(key)
                            jobs.append(Job(target, module, index, name, mode, layout, shape))
    _check_known("kernel", kernels, sorted(names))
    return jobs


def _check_known(what: str, given: Iterable[str], allowed: Collection[str]) -> None:
    for name in given:
        if name not in allowed:
            raise ValueError(f"{what} {name!r} is unknown; choose one of {', '.join(allowed)}")


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
            source_of(launch, gpu), target=GPUTarget(gpu.backend, gpu.arch, gpu.warp_size), options=launch.options
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
    widths, narrow = feature_widths(launch, found, code, job.mode, gpu)
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
            *resource_problems(code, metadata.shared, gpu),
            *matrix_problems(products(binary.asm["ttir"]), job.mode, code, gpu),
            *narrow,
        ),
    )


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

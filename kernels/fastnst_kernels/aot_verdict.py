"""Whether a kernel's machine code is right for its target.

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

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor

from fastnst_kernels.disassembly import Code, Instruction, Product, Site, accesses_by_argument
from fastnst_kernels.gpu import Gpu
from fastnst_kernels.launch import Launch, aligned
from fastnst_kernels.layout import channels_last, position_stride


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


def resource_problems(code: Code, shared: int, gpu: Gpu) -> Iterator[str]:
    """What spills, or exceeds the shared memory, of which it takes `shared` bytes."""
    if code.spills:
        yield f"{code.spills} registers spilled"
    if shared > gpu.shared_limit:
        yield f"{shared} bytes of shared memory, {gpu.shared_limit} allowed"


def matrix_problems(found: Sequence[Product], mode: str, code: Code, gpu: Gpu) -> Iterator[str]:
    """The first of the products that are `found` that is not on the matrix unit, in the `mode` of its operands."""
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


def feature_widths(
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

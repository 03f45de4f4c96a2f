"""Reading what the compiler made: registers, spills, matrix instructions, and the width of each global access.

Machine code does not say which tensor an instruction reads, but it carries the kernel's source lines. Triton's own
intermediate code says which argument's pointer each line dereferences; the two together give the width of the accesses
to each argument.
"""

import re
import subprocess
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import triton

# A source file's name and a line in it.
Line = tuple[str, int]

_MATRIX = re.compile(r"\b(?:[A-Z]*(?:HGMMA|HMMA|UTC[A-Z]*MMA|OMMA|QMMA)|v_(?:mfma|wmma|smfmac)_\w+)")
_LOCAL_STORE = re.compile(r"\bSTL\b")
_SASS_LINE = re.compile(r'//## File "([^"]+)", line (\d+)')
_SASS_ACCESS = re.compile(r"\b(LDG|LDGSTS|STG|UTMALDG|UTMASTG|UBLKCP)((?:\.\w+)*)\s")
_PTX_LINE = re.compile(r"^\s*\.loc\s.*?//\s*([^\s:]+):(\d+):")
_PTX_ACCESS = re.compile(r"\b(?:ld|st|cp)\.[\w.:]*\bglobal\b")
_AMD_LINE = re.compile(r"^\s*\.loc\s.*?;\s*([^\s:]+):(\d+):")
_AMD_ACCESS = re.compile(r"^\s*((?:global|buffer|flat)_(load|store)_(\w+))")
_AMD_WIDTHS = {"dword": 4, "dwordx2": 8, "dwordx3": 12, "dwordx4": 16, "b32": 4, "b64": 8, "b96": 12, "b128": 16}


@dataclass(frozen=True)
class Instruction:
    """One global load or store of the machine code: its mnemonic, bytes for a thread, and the source lines, of which
    it is one: none where the compiler lost them."""

    mnemonic: str
    store: bool
    width: int
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class Code:
    """A kernel's machine code, read. `registers` are for one thread (vector registers on AMD); `spills` counts the
    instructions that store a register to local memory (spilled vector registers on AMD)."""

    registers: int
    spills: int
    matrix_instructions: Mapping[str, int]
    accesses: tuple[Instruction, ...]


@dataclass(frozen=True)
class Site:
    """A line of the kernel that loads or stores through an argument's pointer: `elements` at once for a program.

    `alone` says that no other argument is accessed in that line.
    """

    argument: str
    store: bool
    elements: int
    line: Line
    alone: bool


@dataclass(frozen=True)
class Product:
    """A matrix product of the kernel: (rows, depth) × (depth, columns) of elements of `dtype`, in triton's names."""

    rows: int
    columns: int
    depth: int
    dtype: str


def read_cubin(cubin: bytes, ptx: str) -> Code:
    """Reads NVIDIA's machine code, made from `ptx`, with the cuobjdump and nvdisasm that triton ships."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        usage = _output(triton.knobs.nvidia.cuobjdump.path, "-res-usage", str(path))
        code = _output(triton.knobs.nvidia.nvdisasm.path, "-c", "-g", str(path))
    return Code(
        registers=int(re.findall(r"REG:(\d+)", usage)[-1]),
        spills=len(_LOCAL_STORE.findall(code)),
        matrix_instructions=_counted(code),
        accesses=tuple(_sass_accesses(code, true_lines(ptx))),
    )


def read_amdgcn(code: str) -> Code:
    """Reads AMD's assembly."""
    return Code(
        registers=int(re.findall(r"\.vgpr_count:\s*(\d+)", code)[0]),
        spills=int(re.findall(r"\.vgpr_spill_count:\s*(\d+)", code)[0]),
        matrix_instructions=_counted(code),
        accesses=tuple(_amd_accesses(code)),
    )


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _counted(code: str) -> dict[str, int]:
    return dict(sorted(Counter(_MATRIX.findall(code)).items()))


def true_lines(ptx: str) -> dict[Line, set[Line]]:
    """The lines from which memory is accessed, by the lines that the machine code has for them.

    Assembly of several lines inside the PTX counts its own lines on from the source line: an access in its fifth seems
    to come from four lines below.
    """
    found: dict[Line, set[Line]] = defaultdict(set)
    inside = False
    seen = true = None
    for text in ptx.splitlines():
        if "inline asm" in text:
            inside = "begin" in text
        elif place := _PTX_LINE.search(text):
            seen = (place[1], int(place[2]))
            true = true if inside else seen
        elif seen and true and _PTX_ACCESS.search(text):
            found[seen].add(true)
    return dict(found)


def _sass_accesses(code: str, true: Mapping[Line, set[Line]]) -> Iterator[Instruction]:
    lines: tuple[Line, ...] = ()
    for text in code.splitlines():
        if found := _SASS_LINE.search(text):
            line = (Path(found[1]).name, int(found[2]))
            lines = tuple(one for one in sorted(true.get(line, {line})) if one[1])
        elif found := _SASS_ACCESS.search(text):
            name, suffixes = found[1], found[2]
            bulk = name.startswith("U")
            yield Instruction(
                # How long a line stays in which cache is no matter here.
                mnemonic=name
                + "".join(re.findall(r"\.(?:E|BYPASS|ACCESS|[US](?:8|16)|64|128|2D|3D|4D|5D)\b", suffixes)),
                store=name in ("STG", "UTMASTG"),
                width=16 if bulk else _sass_width(suffixes),
                lines=lines,
            )


def _sass_width(suffixes: str) -> int:
    for suffix, width in ((".128", 16), (".64", 8), (".U16", 2), (".S16", 2), (".U8", 1), (".S8", 1)):
        if suffix in suffixes:
            return width
    return 4


def _amd_accesses(code: str) -> Iterator[Instruction]:
    lines: tuple[Line, ...] = ()
    for text in code.splitlines():
        if found := _AMD_LINE.search(text):
            lines = ((found[1], int(found[2])),) if int(found[2]) else ()
        elif found := _AMD_ACCESS.search(text):
            kind = found[3]
            width = _AMD_WIDTHS.get(kind, 1 if "byte" in kind or re.search(r"[ui]8\b", kind) else 2)
            yield Instruction(mnemonic=found[1], store=found[2] == "store", width=width, lines=lines)


_LOCATION = re.compile(r"^(#loc\d*) = loc\((.*)\)$", re.MULTILINE)
_FILE_LINE = re.compile(r'"([^"]+)":(\d+):\d+')
_VALUE = re.compile(r"%[\w$.-]+(?:#\d+)?")
_ARGUMENT = re.compile(r'(%[\w$.-]+): (?:!tt\.ptr<[^>]*>|!tt\.tensordesc<[^>]*>)[^%]*?loc\("(\w+)"')
_SHAPE = re.compile(r"tensor<((?:\d+x)+)")
_PRODUCT = re.compile(r"= tt\.dot .*: tensor<(\d+)x(\d+)x(\w+)(?:, [^>]*)?> \* tensor<\d+x(\d+)x")


def products(ttir: str) -> list[Product]:
    """The matrix products in triton's intermediate code."""
    return [
        Product(rows=int(rows), columns=int(columns), depth=int(depth), dtype=dtype)
        for rows, depth, dtype, columns in _PRODUCT.findall(ttir)
    ]


def sites(ttir: str) -> list[Site]:
    """The lines that load or store through each pointer argument, from triton's intermediate code."""
    locations = _locations(ttir)
    origins: dict[str, set[str]] = defaultdict(set)
    lines = [line for line in ttir.splitlines() if not line.startswith("#loc")]
    for line in lines:
        if "tt.func" in line:
            for value, name in _ARGUMENT.findall(line):
                origins[value].add(name)
    # Pointers that a loop carries come from its own end: until nothing is new.
    known = -1
    while known != sum(map(len, origins.values())):
        known = sum(map(len, origins.values()))
        _follow(lines, origins)
    found: dict[tuple[str, bool, Line], int] = {}
    touched: dict[Line, set[str]] = defaultdict(set)
    for line in lines:
        kind = re.search(r"\btt\.(load|store|descriptor_load|descriptor_store|atomic_rmw)\b(.*)", line)
        place = re.search(r"loc\((#loc\d*)\)$", line)
        if kind is None or place is None or place[1] not in locations:
            continue
        pointer = _VALUE.search(kind[2])
        shape = _SHAPE.search(kind[2])
        elements = 1
        for size in shape[1].rstrip("x").split("x") if shape else ():
            elements *= int(size)
        at = locations[place[1]]
        for argument in origins[pointer[0]] if pointer else ():
            key = (argument, "load" not in kind[1], at)
            found[key] = max(elements, found.get(key, 0))
            touched[at].add(argument)
    return [
        Site(argument, store, elements, at, alone=len(touched[at]) == 1)
        for (argument, store, at), elements in sorted(found.items())
    ]


def _follow(lines: Iterable[str], origins: dict[str, set[str]]) -> None:
    """Carries the arguments that values point into from operands to results, once down the code."""
    regions: list[tuple[list[str], list[str]]] = []
    for line in lines:
        body = line.split(" loc(")[0]
        results, _, operation = body.partition(" = ") if body.lstrip().startswith("%") else ("", "", body)
        names = _results(results)
        if "iter_args(" in operation:
            pairs = re.findall(r"(%[\w$.-]+) = (%[\w$.-]+(?:#\d+)?)", operation.split("iter_args(")[1])
            for inner, outer in pairs:
                origins[inner] |= origins[outer]
            for name, (_, outer) in zip(names, pairs, strict=False):
                origins[name] |= origins[outer]
            regions.append((names, [inner for inner, _ in pairs]))
        elif operation.rstrip().endswith("{") and "else" not in operation:
            regions.append((names, []))
        elif operation.lstrip().startswith("}") and "else" not in operation:
            if regions:
                regions.pop()
        elif "scf.yield" in operation and regions:
            outer_names, inner_names = regions[-1]
            for position, value in enumerate(_VALUE.findall(operation.split(":")[0])):
                for target in (outer_names[position : position + 1], inner_names[position : position + 1]):
                    for name in target:
                        origins[name] |= origins[value]
        elif (
            len(names) == 1 and ("!tt.ptr" in operation or "!tt.tensordesc" in operation) and "tt.load" not in operation
        ):
            for value in _VALUE.findall(operation):
                origins[names[0]] |= origins[value]


def _results(text: str) -> list[str]:
    names: list[str] = []
    for name, _, count in re.findall(r"(%[\w$.-]+)(:(\d+))?", text):
        names += [f"{name}#{index}" for index in range(int(count))] if count else [name]
    return names


def _locations(ttir: str) -> dict[str, Line]:
    """The innermost source line of each location's name."""
    texts = dict(_LOCATION.findall(ttir))

    def line_of(name: str) -> Line | None:
        text = texts.get(name, "")
        if direct := _FILE_LINE.search(text):
            return Path(direct[1]).name, int(direct[2])
        inner = re.search(r"#loc\d*", text)
        return line_of(inner[0]) if inner else None

    return {name: line for name in texts if (line := line_of(name)) is not None}


def accesses_by_argument(
    found: Iterable[Site], code: Code
) -> dict[tuple[str, bool], list[tuple[Site, list[Instruction]]]]:
    """For each argument and direction (True for stores), its sites with the instructions of their lines; where there
    are none, those whose line the compiler lost."""
    by_line: dict[tuple[Line, bool], list[Instruction]] = defaultdict(list)
    for instruction in code.accesses:
        for line in instruction.lines:
            by_line[line, instruction.store].append(instruction)
    lost = {store: [one for one in code.accesses if not one.lines and one.store == store] for store in (False, True)}
    result: dict[tuple[str, bool], list[tuple[Site, list[Instruction]]]] = defaultdict(list)
    for site in found:
        result[site.argument, site.store].append((site, by_line[site.line, site.store] or lost[site.store]))
    return dict(result)

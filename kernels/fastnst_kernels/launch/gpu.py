"""The facts of a GPU that a launch configuration needs, for the device at hand."""

from dataclasses import dataclass
from functools import cache

import torch


@dataclass(frozen=True)
class Gpu:
    """One GPU architecture.

    `shared_limit` is the shared memory that one block may use, in bytes; `multiprocessors` are compute units on AMD.
    """

    name: str
    backend: str
    arch: int | str
    warp_size: int
    shared_limit: int
    multiprocessors: int

    @property
    def tf32(self) -> bool:
        """True if the tensor cores multiply float32 operands rounded to TF32: NVIDIA's from Ampere on."""
        return self.name == "gfx942" or (isinstance(self.arch, int) and self.arch >= 80)


# Small enough for the interpreter, which runs one program after the other, and still more than one split.
INTERPRETER = Gpu("interpreter", "cuda", 90, 32, 232_448, 6)


@cache
def gpu_of(index: int) -> Gpu:
    """The GPU that torch counts as device `index`."""
    properties = torch.cuda.get_device_properties(index)
    processors = properties.multi_processor_count
    if torch.version.hip is not None:
        name = properties.gcnArchName.split(":")[0]
        return Gpu(name, "hip", name, properties.warp_size, 65_536, processors)
    arch = 10 * properties.major + properties.minor
    shared = int(getattr(properties, "shared_memory_per_block_optin", 49_152))
    return Gpu(f"sm_{arch}", "cuda", arch, 32, shared, processors)

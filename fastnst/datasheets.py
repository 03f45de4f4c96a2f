"""What the makers' data sheets say of the GPUs that stand for the named targets: peaks, which no program reaches."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Datasheet:
    """Memory bandwidth in GB/s and dense matrix rates in TFLOP/s, accumulated in float32, by precision.

    "fp32" is the rate of the ordinary units; a precision that the GPU lacks is absent.
    """

    product: str
    bandwidth: float
    rates: Mapping[str, float]


def _sheet(product: str, bandwidth: float, fp32: float, tf32: float | None, half: float) -> Datasheet:
    rates = {"fp32": fp32, "bf16": half, "fp16": half} | ({} if tf32 is None else {"tf32": tf32})
    return Datasheet(product, bandwidth, MappingProxyType(rates))


DATASHEETS: Mapping[str, Datasheet] = MappingProxyType(
    {
        "sm_80": _sheet("NVIDIA A100 SXM 80 GB", 2039, 19.5, 156, 312),
        "sm_86": _sheet("NVIDIA RTX A6000", 768, 38.7, 77.4, 154.8),
        "sm_89": _sheet("NVIDIA RTX 6000 Ada", 960, 91.1, 182.1, 364.2),
        "sm_90": _sheet("NVIDIA H100 SXM", 3350, 67, 494.7, 989.4),
        "sm_100": _sheet("NVIDIA B200", 8000, 75, 1100, 2250),
        "sm_120": _sheet("NVIDIA GeForce RTX 5090", 1792, 104.8, 104.8, 209.5),
        "gfx942": _sheet("AMD Instinct MI300X", 5300, 163.4, 653.7, 1307.4),
        "gfx1100": _sheet("AMD Radeon RX 7900 XTX", 960, 61.4, None, 122.8),
    }
)

"""The GPUs that `bench.aot` builds the kernels for, by the name of their architecture."""

from types import MappingProxyType

from fastnst_kernels.launch.gpu import Gpu

TARGETS = MappingProxyType(
    {
        gpu.name: gpu
        for gpu in (
            Gpu("sm_80", "cuda", 80, 32, 166_912, 108),
            Gpu("sm_86", "cuda", 86, 32, 101_376, 84),
            Gpu("sm_89", "cuda", 89, 32, 101_376, 142),
            Gpu("sm_90", "cuda", 90, 32, 232_448, 132),
            Gpu("sm_100", "cuda", 100, 32, 232_448, 148),
            Gpu("sm_120", "cuda", 120, 32, 101_376, 170),
            Gpu("gfx942", "hip", "gfx942", 64, 65_536, 304),
            Gpu("gfx1100", "hip", "gfx1100", 32, 65_536, 96),
        )
    }
)

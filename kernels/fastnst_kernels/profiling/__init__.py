"""Time and memory of each operation, against eager PyTorch, torch.compile and the ceilings of the machine.

`losses` profiles the Gram losses at the style layers, `steps` the other kernels of an iteration, `measure` times
fairly and knows the machine, `plot` draws the roofline.
"""

from fastnst_kernels.profiling.losses import (
    Measurement,
    Roofline,
    Setting,
    check_size,
    measure_roofline,
    precisions,
    profile,
    trace,
)
from fastnst_kernels.profiling.measure import conditions, device_name
from fastnst_kernels.profiling.steps import profile_steps

__all__ = [
    "Measurement",
    "Roofline",
    "Setting",
    "check_size",
    "conditions",
    "device_name",
    "measure_roofline",
    "precisions",
    "profile",
    "profile_steps",
    "trace",
]

"""Time and memory of each operation, against eager PyTorch, torch.compile and the ceilings of the machine.

`losses` has the steps of the Gram losses at the style layers, `steps` those of the other kernels of an iteration;
`step` checks and measures them, `measure` times fairly and knows the machine, `plot` draws the roofline.
"""

from fastnst_kernels.profiling.losses import profile, trace
from fastnst_kernels.profiling.measure import conditions, device_name
from fastnst_kernels.profiling.step import LARGEST_SIZE, Measurement, Roofline, Setting, measure_roofline
from fastnst_kernels.profiling.steps import profile_steps

__all__ = [
    "LARGEST_SIZE",
    "Measurement",
    "Roofline",
    "Setting",
    "conditions",
    "device_name",
    "measure_roofline",
    "profile",
    "profile_steps",
    "trace",
]

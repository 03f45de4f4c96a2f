"""Each public operation of `fastnst_kernels` × dtype × layout × shape, forward and backward, against float64.

On a machine with a GPU the Triton kernels and the torch implementation run there, at the layers' full size; without one
the kernels run in Triton's interpreter, at small shapes, and the torch implementation on CPU. `check` holds one
operation against float64, `losses`, `relu`, `image` and `first` say what float64 makes of theirs, `budget` how far off
a result may be, and `everything` at which shapes, and runs them all.
"""

from fastnst_kernels.verify.check import MODES, Check
from fastnst_kernels.verify.everything import Selection, Skipped, verify

__all__ = ["MODES", "Check", "Selection", "Skipped", "verify"]

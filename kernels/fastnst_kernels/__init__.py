"""Gram matrices and Gram-difference losses of feature maps, fused: Triton kernels on a GPU, plain torch elsewhere.

Depends on torch; triton is imported by the first call that runs on it.
"""

from fastnst_kernels.api import MAX_CHANNELS, gram, gram_loss, style_tap
from fastnst_kernels.backends import BACKENDS, PRECISIONS, available_backends

__all__ = ["BACKENDS", "MAX_CHANNELS", "PRECISIONS", "available_backends", "gram", "gram_loss", "style_tap"]

"""Gram matrices, Gram-difference losses and what surrounds them in style transfer, each fused.

Triton kernels on a GPU, plain torch elsewhere. Depends on torch; triton is imported by the first call that runs on it.
"""

from fastnst_kernels.image import adam_step_, image_gradient, normalise, total_variation
from fastnst_kernels.launch.backends import BACKENDS, PRECISIONS, available_backends
from fastnst_kernels.losses import accumulate_gram, finish_gram_loss, gram, gram_loss, style_tap, tap, tap_gradient
from fastnst_kernels.losses.checks import MAX_CHANNELS
from fastnst_kernels.losses.targets import BlendedTarget, GramDifference, blend_targets
from fastnst_kernels.relu import bias_relu, bias_relu_pool

__all__ = [
    "BACKENDS",
    "MAX_CHANNELS",
    "PRECISIONS",
    "BlendedTarget",
    "GramDifference",
    "accumulate_gram",
    "adam_step_",
    "available_backends",
    "bias_relu",
    "bias_relu_pool",
    "blend_targets",
    "finish_gram_loss",
    "gram",
    "gram_loss",
    "image_gradient",
    "normalise",
    "style_tap",
    "tap",
    "tap_gradient",
    "total_variation",
]

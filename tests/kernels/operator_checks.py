"""What `torch.library.opcheck` is asked of the operators, whichever the backend."""

import torch
from fastnst_kernels import image_ops, ops
from image_checks import SCALE, SHIFT, make_upstream
from kernel_checks import make_target
from torch import Tensor

opcheck = torch.library.opcheck


def check_gram_operators(features: Tensor, backend: str) -> None:
    """The operators of Gram matrices, losses and taps, on features of 2×5×3×4."""
    target = make_target(features)[None]
    arguments = (features, target, 0.5, None, 1.0, "ieee", backend)
    opcheck(ops.gram, (features, "ieee", backend))
    opcheck(ops.gram_difference_loss, arguments)
    loss, difference, scale = ops.gram_difference_loss(*arguments)
    gradient = torch.zeros_like(features)
    style = (difference, scale, loss, 0.1)
    content = (features[:, :, 1:], loss, 2.0)
    owned = [1, 0, 2, 4]
    for upstream in (features, None):
        terms = (*style, *content, True, owned, "ieee", backend)
        opcheck(ops.tap_backward, (gradient, upstream is None, features, upstream, *terms))
    alone = (*style, None, None, 0.0, False, None, "ieee", backend)
    opcheck(ops.tap_backward, (gradient, False, features, None, *alone))
    sums = torch.zeros_like(difference, dtype=loss.dtype)
    opcheck(ops.accumulate_gram, (sums, features, "ieee", backend))
    opcheck(ops.finish_gram_loss, (sums, 12, target, 0.5, loss, 1.0, features.dtype, backend))
    opcheck(ops.content_loss, (features, features[:1], 0.5, backend))


def check_image_operators(image: Tensor, backend: str, *, channels_last: bool) -> None:
    """The operators at the image's edge, on one image in this layout."""
    upstream, dtype = make_upstream(image, torch.bfloat16), image.dtype
    scale, shift = list(SCALE), list(SHIFT)
    opcheck(image_ops.normalise, (image, scale, shift, True, torch.float16, True, backend))
    opcheck(image_ops.normalise_backward, (upstream, scale, True, dtype, channels_last, backend))
    opcheck(image_ops.total_variation, (image, "squared", backend))
    opcheck(image_ops.image_gradient, (image, upstream, scale, True, 0.5, None, "squared", backend))
    ones = torch.ones(1, dtype=dtype)
    opcheck(image_ops.image_gradient, (image, None, scale, False, 1.0, ones, "absolute", backend))
    tensors = [image, torch.ones_like(image), torch.zeros_like(image), torch.zeros_like(image)]
    arguments = (*tensors, torch.ones((), dtype=torch.int64), 0.02, 0.9, 0.99, 1e-8)
    opcheck(image_ops.adam_step_, (*arguments, 0.0, 1.0, True, backend))
    opcheck(image_ops.adam_step_, (*arguments, None, None, False, backend))

"""The arguments with which `torch.library.opcheck` is asked of every operator, whichever the backend."""

from typing import Any

import torch
from fastnst_kernels import operators
from image_checks import SCALE, SHIFT, make_upstream
from kernel_checks import make_target
from torch import Tensor


def check_operators(features: Tensor, image: Tensor, backend: str, **options: Any) -> None:
    """Every operator, on features (2, 5, 3, 4) and an image (1, 3, 3, 4)."""
    target, shift = make_target(features)[None], torch.ones(5).to(features.dtype)
    loss, difference, scale = operators.gram_difference_loss(backend, features, target, 0.5, None, 1.0, "ieee")
    style, content = (difference, scale, loss, 0.1), (features[:1], loss, 2.0)
    sums = torch.zeros_like(difference, dtype=loss.dtype)
    y, bits = operators.bias_relu(backend, features, None, True)
    pooled, pool_bits = operators.bias_relu_pool(backend, features, shift, "max", True)
    packed = operators.by_channels(backend, features)
    upstream, dtype, last = make_upstream(image, torch.bfloat16), image.dtype, not image.is_contiguous()
    ones, zeros, factors = torch.ones(1, dtype=dtype), torch.zeros_like(image), [list(SCALE), list(SHIFT)]
    step = torch.ones((), dtype=torch.int64)
    arguments: dict[Any, list[tuple[Any, ...]]] = {
        operators.gram: [(features, "ieee")],
        operators.gram_difference_loss: [(features, target, 0.5, None, 1.0, "ieee")],
        operators.accumulate_gram: [(sums, features, "ieee")],
        operators.finish_gram_loss: [(sums, 12, target, 0.5, loss, 1.0, features.dtype)],
        operators.content_loss: [(features, features[:1], 0.5)],
        operators.tap_gradient: [
            (features, features, *style, *content, True, "ieee"),
            (features, None, *style, None, None, 0.0, False, "ieee"),
        ],
        operators.bias_relu: [(features, shift, True), (features, None, False)],
        operators.bias_relu_pool: [(features, shift, "avg", True)],
        operators.relu_backward: [(y, bits, packed)],
        operators.unpool_backward: [(pooled, pool_bits, 3, 4, packed, "max")],
        operators.normalise: [(image, *factors, True, torch.float16, True)],
        operators.normalise_backward: [(upstream, factors[0], True, dtype, last)],
        operators.total_variation: [(image, "squared")],
        operators.image_gradient: [
            (image, upstream, factors[0], True, 0.5, None, "squared"),
            (image, None, factors[0], False, 1.0, ones, "absolute"),
        ],
        operators.adam_step_: [
            (image, zeros + 1, zeros, zeros.clone(), step, 0.02, (0.9, 0.99), 1e-8, (0.0, 1.0)),
            (image, zeros + 1, zeros, zeros.clone(), step, 0.02, (0.9, 0.99), 1e-8, None),
        ],
    }
    assert set(arguments) == set(operators.OPERATORS.values())
    for operator, calls in arguments.items():
        for call in calls:
            torch.library.opcheck(operator, (backend, *call), **options)

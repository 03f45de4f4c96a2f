"""The checks of the public operations: what is wrong with an argument, what is allowed and what to do."""

import torch
from torch import Tensor

from fastnst_kernels.launch.backends import PRECISIONS, accumulation_dtype, check_dtype, check_map, check_number
from fastnst_kernels.losses.targets import BlendedTarget, GramDifference

MAX_CHANNELS = 1024
"""The most channels that the Triton kernels of Gram matrices take; the other backends have no limit."""


def check_features(features: Tensor, precision: str, backend: str) -> str:
    """The backend for these features."""
    if features.ndim == 3:
        raise ValueError(
            f"features of shape {tuple(features.shape)} have 3 axes; give (B, C, H, W), which is tokens.mT[..., "
            "None] for tokens (B, N, C) and map[None] for one map (C, H, W)"
        )
    backend = backend_for(features.shape[1], backend, check_map(features, backend, "features", ("have", "are")))
    if precision not in PRECISIONS:
        raise ValueError(f"precision {precision!r} is unknown; choose one of {', '.join(PRECISIONS)}")
    check_dtype(features.dtype, backend)
    return backend


def backend_for(channels: int, given: str, backend: str) -> str:
    """The backend that `given`, which is `backend` on this device, means for so many channels. Raises ValueError where
    Triton was asked for by name and has no kernels for them."""
    if backend != "triton" or channels <= MAX_CHANNELS:
        return backend
    if given == "triton":
        raise ValueError(
            f'features have {channels} channels; the Triton Gram kernels take up to {MAX_CHANNELS}: use backend="torch"'
        )
    return "torch"


def check_target(like: Tensor, target: Tensor | BlendedTarget, weight: float) -> tuple[Tensor, float, Tensor | None]:
    """The target for features (B, C, H, W), or for sums (B, C, C): (1 or B, C, C), its weight and its offset before
    `weight`, which is None for a plain target."""
    check_number("weight", weight)
    batch, channels = like.shape[:2]
    given = target.matrix if isinstance(target, BlendedTarget) else target
    matrices = given.unsqueeze(0) if given.ndim == 2 else given
    if matrices.ndim != 3 or matrices.shape[1:] != (channels, channels) or matrices.shape[0] not in (1, batch):
        raise ValueError(
            f"target of shape {tuple(given.shape)} does not fit features of shape {tuple(like.shape)}; "
            f"give ({channels}, {channels}) or ({batch}, {channels}, {channels})"
        )
    if not given.is_floating_point():
        raise ValueError(f"target is {given.dtype}; give a floating-point Gram matrix")
    if given.device != like.device:
        raise ValueError(f"target is on {given.device} and the features are on {like.device}; move it there")
    if given.requires_grad:
        raise ValueError("target requires a gradient, which the loss does not give; pass target.detach()")
    if isinstance(target, BlendedTarget):
        if target.offset.shape not in ((1,), (batch,)) or target.offset.device != like.device:
            raise ValueError(
                f"offset of shape {tuple(target.offset.shape)} on {target.offset.device} does not fit {batch} images "
                f"on {like.device}; make the target with blend_targets"
            )
        weight *= target.weight
        check_number("weight", weight)
        return matrices, float(weight), target.offset
    return matrices, float(weight), None


def check_content(features: Tensor, content: Tensor) -> None:
    """Raises ValueError where the content does not fit the features (B, C, H, W)."""
    batch, channels, height, width = features.shape
    if content.ndim != 4 or content.shape[0] not in (1, batch) or content.shape[1:] != (channels, height, width):
        raise ValueError(
            f"content of shape {tuple(content.shape)} does not fit features of shape {tuple(features.shape)}; give "
            f"(1 or {batch}, {channels}, {height}, {width})"
        )
    if content.dtype != features.dtype:
        raise ValueError(f"content is {content.dtype} and the features are {features.dtype}; convert it")
    if content.device != features.device:
        raise ValueError(f"content is on {content.device} and the features are on {features.device}; move it there")
    if content.requires_grad:
        raise ValueError("content requires a gradient, which the loss does not give; pass content.detach()")


def check_difference(features: Tensor, difference: GramDifference, dtype: torch.dtype) -> None:
    """Raises ValueError where the difference does not fit the features (B, C, H, W) or is not kept in `dtype`."""
    batch, channels = features.shape[:2]
    if difference.matrix.shape != (batch, channels, channels) or difference.scale.shape != (batch,):
        raise ValueError(
            f"difference of shape {tuple(difference.matrix.shape)} does not fit features of shape "
            f"{tuple(features.shape)}; give ({batch}, {channels}, {channels}) as finish_gram_loss does"
        )
    if difference.matrix.dtype != dtype or not difference.matrix.is_contiguous():
        raise ValueError(
            f"difference is {difference.matrix.dtype}, and a contiguous {dtype} is needed; finish_gram_loss makes it "
            "for the same backend and the features' dtype"
        )
    if difference.matrix.device != features.device:
        raise ValueError(f"difference is on {difference.matrix.device}, the features on {features.device}; move it")


def check_sums(sums: Tensor, dtype: torch.dtype) -> None:
    """Raises ValueError where `sums` cannot hold F Fᵀ, (B, C, C), of a batch of features in `dtype`."""
    if sums.ndim != 3 or sums.shape[1] != sums.shape[2] or 0 in sums.shape:
        raise ValueError(f"sums of shape {tuple(sums.shape)} are not Gram matrices; give (B, C, C)")
    wanted = accumulation_dtype(dtype)
    if sums.dtype != wanted or not sums.is_contiguous() or sums.requires_grad:
        raise ValueError(f"sums of {dtype} features must be contiguous {wanted} and require no gradient")


def check_sums_for(features: Tensor, sums: Tensor) -> None:
    """Raises ValueError where F Fᵀ of the features (B, C, H, W) cannot be added to `sums`."""
    check_sums(sums, features.dtype)
    batch, channels = features.shape[:2]
    if sums.shape != (batch, channels, channels) or sums.device != features.device:
        raise ValueError(
            f"sums {tuple(sums.shape)} on {sums.device} do not fit features of shape {tuple(features.shape)}; give "
            f"({batch}, {channels}, {channels}) on {features.device}"
        )

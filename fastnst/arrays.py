"""Pictures from NumPy arrays and torch tensors."""

import numpy as np
import numpy.typing as npt
import torch

from fastnst.errors import ImageError
from fastnst.image_memory import ran_out, within_memory
from fastnst.picture import Picture, check_size, from_planes, in_range, to_planes


def from_array(source: npt.NDArray[np.generic], what: str, name: str = "array") -> Picture:
    """(H, W), (H, W, 1), (H, W, 3) or (H, W, 4): uint8, uint16, or float in 0…1, in either byte order."""
    if np.ma.isMaskedArray(source):
        raise ImageError(f"{what} is a masked array, which has no values where it is masked; give its filled()")
    array = np.asarray(source)
    height, width = check_layout(array.shape, array.dtype, what)
    samples = array[:, :, None] if array.ndim == 2 else array
    with within_memory(what, height, width):
        return from_planes(to_planes(samples, _peak(array.dtype) or 1.0), what, name)


def from_rows(samples: npt.NDArray[np.generic], what: str, name: str) -> Picture:
    """Some rows of such an array, of any height."""
    planes = to_planes(samples[:, :, None] if samples.ndim == 2 else samples, _peak(samples.dtype) or 1.0)
    return Picture(in_range(planes, what), planes[3:] if len(planes) == 4 else None, name)


def check_layout(shape: tuple[int, ...], dtype: np.dtype[np.generic], what: str) -> tuple[int, int]:
    """(height, width) of an array that is a picture. Raises ImageError for a shape or a dtype that is none's."""
    last = shape[2] if len(shape) == 3 else 1
    if len(shape) not in (2, 3) or last not in (1, 3, 4):
        hint = "; move the channels last with transpose(1, 2, 0)" if len(shape) == 3 and shape[0] in (1, 3, 4) else ""
        raise ImageError(f"{what} has shape {shape}; give (H, W), (H, W, 3) or (H, W, 4){hint}")
    if _peak(dtype) is None and dtype.kind != "f":
        raise ImageError(f"{what} has dtype {dtype}; give uint8, uint16, or float in 0…1")
    height, width = shape[:2]
    check_size(height, width, what)
    return height, width


def _peak(dtype: np.dtype[np.generic]) -> float | None:
    return {"u1": 255.0, "u2": 65535.0}.get(dtype.str[1:])


def from_tensor(tensor: torch.Tensor, what: str) -> Picture:
    """(C, H, W) or (1, C, H, W) with C 1, 3 or 4, on any device: uint8, uint16, or float in 0…1."""
    if tensor.layout != torch.strided or tensor.is_nested or tensor.is_quantized or tensor.is_meta:
        kind = "nested" if tensor.is_nested else f"{tensor.layout}, {tensor.dtype}"
        raise ImageError(f"{what} is {kind} on {tensor.device}; give a dense tensor that holds its values")
    samples = tensor.detach()
    if samples.ndim == 4 and samples.shape[0] == 1:
        samples = samples[0]
    if samples.ndim != 3 or samples.shape[0] not in (1, 3, 4):
        last = samples.ndim == 3 and samples.shape[2] in (1, 3, 4)
        hint = "; move the channels first with permute(2, 0, 1)" if last else ""
        raise ImageError(
            f"{what} has shape {tuple(tensor.shape)}; give (C, H, W) or (1, C, H, W) with 1, 3 or 4 channels{hint}"
        )
    if not samples.is_floating_point() and samples.dtype not in (torch.uint8, torch.uint16):
        raise ImageError(f"{what} has dtype {tensor.dtype}; give uint8, uint16, or float in 0…1")
    _, height, width = samples.shape
    check_size(height, width, what)
    peak = {torch.uint8: 255, torch.uint16: 65535}.get(samples.dtype, 1)
    with within_memory(what, height, width):
        try:
            planes = torch.empty(samples.shape, dtype=torch.float32).copy_(samples).div_(peak)
        except (RuntimeError, TypeError) as error:  # packed dtypes, fake tensors and others that are no plain values
            if ran_out(error):
                raise
            raise ImageError(f"{what}, {tensor.dtype}, has no values that can be read; give float32 in 0…1") from error
        return from_planes(planes, what, "tensor")

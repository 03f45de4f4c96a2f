"""The first convolution on a CPU as one matrix product: it has too few channels for a convolution's own kernels.

Twenty-seven shifted copies of the three planes are the columns of the product (Chellapilla et al. 2006), a band of rows
at a time, so that they stay in the cache.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# Elements of the columns of one band.
_BAND_ELEMENTS = 1 << 20


def _bands(height: int, width: int) -> list[tuple[int, int]]:
    rows = max(1, _BAND_ELEMENTS // (27 * width))
    return [(start, min(start + rows, height)) for start in range(0, height, rows)]


def convolve_relu(image: Tensor, weight: Tensor, bias: Tensor, padding: str, result: Tensor) -> None:
    """ReLU of the convolution of (1, 3, H, W) planes with `weight` (K, 3, 3, 3), into `result` (1, K, H, W).

    `padding` is "zeros", "replicate" or "circular".
    """
    _, channels, height, width = image.shape
    padded = F.pad(image[0], (1, 1, 1, 1), mode="constant" if padding == "zeros" else padding)
    matrix = weight.flatten(1)
    output = result.view(len(weight), height, width)
    for start, stop in _bands(height, width):
        rows = stop - start
        band = padded[:, start:]
        windows = band.as_strided((channels, 3, 3, rows, width), (padded.stride(0), width + 2, 1, width + 2, 1))
        columns = windows.reshape(9 * channels, rows * width)
        target = output[:, start:stop].flatten(1)
        torch.addmm(bias[:, None], matrix, columns, out=target).relu_()


def input_gradient(gradient: Tensor, weight: Tensor, padding: str) -> Tensor:
    """The gradient of the convolution's input, (1, 3, H, W), for that of its output, (1, K, H, W)."""
    height, width = gradient.shape[2:]
    channels = weight.shape[1]
    matrix = weight.flatten(1).T.contiguous()
    result = gradient.new_zeros((1, channels, height + 2, width + 2))
    for start, stop in _bands(height, width):
        columns = (matrix @ gradient[0, :, start:stop].flatten(1)).view(channels, 3, 3, stop - start, width)
        for row in range(3):
            for column in range(3):
                target = result[0, :, start + row : stop + row, column : column + width]
                target += columns[:, row, column]
    return unpadded(result, padding)


def unpadded(gradient: Tensor, padding: str) -> Tensor:
    """The gradient (1, C, H, W) of an image, from that of the image with a border of one, (1, C, H + 2, W + 2)."""
    if padding == "replicate":
        gradient[:, :, 1] += gradient[:, :, 0]
        gradient[:, :, -2] += gradient[:, :, -1]
        gradient[..., 1] += gradient[..., 0]
        gradient[..., -2] += gradient[..., -1]
    elif padding == "circular":
        gradient[:, :, 1] += gradient[:, :, -1]
        gradient[:, :, -2] += gradient[:, :, 0]
        gradient[..., 1] += gradient[..., -1]
        gradient[..., -2] += gradient[..., 0]
    return gradient[:, :, 1:-1, 1:-1]

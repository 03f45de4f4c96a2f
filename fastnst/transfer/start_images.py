"""Where a run may start other than at a picture: its content in the styles' colours, white noise, or an even colour
with a trace of noise."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fastnst.image.colour import moments, moved_colours
from fastnst.image.picture import Picture
from fastnst.network.architecture import Preprocessing

# Standard deviation of the noise on an even colour, as neural-style has it in pixel values of 0…255: enough to tell
# neighbours apart.
_TRACE = 0.001 / 255


def recoloured(content: Picture, styles: Sequence[Picture], shares: Sequence[float]) -> Tensor:
    """The content in colours with the mean and covariance of the styles' pixels, by their shares, (3, H, W) in 0…1.

    The content's own count as far as its alpha shows them. See `fastnst.image.colour.moved_colours`.
    """
    weighted = (
        (style.rgb, style.rgb.new_full((1, *style.rgb.shape[1:]), share / style.rgb[0].numel()))
        for style, share in zip(styles, shares, strict=True)
    )
    return moved_colours(content.rgb, moments([(content.rgb, content.alpha)]), moments(weighted))


def white_noise(size: tuple[int, int], seed: int) -> Tensor:
    """Uniform noise in 0…1, (3, height, width) float32."""
    return torch.rand((3, *size), generator=torch.Generator().manual_seed(seed), dtype=torch.float32)


def even_colour(colour: Tensor, size: tuple[int, int], seed: int) -> Tensor:
    """RGB `colour`, (3,) in 0…1, with normal noise of a thousandth of a grey level: (3, height, width) float32."""
    trace = torch.randn((3, *size), generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
    return (colour.float()[:, None, None] + _TRACE * trace).clamp(0, 1)


def network_grey(preprocessing: Preprocessing) -> Tensor:
    """The colour that the network sees as zero, RGB in 0…1: (3,)."""
    colour = torch.tensor(preprocessing.mean, dtype=torch.float32) / preprocessing.scale
    return colour.flip(0) if preprocessing.bgr else colour


def mean_colour(pictures: Sequence[Picture], shares: Sequence[float]) -> Tensor:
    """The mean colour of pictures by their shares, RGB in 0…1: (3,)."""
    means = [share * picture.rgb.double().mean((1, 2)) for picture, share in zip(pictures, shares, strict=True)]
    return torch.stack(means).sum(0).float()

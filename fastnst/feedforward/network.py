"""The network: a symmetric convolution–deconvolution with residual blocks, one normalisation for each style.

Johnson, Alahi and Fei-Fei (2016) with the normalisation of Ulyanov, Vedaldi and Lempitsky (2016), whose scale and shift
are a style's own (Dumoulin, Shlens and Kudlur 2017): all styles share the convolutions, and a mixture of styles is a
mixture of scales and shifts. Sizes grow by interpolation and a convolution (Odena, Dumoulin and Olah 2016), so that
there is no checkerboard: linearly, as repeated pixels leave a grid. Borders are reflected.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastnst.errors import ImageError, OptionError

EPSILON = 1e-5
"""Added to the variance of a map."""
GRID = 4
"""Pixels of the image at a side of a position of the innermost maps."""
SMALLEST = 3 * GRID
"""The least side of an image: a reflected border needs two positions of the innermost maps, and some to choose from."""
_MOST_CHANNELS, _MOST_BLOCKS = 128, 32
# What three taps of a convolution are at the two pixels of a position, on the positions before, at and after it, where
# a pixel is three quarters of the nearest position and a quarter of the next.
_ENLARGING = (
    torch.tensor([[[3, 1, 0], [1, 3, 3], [0, 0, 1]], [[1, 0, 0], [3, 3, 1], [0, 1, 3]]], device="cpu").float() / 4
)


@dataclass(frozen=True)
class Architecture:
    """The shape of a network: `channels` at the size of the image, twice as many at half of it, and four times as many
    at a quarter, where there are `blocks` of two convolutions each. Raises OptionError if a number is out of range."""

    channels: int = 16
    blocks: int = 5

    def __post_init__(self) -> None:
        for name, most in (("channels", _MOST_CHANNELS), ("blocks", _MOST_BLOCKS)):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= most:
                raise OptionError(f"{name} {value!r} is out of range; give a whole number from 1 to {most}")


class Unit(nn.Module):
    """A convolution over reflected borders, or of 3 × 3 over a map of twice the size (where it `enlarges`), and each
    style's normalisation.

    `scale` and `shift` are (styles, outputs). The map of twice the size, interpolated linearly, is never made: each
    pixel of it reaches as many positions as the convolution has taps, so both are one convolution of the small map.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        styles: int,
        *,
        kernel: int = 3,
        stride: int = 1,
        enlarges: bool = False,
        relu: bool = True,
    ) -> None:
        super().__init__()
        self.stride, self.enlarges, self.relu, self.reach = stride, enlarges, relu, kernel // 2
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel) * math.sqrt(2 / (inputs * kernel**2)))
        self.scale = nn.Parameter(torch.ones(styles, outputs))
        self.shift = nn.Parameter(torch.zeros(styles, outputs))

    def forward(self, x: Tensor, blend: Tensor) -> Tensor:
        """The unit's maps of `x`, (B, C, H, W); `blend` (styles,) are the styles' shares."""
        y = self.convolved(x, self.kernel(x.dtype))  # (B, K, h, w)
        batch, outputs = y.shape[:2]
        scale, shift = (own.repeat(batch) for own in self.affine(blend))
        # Of one image the maps stay channels-last.
        flat = y if batch == 1 else y.reshape(1, batch * outputs, *y.shape[2:])
        y = F.batch_norm(flat, None, None, scale, shift, training=True, eps=EPSILON).view(y.shape)
        return y.relu() if self.relu else y

    def kernel(self, dtype: torch.dtype) -> Tensor:
        """The weights of `convolved`, channels-last: those that enlarge give the four pixels of each position,
        (4 · K, C, 3, 3), the channels of a pixel side by side."""
        if not self.enlarges:
            return self.weight.to(dtype, memory_format=torch.channels_last)
        taps = _ENLARGING.to(self.weight.device)
        weight = torch.einsum("pai,qbj,kcij->pqkcab", taps, taps, self.weight.float()).flatten(0, 2)
        return weight.to(dtype, memory_format=torch.channels_last)

    def affine(self, blend: Tensor) -> tuple[Tensor, Tensor]:
        """The mixture's scale and shift, (K,) float32 each."""
        return blend @ self.scale.float(), blend @ self.shift.float()

    def convolved(self, x: Tensor, kernel: Tensor, *, above: int | None = None, below: int | None = None) -> Tensor:
        """The convolution of rows `x` with the `kernel`; `above` and `below` say how many rows they lack of its reach
        (default: all), which are reflected, or repeated where it enlarges."""
        reach = self.reach
        around = (reach, reach, reach if above is None else above, reach if below is None else below)
        y = F.conv2d(F.pad(x, around, mode="replicate" if self.enlarges else "reflect"), kernel, stride=self.stride)
        return _unfolded(y) if self.enlarges else y


class Residual(nn.Module):
    """x plus two units of it."""

    def __init__(self, channels: int, styles: int) -> None:
        super().__init__()
        self.first = Unit(channels, channels, styles)
        self.second = Unit(channels, channels, styles, relu=False)

    def forward(self, x: Tensor, blend: Tensor) -> Tensor:
        residual: Tensor = self.second(self.first(x, blend), blend)
        return x + residual


class Painter(nn.Module):
    """The last convolution, to colours: each style's `scale` and `shift`, (styles, 3), stand for a normalisation, which
    would take the picture's own brightness away."""

    def __init__(self, channels: int, styles: int, kernel: int = 3) -> None:
        super().__init__()
        self.reach = kernel // 2
        self.weight = nn.Parameter(torch.randn(3, channels, kernel, kernel) / math.sqrt(channels * kernel**2))
        self.scale = nn.Parameter(torch.ones(styles, 3))
        self.shift = nn.Parameter(torch.zeros(styles, 3))

    def forward(self, x: Tensor, blend: Tensor, *, above: int | None = None, below: int | None = None) -> Tensor:
        reach = self.reach
        rows = (reach if above is None else above, reach if below is None else below)
        scale, shift = (blend @ of.float() for of in (self.scale, self.shift))
        weight = (self.weight.float() * scale[:, None, None, None]).to(x.dtype, memory_format=torch.channels_last)
        x = F.pad(x, (reach, reach, *rows), mode="reflect")
        return F.conv2d(x, weight, shift.to(x.dtype)).float().sigmoid()


class StyleNetwork(nn.Module):
    """A network that turns images (B, 3, H, W) in 0…1 into images in the styles of `names`.

    Sides need not be multiples of four: the network pads the image by reflection and crops the result. It computes in
    the dtype of its weights (`compute_in`), or in another one that you give.
    """

    def __init__(self, names: Sequence[str], architecture: Architecture | None = None) -> None:
        super().__init__()
        self.architecture = architecture or Architecture()
        self.names = tuple(names)
        channels, styles = self.architecture.channels, len(self.names)
        narrow = Unit(3, channels, styles, kernel=5)
        down = [narrow, *(Unit(wide, 2 * wide, styles, stride=2) for wide in (channels, 2 * channels))]
        up = [Unit(2 * wide, wide, styles, enlarges=True) for wide in (2 * channels, channels)]
        blocks = [Residual(4 * channels, styles) for _ in range(self.architecture.blocks)]
        # A ModuleList forgets what it is a list of.
        self.down = cast(Sequence[Unit], nn.ModuleList(down))
        self.blocks = cast(Sequence[Residual], nn.ModuleList(blocks))
        self.up = cast(Sequence[Unit], nn.ModuleList(up))
        self.paint = Painter(channels, styles)

    @classmethod
    def of(cls, names: Sequence[str], architecture: Architecture, state: Mapping[str, Tensor]) -> "StyleNetwork":
        """The network with copies of those tensors in float32. Raises RuntimeError where they are not its own."""
        with torch.device("meta"):  # no random weights, which would move the caller's generator
            network = cls(names, architecture)
        copies = {name: value.float().clone(memory_format=torch.contiguous_format) for name, value in state.items()}
        network.load_state_dict(copies, assign=True)
        return network

    @property
    def dtype(self) -> torch.dtype:
        return self.down[0].weight.dtype

    def forward(self, images: Tensor, blend: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """The images in a mixture of the styles, (B, 3, H, W) float32; `blend` (styles,) float32 sums to 1.

        dtype: the dtype of maps and products; by default that of the weights. Use it instead of autocast to train
            weights in float32 with 16-bit products, because the copies that a nested autocast makes of the weights
            outlive a step.

        Raises ImageError for images with a side of less than `SMALLEST` pixels.
        """
        height, width = images.shape[2:]
        x = self.prepared(images, dtype)
        for unit in self.down:
            x = unit(x, blend)
        for block in self.blocks:
            x = block(x, blend)
        for unit in self.up:
            x = unit(x, blend)
        painted: Tensor = self.paint(x, blend)
        return painted[:, :, :height, :width]

    def prepared(self, images: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        """The images as the first unit takes them: around 0, continued to whole positions of the innermost maps."""
        height, width = images.shape[2:]
        if min(height, width) < SMALLEST:
            raise ImageError(
                f"an image of {width}×{height} pixels is too small for the network; each side must be at least "
                f"{SMALLEST}"
            )
        x = (images - 0.5).to(dtype or self.dtype)
        if height % GRID or width % GRID:
            x = F.pad(x, (0, -width % GRID, 0, -height % GRID), mode="reflect")
        return x.contiguous(memory_format=torch.channels_last)

    def compute_in(self, dtype: torch.dtype) -> None:
        """Computes in `dtype` from now on, on maps in channels-last; normalisations stay in float32, and so do the
        weights that a kernel is made of."""
        for module in self.modules():
            if isinstance(module, Unit) and not module.enlarges:
                module.weight.data = module.weight.data.to(dtype, memory_format=torch.channels_last)

    def normalisations(self) -> list[nn.Parameter]:
        """The scales and shifts, (styles, channels) each: each style has its own, and all else is shared."""
        return [value for name, value in self.named_parameters() if name.endswith((".scale", ".shift"))]

    @torch.no_grad()
    def with_styles(self, names: Sequence[str]) -> "StyleNetwork":
        """A copy with these styles: those of its own that are among them, and new ones, whose normalisations begin as
        the mean of its own."""
        state = dict(self.state_dict())
        for name, value in state.items():
            if name.endswith((".scale", ".shift")):
                known = dict(zip(self.names, value, strict=True))
                state[name] = torch.stack([known.get(style, value.mean(0)) for style in names])
        return StyleNetwork.of(names, self.architecture, state)


def _unfolded(y: Tensor) -> Tensor:
    """Maps (B, 4 · K, h, w) of the four pixels of each position as (B, K, 2 · h, 2 · w), channels-last."""
    batch, channels, height, width = y.shape
    pixels = y.permute(0, 2, 3, 1).reshape(batch, height, width, 2, channels // 2).transpose(2, 3)
    return pixels.reshape(batch, 2 * height, 2 * width, channels // 4).permute(0, 3, 1, 2)


def one_style(index: int, count: int, device: torch.device | str = "cpu") -> Tensor:
    """The blend that is the style of that index alone."""
    return F.one_hot(torch.tensor(index, device="cpu"), count).float().to(device)

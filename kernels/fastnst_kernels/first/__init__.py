"""The first layer and the image in one kernel each way.

Forward: normalisation, the 3×3 convolution of three channels, bias, ReLU and the sums of the Gram matrix. Back: the
style's tap, the ReLU, the transposed convolution, the normalisation's scale and the total variation. The features are
computed anew on the way back, from the image, whose bytes are a tenth of theirs: nothing is kept of the layer.

`FirstLayer` says what the layer does to the image; `eager` has the operations in torch, `reference` in naive float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

PADDINGS = ("zeros", "replicate", "circular")


@dataclass(frozen=True)
class FirstLayer:
    """A network's first layer: max(conv(x · scale + shift) + bias, 0), N filters over an image's three channels.

    `weight` is (N, 3, 3, 3), channels-last, `bias` (N,), both in the features' dtype. `scale` and `shift` are by the
    network's channels, which with `flip` are the image's in reverse order. `padding`, one of `PADDINGS`, is that of the
    normalised image, by one pixel.
    """

    weight: Tensor
    bias: Tensor
    scale: Sequence[float]
    shift: Sequence[float]
    flip: bool
    padding: str

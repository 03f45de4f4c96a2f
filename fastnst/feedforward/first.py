"""A first picture at once: the content in a run's styles, where they are those of the network that ships."""

from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from fastnst.errors import OptionError
from fastnst.examples import example
from fastnst.feedforward.file import SHIPPED, NetworkFile, load_network
from fastnst.feedforward.network import SMALLEST
from fastnst.feedforward.strips import stylized
from fastnst.image.read import load_image

Size = tuple[int, int]


@cache
def shipped_network() -> NetworkFile:
    """The network that ships, read once."""
    return load_network(SHIPPED)


def network_shares(styles: Sequence[tuple[str, float]]) -> Tensor:
    """The blend of the network that ships, (styles,), for pictures by their SHA-256 and share.

    Raises OptionError where one of them is not a picture that the network learnt.
    """
    learnt = _learnt()
    blend = torch.zeros(len(learnt))
    for sha256, share in styles:
        if sha256 not in learnt:
            raise OptionError(
                "init network needs styles that come with fastnst, and one of these is another picture; choose another "
                f"start, or pictures of fastnst.examples: {', '.join(f'style_{name}' for name in learnt.values())}"
            )
        blend[list(learnt).index(sha256)] += share
    return blend


@cache
def _learnt() -> dict[str, str]:
    """The names of the network's styles by the SHA-256 of their pictures, in its order."""
    return {load_image(example(f"style_{name}")).sha256: name for name in shipped_network().network.names}


def first_picture(content: Callable[[Size], Tensor], size: Size, style_edge: float, blend: Tensor) -> Tensor:
    """The content in a mixture of the network's styles, (3, h, w) float32 in 0…1.

    The network's strokes are as large as those of its styles at the training's size. So it is shown the content, which
    `content` gives at a size, by as much larger or smaller as its styles were there than at `style_edge` pixels, the
    edge at which a run of `size` sees them.
    """
    network = shipped_network()
    learnt = network.training["options"]
    factor = learnt["size"] * learnt["style_scale"] / style_edge
    height, width = (max(SMALLEST, round(side * factor)) for side in size)
    return stylized(network.network, content((height, width))[None], blend)[0]

"""Applying a network to a picture: at any size, with its alpha, its own colours if they shall stay."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Unpack

from PIL import Image
from torch import Tensor

from fastnst.errors import ImageError, OptionError, check_choice
from fastnst.feedforward.file import SHIPPED, Blend, NetworkFile, blend_weights, load_network
from fastnst.feedforward.network import SMALLEST, StyleNetwork
from fastnst.feedforward.strips import stylized
from fastnst.fork import check_fork
from fastnst.image.colour import MODES, finished
from fastnst.image.files import MAX_PIXELS
from fastnst.image.picture import opaque
from fastnst.image.read import Source, open_picture
from fastnst.image.resize import at_size, edge_beside, fitted_size
from fastnst.image.write import Form, Target, save_image, to_pil
from fastnst.network.runtime import resolve_runtime, versions
from fastnst.network.settings import own_modes
from fastnst.options.parse import parse_size


@dataclass(frozen=True, eq=False)
class Applied:
    """A picture that a network made. `tensor` is (3, H, W) float32 in 0…1, and `alpha` is the content's alpha, (1, H,
    W), or None. `parameters` say how it was made, in values that JSON can hold."""

    tensor: Tensor
    alpha: Tensor | None
    parameters: Mapping[str, Any]

    @property
    def image(self) -> Image.Image:
        """The picture as a PIL image: RGB, or RGBA if the content has alpha, with 8 bits, in sRGB."""
        return to_pil(self.tensor, self.alpha)

    def save(self, path: Target, **form: Unpack[Form]) -> None:
        """Writes the picture to a path or a binary stream, with `parameters` in its metadata, as `Result.save` does."""
        save_image(path, self.tensor, self.alpha, parameters=self.parameters, **form)


class Applier:
    """A network that is ready for many pictures; its arguments are those of `apply_network`, which makes one
    picture."""

    def __init__(
        self,
        network: str | os.PathLike[str] | NetworkFile | StyleNetwork = SHIPPED,
        *,
        blend: Blend | None = None,
        style: str | int | None = None,
        size: int | str | None = None,
        preserve_color: str = "none",
        low_memory: bool | None = None,
        max_pixels: int = MAX_PIXELS,
        device: str = "auto",
        precision: str = "auto",
    ) -> None:
        check_fork()
        check_choice("preserve color", preserve_color, MODES)
        self.size = parse_size("content" if size is None else size)
        if isinstance(self.size, int) and self.size < SMALLEST:
            raise OptionError(f"size {size!r} is too small for the network; give a whole number of {SMALLEST} or more")
        if isinstance(network, str | os.PathLike):
            network = load_network(network)
        module = network.network if isinstance(network, NetworkFile) else network
        self.weights = blend_weights(module, blend, style)
        runtime = resolve_runtime(device, precision)
        with own_modes(runtime.device):
            copy = StyleNetwork.of(module.names, module.architecture, module.state_dict())
            self._network = copy.eval().requires_grad_(False).to(runtime.device)
            self._network.compute_in(runtime.dtype)
        self.preserve_color, self.low_memory = preserve_color, low_memory
        self.max_pixels = max_pixels
        self._facts: dict[str, Any] = {
            "network": {
                "name": network.name if isinstance(network, NetworkFile) else None,
                "sha256": network.sha256 if isinstance(network, NetworkFile) else None,
                "styles": list(module.names),
            },
            "device": str(runtime.device),
            "precision": runtime.precision,
            "preserve_color": preserve_color,
            "versions": versions(),
        }
        self._device = runtime.device

    def mix(self, blend: Blend) -> None:
        """Sets another weight for each style from now on. Raises OptionError as the constructor does."""
        self.weights = blend_weights(self._network, blend)

    def __call__(self, content: Source) -> Applied:
        """Stylizes the content."""
        source = open_picture(content, role="content", max_pixels=self.max_pixels)
        size = source.height, source.width
        if self.size != 1:
            size = fitted_size(*size, edge_beside(self.size, size))
        if min(size) < SMALLEST:
            raise ImageError(
                f"content image {source.name!r} would be {size[1]}×{size[0]} pixels, and the network needs "
                f"{SMALLEST} or more on each side; raise the size, or give a larger picture"
            )
        with own_modes(self._device):
            picture = at_size(source, size)
            kept = None if self.low_memory is None else not self.low_memory
            image = stylized(self._network, opaque(picture).rgb[None], self.weights, kept=kept)[0]
            image = finished(image, picture, self.preserve_color)
        content_facts = {"name": source.name, **source.tags, "width": picture.width, "height": picture.height}
        network = {**self._facts["network"], "blend": [round(weight, 6) for weight in self.weights.tolist()]}
        return Applied(image, picture.alpha, {"content": content_facts, **self._facts, "network": network})


def apply_network(
    network: str | os.PathLike[str] | NetworkFile | StyleNetwork, content: Source, **options: Any
) -> Applied:
    """Stylizes a picture in one pass, in the styles that a network was trained for.

    Args:
        network: a file that `train_network` wrote, or the result of `load_network`; `load_network()` gives the one that
            comes with fastnst.
        content: a picture of any size, as for `stylize`.
        **options: `blend`, a weight for each style of the network, 0 or more, or for some by name, such as `{"swirls":
            0.3, "mosaic": 0.7}`; or `style`, the name of one (default: the first); `size` and `preserve_color` as for
            `stylize` (default: the picture's own size and new colours); `low_memory`, to compute large maps again
            instead of keeping them (default: above 8 million pixels; the result is the same); `max_pixels`, `device`
            and `precision` as for `stylize`.

    The picture may be larger than the crops of the training. The network works in strips of rows, and normalises over
    the whole picture.

    Raises FastnstError for a picture, a network file or options that cannot be used.
    """
    return Applier(network, **options)(content)

"""Runs without a content or without a style: textures, and what layers hold of a picture."""

import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

from PIL import Image
from torch import Tensor

from fastnst.errors import OptionError
from fastnst.image.picture import Picture, opaque
from fastnst.image.read import Source, load_image
from fastnst.image.resize import resize
from fastnst.image.sheet import Look, contact_sheet
from fastnst.network.architecture import PAPER_STYLE_LAYERS
from fastnst.options.keywords import OptionValues, UnsizedValues
from fastnst.options.resolve import resolve_options
from fastnst.transfer.inputs import Canvas, Styles, most_pixels, parse_canvas
from fastnst.transfer.result import Result
from fastnst.transfer.run import WatchValues, watch_and_options
from fastnst.transfer.stylizer import Stylizer, StylizeValues

Layers = str | Sequence[str] | Mapping[str, float]
# Weights of the total variation for conv1, as a hundredth of the weights of their terms.
_CONTENT_VARIATION, _STYLE_VARIATION = 0.01, 0.05


class TextureValues(WatchValues, UnsizedValues, total=False):
    """The keyword arguments of `synthesize_texture` that are fields of `Watch` or of `Options`."""


def synthesize_texture(
    style: Styles, *, size: int | str | tuple[int, int] = 512, tileable: bool = False, **values: Unpack[TextureValues]
) -> Result:
    """Makes an image with the Gram matrices of `style`: it has the texture of the picture, without its arrangement.

    The objective is that of `stylize` without its content term, `total = β · style + γ · tv`, minimised from white
    noise (Gatys, Ecker and Bethge: Texture Synthesis Using Convolutional Neural Networks, 2015). The style layers set
    how large the structures are that it takes from the style: with `["conv1_1", "conv2_1"]` they have a few pixels.

    Args:
        style: a picture or a sequence of pictures, as for `stylize`; `style_weights` are their shares.
        size: the size of the result in pixels: (height, width), "512x384" (width by height), or one number for a
            square. The style pictures are scaled to its long edge times `style_scale`.
        tileable: True if copies of the result are to fit together without a seam. This sets `padding="circular"`, and
            needs sides that are multiples of the pooling grid, which is 16 pixels for layers down to conv5_1.
        **values: as for `stylize`, except the size; the preset is "texture" if you give none.

    Raises FastnstError as `stylize` does, and OptionError for a content weight or another option that needs a content.
    """
    watch, options = watch_and_options(values)
    canvas = parse_canvas(size)
    return Stylizer(style, **texture_options(canvas, options, tileable=tileable)).prepare(canvas).run(watch)


def texture_options(canvas: Canvas, given: Mapping[str, Any], *, tileable: bool = False) -> dict[str, Any]:
    """The options of a run that makes a texture of the size of `canvas`, from those that are given.

    Raises OptionError for a content weight, or a padding that does not tile where that is asked for.
    """
    padding = given.get("padding", "circular")
    if tileable and padding != "circular":
        raise OptionError(
            f"padding {padding!r} does not make a texture that tiles; leave it out, or leave out --tileable"
        )
    weight = given.get("content_weight", 0)
    if weight != 0:
        raise OptionError(f"content weight {weight!r} has no effect on a texture, which has no content; leave it out")
    own = {"preset": "texture", "init": "noise", "size": max(canvas.height, canvas.width), "edge": "long"}
    tiling = {"padding": "circular"} if tileable else {}
    return {**own, **given, **tiling, "content_weight": 0.0}


def reconstruct_content(image: Source | Picture, layers: Layers = "conv4_2", **values: Unpack[StylizeValues]) -> Result:
    """Makes an image with the features of `image` at `layers`, starting from an even grey: `total = α · content + γ ·
    tv`.

    A layer near the pixels gives the picture back; a deep one gives its objects and their places without the exact
    pixels. Pools hide the finest grain of an image from all layers above them, so the grain of the start stays: from
    noise (`init="noise"`, as in the paper and with any other preset) you get a noisy result, and it takes more steps.
    Together with `reconstruct_style` this makes figure 1 of Gatys, Ecker and Bethge (A Neural Algorithm of Artistic
    Style, 2015).

    `layers` is one layer, or several with or without weights, as for the option `content_layers`. The other arguments
    are those of `stylize`; the preset is "reconstruction" if you give none.

    Raises FastnstError as `stylize` does, and OptionError for a style weight.
    """
    watch, options = watch_and_options(values)
    picture = _loaded(image, options)
    return Stylizer([], **content_options(layers, options)).prepare(picture).run(watch)


def reconstruct_style(image: Source | Picture, layers: Layers, **values: Unpack[StylizeValues]) -> Result:
    """Makes an image of the shape of `image` with its Gram matrices at `layers`, starting from noise.

    `total = β · style + γ · tv`, as for a texture, but at one scale, so it shows nothing larger than the layers hold.
    Arguments and errors are those of `reconstruct_content`, except that it refuses a content weight.
    """
    watch, options = watch_and_options(values)
    picture = _loaded(image, options)
    canvas = Canvas(picture.height, picture.width)
    return Stylizer(picture, **style_options(layers, options)).prepare(canvas).run(watch)


def _loaded(image: Source | Picture, options: Mapping[str, Any]) -> Picture:
    if isinstance(image, Picture):
        return image
    return load_image(image, role="content", max_pixels=most_pixels(options))


def content_options(layers: Layers, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a run that reconstructs from features. Raises OptionError for those of a style."""
    _refuse(given, "style", "content")
    return {**_start(layers, given, "grey", _CONTENT_VARIATION), **given, "content_layers": layers, "style_weight": 0.0}


def style_options(layers: Layers, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a run that reconstructs from Gram matrices. Raises OptionError for those of a content."""
    _refuse(given, "content", "style")
    own = {**_start(layers, given, "noise", _STYLE_VARIATION), "edge": "long"}
    return {**own, **given, "style_layers": layers, "content_weight": 0.0}


def _start(layers: Layers, given: Mapping[str, Any], init: str, variation: float) -> dict[str, Any]:
    """The preset, and with it the start and the weight of the total variation, `variation` for conv1 and a hundred
    times that for conv5: the deeper a layer, the less grain it sees. With another preset the start is noise."""
    if given.get("preset", "reconstruction") != "reconstruction":
        return {"init": "noise"}
    # What is no layer is refused with the other options.
    block = max(map(int, re.findall(r"(?:conv|relu|pool)(\d)", str(layers))), default=1)
    return {"preset": "reconstruction", "init": init, "tv_weight": variation * 10 ** ((block - 1) / 2)}


def _refuse(given: Mapping[str, Any], other: str, own: str) -> None:
    name = f"{other}_weight"
    weight = getattr(resolve_options(**{name: given[name]}), name) if name in given else 0
    if weight != 0:
        raise OptionError(
            f"{other} weight {given[name]} has no effect on a reconstruction of {own} alone; leave it out"
        )
    if f"{own}_layers" in given:
        raise OptionError(f"{own}_layers was given beside the layers of the reconstruction; give only one of them")


@dataclass(frozen=True, eq=False)
class Figure:
    """The reconstructions of one picture: its `content` from each of `layers`, and its `style` from the first layer,
    the first two, and so on. `original` is the picture at their size, (3, H, W) in 0…1."""

    layers: tuple[str, ...]
    original: Tensor
    style: tuple[Result, ...]
    content: tuple[Result, ...]

    def sheet(self, *, cell: int = 256, title: str = "", look: Look | None = None) -> Image.Image:
        """Puts all of them on one labelled picture; arguments and errors are those of `contact_sheet`."""
        rows = [[self.original, *(result.tensor for result in row)] for row in (self.style, self.content)]
        sets = ["the picture", self.layers[0], *(f"... and {name}" for name in self.layers[1:])]
        return contact_sheet(
            rows,
            cell=cell,
            row_labels=["style", "content"],
            captions=[sets, ["the picture", *self.layers]],
            title=title,
            look=look,
        )


def reconstruction_figure(
    image: Source | Picture,
    layers: Sequence[str] = PAPER_STYLE_LAYERS,
    *,
    made: Callable[[Result], None] | None = None,
    **options: Unpack[OptionValues],
) -> Figure:
    """Makes figure 1 of the paper for one picture: the content of each layer, and the style of more and more layers.

    `layers` go from shallow to deep. `options` go to both `reconstruct_content` and `reconstruct_style`. `made` is
    called with each result when it is ready, styles first. Raises FastnstError as these functions do.
    """
    names = tuple(layers)
    if not names or isinstance(layers, str):
        raise OptionError(f"layers {layers!r} are not a list of layers; give several, such as conv1_1 and conv2_1")
    picture = _loaded(image, options)
    canvas = Canvas(picture.height, picture.width)
    sets = [names[: count + 1] for count in range(len(names))]
    runs = deque(Stylizer(picture, **style_options(names_so_far, options)).prepare(canvas) for names_so_far in sets)
    runs += [Stylizer([], **content_options(name, options)).prepare(picture) for name in names]
    results = []
    while runs:
        # Each holds a network, which goes with it.
        results.append(runs.popleft().run())
        if made is not None:
            made(results[-1])
    height, width = results[0].tensor.shape[1:]
    original = resize(opaque(picture).rgb, size=(height, width))
    return Figure(names, original, tuple(results[: len(names)]), tuple(results[len(names) :]))

"""The pictures of a run, read, checked and recorded as JSON can hold them, and the image that it begins with."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from fastnst.errors import OptionError, counted, warn
from fastnst.feedforward.first import first_picture, network_shares
from fastnst.image.colour import moments, moved_colours
from fastnst.image.files import MAX_PIXELS, pictures_at
from fastnst.image.picture import AnyPicture, Picture, StreamedPicture, opaque
from fastnst.image.read import Source, open_picture
from fastnst.image.resize import AtSizes, at_size, edge_beside, fitted_size, resize, warn_if_enlarged
from fastnst.loss.masks import load_regions, recorded_regions
from fastnst.loss.targets import style_shares
from fastnst.loss.temporal import Coherence
from fastnst.network.architecture import Preprocessing
from fastnst.options.masks import mask_hashes
from fastnst.options.options import LONGEST, START_WORDS, Options
from fastnst.options.parse import parse_size
from fastnst.options.resolve import resolve_options

Styles = Source | AnyPicture | Sequence[Source | AnyPicture]

# Standard deviation of the noise on an even colour, as neural-style has it in pixel values of 0…255: enough to tell
# neighbours apart.
_TRACE = 0.001 / 255
# Root of the mean square of the colours, beside the greys.
_COLOURLESS = 1.5 / 255
# A start picture may be stretched by so much unnoticed.
_STRETCH = 1.02


@dataclass(frozen=True)
class Canvas:
    """A stand-in for a content picture, with only its height and width in pixels, each 2 to 65535.

    Raises OptionError for other sizes.
    """

    height: int
    width: int

    def __post_init__(self) -> None:
        for name, side in (("height", self.height), ("width", self.width)):
            if isinstance(side, bool) or not isinstance(side, Integral) or not 2 <= side <= LONGEST:
                raise OptionError(
                    f"size {self.width}x{self.height} (width by height) is not possible; each side must be a whole "
                    f"number of 2 to {LONGEST} pixels"
                )
            object.__setattr__(self, name, int(side))  # NumPy's are no JSON

    @property
    def picture(self) -> Picture:
        """An even grey of this size, of one sample that all pixels share."""
        grey = torch.full((3, 1, 1), 0.5, dtype=torch.float32)
        return Picture(grey.expand(3, self.height, self.width), None, "canvas")


def parse_canvas(size: Any) -> Canvas:
    """The canvas of "512x384" (width by height), of a (height, width), or of one number for a square.

    Raises OptionError for anything else.
    """
    if isinstance(size, tuple | list) and len(size) == 2:
        return Canvas(*size)
    try:
        sides = parse_size(size)
    except OptionError:
        sides = Fraction()
    if isinstance(sides, Fraction):
        raise OptionError(
            f"size {size!r} is not a size in pixels; write 512x384 (width by height), or 512 for a square"
        )
    return Canvas(sides, sides) if isinstance(sides, int) else Canvas(sides[1], sides[0])


def recorded_canvas(parameters: Mapping[str, Any]) -> Canvas | None:
    """The canvas of the run whose `parameters` these are; None where it had a content picture."""
    if parameters["content"] is not None:
        return None
    last = parameters["sizes"][-1]
    return Canvas(last["height"], last["width"])


def check_given(parameters: Mapping[str, Any], **given: object) -> None:
    """Raises OptionError for a `content`, `init` or `mask` that is given to the run of these `parameters`, which had
    none to find elsewhere."""
    options = parameters["options"]
    had = {"content": parameters["content"], "init": options["init"] not in START_WORDS, "mask": options.get("masks")}
    for role in (role for role, picture in given.items() if picture is not None and not had[role]):
        raise OptionError(f"{role} has no effect, because the run was made without such a picture; leave it out", role)


def most_pixels(options: Mapping[str, Any]) -> int:
    """The most pixels that are read of a file, by options that may not be resolved yet. Raises OptionError."""
    return resolve_options(max_pixels=options.get("max_pixels", MAX_PIXELS)).max_pixels


def sized(options: Mapping[str, Any], content: Source | AnyPicture | Canvas) -> dict[str, Any]:
    """The options with their size in pixels where it is given in words, by the `content`, of which the header is read:
    "content" is its own size, "50%" a part of that, and "1920x1080" the largest that fits, its proportions kept.

    Raises OptionError for other words, ImageError as `open_picture` does. A FastnstWarning says where a box is not
    filled.
    """
    word = options.get("size")
    if not isinstance(word, str):
        return dict(options)
    size = parse_size(word)
    if not isinstance(size, int):
        names = ("preset", "edge", "max_pixels")
        known = resolve_options(**{name: options[name] for name in names if name in options})
        picture = opened(content, known.max_pixels)
        size = edge_beside(size, (picture.height, picture.width), known.edge)
    return {**options, "size": size}


def opened(content: Source | AnyPicture | Canvas, max_pixels: int = MAX_PIXELS) -> AnyPicture | Canvas:
    """The content of a run, read if it is to be read. Raises ImageError as `open_picture` does."""
    if isinstance(content, Picture | StreamedPicture | Canvas):
        return content
    return open_picture(content, role="content", max_pixels=max_pixels)


def fingerprint(max_pixels: int, role: str, path: str) -> str:
    """The hash by which a run records the picture at `path`; a style is recorded opaque."""
    picture = open_picture(path, role=role, max_pixels=max_pixels)
    return (opaque(picture) if role == "style" else picture).sha256


def changed_inputs(
    record: Mapping[str, Any],
    content: str | None,
    styles: Sequence[str],
    options: Options,
    sha256_of: Callable[[str, str], str],
) -> Iterator[str]:
    """A sentence for each of a run's pictures, by their paths, that is another than the one in the `record` of a run.

    `sha256_of(role, path)` is a picture's `fingerprint`.
    """
    masks = [mask.mapped(partial(sha256_of, "mask")) for mask in options.masks or ()]
    if masks != mask_hashes(record.get("masks")):
        yield "the masks are not those that the image was made with"
    recorded = record.get("styles")
    entries = recorded if isinstance(recorded, list) else []
    if len(entries) != len(styles):
        yield f"the image was made from {counted(len(entries), 'style')}, not {len(styles)}"
    pictures = [("style", path, entry) for path, entry in zip(styles, entries, strict=False)]
    if content is not None:
        pictures.insert(0, ("content", content, record.get("content")))
    if options.init not in START_WORDS:
        pictures.append(("init", options.init, record.get("init")))
    for role, path, entry in pictures:
        if not isinstance(entry, dict) or entry.get("sha256") != sha256_of(role, path):
            yield f"the {role} {path!r} is not the picture that the image was made from"


class Inputs:
    """The pictures of a run beside its content, read from a style, a sequence of them or a folder of pictures, and from
    what `options` name: opaque `styles`, with `shares` that sum to 1, the picture that it starts from, `init`, or None
    for one of `START_WORDS`, and the `regions` of its masks, or None.

    Raises OptionError where there are no styles, or not as many as weights, and ImageError for one that cannot be read.
    """

    def __init__(self, style: Styles, options: Options) -> None:
        self.styles = _load_styles(style, options)
        self.shares = style_shares(options.style_weights, len(self.styles))
        is_word = isinstance(options.init, str) and options.init in START_WORDS
        self.init = None if is_word else open_picture(options.init, role="init", max_pixels=options.max_pixels)
        self.regions = None if options.masks is None else load_regions(options.masks, self.styles, self.shares)
        if is_word and options.init == "network":
            network_shares(self.hashed)

    @property
    def hashed(self) -> list[tuple[str, float]]:
        """The styles' hashes with their shares."""
        return [(style.sha256, share) for style, share in zip(self.styles, self.shares, strict=True)]

    def places(self, content: AnyPicture | Canvas) -> dict[str, Any]:
        """The absolute paths of the pictures, None for what was no file; masks as `parse_masks` takes them."""
        return {
            "content": None if isinstance(content, Canvas) else _absolute(content.name),
            "styles": [_absolute(style.name) for style in self.styles],
            "init": None if self.init is None else _absolute(self.init.name),
            "masks": self._masks(lambda picture: _absolute(picture["name"])),
        }

    def _masks(self, change: Callable[[Mapping[str, Any]], Any] = dict) -> list[dict[str, Any]] | None:
        """The records of the masks' pictures, by what they are for, with what `change` makes of each."""
        if self.regions is None:
            return None
        regions = recorded_regions(self.regions)
        return [{part: picture and change(picture) for part, picture in region.items()} for region in regions]

    def warn_of_scaling(self, scales: Sequence["Scale"], options: Options) -> None:
        """Says with a FastnstWarning where the start picture is stretched, or a style far smaller than it is shown."""
        last = scales[-1]
        if self.init is not None:
            (height, width), init = scales[0].size, self.init
            factor = (width / init.width) / (height / init.height)
            # A side of the smaller of the two may be rounded by half a pixel.
            rounding = 1 + 1 / min(height, width, init.height, init.width)
            if max(factor, 1 / factor) > _STRETCH * rounding:
                times = f"{factor:.2f} times in width" if factor > 1 else f"{1 / factor:.2f} times in height"
                warn(
                    f"init image {init.name!r} is {init.width}×{init.height} pixels, and is stretched {times} to "
                    f"{last.size[1]}×{last.size[0]}; crop it to those proportions if you do not want that"
                )
        for style in self.styles:
            warn_if_enlarged(style, style_size(style, last.edge, options))

    def record(
        self, content: AnyPicture | Canvas, sizes: Sequence[tuple[int, int]], options: Options
    ) -> dict[str, Any]:
        """The facts of a run before its network is loaded: names and hashes of its pictures, its sizes, the options."""
        values = options.as_dict()
        values["init"] = options.init if self.init is None else self.init.name
        values["masks"] = self._masks(lambda picture: picture["name"])
        return {
            "content": None if isinstance(content, Canvas) else _named(content),
            "styles": [
                {**_named(style), "weight": share} for style, share in zip(self.styles, self.shares, strict=True)
            ],
            "init": None if self.init is None else _named(self.init),
            "masks": self._masks(),
            "sizes": [{"width": width, "height": height} for height, width in sizes],
            "options": values,
        }


def _load_styles(style: Styles, options: Options) -> list[AnyPicture]:
    given: list[Source | AnyPicture] = list(style) if isinstance(style, list | tuple) else [style]  # type: ignore[list-item]
    sources: list[Source | AnyPicture] = []
    for each in given:
        sources += pictures_at(each, "style") if isinstance(each, str | os.PathLike) else [each]
    read = partial(open_picture, role="style", max_pixels=options.max_pixels)
    if not sources and (options.last_style_weight > 0 or options.init == "style-mean"):
        raise OptionError("no style image was given; give at least one")
    return [opaque(each if isinstance(each, Picture | StreamedPicture) else read(each)) for each in sources]


def _named(picture: AnyPicture) -> dict[str, Any]:
    return {"name": picture.name, "sha256": picture.sha256, **picture.tags}


def _absolute(name: str) -> str | None:
    return os.path.abspath(name) if os.path.isfile(name) else None  # noqa: PTH100, PTH113


@dataclass(frozen=True)
class Scale:
    """A scale of a run: its place among them, its measured edge in pixels, the (height, width) of its image, its steps,
    and β there; of a transfer of features it is one level, with the layer whose features it makes."""

    index: int
    edge: int
    size: tuple[int, int]
    iterations: int
    style_weight: float
    layer: str | None = None


@dataclass(frozen=True, eq=False)
class Start:
    """A start in place of the option `init`: an `image`, (1, 3, H, W) float32 of the last scale, which alone is made,
    in so many `iterations`, held to what `coherence` says. `curvature` is what L-BFGS knew after another frame."""

    image: Tensor
    iterations: int
    coherence: Coherence
    curvature: Mapping[str, Tensor]


def style_size(style: AnyPicture | Canvas, edge: int, options: Options) -> tuple[int, int]:
    """The (height, width) at which a style is shown at the scale whose measured edge is `edge`."""
    scaled = max(1, round(edge * options.style_scale))
    return fitted_size(style.height, style.width, scaled, options.edge)


def start_image(
    inputs: Inputs,
    scale: Scale,
    *,
    content: AtSizes,
    styles: Sequence[AnyPicture],
    options: Options,
    preprocessing: Preprocessing,
) -> Tensor:
    """The image that a run begins with at its first scale, (1, 3, H, W) float32 on the CPU, by the option `init`.

    `content` and `styles` are as the network is shown them, with its `preprocessing`.
    """
    init, size, seed = options.init, scale.size, options.seed
    if inputs.init is not None:
        return at_size(inputs.init, size).rgb[None]
    if init == "noise":
        shown = [content.at(size), *(at_size(style, style_size(style, scale.edge, options)) for style in styles)]
        # Of one channel it is grey.
        shape = (1, 1 if all(map(_is_grey, shown)) else 3, *size)
        noise = torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float32)
        return noise.expand(-1, 3, -1, -1).contiguous()
    if init == "grey":
        return even_colour(network_grey(preprocessing), size, seed)[None]
    if init == "content" or not styles:
        return content.at(size).rgb[None]
    if init == "network":
        edge, blend = scale.edge * options.style_scale, network_shares(inputs.hashed)
        made = resize(first_picture(lambda size: content.at(size).rgb, size, edge, blend), size)
        if inputs.regions is not None:
            # Beside the masks it is the content: no term would bring its pixels back there.
            masks = [resize(region.content.values, size=size)[0] for region in inputs.regions]
            made = torch.lerp(content.at(size).rgb, made, torch.stack(masks).sum(0).clamp(max=1))
        return made[None]
    pictures = [at_size(style, style_size(style, scale.edge, options)) for style in styles]
    if init == "style-mean":
        return even_colour(mean_colour(pictures, inputs.shares), size, seed)[None]
    return recoloured(content.at(size), pictures, inputs.shares)[None]


def recoloured(content: Picture, styles: Sequence[Picture], shares: Sequence[float]) -> Tensor:
    """The content in colours with the mean and covariance of the styles' pixels, by their shares, (3, H, W) in 0…1.

    The content's own count as far as its alpha shows them. See `fastnst.image.colour.moved_colours`.
    """
    weighted = (
        (style.rgb, style.rgb.new_full((1, *style.rgb.shape[1:]), share / style.rgb[0].numel()))
        for style, share in zip(styles, shares, strict=True)
    )
    return moved_colours(content.rgb, moments([(content.rgb, content.alpha)]), moments(weighted))


def _is_grey(picture: Picture) -> bool:
    """True where a picture has no colours but what a JPEG leaves of none."""
    return float((picture.rgb - picture.rgb.mean(0, keepdim=True)).square().mean().sqrt()) < _COLOURLESS


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

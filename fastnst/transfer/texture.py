"""Texture synthesis: an image of the styles alone, from noise (Gatys, Ecker and Bethge 2015)."""

import os
from collections.abc import Mapping
from typing import Any, Unpack

from fastnst.errors import OptionError
from fastnst.options.keywords import UnsizedValues
from fastnst.transfer.canvas import Canvas, parse_canvas
from fastnst.transfer.result import Result
from fastnst.transfer.run import Callback
from fastnst.transfer.run_inputs import Styles
from fastnst.transfer.stylizer import Stylizer


def synthesize_texture(
    style: Styles,
    *,
    size: int | str | tuple[int, int] = 512,
    tileable: bool = False,
    callback: Callback | None = None,
    callback_every: int | None = 1,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: float = 60.0,
    **options: Unpack[UnsizedValues],
) -> Result:
    """Makes an image whose Gram matrices are those of `style`: its texture, without the arrangement of the picture.

    The objective is that of `stylize` without its content term, `total = β · style + γ · tv`, minimised from white
    noise (Gatys, Ecker and Bethge: Texture Synthesis Using Convolutional Neural Networks, 2015). The style layers say
    up to which size structures are taken over: `["conv1_1", "conv2_1"]` those of a few pixels.

    Args:
        style: a picture, or a sequence of them, as `stylize` takes them; `style_weights` are their shares.
        size: of the result in pixels: (height, width), "512x384" (width by height), or one number for a square. The
            style pictures are scaled to its long edge times `style_scale`.
        tileable: whether copies of the result fit together without a seam, left to right and top to bottom. It is
            `padding="circular"`, and needs sides that are multiples of the pooling grid: 16 pixels down to conv5_1.
        callback: as for `stylize`.
        callback_every: as for `stylize`.
        checkpoint: as for `stylize`.
        checkpoint_every: as for `stylize`.
        **options: the fields of `fastnst.Options` but the size; the preset is "texture" where none is given.

    Raises:
        FastnstError: for input that cannot be used, before any long work; OptionError for a content weight, or other
            options that need a content picture.
        DivergedError: when the loss turns NaN or infinite; it carries the best image before that.
    """
    canvas = parse_canvas(size)
    return Stylizer(style, **texture_options(canvas, options, tileable=tileable))(
        canvas,
        callback=callback,
        callback_every=callback_every,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
    )


def texture_options(canvas: Canvas, given: Mapping[str, Any], *, tileable: bool = False) -> dict[str, Any]:
    """The options of a run that makes a texture of the size of `canvas`, from those that are given.

    Raises OptionError for a content weight, or a padding that does not tile where that is asked for.
    """
    padding = given.get("padding", "circular")
    if tileable and padding != "circular":
        raise OptionError(f"padding {padding!r} does not tile; leave it out, or do not ask for a texture that tiles")
    weight = given.get("content_weight", 0)
    if weight != 0:
        raise OptionError(f"content weight {weight!r} was given for a texture, which has no content; leave it out")
    own = {"preset": "texture", "init": "noise", "size": canvas.long_edge, "edge": "long"}
    tiling = {"padding": "circular"} if tileable else {}
    return {**own, **given, **tiling, "content_weight": 0.0}

"""The result of a run: the image, its losses and how it was made."""

import base64
import html
import io
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Unpack

from PIL import Image
from torch import Tensor

from fastnst.errors import FastnstError, counted
from fastnst.image.write import Form, Target, save_image, to_pil

_LARGEST_SHOWN = 1024


@dataclass(frozen=True)
class LossRecord:
    """The loss of the image after `iteration` steps of the run, at the scale whose long edge is `scale` pixels.

    `content`, `style` and `tv` are the terms before their weights, `total` is the weighted sum, and `seconds` is the
    time since the run began. The first record of a scale is for its starting image.
    """

    iteration: int
    scale: int
    total: float
    content: float
    style: float
    tv: float
    seconds: float

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Iterate:
    """The state of a run that a callback gets after each evaluation: the record of the image, the image, and the
    progress.

    `alpha` and `parameters` are those of a `Result`. `iterations` counts the steps of the whole run, `scales` are its
    long edges in pixels, and `share` is the part of the work that is done, in steps × pixels, from 0 to 1.

    `look` copies the image before the callback is called; for a callback whose attribute `lazy` is true, it does so
    when `image` is first read.
    """

    record: LossRecord
    look: Callable[[], Tensor] = field(repr=False)
    alpha: Tensor | None
    parameters: Mapping[str, Any]
    iterations: int
    scales: tuple[int, ...]
    share: float = 0.0

    @cached_property
    def image(self) -> Tensor:
        """A copy of the image, (3, H, W) float32 in 0…1 on the CPU."""
        image = self.look()
        # What it looked at is as large, and not needed any more.
        object.__setattr__(self, "look", lambda: image)
        return image

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "image": self.image, "look": None}

    def save(self, path: Target, **form: Unpack[Form]) -> None:
        """Writes the image as `Result.save` does."""
        save_image(path, self.image, self.alpha, parameters=self.parameters, **form)

    def __repr__(self) -> str:
        record = self.record
        return f"Iterate({record.iteration} of {self.iterations}, {record.scale} px, loss {record.total:.4g})"


Callback = Callable[[Iterate], bool | None]


@dataclass(frozen=True, eq=False)
class Result:
    """A finished or stopped run.

    Attributes:
        tensor: the image, (3, H, W) float32 in 0…1 on the CPU. It is the image of the lowest loss at the last scale, or
            with the option `average` the mean of the images. `alpha` is the content's alpha at that size, (1, H, W), or
            None.
        losses: one record for each evaluation.
        parameters: how the image was made, in values that JSON can hold: options, inputs, weights, sizes, versions, and
            `final`, the record of `tensor`.
        stopped: None for a run that reached its end, and otherwise the reason why it ended earlier.
    """

    tensor: Tensor
    alpha: Tensor | None
    losses: tuple[LossRecord, ...]
    parameters: Mapping[str, Any]
    stopped: str | None = None

    @property
    def interrupted(self) -> "Result":
        """The same, as one that its user has stopped."""
        return replace(self, stopped="interrupted", parameters={**self.parameters, "stopped": "interrupted"})

    @property
    def image(self) -> Image.Image:
        """The image as a PIL image: RGB, or RGBA if the content has alpha, with 8 bits, in sRGB."""
        return to_pil(self.tensor, self.alpha)

    def __repr__(self) -> str:
        height, width = self.tensor.shape[-2:]
        final = self.parameters.get("final")
        loss = f", loss {final['total']:.4g}" if final else ""
        return f"Result({width}×{height}{loss}{f', stopped: {self.stopped}' if self.stopped else ''})"

    def _repr_html_(self) -> str:
        """The image for a notebook, which keeps it in its file, and a line of facts below it.

        It is reduced where it is longer than a screen shows.
        """
        encoded, small = io.BytesIO(), self.image
        small.thumbnail((_LARGEST_SHOWN, _LARGEST_SHOWN))
        small.save(encoded, "PNG")
        facts = html.escape(repr(self).removeprefix("Result(").removesuffix(")"))
        if self.losses:
            facts += f", {counted(self.losses[-1].iteration, 'iteration')} in {self.losses[-1].seconds:.1f} s"
        source = f"data:image/png;base64,{base64.b64encode(encoded.getvalue()).decode()}"
        return f'<figure><img src="{source}" alt="the result"><figcaption>{facts}</figcaption></figure>'

    def save(self, path: Target, **form: Unpack[Form]) -> None:
        """Writes the image to a path or a binary stream, with `parameters` in its metadata, atomically.

        `format` is png, jpeg, webp, tiff, avif or npy; by default the name decides, and a stream gets PNG. `bit_depth`
        is 8, or 16 for PNG and TIFF. `quality` is 1 to 100, for JPEG, WebP and AVIF. Raises ImageError if the image
        cannot be written there, and OptionError if one of the three is not possible.
        """
        save_image(path, self.tensor, self.alpha, parameters=self.parameters, **form)


class DivergedError(FastnstError):
    """The loss became NaN or infinite. `result` holds the best image before that, and the losses until then."""

    def __init__(self, message: str, result: Result) -> None:
        super().__init__(message)
        self.result = result

    def __reduce__(self) -> tuple[Any, ...]:
        return DivergedError, (*self.args, self.result)

"""The main path: load → targets → for each scale: optimise → result."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Unpack

import torch
from torch import Tensor

from fastnst.architecture import pools_before
from fastnst.backbone import build_backbone
from fastnst.errors import OptionError
from fastnst.images import Source, Picture, check_fits, fitted_size, load_image, resize
from fastnst.objective import Loss, Objective, StyleTarget, make_objective, style_targets
from fastnst.optimizers import make_optimizer
from fastnst.options import Options, OptionValues, resolve_options
from fastnst.pyramid import scale_edges
from fastnst.result import DivergedError, Iterate, LossRecord, Result
from fastnst.runtime import float32_products, resolve_runtime, versions
from fastnst.weights import load_weights

Callback = Callable[[Iterate], bool | None]
Styles = Source | Sequence[Source]


def stylize(
    content: Source, style: Styles, *, callback: Callback | None = None, **options: Unpack[OptionValues]
) -> Result:
    """Renders `content` in the style of `style` by optimising the image itself (Gatys, Ecker and Bethge 2016).

    Args:
        content: a path, a PIL image, an array (H, W, 3) of uint8 or of floats in 0…1, or a tensor (3, H, W) or
            (1, 3, H, W) in 0…1.
        style: the same, or a sequence of them.
        callback: called with an `Iterate` after each evaluation; returning False stops the run there.
        **options: the fields of `fastnst.Options`, such as `size=512`, `style_weight=300` or `preset="gatys"`.

    Returns:
        The image, its losses and its parameters.

    Raises:
        FastnstError: for input that cannot be used, before any long work; its subclasses say which.
        DivergedError: when the loss turns NaN or infinite; it carries the last good image.
    """
    return Stylizer(style, **options)(content, callback=callback)


class Stylizer:
    """Keeps the loaded network and the style's targets, to stylize many images with one style.

        stylizer = fastnst.Stylizer("starry_night.jpg", size=512)
        for path in paths:
            stylizer(path).save(...)

    Args and errors are those of `stylize`. An instance may be used from one thread at a time.
    """

    def __init__(self, style: Styles, **options: Unpack[OptionValues]) -> None:
        self.options = resolve_options(**options)
        self.runtime = resolve_runtime(self.options)
        taps = self.options.taps
        self._smallest = 2 ** pools_before(self.options.network, taps)
        self._styles = _load_styles(style, self.options, self._smallest)
        self._shares = _style_shares(self.options.style_weights, len(self._styles))
        self._init = None
        if not _is_word(self.options.init):
            self._init = load_image(self.options.init, role="init")
        self._weights = load_weights(self.options.weights, self.options.network, taps=taps)
        self._backbone = build_backbone(
            self._weights,
            taps,
            pooling=self.options.pooling,
            padding=self.options.padding,
            device=self.runtime.device,
            dtype=self.runtime.dtype,
        )
        self._style_targets: dict[int, dict[str, StyleTarget]] = {}

    def __call__(self, content: Source, *, callback: Callback | None = None) -> Result:
        """Stylizes one image; see `stylize`."""
        options = self.options
        picture = load_image(content, role="content")
        height, width = picture.rgb.shape[-2:]
        edges = scale_edges(options.scales, options.size, height, width)
        sizes = [fitted_size(height, width, edge) for edge in edges]
        for size in sizes:
            check_fits(*size, minimum=self._smallest, role="content")

        run = _Run(picture, edges, sizes, self._parameters(picture, sizes), callback, options.iterations)
        image = self._start(picture, sizes[0])
        with float32_products(self.runtime.tf32):
            for edge, size in zip(edges, sizes, strict=True):
                target = resize(picture.rgb, size=size)[None].to(self.runtime.device)
                objective = make_objective(self._backbone, target, self._style(edge), options, self.runtime)
                image = run.optimise(resize(image[0], size=size)[None], objective, edge, make_optimizer(options))
                if run.stopped:
                    break
        return run.result(image)

    def _start(self, content: Picture, size: tuple[int, int]) -> Tensor:
        """The first image, (1, 3, H, W) float32 on the run's device."""
        if self.options.init == "noise":
            generator = torch.Generator().manual_seed(self.options.seed)
            start = torch.rand((3, *size), generator=generator)
        else:
            start = resize((self._init or content).rgb, size=size)
        return start[None].to(self.runtime.device, copy=True)

    def _style(self, edge: int) -> dict[str, StyleTarget]:
        """The style's targets at the scale whose long edge is `edge`, computed once."""
        if edge not in self._style_targets:
            images = [
                resize(style.rgb, size=_style_size(style, edge, self.options.style_scale))[None].to(self.runtime.device)
                for style in self._styles
            ]
            shares = list(zip(images, self._shares, strict=True))
            self._style_targets[edge] = style_targets(self._backbone, shares, self.options, self.runtime)
        return self._style_targets[edge]

    def _parameters(self, content: Picture, sizes: list[tuple[int, int]]) -> dict[str, Any]:
        """How the image is made, as JSON can hold it."""
        values = {option.name: getattr(self.options, option.name) for option in fields(Options)}
        values["init"] = self.options.init if self._init is None else self._init.name
        values["content_layers"] = dict(self.options.content_layers)
        values["style_layers"] = dict(self.options.style_layers)
        return {
            "content": {"name": content.name, "sha256": content.sha256},
            "styles": [
                {"name": style.name, "sha256": style.sha256, "weight": share}
                for style, share in zip(self._styles, self._shares, strict=True)
            ],
            "sizes": [{"width": width, "height": height} for height, width in sizes],
            "weights": {"source": self._weights.source, "sha256": self._weights.sha256},
            "device": str(self.runtime.device),
            "precision": self.runtime.precision,
            "options": values,
            "versions": versions(),
        }


@dataclass
class _Run:
    """One run's records and state, from its first evaluation to its result."""

    content: Picture
    edges: tuple[int, ...]
    sizes: list[tuple[int, int]]
    parameters: dict[str, Any]
    callback: Callback | None
    iterations_per_scale: int

    def __post_init__(self) -> None:
        self.losses: list[LossRecord] = []
        self.stopped: str | None = None
        self._began = time.perf_counter()
        self._steps = 0

    def optimise(self, image: Tensor, objective: Objective, edge: int, optimizer: Any) -> Tensor:
        """`iterations_per_scale` steps at one scale, each image evaluated, the last one too."""
        good = image.clone()
        for iteration in range(self.iterations_per_scale + 1):
            last = iteration == self.iterations_per_scale
            if last:
                with torch.no_grad():
                    loss, gradient = objective.loss(image), None
            else:
                loss, gradient = objective.loss_and_gradient(image)
            record = self._record(loss, edge)
            if not math.isfinite(record.total):
                raise DivergedError(_divergence(record, objective), self.result(good))
            self.losses.append(record)
            if self.callback is not None and self.callback(self._iterate(record, image)) is False:
                self.stopped = "callback"
                return image
            if gradient is None:
                return image
            good.copy_(image)
            optimizer.step(image, gradient)
            self._steps += 1
        return image

    def result(self, image: Tensor) -> Result:
        tensor = _finished(image)
        alpha = self.content.alpha
        if alpha is not None:
            alpha = resize(alpha, size=tuple(tensor.shape[-2:]))
        final = self.losses[-1].as_dict() if self.losses else None
        parameters = {**self.parameters, "stopped": self.stopped, "final": final}
        return Result(tensor, alpha, tuple(self.losses), parameters, self.stopped)

    def _record(self, loss: Loss, edge: int) -> LossRecord:
        total, content, style, tv = torch.stack((loss.total, loss.content, loss.style, loss.tv)).tolist()
        return LossRecord(self._steps, edge, total, content, style, tv, time.perf_counter() - self._began)

    def _iterate(self, record: LossRecord, image: Tensor) -> Iterate:
        return Iterate(record, _finished(image), self.iterations_per_scale * len(self.edges), self.edges)


def _load_styles(style: Styles, options: Options, smallest: int) -> list[Picture]:
    sources = list(style) if isinstance(style, list | tuple) else [style]
    if not sources:
        raise OptionError("no style image given; give at least one")
    if options.style_weights is not None and len(options.style_weights) != len(sources):
        raise OptionError(
            f"{len(options.style_weights)} style weights for {len(sources)} style images; give one for each image"
        )
    pictures = [load_image(source, role="style") for source in sources]
    for picture in pictures:
        for edge in scale_edges(options.scales, options.size, *picture.rgb.shape[-2:])[:1]:
            check_fits(*_style_size(picture, edge, options.style_scale), minimum=smallest, role="style")
    return pictures


def _style_size(style: Picture, edge: int, style_scale: float) -> tuple[int, int]:
    height, width = style.rgb.shape[-2:]
    return fitted_size(height, width, round(edge * style_scale))


def _style_shares(weights: tuple[float, ...] | None, count: int) -> tuple[float, ...]:
    if weights is None:
        return (1 / count,) * count
    return tuple(weight / sum(weights) for weight in weights)


def _is_word(init: Any) -> bool:
    return isinstance(init, str) and init in ("content", "noise")


def _finished(image: Tensor) -> Tensor:
    return image.detach()[0].clamp(0, 1).float().cpu().clone()


def _divergence(record: LossRecord, objective: Objective) -> str:
    where = f"the loss became {record.total} at iteration {record.iteration} (scale {record.scale})"
    if objective.runtime.dtype == torch.float16:
        cause = "float16 overflowed; use --precision bf16 or fp32"
    elif record.iteration == 0:
        cause = (
            "the weights are too large for float32, or the network's weights are damaged; lower them or check the file"
        )
    else:
        cause = "the steps are too long; lower --learning-rate, or use --optimizer adam"
    return f"{where}: {cause}"

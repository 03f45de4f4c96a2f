"""The main path: load → targets → for each scale: optimise → result."""

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Unpack

import torch
from fastnst_kernels import BlendedTarget
from torch import Tensor

from fastnst.architecture import pools_before
from fastnst.backbone import Backbone, build_backbone
from fastnst.descent import Descent, Pace
from fastnst.errors import OptionError
from fastnst.images import Picture, Source, check_fits, fitted_size, flattened, load_image, resize, resize_picture
from fastnst.objective import Objective, make_objective, style_targets
from fastnst.optimizers import Optimizer, make_optimizer
from fastnst.options import Options, OptionValues, resolve_options
from fastnst.pyramid import scale_edges
from fastnst.result import DivergedError, Iterate, LossRecord, Result
from fastnst.runtime import float32_products, own_modes, resolve_runtime, timed_algorithms, versions
from fastnst.weights import Weights, load_weights

Callback = Callable[[Iterate], bool | None]
Styles = Source | Sequence[Source]

# A first loss beyond this leaves too little of float32's range for the squares in the optimiser.
_SUSPICIOUS_LOSS = 1e15
# Steps over which the loss must fall by the tolerance: L-BFGS without a line search may rise for a few.
_TOLERANCE_STEPS = 10


def stylize(
    content: Source,
    style: Styles,
    *,
    callback: Callback | None = None,
    callback_every: int | None = 1,
    **options: Unpack[OptionValues],
) -> Result:
    """Renders `content` in the style of `style` by optimising the image itself (Gatys, Ecker and Bethge 2016).

    Args:
        content: a path, a PIL image, an array (H, W, 3) of uint8 or of floats in 0…1, or a tensor (3, H, W) or
            (1, 3, H, W) in 0…1.
        style: the same, or a sequence of them.
        callback: called with an `Iterate` when losses have been read back; returning False (not None) stops the run
            there.
        callback_every: read them back at least after so many evaluations. On a CPU it is after each one anyway; on a
            GPU 1 makes it wait at every iteration, and None leaves it at about four times a second.
        **options: the fields of `fastnst.Options`, such as `size=512`, `style_weight=100` or `preset="gatys"`.

    Returns:
        The image, its losses and its parameters.

    Raises:
        FastnstError: for input that cannot be used, before any long work; its subclasses say which.
        DivergedError: when the loss turns NaN or infinite; it carries the best image before that.
    """
    return Stylizer(style, **options)(content, callback=callback, callback_every=callback_every)


class Stylizer:
    """Keeps the network and the style's targets, to stylize many images with one style.

        stylizer = fastnst.Stylizer("starry_night.jpg", size=512)
        for path in paths:
            stylizer(path).save(...)

    Args and errors are those of `stylize`. The network is loaded by the first call. An instance may be used from one
    thread at a time.
    """

    def __init__(self, style: Styles, **options: Unpack[OptionValues]) -> None:
        self.options = resolve_options(**options)
        self.runtime = resolve_runtime(self.options)
        self._smallest = 2 ** pools_before(self.options.network, self.options.taps)
        self._styles = _load_styles(style, self.options)
        self._shares = _style_shares(self.options.style_weights, len(self._styles))
        self._starts_from = self.options.init if _is_word(self.options.init) else "picture"
        self._init = load_image(self.options.init, role="init") if self._starts_from == "picture" else None
        self._style_targets: dict[int, dict[str, BlendedTarget]] = {}
        self._network: tuple[Weights, Backbone] | None = None

    def __call__(
        self, content: Source | Picture, *, callback: Callback | None = None, callback_every: int | None = 1
    ) -> Result:
        """Stylizes one image; see `stylize`."""
        if callback is not None and not callable(callback):
            raise OptionError(f"callback {callback!r} cannot be called; give a function of one Iterate")
        if callback_every is not None and (not isinstance(callback_every, int) or callback_every < 1):
            raise OptionError(f"callback_every {callback_every!r} is not a whole number of 1 or more, nor None")
        with own_modes(self.runtime.device), float32_products(self.runtime.tf32), timed_algorithms():
            return self._stylize(content, callback, callback_every if callback is not None else None)

    def _stylize(self, content: Source | Picture, callback: Callback | None, every: int | None) -> Result:
        picture = content if isinstance(content, Picture) else load_image(content, role="content")
        scales = self.scales(picture)
        weights, backbone = self._loaded()
        run = _Run(self._parameters(picture, scales, weights), callback, every, self.options, tuple(scales))
        image = self._start(picture, next(iter(scales.values())))
        for edge, size in scales.items():
            target = resize_picture(picture, size=size)
            image = resize(image, size=size)
            pixels = target.rgb[None].to(self.runtime.device)
            objective = make_objective(backbone, pixels, self._style(edge, backbone), self.options, self.runtime)
            image = run.optimise(image, target.alpha, objective, edge, self._optimizer)
            if run.stopped:
                break
        return run.result(image, target.alpha)

    def _optimizer(self) -> Optimizer:
        return make_optimizer(self.options, self.runtime)

    def scales(self, content: Picture) -> dict[int, tuple[int, int]]:
        """The run's scales in order: from the long edge in pixels to the (height, width) of the image.

        Raises ImageError where the content or a style would be too small for the network at one of them.
        """
        options = self.options
        edges = scale_edges(options.scales, options.size, content.height, content.width)
        sizes = {edge: fitted_size(content.height, content.width, edge) for edge in edges}
        for edge, size in sizes.items():
            check_fits(*size, self._smallest, role="content", scale=edge, layers=options.taps)
            for style in self._styles:
                check_fits(
                    *self._style_size(style, edge), self._smallest, role="style", scale=edge, layers=options.taps
                )
        return sizes

    def load(self, *, progress: bool = True) -> None:
        """Loads the network now, not at the first call; a download shows its progress on a terminal."""
        with own_modes(self.runtime.device):
            self._loaded(progress and sys.stderr is not None and sys.stderr.isatty())

    def _loaded(self, progress: bool = False) -> tuple[Weights, Backbone]:
        if self._network is None:
            options, runtime = self.options, self.runtime
            weights = load_weights(options.weights, options.network, taps=options.taps, progress=progress)
            backbone = build_backbone(
                weights,
                options.taps,
                runtime,
                pooling=options.pooling,
                padding=options.padding,
            )
            self._network = weights, backbone
        return self._network

    def _start(self, content: Picture, size: tuple[int, int]) -> Tensor:
        """The first image, (1, 3, H, W) float32 on the run's device."""
        if self._starts_from == "noise":
            generator = torch.Generator().manual_seed(self.options.seed)
            start = torch.rand((3, *size), generator=generator)
        else:
            start = resize_picture(self._init or content, size=size).rgb
        return start[None].to(self.runtime.device, copy=True)

    def _style(self, edge: int, backbone: Backbone) -> dict[str, BlendedTarget]:
        """The style's targets at the scale whose long edge is `edge`, computed once."""
        if edge not in self._style_targets:
            pictures = [resize_picture(style, size=self._style_size(style, edge)) for style in self._styles]
            images = [picture.rgb[None].to(self.runtime.device) for picture in pictures]
            shares = list(zip(images, self._shares, strict=True))
            self._style_targets[edge] = style_targets(backbone, shares, self.options, self.runtime)
        return self._style_targets[edge]

    def _style_size(self, style: Picture, edge: int) -> tuple[int, int]:
        return fitted_size(style.height, style.width, max(1, round(edge * self.options.style_scale)))

    def _parameters(self, content: Picture, scales: dict[int, tuple[int, int]], weights: Weights) -> dict[str, Any]:
        """How the image is made, as JSON can hold it."""
        values = {option.name: getattr(self.options, option.name) for option in fields(Options)}
        values["init"] = self._starts_from if self._init is None else self._init.name
        values["content_layers"] = dict(self.options.content_layers)
        values["style_layers"] = dict(self.options.style_layers)
        return {
            "content": {"name": content.name, "sha256": content.sha256},
            "styles": [
                {"name": style.name, "sha256": style.sha256, "weight": share}
                for style, share in zip(self._styles, self._shares, strict=True)
            ],
            "sizes": [{"width": width, "height": height} for height, width in scales.values()],
            "weights": {"source": weights.source, "sha256": weights.sha256},
            "device": str(self.runtime.device),
            "precision": self.runtime.precision,
            "options": values,
            "versions": versions(),
        }


@dataclass
class _Run:
    """One run's records and state, from its first evaluation to its result."""

    parameters: dict[str, Any]
    callback: Callback | None
    callback_every: int | None
    options: Options
    edges: tuple[int, ...]

    def __post_init__(self) -> None:
        self.losses: list[LossRecord] = []
        self.stopped: str | None = None
        self._began = time.perf_counter()
        self._steps = 0

    def optimise(
        self, image: Tensor, alpha: Tensor | None, objective: Objective, edge: int, make: Callable[[], Optimizer]
    ) -> Tensor:
        """The steps of one scale, each image evaluated, the last one too."""
        descent = Descent(image, objective, make)
        deadline = self._deadline(edge)
        pace = Pace(image.device, self.callback_every, deadline)
        first = len(self.losses)
        done, last, late, settled = 0, False, False, False
        descent.begin()
        while True:
            if last or pace.is_due(done):
                asked = done
                self._note(descent, pace, edge, first, alpha, objective)
                done = len(self.losses) - first - 1
                if self._is_stopped_by_callback(descent.image, alpha):
                    self.stopped = "callback"
                    return descent.image
                # An overflow of float16 takes iterations back.
                if last and done == asked:
                    self._steps += done
                    if late and edge == self.edges[-1]:
                        self.stopped = "time"
                    return descent.image
                settled = self._is_settled(first)
            finished = done + 1 == self.options.iterations or settled
            late = not finished and time.perf_counter() > deadline
            last = finished or late
            if last:
                descent.end()
            else:
                descent.advance()
            done += 1

    def _note(
        self, descent: Descent, pace: Pace, edge: int, first: int, alpha: Tensor | None, objective: Objective
    ) -> None:
        """Reads the losses back. Raises DivergedError with the best image of the scale if one is not finite."""
        rows = descent.read()
        for terms, moment in zip(rows, pace.moments(len(rows)), strict=True):
            iteration = self._steps + len(self.losses) - first
            record = LossRecord(iteration, edge, *terms, moment - self._began)
            if not math.isfinite(record.total):
                cause = _divergence(record, objective, self.losses)
                totals = [known.total for known in self.losses[first:]]
                del self.losses[first + (totals.index(min(totals)) + 1 if totals else 0) :]
                self.stopped = "diverged"
                raise DivergedError(cause, self.result(descent.best, alpha))
            self.losses.append(record)

    def _deadline(self, edge: int) -> float:
        """When the scale `edge` must end: the last one with the run, others after half of the time that is left."""
        if self.options.seconds is None:
            return math.inf
        end = self._began + self.options.seconds
        now = time.perf_counter()
        return end if edge == self.edges[-1] else now + max(0.0, end - now) / 2

    def _is_settled(self, first: int) -> bool:
        """Whether the scale whose records begin at `first` has lowered its loss too little of late."""
        tolerance = self.options.tolerance
        if tolerance is None or len(self.losses) - first <= _TOLERANCE_STEPS:
            return False
        totals = [record.total for record in self.losses[first:]]
        before, after = min(totals[:-_TOLERANCE_STEPS]), min(totals[-_TOLERANCE_STEPS:])
        # A loss of 0 has settled too.
        return before - after <= tolerance * abs(before)

    def result(self, image: Tensor, alpha: Tensor | None) -> Result:
        return Result(_finished(image), alpha, tuple(self.losses), self._parameters_now(), self.stopped)

    def _is_stopped_by_callback(self, image: Tensor, alpha: Tensor | None) -> bool:
        if self.callback is None:
            return False
        answer = self.callback(self._iterate(self.losses[-1], image, alpha))
        return answer is not None and not answer

    def _iterate(self, record: LossRecord, image: Tensor, alpha: Tensor | None) -> Iterate:
        parameters = self._parameters_now()
        return Iterate(
            record, _finished(image), alpha, parameters, self.options.iterations * len(self.edges), self.edges
        )

    def _parameters_now(self) -> dict[str, Any]:
        final = self.losses[-1].as_dict() if self.losses else None
        return {**self.parameters, "stopped": self.stopped, "final": final}


def _load_styles(style: Styles, options: Options) -> list[Picture]:
    sources: list[Source] = list(style) if isinstance(style, list | tuple) else [style]  # type: ignore[list-item]
    if not sources:
        raise OptionError("no style image given; give at least one")
    if options.style_weights is not None and len(options.style_weights) != len(sources):
        raise OptionError(
            f"{len(options.style_weights)} style weights for {len(sources)} style images; give one for each image"
        )
    return [flattened(load_image(source, role="style")) for source in sources]


def _style_shares(weights: tuple[float, ...] | None, count: int) -> tuple[float, ...]:
    if weights is None:
        return (1 / count,) * count
    # By the largest first: the sum of finite weights need not be finite.
    relative = [weight / max(weights) for weight in weights]
    return tuple(weight / sum(relative) for weight in relative)


def _is_word(init: Any) -> bool:
    return isinstance(init, str) and init in ("content", "noise")


def _finished(image: Tensor) -> Tensor:
    return image.detach()[0].clamp(0, 1).float().cpu().clone()


def _divergence(record: LossRecord, objective: Objective, before: Sequence[LossRecord]) -> str:
    where = f"the loss became {record.total} at iteration {record.iteration} (scale {record.scale})"
    if objective.runtime.dtype == torch.float16:
        cause = "float16 overflowed; use --precision bf16 or fp32"
    elif not before or before[0].total > _SUSPICIOUS_LOSS:
        cause = "it is too large for float32; lower the weights of its terms and layers, or check the network's weights"
    else:
        cause = "the steps are too long; lower --learning-rate, or use --optimizer adam"
    return f"{where}: {cause}"

"""The main path: load → targets → for each scale: optimise → result."""

import os
import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import torch
from fastnst_kernels import BlendedTarget
from torch import Tensor

from fastnst.errors import FastnstWarning, OptionError, RangeError
from fastnst.fork import check_fork
from fastnst.image.colour import prepared as as_visible
from fastnst.image.picture import AnyPicture, Picture
from fastnst.image.read import Source
from fastnst.image.resize import AtSizes, at_size, edge_beside, resize, resize_wrapped
from fastnst.loss.masks import StyleRegions, guidance_of, style_regions
from fastnst.loss.objective import Evaluation
from fastnst.loss.targets import StyleTarget, style_backbone, style_targets
from fastnst.loss.temporal import Coherent
from fastnst.loss.transforms import feature_transforms
from fastnst.network import trial
from fastnst.network.backbone import Backbone, build_backbone
from fastnst.network.runtime import Runtime, as_before, resolve_runtime, versions, without_overflow
from fastnst.network.settings import float32_products, own_modes, timed_algorithms
from fastnst.network.weights import Weights, load_weights
from fastnst.optim import make_optimizer, state_device
from fastnst.options.keywords import OptionValues
from fastnst.options.options import Options, resolve_options, unsized_options
from fastnst.options.parse import in_words, parse_size
from fastnst.options.presets import warn_of_other_network
from fastnst.plan.fitting import FittingObjective
from fastnst.plan.planner import Plan, most_tiles, plan_run
from fastnst.plan.processes import Ranks
from fastnst.transfer.checkpoint import SavedRun, check_same_inputs, check_same_network, load_run
from fastnst.transfer.descent import Descent
from fastnst.transfer.inputs import Canvas, Scale, Start, Styles, load_inputs, opened, start_image, style_size
from fastnst.transfer.kernels import Building, Rehearsal
from fastnst.transfer.result import DivergedError, Result
from fastnst.transfer.run import ResumeValues, Run, Watch, WatchValues, interruptible, watch_and_options
from fastnst.transfer.scales import run_scales


class StylizeValues(WatchValues, OptionValues, total=False):
    """The keyword arguments of `stylize`."""


def stylize(content: Source, style: Styles, **values: Unpack[StylizeValues]) -> Result:
    """Renders `content` in the style of `style` by optimising the image itself (Gatys, Ecker and Bethge 2016).

    Args:
        content: a path, a PIL image, an array (H, W, 3) of uint8 or of floats in 0…1, or a tensor (3, H, W) or
            (1, 3, H, W) in 0…1.
        style: the same, or a folder, whose pictures are taken in the order of their names, or a sequence of these; it
            may be empty if the style weight is 0.
        **values: the fields of `fastnst.Options`, such as `size=512` (or "content", "50%", or "1920x1080", the box to
            fit into), `style_weight=5` or `preset="gatys"`, and those of `fastnst.Watch`: `callback`,
            `callback_every`, `checkpoint` and `checkpoint_every`.

    Ctrl-C ends the run after the present iteration. You then get the image so far, as a result whose `stopped` is
    "interrupted". If you press it twice, it raises KeyboardInterrupt. Raises FastnstError for input that cannot be
    used, before any long work, and DivergedError, which holds the best image, if the loss becomes NaN or infinite.
    """
    watch, options = watch_and_options(values)
    return interruptible(watch, Stylizer(style, **options).prepare(content).run)


def resume(
    path: str | os.PathLike[str],
    *,
    content: Source | None = None,
    style: Styles | None = None,
    init: Source | None = None,
    masks: Sequence[Any] | None = None,
    **watch: Unpack[ResumeValues],
) -> Result:
    """Continues the run whose checkpoint is at `path`, and keeps the checkpoint up to date.

    The result is the same as without the interruption; on a CPU it is the same bit for bit, if the number of threads
    and the versions are the same. It reads the pictures where the run read them, unless you give them. `watch` are
    fields of `fastnst.Watch`.

    Raises CheckpointError if the checkpoint is missing or damaged, or belongs to other pictures or weights.
    """
    saved = load_run(Path(path))
    source, style, options = saved.inputs(content=content, style=style, init=init, masks=masks)
    return interruptible(Watch(checkpoint=path, **watch), Stylizer(style, **options).prepare(source, saved).run)


def weights_of(options: Options, *, progress: bool = False) -> Weights:
    """The weights that `options` ask for. Raises WeightsError as `load_weights` does."""
    taps, scaling = options.taps, options.filter_scaling
    return load_weights(options.weights, options.network, taps=taps, filter_scaling=scaling, progress=progress)


class Networks:
    """The `kept` networks that were used last. Those who share one use it one after the other, in one thread."""

    def __init__(self, kept: int = 2) -> None:
        self._kept = kept
        self._networks: OrderedDict[Hashable, tuple[Weights, Backbone]] = OrderedDict()

    def get(self, options: Options, runtime: Runtime, load: Callable[[], Weights]) -> tuple[Weights, Backbone]:
        """The network that `options` ask for, as `runtime` runs it; `load` gives its weights if it is not kept."""
        pooling, padding = options.pooling, options.padding
        key = (options.weights, options.network, options.taps, options.filter_scaling, pooling, padding, runtime)
        network = self._networks.pop(key, None)
        if network is None:
            while len(self._networks) >= self._kept:
                self._networks.popitem(last=False)
            weights = load()
            network = weights, build_backbone(weights, options.taps, runtime, pooling=pooling, padding=padding)
        self._networks[key] = network
        return network

    def clear(self) -> None:
        self._networks.clear()


class Stylizer:
    """Keeps the network and the style's targets, to stylize many images with one style.

        stylizer = fastnst.Stylizer("starry_night.jpg", size=512)
        for path in paths:
            stylizer(path).save(...)

    Args and errors are those of `stylize`. The first call loads the network. Use an instance from one thread at a time.
    Instances with the same `networks` share what they load, so use them one after the other. A size such as "50%" is
    computed for each content; before the first one, `options` has the largest size.

    With `ranks`, from `fastnst.plan.processes.joined`, several processes share the tiles of each image. All of them
    make the same calls and get the same results; only the first calls back and saves. `max_memory` is the limit of each
    process.
    """

    def __init__(
        self,
        style: Styles,
        *,
        ranks: Ranks | None = None,
        networks: Networks | None = None,
        **options: Unpack[OptionValues],
    ) -> None:
        # With a size that depends on the content: the stylizer of the last size.
        self._given, self._last, self._size = options, self, parse_size(options.get("size", 0))
        if isinstance(self._size, int):
            self.options = resolve_options(**{**options, **({"size": self._size} if "size" in options else {})})
        else:
            self.options = unsized_options(options)
        self._ranks = ranks or Ranks()
        runtime = resolve_runtime(self.options.device, self.options.precision, self.options.backend)
        self.runtime = replace(runtime, device=self._ranks.device(runtime.device))
        with own_modes(self.runtime.device):
            self._inputs = load_inputs(style, self.options)
        self._style_targets: dict[tuple[int, bool], dict[str, StyleTarget]] = {}
        self._networks = networks or Networks()
        self._network: tuple[Weights, Backbone] | None = None

    def __call__(self, content: Source | AnyPicture | Canvas, **watch: Unpack[WatchValues]) -> Result:
        """Stylizes one image; see `stylize`. With a `Canvas` instead of a content it makes an image from the styles
        alone."""
        watching = Watch(**watch)
        return self.prepare(content).run(watching)

    def resume(
        self, path: str | os.PathLike[str], content: Source | AnyPicture | Canvas, **watch: Unpack[ResumeValues]
    ) -> Result:
        """Continues the run whose checkpoint is at `path`, with this stylizer's options; see `fastnst.resume`."""
        watching = Watch(checkpoint=path, **watch)
        saved = load_run(Path(path))
        return self.prepare(content, saved).run(watching)

    def prepare(
        self, content: Source | AnyPicture | Canvas, saved: SavedRun | None = None, *, start: Start | None = None
    ) -> "Prepared":
        """A run on `content`, or the rest of the `saved` one: read, checked and planned, before the network is loaded.

        With `start` it continues from the image of another frame.

        Raises FastnstError for pictures or options that cannot be used, and CheckpointError for inputs that differ from
        the saved ones.
        """
        check_fork()
        with own_modes(self.runtime.device):
            content = opened(content, self.options.max_pixels)
        if not isinstance(self._size, int):
            return self._beside(self._size, content).prepare(content, saved, start=start)
        if saved is not None and self.options.precision == "auto":
            # A trial may end otherwise now.
            self._compute_in(as_before(self.runtime, saved.parameters["device"], saved.parameters["precision"]))
        with own_modes(self.runtime.device):
            scales = run_scales(content, self._inputs.styles, self.options)
            if start is not None:
                scales = (replace(scales[-1], index=0, iterations=start.iterations),)
            role = "output" if isinstance(content, Canvas) else "content"
            for region in self._inputs.regions or ():
                region.content.check_aspect(content.height, content.width, f"the {role} image")
            self._check_processes(scales[-1].size)
            plans = [self._plan(scale) for scale in scales]
            rest = scales if saved is None else scales[saved.scale + saved.finished :]
            sizes = [scale.size for scale in rest]
            picture = content.picture if isinstance(content, Canvas) else content
            # What is damaged in the pictures is found here, for all of them are read.
            pictures = AtSizes(picture, sizes)
            record = self._inputs.record(content, [scale.size for scale in scales], self.options)
            if saved is not None:
                check_same_inputs(saved.parameters, record)
            visible, styles = as_visible(picture, self._inputs.styles, self.options.preserve_color)
            return Prepared(
                stylizer=self,
                scales=scales,
                rest=rest,
                plans=plans,
                pictures=pictures,
                visible=pictures if visible is picture else AtSizes(visible, sizes),
                styles=styles,
                record=record,
                places=self._inputs.places(content),
                saved=saved,
                kernels=self._building(scales, plans),
                start=start,
            )

    def _beside(self, size: Fraction | tuple[int, int], content: AnyPicture | Canvas) -> "Stylizer":
        """A stylizer of the same styles with the `size` that is meant beside this content; the last one is kept."""
        pixels = edge_beside(size, (content.height, content.width), self.options.edge)
        if self._last is self or self._last.options.size != pixels:
            other = copy(self)
            other.options = resolve_options(**{**self._given, "size": pixels})
            other._size, other._style_targets = pixels, {}
            self._last = other._last = other
        return self._last

    def _compute_in(self, runtime: Runtime) -> None:
        if runtime != self.runtime:
            self.runtime, self._network = runtime, None
            self._style_targets.clear()

    def _check_processes(self, size: tuple[int, int]) -> None:
        if self.options.style_loss == "sliced" and self._ranks.size > 1:
            raise OptionError(
                "several processes cannot share an image whose features are sorted (style loss sliced); start one, or "
                "choose another style loss"
            )
        most = most_tiles(self.options, size)
        if self._ranks.size > most:
            raise OptionError(
                f"{size[1]}×{size[0]} pixels are too few for {self._ranks.size} processes with these layers; start "
                f"{most} at most, or raise --size"
            )

    def _plan(self, scale: Scale) -> Plan:
        """How a scale fits into memory. Raises OptionError where nothing that was asked for fits into `max_memory`."""
        options = self._options_at(scale)
        if scale.layer is not None:
            # The styles are seen as well, at the level's layer.
            options = replace(options, style_layers=options.content_layers, style_weight=1.0)
        return plan_run(
            options,
            self.runtime,
            scale.size,
            tile=options.tile,
            max_memory=options.max_memory,
            style_sizes=[style_size(style, scale.edge, options) for style in self._inputs.styles],
            network_is_loaded=self._network is not None,
            processes=self._ranks.size,
            sharers=self._ranks.sharers(self.runtime.device),
        )

    def _building(self, scales: Sequence[Scale], plans: Sequence[Plan]) -> Building | None:
        """The kernels of the run, which begin to be built; None where there are none, or another process does it."""
        if self.runtime.kernels != "triton" or self._ranks.local_rank > 0:
            return None
        rehearsals = []
        for scale, plan in zip(scales, plans, strict=True):
            sizes = tuple(style_size(style, scale.edge, self.options) for style in self._inputs.styles)
            rehearsals.append(Rehearsal(self._options_at(scale), self.runtime, plan, sizes))
        return Building(rehearsals, self.runtime.device)

    def load(self, *, progress: bool = True) -> None:
        """Loads the network now, not at the first call; a download shows its progress on a terminal."""
        with own_modes(self.runtime.device):
            self._loaded(progress and sys.stderr is not None and sys.stderr.isatty())

    @property
    def weights_sha256(self) -> str:
        """The hash of the network's weights, which are loaded for it."""
        return self._loaded()[0].sha256

    def _loaded(self, progress: bool = False) -> tuple[Weights, Backbone]:
        if self._network is None:
            load = partial(weights_of, self.options, progress=progress)
            self._network = self._networks.get(self.options, self.runtime, lambda: self._ranks.in_turn(load))
            warn_of_other_network(self.options, self._network[0])
        return self._network

    def gram_trace(self, picture: Picture) -> float:
        """The trace of a picture's Gram matrix, as the geometric mean over the style layers; 1 where there are none."""
        if not self.options.active_style_layers:
            return 1.0
        options = replace(self.options, style_loss="gram", style_reduction="paper")
        with own_modes(self.runtime.device):
            targets = style_targets(self._loaded()[1], [(picture.rgb[None], 1.0)], options, self.runtime)
        matrices = [target.matrix for target in targets.values() if isinstance(target, BlendedTarget)]
        traces = torch.stack([matrix.diagonal(dim1=-2, dim2=-1).sum() for matrix in matrices])
        return float(traces.cpu().double().clamp_min(1e-30).log().mean().exp())

    def run(self, prepared: "Prepared", watch: Watch) -> Result:
        """Makes the image of a run that this stylizer prepared. Raises DivergedError."""
        run = self.made(prepared, watch)
        run.warn_if_still()
        return run.result()

    def made(self, prepared: "Prepared", watch: Watch) -> Run:
        """Makes the run and returns it at its end, with its `image` as the optimiser left it. Raises DivergedError."""
        check_fork()
        try:
            return self._made(prepared, watch)
        except (DivergedError, RangeError) as error:
            is_first = prepared.saved is None and not (isinstance(error, DivergedError) and error.result.losses)
            if not (is_first and self.options.precision == "auto" and self.runtime.precision == "fp16"):
                raise
        self._compute_in(without_overflow(self.runtime))
        warnings.warn(
            f"float16 cannot hold the values of the first image; the run continues in {self.runtime.precision}",
            FastnstWarning,
            stacklevel=2,
        )
        plans = [self._plan(scale) for scale in prepared.scales]
        return self._made(replace(prepared, plans=plans, kernels=self._building(prepared.scales, plans)), watch)

    def _made(self, prepared: "Prepared", watch: Watch) -> Run:
        with own_modes(self.runtime.device), float32_products(self.runtime.tf32), timed_algorithms():
            plans = self._agreed(prepared.plans)
            run = self._begun(prepared, watch)
            if prepared.kernels is not None:
                prepared.kernels.wait()
            self._ranks.wait()
            for scale in prepared.rest:
                self._optimise(run, scale, plans[scale.index], prepared)
                if run.stopped:
                    break
            return run

    def _begun(self, prepared: "Prepared", watch: Watch) -> Run:
        """The run with the image and the optimiser that it begins or goes on with."""
        saved, scales, device = prepared.saved, prepared.scales, self.runtime.device
        weights, _ = self._loaded()
        place = state_device(self.options, self.runtime)
        parameters = {
            **prepared.record,
            "weights": {"source": weights.source, "sha256": weights.sha256},
            "device": str(device),
            "precision": self.runtime.precision,
            "versions": versions(),
        }
        if device.type == "cpu" and self.options.precision == "auto":
            parameters["trial"] = trial.comparison()
        run = Run(
            parameters, prepared.places, watch, options=self.options, scales=scales, saved=saved, ranks=self._ranks
        )
        if saved is None and prepared.start is None:
            self._inputs.warn_of_scaling(scales, self.options)
            run.image = start_image(
                self._inputs,
                scales[0],
                content=prepared.visible,
                styles=prepared.styles,
                options=self.options,
                preprocessing=weights.preprocessing,
            )
            return run
        run.optimizer = make_optimizer(self.options, self.runtime)
        if prepared.start is not None:
            run.image, state = prepared.start.image, prepared.start.curvature
        elif saved is not None:
            check_same_network(saved.parameters, parameters)
            run.source = saved.tensors.get("source")
            run.image, state = saved.tensors["image"], saved.optimizer
        run.optimizer.load_state_dict({name: x.to(place) for name, x in state.items()})
        if not prepared.rest:
            run.content = prepared.pictures.at(scales[-1].size)
        return run

    def _agreed(self, plans: Sequence[Plan]) -> list[Plan]:
        """The plans by which all processes go: those that need the least, for one may have less memory."""
        everyone = self._ranks.gathered(plans)
        agreed = [min(each, key=lambda plan: plan.added_bytes) for each in zip(*everyone, strict=True)]
        for plan in agreed:
            if not plan.fits and plan.limit_bytes is not None:
                warnings.warn(
                    f"{plan.width}×{plan.height} pixels need about {in_words(plan.peak_bytes)} of memory, and "
                    f"{in_words(plan.limit_bytes)} are free; lower --size, or choose --optimizer adam",
                    FastnstWarning,
                    stacklevel=2,
                )
        return agreed

    def _optimise(self, run: Run, scale: Scale, plan: Plan, prepared: "Prepared") -> None:
        """One scale of the run. What it makes is as large as the image many times over, and dies with it."""
        options, (weights, backbone) = self._options_at(scale), self._loaded()
        content, visible = prepared.content_at(scale.size)
        resized = resize_wrapped if options.wraps else resize
        run.image = self._ranks.alike(resized(run.image.to(self.runtime.device), scale.size))
        guidance = guidance_of(self._inputs.regions, content.alpha, scale.size)
        target, style, transforms = visible.rgb[None], dict[str, StyleTarget](), None
        if scale.layer is not None:
            if not run.continues(scale):
                self._begin_level(run, scale, target, prepared.scales[max(0, scale.index - 1)].size)
            target = target if run.source is None else run.source
            backbone = build_backbone(
                weights, (scale.layer,), self.runtime, pooling=options.pooling, padding=options.padding
            )
            images = self._style_images(scale, prepared.styles)
            transforms = feature_transforms(
                backbone,
                target,
                images,
                self.options,
                self.runtime,
                layers=options.taps,
                guidance=guidance,
                regions=self._regions(images, plain=guidance.is_plain),
                tile=plan.style_tile or plan.tile,
            )
            del images
        else:
            style = self._style(scale, prepared.styles, plan.style_tile, plain=guidance.is_plain)
        if scale.layer is None and run.optimizer is not None and prepared.start is None and not run.continues(scale):
            run.optimizer = run.optimizer.rescaled(scale.size)
        objective: Evaluation = FittingObjective(
            backbone,
            content=target,
            style=style,
            options=options,
            runtime=self.runtime,
            plan=plan,
            guidance=guidance,
            tile_is_fixed=options.tile == "none" or options.style_loss == "sliced",
            ranks=self._ranks,
            transforms=transforms,
        )
        if prepared.start is not None and prepared.start.coherence is not None:
            objective = Coherent(objective, prepared.start.coherence.on(self.runtime.device))
        fresh = partial(make_optimizer, options, self.runtime)
        descent = Descent(run.image, objective, fresh, optimizer=run.optimizer, average=options.average)
        run.optimise(descent, scale, content)

    def _options_at(self, scale: Scale) -> Options:
        if scale.layer is not None:
            return self.options.at_level(scale.layer)
        return replace(self.options, style_weight=scale.style_weight)

    def _begin_level(self, run: Run, scale: Scale, content: Tensor, before: tuple[int, int]) -> None:
        """Takes what the level before has made, or the content, for the source of a level; after one at another size,
        `before`, with the detail of the content (1, 3, H, W) that is not seen there."""
        if before != scale.size:
            resized = resize_wrapped if self.options.wraps else resize
            run.image = run.image + (content - resized(resized(content, before), scale.size)).to(run.image)
        run.optimizer, run.source = None, content if scale.index == 0 else run.image.clone()

    def _style_images(self, scale: Scale, styles: Sequence[AnyPicture]) -> list[tuple[Tensor, float]]:
        """The styles at the size that they have at a scale, (1, 3, H, W), and their shares."""
        sizes = [style_size(style, scale.edge, self.options) for style in styles]
        images = [at_size(style, size).rgb[None] for style, size in zip(styles, sizes, strict=True)]
        return list(zip(images, self._inputs.shares, strict=True))

    def _regions(self, images: Sequence[tuple[Tensor, float]], *, plain: bool) -> StyleRegions | None:
        sizes = [(image.shape[2], image.shape[3]) for image, _ in images]
        return style_regions(self._inputs.regions, sizes, plain=plain)

    def _style(
        self, scale: Scale, styles: Sequence[AnyPicture], tile: int | None, *, plain: bool
    ) -> dict[str, StyleTarget]:
        """The targets of `styles` at a scale, in tiles where there is one; `plain` where all of the content is one
        region. Those of the styles as they were given are computed once."""
        is_given = all(style is own for style, own in zip(styles, self._inputs.styles, strict=True))
        if is_given and (scale.edge, plain) in self._style_targets:
            return self._style_targets[scale.edge, plain]
        images, backbone = self._style_images(scale, styles), self._loaded()[1]
        targets = style_targets(
            style_backbone(backbone, self.options),
            images,
            self.options,
            self.runtime,
            regions=self._regions(images, plain=plain),
            tile=tile,
        )
        if is_given:
            self._style_targets[scale.edge, plain] = targets
        return targets


@dataclass(frozen=True, eq=False)
class Prepared:
    """A run that `Stylizer.prepare` has read, checked and planned.

    Attributes:
        scales: all its scales, coarse first, and the `plans` of how each fits into memory; `rest` are still to be made.
        pictures: the content at the sizes of the rest; `visible` and `styles` are as the network is shown them.
        record: the facts of the run, as JSON can hold them; `places` is where its pictures were read.
        saved: the state that it goes on from, or None.
        kernels: a GPU's, which are being built, or None.
        start: the frame's image that it goes on from, or None.
    """

    stylizer: Stylizer
    scales: Sequence[Scale]
    rest: Sequence[Scale]
    plans: Sequence[Plan]
    pictures: AtSizes
    visible: AtSizes
    styles: Sequence[AnyPicture]
    record: Mapping[str, Any]
    places: Mapping[str, Any]
    saved: SavedRun | None
    kernels: Building | None
    start: Start | None

    def run(self, watch: Watch | None = None) -> Result:
        """Makes the image. Raises DivergedError."""
        return self.stylizer.run(self, watch or Watch())

    def content_at(self, size: tuple[int, int]) -> tuple[Picture, Picture]:
        """The content at the `size` of a scale, and as the network is shown it; they are not kept any longer."""
        picture = self.pictures.at(size)
        visible = picture if self.visible is self.pictures else self.visible.at(size)
        for each in (self.pictures, self.visible):
            each.drop(size)
        return picture, visible

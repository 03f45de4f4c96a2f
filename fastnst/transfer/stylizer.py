"""The main path: load → targets → for each scale: optimise → result."""

import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

from torch import Tensor

from fastnst.errors import FastnstWarning, OptionError
from fastnst.image.colour import prepared
from fastnst.image.picture import AnyPicture, Picture
from fastnst.image.read import Source
from fastnst.image.resize import AtSizes, at_size, resize, resize_wrapped
from fastnst.loss.masks import Guidance, guidance_of, style_regions
from fastnst.loss.targets import StyleTarget, style_targets
from fastnst.network.backbone import Backbone
from fastnst.network.runtime import check_fork, float32_products, own_modes, resolve_runtime, timed_algorithms, versions
from fastnst.network.weights import Weights, load_weights
from fastnst.optim import Optimizer
from fastnst.options.keywords import OptionValues
from fastnst.options.options import START_WORDS, resolve_options
from fastnst.options.tile_options import in_words
from fastnst.plan.fitting import FittingObjective
from fastnst.plan.planner import Plan, most_tiles, plan_run
from fastnst.plan.processes import Ranks
from fastnst.transfer.averaging import MeanImage
from fastnst.transfer.canvas import Canvas, opened, recorded_canvas
from fastnst.transfer.checkpoint import CheckpointError, SavedRun, check_same_inputs, check_same_network, load_run
from fastnst.transfer.descent import Descent
from fastnst.transfer.networks import Networks
from fastnst.transfer.preset_network import warn_of_other_network
from fastnst.transfer.pyramid import scale_iterations, scale_style_weights
from fastnst.transfer.result import Result
from fastnst.transfer.run import Callback, Run, Scale, Watch, make_watch
from fastnst.transfer.run_inputs import Styles, load_inputs
from fastnst.transfer.run_sizes import run_scales, style_size
from fastnst.transfer.scale_optimizers import ScaleOptimizers
from fastnst.transfer.start_images import even_colour, mean_colour, network_grey, recoloured, white_noise


def stylize(
    content: Source,
    style: Styles,
    *,
    callback: Callback | None = None,
    callback_every: int | None = 1,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: float = 60.0,
    **options: Unpack[OptionValues],
) -> Result:
    """Renders `content` in the style of `style` by optimising the image itself (Gatys, Ecker and Bethge 2016).

    Args:
        content: a path, a PIL image, an array (H, W, 3) of uint8 or of floats in 0…1, or a tensor (3, H, W) or
            (1, 3, H, W) in 0…1.
        style: the same, or a folder of pictures, which are taken by their names' order, or a sequence of these, which
            may be empty where the style weight is 0.
        callback: called with an `Iterate` when losses have been read back; returning False (not None) stops the run
            there.
        callback_every: read them back at least after so many evaluations. On a CPU it is after each one anyway; on a
            GPU 1 makes it wait at every iteration, and None leaves it at about four times a second.
        checkpoint: a file from which `fastnst.resume` can go on, written every `checkpoint_every` seconds, at the end
            of each scale and when the callback stops the run; whole or not at all.
        **options: the fields of `fastnst.Options`, such as `size=512`, `style_weight=5` or `preset="gatys"`.

    Returns:
        The image, its losses and its parameters.

    Raises:
        FastnstError: for input that cannot be used, before any long work; its subclasses say which.
        DivergedError: when the loss turns NaN or infinite; it carries the best image before that.
    """
    return Stylizer(style, **options)(
        content,
        callback=callback,
        callback_every=callback_every,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
    )


def resume(
    path: str | os.PathLike[str],
    *,
    content: Source | None = None,
    style: Styles | None = None,
    init: Source | None = None,
    masks: Sequence[Any] | None = None,
    callback: Callback | None = None,
    callback_every: int | None = 1,
    checkpoint_every: float = 60.0,
) -> Result:
    """Goes on with the run whose checkpoint is at `path`, and on with the checkpoint.

    The result is that of the uninterrupted run: on a CPU, with the same number of threads and the same versions, bit
    for bit. Content, styles, init and masks are read where the run read them, unless they are given; they must be the
    same pictures. Other arguments are those of `stylize`.

    Raises CheckpointError where the checkpoint is missing or damaged, or belongs to other pictures or weights.
    """
    saved = load_run(Path(path))
    options = dict(saved.parameters["options"])
    canvas = recorded_canvas(saved.parameters)
    if options["init"] not in START_WORDS:
        options["init"] = _source_again(init, saved.sources["init"], "init")
    if options.get("masks") is not None:
        options["masks"] = saved.masks_again if masks is None else masks
    styles = [_source_again(None, source, "style") for source in saved.sources["styles"]] if style is None else style
    stylizer = Stylizer(styles, **options)
    return stylizer.resume(
        path,
        _source_again(content, saved.sources["content"], "content") if canvas is None else canvas,
        callback=callback,
        callback_every=callback_every,
        checkpoint_every=checkpoint_every,
    )


class Stylizer:
    """Keeps the network and the style's targets, to stylize many images with one style.

        stylizer = fastnst.Stylizer("starry_night.jpg", size=512)
        for path in paths:
            stylizer(path).save(...)

    Args and errors are those of `stylize`. The network is loaded by the first call. An instance may be used from one
    thread at a time.

    With `ranks`, of `fastnst.plan.processes.joined`, several processes share the tiles of each image: all make the same
    calls with the same arguments and get the same results, callbacks are called and checkpoints written by the first
    process alone, and `max_memory` is that of each.

    Stylizers of the same `networks` share what they load, and are used one after the other.
    """

    def __init__(
        self,
        style: Styles,
        *,
        ranks: Ranks | None = None,
        networks: Networks | None = None,
        **options: Unpack[OptionValues],
    ) -> None:
        self.options = resolve_options(**options)
        self._ranks = ranks or Ranks()
        runtime = resolve_runtime(self.options.device, self.options.precision, self.options.backend)
        self.runtime = replace(runtime, device=self._ranks.device(runtime.device))
        self._inputs = load_inputs(style, self.options)
        self._style_targets: dict[tuple[int, bool], dict[str, StyleTarget]] = {}
        self._networks = networks or Networks()
        self._network: tuple[Weights, Backbone] | None = None

    def __call__(
        self,
        content: Source | AnyPicture | Canvas,
        *,
        callback: Callback | None = None,
        callback_every: int | None = 1,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: float = 60.0,
    ) -> Result:
        """Stylizes one image; see `stylize`. With a `Canvas` in place of a content it makes one of the styles alone."""
        watch = make_watch(callback, callback_every, checkpoint, checkpoint_every)
        check_fork()
        with own_modes(self.runtime.device), float32_products(self.runtime.tf32), timed_algorithms():
            return self._stylize(content, watch)

    def resume(
        self,
        path: str | os.PathLike[str],
        content: Source | AnyPicture | Canvas,
        *,
        callback: Callback | None = None,
        callback_every: int | None = 1,
        checkpoint_every: float = 60.0,
    ) -> Result:
        """Goes on with the run of this stylizer's options whose checkpoint is at `path`; see `fastnst.resume`."""
        watch = make_watch(callback, callback_every, path, checkpoint_every)
        saved = load_run(Path(path), check=self._ranks.leads)
        check_fork()
        with own_modes(self.runtime.device), float32_products(self.runtime.tf32), timed_algorithms():
            return self._stylize(content, watch, saved)

    def _stylize(self, source: Source | AnyPicture | Canvas, watch: Watch, saved: SavedRun | None = None) -> Result:
        content = opened(source, self.options.max_pixels)
        scales = self.scales(content)
        if saved is not None:
            check_same_inputs(saved.parameters, self._inputs.record(content, scales, self.options))
        picture = content.picture if isinstance(content, Canvas) else content
        plans = self._agreed({edge: self.plan(edge, size) for edge, size in scales.items()})
        ahead = list(scales.values())[0 if saved is None else saved.scale :]
        pictures = AtSizes(picture, ahead)
        # What is damaged in the pictures is found before the network is loaded, for all of them are read here.
        inputs = self._inputs.record(content, scales, self.options)
        weights, backbone = self._loaded()
        parameters = self._parameters(inputs, weights)
        shown, styles = prepared(picture, self._inputs.styles, self.options.preserve_color)
        if saved is not None:
            check_same_network(saved.parameters, parameters)
        iterations = dict(zip(scales, scale_iterations(self.options.iterations, len(scales)), strict=True))
        betas = scale_style_weights(self.options.style_weight, len(scales))
        run = Run(parameters, self._inputs.places(content), watch, self.options, iterations, saved, self._ranks)
        visible = pictures if shown is picture else AtSizes(shown, ahead)
        first = next(iter(scales))
        image = self._start(visible, styles, first, scales[first]) if saved is None else saved.tensors["image"]
        optimizers = ScaleOptimizers(self.options, self.runtime)
        before: Optimizer | None = None
        target: Picture | None = None
        for index, (edge, size) in enumerate(scales.items()):
            if saved is not None and (index < saved.scale or (index == saved.scale and saved.finished)):
                continue
            target = pictures.at(size)
            seen = target if visible is pictures else visible.at(size)
            for scaled in (pictures, visible):
                scaled.drop(size)
            plan = plans[edge]
            continued = saved if saved is not None and index == saved.scale else None
            image = self._ranks.alike(self._resized(image.to(self.runtime.device), size))
            if continued is None:
                optimizer = optimizers.following(size, before, saved)
            else:
                optimizer = optimizers.resumed(continued)
            before = None
            backbone.layers.forget()
            guidance = guidance_of(self._inputs.regions, target.alpha, size)
            style = self._style(edge, backbone, styles, plan.style_tile, plain=guidance.is_plain)
            objective = self._objective(backbone, seen.rgb[None], style, betas[index], plan, guidance)
            mean = None if self.options.average is None else MeanImage(self.options.average)
            descent = Descent(image, objective, optimizers.fresh, optimizer, mean)
            image = descent.image
            del seen, optimizer
            run.optimise(descent, Scale(index, edge, iterations[edge], objective, target), continued)
            image, before = descent.image, descent.optimizer
            # What they hold is as large as the image many times over, and not needed for the next scale or the result.
            del descent, objective
            if run.stopped:
                break
        del before
        return run.result(image, target or pictures.at(size))

    def _objective(
        self,
        backbone: Backbone,
        content: Tensor,
        style: dict[str, StyleTarget],
        style_weight: float,
        plan: Plan,
        guidance: Guidance,
    ) -> FittingObjective:
        """The objective of one scale; `content` is (1, 3, H, W) float32 on the CPU."""
        options = replace(self.options, style_weight=style_weight)
        fixed = options.tile == "none" or options.style_loss == "sliced"
        return FittingObjective(
            backbone,
            content,
            style,
            options,
            self.runtime,
            plan=plan,
            guidance=guidance,
            tile_is_fixed=fixed,
            ranks=self._ranks,
        )

    def _agreed(self, plans: dict[int, Plan]) -> dict[int, Plan]:
        """The plans by which all processes go: those that need the least, for one may have less memory."""
        everyone = self._ranks.gathered(plans)
        return {edge: min((own[edge] for own in everyone), key=lambda plan: plan.added_bytes) for edge in plans}

    def plan(self, edge: int, size: tuple[int, int]) -> Plan:
        """How the scale whose long edge is `edge`, of `size` (height, width), fits into memory.

        Raises OptionError where nothing that was asked for fits into `max_memory`.
        """
        plan = self._planned(edge, size)
        if not plan.fits and plan.limit_bytes is not None:
            warnings.warn(
                f"{plan.width}×{plan.height} pixels need about {in_words(plan.peak_bytes)} of memory, and "
                f"{in_words(plan.limit_bytes)} are free; lower --size, or take --optimizer adam",
                FastnstWarning,
                stacklevel=2,
            )
        return plan

    def _planned(self, edge: int, size: tuple[int, int]) -> Plan:
        options = self.options
        styles = [style_size(style, edge, options) for style in self._inputs.styles]
        return plan_run(
            options,
            self.runtime,
            size,
            tile=options.tile,
            max_memory=options.max_memory,
            style_sizes=styles,
            network_is_loaded=self._network is not None,
            processes=self._ranks.size,
            sharers=self._ranks.local_size if self.runtime.device.type == "cpu" else 1,
        )

    def check(self, content: AnyPicture | Canvas, saved: SavedRun | None = None) -> dict[int, tuple[int, int]]:
        """`scales`, where a call, or with `saved` going on with that, would refuse nothing before it loads the network.

        Raises ImageError, OptionError and CheckpointError as the call would.
        """
        scales = self.scales(content)
        if saved is not None:
            check_same_inputs(saved.parameters, self._inputs.record(content, scales, self.options))
        for edge, size in scales.items():
            self._planned(edge, size)
        return scales

    def scales(self, content: AnyPicture | Canvas) -> dict[int, tuple[int, int]]:
        """The run's scales in order: from the measured edge in pixels to the (height, width) of the image.

        Raises ImageError and OptionError as `run_scales` does, and where a mask has other proportions than the content,
        or several processes cannot share the image.
        """
        sizes = run_scales(content, self._inputs.styles, self.options)
        role = "output" if isinstance(content, Canvas) else "content"
        for region in self._inputs.regions or ():
            region.content.check_aspect(content.height, content.width, f"the {role} image")
        *_, largest = sizes.values()
        self._check_processes(largest)
        return sizes

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

    def load(self, *, progress: bool = True) -> None:
        """Loads the network now, not at the first call; a download shows its progress on a terminal."""
        with own_modes(self.runtime.device):
            self._loaded(progress and sys.stderr is not None and sys.stderr.isatty())

    def _loaded(self, progress: bool = False) -> tuple[Weights, Backbone]:
        if self._network is None:
            options = self.options
            load = partial(
                load_weights,
                options.weights,
                options.network,
                taps=options.taps,
                filter_scaling=options.filter_scaling,
                progress=progress,
            )
            self._network = self._networks.get(options, self.runtime, lambda: self._ranks.in_turn(load))
            warn_of_other_network(options, self._network[0])
        return self._network

    def _start(self, content: AtSizes, styles: Sequence[AnyPicture], edge: int, size: tuple[int, int]) -> Tensor:
        """The first image, (1, 3, H, W) float32 on the CPU."""
        inputs, init, seed = self._inputs, self.options.init, self.options.seed
        if inputs.init is not None:
            return at_size(inputs.init, size).rgb[None]
        if init == "noise":
            return white_noise(size, seed)[None]
        if init == "grey":
            return even_colour(network_grey(self._loaded()[0].preprocessing), size, seed)[None]
        if init == "content" or not styles:
            return content.at(size).rgb[None]
        seen = [at_size(style, style_size(style, edge, self.options)) for style in styles]
        if init == "style-mean":
            return even_colour(mean_colour(seen, inputs.shares), size, seed)[None]
        return recoloured(content.at(size), seen, inputs.shares)[None]

    def _style(
        self, edge: int, backbone: Backbone, styles: Sequence[AnyPicture], tile: int | None, *, plain: bool
    ) -> dict[str, StyleTarget]:
        """The targets of `styles` at the scale whose long edge is `edge`, in tiles where there is one; `plain` where
        all of the content is one region. Those of the styles as they were given are computed once."""
        given = all(style is own for style, own in zip(styles, self._inputs.styles, strict=True))
        if given and (edge, plain) in self._style_targets:
            return self._style_targets[edge, plain]
        sizes = [style_size(style, edge, self.options) for style in styles]
        pictures = [at_size(style, size) for style, size in zip(styles, sizes, strict=True)]
        images = [picture.rgb[None] for picture in pictures]
        # A style does not tile: its own seam would be among what the result is to look like.
        backbone = backbone.repadded("replicate") if self.options.wraps else backbone
        shares = list(zip(images, self._inputs.shares, strict=True))
        regions = style_regions(self._inputs.regions, sizes, plain=plain)
        targets = style_targets(backbone, shares, self.options, self.runtime, regions, tile=tile)
        if given:
            self._style_targets[edge, plain] = targets
        return targets

    def _resized(self, image: Tensor, size: tuple[int, int]) -> Tensor:
        """The image of one scale, (1, 3, H, W), at the `size` of the next."""
        return resize_wrapped(image, size) if self.options.wraps else resize(image, size=size)

    def _parameters(self, inputs: dict[str, Any], weights: Weights) -> dict[str, Any]:
        """How the image is made, as JSON can hold it."""
        return {
            **inputs,
            "weights": {"source": weights.source, "sha256": weights.sha256},
            "device": str(self.runtime.device),
            "precision": self.runtime.precision,
            "versions": versions(),
        }


def _source_again(given: Source | None, recorded: str | None, role: str) -> Source:
    """The picture to go on with: the one given, or else where the run read it."""
    if given is not None:
        return given
    if recorded is None:
        raise CheckpointError(f"the {role} image of the checkpoint was no file; give it again as {role}=…")
    return recorded

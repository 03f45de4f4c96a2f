"""The main path: pictures read and planned → network and targets → for each scale: optimise → result."""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from fastnst.errors import OptionError, RangeError, warn
from fastnst.fork import check_fork
from fastnst.image.colour import prepared as as_visible
from fastnst.image.picture import AnyPicture
from fastnst.image.resize import AtSizes, at_size, resize, resize_wrapped
from fastnst.loss.masks import StyleRegions, guidance_of, style_regions
from fastnst.loss.networks import backbone_of
from fastnst.loss.objective import Evaluation, Objective
from fastnst.loss.targets import StyleTarget, style_backbone, style_targets
from fastnst.loss.temporal import Coherent
from fastnst.loss.transforms import feature_transforms
from fastnst.network import trial
from fastnst.network.runtime import Runtime, versions, without_overflow
from fastnst.network.settings import float32_products, kept_heap, own_modes, timed_algorithms
from fastnst.optim import make_optimizer, state_device
from fastnst.options.options import Options
from fastnst.options.parse import in_words
from fastnst.plan.fitting import FittingObjective
from fastnst.plan.planner import Plan, most_tiles, plan_run
from fastnst.transfer.checkpoint import SavedRun, check_replaceable, check_same_inputs, check_same_network
from fastnst.transfer.descent import Descent
from fastnst.transfer.inputs import Canvas, Scale, Start, start_image, style_size
from fastnst.transfer.kernels import Building, Rehearsal
from fastnst.transfer.result import DivergedError, Result
from fastnst.transfer.run import Run, Watch
from fastnst.transfer.scales import run_scales

if TYPE_CHECKING:
    from fastnst.transfer.stylizer import Stylizer


class Prepared:
    """A run of a stylizer on `content`, or the rest of the `saved` one, or from the image of another frame, `start`:
    read, checked and planned. `Stylizer.prepare` makes one.

    Attributes:
        scales: all its scales, coarse first, and the `plans` of how each fits into memory.
        record: the facts of the run, as JSON can hold them.
        kernels: a GPU's, which are being built, or None.

    Raises FastnstError where the pictures or the options will not do, CheckpointError for other inputs than saved.
    """

    def __init__(
        self, stylizer: "Stylizer", content: AnyPicture | Canvas, saved: SavedRun | None, start: Start | None
    ) -> None:
        self._stylizer, self._options, self._ranks = stylizer, stylizer.options, stylizer.ranks
        self._inputs, self._saved, self._start = stylizer.inputs, saved, start
        self.scales = run_scales(content, self._inputs.styles, self._options)
        if start is not None:
            self.scales = (replace(self.scales[-1], index=0, iterations=start.iterations),)
        role = "output" if isinstance(content, Canvas) else "content"
        for region in self._inputs.regions or ():
            region.content.check_aspect(content.height, content.width, f"the {role} image")
        self._check_processes(self.scales[-1].size)
        self.plans = [self._plan(scale) for scale in self.scales]
        # What is still to be made.
        self._rest = self.scales if saved is None else self.scales[saved.scale + saved.finished :]
        sizes = [scale.size for scale in self._rest]
        picture = content.picture if isinstance(content, Canvas) else content
        # What is damaged in the pictures is found here, for all of them are read.
        self._pictures = AtSizes(picture, sizes)
        self.record = self._inputs.record(content, [scale.size for scale in self.scales], self._options)
        if saved is not None:
            check_same_inputs(saved.parameters, self.record)
        # As the network is shown them.
        visible, self._styles = as_visible(picture, self._inputs.styles, self._options.preserve_color)
        self._visible = self._pictures if visible is picture else AtSizes(visible, sizes)
        self._places = self._inputs.places(content)
        self.kernels = self._building()

    @property
    def _runtime(self) -> Runtime:
        return self._stylizer.runtime

    def run(self, watch: Watch | None = None) -> Result:
        """Makes the image. Raises DivergedError."""
        run = self.made(watch or Watch())
        run.warn_if_still()
        return run.result()

    def check_checkpoint(self, path: str | os.PathLike[str] | None) -> None:
        """Raises CheckpointError where a new run's checkpoint at `path` would replace that of another one."""
        if path is not None and self._saved is None and self._ranks.leads:
            check_replaceable(Path(path), self.record)

    def made(self, watch: Watch) -> Run:
        """Makes the run and returns it at its end, with its `image` as the optimiser left it. Raises DivergedError, and
        CheckpointError as `check_checkpoint` does."""
        check_fork()
        self.check_checkpoint(watch.checkpoint)
        try:
            return self._made(watch)
        except (DivergedError, RangeError) as error:
            is_first = self._saved is None and not (isinstance(error, DivergedError) and error.result.losses)
            if not (is_first and self._options.precision == "auto" and self._runtime.precision == "fp16"):
                raise
        self._stylizer.compute_in(without_overflow(self._runtime))
        warn(f"float16 cannot hold the values of the first image; the run continues in {self._runtime.precision}")
        self.plans = [self._plan(scale) for scale in self.scales]
        self.kernels = self._building()
        return self._made(watch)

    def _made(self, watch: Watch) -> Run:
        device, tf32 = self._runtime.device, self._runtime.tf32
        with own_modes(device), float32_products(tf32), timed_algorithms(), kept_heap(device):
            plans = self._agreed()
            run = self._begun(watch)
            if self.kernels is not None:
                self.kernels.wait()
            self._ranks.wait()
            for scale in self._rest:
                self._optimise(run, scale, plans[scale.index])
                if run.stopped:
                    break
            return run

    def _check_processes(self, size: tuple[int, int]) -> None:
        if self._options.style_loss == "sliced" and self._ranks.size > 1:
            raise OptionError(
                "several processes cannot share an image whose features are sorted (style loss sliced); start one, or "
                "choose another style loss"
            )
        most = most_tiles(self._options, size)
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
            self._runtime,
            scale.size,
            style_sizes=self._style_sizes(scale),
            network_is_loaded=self._stylizer.is_loaded,
            processes=self._ranks.size,
            sharers=self._ranks.sharers(self._runtime.device),
        )

    def _building(self) -> Building | None:
        """The kernels of the run, which begin to be built; None where there are none, or another process does it."""
        if self._runtime.kernels != "triton" or self._ranks.local_rank > 0:
            return None
        rehearsals = [
            Rehearsal(self._options_at(scale), self._runtime, plan, tuple(self._style_sizes(scale)))
            for scale, plan in zip(self.scales, self.plans, strict=True)
        ]
        return Building(rehearsals, self._runtime.device)

    def _begun(self, watch: Watch) -> Run:
        """The run with the image and the optimiser that it begins or goes on with."""
        saved, scales, device = self._saved, self.scales, self._runtime.device
        weights, _ = self._stylizer.loaded()
        parameters = {
            **self.record,
            "weights": {"source": weights.source, "sha256": weights.sha256},
            "device": str(device),
            "precision": self._runtime.precision,
            "versions": versions(),
        }
        if device.type == "cpu" and self._options.precision == "auto":
            parameters["trial"] = trial.comparison()
        run = Run(parameters, self._places, watch, options=self._options, scales=scales, saved=saved, ranks=self._ranks)
        if saved is not None:
            check_same_network(saved.parameters, parameters)
            run.source = saved.tensors.get("source")
            run.image, state = saved.tensors["image"], saved.optimizer
        elif self._start is not None:
            run.image, state = self._start.image, self._start.curvature
        else:
            self._inputs.warn_of_scaling(scales, self._options)
            run.image = start_image(
                self._inputs,
                scales[0],
                content=self._visible,
                styles=self._styles,
                options=self._options,
                preprocessing=weights.preprocessing,
            )
            return run
        run.optimizer = make_optimizer(self._options, self._runtime, is_begun=self._start is not None)
        place = state_device(self._options, self._runtime)
        run.optimizer.load_state_dict({name: x.to(place) for name, x in state.items()})
        if not self._rest:
            run.content = self._pictures.at(scales[-1].size)
        return run

    def _agreed(self) -> list[Plan]:
        """The plans by which all processes go: those that need the least, for one may have less memory."""
        everyone = self._ranks.gathered(self.plans)
        agreed = [min(each, key=lambda plan: plan.added_bytes) for each in zip(*everyone, strict=True)]
        for plan in agreed:
            if not plan.fits and plan.limit_bytes is not None:
                warn(
                    f"{plan.width}×{plan.height} pixels need about {in_words(plan.peak_bytes)} of memory, and "
                    f"{in_words(plan.limit_bytes)} are free; lower --size, or choose --optimizer adam",
                )
        return agreed

    def _optimise(self, run: Run, scale: Scale, plan: Plan) -> None:
        """One scale of the run. What it makes is as large as the image many times over, and dies with it."""
        runtime, options, (weights, backbone) = self._runtime, self._options_at(scale), self._stylizer.loaded()
        content = self._pictures.at(scale.size)
        visible = content if self._visible is self._pictures else self._visible.at(scale.size)
        for kept in (self._pictures, self._visible):
            kept.drop(scale.size)
        resized = resize_wrapped if options.wraps else resize
        run.image = self._ranks.alike(resized(run.image.to(runtime.device), scale.size))
        guidance = guidance_of(self._inputs.regions, content.alpha, scale.size)
        target, style, transforms = visible.rgb[None], dict[str, StyleTarget](), None
        if scale.layer is None:
            style = self._style(scale, plan.style_tile, plain=guidance.is_plain)
            if run.optimizer is not None and self._start is None and not run.continues(scale):
                run.optimizer = run.optimizer.rescaled(scale.size)
        else:
            if not run.continues(scale):
                self._begin_level(run, scale, target, self.scales[max(0, scale.index - 1)].size)
            target = target if run.source is None else run.source
            backbone = backbone_of(weights, options, runtime)
            styles, regions = self._styles_at(scale, plain=guidance.is_plain)
            transforms = feature_transforms(
                backbone,
                target,
                styles,
                self._options,
                runtime,
                layers=options.taps,
                guidance=guidance,
                regions=regions,
                tile=plan.style_tile or plan.tile,
            )
            del styles, regions
        make = partial(Objective, backbone, target, style, options, runtime, guidance=guidance, transforms=transforms)
        is_fixed = options.tile == "none" or options.style_loss == "sliced"
        objective: Evaluation = FittingObjective(
            make, options, runtime, plan=plan, tile_is_fixed=is_fixed, ranks=self._ranks
        )
        if self._start is not None:
            objective = Coherent(objective, self._start.coherence.on(runtime.device))
        optimizer = run.optimizer or make_optimizer(options, runtime)
        fresh = partial(make_optimizer, options, runtime, is_begun=True)
        descent = Descent(run.image, objective, fresh, optimizer=optimizer, average=options.average)
        run.optimise(descent, scale, content)

    def _options_at(self, scale: Scale) -> Options:
        if scale.layer is not None:
            return self._options.at_level(scale.layer)
        return replace(self._options, style_weight=scale.style_weight)

    def _begin_level(self, run: Run, scale: Scale, content: Tensor, before: tuple[int, int]) -> None:
        """Takes what the level before has made, or the content, for the source of a level; after one at another size,
        `before`, with the detail of the content (1, 3, H, W) that is not seen there."""
        if before != scale.size:
            resized = resize_wrapped if self._options.wraps else resize
            run.image = run.image + (content - resized(resized(content, before), scale.size)).to(run.image)
        run.optimizer, run.source = None, content if scale.index == 0 else run.image.clone()

    def _style_sizes(self, scale: Scale) -> list[tuple[int, int]]:
        return [style_size(style, scale.edge, self._options) for style in self._inputs.styles]

    def _styles_at(self, scale: Scale, *, plain: bool) -> tuple[list[tuple[Tensor, float]], StyleRegions | None]:
        """The styles as they are at a scale, (1, 3, H, W), with their shares, and their regions."""
        sizes = self._style_sizes(scale)
        images = [at_size(style, size).rgb[None] for style, size in zip(self._styles, sizes, strict=True)]
        regions = style_regions(self._inputs.regions, sizes, plain=plain)
        return list(zip(images, self._inputs.shares, strict=True)), regions

    def _style(self, scale: Scale, tile: int | None, *, plain: bool) -> dict[str, StyleTarget]:
        """The targets of the styles at a scale, in tiles where there is one; `plain` where all of the content is one
        region. Those of the styles as they were given are computed once."""
        is_given = all(style is own for style, own in zip(self._styles, self._inputs.styles, strict=True))
        if is_given and (scale.edge, plain) in self._stylizer.style_targets:
            return self._stylizer.style_targets[scale.edge, plain]
        backbone = style_backbone(self._stylizer.loaded()[1], self._options)
        styles, regions = self._styles_at(scale, plain=plain)
        targets = style_targets(backbone, styles, self._options, self._runtime, regions, tile=tile)
        if is_given:
            self._stylizer.style_targets[scale.edge, plain] = targets
        return targets

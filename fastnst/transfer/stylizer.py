"""A style to stylize images with: its network and its targets, kept from one image to the next."""

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import torch
from fastnst_kernels import BlendedTarget

from fastnst.fork import check_fork
from fastnst.image.picture import AnyPicture, Picture
from fastnst.image.read import Source
from fastnst.loss.networks import Networks, weights_of
from fastnst.loss.targets import StyleTarget, style_targets
from fastnst.network.backbone import Backbone
from fastnst.network.runtime import Runtime, as_before, resolve_runtime
from fastnst.network.settings import float32_products, own_modes
from fastnst.network.weights import Weights
from fastnst.options.keywords import OptionValues
from fastnst.options.parse import parse_size
from fastnst.options.presets import warn_of_other_network
from fastnst.options.resolve import resolve_options, unsized_options
from fastnst.plan.processes import Ranks
from fastnst.transfer.checkpoint import SavedRun, load_run
from fastnst.transfer.inputs import Canvas, Inputs, Start, Styles, opened, sized
from fastnst.transfer.prepared import Prepared
from fastnst.transfer.result import Result
from fastnst.transfer.run import ResumeValues, Watch, WatchValues, interruptible, watch_and_options


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
        size = parse_size(options.get("size", 0))
        self._is_sized = isinstance(size, int)
        self._given: dict[str, Any] = {**options, "size": size} if self._is_sized and "size" in options else {**options}
        self.options = resolve_options(**self._given) if self._is_sized else unsized_options(self._given)
        self.ranks = ranks or Ranks()
        runtime = resolve_runtime(self.options.device, self.options.precision, self.options.backend)
        self.runtime = replace(runtime, device=self.ranks.device(runtime.device))
        with own_modes(self.runtime.device):
            self.inputs = Inputs(style, self.options)
        self.style_targets: dict[tuple[int, bool], dict[str, StyleTarget]] = {}
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
    ) -> Prepared:
        """A run on `content`, or the rest of the `saved` one: read, checked and planned, before the network is loaded.

        With `start` it continues from the image of another frame.

        Raises FastnstError for pictures or options that cannot be used, and CheckpointError for inputs that differ from
        the saved ones.
        """
        check_fork()
        with own_modes(self.runtime.device):
            content = opened(content, self.options.max_pixels)
            if not self._is_sized:
                before, self.options = self.options, resolve_options(**sized(self._given, content))
                if self.options.size != before.size:
                    self.style_targets.clear()
            if saved is not None and self.options.precision == "auto":
                # A trial may end otherwise now.
                self.compute_in(as_before(self.runtime, saved.parameters["device"], saved.parameters["precision"]))
            return Prepared(self, content, saved, start)

    def compute_in(self, runtime: Runtime) -> None:
        """Goes on in another arithmetic, with the network and the targets anew."""
        if runtime != self.runtime:
            self.runtime, self._network = runtime, None
            self.style_targets.clear()

    def load(self, *, progress: bool = True) -> None:
        """Loads the network now, not at the first call; a download shows its progress on a terminal."""
        with own_modes(self.runtime.device):
            self.loaded(progress and sys.stderr is not None and sys.stderr.isatty())

    @property
    def is_loaded(self) -> bool:
        return self._network is not None

    def loaded(self, progress: bool = False) -> tuple[Weights, Backbone]:
        """The network, which is loaded for the first call."""
        if self._network is None:
            load = partial(weights_of, self.options, progress=progress)
            self._network = self._networks.get(self.options, self.runtime, lambda: self.ranks.in_turn(load))
            warn_of_other_network(self.options, self._network[0])
        return self._network

    def gram_trace(self, picture: Picture) -> float:
        """The trace of a picture's Gram matrix, as the geometric mean over the style layers; 1 where there are none."""
        if not self.options.active_style_layers:
            return 1.0
        options = replace(self.options, style_loss="gram", style_reduction="paper")
        with own_modes(self.runtime.device), float32_products(self.runtime.tf32):
            targets = style_targets(self.loaded()[1], [(picture.rgb[None], 1.0)], options, self.runtime)
        matrices = [target.matrix for target in targets.values() if isinstance(target, BlendedTarget)]
        traces = torch.stack([matrix.diagonal(dim1=-2, dim2=-1).sum() for matrix in matrices])
        return float(traces.cpu().double().clamp_min(1e-30).log().mean().exp())

"""The whole objective as a `torch.nn.Module`: the perceptual loss that feed-forward networks are trained with."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, Unpack

import torch
from fastnst_kernels import BlendedTarget, gram, tap
from torch import Tensor

from fastnst.errors import OptionError
from fastnst.fork import check_fork
from fastnst.image.picture import Picture, opaque
from fastnst.image.read import Source, load_image
from fastnst.image.resize import fitted_size, resize_picture, warn_if_enlarged
from fastnst.loss.modules import TVLoss, content_factor
from fastnst.loss.networks import weights_of
from fastnst.loss.targets import gram_target, style_shares
from fastnst.network.extractor import FeatureExtractor
from fastnst.network.frozen import Frozen
from fastnst.options.keywords import OptionValues
from fastnst.options.options import Options
from fastnst.options.resolve import resolve_options

# The other options say how an image is optimised, which here is the caller's own business.
_OPTIONS = (
    *("preset", "size", "edge", "style_scale", "content_weight", "style_weight", "tv_weight", "tv_kind"),
    *("tv_reduction", "style_weights", "content_layers", "style_layers", "objective", "content_reduction"),
    *("style_reduction", "style_loss", "pooling", "padding", "network", "weights", "filter_scaling"),
    "backend",
)


def loss_options(**given: Unpack[OptionValues]) -> Options:
    """The options that are `given` of those that say what the loss is. Raises OptionError for any other."""
    if other := [name for name in given if name not in _OPTIONS]:
        raise OptionError(f"{other[0]} is not an option of PerceptualLoss; its options are: {', '.join(_OPTIONS)}")
    options = resolve_options(**given)
    if options.style_loss != "gram":
        raise OptionError(f'PerceptualLoss cannot take the style loss {options.style_loss}; give style_loss="gram"')
    if isinstance(options.style_weight, tuple):
        raise OptionError("PerceptualLoss works at one scale; give one style weight")
    return options


def style_picture(source: Source, options: Options) -> Picture:
    """A style image at the size at which the loss looks at it."""
    picture = opaque(load_image(source, role="style"))
    edge = max(1, round(options.size * options.style_scale))
    size = fitted_size(picture.height, picture.width, edge, options.edge)
    warn_if_enlarged(picture, size)
    return resize_picture(picture, size=size)


class PerceptualTerms(NamedTuple):
    """The terms of each image of a batch, (B,) float32: `total` is weighted, the others are before their weights."""

    total: Tensor
    content: Tensor
    style: Tensor
    tv: Tensor


class PerceptualLoss(Frozen):
    """The objective of `stylize` for batches: `content_weight · content + style_weight · style + tv_weight · tv`.

    Johnson, Alahi and Fei-Fei (2016) train networks that stylize in one pass with such a loss:

        perceptual = fastnst.PerceptualLoss("mosaic.jpg", size=256, style_weight=5).to(device)
        loss = perceptual(network(images), images)
        loss.backward()

    Its terms and their constants are those of `fastnst.loss.terms` (relative, or with `objective="paper"` the
    paper's sums), so that the weights mean the same in both; the loss is their mean over the batch. The network's
    weights and the style's targets move with the module, and are not saved with it.

    Args:
        style: the style image or images, as for `stylize`; None with `style_weight=0`.
        extractor: the network, shared with another `PerceptualLoss` of the same options; None to load it.
        **options: the options of `stylize` that define the loss: preset, content_weight, style_weight, tv_weight,
            tv_kind, tv_reduction, style_weights, content_layers, style_layers, objective, content_reduction,
            style_reduction, pooling, padding, network, weights, filter_scaling, backend; and size · style_scale, the
            edge in pixels (`edge`) at which the styles are looked at.

    Raises a subclass of FastnstError for input that cannot be used. The values of the images are not checked: they are
    taken for RGB in 0…1.
    """

    @torch.inference_mode(False)
    def __init__(
        self,
        style: Source | Sequence[Source] | None = None,
        *,
        extractor: FeatureExtractor | None = None,
        **options: Unpack[OptionValues],
    ) -> None:
        super().__init__()
        check_fork()
        self.options = loss_options(**options)
        self._style_layers = dict(self.options.active_style_layers)
        self._content_layers = dict(self.options.active_content_layers)
        self.extractor = extractor or FeatureExtractor(
            weights_of(self.options),
            layers=self.options.taps,
            pooling=self.options.pooling,
            padding=self.options.padding,
        )
        self.tv = TVLoss(kind=self.options.tv_kind, reduction="none", backend=self.options.backend)
        self._style_weight: dict[str, float] = {}
        if self._style_layers:
            if style is None:
                raise OptionError("no style image was given; give at least one, or style_weight=0")
            self._set_targets(style)

    def forward(self, images: Tensor, content: Tensor | None = None) -> Tensor:
        """Returns the mean loss of the batch, a scalar; the arguments are those of `terms`."""
        return self.terms(images, content).total.mean()

    def terms(self, images: Tensor, content: Tensor | None = None) -> PerceptualTerms:
        """The loss of each image, term by term.

        images: (B, 3, H, W), floating, RGB in 0…1 or somewhat beyond.
        content: (1 or B, 3, H, W), the content of each image; it gets no gradient. None with `content_weight=0`.

        Under autocast the network runs in its dtype; Gram matrices, sums and the total variation are float32.
        """
        targets = self._content_targets(images, content)
        style_terms: list[Tensor] = []
        content_terms: list[Tensor] = []

        def tapped(name: str, features: Tensor) -> Tensor:
            with torch.autocast(features.device.type, enabled=False):
                target = targets[name].to(features.dtype) if name in targets else None
                passed, style, content = tap(
                    features, target=self._target(name), content=target, backend=self.options.backend
                )
                if style is not None:
                    style_terms.append(style)
                if content is not None and target is not None:
                    factor = content_factor(target, self.options.content_form)
                    content_terms.append(content * factor * self._content_layers[name])
            return passed

        self.extractor.through(images, {name: partial(tapped, name) for name in {**self._style_layers, **targets}})
        tv = self.tv(images)
        if self.options.tv_reduction == "sum":
            tv = tv * (images.shape[2] * images.shape[3])
        style = sum(style_terms, torch.zeros_like(tv))
        content_term = sum(content_terms, torch.zeros_like(tv))
        options = self.options
        total = options.content_weight * content_term + options.last_style_weight * style + options.tv_weight * tv
        return PerceptualTerms(total, content_term, style, tv)

    @torch.no_grad()
    def _content_targets(self, images: Tensor, content: Tensor | None) -> dict[str, Tensor]:
        if not self._content_layers:
            return {}
        if content is None:
            raise OptionError("no content was given; give the content of each image, or content_weight=0")
        if content.shape[1:] != images.shape[1:] or len(content) not in (1, len(images)):
            raise OptionError(
                f"content is {tuple(content.shape)} and the images are {tuple(images.shape)}; give one content of "
                "the same size for each image, or one for all"
            )
        return self.extractor.features(content, self._content_layers)

    @torch.no_grad()
    def _set_targets(self, style: Source | Sequence[Source]) -> None:
        """Keeps each style layer's Gram target: that of several styles as one (see `blend_targets`)."""
        sources: list[Source] = list(style) if isinstance(style, list | tuple) else [style]  # type: ignore[list-item]
        if not sources:
            raise OptionError("no style image was given; give at least one")
        shares = style_shares(self.options.style_weights, len(sources))
        grams: dict[str, list[Tensor]] = {name: [] for name in self._style_layers}
        for source in sources:
            features = self.extractor(style_picture(source, self.options).rgb[None])
            for name, matrices in grams.items():
                matrices.append(gram(features[name], backend=self.options.backend))
        for name, matrices in grams.items():
            blended = list(zip(matrices, shares, strict=True))
            target = gram_target(blended, self._style_layers[name], self.options.style_form)
            self._style_weight[name] = target.weight
            self.keep(f"_{name}_gram", target.matrix)
            self.keep(f"_{name}_offset", target.offset)

    def _target(self, name: str) -> BlendedTarget | None:
        if name not in self._style_weight:
            return None
        matrix, offset = self.kept(f"_{name}_gram"), self.kept(f"_{name}_offset")
        return BlendedTarget(matrix, self._style_weight[name], offset)

"""The content term: the content image's features of what each tile owns, kept or computed anew each time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fastnst.loss.terms import content_factor
from fastnst.loss.transforms import FeatureTransform
from fastnst.network.backbone import Backbone, Tap
from fastnst.network.tiles import Tile, Window, cut, levels_of
from fastnst.options.options import Options


@dataclass(frozen=True)
class ContentTarget:
    """The content term of an image in `tiles`: `weights[layer] · Σ (F − P)²`. Make one with `content_target`.

    `content` is the image, (1, 3, H, W), on any device; the P of each tile, after the layers' `transforms`, are in
    `kept`, or are computed from it.
    """

    backbone: Backbone
    content: Tensor
    tiles: Sequence[Tile]
    levels: Mapping[str, int]
    device: torch.device
    weights: Mapping[str, float]
    kept: Sequence[Mapping[str, Tensor]] | None
    transforms: Mapping[str, FeatureTransform] = field(default_factory=dict)

    def features(self, index: int) -> Mapping[str, Tensor]:
        """The layers' P at the positions that tile `index` owns, (1, C, h, w); none without content layers."""
        if not self.levels:
            return {}
        return self.computed(index) if self.kept is None else self.kept[index]

    def computed(self, index: int) -> dict[str, Tensor]:
        """The layers' P of tile `index` from a forward pass."""
        tile = self.tiles[index]
        taps = {name: _OwnedCopy(tile.inside(level)) for name, level in self.levels.items()}
        self.backbone.forward(cut(self.content, tile).to(self.device).contiguous(), taps)
        features = {name: tap.features for name, tap in taps.items() if tap.features is not None}
        for name, transform in self.transforms.items():
            transform.apply_(features[name], tile.owned(self.levels[name]))
        return features


@torch.no_grad()
def content_target(
    backbone: Backbone,
    content: Tensor,
    tiles: Sequence[Tile],
    options: Options,
    *,
    device: torch.device,
    opaque: Mapping[str, Tensor | None],
    is_kept: bool = True,
    add_up: Callable[[Sequence[Tensor]], None],
    transforms: Mapping[str, FeatureTransform] | None = None,
) -> ContentTarget:
    """The content term of `content`, (1, 3, H, W) float32 RGB in 0…1 on any device, over its tiles.

    The constants of the objective are those of the whole image: `add_up` adds the energies and counts of the tiles that
    are computed elsewhere, unless the form is the paper's, which needs neither. Where the content is transparent in
    places, `opaque` has the layers' maps of it, (1, 1, h, w). The target is what `transforms` make of the content's
    features.
    """
    layers, form = dict(options.active_content_layers), options.content_form
    levels = levels_of(options.network, tuple(layers))
    target = ContentTarget(backbone, content, tiles, levels, device, weights={}, kept=None, transforms=transforms or {})
    kept: list[dict[str, Tensor]] = []
    energies, counts = dict.fromkeys(layers, 0.0), dict.fromkeys(layers, 0)
    for index, tile in enumerate(tiles if layers and (is_kept or form != "paper") else ()):
        features = target.computed(index)
        for name, own in features.items():
            counts[name] += own.numel()
            if form == "relative":
                mask = opaque.get(name)
                visible = own.float() if mask is None else own.float() * mask[:, :, *tile.owned(levels[name])]
                energies[name] += visible.square().sum().item()
        if is_kept:
            kept.append(features)
    if layers and form != "paper":
        facts = torch.tensor([[*energies.values()], [*counts.values()]], dtype=torch.float64)
        add_up([facts])
        energies, counts = (dict(zip(layers, row, strict=True)) for row in facts.tolist())
    weights = {
        name: weight * content_factor(form, energies[name], int(counts[name])) for name, weight in layers.items()
    }
    return replace(target, weights=weights, kept=kept if is_kept else None)


@dataclass
class _OwnedCopy(Tap):
    """A tap that keeps the positions that a tile owns."""

    inside: Window
    features: Tensor | None = None

    def forward(self, features: Tensor) -> None:
        layout = torch.channels_last if features.stride(1) == 1 else torch.contiguous_format
        self.features = features[:, :, *self.inside].clone(memory_format=layout)

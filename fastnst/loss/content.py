"""The content term: the content image's features of what each tile owns, kept or computed anew each time."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from fastnst.loss.masks import LayerGuidance
from fastnst.loss.terms import content_factor
from fastnst.loss.transforms import FeatureTransform
from fastnst.network.architecture import layers_of
from fastnst.network.backbone import Backbone
from fastnst.network.tiles import Tile, cut, levels_of
from fastnst.options.options import Options


class ContentTarget:
    """The content term of `content`, (1, 3, H, W) float32 RGB in 0…1 on any device: `weights[layer] · Σ (F − P)²` over
    its tiles. The P of each tile are kept, or computed anew each time.

    The constants of the objective are those of the whole image: in the relative form `add_up` adds the energies of the
    tiles that are computed elsewhere. `guidance` says where the content is transparent at its layers. The target is
    what `transforms` make of the content's features.
    """

    @torch.no_grad()
    def __init__(
        self,
        backbone: Backbone,
        content: Tensor,
        tiles: Sequence[Tile],
        options: Options,
        *,
        device: torch.device,
        guidance: Mapping[str, LayerGuidance],
        is_kept: bool,
        add_up: Callable[[Sequence[Tensor]], None],
        transforms: Mapping[str, FeatureTransform],
    ) -> None:
        layers, form = dict(options.active_content_layers), options.content_form
        self.tiles, self._levels = tiles, levels_of(options.network, tuple(layers))
        self._backbone, self._content, self._device, self._transforms = backbone, content, device, transforms
        self._kept: list[Mapping[str, Tensor]] = []
        energies = dict.fromkeys(layers, 0.0)
        for index, tile in enumerate(tiles if layers and (is_kept or form == "relative") else ()):
            features = self._computed(index)
            for name, own in features.items() if form == "relative" else ():
                mask = guidance[name].opaque
                seen = own.float() if mask is None else own.float() * mask[:, :, *tile.owned(self._levels[name])]
                energies[name] += seen.square().sum().item()
            if is_kept:
                self._kept.append(features)
        if layers and form == "relative":
            summed = torch.tensor([*energies.values()], dtype=torch.float64)
            add_up([summed])
            energies = dict(zip(layers, summed.tolist(), strict=True))
        channels = {layer.name: layer.out_channels for layer in layers_of(options.network)}
        self.weights = {
            name: weight * content_factor(form, energies[name], channels[name] * guidance[name].positions)
            for name, weight in layers.items()
        }

    def features(self, index: int) -> Mapping[str, Tensor]:
        """The layers' P at the positions that tile `index` owns, (1, C, h, w); none without content layers."""
        if not self._levels:
            return {}
        return self._kept[index] if self._kept else self._computed(index)

    def _computed(self, index: int) -> dict[str, Tensor]:
        tile, features = self.tiles[index], dict[str, Tensor]()

        def keep(name: str, whole: Tensor) -> None:
            inside = tile.inside(self._levels[name])
            features[name] = whole[:, :, *inside].clone(memory_format=torch.channels_last)

        self._backbone.read(cut(self._content, tile).to(self._device).contiguous(), self._levels, keep)
        for name, transform in self._transforms.items():
            transform.apply_(features[name], tile.owned(self._levels[name]))
        return features

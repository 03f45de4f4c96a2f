"""The content layers' features of each tile: kept in memory, on the host, on a disk, or computed anew each time."""

import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor

from fastnst.errors import FastnstError, OptionError
from fastnst.loss.reductions import content_factor
from fastnst.loss.side_copies import SideCopier, TileStore
from fastnst.network.architecture import layers_up_to
from fastnst.network.backbone import Backbone
from fastnst.network.forward_tap import ForwardTap
from fastnst.network.tiles import Tile, Window, cut
from fastnst.options.options import Options

PLACES = ("device", "host", "disk", "recompute")


class Store(Protocol):
    """The features that tiles own, by their index."""

    def put(self, index: int, features: Mapping[str, Tensor]) -> None:
        """Keeps the features of a tile, which are the store's from now on."""

    def get(self, index: int, following: int) -> dict[str, Tensor]:
        """The features of a tile, (1, C, h, w) by layer, on the network's device; for reading, until those of the
        `following` one, which are asked for next."""


@dataclass(frozen=True)
class TileContent:
    """The content term of tiles: `weights[layer] · Σ (F − P)²`, and the P of each tile in `store`."""

    weights: Mapping[str, float]
    store: Store

    def features(self, index: int, following: int) -> dict[str, Tensor]:
        """The layers' P at the positions that tile `index` owns, (1, C, h, w); none without content layers. Those of
        tile `following` are asked for next."""
        return self.store.get(index, following) if self.weights else {}


@torch.no_grad()
def make_tile_content(
    backbone: Backbone,
    content: Tensor,
    tiles: Sequence[Tile],
    levels: Mapping[str, int],
    options: Options,
    device: torch.device,
    place: str,
    total: Callable[[Tensor], Tensor] = torch.clone,
    *,
    opaque: Mapping[str, Tensor | None] = MappingProxyType({}),
) -> TileContent:
    """The content term of `content`, (1, 3, H, W) float32 RGB in 0…1 on any device, over its tiles.

    `place` is "device" for the network's memory, "host" for the main memory (pinned, if the network is on a GPU),
    "disk" for files in a temporary folder, mapped into memory while they are used and removed with the content, or
    "recompute", which keeps `content` itself. The constants of the objective are those of the whole image: `total`
    makes the layers' energies and counts of features, (2 · layers,) float64, of those of these tiles; called once,
    unless the form is the paper's, which needs neither. Where the content is transparent in places, `opaque` has the
    layers' maps of it, (1, 1, h, w), over all that `content` shows.
    """
    if place not in PLACES:
        raise OptionError(f"unknown place {place!r} of the content's features; choose one of: {', '.join(PLACES)}")
    layers = dict(options.active_content_layers)
    computed = Recomputed(backbone, content, tiles, {name: levels[name] for name in layers}, device)
    store: Store = computed
    if place == "device":
        store = OnDevice(len(tiles))
    elif place == "host":
        store = OnHost(device)
    elif place == "disk":
        store = OnDisk(len(tiles), device)
    form = options.content_form
    energies = dict.fromkeys(layers, 0.0)
    if layers and (form == "relative" or place != "recompute"):
        for index in range(len(tiles)):
            features = computed.get(index, index)
            for name, found in features.items():
                mask = opaque.get(name)
                seen = found if mask is None else found * mask[:, :, *tiles[index].owned(levels[name])]
                energies[name] += seen.float().square().sum().item()
            store.put(index, features)
    counts = {name: _owned_features(tiles, levels[name], name, options.network) for name in layers}
    if layers and form != "paper":
        whole = total(torch.tensor([*energies.values(), *counts.values()], dtype=torch.float64)).tolist()
        energies = dict(zip(layers, whole, strict=False))
        counts = dict(zip(layers, map(round, whole[len(layers) :]), strict=True))
    weights = {name: weight * content_factor(form, energies[name], counts[name]) for name, weight in layers.items()}
    return TileContent(weights, store)


def _owned_features(tiles: Sequence[Tile], level: int, layer: str, network: str) -> int:
    """How many features of a layer the tiles own together."""
    windows = (tile.inside(level) for tile in tiles)
    positions: int = sum((rows.stop - rows.start) * (columns.stop - columns.start) for rows, columns in windows)
    return layers_up_to(network, (layer,))[-1].out_channels * positions


@dataclass(frozen=True)
class Recomputed:
    """Nothing is kept but the content image: a forward pass each time."""

    backbone: Backbone
    content: Tensor
    tiles: Sequence[Tile]
    levels: Mapping[str, int]
    device: torch.device

    def put(self, index: int, features: Mapping[str, Tensor]) -> None:
        """Nothing is kept."""

    def get(self, index: int, following: int) -> dict[str, Tensor]:
        tile = self.tiles[index]
        taps = {name: _OwnedCopy(tile.inside(level)) for name, level in self.levels.items()}
        crop = cut(self.content, tile).to(self.device).contiguous()
        self.backbone.forward(crop, taps)
        return {name: tap.features for name, tap in taps.items() if tap.features is not None}


class OnDevice:
    """Kept where the network is."""

    def __init__(self, count: int) -> None:
        self._kept: list[dict[str, Tensor]] = [{} for _ in range(count)]

    def put(self, index: int, features: Mapping[str, Tensor]) -> None:
        self._kept[index] = dict(features)

    def get(self, index: int, following: int) -> dict[str, Tensor]:
        return self._kept[index]


class OnHost:
    """Kept in main memory, from where the following tile's come back while one is computed."""

    def __init__(self, device: torch.device) -> None:
        self._names: dict[int, tuple[str, ...]] = {}
        self._tensors = TileStore(device, SideCopier(device))
        self._latest: tuple[int, dict[str, Tensor]] | None = None

    def put(self, index: int, features: Mapping[str, Tensor]) -> None:
        self._names[index] = tuple(features)
        self._tensors.put(index, list(features.values()))

    def get(self, index: int, following: int) -> dict[str, Tensor]:
        if self._latest is None or self._latest[0] != index:
            self._latest = index, dict(zip(self._names[index], self._tensors.fetch(index), strict=True))
        if following != index:
            self._tensors.send(following)
        return self._latest[1]


class OnDisk:
    """Kept in a file for each tile and layer, in a temporary folder that goes with this object."""

    def __init__(self, count: int, device: torch.device) -> None:
        self._device = device
        self._folder = Path(tempfile.mkdtemp(prefix="fastnst-content-"))
        self._shapes: list[dict[str, tuple[torch.Size, torch.dtype, bool]]] = [{} for _ in range(count)]
        self._finalizer = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    def put(self, index: int, features: Mapping[str, Tensor]) -> None:
        for name, found in features.items():
            last = found.is_contiguous(memory_format=torch.channels_last)
            flat = (found.permute(0, 2, 3, 1) if last else found).contiguous().cpu().flatten()
            try:
                (self._folder / f"{index}.{name}").write_bytes(flat.view(torch.uint8).numpy().data)
            except OSError as error:
                raise FastnstError(
                    f"the content's features cannot be written to {self._folder}: {error.strerror or error}; free some "
                    "space, or set TMPDIR to another folder"
                ) from None
            self._shapes[index][name] = (found.shape, found.dtype, last)

    def get(self, index: int, following: int) -> dict[str, Tensor]:
        found = {}
        for name, (shape, dtype, last) in self._shapes[index].items():
            path = str(self._folder / f"{index}.{name}")
            flat = torch.from_file(path, shared=False, size=shape.numel(), dtype=dtype)
            batch, channels, height, width = shape
            kept = flat.view(batch, height, width, channels).permute(0, 3, 1, 2) if last else flat.view(shape)
            found[name] = kept.to(self._device)
        return found


@dataclass
class _OwnedCopy(ForwardTap):
    """A tap that keeps the positions that a tile owns."""

    inside: Window
    features: Tensor | None = None

    def forward(self, features: Tensor) -> None:
        self.features = features[:, :, *self.inside].clone(memory_format=_layout(features))


def _layout(features: Tensor) -> torch.memory_format:
    return torch.channels_last if features.stride(1) == 1 else torch.contiguous_format

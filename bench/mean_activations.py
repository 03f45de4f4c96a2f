"""The mean activation of each filter of the original VGG-19, over photographs and positions.

Gatys, Ecker and Bethge scaled every filter of their network to a mean activation of 1 over images and positions. This
measures the 5,504 means (all sixteen convolutions, after the ReLU, average pooling, zeros as padding) that
`--filter-scaling unit-mean` divides by: for each photograph, scaled to a long edge of 512 pixels where it is larger,
the mean over positions, then the mean over the photographs. The table is float32, from conv1_1 to conv5_4.

Photographs are those that come with packages. From PyPI: scikit-image 0.26.0 (photographs in the public domain or
CC0), scikit-learn 1.9.1 (CC BY), matplotlib 3.11.2 (public domain). From Debian 12, unpacked into a folder by
`apt-get download NAME; dpkg-deb -x NAME_*.deb FOLDER/NAME`:

- lomiri-wallpapers-16.04 20.04.0-2 (CC BY 4.0, CC BY-SA 4.0, CC0 1.0), lomiri-wallpapers-20.04 20.04.0-2 (CC BY-SA 3.0)
- mate-backgrounds 1.26.0-1 (GPL 2 or later)
- plasma-workspace-wallpapers 4:5.27.5-2 (GPL 2 or later)
- palapeli-data 4:22.12.3-1 (public domain, GFDL)
- gnome-control-center-data 1:43.6-2~deb12u1 (GPL 2 or later and others of the package)

python -m bench.mean_activations --debian FOLDER            prints how far halves of the photographs agree
python -m bench.mean_activations --debian FOLDER --write    also writes fastnst/network/mean_activations.npy
"""

import argparse
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from fastnst.image.read import load_image
from fastnst.image.resize import resize_picture
from fastnst.network.architecture import ORIGINAL_NETWORK, layers_of
from fastnst.network.builtin import MEANS
from fastnst.network.extractor import FeatureExtractor

EDGE = 512
FROM_PYPI: Mapping[str, tuple[str, ...]] = {
    "skimage/data": ("astronaut.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg"),
    "sklearn/datasets/images": ("china.jpg", "flower.jpg"),
    "matplotlib/mpl-data/sample_data": ("grace_hopper.jpg",),
}
FROM_DEBIAN: Mapping[str, tuple[str, ...]] = {
    "lomiri-wallpapers-16.04/usr/share/backgrounds": (
        "Bridge_by_Sander_Klootwijk.jpg",
        "Dragonfly_by_Bolly.jpg",
        "Picture_0B_by_freespace.jpg",
        "Picture_1A_by_freespace.jpg",
        "Wine_by_Jakkub_Mede.jpg",
        "aitzgorri_by_Aitzol_Berasategi.jpg",
        "friends_by_Aitzol_Berasategi.jpg",
        "life_by_Aitzol_Berasategi.jpg",
        "picosdeeuropa_by_Aitzol_Berasategi.jpg",
        "seeding_by_Clements_Engelhardt.jpg",
        "sunset_by_Aitzol_Berasategi.jpg",
    ),
    "lomiri-wallpapers-20.04/usr/share/backgrounds": ("Kleiber_by_Lukas_Baubkus.jpg",),
    "mate-backgrounds/usr/share/backgrounds/mate/nature": (
        *("Aqua.jpg", "Blinds.jpg", "Dune.jpg", "FreshFlower.jpg", "Garden.jpg", "GreenMeadow.jpg"),
        *("LadyBird.jpg", "RainDrops.jpg", "Storm.jpg", "TwoWings.jpg", "Wood.jpg", "YellowFlower.jpg"),
    ),
    "plasma-workspace-wallpapers/usr/share/wallpapers": tuple(
        f"{name}/contents/images/2560x1600.jpg"
        for name in (
            *("BytheWater", "ColdRipple", "ColorfulCups", "DarkestHour", "EveningGlow"),
            *("FallenLeaf", "Kite", "OneStandsOut", "Path", "summer_1am"),
        )
    ),
    "palapeli-data/usr/share/palapeli/collection": (
        *("castle-maintenon.jpg", "cincinnati-bridge.jpg", "citrus-fruits.jpg"),
        *("european-honey-bee.jpg", "panther-chameleon-female.jpg"),
    ),
    "gnome-control-center-data/usr/share/pixmaps/faces": (
        *("bicycle.jpg", "book.jpg", "cat.jpg", "coffee2.jpg", "flower2.jpg", "gamepad.jpg", "guitar2.jpg"),
        *("headphones.jpg", "hummingbird.jpg", "mountain.jpg", "plane.jpg", "surfer.jpg", "tomatoes.jpg", "tree.jpg"),
    ),
}
_SPLITS = 200


def main() -> int:
    parser = argparse.ArgumentParser(description="Mean activations of the original VGG-19 over photographs.")
    parser.add_argument("--debian", type=Path, required=True, metavar="FOLDER", help="where Debian's packages lie")
    parser.add_argument("--write", action="store_true", help=f"write {MEANS}")
    given = parser.parse_args()
    layers = [layer for layer in layers_of(ORIGINAL_NETWORK) if not layer.is_pool]
    paths = photographs(given.debian)
    means = measured(paths, [layer.name for layer in layers])  # (photographs, filters)
    blocks = np.split(means, np.cumsum([layer.out_channels for layer in layers])[:-1], axis=1)
    print(f"{len(paths)} photographs, {means.shape[1]} filters; medians of {_SPLITS} splits into halves")
    print("         median mean  least of it  correlation of logarithms  difference: median  95th percentile")
    for layer, block in zip(layers, blocks, strict=True):
        print(stability(layer.name, block))
    print(stability("all", means))
    if given.write:
        np.save(MEANS, means.mean(0).astype(np.float32))
        print(f"{MEANS}: {MEANS.stat().st_size} bytes")
    return 0


def photographs(debian: Path) -> list[Path]:
    """The photographs of both lists; raises FileNotFoundError where a package lacks one."""
    bundled = [
        Path(str(files(package.split("/")[0]))) / Path(*package.split("/")[1:]) / name
        for package, names in FROM_PYPI.items()
        for name in names
    ]
    paths = bundled + [debian / folder / name for folder, names in FROM_DEBIAN.items() for name in names]
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing; install or unpack its package")
    return paths


@torch.no_grad()
def measured(paths: list[Path], layers: list[str]) -> np.ndarray:
    """The mean over positions of each filter for each photograph, (photographs, filters) float64."""
    network = FeatureExtractor("original", ORIGINAL_NETWORK, layers=layers, pooling="avg")
    rows = []
    for path in tqdm(paths):
        picture = load_image(path)
        ratio = min(1.0, EDGE / max(picture.height, picture.width))
        picture = resize_picture(picture, size=(round(picture.height * ratio), round(picture.width * ratio)))
        features = network(picture.rgb[None])
        rows.append(torch.cat([features[name].double().mean((0, 2, 3)) for name in layers]).numpy())
    return np.stack(rows)


def stability(name: str, means: np.ndarray) -> str:
    """A line on how far the means over one half of the photographs are from those over the other."""
    mean = means.mean(0)
    generator = np.random.default_rng(0)
    rows = []
    for _ in range(_SPLITS):
        order = generator.permutation(len(means))
        left, right = (means[half].mean(0) for half in np.array_split(order, 2))
        distance = np.abs(left - right) / ((left + right) / 2)
        correlation = np.corrcoef(np.log(left), np.log(right))[0, 1]
        rows.append((correlation, np.median(distance), np.quantile(distance, 0.95)))
    correlation, middle, high = np.median(rows, axis=0)
    middling = np.median(mean)
    return f"{name:9}{middling:11.3f}{mean.min() / middling:13.5f}{correlation:27.4f}{middle:20.3f}{high:17.3f}"


if __name__ == "__main__":
    raise SystemExit(main())

"""16 bits a channel and floats: read in full, written in full, by files that other programs wrote and by our own."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import picture_samples
import pytest
import pyvips
import torch

from fastnst.errors import ImageError
from fastnst.image.metadata import read_parameters
from fastnst.image.read import load_image
from fastnst.image.write import save_image

# Files of 5×4 pixels that OpenCV 5.0 (PNG) and tifffile 2026.3 (TIFF) wrote of the arrays of `written`.
FOREIGN = {
    "lzw-big3.tif": (
        "O-%qQ0000801g2F00aO40096100jX700aO40096100aR700RI300RI30JZ@G00RI3009660003700RI3009630003I00aO400961"
        "0MG#y00RI3009640003N00aO40096100aRS00aO4009610Ez(`00jU5009610K5Sk00jU5009610K@?t00RI3009620003f00RI3"
        "009620003!00RI300963000000000G01yBW0000100001000010000100000fH_qPwZg63=r%itrIzuWA~bL*-h?L#MAX(6BMt-*"
        "!wn!w6$BlxrVw?&{BVKUt^nboZeL2b6T!8iL>xqBsM4n5*qv$%OQM#IglSwHfn%--%rl$R3`ZRV2cq*DrD||iF_A0)gK(TY1U*%z"
        "w~_P!xlNFd=%U+Eux?Vh91fCr<$AqEz(4"
    ),
    "cv4.png": (
        "iBL{Q4GJ0x0000DNk~Le00005000045C#AM02ZSu0{{R3uSrBfR0tgbqySt00ae+|HHLWDA1XCbYa3XMRTxEsCLrA!!lEk*u)@AC"
        "1yZ*EKS9)DRRM{L^@ofPjynT#^2JUhw?gTgbwKxuoU>%G(@cuLFF=3hFyMU5oo)e=Bp*v2zTUpMnm7b)L0ogb$21a+h^q@?uUF_B"
        "JNgV#7Hlh6nk97sUAV_IZS%DrWflG^GG<FKZJ<O`)}eroexghp^m^~@K82Z`_eaG)V|hxbZ&kdf00000NkvXXu0mjf"
    ),
}


def written(channels: int) -> np.ndarray:
    """What the files in FOREIGN hold."""
    generator = np.random.default_rng(5)
    three = generator.integers(0, 65536, (4, 5, 3), dtype=np.uint16)
    return three if channels == 3 else generator.integers(0, 65536, (4, 5, 4), dtype=np.uint16)


def noise(height: int = 70, width: int = 9, channels: int = 3) -> np.ndarray:
    return picture_samples.noise(height, width, channels, np.uint16)


def planes(array: np.ndarray) -> torch.Tensor:
    return picture_samples.planes(array, 65535)


def channels_of(source: Any) -> torch.Tensor:
    picture = load_image(source)
    return picture.rgb if picture.alpha is None else torch.cat([picture.rgb, picture.alpha])


@pytest.mark.parametrize(("name", "channels"), [("lzw-big3.tif", 3), ("cv4.png", 4)])
def test_files_of_other_programs_are_read_in_full(name: str, channels: int, tmp_path: Path) -> None:
    data = base64.b85decode(FOREIGN[name])
    path = tmp_path / name
    path.write_bytes(data)
    expected = planes(written(channels))
    for source in (path, io.BytesIO(data)):
        assert torch.equal(channels_of(source), expected)


@pytest.mark.parametrize("extension", ["png", "tif"])
@pytest.mark.parametrize("orientation", [3, 6])
def test_orientation(orientation: int, extension: str, tmp_path: Path) -> None:
    samples = noise(6, 4)
    image = pyvips.Image.new_from_array(samples, interpretation="rgb16").copy()
    image.set_type(pyvips.GValue.gint_type, "orientation", orientation)
    image.write_to_file(str(tmp_path / f"a.{extension}"))
    expected = np.rot90(samples, 2 if orientation == 3 else -1)
    assert torch.equal(channels_of(tmp_path / f"a.{extension}"), planes(np.ascontiguousarray(expected)))


@pytest.mark.parametrize("channels", [2, 3, 4])
@pytest.mark.parametrize("options", [{}, {"interlace": True}])
def test_grey_alpha_and_interlaced_files(channels: int, options: dict[str, Any], tmp_path: Path) -> None:
    samples = noise(13, 11, channels)
    kind = "grey16" if channels == 2 else "rgb16"
    pyvips.Image.new_from_array(samples, interpretation=kind).pngsave(str(tmp_path / "a.png"), **options)
    expected = planes(samples)
    if channels == 2:
        expected = torch.cat([expected[:1].expand(3, -1, -1), expected[1:]])
    assert torch.equal(channels_of(tmp_path / "a.png"), expected)


@pytest.mark.parametrize("with_alpha", [False, True])
def test_npy_holds_floats(with_alpha: bool, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    rgb, alpha = torch.rand(3, 70, 5, generator=generator), torch.rand(1, 70, 5, generator=generator)
    path = tmp_path / "a.npy"
    save_image(path, rgb, alpha if with_alpha else None, parameters={"α": [1.5, None]})
    array = np.load(path)
    assert array.dtype == np.float32
    assert np.array_equal(array[:, :, :3], rgb.permute(1, 2, 0).numpy())
    assert torch.equal(channels_of(path), torch.cat([rgb, alpha]) if with_alpha else rgb)
    assert read_parameters(path) == {"α": [1.5, None]}
    save_image(path, rgb)
    with pytest.raises(ImageError, match="has no fastnst parameters"):
        read_parameters(path)


def npy(array: np.ndarray) -> io.BytesIO:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    file.seek(0)
    return file


def test_npy_inputs() -> None:
    for array in (noise(), noise()[:, :, 0], np.asfortranarray(noise() / 65535), noise(channels=4).astype(">u2")):
        assert load_image(npy(array)).sha256 == load_image(array).sha256


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((3, 8, 8)), r"shape \(3, 8, 8\).*move the channels last"),
        (np.zeros((8, 8), np.int64), "dtype int64"),
        (np.zeros((400, 400)), "more than the limit of 100000 pixels"),
    ],
)
def test_npy_refusals(array: np.ndarray, said: str) -> None:
    with pytest.raises(ImageError, match=said):
        load_image(npy(array), max_pixels=100_000)

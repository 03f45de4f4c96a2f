"""Large pictures, written some rows at a time: the same pixels as those written whole, for other readers too."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastnst.metadata import exif_tags, png_text
from fastnst.row_writers import write_png, write_tiff
from fastnst.tiff_directory import read_directory
from picture_samples import samples_of
from PIL import Image

from fastnst import output, row_writers
from fastnst.image.metadata import read_parameters
from fastnst.image.read import load_image
from fastnst.image.write import save_image

HEIGHT, WIDTH = 150, 37
PARAMETERS = {"content": "夜.jpg", "size": 512}


@pytest.fixture
def _all_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "LARGE_PIXELS", 0)


def planes(channels: int) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.linspace(0, 1, HEIGHT), torch.linspace(0, 1, WIDTH), indexing="ij")
    waves = [(torch.sin(9 * rows * (c + 1)) * torch.cos(5 * columns) + 1) / 2 for c in range(channels)]
    noise = torch.rand((channels, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(0))
    return (0.9 * torch.stack(waves) + 0.1 * noise).clamp(0, 1)


@pytest.mark.parametrize("extension", ["png", "tif", "npy"])
@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("with_alpha", [False, True])
def test_the_same_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extension: str, depth: int, with_alpha: bool
) -> None:
    rgb, alpha = planes(3), planes(4)[3:] if with_alpha else None
    whole, rows = tmp_path / f"whole.{extension}", tmp_path / f"rows.{extension}"
    save_image(whole, rgb, alpha, parameters=PARAMETERS, bit_depth=depth)
    monkeypatch.setattr(output, "LARGE_PIXELS", 0)
    save_image(rows, rgb, alpha, parameters=PARAMETERS, bit_depth=depth)
    one, other = load_image(whole), load_image(rows)
    assert one.sha256 == other.sha256
    assert (other.alpha is not None) == with_alpha
    assert read_parameters(rows) == PARAMETERS


@pytest.mark.parametrize("extension", ["png", "tif"])
@pytest.mark.usefixtures("_all_are_large")
def test_streams(tmp_path: Path, extension: str) -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *_: Any) -> int:
            raise OSError("a pipe")

    pipe = Pipe()
    save_image(pipe, planes(3), format={"tif": "tiff"}.get(extension, extension))
    save_image(tmp_path / f"a.{extension}", planes(3))
    assert pipe.getvalue() == (tmp_path / f"a.{extension}").read_bytes()


@pytest.mark.usefixtures("_all_are_large")
def test_a_failure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"before")

    def full(*_: object) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(row_writers, "_adaptive", full)
    with pytest.raises(output.ImageError, match="No space left on device"):
        save_image(path, planes(3))
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("big", [False, True])
def test_tiff_is_read_by_others(tmp_path: Path, depth: int, channels: int, big: bool) -> None:
    tifffile = pytest.importorskip("tifffile")
    path, array = tmp_path / "a.tif", random_samples(depth, channels)
    with path.open("wb") as file:
        write_tiff(file, samples_of(array), exif_tags("TIFF", PARAMETERS), b"profile", big=big)
    with tifffile.TiffFile(path) as found:
        assert found.is_bigtiff == big
        page = found.pages[0]
        assert page.description == '{"fastnst":{"content":"夜.jpg","size":512}}'
        assert page.iccprofile == b"profile"
        assert len(page.dataoffsets) == 3
    assert np.array_equal(read_deflated(path, array.shape, array.dtype), array)
    assert read_parameters(path) == PARAMETERS
    if depth == 8:
        assert np.array_equal(np.asarray(Image.open(path)), array)


def read_deflated(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Strips by the directory alone: inflated, and differences summed up."""
    import zlib

    data = path.read_bytes()
    directory = read_directory(io.BytesIO(data))
    strips = zip(directory.numbers(273), directory.numbers(279), strict=True)
    flat = b"".join(zlib.decompress(data[start : start + size]) for start, size in strips)
    return np.cumsum(np.frombuffer(flat, dtype).reshape(shape), axis=1, dtype=dtype)


def random_samples(depth: int, channels: int) -> np.ndarray[Any, Any]:
    dtype = np.uint8 if depth == 8 else np.uint16
    return np.random.default_rng(0).integers(0, 2**depth, (HEIGHT, WIDTH, channels), dtype)


def test_big_tiff_from_4_gib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_writers, "_LARGEST_TIFF", 1 << 20)
    path = tmp_path / "a.tif"
    with path.open("wb") as file:
        write_tiff(file, samples_of(random_samples(8, 3)), {}, b"profile")
    assert path.read_bytes()[:4] == b"II\x2b\x00"


@pytest.mark.parametrize("channels", [3, 4])
def test_every_filter_of_png(channels: int) -> None:
    """Rows for which another filter is best each: Pillow undoes all of them."""
    columns = np.arange(WIDTH)[:, None] + np.arange(channels)
    noise = np.random.default_rng(0).integers(0, 256, (WIDTH, channels))
    rows = [noise, noise, 3 * columns, noise // 2 + columns, noise // 2 + 2 * columns, noise, noise + columns]
    array = np.stack([row % 256 for row in rows]).astype(np.uint8)
    file = io.BytesIO()
    write_png(file, samples_of(array, 2), png_text(None), b"profile")
    assert np.array_equal(np.asarray(Image.open(file)), array)


@pytest.mark.usefixtures("_all_are_large")
def test_smooth_pictures_are_as_small_as_pillows(tmp_path: Path) -> None:
    save_image(tmp_path / "a.png", planes(3))
    Image.open(tmp_path / "a.png").save(tmp_path / "pillow.png")
    assert (tmp_path / "a.png").stat().st_size < 1.1 * (tmp_path / "pillow.png").stat().st_size

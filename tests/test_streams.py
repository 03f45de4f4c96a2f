"""Pictures from and to binary streams."""

import io
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from picture_samples import refused
from PIL import Image

from fastnst.errors import ImageError, OptionError
from fastnst.image.metadata import read_parameters
from fastnst.image.read import load_image
from fastnst.image.write import check_output_path, save_image


def rgb() -> torch.Tensor:
    return torch.randint(0, 256, (3, 6, 5), generator=torch.Generator().manual_seed(0)) / 255


def encoded(kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray((rgb().permute(1, 2, 0) * 255).byte().numpy()).save(file, kind)
    return file.getvalue()


class Pipe(io.RawIOBase):
    """A stream that can be read or written once alone, as the standard streams in a pipe."""

    def __init__(self, data: bytes = b"") -> None:
        self.name = "<stdin>"
        self.data = data
        self.written = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        taken, self.data = (self.data, b"") if size < 0 else (self.data[:size], self.data[size:])
        return taken

    def write(self, data: Any) -> int:
        self.written += bytes(data)
        return len(bytes(data))


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_a_stream_is_read_as_its_file_would_be(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(encoded(kind))
    for stream, name in ((Pipe(encoded(kind)), "<stdin>"), (io.BytesIO(encoded(kind)), "stream")):
        picture = load_image(stream)
        assert torch.equal(picture.rgb, rgb())
        assert picture.name == name
        assert picture.sha256 == load_image(path).sha256
    with path.open("rb") as file:
        assert load_image(file).name == str(path)
        assert not file.closed


def test_refused_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.BytesIO(encoded())
    closed.close()
    monkeypatch.setattr("fastnst.image.files._MAX_STREAM_BYTES", 1000)
    refused(io.BytesIO(encoded()[:60]), r"^style image \(stream\)", "damaged or truncated", role="style")
    refused(io.StringIO("text"), "gives str, not bytes; open it in binary mode")
    refused(closed, "could not be read")
    refused(Pipe(bytes(5000)), "has more than 1000 bytes")


@pytest.mark.parametrize("format", [None, "png", "jpeg", "webp", "tiff", "avif", "npy"])
def test_writing_to_a_stream(format: str | None) -> None:
    pipe = Pipe()
    check_output_path(pipe, (6, 5), format=format)
    save_image(pipe, rgb(), parameters={"size": 5}, format=format)
    assert read_parameters(io.BytesIO(pipe.written)) == {"size": 5}
    if format == "npy":
        assert np.load(io.BytesIO(pipe.written)).shape == (6, 5, 3)
    else:
        assert Image.open(io.BytesIO(pipe.written)).format == (format or "png").upper()


def test_refused_targets_and_formats(tmp_path: Path) -> None:
    save_image(tmp_path / "a.dat", rgb(), format="tiff", bit_depth=16)
    with Image.open(tmp_path / "a.dat") as image:
        assert image.format == "TIFF"
    with pytest.raises(OptionError, match="unknown format 'gif'; choose one of: png, jpeg, webp, tiff, avif, npy"):
        save_image(tmp_path / "b.png", rgb(), format="gif")
    with pytest.raises(ImageError, match="output is of type int; give a path or a binary stream"):
        save_image(3, rgb())  # type: ignore[arg-type]
    with pytest.raises(ImageError, match="output is of type StringIO; give a path or a binary stream"):
        save_image(io.StringIO(), rgb())  # type: ignore[arg-type]
    with pytest.raises(BrokenPipeError):
        save_image(Mock(spec=io.RawIOBase, write=Mock(side_effect=BrokenPipeError(32, "Broken pipe"))), rgb())

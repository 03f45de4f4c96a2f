"""Files of tensors that are written some bytes at a time: what others read, and damage that is found."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from fastnst.transfer import tensor_file
from fastnst.transfer.tensor_file import Pieces, is_whole, pieces_of, write_tensors


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensor_file, "_PIECE", 100)


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, 3, 20, 17, generator=generator)
    return {
        "image": image,
        "channels last": image.contiguous(memory_format=torch.channels_last),
        "long": torch.arange(40).view(1, 1, 40),
        "flags": torch.rand(33, generator=generator) > 0.5,
        "half": image.half()[0, 0],
        "brain": image.bfloat16(),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "empty": torch.zeros(0, 3),
        "bytes": torch.arange(9, dtype=torch.uint8),
    }


def written(path: Path, pieces: dict[str, Pieces]) -> str:
    with path.open("wb") as file:
        write_tensors(file, pieces, {"kind": "test", "text": "夜"})
    with safe_open(path, framework="pt") as handle:
        metadata = handle.metadata()
    assert (metadata["kind"], metadata["text"]) == ("test", "夜")
    return str(metadata["sha256"])


def test_what_others_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    sha256 = written(path, {name: pieces_of(tensor) for name, tensor in tensors().items()})
    found = load_file(path)
    assert found.keys() == tensors().keys()
    for name, tensor in tensors().items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    with path.open("rb") as file:
        assert is_whole(file, sha256)


def test_any_other_byte_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    sha256 = written(path, {"a": pieces_of(torch.arange(20)), "b": pieces_of(torch.ones(3))})
    data = path.read_bytes()
    for index in range(8, len(data)):
        if data[index : index + 64] == sha256.encode()[: len(data[index : index + 64])]:
            continue
        path.write_bytes(data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :])
        with path.open("rb") as file:
            assert not is_whole(file, sha256), index
    path.write_bytes(data[:-1])
    with path.open("rb") as file:
        assert not is_whole(file, sha256)


def test_pieces_are_small() -> None:
    image = torch.rand(1, 3, 20, 17)
    pieces = list(pieces_of(image).each)
    assert max(piece.numel() * piece.element_size() for piece in pieces) <= 100
    assert torch.equal(torch.cat([piece.reshape(-1) for piece in pieces]), image.reshape(-1))

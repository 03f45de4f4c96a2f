"""A safetensors file that is written and checked some bytes at a time, so that it takes no memory beside the tensors.

The format: eight bytes of length, a JSON header of names, dtypes, shapes and offsets, and the tensors one behind the
other (github.com/huggingface/safetensors).
"""

import hashlib
import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import IO, Any

import torch
from torch import Tensor

_NAMES = {
    torch.float64: "F64",
    torch.int64: "I64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_PIECE = 1 << 24
_UNKNOWN = "0" * 64
_LONGEST_HEADER = 100_000_000


@dataclass(frozen=True)
class Pieces:
    """A tensor of which one piece is there at a time: `each` gives them in the order of memory."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    each: Iterable[Tensor]


def pieces_of(tensor: Tensor) -> Pieces:
    """Those of a tensor that is there, on any device."""
    return Pieces(tensor.dtype, tuple(tensor.shape), _split(tensor))


def _split(tensor: Tensor) -> Iterator[Tensor]:
    if tensor.ndim == 0 or tensor.numel() * tensor.element_size() <= _PIECE:
        yield tensor
        return
    # By the first axis with more than one place: its parts follow each other.
    axis = next(index for index, count in enumerate(tensor.shape) if count > 1)
    rows = max(1, tensor.shape[axis] * _PIECE // (tensor.numel() * tensor.element_size()))
    for part in torch.split(tensor, rows, dim=axis):
        yield from _split(part) if rows == 1 else (part,)


def in_order(tensors: Mapping[str, Pieces]) -> list[str]:
    """The names in the order of the file: large elements first, which keeps all aligned."""
    return sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))


def write_tensors(file: IO[bytes], tensors: Mapping[str, Pieces], metadata: Mapping[str, str]) -> None:
    """Writes `tensors` and `metadata` to a seekable file, with `sha256` among the metadata: that of all the rest of
    them and of the tensors' names, dtypes, shapes and bytes."""
    header: dict[str, Any] = {"__metadata__": {"sha256": _UNKNOWN, **metadata}}
    end = 0
    for name in in_order(tensors):
        pieces = tensors[name]
        start, end = end, end + torch.Size(pieces.shape).numel() * pieces.dtype.itemsize
        header[name] = {"dtype": _NAMES[pieces.dtype], "shape": list(pieces.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256(text)
    file.write(struct.pack("<Q", len(text)) + text)
    for name in in_order(tensors):
        for piece in tensors[name].each:
            data = piece.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
            digest.update(data)
            file.write(data)
    known = text.replace(_UNKNOWN.encode(), digest.hexdigest().encode(), 1)
    file.seek(8)
    file.write(known)


def is_whole(file: IO[bytes], sha256: str) -> bool:
    """Whether the file is as `write_tensors` wrote it, where its metadata have this `sha256`."""
    head = file.read(8)
    length = int.from_bytes(head, "little")
    if len(head) < 8 or length > _LONGEST_HEADER:
        return False
    digest = hashlib.sha256(file.read(length).replace(sha256.encode(), _UNKNOWN.encode(), 1))
    while data := file.read(_PIECE):
        digest.update(data)
    return digest.hexdigest() == sha256

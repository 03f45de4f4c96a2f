"""Small checkpoints: the first three convolutions of a VGG under both namings, and every way to write them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

State = dict[str, torch.Tensor]
SHALLOW = {"features.0": (64, 3), "features.2": (64, 64), "features.5": (128, 64)}
LAYERS = dict(zip(SHALLOW, ("conv1_1", "conv1_2", "conv2_1"), strict=True))
TAPS = ("conv2_1", "conv1_1")


def torchvision_state() -> State:
    """The first three convolutions, and the start of a classifier that nobody asked for."""
    generator = torch.Generator().manual_seed(3)
    state = {}
    for prefix, (out, into) in SHALLOW.items():
        state[f"{prefix}.weight"] = torch.randn(out, into, 3, 3, generator=generator)
        state[f"{prefix}.bias"] = torch.randn(out, generator=generator)
    state["classifier.0.weight"] = torch.randn(4, 4, generator=generator)
    return state


def gatys_state() -> State:
    return {
        key.replace(prefix, LAYERS[prefix]): tensor
        for key, tensor in torchvision_state().items()
        if (prefix := key.rpartition(".")[0]) in LAYERS
    }


def assert_is_the_state(tensors: Mapping[str, torch.Tensor]) -> None:
    expected = gatys_state()
    assert list(tensors) == list(expected)
    for key, tensor in tensors.items():
        assert tensor.dtype == torch.float32
        assert tensor.is_contiguous()
        torch.testing.assert_close(tensor, expected[key], rtol=0, atol=0)


def save_zip(state: object, path: Path) -> None:
    torch.save(state, path)


def save_legacy(state: object, path: Path) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)


def save_safetensors(state: Any, path: Path) -> None:
    save_file(state, path)

"""The random network: He initialisation, and the same bits everywhere."""

import hashlib

import numpy as np
import pytest

from fastnst.network.architecture import layers_of
from fastnst.network.builtin import random_convolutions

CONVOLUTIONS = [layer for layer in layers_of("vgg19")[:7] if not layer.is_pool]


def test_same_everywhere() -> None:
    hashes = {
        name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest()[:16]
        for name, tensor in random_convolutions(CONVOLUTIONS[:3]).items()
        if name.endswith("weight")
    }
    assert hashes == {
        "conv1_1.weight": "24d1471b3b51ea2a",
        "conv1_2.weight": "7bb51e88da457998",
        "conv2_1.weight": "2a1f26f7aeb336a1",
    }


def test_he_initialisation() -> None:
    assert CONVOLUTIONS[-1].name == "conv3_1"
    for key, tensor in random_convolutions(CONVOLUTIONS).items():
        if key.endswith("bias"):
            assert not tensor.any()
            continue
        into = tensor.shape[1]
        expected = (2 / (9 * into)) ** 0.5
        count = tensor.numel()
        assert abs(tensor.mean().item()) < 4 * expected / count**0.5
        assert tensor.std().item() == pytest.approx(expected, rel=4 / (2 * count) ** 0.5)
        assert len(np.unique(tensor.numpy())) > 500

"""The mean of the iterates."""

import pytest
import torch

from fastnst.transfer.averaging import MeanImage


def test_mean_is_the_weighted_mean_of_what_was_seen() -> None:
    images = torch.rand(7, 1, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean = MeanImage(0.9)
    for image in images:
        mean.see(image)
    weights = 0.9 ** torch.arange(6, -1, -1, dtype=torch.float64)
    expected = (weights.view(-1, 1, 1, 1, 1) * images).sum(0) / weights.sum()
    torch.testing.assert_close(mean.mean(), expected, rtol=1e-12, atol=0)


def test_mean_of_one_image_is_the_image() -> None:
    mean = MeanImage(0.99)
    mean.see(torch.full((1, 3, 2, 2), 0.25))
    torch.testing.assert_close(mean.mean(), torch.full((1, 3, 2, 2), 0.25))


def test_mean_goes_on_from_its_state_to_the_same_bits() -> None:
    images = torch.rand(6, 1, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    whole, halves = MeanImage(0.9), MeanImage(0.9)
    for index, image in enumerate(images):
        whole.see(image)
        halves.see(image)
        if index == 2:
            state = halves.state_dict()
            halves = MeanImage(0.9)
            halves.load_state_dict(state)
    assert torch.equal(whole.mean(), halves.mean())
    halves.load_state_dict({})
    with pytest.raises(RuntimeError, match="no image was seen yet"):
        halves.mean()

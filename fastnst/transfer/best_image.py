"""The image of the lowest loss so far: beside the present one, or in main memory, where a GPU's has no room for it."""

from typing import Protocol

import torch
from torch import Tensor

from fastnst.loss.side_copies import Copier, Copying, in_main_memory


class Best(Protocol):
    """The best of the images that were offered, (1, 3, H, W) float32: offered before each is evaluated, decided on
    after it."""

    @property
    def image(self) -> Tensor: ...

    def offer(self, image: Tensor) -> None:
        """`image` is evaluated now, and stays as it is until `decide` or `settle`."""

    def decide(self, image: Tensor, better: Tensor) -> None:
        """Keeps the image that was offered last if it is `better`, a boolean scalar."""

    def settle(self) -> None:
        """The image that was offered last may change from now on."""


class BestInPlace:
    """Kept beside the present image, without waiting for the device; `image` stays where it is."""

    def __init__(self, image: Tensor) -> None:
        self.image = image.clone()

    def offer(self, image: Tensor) -> None: ...

    def decide(self, image: Tensor, better: Tensor) -> None:
        torch.where(better, image, self.image, out=self.image)

    def settle(self) -> None: ...


class BestAside:
    """Kept in main memory: each image is copied there while it is evaluated, for it may turn out best."""

    def __init__(self, image: Tensor, copier: Copier) -> None:
        self.image, self._spare = in_main_memory(image).copy_(image), in_main_memory(image)
        self._copier = copier
        self._offered: Copying | None = None

    def offer(self, image: Tensor) -> None:
        self.settle()
        self._offered = self._copier.begin([(self._spare, image)])

    def decide(self, image: Tensor, better: Tensor) -> None:
        self.settle()
        if better:
            self.image, self._spare = self._spare, self.image

    def settle(self) -> None:
        if self._offered is not None:
            self._offered.join()
            self._offered = None

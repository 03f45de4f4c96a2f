"""The total variation of an image whose rows are shared among processes: what a band of them has of it.

A process has the differences within its rows and from its last row to the next. The kernels take a block of rows for a
whole image, so what they see as its border is taken off again: in the nine-point form the replicated border of a block
counts the differences along its first and its last row twice more.
"""

from dataclasses import dataclass

from fastnst_kernels import direct
from torch import Tensor

NINE_POINT = "nine-point"


@dataclass(frozen=True)
class BandVariation:
    """That of an image of `height` rows, of `kind`, as in `fastnst_kernels.total_variation`."""

    kind: str
    height: int
    backend: str

    def value(self, rows: Tensor, *, above: bool, below: bool) -> Tensor:
        """This process's part, a scalar: those of all processes add up to the variation of the image.

        `rows` are its own, (1, 3, h, W) float32, and with `below` the next one after them; `above` says whether others
        lie before them.
        """
        if self.kind != NINE_POINT:
            found = self._sum(rows, self.kind)
            if below:
                found = found - self._sum(rows[:, :, -1:], self.kind)
            return found / (self.height * rows.shape[3])
        last, first = (self._sum(rows[:, :, row], "squared") for row in (slice(-1, None), slice(1)))
        straight, diagonal = self._sum(rows, "squared"), self._diagonals(rows)
        if below:
            straight, diagonal = straight - last, diagonal - 2 * last
        if above:
            diagonal = diagonal - 2 * first
        width = rows.shape[3]
        return 2 / 9 * straight / (self.height * width) + diagonal / (18 * (self.height + 1) * (width + 1))

    def gradient(self, rows: Tensor, weight: float) -> Tensor:
        """That of `weight` times the variation by `rows`, (1, 3, h, W), whose first and last are right only where they
        are the image's own: give one more row on each side."""
        height = rows.shape[2]
        if self.kind != NINE_POINT:
            return self._gradient(rows, self.kind, weight * height / self.height)
        # Straight and diagonal differences are means over other counts of rows, in the block as in the image.
        share = (height + 1) / (self.height + 1)
        diagonals = self._gradient(rows, NINE_POINT, weight * share)
        return diagonals.add_(self._gradient(rows, "squared", weight * 2 / 9 * (height / self.height - share)))

    def _sum(self, rows: Tensor, kind: str) -> Tensor:
        """The variation of a block less its division by h·W."""
        found: Tensor = direct.total_variation(self.backend, rows.contiguous(), kind)
        return found.sum() * (rows.shape[2] * rows.shape[3])

    def _diagonals(self, rows: Tensor) -> Tensor:
        """The squares of a block's differences along both diagonals, with its replicated border."""
        height, width = rows.shape[2:]
        whole: Tensor = direct.total_variation(self.backend, rows.contiguous(), NINE_POINT)
        straight = 2 / 9 * self._sum(rows, "squared") / (height * width)
        return (whole.sum() - straight) * (18 * (height + 1) * (width + 1))

    def _gradient(self, rows: Tensor, kind: str, weight: float) -> Tensor:
        gradient, _ = direct.image_gradient(
            self.backend,
            rows.contiguous(),
            None,
            [1.0] * 3,
            flip=False,
            tv_weight=weight,
            tv_gradient=None,
            kind=kind,
        )
        return gradient

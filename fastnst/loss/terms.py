"""The terms of the objective of Gatys, Ecker and Bethge (2016), and the constants in which tools write them.

`F` (N filters × M positions) are the features of the image at a layer, `P` those of the content image, `G = F Fᵀ / M`
the Gram matrix and `A` that of the style image (over the style image's own positions).

`objective="paper"`, to the letter::

    content = Σ_l v_l · ½ Σ (F − P)²
    style   = Σ_l w_l · 1/(4 N²) Σ (G − A)²

`objective="relative"`, each layer's term divided by its target's own energy, so that 1 means "as far from the target as
nothing at all", with any network and at any size::

    content = Σ_l v_l · Σ (F − P)² / Σ P²
    style   = Σ_l w_l · Σ (G − A)² / Σ A²

In both, `tv = 1/(H·W) Σ ((x_{i,j+1} − x_{i,j})² + (x_{i+1,j} − x_{i,j})²)` over the pixels and channels of the image in
0…1 (with `padding="circular"` across its seams too), and `total = α · content + β · style + γ · tv`. Several styles
with weights `ω_s` (Σ ω_s = 1) make `style = Σ_s ω_s style_s`.

`content_reduction` and `style_reduction` choose other constants for one of the terms:

======================  ==================================  ==========================================
form                    content                             style
======================  ==================================  ==========================================
relative                Σ (F − P)² / Σ P²                   Σ (G − A)² / Σ A²
paper                   ½ Σ (F − P)²                        Σ (G − A)² / (4 N²)
mean                    Σ (F − P)² / (N·M)                  Σ (G − A)² / N²
root                    Σ (F − P)² / (2 √(N·M))
channel-mean                                                Σ (G/N − A/N)² / N²
======================  ==================================  ==========================================

`mean` of the style is also the sum of squares of Gram matrices divided by N·M, as some tools write them, and
`channel-mean` the mean of those. `tv_kind` chooses another variation (see `fastnst_kernels.total_variation`), and
`tv_reduction="sum"` multiplies it by H·W.

That is the style term with `style_loss="gram"`; `statistics` and `sliced` have the others, on one scale in the relative
objective. With masks it is the sum of those of the regions, each by its share of the image's area, and where the
content is transparent nothing counts: with `a` its alpha at a layer, content = Σ_l v_l · ½ Σ a² (F − P)² (or over
Σ a² P²).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from fastnst.errors import RangeError


def check_weights(what: str, weights: Iterable[float]) -> None:
    """Raises RangeError where one of the weights that are made of the style's `what` is 0 or not finite."""
    if not all(0 < weight < math.inf for weight in weights):
        raise RangeError(
            f"the style's {what} out of float32's range; check the network's weights, and lower the weights of the "
            "style layers"
        )


def content_factor(form: str, energy: float, count: int) -> float:
    """The constant of `Σ (F − P)²`: `energy` is Σ P², `count` is N·M, both of the whole picture."""
    if form == "paper":
        return 0.5
    if form == "mean":
        return 1 / count
    if form == "root":
        return 1 / (2 * math.sqrt(count))
    # The features of a black picture may all be 0.
    return 1 / max(energy, math.ulp(1.0))


def style_factor(form: str, energy: float, filters: int) -> float:
    """The constant of the paper's `Σ (G − A)² / (4 N²)`: `energy` is Σ A², `filters` is N."""
    if form == "paper":
        return 1.0
    if form == "mean":
        return 4.0
    if form == "channel-mean":
        return 4 / filters**2
    return 4 * filters**2 / max(energy, math.ulp(1.0))


@dataclass(frozen=True)
class Loss:
    """The terms before their weights and the total after, float32 scalars on the image's device; and `check`, (1,), if
    it is known without a pass for it, which is finite where the gradient is."""

    total: Tensor
    content: Tensor
    style: Tensor
    tv: Tensor
    check: Tensor | None = None


def seam_variation(image: Tensor, gradient: Tensor | None = None, weight: float = 0.0, kind: str = "squared") -> Tensor:
    """The total variation across the seams of an image that tiles, which one that ends does not have.

        1/(H·W) Σ |x_{1,j} − x_{H,j}|ᵖ + |x_{i,1} − x_{i,W}|ᵖ,    p = 2 for kind "squared", 1 for "absolute"

    image: (1, 3, H, W) float; returns (1,). `weight` times its derivative is added to `gradient`, of the image's shape.
    """
    positions = image.shape[2] * image.shape[3]
    total = image.new_zeros(1)
    for axis in (2, 3):
        end = image.shape[axis] - 1
        difference = image.select(axis, 0) - image.select(axis, end)
        squared = kind == "squared"
        total = total + (difference.square() if squared else difference.abs()).sum() / positions
        if gradient is not None and weight:
            slope = difference * (2 * weight / positions) if squared else difference.sign() * (weight / positions)
            gradient.select(axis, 0).add_(slope)
            gradient.select(axis, end).sub_(slope)
    return total

"""What a tap adds to the gradient of its features, besides the one from above."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class StyleTerm:
    """factor · gradient_b · scale_b · difference_b · F.

    difference is (B, C, C), symmetric, in the dtype of `ops.difference_dtype`; scale (B,) and gradient (B,) in that of
    the sums.
    """

    difference: Tensor
    scale: Tensor
    gradient: Tensor
    factor: float


@dataclass(frozen=True)
class ContentTerm:
    """factor · gradient_b · (F − content_b).

    content is (B or 1, C, h, w) in the features' dtype, with h and w those of the owned positions; gradient (B,).
    """

    content: Tensor
    gradient: Tensor
    factor: float


# The top and left edge, the height and the width of the positions that a tile owns.
Owned = tuple[int, int, int, int]


def flat_terms(
    style: StyleTerm | None, content: ContentTerm | None
) -> tuple[Tensor | None, Tensor | None, Tensor | None, float, Tensor | None, Tensor | None, float]:
    """Both terms as operators and autograd functions take them: (difference, scale, gradient, factor) and (content,
    gradient, factor), None and a factor of 0 for a term that is none."""
    return (
        *((None, None, None, 0.0) if style is None else (style.difference, style.scale, style.gradient, style.factor)),
        *((None, None, 0.0) if content is None else (content.content, content.gradient, content.factor)),
    )

"""The losses as `torch.nn.Module`s, for people who train networks with them.

Each is a function of feature maps (B, C, H, W), or of images, over the fused kernels: float32 sums whatever the dtype
of the features, one product in backward. Batches, autocast and torch.compile work; second derivatives do not.
"""

import math
from typing import cast

import torch
from fastnst_kernels import gram, gram_loss, tap, total_variation
from fastnst_kernels.image import KINDS
from torch import Tensor

from fastnst.errors import OptionError, check_choice
from fastnst.fork import check_fork
from fastnst.loss.terms import content_factor as factor_of
from fastnst.network.frozen import Frozen, normal
from fastnst.options.parse import CONTENT_FORMS

REDUCTIONS = ("mean", "sum", "none")


class _Loss(Frozen):
    """A loss of each image of a batch, times `weight`, and then reduced; its `target`, if it has one, is saved."""

    target: Tensor | None

    def __init__(self, weight: float, reduction: str, backend: str) -> None:
        super().__init__()
        check_choice("reduction", reduction, REDUCTIONS)
        if not math.isfinite(weight):
            raise OptionError(f"weight {weight} is not finite; give a number")
        self.weight, self.reduction, self.backend = weight, reduction, backend

    def wanted(self, target: Tensor | None) -> Tensor:
        """The target of a call, or else the module's own. Raises OptionError where there is none."""
        wanted = self.target if target is None else target
        if wanted is None:
            raise OptionError(f"{type(self).__name__} has no target; give one to the module, or in the call")
        return wanted

    def reduced(self, loss: Tensor) -> Tensor:
        if self.reduction == "none":
            return loss
        return loss.mean() if self.reduction == "mean" else loss.sum()


class GramLoss(_Loss):
    """The style loss of one layer (Gatys, Ecker and Bethge 2016, equation 4), for each image of a batch:

        weight · 1/(4 C²) Σ (G − A)²,    G = F Fᵀ / (H·W),  A the Gram matrix of the target

    Its gradient is `weight/(C² M) (G − A) F`: the target gets none.

        loss = fastnst.GramLoss(style_features)            # one style for all
        loss(features).backward()
        loss = fastnst.GramLoss()                          # a target for each call
        loss(features, target_features).backward()

    Args:
        target: features (1 or B, C, h, w) of any size, or Gram matrices (C, C) or (1 or B, C, C); None if each call
            gives its own. In float32: it is saved, and moves with the module.
        weight: a finite number.
        reduction: "mean" or "sum" over the batch, a scalar; "none" for (B,).
        precision: "ieee", or "tf32" to let tensor cores round float32 products.
        backend: "auto", "triton", "torch" or "reference" (float64).

    Raises OptionError for an unknown reduction or another weight; ValueError, as `fastnst_kernels.gram_loss` does, for
    features or targets that do not fit.
    """

    @torch.inference_mode(False)
    def __init__(
        self,
        target: Tensor | None = None,
        *,
        weight: float = 1.0,
        reduction: str = "mean",
        precision: str = "ieee",
        backend: str = "auto",
    ) -> None:
        super().__init__(weight, reduction, backend)
        self.precision = precision
        self.keep("target", None if target is None else self._matrices(target), saved=True)

    def forward(self, features: Tensor, target: Tensor | None = None) -> Tensor:
        """The loss of features (B, C, H, W); `target` as in the constructor, and in its place."""
        check_fork(features.numel())
        wanted = self.wanted(target)
        with _own_precision(features):
            wanted = wanted if target is None else self._matrices(wanted)
            loss = gram_loss(features, wanted, self.weight, precision=self.precision, backend=self.backend)
        return self.reduced(loss)

    @torch.no_grad()
    def _matrices(self, target: Tensor) -> Tensor:
        check_fork(target.numel())
        with _own_precision(target):
            if target.ndim == 4:
                return gram(target, precision=self.precision, backend=self.backend)
            return normal(target.detach().to(torch.promote_types(target.dtype, torch.float32)))

    def extra_repr(self) -> str:
        return f"weight={self.weight:g}, reduction={self.reduction!r}"


class ContentLoss(_Loss):
    """The content loss of one layer, for each image of a batch:

        weight · ½ Σ (F − P)²              form "paper" (Gatys, Ecker and Bethge 2016, equation 1)
        weight · 1/(C·H·W) Σ (F − P)²      form "mean" (Johnson, Alahi and Fei-Fei 2016, section 3.2)
        weight · Σ (F − P)² / Σ P²         form "relative" (the engine's own objective)
        weight · Σ (F − P)² / 2√(C·H·W)    form "root"

    Args:
        target: the features P, (1 or B, C, H, W); None if each call gives its own. Saved with the module.
        weight: a finite number.
        form: "paper", "mean", "relative" or "root".
        reduction: "mean" or "sum" over the batch, a scalar; "none" for (B,).
        backend: "auto", "triton", "torch" or "reference" (float64).

    Raises OptionError for an unknown form or reduction or another weight; ValueError for features or targets that do
    not fit.
    """

    @torch.inference_mode(False)
    def __init__(
        self,
        target: Tensor | None = None,
        *,
        weight: float = 1.0,
        form: str = "paper",
        reduction: str = "mean",
        backend: str = "auto",
    ) -> None:
        super().__init__(weight, reduction, backend)
        if form not in CONTENT_FORMS:
            raise OptionError(f"unknown form {form!r} of the content loss; choose one of: {', '.join(CONTENT_FORMS)}")
        self.form = form
        self.keep("target", None if target is None else target.detach().clone(), saved=True)

    def forward(self, features: Tensor, target: Tensor | None = None) -> Tensor:
        """The loss of features (B, C, H, W); `target` as in the constructor, and in its place."""
        check_fork(features.numel())
        wanted = normal(self.wanted(target).detach().to(features.dtype))
        with _own_precision(features):
            loss = cast(Tensor, tap(features, content=wanted, backend=self.backend)[2])
            loss = loss * (content_factor(wanted, self.form) * self.weight)
        return self.reduced(loss)

    def extra_repr(self) -> str:
        return f"weight={self.weight:g}, form={self.form!r}, reduction={self.reduction!r}"


class TVLoss(_Loss):
    """The total variation of each image of a batch, over neighbours to the right and below:

        weight · 1/(H·W) Σ |x_{i,j+1} − x_{i,j}|ᵖ + |x_{i+1,j} − x_{i,j}|ᵖ

    Args:
        weight: a finite number.
        kind: "squared", p = 2; "absolute", p = 1; or "nine-point", squared differences along the diagonals too, as
            `fastnst_kernels.total_variation` has them.
        reduction: "mean" or "sum" over the batch, a scalar; "none" for (B,).
        backend: "auto", "triton", "torch" or "reference" (float64).

    Raises OptionError for an unknown kind or reduction or another weight; ValueError for images that do not fit.
    """

    def __init__(
        self, *, weight: float = 1.0, kind: str = "squared", reduction: str = "mean", backend: str = "auto"
    ) -> None:
        super().__init__(weight, reduction, backend)
        if kind not in KINDS:
            raise OptionError(f"unknown kind {kind!r} of total variation; choose one of: {', '.join(KINDS)}")
        self.kind = kind

    def forward(self, images: Tensor) -> Tensor:
        """The loss of images (B, 3, H, W), in any floating dtype; 16-bit ones are summed in float32."""
        check_fork(images.numel())
        with _own_precision(images):
            exact = images.to(torch.promote_types(images.dtype, torch.float32))
            loss = total_variation(exact, kind=self.kind, backend=self.backend) * self.weight
        return self.reduced(loss)

    def extra_repr(self) -> str:
        return f"weight={self.weight:g}, kind={self.kind!r}, reduction={self.reduction!r}"


@torch.no_grad()
def content_factor(target: Tensor, form: str) -> float | Tensor:
    """The constant of `Σ (F − P)²` in a form of `ContentLoss`, for P (1 or B, C, H, W): a number, or (1 or B,)."""
    if form != "relative":
        return factor_of(form, 0.0, target[0].numel())
    wide = torch.promote_types(target.dtype, torch.float32)
    # The features of a black picture may all be 0.
    return 1 / target.to(wide).square().sum((1, 2, 3)).clamp(min=math.ulp(1.0))


def _own_precision(like: Tensor) -> torch.autocast:
    """Autocast would round the sums, which are float32."""
    return torch.autocast(like.device.type, enabled=False)

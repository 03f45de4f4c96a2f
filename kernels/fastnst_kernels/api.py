"""The public operations on whole feature maps; those on the tiles of one are in `tiles`."""

from torch import Tensor

from fastnst_kernels import reference
from fastnst_kernels.checks import MAX_CHANNELS, check_content, check_features, check_target, check_weight
from fastnst_kernels.functions import Gram, Tap
from fastnst_kernels.targets import BlendedTarget

__all__ = ["MAX_CHANNELS", "gram", "gram_loss", "style_tap", "tap"]


def gram(features: Tensor, *, precision: str = "ieee", backend: str = "auto") -> Tensor:
    """The Gram matrix of each image's features: G = F Fᵀ/M, with F the C×(H·W) matrix and M = H·W.

    `features` is (B, C, H, W), float32, float16 or bfloat16 (float64 too with backends "torch" and "reference"), C up
    to 1024; NCHW and channels-last are read without a copy, and so are crops of them. Returns (B, C, C), symmetric,
    accumulated and kept in float32 (float64 for float64). Differentiable once: its gradient raises RuntimeError under
    create_graph=True.

    `precision` "tf32" lets the tensor cores round float32 factors to TF32; it changes nothing for 16-bit features or
    where the torch backend runs on CPU. On CUDA the torch backend follows torch's own setting instead, which is
    `torch.backends.cuda.matmul`'s; "ieee" there needs TF32 to be off, as it is by default.

    `backend` is "auto" (Triton on CUDA and ROCm, torch elsewhere), "triton", "torch", or "reference" (naive float64).

    Raises ValueError for a wrong shape, dtype, precision or backend; RuntimeError if triton is asked for and missing.
    """
    backend = check_features(features, precision, backend)
    if backend == "reference":
        return reference.gram(features).to(reference.result_dtype(features.dtype))
    result: Tensor = Gram.apply(features, precision, backend)  # type: ignore[no-untyped-call]
    return result


def gram_loss(
    features: Tensor,
    target: Tensor | BlendedTarget,
    weight: float = 1.0,
    *,
    precision: str = "ieee",
    backend: str = "auto",
) -> Tensor:
    """The Gram-difference loss of each image: E = weight/4N² · Σ (G − A)², N = C (Gatys, Ecker, Bethge, equation 4).

    `features`, `precision` and `backend` are those of `gram`. `target` A is (C, C), (1, C, C) or (B, C, C), of any
    floating dtype and layout, on the features' device; it need not be symmetric, and gets no gradient. `weight` is a
    finite number in float32's range. Several targets are one `BlendedTarget`, whose own weight and offset are
    multiplied by `weight`. Returns (B,) float32 (float64 for float64).

    The gradient weight/(N² M) · (G − (A + Aᵀ)/2) F is one product. Differentiable once: it raises RuntimeError under
    create_graph=True.

    Raises ValueError as `gram` does, for a target of another shape, device or dtype, for one that requires a gradient,
    and for a weight that is not finite or beyond float32 (not looked at while torch.compile traces).
    """
    return style_tap(features, target, weight, precision=precision, backend=backend)[1]


def style_tap(
    features: Tensor,
    target: Tensor | BlendedTarget,
    weight: float = 1.0,
    *,
    precision: str = "ieee",
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """`gram_loss` as a pass-through: returns (features, loss), the features for the next layer, and the loss beside.

    Takes, returns and raises what `gram_loss` does. The first output is a view of the input: no copy is made, and it
    must not be changed in place. Fed with it, the next layer sends its gradient through the tap, whose backward writes

        upstream + ∂loss · weight/(N² M) · (G − (A + Aᵀ)/2) F

    in one pass: one product and no gradient accumulation. It also works if only one of the outputs is used.
    """
    passed, *losses = _tapped(features, target, weight, None, 1.0, False, False, precision, backend)
    return passed, losses[0]


def tap(
    features: Tensor,
    *,
    target: Tensor | BlendedTarget | None = None,
    weight: float = 1.0,
    content: Tensor | None = None,
    content_weight: float = 1.0,
    relu: bool = False,
    inplace: bool = False,
    precision: str = "ieee",
    backend: str = "auto",
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """A pass-through for a layer of style, of content or of both: (features, style loss, content loss).

    The style loss is the `gram_loss` of `target` and `weight`, the content loss is content_weight · Σ (F − P)², each
    (B,) float32 (float64 for float64), and None where its target is not given. P = `content` is (1 or B, C, H, W) in
    the features' dtype, in any layout, and gets no gradient. Backward writes, in one pass,

        upstream + ∂style · weight/(N² M) · (G − (A + Aᵀ)/2) F + ∂content · 2 content_weight · (F − P)

    With `relu` the input is the layer's output before its ReLU: F = max(input, 0) is what is returned and compared, and
    the gradient is zero where F is. `inplace` then writes F over the input, which must not be a leaf, a view of
    another tensor, or kept for another gradient. Without `relu` the features are returned as `style_tap` does.

    The other arguments, and what is raised, are those of `gram_loss`. Raises ValueError as well for a content that does
    not fit, where neither target is given, and for `inplace` without `relu`.
    """
    if target is None and content is None:
        raise ValueError("a tap without a target has no loss; give target, content or both")
    if inplace and not relu:
        raise ValueError("inplace=True writes the ReLU's output over its input; give relu=True with it")
    passed, *losses = _tapped(features, target, weight, content, content_weight, relu, inplace, precision, backend)
    return passed, None if target is None else losses[0], None if content is None else losses[-1]


def _tapped(
    features: Tensor,
    target: Tensor | BlendedTarget | None,
    weight: float,
    content: Tensor | None,
    content_weight: float,
    relu: bool,
    inplace: bool,
    precision: str,
    backend: str,
) -> tuple[Tensor, ...]:
    """The features, then the losses that are asked for."""
    backend = check_features(features, precision, backend)
    matrix, total, offset = None, 1.0, None
    if target is not None:
        matrix, total, offset = check_target(features, target, weight)
    if content is not None:
        check_content(features, content)
        content_weight = check_weight(content_weight)
    if backend == "reference":
        dtype = reference.result_dtype(features.dtype)
        passed = features.relu() if relu else features.view_as(features)
        losses = []
        if matrix is not None:
            loss = reference.gram_loss(passed, matrix, total)
            losses.append(loss if offset is None else loss + weight * offset.double())
        if content is not None:
            losses.append(reference.content_loss(passed, content, content_weight))
        return passed, *(loss.to(dtype) for loss in losses)
    outputs: tuple[Tensor, ...] = Tap.apply(  # type: ignore[no-untyped-call]
        features, matrix, total, offset, weight, content, content_weight, relu, inplace, precision, backend
    )
    return outputs

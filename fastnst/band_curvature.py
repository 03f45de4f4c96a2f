"""What pairs of steps say about the inverse Hessian: one scale, or a matrix for each band."""

import torch
from torch import Tensor

_MOST = 100.0
_REGULAR = 1e-4
_STEPS = 9


def latest_scale(s_dot_y: Tensor, y_dot_y: Tensor) -> Tensor:
    """`s·y / y·y` of one pair, a scalar each, as (1, 1, 1)."""
    return (s_dot_y / y_dot_y).view(1, 1, 1)


def band_matrices(ss: Tensor, yy: Tensor, s_dot_y: Tensor, weights: Tensor) -> Tensor:
    """For each band `b` the symmetric positive definite 3×3 matrix `H` with `H (Σ w y yᵀ) H = Σ w s sᵀ`.

    `ss` and `yy` are the pairs' (history, bands, 3, 3), sums over the band of the channels' products; `s_dot_y` and
    `weights` are (history,). All are float64, as the result, (bands, 3, 3).

    That `H` is the geometric mean of `Σ w s sᵀ` and `(Σ w y yᵀ)⁻¹`: what takes the gradients' changes to the steps as
    far as their covariances tell. Both are made regular by 10⁻⁴ of their trace, and the result is kept within 1/100
    and 100 of the pairs' mean `s·y / y·y`.
    """
    eye = torch.eye(ss.shape[-1], dtype=ss.dtype, device=ss.device)
    steps, changes = (_regular(torch.tensordot(weights, x, 1), eye) for x in (ss, yy))
    mean = (weights * s_dot_y).sum() / weights.count_nonzero()
    h = _geometric_mean(steps, _inverse(changes))
    return _inverse(_inverse(h) + eye / (_MOST * mean)) + mean / _MOST * eye


def _regular(matrices: Tensor, eye: Tensor) -> Tensor:
    means = matrices.diagonal(dim1=-2, dim2=-1).mean(-1)
    return matrices + (_REGULAR * means + 1e-12 * means.mean())[:, None, None] * eye


def _geometric_mean(a: Tensor, b: Tensor) -> Tensor:
    """`A # B` by the iteration of the arithmetic and the harmonic mean, each scaled by determinants first (Newton's for
    the matrix sign, after Higham 2008, 5.5): nine steps are enough for condition numbers of 10⁸."""
    for _ in range(_STEPS):
        ratio = (_determinant(b) / _determinant(a)).pow(1 / 6)[:, None, None]
        a, b = a * ratio, b / ratio
        middle = (a + b) / 2
        b = a @ _inverse(middle) @ b
        a, b = middle, (b + b.mT) / 2
    return a


def _cofactors(matrices: Tensor) -> Tensor:
    one, two, three = matrices.unbind(-2)
    crosses = (torch.linalg.cross(two, three), torch.linalg.cross(three, one), torch.linalg.cross(one, two))
    return torch.stack(crosses, -2)


def _determinant(matrices: Tensor) -> Tensor:
    determinant: Tensor = (matrices[..., 0, :] * torch.linalg.cross(matrices[..., 1, :], matrices[..., 2, :])).sum(-1)
    return determinant


def _inverse(matrices: Tensor) -> Tensor:
    """Of 3×3 matrices, by their cofactors: a factorisation would be read back to the host."""
    cofactors = _cofactors(matrices)
    determinant = (matrices[..., 0, :] * cofactors[..., 0, :]).sum(-1)
    inverse: Tensor = cofactors.mT / determinant[..., None, None]
    return inverse

"""The square root of a covariance matrix: exactly on a CPU, by matrix products alone where a GPU must not wait."""

import torch
from torch import Tensor

# The polynomials x (a + b x² + c x⁴) whose composition is within 1e-3 of 1 on 1e-3 … 1: Amsel, Persson, Musco, Gower
# (2025), "The Polar Express". The last is the quintic Newton–Schulz step, which the others lead to in few steps.
_STEPS = (
    (8.28721201814563, -23.595886519098837, 17.300387312530933),
    (4.107059111542203, -2.9478499167379106, 0.5448431082926601),
    (3.9486908534822946, -2.908902115962949, 0.5518191394370137),
    (3.3184196573706015, -2.488488024314874, 0.51004894012372),
    (2.300652019954817, -1.6689039845747493, 0.4188073119525673),
    (1.891301407787398, -1.2679958271945868, 0.37680408948524835),
    (1.8750014808534479, -1.2500016453999487, 0.3750001645474248),
    (1.875, -1.25, 0.375),
)


def root(matrix: Tensor) -> Tensor:
    """M^½ of symmetric matrices (B, C, C) without negative eigenvalues, by their eigenvalues in float64 on the CPU."""
    values, vectors = torch.linalg.eigh(matrix.double().cpu())
    found = (vectors * values.clamp_min(0).sqrt()[:, None]) @ vectors.mT
    result: Tensor = found.to(matrix.device, matrix.dtype)
    return result


def root_trace(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """tr M^½, (B,), and twice its gradient, M^−½, (B, C, C), of symmetric positive matrices (B, C, C).

    On a CPU by the eigenvalues, in float64. Elsewhere by Newton–Schulz's iteration for the root and its inverse
    together (Higham 1997), which a captured graph may hold: eigenvalues below 1e-7 of the matrix's norm count for less
    than they should there, as in any iteration of so few steps.
    """
    if matrix.device.type == "cpu":
        values, vectors = torch.linalg.eigh(matrix.double())
        # What rounding left of an eigenvalue of 0 has no inverse that means anything.
        floor = values.amax(1, keepdim=True).clamp_min(1e-30) * 1e-14
        roots = values.clamp_min(0).maximum(floor).sqrt()
        return roots.sum(1).to(matrix.dtype), ((vectors / roots[:, None]) @ vectors.mT).to(matrix.dtype)
    return iterated_root_trace(matrix)


def iterated_root_trace(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """`root_trace` by the iteration, on any device."""
    norm = torch.linalg.matrix_norm(matrix)[:, None, None].clamp_min(1e-30)
    one = torch.eye(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
    y, z = matrix / norm, one.expand_as(matrix)
    for a, b, c in _STEPS:
        product = z @ y
        step = a * one + b * product + c * (product @ product)
        y, z = y @ step, step @ z
    trace = y.diagonal(dim1=1, dim2=2).sum(1) * norm[:, 0, 0].sqrt()
    return trace, (z + z.mT) / (2 * norm.sqrt())

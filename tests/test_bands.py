"""Pictures in bands of frequencies, the matrices made of them, and L-BFGS that starts from those."""

import pytest
import torch
from torch import Tensor

from fastnst.optim.bands import OPPONENTS, BandCurvature, Basis, Pixels, RadialBands
from fastnst.optim.lbfgs import LBFGS, MOST_MOVE

SIZES = [(1, 1), (2, 2), (5, 8), (17, 12), (64, 33)]


def picture(height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((1, 3, height, width), dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kind", [Pixels, RadialBands])
@pytest.mark.parametrize("size", SIZES)
def test_blocks_keep_inner_products_and_come_back(
    kind: type[Pixels] | type[RadialBands], size: tuple[int, int], layout: torch.memory_format
) -> None:
    one, other = (picture(*size, seed).to(memory_format=layout) for seed in (0, 1))
    basis: Basis = kind(one)
    blocks = basis.to_blocks(one)
    assert blocks.shape == (basis.channels, len(basis.band), basis.length)
    torch.testing.assert_close((blocks * basis.to_blocks(other)).sum(), (one * other).sum())
    back = basis.to_picture(blocks, one)
    torch.testing.assert_close(back, one)
    assert back.stride() == one.stride()


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("size", [(1, 1), (2, 1), (7, 6)])
def test_lbfgs_in_bands_does_not_depend_on_the_scale_of_the_loss(size: tuple[int, int], scale: float) -> None:
    curvature = picture(*size, 1).float().square() + 0.5
    image, optimizer = 0.3 * picture(*size).float(), LBFGS(hessian="bands")
    for _ in range(80):
        optimizer.step(image, scale * curvature * image)
    torch.testing.assert_close(image, torch.zeros_like(image), rtol=0, atol=1e-3)


def learnt(s: Tensor, y: Tensor) -> BandCurvature:
    """The curvature that pairs (history, bands, 3, positions) teach."""
    curvature = BandCurvature(s.shape[1], torch.device("cpu"))
    for one, change in zip(s, y, strict=True):
        inner = {"s_dot_y": (one * change).sum().view(1), "y_dot_y": change.square().sum().view(1)}
        curvature.learn(one @ one.mT, change @ change.mT, **inner, wanted=torch.ones(1, dtype=torch.bool))
    return curvature


def test_band_matrices_take_gradient_changes_to_steps() -> None:
    opponents = torch.tensor(OPPONENTS, dtype=torch.float64)
    opponents /= opponents.norm(dim=1, keepdim=True)
    entries = torch.tensor([[4.0, 1, 2], [1, 0.5, 1], [0.5, 1, 2]], dtype=torch.float64)
    h = opponents.mT @ torch.diag_embed(entries) @ opponents
    y = torch.randn((6, 3, 3, 50), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scale = torch.tensor(7.0, dtype=torch.float64)
    matrices = learnt(h @ y, y).matrices(scale)
    torch.testing.assert_close(matrices / matrices[1, 0, 0], h / h[1, 0, 0])
    torch.testing.assert_close((matrices @ y * y).sum() / y.square().sum(), scale, rtol=0.1, atol=0)


def test_band_matrices_stay_positive_where_the_pairs_are_degenerate() -> None:
    # One band of zeros, one with a single colour, one whose steps are small beside the changes, one the other way.
    y = torch.zeros((2, 4, 3, 8), dtype=torch.float64)
    y[:, 1] = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)[:, None]
    y[:, 2:] = picture(4, 8)[0].view(3, 2, 2, 8).permute(2, 1, 0, 3)
    s = y * torch.tensor([1.0, 1.0, 1e-9, 1e9], dtype=torch.float64).view(1, 4, 1, 1)
    curvature = learnt(s, y)
    before = curvature.matrices(torch.ones((), dtype=torch.float64)).clone()
    assert before.isfinite().all()
    assert (torch.linalg.eigvalsh(before) > 0).all()
    product, unwanted = y[0] @ y[0].mT, torch.zeros(1, dtype=torch.bool)
    curvature.learn(product, product, s_dot_y=torch.ones(1), y_dot_y=torch.zeros(1), wanted=unwanted)
    assert torch.equal(curvature.matrices(torch.ones((), dtype=torch.float64)), before)


def two_loops(pairs: list[tuple[Tensor, Tensor]], gradient: Tensor, history: int) -> Tensor:
    """H g by the recursion of Nocedal (1980) over the last `history` pairs, from matrices by band of all of them."""
    basis = RadialBands(gradient)
    members = (basis.band == torch.arange(basis.bands)[:, None]).double()

    def products(a: Tensor) -> Tensor:
        blocks = basis.to_blocks(a)
        return torch.einsum("nb,cbl,dbl->ncd", members, blocks, blocks)

    curvature = BandCurvature(basis.bands, torch.device("cpu"))
    for s, y in pairs:
        inner = {"s_dot_y": (s * y).sum().view(1), "y_dot_y": y.square().sum().view(1)}
        curvature.learn(products(s), products(y), **inner, wanted=torch.ones(1, dtype=torch.bool))
    pairs = pairs[-history:]
    h0 = curvature.matrices(torch.stack([(s * y).sum() / y.square().sum() for s, y in pairs]).mean())
    q, steps = gradient.clone(), []
    for s, y in reversed(pairs):
        a = (s * q).sum() / (s * y).sum()
        steps.append(a)
        q -= a * y
    q = basis.to_picture(torch.einsum("bcd,dbl->cbl", h0[basis.band], basis.to_blocks(q)), gradient)
    for (s, y), a in zip(pairs, reversed(steps), strict=True):
        q += s * (a - (y * q).sum() / (s * y).sum())
    return q


def test_lbfgs_in_bands_takes_the_steps_of_the_two_loop_recursion() -> None:
    curvature = picture(9, 12, 1).square() + 0.1
    image, optimizer = picture(9, 12), LBFGS(hessian="bands", history=4)
    pairs: list[tuple[Tensor, Tensor]] = []
    before: tuple[Tensor, Tensor] | None = None
    for _ in range(12):
        gradient = curvature * image
        if before is not None:
            pairs = [*pairs, (image - before[0], gradient - before[1])]
        before = image.clone(), gradient
        optimizer.step(image, gradient)
        if pairs:
            step = -two_loops(pairs, gradient, 4)
            step *= (MOST_MOVE / step.square().mean().sqrt()).clamp_max(1.0)
            torch.testing.assert_close(image, before[0] + step, rtol=0, atol=1e-7)


def test_lbfgs_in_bands_needs_fewer_steps_where_curvature_depends_on_frequency() -> None:
    rows, columns = torch.fft.fftfreq(24)[:, None], torch.fft.rfftfreq(24)[None]
    curvature = 1 / (torch.hypot(rows, columns) + 0.02).square()

    def gradient(image: Tensor) -> Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(image) * curvature, s=(24, 24)).contiguous()

    def left(hessian: str) -> float:
        image, optimizer = 0.1 * picture(24, 24).float(), LBFGS(hessian=hessian)
        for _ in range(40):
            optimizer.step(image, gradient(image))
        return float((image * gradient(image)).sum())

    assert left("bands") < 0.1 * left("scalar")

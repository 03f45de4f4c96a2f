"""Pictures in bands of frequencies and colours, what pairs show of each, and L-BFGS that starts from that."""

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
    torch.testing.assert_close(basis.to_picture(blocks, one), one)


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e12, 1e30])
@pytest.mark.parametrize("size", [(1, 1), (2, 1), (7, 6)])
def test_lbfgs_in_bands_does_not_depend_on_the_scale_of_the_loss(size: tuple[int, int], scale: float) -> None:
    curvature = picture(*size, 1).float().square() + 0.5
    image, optimizer = 0.3 * picture(*size).float(), LBFGS(hessian="bands")
    for _ in range(80):
        optimizer.step(image, scale * curvature * image)
    torch.testing.assert_close(image, torch.zeros_like(image), rtol=0, atol=1e-3)


def test_blocks_are_of_colours_that_are_as_long_as_red_green_and_blue() -> None:
    grey, red_against_blue, green_against_both = (torch.tensor(x).view(1, 3, 1, 1) for x in OPPONENTS)
    for index, colour in enumerate((grey, red_against_blue, green_against_both)):
        blocks = RadialBands(colour.expand(1, 3, 4, 6)).to_blocks(colour.expand(1, 3, 4, 6))
        lengths = blocks.square().sum((1, 2))
        torch.testing.assert_close(lengths[index], 24 * colour.square().sum())
        torch.testing.assert_close(lengths.sum(), lengths[index])


def learnt(s: Tensor, y: Tensor) -> BandCurvature:
    """The curvature that pairs (history, bands, 3, positions) teach."""
    curvature = BandCurvature(s.shape[1], 3, torch.device("cpu"))
    for one, change in zip(s, y, strict=True):
        inner = {"s_dot_y": (one * change).sum().view(1), "y_dot_y": change.square().sum().view(1)}
        squares = (x.square().sum(-1) for x in (one, change))
        curvature.learn(*squares, **inner, wanted=torch.ones(1, dtype=torch.bool))
    return curvature


def test_the_diagonal_takes_gradient_changes_to_steps() -> None:
    h = torch.tensor([[4.0, 1, 2], [1, 0.5, 1], [0.5, 1, 2]], dtype=torch.float64)
    y = torch.randn((6, 3, 3, 50), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scale = torch.tensor(7.0, dtype=torch.float64)
    diagonal = learnt(h[..., None] * y, y).diagonal(scale)
    torch.testing.assert_close(diagonal / diagonal[1, 0], h / h[1, 0])
    torch.testing.assert_close((diagonal[..., None] * y * y).sum() / y.square().sum(), scale, rtol=0.1, atol=0)


def test_the_diagonal_stays_positive_where_the_pairs_are_degenerate() -> None:
    # One band of zeros, one with a single colour, one whose steps are small beside the changes, one the other way.
    y = torch.zeros((2, 4, 3, 8), dtype=torch.float64)
    y[:, 1] = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)[:, None]
    y[:, 2:] = picture(4, 8)[0].view(3, 2, 2, 8).permute(2, 1, 0, 3)
    s = y * torch.tensor([1.0, 1.0, 1e-9, 1e9], dtype=torch.float64).view(1, 4, 1, 1)
    curvature = learnt(s, y)
    before = curvature.diagonal(torch.ones((), dtype=torch.float64)).clone()
    assert before.isfinite().all()
    assert (before > 0).all()
    squares, unwanted = y[0].square().sum(-1), torch.zeros(1, dtype=torch.bool)
    curvature.learn(squares, squares, s_dot_y=torch.ones(1), y_dot_y=torch.zeros(1), wanted=unwanted)
    assert torch.equal(curvature.diagonal(torch.ones((), dtype=torch.float64)), before)


def two_loops(pairs: list[tuple[Tensor, Tensor]], gradient: Tensor, history: int) -> Tensor:
    """H g by the recursion of Nocedal (1980) over the last `history` pairs, from what all of them show of each band."""
    basis = RadialBands(gradient)
    members = (basis.band == torch.arange(basis.bands)[:, None]).double()

    def squares(a: Tensor) -> Tensor:
        return torch.einsum("nb,cbl->nc", members, basis.to_blocks(a).square())

    curvature = BandCurvature(basis.bands, basis.channels, torch.device("cpu"))
    for s, y in pairs:
        inner = {"s_dot_y": (s * y).sum().view(1), "y_dot_y": y.square().sum().view(1)}
        curvature.learn(squares(s), squares(y), **inner, wanted=torch.ones(1, dtype=torch.bool))
    pairs = pairs[-history:]
    h0 = curvature.diagonal(torch.stack([(s * y).sum() / y.square().sum() for s, y in pairs]).mean())
    q, steps = gradient.clone(), []
    for s, y in reversed(pairs):
        a = (s * q).sum() / (s * y).sum()
        steps.append(a)
        q -= a * y
    q = basis.to_picture(h0[basis.band].T[..., None] * basis.to_blocks(q), gradient)
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

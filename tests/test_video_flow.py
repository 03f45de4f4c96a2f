"""Flow, its checks and warping on motion that is known exactly; the temporal term against float64."""

from pathlib import Path

import moving
import numpy as np
import pytest
import torch
from network_samples import noise, prepared

from fastnst.errors import ImageError
from fastnst.loss.objective import Objective
from fastnst.loss.targets import style_targets
from fastnst.loss.temporal import STEEPNESS, Coherence, Coherent
from fastnst.optim import LBFGS
from fastnst.transfer.movie import write_clip
from fastnst.video.clip import open_clip
from fastnst.video.flow import (
    Flow,
    as_frame,
    as_planes,
    boundaries,
    disoccluded,
    inwards,
    is_cut,
    motion,
    read_flow,
    toned,
    warped,
)
from fastnst.video.score import score_clip, warping_error


def constant(height: int, width: int, x: float, y: float) -> Flow:
    return np.broadcast_to(np.array([x, y], np.float32), (height, width, 2)).copy()


@pytest.mark.parametrize("is_frozen", [False, True])
def test_the_temporal_term_is_that_of_the_formula(is_frozen: bool) -> None:
    options, runtime, backbone = prepared(style_layers="conv1_1", content_layers="conv1_2")
    content, image, target = noise(1, 20, 26), noise(2, 20, 26), noise(3, 20, 26)
    valid = (noise(4, 20, 26)[:, :1] - 0.4).clamp_min(0)
    targets = style_targets(backbone, [(noise(5, 24, 24), 1.0)], options, runtime)
    plain = Objective(backbone, content, targets, options, runtime)
    coherent = Coherent(plain, Coherence(target, valid, 15.0, 2.0, valid > 0.3 if is_frozen else None))

    z, w, c = image.double().requires_grad_(), target.double(), valid.double()
    give = (1 + 15 * c / STEEPNESS) ** -0.5
    x = w + (give * (c <= 0.3) if is_frozen else give) * (z - w)
    term = (c * (x - w) ** 2).sum() / (3 * int((c > 0).sum()))
    before, gradient = plain.loss_and_gradient(x.detach().float())
    (expected,) = torch.autograd.grad([x, 30 * term], z, [gradient.double(), torch.ones_like(term)])

    loss, result = coherent.loss_and_gradient(image)
    assert float(loss.total) == pytest.approx(float(before.total) + 30 * float(term.detach()), rel=1e-6)
    assert float(coherent.loss(image).total) == pytest.approx(float(loss.total), rel=1e-6)
    assert float((result.double() - expected).norm() / expected.norm()) < 1e-6
    assert float(loss.content) == pytest.approx(float(before.content), rel=1e-6)


def test_nothing_known_is_no_term() -> None:
    options, runtime, backbone = prepared(style_weight=0, content_layers="conv1_2")
    plain = Objective(backbone, noise(1, 8, 8), {}, options, runtime)
    coherent = Coherent(plain, Coherence(noise(2, 8, 8), torch.zeros(1, 1, 8, 8), 30.0))
    assert float(coherent.loss(noise(3, 8, 8)).total) == float(plain.loss(noise(3, 8, 8)).total)


def test_a_warp_by_whole_pixels_takes_the_very_samples() -> None:
    image = noise(0, 12, 17)
    result = warped(image, constant(12, 17, 3, -2))
    assert torch.allclose(result[..., 2:, :-3], image[..., :-2, 3:], atol=1e-5)
    # Beyond the border its outermost pixels go on.
    assert torch.allclose(result[..., :2, :-3], image[..., :1, 3:].expand(-1, -1, 2, -1), atol=1e-5)


def test_a_warp_between_pixels_is_smooth() -> None:
    x = torch.linspace(0, 6, 80)
    waves = (x.sin()[None, :] + x.cos()[:, None])[None, None]
    result = warped(waves, constant(80, 80, 0.4, 0.3))
    step = float(x[1])
    expected = ((x + 0.4 * step).sin()[None, :] + (x + 0.3 * step).cos()[:, None])[None, None]
    assert float((result - expected)[..., 3:-3, 3:-3].abs().max()) < 6e-3


@pytest.mark.parametrize("step", [1, 4, 9])
def test_the_flow_of_a_pan_is_found(step: int) -> None:
    before, after = moving.pan(2, (96, 128), step)
    moved = motion(before, after)
    inside = moved.flow[8:-8, 8 : -8 - step]
    assert float(np.abs(inside - [step, 0]).mean()) < 0.1
    assert moved.covered[:, : -step - 2].mean() > 0.97
    assert moved.covered[:, -step + (step > 1) :].mean() < 0.4
    assert (moved.trusted <= moved.covered).all()


def test_what_stands_still_has_no_flow_at_all() -> None:
    before, after = moving.passing(2, (96, 128), 4, 24)
    moved = motion(before, after)
    assert (moved.flow[:, 70:] == 0).all()
    assert moved.trusted[:, 70:].all()


@pytest.mark.parametrize("step", [3, 5])
def test_the_flow_is_sharp_where_an_object_ends(step: int) -> None:
    before, after = moving.passing(2, (96, 128), step, 32)
    moved = motion(before, after)
    expected, uncovered = np.zeros((96, 128)), np.zeros((96, 128), bool)
    expected[32:64, 8 + step : 40 + step] = -step
    uncovered[32:64, 8 : 8 + step] = True
    wrong = (np.abs(moved.flow[..., 0] - expected) > 1) & ~uncovered
    assert wrong.sum() < 10
    assert (moved.covered & uncovered).sum() < 0.1 * uncovered.sum()
    assert (~moved.covered & ~uncovered).sum() < 10


def test_a_flat_part_of_what_moves_moves() -> None:
    frames = moving.pan(2, (96, 128), 4)
    whole = np.concatenate([frames[0], frames[1][:, -4:]], axis=1)
    whole[30:60, 50:90] = 128
    moved = motion(whole[:, :-4].copy(), whole[:, 4:].copy())
    assert np.abs(moved.flow[34:56, 54:80] - [4, 0]).mean() < 0.5


def test_the_checks_know_what_an_object_hides_and_uncovers() -> None:
    # A block of 10 × 10 moves by 4 to the right before a still ground: from 12 to 16.
    forward, backward = constant(30, 40, 0, 0), constant(30, 40, 0, 0)
    forward[10:20, 12:22, 0] = 4
    backward[10:20, 16:26, 0] = -4
    uncovered = np.zeros((30, 40), bool)
    uncovered[10:20, 12:16] = True
    assert (disoccluded(forward, backward) == uncovered).all()
    edge = boundaries(backward)
    assert edge[10:20, 15:17].all()
    assert edge[10:20, 25:27].all()
    assert not edge[:, :14].any()
    assert not edge[12:18, 18:24].any()


def test_points_from_beyond_the_frame_are_not_known() -> None:
    result = disoccluded(constant(10, 20, -3, 0), constant(10, 20, 3, 0))
    assert result[:, -3:].all()
    assert not result[:, :-3].any()


def test_a_cut_is_another_picture_and_no_pan() -> None:
    before, after = moving.pan(2, (96, 128), 9)
    assert not is_cut(before, after, motion(before, after), least=0.3)
    other = moving.texture(96, 128, seed=7)
    assert is_cut(before, other, motion(before, other), least=0.3)
    assert not is_cut(before, other, motion(before, other), least=0)
    blue, red = np.zeros((2, 64, 64, 3), np.uint8)
    blue[..., 2] = red[..., 0] = 200
    assert is_cut(blue, red, motion(blue, red), least=0.3)


def write_flow(path: Path, flow: Flow) -> None:
    height, width = flow.shape[:2]
    with path.open("wb") as file:
        np.array([202021.25], "<f4").tofile(file)
        np.array([width, height], "<i4").tofile(file)
        flow.astype("<f4").tofile(file)


def test_flo_files(tmp_path: Path) -> None:
    flow = np.random.default_rng(0).normal(size=(6, 9, 2)).astype(np.float32)
    path = tmp_path / "a.flo"
    write_flow(path, flow)
    assert (read_flow(path, (6, 9)) == flow).all()
    write_flow(path, constant(6, 9, 3, 1))
    assert read_flow(path, (12, 18)) == pytest.approx(constant(12, 18, 6, 2))
    for data, message in ((b"", "not a .flo file"), (path.read_bytes()[:40], "cut short"), (b"PNG" * 99, "not a .flo")):
        path.write_bytes(data)
        with pytest.raises(ImageError, match=message):
            read_flow(path, (6, 9))
    write_flow(path, constant(6, 9, np.nan, 1))
    with pytest.raises(ImageError, match="not finite"):
        read_flow(path, (6, 9))
    with pytest.raises(ImageError, match=r"No such file.*check the path"):
        read_flow(tmp_path / "b.flo", (6, 9))


def test_the_score_of_a_pan_is_nothing_and_of_a_change_its_mean_square(tmp_path: Path) -> None:
    frames = moving.pan(4, (96, 128), 4)
    source = moving.folder_of(tmp_path / "in", frames)
    still = score_clip(open_clip(source), open_clip(source))
    assert still.mean < 1e-4
    assert min(still.valid) > 0.9
    brighter = [np.clip(frame.astype(int) // 2 + 20 * (number % 2), 0, 255) for number, frame in enumerate(frames)]
    out = moving.folder_of(tmp_path / "out", [frame.astype(np.uint8) for frame in brighter])
    assert score_clip(open_clip(out), open_clip(source)).mean == pytest.approx((20 / 255) ** 2, rel=0.05)
    valid = np.ones((96, 128), bool)
    assert warping_error(frames[0], frames[0], constant(96, 128, 0, 0), valid) < 1e-10
    with pytest.raises(ImageError, match=r"has 4 frames and .* 3"):
        score_clip(open_clip(out), open_clip(moving.folder_of(tmp_path / "less", frames[:3])))
    single = open_clip(moving.folder_of(tmp_path / "single", frames[:1]))
    with pytest.raises(ImageError, match="only one frame"):
        score_clip(single, single)
    write_clip(tmp_path / "small.gif", sorted(out.iterdir()), open_clip(out).rate)
    assert len(score_clip(open_clip(tmp_path / "small.gif"), open_clip(source)).errors) == 3


def test_frames_and_planes_are_the_same_samples() -> None:
    frame = moving.texture(9, 11)
    assert (as_frame(as_planes(frame)) == frame).all()


def test_what_comes_into_view_begins_in_the_tone_around_it() -> None:
    content, begun = noise(0, 32, 40), torch.ones(1, 1, 32, 40, dtype=torch.bool)
    begun[..., 34:] = False
    image = (content * 0.5 + 0.25).where(begun, torch.zeros(1))
    result = toned(content * 0.5 + 0.2, content * 0.5, begun)
    assert torch.equal(result[..., :34], (content * 0.5 + 0.2)[..., :34])
    assert torch.allclose(result[..., 34:36], (content * 0.5 + 0.2)[..., 34:36], atol=1e-3)
    assert torch.equal(toned(image, content, torch.zeros_like(begun)), content)


def test_an_optimiser_that_knows_the_curvature_takes_a_whole_first_step() -> None:
    options, runtime, backbone = prepared(style_layers="conv1_1", content_layers="conv1_2")
    targets = style_targets(backbone, [(noise(5, 24, 24), 1.0)], options, runtime)
    objective = Objective(backbone, noise(1, 20, 26), targets, options, runtime)
    image, before = noise(2, 20, 26), LBFGS()
    for _ in range(8):
        _, gradient = objective.loss_and_gradient(image)
        before.step(image, gradient)
    _, gradient = objective.loss_and_gradient(image)
    steps = []
    for curvature in ({}, before.curvature()):
        other, moved = LBFGS(), image.clone()
        other.load_state_dict(curvature)
        other.step(moved, gradient)
        steps.append(moved - image)
    # The first step of one that knows nothing is as short as a pixel; both go downhill.
    assert float(steps[1].norm()) > 10 * float(steps[0].norm())
    assert all(float((step * gradient).sum()) < 0 for step in steps)
    assert LBFGS(line_search="strong_wolfe").curvature() == {}


def test_what_leaves_the_border_is_to_lose_its_strokes() -> None:
    """Of a pan to the left the right edge moves inwards; the left one, and what stands still, stay as they are."""
    within = inwards(constant(40, 60, 4, 0))
    edge = within[20, 44:56]
    assert (np.diff(edge) < 0).all()
    assert edge[-1] == pytest.approx(1 / 12)
    assert (within[20, :44] == 1).all()
    assert (inwards(constant(40, 60, 0, 0)) == 1).all()

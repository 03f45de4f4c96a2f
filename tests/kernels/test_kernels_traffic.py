"""What the launches move and hold, by their tensors: the partial sums stay few."""

import pytest
import torch

pytest.importorskip("triton")
from fastnst_kernels import triton_gram
from fastnst_kernels.gpu import TARGETS
from fastnst_kernels.traffic import Traffic, bytes_of, traffic_of

SM_90 = TARGETS["sm_90"]
LAYERS = ((64, 1), (128, 2), (256, 4), (512, 8), (512, 16))


def loss_traffic(channels: int, side: int) -> tuple[Traffic, int, int]:
    """The traffic of one layer's loss, the features' bytes, and those of the partial sums."""
    features = torch.empty((1, channels, side, side), dtype=torch.float16, device="meta")
    features = features.to(memory_format=torch.channels_last)
    target = torch.empty((1, channels, channels), device="meta")
    plan = triton_gram.plan_difference_loss(features, target, 1.0, "ieee", SM_90)
    partial = plan.launches[0].arguments["partial"]
    return traffic_of(plan, (features, target)), bytes_of(features), bytes_of(partial)


def test_the_workspace_is_under_a_twentieth_of_the_features() -> None:
    found = [loss_traffic(channels, 1024 // divisor) for channels, divisor in LAYERS]
    assert max(traffic.workspace for traffic, _, _ in found) < 0.05 * sum(features for _, features, _ in found)


def test_partial_sums_are_a_small_share_of_what_moves() -> None:
    """Against forward and backward, which read the features twice, the gradient from above, and write one."""
    for size, most in ((1024, 0.07), (512, 0.14)):
        found = [loss_traffic(channels, size // divisor) for channels, divisor in LAYERS]
        written_and_read = 2 * sum(partial for _, _, partial in found)
        assert written_and_read < most * 4 * sum(features for _, features, _ in found)


@pytest.mark.parametrize(("side", "share"), [(64, 0.5), (32, 1.8)])
def test_few_positions_are_split_little(side: int, share: float) -> None:
    """conv4_1 and conv5_1 of a 512 px image: filling each multiprocessor with a 128 × 128 tile would write 9 MB."""
    traffic, features, partial = loss_traffic(512, side)
    assert partial < share * features
    assert traffic.launches[0].blocks >= 0.7 * SM_90.multiprocessors


def test_tensors_are_counted_once() -> None:
    """The features and the partial sums; the latter, the target, G − A and the tiles' losses and peaks; the end."""
    traffic, features, partial = loss_traffic(64, 64)
    assert [launch.kernel for launch in traffic.launches] == ["partial_gram", "reduce_gram", "finish_loss"]
    assert traffic.launches[0].bytes == features + partial
    assert traffic.launches[1].bytes == pytest.approx(partial + 2 * 4 * 64 * 64, rel=0.01)
    assert traffic.workspace == pytest.approx(partial + 4 * 64 * 64, rel=0.01)
    assert bytes_of(torch.empty(3, 1).expand(3, 1000)) == 12

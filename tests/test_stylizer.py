"""The function `stylize`: inputs, results, callbacks, determinism, and how a run ends."""

import base64
import io
import pickle
import re
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from network_samples import rounded_products
from picture_samples import photo
from PIL import Image

import fastnst
from fastnst.image.read import load_image
from fastnst.loss import networks as module
from fastnst.loss.objective import Objective
from fastnst.loss.terms import Loss

SMALL: dict[str, Any] = {
    "size": 48,
    "iterations": 4,
    "scales": None,
    "weights": "random",
    "style_layers": ["conv1_1", "conv2_1"],
    "content_layers": "conv2_2",
}


def picture_in(result: fastnst.Result) -> bytes:
    """The picture that a notebook shows."""
    shown = re.search(r'base64,([^"]+)"', result._repr_html_())
    assert shown is not None
    return base64.b64decode(shown[1])


def test_a_trace_is_of_exact_products() -> None:
    trace = partial(fastnst.Stylizer(photo(0), **SMALL, precision="winograd").gram_trace, load_image(photo(1)))
    exact = trace()
    with rounded_products():
        assert trace() == exact


def test_every_kind_of_input_gives_the_same_image(tmp_path: Path) -> None:
    array, style = photo(), photo(1)
    Image.fromarray(array).save(tmp_path / "content.png")
    tensor = torch.from_numpy(array).permute(2, 0, 1).float() / 255
    before = tensor.clone()
    expected = fastnst.stylize(array, style, **SMALL).tensor
    kinds = [str(tmp_path / "content.png"), tmp_path / "content.png", Image.fromarray(array), array / np.float32(255)]
    for kind in [*kinds, tensor, tensor[None]]:
        torch.testing.assert_close(fastnst.stylize(kind, style, **SMALL).tensor, expected, rtol=0, atol=1e-4)
    assert torch.equal(tensor, before)


def test_the_result_has_image_tensor_losses_and_parameters() -> None:
    # Adam keeps the image in its range.
    options = {**SMALL, "optimizer": "adam"}
    result = fastnst.stylize(photo(), photo(1), **options)
    assert (result.tensor.shape, result.tensor.dtype) == ((3, 32, 48), torch.float32)
    assert 0 <= result.tensor.min() <= result.tensor.max() <= 1
    assert (result.image.size, result.image.mode) == ((48, 32), "RGB")
    assert result.alpha is result.stopped is None
    assert [record.iteration for record in result.losses] == [0, 1, 2, 3, 4]
    for record in result.losses:
        assert record.scale == 48
        assert record.total == pytest.approx(record.content + 20 * record.style + 0.05 * record.tv, rel=1e-5)
    seconds = [record.seconds for record in result.losses]
    assert seconds == sorted(seconds)
    assert result.parameters["options"]["size"] == 48
    assert result.parameters["weights"]["source"] == "random"
    assert result.parameters["sizes"] == [{"width": 48, "height": 32}]
    assert repr(result) == f"Result(48×32, loss {result.parameters['final']['total']:.4g})"
    assert Image.open(io.BytesIO(picture_in(result))).size == (48, 32)
    large = replace(result, tensor=torch.zeros(3, 1500, 3000), alpha=None)
    assert Image.open(io.BytesIO(picture_in(large))).size == (1024, 512)
    # The last record is of the image, also by the plain losses.
    from_there = fastnst.stylize(photo(), photo(1), **options, init=result.tensor, backend="reference")
    assert from_there.losses[0].total == pytest.approx(result.losses[-1].total, rel=1e-4)


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
@pytest.mark.parametrize("preset", ["default", "gatys"])
def test_the_loss_falls(preset: str, optimizer: str) -> None:
    options = {**SMALL, "preset": preset, "optimizer": optimizer, "iterations": 25}
    losses = fastnst.stylize(photo(), photo(1), **options).losses
    assert losses[-1].total < 0.3 * losses[0].total


def test_the_pyramid_goes_from_coarse_to_fine() -> None:
    iterates = []
    options = {**SMALL, "scales": [24, 48], "iterations": 2}
    result = fastnst.stylize(photo(), photo(1), callback=iterates.append, **options)
    expected = [(0, 24), (1, 24), (2, 24), (2, 48), (3, 48), (4, 48)]
    assert [(record.iteration, record.scale) for record in result.losses] == expected
    assert [iterate.image.shape[-1] for iterate in iterates] == [24] * 3 + [48] * 3
    assert {(iterate.iterations, iterate.scales) for iterate in iterates} == {(4, (24, 48))}
    assert result.parameters["sizes"][0] == {"width": 24, "height": 16}


@pytest.mark.parametrize("answer", [False, np.False_, torch.tensor(False)])
def test_a_callback_may_stop_the_run_and_not_change_it(answer: Any) -> None:
    def stop_in_time(iterate: fastnst.Iterate) -> Any:
        iterate.image.fill_(0.5)
        return answer if iterate.record.iteration == 2 else None

    options = {**SMALL, "init": "noise"}
    result = fastnst.stylize(photo(), photo(1), callback=stop_in_time, **options, seed=3)
    assert result.stopped == "callback"
    assert result.losses[-1].iteration == 2
    same, other = (fastnst.stylize(photo(), photo(1), **{**options, "iterations": 2}, seed=seed) for seed in (3, 4))
    assert [record.total for record in result.losses] == [record.total for record in same.losses]
    assert result.losses[0].total != other.losses[0].total
    with pytest.raises(fastnst.OptionError, match="cannot be called"):
        fastnst.stylize(photo(), photo(1), callback="print", **SMALL)  # type: ignore[arg-type]


def test_alpha_is_kept_of_a_content_and_hides_colour_of_a_style(tmp_path: Path) -> None:
    alpha = np.zeros((40, 60), dtype=np.uint8)
    alpha[:20] = 255
    hidden = photo(1)
    hidden[20:] = (255, 0, 0)
    first, second = (
        fastnst.stylize(np.dstack([photo(), alpha]), np.dstack([style, alpha]), **SMALL) for style in (photo(1), hidden)
    )
    torch.testing.assert_close(first.tensor, second.tensor)
    assert first.alpha is not None
    assert first.alpha.shape == (1, 32, 48)
    first.save(tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as saved:
        assert saved.mode == "RGBA"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_ends_the_run_with_the_last_good_image(
    value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Objective.loss_and_gradient
    images = []

    def broken(self: Any, image: torch.Tensor, out: Any = None) -> tuple[Loss, torch.Tensor]:
        loss, gradient = original(self, image)
        if len(images) == 2:
            loss = Loss(torch.tensor(value), loss.content, loss.style, loss.tv)
        images.append(image.clone())
        return loss, gradient

    monkeypatch.setattr(Objective, "loss_and_gradient", broken)
    with pytest.raises(fastnst.DivergedError, match=r"at iteration 2 \(scale 48\): .*lower --learning-rate") as caught:
        fastnst.stylize(photo(), photo(1), **SMALL)
    result = caught.value.result
    assert torch.equal(result.tensor, images[1][0].clamp(0, 1))
    assert len(result.losses) == 2
    elsewhere = pickle.loads(pickle.dumps(caught.value))
    assert str(elsewhere) == str(caught.value)
    assert torch.equal(elsewhere.result.tensor, result.tensor)


@pytest.mark.parametrize(
    ("content", "style", "options", "said"),
    [
        ("missing.png", photo(1), {}, "does not exist"),
        (photo(0, 4, 100), photo(1), {"size": 16}, "content image would be 16×1 pixels at scale 16"),
        (photo(), photo(1, 4, 100), {"size": 16}, r"style image would be .* at scale 16"),
        (photo(), photo(1), {"style_weights": [1, 2]}, "2 style weights for 1 style image;"),
        (photo(), [], {}, "no style image"),
        (photo(), photo(1), {"max_memory": "2MB"}, r"needs at least .* and you allow 2 MB"),
        (photo(), photo(1), {"device": "gpu"}, "unknown device 'gpu'"),
        (photo(), photo(1), {"device": "cpu", "precision": "fp16"}, "fp16 is a thousand times slower"),
        (photo(), photo(1), {"device": "cpu", "precision": "tf32"}, "tf32 needs a GPU"),
        *(
            [
                (photo(), photo(1), {"device": "cuda"}, "torch sees no GPU"),
                (photo(), photo(1), {"backend": "triton"}, "backend triton needs a GPU"),
            ]
            if not torch.cuda.is_available()
            else []
        ),
    ],
)
def test_everything_is_checked_before_the_weights_are_loaded(
    content: Any, style: Any, options: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "load_weights", lambda *_, **__: pytest.fail("the weights were loaded"))
    with pytest.raises(fastnst.FastnstError, match=said):
        fastnst.stylize(content, style, **{**SMALL, **options})


def test_bfloat16_follows_float32() -> None:
    options = {**SMALL, "iterations": 20, "optimizer": "adam"}
    exact = fastnst.stylize(photo(), photo(1), precision="fp32", **options).losses
    rounded = fastnst.stylize(photo(), photo(1), precision="bf16", **options).losses
    # Eight bits of mantissa: each feature is off by up to 0.4 %, the loss by less than twice that.
    assert rounded[0].total == pytest.approx(exact[0].total, rel=8e-3)
    assert rounded[-1].total == pytest.approx(exact[-1].total, rel=5e-2)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_a_gpu_follows_the_cpu(precision: str) -> None:
    options = {**SMALL, "iterations": 10}
    expected = fastnst.stylize(photo(), photo(1), device="cpu", **options).losses
    losses = fastnst.stylize(photo(), photo(1), device="cuda", precision=precision, **options).losses
    assert losses[0].total == pytest.approx(expected[0].total, rel={"fp32": 1e-4, "tf32": 5e-3}.get(precision, 3e-2))
    assert losses[-1].total == pytest.approx(expected[-1].total, rel=0.2)


def test_a_limit_of_time_ends_the_run_at_its_full_size(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("fastnst.transfer.run.time.perf_counter", lambda: now)

    def run(step: float, seconds: float, **options: Any) -> fastnst.Result:
        def wait(_: fastnst.Iterate) -> None:
            nonlocal now
            now += step

        return fastnst.stylize(photo(), photo(1), callback=wait, **{**SMALL, **options}, seconds=seconds)

    result = run(0.25, 4, scales=[24, 48], iterations=100_000)
    assert result.stopped == "time"
    assert result.tensor.shape == (3, 32, 48)
    # Half of the time for the first of two scales, the rest for the last.
    counts = [sum(record.scale == edge for record in result.losses) for edge in (24, 48)]
    assert min(counts) > 6
    seconds = {record.scale: record.seconds for record in result.losses}
    assert 1.5 < seconds[24] < 2.5
    assert 3.5 < seconds[48] < 4.5
    # A step at each scale even where the time is up at once.
    result = run(1.0, 1e-9, scales=[24, 48])
    assert [record.scale for record in result.losses] == [24, 24, 48, 48]
    assert result.stopped == "time"
    # The limit passes during the last of four steps, and during the last but one.
    results = [run(1.0, limit) for limit in (3.5, 2.5)]
    assert [(result.losses[-1].iteration, result.stopped) for result in results] == [(4, None), (3, "time")]


def test_a_scale_ends_when_its_loss_has_settled() -> None:
    loose, tight = (
        fastnst.stylize(photo(), photo(1), **{**SMALL, "iterations": 60}, tolerance=tolerance)
        for tolerance in (0.5, 1e-9)
    )
    assert 10 < len(loose.losses) < len(tight.losses) == 61
    assert loose.stopped is None
    totals = [record.total for record in loose.losses]
    assert min(totals[:-11]) - min(totals[-11:-1]) < 0.5 * min(totals[:-11])
    options = {**SMALL, "iterations": 60, "style_weight": 0, "tv_weight": 0}
    nothing = fastnst.stylize(photo(), photo(1), **options, tolerance=0.1)
    assert [record.total for record in nothing.losses] == [0.0] * 12


def test_tiles_give_the_image_of_the_whole() -> None:
    options = {**SMALL, "precision": "fp32", "scales": [24, 48]}
    for seed in range(0, 10, 2):
        whole, tiled = (fastnst.stylize(photo(seed), photo(seed + 1), **options, tile=tile) for tile in ("none", 16))
        assert [record.total for record in tiled.losses] == pytest.approx(
            [record.total for record in whole.losses], rel=1e-4
        )
        assert (tiled.tensor - whole.tensor).abs().max() < 1e-3


def test_the_loss_that_a_run_ends_with_is_that_of_its_picture() -> None:
    # Black and white call for more than there is.
    style = np.where(photo(1) > 127, 255, 0).astype(np.uint8)
    options = {**SMALL, "precision": "fp32", "iterations": 12}
    result = fastnst.stylize(photo(), style, **options)
    assert result.tensor.min() == 0 or result.tensor.max() == 1
    looked_at = fastnst.stylize(photo(), style, **{**options, "iterations": 1}, init=result.tensor)
    assert looked_at.losses[0].total == pytest.approx(min(record.total for record in result.losses), rel=1e-5)


def test_a_run_that_runs_out_of_memory_goes_on_in_smaller_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Objective.loss_and_gradient
    calls = []

    def failing(self: Any, image: torch.Tensor, out: Any = None) -> tuple[Loss, torch.Tensor]:
        calls.append(image.shape)
        if len(calls) == 3:
            raise torch.OutOfMemoryError("no memory")
        return original(self, image)

    expected = fastnst.stylize(photo(), photo(1), **SMALL, precision="fp32")
    monkeypatch.setattr(Objective, "loss_and_gradient", failing)
    with pytest.warns(fastnst.FastnstWarning, match="memory ran out; the run continues with tiles"):
        result = fastnst.stylize(photo(), photo(1), **SMALL, precision="fp32")
    assert len(calls) > 3
    assert [record.total for record in result.losses] == pytest.approx(
        [record.total for record in expected.losses], rel=1e-4
    )
    calls.clear()
    with pytest.raises(torch.OutOfMemoryError):
        fastnst.stylize(photo(), photo(1), **SMALL, tile="none")


@pytest.mark.filterwarnings("ignore:no step lowered the loss")
def test_a_run_ends_at_its_best_image() -> None:
    images = []
    # So long a step leaps over the valley.
    options = {**SMALL, "optimizer": "adam", "learning_rate": 0.8, "iterations": 6}
    result = fastnst.stylize(photo(), photo(1), callback=lambda iterate: images.append(iterate.image), **options)
    totals = [record.total for record in result.losses]
    best = totals.index(min(totals))
    assert best < 6
    assert torch.equal(result.tensor, images[best])
    assert result.parameters["final"] == result.losses[best].as_dict()


@pytest.mark.filterwarnings("ignore:no step lowered the loss")
def test_the_mean_of_the_iterates_is_kept_when_asked_for() -> None:
    options = {**SMALL, "optimizer": "adam", "learning_rate": 0.3, "iterations": 6}
    result = fastnst.stylize(photo(), photo(1), average=0.5, **options)
    assert result.parameters["final"] == result.losses[-1].as_dict()
    plain = fastnst.stylize(photo(), photo(1), **options)
    assert [record.total for record in result.losses[:-1]] == [record.total for record in plain.losses[:-1]]
    assert result.losses[-1].total < plain.losses[-1].total


def test_luminance_keeps_the_colours_of_the_content() -> None:
    grey = fastnst.stylize(photo(), photo(1), preserve_color="luminance", **SMALL).tensor
    plain = fastnst.stylize(photo(), photo(1), **SMALL).tensor
    content = torch.from_numpy(photo()).permute(2, 0, 1)[None].float() / 255
    small = torch.nn.functional.interpolate(content, grey.shape[1:], mode="area")[0]

    def chroma(image: torch.Tensor) -> torch.Tensor:
        return image - image.mean(0)

    assert (chroma(grey) - chroma(small)).norm() < 0.5 * (chroma(plain) - chroma(small)).norm()


def test_histogram_brings_the_styles_colours_to_the_contents() -> None:
    content = photo() // 4
    dark, plain = (
        fastnst.stylize(content, photo(1), preserve_color=mode, **{**SMALL, "content_weight": 0}).tensor
        for mode in ("histogram", "none")
    )
    assert abs(dark.mean() - content.mean() / 255) < abs(plain.mean() - content.mean() / 255)
    # A stylizer keeps nothing of one content for the next.
    for mode in ("histogram", "none"):
        keeper = fastnst.Stylizer(photo(1), preserve_color=mode, **SMALL)
        for seed in (0, 2):
            alone = fastnst.stylize(photo(seed), photo(1), preserve_color=mode, **SMALL)
            assert torch.equal(keeper(photo(seed)).tensor, alone.tensor)


def test_ctrl_c_keeps_the_image_so_far() -> None:
    def press(iterate: fastnst.Iterate) -> None:
        if iterate.record.iteration == 2:
            signal.raise_signal(signal.SIGINT)

    small: dict[str, Any] = {"size": 32, "weights": "random", "style_layers": "conv1_1", "content_layers": "conv1_2"}
    result = fastnst.stylize(photo(), photo(1), iterations=50, callback=press, **small)
    assert result.stopped == "interrupted"
    assert result.parameters["stopped"] == "interrupted"
    assert result.losses[-1].iteration < 5
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    with pytest.raises(KeyboardInterrupt):
        fastnst.Stylizer(photo(1), **small, iterations=50)(photo(), callback=press)

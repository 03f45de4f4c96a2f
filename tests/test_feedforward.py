"""Networks that stylize in one pass: strips, blends, training that goes on to the bit, files, the two commands."""

import json
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import moving
import numpy as np
import pytest
import torch
from drawn import drawn
from network_samples import rounded_products
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

import fastnst
from fastnst.app import cli
from fastnst.errors import FastnstError, FastnstWarning, ImageError, OptionError
from fastnst.examples import STYLES, example
from fastnst.feedforward import loop, strips
from fastnst.feedforward import schedule as schedules
from fastnst.feedforward.applying import Applier, apply_network
from fastnst.feedforward.file import SHIPPED, NetworkError, blend_weights, load_network, read_blend, save_network
from fastnst.feedforward.loop import Trained, TrainingError
from fastnst.feedforward.network import Architecture, StyleNetwork, Unit, one_style
from fastnst.feedforward.photos import Photos
from fastnst.feedforward.schedule import Progress, Schedule
from fastnst.feedforward.training import train_network
from fastnst.image.metadata import read_parameters
from fastnst.image.read import load_image
from fastnst.loss.perceptual import PerceptualLoss
from fastnst.video.applied import apply_to_clip
from fastnst.video.clip import open_clip
from fastnst.video.score import score_clip

SMALL = Architecture(channels=4, blocks=1)
LOSS: dict[str, Any] = {"weights": "random", "style_layers": ["conv1_1", "conv2_1"], "content_layers": ["conv2_1"]}
LOSS |= {"precision": "fp32", "size": 32}
FLAGS = ["--weights", "random", "--style-layers", "conv1_1,conv2_1", "--content-layers", "conv2_1"]
FLAGS += ["--precision", "fp32", "--size", "32", "--channels", "4", "--blocks", "1", "--quiet"]


def network(*names: str, seed: int = 0) -> StyleNetwork:
    """A network with random weights, and a normalisation of its own for each style."""
    generator = torch.Generator().manual_seed(seed)
    made = StyleNetwork(names or ("a", "b"), SMALL).requires_grad_(False)
    for value in made.parameters():
        value += 0.3 * torch.randn(value.shape, generator=generator)
    return made


def picture(height: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand((1, 3, 5, 6), generator=generator)
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")


@pytest.fixture
def small_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "_CACHED", 500)


@pytest.mark.usefixtures("small_strips")
@pytest.mark.parametrize(("height", "width"), [(64, 48), (61, 50), (13, 90), (90, 12)])
@pytest.mark.parametrize("kept", [True, False])
def test_strips_are_the_whole(height: int, width: int, kept: bool) -> None:
    made, image, blend = network(), picture(height, width), torch.tensor([0.3, 0.7])
    whole = made(image, blend)
    assert whole.shape == image.shape
    assert whole.std() > 0.05
    torch.testing.assert_close(strips.stylized(made, image, blend, kept=kept), whole, rtol=0, atol=1e-4)


@pytest.mark.usefixtures("small_strips")
def test_maps_that_are_computed_again_are_the_same_in_16_bits() -> None:
    made, image, blend = network(), picture(61, 50), torch.tensor([0.3, 0.7])
    exact = made(image, blend)
    made.compute_in(torch.bfloat16)
    kept, computed = (strips.stylized(made, image, blend, kept=kept) for kept in (True, False))
    torch.testing.assert_close(kept, computed, rtol=0, atol=0)
    torch.testing.assert_close(kept, exact, rtol=0, atol=0.1)


def test_enlarging_is_interpolation_and_a_convolution() -> None:
    generator = torch.Generator().manual_seed(0)
    unit, maps = Unit(6, 5, 1, enlarges=True), torch.randn((2, 6, 9, 7), generator=generator)
    larger = torch.nn.functional.interpolate(maps, scale_factor=2.0, mode="bilinear")
    expected = torch.nn.functional.conv2d(larger, unit.weight)
    convolved = unit.convolved(maps, unit.kernel(torch.float32))
    assert convolved.shape == (2, 5, 18, 14)
    torch.testing.assert_close(convolved[:, :, 1:-1, 1:-1], expected)


def test_a_batch_is_its_images() -> None:
    made, blend = network(), torch.tensor([0.5, 0.5])
    batch = torch.cat([picture(24, 32), picture(24, 32, seed=1)])
    torch.testing.assert_close(made(batch, blend), torch.cat([made(image[None], blend) for image in batch]))


def test_blends_lie_between_the_styles() -> None:
    made, image = network(), picture(40, 40)
    first, second = (made(image, one_style(index, 2)) for index in range(2))
    assert (first - second).abs().max() > 0.05
    torch.testing.assert_close(made(image, blend_weights(made, [3, 0])), first)
    torch.testing.assert_close(blend_weights(made, ["3", 7.0]), torch.tensor([0.3, 0.7]))
    assert blend_weights(made, style="b").tolist() == [0, 1]
    assert blend_weights(made).tolist() == [1, 0]
    torch.testing.assert_close(blend_weights(made, {"b": "3", "a": 1}), torch.tensor([0.25, 0.75]))
    assert read_blend("b=0.3,a=0.7") == {"b": "0.3", "a": "0.7"}
    assert read_blend("0.3 0.7") == ["0.3", "0.7"]
    assert read_blend("starry night=0.3, b=.7") == {"starry night": "0.3", "b": ".7"}
    assert read_blend("a=1 b") == {"a": "1", "b": ""}
    assert torch.equal(blend_weights(made, "b=0.3,a=0.7"), blend_weights(made, [0.7, 0.3]))
    assert torch.equal(blend_weights(made, "1 3"), blend_weights(made, [1, 3]))
    near = made(image, blend_weights(made, [0.99, 0.01]))
    assert (near - first).abs().mean() < 0.1 * (second - first).abs().mean()


@pytest.mark.parametrize(
    ("blend", "style", "said"),
    [
        (
            [1],
            None,
            "you gave 1 blend weight for 2 styles (a, b); give one for each, or name them, such as a=0.3 b=0.7",
        ),
        ([1, -1], None, "weights must be 0 or more, and not all 0"),
        ([0, 0], None, "not all 0"),
        ([1, float("nan")], None, "0 or more"),
        (["x", "y"], None, "give one for each style, such as 0.3 0.7"),
        ({"a": 1, "c": 1}, None, "no style 'c'; choose one of: a, b"),
        (None, "c", "no style 'c'; choose one of: a, b"),
        (None, True, "no style True; choose one of: a, b"),
        ([1, 1], "a", "give only one of them"),
    ],
)
def test_bad_blends(blend: Any, style: Any, said: str) -> None:
    with pytest.raises(OptionError) as caught:
        blend_weights(network(), blend, style)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two styles, and a folder of photographs of which two are of no use."""
    folder = tmp_path_factory.mktemp("places")
    drawn(folder, "x.png", "y.png", "photos/1.png", "photos/2.png", "photos/3.jpg")
    drawn(folder, "photos/0_tiny.png", size=(31, 90))
    (folder / "photos" / "0_broken.jpg").write_bytes(b"\xff\xd8\xff" + bytes(50))
    return folder


def trained(places: Path, steps: int, **options: Any) -> Trained:
    schedule = Schedule(steps=options.pop("horizon", steps), batch=2, learning_rate=1e-2, **options.pop("schedule", {}))
    if "add_to" not in options:
        options["architecture"] = SMALL
    styles = options.pop("styles", [places / "x.png", places / "y.png"])
    return train_network(styles, places / "photos", schedule=schedule, **options, **LOSS)


def weights_of(made: StyleNetwork) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in made.state_dict().items()}


def test_training_has_exact_products(places: Path) -> None:
    expected = weights_of(trained(places, 1).network)
    with rounded_products():
        weights = weights_of(trained(places, 1).network)
    assert all(torch.equal(weights[name], value) for name, value in expected.items())


def test_it_learns_and_is_kept(places: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_SMOOTHING", 5)
    monkeypatch.setattr(schedules, "_WARM_UP", 1)
    output, previews = tmp_path / "net.safetensors", tmp_path / "sheet.png"
    steps: list[Progress] = []
    result = trained(places, 20, output=output, previews=previews, style_weight=1.0, callback=steps.append)
    assert [progress.step for progress in steps] == list(range(1, 21))
    assert steps[-1].loss < 0.9 * steps[0].loss
    assert steps[-1].done == 1
    assert result.stopped is None
    assert sorted(Path(path).name for path in result.skipped) == ["0_broken.jpg", "0_tiny.png"]
    assert load_image(previews).width > 3 * 32
    loaded = load_network(output)
    assert loaded.network.names == ("x", "y")
    assert loaded.training["steps"] == 20
    for name, value in weights_of(result.network).items():
        torch.testing.assert_close(loaded.network.state_dict()[name], value.half().float(), rtol=0, atol=0)
    content = places / "photos" / "1.png"
    first, second, mixed = (
        apply_network(output, content, precision="fp32", **how).tensor
        for how in ({"style": "x"}, {"style": "y"}, {"blend": [1, 1]})
    )
    assert (first - second).abs().mean() > 1e-3
    assert (mixed - first).abs().mean() < (second - first).abs().mean()


class Killed(Exception):
    """Ends a training as nothing that it expects."""


def kill_at(step: int) -> Callable[[Progress], None]:
    def callback(progress: Progress) -> None:
        if progress.step == step:
            raise Killed

    return callback


@pytest.mark.filterwarnings("ignore:precision bf16 takes")
@pytest.mark.parametrize(("schedule", "precision"), [({}, "bf16"), ({"stable": 50.0}, "fp32")])
def test_a_killed_training_goes_on_to_the_bit(
    places: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schedule: dict[str, Any], precision: str
) -> None:
    monkeypatch.setitem(LOSS, "precision", precision)
    whole = trained(places, 6, schedule=schedule)
    checkpoint = tmp_path / "run"
    with pytest.raises(Killed):
        trained(places, 6, schedule=schedule, checkpoint=checkpoint, save_every=0.0, callback=kill_at(4))
    steps: list[int] = []
    resumed = trained(
        places,
        6,
        schedule=schedule,
        checkpoint=checkpoint,
        resume=True,
        callback=lambda progress: steps.append(progress.step),
    )
    assert steps == [4, 5, 6]
    trained(places, 1, checkpoint=checkpoint)  # the finished one is replaced
    assert not checkpoint.with_name("run.prev").exists()
    with pytest.raises(Killed):
        trained(places, 6, schedule=schedule, checkpoint=checkpoint, save_every=0.0, callback=kill_at(4))
    with pytest.raises(TrainingError, match="run holds a training that is not finished; continue it with --resume, or"):
        trained(places, 6, schedule=schedule, checkpoint=checkpoint)
    torch.testing.assert_close(weights_of(resumed.network), weights_of(whole.network), rtol=0, atol=0)
    with pytest.raises(TrainingError, match="a training with other batch, learning rate, stable or seed"):
        trained(places, 6, schedule={"seed": 1}, checkpoint=checkpoint, resume=True)
    with pytest.raises(TrainingError, match="other styles"):
        trained(
            places,
            6,
            schedule=schedule,
            styles=[places / "y.png", places / "x.png"],
            checkpoint=checkpoint,
            resume=True,
        )


def test_a_training_goes_on_from_the_checkpoint_before_a_damaged_one(places: Path, tmp_path: Path) -> None:
    whole, checkpoint = trained(places, 6), tmp_path / "run"
    before = checkpoint.with_name("run.prev")
    with pytest.raises(Killed):
        trained(places, 6, checkpoint=checkpoint, save_every=0.0, callback=kill_at(4))
    data, older, steps = checkpoint.read_bytes(), before.read_bytes(), list[int]()
    for damaged in (data[: len(data) // 2], data[:-2000] + bytes(2000), b"", None):
        checkpoint.unlink()
        before.write_bytes(older)
        if damaged is not None:
            checkpoint.write_bytes(damaged)
        steps.clear()
        with pytest.warns(FastnstWarning, match="fastnst uses the checkpoint before it"):
            resumed = trained(
                places, 6, checkpoint=checkpoint, resume=True, callback=lambda progress: steps.append(progress.step)
            )
        assert steps == [3, 4, 5, 6]
        torch.testing.assert_close(weights_of(resumed.network), weights_of(whole.network), rtol=0, atol=0)
    before.write_bytes(older[:-2000])
    checkpoint.write_bytes(data[:-2000])
    with pytest.raises(TrainingError, match="run' is not a checkpoint of a training, or it is damaged"):
        trained(places, 6, checkpoint=checkpoint, resume=True)


def test_a_checkpoint_whose_optimiser_is_another_s(places: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "run"
    trained(places, 2, checkpoint=checkpoint)
    contents = torch.load(checkpoint, weights_only=True)
    for part, name in ((0, "exp_avg"), (1, "momentum_buffer")):
        contents["optimizer"][part]["state"][0][name] = torch.zeros(3, 5)
    torch.save(contents, checkpoint)
    checkpoint.with_name("run.prev").unlink(missing_ok=True)
    with pytest.raises(TrainingError, match="holds another network"):
        trained(places, 4, checkpoint=checkpoint, resume=True)


def test_stopping_keeps_what_there_is(places: Path, tmp_path: Path) -> None:
    output = tmp_path / "net.safetensors"
    result = trained(places, 50, output=output, callback=lambda progress: int(progress.step < 3))
    assert (result.steps, result.stopped) == (3, "stopped")
    assert load_network(output).training["steps"] == 3


def test_minutes_end_it(places: Path) -> None:
    result = train_network(
        [places / "x.png"], places / "photos", schedule=Schedule(minutes=1e-6), architecture=SMALL, **LOSS
    )
    assert result.steps == 1


def test_a_style_is_added_and_the_others_stay(places: Path, tmp_path: Path) -> None:
    output, both = tmp_path / "net.safetensors", tmp_path / "both.safetensors"
    trained(places, 3, output=output, styles=[places / "x.png"])
    before = weights_of(load_network(output).network)
    trained(places, 5, add_to=output, output=both, styles=[places / "y.png"])
    grown = load_network(both).network
    assert grown.names == ("x", "y")
    for name, value in grown.state_dict().items():
        if name.endswith(("scale", "shift")):
            torch.testing.assert_close(value[:1], before[name], rtol=0, atol=0)
            assert not value[1].equal(value[0])
        else:
            torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    with pytest.raises(OptionError, match=r"both\.safetensors is also an input and would be overwritten"):
        trained(places, 5, add_to=both, output=both, styles=places / "x.png")
    with pytest.raises(OptionError, match="has a style 'y' already"):
        trained(places, 5, add_to=both, styles=[places / "y.png"])
    with pytest.raises(OptionError, match="leave them"):
        trained(places, 5, add_to=both, architecture=SMALL, styles=[places / "x.png"], names=["z"])


def test_the_loss_is_that_of_the_module(places: Path) -> None:
    steps: list[Progress] = []
    styles, photos = [places / "x.png"], [places / "photos" / "1.png"]
    schedule = Schedule(steps=1, seed=5)
    train_network(styles, photos, schedule=schedule, architecture=SMALL, callback=steps.append, **LOSS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        made = StyleNetwork(["x"], SMALL)
    crop = Photos(photos, 32, seed=5).crop(0)[None]
    loss = PerceptualLoss(styles, **{name: value for name, value in LOSS.items() if name != "precision"})
    expected = loss(made(crop, torch.ones(1)), crop)
    assert steps[0].loss == pytest.approx(expected.item(), rel=1e-4)


def test_it_begins_with_another_network(places: Path, tmp_path: Path) -> None:
    known, output = tmp_path / "known.safetensors", tmp_path / "net.safetensors"
    save_network(known, network("y", "z"), {})
    before = load_network(known).network
    schedule = Schedule(steps=1, learning_rate=1e-9)
    styles = [places / "x.png", places / "y.png"]
    train_network(styles, places / "photos", output, schedule=schedule, begin_with=known, **LOSS)
    after = load_network(output).network
    assert after.names == ("x", "y")
    for name, value in after.state_dict().items():
        old = before.state_dict()[name]
        expected = torch.stack([old.mean(0), old[0]]) if name.endswith(("scale", "shift")) else old
        torch.testing.assert_close(value, expected, atol=1e-3, rtol=1e-3)
    with pytest.raises(OptionError, match="fixed by the network that the training begins with"):
        train_network(styles, places / "photos", begin_with=known, architecture=SMALL, **LOSS)


def test_the_network_that_ships(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = load_network()
    assert made.network.names == STYLES
    assert SHIPPED.stat().st_size < 4_000_000
    output = tmp_path / "out.png"
    arguments = ["apply", "--style", "swirls", str(example("content")), "-o", str(output), "--size", "64"]
    assert cli.main(arguments) == 0
    swirls = load_image(output)
    assert (swirls.height, swirls.width) == (48, 64)
    mixed = Applier(blend={"swirls": 1, "glass": 1}, size=64)(example("content"))
    assert (mixed.tensor - swirls.rgb).abs().mean() > 0.02
    assert cli.main(["apply", str(example("content")), "-o", str(output), "--blend", "swirls=1", "glas=1"]) == 1
    assert "the network has no style 'glas'; did you mean glass? Or choose one of: charcoal" in capsys.readouterr().err


def test_a_run_starts_from_the_network_that_ships(places: Path) -> None:
    options: dict[str, Any] = {"weights": "random", "precision": "fp32", "size": 64, "iterations": 1, "scales": None}
    styles = [example("style_swirls"), example("style_glass")]
    starts = [
        fastnst.stylize(example("content"), styles, init=init, **options).losses[0].style
        for init in ("content", "network")
    ]
    assert starts[1] < starts[0]
    with pytest.raises(OptionError, match="init network needs styles that come with fastnst"):
        fastnst.stylize(example("content"), places / "x.png", init="network", **options)


def test_a_start_from_the_network_is_the_content_where_no_mask_lies() -> None:
    left, starts = np.zeros((48, 64), bool), []
    left[:, :16] = True
    left_and_middle = np.linspace(1, 0, 48, dtype=np.float32)[:, None] * ~left
    options: dict[str, Any] = {"weights": "random", "precision": "fp32", "size": 64, "iterations": 1, "scales": None}
    for init, masks in (("content", None), ("network", None), ("network", [(left, None), (left_and_middle, None)])):
        at: list[torch.Tensor] = []
        fastnst.stylize(
            example("content"),
            example("style_swirls"),
            init=init,
            masks=masks,
            callback=lambda iterate, at=at: at.append(iterate.image.clone()),
            callback_every=1,
            **options,
        )
        starts.append(at[0])
    content, made, masked = starts
    torch.testing.assert_close(masked[..., :16], made[..., :16])
    torch.testing.assert_close(masked[:, -1, 16:], content[:, -1, 16:])
    torch.testing.assert_close(masked[:, 24], made[:, 24].lerp(content[:, 24], 24 / 47 * torch.from_numpy(~left[24])))


def test_divergence_leaves_the_last_good_network(places: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output, stepped = tmp_path / "net.safetensors", loop.Training._stepped
    monkeypatch.setattr(loop, "_SMOOTHING", 2)
    good: list[dict[str, Tensor]] = []

    def diverging(self: Any, crops: Any) -> float:
        loss = stepped(self, crops)
        if self.step == 4:
            good.append(weights_of(self.network))
        return float("nan") if self.step == 5 else loss

    monkeypatch.setattr(loop.Training, "_stepped", diverging)
    with pytest.raises(TrainingError, match=r"diverged at step 5 \(loss nan\); the network of step 4 is in .*; lower"):
        trained(places, 50, output=output)
    kept = load_network(output)
    assert kept.training["steps"] == 4
    torch.testing.assert_close(
        kept.network.state_dict(), {name: value.half().float() for name, value in good[0].items()}
    )
    monkeypatch.setattr(loop.Training, "_stepped", stepped)
    trained(places, 3, checkpoint=tmp_path / "run")
    monkeypatch.setattr(loop.Training, "_stepped", lambda self, crops: float("nan"))
    with pytest.raises(TrainingError, match=r"diverged at step 3 .*; the network of step 3 is in "):
        trained(places, 50, output=output, checkpoint=tmp_path / "run", resume=True)
    assert load_network(output).training["steps"] == 3


def test_photographs_take_turns(places: Path) -> None:
    photos = Photos(places / "photos", 32, seed=3)
    crops = [photos.crop(number) for number in range(12)]
    assert all(crop.shape == (3, 32, 32) and 0 <= crop.min() <= crop.max() <= 1 for crop in crops)
    other = Photos(places / "photos", 32, seed=3)
    for number in (7, 2, 11):
        torch.testing.assert_close(other.crop(number), crops[number], rtol=0, atol=0)


def test_photographs_of_no_use(places: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(ImageError, match=r"photo folder .* has no pictures"):
        Photos(tmp_path, 32, seed=0)
    with pytest.raises(ImageError, match=r"nowhere' does not exist; check the path"):
        Photos([places / "photos", tmp_path / "nowhere"], 32, seed=0)
    Image.new("RGB", (400, 32)).save(tmp_path / "wide.png")
    shown = Photos([tmp_path / "wide.png", places / "x.png"], 32, seed=0).whole(4)
    assert [min(picture.shape[1:]) >= 12 for picture in shown] == [True]
    photos = [places / "photos" / name for name in ("0_broken.jpg", "0_tiny.png")]
    with pytest.raises(ImageError, match="none of the 2 photographs can be used; the first") as caught:
        train_network([places / "x.png"], photos, schedule=Schedule(steps=1), architecture=SMALL, **LOSS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"steps": 0}, "steps 0 is not possible"),
        ({"batch": 0}, "batch 0 is not possible"),
        ({"minutes": -1.0}, "minutes -1.0 is not possible"),
        ({"learning_rate": float("nan")}, "learning rate nan is not possible"),
        ({"seed": -1}, "seed -1 is not possible"),
    ],
)
def test_bad_schedules(given: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        Schedule(**given)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    path = tmp_path / "net.safetensors"
    save_network(path, network("a", "b"), {"steps": 1})
    return path


def changed(path: Path, **facts: Any) -> Path:
    """The network's file with other facts."""
    loaded = load_network(path)
    tensors = {name: value.half() for name, value in loaded.network.state_dict().items()}
    known = {"kind": "fastnst style network", "format": 1, "styles": ["a", "b"], "training": {}}
    architecture = {"channels": 4, "blocks": 1}
    save_file(tensors, path, {"fastnst": json.dumps(known | {"architecture": architecture} | facts)})
    return path


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: path.unlink(), r"cannot be read \(No such file or directory\); check the path"),
        (lambda path: path.unlink() or path.symlink_to(os.devnull), "is not a regular file"),
        (lambda path: path.write_bytes(b"no network"), "is not a network of fastnst, or it is damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "is not a network of fastnst, or it is damaged"),
        (lambda path: save_file({"x": torch.zeros(1)}, path), "is not a network of fastnst"),
        (lambda path: changed(path, format=2), "has format 2, and this version of fastnst reads 1"),
        (
            lambda path: changed(path, architecture={"channels": 8, "blocks": 1}),
            "its weights do not match its description",
        ),
        (
            lambda path: changed(path, architecture={"channels": 10**9, "blocks": 1}),
            "its weights do not match its description",
        ),
        (lambda path: changed(path, styles=["a"]), "its weights do not match its description"),
        (lambda path: changed(path, styles=5), "its weights do not match its description"),
        (lambda path: changed(path, styles=["a"] * 10**6), "its weights do not match its description"),
        (lambda path: changed(path, training=[1]), "its weights do not match its description"),
    ],
)
def test_bad_network_files(kept: Path, damage: Callable[[Path], Any], said: str) -> None:
    damage(kept)
    with pytest.raises(NetworkError, match=said) as caught:
        load_network(kept)
    assert "\n" not in str(caught.value)


def test_the_callers_modes_do_not_reach_a_network(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastnst.image.read.STREAMED_PIXELS", 100)  # a file that is read by rows
    content = kept.with_name("content.png")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)).save(content)
    expected, generator = Applier(kept, size=32, precision="fp32")(content).tensor, torch.get_rng_state()
    for change, value, before in (
        (torch.set_default_dtype, torch.float64, torch.float32),
        (torch.set_default_device, "meta", None),
    ):
        change(value)  # type: ignore[operator]
        try:
            network, applied = load_network(kept).network, Applier(kept, size=32, precision="fp32")(content)
        finally:
            change(before)  # type: ignore[operator]
        assert {(value.dtype, str(value.device)) for value in network.parameters()} == {(torch.float32, "cpu")}
        assert applied.tensor.dtype == torch.float32
        assert torch.equal(applied.tensor, expected)
    assert torch.equal(torch.get_rng_state(), generator)


def test_a_picture_keeps_its_alpha_and_its_colours(kept: Path, tmp_path: Path) -> None:
    pixels = np.asarray(Image.open(drawn(tmp_path, "c.png", size=(50, 37))[0]).convert("RGBA")).copy()
    pixels[:10, :, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "c.png")
    applied = apply_network(kept, tmp_path / "c.png", precision="fp32", blend=[1, 2])
    assert applied.tensor.shape == (3, 37, 50)
    applied.save(tmp_path / "out.png")
    result = load_image(tmp_path / "out.png")
    assert result.alpha is not None
    torch.testing.assert_close(result.alpha, load_image(tmp_path / "c.png").alpha)
    assert read_parameters(tmp_path / "out.png")["network"]["blend"] == [0.333333, 0.666667]
    grey = torch.full((3, 40, 40), 0.2)
    grey[:, 10:30, 10:30] = 0.8
    kept_colours = apply_network(kept, grey, precision="fp32", preserve_color="luminance").tensor
    assert (kept_colours.amax(0) - kept_colours.amin(0)).max() < 0.01
    assert apply_network(kept, grey, size=64, precision="fp32").tensor.shape == (3, 64, 64)


def test_what_an_applier_refuses(kept: Path) -> None:
    with pytest.raises(ImageError, match="would be 11×40 pixels, and the network needs 12 or more on each side"):
        apply_network(kept, torch.rand(3, 40, 11), precision="fp32")
    for given, said in (({"size": 11}, "size 11 is too small"), ({"preserve_color": "all"}, "unknown preserve color")):
        with pytest.raises(OptionError, match=said):
            Applier(kept, precision="fp32", **given)  # type: ignore[arg-type]


def ran(capsys: Any, code: int, *words: str | Path) -> str:
    assert cli.main([str(word) for word in words]) == code
    printed: str = capsys.readouterr().err
    return printed


def test_the_commands(places: Path, tmp_path: Path, capsys: Any) -> None:
    net, photos = tmp_path / "net.safetensors", places / "photos"
    training = ("train", places / "x.png", places / "y.png", "--photos", photos, "-o", net, "--steps", "2")
    assert ran(capsys, 0, *training, *FLAGS) == ""
    said = ran(capsys, 0, "apply", net, photos / "1.png", "-o", tmp_path / "1.jpg", "--blend", "0.3", "0.7")
    assert "1.jpg (64×48) in " in said
    assert (
        cli.main(["apply", str(net), *(str(photos / f"{name}.png") for name in "12"), "-o", str(tmp_path), "--json"])
        == 0
    )
    facts = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [Path(each["output"]).name for each in facts] == ["1.png", "2.png"]
    assert facts[0]["network"]["blend"] == [1.0, 0.0]
    assert ran(capsys, 0, "apply", net, photos / "1.png", "-o", tmp_path / "2.jpg", "--blend", "3,7", "--quiet") == ""
    assert load_image(tmp_path / "2.jpg").sha256 == load_image(tmp_path / "1.jpg").sha256
    low = ("apply", net, photos / "1.png", "-o", tmp_path / "3.jpg", "--blend", "3,7", "--low-memory", "--quiet")
    assert ran(capsys, 0, *low) == ""
    assert load_image(tmp_path / "3.jpg").sha256 == load_image(tmp_path / "1.jpg").sha256
    said = ran(capsys, 1, "apply", net, photos, "-o", tmp_path / "all", "--style", "y")
    assert "1 of 5 pictures failed" in said
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == ["0_tiny.png", "1.png", "2.png", "3.jpg"]
    # Rerun names the command, which makes the same picture.
    for made, kept in (("1.jpg", []), ("all/2.png", ["--size", "32", "--preserve-color", "luminance"])):
        ran(capsys, 0, "apply", net, photos / "1.png", "-o", tmp_path / made, "--blend", "y=1", "x=3", *kept, "--quiet")
        said = ran(capsys, 1, "rerun", tmp_path / made, "-o", tmp_path / "its own.jpg")
        command = shlex.split(said.partition("; to make it again, type: ")[2])
        assert command[:4] == ["fastnst", "apply", str(net), str(photos / "1.png")]
        ran(capsys, 0, *command[1:])
        again = tmp_path / "its own.jpg"
        assert read_parameters(again)["content"] == read_parameters(tmp_path / made)["content"]
        assert read_parameters(again)["network"] == read_parameters(tmp_path / made)["network"]


TRAIN = ["train", "PICTURE", "--photos", "FOLDER", "-o", "n.safetensors"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["apply", "NET"], "no picture was given"),
        (["apply", "NET", "PICTURE"], "give both"),
        (["apply", "NET", "PICTURE", "-o", "out.xyz"], "unknown extension '.xyz'"),
        (["apply", "NET", "PICTURE", "-o", "-", "--json"], "--json prints how pictures were made on the standard"),
        (["apply", "NET", "PICTURE", "-o", "out.png", "--blend", "1"], "1 blend weight for 2 styles"),
        (["apply", "BROKEN", "PICTURE", "-o", "out.png"], "is not a network of fastnst"),
        (["apply", "NET", "FOLDER", "-o", "FOLDER"], "would be overwritten"),
        (["apply", "NET", "PICTURE", "-o", "out.png", "--size", "99999999"], "not enough memory; lower --size"),
        (["apply", "NET", "PICTURE", "-o", "PICTURE"], "is also an input and would be overwritten"),
        (["apply", "NET", "PICTURE", "PICTURE", "-o", "BROKEN"], "several pictures need a folder after -o, and '"),
        (
            ["apply", "NET", "PICTURE", "-o", "out.png", "--hold", "0.3"],
            "--hold has no effect on a picture; leave it out",
        ),
        (["apply", "NET", "--onnx", "net.txt"], "end it in .onnx"),
        (["train", "PICTURE", "--photos", "EMPTY", "-o", "n.safetensors"], "has no pictures"),
        (["train", "PICTURE", "--photos", "FOLDER", "-o", "n.pth"], "end it in .safetensors"),
        (["train", "PICTURE", "--photos", "FOLDER", "-o", "n.safetensors", "--resume"], "no checkpoint to resume"),
        ([*TRAIN, "--checkpoint", "PICTURE"], "is also an input and would be overwritten"),
        ([*TRAIN[:-1], "NET", "--begin-with", "NET"], "is also an input and would be overwritten"),
        ([*TRAIN, "--checkpoint", "n.safetensors"], "n.safetensors was given for two outputs"),
        ([*TRAIN, "--previews", "FOLDER/sheet.png"], "the next run would read them as one"),
        ([*TRAIN, "--save-every", "nan"], "save every nan is not possible"),
        ([*TRAIN, "--seed", str(2**63)], "give a whole number from 0 to 9223372036854775807"),
        (["train", "PICTURE", "PICTURE", "--photos", "FOLDER", "-o", "n.safetensors"], "a name of its own"),
        (["train", "PICTURE", "--photos", "FOLDER", "-o", "n.safetensors", "--channels", "0"], "from 1 to 128"),
        (["train", "PICTURE", "--photos", "FOLDER", "-o", "n.safetensors", "--begin-with", "n"], "cannot be read"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], said: str, places: Path, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.safetensors").write_bytes(b"broken")
    paths = {
        "NET": kept,
        "BROKEN": tmp_path / "broken.safetensors",
        "PICTURE": places / "x.png",
        "FOLDER": places / "photos",
        "EMPTY": tmp_path / "empty",
    }
    printed = ran(capsys, 1, *(paths.get(word, word.replace("FOLDER", str(places / "photos"))) for word in words))
    assert said in printed
    assert printed.startswith("fastnst: error: ")
    assert len(printed.splitlines()) == 1


def test_onnx_is_the_same(kept: Path, tmp_path: Path, capsys: Any) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    exported = tmp_path / "net.onnx"
    assert "of torch" in ran(capsys, 0, "apply", kept, "--onnx", exported)
    session = onnxruntime.InferenceSession(str(exported), providers=["CPUExecutionProvider"])
    image, blend = picture(50, 37), np.array([0.25, 0.75], np.float32)
    (stylized,) = session.run(None, {"image": image.numpy(), "blend": blend})
    expected = load_network(kept).network(image, torch.from_numpy(blend))
    torch.testing.assert_close(torch.from_numpy(stylized), expected, rtol=0, atol=1 / 255)


def test_a_clip_frame_by_frame(kept: Path, tmp_path: Path, capsys: Any) -> None:
    pytest.importorskip("cv2")
    source = moving.folder_of(tmp_path / "clip", moving.pan(5))
    for name, hold in (("alone", "0"), ("held", "0.6")):
        said = ran(capsys, 0, "apply", kept, source, "-o", tmp_path / f"{name}.webp", "--hold", hold, "--style", "a")
        assert f"{name}.webp" in said
    scores = [score_clip(open_clip(tmp_path / f"{name}.webp"), open_clip(source)).mean for name in ("alone", "held")]
    assert scores[1] < 0.6 * scores[0]
    ran(capsys, 0, "apply", kept, source, "-o", tmp_path / "half.gif", "--size", "50%")
    height, width = open_clip(source).size
    assert open_clip(tmp_path / "half.gif").size == (height // 2, width // 2)
    said = ran(capsys, 1, "apply", kept, tmp_path / "half.gif", "-o", tmp_path / "half.gif")
    assert "half.gif is also an input and would be overwritten" in said
    said = ran(capsys, 1, "apply", kept, source, "-o", tmp_path / "mixed.gif", "--quality", "90")
    assert "--quality has no effect on a clip; leave it out" in said
    words = ("apply", kept, source, "-o", tmp_path / "mixed.gif", "--hold", "0", "--blend")
    assert cli.main([*map(str, words), "0:1,0", "0.1s:0,1", "--json"]) == 0
    printed = capsys.readouterr()
    assert "mixed.gif (5 frames of " in printed.err
    facts = json.loads(printed.out)
    assert (facts["frames"], facts["broken"], facts["network"]["blend"]) == (5, None, [0, 1])
    numbered = (tmp_path / "mixed.gif").read_bytes()
    ran(capsys, 0, *words, "0:a=1", "0.1s:b=1")
    assert (tmp_path / "mixed.gif").read_bytes() == numbered
    assert "the network has no style 'c'" in ran(capsys, 1, *words, "0:a=1", "0.1s:c=1")
    assert "the network has no style 'a b'" in ran(capsys, 1, *words, "0:a=1", "0.1s:a b=1")
    applied = apply_to_clip(kept, source, tmp_path / "mixed.gif", blend={"b": 1}, hold=0)
    assert applied.parameters["network"]["blend"] == [0, 1]
    assert "not all 0" in ran(capsys, 1, *words, "0:a=1", "9s:a=0")
    assert "cannot be read; give numbers, as many at each moment" in ran(capsys, 1, *words, "0:a=1", "0.1s:b")
    frames = list(open_clip(tmp_path / "mixed.gif").frames())
    alone = apply_network(kept, sorted(source.iterdir())[-1], style="b").tensor
    assert (torch.from_numpy(frames[-1].copy()).permute(2, 0, 1) / 255 - alone).abs().mean() < 0.06
    assert "hold" in ran(capsys, 1, "apply", kept, source, "-o", tmp_path / "x.webp", "--hold", "1")


def test_errors_are_ours() -> None:
    assert issubclass(NetworkError, FastnstError)
    assert issubclass(TrainingError, FastnstError)

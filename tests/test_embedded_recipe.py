"""The recipe of the embedded network: pictures, crops, training in pieces, export, judging; all of it small."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from bench.embedded import export, judge, plot, sheets, textures, train
from bench.embedded.bank import Bank, Jitter, Plan, crops, halved, load_bank
from bench.embedded.canvas import SIZE
from bench.embedded.energy import CHANNELS, ORIENTATIONS, energies
from bench.embedded.network import PAINTING, Heads, Trunk
from bench.embedded.pictures import FAMILIES, family_of, picture
from fastnst.embedded import DEEPEST, embedded_layers
from fastnst.network.weights import load_weights
from fastnst.transfer.result import LossRecord

STILL = Jitter(brightness=0, gain=0, offset=0, mixing=0, grey=0, noise=0)
SMALL = Plan(seed=3, structures=3, palettes=4, palettes_each=2)


@pytest.fixture(scope="module")
def trunk() -> Trunk:
    """A trunk whose batch norms have seen something and are not all alike."""
    torch.manual_seed(0)
    made = Trunk()
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.2)
            module.momentum = None
    with torch.no_grad():
        for _ in range(3):
            made(torch.randn(4, 3, 32, 32))
    return made.eval()


@pytest.mark.parametrize("structure", range(len(FAMILIES)))
def test_pictures(structure: int) -> None:
    first = picture(5, structure, 1, 0)
    assert first.shape == (SIZE, SIZE, 3)
    assert first.dtype == np.uint8
    assert first.std() > 2
    np.testing.assert_array_equal(first, picture(5, structure, 1, 0))
    assert (first != picture(5, structure, 1, 1)).any()
    assert (first != picture(5, structure, 2, 0)).any()


def test_families() -> None:
    assert len({family_of(index) for index in range(len(FAMILIES))}) == len(set(FAMILIES))
    assert family_of(0) == family_of(len(FAMILIES))


def test_plan() -> None:
    assert SMALL.count == SMALL.classes == 6
    entries = [SMALL.entry(index) for index in range(SMALL.count)]
    assert [structure for structure, _, _ in entries] == [0, 0, 1, 1, 2, 2]
    # The palettes of a structure are different ones.
    assert len({entry[:2] for entry in entries}) == SMALL.classes
    assert all(palette < SMALL.palettes for _, palette, _ in entries)


def test_crops() -> None:
    ramp = torch.arange(SIZE, dtype=torch.uint8).expand(1, 3, SIZE, SIZE)
    bank = Bank(ramp, torch.tensor([4]), torch.tensor([9]))
    jitter = Jitter(brightness=0.2, gain=0.1, offset=0.05, mixing=0.1, grey=0.5, noise=0.02)
    images, structure, palette = crops(bank, 7, 20, jitter, torch.Generator().manual_seed(1))
    again, _, _ = crops(bank, 7, 20, jitter, torch.Generator().manual_seed(1))
    assert images.shape == (7, 3, 20, 20)
    assert images.min() >= 0
    assert images.max() <= 1
    assert structure.tolist() == [4] * 7
    assert palette.tolist() == [9] * 7
    assert torch.equal(images, again)


def test_crops_of_a_ramp_are_ramps() -> None:
    """Turned, mirrored and scaled by 0.5 … 1.25, a plane stays a plane of 1/1.25 … 1/0.5 levels per pixel."""
    ramp = torch.arange(SIZE, dtype=torch.uint8).expand(1, 3, SIZE, SIZE)
    bank = Bank(ramp, torch.tensor([0]), torch.tensor([0]))
    images, _, _ = crops(bank, 16, 24, STILL, torch.Generator().manual_seed(2))
    dy, dx = (images.diff(dim=dim)[:, :, :23, :23] * 255 for dim in (2, 3))
    steepness = torch.hypot(dy, dx).flatten(1)
    torch.testing.assert_close(steepness, steepness[:, :1].expand_as(steepness), rtol=0, atol=0.02)
    assert steepness.min() > 1 / 1.26
    assert steepness.max() < 1 / 0.49


def test_halved() -> None:
    bank = Bank(torch.full((2, 3, SIZE, SIZE), 7, dtype=torch.uint8), torch.zeros(2), torch.zeros(2))
    half = halved(bank)
    assert half.pictures.shape == (2, 3, SIZE // 2, SIZE // 2)
    assert (half.pictures == 7).all()


def test_grey_and_still_jitter() -> None:
    bank = Bank(torch.randint(256, (1, 3, SIZE, SIZE), dtype=torch.uint8), torch.tensor([0]), torch.tensor([0]))
    grey = Jitter(brightness=0, gain=0, offset=0, mixing=0, grey=1, noise=0)
    images, _, _ = crops(bank, 2, 16, grey, torch.Generator().manual_seed(0))
    torch.testing.assert_close(images[:, 0], images[:, 2])
    images, _, _ = crops(bank, 2, 16, STILL, torch.Generator().manual_seed(0))
    assert (images[:, 0] - images[:, 2]).abs().max() > 0.1


def test_painted_cells_are_the_pixels_in_them() -> None:
    """The truth of a position is its own cell: a picture that is black but for one cell has one position of it."""
    image = torch.zeros(1, 3, 32, 32)
    cell = PAINTING["conv4_2"]
    image[:, :, cell : 2 * cell, 2 * cell : 3 * cell] = 1
    heads = Heads(dict.fromkeys(("conv2_1", "conv3_1", "conv4_1", "conv4_2", "conv5_1"), 8), 3, 2)
    painted, truth = heads.paint("conv4_2", torch.zeros(1, 8, 4, 4), image)
    assert painted.shape == truth.shape == (1, 48, 4, 4)
    expected = torch.zeros(4, 4)
    expected[1, 2] = 1
    torch.testing.assert_close(truth, expected.expand_as(truth))


def test_energy_is_of_the_wave_that_is_there() -> None:
    """A grating of wavelength 4 or 8 px, in brightness or in red against green, answers at its own place."""
    axis = torch.arange(32.0)
    for scale, wavelength in ((0, 4.0), (1, 8.0)):
        for colour, gain in ((0, (1.0, 1.0, 1.0)), (1, (1.0, -1.0, 0.0))):
            wave = torch.cos(2 * torch.pi * axis / wavelength + 0.4).expand(32, 32)
            image = wave * torch.tensor(gain)[:, None, None]
            found = energies(image[None], 8)[0, :, 1:3, 1:3].mean(dim=(1, 2))
            assert found.shape == (CHANNELS,)
            place = int(found.argmax())
            assert place == (scale * 3 + colour) * ORIENTATIONS
    assert energies(torch.ones(1, 3, 32, 32), 16).max() < -3


def test_folding_keeps_the_features(trunk: Trunk) -> None:
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = trunk(images)[DEEPEST]
        found = export.convolved(export.folded(trunk.state_dict()), images)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_balancing_scales_the_features(trunk: Trunk) -> None:
    """Layer by layer a factor; the deepest layer, past the content layer's many factors, computes what it did."""
    images, recoloured = torch.randn(2, 2, 3, 32, 32)
    with torch.no_grad():
        plain = export.folded(trunk.state_dict())
        exact = export.balanced(plain, images, recoloured)
        both = torch.cat([images, recoloured])
        before, after = export.convolved(plain, both), export.convolved(exact, both)
    torch.testing.assert_close(after, before / before.mean(), rtol=1e-3, atol=1e-3)
    content = plain["conv4_2.weight"].flatten(1).norm(dim=1) / exact["conv4_2.weight"].flatten(1).norm(dim=1)
    assert content.max() / content.min() > 1.2


def test_constancy() -> None:
    """A channel that colour leaves alone, one that it changes a little, and one that sees nothing else."""
    before = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(0)).expand(3, 3, 16, 16)
    other = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    after = torch.cat([before[:, :1], before[:, :1] + 0.5 * other, other], dim=1)
    kept = export.constancy(before, after)
    assert kept[0] == 1
    assert 0.7 < kept[1] < 0.95
    assert kept[2] < 0.2
    assert kept.min() >= export.LEAST


def test_quantising_is_close(trunk: Trunk) -> None:
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        exact = export.folded(trunk.state_dict())
        stored = export.quantised(exact)
        found = export.convolved(export.restored(stored), images)
        lost = export.relative_error(export.convolved(exact, images), found)
    assert {stored[f"{layer.name}.weight"].dtype for layer in embedded_layers()} == {torch.int8}
    for key, tensor in export.restored(stored).items():
        step = stored[key.replace(".weight", ".scale")].max() if key.endswith(".weight") else 0
        assert (tensor - exact[key]).abs().max() <= 0.501 * step
    # A network that has learnt loses less: about 1.5 %.
    assert 0 < lost < 0.15


def test_family_scores() -> None:
    families = torch.tensor([0, 1, 0])
    scores = torch.tensor([[0.0, 1.0, 2.0]])
    chances = scores.softmax(1)[0]
    expected = torch.stack([chances[0] + chances[2], chances[1]]).log()[None]
    torch.testing.assert_close(train.family_scores(scores, families), expected)


def test_schedule() -> None:
    assert train.rate_part(0) < 0.1
    assert train.rate_part(0.03) == 1
    assert train.rate_part(1) == pytest.approx(0, abs=1e-9)
    assert train.jitter_at(0).gain > train.jitter_at(1).gain > 0


def test_training_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "PLAN", SMALL)
    monkeypatch.setattr(train, "SIDES", ((1.0, 16),))
    load_bank(SMALL, tmp_path, torch.device("cpu"))
    minutes, first = 0.001, 0
    for _ in range(2):
        small = ["--device", "cpu", "--threads", "1", "--batch", "4"]
        command = ["train", "--folder", str(tmp_path), "--minutes", str(minutes), *small]
        monkeypatch.setattr(sys, "argv", command)
        train.main()
        state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
        assert state["progress"]["steps"] > first
        # However long the first step took, the second schedule goes beyond it.
        minutes, first = state["progress"]["seconds"] / 60 + 0.005, state["progress"]["steps"]
    assert state["progress"]["crops"] == 4 * state["progress"]["steps"]
    assert sorted(path.name for path in tmp_path.iterdir() if path.suffix == ".part") == []

    (tmp_path / "log.csv").write_text("seconds,steps\n1,50\n2,100\n")
    monkeypatch.setattr(export, "PLAN", SMALL)
    monkeypatch.setattr(export, "CALIBRATION", (2, 32))
    plain = tmp_path / "plain.safetensors"
    monkeypatch.setattr(sys, "argv", ["export", "--plain", str(tmp_path / "checkpoint.pt"), str(plain)])
    export.main()
    read = load_weights(plain, taps=(DEEPEST,)).tensors
    assert read["conv5_1.weight"].shape == (512, 512, 3, 3)
    assert read["conv5_1.weight"].isfinite().all()

    monkeypatch.setattr(train, "RECIPE", 99)
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit, match="of another recipe"):
        train.main()


def test_log_has_a_header(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    for steps in (50, 100):
        train.write_log(log, train.Progress(1.0, steps, 9), 32, 0.1, [1.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
    rows = list(csv.DictReader(log.read_text().splitlines()))
    assert [row["steps"] for row in rows] == ["50", "100"]
    assert (rows[0]["family"], rows[0]["feel5"]) == ("0.3000", "0.9000")
    assert export.summary(log).count("\n") == 2


def test_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    log = tmp_path / "log.csv"
    for steps in (50, 100):
        train.write_log(log, train.Progress(1.0, steps, 9), 32, 0.1, [float("nan"), *[0.5] * 8])
    plot.draw(log, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_judging() -> None:
    tensors = load_weights("random", taps=judge.TAPS).tensors
    images = torch.rand(3, 3, 32, 32)
    described = judge.describe(tensors, images)
    assert described.shape == (3, 2 * (64 + 128 + 256 + 512 + 512))
    # Two groups of far apart features: each crop's nearest in the other half is its own.
    labels = torch.tensor([0, 1, 2, 3])
    assert judge.nearest(torch.tensor([[1.0, 0], [1, 0.1], [0, 1], [0.1, 1]]), labels) == 1
    features = F.one_hot(torch.arange(30) % 3).float()
    assert judge.probe(features, torch.arange(30) % 3, 20) == 1


def test_sheet_of_pairs(tmp_path: Path) -> None:
    output, figures = tmp_path / "sheet.png", tmp_path / "sheet.json"
    pairs = "--pairs drawn-561:style_mosaic style_woodcut:drawn-562"
    small = "--weights random embedded --size 32 --iterations 2 --line-search strong_wolfe --threads 1"
    sheets.main([str(output), *pairs.split(), *small.split(), "--json", str(figures)])
    report = json.loads(figures.read_text())
    assert [(one["pair"], one["weights"]) for one in report] == [
        (pair, weights) for pair in pairs.split()[1:] for weights in ("random", "embedded")
    ]
    assert all(one["rises"] >= 0 and one["total"] > 0 for one in report)
    with Image.open(output) as sheet:
        assert sheet.width > 4 * 32
        assert sheet.height > 2 * 32


def test_rises_are_within_a_scale() -> None:
    totals = [(8, 5.0), (8, 4.0), (8, 6.0), (16, 9.0), (16, 10.0), (16, 8.0)]
    losses = [LossRecord(0, scale, total, 0, 0, 0, 0) for scale, total in totals]
    assert sheets.rises(losses) == {"rises": 2, "largest_rise": 0.5}


def test_textures_are_judged_by_their_gram_matrices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = load_weights("random", taps=judge.TAPS).tensors
    image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert textures.distance(tensors, image, image) == 0
    assert textures.distance(tensors, image.roll(8, 2), image) < textures.distance(tensors, image / 2, image)

    monkeypatch.setattr(textures, "originals", lambda side: iter([("noise", image)]))
    arguments = "textures --judge random --weights random --side 32 --iterations 2 --json found.json --sheet sheet.png"
    monkeypatch.setattr(sys, "argv", arguments.split())
    monkeypatch.chdir(tmp_path)
    textures.main()
    assert "median" in capsys.readouterr().out
    assert (tmp_path / "found.json").exists()
    assert (tmp_path / "sheet.png").exists()

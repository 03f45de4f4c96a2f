"""Masks: regions with styles of their own, content that is transparent in places; against float64, in tiles, shared."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from network_samples import patches as picture
from network_samples import prepared, relative_error
from PIL import Image
from processes import run_together

from fastnst import CheckpointError, FastnstWarning, ImageError, OptionError, Stylizer, resume, stylize
from fastnst.app.batch.manifest import read_manifest
from fastnst.app.cli import main
from fastnst.app.cli.arguments import read_option
from fastnst.image.metadata import read_parameters
from fastnst.loss.masks import Guidance, load_regions
from fastnst.loss.objective import Objective
from fastnst.loss.targets import style_targets
from fastnst.options.masks import Mask, parse_masks
from fastnst.options.resolve import resolve_options
from fastnst.plan.fitting import FittingObjective
from fastnst.plan.planner import plan_run
from fastnst.plan.processes import joined

SMALL: dict[str, Any] = {
    "precision": "fp32",
    "weights": "random",
    "style_layers": {"conv1_1": 0.5, "conv2_1": 1.0},
    "content_layers": {"conv1_1": 0.5, "conv2_2": 0.5},
}
QUICK: dict[str, Any] = {**SMALL, "size": 32, "scales": None, "iterations": 3}


def shared() -> tuple[float, float]:
    """How far gradient and loss of two processes are from those of one."""
    with joined() as ranks:
        options, runtime, backbone = prepared(**SMALL, style_loss="covariance")
        content, image, style = (picture(seed, 75, 46) for seed in (1, 2, 3))
        left = torch.linspace(0, 1, 46).expand(1, 1, 75, 46).contiguous()
        guidance, regions = Guidance(75, 46, (left, 1 - left), opaque=left.sqrt()), [{0: left}, {0: None}]
        targets = style_targets(backbone, [(style, 1.0)], options, runtime, regions)
        alone = Objective(backbone, content, targets, options, runtime, guidance=guidance)
        whole, exact = alone.loss_and_gradient(image)
        plan = plan_run(replace(options, tile=16), runtime, (75, 46), processes=2)
        make = partial(Objective, backbone, content, targets, options, runtime, guidance=guidance)
        objective = FittingObjective(make, options, runtime, plan=plan, ranks=ranks)
        terms, gradient = objective.loss_and_gradient(image)
        return relative_error(gradient, exact), abs(float(terms.total / whole.total) - 1)


def test_processes_cut_their_part_of_a_mask(tmp_path: Path) -> None:
    assert max(max(errors) for errors in run_together(2, shared, tmp_path)) < 1e-5


@pytest.mark.parametrize(
    "form",
    [
        [("sky.png", "stars.png")],
        [["content=sky.png", "style=stars.png"]],
        ["content=sky.png style:1=stars.png"],
        [{"content": "sky.png", "style": "stars.png"}],
        [("sky.png", {1: "stars.png"})],
        (Mask("sky.png", ((1, "stars.png"),)),),
    ],
)
def test_a_region_can_be_written_in_several_ways(form: Any) -> None:
    (mask,) = parse_masks(form) or ()
    assert mask == Mask("sky.png", ((1, "stars.png"),))
    assert parse_masks([mask.mapped(str)]) == (mask,)
    assert parse_masks(["content=b.png style:2", ("c.png", None)]) == (Mask("b.png", ((2, None),)), Mask("c.png"))
    assert parse_masks([]) is None


def test_paths_of_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sep", "\\")
    masks = parse_masks([r"content=C:\a\b.png 'style=C:\c d.png'"])
    assert masks is not None
    assert str(masks[0].content) == r"C:\a\b.png"


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ("content=a.png", "masks 'content=a.png' are not a list of regions"),
        (3, "masks 3 are not a list of regions"),
        ([3], "mask 3 is not a region"),
        ([("a.png",)], "a region takes two masks, and 1 was given"),
        (["style=a.png"], "does not say where in the content it lies"),
        (["content= style=a.png"], "names no picture"),
        (["content=a.png style:0=b.png"], "'style:0' is not a part of a mask"),
        (["content=a.png styles=b.png"], "'styles' is not a part of a mask"),
        (["content=a.png content=b.png"], "content is given twice"),
        (["content=a.png style=b.png style:1=c.png"], "style 1 is given twice"),
        ([{"content": "a.png", "where": "b.png"}], "'where' is not a part of a mask"),
        (["content='a.png"], "cannot be read"),
    ],
)
def test_what_is_no_mask_is_refused(masks: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        resolve_options(masks=masks)


def grey(height: int, width: int, left: float = 1.0, right: float = 0.0) -> np.ndarray:
    mask = np.full((height, width), left, np.float32)
    mask[:, width // 2 :] = right
    return mask


CONTENT, STYLE = (picture(seed, 32, 24)[0].permute(1, 2, 0).numpy() for seed in (1, 3))
LEFT, RIGHT = grey(32, 24), grey(32, 24, 0, 1)


@pytest.mark.parametrize(
    ("masks", "error", "message"),
    [
        ([(grey(32, 24, 0), None)], ImageError, "is black everywhere"),
        ([(grey(24, 32), None)], ImageError, r"is 32×24 pixels, and the content image 24×32; give a mask of the same"),
        ([(LEFT, {2: grey(40, 20)})], ImageError, r"is 20×40 pixels, and style 'array' 24×32"),
        ([(LEFT, {3: LEFT})], OptionError, "a mask names style 3, and you gave 2 styles;"),
        ([("missing.png", None)], ImageError, "mask image 'missing.png'"),
        ([(LEFT, {2: None}), (RIGHT, {1: None})], OptionError, "all styles of a mask have the weight 0"),
    ],
)
def test_masks_that_do_not_fit_are_refused_at_once(masks: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Stylizer([STYLE, STYLE], **QUICK, masks=masks, style_weights=[0, 1])(CONTENT)


HALF = np.repeat([[True, False]], 12, 1).repeat(32, 0)  # (32, 24)
LABELS = np.where(HALF[..., None], [200, 30, 20], [20, 180, 40]).astype(np.uint8)
NUMBERS = HALF.astype(np.uint8) + 1
BRUSH = np.dstack([np.full((32, 24, 3), [200, 0, 0]), HALF * 255]).astype(np.uint8)


@pytest.mark.parametrize(
    "mask",
    [
        HALF,
        HALF[..., None],
        *(HALF.astype(dtype) for dtype in (np.uint8, np.int64, np.uint16, np.int32, np.float32, np.float16)),
        HALF.astype(np.int64) * 255,
        torch.from_numpy(HALF),
        torch.from_numpy(HALF)[None],
        torch.from_numpy(HALF).long(),
        torch.from_numpy(HALF).float(),
        Image.fromarray(HALF),
        Image.fromarray(HALF.astype(np.uint8)),
        Image.fromarray(HALF.astype(np.uint16) * 255),
        Image.fromarray(BRUSH),
    ],
)
def test_a_mask_is_what_it_means(mask: Any, tmp_path: Path) -> None:
    """Bools, 0 and 1 of any kind, and a brush of one colour on nothing are the mask of white on black."""
    (region,) = load_regions((Mask(mask),), [], ())
    assert np.array_equal(region.content.values[0, 0].numpy(), HALF.astype(np.float32))
    assert region.content.recorded["covers"] == 0.5
    if isinstance(mask, Image.Image):
        mask.save(tmp_path / "mask.png")
        (read,) = load_regions((Mask(tmp_path / "mask.png"),), [], ())
        assert torch.equal(read.content.values, region.content.values)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (LABELS, "is in colour; a mask is white inside.*a black and white picture for each region"),
        (Image.fromarray(LABELS).convert("P"), "is in colour"),
        (Image.fromarray(LABELS).convert("RGBA"), "is in colour"),
        (np.dstack([LABELS[::-1, ::-1], np.full((32, 24), 128, np.uint8)]), "is in colour"),
        (torch.from_numpy(LABELS.copy()).permute(2, 0, 1), "is in colour"),
        (NUMBERS, "nearly black: its brightest value is 2 of 255.*numbers its regions, give"),
        (NUMBERS.astype(np.int64), "nearly black"),
        (Image.fromarray(NUMBERS), "nearly black"),
        (np.full((32, 24), 300, np.int64), "has dtype int64"),
        (-NUMBERS.astype(np.int64), "has dtype int64"),
    ],
)
def test_what_only_looks_like_a_mask_is_refused(mask: Any, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        load_regions((Mask(mask),), [], ())


def test_a_weak_mask_says_so() -> None:
    with pytest.warns(FastnstWarning, match="is grey even where it is brightest \\(40% of white\\)"):
        load_regions((Mask(grey(32, 24, 0.4)),), [], ())


def test_each_region_takes_its_own_style() -> None:
    red, blue = (picture(seed, 24, 24)[0].permute(1, 2, 0).numpy() for seed in (5, 6))
    red, blue = red * [1, 0.1, 0.1], blue * [0.1, 0.1, 1]
    options: dict[str, Any] = {**QUICK, "content_weight": 0, "tv_weight": 0, "iterations": 25, "init": "noise"}
    masks = [(LEFT, {1: None}), (RIGHT, {2: grey(48, 48)})]
    image = stylize(CONTENT, [red, blue], **options, masks=masks).tensor
    left, right = image[:, :, :10].mean((1, 2)), image[:, :, 14:].mean((1, 2))
    assert float(left[0] - left[2]) > 0.1
    assert float(right[2] - right[0]) > 0.1


def test_what_is_transparent_has_no_part_in_it() -> None:
    """What lies hidden there changes nothing of what is seen, but next to it, and is not changed."""
    alpha = grey(32, 48)[..., None]
    wide = picture(1, 32, 48)[0].permute(1, 2, 0).numpy()
    hidden = np.where(alpha > 0, wide, 1 - wide)
    options: dict[str, Any] = {**QUICK, "size": 48, "iterations": 1, "tv_weight": 0, "optimizer": "adam"}
    found = [stylize(np.concatenate((rgb, alpha), 2), STYLE, **options) for rgb in (wide, hidden)]
    first, second = (result.tensor.permute(1, 2, 0).numpy() for result in found)
    # Adam's first step is as long as can be, up or down.
    moved = np.abs(first - wide)[:, :16] > 0.01
    assert moved.mean() > 0.9
    assert (np.abs(first - second)[:, :16] > 0.01).mean() < 0.05
    assert np.array_equal(first[:, 30:], wide[:, 30:])
    assert np.array_equal(second[:, 30:], hidden[:, 30:])
    with pytest.raises(ImageError, match="is transparent everywhere"):
        stylize(np.concatenate((wide, 0 * alpha), 2), STYLE, **options)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    arrays = {"content": CONTENT, "style": STYLE, "left": grey(64, 48), "right": grey(64, 48, 0, 1)}
    found = {}
    for name, values in arrays.items():
        Image.fromarray((values * 255).astype(np.uint8)).save(tmp_path / f"{name}.png")
        found[name] = str(tmp_path / f"{name}.png")
    return found


def test_the_command_and_its_rerun(files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, again = str(tmp_path / "out.png"), str(tmp_path / "again.png")
    arguments = ["--size", "32", "--scales", "none", "--iterations", "2", "--weights", "random", "--quiet"]
    arguments += ["--style-layers", "conv1_1", "--content-layers", "conv1_2", "--precision", "fp32"]
    masks = ["--mask", f"content={files['left']}", f"style={files['right']}", "--mask", f"content={files['right']}"]
    assert main(["stylize", files["content"], files["style"], "-o", out, *arguments, *masks]) == 0
    recorded = read_parameters(out)
    assert [list(region) for region in recorded["masks"]] == [["content", "style:1"], ["content"]]
    assert [[part["covers"] for part in region.values()] for region in recorded["masks"]] == [[0.5, 0.5], [0.5]]
    assert main(["info", out]) == 0
    assert f"{files['left']}, sha256 {recorded['masks'][0]['content']['sha256']}, covers 0.5" in capsys.readouterr().out
    assert recorded["options"]["masks"][0] == {"content": files["left"], "style:1": files["right"]}

    assert main(["rerun", out, "-o", again]) == 0
    assert "every pixel is the same" in capsys.readouterr().err
    Path(files["left"]).unlink()
    assert main(["rerun", out, "-o", again]) == 1
    assert "give the path with --mask" in capsys.readouterr().err
    moved = ["--mask", f"content={files['right']}", f"style={files['right']}", "--mask", f"content={files['right']}"]
    assert main(["rerun", out, "-o", again, *moved]) == 1
    assert "the masks are not those that the image was made with" in capsys.readouterr().err
    assert main(["stylize", files["content"], files["style"], "-o", files["right"], *arguments, *masks]) == 1
    assert "is also an input and would be overwritten" in capsys.readouterr().err


def test_a_checkpoint_knows_its_masks(files: dict[str, str], tmp_path: Path) -> None:
    checkpoint = tmp_path / "run.safetensors"
    run: dict[str, Any] = {**QUICK, "masks": [(files["left"], files["right"])]}
    expected = stylize(files["content"], files["style"], **run)
    stylize(files["content"], files["style"], **run, checkpoint=checkpoint, callback=lambda at: at.record.iteration < 1)
    with pytest.raises(CheckpointError, match="the masks are not those of the saved run"):
        resume(checkpoint, masks=[(files["right"], files["left"])])
    assert torch.equal(resume(checkpoint).tensor, expected.tensor)


def test_a_manifest_finds_masks_beside_it(tmp_path: Path) -> None:
    rows = "content,style,masks\nc.png,s.png,content=a.png style=b.png | content='d e.png'\n"
    (tmp_path / "rows.csv").write_text(rows)
    (row,) = read_manifest(tmp_path / "rows.csv")
    assert row.options["masks"] == [
        {"content": str(tmp_path / "a.png"), "style:1": str(tmp_path / "b.png")},
        {"content": str(tmp_path / "d e.png")},
    ]
    assert read_option("masks", "content=a.png") == ["content=a.png"]

"""Pictures that are written can be read back, pixels and parameters, and a failure leaves no trace."""

import math
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import fastnst
from fastnst.errors import ImageError, OptionError
from fastnst.image import write
from fastnst.image.decode import srgb_profile
from fastnst.image.metadata import read_parameters
from fastnst.image.read import load_image
from fastnst.image.write import check_output_path, save_image, to_pil

EVERY_FORMAT = ["png", "jpg", "webp", "tif", "avif"]
DEEP = [("png", 16), ("tif", 16)]
PARAMETERS: dict[str, Any] = {
    "content": "Tübingen/夜.jpg",
    "style": ["☃ “quoted” \\ \n\t\0", "🎨"],
    "size": 512,
    "weights": {"α": 1e-3, "β": 1.0},
    "preset": None,
    "keep": True,
    "undecodable": "b\udcff.jpg",
    "losses": [{"iteration": 1, "total": 0.1}],
}


def picture(height: int = 12, width: int = 9, channels: int = 3, depth: int = 8) -> torch.Tensor:
    """Random values that are whole steps of so many bits."""
    steps = torch.randint(0, 2**depth, (channels, height, width), generator=torch.Generator().manual_seed(0))
    return steps / (2**depth - 1)


def smooth(height: int = 64, width: int = 48) -> torch.Tensor:
    rows, columns = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)
    return torch.stack([rows.expand(height, width), columns.expand(height, width), (rows + columns) / 2])


def refused_path(path: object, said: str) -> None:
    for call in (
        lambda: check_output_path(path),  # type: ignore[arg-type]
        lambda: save_image(path, picture()),  # type: ignore[arg-type]
    ):
        with pytest.raises(ImageError, match=said) as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("extension", "depth"), [("png", 8), ("webp", 8), ("tif", 8), *DEEP])
@pytest.mark.parametrize("with_alpha", [False, True])
def test_lossless_round_trip(tmp_path: Path, extension: str, depth: int, with_alpha: bool) -> None:
    rgb, alpha = picture(depth=depth), picture(channels=1, depth=depth) if with_alpha else None
    path = tmp_path / f"a.{extension}"
    save_image(path, rgb, alpha, parameters={"é": 1}, bit_depth=depth)
    loaded = load_image(path)
    assert torch.equal(loaded.rgb, rgb)
    assert loaded.alpha is alpha is None or torch.equal(loaded.alpha, alpha)
    assert read_parameters(path) == {"é": 1}
    with Image.open(path) as image:
        assert image.info["icc_profile"] == srgb_profile()


@pytest.mark.parametrize("extension", ["png", "jpg", "jpeg", "webp", "tif", "tiff", "avif", "PNG", "JPG"])
def test_every_extension(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extension: str) -> None:
    monkeypatch.chdir(tmp_path)
    save_image(f"a.{extension}", smooth())
    assert (load_image(f"a.{extension}").rgb - smooth()).abs().max() < 4 / 255
    with Image.open(f"a.{extension}") as image:
        expected = {"jpg": "JPEG", "jpeg": "JPEG", "tif": "TIFF"}.get(extension.lower(), extension.upper())
        assert image.format == expected
        assert image.info["icc_profile"] == srgb_profile()


def test_jpeg_keeps_colour_edges_and_lays_alpha_over_white(tmp_path: Path) -> None:
    stripes = torch.zeros(3, 32, 32)
    stripes[0, :, ::2], stripes[2, :, 1::2] = 1, 1
    save_image(tmp_path / "a.jpg", stripes)
    assert (load_image(tmp_path / "a.jpg").rgb - stripes).abs().mean() < 0.03  # with 4:2:0 it is above 0.3
    alpha = torch.zeros(1, 32, 32)
    alpha[:, 16:] = 0.5
    save_image(tmp_path / "a.jpg", torch.zeros(3, 32, 32), alpha)
    rgb = load_image(tmp_path / "a.jpg").rgb
    assert rgb[:, :8].min() > 0.98
    assert (rgb[:, 24:] - 0.5).abs().max() < 0.02


@pytest.mark.parametrize("depth", [8, 16])
def test_rounding_and_clamping(tmp_path: Path, depth: int) -> None:
    peak = 2**depth - 1
    steps = torch.tensor([-1000, -0.1, 0.49, 0.51, 2.5, peak - 0.51, peak - 0.49, peak, 2 * peak])
    rgb = (steps / peak).expand(3, 2, -1)
    save_image(tmp_path / "a.png", rgb, bit_depth=depth)
    expected = [0, 0, 0, 1, 2, peak - 1, peak, peak, peak]
    assert (load_image(tmp_path / "a.png").rgb[0, 0] * peak).round().tolist() == expected
    if depth == 8:
        image = to_pil(rgb, torch.ones(1, 2, 9))
        assert image.mode == "RGBA"
        assert np.asarray(image)[0, :, 0].tolist() == expected
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        rgb = picture().to(dtype)
        whole = (rgb.float() * 255).round().byte().permute(1, 2, 0).numpy()
        for form in (rgb, rgb[None], rgb[None].contiguous(memory_format=torch.channels_last), rgb.requires_grad_()):
            assert np.array_equal(np.asarray(to_pil(form)), whole)


@pytest.mark.parametrize(
    ("rgb", "alpha", "said"),
    [
        (torch.zeros(1, 4, 4), None, r"picture is \(1, 4, 4\)"),
        (torch.zeros(2, 3, 4, 4), None, r"\(2, 3, 4, 4\)"),
        (torch.zeros(4), None, "picture is"),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), None, "uint8; it must be"),
        (torch.zeros(3, 0, 4), None, r"\(3, 0, 4\)"),
        (torch.zeros(3, 4, 4), torch.zeros(3, 4, 4), r"alpha is \(3, 4, 4\)"),
        (torch.zeros(3, 4, 4), torch.zeros(1, 4, 5), r"alpha is \(1, 4, 5\), but the picture is \(3, 4, 4\)"),
        (torch.full((3, 4, 4), math.nan), None, "NaN"),
        (torch.full((3, 4, 4), math.inf), None, "infinite"),
        (torch.zeros(3, 4, 4), torch.full((1, 4, 4), math.nan), "alpha has NaN"),
    ],
)
def test_unwritable_pictures(tmp_path: Path, rgb: torch.Tensor, alpha: torch.Tensor | None, said: str) -> None:
    with pytest.raises(ImageError, match=said):
        to_pil(rgb, alpha)
    with pytest.raises(ImageError, match=said):
        save_image(tmp_path / "a.png", rgb, alpha)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("extension", EVERY_FORMAT)
def test_parameters_round_trip(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"a.{extension}"
    beyond_json = {"path": Path("a/b.png"), "tuple": (1, 2), "loss": math.nan, "scale": np.float32(0.5), 7: -math.inf}
    save_image(path, picture(), parameters={**PARAMETERS, "count": np.int64(3), **beyond_json})  # type: ignore[dict-item]
    path = path.rename(tmp_path / "without_extension")
    as_read = {"path": str(Path("a/b.png")), "tuple": [1, 2], "loss": None, "scale": 0.5, "7": None}
    assert read_parameters(path) == {**PARAMETERS, "count": 3, **as_read}
    save_image(tmp_path / f"b.{extension}", picture())
    with pytest.raises(ImageError, match="has no fastnst parameters"):
        read_parameters(tmp_path / f"b.{extension}")


def long_run(records: int) -> dict[str, Any]:
    return {**PARAMETERS, "losses": [{"iteration": i, "total": i / 7, "seconds": i / 13} for i in range(records)]}


@pytest.mark.parametrize("extension", EVERY_FORMAT)
def test_long_runs_are_kept_where_they_fit(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"a.{extension}"
    for records in (100, 20_000):
        save_image(path, picture(), parameters=long_run(records))
        if extension == "jpg" and records > 100:
            kept = {key: value for key, value in PARAMETERS.items() if key != "losses"}
            assert read_parameters(path) == {**kept, "left_out": ["losses"]}
        else:
            assert read_parameters(path) == long_run(records)


def test_jpeg_leaves_out_what_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    save_image(path, picture(), parameters={f"{i}é" * 30: "x" * 1000 for i in range(150)})
    assert len(read_parameters(path)["left_out"]) == 50
    # To the last byte.
    for length in range(64_900, 65_100, 40):
        save_image(path, picture(), parameters={"text": "x" * length})
        assert set(read_parameters(path)) in ({"text"}, {"left_out"})


def foreign(path: Path, text: str) -> Path:
    """A picture with this text where fastnst's parameters would be."""
    chunks = PngInfo()
    chunks.add_itxt("XML:com.adobe.xmp", f"<x><fastnst:parameters>{text}</fastnst:parameters></x>")
    Image.new("RGB", (4, 4)).save(path, pnginfo=chunks)
    return path


@pytest.mark.parametrize(
    ("text", "said"),
    [
        *((text, "has no fastnst parameters") for text in ("a holiday", "[1]", "3", "[" * 100_000, "é", "&lt;")),
        *((f'{{"nest": {"[" * depth}0{"]" * depth}}}', "nest more than 100 deep") for depth in (100, 900)),
        ('{"nest": ' + '{"a":' * 100 + "0" + "}" * 101, "nest more than 100 deep"),
    ],
)
def test_someone_elses_parameters(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ImageError, match=said):
        read_parameters(foreign(tmp_path / "a.png", text))


def test_parameters_at_the_edge_of_json(tmp_path: Path) -> None:
    path = foreign(tmp_path / "a.png", '{"a": [NaN, -Infinity, 1e999], "b": 1.5}')
    assert read_parameters(path) == {"a": [None, None, None], "b": 1.5}
    nested = foreign(tmp_path / "a.png", f'{{"nest": {"[" * 99}0{"]" * 99}}}')
    assert read_parameters(nested).keys() == {"nest"}
    with pytest.raises(ImageError, match="does not exist"):
        read_parameters(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("text")
    with pytest.raises(ImageError, match="is not an image"):
        read_parameters(tmp_path / "text.png")


@pytest.mark.parametrize(("extension", "depth"), [*((name, 8) for name in [*EVERY_FORMAT, "npy"]), *DEEP])
def test_equal_pictures_are_equal_files(tmp_path: Path, extension: str, depth: int) -> None:
    for name in ("a", "b"):
        save_image(tmp_path / f"{name}.{extension}", picture(), parameters=PARAMETERS, bit_depth=depth)
    assert (tmp_path / f"a.{extension}").read_bytes() == (tmp_path / f"b.{extension}").read_bytes()


@pytest.mark.posix
def test_refused_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = r"use one of: \.png, \.jpg, \.jpeg, \.webp, \.tif, \.tiff, \.avif, \.npy"
    refused_path(tmp_path / "a.gif", rf"unknown extension '\.gif'; {known}")
    refused_path(tmp_path / "a", f"has no extension; {known}")
    refused_path(tmp_path / ".png", "has no extension")
    refused_path("", "has no extension")
    refused_path(tmp_path / "none" / "a.png", "the folder '.*none' does not exist; create it")
    (tmp_path / "file").touch()
    refused_path(tmp_path / "file" / "a.png", "'.*file' is a file, not a folder; choose another")
    (tmp_path / "folder.png").mkdir()
    refused_path(tmp_path / "folder.png", "is a directory; give a file name in it")
    refused_path(f"{tmp_path}/folder.png/", "names a folder")
    for denied, words in ((tmp_path, "folder '.*' is not writable"), (tmp_path / "file.png", "write-protected")):
        (tmp_path / "file.png").touch()
        with monkeypatch.context() as patch:
            # root may do what chmod forbids
            patch.setattr(os, "access", lambda asked, _, denied=denied: Path(asked) != denied)
            refused_path(tmp_path / "file.png", words)
        (tmp_path / "file.png").unlink()
    for end in ("/", "//", "/."):
        refused_path(f"{tmp_path}/a.png{end}", r"names a folder; give a file name, such as '.*/a\.png'")
    refused_path(str(tmp_path / "a\0.png"), "not a valid path")
    if sys.platform == "linux":
        with pytest.raises(ImageError, match=r"no file can be made in '/proc' \(.*\); choose another folder"):
            check_output_path("/proc/a.png")
    refused_path(tmp_path / ("x" * 300 + ".png"), "name too long")
    (tmp_path / "null.png").symlink_to(os.devnull)
    refused_path(tmp_path / "null.png", "not a regular file")
    assert {entry.name for entry in tmp_path.iterdir()} == {"file", "folder.png", "null.png"}


@pytest.mark.parametrize(
    ("name", "size", "said"),
    [
        ("a.webp", (10, 16_384), r"16384×10 pixels.*holds at most 16383 .*choose \.png or \.tif"),
        ("a.jpg", (70_000, 10), r"10×70000 pixels.*holds at most .*choose \.png or \.tif"),
        ("a.png", (10, 10**10), r"PNG holds at most 2147483647 a side; lower the size$"),
    ],
)
def test_sides_that_a_format_cannot_hold(tmp_path: Path, name: str, size: tuple[int, int], said: str) -> None:
    check_output_path(tmp_path / name, (16_383, 10))
    with pytest.raises(ImageError, match=said):
        check_output_path(tmp_path / name, size)
    with pytest.raises(ImageError, match="WEBP holds at most 16383"):
        save_image(tmp_path / "a.webp", torch.zeros(3, 1, 16_384))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("extension", EVERY_FORMAT)
@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (OSError(28, "No space left on device"), "(No space left on device); free some space or choose another folder"),
        (OSError(30, "Read-only file system"), "(Read-only file system); choose another folder"),
        (OSError("encoder error -2"), "(encoder error -2); free some space"),
        (RuntimeError("tiff codec initialization failed"), "(tiff codec initialization failed); free some space"),
        (RuntimeError(), "(RuntimeError); free some space"),
        (MemoryError(), "(out of memory); lower the size"),
        (PermissionError(13, "Permission denied"), "(Permission denied)"),
        (KeyboardInterrupt(), None),
    ],
    ids=repr,
)
def test_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extension: str, failure: BaseException, said: str | None
) -> None:
    path = tmp_path / f"a.{extension}"
    path.write_bytes(b"old")

    def fails_half_way(file: Any, *_: object, **__: object) -> None:
        file.write(b"half a picture")
        raise failure

    def fails(*_: object) -> None:
        raise failure

    place = (Path, "replace", fails) if isinstance(failure, PermissionError) else (write, "_encode", fails_half_way)
    monkeypatch.setattr(*place)
    with pytest.raises(ImageError if said else type(failure)) as caught:
        save_image(path, picture())
    if said:
        assert f"could not be written {said}" in str(caught.value)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.posix
@pytest.mark.parametrize("extension", EVERY_FORMAT)
def test_a_disk_that_fills_up_at_any_byte(tmp_path: Path, extension: str) -> None:
    import resource

    path = tmp_path / f"a.{extension}"
    save_image(path, picture(64, 64))
    whole = path.read_bytes()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for room in (0, 1, 100, len(whole) // 2, len(whole) - 100, len(whole) - 1):
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
            with pytest.raises(ImageError, match="could not be written"):
                save_image(path, picture(64, 64))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert path.read_bytes() == whole
        assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@pytest.mark.posix
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_permissions(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        new, old = tmp_path / "new.png", tmp_path / "old.png"
        old.touch()
        old.chmod(0o604)
        save_image(new, picture())
        save_image(old, picture())
    finally:
        os.umask(before)
    assert stat.S_IMODE(new.stat().st_mode) == 0o666 & ~umask
    assert stat.S_IMODE(old.stat().st_mode) == 0o604


@pytest.mark.posix
def test_symbolic_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    link, target = tmp_path / "link.png", tmp_path / "folder" / "target.png"
    link.symlink_to(target)
    for _ in range(2):  # first the link leads nowhere yet
        save_image(link, picture())
        assert link.is_symlink()
        assert torch.equal(load_image(target).rgb, picture())
    assert [entry.name for entry in (tmp_path / "folder").iterdir()] == ["target.png"]
    astray = tmp_path / "astray.png"
    astray.symlink_to(tmp_path / "none" / "target.png")
    refused_path(astray, "does not exist")
    here, there = tmp_path / "here.png", tmp_path / "there.png"
    here.symlink_to(there)
    there.symlink_to(here)
    refused_path(here, "is a symbolic link that leads to itself; choose another name")
    assert here.is_symlink()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_reads_and_says_why_it_cannot_write(tmp_path: Path) -> None:
    save_image(tmp_path / "a.png", picture())
    script = f"""
import os, torch
from fastnst.errors import ImageError, OptionError
from fastnst.image.read import load_image
from fastnst.image.write import save_image
torch.set_num_threads(1)
path = {str(tmp_path / "a.png")!r}
save_image(path, load_image(path).rgb)
child = os.fork()
if child == 0:
    rgb = load_image(path).rgb
    try:
        save_image(path, rgb)
    except ImageError as error:
        os._exit(3 if "start processes with spawn" in str(error) else 4)
    os._exit(5)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


@pytest.mark.parametrize("extension", ["jpg", "webp", "avif"])
def test_a_quality_makes_files_smaller(extension: str, tmp_path: Path) -> None:
    paths = [tmp_path / f"{quality}.{extension}" for quality in (20, 90)]
    for path, quality in zip(paths, (20, 90), strict=True):
        save_image(path, torch.rand(3, 40, 48), quality=quality)
    assert paths[0].stat().st_size < paths[1].stat().st_size
    for quality in (0, 101, True):
        with pytest.raises(OptionError, match="give a whole number from 1 to 100"):
            save_image(paths[0], torch.rand(3, 40, 48), quality=quality)
    with pytest.raises(OptionError, match="PNG keeps every pixel, so quality has no effect"):
        save_image(tmp_path / "a.png", torch.rand(3, 40, 48), quality=90)


def tagged(path: Path, *, artist: str = "Ada <Müller>", dpi: int | None = 300) -> Path:
    """A picture, in a file at `path`, whose EXIF names its maker and its resolution."""
    exif = Image.Exif()
    exif[315], exif[33432] = artist.encode(), "2026 Ada"
    resolution = {} if dpi is None else {"dpi": (dpi, dpi)}
    to_pil(picture(48, 64)).save(path, exif=exif, **resolution)
    return path


@pytest.mark.parametrize("extension", ["jpg", "png", "webp", "avif", "tif"])
def test_the_maker_and_the_resolution_of_the_content_stay(extension: str, tmp_path: Path) -> None:
    source, path = tagged(tmp_path / "content.jpg"), tmp_path / f"out.{extension}"
    tags = load_image(source).tags
    assert tags == {"artist": "Ada <Müller>", "copyright": "2026 Ada", "dpi": 300}
    result = fastnst.apply_network(fastnst.load_network(), source)
    result.save(path)
    assert "Ada &lt;Müller&gt;</rdf:li>".encode() in path.read_bytes() or extension == "png"
    assert load_image(path).tags == (tags if extension != "tif" else {"dpi": 300})
    if extension == "jpg":
        stylized = fastnst.stylize(source, torch.ones(3, 32, 32), size=32, scales=1, iterations=1)
        assert stylized.parameters["content"].items() >= tags.items()


def test_a_maker_whose_name_is_no_xml(tmp_path: Path) -> None:
    parameters = {"content": {"artist": "A\x01B\ud800 & C", "copyright": "\0"}}
    save_image(tmp_path / "out.jpg", picture(), parameters=parameters)
    with Image.open(tmp_path / "out.jpg") as image:
        packet = image.info["xmp"]
    assert ElementTree.fromstring(packet).findtext(".//{*}creator//{*}li") == "A B  & C"
    assert read_parameters(tmp_path / "out.jpg") == parameters


def test_a_stream_of_text_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "out.png").open("w") as file, pytest.raises(ImageError, match="give a path or a binary stream"):
        save_image(file, picture())  # type: ignore[arg-type]


@pytest.mark.parametrize("dpi", [None, float("nan"), -3, "300"])
@pytest.mark.parametrize("extension", ["jpg", "png", "webp", "avif", "tif"])
def test_an_unknown_resolution_is_72(extension: str, dpi: object, tmp_path: Path) -> None:
    path = tmp_path / f"out.{extension}"
    save_image(path, picture(), parameters={"content": {"name": "content.npy", "dpi": dpi}})
    assert load_image(path).tags == {"dpi": pytest.approx(72, abs=0.02)}  # PNG counts whole pixels a metre

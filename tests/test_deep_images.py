"""16 bits a channel and floats: read in full, written in full, by files that other programs wrote and by our own."""

import base64
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastnst.icc import is_matrix_profile, srgb_profile
from fastnst.row_writers import write_png, write_tiff
from icc_samples import ADOBE_RGB, adobe_rgb_profile, adobe_rgb_to_srgb, encoded_srgb, icc_profile, power_curve, xyz
from picture_samples import samples_of
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fastnst.errors import ImageError, OptionError
from fastnst.image.metadata import read_parameters
from fastnst.image.read import load_image
from fastnst.image.write import check_output_path, save_image

# Files of 5×4 pixels that OpenCV 5.0 (PNG) and tifffile 2026.3 (TIFF) wrote of the arrays of `written`.
FOREIGN = {
    "cv3.png": (
        "iBL{Q4GJ0x0000DNk~Le00005000045CQ-I0GYwQQ~&?~he<?1R0tgbd;o+00p+NxxU25zZ0<c;-e(at;HdON;gV|BER1kL7{rhP"
        "Nh%QS`obRI{ox4B;2deUV3pjS9JEmmMa`p?Zd(B-wF{SuwAqbU4uZ$HPQ-Kd21hy&JuhRbwQ;P+i2=Y6+)g|Q^{s63eE_<fLVt=|"
        ")!1*P<>2X0I=#J%u8=>=*m7X;00000NkvXXu0mjf"
    ),
    "plain-little3.tif": (
        "Nl7XI2mk;84FCWE1ONd5000F5000321ONd5000C4000630{{a600620000940{{U400031000I70{{U400062000pI1ONd5006)M"
        "000#M0{{U400093000&N1ONd5000C4000*O1ONd5004LZ000^R1pom6006K6000{S1pom6006iE000~T0{{U400031001Zf0{{U4"
        "0003100000000mG5C9MW0RR910RR910RR910RR91sO7k;?yD5e^_k2CB{kK~z^w*&KVa;Gb_7?Ud`But?GVEH3TMs@j{+t~g?1!j"
        "#3MP9GP99r&NYo8wI`Pgw2DFirDA&wkhmBofdR_@RW{@>f2jedZTAqsPTUAQy|q9{2)S5qzlvi+FhpeeLnwbOAv4b9"
    ),
    "plain-big3.tif": (
        "O-%qQ0000801W{E00aO40096100jX700aO40096100aR700RI300RI30IC5400RI3009620003700RI3009630003I00aO400961"
        "0Kfqi00RI3009640003N00aO40096100aRS00aO4009610C)i!00jU5009610I&fY00jU5009610Js4h00RI3009620003f00RI3"
        "00962000000000G01yBW00001000010000100001<*2K;tM1Mene_$CH6_l~t-yE&U_XQG1a_fUM|?>t5bgTHX9^9@0*^-~c7<Xj"
        "BgB$9vodIrHO?W8C$$TginIViVx<gwxR53o0fGO@HdQd>seh*d_iexs+)g|QwY^9{xd?AqioZi+L@@beC_^oOGa=>9"
    ),
    "lzw-big3.tif": (
        "O-%qQ0000801g2F00aO40096100jX700aO40096100aR700RI300RI30JZ@G00RI3009660003700RI3009630003I00aO400961"
        "0MG#y00RI3009640003N00aO40096100aRS00aO4009610Ez(`00jU5009610K5Sk00jU5009610K@?t00RI3009620003f00RI3"
        "009620003!00RI300963000000000G01yBW0000100001000010000100000fH_qPwZg63=r%itrIzuWA~bL*-h?L#MAX(6BMt-*"
        "!wn!w6$BlxrVw?&{BVKUt^nboZeL2b6T!8iL>xqBsM4n5*qv$%OQM#IglSwHfn%--%rl$R3`ZRV2cq*DrD||iF_A0)gK(TY1U*%z"
        "w~_P!xlNFd=%U+Eux?Vh91fCr<$AqEz(4"
    ),
    "deflate-little3.tif": (
        "Nl7XI2mk;84gdfF1ONd5000F5000321ONd5000C4000630{{a6006cC000940{{U4006Rp000I70{{U400062000pI1ONd5007Vc"
        "000#M0{{U400093000&N1ONd5000C4000*O1ONd5004sk000^R1pom6006uI000{S1pom6006`Q000~T0{{U400031001Zf0{{U4"
        "00031002D!0{{U40006200000000mG5C9MW0RR910RR910RR910RR9100000c$@)v0Ehpm<+!Wvt8C~!?%r7uXW%sSr{O|sku275"
        "j2J<X!zxMb5W@Q49pU`V2OQwHXq8`{+_W1GQO!h^qg!sZCzlJfijCL~SI2=)xO2k>^*TpA5MwX3sjP5`#t^_x+z33a_3~=~eVe&|"
        "LR*U1)TM6V<WK3nIg7nTaX+m"
    ),
    "cv4.png": (
        "iBL{Q4GJ0x0000DNk~Le00005000045C#AM02ZSu0{{R3uSrBfR0tgbqySt00ae+|HHLWDA1XCbYa3XMRTxEsCLrA!!lEk*u)@AC"
        "1yZ*EKS9)DRRM{L^@ofPjynT#^2JUhw?gTgbwKxuoU>%G(@cuLFF=3hFyMU5oo)e=Bp*v2zTUpMnm7b)L0ogb$21a+h^q@?uUF_B"
        "JNgV#7Hlh6nk97sUAV_IZS%DrWflG^GG<FKZJ<O`)}eroexghp^m^~@K82Z`_eaG)V|hxbZ&kdf00000NkvXXu0mjf"
    ),
    "plain-little4.tif": (
        "Nl7XI2mk;84gdfF1ONd5000F5000321ONd5000C4000630{{d7006cC000940{{U400031000I70{{U400062000pI1ONd5007Vc"
        "000#M0{{U4000C4000&N1ONd5000C4000*O1ONd5005u>000^R1pom6006!K000{S1pom60071S000~T0{{U400031001Zf0{{U4"
        "00031002?}0{{U40006200000000mG5C9MW5C8!H00031000310003100000*;O^nc!nR?4u7B>(4ll>Q<uh|t-&^aemQokYlAzj"
        "G>f&VKg5s^iiwBy4~#pG{ESTJGunMcmvxL>z0ok?N7>jfd|Pl3Em*i;NY~!2B$7)Xz8=2bzDrM6|BEp?g$ZGchZsENG;2xX!ZS$U"
        "O1*SWT#LN~xLq{I^KBlr&B9*AS)Wb-Z7;D2`gPoZ53S5qbZN<Nl<R5kyI=@3"
    ),
    "plain-big4.tif": (
        "O-%qQ0000801g2F00aO40096100jX700aO40096100aR700RI300aO40JZ@G00RI3009620003700RI3009630003I00aO400961"
        "0MG#y00RI3009650003N00aO40096100aRS00aO4009610H6UH00jU5009610KNem00jU5009610LB3v00RI3009620003f00RI3"
        "009620003}00RI300963000000000G01yBW01yBG00961009610096100961RoTonhIrT?e-0g>q0nS>ms6m|!L5EaIew~kgKMoj"
        "i!`aV#6J&^iHh}yj1P`GjQr<J+A~Fcb(dU>(Y@g?*+(zfTYM03SS??;*GR42k|ZBX9=_hbOTJf6i~l+?35APc7>DINYc%3XGs53U"
        "y-H4Wi(CY~UAV_IZS%Dr!p+5ApIHD-FKr32b^3tZtq)bqX>@PN>y++kV7oL3"
    ),
    "lzw-big4.tif": (
        "O-%qQ0000801p8G00aO40096100jX700aO40096100aR700RI300aO40Kx$S00RI3009660003700RI3009630003I00aO400961"
        "0N?=?00RI3009650003N00aO40096100aRS00aO4009610JZ@d00jU5009610LlRy00jU5009610MY>*00RI3009620003f00RI3"
        "009620003!00RI3009630003}00RI300963000000000G01yBW01yBG0096100961009610096100000fE8OT!KxVW*bj<Er4v|e"
        "u#75(2&geIeYzQ8D1~5^g9Usq0+d$I@%aI$Vk)9hPgFWE9*!M=&QBI8I7qi4IumD71KkvxS(w%hGGZluFCZVB!uJ8~n4LEygn{x{"
        "d3@eqE>lB*A+&;9Ij>mbK$0;Ks|A=<<!3-_cKQYsg2usFT{I;+msb`uYt3pNGKF8lp^2E5Fg7R%g*LK<0FFMWiGjD7>D=ufAyWz0"
        "xgCf<fPe"
    ),
    "deflate-little4.tif": (
        "Nl7XI2mk;84*&oG1ONd5000F5000321ONd5000C4000630{{d7006=O000940{{U4006Rp000I70{{U400062000pI1ONd5007_s"
        "000#M0{{U4000C4000&N1ONd5000C4000*O1ONd500651000^R1pom6007DW000{S1pom6007be000~T0{{U400031001Zf0{{U4"
        "00031002D!0{{U400062002?}0{{U40006200000000mG5C9MW5C8!H0003100031000310000000000c$@*C0AK&vRW;0bh9B59"
        "DQi(!8&!-&7$$?=AHo?cqOb|R!38h2Q9u9GKviOjiHG$Mj605U1I6(qPC~bv=s<Of_p_U@V@%V(i9j#re&8?6dv2X1l1m@H9=_h1"
        "xdb>tZF5`4y%IEtj0>x;Vdz#n8w~muQY&nlS9K-0T{Oq@Z6381Wh(w=F)&M@Y*R#`){cOpeH%=A^X=}1KAo6H_dmqwTS|x"
    ),
}


def written(channels: int) -> np.ndarray:
    """What the files in FOREIGN hold."""
    generator = np.random.default_rng(5)
    three = generator.integers(0, 65536, (4, 5, 3), dtype=np.uint16)
    return three if channels == 3 else generator.integers(0, 65536, (4, 5, 4), dtype=np.uint16)


def noise(height: int = 70, width: int = 9, channels: int = 3) -> np.ndarray:
    """Taller than a band of the writers."""
    return np.random.default_rng(1).integers(0, 65536, (height, width, channels), dtype=np.uint16)


def planes(samples: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(samples.astype(np.float32) / np.float32(65535)).permute(2, 0, 1)


def channels_of(source: Any) -> torch.Tensor:
    picture = load_image(source)
    return picture.rgb if picture.alpha is None else torch.cat([picture.rgb, picture.alpha])


def png(samples: np.ndarray, profile: bytes | None = None, text: PngInfo | None = None) -> io.BytesIO:
    file = io.BytesIO()
    write_png(file, samples_of(samples), text or PngInfo(), profile or srgb_profile())
    file.seek(0)
    return file


def tiff(samples: np.ndarray, tags: dict[int, Any] | None = None, profile: bytes | None = None) -> io.BytesIO:
    file = io.BytesIO()
    write_tiff(file, samples_of(samples), tags or {}, profile or srgb_profile())
    file.seek(0)
    return file


@pytest.mark.parametrize("name", FOREIGN)
def test_files_of_other_programs_are_read_in_full(name: str, tmp_path: Path) -> None:
    data = base64.b85decode(FOREIGN[name])
    path = tmp_path / name
    path.write_bytes(data)
    expected = planes(written(3 if "3" in name else 4))
    assert torch.equal(channels_of(path), expected)
    assert torch.equal(channels_of(io.BytesIO(data)), expected)
    with Image.open(path) as image:
        assert torch.equal(channels_of(image), expected)


def test_a_decoded_image_has_the_bits_that_pillow_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    save_image(path, planes(noise()), bit_depth=16)
    with Image.open(path) as image:
        image.load()
        assert torch.equal(channels_of(image) * 255, torch.from_numpy(noise() >> 8).permute(2, 0, 1).float())


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("extension", ["png", "tif", "tiff"])
def test_round_trip(channels: int, extension: str, tmp_path: Path) -> None:
    expected = planes(noise(channels=channels))
    path = tmp_path / f"a.{extension}"
    save_image(path, expected[:3], expected[3:] if channels == 4 else None, parameters={"é": 1}, bit_depth=16)
    assert torch.equal(channels_of(path), expected)
    assert read_parameters(path) == {"é": 1}
    with Image.open(path) as image:
        image.load()
        assert image.info["icc_profile"] == srgb_profile()
    save_image(path, expected[:3])
    assert (channels_of(path)[:3] - expected[:3]).abs().max() > 0.4 / 255


def test_equal_pictures_are_equal_files(tmp_path: Path) -> None:
    for extension in ("png", "tif", "npy"):
        for name in "ab":
            save_image(tmp_path / f"{name}.{extension}", planes(noise()), parameters={"x": 1}, bit_depth=16)
        assert (tmp_path / f"a.{extension}").read_bytes() == (tmp_path / f"b.{extension}").read_bytes()


def test_rounding_and_clamping(tmp_path: Path) -> None:
    steps = torch.tensor([-1.0, 0.49, 0.51, 65534.49, 65534.51, 65535, 70000, 2.5])
    save_image(tmp_path / "a.png", (steps / 65535).expand(3, 2, 8), bit_depth=16)
    found = load_image(tmp_path / "a.png").rgb[0, 0] * 65535
    assert found.round().tolist() == [0, 0, 1, 65534, 65535, 65535, 65535, 2]


def test_smooth_gradients_have_no_steps(tmp_path: Path) -> None:
    ramp = torch.linspace(0, 1, 4000).expand(3, 2, -1)
    save_image(tmp_path / "a.png", ramp, bit_depth=16)
    assert load_image(tmp_path / "a.png").rgb[0, 0].unique().numel() == 4000


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "tif"])
def test_orientation(orientation: int, kind: str, tmp_path: Path) -> None:
    samples = noise(6, 4)
    if kind == "png":
        exif = Image.Exif()
        exif[274] = orientation
        text = PngInfo()
        text.add(b"eXIf", exif.tobytes()[6:])
        file = png(samples, text=text)
    else:
        file = tiff(samples, {274: orientation})
    eight = Image.fromarray((samples >> 8).astype(np.uint8))
    eight.getexif()[274] = orientation
    expected = load_image(eight).rgb
    found = load_image(file).rgb
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 1.01 / 255
    assert torch.equal(found.flatten().sort().values, planes(samples).flatten().sort().values)


def test_grey_with_alpha_and_a_colour_key() -> None:
    samples = noise(6, 4, 4)
    data = png(samples).getvalue()
    grey_alpha = np.ascontiguousarray(samples[:, :, :2])
    # The same filtered bytes make a PNG of two channels when the header says so.
    wide = grey_alpha.reshape(6, 2, 4)
    grey = bytearray(png(wide).getvalue())
    assert data[:8] == grey[:8]
    found = load_image(io.BytesIO(with_header(bytes(grey), width=4, colour=4)))
    assert found.alpha is not None
    assert torch.equal(found.rgb, planes(grey_alpha)[:1].expand(3, -1, -1))
    assert torch.equal(found.alpha, planes(grey_alpha)[1:])

    key = samples[2, 1, :3]
    text = PngInfo()
    text.add(b"tRNS", key.astype(">u2").tobytes())
    close = samples[:, :, :3].copy()
    close[0, 0] = key ^ 1  # the same in 8 bits
    keyed = load_image(png(close, text=text))
    assert keyed.alpha is not None
    assert keyed.alpha[0, 2, 1] == 0
    assert keyed.alpha.sum() == 6 * 4 - 1


@pytest.mark.parametrize("channels", [3, 4])
def test_interlaced_files(channels: int) -> None:
    samples = noise(13, 11, channels)
    whole = png(samples).getvalue()
    rows = b""
    for top, left, down, across in ADAM7:
        part = samples[top::down, left::across].astype(">u2")
        rows += b"".join(b"\0" + row.tobytes() for row in part if row.size)
    data = struct.pack(">IIBBBBB", 11, 13, 16, 2 if channels == 3 else 6, 0, 0, 1)
    chunks = b"".join(
        chunk(kind, part) for kind, part in ((b"IHDR", data), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    )
    assert torch.equal(channels_of(io.BytesIO(whole[:8] + chunks)), planes(samples))


# First row and column, and steps, of PNG's seven passes.
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_header(data: bytes, *, width: int, colour: int) -> bytes:
    """A PNG whose header says another width and kind of colour."""
    height = struct.unpack(">I", data[20:24])[0]
    return data[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)) + data[33:]


def test_matrix_profiles_are_computed_in_full() -> None:
    samples = (noise(32, 32) // 4 + 96 * 257).astype(np.uint16)  # muted, so inside both gamuts
    for file in (png(samples, adobe_rgb_profile()), tiff(samples, profile=adobe_rgb_profile())):
        rgb = load_image(file).rgb.permute(1, 2, 0).numpy()
        assert np.abs(rgb - adobe_rgb_to_srgb(samples / 65535)).max() < 3e-4  # the primaries of either sRGB
    eight = Image.fromarray((samples // 257).astype(np.uint8))
    eight.info["icc_profile"] = adobe_rgb_profile()
    assert np.abs(load_image(eight).rgb.permute(1, 2, 0).numpy() - rgb).max() < 2.5 / 255


def parametric(kind: int, *values: float) -> bytes:
    return b"para\0\0\0\0" + struct.pack(">HH", kind, 0) + b"".join(struct.pack(">i", round(v * 65536)) for v in values)


CURVES = {
    "identity": b"curv\0\0\0\0\0\0\0\0",
    "gamma": power_curve(1.8),
    "table": b"curv\0\0\0\0\0\0\0\5" + np.array([0, 4000, 16000, 37000, 65535], ">u2").tobytes(),
    "para0": parametric(0, 2.2),
    "para1": parametric(1, 2.0, 0.9, 0.1),
    "para2": parametric(2, 2.0, 0.9, 0.1, 0.0),
    "para3": parametric(3, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045),
    "para4": parametric(4, 2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045, 0.0, 0.0),
}


@pytest.mark.parametrize("curve", CURVES)
def test_every_kind_of_curve_agrees_with_littlecms(curve: str) -> None:
    columns = dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), (xyz(*column) for column in ADOBE_RGB.T), strict=True))
    profile = icc_profile(b"RGB ", columns | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), CURVES[curve]))
    assert is_matrix_profile(profile)
    eight = np.random.default_rng(2).integers(110, 160, (40, 40, 3), dtype=np.uint8)  # inside both gamuts
    image = Image.fromarray(eight)
    image.info["icc_profile"] = profile
    difference = load_image(png(eight.astype(np.uint16) * 257, profile)).rgb - load_image(image).rgb
    assert difference.abs().max() < 1.5 / 255


def test_profiles_that_are_not_computed_here_come_through_littlecms_in_8_bits() -> None:
    columns = dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), (xyz(*column) for column in ADOBE_RGB.T), strict=True))
    curves = dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), power_curve(2.2))
    assert is_matrix_profile(icc_profile(b"RGB ", columns | curves))
    assert not is_matrix_profile(icc_profile(b"RGB ", columns | curves | {b"A2B0": b"mft2"}))
    assert not is_matrix_profile(icc_profile(b"RGB ", columns))
    assert not is_matrix_profile(icc_profile(b"GRAY", columns | curves))
    for length in range(0, 400, 7):
        assert is_matrix_profile(adobe_rgb_profile()[:length]) is False
    samples = noise(8, 8)
    picture = load_image(png(samples, b"no profile at all"))
    assert torch.equal(picture.rgb * 255, torch.from_numpy(samples >> 8).permute(2, 0, 1).float())


def test_a_linear_profile_is_brightened() -> None:
    linear = icc_profile(
        b"RGB ",
        dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), (xyz(*column) for column in ADOBE_RGB.T), strict=True))
        | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), CURVES["identity"]),
    )
    grey = np.repeat(np.linspace(0, 65535, 64).astype(np.uint16), 3).reshape(8, 8, 3)
    found = load_image(png(grey, linear)).rgb.permute(1, 2, 0).numpy()
    assert np.abs(found - encoded_srgb(grey / 65535)).max() < 2e-4


def test_separate_planes_of_16_bits_are_refused() -> None:
    data = bytearray(tiff(noise(4, 4)).getvalue())
    for tag, value in ((284, 2), (259, 1)):  # planar configuration, compression
        entry = data.index(tag.to_bytes(2, "little") + b"\3\0\1\0\0\0")
        data[entry + 8 : entry + 10] = value.to_bytes(2, "little")
    with pytest.raises(ImageError, match="16-bit samples in separate planes"):
        load_image(io.BytesIO(bytes(data)))


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_truncated_and_mutated(kind: str) -> None:
    whole = (png if kind == "png" else tiff)(noise(40, 40)).getvalue()
    generator = np.random.default_rng(3)
    for _ in range(150):
        data = bytearray(whole[: generator.integers(1, len(whole))] if generator.random() < 0.3 else whole)
        for place in generator.integers(0, min(len(data), 400 if generator.random() < 0.5 else len(data)), 3):
            data[place] = generator.integers(256)
        try:
            picture = load_image(io.BytesIO(bytes(data)), max_pixels=100_000)
        except ImageError as error:
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert 0 <= float(picture.rgb.min()) <= float(picture.rgb.max()) <= 1


@pytest.mark.parametrize("extension", ["jpg", "webp"])
def test_formats_without_16_bits(extension: str, tmp_path: Path) -> None:
    for call in (
        lambda: save_image(tmp_path / f"a.{extension}", planes(noise()), bit_depth=16),
        lambda: check_output_path(tmp_path / f"a.{extension}", bit_depth=16),
    ):
        with pytest.raises(OptionError, match="holds 8 bits per channel, not 16; choose png or tiff"):
            call()
    with pytest.raises(OptionError, match="bit depth 12 is none of 8 and 16"):
        save_image(tmp_path / "a.png", planes(noise()), bit_depth=12)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("with_alpha", [False, True])
def test_npy_holds_floats(with_alpha: bool, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    rgb, alpha = torch.rand(3, 70, 5, generator=generator), torch.rand(1, 70, 5, generator=generator)
    path = tmp_path / "a.npy"
    save_image(path, rgb, alpha if with_alpha else None, parameters={"α": [1.5, None]})
    array = np.load(path)
    assert array.dtype == np.float32
    assert np.array_equal(array[:, :, :3], rgb.permute(1, 2, 0).numpy())
    assert torch.equal(channels_of(path), torch.cat([rgb, alpha]) if with_alpha else rgb)
    assert read_parameters(path) == {"α": [1.5, None]}
    save_image(path, rgb)
    with pytest.raises(ImageError, match="has no fastnst parameters"):
        read_parameters(path)


def npy(array: np.ndarray) -> io.BytesIO:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    file.seek(0)
    return file


def test_npy_inputs() -> None:
    for array in (noise(), noise()[:, :, 0], np.asfortranarray(noise() / 65535), noise(channels=4).astype(">u2")):
        assert load_image(npy(array)).sha256 == load_image(array).sha256


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((3, 8, 8)), r"shape \(3, 8, 8\).*move the channels last"),
        (np.full((8, 8), None), "dtype object"),
        (np.zeros((8, 8), np.int64), "dtype int64"),
        (np.zeros((1, 8)), "8×1 pixels"),
        (np.full((8, 8), np.nan), "NaN"),
        (np.zeros((400, 400)), "more than the limit of 100000 pixels"),
    ],
)
def test_npy_refusals(array: np.ndarray, said: str) -> None:
    with pytest.raises(ImageError, match=said):
        load_image(npy(array), max_pixels=100_000)


def test_npy_damage() -> None:
    whole = npy(noise(8, 8) / 65535).getvalue()
    generator = np.random.default_rng(4)
    with pytest.raises(ImageError, match="damaged or truncated"):
        load_image(io.BytesIO(whole[:-1]))
    for _ in range(200):
        data = bytearray(whole)
        for place in generator.integers(0, 130, 2):
            data[place] = generator.integers(256)
        for read in (lambda file: load_image(file, max_pixels=10_000), read_parameters):
            try:
                read(io.BytesIO(bytes(data)))
            except ImageError as error:
                assert "\n" not in str(error)  # noqa: PT017

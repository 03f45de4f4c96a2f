"""Reading a picture into float32 sRGB, and resizing it.

Whatever the source (file, PIL image, array, tensor), what comes out is one thing: a `Picture`, upright, in sRGB, 0…1.
"""

import contextlib
import hashlib
import io
import os
import re
import stat
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import IO, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import ExifTags, Image, ImageCms, UnidentifiedImageError

from fastnst.errors import ImageError, OptionError

Source: TypeAlias = str | os.PathLike[str] | Image.Image | npt.NDArray[np.generic] | torch.Tensor

# At its peak, reading takes 16 to 24 bytes a pixel, with alpha 28 (measured on PNG and JPEG): at the limit 3 to 6 GB.
MAX_PIXELS = 200_000_000
MIN_SIDE = 2

# Pillow can also open formats that start another program (EPS) or that no photograph comes in; they stay closed.
_FORMATS = (
    *("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "DIB", "AVIF", "JPEG2000"),
    *("MPO", "PPM", "PSD", "QOI", "TGA", "PCX", "SGI"),
)
_RANGE_TOLERANCE = 1e-3
_BAND = 64  # rows
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Pillow's size limit and Python's warning filters belong to the whole process: one thread at a time may set them aside.
_PILLOW_LOCK = threading.Lock()


@dataclass(frozen=True, eq=False)
class Picture:
    """An upright picture in sRGB.

    rgb: (3, H, W) float32 in 0…1, contiguous, on the CPU; shares no memory with its source. Colours are not
    multiplied by alpha.
    alpha: (1, H, W) float32 in 0…1 (1 is opaque), or None where the source has none.
    name: the path, or the kind of object it came from; for messages and metadata.
    """

    rgb: torch.Tensor
    alpha: torch.Tensor | None
    name: str

    @property
    def height(self) -> int:
        return self.rgb.shape[1]

    @property
    def width(self) -> int:
        return self.rgb.shape[2]

    @cached_property
    def sha256(self) -> str:
        """Hex digest of the shape and the float32 samples: equal pixels have equal digests, from any kind of source."""
        digest = hashlib.sha256()
        for planes in (self.rgb, self.alpha):
            if planes is not None:
                digest.update(repr(tuple(planes.shape)).encode())
                digest.update(planes.contiguous().numpy().data)
        return digest.hexdigest()


def load_image(source: Source, *, role: str = "content", max_pixels: int = MAX_PIXELS) -> Picture:
    """Read `source` as a Picture.

    source: one of
      - a path to an image file; of several frames or pages the first;
      - a PIL image in any mode (its EXIF orientation and ICC profile apply as they do for a file);
      - an array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4): uint8, uint16, or float in 0…1;
      - a tensor (C, H, W) or (1, C, H, W) with C 1, 3 or 4, on any device: uint8, uint16, or float in 0…1.
    role: what the picture is for; it begins every message.
    max_pixels: the most pixels that are decoded from a file or PIL image, checked on the header before decoding.

    ICC profiles (RGB, grey, CMYK) are converted to sRGB, relative colorimetric with black point compensation; a broken
    profile is ignored. 16-bit and float grey keep their precision; 16-bit colour comes in 8 bits, as Pillow decodes it.
    Arrays and tensors are taken as sRGB; floats up to 1e-3 outside 0…1 are clamped.

    Safe to call from several threads; decoding itself is done by one at a time.

    Raises ImageError: missing, unreadable, not an image, damaged, too large for `max_pixels` or for the memory, smaller
    than 2×2, a wrong shape or dtype, a tensor or array without plain values (sparse, meta, masked …), values that are
    not finite or not in 0…1, a URL.
    """
    if isinstance(source, Image.Image):
        what = f"{role} image (PIL image)"
        _check_size(source.height, source.width, what)
        return _from_pil(source, what, "PIL image", max_pixels)
    if isinstance(source, torch.Tensor):
        what = f"{role} image (tensor)"
        return _from_tensor(source, what)
    if isinstance(source, np.ndarray):
        what = f"{role} image (array)"
        return _from_array(source, what)
    if isinstance(source, str | os.PathLike):
        name = os.fsdecode(source)
        with open_image(name, role=role) as image:
            return _from_pil(image, f"{role} image {name!r}", name, max_pixels)
    raise ImageError(
        f"{role} image is of type {type(source).__name__}; give a path, a PIL image, a NumPy array or a torch tensor"
    )


@contextlib.contextmanager
def open_image(path: str | os.PathLike[str], *, role: str) -> Iterator[Image.Image]:
    """The file's image with its header read and its pixels not yet decoded; closed on leaving.

    Raises ImageError if there is no readable image file at `path`.
    """
    name = os.fsdecode(path)
    what = f"{role} image {name!r}"
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", name) and not os.path.lexists(name):
        raise ImageError(f"{what} is a URL; fastnst does not download images: save it and give the file's path")
    with _open_file(name, what) as file:
        try:
            with _pillow_unguarded(None):
                Image.init()
                image: Image.Image = Image.open(file, formats=[known for known in _FORMATS if known in Image.OPEN])
        except UnidentifiedImageError as error:
            empty = os.fstat(file.fileno()).st_size == 0
            problem = "is an empty file" if empty else "is not an image of a known format, or its header is damaged"
            raise ImageError(f"{what} {problem}; give a PNG, JPEG, WebP, TIFF, GIF, BMP or AVIF file") from error
        except Exception as error:
            raise ImageError(_damaged(what, error)) from error
        with image:
            yield image


def exif_tag(image: Image.Image, tag: ExifTags.Base) -> object:
    """The value of one of the image's main EXIF or TIFF tags; None where it is absent or the metadata damaged."""
    with _pillow_unguarded(MAX_PIXELS):
        try:
            return image.getexif().get(tag)
        except (AttributeError, LookupError, OSError, OverflowError, SyntaxError, TypeError, ValueError):
            return None


def check_fits(
    height: int,
    width: int,
    minimum: int,
    *,
    role: str = "content",
    scale: int | None = None,
    layers: Sequence[str] = (),
) -> None:
    """Raise ImageError unless both sides, in pixels, are at least `minimum`.

    scale: the long edge, in pixels, at which the image has this size; None where it has it from the start.
    layers: those that need this minimum.
    """
    if min(height, width) < minimum:
        at_scale = f" at scale {scale}" if scale is not None else ""
        needed_by = f" for the layer{'s' if len(layers) > 1 else ''} {', '.join(layers)}" if layers else ""
        raise ImageError(
            f"{role} image would be {width}×{height} pixels{at_scale}, but each side must be at least "
            f"{minimum}{needed_by}; use a larger size, a less narrow picture or shallower layers"
        )


def fitted_size(height: int, width: int, long_edge: int) -> tuple[int, int]:
    """(height, width) scaled, up or down, so that the longer side is `long_edge`; rounded half up, each at least 1.

    Raises OptionError if `long_edge` is less than 1.
    """
    if long_edge < 1:
        raise OptionError(f"size {long_edge} is not possible; the long edge must be at least 1 pixel")
    longest = max(height, width)
    # In integers: half a pixel is decided by the sizes alone, not by floating-point rounding.
    fitted_height, fitted_width = ((2 * side * long_edge + longest) // (2 * longest) for side in (height, width))
    return max(1, fitted_height), max(1, fitted_width)


def resize(planes: torch.Tensor, long_edge: int | None = None, size: tuple[int, int] | None = None) -> torch.Tensor:
    """Resample to `size` (height, width), or to a long edge in pixels with the aspect kept.

    planes: (C, H, W) or (B, C, H, W), float in 0…1, any device. The kernel is bicubic (a = −0.5), widened by the
    scale when shrinking, so that fine texture does not alias; it works on the sRGB values as they are, and its
    overshoot is clamped to 0…1. At the size it has already, `planes` itself is returned.

    Raises OptionError unless exactly one of `long_edge` and `size` is given, with sides of at least 1.
    """
    height, width = planes.shape[-2:]
    if (long_edge is None) == (size is None):
        raise OptionError("resize needs either a long edge or a size (height, width)")
    target = fitted_size(height, width, long_edge) if long_edge is not None else size
    if target is None or min(target) < 1:
        raise OptionError(f"size {target} is not possible; both sides must be at least 1 pixel")
    if tuple(target) == (height, width):
        return planes
    batch = planes if planes.ndim == 4 else planes[None]
    resized = torch.nn.functional.interpolate(batch, size=target, mode="bicubic", antialias=True).clamp(0, 1)
    return resized if planes.ndim == 4 else resized[0]


def resize_picture(picture: Picture, long_edge: int | None = None, size: tuple[int, int] | None = None) -> Picture:
    """`resize` for colour and alpha together.

    Colours are weighted by alpha while they are resampled, so that the invisible colour under transparent pixels does
    not bleed into the visible edge. Where the result is fully transparent it keeps the plain resampled colour.
    """
    if picture.alpha is None:
        return Picture(resize(picture.rgb, long_edge, size), None, picture.name)
    alpha = resize(picture.alpha, long_edge, size)
    plain = resize(picture.rgb, long_edge, size)
    if alpha is picture.alpha or bool(picture.alpha.min() == 1):
        return Picture(plain, alpha, picture.name)
    weighted = resize(picture.rgb * picture.alpha, long_edge, size)
    visible = alpha > 1 / 512  # half an 8-bit step: below it the pixel is written as transparent
    rgb = torch.where(visible, weighted / alpha.clamp(min=1 / 512), plain).clamp_(0, 1)
    return Picture(rgb, alpha, picture.name)


def flattened(picture: Picture) -> Picture:
    """The picture made opaque: what shows through is the mean of its colours, weighted by alpha.

    `rgb · alpha + mean · (1 − alpha)` with `mean = Σ rgb · alpha / Σ alpha` per channel. The hidden colour under
    transparent pixels has no part in it, and unlike white or black the mean adds no colour that the picture lacks.
    Opaque pixels keep their exact colour; a picture without alpha is returned itself.

    Raises ImageError if the picture is transparent everywhere.
    """
    if picture.alpha is None:
        return picture
    shown = float(picture.alpha.sum(dtype=torch.float64))
    if shown == 0:
        raise ImageError(f"image {picture.name!r} is transparent everywhere and shows no colour; give another one")
    mean = (picture.rgb * picture.alpha).sum(dim=(1, 2), keepdim=True, dtype=torch.float64) / shown
    return Picture(torch.lerp(mean.float(), picture.rgb, picture.alpha), None, picture.name)


@cache
def srgb_profile() -> bytes:
    """An ICC profile of sRGB, the same bytes on every call and day."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    # The header's creation time would make equal pictures differ as files.
    profile[24:36] = b"".join(part.to_bytes(2, "big") for part in (2000, 1, 1, 0, 0, 0))
    return bytes(profile)


@contextlib.contextmanager
def _pillow_unguarded(max_pixels: int | None) -> Iterator[None]:
    """Pillow with our size limit for its own, and without its warnings about damaged metadata."""
    with _PILLOW_LOCK, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        limit = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = max_pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _open_file(name: str, what: str) -> IO[bytes]:
    try:
        mode = os.stat(name).st_mode  # noqa: PTH116 - Path("") would be the current directory
        if stat.S_ISDIR(mode):
            raise ImageError(f"{what} is a directory; give an image file")
        if not stat.S_ISREG(mode):
            raise ImageError(f"{what} is not a regular file; give an image file")
        return Path(name).open("rb")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ImageError(f"{what} does not exist; check the path") from error
    except PermissionError as error:
        raise ImageError(f"{what} may not be read by this user; check its permissions") from error
    except OSError as error:
        raise ImageError(f"{what} could not be opened ({error.strerror}); check the path") from error
    except ImageError:
        raise
    except ValueError as error:
        raise ImageError(f"{what} is not a valid path ({error}); check the path") from error


def _damaged(what: str, error: Exception) -> str:
    if isinstance(error, MemoryError):
        return f"{what} does not fit in memory; reduce it first"
    lines = str(error).splitlines()
    return f"{what} is damaged or truncated ({lines[0] if lines else type(error).__name__}); fetch or export it again"


def _check_size(height: int, width: int, what: str) -> None:
    if min(height, width) < MIN_SIDE:
        raise ImageError(f"{what} is {width}×{height} pixels; it must be at least {MIN_SIDE}×{MIN_SIDE}")


def _check_pixels(image: Image.Image, what: str, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(
            f"{what} is {width}×{height} = {width * height} pixels, more than the limit of {max_pixels} pixels; "
            "reduce it first"
        )


def _from_pil(image: Image.Image, what: str, name: str, max_pixels: int) -> Picture:
    _check_pixels(image, what, max_pixels)
    with _within_memory(what, image.height, image.width):
        return _decoded(image, what, name, max_pixels)


@contextlib.contextmanager
def _within_memory(what: str, height: int, width: int) -> Iterator[None]:
    """Raise ImageError where the block runs out of memory."""
    try:
        yield
    except (MemoryError, OSError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        raise ImageError(f"{what} does not fit in memory ({width}×{height} pixels); reduce it first") from error


def _is_out_of_memory(error: Exception) -> bool:
    said = str(error).lower()
    # NumPy and Pillow raise MemoryError, torch RuntimeError, Pillow's codecs OSError.
    return isinstance(error, MemoryError) or "can't allocate memory" in said or "out of memory" in said


def _decoded(image: Image.Image, what: str, name: str, max_pixels: int) -> Picture:
    try:
        with _pillow_unguarded(max_pixels):
            image.load()
    except Exception as error:
        if _is_out_of_memory(error):
            raise
        raise ImageError(_damaged(what, error)) from error
    # A GIF may grow past its header's size as its first frame is read.
    _check_pixels(image, what, max_pixels)
    orientation = exif_tag(image, ExifTags.Base.Orientation)
    if isinstance(orientation, int) and orientation in _TRANSPOSITIONS:
        image = image.transpose(_TRANSPOSITIONS[orientation])
    try:
        planes, alpha = _grey_planes(image) if _is_deep(image) else _colour_planes(image)
    except Exception as error:
        if _is_out_of_memory(error):
            raise
        lines = str(error).splitlines()
        reason = lines[0] if lines else type(error).__name__
        raise ImageError(f"{what} cannot be converted from mode {image.mode} to RGB: {reason}") from error
    return Picture(_from_planes(planes, what, name).rgb, alpha, name)


def _is_deep(image: Image.Image) -> bool:
    return image.mode in ("I", "F") or image.mode.startswith("I;16")


def _grey_planes(image: Image.Image) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(1 or 3, H, W) and alpha of an image with more than 8 bits of grey."""
    samples = np.asarray(image)[:, :, None]
    if image.mode == "I" and (samples.min() < 0 or samples.max() > 65535):
        raise ValueError("its integers go beyond 0…65535; save it with 16 bits")
    planes = _planes(samples, 1.0 if image.mode == "F" else _grey_peak(image))
    key = image.info.get("transparency")
    alpha = _planes(samples != key, 1.0) if isinstance(key, int) else None
    curve = _grey_curve(image.info.get("icc_profile"))
    return (planes if curve is None else _through_curve(planes, curve)), alpha


def _grey_peak(image: Image.Image) -> float:
    # Pillow leaves 12-bit TIFF samples unscaled; every other source comes scaled to 16 bits.
    is_12_bit = getattr(image, "tag_v2", {}).get(ExifTags.Base.BitsPerSample) == (12,)
    return 4095.0 if is_12_bit else 65535.0


def _colour_planes(image: Image.Image) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(3, H, W) in sRGB and alpha of an image with 8 bits per channel."""
    profile = image.info.get("icc_profile")
    alpha = None
    if image.mode not in ("CMYK", "LAB", "YCbCr", "HSV") and image.has_transparency_data:
        image = image.convert("LA" if image.mode in ("1", "L", "LA", "La") else "RGBA")
        alpha = _planes(np.asarray(image.getchannel("A"))[:, :, None], 255.0)
    if image.mode in ("1", "LA"):
        image = image.convert("L")
    elif image.mode not in ("L", "RGB", "CMYK", "LAB"):
        image = image.convert("RGB")
    return _planes(np.asarray(_to_srgb(image, profile)), 255.0), alpha


def _to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """An L, RGB, CMYK or LAB image as RGB in sRGB; a profile that is broken or of another kind of colour is ignored."""
    if image.mode == "LAB":
        return _transformed(image, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")))
    if profile and profile != srgb_profile():
        with contextlib.suppress(ImageCms.PyCMSError, OSError, ValueError, TypeError):
            opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            space = opened.profile.xcolor_space.strip()
            if space == "RGB" and image.mode in ("RGB", "L"):
                return _transformed(image.convert("RGB"), opened)
            if (space, image.mode) in (("GRAY", "L"), ("CMYK", "CMYK")):
                return _transformed(image, opened)
    return image.convert("RGB")


def _transformed(image: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    transform = ImageCms.buildTransform(
        profile,
        ImageCms.ImageCmsProfile(io.BytesIO(srgb_profile())),
        image.mode,
        "RGB",
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    return transform.apply(image)


def _grey_curve(profile: bytes | None) -> torch.Tensor | None:
    """(3, 256): sRGB of 256 even steps of grey under an ICC profile; None where the profile changes nothing."""
    ramp = Image.frombytes("L", (256, 1), bytes(range(256)))
    curve = np.asarray(_to_srgb(ramp, profile))
    if np.array_equal(curve, np.asarray(ramp.convert("RGB"))):
        return None
    return _planes(curve, 255.0)[:, 0]


def _through_curve(grey: torch.Tensor, curve: torch.Tensor) -> torch.Tensor:
    """(1, H, W) in 0…1 to (3, H, W) by linear interpolation in `curve`, (3, N)."""
    steps = curve.shape[1] - 1
    colours = torch.empty(3, *grey.shape[1:])
    for top in range(0, grey.shape[1], _BAND):  # the temporaries are larger than the result
        rows = slice(top, top + _BAND)
        position = grey[0, rows].clamp(0, 1) * steps
        below = position.floor().clamp_(max=steps - 1)
        weight = position - below
        index = below.to(torch.int32)
        for target, channel in zip(colours, curve, strict=True):
            target[rows] = torch.lerp(channel[index], channel[index + 1], weight)
    return colours


def _planes(samples: npt.NDArray[np.generic], peak: float) -> torch.Tensor:
    """(H, W, C) samples to (C, H, W) float32, divided by `peak`; one pass, whatever the dtype and the strides."""
    height, width, channels = samples.shape
    planes = np.empty((channels, height, width), np.float32)
    with np.errstate(all="ignore"):  # what overflows becomes infinite, and is found by the check of the range
        for channel in range(channels):
            np.divide(samples[:, :, channel], np.float32(peak), out=planes[channel], dtype=np.float32)
    return torch.from_numpy(planes)


def _from_array(source: npt.NDArray[np.generic], what: str) -> Picture:
    if np.ma.isMaskedArray(source):
        raise ImageError(f"{what} is a masked array, which has no values where it is masked; give its filled()")
    array = np.asarray(source)
    samples = array[:, :, None] if array.ndim == 2 else array
    if samples.ndim != 3 or samples.shape[2] not in (1, 3, 4):
        hint = "; move the channels last with transpose(1, 2, 0)" if array.ndim == 3 and len(array) in (1, 3, 4) else ""
        raise ImageError(f"{what} has shape {array.shape}; give (H, W), (H, W, 3) or (H, W, 4){hint}")
    peak = {"u1": 255.0, "u2": 65535.0}.get(array.dtype.str[1:])  # in either byte order
    if peak is None and array.dtype.kind != "f":
        raise ImageError(f"{what} has dtype {array.dtype}; give uint8, uint16, or float in 0…1")
    height, width = samples.shape[:2]
    _check_size(height, width, what)
    with _within_memory(what, height, width):
        return _from_planes(_planes(samples, peak or 1.0), what, "array")


def _from_tensor(tensor: torch.Tensor, what: str) -> Picture:
    if tensor.layout != torch.strided or tensor.is_nested or tensor.is_quantized or tensor.is_meta:
        kind = "nested" if tensor.is_nested else f"{tensor.layout}, {tensor.dtype}"
        raise ImageError(f"{what} is {kind} on {tensor.device}; give a dense tensor that holds its values")
    samples = tensor.detach()
    if samples.ndim == 4 and samples.shape[0] == 1:
        samples = samples[0]
    if samples.ndim != 3 or samples.shape[0] not in (1, 3, 4):
        last = samples.ndim == 3 and samples.shape[2] in (1, 3, 4)
        hint = "; move the channels first with permute(2, 0, 1)" if last else ""
        raise ImageError(
            f"{what} has shape {tuple(tensor.shape)}; give (C, H, W) or (1, C, H, W) with 1, 3 or 4 channels{hint}"
        )
    if not samples.is_floating_point() and samples.dtype not in (torch.uint8, torch.uint16):
        raise ImageError(f"{what} has dtype {tensor.dtype}; give uint8, uint16, or float in 0…1")
    _, height, width = samples.shape
    _check_size(height, width, what)
    peak = {torch.uint8: 255, torch.uint16: 65535}.get(samples.dtype, 1)
    with _within_memory(what, height, width):
        try:
            planes = torch.empty(samples.shape, dtype=torch.float32).copy_(samples).div_(peak)
        except (RuntimeError, TypeError) as error:  # packed dtypes, fake tensors and others that are no plain values
            if _is_out_of_memory(error):
                raise
            raise ImageError(f"{what}, {tensor.dtype}, has no values that can be read; give float32 in 0…1") from error
        return _from_planes(planes, what, "tensor")


def _from_planes(planes: torch.Tensor, what: str, name: str) -> Picture:
    """A Picture of (C, H, W): grey (1), RGB (3) or RGB with alpha (4). Takes `planes` over."""
    channels, height, width = planes.shape
    _check_size(height, width, what)
    low, high = (float(bound) for bound in torch.aminmax(planes))
    if not (low >= -_RANGE_TOLERANCE and high <= 1 + _RANGE_TOLERANCE):
        raise ImageError(f"{what} {_range_problem(low, high)}")
    if low < 0 or high > 1:
        planes.clamp_(0, 1)
    return Picture(planes[:3].expand(3, -1, -1).contiguous(), planes[3:] if channels == 4 else None, name)


def _range_problem(low: float, high: float) -> str:
    if not np.isfinite((low, high)).all():
        return "has NaN or infinite values; every value must be in 0…1"
    hint = "divide them by 255" if 1 < high <= 255 and low >= 0 else "scale or clip them"
    return f"has values from {low:.6g} to {high:.6g}; they must be in 0…1: {hint}"

"""Nodes for ComfyUI, which loads this folder, or one in its custom_nodes whose `__init__.py` imports `*` from here.

Pictures are ComfyUI's: IMAGE is (B, H, W, C) float32 in 0…1, MASK is (B, H, W). What a node does not ask for, its
`options` take by the names that a `--config` file has. Nothing here imports ComfyUI before a node runs.
"""

import importlib
import os
import time
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from fastnst.errors import OptionError
from fastnst.feedforward.applying import Applier
from fastnst.feedforward.file import SHIPPED
from fastnst.image.colour import MODES
from fastnst.image.picture import Picture
from fastnst.image.read import load_image
from fastnst.image.write import to_pil
from fastnst.loss.networks import Networks
from fastnst.options.options import START_WORDS
from fastnst.options.parse import parse_size
from fastnst.options.presets import PRESETS
from fastnst.options.resolve import unsized_options
from fastnst.transfer.inputs import parse_canvas
from fastnst.transfer.result import Iterate, Result
from fastnst.transfer.stylizer import Stylizer
from fastnst.transfer.variants import texture_options

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]

_PREVIEW_SECONDS, _PREVIEW_EDGE = 1.0, 512
_AS_PRESET = "0 takes the preset's value"
_SIZE = "give the long edge in pixels, content, 50%, or a box to fit into, such as 1920x1080"
_SHIPPED = "styles that come with fastnst"
_BLEND = "give a weight for each style, such as 0.3, 0.7, or for some by name, such as swirls=0.3, mosaic=0.7"
_MORE = "write any other options here, one per line, such as tv_weight = 0.1"
_OPTIONS = ("STRING", {"default": "", "multiline": True, "tooltip": _MORE})
_SEED = ("INT", {"default": 0, "min": 0, "max": 2**63 - 1, "control_after_generate": True})
_ITERATIONS = ("INT", {"default": 0, "min": 0, "max": 100_000, "tooltip": _AS_PRESET})
_WEIGHT = ("FLOAT", {"default": 0.0, "min": 0.0, "max": 1e9, "step": 0.1, "tooltip": _AS_PRESET})


def _comfy(module: str) -> Any:
    """A module of ComfyUI; None where it is not there, as in a test or a script."""
    try:
        return importlib.import_module(module)
    except ImportError:
        return None


def _device() -> str:
    """The device that ComfyUI computes on, where fastnst knows it."""
    management = _comfy("comfy.model_management")
    name = str(management.get_torch_device()) if hasattr(management, "get_torch_device") else "auto"
    return name if name.partition(":")[0] in ("cpu", "cuda", "mps", "xpu") else "auto"


def _pictures(*batches: Tensor | None, role: str = "content") -> list[Picture]:
    """The pictures of IMAGEs, in normal tensors of their own: ComfyUI's are made in inference mode."""
    with torch.inference_mode(False):
        planes = [batch.detach().movedim(-1, 1).to("cpu", torch.float32) for batch in batches if batch is not None]
        return [load_image(picture.clone().clamp_(0, 1), role=role) for batch in planes for picture in batch]


def _mask(mask: Tensor) -> Tensor:
    if mask.numel() != mask.shape[-2] * mask.shape[-1]:
        raise OptionError(f"the mask has {len(mask)} pictures; give a mask of one picture")
    with torch.inference_mode(False):
        return mask.detach().reshape(mask.shape[-2:]).to("cpu", torch.float32).clone().clamp_(0, 1)


def _image(results: Sequence[Any]) -> tuple[Tensor]:
    """The IMAGE of results; with the contents' alpha as a fourth channel where they have it."""
    with torch.inference_mode(False):
        planes = [_planes(made.tensor, made.alpha) for made in results]
        return (torch.stack(planes).movedim(1, -1).contiguous(),)


def _planes(rgb: Tensor, alpha: Tensor | None) -> Tensor:
    return rgb if alpha is None else torch.cat([rgb, alpha])


def _read(options: str) -> dict[str, Any]:
    """The options of a node's text. Raises OptionError for what is no TOML."""
    try:
        return tomllib.loads(options)
    except (ValueError, RecursionError) as error:
        raise OptionError(f"the options are not TOML: {error}; write one per line, such as tv_weight = 0.1") from None


class _Watch:
    """Shows ComfyUI the progress of a node over `count` pictures, with the newest image, and ends it when told to."""

    def __init__(self, count: int) -> None:
        utils, self._management = _comfy("comfy.utils"), _comfy("comfy.model_management")
        self._bar = utils and utils.ProgressBar(count)
        self._count, self._index, self._next = count, 0, 0.0

    def check(self) -> None:
        """Raises ComfyUI's own exception where the run is to be ended."""
        if self._management is not None:
            self._management.throw_exception_if_processing_interrupted()

    def __call__(self, iterate: Iterate) -> None:
        self.check()
        if self._bar is None:
            return
        preview: tuple[Any, ...] = ()
        total = max(1, iterate.iterations)
        if time.monotonic() >= self._next:
            preview = (("JPEG", to_pil(iterate.image, None), _PREVIEW_EDGE),)
            self._next = time.monotonic() + _PREVIEW_SECONDS
        done = self._index * total + min(iterate.record.iteration, total)
        self._bar.update_absolute(done, self._count * total, *preview)

    def finish(self, result: Any) -> Any:
        self._index += 1
        if self._bar is not None:
            self._bar.update_absolute(self._index, self._count)
        return result


class _Node:
    """A node of ComfyUI: it keeps the network that it has loaded for its next run."""

    RETURN_TYPES: ClassVar[tuple[str, ...]] = ("IMAGE",)
    FUNCTION: ClassVar[str] = "run"
    CATEGORY: ClassVar[str] = "image/fastnst"
    DESCRIPTION: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        cls.DESCRIPTION = " ".join((cls.__doc__ or "").replace("`", "").split())

    def __init__(self) -> None:
        self._networks = Networks(kept=1)

    @classmethod
    def VALIDATE_INPUTS(cls, size: Any = None, preset: Any = None, options: Any = None) -> bool | str:
        """True, or for ComfyUI's page the line that says what is wrong. What another node makes is None until then."""
        try:
            if size is not None:
                parse_size(size)
            unsized_options({"preset": preset or "default", **_read(options or "")})
        except OptionError as error:
            return str(error)
        return True

    def _made(self, styles: Sequence[Picture], contents: Sequence[Any], options: Mapping[str, Any]) -> list[Result]:
        watch = _Watch(len(contents))
        watch.check()
        stylizer = Stylizer(styles, networks=self._networks, **{"device": _device(), **options})
        return [watch.finish(stylizer(content, callback=watch, callback_every=None)) for content in contents]


class Stylize(_Node):
    """Each picture of `content` in the style of all pictures of `style`, `style_2` and so on."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "content": ("IMAGE",),
                "style": ("IMAGE",),
                "preset": (list(PRESETS),),
                "size": ("STRING", {"default": "512", "tooltip": _SIZE}),
                "style_weight": _WEIGHT,
                "iterations": _ITERATIONS,
                "preserve_color": (list(MODES),),
                "init": (["preset", *START_WORDS],),
                "seed": _SEED,
            },
            "optional": {
                "style_2": ("IMAGE",),
                "style_3": ("IMAGE",),
                "style_4": ("IMAGE",),
                "style_weights": (
                    "STRING",
                    {"default": "", "tooltip": "give one for each style picture, such as 3, 1"},
                ),
                "regions": ("FASTNST_REGIONS",),
                "start": ("IMAGE", {"tooltip": "start from this picture instead of from init"}),
                "options": _OPTIONS,
            },
        }

    def run(self, content: Tensor, style: Tensor, **rest: Any) -> tuple[Tensor]:
        given = {name: rest[name] for name in ("preset", "size", "preserve_color", "seed")}
        given |= {name: rest[name] for name in ("style_weight", "iterations", "style_weights") if rest.get(name)}
        if rest["init"] != "preset":
            given["init"] = rest["init"]
        if rest.get("start") is not None:
            given["init"] = _pictures(rest["start"], role="init")[0].rgb
        if rest.get("regions") is not None:
            given["masks"] = rest["regions"]
        styles = _pictures(style, *(rest.get(f"style_{number}") for number in (2, 3, 4)), role="style")
        return _image(self._made(styles, _pictures(content), {**given, **_read(rest.get("options", ""))}))


class Texture(_Node):
    """A picture with the texture of all pictures of `style`, without their arrangement, from noise."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "style": ("IMAGE",),
                "width": ("INT", {"default": 512, "min": 32, "max": 65_535}),
                "height": ("INT", {"default": 512, "min": 32, "max": 65_535}),
                "tileable": ("BOOLEAN", {"default": False}),
                "iterations": _ITERATIONS,
                "seed": _SEED,
            },
            "optional": {"options": _OPTIONS},
        }

    def run(
        self, style: Tensor, width: int, height: int, tileable: bool, iterations: int, seed: int, options: str = ""
    ) -> tuple[Tensor]:
        canvas = parse_canvas((height, width))
        given = {"seed": seed, **({"iterations": iterations} if iterations else {}), **_read(options)}
        return _image(
            self._made(_pictures(style, role="style"), [canvas], texture_options(canvas, given, tileable=tileable))
        )


class Region(_Node):
    """One region more for `Stylize`: where it lies in the content, and where in one of the styles its style is."""

    RETURN_TYPES = ("FASTNST_REGIONS",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        number = (
            "INT",
            {"default": 1, "min": 1, "max": 64, "tooltip": "choose the style picture by its number, from 1"},
        )
        return {
            "required": {"content_mask": ("MASK",), "style_number": number},
            "optional": {"style_mask": ("MASK",), "regions": ("FASTNST_REGIONS",)},
        }

    def run(
        self, content_mask: Tensor, style_number: int, style_mask: Tensor | None = None, regions: Sequence[Any] = ()
    ) -> tuple[list[Any]]:
        style = None if style_mask is None else _mask(style_mask)
        return ([*regions, {"content": _mask(content_mask), f"style:{style_number}": style}],)


class Apply(_Node):
    """Each picture of `content` in one pass of the network that ships, or of one in models/fastnst."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        folders = _folders()
        listed = [] if folders is None else folders.get_filename_list("fastnst")
        network = ([_SHIPPED, *listed],)
        return {
            "required": {
                "content": ("IMAGE",),
                "network": network,
                "size": ("STRING", {"default": "content", "tooltip": _SIZE}),
                "preserve_color": (list(MODES),),
            },
            "optional": {"blend": ("STRING", {"default": "", "tooltip": _BLEND})},
        }

    @classmethod
    def IS_CHANGED(cls, network: str, **rest: Any) -> str:
        """Another text where the file is another, as after a training."""
        status = Path(_network_path(network)).stat()
        return f"{status.st_mtime_ns} {status.st_size}"

    def run(self, content: Tensor, network: str, size: str, preserve_color: str, blend: str = "") -> tuple[Tensor]:
        apply = Applier(
            _network_path(network),
            blend=blend.strip() or None,
            size=size,
            preserve_color=preserve_color,
            device=_device(),
        )
        watch, results = _Watch(len(content)), []
        for picture in _pictures(content):
            watch.check()
            results.append(watch.finish(apply(_planes(picture.rgb, picture.alpha))))
        return _image(results)


def _folders() -> Any:
    """ComfyUI's `folder_paths`, which then knows models/fastnst."""
    folders = _comfy("folder_paths")
    if folders is not None and "fastnst" not in folders.folder_names_and_paths:
        place = os.path.join(folders.models_dir, "fastnst")  # noqa: PTH118
        folders.folder_names_and_paths["fastnst"] = ([place], {".safetensors"})
    return folders


def _network_path(name: str) -> str:
    if name == _SHIPPED:
        return str(SHIPPED)
    folders = _folders()
    path = name if folders is None else folders.get_full_path("fastnst", name)
    if not path:
        raise OptionError(f"network {name!r} is not in models/fastnst; put the file that fastnst train wrote there")
    return str(path)


NODE_CLASS_MAPPINGS = {f"Fastnst{node.__name__}": node for node in (Stylize, Texture, Region, Apply)}
NODE_DISPLAY_NAME_MAPPINGS = {name: f"{node.__name__} (fastnst)" for name, node in NODE_CLASS_MAPPINGS.items()}

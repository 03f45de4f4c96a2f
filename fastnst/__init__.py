"""fastnst: neural style transfer by optimisation, exact to Gatys, Ecker and Bethge (2016).

The names below are loaded when they are first used, so that `import fastnst` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fastnst.canvas import Canvas
    from fastnst.errors import FastnstError, FastnstWarning, ImageError, OptionError, WeightsError
    from fastnst.extractor import FeatureExtractor
    from fastnst.modules import ContentLoss, GramLoss, TVLoss
    from fastnst.options import Options
    from fastnst.perceptual import PerceptualLoss
    from fastnst.reconstruction import reconstruct_content, reconstruct_style, reconstruction_figure
    from fastnst.result import DivergedError, Iterate, LossRecord, Result
    from fastnst.saved_run import CheckpointError
    from fastnst.stylizer import Stylizer, resume, stylize
    from fastnst.texture import synthesize_texture

_HOME = {
    "Canvas": "canvas",
    "CheckpointError": "saved_run",
    "ContentLoss": "modules",
    "DivergedError": "result",
    "FastnstError": "errors",
    "FastnstWarning": "errors",
    "FeatureExtractor": "extractor",
    "GramLoss": "modules",
    "ImageError": "errors",
    "Iterate": "result",
    "LossRecord": "result",
    "OptionError": "errors",
    "Options": "options",
    "PerceptualLoss": "perceptual",
    "Result": "result",
    "Stylizer": "stylizer",
    "TVLoss": "modules",
    "WeightsError": "errors",
    "reconstruct_content": "reconstruction",
    "reconstruct_style": "reconstruction",
    "reconstruction_figure": "reconstruction",
    "resume": "stylizer",
    "stylize": "stylizer",
    "synthesize_texture": "texture",
}

__all__ = [
    "Canvas",
    "CheckpointError",
    "ContentLoss",
    "DivergedError",
    "FastnstError",
    "FastnstWarning",
    "FeatureExtractor",
    "GramLoss",
    "ImageError",
    "Iterate",
    "LossRecord",
    "OptionError",
    "Options",
    "PerceptualLoss",
    "Result",
    "Stylizer",
    "TVLoss",
    "WeightsError",
    "reconstruct_content",
    "reconstruct_style",
    "reconstruction_figure",
    "resume",
    "stylize",
    "synthesize_texture",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fastnst' has no attribute {name!r}")
    return getattr(import_module(f"fastnst.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]

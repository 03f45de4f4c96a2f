"""fastnst: neural style transfer by optimisation, exact to Gatys, Ecker and Bethge (2016).

The names below are loaded when they are first used, so that `import fastnst` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fastnst.errors import FastnstError, FastnstWarning, ImageError, OptionError, WeightsError
    from fastnst.loss.modules import ContentLoss, GramLoss, TVLoss
    from fastnst.loss.perceptual import PerceptualLoss
    from fastnst.network.extractor import FeatureExtractor
    from fastnst.options.options import Options
    from fastnst.transfer.checkpoint import CheckpointError
    from fastnst.transfer.inputs import Canvas
    from fastnst.transfer.result import DivergedError, Iterate, LossRecord, Result
    from fastnst.transfer.run import Watch
    from fastnst.transfer.stylizer import Stylizer, resume, stylize
    from fastnst.transfer.variants import (
        reconstruct_content,
        reconstruct_style,
        reconstruction_figure,
        synthesize_texture,
    )

_HOME = {
    "Canvas": "transfer.inputs",
    "CheckpointError": "transfer.checkpoint",
    "ContentLoss": "loss.modules",
    "DivergedError": "transfer.result",
    "FastnstError": "errors",
    "FastnstWarning": "errors",
    "FeatureExtractor": "network.extractor",
    "GramLoss": "loss.modules",
    "ImageError": "errors",
    "Iterate": "transfer.result",
    "LossRecord": "transfer.result",
    "OptionError": "errors",
    "Options": "options.options",
    "PerceptualLoss": "loss.perceptual",
    "Result": "transfer.result",
    "Stylizer": "transfer.stylizer",
    "TVLoss": "loss.modules",
    "Watch": "transfer.run",
    "WeightsError": "errors",
    "reconstruct_content": "transfer.variants",
    "reconstruct_style": "transfer.variants",
    "reconstruction_figure": "transfer.variants",
    "resume": "transfer.stylizer",
    "stylize": "transfer.stylizer",
    "synthesize_texture": "transfer.variants",
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
    "Watch",
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

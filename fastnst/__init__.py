"""fastnst: neural style transfer by optimisation, exact to Gatys, Ecker and Bethge (2016).

Each name is loaded when you first use it, so `import fastnst` costs nothing.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Torch reads them when it is imported. Threads that spin while they wait make a run many times slower beside another
# one, and those that sleep at once lose a sixth of the time of a small picture to being woken. GNU's spin for so long.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

if TYPE_CHECKING:
    from fastnst.errors import FastnstError, FastnstWarning, ImageError, OptionError, WeightsError
    from fastnst.feedforward.applying import Applied, Applier, apply_network
    from fastnst.feedforward.file import load_network
    from fastnst.feedforward.network import StyleNetwork
    from fastnst.feedforward.schedule import Schedule
    from fastnst.feedforward.training import train_network
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
    from fastnst.video.run import stylize_video

__all__ = ["FastnstError", "FastnstWarning", "ImageError", "OptionError", "WeightsError"]
__all__ += ["ContentLoss", "FeatureExtractor", "GramLoss", "PerceptualLoss", "TVLoss"]
__all__ += ["Canvas", "Iterate", "LossRecord", "Options", "Result", "Stylizer", "Watch", "resume", "stylize"]
__all__ += ["CheckpointError", "DivergedError"]
__all__ += ["stylize_video"]
__all__ += ["Applied", "Applier", "Schedule", "StyleNetwork", "apply_network", "load_network", "train_network"]
__all__ += ["reconstruct_content", "reconstruct_style", "reconstruction_figure", "synthesize_texture"]

_HOMES = {
    "errors": __all__[:5],
    "feedforward.applying": ("Applied", "Applier", "apply_network"),
    "feedforward.file": ("load_network",),
    "feedforward.network": ("StyleNetwork",),
    "feedforward.schedule": ("Schedule",),
    "feedforward.training": ("train_network",),
    "loss.modules": ("ContentLoss", "GramLoss", "TVLoss"),
    "loss.perceptual": ("PerceptualLoss",),
    "network.extractor": ("FeatureExtractor",),
    "options.options": ("Options",),
    "transfer.checkpoint": ("CheckpointError",),
    "transfer.inputs": ("Canvas",),
    "transfer.result": ("DivergedError", "Iterate", "LossRecord", "Result"),
    "transfer.run": ("Watch",),
    "transfer.stylizer": ("Stylizer", "resume", "stylize"),
    "transfer.variants": __all__[-4:],
    "video.run": ("stylize_video",),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"fastnst.{module}"), name)
    raise AttributeError(f"module 'fastnst' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]

"""fastnst: neural style transfer by optimisation, exact to Gatys, Ecker and Bethge (2016).

The names below are loaded when they are first used, so that `import fastnst` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from fastnst.errors import FastnstError, FastnstWarning, ImageError, OptionError, WeightsError
    from fastnst.options import Options
    from fastnst.result import DivergedError, Iterate, LossRecord, Result
    from fastnst.stylizer import Stylizer, stylize

_HOME = {
    "DivergedError": "result",
    "FastnstError": "errors",
    "FastnstWarning": "errors",
    "ImageError": "errors",
    "Iterate": "result",
    "LossRecord": "result",
    "OptionError": "errors",
    "Options": "options",
    "Result": "result",
    "Stylizer": "stylizer",
    "WeightsError": "errors",
    "stylize": "stylizer",
}

__all__ = [
    "DivergedError",
    "FastnstError",
    "FastnstWarning",
    "ImageError",
    "Iterate",
    "LossRecord",
    "OptionError",
    "Options",
    "Result",
    "Stylizer",
    "WeightsError",
    "stylize",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fastnst' has no attribute {name!r}")
    return getattr(import_module(f"fastnst.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]

"""The options of a run under headings, for the command's help, the page and the documents."""

from collections.abc import Mapping
from types import MappingProxyType

GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "look": (
            *("preset", "style_weight", "content_weight", "tv_weight", "style_weights", "style_scale"),
            *("preserve_color", "masks", "init", "seed"),
        ),
        "size and schedule": (
            *("size", "edge", "iterations", "scales", "scale_factor", "seconds", "tolerance", "average"),
        ),
        "loss": (
            *("content_layers", "style_layers", "style_loss", "objective", "content_reduction", "style_reduction"),
            *("tv_kind", "tv_reduction"),
        ),
        "optimiser": ("optimizer", "learning_rate", "line_search", "hessian", "history", "history_precision"),
        "network": ("network", "weights", "filter_scaling", "pooling", "padding"),
        "machine": ("device", "precision", "backend", "tile", "max_memory", "max_pixels"),
    }
)
"""From a heading to its options, by the names of the fields of `Options`: each of them once."""

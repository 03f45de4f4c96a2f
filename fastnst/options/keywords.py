"""The keyword arguments that are options, with the types that a caller may give."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict


class UnsizedValues(TypedDict, total=False):
    """The fields of `Options` but the size, before they are normalised."""

    preset: str
    edge: str
    iterations: int | Sequence[int]
    scales: int | str | Sequence[int] | None
    scale_factor: float
    tile: int | str | None
    max_memory: int | str | None
    max_pixels: int
    seconds: float | None
    tolerance: float | None
    optimizer: str
    learning_rate: float | None
    line_search: str
    hessian: str
    history: int
    history_precision: str
    average: float | None
    content_weight: float
    style_weight: float | Sequence[float]
    tv_weight: float
    tv_kind: str
    tv_reduction: str
    style_weights: Sequence[float] | None
    style_scale: float
    content_layers: str | Sequence[str] | Mapping[str, float]
    style_layers: str | Sequence[str] | Mapping[str, float]
    masks: Sequence[Any] | None
    style_loss: str
    transfer: str
    blend: float
    preserve_color: str
    objective: str
    content_reduction: str
    style_reduction: str
    pooling: str
    padding: str
    init: Any
    network: str
    weights: str | os.PathLike[str]
    filter_scaling: str
    precision: str
    device: str
    backend: str
    seed: int


class OptionValues(UnsizedValues, total=False):
    """The keyword arguments of `stylize` and `Stylizer`: the fields of `Options`, before they are normalised."""

    size: int | str

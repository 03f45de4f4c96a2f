"""The operations on the caller's own tensors, as a step that has its buffers calls them.

Nothing is checked, differentiated or registered with torch here. The first argument is the backend, "triton" or
"torch", the others are those of the function of the same name in `eager`; a Triton module is imported by the first call
that needs it. Sums, activations, bits and the gradient of a tap are written into the caller's buffers.
"""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Concatenate, ParamSpec, TypeVar

from fastnst_kernels.first import eager as first
from fastnst_kernels.image import eager as image
from fastnst_kernels.losses import eager as losses
from fastnst_kernels.relu import eager as relu

P = ParamSpec("P")
R = TypeVar("R")

_module = cache(import_module)


def _by_backend(eager: Callable[P, R], triton_module: str) -> Callable[Concatenate[str, P], R]:
    """`eager`, or the function of its name in `triton_module` where the first argument is "triton"."""
    modules = {"torch": eager.__module__, "triton": f"fastnst_kernels.{triton_module}"}
    name = eager.__name__

    def run(backend: str, /, *args: P.args, **kwargs: P.kwargs) -> R:
        result: R = getattr(_module(modules[backend]), name)(*args, **kwargs)
        return result

    return run


gram = _by_backend(losses.gram, "losses.triton_gram")
accumulate_gram = _by_backend(losses.accumulate_gram, "losses.triton_gram")
gram_difference_loss = _by_backend(losses.gram_difference_loss, "losses.triton_gram")
finish_gram_loss = _by_backend(losses.finish_gram_loss, "losses.triton_gram")
bias_relu_gram = _by_backend(losses.bias_relu_gram, "losses.triton_gram")
content_loss = _by_backend(losses.content_loss, "losses.triton_content")
tap_backward = _by_backend(losses.tap_backward, "losses.triton_tap")

bias_relu = _by_backend(relu.bias_relu, "relu.triton_relu")
relu_backward = _by_backend(relu.relu_backward, "relu.triton_relu")

normalise = _by_backend(image.normalise, "image.triton_image")
normalise_backward = _by_backend(image.normalise_backward, "image.triton_image")
total_variation = _by_backend(image.total_variation, "image.triton_image")
image_gradient = _by_backend(image.image_gradient, "image.triton_image")
adam_step = _by_backend(image.adam_step, "image.triton_adam")

first_forward = _by_backend(first.first_forward, "first.triton_first")
first_backward = _by_backend(first.first_backward, "first.triton_back")

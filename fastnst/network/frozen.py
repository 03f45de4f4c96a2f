"""A module with tensors that are never trained: the weights of a frozen network, the targets of a loss."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn


def normal(tensor: Tensor) -> Tensor:
    """The tensor itself, or a copy that autograd can save where it is one of `torch.inference_mode`."""
    if torch.compiler.is_compiling() or not tensor.is_inference() or torch.is_inference_mode_enabled():
        return tensor
    return tensor.clone()


class Frozen(nn.Module):
    """A module whose kept tensors move with it, as buffers do, and are none.

    DistributedDataParallel sends the buffers of the first rank to the others before every forward: tens of megabytes of
    weights that are the same there, and targets that may not be.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kept: dict[str, bool] = {}

    def keep(self, name: str, tensor: Tensor | None, *, saved: bool = False) -> None:
        """Keeps `tensor` as the attribute `name`; `saved` ones are in the state_dict."""
        setattr(self, name, tensor)
        self._kept[name] = saved

    def kept(self, name: str) -> Tensor:
        tensor: Tensor = getattr(self, name)
        return tensor

    @contextmanager
    def _as_buffers(self, *, saved: bool = False) -> Iterator[None]:
        """Within it the kept tensors, or the saved ones among them, are buffers, with which torch knows what to do."""
        names = [name for name, is_saved in self._kept.items() if is_saved or not saved]
        self._buffers.update((name, vars(self).pop(name)) for name in names)
        try:
            yield
        finally:
            vars(self).update((name, self._buffers.pop(name)) for name in names)

    def _apply(self, *args: Any, **kwargs: Any) -> Self:
        with self._as_buffers():
            super()._apply(*args, **kwargs)  # type: ignore[no-untyped-call]
        return self

    def _save_to_state_dict(self, *args: Any) -> None:
        with self._as_buffers(saved=True):
            super()._save_to_state_dict(*args)

    def _load_from_state_dict(self, *args: Any) -> None:
        with self._as_buffers(saved=True):
            super()._load_from_state_dict(*args)

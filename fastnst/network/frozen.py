"""A module with tensors that are never trained: the weights of a frozen network, the targets of a loss."""

from collections.abc import Callable
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

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, tensor in self._present():
            with torch.no_grad():
                setattr(self, name, fn(tensor))
        return self

    def _present(self, saved: bool = False) -> list[tuple[str, Tensor]]:
        kept = [(name, getattr(self, name)) for name, is_saved in self._kept.items() if is_saved or not saved]
        return [(name, tensor) for name, tensor in kept if tensor is not None]

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, tensor in self._present(saved=True):
            destination[prefix + name] = tensor

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        present = dict(self._present(saved=True))
        given = {name: state_dict.pop(prefix + name) for name in present if prefix + name in state_dict}
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        missing_keys += [prefix + name for name in present if name not in given] if strict else []
        for name, value in given.items():
            if value.shape != present[name].shape:
                error_msgs.append(
                    f"{prefix}{name} is {tuple(value.shape)} in the checkpoint and {tuple(present[name].shape)} here"
                )
            else:
                with torch.no_grad():
                    present[name].copy_(value)

"""A device that is not here, on a CPU: tensors that say they lie on it, and refuse what Apple's cannot do.

`pretending()` makes a world in which torch has the device NAME, which stands for Apple's mps and Intel's xpu. Each
operation on its tensors is computed on the CPU by the tensors within, and raises where float64 appears or where tensors
of two devices are mixed, as the device would. It changes torch for good: for a process of its own.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

NAME = "other"
_DOUBLE = (torch.float64, torch.complex128)
_COPIES = ("_to_copy", "copy_", "copy")


class OtherTensor(torch.Tensor):
    """A tensor of the device, with the tensor that has its values in `inner`."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor, device: torch.device) -> "OtherTensor":
        facts: Any = {"dtype": inner.dtype, "layout": inner.layout, "device": device, "strides": inner.stride()}
        made: OtherTensor = torch.Tensor._make_wrapper_subclass(cls, inner.size(), **facts)  # type: ignore[attr-defined]
        made.inner = inner
        return made

    def tolist(self) -> Any:
        return self.inner.tolist()

    def __repr__(self, **_: Any) -> str:
        return f"OtherTensor({self.inner!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} outside of `pretending`")


class _Module(backend_registration._DummyBackendModule):  # type: ignore[misc]
    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16]


class _Device(TorchDispatchMode):
    def __init__(self, name: str, refused: frozenset[str]) -> None:
        super().__init__()
        self.device, self.refused, self.used = torch.device(name, 0), refused, set[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = func.overloadpacket.__name__
        flat = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
        ours = [x for x in flat if isinstance(x, OtherTensor)]
        wanted = kwargs.get("device")
        is_ours = bool(ours) if wanted is None else torch.device(wanted).type == self.device.type
        if wanted is not None and is_ours:
            kwargs["device"] = torch.device("cpu")
        if ours and name not in _COPIES:
            others = [x for x in flat if not isinstance(x, OtherTensor) and x.ndim]
            if others and not name.startswith("index"):
                raise RuntimeError(f"{name}: expected all tensors to be on the same device, {self.device} and cpu")
        if ours or is_ours:
            self.used.add(name)
            if name in self.refused:
                raise NotImplementedError(f"aten::{name} is not implemented for {self.device}")
        plain_args, plain_kwargs = tree_map_only(OtherTensor, lambda x: x.inner, (args, kwargs))
        made = func(*plain_args, **plain_kwargs)
        if name == "copy_":
            is_ours = isinstance(args[0], OtherTensor)
        if not is_ours:
            return made
        known = {id(x.inner): x for x in ours}

        def wrapped(x: torch.Tensor) -> torch.Tensor:
            if x.dtype in _DOUBLE:
                raise TypeError(f"{name}: the {self.device.type} framework doesn't support {x.dtype}")
            # What an operation changed in place is the tensor that it was given.
            return known[id(x)] if id(x) in known else OtherTensor(x, self.device)

        return tree_map_only(torch.Tensor, wrapped, made)


@contextmanager
def pretending(*, refused: frozenset[str] = frozenset()) -> Iterator[_Device]:
    """Within it torch has the device, which lacks the `refused` operations; `used` lists those it was asked for."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, _Module())  # type: ignore[no-untyped-call]
    mode = _Device(NAME, refused)
    with (
        patch.object(torch.accelerator, "is_available", lambda: True),
        patch.object(torch.accelerator, "current_accelerator", lambda: mode.device),
        mode,
    ):
        yield mode

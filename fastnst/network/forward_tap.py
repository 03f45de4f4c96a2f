"""What taps of a forward pass alone have in common: those that keep or add up features to make targets of them."""

from torch import Tensor

from fastnst.errors import FastnstError


class ForwardTap:
    """A tap, as `fastnst.network.backbone.Tap` says, that has no gradient to give."""

    def backward(self, features: Tensor, gradient: Tensor, *, accumulate: bool, relu: bool) -> None:
        raise FastnstError("a tap of a forward pass alone has no gradient")

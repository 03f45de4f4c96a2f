"""The optimiser of a network's training: Muon for the convolutions, Adam for normalisations and colours.

A convolution that a normalisation follows does not change what it says by its weights' length. Muon (Jordan 2024) takes
the momentum of its gradient, (K, C·k²), to the nearest orthogonal matrix, so that every direction moves as far.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fastnst.feedforward.network import StyleNetwork, Unit

# The rate of Adam's steps, of that of Muon's.
_ADAMS_SHARE = 0.2


class NetworkOptimizer:
    """Moves the parameters of `network`; with `convolutions` all of them, else the normalisations alone."""

    def __init__(self, network: StyleNetwork, *, convolutions: bool) -> None:
        own = network.normalisations()
        network.requires_grad_(convolutions)
        for parameter in own:
            parameter.requires_grad_(True)
        weights = [unit.weight for unit in network.modules() if isinstance(unit, Unit)] if convolutions else []
        # Muon takes matrices: these share the weights' memory.
        self._matrices = [(weight, nn.Parameter(weight.detach().view(len(weight), -1))) for weight in weights]
        others = [*own, network.paint.weight] if convolutions else own
        self._parts: list[tuple[torch.optim.Optimizer, float]] = [
            (torch.optim.Adam(others, betas=(0.9, 0.99)), _ADAMS_SHARE)
        ]
        if convolutions:
            matrices = [matrix for _, matrix in self._matrices]
            self._parts.append((torch.optim.Muon(matrices, weight_decay=0.0), 1.0))
        self._network = network

    def step(self, rate: float) -> None:
        """Takes a step along the gradients of the parameters, and forgets them."""
        for weight, matrix in self._matrices:
            matrix.grad = None if weight.grad is None else weight.grad.view_as(matrix)
        for optimizer, share in self._parts:
            for group in optimizer.param_groups:
                group["lr"] = rate * share
            optimizer.step()
        self._network.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, Any]]:
        return [optimizer.state_dict() for optimizer, _ in self._parts]

    def load_state_dict(self, states: Sequence[dict[str, Any]]) -> None:
        """Takes over what `state_dict` gave. Raises ValueError for the state of other parameters."""
        for (optimizer, _), state in zip(self._parts, states, strict=True):
            optimizer.load_state_dict(state)
            for parameter, kept in optimizer.state.items():
                own = [value for name, value in kept.items() if name != "step"]
                if not all(isinstance(value, Tensor) and value.shape == parameter.shape for value in own):
                    raise ValueError("the state is not that of these parameters")

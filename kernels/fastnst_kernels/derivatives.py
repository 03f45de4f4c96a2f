"""Operations that are differentiable once, and say so."""

import torch


def refuse_second_derivative(what: str) -> None:
    """For the backward of an autograd function: raises RuntimeError, which names the operations (`what`), where
    autograd records it, for its own derivative would be wrong or missing without a word."""
    # torch.compile traces with gradients on, and refuses second derivatives itself.
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        raise RuntimeError(f"the {what} operations are differentiable once; call backward without create_graph=True")

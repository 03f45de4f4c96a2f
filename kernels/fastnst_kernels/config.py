"""The launch parameters of each kernel: those measured on this device where there are some, else the heuristic's."""

from fastnst_kernels.blocks import (
    BackwardConfig,
    PartialConfig,
    Problem,
    ReduceConfig,
    pairs_of,
    power_of_two,
    split_evenly,
)
from fastnst_kernels.gpu import Gpu
from fastnst_kernels.heuristic import backward_heuristic, partial_heuristic, reduce_heuristic
from fastnst_kernels.tuned import tuned_for

__all__ = ["backward_config", "pairs_of", "partial_config", "power_of_two", "reduce_config"]


def partial_config(
    channels: int, positions: int, batch: int, itemsize: int, tensor_cores: bool, aligned: bool, gpu: Gpu
) -> PartialConfig:
    """The partial Gram's parameters; the arguments are the fields of `Problem`.

    Raises ValueError where a file of tuned parameters for `gpu` is not valid.
    """
    problem = Problem(channels, positions, batch, itemsize, tensor_cores, aligned)
    measured = tuned_for(gpu).get("partial", problem)
    return partial_heuristic(problem, gpu) if measured is None else split_evenly(problem, **measured)


def reduce_config(channels: int, splits: int) -> ReduceConfig:
    """The reduction's parameters, which are the heuristic's: they decide the order of a sum that no device changes."""
    return reduce_heuristic(channels, splits)


def backward_config(
    channels: int, positions: int, batch: int, itemsize: int, tensor_cores: bool, aligned: bool, gpu: Gpu
) -> BackwardConfig:
    """The parameters of the product in backward; arguments and errors are those of `partial_config`."""
    problem = Problem(channels, positions, batch, itemsize, tensor_cores, aligned)
    measured = tuned_for(gpu).get("backward", problem)
    return backward_heuristic(problem, gpu) if measured is None else BackwardConfig(**measured)

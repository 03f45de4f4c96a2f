# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
"""The launches of a step of L-BFGS: products, their sums, the small matrices, the direction, and the image's move."""

from collections.abc import Sequence
from math import ceil, sqrt
from typing import Any

import torch
from torch import Tensor

from fastnst_kernels.image.eager import Best
from fastnst_kernels.launch.heuristic import power_of_two
from fastnst_kernels.launch.launch import Launch, launch_gpu, run
from fastnst_kernels.lbfgs.state import BLOCK, NEAR, Blocks, State
from fastnst_kernels.lbfgs.triton_algebra import algebra_kernel
from fastnst_kernels.lbfgs.triton_lbfgs import (
    direction_kernel,
    free_kernel,
    move_kernel,
    products_kernel,
    reduce_kernel,
)

_ROWS = 128
_MOVED = 2048


def programs(device: torch.device) -> int:
    """How many programs sum the products."""
    return 2 * launch_gpu(device).multiprocessors


def free(image: Tensor, gradient: Tensor) -> Tensor:
    """The gradient of an image that stays in 0…1: less where it points to a limit nearer than `NEAR`, none at it."""
    result = torch.empty_like(gradient)
    arguments = {"image": image, "gradient": gradient, "result": result, "N": image.numel(), "near": NEAR}
    run(Launch(free_kernel, ceil(image.numel() / _MOVED), {**arguments, "BLOCK": _MOVED}), image.device)
    return result


def direction(
    state: State, blocks: Blocks, gradient: Sequence[Tensor], result: Tensor, *, size: tuple[int, int], rate: float
) -> Tensor:
    """The direction −rate · H g for the three channels of the `gradient`, or of its spectrum, as `Blocks` has them, of
    pictures of `size` (H, W).

    It is written to `result`, the spectrum (W // 2 + 1, 3, H) complex as float32, or added to the image. Returns its
    sum of squares, in parts.
    """
    history, device = state.sy.shape[0], state.pairs.device
    (height, width), number = size, len(blocks.band)
    # How a spectrum lies; its norm is that of an isometry.
    spectrum = {
        "place": blocks.place,
        "elements": height * width,
        "height": height,
        "lone": width // 2 if width % 2 == 0 else -1,
        "norm": 1 / sqrt(height * width),
    }
    # 16 bytes a thread.
    group = 4 if state.pairs.dtype == torch.float32 else 8
    weights = torch.empty((2, power_of_two(max(history, 2))), dtype=torch.float32, device=device)
    squares = torch.empty((ceil(number / group),), dtype=torch.float32, device=device)
    _learn(state, blocks, _products(state, blocks, gradient, spectrum), weights)
    arguments = {
        "gradient": state.previous,
        **{name: getattr(state, name) for name in ("pairs", "units", "h0", "slot", "lengths")},
        "weights": weights,
        "band": blocks.band,
        "result": result,
        "squares": squares,
        "blocks": number,
        "rate": float(rate),
        **spectrum,
        "HISTORY": history,
        "SIZE": weights.shape[1],
        "BLOCK": BLOCK,
        "GROUP": group,
    }
    run(Launch(direction_kernel, len(squares), arguments), device)
    return squares


def _products(state: State, blocks: Blocks, gradient: Sequence[Tensor], spectrum: dict[str, Any]) -> Tensor:
    """The products of the pairs with y, s and both halves of g, (bands, rows, 16) float64, with the newest y."""
    history, device = state.sy.shape[0], state.pairs.device
    tiles = ceil(6 * history / _ROWS)
    rows = tiles * _ROWS + 16
    short = state.pairs.dtype != torch.float32
    partial = torch.empty((len(blocks.chunks), rows, 16), dtype=torch.float32, device=device)
    sums = torch.empty((blocks.bands, rows, 16), dtype=torch.float64, device=device)
    arguments = {
        **dict(zip(("red", "green", "blue"), gradient, strict=True)),
        **{name: getattr(state, name) for name in ("previous", "pairs", "units", "slot")},
        "chunks": blocks.chunks,
        "partial": partial,
        **spectrum,
        "HISTORY": history,
        "BLOCK": BLOCK,
        # What tensor cores do not multiply waits in registers.
        "DEPTH": BLOCK if short else 16,
        "ROWS": _ROWS,
        "TILES": tiles,
    }
    warps, stages = 4, 1
    if short:
        # Where operands wait in registers, twice the warps keep them from spilling.
        gpu = launch_gpu(device)
        warps, stages = (4, 2) if gpu.backend == "hip" or gpu.arch in (90, 100) else (8, 3)
    run(Launch(products_kernel, len(blocks.chunks), arguments, warps, stages), device)
    arguments = {
        "partial": partial,
        "products": sums,
        "yy": state.yy,
        "slot": state.slot,
        "band_chunks": blocks.band_chunks,
        "HISTORY": history,
        "ROWS": rows,
        "BLOCK": 16,
    }
    run(Launch(reduce_kernel, blocks.bands * (rows // 16), arguments), device)
    return sums


def _learn(state: State, blocks: Blocks, products: Tensor, weights: Tensor) -> None:
    """Takes the newest pair into the small matrices, and writes the `weights` of the pairs in the direction."""
    names = ("lengths", "sy", "yy", "curved", "h0", "slot")
    arguments = {
        "products": products,
        **{name: getattr(state, name) for name in names},
        **{name: getattr(state, f"memory_{name}") for name in ("steps", "changes", "both")},
        "weights": weights,
        "bands": blocks.bands,
        "HISTORY": state.sy.shape[0],
        "SIZE": weights.shape[1],
        "BANDS": power_of_two(max(blocks.bands, 2)),
        "ROWS": products.shape[1],
        "SCALAR": blocks.place is None,
    }
    run(Launch(algebra_kernel, 1, arguments, num_warps=4), products.device)


def move(
    state: State,
    image: Tensor,
    way: Tensor,
    squares: Tensor,
    *,
    most: float,
    bounded: bool,
    best: Best | None = None,
) -> None:
    """Moves the image by the direction, at most by `most` as the root of the mean square, and into 0…1 where it is
    `bounded`; before, it is copied over the `best` one if it is better."""
    arguments = {
        "image": image,
        "direction": way,
        "squares": squares,
        "lengths": state.lengths,
        "slot": state.slot,
        "best": None if best is None else best[0],
        "better": None if best is None else best[1].view(torch.uint8),
        "N": image.numel(),
        "parts": len(squares),
        "most": float(most),
        "BLOCK": _MOVED,
        "SUMS": 1024,
        "BOUNDED": bounded,
    }
    run(Launch(move_kernel, ceil(image.numel() / _MOVED), arguments), image.device)

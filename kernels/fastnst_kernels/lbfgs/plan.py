# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-calls
"""The launches of a step of L-BFGS: products, their sums, the small matrices, the direction, and the image's move."""

from collections.abc import Sequence
from math import ceil, sqrt
from typing import Any

import torch
from torch import Tensor

from fastnst_kernels.image.eager import Best
from fastnst_kernels.launch.gpu import Gpu
from fastnst_kernels.launch.heuristic import power_of_two
from fastnst_kernels.launch.launch import Launch, Plan, upcast
from fastnst_kernels.lbfgs.state import BLOCK, Blocks, Numbers, State
from fastnst_kernels.lbfgs.triton_algebra import algebra_kernel
from fastnst_kernels.lbfgs.triton_lbfgs import direction_kernel, move_kernel, products_kernel, reduce_kernel

_ROWS = 128
_MOVED = 2048


def programs(gpu: Gpu) -> int:
    """How many programs sum the products."""
    return 2 * gpu.multiprocessors


def _spectrum(blocks: Blocks, size: tuple[int, int]) -> dict[str, Any]:
    """The arguments that say how a spectrum of pictures of `size` (H, W) lies; its norm is that of an isometry."""
    height, width = size
    lone = width // 2 if width % 2 == 0 else -1
    place = blocks.band if blocks.place is None else blocks.place
    return {
        "place": place,
        "elements": height * width,
        "height": height,
        "lone": lone,
        "norm": 1 / sqrt(height * width),
    }


def plan_direction(
    state: State,
    blocks: Blocks,
    gradient: Sequence[Tensor],
    result: Tensor,
    *,
    size: tuple[int, int],
    rate: float,
    gpu: Gpu,
) -> Plan:
    """The direction −rate · H g for the three channels of the `gradient`, or of its spectrum, as `Blocks` has them.

    It is written to `result`, the spectrum (W // 2 + 1, 3, H) complex as float32, or added to the image. The output is
    its sum of squares, in parts.
    """
    history, device = state.sy.shape[0], state.pairs.device
    number, transformed = len(blocks.band), blocks.place is not None
    spectrum = _spectrum(blocks, size)
    tiles = ceil(6 * history / _ROWS)
    rows = tiles * _ROWS + 16
    short = state.pairs.dtype != torch.float32
    # 16 bytes a thread.
    group = 8 if short else 4
    warps, stages = _warps_and_stages(gpu) if short else (4, 1)
    place_moves: dict[str, float] = {"place": 1} if transformed else {}
    partial = torch.empty((len(blocks.chunks), rows, 16), dtype=torch.float32, device=device)
    sums = torch.empty((blocks.bands, rows, 16), dtype=torch.float64, device=device)
    weights = torch.empty((2, power_of_two(max(history, 2))), dtype=torch.float32, device=device)
    squares = torch.empty((ceil(number / group),), dtype=torch.float32, device=device)
    channels = dict(zip(("red", "green", "blue"), gradient, strict=True))
    products = Launch(
        products_kernel,
        len(blocks.chunks),
        {
            **channels,
            "previous": state.previous,
            "pairs": state.pairs,
            "units": state.units,
            "slot": state.slot,
            "chunks": blocks.chunks,
            "partial": partial,
            **spectrum,
        },
        {
            "HISTORY": history,
            "BLOCK": BLOCK,
            # What tensor cores do not multiply waits in registers.
            "DEPTH": BLOCK if short else 16,
            "ROWS": _ROWS,
            "TILES": tiles,
            "TRANSFORMED": transformed,
            "UPCAST": upcast(state.pairs.dtype),
        },
        num_warps=warps,
        num_stages=stages,
        # The newest y is written where none is read.
        moves={"red": 1, "green": 1, "blue": 1, **place_moves, "previous": 2, "pairs": 1, "units": 1, "partial": 1},
    )
    reduce = Launch(
        reduce_kernel,
        blocks.bands * (rows // 16),
        {
            "partial": partial,
            "products": sums,
            "yy": state.yy,
            "slot": state.slot,
            "band_chunks": blocks.band_chunks,
        },
        {"HISTORY": history, "ROWS": rows, "BLOCK": 16},
        moves={"partial": 1, "products": 1, "yy": 2 / history},
    )
    names = ("lengths", "sy", "yy", "curved", "h0", "slot")
    algebra = Launch(
        algebra_kernel,
        1,
        {
            "products": sums,
            **{name: getattr(state, name) for name in names},
            **{name: getattr(state, f"memory_{name}") for name in ("steps", "changes", "both")},
            "weights": weights,
            "bands": blocks.bands,
        },
        {
            "HISTORY": history,
            "SIZE": weights.shape[1],
            "BANDS": power_of_two(max(blocks.bands, 2)),
            "ROWS": rows,
            "SCALAR": not transformed,
        },
        num_warps=16,
        moves={"products": 1, "yy": 1, "sy": 2},
    )
    direction = Launch(
        direction_kernel,
        len(squares),
        {
            "gradient": state.previous,
            **{name: getattr(state, name) for name in ("pairs", "units", "h0", "slot", "lengths")},
            "weights": weights,
            "band": blocks.band,
            "result": result,
            "squares": squares,
            "blocks": number,
            "rate": float(rate),
            **spectrum,
        },
        {"HISTORY": history, "SIZE": weights.shape[1], "BLOCK": BLOCK, "GROUP": group, "TRANSFORMED": transformed},
        # All pairs are read, and one s is written.
        moves={
            "gradient": 1,
            "pairs": 1 + 1 / (2 * history),
            "units": 1,
            **place_moves,
            "result": 1 if transformed else 2,
            "squares": 1,
        },
    )
    return Plan((products, reduce, algebra, direction), (squares,))


def plan_move(
    state: State, image: Tensor, direction: Tensor, squares: Tensor, most: float, best: Best | None = None
) -> Plan:
    """The image moved by the direction, at most by `most` as the root of the mean square; before, it is copied over the
    `best` one if it is better."""
    arguments = {
        "image": image,
        "direction": direction,
        "squares": squares,
        "lengths": state.lengths,
        "slot": state.slot,
        "best": image if best is None else best[0],
        "better": image if best is None else best[1].view(torch.uint8),
        "N": image.numel(),
        "parts": len(squares),
        "most": float(most),
    }
    constants = {"BLOCK": _MOVED, "SUMS": 1024, "BEST": best is not None}
    moves = {"image": 2, "direction": 1, "squares": 1, "best": int(best is not None)}
    return Plan((Launch(move_kernel, ceil(image.numel() / _MOVED), arguments, constants, moves=moves),))


def plan_step(
    size: tuple[int, int], places: Numbers | None, *, history: int, dtype: torch.dtype, gpu: Gpu, most: float = 1.0
) -> Plan:
    """A whole step without its transforms, for an image of `size` (H, W) that need not be here; see `FusedLBFGS`."""
    height, width = size
    blocks = Blocks.of(height * width, places, programs(gpu), torch.device("meta"))
    state = State.fresh(blocks, history, dtype)
    result = image = torch.empty((1, 3, height, width), device="meta")
    gradient: Sequence[Tensor] = image.view(3, -1).unbind()
    if places is not None:
        result = torch.empty((width // 2 + 1, 3, height, 2), device="meta")
        gradient = [torch.empty((width // 2 + 1, height, 2), device="meta") for _ in range(3)]
    plan = plan_direction(state, blocks, gradient, result, size=size, rate=1.0, gpu=gpu)
    if places is None:
        return plan
    best = image, torch.empty((), dtype=torch.bool, device="meta")
    return Plan((*plan.launches, *plan_move(state, image, image, plan.outputs[0], most, best).launches))


def _warps_and_stages(gpu: Gpu) -> tuple[int, int]:
    """Warps and stages of the products in 16 bit: where operands wait in registers, twice the warps keep them from
    spilling."""
    from_shared_memory = gpu.backend == "hip" or gpu.arch in (90, 100)
    return (4, 2) if from_shared_memory else (8, 3)

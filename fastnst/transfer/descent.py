"""One scale's iterations: step, evaluate, note the loss, keep the best image, all on the device.

Nothing is read back to the host until `read` asks for it, so that a GPU never waits between iterations.
"""

import math
from collections.abc import Callable, Mapping

import torch
from fastnst_kernels.image.eager import keep_best
from fastnst_kernels.launch.capture import capturing
from torch import Tensor

from fastnst.errors import warn
from fastnst.loss.objective import Evaluation
from fastnst.loss.terms import Loss
from fastnst.optim import Optimizer

CAPACITY = 64
"""Evaluations that can be noted between two calls of `read`."""

Terms = tuple[float, float, float, float]

# Calls that run as they are: libraries choose their algorithms and kernels are built, which no capture allows.
_WARM_UP = 3


class MeanImage:
    """The exponential moving average of the images that it takes in, with bias correction, on their device.

        mean_t = Σ_k dᵗ⁻ᵏ x_k / Σ_k dᵗ⁻ᵏ

    `decay` d is in 0…1, without 1; 0 is the last image. Memory: one image, of the size of `like`.
    """

    def __init__(self, decay: float, like: Tensor) -> None:
        self.decay = decay
        self._sum, self._weight = torch.zeros_like(like), like.new_zeros(())

    @torch.no_grad()
    def add(self, image: Tensor) -> None:
        """Takes in the next image, (1, 3, H, W); nothing is read back to the host."""
        self._sum.lerp_(image, 1 - self.decay)
        self._weight.lerp_(torch.ones_like(self._weight), 1 - self.decay)

    def mean(self) -> Tensor:
        """The mean so far, a new (1, 3, H, W); of no image it is NaN."""
        return self._sum / self._weight

    def state(self) -> dict[str, Tensor]:
        """The state itself, until the next image."""
        return {"mean.sum": self._sum, "mean.weight": self._weight}


class Descent:
    """The image of one scale on its way down.

    `image` and `best` are (1, 3, H, W) float32 and stay where they are; `image` is moved in place. `fresh` makes an
    optimiser; `optimizer` is the one to begin with if that is another. The caller begins with `begin` or `restore`,
    goes on with `advance`, and comes to the end with `end`. With `average`, the decay of a `MeanImage`, the last image
    is the mean of those before.
    """

    def __init__(
        self,
        image: Tensor,
        objective: Evaluation,
        fresh: Callable[[], Optimizer],
        *,
        optimizer: Optimizer | None = None,
        average: float | None = None,
    ) -> None:
        self.image = image.clone()
        self._best = image.clone()
        self._better = torch.zeros((), dtype=torch.bool, device=image.device)
        self._objective = objective
        self._fresh = fresh
        self._mean = None if average is None else MeanImage(average, image)
        self._loss = torch.zeros((), dtype=torch.float32, device=image.device)
        self._gradient = torch.zeros_like(self.image)
        self._lowest = torch.full((), math.inf, dtype=torch.float32, device=image.device)
        self._rows = torch.zeros((CAPACITY, 5), dtype=torch.float32, device=image.device)
        self._row = torch.zeros(1, dtype=torch.long, device=image.device)
        self._noted = 0
        self._move_by(fresh() if optimizer is None else optimizer)

    def begin(self) -> None:
        """Evaluates the first image. In float16, with the largest loss scale that its gradient allows."""
        loss = self._evaluate()
        if self._objective.loss_scale.needed:
            while not math.isfinite(self._gradient.sum().item()) and self._objective.loss_scale.lower():
                self._evaluate()
            self._objective.loss_scale.anchor(loss.total)
            loss = self._evaluate()
        self._note(loss)
        self._noted += 1

    def advance(self) -> None:
        """One step of the optimiser, and the evaluation of what comes of it."""
        if self._objective.is_tiled:
            self._iterate()
        else:
            self._replayed(self._iterate)
        self._noted += 1

    def end(self) -> None:
        """Advances like `advance`, but without a gradient to go on from, nor the memory of a captured graph."""
        self._replayed.drop()
        self._step()
        if self._mean is not None:
            self.image.copy_(self._mean.mean())
        self._gradient = self._gradient.new_zeros(1)
        self._note(self._objective.loss(self.image))
        self._noted += 1

    @property
    def best(self) -> Tensor:
        """The image of the lowest loss that has been noted."""
        # Else the next step copies it, as it reads the image anyway.
        keep_best(self.image, (self._best, self._better))
        self._better.zero_()
        return self._best

    @property
    def loss_exponent(self) -> int:
        """The power of two that is float16's loss scale."""
        return self._objective.loss_scale.exponent

    def state(self) -> dict[str, Tensor]:
        """The tensors that `restore` takes, until the next step; the optimiser has its own."""
        reference = self._objective.loss_scale.reference
        own = {"image": self.image, "best": self.best, "lowest": self._lowest, "loss_scale": reference}
        return own if self._mean is None else {**own, **self._mean.state()}

    def restore(self, state: Mapping[str, Tensor], loss_exponent: int) -> None:
        """In place of `begin`: goes on after the evaluation at which `state` was read, which is not noted again."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])
        self._objective.loss_scale.set_exponent(loss_exponent)
        self._evaluate()

    @property
    def loss(self) -> Tensor:
        """The total of the latest evaluation, which was not read back yet: a scalar that later ones do not change."""
        return self._rows[self._noted - 1, 0].clone()

    def read(self) -> list[Terms]:
        """Total, content, style and total variation of each evaluation since the last call, which is waited for.

        After an evaluation whose float16 gradient overflowed there is none: from the best image the descent goes on
        with a lower loss scale and a fresh optimiser.
        """
        rows = self._rows[: self._noted].tolist()
        self._noted = 0
        self._row.zero_()
        terms = [(total, content, style, tv) for total, content, style, tv, _ in rows]
        overflowed = next((index for index, row in enumerate(rows) if not math.isfinite(row[4])), None)
        if overflowed is None or not all(math.isfinite(total) for total, *_ in terms[: overflowed + 1]):
            return terms
        if not self._objective.loss_scale.lower():
            return [*terms[: overflowed + 1], (math.nan,) * 4]
        self.image.copy_(self.best)
        self._move_by(self._fresh())
        self._evaluate()
        return terms[: overflowed + 1]

    def _move_by(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self._replayed = Replayed(self.image.device)

    def _iterate(self) -> None:
        self._step()
        self._note(self._evaluate())

    def _step(self) -> None:
        self.optimizer.step(self.image, self._gradient, self._loss, (self._best, self._better))
        if self._mean is not None:
            self._mean.add(self.image)

    def _evaluate(self) -> Loss:
        # What a graph replays stays where it is; else one gradient is enough, and the last one makes room for the next.
        stays = self.image.device.type == "cuda" and not self._objective.is_tiled
        if not stays:
            self._gradient = self._gradient.new_empty(0)
        out = self._gradient if self._gradient.shape == self.image.shape else None
        loss, gradient = self._objective.loss_and_gradient(self.image, out)
        if out is None:
            # In the image's memory format.
            same = gradient.stride() == self.image.stride()
            self._gradient = gradient if same else torch.empty_like(self.image).copy_(gradient)
        self._loss.copy_(loss.total)
        return loss

    def _note(self, loss: Loss) -> None:
        check = loss.check
        if check is None:
            # The gradient's sum is finite where the gradient is, which float16 alone puts in doubt while the loss is.
            check = self._gradient.sum() if self._objective.loss_scale.needed else loss.total
        terms = (loss.total, loss.content, loss.style, loss.tv, check)
        row = torch.cat([term.to(self.image.device).view(1) for term in terms])
        self._rows.index_copy_(0, self._row, row[None])
        self._row.add_(1)
        torch.lt(row[0], self._lowest, out=self._better)
        torch.fmin(row[0], self._lowest, out=self._lowest)


class Replayed:
    """Calls of one function on a GPU: the first few as they are, then captured once and replayed.

    The function, the same at each call, takes and returns nothing, works in place on tensors that stay where they are,
    and never waits for the device. Where it cannot be captured it goes on uncaptured, with a FastnstWarning. On other
    devices it is just called.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._calls = 0
        self._capturable = device.type == "cuda"
        self._graph: torch.cuda.CUDAGraph | None = None
        # Of the function's own device, for the first calls and the capture: what libraries keep for a stream is then
        # there, once.
        self._stream: torch.cuda.Stream | None = None

    def __call__(self, function: Callable[[], None]) -> None:
        if not self._capturable:
            function()
            return
        if self._graph is None and self._calls == _WARM_UP:
            self._graph = self._captured(function)
        if self._graph is not None:
            self._graph.replay()
        elif self._capturable:
            self._warm_up(function)
        else:
            function()

    def drop(self) -> None:
        """Gives the graph's memory back; the next call captures anew."""
        if self._graph is not None:
            torch.cuda.synchronize(self._device)
            self._graph.reset()
            self._graph = None

    def _warm_up(self, function: Callable[[], None]) -> None:
        self._calls += 1
        if self._stream is None:
            self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            function()
        torch.cuda.current_stream(self._device).wait_stream(self._stream)

    def _captured(self, function: Callable[[], None]) -> torch.cuda.CUDAGraph | None:
        graph = torch.cuda.CUDAGraph()
        try:
            with capturing(graph, self._stream, self._device):
                function()
        except RuntimeError as error:
            self._capturable = False
            # Where the capture cannot end either, that is the later error.
            reason = str(error.__context__ or error).strip().splitlines()[0]
            warn(f"the iteration cannot be captured as a CUDA graph ({reason}); it runs uncaptured and more slowly")
            return None
        return graph

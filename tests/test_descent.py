"""The iterations of one scale: nothing read back on the way, the best image, batches, and float16's overflow."""

import subprocess
import sys
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from fastnst_kernels.image import eager as image_eager
from fastnst_kernels.launch.capture import Branch
from fastnst_kernels.losses import eager as losses_eager
from fastnst_kernels.relu import eager as relu_eager
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

import fastnst
from fastnst.loss.masks import Guidance
from fastnst.loss.objective import LossScale, Objective
from fastnst.loss.statistics import iterated_root_trace
from fastnst.loss.targets import style_targets
from fastnst.loss.terms import Loss
from fastnst.network import backbone
from fastnst.network.backbone import build_backbone
from fastnst.network.layers import GpuLayers
from fastnst.network.runtime import Runtime
from fastnst.network.weights import load_weights
from fastnst.optim import make_optimizer
from fastnst.options.options import Options
from fastnst.options.resolve import resolve_options
from fastnst.transfer.descent import CAPACITY, Descent, MeanImage, Replayed
from fastnst.transfer.run import Pace

LAYERS: dict[str, Any] = {"weights": "random", "style_layers": ["conv1_1", "conv2_1"], "content_layers": "conv2_2"}
KERNELS: dict[ModuleType, tuple[str, ...]] = {
    losses_eager: ("content_loss", "tap_backward"),
    relu_eager: ("bias_relu", "relu_backward"),
    image_eager: ("normalise", "image_gradient"),
}


def runtime(precision: str) -> Runtime:
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    return Runtime(torch.device("cpu"), precision, dtypes[precision], False, False, "torch")


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        # Values that come from the host would need a copy to the device, which no graph captures.
        assert not str(function).startswith(("aten.lift", "aten._local_scalar", "aten.nonzero"))
        self.names[str(function)] += 1
        return function(*args, **(kwargs or {}))


@pytest.fixture
def kernel_calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the kernels that are called, and hides what they do: how they compute is a GPU's affair."""
    calls: Counter[str] = Counter()
    monkeypatch.setattr(backbone, "make_layers", lambda place: GpuLayers(place.device, place.dtype, place.kernels))

    def hidden(name: str, kernel: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            calls[name] += 1
            with _disable_current_modes():
                return kernel(*arguments, **named)

        return call

    for module, names in KERNELS.items():
        for name in names:
            monkeypatch.setattr(module, name, hidden(name, getattr(module, name)))
    return calls


def objective_of(options: Options, place: Runtime, guidance: Guidance | None = None) -> Objective:
    image, mask = torch.rand(1, 3, 32, 24), torch.rand(1, 1, 32, 24)
    network = build_backbone(load_weights("random", taps=options.taps), options.taps, place)
    regions: list[dict[int, Any]] | None = None if guidance is None else [{0: mask}, {0: None}]
    style = style_targets(network, [(image.flip(2), 1.0)], options, place, regions)
    return Objective(network, image, style, options, place, guidance=guidance)


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_an_iteration_reads_nothing_back_and_always_does_the_same(
    precision: str, optimizer: str, kernel_calls: Counter[str]
) -> None:
    options, place = resolve_options(**LAYERS, optimizer=optimizer), runtime(precision)
    descent = Descent(torch.rand(1, 3, 32, 24), objective_of(options, place), lambda: make_optimizer(options, place))
    for _ in range(2):
        descent.advance()
    counts = []
    for _ in range(2):
        kernel_calls.clear()
        with Operations() as operations:
            descent.advance()
        counts.append(operations.names + kernel_calls)
    assert counts[0] == counts[1]
    assert counts[0]["tap_backward"] == 3


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("loss", ["gram", "covariance", "mean-std", "wasserstein"])
@pytest.mark.usefixtures("kernel_calls")
def test_losses_of_moments_read_nothing_back(loss: str, masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The losses as a GPU computes them, where the root of a matrix is found by products."""
    monkeypatch.setattr("fastnst.loss.statistics.root_trace", iterated_root_trace)
    mask = torch.rand(1, 1, 32, 24)
    guidance = Guidance(32, 24, (mask, 1 - mask), opaque=mask) if masked else None
    objective = objective_of(resolve_options(**LAYERS, style_loss=loss), runtime("fp16"), guidance)
    for _ in range(2):
        with Operations():
            objective.loss_and_gradient(torch.rand(1, 3, 32, 24))


class Parabola:
    """‖x − target‖², with a gradient that float16 could not hold above `limit`."""

    is_tiled = False

    def __init__(self, target: float, limit: float = float("inf")) -> None:
        self.target, self.limit = target, limit
        self.runtime = runtime("fp16" if limit < float("inf") else "fp32")
        self.loss_scale = LossScale(self.runtime)
        self.overflows = 0

    def loss(self, image: torch.Tensor) -> Loss:
        total = (image - self.target).square().sum()
        return Loss(total, total, total * 0, total * 0)

    def loss_and_gradient(self, image: torch.Tensor, out: Any = None) -> tuple[Loss, torch.Tensor]:
        gradient = 2 * (image - self.target)
        if bool((gradient * self.loss_scale.factor).abs().max() > self.limit):
            self.overflows += 1
            gradient = gradient * torch.inf
        return self.loss(image), gradient


class Walk:
    """Steps of given lengths."""

    def __init__(self, steps: list[float]) -> None:
        self.steps = list(steps)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def step(self, image: torch.Tensor, gradient: torch.Tensor, loss: Any = None, best: Any = None) -> None:
        image_eager.keep_best(image, best)
        image += self.steps.pop(0) + 0 * gradient


def descend(objective: Any, steps: list[float]) -> Descent:
    return Descent(torch.zeros(1, 3, 2, 2), objective, lambda: Walk(steps))


def test_the_largest_loss_scale_that_fits_is_found_once_with_a_margin() -> None:
    objective = Parabola(1.0, limit=2.0**15)
    descent = descend(objective, [0.1] * 5)
    descent.begin()
    # The gradient is 2: at 2¹² it is 2¹³, at 2¹⁶ it would be 2¹⁷; six powers are kept free.
    assert objective.loss_scale.factor.item() == 2.0**6
    assert objective.overflows == 3
    for _ in range(3):
        descent.advance()
    assert len(descent.read()) == 4
    assert objective.overflows == 3


def test_after_an_overflow_the_descent_goes_on_from_the_best_image() -> None:
    objective = Parabola(1.0, limit=2.0**15)
    descent = descend(objective, [0.5, 4000.0, 0.1, 0.1])
    descent.begin()
    for _ in range(3):
        descent.advance()
    rows = descent.read()
    assert [terms[0] for terms in rows] == pytest.approx([12, 3, 12 * 3999.5**2])
    assert objective.loss_scale.factor.item() == 2.0**2
    torch.testing.assert_close(descent.image, torch.full((1, 3, 2, 2), 0.5))
    descent.advance()
    torch.testing.assert_close(descent.image, torch.full((1, 3, 2, 2), 1.0))
    assert descent.read()[0][0] == pytest.approx(0)


def test_the_loss_scale_follows_a_leap_of_the_loss() -> None:
    scale = LossScale(runtime("fp16"))
    assert scale.factor.item() == 2.0**24
    scale.follow(torch.tensor(1e6))
    assert scale.factor.item() == 2.0**24
    scale.anchor(torch.tensor(10.0))
    for loss, factor in ((10.0, 2.0**18), (1.0, 2.0**18), (20.0, 2.0**17), (1e7, 2.0**-2), (1e30, 2.0**-22)):
        scale.follow(torch.tensor(loss))
        assert scale.factor.item() == factor
    # A first image that is its own target.
    scale = LossScale(runtime("fp16"))
    scale.anchor(torch.tensor(0.0))
    for loss in (0.0, 5.0):
        scale.follow(torch.tensor(loss))
        assert scale.factor.item() == 2.0**18
    exact = LossScale(runtime("bf16"))
    exact.anchor(torch.tensor(10.0))
    exact.follow(torch.tensor(1e7))
    assert exact.factor.item() == 1


def test_a_gradient_that_no_loss_scale_fits_ends_in_a_loss_that_is_no_number() -> None:
    descent = descend(Parabola(1.0, limit=0.0), [0.5, 0.5])
    descent.begin()
    descent.advance()
    totals = [terms[0] for terms in descent.read()]
    assert totals[0] == 12
    assert totals[1] != totals[1]


def test_a_gpu_is_read_a_few_times_a_second_and_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("fastnst.transfer.run.time.perf_counter", lambda: now)

    def readings(pace: Pace, evaluations: int, seconds: float) -> list[int]:
        nonlocal now
        due, following = [-1], 0
        for evaluation in range(evaluations):
            now += seconds
            if evaluation >= following:
                moments = pace.moments(evaluation - due[-1])
                assert moments == sorted(moments)
                assert moments[-1] == pytest.approx(now)
                assert len(moments) <= CAPACITY
                due.append(evaluation)
                following = pace.next_due(evaluation)
        return due[1:]

    gpu = torch.device("cuda", 0)
    assert readings(Pace(gpu, None, float("inf")), 60, 2**-6) == [0, 16, 32, 48]
    assert readings(Pace(gpu, None, float("inf")), 200, 2**-12) == [0, 64, 128, 192]
    assert readings(Pace(gpu, 10, float("inf")), 31, 2**-6) == [0, 10, 20, 30]
    now = 0.0
    # The last reading comes before the time is up, not a quarter of a second later.
    assert readings(Pace(gpu, None, 0.25), 20, 2**-6)[-5:] == [15, 16, 17, 18, 19]


@pytest.mark.gpu
@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
def test_a_captured_run_is_the_uncaptured_one(precision: str, optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    content, style = (torch.rand((3, 96, 64), generator=generator) for _ in range(2))
    options: dict[str, Any] = {"size": 96, "scales": None, "iterations": 12, "weights": "random", "device": "cuda"}

    def totals() -> list[float]:
        result = fastnst.stylize(content, style, **options, precision=precision, optimizer=optimizer)
        return [record.total for record in result.losses]

    captured = totals()
    monkeypatch.setattr(Replayed, "__call__", lambda self, function: function())
    assert captured == pytest.approx(totals(), rel=1e-3)


class CudaCalls:
    """A stand-in for torch.cuda and its graphs that notes what is asked of it, for the GPU of index 1.

    With `fails`, the captured function breaks the capture, so that it cannot be ended either: as torch does then, the
    graph leaves its stream current and its pool open.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, fails: bool) -> None:
        self.fails = fails
        self.current: Any = "own stream"
        self.open_pools: set[str] = set()
        self.made: list[Any] = []
        self.ran_on: list[Any] = []
        self.waits: list[tuple[str, str]] = []
        self.graphs: list[Any] = []
        self.replays = self.resets = 0
        for name in ("current_stream", "stream", "Stream", "graph", "set_stream", "CUDAGraph"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
        monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "pool")
        for name in ("_cuda_endAllocateToPool", "_cuda_releasePool"):
            monkeypatch.setattr(torch._C, name, getattr(self, name), raising=False)

    def current_stream(self, device: torch.device) -> Any:
        assert device == torch.device("cuda:1")
        return self._stream(self.current)

    def _stream(self, name: str) -> Any:
        return SimpleNamespace(wait_stream=lambda other: self.waits.append((name, other.name)), name=name)

    def set_stream(self, stream: Any) -> None:
        self.current = stream.name

    def Stream(self, device: torch.device) -> Any:
        self.made.append(device)
        return self._stream("side stream")

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        before, self.current = self.current, stream.name
        yield
        self.current = before

    @contextmanager
    def graph(self, graph: Any, *, pool: str, stream: Any, capture_error_mode: str) -> Iterator[None]:
        assert capture_error_mode == "thread_local"
        self.current = stream.name
        self.open_pools.add(pool)
        try:
            yield
        finally:
            if self.fails:
                raise RuntimeError("operation failed due to a previous error during capture")
        self.open_pools.remove(pool)
        self.current = "own stream"

    def CUDAGraph(self) -> Any:
        def count(name: str) -> None:
            setattr(self, name, getattr(self, name) + 1)

        return SimpleNamespace(replay=lambda: count("replays"), reset=lambda: count("resets"))

    def _cuda_endAllocateToPool(self, index: int, pool: str) -> None:
        assert index == 1
        self.open_pools.remove(pool)

    def _cuda_releasePool(self, index: int, pool: str) -> None:
        assert pool not in self.open_pools

    def run(self) -> None:
        self.ran_on.append(self.current)
        if self.fails and self.open_pools:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")


def test_a_step_is_warmed_up_and_captured_on_one_stream_of_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = CudaCalls(monkeypatch, fails=False)
    replayed = Replayed(torch.device("cuda:1"))
    for _ in range(6):
        replayed(cuda.run)
    assert cuda.made == [torch.device("cuda:1")]
    assert cuda.ran_on == ["side stream"] * 4
    assert (cuda.replays, cuda.resets) == (3, 0)
    replayed.drop()
    assert cuda.resets == 1


def test_a_failed_capture_leaves_the_stream_and_the_memory_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = CudaCalls(monkeypatch, fails=True)
    replayed = Replayed(torch.device("cuda:1"))
    for _ in range(3):
        replayed(cuda.run)
    with pytest.warns(fastnst.FastnstWarning, match="not permitted when stream is capturing\\); it runs uncaptured"):
        replayed(cuda.run)
    assert (cuda.current, cuda.open_pools) == ("own stream", set())
    replayed(cuda.run)
    assert cuda.ran_on[-2:] == ["own stream"] * 2


def test_a_branch_of_a_capture_comes_after_what_was_launched_and_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = CudaCalls(monkeypatch, fails=False)
    tensor = torch.zeros(1)
    alive = weakref.ref(tensor)
    branch = Branch(torch.device("cuda:1"))
    for is_captured in (False, True):
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda answer=is_captured: answer)
        with branch.work(tensor):
            cuda.run()
        cuda.run()
        if is_captured:
            del tensor
            assert alive() is not None
        branch.join()
        branch.join()
    assert alive() is None
    assert cuda.ran_on == ["own stream", "own stream", "side stream", "own stream"]
    assert cuda.waits == [("side stream", "own stream"), ("own stream", "side stream")]


@pytest.mark.usefixtures("kernel_calls")
def test_the_terms_of_a_style_are_made_in_branches_that_the_loss_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    open_branches: list[Branch] = []
    open_at_the_loss: list[int] = []
    made = 0

    @contextmanager
    def work(branch: Branch, *inputs: torch.Tensor) -> Iterator[None]:
        nonlocal made
        open_branches.append(branch)
        made += 1
        yield

    def join(branch: Branch) -> None:
        open_branches[:] = [other for other in open_branches if other is not branch]

    objective = objective_of(resolve_options(**LAYERS), runtime("fp32"))
    image = torch.rand(1, 3, 32, 24)
    loss, gradient = objective.loss_and_gradient(image)
    monkeypatch.setattr(Branch, "work", work)
    monkeypatch.setattr(Branch, "join", join)
    terms = Objective._terms
    monkeypatch.setattr(Objective, "_terms", lambda self: open_at_the_loss.append(len(open_branches)) or terms(self))
    again = objective.loss_and_gradient(image)
    assert made == 2
    assert open_at_the_loss == [0]
    assert torch.equal(again[0].total, loss.total)
    assert torch.equal(again[1], gradient)


UNCAPTURABLE = """
import warnings, torch
from fastnst.transfer.descent import Replayed
x = torch.zeros(1, device="cuda")
def step(read):
    x.add_(1)
    if read:
        x.item()
for read in (True, False):
    replayed = Replayed(x.device)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(6):
            replayed(lambda: step(read))
    assert any("cannot be captured" in str(warning.message) for warning in caught) == read, caught
    torch.cuda.empty_cache()
assert torch.cuda.current_stream() == torch.cuda.default_stream()
assert x.item() == 12, x
"""


@pytest.mark.gpu
def test_after_what_cannot_be_captured_the_next_is() -> None:
    """In a process of its own, which a failed capture may leave beyond repair."""
    subprocess.run([sys.executable, "-c", UNCAPTURABLE], check=True, timeout=300)


def test_the_last_image_is_evaluated_without_the_memory_of_the_graph() -> None:
    descent = Descent(torch.zeros(1, 3, 4, 4), Parabola(1.0), lambda: Walk([0.5, 0.5]))
    events: list[str] = []
    drop, loss = Replayed.drop, Parabola.loss
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Replayed, "drop", lambda self: (events.append("drop"), drop(self))[1])
        patch.setattr(Parabola, "loss", lambda self, image: (events.append("loss"), loss(self, image))[1])
        descent.begin()
        descent.end()
    assert events[-2:] == ["drop", "loss"]


def test_mean_is_the_weighted_mean_of_what_was_added() -> None:
    images = torch.rand(7, 1, 3, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mean = MeanImage(0.9, images[0])
    for image in images:
        mean.add(image)
    weights = 0.9 ** torch.arange(6, -1, -1, dtype=torch.float64)
    expected = (weights.view(-1, 1, 1, 1, 1) * images).sum(0) / weights.sum()
    torch.testing.assert_close(mean.mean(), expected, rtol=1e-12, atol=0)

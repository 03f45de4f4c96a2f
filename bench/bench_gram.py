"""The Gram losses of each style layer under pytest-benchmark, ours beside the plain PyTorch form.

python -m pytest bench --benchmark-group-by=param:layer,param:operation
python -m pytest bench --size 1024 --precision bf16

It is the workload of `fastnst profile`, which adds rates and ceilings. Caches are left as the last call left them.
"""

from collections.abc import Iterator

import pytest
from fastnst_kernels.profiling.losses import OPERATIONS, Problem, check_size, contender, expected, forms, work_of
from fastnst_kernels.profiling.measure import Call, synchronise
from fastnst_kernels.verify import STYLE_LAYERS, worst
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from fastnst.network.runtime import Runtime, float32_products

PLAIN_ERROR = 0.05


@pytest.fixture(autouse=True)
def _products(runtime: Runtime) -> Iterator[None]:
    with float32_products(runtime.tf32):
        yield


@pytest.fixture(scope="module", params=STYLE_LAYERS)
def layer(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def problem(layer: str, size: int, runtime: Runtime) -> Problem:
    check_size(size)
    return Problem.make(STYLE_LAYERS[layer], size >> list(STYLE_LAYERS).index(layer), runtime)


@pytest.mark.parametrize("implementation", ["fastnst", "eager"])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_gram(
    benchmark: BenchmarkFixture, problem: Problem, runtime: Runtime, operation: str, implementation: str
) -> None:
    inputs = problem if implementation == "fastnst" else problem.in_nchw()
    prepare = contender(operation, forms(implementation, runtime), inputs)
    exact, allowed = expected(operation, problem, runtime.dot_precision)
    result = prepare()()
    assert isinstance(result, Tensor)
    error, budget = worst(result.detach(), exact, allowed)
    assert error <= (budget if implementation == "fastnst" else PLAIN_ERROR), "a wrong result is not timed"

    channels, height, width = problem.features.shape[1:]
    work = work_of(operation, channels, height * width, problem.features.element_size())
    benchmark.extra_info.update(error=error, bytes=work.bytes, flops=work.flops, device=str(runtime.device))
    synchronise(runtime.device)

    def timed(call: Call) -> None:
        call()
        synchronise(runtime.device)

    benchmark.pedantic(  # type: ignore[no-untyped-call]
        timed, setup=lambda: ((prepare(),), {}), rounds=7, warmup_rounds=2
    )

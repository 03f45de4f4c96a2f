"""The options of `python -m pytest bench`."""

import pytest

from fastnst.network.runtime import Runtime, resolve_runtime


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--size", type=int, default=512, help="side of the square image, in pixels (default: 512)")
    parser.addoption("--precision", default="auto", help="auto, fp32, tf32, bf16 or fp16 (default: auto)")
    parser.addoption("--device", default="auto", help="auto, cpu, cuda … (default: auto)")


@pytest.fixture(scope="session")
def size(pytestconfig: pytest.Config) -> int:
    return int(pytestconfig.getoption("--size"))


@pytest.fixture(scope="session")
def runtime(pytestconfig: pytest.Config) -> Runtime:
    return resolve_runtime(pytestconfig.getoption("--device"), pytestconfig.getoption("--precision"))

"""How long an evaluation of the objective takes: its operations, counted, over a rate that is measured in a moment."""

from collections.abc import Collection
from functools import cache, lru_cache
from itertools import islice

from fastnst.network.backbone import make_layers
from fastnst.network.runtime import Runtime
from fastnst.network.settings import float32_products, kept_heap
from fastnst.network.trial import seconds_per_giga
from fastnst.plan.memory import Network

# Convolutions that stand for the network's blocks: channels, the pool of most of their operations, the side of the map
# on a CPU and on a GPU, and the share of VGG-19's operations. At full resolution fewer channels make for a lower rate.
_SAMPLES = (
    (64, "avg", 160, 1024, 0.11),
    (128, "avg", 112, 512, 0.16),
    (256, None, 80, 256, 0.36),
    (512, None, 40, 128, 0.37),
)
# The first layer, losses and the optimiser take time beside these: about a tenth of theirs, seen on a CPU.
_BESIDE = 1.1


@lru_cache(4096)
def forward_flops(network: Network, height: int, width: int, through: tuple[str, ...] | None = None) -> float:
    """Operations of the convolutions forward, to the deepest of `through` or to the end; as many go back."""
    names = [step.name for step in network.steps]
    count = len(names) if through is None else max((names.index(name) + 1 for name in through), default=0)
    walk = islice(network.walk(height, width), count)
    return sum((2.0 * step.parameters * rows * columns for step, rows, columns in walk), 0.0)


def style_flops(network: Network, style: Collection[str], height: int, width: int) -> float:
    """Operations of the Gram matrices of the layers `style`, one triangle each, and of their gradient."""
    return sum(3.0 * filters**2 * rows * columns for filters, rows, columns in network.features(style, height, width))


@cache
def measure_rate(runtime: Runtime) -> float:
    """FLOP per second of an iteration in the arithmetic of `runtime`: from convolutions with their ReLU and pool,
    forward and back, in VGG-19's proportions, which takes half a second on a CPU, less what the rest is known to take.
    Winograd's savings count as speed."""
    on_gpu = runtime.device.type == "cuda"
    samples = [(channels, pool, gpu if on_gpu else cpu, share) for channels, pool, cpu, gpu, share in _SAMPLES]
    with float32_products(runtime.tf32), kept_heap(runtime.device):
        seconds = seconds_per_giga({runtime.precision: make_layers(runtime)}, runtime.device, samples)
    return 1e9 / (_BESIDE * seconds[runtime.precision])

"""How much memory an evaluation of the objective needs, from the shapes alone: a rehearsal of the backbone's passes.

It takes and gives back what `backbone` and its layers take and give back, in their order, in bytes. What libraries use
inside of a call is bounded; Winograd's transforms are ours, and are counted.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil, prod

from fastnst.loss.moments import CHUNK_ELEMENTS
from fastnst.network import winograd
from fastnst.network.architecture import layers_up_to
from fastnst.network.runtime import Runtime
from fastnst.optim import history_precision
from fastnst.options.options import Options

# Beside the maps. On a CPU: chunks of the losses, and what malloc keeps of freed blocks, measured at 60 to 200 MB. On a
# GPU: the workspace of its convolutions.
_SCRATCH_BYTES = {True: 100_000_000, False: 250_000_000}
_IMAGE_ELEMENT = _MASK_ELEMENT = 4
IMAGE_BYTES_PER_PIXEL = 3 * _IMAGE_ELEMENT
# A step of L-BFGS takes for a while six vectors, and malloc was seen to keep as many.
_STEP_IMAGES = 8
# Fourier bands are filled up to whole blocks, by half a block of 1/128 each, and have for each frequency where it lies.
_BAND_PADDING, _BAND_PLACES_BYTES = 1.04, 16


@dataclass(frozen=True)
class Step:
    """A step of the backbone: a convolution with the pool that follows it, or a pool of its own (without weights)."""

    name: str
    channels: int
    filters: int
    is_convolution: bool
    is_pooled: bool
    is_tapped: bool

    @property
    def parameters(self) -> int:
        """How many weights it has, without the biases."""
        return 9 * self.channels * self.filters if self.is_convolution else 0


def steps_of(network: str, taps: tuple[str, ...]) -> tuple[Step, ...]:
    """The steps of `build_backbone` from the image to the deepest of `taps`."""
    steps: list[Step] = []
    for layer in layers_up_to(network, taps):
        is_tapped = layer.name in taps
        if layer.is_pool and not steps[-1].is_tapped:
            steps[-1] = replace(steps[-1], name=layer.name, is_pooled=True, is_tapped=is_tapped)
        else:
            steps.append(
                Step(layer.name, layer.in_channels, layer.out_channels, not layer.is_pool, layer.is_pool, is_tapped)
            )
    return tuple(steps)


@dataclass(frozen=True)
class Network:
    """The network as memory depends on it: steps, bytes of an element, and how the layers are run: where, and whether
    the way back reads features or bits of them."""

    steps: tuple[Step, ...]
    element: int
    winograd: bool
    on_cpu: bool
    keeps_features: bool
    # The whole image's first layer is computed from it again on the way back, and none of it is kept.
    redoes_first: bool = False
    wraps: bool = False
    max_pools: bool = False

    @property
    def loading_bytes(self) -> int:
        """Each convolution's weights twice, for forward and back, and as they were read, which a CPU keeps as well."""
        return (2 * self.element + 4 * self.on_cpu) * sum(step.parameters for step in self.steps)

    @property
    def scratch_bytes(self) -> int:
        return _SCRATCH_BYTES[self.on_cpu]

    def walk(self, height: int, width: int) -> Iterator[tuple[Step, int, int]]:
        """The steps over an image of `height` × `width`, each with the height and width of its input."""
        for step in self.steps:
            yield step, height, width
            height, width = height >> step.is_pooled, width >> step.is_pooled

    def features(self, names: Collection[str], height: int, width: int) -> list[tuple[int, int, int]]:
        """The filters, the height and the width of the features of the layers `names`, of an image of that size."""
        walk = self.walk(height, width)
        return [
            (step.filters, rows >> step.is_pooled, columns >> step.is_pooled)
            for step, rows, columns in walk
            if step.name in names
        ]


def network_of(options: Options, runtime: Runtime) -> Network:
    content = dict(options.active_content_layers)
    is_plain = options.style_loss == "gram" and not options.masks and "conv1_1" not in content
    steps = steps_of(options.network, options.taps)
    return Network(
        steps=steps,
        element=runtime.dtype.itemsize,
        winograd=runtime.winograd,
        on_cpu=runtime.device.type == "cpu",
        keeps_features=runtime.kernels != "triton",
        redoes_first=runtime.kernels == "triton" and (runtime.dtype.itemsize == 2 or runtime.tf32) and is_plain,
        wraps=options.wraps,
        max_pools=options.pooling == "max",
    )


class _Ledger:
    """Bytes that are held, and their peak."""

    def __init__(self) -> None:
        self.held = self.peak = 0

    def take(self, size: int) -> int:
        self.held += size
        self.peak = max(self.peak, self.held)
        return size

    def use(self, size: int) -> None:
        """Takes and gives back at once."""
        self.take(size)
        self.held -= size


@dataclass(frozen=True)
class _Trace:
    """The bytes that a step leaves for the way back, beside its tapped features: bits, or its features before the
    pool. Also the bytes of its output, and the height and width of its input."""

    features: int
    record: int
    output: int
    height: int
    width: int


def _forward(
    network: Network, ledger: _Ledger, height: int, width: int, *, record: bool, redoes_first: bool = False
) -> list[_Trace]:
    element = network.element
    traces: list[_Trace] = []
    source = ledger.take(IMAGE_BYTES_PER_PIXEL * height * width)
    walk = network.walk(height, width)
    for step, height, width in walk:
        rows, columns = height >> step.is_pooled, width >> step.is_pooled
        joined = step.is_convolution and step.is_pooled
        whole, size = (element * step.filters * positions for positions in (height * width, rows * columns))
        if step.is_convolution:
            ledger.use(whole + _call_bytes(network, step.channels, step.filters, height, width))
        full = ledger.take(whole if joined else 0)
        has_bits = record and not network.keeps_features and not (step.is_tapped and not step.is_pooled)
        bits = ledger.take(step.filters * height * ceil(width / 8) if has_bits else 0)
        output = ledger.take(size)
        keeps_full = record and network.keeps_features
        if not keeps_full:
            ledger.held -= full
        ledger.held -= source
        features = output if record and step.is_tapped and not (redoes_first and not traces) else 0
        # Where no bits are kept, the way back reads the features.
        own = output if keeps_full and step.is_convolution and not step.is_pooled and not features else 0
        source = 0 if features or own else output
        traces.append(_Trace(features, bits + own + (full if keeps_full else 0), size, height, width))
    ledger.held -= source
    return traces


def _backward(network: Network, ledger: _Ledger, traces: Sequence[_Trace]) -> None:
    element = network.element
    gradient = ledger.take(traces[-1].output)
    for step, trace in zip(reversed(network.steps), reversed(traces), strict=True):
        ledger.held -= trace.features
        positions = trace.height * trace.width
        # Where features are kept, that of a mean takes their place.
        apart = step.is_pooled and step.is_convolution and (network.max_pools or not network.keeps_features)
        # A maximum and where it is, in 64 bit, beside what it is spread to.
        found = network.max_pools and step.is_pooled and network.keeps_features
        maxima = ledger.take((element + 8) * step.filters * (positions // 4) if found else 0)
        whole = ledger.take(element * step.filters * positions if apart else 0)
        ledger.held -= maxima if apart else 0
        below = ledger.take(element * step.channels * positions)
        ledger.held -= 0 if apart else maxima
        if step.is_convolution:
            ledger.use(_call_bytes(network, step.filters, step.channels, trace.height, trace.width))
        ledger.held -= whole + trace.record + gradient
        gradient = below
    ledger.use(IMAGE_BYTES_PER_PIXEL * traces[0].height * traces[0].width)
    ledger.held -= gradient


def _call_bytes(network: Network, channels: int, filters: int, height: int, width: int) -> int:
    """Bytes that a convolution takes beside its input and its result: the input with a border, where the image wraps,
    and in Winograd's the transformed weights, and a strip's inputs and transforms."""
    border = network.element * channels * (height + 2) * (width + 2) if network.wraps else 0
    if not network.winograd or 3 in (channels, filters):
        return border
    start, stop = next(winograd.strips(max(channels, filters), height, width))
    tall, wide = (ceil(side / winograd.TILE) for side in (stop - start, width))
    inputs = channels * (winograd.TILE * tall + 2) * (winograd.TILE * wide + 2)
    places, outputs = winograd.INPUT**2, winograd.TILE**2
    transforms = max(2 * places * channels, places * (channels + filters), (places + 2 * outputs) * filters)
    return border + 4 * (places * channels * filters + inputs + tall * wide * transforms)


@lru_cache(4096)
def untiled_bytes(network: Network, height: int, width: int, *, is_tile: bool = False) -> int:
    """The peak of an evaluation of the whole image or a tile, besides image, gradient and content target."""
    ledger = _Ledger()
    traces = _forward(network, ledger, height, width, record=True, redoes_first=network.redoes_first and not is_tile)
    _backward(network, ledger, traces)
    return ledger.peak + network.scratch_bytes


def most_elements(network: Network, height: int, width: int) -> int:
    """Elements of the largest map of an image of `height` × `width` pixels."""
    return max(max(step.channels, step.filters) * rows * columns for step, rows, columns in network.walk(height, width))


def forward_bytes(network: Network, height: int, width: int) -> int:
    """The peak of a forward pass alone, from which no backward follows."""
    ledger = _Ledger()
    _forward(network, ledger, height, width, record=False)
    return ledger.peak + network.scratch_bytes


@lru_cache(4096)
def tiled_bytes(network: Network, height: int, width: int, *, tiles: int, level: str, redone_steps: int) -> int:
    """The peak of an evaluation in `tiles` whose crops are `height` × `width`, besides image, gradient and content."""
    crop = IMAGE_BYTES_PER_PIXEL * height * width
    if level == "recompute":
        return crop + untiled_bytes(network, height, width, is_tile=True)
    if tiles <= 2:
        return crop + network.scratch_bytes + _kept_peak(network, height, width, tiles, redone_steps=redone_steps)
    two, three = (_kept_peak(network, height, width, count, redone_steps=redone_steps) for count in (2, 3))
    return crop + network.scratch_bytes + two + (tiles - 2) * (three - two)


def _kept_peak(network: Network, height: int, width: int, tiles: int, *, redone_steps: int) -> int:
    """The peak where the first pass keeps all but the first `redone_steps` steps of each tile."""
    ledger = _Ledger()
    first_steps = replace(network, steps=network.steps[:redone_steps])
    kept = []
    for _ in range(tiles):
        traces = _forward(network, ledger, height, width, record=True)
        ledger.held -= sum(trace.features + trace.record for trace in traces[:redone_steps])
        own = traces[redone_steps:]
        if redone_steps and own and network.keeps_features and not network.steps[redone_steps].is_convolution:
            # The record of a pool of its own are the features before it.
            own[0] = replace(own[0], record=own[0].record + ledger.take(traces[redone_steps - 1].features))
        kept.append(own)
    for traces in kept:
        first = _forward(first_steps, ledger, height, width, record=True) if redone_steps else []
        _backward(network, ledger, [*first, *traces])
    return ledger.peak


def mask_bytes(network: Network, style: Collection[str], height: int, width: int, *, regions: int) -> int:
    """Bytes of the mask maps: one for each region and map's size, and a chunk of features that is multiplied with
    them at a time; a CPU has the masks themselves and, while they are pooled, with the content's alpha, once more."""
    if not regions:
        return 0
    sizes = {(rows, columns) for _, rows, columns in network.features(style, height, width)}
    maps = _MASK_ELEMENT * sum(map(prod, sizes))
    masks = 2 * _MASK_ELEMENT * height * width if network.on_cpu else 0
    return regions * (maps + masks) + 2 * network.element * CHUNK_ELEMENTS


def sorting_bytes(network: Network, style: Collection[str], height: int, width: int) -> int:
    """Bytes of the sliced Wasserstein distance: for each layer the style's values and the gradient by the sorted ones,
    and what sorting the largest takes beyond what the network gives back by then, as was measured."""
    sizes = list(map(prod, network.features(style, height, width)))
    return 8 * sum(sizes) + 8 * max(sizes, default=0)


def optimizer_bytes_per_pixel(options: Options, *, is_fused: bool = False) -> int:
    """Bytes of the optimiser's state and of what it uses in a step; `is_fused` where Triton moves the image."""
    if options.optimizer == "adam":
        return 2 * IMAGE_BYTES_PER_PIXEL
    element = 4 if history_precision(options, is_fused=is_fused) == "fp32" else 2
    pairs = 2 * options.history * 3 * element
    # The last gradient, and a line's start and direction.
    kept = 1 if options.line_search == "none" else 3
    if options.hessian == "bands":
        return int(_BAND_PADDING * pairs) + _BAND_PLACES_BYTES + (kept + _STEP_IMAGES) * IMAGE_BYTES_PER_PIXEL
    return pairs + (kept + _STEP_IMAGES) * IMAGE_BYTES_PER_PIXEL

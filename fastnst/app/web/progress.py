"""How far a run is, by work rather than by iterations: those of a large scale take longer."""

from collections.abc import Sequence
from dataclasses import dataclass

from fastnst.options.options import Options
from fastnst.transfer.result import LossRecord
from fastnst.transfer.scales import scale_iterations


@dataclass(frozen=True)
class Progress:
    """done: the part of the work that is done, in 0…1; left: the seconds that the rest takes, None while unknown."""

    done: float
    left: float | None


def progress_of(records: Sequence[LossRecord], edges: Sequence[int], options: Options) -> Progress:
    """The progress of a run with these records so far; `edges` are the long edges of its scales in pixels.

    An iteration's work is in proportion to the pixels. With a limit of seconds, the run ends no later than that.
    """
    if not records:
        return Progress(0.0, None)
    last = records[-1]
    index = list(edges).index(last.scale)
    begun = next(record.iteration for record in records if record.scale == last.scale)
    counts = scale_iterations(options.iterations, len(edges))
    work = [count * edge**2 for count, edge in zip(counts, edges, strict=True)]
    inside = min((last.iteration - begun) / counts[index], 1.0)
    done = (sum(work[:index]) + inside * work[index]) / sum(work)
    # The first evaluation of a run is slower than the rest, and there is nothing else to go by yet.
    left = last.seconds * (1 - done) / done if last.iteration >= 2 else None
    if options.seconds is not None:
        rest = max(0.0, options.seconds - last.seconds)
        left = rest if left is None else min(left, rest)
        done = max(done, min(last.seconds / options.seconds, 1.0))
    return Progress(done, left)

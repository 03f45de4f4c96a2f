"""A copier that copies as late as it may: when somebody waits for it."""

from collections.abc import Sequence

from torch import Tensor


class LateCopies:
    """Copies on their way; until they have been waited for their destinations hold nothing of use."""

    def __init__(self, pairs: Sequence[tuple[Tensor, Tensor]], copier: "LateCopier") -> None:
        self._pairs, self._copier = pairs, copier

    def wait(self) -> None:
        # One after the other: those that were begun before are done before.
        while self in self._copier.waiting:
            for to, source in self._copier.waiting.pop(0)._pairs:
                to.copy_(source)

    join = wait


class LateCopier:
    """`most` is how many it had on their way at once."""

    def __init__(self) -> None:
        self.waiting: list[LateCopies] = []
        self.most = 0

    def begin(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> LateCopies:
        for to, _ in pairs:
            to.fill_(float("nan") if to.is_floating_point() else 85)
        self.waiting.append(LateCopies(pairs, self))
        self.most = max(self.most, len(self.waiting))
        return self.waiting[-1]

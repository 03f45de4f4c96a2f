"""How long and how a network is trained, and how far it is."""

import math
from dataclasses import dataclass

from fastnst.errors import OptionError

_WARM_UP = 20  # steps


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How long and how a network is trained.

    Attributes:
        steps: the steps of the optimiser; None for as many as `minutes` allow.
        minutes: the training ends after so many minutes, which include those before it was resumed; None for no limit.
        batch: the number of crops in a step; the styles take turns.
        learning_rate: the rate of Muon at the beginning; Adam's is a fifth of it. Both fall to zero as half a cosine,
            by the steps or the minutes.
        stable: the weight of the mean square by which the result changes if the image gets a little noise.
        seed: the seed of weights, crops and noise.

    Raises OptionError if a value is out of range.
    """

    steps: int | None = None
    minutes: float | None = None
    batch: int = 1
    learning_rate: float = 0.05
    stable: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps is None and self.minutes is None:
            object.__setattr__(self, "steps", 4000)
        for name in ("steps", "batch"):
            if (count := getattr(self, name)) is not None and (type(count) is not int or count < 1):
                raise OptionError(f"{name} {count!r} is not possible; give a whole number of 1 or more")
        for name, least in (("minutes", 1e-9), ("learning_rate", 1e-9), ("stable", 0.0)):
            if (value := getattr(self, name)) is not None and not (
                isinstance(value, int | float) and least <= value < math.inf
            ):
                raise OptionError(f"{name.replace('_', ' ')} {value!r} is not possible; give a positive number")
        if type(self.seed) is not int or not 0 <= self.seed < 1 << 63:
            raise OptionError(f"seed {self.seed!r} is not possible; give a whole number from 0 to {(1 << 63) - 1}")

    def progress(self, step: int, seconds: float) -> float:
        """The part of the training that is over, 0…1."""
        parts = [] if self.steps is None else [step / self.steps]
        parts += [] if self.minutes is None else [seconds / (60 * self.minutes)]
        return min(1.0, max(parts))

    def rate(self, step: int, seconds: float) -> float:
        falling = 0.5 * (1 + math.cos(math.pi * self.progress(step, seconds)))
        return self.learning_rate * falling * min(1.0, (step + 1) / _WARM_UP)


@dataclass(frozen=True)
class Progress:
    """A step of a training, for its callback: `loss` is smoothed, and `done` is the part that is over."""

    step: int
    loss: float
    seconds: float
    done: float

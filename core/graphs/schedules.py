"""Learning rates that change: functions that make functions of the step, counted from 0, to the rate.

rate = schedules.cosine(0.1, steps=1000)
session.step({"input": pictures, "learning_rate": rate(step)})
"""

import math
from collections.abc import Callable, Iterable

Schedule = Callable[[int], float]


def exponential(first: float, factor: float, every: float = 1.0) -> Schedule:
    """first · factor^(step / every): torch's ExponentialLR, Keras's ExponentialDecay."""
    return lambda step: first * factor ** (step / every)


def steps(first: float, at: Iterable[int], factor: float = 0.1) -> Schedule:
    """`first`, times `factor` from each of the steps in `at` on: torch's MultiStepLR.

    `range(40, last, 40)` is torch's StepLR with 40.
    """
    drops = sorted(at)
    return lambda step: first * factor ** sum(drop <= step for drop in drops)


def cosine(first: float, steps: int, last: float = 0.0) -> Schedule:
    """From `first` to `last` along half a cosine, then `last` for ever (Loshchilov and Hutter 2017)."""
    return lambda step: _between(first, last, min(step / steps, 1.0))


def one_cycle(
    highest: float, steps: int, rise: float = 0.3, first_divisor: float = 25.0, last_divisor: float = 1e4
) -> Schedule:
    """Up for the share `rise` of the steps, then down: torch's OneCycleLR, without its cycle of momentum.

    It begins at `highest / first_divisor` and ends, at step `steps - 1`, at that divided by `last_divisor`.
    """
    first = highest / first_divisor
    peak, end = rise * steps - 1, steps - 1

    def rate(step: int) -> float:
        if step < peak:
            return _between(first, highest, step / peak)
        return _between(highest, first / last_divisor, min((step - peak) / (end - peak), 1.0))

    return rate


def warm_up(schedule: Schedule, steps: int, start: float = 0.0) -> Schedule:
    """The rate rises in a straight line from `start` times the schedule's first; then the schedule begins.

    As torch's LinearLR in front of another schedule (SequentialLR).
    """

    def rate(step: int) -> float:
        if step >= steps:
            return schedule(step - steps)
        return schedule(0) * (start + (1 - start) * step / steps)

    return rate


def _between(start: float, end: float, way: float) -> float:
    """From start to end along half a cosine; `way` is 0 to 1."""
    return end + (start - end) * (1 + math.cos(math.pi * way)) / 2

"""Before the start: what a synthesis will cost, counted and tried out."""

import math
from dataclasses import dataclass
from itertools import islice

from cnnkit import available_memory, measure
from cnnkit.plugins.synthesis.loop import Moment, Synthesis, Task
from cnnkit.plugins.synthesis.stages import Size

TRIED = 3
"""Moves, of which the first pays for allocations and is not counted."""


@dataclass(frozen=True)
class Probe:
    """What a synthesis costs at its last and largest size, in an iteration and as a whole.

    `macs` are the network's multiply-accumulates in an iteration: back to the picture, a layer costs about
    what it costs forwards. `bytes` are an estimate of the memory that activations and optimizer take; `free`
    those that there are, or that the user allows; `seconds` those of an iteration, measured; `total_seconds`
    those of all stages. `fitting` is the largest (height, width) of this aspect that fits into `free`, and
    into the seconds that the user allows.
    """

    size: Size
    macs: int
    bytes: int
    free: int
    seconds: float
    total_seconds: float
    fitting: Size


def probe(task: Task, seconds: float | None = None) -> Probe:
    """Runs a few iterations of a task at its last size; `seconds` as for `Synthesis`."""
    size = task.size
    trial = Synthesis(task)
    every, trial.stages = trial.stages, trial.stages[-1:]
    moments = list(islice(trial.moments(), TRIED))
    each = _seconds_each(moments)
    whole = each * sum(stage.iterations * math.prod(stage.size) / math.prod(size) for stage in every)
    needed = trial.bytes
    free = task.context.settings.max_memory or available_memory()
    factor = free / needed if seconds is None else min(free / needed, seconds / whole)
    height, width = (max(1, int(side * math.sqrt(factor))) for side in size)
    return Probe(size, 2 * measure(task.eye.graph, *size).macs, needed, free, each, whole, (height, width))


def _seconds_each(moments: list[Moment]) -> float:
    first, last = moments[0], moments[-1]
    if last.number == first.number:  # it ended at once
        return last.seconds
    return (last.seconds - first.seconds) / (last.number - first.number)

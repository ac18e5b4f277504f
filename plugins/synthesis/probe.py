"""Before the start: what a synthesis will cost, counted and tried out."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from cnnkit import Context, Model, available_memory, measure
from cnnkit.plugins.synthesis.eye import watched
from cnnkit.plugins.synthesis.loop import Array, Moment, Synthesis
from cnnkit.plugins.synthesis.objective import Objective
from cnnkit.plugins.synthesis.recipe import Recipe
from cnnkit.plugins.synthesis.stages import Size, stages

TRIED = 3
"""Moves, of which the first pays for allocations and is not counted."""


@dataclass(frozen=True)
class Probe:
    """What a synthesis costs at its last and largest size, in an iteration and as a whole.

    `macs` are the multiply-accumulates of an iteration, forward and backward; `bytes` an estimate of the
    memory that activations and optimizer take; `free` the bytes that there are, or that the user allows;
    `seconds` those of an iteration, measured; `total_seconds` those of all stages. `fitting` is the largest
    (height, width) of this aspect that fits into `free`, and into the seconds that the user allows.
    """

    size: Size
    macs: int
    bytes: int
    free: int
    seconds: float
    total_seconds: float
    fitting: Size


def probe(
    eye: Model,
    objective: Objective,
    feeds: Callable[[Size], Mapping[str, Any]],
    recipe: Recipe,
    context: Context,
    start: Callable[[Size], Array],
    size: Size,
    seconds: float | None = None,
) -> Probe:
    """Runs a few iterations at the last size; arguments as for `Synthesis`."""
    trial = Synthesis(eye, objective, feeds, replace(recipe, pyramid=0), context, start, size)
    moments = list(islice(trial.moments(), TRIED))
    each = _seconds_each(moments)
    whole = each * sum(
        stage.iterations * math.prod(stage.size) / math.prod(size) for stage in stages(recipe, size)
    )
    needed = trial.bytes
    free = context.settings.max_memory or available_memory()
    factor = free / needed if seconds is None else min(free / needed, seconds / whole)
    height, width = (max(1, int(side * math.sqrt(factor))) for side in size)
    return Probe(size, _macs(eye, objective, size), needed, free, each, whole, (height, width))


def _seconds_each(moments: list[Moment]) -> float:
    first, last = moments[0], moments[-1]
    if last.number == first.number:  # it ended at once
        return last.seconds
    return (last.seconds - first.seconds) / (last.number - first.number)


def _macs(eye: Model, objective: Objective, size: Size) -> int:
    """Back to the picture, a layer costs about what it costs forwards; and so does a Gram matrix."""
    planes = watched(eye, size)
    grams = sum(planes[name].channels ** 2 * math.prod(planes[name][:2]) for name in objective.style)
    return 2 * (measure(eye.graph, *size).macs + grams)

"""Which convolutions gain from a rewrite on this machine: tried out, not guessed."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from cnnkit.graphs.builder import Builder
from cnnkit.graphs.rewrite import Candidate, winograd
from cnnkit.runtime.device import available_memory, start

MARGIN = 0.9
"""A rewritten convolution must take no more than this share of the time: alone, as it is measured here, it is
spared a few conversions between layouts that it costs its neighbours."""
FEWEST_CHANNELS = 96
"""With fewer, in or out, the transforms cost more than the products save."""
FEWEST_MACS = 10_000_000
"""A convolution of fewer multiply-accumulates takes a millisecond at most, on one core."""
BUDGET = 5.0
"""Seconds that measuring may take; what was not measured by then stays as it is."""
_PAIRS = 5
_SECONDS = 0.5  # of one kind of convolution, from which on two pairs are enough

_measured: dict[tuple[Candidate, int | None], "Timing"] = {}


@dataclass(frozen=True)
class Timing:
    """Seconds of one convolution as it is, and rewritten."""

    plain: float
    rewritten: float

    @property
    def saving(self) -> float:
        return self.plain - self.rewritten


@dataclass(frozen=True)
class Choice:
    """Convolutions worth rewriting: their names, what all of them together take, and the memory they need.

    `unmeasured` is how many could have been worth it but were not reached in time.
    """

    names: tuple[str, ...]
    timing: Timing
    extra_bytes: int
    unmeasured: int = 0

    def __str__(self) -> str:
        """One line for the log."""
        late = f"; {self.unmeasured} not measured for lack of time" if self.unmeasured else ""
        if not self.names:
            return f"no convolution is faster rewritten{late}"
        return (
            f"{len(self.names)} convolution(s) rewritten: {1000 * self.timing.rewritten:.0f} ms in place of "
            f"{1000 * self.timing.plain:.0f} ms a run, for {self.extra_bytes >> 20} MiB{late}"
        )


def worth_rewriting(
    candidates: Sequence[Candidate],
    threads: int | None = None,
    max_memory: int | None = None,
    budget: float = BUDGET,
) -> Choice:
    """Those of the candidates whose Winograd form is clearly faster on this machine's CPU.

    Convolutions that are alike are measured once in a process, and an open batch as a single picture. The
    largest saving comes first, as long as the extra memory stays within `max_memory` bytes (default: a
    quarter of what is free): all the transformed weights, and the tiles of one convolution at a time. CUDA
    needs none of this: cuDNN chooses Winograd by itself.
    """
    memory = available_memory() // 4 if max_memory is None else max_memory
    end = time.perf_counter() + budget
    timings: dict[str, Timing] = {}
    unmeasured = 0
    promising = [candidate for candidate in candidates if _promising(candidate, memory)]
    for candidate in sorted(promising, key=lambda candidate: candidate.macs, reverse=True):
        kind = replace(candidate, name="conv", batch=candidate.batch or 1), threads
        if kind not in _measured:
            if time.perf_counter() > end:
                unmeasured += 1
                continue
            _measured[kind] = _measure(*kind)
        if _measured[kind].rewritten <= MARGIN * _measured[kind].plain:
            timings[candidate.name] = _measured[kind]
    taken: list[Candidate] = []
    for candidate in sorted(
        (candidate for candidate in promising if candidate.name in timings),
        key=lambda candidate: timings[candidate.name].saving,
        reverse=True,
    ):
        if _bytes([*taken, candidate]) <= memory:
            taken.append(candidate)
    chosen = [timings[candidate.name] for candidate in taken]
    total = Timing(sum(timing.plain for timing in chosen), sum(timing.rewritten for timing in chosen))
    return Choice(tuple(candidate.name for candidate in taken), total, _bytes(taken), unmeasured)


def _promising(candidate: Candidate, memory: int) -> bool:
    return (
        min(candidate.channels, candidate.filters) >= FEWEST_CHANNELS
        and candidate.macs >= FEWEST_MACS
        and candidate.extra_bytes <= memory
    )


def _bytes(candidates: Sequence[Candidate]) -> int:
    return sum(candidate.weight_bytes for candidate in candidates) + max(
        (candidate.tile_bytes for candidate in candidates), default=0
    )


def _measure(candidate: Candidate, threads: int | None) -> Timing:
    """Medians of a few runs with random numbers, one form after the other, after one run of each."""
    model, feeds = _alone(candidate)
    sessions = [
        start(form, None, candidate.name, "cpu", threads)
        for form in (model, winograd(model, [candidate.name]))
    ]
    seconds: list[list[float]] = [[], []]
    for session in sessions:
        session.run(None, feeds)
    while len(seconds[0]) < _PAIRS and (len(seconds[0]) < 2 or sum(map(sum, seconds)) < _SECONDS):
        for session, spent in zip(sessions, seconds, strict=True):
            before = time.perf_counter()
            session.run(None, feeds)
            spent.append(time.perf_counter() - before)
    return Timing(median(seconds[0]), median(seconds[1]))


def _alone(candidate: Candidate) -> tuple[onnx.ModelProto, dict[str, NDArray[Any]]]:
    """A model of this convolution only, and what to feed it."""
    random = np.random.default_rng(0)
    shapes = {
        "x": (candidate.batch or 1, candidate.channels, candidate.height, candidate.width),
        "weights": (candidate.filters, candidate.channels, 3, 3),
    }
    feeds = {name: random.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    b = Builder("alone")
    x = b.input("x", shapes["x"])
    weights = b.constant(feeds.pop("weights")) if candidate.frozen else b.input("weights", shapes["weights"])
    (top, bottom), (left, right) = candidate.pads
    pads = [top, left, bottom, right]
    y = b.op.Conv(x, weights, np.zeros(candidate.filters, np.float32), pads=pads, name=candidate.name)
    b.output(y)
    return b.model(), feeds

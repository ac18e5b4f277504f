"""Schedules: their ends and middles by hand, and torch's."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest

from cnnkit import schedules


def test_by_hand() -> None:
    assert schedules.exponential(2.0, 0.5)(3) == 0.25
    assert schedules.exponential(100.0, 0.96, every=100)(50) == pytest.approx(
        100 * 0.96**0.5
    )  # Keras's example
    assert [schedules.steps(1.0, [2, 4], 0.5)(step) for step in range(6)] == [1, 1, 0.5, 0.5, 0.25, 0.25]
    falling = schedules.cosine(1.0, 10, last=0.5)
    assert [falling(step) for step in (0, 5, 10, 99)] == pytest.approx([1, 0.75, 0.5, 0.5])
    cycle = schedules.one_cycle(1.0, 101, rise=51 / 101)
    assert [cycle(step) for step in (0, 25, 50, 75, 100, 999)] == pytest.approx(
        [0.04, 0.52, 1.0, 0.5, 4e-6, 4e-6], rel=1e-4
    )
    warm = schedules.warm_up(falling, 4, start=0.5)
    assert [warm(step) for step in (0, 2, 4, 9, 14)] == pytest.approx([0.5, 0.75, 1.0, 0.75, 0.5])


def in_torch(make: Callable[[Any, Any], Any], rate: float) -> list[float]:
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1)], rate, momentum=0.9)
    rates = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own: of steps in the other order
        schedule = make(torch.optim.lr_scheduler, optimizer)
        for _ in range(50):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
    return rates


@pytest.mark.oracle
@pytest.mark.parametrize(
    "ours, make",
    [
        (schedules.exponential(0.3, 0.9), lambda s, o: s.ExponentialLR(o, 0.9)),
        (schedules.steps(0.3, range(7, 50, 7), 0.5), lambda s, o: s.StepLR(o, 7, 0.5)),
        (schedules.steps(0.3, [3, 20, 21]), lambda s, o: s.MultiStepLR(o, [3, 20, 21])),
        (schedules.cosine(0.3, 50, 0.01), lambda s, o: s.CosineAnnealingLR(o, 50, 0.01)),
        (schedules.one_cycle(0.3, 51), lambda s, o: s.OneCycleLR(o, 0.3, total_steps=51)),
        (
            schedules.one_cycle(0.3, 60, 0.4, 10, 100),
            lambda s, o: s.OneCycleLR(o, 0.3, 60, pct_start=0.4, div_factor=10, final_div_factor=100),
        ),
        (
            schedules.warm_up(schedules.exponential(0.3, 0.9), 8, 0.1),
            lambda s, o: s.SequentialLR(o, [s.LinearLR(o, 0.1, total_iters=8), s.ExponentialLR(o, 0.9)], [8]),
        ),
    ],
)
def test_as_torch(ours: schedules.Schedule, make: Callable[[Any, Any], Any]) -> None:
    assert [ours(step) for step in range(50)] == pytest.approx(in_torch(make, 0.3), rel=1e-9)

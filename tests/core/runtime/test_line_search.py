"""Line searches: what each promises, on curves of one number, and the steps that SciPy's and torch's try."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cnnkit.runtime.line_search import FixedStep, Line, MoreThuente, NotFinite, Point, StrongWolfe

Curve = Callable[[float], tuple[float, float]]


def line_of(curve: Curve) -> tuple[Line, list[float]]:
    """A curve and its slope as a line that begins at 0, and the steps at which it was asked."""
    asked: list[float] = []

    def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
        asked.append(float(x[0]))
        value, slope = curve(float(x[0]))
        return value, np.array([slope])

    value, slope = curve(0.0)
    start = Point(0.0, value, 0.0, np.zeros(1), np.array([slope]))
    return Line(objective, start, np.ones(1)), asked


CURVES: dict[
    str, Curve
] = {  # those of More and Thuente 1994, section 5, and a few that are harder to bracket
    "rational": lambda a: (-a / (a * a + 2), (a * a - 2) / (a * a + 2) ** 2),
    "power": lambda a: ((a + 0.004) ** 5 - 2 * (a + 0.004) ** 4, 5 * (a + 0.004) ** 4 - 8 * (a + 0.004) ** 3),
    "parabola": lambda a: ((a - 1) ** 2, 2 * (a - 1)),
    "oscillating": lambda a: (a * a / 50 - math.sin(a), a / 25 - math.cos(a)),
    "exponential": lambda a: (math.exp(a) - 4 * a, math.exp(a) - 4),
    "wavy": lambda a: ((a - 3) ** 2 + 2 * math.sin(5 * a) - 6 * a, 2 * (a - 3) + 10 * math.cos(5 * a) - 6),
}


FIRST_STEPS = [
    (name, first)
    for name in CURVES
    for first in np.logspace(-3, 3, 13)
    if name != "exponential" or first <= 100  # beyond, it overflows
]


def good(curve: Curve, step: float, share: float) -> bool:
    """Whether a step obeys the strong Wolfe conditions."""
    (start, fall), (value, slope) = curve(0.0), curve(step)
    return value <= start + share * step * fall and abs(slope) <= 0.9 * abs(fall)


@pytest.mark.parametrize("first", [1e-3, 0.1, 1.0, 10.0, 1e3])
@pytest.mark.parametrize("name", ["parabola", "oscillating"])
def test_both_searches_find_a_good_step(name: str, first: float) -> None:
    for rule, share in ((StrongWolfe(), 1e-4), (MoreThuente(), 1e-3)):
        line, asked = line_of(CURVES[name])
        found = rule.search(line, first)
        assert found is not None
        assert asked[0] == first
        assert found.x[0] == found.step
        assert (found.loss, found.slope) == pytest.approx(CURVES[name](found.step))
        assert good(CURVES[name], found.step, share)


def test_a_fixed_step_asks_once_and_takes_what_comes() -> None:
    line, asked = line_of(CURVES["parabola"])
    found = FixedStep().search(line, 30.0)
    assert found is not None
    assert (found.loss, asked) == (841, [30.0])


@pytest.mark.parametrize("rule", [StrongWolfe(), MoreThuente()])
def test_a_curve_that_only_rises_has_no_step(rule: StrongWolfe | MoreThuente) -> None:
    """Its gradient claims that it falls."""
    line, asked = line_of(lambda a: (a, -1.0))
    assert rule.search(line, 1.0) is None
    assert len(asked) <= 40


def test_a_place_without_a_number_is_an_error_and_what_was_good_is_remembered() -> None:
    """-log(1 - a) - 2 a has its minimum at 1/2 and ends at 1."""
    line, _ = line_of(
        lambda a: (-math.log(1 - a) - 2 * a, 1 / (1 - a) - 2) if a < 1 else (math.nan, math.nan)
    )
    line(0.25)
    with pytest.raises(NotFinite):
        line(2.0)
    assert line.lowest is not None
    assert line.lowest.step == 0.25


@pytest.mark.oracle
@pytest.mark.parametrize("name, first", FIRST_STEPS)
def test_the_steps_are_scipys(name: str, first: float) -> None:
    """Every step that is tried, in order, with the constants of L-BFGS-B."""
    search = pytest.importorskip("scipy.optimize._dcsrch").DCSRCH
    curve = CURVES[name]
    theirs: list[float] = []

    def value(step: float) -> float:
        theirs.append(float(step))
        return curve(step)[0]

    search(value, lambda step: curve(step)[1], 1e-3, 0.9, 0.1, 0.0, 1e10)(first, *curve(0.0), maxiter=20)
    line, ours = line_of(curve)
    MoreThuente().search(line, first)
    distinct = [step for step, before in zip(theirs, [None, *theirs], strict=False) if step != before]
    assert ours == pytest.approx(distinct, rel=1e-9)


@pytest.mark.oracle
@pytest.mark.parametrize("name, first", FIRST_STEPS)
def test_the_steps_are_torchs(name: str, first: float) -> None:
    torch = pytest.importorskip("torch")
    curve = CURVES[name]
    theirs: list[float] = []

    def objective(x: Any, step: Any, direction: Any) -> Any:
        theirs.append(float(step))
        value, slope = curve(float(step))
        return value, torch.tensor([slope], dtype=torch.float64)

    value, fall = curve(0.0)
    fall = torch.tensor([fall], dtype=torch.float64)
    one = torch.ones(1, dtype=torch.float64)
    search = pytest.importorskip("torch.optim.lbfgs")._strong_wolfe
    _, _, chosen, _ = search(objective, 0, first, one, value, fall, fall[0])
    line, ours = line_of(curve)
    found = StrongWolfe().search(line, first)
    assert ours == pytest.approx(theirs, rel=1e-9)
    assert (found.step if found else 0.0) == pytest.approx(float(chosen), rel=1e-9)

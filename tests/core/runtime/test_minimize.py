"""Minimization: it never stops in silence, nor above the best it saw, and goes its originals' ways."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cnnkit import (
    LBFGS,
    SGD,
    Builder,
    Iterate,
    Minimum,
    Model,
    Reason,
    Tolerances,
    TrainingSession,
    UsageError,
    losses,
    minimize,
    objective_of,
)
from cnnkit.runtime.line_search import FixedStep

Vector = NDArray[np.float64]
Function = Callable[[Vector], tuple[float, Vector]]

NEVER = Tolerances(loss=0.0, gradient=0.0)
METHODS = {
    "scipy": LBFGS.as_scipy(),
    "torch": LBFGS.as_torch(),
    "strong wolfe": LBFGS.as_torch(strong_wolfe=True),
    "crowsonkb": LBFGS.as_crowsonkb(first_step=0.01),
}
SEARCHING = ["scipy", "strong wolfe"]


def rosenbrock(x: Vector) -> tuple[float, Vector]:
    a, b = x[:-1], x[1:]
    slope = np.zeros_like(x)
    slope[:-1] = -400 * a * (b - a**2) - 2 * (1 - a)
    slope[1:] += 200 * (b - a**2)
    return float((100 * (b - a**2) ** 2 + (1 - a) ** 2).sum()), slope


def quadratic(size: int = 30, condition: float = 1e3) -> tuple[Function, Vector]:
    """A least-squares problem and its solution."""
    random = np.random.default_rng(0)
    rows = random.standard_normal((2 * size, size)) * np.geomspace(1, condition**0.5, size)
    wanted = random.standard_normal(size)
    target = rows @ wanted
    return lambda x: (0.5 * float(((rows @ x - target) ** 2).sum()), rows.T @ (rows @ x - target)), wanted


def start(size: int) -> Vector:
    return np.tile([-1.2, 1.0], size // 2)


@pytest.mark.parametrize("name", METHODS)
def test_a_parabola_is_solved(name: str) -> None:
    found = minimize(lambda x: (float(x @ x), 2 * x), np.array([3.0, -4.0]), METHODS[name])
    assert found.converged
    assert found.x == pytest.approx([0, 0], abs=1e-6)
    assert found.loss == found.x @ found.x
    assert found.losses[0] == 25
    assert found.iterations == len(found.losses) - 1 == found.last.number
    assert found.reason in (Reason.GRADIENT, Reason.LOSS)


@pytest.mark.parametrize("name", SEARCHING)
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_the_scale_of_the_loss_does_not_matter(name: str, scale: float) -> None:
    method = LBFGS(search=METHODS[name].search)  # torch's absolute test of a pair would refuse the smallest
    found = minimize(lambda x: (scale * rosenbrock(x)[0], scale * rosenbrock(x)[1]), start(10), method)
    assert found.converged
    assert found.x == pytest.approx(np.ones(10), abs=1e-3)
    assert found.losses == sorted(found.losses, reverse=True)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_gets_down_at_every_scale(name: str, scale: float) -> None:
    function, _ = quadratic(8, 20.0)
    found = minimize(
        lambda x: (scale * function(x)[0], scale * function(x)[1]), np.zeros(8), METHODS[name], iterations=300
    )
    if name in ("torch", "strong wolfe") and scale < 1:
        assert found.reason in Reason  # torch remembers no pair of so little curvature, and crawls
        assert found.loss <= found.losses[0]
    else:
        assert found.loss < 1e-6 * found.losses[0]


@pytest.mark.parametrize("name", METHODS)
def test_a_zero_gradient_is_where_it_ends(name: str) -> None:
    found = minimize(lambda x: (7.0, np.zeros(3)), np.ones(3), METHODS[name])
    assert (found.reason, found.iterations, found.evaluations) == (Reason.GRADIENT, 0, 1)
    assert found.x.tolist() == [1, 1, 1]


@pytest.mark.parametrize("name", METHODS)
def test_a_loss_that_never_changes_is_told(name: str) -> None:
    """As float32 shows it when the first step is too short: the gradient is there, the loss stands still."""
    found = minimize(lambda x: (1e12, np.ones(3)), np.zeros(3), METHODS[name], iterations=100)
    assert found.reason is Reason.NO_DESCENT
    assert found.evaluations < 100


@pytest.mark.parametrize("name", SEARCHING)
def test_a_gradient_that_points_uphill_is_told(name: str) -> None:
    found = minimize(lambda x: (float(x @ x), -2 * x), np.ones(3), METHODS[name])
    assert found.reason is Reason.NO_DESCENT
    assert found.loss == 3


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_no_number_at_the_start(name: str, value: float) -> None:
    found = minimize(lambda x: (value, np.ones(2)), np.zeros(2), METHODS[name])
    assert (found.reason, found.evaluations) == (Reason.NOT_FINITE, 1)
    assert found.x.tolist() == [0, 0]


@pytest.mark.parametrize("name", METHODS)
def test_no_number_anywhere_else(name: str) -> None:
    found = minimize(lambda x: (1.0 if not x.any() else math.nan, np.ones(2)), np.zeros(2), METHODS[name])
    assert found.reason is Reason.NOT_FINITE
    assert found.evaluations < 50
    assert (found.x.tolist(), found.loss) == ([0, 0], 1)


@pytest.mark.parametrize("name", METHODS)
def test_it_walks_back_from_where_there_is_no_number(name: str) -> None:
    """x - log x, from where the first steps and many later ones lead below 0."""

    def barrier(x: Vector) -> tuple[float, Vector]:
        if (x <= 0).any():
            return math.nan, np.full_like(x, math.nan)
        return float((1e3 * x - np.log(x)).sum()), 1e3 - 1 / x

    found = minimize(barrier, np.array([0.9, 0.01, 5.0]), METHODS[name], iterations=500)
    assert found.loss < barrier(np.full(3, 2e-3))[0]
    if name in SEARCHING:
        assert found.x == pytest.approx(np.full(3, 1e-3), rel=1e-2)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("seed", range(5))
def test_it_is_never_worse_than_the_best_it_saw(name: str, seed: int) -> None:
    """On a landscape of waves with negative curvature everywhere between."""
    random = np.random.default_rng(seed)
    waves, phase = random.standard_normal((40, 12)), random.random(40)
    seen: list[float] = []

    def landscape(x: Vector) -> tuple[float, Vector]:
        inner = waves @ x + phase
        seen.append(float(np.sin(inner).sum() + 0.01 * x @ x))
        return seen[-1], waves.T @ np.cos(inner) + 0.02 * x

    found = minimize(landscape, random.standard_normal(12), METHODS[name], iterations=60)
    assert found.loss == min(seen)
    assert found.loss == landscape(found.x)[0]
    assert found.gradient == pytest.approx(landscape(found.x)[1])
    assert found.loss < found.losses[0]
    assert isinstance(found.reason, Reason)


def test_bent_pairs_keep_a_method_without_a_search_going_down() -> None:
    """Down a ridge of negative curvature into the two valleys of (x² - 1)²."""

    def valleys(x: Vector) -> tuple[float, Vector]:
        return float(((x**2 - 1) ** 2).sum()), 4 * x * (x**2 - 1)

    found = minimize(
        valleys, np.array([0.01, -0.02, 0.03]), LBFGS.as_crowsonkb(first_step=0.01), iterations=200
    )
    assert np.abs(found.x) == pytest.approx(np.ones(3), abs=1e-3)


def test_the_first_step_is_as_long_as_asked() -> None:
    places: list[Vector] = []
    for method in (LBFGS.as_crowsonkb(first_step=0.1), LBFGS(first_step=0.1)):
        minimize(
            lambda x: (float(1e9 * x.sum()), np.full(4, 1e9)),
            np.zeros(4),
            method,
            watch=lambda iterate: places.append(iterate.x) or iterate.number == 1,
        )
        assert places[0] == pytest.approx(np.zeros(4))
    assert places[1] == pytest.approx(np.full(4, -0.1))


def test_why_it_stopped() -> None:
    def reason(**named: Any) -> Minimum:
        return minimize(rosenbrock, start(10), **named)

    assert (found := reason(iterations=5)).reason is Reason.ITERATIONS
    assert found.iterations == 5
    assert (found := reason(evaluations=8)).reason is Reason.EVALUATIONS
    assert 8 < found.evaluations <= 8 + 21
    assert (found := reason(watch=lambda iterate: iterate.number == 3)).reason is Reason.ASKED
    assert found.iterations == 3
    assert not found.converged
    assert reason(tolerances=Tolerances(loss=0.5, patience=1)).reason is Reason.LOSS
    assert reason(tolerances=Tolerances(loss=0, gradient=0.01)).reason is Reason.GRADIENT
    assert str(reason(seconds=0).reason) == "the time is used up"


def test_time_is_kept_within_a_search() -> None:
    def slow(x: Vector) -> tuple[float, Vector]:
        time.sleep(0.05)
        return rosenbrock(x)

    begun = time.monotonic()
    found = minimize(slow, start(10), seconds=0.3)
    assert 0.25 < time.monotonic() - begun < 0.6
    assert found.reason is Reason.SECONDS
    assert found.loss < found.losses[0]


@pytest.mark.parametrize("when", [2, 17])
def test_an_interruption_keeps_the_best(when: int) -> None:
    seen: list[float] = []

    def interrupted(x: Vector) -> tuple[float, Vector]:
        if len(seen) == when:
            raise KeyboardInterrupt
        seen.append(rosenbrock(x)[0])
        return rosenbrock(x)

    found = minimize(interrupted, start(10))
    assert found.reason is Reason.INTERRUPTED
    assert found.loss == min(seen) == rosenbrock(found.x)[0]


def test_an_error_of_the_objective_is_not_swallowed() -> None:
    with pytest.raises(ValueError, match="mine"):
        minimize(lambda x: (_ for _ in ()).throw(ValueError("mine")), np.zeros(2))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("stop", [0, 1, 4, 11])
def test_a_run_is_taken_up_bit_for_bit(name: str, stop: int, tmp_path: Path) -> None:
    """From a file, behind any iterate, on a landscape on which the steps do not all go down."""
    method = replace(METHODS[name], memory=3)
    whole = list(islice(method.iterates(rosenbrock, start(6)), 25))
    np.savez(tmp_path / "state.npz", allow_pickle=False, **whole[stop].state())
    with np.load(tmp_path / "state.npz") as saved:
        taken_up = Iterate.of(saved)
    rest = list(islice(method.iterates(rosenbrock, taken_up), 24 - stop))
    for ours, theirs in zip(rest, whole[stop + 1 :], strict=True):
        assert ours.number == theirs.number
        assert (ours.loss, ours.step, ours.x.tobytes()) == (theirs.loss, theirs.step, theirs.x.tobytes())
        assert len(ours.pairs) == len(theirs.pairs) <= 3


def test_the_best_is_taken_up_too() -> None:
    """The first step is up, onto the edge of what is defined: from there it goes back to the start."""

    def edge(x: Vector) -> tuple[float, Vector]:
        return (math.nan, x * math.nan) if x[0] > 2 else (float(x[0]), x / 4 - 1)

    method = LBFGS(3, FixedStep(), first_step=2.0)
    whole = list(islice(method.iterates(edge, [0.0]), 6))
    assert [(way.number, way.x.tolist()) for way in whole] == [(0, [0]), *((n, [2]) for n in range(1, 6))]
    for stop in range(5):
        rest = list(islice(method.iterates(edge, Iterate.of(whole[stop].state())), 5 - stop))
        assert [(way.number, way.x.tolist()) for way in rest] == [(n, [2]) for n in range(stop + 1, 6)]


def box(x: Vector) -> Vector:
    return np.clip(x, 0.0, 0.5)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("everywhere", [False, True])
def test_iterates_stay_where_they_may_be(name: str, everywhere: bool) -> None:
    """The minimum of |x - (1, 0.2)|² in the box is (0.5, 0.2), and its loss there 0.25."""
    seen: list[Vector] = []

    def function(x: Vector) -> tuple[float, Vector]:
        seen.append(x)
        return float(((x - [1, 0.2]) ** 2).sum()), 2 * (x - [1, 0.2])

    run = METHODS[name].iterates(function, [0.3, 0.4], projection=box, everywhere=everywhere)
    ways = list(islice(run, 40))
    for iterate in ways:
        assert (box(iterate.x) == iterate.x).all()
        assert iterate.loss == function(iterate.x)[0]
    assert 0.25 <= min(way.loss for way in ways) < 0.27
    outside = [x for x in seen if (box(x) != x).any()]
    assert bool(outside) != everywhere


def test_the_whole_step_is_remembered_of_one_that_was_brought_back() -> None:
    """From 0 along the slope -1 by 1, brought back to 0.5: s is 1, not 0.5, and y the change up to 0.5."""
    method = LBFGS(5, FixedStep(1.0), first_step=1.0)
    for everywhere in (False, True):
        run = method.iterates(
            lambda x: (float(0.5 * (x @ x) - x.sum()), x - 1), [0.0], projection=box, everywhere=everywhere
        )
        _, second = islice(run, 2)
        ((step, change, curvature),) = second.pairs
        assert (step.tolist(), change.tolist(), curvature) == ([1.0], [0.5], 0.5)


@pytest.mark.oracle
def test_the_way_of_torch_with_a_clamp_in_the_closure() -> None:
    """As PyTorch's tutorial on style transfer does it: the optimizer does not know that its x was changed."""
    torch = pytest.importorskip("torch")
    function, x = PROBLEMS["least squares"]
    place = torch.tensor(x, requires_grad=True)
    theirs = torch.optim.LBFGS([place], max_iter=20, tolerance_grad=0, tolerance_change=0)
    way: list[Vector] = []

    def closure() -> Any:
        with torch.no_grad():
            place.clamp_(-0.7, 0.7)
        loss, gradient = function(place.detach().numpy().copy())
        place.grad = torch.tensor(gradient)
        way.append(place.detach().numpy().copy())
        return torch.tensor(loss, dtype=torch.float64)

    theirs.step(closure)
    run = LBFGS.as_torch().iterates(function, x, projection=lambda x: np.clip(x, -0.7, 0.7), everywhere=True)
    ours = [iterate.x for iterate in islice(run, 15)]
    assert max(np.abs(x).max() for x in ours) == 0.7
    for number, (a, b) in enumerate(zip(ours, way[:15], strict=True)):
        assert np.abs(a - b).max() <= 1e-8, number


def weighted() -> Model:
    """y = w · x over pictures of one channel and two pixels."""
    b = Builder("line")
    flat = b.op.Flatten(b.input("input", ("batch", 1, 1, 2)))
    b.output(b.op.MatMul(flat, b.constant(np.array([[3], [5]], np.float32), "weight"), name="y"))
    return Model.of(b.model())


def error_and_penalty(b: Builder, tap: Any) -> Any:
    return {
        "error": losses.mean_squared_error(b.op, tap("y"), b.input("target", ("batch", 1))),
        "penalty": b.op.Mul(losses.l2_penalty(b.op, b.tensor("weight")), 0.5),
    }


def test_a_session_is_an_objective() -> None:
    """Ridge regression has a solution in closed form."""
    rows = np.array([[1, 2], [0, 1], [3, -1]], np.float32)
    target = np.array([[1], [2], [3]], np.float32)
    session = TrainingSession(weighted(), error_and_penalty, ["weight"])
    first = {"weight": session.read("weight")}
    function, flat = objective_of(session, {"input": rows.reshape(3, 1, 1, 2), "target": target}, first)
    found = minimize(function, flat.pack(first))
    wanted = np.linalg.solve(rows.T @ rows * 2 / 3 + np.eye(2), rows.T @ target * 2 / 3)
    weight = flat.unpack(found.x)["weight"]
    assert (weight.shape, weight.dtype) == ((2, 1), np.float32)
    assert weight == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("optimizer", [None, SGD()])
def test_a_picture_and_a_weight_together(optimizer: SGD | None) -> None:
    session = TrainingSession(weighted(), error_and_penalty, ["input", "weight"], optimizer, batch=1)
    first = {"input": np.ones((1, 1, 1, 2), np.float32), "weight": session.read("weight")}
    function, flat = objective_of(session, {"target": [[2.0]]}, first)
    loss, gradient = function(flat.pack(first))
    assert loss == 36 + 17
    slopes = flat.unpack(gradient)
    assert slopes["input"].ravel().tolist() == [36, 60]
    assert slopes["weight"].ravel().tolist() == [12 + 3, 12 + 5]


def test_only_what_has_a_gradient_can_be_found() -> None:
    session = TrainingSession(weighted(), error_and_penalty, ["weight"])
    with pytest.raises(UsageError, match="no gradient of 'input'; name it in wrt"):
        objective_of(session, {}, {"input": np.zeros((1, 1, 1, 2))})


def small_network() -> tuple[Function, Vector]:
    """Two dense layers with tanh over noise, in numpy and float64."""
    random = np.random.default_rng(3)
    pictures, target = random.standard_normal((20, 6)), random.standard_normal((20, 3))

    def function(x: Vector) -> tuple[float, Vector]:
        first, second = x[:30].reshape(6, 5), x[30:].reshape(5, 3)
        hidden = np.tanh(pictures @ first)
        wrong = hidden @ second - target
        back = wrong @ second.T * (1 - hidden**2)
        slopes = np.concatenate([(pictures.T @ back).ravel(), (hidden.T @ wrong).ravel()])
        return 0.5 * float((wrong**2).sum()), slopes

    return function, 0.5 * random.standard_normal(45)


PROBLEMS = {
    "rosenbrock 2": (rosenbrock, start(2)),
    "rosenbrock 10": (rosenbrock, start(10)),
    "least squares": (quadratic()[0], np.zeros(30)),
    "network": small_network(),
}


def assert_same_way(ours: list[Vector], theirs: list[Vector], function: Function) -> None:
    """Equal, but for rounding, which each step makes larger; until the loss is down to a millionth."""
    first = function(theirs[0])[0]
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=False) if function(b)[0] > 1e-6 * first]
    assert len(pairs) >= 15
    for number, (a, b) in enumerate(pairs[:50]):
        assert np.abs(a - b).max() <= (1e-12 if number < 5 else 1e-5) * np.abs(b).max(), number


@pytest.mark.oracle
@pytest.mark.parametrize("memory, maxls", [(3, 20), (10, 20), (10, 2)])
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_way_of_scipy(name: str, memory: int, maxls: int) -> None:
    optimize = pytest.importorskip("scipy.optimize")
    function, x = PROBLEMS[name]
    ours: list[Vector] = []
    theirs: list[Vector] = []
    _, _, told = optimize.fmin_l_bfgs_b(
        function, x, m=memory, maxls=maxls, maxiter=80, callback=lambda x: theirs.append(x.copy())
    )
    found = minimize(
        function,
        x,
        LBFGS.as_scipy(memory, maxls),
        iterations=80,
        tolerances=Tolerances.as_scipy(),
        watch=lambda iterate: ours.append(iterate.x),
    )
    assert_same_way(ours[1:], theirs, function)
    assert abs(found.iterations - told["nit"]) <= 2
    assert abs(found.evaluations - told["funcalls"]) <= 4
    assert found.converged == (told["warnflag"] == 0)


@pytest.mark.oracle
def test_the_evaluations_are_limited_as_by_scipys_maxfun() -> None:
    """Keras's example restarts every 20."""
    optimize = pytest.importorskip("scipy.optimize")
    x = start(10)
    ours = theirs = x
    for _ in range(3):
        theirs, _, told = optimize.fmin_l_bfgs_b(rosenbrock, theirs, maxfun=20)
        found = minimize(rosenbrock, ours, evaluations=20, tolerances=Tolerances.as_scipy())
        ours = found.last.x
        assert found.evaluations == told["funcalls"]
        assert ours == pytest.approx(theirs, rel=1e-8)


@pytest.mark.oracle
@pytest.mark.parametrize("strong_wolfe", [False, True])
@pytest.mark.parametrize("memory, rate", [(100, 1.0), (5, 1.0), (5, 0.5)])
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_way_of_torch(name: str, memory: int, rate: float, strong_wolfe: bool) -> None:
    torch = pytest.importorskip("torch")
    function, x = PROBLEMS[name]
    place = torch.tensor(x, requires_grad=True)
    theirs = torch.optim.LBFGS(
        [place],
        rate,
        max_iter=1,
        max_eval=26,
        tolerance_grad=0,
        tolerance_change=1e-9 if strong_wolfe else 0,
        history_size=memory,
        line_search_fn="strong_wolfe" if strong_wolfe else None,
    )

    def closure() -> Any:
        loss, gradient = function(place.detach().numpy().copy())
        place.grad = torch.tensor(gradient)
        return torch.tensor(loss, dtype=torch.float64)

    way = []
    for _ in range(30):
        theirs.step(closure)
        way.append(place.detach().numpy().copy())
    ours: list[Vector] = []
    minimize(
        function,
        x,
        LBFGS.as_torch(rate, memory, strong_wolfe),
        iterations=30,
        tolerances=NEVER,
        watch=lambda iterate: ours.append(iterate.x),
    )
    assert_same_way(ours[1:], way, function)

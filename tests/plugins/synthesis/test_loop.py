"""The loop: closed forms on linear eyes, runs that are cut and taken up, and numbers that explode."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from small_network import picture, small_network
from synthesis_task import Parts

from cnnkit import (
    Builder,
    Context,
    Host,
    Model,
    ModelError,
    Preprocessing,
    Settings,
    TrainingSession,
    UsageError,
)
from cnnkit.plugins.synthesis import units
from cnnkit.plugins.synthesis.eye import eye
from cnnkit.plugins.synthesis.loop import Moment, Synthesis
from cnnkit.plugins.synthesis.objective import Objective, targets, weights
from cnnkit.plugins.synthesis.recipe import Recipe
from cnnkit.plugins.synthesis.stages import Size

Array = NDArray[Any]

RECIPE = Recipe(
    "test",
    unit="0..1",
    content_layers=(("two", 1.0),),
    style_layers=(("one", 1.0),),
    variation_form="mean-squared",
    variation_weight=1.0,
    iterations=12,
)
WAYS: Mapping[str, Mapping[str, Any]] = {
    "sgd": {"optimizer": "sgd", "rate": 2e-3, "decay": 0.5, "decay_every": 5.0},
    "adam": {"optimizer": "adam", "rate": 0.02, "clamp": "step", "average": 0.9},
    "lbfgs-scipy": {"optimizer": "lbfgs-scipy", "memory": 3},
    "lbfgs-rounds": {"optimizer": "lbfgs-scipy", "restart_every": 5},
    "lbfgs-torch": {"optimizer": "lbfgs-torch", "memory": 4, "clamp": "evaluation", "average": 0.5},
    "lbfgs-wolfe": {"optimizer": "lbfgs-wolfe", "clamp": "step"},
    "lbfgs-damped": {"optimizer": "lbfgs-damped", "rate": 25.5},
}


def made(recipe: Recipe, context: Context, size: Size = (12, 16), model: Model | None = None) -> Synthesis:
    """From noise towards one picture's content and another one's style."""
    seen = eye(model or small_network(), recipe)
    objective = Objective.of(seen, recipe)
    content, style = picture(*size), picture(20, 14, seed=1)

    def x_of(pixels: Array, size: Size) -> Array:
        unit = seen.preprocessing
        return units.resized(unit.to_network(pixels)[None], size, unit.layout, "bilinear")

    def feeds(size: Size) -> Mapping[str, Any]:
        found = targets(seen, objective, x_of(content, size), [(1.0, x_of(style, size))], context)
        return found | weights(objective, {"two": 0.01}, {"one": 1e-4}, 0.1)

    def start(size: Size) -> Array:
        pixels = units.start(recipe, seen.preprocessing, None, size, context.random)
        return seen.preprocessing.to_network(pixels)[None]

    return Synthesis(Parts(seen, objective, feeds, recipe, context, start, size))


def fresh() -> Context:
    class Silent:
        def say(self, text: str) -> None: ...
        def progress(self, items: Iterable[Any], total: int | None, label: str) -> Any:
            yield from items

        def transfer(self, chunks: Iterable[bytes], done: int, total: int | None, label: str) -> Any:
            yield from chunks

    return Context(Host(entries=[]), Settings(threads=1), 0, Silent())


def told(moment: Moment) -> Any:
    return moment.number, moment.stage, moment.step, dict(moment.losses), moment.x().tobytes()


# One linear layer: what comes out is known


def identity() -> Model:
    b = Builder("identity")
    kernel = b.constant(np.eye(3, dtype=np.float32)[:, :, None, None], "k")
    b.output(b.op.Conv(b.input("input", ("batch", 3, "h", "w")), kernel, name="all"))
    return Model.of(b.model(), preprocessing=Preprocessing(scale=1 / 255))


def towards(wanted: Array, first: Array, context: Context, **fields: Any) -> Synthesis:
    """½·n·mean((x - wanted)²) = ½|x - wanted|², whose gradient is x - wanted."""
    recipe = replace(
        RECIPE, **{"content_layers": (("all", 1.0),), "style_layers": (), "variation_weight": 0.0, **fields}
    )
    seen = eye(identity(), recipe)
    objective = Objective.of(seen, recipe)
    fed = {"content/all": wanted, "weight/content/all": np.float32(wanted.size / 2)}
    return Synthesis(
        Parts(seen, objective, lambda size: fed, recipe, context, lambda size: first, wanted.shape[2:])
    )


def ends(shape: tuple[int, ...] = (1, 3, 4, 5)) -> tuple[Array, Array]:
    random = np.random.default_rng(0)
    return random.random(shape, np.float32), random.random(shape, np.float32)


def test_gradient_descent_by_hand(context: Context) -> None:
    """x - p shrinks by 1 - rate_k at the update k, and the rate by half in two updates."""
    wanted, first = ends()
    run = towards(wanted, first, context, optimizer="sgd", rate=0.5, decay=0.5, decay_every=2.0, iterations=6)
    rates = 0.5 * 0.5 ** (np.arange(6) / 2)
    apart = first.astype(np.float64) - wanted
    for moment, rate in zip(run.moments(), rates, strict=True):
        assert (
            moment.losses["total"]
            == moment.losses["content all"]
            == pytest.approx(0.5 * (apart**2).sum(), rel=1e-5)
        )
        assert moment.step == pytest.approx(rate)
        apart *= 1 - rate
        assert moment.x() - wanted == pytest.approx(apart, abs=1e-6)
    assert (run.number, run.reason) == (6, "all iterations were made")
    assert run.best and run.best.total == pytest.approx(0.5 * (apart**2).sum(), rel=1e-4)
    assert (run.best.x == run.x).all() and run.best.number == 6


@pytest.mark.parametrize("name", [name for name in WAYS if name.startswith("lbfgs")])
def test_a_parabola_is_solved(context: Context, name: str) -> None:
    wanted, first = ends()
    run = towards(wanted, first, context, **{**WAYS[name], "iterations": 60, "average": 0.0})
    numbers = [moment.number for moment in run.moments()]
    assert numbers[0] == 1 and (np.diff(numbers) > 0).all()
    assert run.x == pytest.approx(wanted, abs=1e-3)
    assert run.best and run.best.total < 1e-5


def test_where_nothing_is_left_to_do(context: Context) -> None:
    wanted, _ = ends()
    run = towards(wanted, wanted, context, optimizer="lbfgs-scipy")
    assert [moment.losses["total"] for moment in run.moments()] == [0]
    assert run.reason == "the gradient became as small as asked for"


def test_x_stays_a_picture(context: Context) -> None:
    """Towards 1.5 in every number, from -0.5: the best picture is white."""
    first, wanted = np.full((1, 3, 4, 4), -0.5, np.float32), np.full((1, 3, 4, 4), 1.5, np.float32)
    for way, fields in WAYS.items():
        for clamp in ("step", "evaluation"):
            settings = {**fields, "clamp": clamp, "average": 0.0, "rate": 1.0, "decay": 1.0, "iterations": 30}
            run = towards(wanted, first, context, **settings)
            seen = [moment.x() for moment in run.moments()]
            late = seen if clamp == "evaluation" else seen[1:]
            assert all((0 <= x).all() and (x <= 1).all() for x in late), (way, clamp)
            assert run.x == pytest.approx(1, abs=0.02), (way, clamp)


def test_the_mean_of_the_iterates_is_shown(context: Context) -> None:
    wanted, first = ends()
    for optimizer in ("sgd", "lbfgs-torch"):
        settings = {"optimizer": optimizer, "rate": 0.3, "iterations": 5}
        places = [first, *(moment.x() for moment in towards(wanted, first, context, **settings).moments())]
        if optimizer == "lbfgs-torch":
            del places[0]  # whose first iterate is the start
        run = towards(wanted, first, context, **settings, average=0.6)
        *_, last = run.moments()
        shares = 0.6 ** np.arange(len(places))[::-1]
        mean = sum(share * place for share, place in zip(shares / shares.sum(), places, strict=True))
        assert last.x() == pytest.approx(mean, abs=1e-6)
        assert (run.x == last.x()).all()


def test_the_losses_are_those_of_the_present_weights(context: Context) -> None:
    """Two runs share a session; nothing of the first is left in the second."""
    wanted, first = ends()
    settings = {"optimizer": "adam", "rate": 0.1, "average": 0.5, "iterations": 4}
    runs = [
        [told(moment) for moment in towards(wanted, first, context, **settings).moments()] for _ in range(2)
    ]
    assert runs[0] == runs[1]


@pytest.mark.parametrize("way", ["adam", "lbfgs-damped"])
def test_time_is_up(context: Context, way: str) -> None:
    run = made(replace(RECIPE, **{**WAYS[way], "iterations": 10**6, "rate": 1e-6}), context)
    run._deadlines = [1.0]
    *_, last = run.moments()
    assert run.reason == "the time is used up"
    assert 0.9 < last.seconds < 1.5


def test_each_stage_has_its_share_of_the_time(context: Context) -> None:
    recipe = replace(RECIPE, optimizer="sgd", rate=0.0, pyramid=8, iterations=10**6)
    run = made(recipe, context, (12, 16))
    assert [stage.size for stage in run.stages] == [(6, 8), (8, 11), (12, 16)]
    run._deadlines = [0.8, 1.2, 1.5]
    numbers = [0, 0, 0]
    for moment in run.moments():
        numbers[moment.stage.number] += 1
        assert moment.seconds <= run._deadlines[moment.stage.number] + 0.2
    assert min(numbers) > 0 and run.reason == "the time is used up"


@pytest.mark.parametrize("unit", ["0..1", "0..255"])
def test_damped_steps_begin_with_a_tenth_of_a_grey_level(context: Context, unit: Any) -> None:
    recipe = replace(RECIPE, optimizer="lbfgs-damped", unit=unit, start="noise", iterations=2)
    run = made(recipe, context)
    first, second = (moment.x() for moment in run.moments())
    level = 1 / 255 if unit == "0..1" else 1.0
    assert np.abs(second - first).mean() == pytest.approx(0.1 * level, rel=1e-2)


def test_a_last_round_is_as_short_as_the_iterations_ask_for(context: Context) -> None:
    recipe = replace(RECIPE, optimizer="lbfgs-scipy", restart_every=20)
    for iterations in (3, 23):
        *_, last = made(replace(recipe, iterations=iterations), fresh()).moments()
        assert iterations <= last.number <= iterations + 8


# Cut and taken up


class Changing(Context):
    """Ctrl-C while the session of another size is being made."""

    armed = False

    def training(self, *arguments: Any, **settings: Any) -> Any:
        if self.armed:
            raise KeyboardInterrupt
        return super().training(*arguments, **settings)


def test_a_stage_that_does_not_begin_leaves_the_one_before() -> None:
    recipe = replace(RECIPE, **WAYS["adam"], pyramid=8, iterations=4, start="noise")
    whole = [told(moment) for moment in made(recipe, fresh()).moments()]
    plain = fresh()
    context = Changing(plain.host, plain.settings, 0, plain.reporter)
    run = made(recipe, context)
    with pytest.raises(KeyboardInterrupt):
        for _ in run.moments():
            context.armed = True
    again = made(recipe, fresh())
    again.take_up(run.state())
    assert [told(moment) for moment in again.moments()] == whole[run.number :]


@pytest.mark.parametrize("way", ["adam", "lbfgs-wolfe"])
def test_a_move_that_is_not_made_to_its_end_is_made_anew(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a second Ctrl-C leaves it, behind any evaluation, also between those of one search along a line."""
    recipe = replace(RECIPE, **WAYS[way], start="noise")
    whole = [told(moment) for moment in made(recipe, fresh()).moments()]
    differentiate = TrainingSession._differentiate
    for count in (2, 3, 4, 5):
        left = iter(range(count)[::-1])

        def interrupted(*arguments: Any, left: Any = left) -> Any:
            values = differentiate(*arguments)
            if not next(left):
                raise KeyboardInterrupt
            return values

        run, seen = made(recipe, fresh()), []
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(TrainingSession, "_differentiate", interrupted)
            for moment in run.moments():
                seen.append(told(moment))
        again = made(recipe, fresh())
        again.take_up(run.state())
        assert seen + [told(moment) for moment in again.moments()] == whole


@pytest.mark.parametrize("pyramid", [0, 8])
@pytest.mark.parametrize("way", WAYS)
def test_a_run_is_taken_up_bit_for_bit(way: str, pyramid: int) -> None:
    """Behind any moment, by another host with new sessions, also across sizes."""
    recipe = replace(RECIPE, **WAYS[way], pyramid=pyramid, pyramid_iterations=6, iterations=7, start="noise")
    whole = made(recipe, fresh())
    moments, states = [], []
    for moment in whole.moments():
        moments.append(told(moment))
        states.append(whole.state())
    assert len(moments) > 2 and len({moment[1] for moment in moments}) == (3 if pyramid else 1)
    for stop in {0, 1, len(moments) // 2, len(moments) - 2, len(moments) - 1}:
        again = made(recipe, fresh())
        again.take_up(states[stop])
        assert (again.x.tobytes(), again.number) == (moments[stop][4], moments[stop][0])
        assert [told(moment) for moment in again.moments()] == moments[stop + 1 :]
        assert again.reason == whole.reason
        assert again.best and whole.best
        assert (again.best.total, again.best.number) == (whole.best.total, whole.best.number)
        assert again.best.x.tobytes() == whole.best.x.tobytes() and again.x.tobytes() == whole.x.tobytes()
        assert again.state().keys() == whole.state().keys()


def test_a_state_holds_arrays_that_a_file_can_hold(tmp_path: Any) -> None:
    recipe = replace(RECIPE, **WAYS["lbfgs-torch"])
    run = made(recipe, fresh())
    next(run.moments())
    np.savez(tmp_path / "state.npz", **run.state())
    with np.load(tmp_path / "state.npz", allow_pickle=False) as saved:
        again = made(recipe, fresh())
        again.take_up(saved)
    assert (again.x == run.x).all()
    longer = made(replace(recipe, iterations=50), fresh())
    longer.take_up(run.state())
    assert [moment.number for moment in longer.moments()] == list(range(2, 51))
    with pytest.raises(UsageError, match="the saved state is that of another run"):
        made(replace(recipe, style_weight=3.0), fresh()).take_up(run.state())


@pytest.mark.oracle
def test_rounds_are_calls_of_scipy(context: Context) -> None:
    """Keras' old example calls fmin_l_bfgs_b again and again with maxfun=20."""
    optimize = pytest.importorskip("scipy.optimize")
    recipe = replace(RECIPE, optimizer="lbfgs-scipy", restart_every=4, iterations=12)
    run = made(recipe, context)
    ours = [moment.losses["total"] for moment in run.moments()]
    session, feeds = run._moving()._session, run._task.feeds((12, 16))  # type: ignore[attr-defined]
    x = made(recipe, fresh())._task.start((12, 16))

    def function(flat: Array) -> tuple[float, Array]:
        found = session.gradient({**feeds, "input": flat.reshape(x.shape).astype(np.float32)})
        parts = [loss for name, loss in found.losses.items() if name != "total"]
        return math.fsum(parts), found.gradients["input"].astype(np.float64).ravel()

    place, theirs = x.astype(np.float64).ravel(), [function(x)[0]]
    for _ in range(3):
        place, _, _ = optimize.fmin_l_bfgs_b(
            function, place, maxfun=4, callback=lambda x: theirs.append(function(x)[0])
        )
    assert len(ours) > 8
    assert ours == pytest.approx(theirs, rel=1e-4)


def test_adam_remembers_across_sizes() -> None:
    """The mean goes on bicubic, its square bilinear, the steps are counted on; x comes of the average."""
    run = made(replace(RECIPE, **WAYS["adam"], pyramid=11, iterations=4, start="noise"), fresh())
    size, moments = (12, 16), run.moments()
    *_, last = islice(moments, 4)
    remembered = run._moving().memory_at(size, "nchw")
    before = tensors(run)
    assert remembered.keys() == {"picture/mean", "picture/square", "picture/steps"}
    assert remembered["picture/steps"] == 4
    assert (remembered["picture/mean"] == units.resized(before["mean"], size, "nchw", "bicubic")).all()
    bilinear = units.resized(before["square"], size, "nchw", "bilinear")
    assert (remembered["picture/square"] == bilinear).all() and (bilinear >= 0).all()
    wanted = units.resized(last.x(), size, "nchw", "bicubic").clip(0, 1)
    assert next(moments).number == 5
    assert run.best and (run.best.x == wanted).all()
    list(moments)
    assert (tensors(run)["steps"], tensors(run)["averaged"]) == (8, 5)


def tensors(run: Synthesis) -> dict[str, Array]:
    """What the session holds, by slot."""
    session = run._moving()._session  # type: ignore[attr-defined]
    return {name.rpartition("/")[2]: session.read(name) for name in session.state}


# What explodes


def exploding(bound: float = 88.0) -> Model:
    """exp(x) is infinite in float32 above 88.7."""
    b = Builder("exploding")
    kernel = b.constant(np.eye(3, dtype=np.float32)[:, :, None, None], "k")
    x = b.op.Conv(b.input("input", ("batch", 3, "h", "w")), kernel, name="calm")
    x = b.op.Sub(b.op.Exp(x, name="wild"), 1.0)
    b.output(b.op.Conv(x, kernel, name="after"))
    return Model.of(b.model(), preprocessing=Preprocessing(scale=1 / 255), name="exploding")


def running_away(context: Context, **fields: Any) -> Synthesis:
    recipe = replace(
        RECIPE, content_layers=(("after", 1.0),), style_layers=(), variation_weight=0.0, **fields
    )
    seen = eye(exploding(), recipe)
    objective = Objective.of(seen, recipe)
    fed = {"content/after": np.full((1, 3, 2, 2), 3.0), "weight/content/after": np.float32(6.0)}
    first = np.zeros((1, 3, 2, 2), np.float32)
    return Synthesis(Parts(seen, objective, lambda size: fed, recipe, context, lambda size: first, (2, 2)))


@pytest.mark.parametrize("optimizer, rate", [("sgd", 60.0), ("adam", 400.0), ("lbfgs-torch", 1000.0)])
def test_it_goes_back_and_takes_smaller_steps(
    context: Context, listener: Any, optimizer: str, rate: float
) -> None:
    """The gradient at 0 is -3: a step of 60 ends at 180, where `wild` is infinite; then come 30 and 15."""
    run = running_away(context, optimizer=optimizer, rate=rate, iterations=60)
    moments = list(run.moments())
    totals = [moment.losses["total"] for moment in moments]
    assert "in a row" not in run.reason
    if optimizer != "lbfgs-torch":  # whose first steps are shorter by themselves
        assert moments[-1].step == rate / 2 ** len(listener.said)
    assert np.isfinite(totals).all() and np.isfinite(run.x).all()
    assert run.best and run.best.total <= totals[0] == pytest.approx(54)
    assert 1 <= len(listener.said) <= 6
    place = "the loss 'content after'" if optimizer == "lbfgs-torch" else "the layer 'wild'"
    assert f"{place} became infinite or no number; back to 1, at half rate" in listener.said[0]


def test_it_gives_up_at_last(context: Context, listener: Any) -> None:
    run = running_away(context, optimizer="sgd", rate=1e9, iterations=60)
    assert len(list(run.moments())) == 6
    assert len(listener.said) == 5
    assert run.reason == "the layer 'wild' became infinite or no number 6 times in a row: take smaller steps"
    assert run.best and (run.best.x == 0).all() and (run.x == 0).all()


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs-scipy"])
def test_weights_that_explode_at_once(context: Context, optimizer: str) -> None:
    task = made(replace(RECIPE, optimizer=optimizer), context)._task

    def feeds(size: Size) -> Mapping[str, Any]:
        return {**task.feeds(size), "weight/style/one/0": np.float32(1e38)}

    run = Synthesis(replace(task, feeds=feeds))  # type: ignore[type-var]
    with pytest.raises(ModelError, match="at the start the loss 'style one' is infinite or no number"):
        next(run.moments())

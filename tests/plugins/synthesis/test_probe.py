"""What a synthesis will cost: counted by hand, and measured."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from small_network import picture, small_network
from synthesis_task import Parts

from cnnkit import Context, Host, Settings, TrainingSession
from cnnkit.plugins.synthesis.eye import eye
from cnnkit.plugins.synthesis.objective import Objective, targets, weights
from cnnkit.plugins.synthesis.probe import Probe, probe
from cnnkit.plugins.synthesis.recipe import Recipe
from cnnkit.plugins.synthesis.stages import Size

RECIPE = Recipe("test", content_layers=(("two", 1.0),), style_layers=(("one", 1.0),), iterations=40)


def probed(context: Context, recipe: Recipe = RECIPE, seconds: float | None = None) -> Probe:
    made = eye(small_network(), recipe)
    objective = Objective.of(made, recipe)

    def feeds(size: Size) -> Mapping[str, Any]:
        x = made.preprocessing.to_network(picture(*size))[None]
        fixed = weights(objective, {"two": 1.0}, {"one": 1.0}, 0.0)
        return targets(made, objective, x, [(1.0, x[..., ::-1].copy())], context) | fixed

    def start(size: Size) -> Any:
        return made.preprocessing.to_network(picture(*size, seed=3))[None]

    return probe(Parts(made, objective, feeds, recipe, context, start, (30, 40)), seconds)


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs-scipy"])
def test_what_it_costs(context: Context, optimizer: str) -> None:
    found = probed(context, replace(RECIPE, optimizer=optimizer, rate=0.01))
    first, second = 30 * 40 * 6 * 3 * 9, 15 * 20 * 8 * 6 * 9
    assert found.macs == 2 * (first + second)
    assert found.size == (30, 40)
    assert 0 < found.seconds < 1
    assert found.total_seconds == pytest.approx(40 * found.seconds)
    plane = 4 * 30 * 40 * 6
    assert 2 * plane < found.bytes < 40 * plane


def test_all_stages_count(context: Context) -> None:
    """15 x 20 first, 100 times; then 21 x 28 and 30 x 40, 40 times each."""
    found = probed(context, replace(RECIPE, pyramid=20, pyramid_iterations=100))
    pixels = [15 * 20, 21 * 28, 30 * 40]
    assert found.total_seconds == pytest.approx(
        found.seconds * (100 * pixels[0] + 40 * pixels[1] + 40 * pixels[2]) / pixels[2]
    )


def test_what_fits() -> None:
    free = probed(Context(Host(entries=[]), Settings(threads=1), 0, _Silent()))
    assert min(free.fitting) > 1000
    small = Context(Host(entries=[]), Settings(threads=1, max_memory=free.bytes // 4), 0, _Silent())
    tight = probed(small)
    assert (tight.free, tight.bytes) == (free.bytes // 4, free.bytes)
    assert tight.fitting == (14, 19) or tight.fitting == (15, 20)
    quick = probed(small, seconds=1e-4)
    share = (1e-4 / quick.total_seconds) ** 0.5
    assert quick.fitting == (max(1, int(30 * share)), max(1, int(40 * share)))


class _Silent:
    def say(self, text: str) -> None: ...
    def progress(self, items: Any, total: int | None, label: str) -> Any:
        yield from items

    def transfer(self, chunks: Any, done: int, total: int | None, label: str) -> Any:
        yield from chunks


def test_bytes_of_a_gradient_by_hand() -> None:
    """x, F and its error at once, of a network with one layer: the loss keeps no more alive than these."""
    made = eye(small_network(), replace(RECIPE, content_layers=(("one", 1.0),), style_layers=()))
    session = TrainingSession(made, Objective(("one",), ()), ["input"], batch=1, size=(30, 40))
    x, plane = 4 * 30 * 40 * 3, 4 * 30 * 40 * 6
    assert x + 3 * plane <= session.graph.bytes_alive <= 2 * x + 5 * plane + 1000

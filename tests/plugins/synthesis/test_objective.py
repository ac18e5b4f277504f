"""The losses of an eye in closed form, where the eye is one linear layer."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from small_network import picture, small_network

from cnnkit import Builder, Context, Model, Preprocessing, TrainingSession
from cnnkit.plugins.synthesis.distances import Moments
from cnnkit.plugins.synthesis.eye import eye
from cnnkit.plugins.synthesis.objective import Objective, features, targets, weights
from cnnkit.plugins.synthesis.recipe import Recipe

Array = NDArray[Any]

RECIPE = Recipe(
    "test",
    content_layers=(("mixed", 1.0),),
    style_layers=(("mixed", 1.0),),
    variation_form="mean-squared",
    variation_weight=1.0,
)
HEIGHT, WIDTH = 5, 7
MIX = np.array([[1.0, 0.5, -0.2], [0.3, -1.0, 0.8]])


def linear() -> Model:
    """F = MIX · x at every place."""
    b = Builder("linear")
    kernel = b.constant(MIX[:, :, None, None].astype(np.float32), "k")
    b.output(b.op.Conv(b.input("input", ("batch", 3, "h", "w")), kernel, name="mixed"))
    return Model.of(b.model(), preprocessing=Preprocessing(scale=1 / 255))


def random(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def test_content_style_and_variation_by_hand() -> None:
    """With E = ¼ mean((G - A)²), G = F·Fᵀ/M: dE/dF = (G - A)·F / (N²·M)."""
    made = eye(linear(), RECIPE)
    objective = Objective.of(made, RECIPE)
    x, content, style = random(3, HEIGHT, WIDTH), random(2, HEIGHT, WIDTH, seed=1), random(2, 2, seed=2)
    style = style + style.T
    session = TrainingSession(made, objective, ["input"], size=(HEIGHT, WIDTH), threads=1)
    fed = weights(objective, {"mixed": 0.5}, {"mixed": 3.0}, 2.0)
    fed |= {"input": x[None], "content/mixed": content[None], "style/mixed/0": style}
    losses, gradients, _ = session.gradient(fed)

    places = HEIGHT * WIDTH
    f, p = (MIX @ x.reshape(3, -1)), content.reshape(2, -1)
    g = f @ f.T / places
    down, right = np.diff(x, axis=1), np.diff(x, axis=2)
    assert losses["content mixed"] == pytest.approx(0.5 * ((f - p) ** 2).mean(), rel=1e-5)
    assert losses["style mixed"] == pytest.approx(3 / 4 * ((g - style) ** 2).mean(), rel=1e-5)
    assert losses["variation"] == pytest.approx(2 * ((down**2).mean() + (right**2).mean()), rel=1e-5)
    slope = 0.5 * 2 * (f - p) / p.size + 3 * (g - style) @ f / (4 * places)
    slope = (MIX.T @ slope).reshape(x.shape)
    for axis, steps in ((1, down), (2, right)):
        margin = [(0, 0), (0, 0), (0, 0)]
        margin[axis] = (1, 1)
        slope -= 2 * 2 * np.diff(np.pad(steps, margin), axis=axis) / steps.size
    assert gradients["input"][0] == pytest.approx(slope, rel=1e-4, abs=1e-6)


def test_what_a_recipe_watches() -> None:
    made = eye(linear(), RECIPE)
    assert Objective.of(made, RECIPE) == Objective(("mixed",), ("mixed",), 1, "mean-squared")
    none = replace(RECIPE, content_layers=(("mixed", 0.0),), variation_weight=0.0)
    assert Objective.of(made, none, styles=3) == Objective((), ("mixed",))
    assert Objective.of(made, replace(none, styles="losses"), styles=3) == Objective((), ("mixed",), 3)
    last = small_network("nhwc")
    recipe = replace(RECIPE, content_layers=(("two", 1.0),), style_layers=(("one", 1.0),))
    assert Objective.of(eye(last, recipe), recipe).channels_last


def test_the_variation_of_a_picture_whose_channels_come_last(context: Context) -> None:
    recipe = replace(RECIPE, content_layers=(("two", 1.0),), style_layers=())
    shown = picture(6, 9)
    found = []
    for layout in ("nchw", "nhwc"):
        made = eye(small_network(layout), recipe)
        objective = Objective.of(made, recipe)
        x = made.preprocessing.to_network(shown)[None]
        fed = targets(made, objective, 0 * x, [], context) | weights(objective, {"two": 1.0}, {}, 1.0)
        session = TrainingSession(made, objective, ["input"], size=(6, 9), threads=1)
        losses, gradients, _ = session.gradient({**fed, "input": x})
        found.append((losses, gradients["input"]))
    (first, slope), (last, slope_last) = found
    assert last == pytest.approx(first, rel=1e-5) and first["variation"] > 1
    assert np.moveaxis(slope_last, -1, 1) == pytest.approx(slope, rel=1e-3, abs=1e-4)


def test_at_its_own_targets_nothing_is_lost(network: Model, context: Context) -> None:
    recipe = replace(
        RECIPE, content_layers=(("two", 1.0),), style_layers=(("one", 1.0),), variation_weight=0.0
    )
    made = eye(network, recipe)
    objective = Objective.of(made, recipe)
    x = made.preprocessing.to_network(picture(12, 20))[None]
    fed = targets(made, objective, x, [(2.0, x)], context) | weights(
        objective, {"two": 1.0}, {"one": 1.0}, 0.0
    )
    session = TrainingSession(made, objective, ["input"], batch=1, size=(12, 20), threads=1)
    losses, gradients, _ = session.gradient({**fed, "input": x})
    largest = float(np.square(fed["style/one/0"]).max())
    assert losses["content two"] == 0
    assert losses["style one"] < 1e-10 * largest
    assert np.abs(gradients["input"]).max() < 1e-6 * largest


def test_styles_are_targets_or_losses(context: Context) -> None:
    """The mean of the losses is that against the mean target, and above it by the spread of the targets."""
    made = eye(linear(), RECIPE)
    pictures = [
        (share, random(1, 3, *size, seed=seed).astype(np.float32))
        for share, size, seed in ((3.0, (4, 4), 1), (1.0, (6, 3), 2))
    ]
    x = random(1, 3, HEIGHT, WIDTH).astype(np.float32)
    grams = [Moments.of(features(made, ["mixed"], style, context)["mixed"]).gram for _, style in pictures]
    found = {}
    for way in ("targets", "losses"):
        recipe = replace(RECIPE, styles=way, content_layers=(), variation_weight=0.0)
        objective = Objective.of(made, recipe, styles=2)
        fed = targets(made, objective, x, pictures, context)
        fed |= weights(objective, {}, {"mixed": 1.0}, 0.0, [share for share, _ in pictures])
        session = TrainingSession(made, objective, ["input"], size=(HEIGHT, WIDTH), threads=1)
        found[way] = session.gradient({**fed, "input": x})
    mean = 0.75 * grams[0] + 0.25 * grams[1]
    spread = (0.75 * (grams[0] - mean) ** 2 + 0.25 * (grams[1] - mean) ** 2).mean() / 4
    losses = {way: result.losses["style mixed"] for way, result in found.items()}
    assert losses["losses"] == pytest.approx(losses["targets"] + spread, rel=1e-4)
    assert found["losses"].gradients["input"] == pytest.approx(found["targets"].gradients["input"], abs=1e-6)

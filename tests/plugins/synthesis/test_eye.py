"""The eye beside numpy: what it watches, its pooling, its margin, sizes, layouts and weights in files."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from small_network import picture, small_network

from cnnkit import Builder, Context, Model, ModelError, Preprocessing, TrainingSession, UsageError
from cnnkit.plugins.synthesis.eye import eye, tapped, watched
from cnnkit.plugins.synthesis.objective import Objective, features
from cnnkit.plugins.synthesis.recipe import Recipe

Array = NDArray[Any]

RECIPE = Recipe("test", content_layers=(("two", 1.0),), style_layers=(("one", 1.0), ("pool", 1.0)))
SHOWN = picture(9, 14)


def convolved(x: Array, kernel: Array, bias: Array | float = 0.0, stride: int = 1) -> Array:
    """A convolution without a margin, in float64: x (C, H, W), kernel (F, C, h, w)."""
    windows = sliding_window_view(x.astype(np.float64), kernel.shape[2:], (1, 2))[:, ::stride, ::stride]
    return np.einsum("fchw,cyxhw->fyx", kernel, windows) + np.reshape(bias, (-1, 1, 1))


def pooled(x: Array, reduce: Any) -> Array:
    """By 2 x 2, what sticks out left away: (C, H, W)."""
    _, height, width = (side // 2 * 2 for side in x.shape)
    windows = sliding_window_view(x[:, :height, :width], (2, 2), (1, 2))[:, ::2, ::2]
    return np.asarray(reduce(windows, (-2, -1)))


def by_hand(
    model: Model, mode: Any = "constant", reduce: Any = np.max, activate: bool = True
) -> dict[str, Array]:
    """The layers' values (C, H, W) of the small network."""
    relu = lambda x: np.maximum(x, 0) if activate else x  # noqa: E731
    x = np.moveaxis(SHOWN[..., ::-1] - [103.939, 116.779, 123.68], -1, 0)
    weights = {
        tensor.name: model.graph.constant(tensor.name) for tensor in model.graph.skeleton.graph.initializer
    }
    bias = next(value for value in weights.values() if value is not None and value.shape == (6,))
    x = np.pad(x, [(0, 0), (1, 1), (1, 1)], mode=mode)
    one = convolved(x, weights["one.kernel"], bias)
    pool = pooled(np.maximum(one, 0), reduce)
    two = convolved(np.pad(pool, [(0, 0), (1, 1), (1, 1)]), weights["two.kernel"])
    return {"one": relu(one), "pool": pool, "two": relu(two)}


def seen(made: Model, context: Context, layers: tuple[str, ...] = ("one", "pool", "two")) -> dict[str, Array]:
    x = made.preprocessing.to_network(SHOWN)[None]
    return {name: value[0] for name, value in features(made, layers, x, context).items()}


def assert_equal(found: dict[str, Array], wanted: dict[str, Array]) -> None:
    assert found.keys() == wanted.keys()
    for name, value in found.items():
        assert value.shape == wanted[name].shape
        assert np.abs(value - wanted[name]).max() <= 1e-4 * np.abs(wanted[name]).max(), name


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize(
    "fields, way",
    [
        ({}, {}),
        ({"tap": "before"}, {"activate": False}),
        ({"pooling": "average"}, {"reduce": np.mean}),
        ({"padding": "replicate"}, {"mode": "edge"}),
        ({"padding": "reflect", "pooling": "average"}, {"mode": "reflect", "reduce": np.mean}),
    ],
)
def test_it_sees_what_numpy_sees(context: Context, layout: str, fields: Any, way: Any) -> None:
    model = small_network(layout)
    assert_equal(seen(eye(model, replace(RECIPE, **fields)), context), by_hand(model, **way))


def test_a_tap_is_behind_the_activation_or_before(network: Model) -> None:
    assert tapped(network, "one", "after").tensor == "one"
    assert tapped(network, "one", "before").name == "one/conv"
    assert tapped(network, "one/conv", "before").name == "one/conv"
    assert tapped(network, "pool", "before").name == "pool"
    with pytest.raises(UsageError, match=r"no layer is called 'pol'\. Did you mean 'pool'"):
        tapped(network, "pol", "after")
    with pytest.raises(UsageError, match=r"'\*o\*' names 4 layers, of which a loss watches one"):
        tapped(network, "*o*", "after")


def test_a_layer_is_called_as_the_recipe_calls_it(network: Model) -> None:
    made = eye(network, replace(RECIPE, tap="before"))
    (layer,) = made.find(["one"])
    assert layer.tensor == "one/conv"
    assert [output.name for output in made.graph.outputs] == ["two/conv", "one/conv", "pool"]


@pytest.mark.parametrize("automatic, pads", [("SAME_UPPER", (1, 2)), ("SAME_LOWER", (2, 1))])
def test_a_margin_that_the_file_leaves_to_the_runtime(context: Context, automatic: str, pads: Any) -> None:
    """A 4 x 4 kernel takes three rows more, two of them on the side that the mode names."""
    b = Builder("automatic")
    kernel = np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float32)
    x = b.op.Conv(
        b.input("input", ("batch", 3, "h", "w")), b.constant(kernel, "k"), auto_pad=automatic, name="one"
    )
    b.output(x)
    model = Model.of(b.model(), preprocessing=Preprocessing())
    recipe = replace(RECIPE, content_layers=(), style_layers=(("one", 1.0),))
    x = np.moveaxis(SHOWN, -1, 0)
    for padding, mode in (("zero", "constant"), ("replicate", "edge")):
        margin: Any = [(0, 0), pads, pads]
        wanted = convolved(np.pad(x, margin, mode=mode), kernel)  # type: ignore[call-overload]
        assert_equal(seen(eye(model, replace(recipe, padding=padding)), context, ("one",)), {"one": wanted})


def strided(padding: str) -> Model:
    b = Builder("strided")
    kernel = np.random.default_rng(0).standard_normal((2, 3, 3, 3)).astype(np.float32)
    x = b.input("input", ("batch", 3, "h", "w"))
    if padding == "Pad":
        x = b.op.Pad(x, np.array([0, 0, 1, 1, 0, 0, 1, 1]), name="pad")
    settings = {} if padding == "Pad" else {"auto_pad": padding}
    b.output(b.op.Conv(x, b.constant(kernel, "k"), strides=[2, 2], name="one", **settings))
    return Model.of(b.model(), preprocessing=Preprocessing())


def test_a_margin_in_a_node_of_its_own(context: Context) -> None:
    """As Keras' MobileNet has it."""
    recipe = replace(RECIPE, content_layers=(), style_layers=(("one", 1.0),), padding="replicate")
    model = strided("Pad")
    x = np.pad(np.moveaxis(SHOWN, -1, 0), [(0, 0), (1, 1), (1, 1)], mode="edge")
    kernel = model.graph.constant("k")
    assert kernel is not None
    assert_equal(seen(eye(model, recipe), context, ("one",)), {"one": convolved(x, kernel, stride=2)})


def test_a_margin_that_depends_on_the_size() -> None:
    recipe = replace(RECIPE, content_layers=(), style_layers=(("one", 1.0),))
    with pytest.raises(ModelError, match="first convolution, 'one', depends on the picture's size"):
        eye(strided("SAME_UPPER"), replace(recipe, padding="replicate"))
    assert eye(strided("SAME_UPPER"), recipe).graph.outputs[0].name == "one"
    assert eye(strided("VALID"), replace(recipe, padding="replicate"))


def test_a_fixed_size_is_opened_where_the_layers_allow_it(context: Context) -> None:
    fixed = eye(small_network(size=(24, 32)), RECIPE)
    assert (fixed.preprocessing.height, fixed.preprocessing.width) == (None, None)
    assert_equal(seen(fixed, context), by_hand(small_network()))


def test_a_size_that_a_layer_needs_stays() -> None:
    b = Builder("fixed")
    x = b.op.Reshape(b.input("input", ("batch", 3, 8, 8)), np.array([-1, 3, 4, 16]))
    x = b.op.Conv(x, b.constant(np.ones((2, 3, 1, 1), np.float32), "k"), name="one")
    b.output(b.op.Add(x, b.constant(np.ones((2, 4, 16), np.float32), "places"), name="two"))
    made = eye(
        Model.of(b.model(), preprocessing=Preprocessing()),
        replace(RECIPE, style_layers=(("two", 1.0),), content_layers=()),
    )
    assert (made.preprocessing.height, made.preprocessing.width) == (8, 8)


def test_a_layer_that_lies_over_no_picture(network: Model) -> None:
    with pytest.raises(UsageError, match="the layer 'scores' of 'small' lies over no picture"):
        eye(network, replace(RECIPE, content_layers=(("scores", 1.0),)))


def test_too_small_a_picture() -> None:
    """A 3 x 3 window without a margin takes two rows and columns away; pooling halves."""
    made = eye(small_network(pads=[0, 0, 0, 0]), RECIPE)
    planes = watched(made, (12, 4))
    assert {name: plane[:3] for name, plane in planes.items()} == {
        "one": (10, 2, 6),
        "pool": (5, 1, 6),
        "two": (5, 1, 8),
    }
    with pytest.raises(
        UsageError, match="400x2 pixels are too few for the layer 'one' of the network 'small'"
    ):
        watched(made, (2, 400))


def test_it_is_made_once(network: Model) -> None:
    """So that sessions are found again."""
    assert eye(network, RECIPE) is eye(network, replace(RECIPE, rate=3.0, content_weight=2.0))
    assert eye(network, RECIPE) is not eye(network, replace(RECIPE, pooling="average"))


def test_weights_stay_in_their_file(context: Context, tmp_path: Path) -> None:
    """Of a kernel of 4.7 MB the eye knows only where it lies; the gradient is that of one in memory."""
    b = Builder("large")
    kernel = (np.random.default_rng(0).standard_normal((512, 256, 3, 3)) / 50).astype(np.float32)
    first = b.constant(np.ones((256, 3, 1, 1), np.float32), "first")
    x = b.op.Conv(b.input("input", ("batch", 3, "h", "w")), first, name="zero")
    x = b.op.Relu(b.op.Conv(x, b.constant(kernel, "kernel"), pads=[1, 1, 1, 1], name="one/conv"), name="one")
    b.output(x)
    inside = Model.of(b.model(), preprocessing=Preprocessing(scale=1 / 255))
    outside = Model.load(inside.save(tmp_path / "large.onnx"))
    recipe = replace(
        RECIPE, content_layers=(("one", 1.0),), style_layers=(), unit="0..255", padding="replicate"
    )
    gradients = []
    for model in (inside, outside):
        made = eye(model, recipe)
        session = TrainingSession(made, Objective.of(made, recipe), ["input"], size=(9, 14), threads=1)
        x = made.preprocessing.to_network(SHOWN)[None]
        feeds = {"input": x, "content/one": np.zeros((1, 512, 9, 14)), "weight/content/one": 1.0}
        gradients.append(session.gradient(feeds).gradients["input"])
    made = eye(outside, recipe)
    assert made.graph.files is outside.graph.files is not None
    assert len(made.graph.skeleton.SerializeToString()) < 10_000
    assert (gradients[0] == gradients[1]).all() and np.abs(gradients[0]).max() > 0

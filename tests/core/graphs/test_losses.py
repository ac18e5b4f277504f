"""Losses: numbers by hand, slopes by finite differences, and torch's values and gradients."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rulecheck import assert_as_torch, assert_slopes, run_gradients

from cnnkit import Builder, losses
from cnnkit.graphs.tensors import Tensor

Array = NDArray[Any]
ONE = np.ones((), np.float32)


def value_and_slope(loss: Callable[..., Tensor], *arrays: Any, **named: Any) -> tuple[float, Array]:
    """A loss of the arrays, and its gradient with respect to the first."""
    feeds = [
        np.asarray(array, None if np.asarray(array).dtype.kind == "i" else np.float32) for array in arrays
    ]
    value, gradients = run_gradients(lambda op, *t: loss(op, *t, **named), *feeds, seed=ONE)
    assert value.shape == ()
    return float(value), gradients[0]


def picture(*rows: list[float]) -> Array:
    return np.array(rows, np.float32)[None, None]


def randoms(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_mean_squared_error_by_hand() -> None:
    value, slope = value_and_slope(
        losses.mean_squared_error, [[1.0, 2.0], [3.0, 4.0]], [[1.0, 0.0], [3.0, 0.0]]
    )
    assert value == 5
    assert slope.tolist() == [[0, 1], [0, 2]]


def test_a_target_may_be_a_number() -> None:
    value, _ = value_and_slope(lambda op, x: losses.mean_squared_error(op, x, 1.0), [1.0, 3.0])
    assert value == 2


def test_cross_entropy_by_hand() -> None:
    """Logits 0 and log 3 are the probabilities 1/4 and 3/4."""
    logits = [[0.0, np.log(3)], [np.log(3), 0.0]]
    value, slope = value_and_slope(losses.cross_entropy, logits, [1, 1])
    assert value == pytest.approx((np.log(4 / 3) + np.log(4)) / 2)
    assert slope == pytest.approx(np.array([[1, -1], [3, -3]]) / 8)
    smooth, _ = value_and_slope(losses.cross_entropy, logits, [1, 1], label_smoothing=0.5)
    assert smooth == pytest.approx(np.log(4 / 3) / 2 + np.log(4) / 2)
    as_probabilities, _ = value_and_slope(losses.cross_entropy, logits, [[0.25, 0.75], [0.25, 0.75]])
    assert as_probabilities == pytest.approx(smooth)


@pytest.mark.parametrize(
    "other, distance", [([2.0, 0.0], 0.0), ([0.0, 3.0], 1.0), ([-4.0, 0.0], 2.0), ([1.0, 1.0], 1 - 0.5**0.5)]
)
def test_cosine_distance_by_hand(other: list[float], distance: float) -> None:
    value, _ = value_and_slope(losses.cosine_distance, [[5.0, 0.0]], [other])
    assert value == pytest.approx(distance, abs=1e-7)


def test_a_zero_vector_has_no_direction_and_no_slope() -> None:
    value, slope = value_and_slope(losses.cosine_distance, [[0.0, 0.0], [1.0, 0.0]], [[1.0, 2.0], [1.0, 0.0]])
    assert value == 0.5
    assert slope.tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("divided_by, divisor", [("1", 1), ("positions", 4), ("values", 8)])
def test_gram_by_hand(divided_by: losses.GramDivisor, divisor: int) -> None:
    """Two channels of 2 by 2, for two pictures of which the second is twice the first."""
    first = np.array([[[1, 2], [0, 0]], [[0, 1], [1, 0]]], np.float32)
    builder = Builder()
    x = builder.input("x", ["batch", 2, 2, 2])
    builder.output(losses.gram(builder.op, x, divided_by))
    from cnnkit.runtime.device import onnxruntime

    session = onnxruntime().InferenceSession(builder.model().SerializeToString())
    (found,) = session.run(None, {"x": np.stack([first, 2 * first])})
    wanted = np.array([[5, 2], [2, 2]]) / divisor
    assert found == pytest.approx(np.stack([wanted, 4 * wanted]))


def test_style_is_that_of_the_paper() -> None:
    """sum((G - A)²) / (4 N² M²) for N channels and M positions, of a style with the same M."""
    features, other = randoms(1, 3, 4, 5), randoms(1, 3, 4, 5, seed=1)
    raw = [(rows := array.reshape(3, 20)) @ rows.T for array in (features, other)]
    value, _ = value_and_slope(losses.style, features, raw[1][None] / 20)
    assert value == pytest.approx(((raw[0] - raw[1]) ** 2).sum() / (4 * 3**2 * 20**2), rel=1e-5)


def test_style_does_not_ask_how_large_a_picture_is() -> None:
    """A picture that repeats the style twice over has its Gram matrix."""
    style = randoms(1, 3, 4, 5)
    rows = style.reshape(3, 20)
    value, slope = value_and_slope(losses.style, np.concatenate([style, style], 2), rows @ rows.T / 20)
    assert value == pytest.approx(0, abs=1e-12)
    assert np.abs(slope).max() < 1e-7


CORNER = picture([0, 3], [4, 0])  # dx is 3 and -4, dy is 4 and -3


@pytest.mark.parametrize(
    "loss, named, value, slope",
    [
        (losses.total_variation_l1, {}, 14, [[-2, 2], [2, -2]]),
        (losses.total_variation_squared, {}, 12.5 + 12.5, [[-7, 6], [8, -7]]),
        (losses.total_variation_power, {"power": 2.0}, 25, [[-14, 6], [8, 0]]),
        (losses.total_variation_power, {"power": 1.0}, 5, [[-1.4, 0.6], [0.8, 0]]),
        (losses.total_variation_power, {"power": 4.0}, 625, [[-700, 300], [400, 0]]),
    ],
)
def test_total_variations_by_hand(
    loss: Callable[..., Tensor], named: dict[str, float], value: float, slope: list[list[float]]
) -> None:
    found, gradient = value_and_slope(loss, CORNER, **named)
    assert found == pytest.approx(value)
    assert gradient[0, 0] == pytest.approx(np.array(slope), rel=1e-5, abs=1e-5)


def test_nine_points_by_hand() -> None:
    """A single bright pixel: all eight differences are 1, four of them to straight neighbours."""
    bright = np.zeros((1, 1, 5, 7), np.float32)
    bright[0, 0, 2, 3] = 1
    value, _ = value_and_slope(losses.total_variation_nine_point, bright)
    assert value == pytest.approx(2 * (2 * 2 / 35 / 3 + 2 * 2 / 48 / 12))


VARIATIONS = [
    losses.total_variation_l1,
    losses.total_variation_squared,
    losses.total_variation_nine_point,
    losses.total_variation_power,
    lambda op, x, **axes: losses.total_variation_power(op, x, 1.0, **axes),
    lambda op, x, **axes: losses.total_variation_power(op, x, 2.5, **axes),
]


@pytest.mark.parametrize("loss", VARIATIONS)
def test_a_flat_picture_does_not_vary(loss: Callable[..., Tensor]) -> None:
    value, slope = value_and_slope(loss, np.full((2, 3, 4, 5), 0.5))
    assert value == 0
    assert (slope == 0).all()


@pytest.mark.parametrize("loss", VARIATIONS)
def test_channels_may_come_last(loss: Callable[..., Tensor]) -> None:
    x = randoms(2, 3, 4, 5)
    first, slope = value_and_slope(loss, x)
    last, turned = value_and_slope(loss, x.transpose(0, 2, 3, 1), axes=(1, 2))
    assert first == pytest.approx(last, rel=1e-6)
    assert turned.transpose(0, 3, 1, 2) == pytest.approx(slope, rel=1e-5, abs=1e-6)


def test_penalties_by_hand() -> None:
    x = [[3.0, 0.0], [-1.0, 2.0]]
    for loss, value, slope in [
        (losses.l1_penalty, 6, [[1, 0], [-1, 1]]),
        (losses.l2_penalty, 14, [[6, 0], [-2, 4]]),
        (losses.power_penalty, 729 + 1 + 64, [[1458, 0], [-6, 192]]),
    ]:
        found, gradient = value_and_slope(loss, x)
        assert found == value
        assert gradient.tolist() == slope


OF_TWO = ("mean-squared-error", "cosine-distance", "style")


def posed(name: str, *shape: int, seed: int = 0) -> tuple[Callable[..., Tensor], list[Array]]:
    """A loss by its name, and random arrays that it takes, in float64."""
    random = np.random.default_rng(seed)
    x, target = random.standard_normal((2, *shape))
    if name == "cross-entropy":
        label = random.integers(0, shape[1], (shape[0], *shape[2:]))
        return lambda op, x, label: losses.cross_entropy(op, x, label, label_smoothing=0.1), [x, label]
    if name == "style":
        return lambda op, x, other: losses.style(op, x, losses.gram(op, other)), [x, target]
    if name == "wasserstein":
        goal = target[0, :, 0, 0], np.eye(shape[1]) + 0.1
        return lambda op, x: losses.wasserstein(op, x, *(part.astype(x.dtype) for part in goal)), [x]
    return losses.LOSSES[name], [x, target] if name in OF_TWO else [x]


@pytest.mark.parametrize("name", losses.LOSSES)
@settings(max_examples=20, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(2, 3),
    st.integers(2, 5),
    st.integers(2, 5),
    st.booleans(),
    st.integers(0, 99),
)
def test_slopes(name: str, n: int, c: int, h: int, w: int, batch: bool, seed: int) -> None:
    loss, arrays = posed(name, n, c, h, w, seed=seed)
    assert_slopes(loss, *arrays, batch=batch)


@pytest.mark.parametrize("name", losses.LOSSES)
def test_half_precision(name: str) -> None:
    loss, arrays = posed(name, 2, 3, 4, 5)
    results = []
    for dtype in (np.float16, np.float32):
        cast = [(array / 4).astype(dtype) if array.dtype.kind == "f" else array for array in arrays]
        results.append(run_gradients(loss, *cast, seed=np.ones((), dtype)))
    (value, slopes), (wanted, truth) = results
    assert value.dtype == np.float16
    assert value == pytest.approx(wanted, rel=1e-2)
    for got, want in zip(slopes, truth, strict=True):
        assert np.abs(got - want).max() <= 2e-2 * np.abs(want).max()


def test_the_table_holds_every_loss() -> None:
    scalars = {
        name.replace("_", "-")
        for name, value in vars(losses).items()
        if callable(value)
        and getattr(value, "__module__", "") == losses.__name__
        and not name.startswith("_")
        and name != "gram"
    }
    assert scalars == losses.LOSSES.keys()


@pytest.mark.oracle
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("shape", [(5, 7), (3, 4, 6, 2)])
def test_cross_entropy_as_torch(shape: tuple[int, ...], smoothing: float) -> None:
    torch = pytest.importorskip("torch")
    random = np.random.default_rng(0)
    label = random.integers(0, shape[1], (shape[0], *shape[2:]))
    probabilities = random.random(shape).astype(np.float32)
    probabilities /= probabilities.sum(1, keepdims=True)
    for target in (label, probabilities):
        assert_as_torch(
            lambda op, x, t: losses.cross_entropy(op, x, t, smoothing),
            lambda x, t: torch.nn.functional.cross_entropy(x, t, label_smoothing=smoothing),
            5 * randoms(*shape),
            target,
        )


def torch_losses() -> dict[str, Callable[..., Any]]:
    """The definitions of those whose names the losses cite, of a picture and another."""
    torch = pytest.importorskip("torch")

    def neighbours(x: Any) -> tuple[Any, Any]:
        return x[..., 1:, :] - x[..., :-1, :], x[..., 1:] - x[..., :-1]

    def power(x: Any, half: float) -> Any:
        dx = x[..., :-1, 1:] - x[..., :-1, :-1]
        dy = x[..., 1:, :-1] - x[..., :-1, :-1]
        return (dx.square() + dy.square()).pow(half).sum()

    def nine(x: Any) -> Any:
        x = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="replicate")
        middle = x[..., 1:-1, 1:-1]
        straight = (x[..., 1:-1, 2:] - middle).square().mean() + (x[..., 2:, 1:-1] - middle).square().mean()
        falling = (x[..., 1:, 1:] - x[..., :-1, :-1]).square().mean()
        rising = (x[..., 1:, :-1] - x[..., :-1, 1:]).square().mean()
        return 2 * (straight / 3 + (falling + rising) / 12)

    def gram(x: Any) -> Any:
        return torch.einsum("nchw,ndhw->ncd", x, x) / x[0, 0].numel()

    return {
        "mean_squared_error": torch.nn.functional.mse_loss,
        "cosine_distance": lambda x, t: (1 - torch.cosine_similarity(x, t)).mean(),
        "style": lambda x, t: torch.nn.functional.mse_loss(gram(x), gram(t)) / 4,
        "total_variation_l1": lambda x: sum(d.abs().sum() for d in neighbours(x)),
        "total_variation_squared": lambda x: sum(d.square().mean() for d in neighbours(x)),
        "total_variation_power": lambda x: power(x, 1.0),
        "isotropic": lambda x: power(x, 0.5),
        "keras": lambda x: power(x, 1.25),
        "total_variation_nine_point": nine,
        "l1_penalty": lambda x: x.abs().sum(),
        "l2_penalty": lambda x: x.square().sum(),
        "power_penalty": lambda x: x.pow(6).sum(),
    }


OURS: dict[str, Callable[..., Tensor]] = {
    "isotropic": lambda op, x: losses.total_variation_power(op, x, 1.0),
    "keras": lambda op, x: losses.total_variation_power(op, x, 2.5),
    "style": lambda op, x, t: losses.style(op, x, losses.gram(op, t)),
}


@pytest.mark.oracle
@pytest.mark.parametrize(
    "name",
    [
        *OURS,
        *(n.replace("-", "_") for n in losses.LOSSES if n not in ("style", "cross-entropy", "wasserstein")),
    ],
)
def test_losses_as_torch(name: str) -> None:
    both = name in ("mean_squared_error", "cosine_distance", "style")
    pictures = [randoms(2, 3, 9, 11), randoms(2, 3, 9, 11, seed=1)][: 1 + both]
    assert_as_torch(OURS.get(name) or getattr(losses, name), torch_losses()[name], *pictures)

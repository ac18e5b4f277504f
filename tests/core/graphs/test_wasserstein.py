"""The Wasserstein loss: closed forms, what the shortcuts cost in precision, and eigenvalues on torch."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rulecheck import assert_slopes, run_gradients

from cnnkit import Builder, gradients, losses
from cnnkit.graphs.tensors import Tensor

Array = NDArray[Any]
FLOOR = losses.COVARIANCE_FLOOR


def rooted(matrix: Array) -> Array:
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(values.clip(0))) @ vectors.T)


def statistics(features: Array) -> tuple[Array, Array]:
    """The mean of features (C, ...) and the root of their covariance, with the floor, in float64."""
    rows = features.reshape(len(features), -1).astype(np.float64)
    mean = rows.mean(1)
    deviations = rows - mean[:, None]
    return mean, rooted(deviations @ deviations.T / rows.shape[1] + FLOOR * np.eye(len(rows)))


def value_and_slope(features: Array, mean: Array, root: Array, guide: Array | None = None) -> Any:
    """In the features' type; features (C, H, W)."""

    def loss(op: Any, x: Tensor) -> Tensor:
        weights = None if guide is None else op.Identity(guide.astype(x.dtype)[None, None])
        return losses.wasserstein(op, x, mean.astype(x.dtype), root.astype(x.dtype), weights)

    value, (slope,) = run_gradients(loss, features[None], seed=np.ones((), features.dtype))
    return float(value), slope[0]


def randoms(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def orthogonal(deviations: Array) -> Array:
    """Features (C, 2, 4) of mean 0 whose covariance is diagonal, with these deviations for C up to 7."""
    signs = np.array([[1.0]])
    for _ in range(3):
        signs = np.block([[signs, signs], [signs, -signs]])
    return np.asarray(deviations[:, None, None] * signs[1 : 1 + len(deviations)].reshape(-1, 2, 4))


@pytest.mark.parametrize("shape", [(6, 5, 4), (40, 3, 5)])
def test_equal_statistics_are_no_distance(shape: tuple[int, int, int]) -> None:
    features = randoms(*shape) + 2
    value, slope = value_and_slope(features, *statistics(features))
    assert abs(value) < FLOOR
    assert np.abs(slope).max() < 1e-4 * np.abs(value_and_slope(2 * features, *statistics(features))[1]).max()


@pytest.mark.parametrize("shape", [(6, 5, 4), (40, 3, 5)])
def test_a_shift_alone_counts_its_square(shape: tuple[int, int, int]) -> None:
    features, shift = randoms(*shape), randoms(shape[0], seed=1)
    value, slope = value_and_slope(features + shift[:, None, None], *statistics(features))
    assert value == pytest.approx((shift**2).mean(), abs=FLOOR)
    assert slope == pytest.approx(
        np.broadcast_to(2 * shift[:, None, None] / features.size, slope.shape), abs=1e-5
    )


def test_diagonal_covariances_differ_by_their_deviations() -> None:
    ours, theirs = np.array([0.5, 1.0, 3.0, 0.01, 2.0]), np.array([1.0, 1.0, 0.1, 2.0, 2.5])
    value, _ = value_and_slope(orthogonal(ours), *statistics(orthogonal(theirs)))
    expected = (np.sqrt(ours**2 + FLOOR) - np.sqrt(theirs**2 + FLOOR)) ** 2
    assert value == pytest.approx(expected.mean(), rel=1e-6)


def test_two_places_have_one_direction() -> None:
    """Features a and -a: Σ = a·aᵀ, and the root has the trace √(aᵀ·Σ*·a)."""
    a, (mean, root) = randoms(6), statistics(randoms(6, 5, 5, seed=1))
    value, _ = value_and_slope(np.stack([a, -a], 1)[:, None], mean, root)
    covariance = root @ root
    expected = (mean**2).mean() + (a @ a + np.trace(covariance) - 2 * np.sqrt(a @ covariance @ a)) / 6
    assert value == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("shape", [(3, 2, 2), (3, 1, 2), (3, 1, 1)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_flat_picture_has_a_finite_slope(shape: tuple[int, int, int], dtype: type) -> None:
    value, slope = value_and_slope(np.full(shape, 0.5, dtype), *statistics(randoms(3, 4, 4)))
    assert np.isfinite(value) and np.isfinite(slope).all()
    assert slope.std((1, 2)).max() < 1e-3


def test_in_a_guide_places_count_by_its_square() -> None:
    """Of whole squares that is as if each place were there so many times."""
    features, times = randoms(5, 4, 6), np.random.default_rng(1).integers(0, 4, (4, 6))
    mean, root = statistics(randoms(5, 7, 7, seed=2))
    repeated = np.repeat(features.reshape(5, -1), times.ravel(), axis=1)[:, None]
    guide = np.sqrt(times * times.size / times.sum())
    value, slope = value_and_slope(features, mean, root, guide)
    expected, of_repeated = value_and_slope(repeated, mean, root)
    assert value == pytest.approx(expected, rel=1e-6)
    ends = np.cumsum(times.ravel()) - 1
    once = np.where(times.ravel() > 0, of_repeated[:, 0, ends.clip(0)] * times.ravel(), 0)
    assert slope.reshape(5, -1) == pytest.approx(once, abs=1e-7)


@pytest.mark.parametrize("shape", [(3, 4, 4), (7, 4, 3), (7, 2, 3)])
def test_slopes_by_differences(shape: tuple[int, int, int]) -> None:
    mean, root = statistics(randoms(shape[0], 6, 6, seed=1))
    guide = np.random.default_rng(2).uniform(0.5, 1.5, (1, 1, *shape[1:]))
    guide /= np.sqrt((guide**2).mean())
    assert_slopes(lambda op, x: losses.wasserstein(op, x, mean, root), randoms(1, *shape))
    assert_slopes(lambda op, x: losses.wasserstein(op, x, mean, root, op.Identity(guide)), randoms(1, *shape))


def test_the_iteration_is_not_differentiated() -> None:
    counts = []
    for shape in ((1, 8, 4, 4), (1, 8, 2, 3)):
        b = Builder()
        loss = losses.wasserstein(
            b.op, b.input("x", shape), np.zeros(8, np.float32), np.eye(8, dtype=np.float32)
        )
        forwards = sum(node.op_type == "MatMul" for node in b.nodes)
        gradients(b, loss, ["x"])
        counts.append((forwards, sum(node.op_type == "MatMul" for node in b.nodes) - forwards))
    assert [forwards for forwards, _ in counts] == [3 + 31, 2 + 31]  # three a step, one in the first
    assert max(backwards for _, backwards in counts) < 8


def ill_conditioned(channels: int, places: int, seed: int) -> Array:
    """As behind a ReLU: deviations over four decades, some channels all but dead."""
    random = np.random.default_rng(seed)
    mix = random.standard_normal((channels, channels)) * np.logspace(1, -3, channels)
    return np.asarray(
        np.maximum(mix @ random.standard_normal((channels, places)), 0).reshape(channels, 1, -1)
    )


@pytest.mark.parametrize(("channels", "places"), [(64, 900), (128, 140), (128, 60)])
def test_float32_is_near_enough_for_features_of_any_layer(channels: int, places: int) -> None:
    """Twelve plain steps miss the slope by a fifth, and thirty of them overflow."""
    features = ill_conditioned(channels, places, 0)
    mean, root = statistics(ill_conditioned(channels, 700, 1))
    value, slope = value_and_slope(features.astype(np.float32), mean, root)
    expected, wanted = by_eigenvalues(features, mean, root)
    assert value == pytest.approx(expected, rel=2e-3)
    assert np.linalg.norm(slope - wanted) < 0.03 * np.linalg.norm(wanted)


def by_eigenvalues(features: Array, mean: Array, root: Array) -> tuple[float, Array]:
    """Value and slope in float64: d tr A^½ = ½ tr(A^-½ dA)."""
    rows = features.reshape(len(features), -1).astype(np.float64)
    channels, places = rows.shape
    centre = rows.mean(1)
    deviations = rows - centre[:, None]
    floor = FLOOR if places >= channels else 1e-12
    covariance = deviations @ deviations.T / places + floor * np.eye(channels)
    values, vectors = np.linalg.eigh(root @ covariance @ root)
    values = values.clip(1e-20)
    apart = np.trace(covariance) + np.sum(root**2) - 2 * np.sqrt(values).sum()
    value = ((centre - mean) ** 2).mean() + apart / channels
    pull = np.eye(channels) - root @ (vectors / np.sqrt(values)) @ vectors.T @ root
    slope = 2 * (pull @ deviations + (centre - mean)[:, None]) / (channels * places)
    return float(value), slope.reshape(features.shape)


@pytest.mark.oracle
@pytest.mark.parametrize("shape", [(1, 8, 6, 5), (2, 16, 9, 9), (1, 24, 4, 4)])
def test_as_torch_finds_it_by_eigenvalues(shape: tuple[int, ...]) -> None:
    import torch

    features, style = randoms(*shape), randoms(shape[1], 10, 8, seed=1) * 1.5 + 0.3
    mean, root = statistics(style)
    x = torch.from_numpy(features).requires_grad_()
    rows = x.flatten(2)
    centre = rows.mean(2)
    deviations = rows - centre[..., None]
    floor = FLOOR if rows.shape[2] >= rows.shape[1] else 1e-9
    covariance = deviations @ deviations.mT / rows.shape[2] + floor * torch.eye(shape[1])
    target = torch.from_numpy(root)
    roots = torch.linalg.eigvalsh(target @ covariance @ target).clamp_min(0).sqrt()
    traces = covariance.diagonal(dim1=1, dim2=2).sum(1) + (target**2).sum() - 2 * roots.sum(1)
    wanted = (centre - torch.from_numpy(mean)).square().mean() + traces.mean() / shape[1]
    wanted.backward()

    value, (slope,) = run_gradients(
        lambda op, x: losses.wasserstein(op, x, mean.astype(np.float32), root.astype(np.float32)),
        features.astype(np.float32),
        seed=np.ones((), np.float32),
    )
    assert float(value) == pytest.approx(wanted.item(), rel=1e-4)
    assert slope == pytest.approx(x.grad.numpy(), abs=2e-3 * float(x.grad.abs().max()))


@pytest.mark.oracle
def test_as_crowsonkb_has_it() -> None:
    """`StyleLossW2` of style-transfer-pytorch e7e2c71, with its moments, and exact roots in float64."""
    import torch

    def moments(x: Any) -> tuple[Any, Any]:
        rows = x.flatten(1)
        return rows.mean(1), rows @ rows.T / rows.shape[1]

    def symmetric_root(matrix: Any) -> Any:
        values, vectors = torch.linalg.eigh(matrix)
        return (vectors * values.clamp_min(0).sqrt()) @ vectors.T

    x, style = (torch.from_numpy(randoms(12, 8, 8, seed=seed) + seed) for seed in (0, 1))
    mean, second = moments(style)
    covariance = second - torch.outer(mean, mean) + 1e-4 * torch.eye(12)
    root = symmetric_root(covariance)
    own_mean, own_second = moments(x)
    own = own_second - torch.outer(own_mean, own_mean) + 1e-4 * torch.eye(12)
    difference = covariance + own - 2 * symmetric_root(root @ own @ root)
    expected = (own_mean - mean).square().mean() + difference.diagonal().mean()
    value, _ = value_and_slope(x.numpy().astype(np.float32), mean.numpy(), root.numpy())
    assert value == pytest.approx(expected.item(), rel=1e-4)

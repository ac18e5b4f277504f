"""A picture seen in a view, by hand: nothing moved, moved, turned, enlarged."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cnnkit import Builder
from cnnkit.plugins.visualisation.transforms import (
    PLACES,
    SHARES,
    STANDARD,
    TRANSFORMS,
    Motion,
    seen,
    view,
)
from cnnkit.runtime.device import onnxruntime


def shown(picture: NDArray[Any], motion: Motion) -> NDArray[Any]:
    b = Builder()
    b.output(seen(b, b.input("picture", picture.shape)))
    session = onnxruntime().InferenceSession(
        b.model().SerializeToString(), providers=["CPUExecutionProvider"]
    )
    size = (picture.shape[2], picture.shape[3])
    return np.asarray(session.run(None, {"picture": picture, **view(motion, size)})[0])


@pytest.fixture
def picture() -> NDArray[np.float32]:
    return np.random.default_rng(0).random((1, 3, 7, 9), np.float32)


def test_without_a_motion_every_bit_stays(picture: NDArray[np.float32]) -> None:
    np.testing.assert_array_equal(shown(picture, Motion()), picture)


def test_a_shift_leaves_grey_behind(picture: NDArray[np.float32]) -> None:
    expected = np.full_like(picture, 0.5)
    expected[:, :, 2:, :-3] = picture[:, :, :-2, 3:]
    np.testing.assert_array_equal(shown(picture, Motion(down=2, across=-3)), expected)


def test_a_turn_by_a_right_angle_is_clockwise(picture: NDArray[np.float32]) -> None:
    square = picture[:, :, :, :7]
    turned = shown(square, Motion(degrees=90))
    np.testing.assert_allclose(turned, np.rot90(square, -1, axes=(2, 3)), atol=1e-6)


def test_enlarged_to_twice_there_are_means_between_neighbours(picture: NDArray[np.float32]) -> None:
    large = shown(picture, Motion(scale=2))
    np.testing.assert_allclose(large[:, :, 1::2, ::2], picture[:, :, 2:5, 2:7], atol=1e-6)
    between = (picture[:, :, 2:5, 2:6] + picture[:, :, 2:5, 3:7]) / 2
    np.testing.assert_allclose(large[:, :, 1::2, 1::2], between, atol=1e-6)


def test_grey_stays_grey_and_shares_are_shares() -> None:
    random = np.random.default_rng(0)
    grey = np.full((1, 1, 16, 12), 0.5, np.float32)
    for _ in range(20):
        motion = STANDARD.motion((16, 12), random)
        np.testing.assert_allclose(shown(grey, motion), grey, atol=1e-6)
        found = view(motion, (16, 12))
        assert found[SHARES].min() >= 0 and found[SHARES].sum(axis=0).max() < 1 + 1e-6
        assert found[PLACES].min() >= 0 and found[PLACES].max() < 16 * 12


def test_the_standard_motions_are_those_of_lucid() -> None:
    """Pictures of 128 pixels are moved by up to 6, scaled by 0.9 to 1.1 and turned by up to 10 degrees, six
    times as often left upright as turned by any one of them."""
    random = np.random.default_rng(0)
    motions = [STANDARD.motion((128, 128), random) for _ in range(2000)]
    assert {motion.down for motion in motions} == {motion.across for motion in motions} == {*range(-6, 7)}
    assert {motion.scale for motion in motions} == {1 + k / 50 for k in range(-5, 6)}
    assert {motion.degrees for motion in motions} == {float(turn) for turn in range(-10, 11)}
    assert sum(motion.degrees == 0 for motion in motions) / 2000 == pytest.approx(6 / 26, abs=0.04)


def test_the_other_ones() -> None:
    random = np.random.default_rng(0)
    assert {TRANSFORMS["none"].motion((128, 128), random) for _ in range(5)} == {Motion()}
    moved = [TRANSFORMS["jitter"].motion((224, 224), random) for _ in range(500)]
    assert {(motion.scale, motion.degrees) for motion in moved} == {(1.0, 0.0)}
    assert max(motion.down for motion in moved) == 10

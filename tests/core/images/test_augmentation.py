"""Random views: what each does by hand, and that the same generator gives the same view."""

import numpy as np
import pytest
from numpy.typing import NDArray

from cnnkit import Augmentation, mixed
from cnnkit.images.augmentation import resampled
from cnnkit.images.preprocessing import LUMINANCE

Pixels = NDArray[np.uint8]
NOTHING = np.array([[1.0, 0, 0], [0, 1, 0]])


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.fixture
def noise() -> Pixels:
    return random().integers(0, 256, (24, 24, 3), np.uint8)


def ramp(height: int, width: int) -> Pixels:
    """Level 4y + 2x + 20 in all channels."""
    y, x = np.mgrid[:height, :width]
    return np.repeat((4 * y + 2 * x + 20)[..., None], 3, 2).astype(np.uint8)


def test_nothing_happens(noise: Pixels) -> None:
    assert not Augmentation()
    assert (Augmentation().view(noise, (24, 24), random()) == noise).all()
    assert all(
        Augmentation(**{name: 0.5}) for name in ("flip", "rotation", "zoom", "crop", "colour", "erase")
    )  # type: ignore[arg-type]


def test_a_mirror_image(noise: Pixels) -> None:
    assert (Augmentation(flip=1.0).view(noise, (24, 24), random()) == noise[:, ::-1]).all()
    views = [Augmentation(flip=0.5).view(noise, (24, 24), random(seed)) for seed in range(200)]
    assert 70 < sum((view == noise).all() for view in views) < 130


def test_a_quarter_turn(noise: Pixels) -> None:
    turned = resampled(noise, np.array([[0.0, -1, 0], [1, 0, 0]]), (24, 24))
    assert (turned == np.rot90(noise, 3)).all()


def test_a_part_of_a_ramp() -> None:
    """The middle half of the sides, at its own resolution: bilinear is exact on a ramp."""
    seen = resampled(ramp(24, 32), np.array([[0.5, 0, 0.25], [0, 0.5, -0.5]]), (24, 32))
    y = 12 + 0.25 * 12 + 0.5 * (np.arange(24) + 0.5 - 12) - 0.5
    x = 16 - 0.5 * 16 + 0.5 * (np.arange(32) + 0.5 - 16) - 0.5
    wanted = 4 * y[:, None] + 2 * x + 20
    assert np.abs(seen[2:-2, 2:-2, 0] - wanted[2:-2, 2:-2]).max() <= 1


def test_outside_it_goes_on_as_a_mirror(noise: Pixels) -> None:
    """Twice the sides, at half the resolution of a picture of pairs of pixels."""
    pairs = noise[:12, :12].repeat(2, 0).repeat(2, 1)
    seen = resampled(pairs, 2 * NOTHING, (24, 24))
    wanted = np.pad(noise[:12, :12], [(6, 6), (6, 6), (0, 0)], mode="symmetric")
    assert (seen == wanted).all()


def test_what_is_reduced_is_averaged() -> None:
    stripes = np.zeros((32, 32, 3), np.uint8)
    stripes[:, ::2] = 200
    seen = resampled(stripes, NOTHING, (8, 8))
    assert np.abs(seen.astype(int) - 100).max() <= 1


def test_a_turn_keeps_shapes_on_a_wide_picture() -> None:
    """A disc in the middle of a picture twice as wide as high stays one, however it is turned."""
    y, x = np.mgrid[:64, :128]
    radius = np.hypot(y - 31.5, x - 63.5)
    disc = (radius < 24)[..., None] * np.array([255, 255, 255], np.uint8)
    for seed in range(5):
        turned = Augmentation(rotation=90).view(disc, (64, 128), random(seed))
        assert (np.abs(turned.astype(int) - disc)[radius < 31] > 128).mean() < 0.02


def test_crops_have_the_area_that_is_asked_for() -> None:
    areas = []
    for seed in range(300):
        where = Augmentation(crop=0.3).where((50, 50), random(seed))
        down, across = abs(where[0, 0]), abs(where[1, 1])
        assert down + abs(where[0, 2]) <= 1 + 1e-9 and across + abs(where[1, 2]) <= 1 + 1e-9
        areas.append(down * across)
    assert 0.25 < min(areas) < 0.35 and max(areas) > 0.9


def test_colours_of_a_flat_picture() -> None:
    """Contrast and saturation leave a grey plane as it is, and brightness multiplies it."""
    plane = np.full((8, 8, 3), 100, np.uint8)
    levels = [Augmentation(colour=0.4).view(plane, (8, 8), random(seed)) for seed in range(200)]
    assert all((level == level[0, 0, 0]).all() for level in levels)
    values = [int(level[0, 0, 0]) for level in levels]
    assert 58 <= min(values) < 70 and 130 < max(values) <= 142


def test_without_colours_it_is_the_luminance(noise: Pixels) -> None:
    grey = Augmentation(grey=1.0).view(noise, (24, 24), random())
    assert np.abs(grey - (noise @ LUMINANCE)[..., None]).max() <= 1


def test_a_patch_is_erased(noise: Pixels) -> None:
    shares = []
    for seed in range(200):
        view = Augmentation(erase=1.0).view(noise, (24, 24), random(seed))
        changed = (view != noise).any(-1)
        assert (view[changed] == 128).all()
        shares.append(changed.mean())
    assert 0.005 < min(shares) < 0.1 and 0.25 < max(shares) < 0.4
    untouched = Augmentation(erase=0.3).view
    assert 110 < sum((untouched(noise, (24, 24), random(seed)) == noise).all() for seed in range(200)) < 170


def test_the_same_generator_gives_the_same_view(noise: Pixels) -> None:
    everything = Augmentation(0.5, 30, 0.3, 0.4, 0.4, 0.2, 0.5)
    first, again, other = (everything.view(noise, (16, 20), random(seed)) for seed in (1, 1, 2))
    assert first.shape == (16, 20, 3)
    assert (first == again).all() and (first != other).any()


def test_mixup() -> None:
    pixels = np.arange(4, dtype=np.float32)[:, None, None, None] * np.ones((4, 1, 2, 2), np.float32)
    targets = np.eye(4, dtype=np.float32)
    x, t = mixed(pixels, targets, 0.4, random(1))
    assert t.sum(1) == pytest.approx(1)
    np.testing.assert_allclose(x[:, 0, 0, 0], t @ np.arange(4), rtol=1e-6)
    assert ((t > 0).sum(1) <= 2).all() and ((t > 0).sum(1) == 2).any()

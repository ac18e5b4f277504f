"""The content's colours: what each transfer leaves and takes, in closed form, and in a style transfer."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from small_network import picture, small_network

import cnnkit
from cnnkit import Image, UsageError
from cnnkit.plugins.synthesis import colours
from cnnkit.plugins.synthesis.record import Record

Array = NDArray[Any]
MAPS = ("pca", "chol", "sym")


def coloured(seed: int, height: int = 24, width: int = 30) -> Array:
    """A picture whose channels go together in a way of its own."""
    random = np.random.default_rng(seed)
    return 100 + 0.3 * (picture(height, width, seed) - 127) @ random.uniform(-1, 1, (3, 3))


ONE, OTHER = coloured(1), coloured(2, 20, 17)
GREY = np.repeat(picture(24, 30)[..., :1], 3, -1)
FLAT = np.full((9, 8, 3), (200.0, 100.0, 50.0))


# Luminance


def chroma(pixels: Array) -> Array:
    """U and V of Y'UV by the coefficients that programs write out."""
    return pixels @ np.array([[-0.14713, -0.28886, 0.436], [0.615, -0.51499, -0.10001]]).T


def test_luminance_is_the_one_and_chroma_the_others() -> None:
    other = coloured(2)
    mixed = colours.with_chroma(ONE, other)
    np.testing.assert_allclose(colours.luminance(mixed), ONE @ (0.299, 0.587, 0.114), atol=1e-4)
    np.testing.assert_allclose(chroma(mixed), chroma(other), atol=1e-2)  # of five digits
    blue_less_luminance, other_one = (x[..., 2] - colours.luminance(x) for x in (mixed, other))
    np.testing.assert_allclose(blue_less_luminance, other_one, atol=1e-4)


def test_a_picture_with_its_own_chroma_is_itself() -> None:
    np.testing.assert_allclose(colours.with_chroma(ONE, ONE), ONE, atol=1e-9)


@pytest.mark.parametrize("pixels", [ONE, GREY])
def test_grey_has_the_mean_and_the_deviation_of_the_others_luminance(pixels: Array) -> None:
    found = colours.in_grey_like(pixels, OTHER)
    assert np.ptp(found, -1).max() == 0
    wanted = OTHER @ (0.299, 0.587, 0.114)
    assert found.mean() == pytest.approx(wanted.mean(), abs=1e-4)
    assert found.std() == pytest.approx(wanted.std(), abs=1e-4)


# Mean and covariance


@pytest.mark.parametrize("root", MAPS)
def test_mean_and_covariance_are_the_others(root: str) -> None:
    found = colours.with_moments(ONE, OTHER, root).reshape(-1, 3)
    wanted = OTHER.reshape(-1, 3)
    np.testing.assert_allclose(found.mean(0), wanted.mean(0), atol=1e-4)
    np.testing.assert_allclose(np.cov(found.T, bias=True), np.cov(wanted.T, bias=True), atol=1e-4)


@pytest.mark.parametrize("root", MAPS)
def test_a_picture_with_its_own_moments_is_itself(root: str) -> None:
    np.testing.assert_allclose(colours.with_moments(ONE, ONE, root), ONE, atol=1e-6)


def test_each_map_is_what_its_name_says() -> None:
    """Of A·x + b, found from what it does."""
    pca, chol, sym = (
        np.linalg.lstsq(
            (ONE - ONE.mean((0, 1))).reshape(-1, 3),
            (colours.with_moments(ONE, OTHER, root) - OTHER.mean((0, 1))).reshape(-1, 3),
            rcond=None,
        )[0].T
        for root in MAPS
    )
    np.testing.assert_allclose(chol, np.tril(chol), atol=1e-9)
    assert np.diag(chol).min() > 0
    np.testing.assert_allclose(sym, sym.T, atol=1e-9)
    assert np.linalg.eigvalsh(sym).min() > 0
    assert np.abs(pca - pca.T).max() > 1e-3
    moved = {root: np.square(colours.with_moments(ONE, OTHER, root) - ONE).sum() for root in MAPS}
    assert moved["sym"] < min(moved["pca"], moved["chol"])


@pytest.mark.parametrize("root", MAPS)
def test_the_covariance_of_a_grey_picture_is_taken(root: str) -> None:
    """It has one direction only."""
    found = colours.with_moments(ONE, GREY, root)
    assert np.ptp(found, -1).max() < 1e-4
    assert found[..., 0].std() == pytest.approx(GREY[..., 0].std(), abs=1e-4)


# Histograms


def test_histograms_are_the_others() -> None:
    found = colours.with_histograms(ONE, coloured(2))
    for channel in range(3):
        np.testing.assert_allclose(
            np.sort(found[..., channel], None), np.sort(coloured(2)[..., channel], None), atol=1e-4
        )
        order = np.argsort(ONE[..., channel], None)
        assert (np.diff(found[..., channel].ravel()[order]) >= -1e-9).all()


def test_of_another_size_the_quantiles_and_the_mean_are_the_others() -> None:
    twice = np.concatenate([OTHER, OTHER])
    np.testing.assert_allclose(
        colours.with_histograms(ONE, twice), colours.with_histograms(ONE, OTHER), atol=1e-6
    )
    np.testing.assert_allclose(
        colours.with_histograms(ONE, OTHER).mean((0, 1)), OTHER.mean((0, 1)), atol=1e-6
    )


def test_a_level_becomes_the_mean_of_its_ranks() -> None:
    levels = np.array([[7.0, 7, 7, 9]])[..., None].repeat(3, -1)
    like = np.array([[40.0, 10, 20, 30]])[..., None].repeat(3, -1)
    np.testing.assert_allclose(colours.with_histograms(levels, like)[0, :, 1], [20, 20, 20, 40])


# Without variance

PAIRS = [(FLAT, ONE), (ONE, FLAT), (FLAT, FLAT), (GREY, ONE), (FLAT, GREY)]


@pytest.mark.parametrize("kind", colours.LIKE)
@pytest.mark.parametrize(("pixels", "like"), PAIRS)
def test_pictures_without_variance(kind: colours.Colours, pixels: Array, like: Array) -> None:
    """A flat one becomes flat in the other's mean, and a flat one's colours are its mean."""
    found = colours.LIKE[kind](pixels, like)
    assert np.isfinite(found).all()
    if kind != "luminance":
        np.testing.assert_allclose(found.mean((0, 1)), like.mean((0, 1)), atol=1e-4)
    if pixels is FLAT or like is FLAT:
        assert found.std((0, 1)).max() < 1e-6


def test_the_noise_of_a_nearly_flat_picture_is_not_blown_up() -> None:
    noisy = FLAT + np.random.default_rng(0).uniform(-0.01, 0.01, FLAT.shape)
    for root in MAPS:
        assert colours.with_moments(noisy, ONE, root).std((0, 1)).max() < 0.05 * ONE.std((0, 1)).max()


# In a style transfer


def levels(pixels: Array) -> NDArray[np.uint8]:
    return np.rint(pixels).clip(0, 255).astype(np.uint8)


CONTENT, STYLE = levels(coloured(1, 32, 40)), levels(coloured(2, 28, 36))


@pytest.fixture
def painted(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(Record, "plot", lambda record: b"")
    network = small_network()

    def run(content: Any = CONTENT, style: Any = STYLE, **options: Any) -> cnnkit.Result:
        given = {"preset": "gatys-code", "style_layers": "one,two", "content_layers": "two", "iterations": 4}
        return cnnkit.run(
            "style-transfer", content, model=network, style=[style], size="32x40", **(given | options)
        )

    return run


def test_after_is_the_plain_result_recoloured(painted: Any) -> None:
    plain = painted()
    for kind, recolour in colours.LIKE.items():
        found = painted(colours=kind, colours_when="after")
        recolour = colours.with_chroma if kind == "luminance" else recolour
        np.testing.assert_array_equal(
            found.picture.pixels, levels(recolour(plain.picture.pixels, CONTENT)), kind
        )
        for name in ("losses", "gram_error", "content_error"):
            assert found.data[name] == plain.data[name]


def test_before_is_a_style_that_was_recoloured(painted: Any) -> None:
    plain = painted()
    for kind, recolour in colours.LIKE.items():
        if kind != "luminance":
            found = painted(colours=kind)
            by_hand = painted(style=levels(recolour(STYLE, CONTENT)))
            np.testing.assert_array_equal(found.picture.pixels, by_hand.picture.pixels, kind)
            assert (found.picture.pixels != plain.picture.pixels).any()


def test_luminance_before_paints_in_grey_and_puts_the_chroma_back(painted: Any) -> None:
    grey = painted(
        levels(colours.in_grey(CONTENT)), levels(colours.in_grey_like(STYLE, CONTENT))
    ).picture.pixels
    found = painted(colours="luminance").picture.pixels
    np.testing.assert_array_equal(found, levels(colours.with_chroma(grey, CONTENT)))


def test_snapshots_and_the_animation_have_the_colours_too(painted: Any) -> None:
    given = {"snapshots": 2, "animation": "gif", "iterations": 5}
    plain, kept = painted(**given), painted(**given, colours="luminance", colours_when="after")
    expected = levels(colours.with_chroma(plain.pictures["step0002"].pixels, CONTENT))
    np.testing.assert_array_equal(kept.pictures["step0002"].pixels, expected)
    assert kept.files["run.gif"] != plain.files["run.gif"]


def test_alpha_and_profile_stay_and_the_colours_are_those_on_white(painted: Any) -> None:
    alpha = np.tile(np.linspace(0, 255, 40).astype(np.uint8), (32, 1))
    content = Image(CONTENT, alpha, profile=b"")
    for kind, when in (("luminance", "before"), ("histogram", "after")):
        found = painted(content, colours=kind, colours_when=when)
        np.testing.assert_array_equal(found.picture.alpha, alpha)
        assert found.picture.profile == b""
    assert found.picture.pixels.mean() == pytest.approx(content.flattened().pixels.mean(), abs=0.5)


@pytest.mark.parametrize("kind", colours.LIKE)
def test_flat_pictures_can_be_painted_with(painted: Any, kind: str) -> None:
    for content, style in ((levels(FLAT), STYLE), (CONTENT, levels(FLAT)), (levels(GREY), levels(FLAT))):
        found = painted(content, style, colours=kind, iterations=2)
        assert np.isfinite(found.data["losses"]["total"])


def test_the_original_size_has_the_original_chroma(painted: Any) -> None:
    content = levels(coloured(1, 64, 80))
    found = painted(content, colours="luminance", original_size=True).picture.pixels
    inside = ((found > 0) & (found < 255)).all(-1)
    np.testing.assert_allclose(chroma(found)[inside], chroma(content)[inside], atol=1)


def test_when_needs_what(painted: Any) -> None:
    with pytest.raises(UsageError, match="--colours"):
        painted(colours_when="after")

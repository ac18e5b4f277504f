import numpy as np
import pytest
from cnnkit_lime import LimeOptions, cnnkit_operations, divided, fitted, hiding

import cnnkit
from cnnkit.testing import check_operation, check_package

(operation,) = cnnkit_operations()


def test_package():
    check_package("cnnkit-lime")


def test_contract(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_operation(operation, samples=20)


def test_a_linear_answer_has_its_own_weights():
    """Of a function that is linear, as many answers as it takes leave nothing but the ridge's pull to 0."""
    random = np.random.default_rng(0)
    weights, shown = random.normal(size=6), random.random((20_000, 6)) < 0.5
    np.testing.assert_allclose(fitted(shown, 3 + shown @ weights), weights, rtol=2e-3, atol=1e-3)


def test_what_is_hidden_has_its_mean_colour():
    pixels = np.arange(24.0).reshape(2, 4, 3)
    superpixels = np.array([[0, 0, 1, 1]] * 2)
    (all_shown, right_hidden) = hiding(pixels, superpixels, np.array([[True, True], [True, False]]))
    assert (all_shown == pixels).all() and (right_hidden[:, :2] == pixels[:, :2]).all()
    assert (right_hidden[:, 2:] == pixels[:, 2:].mean(axis=(0, 1))).all()


def test_superpixels_follow_the_picture():
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:, 6:] = 255
    superpixels = divided(cnnkit.Image.load(pixels), LimeOptions(superpixels=8))
    assert not set(superpixels[:, :6].flat) & set(superpixels[:, 6:].flat)


def test_the_half_with_red_in_it_speaks_for_red(tiny_model):
    """Its red comes and goes, and its mean is grey, of which the network sees nothing."""
    pixels = np.full((16, 16, 3), 127, np.uint8)
    pixels[::2, :8, 0], pixels[1::2, :8, 0] = 255, 0
    squares = {"superpixels": 4, "compactness": 1e4}
    result = cnnkit.run("lime", pixels, model=tiny_model, target="red", samples=60, **squares)
    superpixels, weights = result.arrays["superpixels"], result.arrays["weights"]
    assert (np.unique(superpixels[:, :8]) == np.setdiff1d(range(4), superpixels[:, 8:])).all()
    red = np.isin(range(4), superpixels[:, :8])
    assert weights[red].min() > 5 * np.abs(weights[~red]).max()


def test_a_class_that_is_none_is_said():
    with pytest.raises(cnnkit.UsageError, match="no class is called 'unicorn'"):
        cnnkit.run("lime", "sample:portrait", target="unicorn")

"""The presets' coefficients against the published programs' own loss functions, written out here."""

import numpy as np
import pytest
from numpy.typing import NDArray

from cnnkit import Plane
from cnnkit.plugins.synthesis.coefficients import coefficients, explained, planes_of_vgg
from cnnkit.plugins.synthesis.presets import PRESETS
from cnnkit.plugins.synthesis.recipe import Recipe

Array = NDArray[np.float64]
PICTURE = (400, 600)
N = np.array([64, 128, 256, 512, 512], float)
"""The channels of VGG's blocks."""
M = np.array([400 * 600, 200 * 300, 100 * 150, 50 * 75, 25 * 37], float)
"""And their places, at 400 x 600."""
CONV4_2, CONV5_2 = N[3] * M[3], N[4] * M[4]
EQUAL = np.ones(5)

# E_l in the programs' own words: 1/(4N²M²) Σ (G - A)² = ¼ mean of squares.
TABLE = {
    "gatys-paper": (1e3 / 5 * EQUAL, "block4_conv2", CONV4_2 / 2),
    "gatys-code": (4 * 1e3 / N**2, "block4_conv2", 1.0),
    "jcjohnson": (400 / N**2, "block4_conv2", 5.0),
    "neural-style-pt": (400 / N**2, "block4_conv2", 5.0),
    "keras-lbfgs": (0.2 * N**2 * M**2 / (9 * (400 * 600) ** 2), "block5_conv2", 0.025 * CONV5_2),
    "keras-sgd": (2e-7 * N**2 * M**2 / (9 * (400 * 600) ** 2), "block5_conv2", 2.5e-8 * CONV5_2),
    "tensorflow-tutorial": (0.008 * EQUAL, "block5_conv2", 1e4),
    "gordicaleksa": (24000 * EQUAL, "block4_conv2/conv", 1e5),
    "pystiche": (800 * EQUAL, "block4_conv2", 1.0),
    "crowsonkb": (np.array([256, 64, 16, 4, 1]) / 341, "block4_conv2", 0.015),
    "vgg16-noise": (1e4 / 4 * EQUAL[:4], "block4_conv2", CONV4_2 / 2),
}


@pytest.mark.parametrize("name", TABLE)
def test_a_row_of_the_table(name: str) -> None:
    style, layer, content = TABLE[name]
    found = coefficients(PRESETS[name], planes_of_vgg(PICTURE), PICTURE)
    assert list(found.style) == [f"block{block}_conv1" for block in range(1, len(style) + 1)]
    np.testing.assert_allclose(list(found.style.values()), style, rtol=1e-12)
    assert found.content == {layer: pytest.approx(content, rel=1e-12)}


def test_the_tutorial_of_pytorch_has_layers_of_its_own() -> None:
    found = coefficients(PRESETS["pytorch-tutorial"], planes_of_vgg(PICTURE), PICTURE)
    assert found.style == pytest.approx(
        {
            "block1_conv1": 4e6 / 64**2,
            "block1_conv2": 4e6 / 64**2,
            "block2_conv1": 4e6 / 128**2,
            "block2_conv2": 4e6 / 128**2,
            "block3_conv1": 4e6 / 256**2,
        }
    )
    assert found.content == {"block2_conv2": 1.0}


def test_the_factors_of_the_keras_example_at_sides_that_halve() -> None:
    """N²M²/(9S²): 1024 : 256 : 64 : 16 : 1."""
    found = coefficients(PRESETS["keras-sgd"], planes_of_vgg((512, 512)), (512, 512))
    factors = np.array(list(found.style.values())) / 2e-7
    np.testing.assert_allclose(factors, [455.1, 113.8, 28.4, 7.11, 0.444], rtol=2e-3)


@pytest.mark.parametrize(
    ("name", "form", "weight"),
    [
        ("jcjohnson", "power-2", 5e-4),
        ("neural-style-pt", "l1", 1e-3),
        ("keras-lbfgs", "power-2.5", 1.0),
        ("keras-sgd", "power-2.5", 1e-6),
        ("tensorflow-tutorial", "l1", 30.0),
        ("gordicaleksa", "l1", 1.0),
        ("crowsonkb", "nine-point", 2.0),
        ("gatys-code", "l1", 0.0),
        ("vgg16-noise", "l1", 0.0),
    ],
)
def test_the_total_variation(name: str, form: str, weight: float) -> None:
    """jcjohnson's is ½Σ(dx² + dy²), and `total_variation_power` has no half."""
    found = coefficients(PRESETS[name], planes_of_vgg(PICTURE), PICTURE)
    assert (PRESETS[name].variation_form, found.variation) == (form, weight)


def gram(features: Array) -> Array:
    return features @ features.T


LITERAL = {
    "quarter": lambda f, g, s: ((gram(f) - gram(g)) ** 2).sum() / (4 * f.shape[0] ** 2 * f.shape[1] ** 2),
    "positions": lambda f, g, s: ((gram(f) / f.shape[1] - gram(g) / g.shape[1]) ** 2).mean(),
    "values": lambda f, g, s: ((gram(f) / f.size - gram(g) / g.size) ** 2).mean(),
    "keras-example": lambda f, g, s: ((gram(f) - gram(g)) ** 2).sum() / (4 * 3**2 * s**2),
}
"""As the programs write them: Gatys' equation 4; TensorFlow's; PyTorch's; Keras' with its 3 channels."""


@pytest.mark.parametrize("form", LITERAL)
def test_a_style_form_times_e_is_what_the_program_computes(form: str) -> None:
    random = np.random.default_rng(0)
    features, style = random.random((2, 8, 30))
    e = 0.25 * ((gram(features) / 30 - gram(style) / 30) ** 2).mean()
    recipe = Recipe("test", style_layers=(("layer", 0.5),), style_form=form, style_weight=3.0)  # type: ignore[arg-type]
    planes = {"layer": Plane(5, 6, 8, 1), "block5_conv2": Plane(1, 1, 1, 1)}
    found = coefficients(recipe, planes, (10, 12))
    assert found.style["layer"] * e == pytest.approx(1.5 * LITERAL[form](features, style, 120), rel=1e-12)


def test_scales_make_the_features_mean_one() -> None:
    """Of features a·f the loss with scales is that of f without: E grows with a⁴ and C with a²."""
    planes = {"deep": Plane(5, 6, 8, 1)}
    recipe = Recipe("test", content_layers=(("deep", 1.0),), style_layers=(("deep", 1.0),), normalised=True)
    plain, scaled = (coefficients(recipe, planes, (5, 6), scales) for scales in (None, {"deep": 3.0}))
    assert scaled.style["deep"] * 3**4 == pytest.approx(plain.style["deep"])
    assert scaled.content["deep"] * 3**2 == pytest.approx(plain.content["deep"])


def test_gatys_code_weighs_style_fifty_times_as_much_as_jcjohnson() -> None:
    planes = planes_of_vgg((512, 512))
    names = ("gatys-code", "jcjohnson")
    gatys, johnson = (coefficients(PRESETS[name], planes, (512, 512)) for name in names)
    ratios = [
        coefficients.style["block1_conv1"] / coefficients.content["block4_conv2"]
        for coefficients in (gatys, johnson)
    ]
    assert ratios[0] / ratios[1] == pytest.approx(50)
    told = explained(
        "gatys-code", PRESETS["gatys-code"], planes, (512, 512), ("jcjohnson", PRESETS["jcjohnson"])
    )
    (row,) = (line for line in told.splitlines() if line.startswith("content block4_conv2"))
    assert row.split() == ["content", "block4_conv2", "1", "5", "0.2"]
    assert "caffe-256" in told and "restart_every" not in told


def test_every_preset_can_be_explained_and_names_where_it_is_from() -> None:
    for name, recipe in PRESETS.items():
        told = explained(name, recipe, planes_of_vgg(PICTURE), PICTURE)
        row = "wasserstein block1_conv1" if recipe.style_form == "wasserstein" else "style block1_conv1"
        assert told.startswith(recipe.source) and row in told

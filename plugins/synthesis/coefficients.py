"""What a recipe weighs its losses with, in one unit for all recipes, and the same as text."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cnnkit import Plane, drawing
from cnnkit.plugins.synthesis.recipe import Recipe


@dataclass(frozen=True)
class Coefficients:
    """Σ style·E_l + Σ content·C_l + variation·TV + norm·Σ(x - grey)⁶; see `recipe.py` for E_l and C_l.

    By layer. TV is the recipe's `variation_form` as `cnnkit.losses` has it.
    """

    style: Mapping[str, float]
    content: Mapping[str, float]
    variation: float
    norm: float = 0.0


STYLE: Mapping[str, Callable[[int, int, int], float]] = {
    "quarter": lambda channels, places, pixels: 1.0,
    "positions": lambda channels, places, pixels: 4.0,
    "values": lambda channels, places, pixels: 4.0 / channels**2,
    "keras-example": lambda channels, places, pixels: (channels * places / pixels) ** 2 / 9,
    "wasserstein": lambda channels, places, pixels: 1.0,
}
"""The style forms as multiples of E_l, "wasserstein" of W_l; `channels` and `places` of the layer, `pixels`
of the picture."""

CONTENT: Mapping[str, Callable[[int, int], float]] = {
    "mean": lambda channels, places: 1.0,
    "sum": lambda channels, places: float(channels * places),
    "half-sum": lambda channels, places: channels * places / 2,
    "relative": lambda channels, places: 1.0,  # of features whose mean square is 1
}
"""The content forms as multiples of C_l."""

DEVIATION = 64.0
"""Of an average photograph's pixels from grey, 0..255."""


def _inversion(pixels: int) -> float:
    """What the priors of Mahendran and Vedaldi are multiplied by."""
    return 1 / (2 * 3 * pixels * DEVIATION**2)


VARIATION: Mapping[str, Callable[[int], float]] = {
    "power-2": lambda pixels: 0.5,
    "inversion": _inversion,
}
"""The variation forms as multiples of the loss in `cnnkit.losses`, where that is not 1; by the picture's
pixels."""


def coefficients(
    recipe: Recipe,
    planes: Mapping[str, Plane],
    picture: tuple[int, int],
    scales: Mapping[str, float] | None = None,
    powers: Mapping[str, float] | None = None,
) -> Coefficients:
    """The coefficients for layers of these planes, by the recipe's names, on a picture (height, width).

    `scales` a_l are the mean magnitudes of the features where the recipe is `normalised`: s_l/a_l⁴ and
    c_l/a_l² (and s_l/a_l² of W_l) are then the coefficients of the features as they are. `powers` are the
    mean squares of the content's features where the content form is "relative".
    """
    scales, powers = scales or {}, powers or {}
    pixels = picture[0] * picture[1]

    def style(layer: str, weight: float) -> float:
        plane = planes[layer]
        form = STYLE[recipe.style_form](plane.channels, plane.height * plane.width, pixels)
        power = 2 if recipe.style_form == "wasserstein" else 4
        return recipe.style_weight * weight * form / scales.get(layer, 1.0) ** power

    def content(layer: str, weight: float) -> float:
        plane = planes[layer]
        form = CONTENT[recipe.content_form](plane.channels, plane.height * plane.width)
        return recipe.content_weight * weight * form / powers.get(layer, scales.get(layer, 1.0) ** 2)

    multiple = VARIATION.get(recipe.variation_form)
    return Coefficients(
        {layer: style(layer, weight) for layer, weight in recipe.style_layers},
        {layer: content(layer, weight) for layer, weight in recipe.content_layers},
        recipe.variation_weight * (multiple(pixels) if multiple else 1.0),
        recipe.norm_weight * _inversion(pixels),
    )


# The same as text

STYLE_ROWS = {"wasserstein": "wasserstein"}
"""What the rows of a style form are called, where it is no multiple of E_l; the others' are "style"."""
STYLE_UNITS = {
    "style": "E = ¼ mean((G/M - A/M)²) of the Gram matrices",
    "wasserstein": "W = mean((μ - μ*)²) + mean diag(Σ + Σ* - 2·(Σ*^½·Σ·Σ*^½)^½) of means and covariances",
}
VGG_CHANNELS = (64, 128, 256, 512, 512)


def planes_of_vgg(picture: tuple[int, int]) -> dict[str, Plane]:
    """The planes of VGG's convolutions, before and after their ReLUs, on a picture (height, width)."""
    found: dict[str, Plane] = {}
    for block, channels in enumerate(VGG_CHANNELS, 1):
        plane = Plane(picture[0] >> block - 1, picture[1] >> block - 1, channels, 1)
        for number in range(1, 5):
            layer = f"block{block}_conv{number}"
            found |= {layer: plane, f"{layer}/conv": plane}
    return found


def explained(
    name: str,
    recipe: Recipe,
    planes: Mapping[str, Plane],
    picture: tuple[int, int],
    other: tuple[str, Recipe] | None = None,
) -> str:
    """The recipe's coefficients as a table, beside another's, and every field in which the two differ."""
    columns = [(name, recipe), *([other] if other else [])]
    found = [coefficients(each, planes, picture) for _, each in columns]
    distances = [STYLE_ROWS.get(each.style_form, "style") for _, each in columns]
    parts = {
        distance: [each.style if own == distance else {} for own, each in zip(distances, found, strict=True)]
        for distance in sorted({*distances})
    }
    parts["content"] = [each.content for each in found]
    rows: dict[str, list[float | None]] = {}
    for part, by_layer in parts.items():
        for layer in sorted({layer for each in by_layer for layer in each}):
            rows[f"{part} {layer}"] = [each.get(layer) for each in by_layer]
    rows["variation"] = [each.variation for each in found]
    table = [["", *(title for title, _ in columns)] + (["ratio"] if other else [])]
    for title, values in rows.items():
        cells = ["-" if value is None else f"{value:.5g}" for value in values]
        if other:
            first, second = values
            cells.append(drawing.compact(first / second) if first and second else "")
        table.append([title, *cells])
    height, width = picture
    sums = " + ".join(f"Σ {distance}·{STYLE_UNITS[distance][0]}" for distance in sorted({*distances}))
    units = ", ".join(STYLE_UNITS[distance] for distance in sorted({*distances}))
    unit = f"{sums} + Σ content·C + variation·TV, with {units} and C = mean((F - P)²)"
    if recipe.normalised or (other and other[1].normalised):
        unit += ", of features with a mean of 1 where the recipe is normalised"
    lines = [recipe.source, "", f"at {width}x{height}: {unit}", "", *_aligned(table)]
    if other:
        lines += ["", f"{other[0]}: {other[1].source}", "", "what else differs", ""]
        lines += _aligned([["", name, other[0]], *_differences(recipe, other[1])])
    else:
        lines += [
            "",
            "the recipe",
            "",
            *_aligned([[field, *_shown([value])] for field, value in _fields(recipe)]),
        ]
    return "\n".join(lines)


def _differences(recipe: Recipe, other: Recipe) -> list[list[str]]:
    theirs = dict(_fields(other))
    return [
        [field, *_shown([value, theirs[field]])] for field, value in _fields(recipe) if value != theirs[field]
    ]


def _fields(recipe: Recipe) -> list[tuple[str, Any]]:
    """The fields that the table of coefficients does not say already."""
    return [(field, value) for field, value in asdict(recipe).items() if field != "source"]


def _shown(values: list[Any]) -> list[str]:
    return [
        ", ".join(f"{item[0]}:{item[1]:.4g}" if isinstance(item, tuple) else f"{item:g}" for item in value)
        if isinstance(value, tuple)
        else str(value)
        for value in values
    ]


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]

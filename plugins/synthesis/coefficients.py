"""What a recipe weighs its losses with, in one unit for all recipes, and the same as text."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cnnkit import Plane, drawing
from cnnkit.plugins.synthesis.recipe import Recipe


@dataclass(frozen=True)
class Coefficients:
    """Σ style·E_l + Σ content·C_l + variation·TV; see `recipe.py` for E_l and C_l.

    By layer. TV is the recipe's `variation_form` as `cnnkit.losses` has it.
    """

    style: Mapping[str, float]
    content: Mapping[str, float]
    variation: float


STYLE: Mapping[str, Callable[[int, int, int], float]] = {
    "quarter": lambda channels, places, pixels: 1.0,
    "positions": lambda channels, places, pixels: 4.0,
    "values": lambda channels, places, pixels: 4.0 / channels**2,
    "keras-example": lambda channels, places, pixels: (channels * places / pixels) ** 2 / 9,
}
"""The style forms as multiples of E_l; `channels` and `places` of the layer, `pixels` of the picture."""

CONTENT: Mapping[str, Callable[[int, int], float]] = {
    "mean": lambda channels, places: 1.0,
    "sum": lambda channels, places: float(channels * places),
    "half-sum": lambda channels, places: channels * places / 2,
}
"""The content forms as multiples of C_l."""

VARIATION = {"power-2": 0.5}
"""The variation forms as multiples of the loss in `cnnkit.losses`, where that is not 1."""


def coefficients(
    recipe: Recipe,
    planes: Mapping[str, Plane],
    picture: tuple[int, int],
    scales: Mapping[str, float] | None = None,
) -> Coefficients:
    """The coefficients for layers of these planes, by the recipe's names, on a picture (height, width).

    `scales` a_l are the mean magnitudes of the features where the recipe is `normalised`: s_l/a_l⁴ and
    c_l/a_l² are then the coefficients of the features as they are.
    """
    scales = scales or {}

    def style(layer: str, weight: float) -> float:
        plane = planes[layer]
        form = STYLE[recipe.style_form](plane.channels, plane.height * plane.width, picture[0] * picture[1])
        return recipe.style_weight * weight * form / scales.get(layer, 1.0) ** 4

    def content(layer: str, weight: float) -> float:
        plane = planes[layer]
        form = CONTENT[recipe.content_form](plane.channels, plane.height * plane.width)
        return recipe.content_weight * weight * form / scales.get(layer, 1.0) ** 2

    return Coefficients(
        {layer: style(layer, weight) for layer, weight in recipe.style_layers},
        {layer: content(layer, weight) for layer, weight in recipe.content_layers},
        recipe.variation_weight * VARIATION.get(recipe.variation_form, 1.0),
    )


# The same as text

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
    rows: dict[str, list[float | None]] = {}
    for part in ("style", "content"):
        for layer in sorted({layer for each in found for layer in getattr(each, part)}):
            rows[f"{part} {layer}"] = [getattr(each, part).get(layer) for each in found]
    rows["variation"] = [each.variation for each in found]
    table = [["", *(title for title, _ in columns)] + (["ratio"] if other else [])]
    for title, values in rows.items():
        cells = ["-" if value is None else f"{value:.5g}" for value in values]
        if other:
            first, second = values
            cells.append(drawing.compact(first / second) if first and second else "")
        table.append([title, *cells])
    height, width = picture
    unit = (
        "Σ style·E + Σ content·C + variation·TV, with E = ¼ mean((G/M - A/M)²) of the Gram matrices and "
        "C = mean((F - P)²)"
    )
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

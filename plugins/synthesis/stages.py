"""Sizes: what a rule makes of a picture's size, and the smaller ones of a pyramid that come first."""

import math
import re
from dataclasses import dataclass
from itertools import accumulate

from cnnkit import UsageError
from cnnkit.plugins.synthesis.recipe import Recipe

Size = tuple[int, int]
"""(height, width)."""


@dataclass(frozen=True)
class Stage:
    """A size and how long x is moved at it, in `iterations` as the recipe counts them; `number` from 0."""

    number: int
    size: Size
    iterations: int


def sized(rule: str, picture: Size, scale: float = 1.0) -> Size:
    """The size that a rule gives to a picture, its sides times `scale`; fractions are cut off, as programs
    do.

    Raises UsageError for a rule that is none.
    """
    if exact := re.fullmatch(r"(\d+)x(\d+)", rule):
        wanted = int(exact[1]), int(exact[2])
        return _at_least_one(wanted[0] * scale, wanted[1] * scale)
    found = re.fullmatch(r"(long|short|height|width|area):(\d+)", rule)
    if not found or not int(found[2]):
        raise UsageError(
            f"the size '{rule}' is none; say long:512, short:512, height:400, width:400, area:512 or 480x640 "
            "(height x width)"
        )
    side, pixels = found[1], int(found[2]) * scale
    height, width = picture
    if side == "area":
        factor = pixels / math.sqrt(height * width)
        return _at_least_one(height * factor, width * factor)
    given = {"long": max(picture), "short": min(picture), "height": height, "width": width}[side]
    return _at_least_one(height * pixels / given, width * pixels / given)


def stages(recipe: Recipe, size: Size) -> list[Stage]:
    """The stages that end at a size: with a pyramid each √2 of the one before."""
    sizes = [size]
    longest = max(size)
    while recipe.pyramid and (side := round(longest / math.sqrt(2) ** len(sizes))) >= recipe.pyramid:
        height, width = (max(1, round(length * side / longest)) for length in size)
        sizes.append((height, width))
    sizes.reverse()
    many = len(sizes) > 1 and recipe.pyramid_iterations
    counts = [
        recipe.pyramid_iterations if many and not number else recipe.iterations
        for number in range(len(sizes))
    ]
    return [Stage(number, *pair) for number, pair in enumerate(zip(sizes, counts, strict=True))]


def deadlines(stages: list[Stage], seconds: float | None) -> list[float | None]:
    """When each stage's time is up, counted from the first: shared by iterations and pixels."""
    if seconds is None:
        return [None] * len(stages)
    work = list(accumulate(stage.iterations * math.prod(stage.size) for stage in stages))
    return [seconds * done / max(work[-1], 1) for done in work]


def _at_least_one(height: float, width: float) -> Size:
    # A side that comes out as 399.9999 is 400.
    return max(1, int(height + 1e-6)), max(1, int(width + 1e-6))

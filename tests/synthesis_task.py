"""A task of the synthesis, made of its parts."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from cnnkit import Context, Loss, Model
from cnnkit.plugins.synthesis.recipe import Recipe
from cnnkit.plugins.synthesis.stages import Size


@dataclass(frozen=True)
class Parts:
    eye: Model
    objective: Loss
    feeds: Callable[[Size], Mapping[str, Any]]
    recipe: Recipe
    context: Context
    start: Callable[[Size], NDArray[Any]]
    size: Size

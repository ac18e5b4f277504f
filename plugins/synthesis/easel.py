"""The easel: the pictures of a style transfer at every size, what the eye sees of them, and what is shown."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnkit import Context, Image, Model, Plane, Preprocessing, UsageError
from cnnkit.plugins.synthesis import objective as objectives
from cnnkit.plugins.synthesis import units
from cnnkit.plugins.synthesis.coefficients import Coefficients, coefficients
from cnnkit.plugins.synthesis.colours import ContentColours
from cnnkit.plugins.synthesis.eye import watched
from cnnkit.plugins.synthesis.objective import Objective
from cnnkit.plugins.synthesis.recipe import Recipe
from cnnkit.plugins.synthesis.regions import EVERYWHERE, Regions, guide
from cnnkit.plugins.synthesis.stages import Size, sized

Array = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Easel:
    """`network` is the one that `eye` was made of; `shares` are those of the `styles`; `first` is the picture
    of the start "file"; `colours` say how what is painted is shown."""

    content: Image
    styles: Sequence[Image]
    shares: Sequence[float]
    first: Image | None
    network: Model
    eye: Model
    recipe: Recipe
    context: Context
    colours: ContentColours | None = None
    regions: Regions = EVERYWHERE

    @property
    def name(self) -> str:
        """Of what is painted."""
        return self.content.name

    @cached_property
    def objective(self) -> Objective:
        return Objective.of(self.eye, self.recipe, len(self.styles), guided=bool(self.regions.painted))

    @cached_property
    def size(self) -> Size:
        """Of the last and largest x. Raises UsageError where the network takes another."""
        size = sized(self.recipe.size, self.content.size)
        fixed = self.eye.preprocessing.height, self.eye.preprocessing.width
        if fixed not in ((None, None), size):
            stretched = not self.objective.style or self.recipe.style_fit == "stretched"
            also = ("" if stretched else " --style-fit stretched") + (
                " --pyramid 0" if self.recipe.pyramid else ""
            )
            raise UsageError(
                f"the network '{self.network.name}' takes only {fixed[0]}x{fixed[1]} (height x width): say "
                f"--size {fixed[0]}x{fixed[1]}{also}."
            )
        return size

    def style_size(self, style: Image, size: Size) -> Size:
        """Of a style beside an x of this size."""
        recipe = self.recipe
        if recipe.style_fit == "stretched":
            return sized(f"{size[0]}x{size[1]}", size, recipe.style_scale)
        scale = recipe.style_scale * max(size) / max(self.size)
        if recipe.size[
            0
        ].isdecimal():  # an exact size says nothing of a picture of another aspect but its area
            factor = scale * math.sqrt(math.prod(self.size) / math.prod(style.size))
            height, width = (max(1, round(side * factor)) for side in style.size)
            return height, width
        return sized(recipe.size, style.size, scale)

    def x_of(self, picture: Image, size: Size) -> Array:
        """A picture in the unit of x, (1, ...), brought to a size."""
        fitted = replace(
            self.eye.preprocessing, height=size[0], width=size[1], fit="squash", filter=self.recipe.filter
        )
        return fitted.apply(picture).tensor

    def planes(self, size: Size) -> dict[str, Plane]:
        """Of the watched layers. Raises UsageError where a picture is too small for one."""
        for style in self.styles:
            watched(self.eye, self.style_size(style, size))
        return dict(watched(self.eye, size))

    def coefficients(self, size: Size) -> Coefficients:
        """For x of a size, features as they are."""
        if size not in self._coefficients:
            self._coefficients[size] = coefficients(
                self.recipe, self.planes(size), size, self._scales(size), self._powers(size)
            )
        return self._coefficients[size]

    @cached_property
    def _coefficients(self) -> dict[Size, Coefficients]:
        return {}

    def size_of(self, x: Array) -> Size:
        """(height, width)."""
        sides = x.shape[2:] if self.eye.graph.layout == "nchw" else x.shape[1:3]
        return int(sides[0]), int(sides[1])

    def feeds(self, size: Size) -> dict[str, Any]:
        """Targets and weights for x of a size."""
        found = self.coefficients(size)
        content = self.x_of(self.content, size)
        styles = [
            (share, self.x_of(style, self.style_size(style, size)))
            for share, style in zip(self.shares, self.styles, strict=True)
        ]
        layers, regions = self.objective.style, self.regions
        painted = regions.of_result(self.eye, layers, size)
        taken = [
            regions.of_style(number, self.eye, layers, self.style_size(style, size))
            for number, style in enumerate(self.styles)
        ]
        targets = objectives.targets(self.eye, self.objective, content, styles, self.context, taken)
        targets |= {
            f"guide/{layer}/{number}": guide(mask)
            for number, masks in enumerate(painted)
            for layer, mask in masks.items()
        }
        weights = objectives.weights(
            self.objective,
            found.content,
            found.style,
            found.variation,
            tuple(self.shares),
            found.norm,
            painted,
        )
        if self.objective.norm:
            targets["grey"] = self.eye.preprocessing.to_network(units.grey(self._shown)[None])
        return targets | weights

    @property
    def _shown(self) -> Preprocessing:
        return units.shown(self.network, self.recipe)

    def weights(self, size: Size) -> dict[str, float]:
        """What each part of the loss is multiplied by, for x of a size."""
        found = self.coefficients(size)
        weights = {f"content {layer}": weight for layer, weight in found.content.items()}
        weights |= {f"style {layer}": weight for layer, weight in found.style.items()}
        return weights | {"variation": found.variation, "norm": found.norm}

    def start(self, size: Size) -> Array:
        """The first x; always the same for the same seed."""
        pictures = {"content": self.content, "file": self.first, "noise": None}
        if self.styles:
            pictures["style"] = self.styles[int(np.argmax(self.shares))]
        picture = pictures[self.recipe.start]
        pixels = None if picture is None else self._covering(picture, size)
        random = np.random.default_rng(self.context.seed)
        first = units.start(self.recipe, self._shown, pixels, size, random)
        return self.eye.preprocessing.to_network(first)[None]

    def _covering(self, picture: Image, size: Size) -> NDArray[Any]:
        """The pixels of a picture at a size; one of another aspect is cut, unless the recipe stretches."""
        stretches = self.recipe.style_fit == "stretched" or picture is self.content
        fitted = replace(
            units.unit(self.network, replace(self.recipe, unit="0..255")),
            height=size[0],
            width=size[1],
            fit="squash" if stretches else "crop",
            filter=self.recipe.filter,
        )
        return np.asarray(fitted.to_pixels(fitted.apply(picture).tensor)[0])

    def _scales(self, size: Size) -> dict[str, float] | None:
        """The mean magnitude of each layer's features on the content, where the recipe is normalised."""
        if not self.recipe.normalised:
            return None
        layers = [name for name, _ in (*self.recipe.content_layers, *self.recipe.style_layers)]
        return self._means(layers, np.abs, size)

    def _powers(self, size: Size) -> dict[str, float] | None:
        """The mean square of the same for the layers of the content, where its form is "relative"."""
        if self.recipe.content_form != "relative":
            return None
        return self._means([name for name, _ in self.recipe.content_layers], np.square, size)

    def _means(
        self, layers: Sequence[str], measure: Callable[[Array], Array], size: Size
    ) -> dict[str, float]:
        """Of a measure of the content's features; raises UsageError where there are none."""
        found = objectives.features(self.eye, layers, self.x_of(self.content, size), self.context)
        means = {layer: float(measure(values).mean(dtype=np.float64)) for layer, values in found.items()}
        for layer, mean in means.items():
            if not mean:
                raise UsageError(f"the layer '{layer}' sees nothing in '{self.content.name}': leave it out.")
        return means

    def picture(self, x: Array) -> Image:
        """x as it is shown: with the content's name, profile and alpha."""
        pixels = self.eye.preprocessing.to_pixels(x)[0] + np.array(self.recipe.offsets, np.float32)
        pixels = np.nan_to_num(pixels).clip(0, 255)
        # A level that comes back from float32 as 29.99999 is 30.
        pixels = np.rint(pixels) if self.recipe.rounding == "round" else np.floor(pixels + 1e-3)
        shown = Image(pixels.astype(np.uint8))
        if self.recipe.original_size:
            shown = shown.resized(*self.content.size)
        coloured = self.colours.shown(shown.pixels) if self.colours else shown.pixels
        return self.content.resized(*shown.size).repainted(coloured)

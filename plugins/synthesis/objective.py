"""What is to become small: content, style and total variation, in parts.

Targets and weights are fed, so one session serves every picture, style and weight.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnkit import Builder, Context, Model, losses
from cnnkit.plugins.synthesis import regions
from cnnkit.plugins.synthesis.distances import DISTANCES, Moments, StyleDistance, mixed
from cnnkit.plugins.synthesis.recipe import Recipe, VariationForm

Array = NDArray[np.float32]

VARIATIONS: Mapping[str, Callable[..., Any]] = {
    "l1": losses.total_variation_l1,
    "mean-squared": losses.total_variation_squared,
    "power-2.5": lambda op, x, axes: losses.total_variation_power(op, x, 2.5, axes),
    "power-2": lambda op, x, axes: losses.total_variation_power(op, x, 2.0, axes),
    "inversion": lambda op, x, axes: losses.total_variation_power(op, x, 2.0, axes),
    "nine-point": losses.total_variation_nine_point,
}


@dataclass(frozen=True)
class Objective:
    """The weighted sum of a recipe, as a loss of an eye.

    `content` and `style` are names of layers, whose values are (1, C, H, W); `styles` is the number of styles
    whose losses are added up; `variation` is None for none. Fed are, for each LAYER and style K from 0 on:

    - `content/LAYER` (1, C, H, W), the content's features;
    - `style/LAYER/K` and what begins with it, as the distance from the style has it;
    - `guide/LAYER/K` (1, 1, H, W), the region of the style, where it is `guided`;
    - the numbers `weight/content/LAYER`, `weight/style/LAYER/K`, `weight/variation` and `weight/norm`;
    - `grey`, the grey of x, in its layout, where there is a norm.

    The parts, weighted, are called `content LAYER`, `style LAYER`, `variation` and `norm`.
    """

    content: tuple[str, ...]
    style: tuple[str, ...]
    styles: int = 1
    variation: VariationForm | None = None
    channels_last: bool = False
    """Of x."""
    norm: bool = False
    distance: StyleDistance = "gram"
    guided: bool = False

    @staticmethod
    def of(eye: Model, recipe: Recipe, styles: int = 1, guided: bool = False) -> "Objective":
        """The objective of a recipe; `styles` is the number of pictures."""
        return Objective(
            tuple(dict.fromkeys(name for name, weight in recipe.content_layers if weight)),
            tuple(dict.fromkeys(name for name, weight in recipe.style_layers if weight)),
            styles if recipe.styles == "losses" else 1,
            recipe.variation_form if recipe.variation_weight else None,
            eye.graph.layout == "nhwc",
            recipe.norm_weight > 0,
            "wasserstein" if recipe.style_form == "wasserstein" else "gram",
            guided,
        )

    def __call__(self, builder: Builder, tap: Any) -> dict[str, Any]:
        op = builder.op

        def weighted(loss: Any, name: str) -> Any:
            return op.Mul(loss, builder.input(f"weight/{name}", ()))

        parts = {}
        for layer in self.content:
            features = tap(layer)
            target = builder.input(f"content/{layer}", features.shape)
            difference = losses.mean_squared_error(op, features, target)
            parts[f"content {layer}"] = weighted(difference, f"content/{layer}")
        for layer in self.style:
            features = tap(layer)
            each = []
            for number in range(self.styles):
                style, guide = f"style/{layer}/{number}", None
                if self.guided:
                    guide = builder.input(f"guide/{layer}/{number}", (1, 1, *features.shape[2:]))
                loss = DISTANCES[self.distance].loss(builder, features, style, guide)
                each.append(weighted(loss, style))
            parts[f"style {layer}"] = op.Sum(*each)
        if self.variation:
            axes = (1, 2) if self.channels_last else (2, 3)
            parts["variation"] = weighted(
                VARIATIONS[self.variation](op, tap("input"), axes=axes), "variation"
            )
        if self.norm:
            x = tap("input")
            shape = (1, 1, 1, x.shape[3]) if self.channels_last else (1, x.shape[1], 1, 1)
            grey = builder.input("grey", shape)
            parts["norm"] = weighted(losses.power_penalty(op, op.Sub(x, grey)), "norm")
        return parts


def features(eye: Model, layers: Sequence[str], x: Array, context: Context) -> dict[str, Array]:
    """The values (1, C, H, W) of layers of the eye, by name, for x."""
    return _looking(eye, context)(layers, x)


def _looking(eye: Model, context: Context) -> Callable[[Sequence[str], Array], dict[str, Array]]:
    """`features` of one session, which only a sweep keeps: else its memory is free when x begins to move."""
    session = context.session(eye, keep=False)
    tensors = {layer.name: layer.tensor for layer in eye.layers}
    outputs = [output.name for output in eye.graph.outputs]

    def look(layers: Sequence[str], x: Array) -> dict[str, Array]:
        found = session.run(x, outputs)
        return {layer: found[tensors[layer]] for layer in layers}

    return look


def targets(
    eye: Model,
    objective: Objective,
    content: Array,
    styles: Sequence[tuple[float, Array]],
    context: Context,
    taken: Sequence[regions.Masks | None] = (),
) -> dict[str, Array]:
    """The fed targets: the content's features, and what there is to know of the styles.

    `content` is its x; `styles` are the x of pictures of any size with their shares, and `taken` their masks
    where they have some. Where the objective has one style, the target is the mean of theirs by these shares.
    """
    look = _looking(eye, context)
    fed = {f"content/{name}": value for name, value in look(objective.content, content).items()}
    found: dict[str, list[tuple[float, Moments]]] = {}
    for number, (share, x) in enumerate(styles):
        masks = taken[number] if taken else None
        for layer, value in look(objective.style, x).items():
            moments = Moments.of(value, regions.guide(masks[layer]) if masks else None)
            name = f"style/{layer}/{number if objective.styles > 1 else 0}"
            found.setdefault(name, []).append((share if objective.styles == 1 else 1.0, moments))
    for name, each in found.items():
        fed |= DISTANCES[objective.distance].targets(name, mixed(each))
    return fed


def weights(
    objective: Objective,
    content: Mapping[str, float],
    style: Mapping[str, float],
    variation: float,
    shares: Sequence[float] = (1.0,),
    norm: float = 0.0,
    painted: Sequence[regions.Masks] = (),
) -> dict[str, np.float32]:
    """The fed weights, from the coefficients by layer and the styles' shares.

    A style that is `painted` in a region counts as its share says beside an average one, times the region's
    share of the picture.
    """
    fed = {f"weight/content/{layer}": np.float32(content[layer]) for layer in objective.content}
    total = sum(shares)
    for number in range(objective.styles):
        of_all = shares[number] / total if objective.styles > 1 else 1.0
        for layer in objective.style:
            factor = of_all
            if painted:
                factor *= len(painted) * regions.share(painted[number][layer])
            fed[f"weight/style/{layer}/{number}"] = np.float32(factor * style[layer])
    if objective.variation:
        fed["weight/variation"] = np.float32(variation)
    if objective.norm:
        fed["weight/norm"] = np.float32(norm)
    return fed

"""What is to become small: content, style and total variation, in parts.

Targets and weights are fed, so one session serves every picture, style and weight.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnkit import Builder, Context, Model, Session, losses
from cnnkit.plugins.synthesis.recipe import Recipe, VariationForm

Array = NDArray[np.float32]

VARIATIONS: Mapping[str, Callable[..., Any]] = {
    "l1": losses.total_variation_l1,
    "mean-squared": losses.total_variation_squared,
    "power-2.5": lambda op, x, axes: losses.total_variation_power(op, x, 2.5, axes),
    "power-2": lambda op, x, axes: losses.total_variation_power(op, x, 2.0, axes),
    "nine-point": losses.total_variation_nine_point,
}


@dataclass(frozen=True)
class Objective:
    """The weighted sum of a recipe, as a loss of an eye.

    `content` and `style` are names of layers, whose values are (1, C, H, W); `styles` is the number of styles
    whose losses are added up; `variation` is None for none. Fed are, for each LAYER and style K from 0 on:

    - `content/LAYER` (1, C, H, W), the content's features;
    - `style/LAYER/K` (C, C), the style's Gram matrix F·Fᵀ / M for its M places;
    - the numbers `weight/content/LAYER`, `weight/style/LAYER/K` and `weight/variation`.

    The parts, weighted, are called `content LAYER`, `style LAYER` and `variation`.
    """

    content: tuple[str, ...]
    style: tuple[str, ...]
    styles: int = 1
    variation: VariationForm | None = None
    channels_last: bool = False
    """Of x."""

    @staticmethod
    def of(eye: Model, recipe: Recipe, styles: int = 1) -> "Objective":
        """The objective of a recipe; `styles` is the number of pictures."""
        return Objective(
            tuple(dict.fromkeys(name for name, weight in recipe.content_layers if weight)),
            tuple(dict.fromkeys(name for name, weight in recipe.style_layers if weight)),
            styles if recipe.styles == "losses" else 1,
            recipe.variation_form if recipe.variation_weight else None,
            eye.graph.layout == "nhwc",
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
            channels = features.shape[1]
            each = []
            for name in (f"style/{layer}/{number}" for number in range(self.styles)):
                target = builder.input(name, (channels, channels))
                each.append(weighted(losses.style(op, features, target), name))
            parts[f"style {layer}"] = op.Sum(*each)
        if self.variation:
            axes = (1, 2) if self.channels_last else (2, 3)
            parts["variation"] = weighted(
                VARIATIONS[self.variation](op, tap("input"), axes=axes), "variation"
            )
        return parts


def features(eye: Model, layers: Sequence[str], x: Array, context: Context) -> dict[str, Array]:
    """The values (1, C, H, W) of layers of the eye, by name, for x."""
    return _looking(eye, context)(layers, x)


def _looking(eye: Model, context: Context) -> Callable[[Sequence[str], Array], dict[str, Array]]:
    """`features` of one session, which nobody keeps: its memory is free again when x begins to move."""
    session = Session(eye, **asdict(context.settings))
    tensors = {layer.name: layer.tensor for layer in eye.layers}
    outputs = [output.name for output in eye.graph.outputs]

    def look(layers: Sequence[str], x: Array) -> dict[str, Array]:
        found = session.run(x, outputs)
        return {layer: found[tensors[layer]] for layer in layers}

    return look


def gram(features: Array) -> Array:
    """F·Fᵀ / M (C, C) of features (1, C, H, W) with M places."""
    rows = features.reshape(features.shape[1], -1)
    with np.errstate(over="ignore", invalid="ignore"):  # the loss that comes of it is looked at
        return np.asarray(rows @ rows.T / np.float32(rows.shape[1]))


def targets(
    eye: Model,
    objective: Objective,
    content: Array,
    styles: Sequence[tuple[float, Array]],
    context: Context,
) -> dict[str, Array]:
    """The fed targets: the content's features, and the Gram matrices of the styles.

    `content` is its x; `styles` are the x of pictures of any size with their shares. Where the objective has
    one style, the target is the mean of their Gram matrices by these shares.
    """
    look = _looking(eye, context)
    fed = {f"content/{name}": value for name, value in look(objective.content, content).items()}
    total = sum(share for share, _ in styles)
    for number, (share, x) in enumerate(styles):
        for layer, value in look(objective.style, x).items():
            if objective.styles > 1:
                fed[f"style/{layer}/{number}"] = gram(value)
            else:
                name = f"style/{layer}/0"
                fed[name] = fed.get(name, np.float32(0)) + np.float32(share / total) * gram(value)
    return fed


def weights(
    objective: Objective,
    content: Mapping[str, float],
    style: Mapping[str, float],
    variation: float,
    shares: Sequence[float] = (1.0,),
) -> dict[str, np.float32]:
    """The fed weights, from the coefficients by layer and the styles' shares."""
    fed = {f"weight/content/{layer}": np.float32(content[layer]) for layer in objective.content}
    total = sum(shares)
    for number in range(objective.styles):
        share = shares[number] / total if objective.styles > 1 else 1.0
        fed |= {
            f"weight/style/{layer}/{number}": np.float32(share * style[layer]) for layer in objective.style
        }
    if objective.variation:
        fed["weight/variation"] = np.float32(variation)
    return fed

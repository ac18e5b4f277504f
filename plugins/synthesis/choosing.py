"""Which layers of a network are watched: those that the user names, the preset's, or some by rule."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from cnnkit import Host, Layer, Model, ModelError, ModelSpec, Plane, UsageError, planes
from cnnkit.plugins.explaining import per_model
from cnnkit.plugins.synthesis.eye import ACTIVATIONS
from cnnkit.plugins.synthesis.presets import PRESETS
from cnnkit.plugins.synthesis.recipe import Recipe, Weighted
from cnnkit.plugins.synthesis.stages import Size

GATES = {"Sigmoid", "HardSigmoid"}
"""They stand beside the value; what is multiplied by them is the activation."""
LAYERS = "style_layers", "content_layers"
"""The fields of a recipe that name some."""
MOST_STYLE_LAYERS = 5
CONTENT_AT = 1 / 8
"""The size of the content's layer, as a share of the picture's."""


def chosen(name: str, recipe: Recipe, model: Model, given: Sequence[str]) -> tuple[Recipe, list[str]]:
    """The recipe of the preset `name` with layers that the network has, and sentences on what was chosen.

    `given` are the fields whose layers the user named; patterns among them become all that they name, and of
    two weights of a layer the later one counts. The preset `cnnkit` falls back on a rule. Raises UsageError.
    """
    said = []
    for field in LAYERS:
        layers: Weighted = getattr(recipe, field)
        if field not in given and (missing := _missing(model, layers)):
            if name != "cnnkit":
                raise UsageError(
                    f"the preset '{name}' watches the layer '{missing}', which the network '{model.name}' "
                    f"does not have: take --model {recipe.network}, name layers of your own with "
                    "--style-layers and --content-layers, or take --preset cnnkit, which finds some."
                )
            layers, sentence = by_rule(model, field)
            said.append(sentence)
        found = {layer.name: weight for pattern, weight in layers for layer in model.find([pattern])}
        layers = tuple(found.items())
        if field in given:
            layers = shared(layers, getattr(PRESETS[name], field))
        changes: dict[str, Any] = {field: layers}
        recipe = replace(recipe, **changes)
    return recipe, said


def shared(layers: Weighted, preset: Weighted) -> Weighted:
    """The user's layers; with weights that add up to 1 where the preset's do, as a mean has them."""
    total = sum(weight for _, weight in layers)
    if len(preset) == 1 or not math.isclose(sum(weight for _, weight in preset), 1) or not total:
        return layers
    return tuple((name, weight / total) for name, weight in layers)


def _missing(model: Model, layers: Weighted) -> str | None:
    """The first of the layers that the network does not have."""
    known = {part.name for part in model.parts}
    return next((name for name, _ in layers if name not in known), None)


@per_model
def by_rule(model: Model, field: str) -> tuple[Weighted, str]:
    """Layers for a field of the recipe, and a sentence that says which and why. Raises UsageError."""
    if field == "style_layers":
        picked, sentence = first_of_each_size(model)
        shares = [2.0**-place for place in range(len(picked))]
        weighted = tuple((name, share / sum(shares)) for name, share in zip(picked, shares, strict=True))
        return weighted, f"style from {sentence}"
    size, over, layers = _over_the_picture(model)
    distance = [abs(math.log(over[layer.tensor].height / size[0] / CONTENT_AT)) for layer in layers]
    nearest = [layer for layer, far in zip(layers, distance, strict=True) if far == min(distance)]
    content = nearest[-1:]
    return (
        (content[0].name, 1.0),
    ), f"content from {_named(content, over)}: the last activation near 1/8 of the size"


@per_model
def first_of_each_size(model: Model) -> tuple[tuple[str, ...], str]:
    """The first activation of each size, at most five, and a sentence with them. Raises UsageError."""
    _, over, layers = _over_the_picture(model)
    first: dict[int, Layer] = {}
    for layer in layers:
        first.setdefault(over[layer.tensor].height, layer)
    picked = list(first.values())[:MOST_STYLE_LAYERS]
    names = tuple(layer.name for layer in picked)
    return names, f"{_named(picked, over)}: the first activation of each size"


def found(model: Model, given: Sequence[str], preset: Weighted) -> tuple[tuple[str, ...], list[str]]:
    """The layers that patterns name, those of a preset, or where the network lacks one of these some by rule.

    And sentences on what was chosen. Raises UsageError.
    """
    if given:
        return tuple(layer.name for layer in model.find(",".join(given))), []
    if _missing(model, preset) is None:
        return tuple(name for name, _ in preset), []
    names, sentence = first_of_each_size(model)
    return names, [sentence]


def or_default(network: str) -> str:
    """A network if it is on this machine, else the default one."""
    host = Host()
    try:
        if not host.weights_of(ModelSpec(network)):
            host.locate(network)
    except ModelError:
        return "default"
    return network


def _over_the_picture(model: Model) -> tuple[Size, Mapping[str, Plane], list[Layer]]:
    """A size, the planes at it, and the activations that lie over the picture there. Raises UsageError."""
    size = model.preprocessing.height or 224, model.preprocessing.width or 224
    over = planes(model.graph, *size)
    layers = [
        layer for layer in _activations(model) if layer.tensor in over and min(over[layer.tensor][:2]) > 1
    ]
    if not layers:
        raise UsageError(
            f"the network '{model.name}' has no layers over the picture: take a convolutional one."
        )
    return size, over, layers


def _activations(model: Model) -> list[Layer]:
    """The layers that are activations, in the order of the graph; where there are none, the convolutions."""
    gates = {part.tensor for part in model.parts if part.operator in GATES}
    found = [
        layer
        for layer in model.layers
        if layer.operator in ACTIVATIONS - GATES
        or (layer.operator == "Mul" and gates.intersection(model.graph.producers[layer.tensor].input))
    ]
    return found or [layer for layer in model.layers if layer.operator == "Conv"]


def _named(layers: Sequence[Layer], over: Mapping[str, Plane]) -> str:
    return ", ".join(f"{layer.name} ({over[layer.tensor]})" for layer in layers)

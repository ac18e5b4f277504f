"""Texture: a picture whose features are correlated as those of another, wherever they lie.

Gatys, Ecker and Bethge 2015 (arXiv:1505.07376): from noise, with the Gram matrices of more and more layers,
Σ ¼ mean((G - A)²) becomes small. Early layers know grain and colour, later ones larger and larger forms.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np

from cnnkit import Context, Image, Model, Operation, Option, Result, hookimpl
from cnnkit.plugins.synthesis.choosing import found, or_default
from cnnkit.plugins.synthesis.deviations import deviations
from cnnkit.plugins.synthesis.easel import Easel
from cnnkit.plugins.synthesis.loop import Array
from cnnkit.plugins.synthesis.representations import (
    TEXTURES,
    RepresentationOptions,
    easel,
    forecast,
    original,
    recipe_of,
    result,
)
from cnnkit.plugins.synthesis.series import Made, Series


@dataclass(frozen=True)
class TextureOptions(RepresentationOptions):
    """Show what the layers of a network know of a style: textures like a picture, from noise.

    By default from block1_conv1, then also block2_conv1, and so on to block5_conv1, as in the figure of Gatys
    et al. 2015.
    """

    preset: Annotated[
        Literal["gatys", "ustyuzhaninov"],
        Option("layers of VGG19, or random filters of eight sizes, which need no download"),
    ] = "gatys"
    growing: Annotated[
        bool, Option("a texture of the first layer, of the first two, and so on; or one of all together")
    ] = True
    style_scale: Annotated[
        float | None,
        Option("size of the picture, as a multiple of the texture's: larger is larger forms", min=0.01),
    ] = None


def texture(picture: Image, model: Model, options: TextureOptions, context: Context) -> Result:
    """See `TextureOptions`.

    Pictures: "" the sheet of the original and all textures, and each under the name of its last layer; of a
    single set of layers "" is its texture. "block1_conv1.step0100" and so on. Files: losses.csv and
    losses.png. `data` has the recipe, and by texture the relative error of the Gram matrix of each layer.
    """
    tasks = easels(picture, model, options, context)
    if options.dry_run:
        return forecast(tasks, options.seconds)
    return Series(
        tasks, likeness, lambda made: textures(tasks, made), options.seconds, options.snapshots
    ).go()


def easels(picture: Image, model: Model, options: TextureOptions, context: Context) -> dict[str, Easel]:
    """A task for each set of layers, by the name of the last one. Raises UsageError for what does not fit."""
    recipe = recipe_of(options, TEXTURES)
    layers, said = found(model, options.layers, recipe.style_layers)
    for sentence in said:
        context.say(f"{model.name}: {sentence}")
    counts = range(1, len(layers) + 1) if options.growing else [len(layers)]
    return {
        layers[count - 1]: easel(
            picture,
            model,
            replace(recipe, style_layers=tuple((layer, 1 / count) for layer in layers[:count])),
            options,
            context,
        )
        for count in counts
    }


def likeness(task: Easel, x: Array, picture: Image) -> dict[str, Any]:
    """How near a texture comes."""
    return {"gram_error": deviations(task, x)["gram_error"]}


def textures(tasks: Mapping[str, Easel], made: Mapping[str, Made]) -> Result:
    """Of all sets of layers that are done."""
    *_, task = tasks.values()  # the one of all layers
    errors = {name: float(np.mean(list(each.data["gram_error"].values()))) for name, each in made.items()}
    captions = {
        name: f"{'and ' if place else ''}{name}: {100 * error:.2g} %"
        for place, (name, error) in enumerate(errors.items())
    }
    layers = [layer for layer, _ in task.recipe.style_layers]
    data = {"recipe": asdict(task.recipe) | {"style_layers": layers}, "size": list(task.size)}
    height, width = task.size
    scale = min(height / task.content.height, width / task.content.width)
    within = max(1, round(scale * task.content.height)), max(1, round(scale * task.content.width))
    shown = result(tasks, made, "textures", original(task, within), captions, data)
    lines = [
        f"  {name}: Gram matrices off by {errors[name]:.2%}; {each.data['iterations']} iterations, "
        f"{each.data['stopped']}"
        for name, each in made.items()
    ]
    shown.text = "\n".join([f"{task.content.name}: textures, {width}x{height}", *lines])
    return shown


def network(options: TextureOptions) -> str:
    """The preset's network, or the default one where it is not on this machine."""
    return or_default(TEXTURES[options.preset].network)


@hookimpl
def cnnkit_operations() -> list[Operation]:
    return [Operation("texture", texture, TextureOptions, network=network, larger="vgg19-notop")]

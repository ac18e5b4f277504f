"""Reconstruction: the picture that a layer's features belong to.

What is found again is what the layer knows. With F the features of x and P those of the picture,

    Σ(F - P)² / ΣP² + v/(2s²) Σ(dx² + dy²) + n/(2s²) Σ(x - grey)⁶

becomes small (Mahendran and Vedaldi 2015, arXiv:1412.0035; s² is Σ(x - grey)² of an average photograph), or
mean((F - P)²) alone (Gatys, Ecker and Bethge 2015, arXiv:1508.06576).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any, Literal

from cnnkit import Context, Image, Model, Operation, Option, Result, hookimpl
from cnnkit.plugins.synthesis.choosing import found, or_default
from cnnkit.plugins.synthesis.deviations import deviations
from cnnkit.plugins.synthesis.easel import Easel
from cnnkit.plugins.synthesis.loop import Array
from cnnkit.plugins.synthesis.representations import (
    RECONSTRUCTIONS,
    RepresentationOptions,
    easel,
    forecast,
    original,
    recipe_of,
    result,
)
from cnnkit.plugins.synthesis.series import Made, Series
from cnnkit.plugins.synthesis.similarity import psnr, structural_similarity
from cnnkit.plugins.tiles import some_of


@dataclass(frozen=True)
class ReconstructOptions(RepresentationOptions):
    """Show what the layers of a network know of a picture: from the features of each, the picture again.

    By default those of block1_conv1 to block5_conv1, as in the figure of Gatys et al. 2015.
    """

    preset: Annotated[
        Literal["mahendran-vedaldi", "plain"],
        Option("with priors on what pictures look like, or the features' error alone, from noise"),
    ] = "mahendran-vedaldi"
    norm_weight: Annotated[
        float | None, Option("weight of the prior that keeps pixels in range, such as 8e-10", min=0)
    ] = None
    start: Annotated[Literal["noise", "grey"] | None, Option("what each picture is at first")] = None


def reconstruct(picture: Image, model: Model, options: ReconstructOptions, context: Context) -> Result:
    """See `ReconstructOptions`.

    Pictures: "" the sheet of the original and all reconstructions, and each under its layer's name, such as
    "block1_conv1"; of a single layer "" is its reconstruction. "block1_conv1.step0100" and so on. Files:
    losses.csv and losses.png. `data` has the recipe, and by layer the relative error of the features, the
    peak signal-to-noise ratio in dB and the structural similarity of the picture as it is saved.
    """
    tasks = easels(picture, model, options, context)
    if options.dry_run:
        return forecast(tasks, options.seconds)
    return Series(
        tasks, likeness, lambda made: reconstructions(tasks, made), options.seconds, options.snapshots
    ).go()


def easels(picture: Image, model: Model, options: ReconstructOptions, context: Context) -> dict[str, Easel]:
    """A task for each layer, by its name. Raises UsageError for what does not fit."""
    recipe = recipe_of(options, RECONSTRUCTIONS)
    if options.start == "grey":
        recipe = replace(recipe, noise="normal", noise_scale=0.0)
    layers, said = found(model, options.layers, recipe.content_layers)
    for sentence in said:
        context.say(f"{model.name}: {sentence}")
    return {
        layer: easel(picture, model, replace(recipe, content_layers=((layer, 1.0),)), options, context)
        for layer in layers
    }


def likeness(task: Easel, x: Array, picture: Image) -> dict[str, Any]:
    """How near a reconstruction comes, in features and in pixels."""
    (error,) = deviations(task, x)["content_error"].values()
    pixels = original(task, task.size).pixels
    return {
        "feature_error": error,
        "psnr": psnr(picture.pixels, pixels),
        "ssim": structural_similarity(picture.pixels, pixels),
    }


def reconstructions(tasks: Mapping[str, Easel], made: Mapping[str, Made]) -> Result:
    """Of all layers that are done."""
    task = next(iter(tasks.values()))
    captions = {layer: f"{layer}: {told(each.data)}" for layer, each in made.items()}
    data = {"recipe": asdict(task.recipe) | {"content_layers": list(tasks)}, "size": list(task.size)}
    shown = result(tasks, made, "layers", original(task, task.size), captions, data)
    height, width = task.size
    lines = [
        f"  {layer}: features off by {each.data['feature_error']:.2%}, {each.data['psnr']:.1f} dB, "
        f"similarity {each.data['ssim']:.2f}; {each.data['iterations']} iterations, {each.data['stopped']}"
        for layer, each in made.items()
    ]
    layers = some_of(len(made), len(tasks), "layer")
    shown.text = "\n".join([f"{task.content.name}: from {layers}, {width}x{height}", *lines])
    return shown


def told(data: Mapping[str, Any]) -> str:
    """ "0.1 %, 38 dB"."""
    return f"{100 * data['feature_error']:.2g} %, {data['psnr']:.1f} dB"


def network(options: ReconstructOptions) -> str:
    """The preset's network, or the default one where it is not on this machine."""
    return or_default(RECONSTRUCTIONS[options.preset].network)


@hookimpl
def cnnkit_operations() -> list[Operation]:
    return [Operation("reconstruct", reconstruct, ReconstructOptions, network=network, larger="vgg19-notop")]

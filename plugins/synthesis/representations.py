"""What a layer knows of a picture: the presets of `reconstruct` and `texture`, and what both have in common.

A reconstruction is a style transfer without a style: each of `content_layers` has a picture. A texture is one
without a content: each beginning of `style_layers` has a picture, or all together have one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Annotated, Any

from cnnkit import Context, Image, Model, Option, Result, drawing
from cnnkit.plugins.synthesis.easel import Easel
from cnnkit.plugins.synthesis.eye import eye
from cnnkit.plugins.synthesis.options import Mover, Padding, Pooling, Rate, Tap, VariationWeight, rate_for
from cnnkit.plugins.synthesis.parsing import parse_size
from cnnkit.plugins.synthesis.presets import FIRST_OF_BLOCKS
from cnnkit.plugins.synthesis.probe import probe
from cnnkit.plugins.synthesis.recipe import Recipe
from cnnkit.plugins.synthesis.series import Made, files
from cnnkit.plugins.synthesis.stages import Size
from cnnkit.plugins.tiles import file_safe, some_of
from cnnkit.plugins.wording import duration

SMALLEST_TILE = 160
"""Pixels of a tile's width on a sheet; a smaller picture is enlarged."""
MARGIN = 24
"""Between tiles."""

EACH = tuple((layer, 1.0) for layer in FIRST_OF_BLOCKS)

MAHENDRAN_VEDALDI = Recipe(
    source="Mahendran and Vedaldi 2015, constants of aravindhm/deep-goggle cc667f0; L-BFGS for momentum",
    unit="0..255",
    size="long:224",
    content_layers=EACH,
    content_form="relative",
    style_layers=(),
    variation_form="inversion",
    variation_weight=1.0,
    norm_weight=8e-10,
    start="noise",
    noise="normal",
    noise_scale=64.0,
    optimizer="lbfgs-scipy",
    memory=20,
    iterations=200,
)

PLAIN = Recipe(
    source="Gatys, Ecker and Bethge 2015, equation 1: the features' squared error alone, from white noise",
    size="long:224",
    content_layers=EACH,
    style_layers=(),
    start="noise",
    optimizer="lbfgs-scipy",
    memory=20,
    iterations=200,
)

RECONSTRUCTIONS: Mapping[str, Recipe] = MappingProxyType(
    {"mahendran-vedaldi": MAHENDRAN_VEDALDI, "plain": PLAIN}
)

GATYS = Recipe(
    source="Gatys, Ecker and Bethge 2015 (arXiv:1505.07376 and 1508.06576, figure 1)",
    pooling="average",
    size="long:256",
    content_layers=(),
    style_layers=EACH,
    style_form="quarter",
    style_weight=1e3,
    normalised=True,
    start="noise",
    noise="normal",
    noise_scale=8.0,  # what no layer sees of it stays
    optimizer="lbfgs-scipy",
    memory=20,
    iterations=300,
)

USTYUZHANINOV = Recipe(
    source="Ustyuzhaninov et al. 2016, ivust/random-texture-synthesis 1107736; a quarter of its filters",
    network="random-filters-32",
    unit="network",
    size="long:128",
    content_layers=(),
    style_layers=(("filters", 1.0),),
    style_form="quarter",
    style_weight=1e7,
    start="noise",
    noise="normal",
    noise_scale=3**-0.5,  # of its noise, which is uniform from -1 to 1 around grey
    optimizer="lbfgs-scipy",
    iterations=300,
    rounding="truncate",
)

TEXTURES: Mapping[str, Recipe] = MappingProxyType({"gatys": GATYS, "ustyuzhaninov": USTYUZHANINOV})


@dataclass(frozen=True)
class RepresentationOptions:
    """What can be said of both; what is left out is the preset's."""

    preset: str = ""
    layers: Annotated[
        tuple[str, ...],
        Option("name, index, range (3:9) or glob ('block*_conv1')", completes="layers"),
    ] = ()
    size: Annotated[
        str | None,
        Option(
            "long:224, short:224, height:200, area:224, exact 200x300, or 224: the longer side",
            parse=parse_size,
        ),
    ] = None
    tap: Tap = None
    pooling: Pooling = None
    padding: Padding = None
    variation_weight: VariationWeight = None
    optimizer: Mover = None
    rate: Rate = None
    iterations: Annotated[int | None, Option("for each picture", min=1)] = None
    seconds: Annotated[
        float | None, Option("stop after this time, of which each picture has a share", min=0)
    ] = None
    snapshots: Annotated[int | None, Option("also save each picture every so many iterations", min=1)] = None
    dry_run: Annotated[bool, Option("make nothing; say what it would cost")] = False


DIRECT = "size tap pooling padding variation_weight norm_weight style_scale optimizer rate iterations".split()
"""The options that are a field of `Recipe` each."""


def recipe_of(options: RepresentationOptions, presets: Mapping[str, Recipe]) -> Recipe:
    """The preset with what the user says otherwise. Raises UsageError for what does not go together."""
    preset = presets[options.preset]
    given = {name: getattr(options, name, None) for name in DIRECT}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return replace(preset, **changes, **rate_for(options.preset, preset, changes))


def easel(
    picture: Image, model: Model, recipe: Recipe, options: RepresentationOptions, context: Context
) -> Easel:
    """Everything that is ready before the first iteration; the picture is also the only style.

    A network that takes but one size has that where the user says none. Raises UsageError for what does not
    fit.
    """
    seeing = eye(model, recipe)
    height, width = seeing.preprocessing.height, seeing.preprocessing.width
    if height and width and options.size is None:
        recipe = replace(recipe, size=f"{height}x{width}", style_fit="stretched")
    task = Easel(picture.flattened(), [picture.flattened()], (1.0,), None, model, seeing, recipe, context)
    task.planes(task.size)
    return task


def original(task: Easel, size: Size) -> Image:
    """The picture as the network sees it at a size."""
    return task.picture(task.x_of(task.content, size))


def result(
    tasks: Mapping[str, Easel],
    made: Mapping[str, Made],
    noun: str,
    first: Image,
    captions: Mapping[str, str],
    data: dict[str, Any],
) -> Result:
    """Of several tasks a sheet behind the `first`, and each by its name; a single one is the main picture."""
    pictures = {file_safe(name): each.picture for name, each in made.items()}
    if len(tasks) == 1:
        pictures = {"": next(iter(pictures.values()))}
    else:
        tiles = [("original", first)] + [(captions[name], each.picture) for name, each in made.items()]
        pictures[""] = sheet(tiles)
    return Result(
        pictures,
        data=data | {noun: {name: each.data for name, each in made.items()}},
        files=files(made),
    )


def sheet(tiles: Sequence[tuple[str, Image]]) -> Image:
    """Titled pictures of about one size, pixel by pixel or enlarged."""
    _, last = tiles[-1]
    columns = drawing.near_square(len(tiles), last.height / last.width)
    across = last.width * math.ceil(SMALLEST_TILE / last.width)
    return drawing.contact_sheet(tiles, columns, columns * (across + MARGIN) + MARGIN)


def forecast(tasks: Mapping[str, Easel], seconds: float | None) -> Result:
    """What each task would cost, tried out with a few iterations."""
    costs = {name: probe(task, seconds) for name, task in tasks.items()}
    lines = [
        f"  {name}: {cost.macs / 1e9:.2g} GMAC and {cost.seconds:.2g} s an iteration, "
        f"{duration(cost.total_seconds)} in all; {cost.bytes / 1e9:.2f} GB of {cost.free / 1e9:.2f} GB"
        for name, cost in costs.items()
    ]
    task = next(iter(tasks.values()))
    height, width = task.size
    whole = duration(sum(cost.total_seconds for cost in costs.values()))
    pictures = some_of(len(tasks), len(tasks), "picture")
    head = f"{task.content.name}: {pictures} of {width}x{height}, about {whole}"
    return Result(data={name: asdict(cost) for name, cost in costs.items()}, text="\n".join([head, *lines]))

"""Activations: what the layers of a network make of a picture, channel by channel.

A layer is read as maps, (channels, height, width). Operators of ONNX put the channels second; a network that
takes (batch, height, width, channels) transposes to that before its first convolution, and may transpose back
later: `channels_last` follows those transposes through the graph.

A channel is dead on a picture if it is zero everywhere, if it is the same everywhere on a map of several
pixels, or if it never comes above zero behind a rectifier.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cnnkit import Context, Graph, Image, Layer, Model, Operation, Option, Result, drawing, hookimpl, measure
from cnnkit.plugins.feature_maps import RECTIFIERS, Activation, Ground, Look, Reduction, described, maps_of
from cnnkit.plugins.tiles import (
    LARGEST_SHEET,
    TILE,
    Pixels,
    columns_for,
    even_pick,
    file_safe,
    parse_colourmap,
    readable,
)

ACTIVATIONS = RECTIFIERS | {"Clip", "Tanh", "Softplus", "Softsign"}
CHANNELS_SECOND = frozenset(
    "Conv ConvTranspose MaxPool AveragePool LpPool GlobalAveragePool GlobalMaxPool BatchNormalization".split()
)
LARGEST_OVERLAY = 1024
"""Longer side of the picture under a reduced map, in pixels."""
FETCHED_AT_ONCE = 512 * 2**20
"""Bytes of activations that one run brings where nothing else is asked; more layers take several runs."""


@dataclass(frozen=True)
class ActivationsOptions:
    """Draw what the layers of a network make of the picture: a sheet of maps per layer, and one of all.

    Flat grey maps are dead: nothing in the picture moves them.
    """

    layers: Annotated[
        tuple[str, ...],
        Option(
            "name, index, range (3:9) or glob ('block2_*'); default: an even pick of those with maps",
            completes="layers",
        ),
    ] = ()
    max_layers: Annotated[int, Option("draw at most so many layers, evenly picked; 0: all", min=0)] = 9
    channels: Annotated[int, Option("draw at most so many channels of each layer; 0: all", min=0)] = 32
    order: Annotated[
        Literal["index", "strongest"],
        Option("which channels come first: by index, or highest mean magnitude"),
    ] = "index"
    scale: Annotated[
        Literal["own", "common"],
        Option("each map from its own lowest to highest value, or all of a layer alike"),
    ] = "own"
    colourmap: Annotated[str, Option("name of a colour map", parse=parse_colourmap)] = "viridis"
    overlay: Annotated[bool, Option("lay each map on the picture, enlarged bilinearly")] = False
    reduce: Annotated[
        Reduction | None, Option("one map per layer, over all its channels, laid on the picture")
    ] = None
    raw: Annotated[bool, Option("also save the layers' full outputs, as the .npz")] = False


# Which layers


def channels_last(graph: Graph, layout: str) -> set[str]:
    """The names of the tensors that are (batch, height, width, channels), given the input's layout.

    From a channels-last input on, and behind every transpose to it, until a transpose back or an operator
    that takes the channels second.
    """
    last = {graph.input.name} if layout == "nhwc" else set()
    for node in graph.skeleton.graph.node:
        orders = [list(attribute.ints) for attribute in node.attribute if attribute.name == "perm"]
        turned = node.op_type == "Transpose" and orders
        if turned == [[0, 2, 3, 1]]:
            last.update(node.output)
        elif (
            turned != [[0, 3, 1, 2]] and node.op_type not in CHANNELS_SECOND and last.intersection(node.input)
        ):
            last.update(node.output)
    return last


def typical(layers: Sequence[Layer], shapes: dict[str, Any], last: set[str]) -> tuple[list[Layer], str]:
    """The layers worth a look where none are named, and what they are: the first of these that there are,
    activations with maps, convolutions with maps, all layers with maps, all layers."""

    def has_maps(layer: Layer) -> bool:
        shape = shapes.get(layer.tensor) or ()
        height_width = shape[1:3] if layer.tensor in last else shape[2:]
        return len(shape) == 4 and None not in height_width and height_width != (1, 1)

    with_maps = [layer for layer in layers if has_maps(layer)]
    active = [layer for layer in with_maps if layer.operator in ACTIVATIONS]
    convolutions = [layer for layer in with_maps if layer.operator == "Conv"]
    if active:
        return active, "activations with maps"
    if convolutions:
        return convolutions, "convolutions with maps"
    return (with_maps, "layers with maps") if with_maps else (list(layers), "layers")


def choose(
    model: Model, options: ActivationsOptions, shapes: dict[str, Any], last: set[str]
) -> tuple[list[Layer], str]:
    """The layers to draw, and a sentence on those left out, empty if only what was not asked for is."""
    if options.layers:
        found = model.find(",".join(options.layers))
        kind = "that --layers names"
    else:
        typically, kind = typical(model.layers, shapes, last)
        found = tuple(typically)
    layers = even_pick(found, options.max_layers)
    if options.layers and len(layers) == len(found):
        return layers, ""
    picked = "" if len(layers) == len(found) else f", an even pick of the {len(found)} {kind}"
    return layers, f"showing {len(layers)} of {len(model.layers)} layers{picked}"


def in_runs(layers: Sequence[Layer], shapes: dict[str, Any], most: int) -> Iterator[list[Layer]]:
    """The layers in groups whose outputs take at most `most` bytes together, where their shapes are known."""
    group: list[Layer] = []
    held = 0
    for layer in layers:
        size = 4 * int(np.prod([length or 1 for length in shapes.get(layer.tensor) or ()]))
        if group and held + size > most:
            yield group
            group, held = [], 0
        group.append(layer)
        held += size
    yield group


def run_layers(
    model: Model,
    tensor: NDArray[np.float32],
    layers: Sequence[Layer],
    shapes: dict[str, Any],
    last: set[str],
    context: Context,
) -> Iterator[Activation]:
    """What the layers make of the network's input, in order; as many at once as may be in memory together."""
    session = context.session(model)
    for group in in_runs(layers, shapes, context.settings.max_memory or FETCHED_AT_ONCE):
        outputs = session.run(tensor, [layer.tensor for layer in group])
        for layer in group:
            values = outputs[layer.tensor]
            if values.size:
                yield Activation(layer, values, maps_of(values, layer.tensor in last))
            else:
                context.say(
                    f"{layer.name} puts out nothing here, {list(values.shape)} values; it is left out"
                )


# How they are drawn


class Drawn(NamedTuple):
    """A layer's own picture, its cell on the sheet of all layers, and the indices of the channels shown.

    `cut` says that the cell shows only the first of them.
    """

    sheet: Pixels
    cell: Pixels
    shown: list[int]
    cut: bool = False


def artist(
    picture: Image, model: Model, options: ActivationsOptions, layers: int
) -> Callable[[Activation], Drawn]:
    """What draws an activation as the options ask, in a cell that fits `layers` of them on one sheet."""
    over_all = Look(options.colourmap, ground=Ground.of(picture, model.preprocessing, LARGEST_OVERLAY))
    ground = Ground.of(picture, model.preprocessing, TILE) if options.overlay else None
    by_channel = Look(options.colourmap, options.scale == "common", ground)
    across = cell_width(layers)

    def draw(activation: Activation) -> Drawn:
        everything = list(range(activation.channels))
        if activation.is_dense:
            return Drawn(*by_channel.dense(activation, model.labels), everything)
        if options.reduce:
            return Drawn(*over_all.reduced(activation, options.reduce), everything)
        shown = activation.order(options.order == "strongest")[: options.channels or None].tolist()
        sheet, cell = by_channel.sheet(activation, shown), by_channel.cell(activation, shown, across)
        return Drawn(sheet, cell, shown, len(shown) > readable(across))

    return draw


def cell_width(layers: int) -> int:
    """About the width in pixels of a cell on the sheet of so many layers and the picture."""
    return LARGEST_SHEET * 4 // 5 // columns_for(layers + 1, 1.0)


# The operation


def activations(picture: Image, model: Model, options: ActivationsOptions, context: Context) -> Result:
    """See `ActivationsOptions`.

    Pictures: "" with all chosen layers, and one per layer under its name, made safe for files. Arrays, with
    `reduce`: "LAYER.mean" (or max, sum), (height, width) float32 in the layer's own resolution. With `raw`:
    every chosen layer's whole output under its name, as the network gives it, and "cnnkit", JSON text: the
    names of picture and network, the preprocessing, and name, index, operator, shape and dtype of the layers.
    """
    prepared = model.preprocessing.apply(picture)
    shapes = {row.layer.tensor: row.shape for row in measure(model.graph, *prepared.picture.size).rows}
    last = channels_last(model.graph, model.preprocessing.layout)
    layers, left_out = choose(model, options, shapes, last)

    result = Result()
    drawing_of = artist(picture, model, options, len(layers))
    parts = names_of_parts(layers)
    cells = [("what the network sees", prepared.picture)]
    told: list[dict[str, Any]] = []
    cut = False
    found = run_layers(model, prepared.tensor, layers, shapes, last, context)
    for activation in context.progress(found, len(layers), f"{picture.name}: layers"):
        layer = activation.layer
        drawn = drawing_of(activation)
        cut |= drawn.cut
        result.pictures[parts[layer]] = Image(drawn.sheet, name=picture.name)
        cells.append((f"{layer.name}, {described(activation)}", Image(drawn.cell)))
        told.append(activation.statistics() | {"shown": drawn.shown, "picture": parts[layer]})
        if options.reduce and not activation.is_dense:
            result.arrays[f"{layer.name}.{options.reduce}"] = activation.reduced(options.reduce)
        if options.raw:
            result.arrays[layer.name] = activation.values

    shown = {
        "layers": len(told),
        "of_layers": len(model.layers),
        "channels": sum(len(row["shown"]) for row in told),
        "of_channels": sum(row["channels"] for row in told),
    }
    title = f"{picture.name} in {model.name}: {shown['layers']} of {shown['of_layers']} layers"
    if cut:
        title += f", at most {readable(cell_width(len(layers)))} channels of each on this sheet"
    result.pictures = {"": contact_sheet(cells, title)} | result.pictures
    result.data = {"shown": shown, "layers": told}
    result.text = table(picture, told)
    if left_out:
        context.say(f"{picture.name}: {left_out}; --layers and --max-layers choose others")
    if shown["channels"] < shown["of_channels"]:
        context.say(
            f"{picture.name}: showing {shown['channels']} of the {shown['of_channels']} channels of these "
            "layers; --channels 0 shows all"
        )
    if options.raw:
        size = sum(result.arrays[row["name"]].nbytes for row in told) / 1e6
        context.say(f"{picture.name}: the outputs of {len(told)} layers are {size:.1f} MB before compression")
        result.arrays["cnnkit"] = np.array(json.dumps(description(picture, model, told, result.arrays)))
    return result


def contact_sheet(cells: Sequence[tuple[str, Image]], title: str) -> Image:
    columns = columns_for(len(cells), float(np.median([cell.height / cell.width for _, cell in cells[1:]])))
    return drawing.contact_sheet(cells, columns, LARGEST_SHEET, title)


def description(
    picture: Image, model: Model, told: Sequence[dict[str, Any]], arrays: dict[str, NDArray[Any]]
) -> dict[str, Any]:
    """What a reader of the raw arrays needs beside them."""
    return {
        "picture": picture.source or picture.name,
        "model": model.name,
        "preprocessing": model.preprocessing.to_json(),
        "layers": [
            {key: row[key] for key in ("name", "index", "operator", "shape")}
            | {"dtype": str(arrays[row["name"]].dtype)}
            for row in told
        ],
    }


def names_of_parts(layers: Sequence[Layer]) -> dict[Layer, str]:
    """The layers' names as parts of file names, no two alike even where a file system ignores case."""
    parts: dict[Layer, str] = {}
    taken: set[str] = set()
    for layer in layers:
        part = file_safe(layer.name)
        if part.lower() in taken:
            part = f"{part}_{layer.index}"
        taken.add(part.lower())
        parts[layer] = part
    return parts


def table(picture: Image, told: Sequence[dict[str, Any]]) -> str:
    """A line per layer, for people."""
    head = ("layer", "operator", "output", "min", "max", "mean", "dead")
    rows = [
        (
            row["name"],
            row["operator"],
            "x".join(map(str, row["shape"])),
            *(f"{row[key]:.4g}" for key in ("min", "max", "mean")),
            f"{row['dead_channels']} of {row['channels']}",
        )
        for row in told
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    aligned = [
        "  ".join(
            word.ljust(width) if place < 3 else word.rjust(width)
            for place, (word, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (head, *rows)
    ]
    return "\n".join([picture.name, *aligned])


@hookimpl
def cnnkit_operations() -> list[Operation]:
    return [Operation("activations", activations, ActivationsOptions, takes="picture", needs="network")]

"""Filters: the kernel of a layer as a picture.

Weights are signed, so zero keeps its colour: white between blue and red, or mid grey where a kernel of the
first layer is drawn in the colours of the picture that it answers to.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray

from cnnkit import (
    Context,
    Graph,
    Image,
    Layer,
    Model,
    Operation,
    Option,
    Result,
    UsageError,
    drawing,
    hookimpl,
)
from cnnkit.plugins.tiles import (
    LARGEST_SHEET,
    TILE,
    Pixels,
    columns_for,
    fitted,
    parse_colourmap,
    some_of,
    tile_size,
    titled,
)

WITH_KERNEL = ("Conv", "ConvTranspose", "Gemm", "MatMul")
SLICE = 32
"""The longer side of a slice among many, in pixels."""
MATRIX, LARGEST_MATRIX, SMALLEST_MATRIX = 640, 1600, 64
"""A matrix is enlarged up to the first and reduced to the second; its shorter side keeps the third."""
MOST = 99.5
"""Percentage of a matrix's weights that its colours span."""
NAMED = 12
"""So many layers are named where one without a kernel was asked for."""


@dataclass(frozen=True)
class FiltersOptions:
    """Draw the kernel of a layer: its filters, or the matrix of a dense layer.

    Filters of the first layer are drawn in colour; of others, each slice for one input channel by itself.
    """

    layer: Annotated[
        str | None,
        Option("name, index or glob of one layer (default: the first convolution)", completes="layers"),
    ] = None
    filters: Annotated[int, Option("draw at most so many filters; 0: all", min=0)] = 64
    inputs: Annotated[int, Option("draw at most so many input channels of each; 0: all", min=0)] = 8
    scale: Annotated[
        Literal["own", "common"],
        Option("each filter up to its own largest weight, or all of the layer alike"),
    ] = "own"
    colourmap: Annotated[str, Option("name of a colour map", parse=parse_colourmap)] = "blue-red"


# Where the kernel is


def weights(graph: Graph, name: str) -> NDArray[np.float32] | None:
    """The value of a tensor that is a weight, or a weight cast, transposed or dequantised; else None."""
    value = graph.constant(name)
    if value is not None:
        return value.astype(np.float32)
    node = graph.producers.get(name)
    if node is None or node.op_type not in ("Identity", "Cast", "Transpose", "DequantizeLinear"):
        return None
    value = weights(graph, node.input[0])
    if value is None:
        return None
    if node.op_type == "Transpose":
        order = [list(attribute.ints) for attribute in node.attribute]
        return value.transpose(*order)
    if node.op_type == "DequantizeLinear":
        scale, zero = (weights(graph, source) for source in (*node.input[1:], "")[:2])
        assert scale is not None
        along = [1] * value.ndim
        along[_number(node, "axis", 1)] = scale.size
        return (value - (0 if zero is None else zero.reshape(along))) * scale.reshape(along)
    return value


def kernel_of(graph: Graph, layer: Layer) -> NDArray[np.float32] | None:
    """The layer's kernel as (out, in, height, width) float32; None where it has none.

    A dense layer is a kernel of one pixel. The inputs of a filter are those of its group. A kernel of one
    dimension has height 1; of three, it has depth times height.
    """
    node = graph.producers[layer.tensor]
    if node.op_type not in WITH_KERNEL:
        return None
    kernel = weights(graph, node.input[1])
    if kernel is None or kernel.ndim < 2:
        return None
    if node.op_type in ("Gemm", "MatMul"):
        matrix = kernel if _number(node, "transB", 0) else kernel.reshape(-1, kernel.shape[-1]).T
        return matrix[..., None, None]
    if node.op_type == "ConvTranspose":
        groups = _number(node, "group", 1)
        kernel = kernel.reshape(groups, -1, *kernel.shape[1:]).swapaxes(1, 2)
        kernel = kernel.reshape(-1, *kernel.shape[2:])
    return kernel.reshape(*kernel.shape[:2], -1, kernel.shape[-1])


def _number(node: Any, attribute: str, default: int) -> int:
    return next((int(found.i) for found in node.attribute if found.name == attribute), default)


def find_kernel(model: Model, pattern: str | None) -> tuple[Layer, NDArray[np.float32]]:
    """The first layer of those asked for that has a kernel, and the kernel.

    A layer that is made of several nodes, "block1_conv1", has the kernel of its part, "block1_conv1/conv".
    Raises UsageError, which names layers that have one.
    """
    if pattern is None:
        asked = [part for part in model.parts if part.operator == "Conv"] or list(model.layers)
    else:
        asked = list(model.find(pattern))
    parts = [part for layer in asked for part in model.parts if part.name.startswith(f"{layer.name}/")]
    for layer in asked + parts:
        kernel = kernel_of(model.graph, layer)
        if kernel is not None:
            return layer, kernel
    having = [layer.name for layer in model.parts if kernel_of(model.graph, layer) is not None]
    more = f" and {len(having) - NAMED} more" if len(having) > NAMED else ""
    operators = " ".join(sorted({layer.operator for layer in asked}))
    raise UsageError(
        (
            f"'{pattern}' ({operators}) has no kernel. "
            if pattern
            else "the network has no layer with a kernel. "
        )
        + (f"Layers with one are {', '.join(having[:NAMED])}{more}." if having else "No layer of it has one.")
    )


# How it is drawn


def in_colour(kernel: NDArray[np.float32], limits: NDArray[np.float32], bgr: bool) -> list[Pixels]:
    """(filters, 3, height, width) -> a picture per filter: zero is mid grey, its limit black or full."""
    colours = 127.5 + 127.5 * kernel / limits[:, None, None, None]
    pixels = np.rint(colours.transpose(0, 2, 3, 1)).astype(np.uint8)
    return list(pixels[..., ::-1] if bgr else pixels)


def as_slices(kernel: NDArray[np.float32], limits: NDArray[np.float32], colourmap: str) -> list[Pixels]:
    """(filters, inputs, height, width) -> a picture per filter, its slices row by row in thin frames."""
    filters, inputs, height, width = kernel.shape
    columns = columns_for(inputs, height / width)
    room = LARGEST_SHEET // (columns * drawing.near_square(filters)) - 2
    factor = max(1, min(room, max(SLICE, TILE // (2 * columns))) // max(height, width))
    blank = np.full((height * factor + 2, width * factor + 2, 3), 255, dtype=np.uint8)
    pictures = []
    for slices, limit in zip(kernel, limits, strict=True):
        colours = [drawing.colourise(one, colourmap, -limit, limit) for one in slices]
        tiles = [framed(tile.repeat(factor, axis=0).repeat(factor, axis=1)) for tile in colours]
        tiles += [blank] * (-inputs % columns)
        rows = [drawing.beside(*tiles[k : k + columns], gap=0) for k in range(0, len(tiles), columns)]
        pictures.append(drawing.below(*rows, gap=0))
    return pictures


def framed(pixels: Pixels) -> Pixels:
    return drawing.framed(pixels, 1, drawing.FAINT)


def kernel_picture(
    kernel: NDArray[np.float32], caption: str, channels: str | None, options: FiltersOptions
) -> Pixels:
    """A tile per filter, with its index. `channels` is their order if they are those of a picture."""
    each = np.abs(kernel).max(axis=(1, 2, 3))
    largest = float(each.max()) or 1.0
    common = options.scale == "common"
    limits = np.where(each > 0, each, 1).astype(np.float32) if not common else np.full_like(each, largest)
    if channels:
        tiles = in_colour(kernel, limits, bgr=channels == "bgr")
    else:
        tiles = as_slices(kernel, limits, options.colourmap)
    columns = columns_for(len(tiles), tiles[0].shape[0] / tiles[0].shape[1])
    if channels:
        size = tile_size(tiles[0].shape[0] / tiles[0].shape[1], columns)
        tiles = [fitted(tile, *size) for tile in tiles]
    sheet = drawing.grid(
        tiles, columns, 6, captions=[f"{k}" if each[k] else f"{k} zero" for k in range(len(tiles))]
    )
    if not common:
        return drawing.figure(sheet, caption + ", each at its own scale")
    if channels:
        return drawing.figure(sheet, f"{caption}, black to full colour is -{largest:.3g} to {largest:.3g}")
    return drawing.figure(sheet, caption, options.colourmap, -largest, largest, "weight")


def matrix_picture(matrix: NDArray[np.float32], caption: str, options: FiltersOptions) -> Pixels:
    """(units, inputs) as one picture, a unit per row. The colours end where all but a few weights lie."""
    largest = float(np.percentile(np.abs(matrix), MOST)) or float(np.abs(matrix).max()) or 1.0
    colours = drawing.colourise(matrix, options.colourmap, -largest, largest)
    scale = LARGEST_MATRIX / max(matrix.shape)
    if scale < 1:
        colours = fitted(colours, *(max(SMALLEST_MATRIX, round(side * scale)) for side in matrix.shape))
    else:
        factor = max(1, MATRIX // max(matrix.shape))
        colours = colours.repeat(factor, axis=0).repeat(factor, axis=1)
    label = f"weight, {MOST:g} % of them in this range"
    return drawing.figure(framed(colours), caption, options.colourmap, -largest, largest, label)


def statistics(kernels: NDArray[np.float32]) -> dict[str, list[float]]:
    """Lowest, highest and mean weight and the Euclidean norm, a number for each along the first dimension."""
    flat = kernels.reshape(len(kernels), -1).astype(np.float64)
    return {
        "min": flat.min(axis=1).tolist(),
        "max": flat.max(axis=1).tolist(),
        "mean": flat.mean(axis=1).tolist(),
        "norm": np.linalg.norm(flat, axis=1).tolist(),
    }


# The operation


def filters(source: None, model: Model, options: FiltersOptions, context: Context) -> Result:
    """See `FiltersOptions`.

    Arrays: `kernel`, (out, in, height, width) float32, whole, its channels in the network's order. A dense
    layer's is (units, inputs, 1, 1); the inputs of a filter are those of its group.
    """
    layer, kernel = find_kernel(model, options.layer)
    if options.layer and len(found := model.find(options.layer)) > 1:
        context.say(f"'{options.layer}' names {len(found)} layers; showing {layer.name}")
    shown, pixels = drawn(model, layer, kernel, options)
    if shown.shape != kernel.shape:
        context.say(
            f"{layer.name}: showing {shown.shape[0]} of {kernel.shape[0]} filters, {shown.shape[1]} of "
            f"{kernel.shape[1]} input channels of each; --filters 0 and --inputs 0 show all"
        )
    whole = {key: value for key, (value,) in statistics(kernel[None]).items()}
    data = {
        "name": layer.name,
        "index": layer.index,
        "operator": layer.operator,
        "shape": list(kernel.shape),
        "shown": {"filters": shown.shape[0], "inputs": shown.shape[1]},
        **whole,
        "filters": statistics(kernel),
    }
    size = "x".join(map(str, kernel.shape))
    return Result(
        pictures={"": Image(pixels, name=model.name)},
        arrays={"kernel": kernel},
        data=data,
        text=f"{layer.name}  {layer.operator}  {size}  "
        + "  ".join(f"{k} {v:.4g}" for k, v in whole.items()),
    )


def drawn(
    model: Model, layer: Layer, kernel: NDArray[np.float32], options: FiltersOptions
) -> tuple[NDArray[np.float32], Pixels]:
    """The part of the kernel that is drawn, and its picture."""
    outs, ins, height, width = kernel.shape
    if (height, width) == (1, 1):
        caption = f"{titled(layer)}, {outs} rows of {ins} inputs"
        return kernel, matrix_picture(kernel[..., 0, 0], caption, options)
    channels = model.preprocessing.channels if ins == 3 and reads_picture(model, layer) else None
    shown = kernel[: options.filters or None]
    if not channels:
        shown = shown[:, : options.inputs or None]
    caption = f"{titled(layer)}, {height}x{width}, {some_of(len(shown), outs, 'filter')}"
    if not channels and ins > 1:
        caption += f", {some_of(shown.shape[1], ins, 'input')} of each"
    return shown, kernel_picture(shown, caption, channels, options)


def reads_picture(model: Model, layer: Layer) -> bool:
    """Whether the layer is the first one with a kernel: its input channels are those of the picture."""
    return layer == next(other for other in model.parts if other.operator in WITH_KERNEL)


@hookimpl
def cnnkit_operations() -> list[Operation]:
    return [Operation("filters", filters, FiltersOptions, takes="nothing", needs="network")]
